/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Linear probing at a load of at most 3/4; a removal moves later items of the run back, so there
 * are no tombstones and a lookup costs the same after a million changes. The hash is keyed with a
 * random number, so that nobody can choose names that all fall into one run.
 */
#include "index.h"
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/random.h>

static uint64_t secret;
static pthread_once_t secret_once = PTHREAD_ONCE_INIT;

static void draw_secret(void)
{
	if (getrandom(&secret, sizeof(secret), GRND_NONBLOCK) != sizeof(secret))
		secret = 0x9E3779B97F4A7C15u;
}

static uint64_t mix(uint64_t h)
{
	h ^= h >> 32;
	h *= 0xD6E8FEB86659FD93u;
	h ^= h >> 32;
	h *= 0xD6E8FEB86659FD93u;
	return h ^ h >> 32;
}

uint64_t index_hash_number(uint64_t n)
{
	pthread_once(&secret_once, draw_secret);
	return mix(n ^ secret);
}

uint64_t index_hash_text(const char *s, uint64_t seed)
{
	uint64_t h = index_hash_number(seed);

	for (; *s; s++)
		h = (h ^ (unsigned char)*s) * 0x100000001B3u;
	return mix(h);
}

static void place(void **table, size_t size, uint64_t hash, void *item)
{
	size_t i = hash & (size - 1);

	while (table[i])
		i = (i + 1) & (size - 1);
	table[i] = item;
}

int index_reserve(struct index *x, size_t extra)
{
	size_t size = x->size ? x->size : 64;

	while ((x->used + extra) * 4 > size * 3)
		size *= 2;
	if (size == x->size)
		return 0;
	void **table = calloc(size, sizeof(*table));
	if (!table)
		return -ENOMEM;
	for (size_t i = 0; i < x->size; i++)
		if (x->table[i])
			place(table, size, x->hash(x->table[i]), x->table[i]);
	free(x->table);
	x->table = table;
	x->size = size;
	return 0;
}

void index_insert(struct index *x, void *item)
{
	place(x->table, x->size, x->hash(item), item);
	x->used++;
}

void *index_find(const struct index *x, uint64_t hash,
	bool (*match)(const void *item, const void *key), const void *key)
{
	if (!x->size)
		return NULL;
	for (size_t i = hash & (x->size - 1); x->table[i]; i = (i + 1) & (x->size - 1))
		if (match(x->table[i], key))
			return x->table[i];
	return NULL;
}

void index_remove(struct index *x, const void *item)
{
	size_t mask = x->size - 1, i;

	if (!x->size)
		return;
	for (i = x->hash(item) & mask; x->table[i] != item; i = (i + 1) & mask)
		if (!x->table[i])
			return;
	/* Close the gap: an item behind it may move in unless its own place lies after the gap. */
	for (size_t j = (i + 1) & mask; x->table[j]; j = (j + 1) & mask) {
		size_t home = x->hash(x->table[j]) & mask;

		if (((j - home) & mask) >= ((j - i) & mask)) {
			x->table[i] = x->table[j];
			i = j;
		}
	}
	x->table[i] = NULL;
	x->used--;
}

void index_done(struct index *x)
{
	free(x->table);
	x->table = NULL;
	x->size = x->used = 0;
}
