/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which images there are. Three hash tables over one set of entries: by name, by slot, by id; they grow
 * together. A fourth list, in order of arrival with holes where images were removed, is what a listing
 * of rootfs/ walks: an entry's number in it (seq) is the position in the listing, and stays valid
 * whatever comes and goes.
 *
 * An entry lives while it is in the model, or is in use, or the kernel has references to it; see
 * table_open.c for the last two.
 */
#include "table_internal.h"

static uint64_t hash_name(const char *s)
{
	uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */

	for (; *s; s++)
		h = (h ^ (unsigned char)*s) * 0x100000001b3u;
	return h ^ h >> 32;
}

static uint64_t id_number(const char *id)
{
	return strtoull(id, NULL, 16);
}

static struct entry **name_bucket(struct table *t, const char *name)
{
	return &t->names[hash_name(name) % t->buckets];
}

static struct entry **slot_bucket(struct table *t, uint32_t slot)
{
	return &t->slots[slot % t->buckets];
}

static struct entry **id_bucket(struct table *t, uint64_t id)
{
	return &t->ids[id % t->buckets];
}

struct entry *table_find_name(struct table *t, const char *name)
{
	struct entry *e = *name_bucket(t, name);

	while (e && strcmp(e->name, name) != 0)
		e = e->by_name;
	return e;
}

struct entry *table_find_slot(struct table *t, uint32_t slot)
{
	struct entry *e = *slot_bucket(t, slot);

	while (e && e->slot != slot)
		e = e->by_slot;
	return e;
}

static struct entry *find_id(struct table *t, uint64_t id)
{
	struct entry *e = *id_bucket(t, id);

	while (e && e->id != id)
		e = e->by_id;
	return e;
}

#define CHAIN_REMOVE(head, item, next)                                                             \
	do {                                                                                       \
		struct entry **_p = (head);                                                        \
		while (*_p != (item))                                                              \
			_p = &(*_p)->next;                                                         \
		*_p = (item)->next;                                                                \
	} while (0)

static void link_all(struct table *t, struct entry *e)
{
	struct entry **b = slot_bucket(t, e->slot);

	e->by_slot = *b;
	*b = e;
	b = id_bucket(t, e->id);
	e->by_id = *b;
	*b = e;
}

static void link_name(struct table *t, struct entry *e)
{
	struct entry **b = name_bucket(t, e->name);

	e->by_name = *b;
	*b = e;
}

static int grow(struct table *t)
{
	size_t old = t->buckets, n = old ? old * 2 : 64;
	struct entry **names = calloc(n, sizeof(*names)), **slots = calloc(n, sizeof(*slots)),
		     **ids = calloc(n, sizeof(*ids)), **old_slots = t->slots;

	if (!names || !slots || !ids) {
		free(names);
		free(slots);
		free(ids);
		return -ENOMEM;
	}
	free(t->names);
	free(t->ids);
	t->names = names;
	t->slots = slots;
	t->ids = ids;
	t->buckets = n;
	for (size_t k = 0; k < old; k++) {
		for (struct entry *e = old_slots[k], *next; e; e = next) {
			next = e->by_slot;
			link_all(t, e);
			if (e->name)
				link_name(t, e);
		}
	}
	free(old_slots);
	return 0;
}

/* Room for one more in the order; holes go when they are the larger part. */
static int order_room(struct table *t)
{
	size_t n = 0;

	if (t->order_len < t->order_cap)
		return 0;
	if (t->order_holes > t->order_len / 2) {
		for (size_t k = 0; k < t->order_len; k++)
			if (t->order[k].e)
				t->order[n++] = t->order[k];
		t->order_len = n;
		t->order_holes = 0;
		return 0;
	}
	n = t->order_cap ? t->order_cap * 2 : 64;
	void *more = realloc(t->order, n * sizeof(*t->order));
	if (!more)
		return -ENOMEM;
	t->order = more;
	t->order_cap = n;
	return 0;
}

