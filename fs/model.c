/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The read model's readers and its locks.
 *
 * A read-write lock that prefers the writer guards the tables; a mutex of its own guards the
 * generation and those who wait for it, so that waiting for a change and making it do not need the
 * same lock. 100,000 images take some 25 MB: rows are packed, strings share one allocation with
 * their row, and the indexes hold pointers.
 */
#include <banger/log.h>
#include <string.h>
#include "model_internal.h"

static uint64_t hash_image_id(const void *item)
{
	const struct model_image *i = item;
	return index_hash_number(i->row.id);
}

static uint64_t hash_image_name(const void *item)
{
	const struct model_image *i = item;
	return index_hash_text(model_name(i), i->row.state);
}

static uint64_t hash_op(const void *item)
{
	const struct model_op *o = item;
	return index_hash_number(o->op);
}

int model_new(struct model **ret)
{
	struct model *m = calloc(1, sizeof(*m));
	pthread_rwlockattr_t a;
	pthread_condattr_t c;

	if (!m)
		return -ENOMEM;
	pthread_rwlockattr_init(&a);
	/* Many threads that list must not keep a change from being seen. */
	pthread_rwlockattr_setkind_np(&a, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&m->lock, &a);
	pthread_rwlockattr_destroy(&a);
	pthread_mutex_init(&m->wait_lock, NULL);
	pthread_condattr_init(&c);
	pthread_condattr_setclock(&c, CLOCK_MONOTONIC);
	pthread_cond_init(&m->wait_cond, &c);
	pthread_condattr_destroy(&c);
	m->ops_kept = MODEL_OPS_KEPT;
	m->by_id.hash = hash_image_id;
	m->by_name.hash = hash_image_name;
	m->ops_by_id.hash = hash_op;
	for (int i = 0; i < MODEL_DIRS; i++)
		clock_gettime(CLOCK_REALTIME, &m->changed[i]);
	*ret = m;
	return 0;
}

void model_freep(struct model **p)
{
	struct model *m = *p;
	uint64_t n = 0;
	void *item;

	if (!m)
		return;
	while ((item = slots_next(&m->images, n, &n)))
		free(item);
	for (n = 0; (item = slots_next(&m->ops, n, &n));)
		free(item);
	for (n = 0; (item = slots_next(&m->vms, n, &n));)
		free(item);
	for (n = 0; (item = slots_next(&m->kernels, n, &n)); free(item))
		banger_kernel_done(&((struct model_kernel *)item)->k);
	slots_done(&m->images);
	slots_done(&m->ops);
	slots_done(&m->kernels);
	slots_done(&m->vms);
	for (size_t i = 0; i < ELEMENTSOF(m->places); i++)
		slots_done(&m->places[i]);
	index_done(&m->by_id);
	index_done(&m->by_name);
	index_done(&m->ops_by_id);
	pthread_rwlock_destroy(&m->lock);
	pthread_cond_destroy(&m->wait_cond);
	pthread_mutex_destroy(&m->wait_lock);
	free(m);
	*p = NULL;
}

void model_read(struct model *m)
{
	pthread_rwlock_rdlock(&m->lock);
}

void model_unread(struct model *m)
{
	pthread_rwlock_unlock(&m->lock);
}

void model_write(struct model *m)
{
	pthread_rwlock_wrlock(&m->lock);
}

void model_unwrite(struct model *m)
{
	pthread_rwlock_unlock(&m->lock);
}

/* ---- finding */

const struct model_image *model_image(const struct model *m, uint64_t number)
{
	return slots_get(&m->images, number);
}

struct image_name {
	enum banger_image_state state;
	const char *name;
};

static bool is_named(const void *item, const void *key)
{
	const struct model_image *i = item;
	const struct image_name *n = key;
	return i->row.state == n->state && strcmp(model_name(i), n->name) == 0;
}

const struct model_image *model_image_named(
	const struct model *m, enum banger_image_state state, const char *name)
{
	struct image_name key = {state, name};
	return index_find(&m->by_name, index_hash_text(name, state), is_named, &key);
}

static bool has_id(const void *item, const void *key)
{
	const struct model_image *i = item;
	return i->row.id == *(const uint64_t *)key;
}

const struct model_image *model_image_of_id(const struct model *m, uint64_t id)
{
	return index_find(&m->by_id, index_hash_number(id), has_id, &id);
}

const struct model_kernel *model_kernel(const struct model *m, uint64_t number)
{
	return slots_get(&m->kernels, number);
}

const struct model_kernel *model_kernel_named(const struct model *m, const char *name)
{
	const struct model_kernel *k;
	uint64_t n = 0;

	/* There are a handful. */
	while ((k = slots_next(&m->kernels, n, &n)))
		if (strcmp(k->k.name, name) == 0)
			return k;
	return NULL;
}

