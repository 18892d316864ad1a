/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which images are open.
 *
 * An image may only be closed, and an entry that is out of the model only be freed, when it is not in
 * use and the kernel has no references to it; table_let_go() looks at both, under the lock, whenever one
 * of them may have become zero. References only grow while the image is in use.
 *
 * Opening happens outside the lock: the first user marks the entry, others wait for the mark to go. A
 * failed opening is not remembered.
 *
 * Every second or so a use of an image looks whether its file still is what was opened. Published
 * files do not change; one that did makes every cache wrong, so its image is refused from then on.
 */
#include <time.h>

#include "table_internal.h"

#define CHECK_US 1000000

static bool idle(const struct entry *e)
{
	return !e->users && !e->opening &&
	       (!e->open || atomic_load_explicit(&e->open->lookups, memory_order_acquire) == 0);
}

static void open_link(struct table *t, struct opened *o)
{
	o->next = t->open_head;
	if (t->open_head)
		t->open_head->prev = o;
	t->open_head = o;
	t->open_count++;
}

void table_close(struct table *t, struct entry *e)
{
	struct opened *o = TAKE_PTR(e->open);

	if (!o)
		return;
	if (o->prev)
		o->prev->next = o->next;
	else
		t->open_head = o->next;
	if (o->next)
		o->next->prev = o->prev;
	t->open_count--;
	ext4_image_close(o->pub.ext4);
	free(o);
}

void table_let_go(struct table *t, struct entry *e)
{
	if (!idle(e))
		return;
	if (!e->in_model) {
		table_close(t, e);
		table_entry_free(t, e);
	} else if (e->open && (t->open_count > t->o.max_open || e->open->evicting)) {
		table_close(t, e);
	}
}

/* Close the open image that was not used for longest and is needed by nobody. When all are needed,
 * *ret_evict is the name of one that the kernel could let go of, if it has one. */
static void make_room(struct table *t, char **ret_evict)
{
	struct opened *oldest = NULL, *held = NULL;

	for (struct opened *o = t->open_head; o; o = o->next) {
		if (idle(o->e)) {
			if (!oldest || o->last_use < oldest->last_use)
				oldest = o;
		} else if (!o->e->users && o->e->name && !o->evicting) {
			if (!held || o->last_use < held->last_use)
				held = o;
		}
	}
	if (oldest)
		table_close(t, oldest->e);
	else if (held && (*ret_evict = strdup(held->e->name)))
		held->evicting = true;
}

static int open_ext4(struct table *t, const char *id, struct ext4_image **ret)
{
	struct banger_error err = {0};
	int fd = t->o.open(t->o.arg, id), r;

	if (fd < 0) {
		log_warn("image cannot be opened", KV_S("image", id),
			KV_S("error", strerrordesc_np(-fd)));
		return fd == -ENFILE || fd == -EMFILE ? -ENFILE : -EIO;
	}
	r = ext4_image_open(fd, ret, &err);
	if (r < 0)
		log_warn("image cannot be shown", KV_S("image", id), KV_ERR(&err));
	if (err.code == BANGER_UNSUPPORTED)
		return -EOPNOTSUPP;
	return r == 0 || r == -ENOMEM ? r : err.code == BANGER_CORRUPT ? -EUCLEAN : -EIO;
}

static int open_new(struct table *t, struct entry *e, struct opened **ret)
{
	struct opened *o = calloc(1, sizeof(*o));
	int r;

	if (!o)
		return -ENOMEM;
	(void)snprintf(o->id, sizeof(o->id), "%016llx", (unsigned long long)e->id);
	r = open_ext4(t, o->id, &o->pub.ext4);
	if (r < 0) {
		free(o);
		return r;
	}
	o->e = e;
	o->pub.slot = e->slot;
	o->pub.id = o->id;
	o->pub.has_acl = o->pub.has_label = -1;
	o->checked_us = banger_monotonic_us();
	*ret = o;
	return 0;
}

