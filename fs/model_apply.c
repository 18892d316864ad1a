/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The read model's writer: events and snapshots.
 *
 * A batch of image changes becomes visible in one step, under one hold of the write lock: first
 * what the batch's images meant until now is taken out of the name index, then what they mean from
 * now on is put in, so names may be exchanged within a batch. Everything that can fail is done
 * before the first change. A name that an image outside the batch still holds (the daemon cannot
 * mean that) is taken from it: the newer word counts, and the next snapshot puts all right.
 */
#include <banger/log.h>
#include <string.h>
#include "model_internal.h"

#define PLACES_KEPT 8

static void tell_of(model_observer *tell, void *arg, enum model_change_kind kind,
	enum model_dir dir, const char *name)
{
	tell(arg, &(struct model_change){.kind = kind, .dir = dir, .name = name});
}

void model_touch(struct model *m, enum model_dir dir, model_observer *tell, void *arg)
{
	struct timespec now, *t = &m->changed[dir];

	clock_gettime(CLOCK_REALTIME, &now);
	if (now.tv_sec < t->tv_sec || (now.tv_sec == t->tv_sec && now.tv_nsec <= t->tv_nsec)) {
		now = *t;
		if (++now.tv_nsec == 1000000000L) {
			now.tv_sec++;
			now.tv_nsec = 0;
		}
	}
	*t = now;
	tell_of(tell, arg, CHANGE_DIR, dir, NULL);
}

/* ---- batches of images */

void model_batch_done(struct model_batch *b)
{
	for (size_t i = 0; i < b->nfresh; i++)
		free(b->fresh[i]);
	free(b->fresh);
	free(b->gone);
	*b = (struct model_batch){0};
}

int model_batch_add_gone(struct model_batch *b, uint64_t id)
{
	/* Powers of two, so that a snapshot without 100,000 images is not quadratic. */
	if ((b->ngone & (b->ngone - 1)) == 0) {
		uint64_t *g = reallocarray(b->gone, b->ngone ? 2 * b->ngone : 1, sizeof(*g));
		if (!g)
			return -ENOMEM;
		b->gone = g;
	}
	b->gone[b->ngone++] = id;
	return 0;
}

static int add_fresh(struct model_batch *b, const struct banger_image *image)
{
	if ((b->nfresh & (b->nfresh - 1)) == 0) {
		size_t n = b->nfresh ? 2 * b->nfresh : 1;
		struct model_image **f = reallocarray(b->fresh, n, sizeof(*f));
		if (!f)
			return -ENOMEM;
		b->fresh = f;
	}
	int r = model_image_pack(image, &b->fresh[b->nfresh]);
	b->nfresh += r == 0;
	return r;
}

int model_batch_add(struct model_batch *b, struct json_object *o, struct banger_error *err)
{
	_cleanup_image_ struct banger_image image = {0};
	const char *state = banger_json_str(o, "state");
	uint64_t id;
	int r;

	if (state && strcmp(state, "deleted") == 0) {
		if (model_id_parse(banger_json_str(o, "id"), &id) < 0)
			return banger_error_set(err, BANGER_BAD_REQUEST, "malformed image: \"id\"");
		return model_batch_add_gone(b, id) < 0 ? banger_error_oom(err) : 0;
	}
	r = banger_image_from_json(o, &image, err);
	if (r < 0)
		return r;
	return add_fresh(b, &image) < 0 ? banger_error_oom(err) : 0;
}

struct freed_place {
	const struct model_image *by;
	uint64_t place;
};

struct applying {
	struct model *m;
	model_observer *tell;
	void *arg;
	bool ours;
	bool touched[2];
	struct freed_place freed[PLACES_KEPT];
	size_t nfreed;
	struct model_image **retired; /* freed when all is done: freed[] still points at them */
	size_t nretired;
};

/* Take an image out of its directory. Its place is kept aside for the image that takes the name. */
static void unbind(struct applying *a, struct model_image *old)
{
	struct model *m = a->m;

	a->touched[old->row.state] = true;
	if (atomic_load(&old->known))
		tell_of(a->tell, a->arg, CHANGE_ENTRY, old->row.state, model_name(old));
	index_remove(&m->by_name, old);
	if (a->nfreed < PLACES_KEPT)
		a->freed[a->nfreed++] = (struct freed_place){old, old->place};
	else
		slots_set(&m->places[old->row.state], old->place, NULL);
}

static void remove_image(struct applying *a, struct model_image *old)
{
	unbind(a, old);
	index_remove(&a->m->by_id, old);
	slots_set(&a->m->images, old->number, NULL);
	a->retired[a->nretired++] = old;
}

