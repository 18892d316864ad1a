/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A walk is WALK listings of which each began within ROW_US of the one before. A file that is looked
 * up in a lean listing makes all listings full for FULL_US: programs that look at files keep on
 * doing so, and are seen again when the time is over, at the price of one directory. Files that were
 * never listed are looked up all the time and mean nothing.
 *
 * The directories with lean listings are a hash set of node numbers (never 0) with open addressing,
 * at most half full; when it is, listings are full ones. What the kernel has forgotten by itself stays
 * in it, which does no harm.
 */
#include <banger/log.h>
#include <pthread.h>
#include <stdlib.h>

#include "lean.h"

#define WALK 4
#define ROW_US 50000
#define FULL_US 2000000
#define SLOTS 65536u /* a power of two */

struct lean {
	pthread_mutex_t lock;
	int64_t last_us, full_until_us;
	unsigned row;
	size_t n;
	uint64_t *set;
};

struct lean *lean_new(void)
{
	struct lean *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->set = calloc(SLOTS, sizeof(*l->set));
	if (!l->set) {
		free(l);
		return NULL;
	}
	pthread_mutex_init(&l->lock, NULL);
	return l;
}

void lean_free(struct lean *l)
{
	if (!l)
		return;
	pthread_mutex_destroy(&l->lock);
	free(l->set);
	free(l);
}

/* Where node is, or where it would be. */
static uint64_t *place(const struct lean *l, uint64_t node)
{
	size_t k = (size_t)(node * 0x9e3779b97f4a7c15ull >> 32) % SLOTS;

	while (l->set[k] && l->set[k] != node)
		k = (k + 1) % SLOTS;
	return &l->set[k];
}

bool lean_listing(struct lean *l, bool start)
{
	int64_t now = banger_monotonic_us();

	pthread_mutex_lock(&l->lock);
	if (start) {
		if (now - l->last_us > ROW_US)
			l->row = 0;
		if (l->row <= WALK)
			l->row++;
		l->last_us = now;
	}
	bool lean = l->row > WALK && now >= l->full_until_us && l->n < SLOTS / 2;
	pthread_mutex_unlock(&l->lock);
	return lean;
}

void lean_listed(struct lean *l, uint64_t node)
{
	pthread_mutex_lock(&l->lock);
	uint64_t *p = place(l, node);
	if (!*p && l->n < SLOTS / 2) {
		*p = node;
		l->n++;
	}
	pthread_mutex_unlock(&l->lock);
}

bool lean_looked(struct lean *l, uint64_t node)
{
	pthread_mutex_lock(&l->lock);
	bool lean = l->n && *place(l, node);
	if (lean)
		l->full_until_us = banger_monotonic_us() + FULL_US;
	pthread_mutex_unlock(&l->lock);
	return lean;
}

uint64_t *lean_take(struct lean *l, size_t *ret_n)
{
	uint64_t *empty = calloc(SLOTS, sizeof(*empty)), *full;
	size_t n = 0;

	if (!empty)
		return NULL;
	pthread_mutex_lock(&l->lock);
	full = l->set;
	l->set = empty;
	l->n = 0;
	pthread_mutex_unlock(&l->lock);
	for (size_t k = 0; k < SLOTS; k++)
		if (full[k])
			full[n++] = full[k];
	if (!n) {
		free(full);
		return NULL;
	}
	*ret_n = n;
	return full;
}
