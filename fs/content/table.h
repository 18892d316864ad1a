/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which images there are, and which of them are open.
 *
 * Per published image the table keeps its id, its name and a slot: a number of 31 bits, never
 * shared by two images that are known at the same time, and the same for an image in each run as
 * long as no two ids begin alike. Node and inode numbers under rootfs/ are slot << 32 | ext4 inode:
 * one image's files are never mistaken for another's, not by the kernel's caches and not by a tar
 * that looks for hard links.
 *
 * An image is opened when somebody first looks it up. It stays open while the kernel holds
 * references to its nodes (lookups that were not yet forgotten), also after it was renamed or
 * deleted, and is closed when there are none and other images want its place. When more are
 * referenced than should be open at once, `evict` is asked to make the kernel let go of one.
 *
 * One writer (table_apply, table_snapshot_*), any number of readers. One mutex, held for a few
 * instructions; never while a file is opened or read.
 */
#ifndef FS_CONTENT_TABLE_H
#define FS_CONTENT_TABLE_H

#include <banger/model.h>
#include <sys/types.h>

#include "ext4/ext4.h"

struct table;

struct table_options {
	/* A descriptor of the image file, or -errno. Any thread; nothing is held. */
	int (*open)(void *arg, const char *id);
	/* Ask the kernel to forget the entry `name`; called with nothing held, on any thread that
	 * serves, so it must only pass the word on. */
	void (*evict)(void *arg, const char *name);
	/* The call under way will take long; may be NULL. */
	void (*slow)(void *arg);
	void *arg;
	unsigned max_open; /* images that may stay open */
};

int table_new(const struct table_options *o, struct table **ret);
void table_free(struct table *t); /* nobody may be using it */

/* A change: `name` NULL removes the image. */
struct table_change {
	const char *id, *name;
};
/* Apply changes in one step. `stale` is called, after it and with nothing held, with each name
 * whose entry the kernel must forget: what was there is gone or is another image now. */
typedef void table_stale_fn(void *arg, const char *name);
int table_apply(
	struct table *t, const struct table_change *c, size_t n, table_stale_fn *stale, void *arg);
/* A new snapshot: between _begin and _end every image there is gets applied once; _end removes the
 * others. */
void table_snapshot_begin(struct table *t);
int table_snapshot_end(struct table *t, table_stale_fn *stale, void *arg);

/* Counts changes; as the time of the last change it makes the root directory's mtime. */
struct timespec table_mtime(struct table *t);
size_t table_count(struct table *t);

/* A use of an image: open, and not closed before table_put(). */
struct image {
	struct ext4_image *ext4;
	uint32_t slot;
	const char *id;
	/* What is known of all its inodes' attributes: -1 not yet asked; see serve.c. */
	_Atomic int has_acl, has_label;
	_Atomic unsigned complaints; /* damage that was logged */
};
/* By name or by slot. -ENOENT, -ESTALE (a slot that is no more), -EIO (unreadable, or changed on
 * disk), -EUCLEAN (no sound filesystem), -ENFILE, -ENOMEM. What went wrong is logged. */
int table_get_name(struct table *t, const char *name, struct image **ret);
int table_get_slot(struct table *t, uint32_t slot, struct image **ret);
void table_put(struct table *t, struct image *i);

/* The kernel's references to nodes of an image. More only while it is in use; fewer at any time. */
void table_referenced(struct image *i, uint64_t n);
void table_forget(struct table *t, uint32_t slot, uint64_t n);

/* An image that should be closed while the kernel has references to it, because it is no longer in
 * the registry or was chosen for eviction: the first whose slot is above `after`, in use until
 * table_put(). NULL: none. */
struct image *table_get_unwanted(struct table *t, uint32_t after);

/* The names in a fixed order, those after position `after` (0: all), until fn returns other than 0.
 * next is the position of the entry. Called with the table locked: fn must not call the table. */
typedef int table_list_fn(void *arg, const char *name, uint32_t slot, uint64_t next);
void table_list(struct table *t, uint64_t after, table_list_fn *fn, void *arg);

#endif
