/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Layers that were unpacked before: STATE_DIR/cache/flat/CHAIN/, where CHAIN is the SHA-256 of the
 * diff_ids of an image, one a line, bottom first:
 *	layers   the diff_ids
 *	0 1 …    the record of each layer (unpack/run.h)
 *	data     a clone of the image's content, sharing its blocks
 * An image that begins with the same layers takes as many of them from here as it shares. Entries
 * exist only where the disk can clone. They are made durable before they get their name, so that one
 * that is there is whole; what is half-made (CHAIN.new) is removed at the next start. The one used
 * least recently goes first when there are too many.
 *
 * Any thread. One mutex, held over looking at the directory; never while layers are unpacked.
 */
#ifndef BANGER_PULL_FLAT_H
#define BANGER_PULL_FLAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "pull/digest.h"

struct flat_cache;

int flat_new(int cache_fd, struct flat_cache **ret, struct banger_error *err);
void flat_freep(struct flat_cache **c);

/* What can be reused: open descriptors, so that it stays whatever is removed. */
struct flat_use {
	char chain[65]; /* the entry; "": there is none */
	size_t n;	/* layers, from the bottom */
	int data_fd;
	int *record_fds;
};
#define FLAT_USE_NONE                                                                              \
	{                                                                                          \
		.data_fd = -1                                                                      \
	}
/* The entry that shares most layers with these. ret->n 0: none shares any. */
int flat_find(struct flat_cache *c, const char (*diff_ids)[PULL_DIGEST_MAX], size_t n,
	struct flat_use *ret, struct banger_error *err);
void flat_use_done(struct flat_use *u);
/* It was of no use: remove it. */
void flat_forget(struct flat_cache *c, const char *chain);

/* A new entry on its way. */
struct flat_entry {
	struct flat_cache *cache;
	char chain[65];
	int dir_fd, keep_fd;
	int *record_fds; /* -1 for those that `base` has */
	size_t n;
};
#define FLAT_ENTRY_NONE                                                                            \
	{                                                                                          \
		.dir_fd = -1, .keep_fd = -1                                                        \
	}
/* base: what is reused, whose records are taken over. ret->dir_fd -1: none is wanted (the disk cannot
 * clone, or the entry is there already, or another pull makes it). */
int flat_begin(struct flat_cache *c, const char (*diff_ids)[PULL_DIGEST_MAX], size_t n,
	const struct flat_use *base, struct flat_entry *ret, struct banger_error *err);
/* The image was made, and keep_fd is its clone: the entry counts. */
int flat_commit(struct flat_entry *e, struct banger_error *err);
/* Frees; an entry that was not committed is removed. */
void flat_entry_done(struct flat_entry *e);

struct flat_usage {
	int64_t entries, bytes; /* bytes: of which some are shared with images that still are */
};
int flat_usage(struct flat_cache *c, struct flat_usage *ret, struct banger_error *err);
/* Remove least recently used entries until at most max bytes are there. dry: only say. */
int flat_prune(struct flat_cache *c, int64_t max, bool dry, struct flat_usage *ret_removed,
	struct banger_error *err);

#endif