const struct model_vm *model_vm(const struct model *m, uint64_t number)
{
	return slots_get(&m->vms, number);
}

const struct model_vm *model_vm_named(const struct model *m, const char *name)
{
	const struct model_vm *v;
	uint64_t n = 0;

	while ((v = slots_next(&m->vms, n, &n)))
		if (strcmp(v->name, name) == 0)
			return v;
	return NULL;
}

const struct model_op *model_op(const struct model *m, uint64_t number)
{
	return slots_get(&m->ops, number);
}

static bool has_op(const void *item, const void *key)
{
	const struct model_op *o = item;
	return o->op == *(const uint64_t *)key;
}

const struct model_op *model_op_of_id(const struct model *m, const char *op_id)
{
	if (!banger_op_id_valid(op_id))
		return NULL;
	uint64_t op = strtoull(op_id + 3, NULL, 16);

	return index_find(&m->ops_by_id, index_hash_number(op), has_op, &op);
}

static const struct slots *slots_of(const struct model *m, enum model_dir dir)
{
	switch (dir) {
	case MODEL_DRAFTS:
	case MODEL_IMAGES:
		return &m->places[dir];
	case MODEL_BY_ID:
		return &m->images;
	case MODEL_KERNELS:
		return &m->kernels;
	case MODEL_VMS:
		return &m->vms;
	default:
		return &m->ops;
	}
}

const void *model_next(
	const struct model *m, enum model_dir dir, uint64_t after, uint64_t *ret_place)
{
	return slots_next(slots_of(m, dir), after, ret_place);
}

size_t model_count(const struct model *m, enum model_dir dir)
{
	return slots_of(m, dir)->count;
}

struct timespec model_changed(const struct model *m, enum model_dir dir)
{
	return m->changed[dir];
}

/* ---- marks that readers leave */

void model_mark_known(const struct model_image *i)
{
	atomic_bool *known = (atomic_bool *)&i->known;

	if (!atomic_load_explicit(known, memory_order_relaxed))
		atomic_store_explicit(known, true, memory_order_relaxed);
}

void model_mark_kernel_known(const struct model_kernel *k)
{
	atomic_store_explicit((atomic_bool *)&k->known, true, memory_order_relaxed);
}

void model_mark_vm_known(const struct model_vm *v)
{
	atomic_store_explicit((atomic_bool *)&v->known, true, memory_order_relaxed);
}

void model_writer(struct model *m, uint64_t number, int delta)
{
	{
		MODEL_READ(m);
		struct model_image *i = slots_get(&m->images, number);

		if (!i)
			return;
		atomic_fetch_add(&i->writers, delta);
	}
	if (delta < 0) {
		pthread_mutex_lock(&m->wait_lock);
		pthread_cond_broadcast(&m->wait_cond);
		pthread_mutex_unlock(&m->wait_lock);
	}
}

static bool has_writers(struct model *m, uint64_t number)
{
	MODEL_READ(m);
	struct model_image *i = slots_get(&m->images, number);

	return i && atomic_load(&i->writers) > 0;
}

static struct timespec deadline_after(int ms)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_sec += ms / 1000;
	t.tv_nsec += (ms % 1000) * 1000000L;
	if (t.tv_nsec >= 1000000000L) {
		t.tv_sec++;
		t.tv_nsec -= 1000000000L;
	}
	return t;
}

void model_wait_writers(struct model *m, uint64_t number, int timeout_ms)
{
	struct timespec until = deadline_after(timeout_ms);

	if (!has_writers(m, number))
		return;
	pthread_mutex_lock(&m->wait_lock);
	while (has_writers(m, number))
		if (pthread_cond_timedwait(&m->wait_cond, &m->wait_lock, &until) != 0)
			break;
	pthread_mutex_unlock(&m->wait_lock);
}

/* ---- generations */

int64_t model_generation(struct model *m)
{
	pthread_mutex_lock(&m->wait_lock);
	int64_t g = m->generation;
	pthread_mutex_unlock(&m->wait_lock);
	return g;
}

void model_set_generation(struct model *m, int64_t generation)
{
	pthread_mutex_lock(&m->wait_lock);
	m->generation = generation;
	pthread_mutex_unlock(&m->wait_lock);
	pthread_cond_broadcast(&m->wait_cond);
}

int model_wait(struct model *m, int64_t generation, int timeout_ms)
{
	struct timespec until = deadline_after(timeout_ms);
	int e = 0;

	pthread_mutex_lock(&m->wait_lock);
	while (e == 0 && m->generation < generation)
		e = pthread_cond_timedwait(&m->wait_cond, &m->wait_lock, &until);
	pthread_mutex_unlock(&m->wait_lock);
	return -e;
}
