/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors, and the two documents that are made of them.
 *
 * A descriptor is a promise of size and digest that everything after relies on, so it is taken whole
 * or not at all. Its "data" (the content itself, embedded) is passed over: whoever has the digest can
 * fetch it, and one way to the bytes is one way to check. "urls" are kept as they are for the one
 * who fetches to decide on.
 *
 * An index may list what is no image (attestations, signatures, charts), which selection passes over;
 * a manifest that is none is refused here, by the type of its configuration or of a layer, before
 * anything of it is fetched.
 */
#include <ctype.h>
#include <string.h>
#include "pull/parts.h"

#define SIZE_LARGEST (INT64_C(1) << 44) /* 16 TiB, as large as an ext4 file can be */
#define URLS_MAX 16
#define URL_MAX 2048
#define ANNOTATION_MAX 1024

#define ANNOTATION_REF_NAME "org.opencontainers.image.ref.name"
#define ANNOTATION_DOCKER_REFERENCE "vnd.docker.reference.type"

/* ---- media types */

bool media_type_valid(const char *s)
{
	const char *slash = strchr(s, '/');

	if (!slash || slash == s || !slash[1] || strchr(slash + 1, '/'))
		return false;
	for (; *s; s++)
		if (!isalnum((unsigned char)*s) && !strchr("!#$&-^_.+/", *s))
			return false;
	return true;
}

bool config_media_type(const char *type)
{
	return strcmp(type, "application/vnd.oci.image.config.v1+json") == 0 ||
	       strcmp(type, "application/vnd.docker.container.image.v1+json") == 0;
}

/* What registries have made of the type of Docker's first schema 2 images; their content tells. */
static bool old_docker_config(const char *type)
{
	return strcmp(type, "application/octet-stream") == 0 ||
	       strcmp(type, "application/json") == 0 || strcmp(type, "text/html") == 0;
}