/* The place that an unbound image of this batch had under the same name, 0 for none. */
static uint64_t take_place(struct applying *a, const struct model_image *fresh)
{
	for (size_t i = 0; i < a->nfreed; i++) {
		const struct model_image *by = a->freed[i].by;
		uint64_t place = a->freed[i].place;

		if (!place || by->row.state != fresh->row.state ||
			strcmp(model_name(by), model_name(fresh)) != 0)
			continue;
		a->freed[i].place = 0;
		return place;
	}
	return 0;
}

static bool same_binding(const struct model_image *a, const struct model_image *b)
{
	return a->row.state == b->row.state && strcmp(model_name(a), model_name(b)) == 0;
}

/* The successor of an image inherits its number and what readers noted about it. */
static void succeed(struct applying *a, struct model_image *old, struct model_image *fresh)
{
	struct model *m = a->m;

	fresh->number = old->number;
	fresh->life = old->life + (!a->ours && !same_binding(old, fresh));
	atomic_store(&fresh->known, atomic_load(&old->known));
	atomic_store(&fresh->writers, atomic_load(&old->writers));
	slots_set(&m->images, fresh->number, fresh);
	index_remove(&m->by_id, old);
	index_insert(&m->by_id, fresh);
	a->retired[a->nretired++] = old;
}

/* The first pass over an image of the batch: out with what it was, unless it keeps its name. */
static void take_out(struct applying *a, struct model_image *fresh)
{
	struct model *m = a->m;
	struct model_image *old = (struct model_image *)model_image_of_id(m, fresh->row.id);

	fresh->seen = m->snapshot;
	if (!old) {
		fresh->number = slots_add(&m->images, fresh);
		index_insert(&m->by_id, fresh);
		return;
	}
	if (same_binding(old, fresh)) {
		fresh->place = old->place;
		index_remove(&m->by_name, old);
		index_insert(&m->by_name, fresh);
		slots_set(&m->places[fresh->row.state], fresh->place, fresh);
	} else {
		unbind(a, old);
	}
	succeed(a, old, fresh);
}

/* The second pass: in with what it is now. */
static void put_in(struct applying *a, struct model_image *fresh)
{
	struct slots *places = &a->m->places[fresh->row.state];

	if (fresh->place)
		return;
	const struct model_image *other =
		model_image_named(a->m, fresh->row.state, model_name(fresh));
	if (other) {
		log_warn("two images claim one name", KV_S("name", model_name(fresh)));
		remove_image(a, (struct model_image *)other);
	}
	a->touched[fresh->row.state] = true;
	fresh->place = take_place(a, fresh);
	if (fresh->place)
		slots_set(places, fresh->place, fresh);
	else
		fresh->place = slots_add(places, fresh);
	index_insert(&a->m->by_name, fresh);
}

static int reserve(struct model *m, size_t n)
{
	if (slots_reserve(&m->images, n) < 0 || slots_reserve(&m->places[0], n) < 0 ||
		slots_reserve(&m->places[1], n) < 0 || index_reserve(&m->by_id, n) < 0 ||
		index_reserve(&m->by_name, n) < 0)
		return -ENOMEM;
	return 0;
}

static void finish(struct applying *a, size_t changes)
{
	for (size_t i = 0; i < a->nfreed; i++)
		if (a->freed[i].place)
			slots_set(
				&a->m->places[a->freed[i].by->row.state], a->freed[i].place, NULL);
	for (size_t i = 0; i < a->nretired; i++)
		free(a->retired[i]);
	for (int state = 0; state < 2; state++)
		if (a->touched[state])
			model_touch(a->m, state, a->tell, a->arg);
	if (changes > 0)
		model_touch(a->m, MODEL_BY_ID, a->tell, a->arg);
}

/* An id twice in one batch: the last word counts. */
static bool superseded(const struct model_batch *b, size_t at)
{
	/* Only small batches come from events; a snapshot's ids are told apart while it is read. */
	for (size_t i = at + 1; i < b->nfresh && b->nfresh <= PLACES_KEPT; i++)
		if (b->fresh[i]->row.id == b->fresh[at]->row.id)
			return true;
	return false;
}

int model_batch_apply(struct model *m, struct model_batch *b, model_observer *tell, void *arg)
{
	struct applying a = {.m = m, .tell = tell, .arg = arg, .ours = b->ours};
	_cleanup_free_ struct model_image **retired =
		calloc(2 * b->nfresh + b->ngone + 1, sizeof(*retired));

	if (!retired || reserve(m, b->nfresh + 1) < 0)
		return -ENOMEM;
	a.retired = retired;
	for (size_t i = 0; i < b->ngone; i++) {
		const struct model_image *old = model_image_of_id(m, b->gone[i]);
		if (old)
			remove_image(&a, (struct model_image *)old);
	}
	for (size_t i = 0; i < b->nfresh; i++) {
		if (superseded(b, i)) {
			free(b->fresh[i]);
			b->fresh[i] = NULL;
		} else {
			take_out(&a, b->fresh[i]);
		}
	}
	for (size_t i = 0; i < b->nfresh; i++)
		if (b->fresh[i])
			put_in(&a, b->fresh[i]);
	finish(&a, b->nfresh + b->ngone);
	b->nfresh = 0; /* they are the model's now */
	model_batch_done(b);
	return 0;
}

