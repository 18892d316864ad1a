/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the next free block is. Blocks are given out in ascending order and never twice; what is in
 * the way (the superblock, the descriptors and the room for more of them, and the copies of those
 * in the groups 1, 3, 5, 7, 9, 25, …) is stepped over. Where those copies are does not depend on
 * the filesystem's size, which is what lets content be placed before the size is known.
 */
#ifndef BANGER_EXT4_SPACE_H
#define BANGER_EXT4_SPACE_H

#include <stdbool.h>
#include <stdint.h>

#define SPACE_GROUP 32768u /* blocks of 4096 bytes that one bitmap block counts */

struct space {
	uint64_t next;
	uint64_t wall; /* start of the next copy */
	uint64_t end;  /* no block from here on */
	uint32_t head; /* blocks at the start of groups with a copy, the superblock's included */
};

/* Does group have a copy of superblock and descriptors (sparse_super)? */
bool space_has_copy(uint32_t group);
void space_init(struct space *s, uint32_t head, uint64_t end);

/* Up to want blocks in a row, at least one: their number, and the first in *ret. 0: no space. */
uint32_t space_take(struct space *s, uint32_t want, uint64_t *ret);
/* Exactly n in a row. -ENOSPC. */
int space_take_row(struct space *s, uint32_t n, uint64_t *ret);

#endif
