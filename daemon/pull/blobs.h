/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The blob cache: STATE_DIR/cache/blobs/ALGORITHM/HEX, whole blobs whose digest was checked, and
 * HEX.partial, the beginning of one. Shared by all pulls of this daemon; a blob that two of them need
 * is fetched once.
 *
 * A blob in use (struct blob) is either held (whole) or growing: one writer appends, any number of
 * readers follow by descriptor and blob_available(). Bytes are written around the page cache where
 * the disk can, in large aligned pieces: a reader sees them as soon as they are counted as available.
 *
 * When a growing blob's writer goes away, what was written stays as HEX.partial; the next writer
 * finds it, recomputes the digest's state by reading it, and goes on from there (blob_offset()).
 * Nothing else is left after a failure; a partial whose content turned out wrong is removed.
 *
 * The size of the cache is limited (config "cache_max"); least recently used goes first, what is
 * in use stays. blobs_prune() says what goes.
 *
 * Threads: all calls from any thread; each blob's writer calls from one thread at a time.
 */
#ifndef BANGER_PULL_BLOBS_H
#define BANGER_PULL_BLOBS_H

#include <stdbool.h>
#include <stdint.h>
#include "pull/digest.h"

struct blobs;
struct blob;

/* Makes the directories below cache_fd (STATE_DIR/cache) and removes what an earlier run left half-done
 * other than partials. */
int blobs_new(int cache_fd, struct blobs **ret, struct banger_error *err);
void blobs_freep(struct blobs **b); /* no blob may be in use */

/* A use of the blob. *ret_writer: true: it is not whole and nobody else writes it: the caller must
 * (blob_write…, ending with blob_finish or blob_abandon). When a writer gives up, blob_take_over() lets
 * one of the others become it. size: exact, of the descriptor; TOO_LARGE, BAD_REQUEST when the cache
 * already has it with another size. */
int blobs_get(struct blobs *b, const char *digest, int64_t size, struct blob **ret,
	bool *ret_writer, struct banger_error *err);
void blob_putp(struct blob **b); /* what use ended; may be NULL */
#define _cleanup_blob_ _cleanup_(blob_putp)

const char *blob_digest(const struct blob *b);
int64_t blob_size(const struct blob *b);
int blob_fd(const struct blob *b); /* read-only, borrowed; one file from first byte to whole blob */
/* The same with a position and flags of its own, for whoever reads it as a stream; the caller closes it. */
int blob_open(const struct blob *b, struct banger_error *err);
/* Bytes that a reader may read now. */
int64_t blob_available(const struct blob *b);
/* Whole, and the digest is right. */
bool blob_whole(const struct blob *b);
/* Add an eventfd that is signalled (1) when more is available (at most each 256 KiB or 50 ms), at the
 * end and when it failed. Removed by its number. */
int blob_notify(struct blob *b, int eventfd, struct banger_error *err);
void blob_unnotify(struct blob *b, int eventfd);
/* Changes when bytes that readers could have read were thrown away because they were wrong (they were
 * left by an earlier run): who has read any begins again. */
unsigned blob_generation(const struct blob *b);
/* Somebody doubts a whole blob that he did not see come: compute its digest again. CORRUPT: the disk has
 * changed it; its file is gone from the cache, and the next blobs_get() after the last use fetches it anew. */
int blob_doubt(struct blob *b, int cancel_fd, struct banger_error *err);
/* 0, or the failure of the writer, if it failed and nobody took over. */
int blob_failure(const struct blob *b, struct banger_error *err);

/* The writer's side. */
int64_t blob_offset(const struct blob *b); /* where to go on; blob_begin() found it */
/* Look at what is there already, with cancel_fd (-1: none) between pieces. */
int blob_begin(struct blob *b, int cancel_fd, struct banger_error *err);
/* Throw away what is there: the content was wrong. (A server that cannot resume is no reason: the bytes
 * that are there already are passed over, see fetch.c.) */
int blob_restart(struct blob *b, struct banger_error *err);
/* Append. TOO_LARGE when it would be more than size; NO_SPACE. Borrowed data of any length. */
int blob_write(struct blob *b, const void *data, size_t len, struct banger_error *err);
/* All is written: flush, compare size and digest, fdatasync, name it. INCOMPLETE: bytes are missing. CORRUPT:
 * nothing is left of the partial. After a failure the caller is still the writer: blob_restart() or
 * blob_abandon(). */
int blob_finish(struct blob *b, struct banger_error *err);
/* Give up: flush what there is, keep it as partial. why: what readers get. */
void blob_abandon(struct blob *b, const struct banger_error *why);
/* The writer gave up: shall the caller go on? */
bool blob_take_over(struct blob *b);

struct blobs_usage {
	int64_t blobs, bytes, partials, partial_bytes, in_use_bytes;
};
int blobs_usage(struct blobs *b, struct blobs_usage *ret, struct banger_error *err);
/* Remove least recently used ones, partials too, until at most max bytes are there. */
int blobs_prune(
	struct blobs *b, int64_t max, struct blobs_usage *ret_removed, struct banger_error *err);
/* What that would remove; nothing is. */
int blobs_prune_plan(
	struct blobs *b, int64_t max, struct blobs_usage *ret_removed, struct banger_error *err);

#endif
