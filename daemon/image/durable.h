/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Durability: the one place that knows which bytes are on the disk, and in which order they get there.
 *
 * What the registry promises: a change that was answered survives anything, and a crash at any
 * instruction (of the process or of the machine) leaves the old state or the new one. The rules that
 * give it:
 *
 *  1. The store is the only commit point. A row says what is; directories follow the rows, and
 *     recovery (recover.c) makes them. So no directory rename has to be durable by itself.
 *  2. What a row is about to promise is durable before the row: contents and mode of each file, the
 *     directory that names the files, and an entry that names that directory somewhere under
 *     STATE_DIR (durable_sync_image). Then the rename to its place (not synced), then the
 *     transaction (synced by SQLite: WAL, synchronous=FULL), then the answer.
 *  3. What a row stops promising goes after the row: a deletion commits first and moves the
 *     directory to trash/ afterwards.
 *
 * A crash between rename and commit leaves a directory ahead of its row, a lost rename leaves it
 * behind, a crash after a deletion's commit leaves it without a row: recovery moves it back, moves it
 * forward, throws it away. A draft's directory is made without any fsync: its row alone is enough to
 * make an empty one again, and a file that somebody fsyncs in it takes its parents along.
 */
#ifndef BANGER_IMAGE_DURABLE_H
#define BANGER_IMAGE_DURABLE_H

#include "image/digest.h"
#include "op/operation.h"

/* Every function here may block for long, takes no lock, and polls `op` for cancellation between
 * pieces of a few megabytes where it takes one. `what` names the file in messages. */

/* The digest of the first `size` bytes of fd, where they are. Starts write-back of dirty pages on the
 * way, so that an fsync after it finds little to do. */
int durable_digest(int fd, int64_t size, struct operation *op, const char *what,
	char ret[DIGEST_SIZE], struct banger_error *err);

/* The same, of a file that was written around the page cache: read around it too. (digest_direct.c) */
int durable_digest_direct(int fd, int64_t size, struct operation *op, const char *what,
	char ret[DIGEST_SIZE], struct banger_error *err);

/* Copy `size` bytes of `in` (a regular file or block device) to the empty file `out`: a clone where
 * the filesystem can, else holes stay holes and blocks of zeros become some. ret_digest: NULL, or
 * gets the digest of the copy, computed in the same pass unless it was a clone. */
int durable_copy(int in, int64_t size, int out, struct operation *op, const char *what,
	char *ret_digest, struct banger_error *err);
/* The same from a pipe or socket, to its end. */
int durable_copy_stream(int in, int out, struct operation *op, const char *what, int64_t *ret_size,
	char *ret_digest, struct banger_error *err);

/* fsync(2) of a file or directory. */
int durable_sync(int fd, const char *what, struct banger_error *err);
/* Rule 2: every regular file in the flat directory `name` of parent_fd, the directory, the parent. */
int durable_sync_image(int parent_fd, const char *name, struct operation *op, struct banger_error *err);

#endif
