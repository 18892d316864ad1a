/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counters that only grow: pieces `made` by the producer, `done` by each consumer. The buffer at
 * made % n is the producer's as long as no consumer is n behind; what is between done[c] and made
 * is consumer c's. All under one lock, which nobody holds while working on a buffer.
 */
#include "unpack/stream/ring.h"

#include <pthread.h>
#include <stdlib.h>

#define ALIGN 4096u

struct ring {
	pthread_mutex_t lock;
	pthread_cond_t more, less;
	unsigned n, consumers;
	uint64_t made, done[RING_CONSUMERS];
	bool stop, ended;
	int result; /* once ended */
	struct banger_error error;
	struct piece pieces[];
};

struct ring *ring_new(unsigned n, size_t size, unsigned consumers)
{
	_cleanup_ring_ struct ring *r = calloc(1, sizeof(*r) + n * sizeof(struct piece));

	if (!r)
		return NULL;
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->more, NULL);
	pthread_cond_init(&r->less, NULL);
	r->n = n;
	r->consumers = consumers;
	for (unsigned i = 0; i < n; i++)
		if (posix_memalign((void **)&r->pieces[i].data, ALIGN, size) != 0) {
			r->pieces[i].data = NULL;
			return NULL;
		}
	return TAKE_PTR(r);
}

void ring_freep(struct ring **pr)
{
	struct ring *r = TAKE_PTR(*pr);

	if (!r)
		return;
	for (unsigned i = 0; i < r->n; i++)
		free(r->pieces[i].data);
	pthread_cond_destroy(&r->more);
	pthread_cond_destroy(&r->less);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

static uint64_t slowest(const struct ring *r)
{
	uint64_t least = r->done[0];

	for (unsigned c = 1; c < r->consumers; c++)
		if (r->done[c] < least)
			least = r->done[c];
	return least;
}

struct piece *ring_fill(struct ring *r)
{
	pthread_mutex_lock(&r->lock);
	while (r->made - slowest(r) == r->n && !r->stop)
		pthread_cond_wait(&r->less, &r->lock);
	struct piece *p = r->stop ? NULL : &r->pieces[r->made % r->n];
	pthread_mutex_unlock(&r->lock);
	return p;
}

void ring_filled(struct ring *r)
{
	pthread_mutex_lock(&r->lock);
	r->made++;
	pthread_cond_broadcast(&r->more);
	pthread_mutex_unlock(&r->lock);
}

void ring_end(struct ring *r, int result, const struct banger_error *error)
{
	pthread_mutex_lock(&r->lock);
	r->ended = true;
	r->result = result;
	if (result < 0)
		r->error = *error;
	pthread_cond_broadcast(&r->more);
	pthread_mutex_unlock(&r->lock);
}

struct piece *ring_take(struct ring *r, unsigned consumer, int *ret, struct banger_error *ret_error)
{
	struct piece *p = NULL;

	pthread_mutex_lock(&r->lock);
	while (r->made == r->done[consumer] && !r->ended && !r->stop)
		pthread_cond_wait(&r->more, &r->lock);
	if (r->stop)
		*ret = -ECANCELED;
	else if (r->made != r->done[consumer])
		p = &r->pieces[r->done[consumer] % r->n];
	else if ((*ret = r->result) < 0)
		*ret_error = r->error;
	pthread_mutex_unlock(&r->lock);
	return p;
}

void ring_done(struct ring *r, unsigned consumer)
{
	pthread_mutex_lock(&r->lock);
	uint64_t before = slowest(r);
	r->done[consumer]++;
	if (slowest(r) != before)
		pthread_cond_signal(&r->less);
	pthread_mutex_unlock(&r->lock);
}

void ring_stop(struct ring *r)
{
	pthread_mutex_lock(&r->lock);
	r->stop = true;
	pthread_cond_broadcast(&r->more);
	pthread_cond_broadcast(&r->less);
	pthread_mutex_unlock(&r->lock);
}
