/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pull: from what a person named to an ext4 file.
 *
 *	reference → index → manifest → configuration → layers, fetched several at a time → banger-unpack → file
 *
 * The layers are fetched into the blob cache (blobs.h) while banger-unpack reads them from there,
 * bottom first, as far as they have come. What an earlier image had in common with this one, from the
 * bottom up, is not done again where the disk can clone (flat.h). This folder knows nothing of
 * operations or of the registry of images: it gets a descriptor that becomes readable when it shall
 * stop, and tells of progress.
 */
#ifndef BANGER_PULL_PULL_H
#define BANGER_PULL_PULL_H

#include <banger/paths.h>
#include "pull/document.h"

struct pull_engine;
struct blobs;
struct http;
struct flat_cache;

/* One for the daemon: the transfer thread, the caches under STATE_DIR/cache. Checks what the
 * configuration says of registries: BAD_REQUEST. Borrows config. */
int pull_engine_new(const struct banger_config *config, int state_dir_fd, struct pull_engine **ret,
	struct banger_error *err);
void pull_engine_freep(struct pull_engine **e); /* no pull may be running */
struct blobs *pull_engine_blobs(struct pull_engine *e);
struct http *pull_engine_http(struct pull_engine *e);
struct flat_cache *pull_engine_flat(struct pull_engine *e);

/* Remove what was used least recently until the cache is no larger than configured. */
void pull_engine_trim(struct pull_engine *e);

enum pull_layer_state {
	PULL_WAITING,
	PULL_FETCHING,
	PULL_HELD, /* was there already */
	PULL_FETCHED,
	PULL_REUSED, /* it was unpacked for another image */
};
const char *pull_layer_state_name(enum pull_layer_state s);

struct pull_progress {
	const char *phase; /* "resolving", "fetching" (nothing to unpack yet), "unpacking", "finishing" */
	const char *digest; /* of the manifest; "" before it is known */
	size_t n_layers;
	const struct pull_progress_layer {
		const char *digest;
		int64_t size, fetched; /* bytes of the blob */
		enum pull_layer_state state;
	} *layers;
	int64_t read, members, content; /* of banger-unpack */
};

struct pull_request {
	const char *reference; /* pull_reference_parse's */
	const char *platform;  /* NULL: this machine's */
	int rootfs_fd;	       /* an empty regular file, open for reading and writing; not fsynced */
	int seed_fd;	       /* the same for the work seed; -1: none is wanted */
	int cancel_fd;	       /* readable: CANCELLED */
	bool layouts;	       /* may it name a directory of this host (oci:)? */
	/* On the calling thread, a few times a second; NULL: nobody wants to know. */
	void (*progress)(void *arg, const struct pull_progress *p);
	void *arg;
};

struct pull_result {
	char *source;			   /* canonical: docker.io/library/debian:12@sha256:… */
	char manifest[PULL_DIGEST_MAX];	   /* of the platform's manifest */
	char *config;			   /* banger_image.config; NULL: none */
	char *home;			   /* of its user: a path, or "~USER" */
	int64_t fetched;		   /* bytes that came over the network (or were read from a layout) */
	size_t layers, reused;
	int64_t size;			   /* of the filesystem */
	bool seed;			   /* was a work seed written? */
};
void pull_result_done(struct pull_result *r);
#define _cleanup_pull_result_ _cleanup_(pull_result_done)

/* Blocks. Whatever it returns, only the blob cache keeps anything of it. Errors are those of registry.h,
 * document.h and unpack/run.h; each message names the reference, and the layer where one is the cause. */
int pull_run(struct pull_engine *e, const struct pull_request *q, struct pull_result *ret,
	struct banger_error *err);

#endif
