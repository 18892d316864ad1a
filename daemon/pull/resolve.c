/* SPDX-License-Identifier: Apache-2.0 */
/*
 * index → … → manifest → configuration. Every step is named by a descriptor of the one before, whose
 * size and digest the next must have; the first one's digest is of what the registry gave. An index may
 * name an index (PULL_INDEX_DEPTH times); one that names itself cannot be, for it would have to contain
 * its own digest, but depth is limited all the same.
 *
 * The platform is the index's choice where there is one; a manifest named directly must be for the
 * platform that its configuration says.
 */
#include "pull/resolve.h"

#include <string.h>
#include <banger/log.h>
#include "pull/engine.h"
#include "pull/layout.h"
#include "pull/registry.h"

void pull_image_done(struct pull_image *i)
{
	registry_freep(&i->source.registry);
	layout_freep(&i->source.layout);
	pull_reference_done(&i->reference);
	pull_document_done(&i->document);
	pull_image_config_done(&i->config);
	free(i->text);
	free(i->compression);
	*i = (struct pull_image){0};
}

static int open_source(
	const struct resolve_options *o, struct pull_image *i, struct banger_error *err)
{
	if (!i->reference.layout)
		return registry_open(o->engine->http, o->engine->config, &i->reference,
			o->cancel_fd, &i->source.registry, err);
	return layout_open(&i->reference, &i->source.layout, err);
}

struct text {
	char *s;
	size_t len;
	char media_type[160], digest[PULL_DIGEST_MAX];
};

static void text_done(struct text *t)
{
	free(t->s);
	*t = (struct text){0};
}

static int get_manifest(struct pull_image *i, const struct pull_descriptor *d, struct text *ret,
	struct banger_error *err)
{
	const char *what = d ? d->digest : NULL;

	if (i->source.layout)
		return layout_manifest(i->source.layout, what, d, &ret->s, &ret->len,
			ret->media_type, ret->digest, err);
	return registry_manifest(
		i->source.registry, what, d, &ret->s, &ret->len, ret->media_type, ret->digest, err);
}

static int get_document(struct pull_image *i, const struct pull_descriptor *d, struct text *ret,
	struct banger_error *err)
{
	return i->source.layout ? layout_document(i->source.layout, d, &ret->s, &ret->len, err)
				: registry_document(i->source.registry, d, &ret->s, &ret->len, err);
}

/* What a descriptor calls a document and what its server calls it must not be two things. */
static int check_media_type(
	const struct pull_descriptor *d, const char *served, struct banger_error *err)
{
	if (!d || strncmp(served, "application/vnd.", strlen("application/vnd.")) != 0 ||
		strcmp(served, d->media_type) == 0)
		return 0;
	return banger_error_set(err, BANGER_BAD_REQUEST, "it is announced as %s and served as %s",
		d->media_type, served);
}

/* Get one document and parse it into i->document. */
static int take_document(
	struct pull_image *i, const struct pull_descriptor *d, struct banger_error *err)
{
	_cleanup_(text_done) struct text t = {0};
	struct pull_document document;

	int r = get_manifest(i, d, &t, err);
	if (r == 0)
		r = check_media_type(d, t.media_type, err);
	if (r == 0)
		r = pull_document_parse(
			t.s, t.len, d ? d->media_type : t.media_type, &document, err);
	if (r < 0) {
		if (t.digest[0])
			banger_error_prefix(err, "%s", t.digest);
		return r;
	}
	strcpy(i->manifest, t.digest);
	if (!d)
		strcpy(i->top, t.digest);
	pull_document_done(&i->document);
	i->document = document;
	return 0;
}

static int find_manifest(struct pull_image *i, const struct pull_platform *platform,
	bool *ret_chosen, struct banger_error *err)
{
	int r = take_document(i, NULL, err);

	for (int depth = 0; r == 0 && i->document.kind == PULL_INDEX; depth++) {
		_cleanup_pull_document_ struct pull_document index = i->document;
		const struct pull_descriptor *next;

		i->document = (struct pull_document){0};
		if (depth == PULL_INDEX_DEPTH)
			return banger_error_set(err, BANGER_BAD_REQUEST,
				"indexes that name indexes more than %d deep", PULL_INDEX_DEPTH);
		r = pull_index_select(&index, platform, &next, err);
		if (r == 0) {
			*ret_chosen |= next->platform.os[0] != 0;
			r = take_document(i, next, err);
		}
	}
	return r;
}

static int check_platform(const struct pull_image *i, const struct pull_platform *want, bool chosen,
	struct banger_error *err)
{
	const struct pull_platform *have = &i->config.platform;

	char is[PULL_PLATFORM_TEXT], wanted[PULL_PLATFORM_TEXT];

	/* What an index says of it counts. */
	if (chosen || pull_platform_runs(want, have))
		return 0;
	return banger_error_set(err, BANGER_NOT_FOUND,
		"the image is for %s, and %s is wanted (--platform asks for another)",
		pull_platform_text(have, is), pull_platform_text(want, wanted));
}

static int take_config(struct pull_image *i, struct banger_error *err)
{
	_cleanup_(text_done) struct text t = {0};

	int r = get_document(i, &i->document.config, &t, err);
	if (r == 0)
		r = pull_image_config_parse(t.s, t.len, i->document.n, &i->config, err);
	if (r < 0)
		banger_error_prefix(err, "the configuration %s", i->document.config.digest);
	return r;
}

static int take_layers(struct pull_image *i, struct banger_error *err)
{
	i->n_layers = i->document.n;
	i->compression = calloc(i->n_layers + 1, sizeof(*i->compression));
	if (!i->compression)
		return banger_error_oom(err);
	for (size_t k = 0; k < i->n_layers; k++) {
		int r = pull_layer_compression(&i->document.items[k], &i->compression[k], err);
		if (r < 0) {
			banger_error_prefix(
				err, "layer %zu (%s)", k + 1, i->document.items[k].digest);
			return r;
		}
	}
	return 0;
}

static int resolve(const struct resolve_options *o, struct pull_image *i, struct banger_error *err)
{
	struct pull_platform platform;
	bool chosen = false;

	/* Before the reference is parsed: that looks at the directory, with our rights. */
	if (!o->layouts && strncmp(o->reference, "oci:", 4) == 0)
		return banger_error_set(err, BANGER_DENIED,
			"an image layout on this host may be named by root and the daemon's own "
			"user only");
	int r = pull_platform_parse(o->platform, &platform, err);
	if (r == 0)
		r = pull_reference_parse(o->reference, &i->reference, err);
	if (r < 0)
		return r;
	i->text = strdup(i->reference.text);
	i->text_has_digest = i->reference.digest[0] != 0;
	if (!i->text)
		return banger_error_oom(err);
	r = open_source(o, i, err);
	if (r == 0)
		r = find_manifest(i, &platform, &chosen, err);
	if (r == 0)
		r = take_config(i, err);
	if (r == 0)
		r = check_platform(i, &platform, chosen, err);
	if (r == 0)
		r = take_layers(i, err);
	if (r == 0)
		log_info("resolved", KV_S("reference", i->text), KV_S("digest", i->top),
			KV_S("manifest", i->manifest), KV_I("layers", i->n_layers));
	return r;
}

int resolve_image(const struct resolve_options *o, struct pull_image *ret, struct banger_error *err)
{
	*ret = (struct pull_image){0};
	int r = resolve(o, ret, err);
	if (r < 0)
		pull_image_done(ret);
	return r;
}
