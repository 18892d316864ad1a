/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Numbered places. Each item gets the next number, from 1, and no number is ever given twice, so a
 * number can be a directory cookie (an entry that was there all the time is listed exactly once,
 * whatever comes and goes around it) and a node's name for the kernel (a late request for something
 * deleted finds nothing, never something else).
 *
 * Takes no lock: its owner's.
 */
#ifndef FS_SLOTS_H
#define FS_SLOTS_H

#include <stddef.h>
#include <stdint.h>

struct slots {
	struct slots_chunk **chunks;
	size_t nchunks;
	uint64_t last; /* the last number given */
	size_t count;  /* of items */
};

/* Make room, so that the next `extra` slots_add() cannot fail. -ENOMEM. */
int slots_reserve(struct slots *s, size_t extra);
/* After slots_reserve(). Returns the item's number. */
uint64_t slots_add(struct slots *s, void *item);
void *slots_get(const struct slots *s, uint64_t number); /* NULL: none (any number will do) */
/* Put another item at a number in use, or NULL to empty it. */
void slots_set(struct slots *s, uint64_t number, void *item);
/* The item with the least number above `after`, and its number; NULL at the end. */
void *slots_next(const struct slots *s, uint64_t after, uint64_t *ret_number);
void slots_done(struct slots *s); /* the items are the owner's */

#endif