static const struct {
	const char *type, *compression;
} layer_types[] = {
	{"application/vnd.oci.image.layer.v1.tar", "none"},
	{"application/vnd.oci.image.layer.v1.tar+gzip", "gzip"},
	{"application/vnd.oci.image.layer.v1.tar+zstd", "zstd"},
	{"application/vnd.oci.image.layer.nondistributable.v1.tar", "none"},
	{"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "gzip"},
	{"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", "zstd"},
	{"application/vnd.docker.image.rootfs.diff.tar", "none"},
	{"application/vnd.docker.image.rootfs.diff.tar.gzip", "gzip"},
	{"application/vnd.docker.image.rootfs.diff.tar.zstd", "zstd"},
	{"application/vnd.docker.image.rootfs.foreign.diff.tar", "none"},
	{"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "gzip"},
	{"application/vnd.docker.image.rootfs.foreign.diff.tar.zstd", "zstd"},
};

int pull_layer_compression(
	const struct pull_descriptor *layer, const char **ret, struct banger_error *err)
{
	for (size_t i = 0; i < ELEMENTSOF(layer_types); i++)
		if (strcmp(layer_types[i].type, layer->media_type) == 0) {
			*ret = layer_types[i].compression;
			return 0;
		}
	if (strstr(layer->media_type, "+encrypted"))
		return banger_error_set(
			err, BANGER_UNSUPPORTED, "it is encrypted (\"%s\")", layer->media_type);
	if (strcmp(layer->media_type, "application/vnd.in-toto+json") == 0)
		return banger_error_set(err, BANGER_UNSUPPORTED,
			"it is an attestation (\"%s\"), not a layer", layer->media_type);
	return banger_error_set(err, BANGER_UNSUPPORTED,
		"its type \"%s\" is not that of an image's layer", layer->media_type);
}

/* ---- descriptors */

void pull_descriptor_done(struct pull_descriptor *d)
{
	free(d->artifact_type);
	free(d->ref_name);
	for (size_t i = 0; d->urls && d->urls[i]; i++)
		free(d->urls[i]);
	free(d->urls);
	*d = (struct pull_descriptor){0};
}

static int take_media_type(struct json_object *o, const char *path, const char *key, bool required,
	const char **ret, struct banger_error *err)
{
	int r = field_string(o, path, key, required, 159, ret, err);

	if (r == 0 && *ret && !media_type_valid(*ret))
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"%s%s, \"%s\", is not a media type", path, key, *ret);
	return r;
}

static int dup_to(char **to, const char *from, struct banger_error *err)
{
	*to = from && *from ? strdup(from) : NULL;
	return from && *from && !*to ? banger_error_oom(err) : 0;
}

static int take_url(
	struct json_object *v, const char *path, size_t i, char **ret, struct banger_error *err)
{
	const char *s = json_object_is_type(v, json_type_string) ? json_object_get_string(v) : NULL;

	if (!s || strlen(s) > URL_MAX)
		return banger_error_set(err, BANGER_BAD_REQUEST, "%surls[%zu] is %s", path, i,
			s ? "too long" : "not a string");
	for (const char *p = s; *p; p++)
		if ((unsigned char)*p <= ' ' || (unsigned char)*p >= 0x7F)
			return banger_error_set(err, BANGER_BAD_REQUEST,
				"%surls[%zu] has a character that no URL can have", path, i);
	*ret = strdup(s);
	return *ret ? 0 : banger_error_oom(err);
}

static int take_urls(struct json_object *o, const char *path, struct pull_descriptor *d,
	struct banger_error *err)
{
	struct json_object *urls = NULL;
	int r = field_array(o, path, "urls", false, &urls, err);
	size_t n = urls ? json_object_array_length(urls) : 0;

	if (r < 0 || n == 0)
		return r;
	if (n > URLS_MAX)
		return banger_error_set(
			err, BANGER_BAD_REQUEST, "%surls has more than %d entries", path, URLS_MAX);
	d->urls = calloc(n + 1, sizeof(*d->urls));
	if (!d->urls)
		return banger_error_oom(err);
	for (size_t i = 0; i < n && r == 0; i++)
		r = take_url(json_object_array_get_idx(urls, i), path, i, &d->urls[i], err);
	return r;
}

static int take_annotations(struct json_object *o, const char *path, struct pull_descriptor *d,
	struct banger_error *err)
{
	char below[FIELD_PATH_MAX];
	const char *name = NULL, *reference = NULL;
	struct json_object *a = NULL;
	int r = field_object(o, path, "annotations", false, &a, err);

	if (r < 0 || !a)
		return r;
	snprintf(below, sizeof(below), "%sannotations.", path);
	if ((r = field_string(a, below, ANNOTATION_REF_NAME, false, ANNOTATION_MAX, &name, err)) <
			0 ||
		(r = field_string(a, below, ANNOTATION_DOCKER_REFERENCE, false, ANNOTATION_MAX,
			 &reference, err)) < 0)
		return r;
	d->attestation = reference && *reference;
	return dup_to(&d->ref_name, name, err);
}

static int take_platform(struct json_object *o, const char *path, struct pull_descriptor *d,
	struct banger_error *err)
{
	char below[FIELD_PATH_MAX];
	struct json_object *p = NULL;
	int r = field_object(o, path, "platform", false, &p, err);

	if (r < 0 || !p)
		return r;
	snprintf(below, sizeof(below), "%splatform.", path);
	return platform_from_json(p, below, &d->platform, err);
}

static int take_digest(
	struct json_object *o, const char *path, char to[PULL_DIGEST_MAX], struct banger_error *err)
{
	char what[FIELD_PATH_MAX];
	const char *s = NULL;
	int r = field_string(o, path, "digest", true, 1024, &s, err);

	snprintf(what, sizeof(what), "%sdigest", path);
	if (r < 0 || (r = pull_digest_check(what, s, err)) < 0)
		return r;
	strcpy(to, s);
	return 0;
}

int descriptor_parse(struct json_object *o, const char *path, struct pull_descriptor *ret,
	struct banger_error *err)
{
	_cleanup_(pull_descriptor_done) struct pull_descriptor d = {0};
	const char *type = NULL, *artifact = NULL;
	int r;

	if ((r = take_media_type(o, path, "mediaType", true, &type, err)) < 0 ||
		(r = take_media_type(o, path, "artifactType", false, &artifact, err)) < 0 ||
		(r = take_digest(o, path, d.digest, err)) < 0 ||
		(r = field_size(o, path, "size", SIZE_LARGEST, &d.size, err)) < 0 ||
		(r = take_platform(o, path, &d, err)) < 0 ||
		(r = take_annotations(o, path, &d, err)) < 0 ||
		(r = take_urls(o, path, &d, err)) < 0 ||
		(r = dup_to(&d.artifact_type, artifact, err)) < 0)
		return r;
	strcpy(d.media_type, type);
	*ret = d;
	d = (struct pull_descriptor){0};
	return 0;
}

static int parse_list(struct json_object *o, const char *key, size_t max, struct pull_document *d,
	struct banger_error *err)
{
	struct json_object *list = NULL;
	int r = field_array(o, "", key, false, &list, err);
	size_t n = list ? json_object_array_length(list) : 0;

	if (r < 0)
		return r;
	if (!json_object_object_get_ex(o, key, NULL)) /* null is how some write an empty list */
		return banger_error_set(err, BANGER_BAD_REQUEST, "%s is missing", key);
	if (n > max)
		return banger_error_set(err, BANGER_TOO_LARGE,
			"%s has %zu entries, more than the %zu allowed", key, n, max);
	d->items = n ? calloc(n, sizeof(*d->items)) : NULL;
	if (n && !d->items)
		return banger_error_oom(err);
	for (size_t i = 0; i < n; i++, d->n++) {
		struct json_object *e = json_object_array_get_idx(list, i);
		char path[FIELD_PATH_MAX];

		snprintf(path, sizeof(path), "%s[%zu].", key, i);
		if (!json_object_is_type(e, json_type_object))
			return banger_error_set(
				err, BANGER_BAD_REQUEST, "%s[%zu] is not an object", key, i);
		if ((r = descriptor_parse(e, path, &d->items[i], err)) < 0)
			return r;
	}
	return 0;
}

/* ---- documents */

int index_parse(struct json_object *o, struct pull_document *d, struct banger_error *err)
{
	return parse_list(o, "manifests", PULL_INDEX_MAX, d, err);
}

static int check_config(const struct pull_document *d, struct banger_error *err)
{
	const char *type = d->config.media_type;

	if (!config_media_type(type) && !(d->docker && old_docker_config(type)))
		return banger_error_set(err, BANGER_UNSUPPORTED,
			"it is no image but an artifact of type \"%s\"", d->artifact_type ?: type);
	if (d->config.size > PULL_DOCUMENT_MAX)
		return banger_error_set(err, BANGER_TOO_LARGE,
			"config.size is %lld, more than the %d bytes allowed",
			(long long)d->config.size, PULL_DOCUMENT_MAX);
	return 0;
}

static int check_layers(const struct pull_document *d, struct banger_error *err)
{
	for (size_t i = 0; i < d->n; i++) {
		const char *compression;
		int r = pull_layer_compression(&d->items[i], &compression, err);

		if (r < 0) {
			banger_error_prefix(err, "layers[%zu]", i);
			return r;
		}
	}
	return 0;
}

int manifest_parse(struct json_object *o, struct pull_document *d, struct banger_error *err)
{
	struct json_object *config = NULL;
	const char *artifact = NULL;
	int r;

	if ((r = take_media_type(o, "", "artifactType", false, &artifact, err)) < 0 ||
		(r = dup_to(&d->artifact_type, artifact, err)) < 0 ||
		(r = field_object(o, "", "config", true, &config, err)) < 0 ||
		(r = descriptor_parse(config, "config.", &d->config, err)) < 0 ||
		(r = check_config(d, err)) < 0 ||
		(r = parse_list(o, "layers", PULL_LAYERS_MAX, d, err)) < 0)
		return r;
	return check_layers(d, err);
}
