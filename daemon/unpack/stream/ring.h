/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A ring of buffers between one producing thread and one or two consuming ones. Every consumer sees
 * every piece, in order, and a buffer is filled again when all are done with it: that bounds memory,
 * and it is how two threads work on the same bytes without a copy.
 */
#ifndef BANGER_UNPACK_RING_H
#define BANGER_UNPACK_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <banger/error.h>

struct ring;

enum piece_kind { PIECE_BEGIN, PIECE_DATA, PIECE_END };

struct piece {
	uint8_t *data; /* aligned for O_DIRECT */
	size_t len;
	enum piece_kind kind;
};

#define RING_CONSUMERS 2

/* -ENOMEM: NULL. Buffers of `size` bytes, n of them. */
struct ring *ring_new(unsigned n, size_t size, unsigned consumers);
void ring_freep(struct ring **r);
#define _cleanup_ring_ _cleanup_(ring_freep)

/* The producer: a buffer to fill (waits for one; NULL: stopped), then that it is filled. What is in
 * piece->data may be exchanged for another buffer of the same size. */
struct piece *ring_fill(struct ring *r);
void ring_filled(struct ring *r);
/* Nothing follows: the end (0), or why it went wrong. */
void ring_end(struct ring *r, int result, const struct banger_error *error);

/* A consumer: the next piece, valid until ring_done(). NULL at the end: *ret is how it ended,
 * -ECANCELED when it was stopped. */
struct piece *ring_take(
	struct ring *r, unsigned consumer, int *ret, struct banger_error *ret_error);
void ring_done(struct ring *r, unsigned consumer);

/* Nobody waits any more. */
void ring_stop(struct ring *r);

#endif
