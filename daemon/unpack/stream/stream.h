/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Blobs one after another, read, decompressed and, where a diff_id is given, hashed: each by a
 * thread of its own, ahead of the caller, who is handed the buffers in turn, without a copy. The
 * kind of compression is told by a blob's first bytes: gzip (RFC 1952, several members too), zstd
 * (RFC 8878), xz, or none.
 *
 * Checks that the format has (CRC, sizes) are made; what follows the compressed data other than
 * zeros after gzip members is an error, and so is an end before the data says so.
 */
#ifndef BANGER_UNPACK_STREAM_H
#define BANGER_UNPACK_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <banger/error.h>

#define STREAM_DIGEST_MAX 144 /* "sha512:" and 128 hex digits, with room */

struct stream;

struct stream_blob {
	uint32_t number;                 /* 0, 1, … */
	char digest[STREAM_DIGEST_MAX];  /* of the blob, for messages; "": not known */
	char diff_id[STREAM_DIGEST_MAX]; /* of what it unpacks to; "": not checked */
	char compression[8];             /* that it must have: "gzip", …; "": any */
	int record_fd;                   /* the caller's business; -1: none */
};

/* Where blobs come from. Both are called on the reading thread, which waits in them. */
struct stream_source {
	/* The next blob: 1 and *ret; 0: there is none. */
	int (*next)(void *arg, int stop_fd, struct stream_blob *ret, struct banger_error *err);
	/* Up to len bytes of it: their number, 0 at its end; -ECANCELED when stop_fd became
	 * readable. `to` and len are multiples of 4096. */
	ssize_t (*read)(void *arg, int stop_fd, uint8_t *to, size_t len, struct banger_error *err);
	void *arg;
};

/* hash: blobs have diff_ids. The threads exist when this returns, but read nothing before
 * stream_start(): in between the process can give up its rights. */
int stream_new(const struct stream_source *source, bool hash, struct stream **ret,
	struct banger_error *err);
/* One blob: what fd gives, to its end. Borrows fd. */
int stream_new_fd(int fd, struct stream **ret, struct banger_error *err);
/* Before the start: how much all blobs together may unpack to; TOO_LARGE from there on. */
void stream_limit(struct stream *s, uint64_t bytes);
void stream_start(struct stream *s);
/* Also ends a thread that waits for a pipe. */
void stream_freep(struct stream **s);
#define _cleanup_stream_ _cleanup_(stream_freep)

/* The next blob: 1 with *ret valid until the next call, 0: there is none. The one before it must
 * have been read to its end. */
int stream_begin(struct stream *s, const struct stream_blob **ret, struct banger_error *err);

/* The next piece of the blob: 1, with *ret valid until the next call; 0 at the end, which is a good
 * one: it has the diff_id that it should have; or CORRUPT, UNSUPPORTED (a compression that is not
 * read), TOO_LARGE (one that wants too much memory), INTERNAL (the descriptor cannot be read). */
int stream_next(struct stream *s, const uint8_t **ret, size_t *ret_len, struct banger_error *err);

/* Bytes read of all blobs so far. */
uint64_t stream_position(const struct stream *s);
/* Of the last blob that was begun: "gzip", "zstd", "xz", "none"; "" before the first piece. */
const char *stream_compression(const struct stream *s);

#endif
