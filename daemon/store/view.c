/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Views: a read transaction on a connection of its own, so that somebody can walk through the whole
 * registry at leisure while changes go on, and see none of them.
 *
 * A few connections are kept when their views are closed, because opening one costs a hundred times
 * as much as a transaction. The walk is by key, so that a caller may stop, remember where, and go
 * on in another view (image.ls); one who goes on in the same view pays no new descent of the index.
 */
#include "store/internal.h"

#define VIEW_CACHE_KIB 512

struct store_view {
	struct store *store;
	struct store_connection *c;
	int64_t generation;
	/* Where the statement of images stands; id "" when it does not run. */
	sqlite3_stmt *images;
	int state;
	char id[BANGER_ID_LEN + 1];
};

static struct store_connection *take_idle(struct store *s)
{
	struct store_connection *c = NULL;

	pthread_mutex_lock(&s->views_lock);
	if (s->n_views > 0)
		c = s->views[--s->n_views];
	pthread_mutex_unlock(&s->views_lock);
	return c;
}

static void keep_idle(struct store *s, struct store_connection *c)
{
	pthread_mutex_lock(&s->views_lock);
	if (s->n_views < STORE_VIEWS_KEPT) {
		sqlite3_db_release_memory(c->db);
		s->views[s->n_views++] = c;
		c = NULL;
	}
	pthread_mutex_unlock(&s->views_lock);
	if (c) {
		connection_close(c);
		free(c);
	}
}

static int new_connection(struct store *s, struct store_connection **ret, struct banger_error *err)
{
	struct store_connection *c = calloc(1, sizeof(*c));

	if (!c)
		return banger_error_oom(err);
	int r = connection_open(s->path, false, c, err);
	if (r == 0)
		r = connection_configure(c, VIEW_CACHE_KIB, err);
	if (r < 0) {
		connection_close(c);
		free(c);
		return r;
	}
	*ret = c;
	return 0;
}

/* BEGIN alone takes no snapshot; the first read does. */
static int take_snapshot(struct store_view *v, struct banger_error *err)
{
	_cleanup_statement_ sqlite3_stmt *st = NULL;

	int r = connection_run(v->c, STORE_BEGIN, err);
	if (r == 0)
		r = statement_get(v->c, STORE_GENERATION, &st, err);
	if (r < 0)
		return r;
	int rc = sqlite3_step(st);
	if (rc != SQLITE_ROW)
		return store_error(v->c->db, rc == SQLITE_DONE ? SQLITE_CORRUPT : rc, err,
			"cannot read the registry");
	v->generation = sqlite3_column_int64(st, 0);
	return 0;
}

int store_view_open(struct store *s, struct store_view **ret, struct banger_error *err)
{
	struct store_view *v = calloc(1, sizeof(*v));
	int r = 0;

	if (!v)
		return banger_error_oom(err);
	v->store = s;
	v->c = take_idle(s);
	if (!v->c)
		r = new_connection(s, &v->c, err);
	if (r == 0)
		r = take_snapshot(v, err);
	if (r < 0) {
		store_view_closep(&v);
		return r;
	}
	*ret = v;
	return 0;
}

void store_view_closep(struct store_view **p)
{
	struct store_view *v = *p;

	if (!v)
		return;
	if (v->c) {
		statement_donep(&v->images);
		if (!sqlite3_get_autocommit(v->c->db))
			connection_run(v->c, STORE_COMMIT, NULL);
		keep_idle(v->store, v->c);
	}
	free(v);
	*p = NULL;
}

int64_t store_view_generation(const struct store_view *v)
{
	return v->generation;
}

/* Put the statement just after `after`, unless it stands there. */
static int seek_image(struct store_view *v, int state, const char *after, struct banger_error *err)
{
	if (v->images && v->id[0] && v->state == state && after && strcmp(v->id, after) == 0)
		return 0;
	statement_donep(&v->images);
	v->id[0] = '\0';
	int r = statement_get(v->c, STORE_IMAGES_AFTER, &v->images, err);
	if (r < 0)
		return r;
	sqlite3_bind_text(v->images, 1, after ?: "", -1, SQLITE_TRANSIENT);
	sqlite3_bind_int(v->images, 2, state < 0 ? BANGER_DRAFT : state);
	sqlite3_bind_int(v->images, 3, state < 0 ? BANGER_PUBLISHED : state);
	v->state = state;
	return 0;
}

int store_view_next_image(struct store_view *v, int state, const char *after,
	struct banger_image *ret, struct banger_error *err)
{
	int r = seek_image(v, state, after, err);
	if (r < 0)
		return r;
	int rc = sqlite3_step(v->images);
	if (rc == SQLITE_ROW) {
		r = image_from_row(v->images, ret, err);
		if (r < 0)
			return r;
		strcpy(v->id, ret->id);
		return 1;
	}
	v->id[0] = '\0';
	return rc == SQLITE_DONE ? 0 : store_error(v->c->db, rc, err, "cannot read the images");
}

int store_view_next_kernel(struct store_view *v, const char *after, struct banger_kernel *ret,
	struct banger_error *err)
{
	_cleanup_statement_ sqlite3_stmt *st = NULL;

	int r = statement_get(v->c, STORE_KERNELS_AFTER, &st, err);
	if (r < 0)
		return r;
	bind_text(st, 1, after ?: "");
	int rc = sqlite3_step(st);
	if (rc == SQLITE_DONE)
		return 0;
	if (rc != SQLITE_ROW)
		return store_error(v->c->db, rc, err, "cannot read the kernels");
	r = kernel_from_row(st, ret, err);
	return r < 0 ? r : 1;
}

int store_view_next_vm(
	struct store_view *v, const char *after, struct banger_vm *ret, struct banger_error *err)
{
	_cleanup_statement_ sqlite3_stmt *st = NULL;

	int r = statement_get(v->c, STORE_VMS_AFTER, &st, err);
	if (r < 0)
		return r;
	bind_text(st, 1, after ?: "");
	int rc = sqlite3_step(st);
	if (rc == SQLITE_DONE)
		return 0;
	if (rc != SQLITE_ROW)
		return store_error(v->c->db, rc, err, "cannot read the VMs");
	r = vm_from_row(st, ret, err);
	return r < 0 ? r : 1;
}
