/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An id is 64 bits written in hex, so a listing is an array of integers: 100,000 of them are read,
 * sorted and merged with the rows in some 100 ms, most of it the kernel's and SQLite's. Nothing is
 * looked up one by one.
 */
#include <string.h>
#include "image/reconcile.h"

struct listing {
	uint64_t *ids;
	size_t n, next; /* next: the first that the walk has not passed */
	char **others;  /* names that are no id */
	size_t n_others;
};

struct walk {
	struct image_service *s;
	const struct reconcile *r;
	struct listing lists[DIR_TRASH]; /* drafts, images, staging */
	struct banger_error *err;
};

static void walk_done(struct walk *w)
{
	for (size_t d = 0; d < ELEMENTSOF(w->lists); d++) {
		free(w->lists[d].ids);
		for (size_t i = 0; i < w->lists[d].n_others; i++)
			free(w->lists[d].others[i]);
		free(w->lists[d].others);
	}
}

static uint64_t id_number(const char *id)
{
	return strtoull(id, NULL, 16);
}

static int by_number(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

/* Grows by doubling: room for one more in an array of n. */
static int make_room(void *array, size_t n, size_t size)
{
	void **p = array;
	if (n & (n - 1))
		return 0;
	void *more = reallocarray(*p, n ? n * 2 : 1, size);
	if (!more)
		return -ENOMEM;
	*p = more;
	return 0;
}

static int add_entry(struct listing *l, const char *name)
{
	if (banger_id_valid(name)) {
		if (make_room(&l->ids, l->n, sizeof(*l->ids)) < 0)
			return -ENOMEM;
		l->ids[l->n++] = id_number(name);
		return 0;
	}
	char *copy = strdup(name);
	if (!copy || make_room(&l->others, l->n_others, sizeof(*l->others)) < 0) {
		free(copy);
		return -ENOMEM;
	}
	l->others[l->n_others++] = copy;
	return 0;
}

static int list(struct walk *w, enum image_dir dir)
{
	_cleanup_closedir_ DIR *d = image_open_dir(w->s->dirs[dir], ".");
	struct listing *l = &w->lists[dir];
	struct dirent *de;

	while (d && (errno = 0, de = readdir(d)))
		if (!image_is_dots(de->d_name) && add_entry(l, de->d_name) < 0)
			return banger_error_oom(w->err);
	if (!d || errno)
		return banger_error_set_errno(w->err, errno, "reading the state directory");
	if (l->n > 1)
		qsort(l->ids, l->n, sizeof(*l->ids), by_number);
	return 0;
}

/* The directories that come before `id` belong to no row. Passes over them, and over `id` itself.
 */
static int pass_until(struct walk *w, enum image_dir dir, uint64_t id, bool *ret_here)
{
	struct listing *l = &w->lists[dir];
	char name[BANGER_ID_LEN + 1];

	for (; l->next < l->n && l->ids[l->next] < id; l->next++) {
		snprintf(name, sizeof(name), "%016llx", (unsigned long long)l->ids[l->next]);
		int r = w->r->stray(w->r->arg, dir, name, w->err);
		if (r < 0)
			return r;
	}
	*ret_here = l->next < l->n && l->ids[l->next] == id;
	l->next += *ret_here;
	return 0;
}

static int pass_row(struct walk *w, const struct banger_image *image)
{
	uint64_t id = id_number(image->id);
	unsigned places = 0;

	for (enum image_dir d = 0; d < DIR_TRASH; d++) {
		bool here = false;
		int r = pass_until(w, d, id, &here);
		if (r < 0)
			return r;
		places |= here ? PLACE(d) : 0;
	}
	return w->r->row(w->r->arg, image, places, w->err);
}

static int pass_rows(struct walk *w, struct store_view *view)
{
	char after[BANGER_ID_LEN + 1] = "";
	int r;

	do {
		_cleanup_image_ struct banger_image image = {0};
		r = store_view_next_image(view, -1, after[0] ? after : NULL, &image, w->err);
		if (r > 0) {
			strcpy(after, image.id);
			int q = pass_row(w, &image);
			r = q < 0 ? q : r;
		}
	} while (r > 0);
	return r;
}

/* What is left after the last row, and what is no id at all. */
static int pass_rest(struct walk *w)
{
	for (enum image_dir d = 0; d < DIR_TRASH; d++) {
		struct listing *l = &w->lists[d];
		bool here = false;
		int r = pass_until(w, d, UINT64_MAX, &here);
		if (r == 0 && here)
			r = w->r->stray(w->r->arg, d, "ffffffffffffffff", w->err);
		for (size_t i = 0; r == 0 && i < l->n_others; i++)
			r = w->r->stray(w->r->arg, d, l->others[i], w->err);
		if (r < 0)
			return r;
	}
	return 0;
}

int reconcile(struct image_service *s, const struct reconcile *rec, struct banger_error *err)
{
	_cleanup_(walk_done) struct walk w = {.s = s, .r = rec, .err = err};
	_cleanup_(store_view_closep) struct store_view *view = NULL;
	int r = 0;

	for (enum image_dir d = 0; r == 0 && d < DIR_TRASH; d++)
		r = list(&w, d);
	if (r == 0)
		r = store_view_open(s->deps.store, &view, err);
	if (r == 0)
		r = pass_rows(&w, view);
	return r < 0 ? r : pass_rest(&w);
}