/* Called with the lock held and the entry counted as in use; returns so. */
static int open_locked(struct table *t, struct entry *e)
{
	_cleanup_free_ char *evict = NULL;
	struct opened *o = NULL;
	int r;

	if (t->o.slow)
		t->o.slow(t->o.arg);
	while (e->opening)
		pthread_cond_wait(&t->opened, &t->lock);
	if (e->open)
		return 0;
	e->opening = true;
	if (t->open_count >= t->o.max_open)
		make_room(t, &evict);
	pthread_mutex_unlock(&t->lock);
	r = open_new(t, e, &o);
	if (evict)
		t->o.evict(t->o.arg, evict);
	pthread_mutex_lock(&t->lock);
	e->opening = false;
	if (r == 0) {
		e->open = o;
		open_link(t, o);
	}
	pthread_cond_broadcast(&t->opened);
	return r;
}

/* Is the file still the one that was opened? Looked at now and then. */
static bool still_same(struct opened *o)
{
	struct timespec now;
	int64_t us, last = atomic_load_explicit(&o->checked_us, memory_order_relaxed);

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	us = now.tv_sec * 1000000 + now.tv_nsec / 1000;
	if (us - last < CHECK_US || !atomic_compare_exchange_strong(&o->checked_us, &last, us))
		return true;
	return ext4_image_unchanged(o->pub.ext4);
}

static int check(struct entry *e)
{
	if (!e->changed && !still_same(e->open)) {
		e->changed = true;
		log_err("a published image has changed on disk and is not shown any more",
			KV_S("image", e->open->id));
	}
	return e->changed ? -EIO : 0;
}

static int use(struct table *t, struct entry *e, struct image **ret)
{
	int r = 0;

	e->users++;
	if (!e->open)
		r = open_locked(t, e);
	if (r == 0)
		r = check(e);
	if (r < 0) {
		e->users--;
		table_let_go(t, e);
		return r;
	}
	e->open->last_use = ++t->uses;
	*ret = &e->open->pub;
	return 0;
}

int table_get_name(struct table *t, const char *name, struct image **ret)
{
	int r = -ENOENT;

	pthread_mutex_lock(&t->lock);
	struct entry *e = table_find_name(t, name);
	if (e) {
		if (e->open)
			e->open->evicting = false;
		r = use(t, e, ret);
	}
	pthread_mutex_unlock(&t->lock);
	return r;
}

int table_get_slot(struct table *t, uint32_t slot, struct image **ret)
{
	int r = -ESTALE;

	pthread_mutex_lock(&t->lock);
	struct entry *e = table_find_slot(t, slot);
	if (e)
		r = use(t, e, ret);
	pthread_mutex_unlock(&t->lock);
	return r;
}

struct image *table_get_unwanted(struct table *t, uint32_t after)
{
	struct opened *best = NULL;

	pthread_mutex_lock(&t->lock);
	for (struct opened *o = t->open_head; o; o = o->next)
		if ((!o->e->in_model || o->evicting) && o->pub.slot > after &&
			(!best || o->pub.slot < best->pub.slot))
			best = o;
	if (best)
		best->e->users++;
	pthread_mutex_unlock(&t->lock);
	return best ? &best->pub : NULL;
}

void table_put(struct table *t, struct image *i)
{
	struct entry *e = ((struct opened *)i)->e; /* it begins with the image */

	pthread_mutex_lock(&t->lock);
	e->users--;
	table_let_go(t, e);
	pthread_mutex_unlock(&t->lock);
}

void table_referenced(struct image *i, uint64_t n)
{
	atomic_fetch_add(&((struct opened *)i)->lookups, n);
}

void table_forget(struct table *t, uint32_t slot, uint64_t n)
{
	pthread_mutex_lock(&t->lock);
	struct entry *e = table_find_slot(t, slot);
	if (e && e->open) {
		uint64_t had = atomic_load(&e->open->lookups);
		atomic_fetch_sub(&e->open->lookups, n < had ? n : had);
		table_let_go(t, e);
	}
	pthread_mutex_unlock(&t->lock);
}
