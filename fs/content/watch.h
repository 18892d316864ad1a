/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Follows registry.watch and keeps a table as the registry is. Reconnects by itself for ever; while
 * bangerd is away the table stays as it was.
 */
#ifndef FS_CONTENT_WATCH_H
#define FS_CONTENT_WATCH_H

#include "table.h"

struct watch;

struct watch_options {
	const char *socket; /* of bangerd; must stay valid */
	/* The snapshot is complete, or a change was applied: the table shows `generation`. */
	void (*applied)(void *arg, int64_t generation);
	/* An entry of the root is stale (name), or its listing is (NULL): see server_stale(). */
	void (*stale)(void *arg, const char *name);
	void *arg;
};

/* Connect, and ask for the registry. UNAVAILABLE: not now; DENIED: not for us. */
int watch_open(const struct watch_options *o, struct watch **ret, struct banger_error *err);
/* The directory that holds ID/rootfs.ext4 of each image; the watch's. */
int watch_images(const struct watch *w);
/* For table_options.open: arg is the watch. */
int watch_open_image(void *arg, const char *id);
/* Read up to the end of the first snapshot. */
int watch_snapshot(struct watch *w, struct table *t, struct banger_error *err);
/* Follow for ever, on the calling thread. Returns only when bangerd came back with another images
 * directory, which a confined process cannot open: it must be started anew. */
void watch_run(struct watch *w, struct table *t);
void watch_free(struct watch *w);

#endif
