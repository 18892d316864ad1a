/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the server share: serve.c (connection and threads), serve_ops.c, serve_xattr.c
 * (requests), serve_janitor.c (making the kernel forget). */
#ifndef FS_CONTENT_SERVE_INTERNAL_H
#define FS_CONTENT_SERVE_INTERNAL_H

#define FUSE_USE_VERSION 312

#include <fuse_lowlevel.h>
#include <pthread.h>

#include "ahead.h"
#include "lean.h"
#include "serve.h"

#define FOR_EVER 1e9 /* seconds */
#define READ_MAX (1u << 20)

struct worker {
	struct server *s;
	pthread_t thread;
	bool started;
	struct ext4_scratch *scratch;
	char *buf; /* READ_MAX */
	bool slow; /* what it is doing takes long, and somebody was called to the device for it */
	struct ahead_listing listing;
};

struct server {
	struct fuse_session *session;
	struct table *table;
	struct ahead *ahead;
	struct lean *lean;
	struct worker *workers;
	unsigned threads;
	uid_t uid;
	gid_t gid;

	pthread_mutex_t loop_lock; /* serve_loop.c */
	pthread_cond_t work;
	unsigned at_device, idle;
	bool called; /* a thread was woken to go to the device and is on its way */
	bool ended;

	pthread_mutex_t lock; /* of the janitor's work */
	pthread_cond_t wake;
	char *evict[64];
	unsigned evict_count;
	bool drop_lean; /* lean listings are to be forgotten */
	bool sweep;     /* there may be deleted images that the kernel refers to */
	unsigned sweep_pause;
	_Atomic bool stopping;
	pthread_t janitor;
	bool janitor_started;
	struct ext4_scratch *janitor_scratch;
};

/* Of the thread that serves. */
extern __thread struct worker *serve_self;

static inline uint64_t node_of(uint32_t slot, uint32_t ino)
{
	return (uint64_t)slot << 32 | ino;
}

static inline uint32_t slot_of(fuse_ino_t node)
{
	return (uint32_t)(node >> 32);
}

/* The image, in use, and the inode of a node; on failure the request is answered. */
bool serve_node(fuse_req_t req, fuse_ino_t node, struct image **ret_image, struct ext4_inode *ret);
/* Answer with an error and let go of the image (may be NULL). */
void serve_refuse(fuse_req_t req, struct image *i, int r);

/* Fill in the operations that each file has. */
void serve_ops(struct fuse_lowlevel_ops *ops);
void serve_xattr_ops(struct fuse_lowlevel_ops *ops);

void *serve_janitor(void *server);
/* Have lean listings forgotten, later. */
void serve_drop_lean(struct server *s);

/* Serve until the session has ended. */
void serve_loop(struct worker *w);
/* The worker's request will take long from here on. As often as one likes. */
void serve_slow(void *worker);

#endif
