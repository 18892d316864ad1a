/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Numbers are handed out upwards and the items live in chunks of a fixed size. A chunk that has
 * become empty and lies wholly behind the last number is freed, so what a long life of creating and
 * deleting leaves is one pointer for each 512 numbers.
 */
#include "slots.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define CHUNK 512

struct slots_chunk {
	size_t used;
	void *items[CHUNK];
};

static int grow(struct slots *s, size_t want)
{
	size_t n = s->nchunks ? s->nchunks : 16;

	while (n < want)
		n *= 2;
	if (n == s->nchunks)
		return 0;
	struct slots_chunk **c = reallocarray(s->chunks, n, sizeof(*c));
	if (!c)
		return -ENOMEM;
	for (size_t i = s->nchunks; i < n; i++)
		c[i] = NULL;
	s->chunks = c;
	s->nchunks = n;
	return 0;
}

int slots_reserve(struct slots *s, size_t extra)
{
	size_t first = (s->last + 1) / CHUNK, end = (s->last + extra) / CHUNK;

	if (grow(s, end + 1) < 0)
		return -ENOMEM;
	for (size_t i = first; i <= end; i++)
		if (!s->chunks[i] && !(s->chunks[i] = calloc(1, sizeof(**s->chunks))))
			return -ENOMEM;
	return 0;
}

uint64_t slots_add(struct slots *s, void *item)
{
	uint64_t n = ++s->last;
	struct slots_chunk *c = s->chunks[n / CHUNK];

	assert(c && item);
	c->items[n % CHUNK] = item;
	c->used++;
	s->count++;
	/* The chunk before may have been emptied while it was still the last one. */
	struct slots_chunk **before = n % CHUNK == 0 ? &s->chunks[n / CHUNK - 1] : NULL;
	if (before && *before && (*before)->used == 0) {
		free(*before);
		*before = NULL;
	}
	return n;
}

static struct slots_chunk *chunk_of(const struct slots *s, uint64_t n)
{
	return n <= s->last && n / CHUNK < s->nchunks ? s->chunks[n / CHUNK] : NULL;
}

void *slots_get(const struct slots *s, uint64_t number)
{
	struct slots_chunk *c = chunk_of(s, number);

	return c ? c->items[number % CHUNK] : NULL;
}

void slots_set(struct slots *s, uint64_t number, void *item)
{
	struct slots_chunk *c = chunk_of(s, number);

	assert(c && c->items[number % CHUNK]);
	c->items[number % CHUNK] = item;
	if (item)
		return;
	s->count--;
	if (--c->used == 0 && number / CHUNK < s->last / CHUNK) {
		s->chunks[number / CHUNK] = NULL;
		free(c);
	}
}

void *slots_next(const struct slots *s, uint64_t after, uint64_t *ret_number)
{
	for (uint64_t n = after + 1; n <= s->last && n > after;) {
		struct slots_chunk *c = chunk_of(s, n);

		if (!c) {
			n = (n / CHUNK + 1) * CHUNK;
			continue;
		}
		if (c->items[n % CHUNK]) {
			*ret_number = n;
			return c->items[n % CHUNK];
		}
		n++;
	}
	return NULL;
}

void slots_done(struct slots *s)
{
	for (size_t i = 0; i < s->nchunks; i++)
		free(s->chunks[i]);
	free(s->chunks);
	*s = (struct slots){0};
}
