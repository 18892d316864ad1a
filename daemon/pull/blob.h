/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of the blob cache: blobs.c has the table and the directories, blob.c has what happens to one blob.
 *
 * Two locks, never held over I/O and never both at once:
 *	blobs.lock   the list and each blob's `refs` and `busy`. `busy`: somebody opens, closes or removes the
 *	             file outside the lock; whoever wants the blob waits on blobs.changed.
 *	blob.lock    `state`, `failure`, the list of eventfds.
 * `available` is atomic; all else of a blob is its writer's alone, and passes to the next writer with `state`.
 */
#ifndef BANGER_PULL_BLOB_H
#define BANGER_PULL_BLOB_H

#include <pthread.h>
#include <stdatomic.h>
#include "pull/blobs.h"

#define BLOB_BLOCK 4096 /* what O_DIRECT wants offsets, lengths and addresses to be multiples of */
#define BLOB_STAGE (512 * 1024)
#define BLOB_NAME_MAX (128 + sizeof(".partial"))

struct blob {
	struct blobs *cache;
	struct blob *next;
	int refs;
	bool busy;

	char digest[PULL_DIGEST_MAX];
	char name[BLOB_NAME_MAX], partial[BLOB_NAME_MAX]; /* file names */
	int dir_fd;                                       /* borrowed */
	int64_t size;
	int fd; /* for readers */

	pthread_mutex_t lock;
	enum { BLOB_IDLE, BLOB_GROWING, BLOB_WHOLE, BLOB_FAILED } state;
	struct banger_error failure;
	int *listeners;
	size_t n_listeners;

	_Atomic int64_t available;
	_Atomic unsigned generation;

	/* The writer's. What was taken is written ++ stage; hash covers all of it, or is NULL when it must be
	 * computed again from the file. */
	int out; /* O_DIRECT where possible */
	bool direct;
	struct pull_hash *hash;
	int64_t written;
	unsigned char *stage;
	size_t staged;
	int64_t flushed_us; /* when the stage was last written */
};

/* Closes and frees; not in the list any more. */
void blob_free(struct blob *b);

#endif
