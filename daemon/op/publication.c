/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The publication lock and what is known of its holder. The holder is noted under a second mutex
 * that is never held for longer than a copy, so `status` can tell of a holder that is stuck without
 * waiting for it.
 */
#include "op/publication.h"
#include <banger/log.h>
#include <pthread.h>
#include <string.h>

struct publication_lock {
	pthread_mutex_t lock, note;
	/* By note. */
	bool held;
	int64_t since_us, longest_us;
	banger_op_id op_id, longest_op;
};

int publication_lock_new(struct publication_lock **ret)
{
	struct publication_lock *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	pthread_mutex_init(&p->lock, NULL);
	pthread_mutex_init(&p->note, NULL);
	*ret = p;
	return 0;
}

void publication_lock_freep(struct publication_lock **p)
{
	if (!*p)
		return;
	pthread_mutex_destroy(&(*p)->lock);
	pthread_mutex_destroy(&(*p)->note);
	free(*p);
	*p = NULL;
}

void publication_acquire(struct publication_lock *p)
{
	const char *op = banger_op_current();

	pthread_mutex_lock(&p->lock);
	pthread_mutex_lock(&p->note);
	p->held = true;
	p->since_us = banger_monotonic_us();
	snprintf(p->op_id.s, sizeof(p->op_id.s), "%s", op ? op : "");
	pthread_mutex_unlock(&p->note);
}

void publication_release(struct publication_lock *p)
{
	pthread_mutex_lock(&p->note);
	int64_t us = banger_monotonic_us() - p->since_us;
	if (us > p->longest_us) {
		p->longest_us = us;
		p->longest_op = p->op_id;
	}
	p->held = false;
	p->op_id.s[0] = '\0';
	pthread_mutex_unlock(&p->note);
	pthread_mutex_unlock(&p->lock);
}

struct publication_lock *publication_enter(struct publication_lock *p)
{
	publication_acquire(p);
	return p;
}

void publication_leavep(struct publication_lock **p)
{
	if (*p)
		publication_release(*p);
	*p = NULL;
}

void publication_holder(struct publication_lock *p, struct publication_holder *ret)
{
	pthread_mutex_lock(&p->note);
	*ret = (struct publication_holder){.held = p->held,
		.op_id = p->op_id,
		.held_us = p->held ? banger_monotonic_us() - p->since_us : 0,
		.longest_us = p->longest_us,
		.longest_op = p->longest_op};
	pthread_mutex_unlock(&p->note);
}