/* ---- kernels, VMs and operations */

void model_kernel_remove(
	struct model *m, const struct model_kernel *k, model_observer *tell, void *arg)
{
	if (atomic_load(&k->known))
		tell_of(tell, arg, CHANGE_ENTRY, MODEL_KERNELS, k->k.name);
	slots_set(&m->kernels, k->number, NULL);
	model_touch(m, MODEL_KERNELS, tell, arg);
	banger_kernel_done((struct banger_kernel *)&k->k);
	free((struct model_kernel *)k);
}

static const struct model_kernel *kernel_of_id(const struct model *m, const char *id)
{
	const struct model_kernel *k;
	uint64_t n = 0;

	while ((k = slots_next(&m->kernels, n, &n)))
		if (id && strcmp(k->k.id, id) == 0)
			return k;
	return NULL;
}

static int kernel_add(struct model *m, struct json_object *o, struct banger_error *err)
{
	_cleanup_free_ struct model_kernel *fresh = calloc(1, sizeof(*fresh));

	if (!fresh || slots_reserve(&m->kernels, 1) < 0)
		return banger_error_oom(err);
	int r = banger_kernel_from_json(o, &fresh->k, err);
	if (r < 0)
		return r;
	fresh->seen = m->snapshot;
	fresh->number = slots_add(&m->kernels, fresh);
	TAKE_PTR(fresh);
	return 0;
}

int model_kernel_put(struct model *m, struct json_object *o, model_observer *tell, void *arg,
	struct banger_error *err)
{
	const struct model_kernel *old = kernel_of_id(m, banger_json_str(o, "id"));
	const char *state = banger_json_str(o, "state");

	/* A kernel never changes; it comes and goes. */
	if (old && !(state && strcmp(state, "deleted") == 0)) {
		((struct model_kernel *)old)->seen = m->snapshot;
		return 0;
	}
	if (old)
		model_kernel_remove(m, old, tell, arg);
	if (state && strcmp(state, "deleted") == 0)
		return 0;
	int r = kernel_add(m, o, err);
	if (r == 0)
		model_touch(m, MODEL_KERNELS, tell, arg);
	return r;
}

void model_vm_remove(struct model *m, const struct model_vm *v, model_observer *tell, void *arg)
{
	if (atomic_load(&v->known))
		tell_of(tell, arg, CHANGE_ENTRY, MODEL_VMS, v->name);
	slots_set(&m->vms, v->number, NULL);
	model_touch(m, MODEL_VMS, tell, arg);
	free((struct model_vm *)v);
}

static struct model_vm *vm_of_id(const struct model *m, const char *id)
{
	struct model_vm *v;
	uint64_t n = 0;

	while ((v = slots_next(&m->vms, n, &n)))
		if (strcmp(v->id, id) == 0)
			return v;
	return NULL;
}

static int vm_pack(struct json_object *o, struct model_vm **ret, struct banger_error *err)
{
	const char *name = banger_json_str(o, "name"), *state = banger_json_str(o, "state"),
		   *created = banger_json_str(o, "created");
	const char *s = json_object_to_json_string_ext(o,
		JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED | JSON_C_TO_STRING_NOSLASHESCAPE);
	int64_t us;

	if (!banger_name_valid(name) || !state || !created || banger_time_parse(created, &us) < 0)
		return banger_error_set(err, BANGER_BAD_REQUEST, "malformed VM");
	struct model_vm *v = s ? calloc(1, sizeof(*v) + strlen(s) + 2) : NULL;
	if (!v)
		return banger_error_oom(err);
	strcpy(v->id, banger_json_str(o, "id"));
	strcpy(v->name, name);
	snprintf(v->state, sizeof(v->state), "%s", state);
	v->created_us = us;
	v->len = sprintf(v->text, "%s\n", s);
	*ret = v;
	return 0;
}

int model_vm_put(struct model *m, struct json_object *o, model_observer *tell, void *arg,
	struct banger_error *err)
{
	const char *id = banger_json_str(o, "id"), *state = banger_json_str(o, "state");
	struct model_vm *fresh = NULL;

