/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The FUSE connection of rootfs/: the table's images as directories, each with what its ext4
 * filesystem holds, read-only. Node numbers are slot << 32 | inode number (table.h); the mount's
 * root is node 1.
 *
 * What never changes (everything inside an image) is given to the kernel for ever: entries, that a
 * name does not exist, attributes, directory listings, contents, symlinks. OPEN and OPENDIR are
 * answered ENOSYS, after which the kernel opens files without asking and keeps their pages. What
 * changes (which names the root has) is told with server_stale().
 */
#ifndef FS_CONTENT_SERVE_H
#define FS_CONTENT_SERVE_H

#include "table.h"

struct server;

struct server_options {
	const char *mountpoint;
	bool allow_other;
	unsigned threads; /* 0: as many as help */
};

/* Mount. The table may be empty yet. DENIED: fusermount3 or mount(2) refused; a message of theirs
 * is on stderr. */
int server_new(const struct server_options *o, struct server **ret, struct banger_error *err);
/* The table whose images are shown; before server_run(). The server does not own it. */
void server_set_table(struct server *s, struct table *t);
/* Make the threads and buffers, so that server_run() needs no more of the system. */
int server_prepare(struct server *s, struct banger_error *err);
/* Serve until unmounted (0), or until server_stop(). */
int server_run(struct server *s);
void server_stop(struct server *s); /* any thread */
void server_free(struct server *s); /* unmounts what is still mounted */

/* The entry `name` of the root is something else now, or gone (NULL: only the listing has changed).
 * Returns when the kernel has forgotten it; waits for lookups that are under way in the root, so
 * not to be called by a thread that serves. */
void server_stale(struct server *s, const char *name);
/* For table_options.slow. */
void server_slow(void);
/* The same, later, on a thread of the server: for table_options.evict. */
void server_evict(struct server *s, const char *name);

#endif
