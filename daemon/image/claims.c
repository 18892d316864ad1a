/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A list of what is held now: a handful of entries (one for each request that is running at most),
 * so a search through it is shorter than any table would be, and nothing is ever allocated.
 *
 * A claim is entered before it waits for sharers, so that new ones are refused meanwhile and the
 * wait cannot be drawn out.
 */
#include <pthread.h>
#include <string.h>
#include <time.h>
#include "image/claims.h"

struct claims {
	pthread_mutex_t mutex;
	pthread_cond_t dropped;
	struct claim *first;
};

int claims_new(struct claims **ret)
{
	pthread_condattr_t attr;
	struct claims *c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	pthread_mutex_init(&c->mutex, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&c->dropped, &attr);
	pthread_condattr_destroy(&attr);
	*ret = c;
	return 0;
}

void claims_freep(struct claims **c)
{
	if (!*c)
		return;
	pthread_mutex_destroy(&(*c)->mutex);
	pthread_cond_destroy(&(*c)->dropped);
	free(*c);
}

static const struct claim *find(const struct claims *c, const char *id, bool exclusive)
{
	for (const struct claim *e = c->first; e; e = e->next)
		if (e->exclusive == exclusive && !strcmp(e->id, id))
			return e;
	return NULL;
}

static int busy(const struct claim *held, struct banger_error *err)
{
	return banger_error_set(err, BANGER_BUSY, "image \"%s\" is being %s by %s", held->name,
		held->verb, held->op_id.s);
}

/* Both need the mutex. */
static void enter(struct claims *c, struct claim *claim)
{
	claim->set = c;
	claim->prev = NULL;
	claim->next = c->first;
	if (c->first)
		c->first->prev = claim;
	c->first = claim;
}

static void leave(struct claims *c, struct claim *claim)
{
	if (claim->prev)
		claim->prev->next = claim->next;
	else
		c->first = claim->next;
	if (claim->next)
		claim->next->prev = claim->prev;
	claim->set = NULL;
	pthread_cond_broadcast(&c->dropped);
}

int claims_share(struct claims *c, struct claim *claim, const char *id, struct banger_error *err)
{
	int r = 0;

	pthread_mutex_lock(&c->mutex);
	const struct claim *held = find(c, id, true);
	if (held) {
		r = busy(held, err);
	} else {
		snprintf(claim->id, sizeof(claim->id), "%s", id);
		claim->exclusive = false;
		enter(c, claim);
	}
	pthread_mutex_unlock(&c->mutex);
	return r;
}

static int wait_alone(struct claims *c, const struct claim *claim, int64_t wait_ms)
{
	struct timespec until;
	int r = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += wait_ms / 1000;
	until.tv_nsec += wait_ms % 1000 * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	while (r == 0 && find(c, claim->id, false))
		r = pthread_cond_timedwait(&c->dropped, &c->mutex, &until);
	return find(c, claim->id, false) ? -EBUSY : 0;
}

int claims_take(struct claims *c, struct claim *claim, const char *id, const char *name,
	const char *verb, int64_t wait_ms, struct banger_error *err)
{
	const char *op_id = banger_op_current();
	int r;

	pthread_mutex_lock(&c->mutex);
	const struct claim *held = find(c, id, true);
	if (held) {
		r = busy(held, err);
	} else {
		snprintf(claim->id, sizeof(claim->id), "%s", id);
		snprintf(claim->name, sizeof(claim->name), "%s", name);
		snprintf(
			claim->op_id.s, sizeof(claim->op_id.s), "%s", op_id ? op_id : "the daemon");
		claim->verb = verb;
		claim->exclusive = true;
		enter(c, claim);
		r = wait_alone(c, claim, wait_ms);
		if (r < 0)
			leave(c, claim);
	}
	pthread_mutex_unlock(&c->mutex);
	if (r < 0 && !held)
		banger_error_set(
			err, BANGER_BUSY, "the files of image \"%s\" are being changed", name);
	return r;
}

int claims_check(struct claims *c, const char *id, struct banger_error *err)
{
	pthread_mutex_lock(&c->mutex);
	const struct claim *held = find(c, id, true);
	int r = held ? busy(held, err) : 0;
	pthread_mutex_unlock(&c->mutex);
	return r;
}

void claim_drop(struct claim *claim)
{
	struct claims *c = claim->set;
	if (!c)
		return;
	pthread_mutex_lock(&c->mutex);
	leave(c, claim);
	pthread_mutex_unlock(&c->mutex);
}