/* The first place in the order with a number above seq. */
static size_t order_after(const struct table *t, uint64_t seq)
{
	size_t lo = 0, hi = t->order_len;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (t->order[mid].seq <= seq)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static uint32_t choose_slot(struct table *t, uint64_t id)
{
	uint32_t slot = (uint32_t)(id >> 33);

	while (!slot || table_find_slot(t, slot))
		slot = (slot + 1) & 0x7fffffff;
	return slot;
}

static int entry_new(struct table *t, const char *id, struct entry **ret)
{
	struct entry *e;

	if ((t->entries >= t->buckets && grow(t) < 0) || order_room(t) < 0)
		return -ENOMEM;
	e = calloc(1, sizeof(*e));
	if (!e)
		return -ENOMEM;
	e->id = id_number(id);
	e->seq = ++t->next_seq;
	e->in_model = true;
	e->slot = choose_slot(t, e->id);
	link_all(t, e);
	t->order[t->order_len++] = (struct listed){e->seq, e};
	t->entries++;
	t->count++;
	*ret = e;
	return 0;
}

void table_entry_free(struct table *t, struct entry *e)
{
	CHAIN_REMOVE(slot_bucket(t, e->slot), e, by_slot);
	CHAIN_REMOVE(id_bucket(t, e->id), e, by_id);
	free(e->name);
	free(e);
	t->entries--;
}

/* Names that the kernel must forget once the lock is free again. */
struct stale {
	char **names;
	size_t n, cap;
};

static int stale_room(struct stale *s, size_t more)
{
	if (s->n + more <= s->cap)
		return 0;
	void *p = reallocarray(s->names, s->n + more + 16, sizeof(*s->names));
	if (!p)
		return -ENOMEM;
	s->names = p;
	s->cap = s->n + more + 16;
	return 0;
}

static void stale_tell(struct stale *s, table_stale_fn *fn, void *arg)
{
	for (size_t k = 0; k < s->n; k++) {
		fn(arg, s->names[k]);
		free(s->names[k]);
	}
	free(s->names);
}

/* Room in `stale` was made before. */
static void unname(struct table *t, struct entry *e, struct stale *stale)
{
	if (!e->name)
		return;
	CHAIN_REMOVE(name_bucket(t, e->name), e, by_name);
	stale->names[stale->n++] = TAKE_PTR(e->name);
}

static void remove_entry(struct table *t, struct entry *e, struct stale *stale)
{
	size_t at = order_after(t, e->seq - 1);

	unname(t, e, stale);
	t->order[at].e = NULL;
	t->order_holes++;
	e->in_model = false;
	t->count--;
	table_let_go(t, e);
}

/* An image has this name now, whoever had it before. */
static int name_entry(struct table *t, const struct table_change *c, struct stale *stale)
{
	struct entry *e = find_id(t, id_number(c->id)), *other = table_find_name(t, c->name);
	_cleanup_free_ char *name = NULL;
	int r;

	if (e && !e->in_model)
		return 0; /* ids are not used again: a deleted image does not come back */
	if (e && e == other) {
		e->epoch = t->epoch;
		return 0;
	}
	name = strdup(c->name);
	r = name ? stale_room(stale, 2) : -ENOMEM;
	if (r == 0 && !e)
		r = entry_new(t, c->id, &e);
	if (r < 0)
		return r;
	if (other)
		unname(t, other, stale);
	unname(t, e, stale);
	e->name = TAKE_PTR(name);
	e->epoch = t->epoch;
	link_name(t, e);
	return 1;
}

static int apply_one(struct table *t, const struct table_change *c, struct stale *stale)
{
	struct entry *e;
	int r;

	if (c->name)
		return name_entry(t, c, stale);
	e = find_id(t, id_number(c->id));
	if (!e || !e->in_model)
		return 0;
	r = stale_room(stale, 1);
	if (r < 0)
		return r;
	remove_entry(t, e, stale);
	return 1;
}

/* Later than the last one even when the clock is not. */
static void touch(struct table *t)
{
	int64_t now = banger_now_us();

	t->mtime_us = now > t->mtime_us ? now : t->mtime_us + 1;
}

int table_apply(
	struct table *t, const struct table_change *c, size_t n, table_stale_fn *fn, void *arg)
{
	struct stale stale = {0};
	int r = 0;

	pthread_mutex_lock(&t->lock);
	for (size_t k = 0; k < n && r >= 0; k++) {
		r = apply_one(t, &c[k], &stale);
		if (r > 0)
			touch(t);
	}
	pthread_mutex_unlock(&t->lock);
	stale_tell(&stale, fn, arg);
	return r < 0 ? r : 0;
}

void table_snapshot_begin(struct table *t)
{
	pthread_mutex_lock(&t->lock);
	t->epoch++;
	pthread_mutex_unlock(&t->lock);
}

int table_snapshot_end(struct table *t, table_stale_fn *fn, void *arg)
{
	struct stale stale = {0};
	int r = 0;

	pthread_mutex_lock(&t->lock);
	for (size_t k = 0; k < t->order_len && r == 0; k++) {
		struct entry *e = t->order[k].e;
		if (!e || e->epoch == t->epoch)
			continue;
		r = stale_room(&stale, 1);
		if (r == 0)
			remove_entry(t, e, &stale);
		touch(t);
	}
	pthread_mutex_unlock(&t->lock);
	stale_tell(&stale, fn, arg);
	return r;
}

struct timespec table_mtime(struct table *t)
{
	int64_t us;

	pthread_mutex_lock(&t->lock);
	us = t->mtime_us;
	pthread_mutex_unlock(&t->lock);
	return (struct timespec){us / 1000000, us % 1000000 * 1000};
}

size_t table_count(struct table *t)
{
	size_t n;

	pthread_mutex_lock(&t->lock);
	n = t->count;
	pthread_mutex_unlock(&t->lock);
	return n;
}

void table_list(struct table *t, uint64_t after, table_list_fn *fn, void *arg)
{
	pthread_mutex_lock(&t->lock);
	for (size_t k = order_after(t, after); k < t->order_len; k++) {
		const struct entry *e = t->order[k].e;
		if (e && e->name && fn(arg, e->name, e->slot, e->seq))
			break;
	}
	pthread_mutex_unlock(&t->lock);
}

int table_new(const struct table_options *o, struct table **ret)
{
	struct table *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->o = *o;
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->opened, NULL);
	touch(t);
	if (grow(t) < 0) {
		table_free(t);
		return -ENOMEM;
	}
	*ret = t;
	return 0;
}

void table_free(struct table *t)
{
	if (!t)
		return;
	for (size_t k = 0; k < t->buckets; k++)
		while (t->slots[k]) {
			table_close(t, t->slots[k]);
			table_entry_free(t, t->slots[k]);
		}
	free(t->names);
	free(t->slots);
	free(t->ids);
	free(t->order);
	pthread_cond_destroy(&t->opened);
	pthread_mutex_destroy(&t->lock);
	free(t);
}
