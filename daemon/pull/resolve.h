/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a reference to what has to be fetched: the manifest for one platform, its configuration, its
 * layers. For daemon/pull alone.
 */
#ifndef BANGER_PULL_RESOLVE_H
#define BANGER_PULL_RESOLVE_H

#include "pull/document.h"
#include "pull/pull.h"
#include "pull/reference.h"

struct registry;
struct layout;

/* Where documents and blobs come from: exactly one of the two. */
struct pull_source {
	struct registry *registry;
	struct layout *layout;
};

struct pull_image {
	struct pull_reference reference;
	struct pull_source source;
	char *text;		       /* of the reference, canonical */
	bool text_has_digest;
	char top[PULL_DIGEST_MAX];     /* of what the reference names: an index or the manifest */
	char manifest[PULL_DIGEST_MAX];
	struct pull_document document; /* the manifest; its items are the layers, bottom first */
	size_t n_layers;
	const char **compression;      /* of each layer, as its media type says; NULL: does not say */
	struct pull_image_config config;
};
void pull_image_done(struct pull_image *i);

struct resolve_options {
	struct pull_engine *engine;
	const char *reference, *platform;
	bool layouts;
	int cancel_fd;
};
/* On failure *ret is as pull_image_done() leaves it. */
int resolve_image(const struct resolve_options *o, struct pull_image *ret, struct banger_error *err);

#endif
