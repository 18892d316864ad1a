/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The publication lock: held only across "recheck that the name is free, rename the artifact
 * directory, upsert into the store, publish the event". Everything slow is before it, everything lazy
 * after it. It is the outermost lock but one: while it is held only the store's and the hub's locks
 * may be taken, and the list of digests that are to come (image/digester.h). It remembers its holder for `status`.
 */
#ifndef BANGER_PUBLICATION_H
#define BANGER_PUBLICATION_H

#include <stdbool.h>
#include <banger/op.h>

struct publication_lock;
int publication_lock_new(struct publication_lock **ret);
void publication_lock_freep(struct publication_lock **p);

void publication_acquire(struct publication_lock *p); /* notes the calling thread's op_id */
void publication_release(struct publication_lock *p);

/* Scope form: _cleanup_(publication_leavep) struct publication_lock *held = publication_enter(p); */
struct publication_lock *publication_enter(struct publication_lock *p);
void publication_leavep(struct publication_lock **p); /* accepts NULL */

struct publication_holder {
	bool held;
	banger_op_id op_id;
	int64_t held_us;	/* by the present holder */
	int64_t longest_us;	/* since the start */
	banger_op_id longest_op;
};
/* Does not wait for the lock. */
void publication_holder(struct publication_lock *p, struct publication_holder *ret);

#endif
