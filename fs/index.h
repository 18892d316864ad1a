/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An index: items found by a key that is part of them. Open addressing, a pointer an item. The
 * caller says how an item hashes; an item's key must not change while it is in the index.
 *
 * Takes no lock: its owner's.
 */
#ifndef FS_INDEX_H
#define FS_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct index {
	void **table;
	size_t size, used;
	uint64_t (*hash)(const void *item);
};

/* Make room, so that the next `extra` index_insert() cannot fail. -ENOMEM. */
int index_reserve(struct index *x, size_t extra);
void index_insert(struct index *x, void *item);       /* no item with its key may be there */
void index_remove(struct index *x, const void *item); /* does nothing for an item not there */
/* The item for which match(item, key) holds among those that hash to `hash`, or NULL. */
void *index_find(const struct index *x, uint64_t hash,
	bool (*match)(const void *item, const void *key), const void *key);
void index_done(struct index *x);

/* Hashes: of a number, and of a string with a seed. Keyed for this process. */
uint64_t index_hash_number(uint64_t n);
uint64_t index_hash_text(const char *s, uint64_t seed);

#endif
