/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A snapshot becomes the model.
 *
 * Documents come in pieces while the old model still answers. An image that the model has already,
 * byte for byte, is only marked as seen; the others wait in a batch. The commit removes what was
 * not seen and applies the batch in one step. So the first snapshot costs no more memory than the
 * model it becomes, and the one after a short absence of the daemon costs almost nothing and tells
 * the kernel almost nothing.
 */
#include <malloc.h>
#include <string.h>
#include "model_internal.h"

struct model_snapshot {
	struct model *m;
	struct model_batch batch; /* images that the model has not, or has otherwise */
	struct json_object *kernels, *vms, *ops;
	struct index ids; /* of batch.fresh, while it is collected */
};

static uint64_t hash_fresh(const void *item)
{
	return index_hash_number(((const struct model_image *)item)->row.id);
}

int model_snapshot_new(struct model *m, struct model_snapshot **ret)
{
	struct model_snapshot *s = calloc(1, sizeof(*s));

	if (!s || !(s->kernels = json_object_new_array()) || !(s->vms = json_object_new_array()) ||
		!(s->ops = json_object_new_array())) {
		model_snapshot_freep(&s);
		return -ENOMEM;
	}
	s->m = m;
	s->ids.hash = hash_fresh;
	m->snapshot++;
	*ret = s;
	return 0;
}

void model_snapshot_freep(struct model_snapshot **p)
{
	struct model_snapshot *s = *p;

	if (!s)
		return;
	model_batch_done(&s->batch);
	json_object_put(s->kernels);
	json_object_put(s->vms);
	json_object_put(s->ops);
	index_done(&s->ids);
	free(s);
	*p = NULL;
}

static bool same_row(const struct model_image *a, const struct model_image *b)
{
	return memcmp(&a->row, &b->row, sizeof(a->row)) == 0 &&
	       memcmp(a->text, b->text, a->row.text_len) == 0;
}

static bool has_row_id(const void *item, const void *key)
{
	return ((const struct model_image *)item)->row.id == *(const uint64_t *)key;
}

static int snapshot_image(struct model_snapshot *s, struct json_object *o, struct banger_error *err)
{
	int r = model_batch_add(&s->batch, o, err);

	if (r < 0)
		return r;
	if (s->batch.ngone > 0)
		return banger_error_set(err, BANGER_BAD_REQUEST, "a snapshot with a deleted image");
	struct model_image *fresh = s->batch.fresh[s->batch.nfresh - 1];
	/* This thread is the model's only writer: it reads without the lock. */
	struct model_image *old = (struct model_image *)model_image_of_id(s->m, fresh->row.id);
	bool again = index_find(&s->ids, hash_fresh(fresh), has_row_id, &fresh->row.id) ||
		     (old && old->seen == s->m->snapshot);
	if (old)
		old->seen = s->m->snapshot;
	if (again || (old && same_row(old, fresh))) {
		free(fresh);
		s->batch.nfresh--;
		return again ? banger_error_set(
				       err, BANGER_BAD_REQUEST, "a snapshot has an image twice")
			     : 0;
	}
	if (index_reserve(&s->ids, 1) < 0)
		return banger_error_oom(err);
	index_insert(&s->ids, fresh);
	return 0;
}

static int keep_all(struct json_object *from, struct json_object *to)
{
	for (size_t i = 0; from && i < json_object_array_length(from); i++) {
		struct json_object *o = json_object_get(json_object_array_get_idx(from, i));
		if (json_object_array_add(to, o) < 0) {
			json_object_put(o);
			return -ENOMEM;
		}
	}
	return 0;
}

static struct json_object *list(struct json_object *event, const char *key)
{
	struct json_object *o = banger_json_get(event, key);
	return json_object_is_type(o, json_type_array) ? o : NULL;
}

int model_snapshot_add(
	struct model_snapshot *s, struct json_object *event, struct banger_error *err)
{
	struct json_object *images = list(event, "images");
	int r = 0;

	for (size_t i = 0; r == 0 && images && i < json_object_array_length(images); i++)
		r = snapshot_image(s, json_object_array_get_idx(images, i), err);
	if (r == 0 && (keep_all(list(event, "kernels"), s->kernels) < 0 ||
			      keep_all(list(event, "vms"), s->vms) < 0 ||
			      keep_all(list(event, "ops"), s->ops) < 0))
		r = banger_error_oom(err);
	return r;
}

/* What the snapshot did not have is gone. */
static int collect_gone(struct model_snapshot *s)
{
	const struct model_image *i;
	uint64_t n = 0;

	while ((i = slots_next(&s->m->images, n, &n)))
		if (i->seen != s->m->snapshot && model_batch_add_gone(&s->batch, i->row.id) < 0)
			return -ENOMEM;
	return 0;
}

static int commit_kernels(
	struct model_snapshot *s, model_observer *tell, void *arg, struct banger_error *err)
{
	const struct model_kernel *k;
	uint64_t n = 0;
	int r = 0;

	for (size_t i = 0; r == 0 && i < json_object_array_length(s->kernels); i++)
		r = model_kernel_put(
			s->m, json_object_array_get_idx(s->kernels, i), tell, arg, err);
	while (r == 0 && (k = slots_next(&s->m->kernels, n, &n)))
		if (k->seen != s->m->snapshot)
			model_kernel_remove(s->m, k, tell, arg);
	return r;
}

static int commit_vms(
	struct model_snapshot *s, model_observer *tell, void *arg, struct banger_error *err)
{
	const struct model_vm *v;
	uint64_t n = 0;
	int r = 0;

	for (size_t i = 0; r == 0 && i < json_object_array_length(s->vms); i++)
		r = model_vm_put(s->m, json_object_array_get_idx(s->vms, i), tell, arg, err);
	while (r == 0 && (v = slots_next(&s->m->vms, n, &n)))
		if (v->seen != s->m->snapshot)
			model_vm_remove(s->m, v, tell, arg);
	return r;
}

/* Oldest first, whichever way they came: times are written so that they sort as text. */
static int by_start(const void *a, const void *b)
{
	const char *x = banger_json_str(*(struct json_object *const *)a, "started");
	const char *y = banger_json_str(*(struct json_object *const *)b, "started");

	return strcmp(x ?: "", y ?: "");
}

static int commit_ops(
	struct model_snapshot *s, model_observer *tell, void *arg, struct banger_error *err)
{
	size_t n = json_object_array_length(s->ops);
	int r = 0;

	if (s->m->ops_kept < n)
		s->m->ops_kept = n;
	json_object_array_sort(s->ops, by_start);
	for (size_t i = 0; r == 0 && i < n; i++)
		r = model_op_put(s->m, json_object_array_get_idx(s->ops, i), tell, arg, err);
	return r;
}

int model_snapshot_commit(struct model_snapshot *s, int64_t generation, model_observer *tell,
	void *arg, struct banger_error *err)
{
	index_done(&s->ids);
	if (collect_gone(s) < 0)
		return banger_error_oom(err);
	model_write(s->m);
	int r = model_batch_apply(s->m, &s->batch, tell, arg) < 0 ? banger_error_oom(err) : 0;
	if (r == 0)
		r = commit_kernels(s, tell, arg, err);
	if (r == 0)
		r = commit_vms(s, tell, arg, err);
	if (r == 0)
		r = commit_ops(s, tell, arg, err);
	model_unwrite(s->m);
	if (r == 0)
		model_set_generation(s->m, generation);
	malloc_trim(0); /* the documents were many times what is kept of them */
	return r;
}
