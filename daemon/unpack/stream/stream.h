/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes from a descriptor, decompressed. The kind of compression is told by the first bytes: gzip
 * (RFC 1952, several members too), zstd (RFC 8878), xz, or none. A thread reads and decodes ahead;
 * the caller is handed its buffers in turn, without a copy.
 *
 * Checks that the format has (CRC, sizes) are made; what follows the compressed data other than
 * zeros after gzip members is an error, and so is an end before the data says so.
 */
#ifndef BANGER_UNPACK_STREAM_H
#define BANGER_UNPACK_STREAM_H

#include <stddef.h>
#include <stdint.h>
#include <banger/error.h>

struct stream;

/* Borrows fd. The thread exists when this returns, but reads nothing before stream_start(): in
 * between the process can give up its rights. */
int stream_new(int fd, struct stream **ret, struct banger_error *err);
void stream_start(struct stream *s);
/* Also ends a thread that waits for a pipe. */
void stream_freep(struct stream **s);
#define _cleanup_stream_ _cleanup_(stream_freep)

/* The next piece: 1, with *ret valid until the next call; 0 at the end, which is a good one; or
 * CORRUPT, UNSUPPORTED (a compression that is not read), TOO_LARGE (one that wants too much
 * memory), INTERNAL (the descriptor cannot be read). */
int stream_next(struct stream *s, const uint8_t **ret, size_t *ret_len, struct banger_error *err);

/* Bytes read from the descriptor so far. */
uint64_t stream_position(const struct stream *s);
/* "gzip", "zstd", "xz", "none"; "" before the first piece. */
const char *stream_compression(const struct stream *s);

#endif