	if (!banger_id_valid(id))
		return banger_error_set(err, BANGER_BAD_REQUEST, "malformed VM: \"id\"");
	struct model_vm *old = vm_of_id(m, id);
	if (state && strcmp(state, "removed") == 0) {
		if (old)
			model_vm_remove(m, old, tell, arg);
		return 0;
	}
	int r = vm_pack(o, &fresh, err);
	if (r < 0)
		return r;
	if (!old && slots_reserve(&m->vms, 1) < 0) {
		free(fresh);
		return banger_error_oom(err);
	}
	fresh->seen = m->snapshot;
	if (old) { /* a VM keeps its name */
		fresh->number = old->number;
		atomic_store(&fresh->known, atomic_load(&old->known));
		slots_set(&m->vms, fresh->number, fresh);
		free(old);
	} else {
		fresh->number = slots_add(&m->vms, fresh);
		model_touch(m, MODEL_VMS, tell, arg);
	}
	return 0;
}

static int op_pack(struct json_object *o, struct model_op **ret, struct banger_error *err)
{
	const char *op_id = banger_json_str(o, "op_id");
	struct banger_op_record r;

	/* Only what is a record is shown as one. */
	int e = banger_op_record_from_json(o, &r, err);
	if (e < 0)
		return e;
	const char *s = json_object_to_json_string_ext(o,
		JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED | JSON_C_TO_STRING_NOSLASHESCAPE);
	struct model_op *op = s ? malloc(sizeof(*op) + strlen(s) + 2) : NULL;
	if (!op)
		return banger_error_oom(err);
	op->op = strtoull(op_id + strlen("op-"), NULL, 16);
	op->started_us = r.started_us;
	op->of_vms = strncmp(r.method, "vm.", 3) == 0;
	op->len = sprintf(op->text, "%s\n", s);
	*ret = op;
	return 0;
}

static void op_remove(struct model *m, struct model_op *op)
{
	index_remove(&m->ops_by_id, op);
	slots_set(&m->ops, op->number, NULL);
	free(op);
}

int model_op_put(struct model *m, struct json_object *o, model_observer *tell, void *arg,
	struct banger_error *err)
{
	struct model_op *op, *oldest;
	uint64_t n;

	int r = op_pack(o, &op, err);
	if (r < 0)
		return r;
	if (slots_reserve(&m->ops, 1) < 0 || index_reserve(&m->ops_by_id, 1) < 0) {
		free(op);
		return banger_error_oom(err);
	}
	struct model_op *old = (struct model_op *)model_op_of_id(m, banger_json_str(o, "op_id"));
	if (old) {
		op->number = old->number;
		index_remove(&m->ops_by_id, old);
		slots_set(&m->ops, op->number, op);
		free(old);
	} else {
		op->number = slots_add(&m->ops, op);
		model_touch(m, MODEL_OPS, tell, arg);
	}
	index_insert(&m->ops_by_id, op);
	while (m->ops.count > m->ops_kept && (oldest = slots_next(&m->ops, 0, &n)))
		op_remove(m, oldest);
	return 0;
}

/* ---- events */

static int apply_images(struct model *m, struct json_object *event, bool ours, model_observer *tell,
	void *arg, struct banger_error *err)
{
	struct json_object *images = banger_json_get(event, "images");
	struct model_batch b = {.ours = ours};
	int r = 0;

	if (!json_object_is_type(images, json_type_array))
		return banger_error_set(err, BANGER_BAD_REQUEST, "an event without \"images\"");
	for (size_t i = 0; r == 0 && i < json_object_array_length(images); i++)
		r = model_batch_add(&b, json_object_array_get_idx(images, i), err);
	if (r == 0) {
		model_write(m);
		r = model_batch_apply(m, &b, tell, arg);
		model_unwrite(m);
		if (r < 0)
			banger_error_oom(err);
	}
	model_batch_done(&b);
	return r;
}

int model_apply(struct model *m, struct json_object *event, bool ours, model_observer *tell,
	void *arg, struct banger_error *err)
{
	const char *kind = banger_json_str(event, "event");
	int64_t generation = banger_json_int(event, "generation", -1);
	int r = 0;

	if (kind && strcmp(kind, "image") == 0) {
		r = apply_images(m, event, ours, tell, arg, err);
	} else if (kind && strcmp(kind, "kernel") == 0) {
		model_write(m);
		r = model_kernel_put(m, banger_json_get(event, "kernel"), tell, arg, err);
		model_unwrite(m);
	} else if (kind && strcmp(kind, "vm") == 0) {
		model_write(m);
		r = model_vm_put(m, banger_json_get(event, "vm"), tell, arg, err);
		model_unwrite(m);
	} else if (kind && strcmp(kind, "op") == 0) {
		model_write(m);
		r = model_op_put(m, banger_json_get(event, "op"), tell, arg, err);
		model_unwrite(m);
	}
	if (r == 0 && generation >= 0)
		model_set_generation(m, generation);
	return r;
}
