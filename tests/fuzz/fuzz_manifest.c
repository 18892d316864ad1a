/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Indexes, manifests and configurations. The first byte says what the text was announced as: a digit
 * chooses a media type, 'c' and 'd' a configuration of one and two layers. What is taken must keep every
 * promise of document.h, for those who fetch and unpack do not look again.
 */
#include "fuzz.h"

#include <string.h>
#include <banger/model.h>
#include "pull/document.h"

static const char *const media_types[] = {NULL, "application/vnd.oci.image.index.v1+json",
	"application/vnd.oci.image.manifest.v1+json",
	"application/vnd.docker.distribution.manifest.list.v2+json",
	"application/vnd.docker.distribution.manifest.v2+json",
	"application/vnd.docker.distribution.manifest.v1+prettyjws", "application/json", ""};

static void check_descriptor(const struct pull_descriptor *d)
{
	MUST(pull_digest_valid(d->digest));
	MUST(d->size >= 0 && d->size <= INT64_MAX / PULL_LAYERS_MAX);
	MUST(strchr(d->media_type, '/') && !strpbrk(d->media_type, " \r\n\""));
	MUST(!d->platform.os[0] == !d->platform.arch[0]);
	for (size_t i = 0; d->urls && d->urls[i]; i++)
		MUST(!strpbrk(d->urls[i], " \r\n"));
}

static void check_index(const struct pull_document *d)
{
	static const char *const platforms[] = {
		"linux/amd64", "linux/amd64/v4", "arm64", "linux/arm/v7", "s390x"};

	MUST(d->n <= PULL_INDEX_MAX);
	for (size_t i = 0; i < ELEMENTSOF(platforms); i++) {
		const struct pull_descriptor *found = NULL;
		struct banger_error err = {0};
		struct pull_platform want;

		MUST(pull_platform_parse(platforms[i], &want, NULL) == 0);
		if (pull_index_select(d, &want, &found, &err) < 0) {
			MUST(!found && err.message[0]);
			MUST(banger_utf8_valid(err.message, strlen(err.message)));
			continue;
		}
		MUST(found >= d->items && found < d->items + d->n);
		MUST(!found->attestation && found->size <= PULL_DOCUMENT_MAX);
		MUST(pull_platform_runs(&want, &found->platform));
	}
}

static void check_manifest(const struct pull_document *d)
{
	MUST(d->n <= PULL_LAYERS_MAX);
	check_descriptor(&d->config);
	MUST(d->config.size <= PULL_DOCUMENT_MAX);
	for (size_t i = 0; i < d->n; i++) {
		const char *compression = NULL;

		MUST(pull_layer_compression(&d->items[i], &compression, NULL) == 0 && compression);
	}
}

static void fuzz_document(const char *text, size_t len, const char *media_type)
{
	_cleanup_pull_document_ struct pull_document d = {0};
	struct banger_error err = {0};

	if (pull_document_parse(text, len, media_type, &d, &err) < 0) {
		MUST(err.message[0] && banger_utf8_valid(err.message, strlen(err.message)));
		MUST(!d.items && !d.artifact_type);
		return;
	}
	for (size_t i = 0; i < d.n; i++)
		check_descriptor(&d.items[i]);
	if (d.kind == PULL_INDEX)
		check_index(&d);
	else
		check_manifest(&d);
}

/* What image.json would hold is what the model takes. */
static void check_config(const char *config)
{
	_cleanup_json_ struct json_object *parsed = NULL, *doc = json_object_new_object();
	_cleanup_free_ char *kernel = NULL, *again = NULL;

	MUST(banger_json_parse(config, strlen(config), &parsed, NULL) == 0);
	MUST(doc && banger_json_add(doc, "config", TAKE_PTR(parsed)) == 0);
	MUST(banger_image_config_parse(doc, &kernel, &again, NULL) == 0);
	MUST(!kernel && again && !strcmp(again, config));
}

static void fuzz_config(const char *text, size_t len, size_t layers)
{
	_cleanup_pull_image_config_ struct pull_image_config c = {0};
	struct banger_error err = {0};

	if (pull_image_config_parse(text, len, layers, &c, &err) < 0) {
		MUST(err.message[0] && banger_utf8_valid(err.message, strlen(err.message)));
		MUST(!c.diff_ids && !c.config);
		return;
	}
	MUST(c.n == layers && c.created >= 0);
	for (size_t i = 0; i < c.n; i++)
		MUST(pull_digest_valid(c.diff_ids[i]));
	MUST(!c.home || !strcmp(c.home, "/root"));
	if (c.config)
		check_config(c.config);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!size)
		return 0;
	_cleanup_free_ char *text = malloc(size); /* one more than is used: malloc(0) may be NULL */
	if (!text)
		return 0;
	memcpy(text, data + 1, size - 1);
	if (data[0] == 'c' || data[0] == 'd')
		fuzz_config(text, size - 1, data[0] - 'b');
	else
		fuzz_document(text, size - 1, media_types[data[0] % ELEMENTSOF(media_types)]);
	return 0;
}
