/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows of images. Each change is one transaction on the writing connection: the row, the generation
 * it takes, the record of the operation that made it. A lookup is a handful of index descents
 * inside one read transaction, whatever the number of images, and none of it depends on a cache of
 * our own.
 */
#include "store/internal.h"

int image_from_row(sqlite3_stmt *st, struct banger_image *ret, struct banger_error *err)
{
	_cleanup_image_ struct banger_image i = {0};

	column_array(st, 0, i.id, sizeof(i.id));
	i.state = sqlite3_column_int(st, 1);
	column_array(st, 2, i.name, sizeof(i.name));
	i.generation = sqlite3_column_int64(st, 3);
	column_array(st, 4, i.digest, sizeof(i.digest));
	i.size = sqlite3_column_type(st, 5) == SQLITE_NULL ? -1 : sqlite3_column_int64(st, 5);
	column_array(st, 6, i.op_id, sizeof(i.op_id));
	i.created_us = sqlite3_column_int64(st, 7);
	i.published_us = sqlite3_column_int64(st, 8);
	if (column_dup(st, 9, &i.source) < 0 || column_dup(st, 10, &i.kernel) < 0 ||
		column_dup(st, 11, &i.config) < 0)
		return banger_error_oom(err);
	*ret = i;
	i = (struct banger_image){0};
	return 0;
}

static void bind_image(sqlite3_stmt *st, const struct banger_image *i)
{
	bind_text(st, 1, i->id);
	sqlite3_bind_int(st, 2, i->state);
	bind_text(st, 3, i->name);
	sqlite3_bind_int64(st, 4, i->generation);
	/* "": published, and its digest comes later. */
	if (i->state == BANGER_PUBLISHED)
		bind_text(st, 5, i->digest);
	else
		bind_text_opt(st, 5, i->digest);
	if (i->size >= 0)
		sqlite3_bind_int64(st, 6, i->size);
	bind_text_opt(st, 7, i->op_id);
	sqlite3_bind_int64(st, 8, i->created_us);
	if (i->published_us)
		sqlite3_bind_int64(st, 9, i->published_us);
	bind_text(st, 10, i->source);
	bind_text(st, 11, i->kernel);
	bind_text(st, 12, i->config);
}

/* ---- lookup */

/* 1 and *ret, 0 when there is no such row. state -1: the statement takes none. */
static int get_image(struct store_connection *c, enum store_statement which, const char *key,
	int state, struct banger_image *ret, struct banger_error *err)
{
	_cleanup_statement_ sqlite3_stmt *st = NULL;

	int r = statement_get(c, which, &st, err);
	if (r < 0)
		return r;
	bind_text(st, 1, key);
	if (state >= 0)
		sqlite3_bind_int(st, 2, state);
	int rc = sqlite3_step(st);
	if (rc == SQLITE_DONE)
		return 0;
	if (rc != SQLITE_ROW)
		return store_error(c->db, rc, err, "cannot read the image");
	r = image_from_row(st, ret, err);
	return r < 0 ? r : 1;
}

static int image_not_found(const char *word, struct banger_error *err)
{
	return banger_error_set(err, BANGER_NOT_FOUND, "image \"%s\" not found", word);
}

static int image_ambiguous(const char *word, struct banger_error *err)
{
	return banger_error_set(err, BANGER_AMBIGUOUS, "multiple images match \"%s\"", word);
}

int store_image_by_id(
	struct store *s, const char *id, struct banger_image *ret, struct banger_error *err)
{
	_cleanup_read_ struct reading r = {0};

	int e = lookup_begin(s, &r, err);
	if (e == 0)
		e = get_image(r.c, STORE_IMAGE_BY_ID, id, -1, ret, err);
	return e == 0 ? image_not_found(id, err) : e < 0 ? e : 0;
}

int store_image_by_name(struct store *s, enum banger_image_state state, const char *name,
	struct banger_image *ret, struct banger_error *err)
{
	_cleanup_read_ struct reading r = {0};

	int e = lookup_begin(s, &r, err);
	if (e == 0)
		e = get_image(r.c, STORE_IMAGE_BY_NAME, name, state, ret, err);
	return e == 0 ? image_not_found(name, err) : e < 0 ? e : 0;
}

/* A word as a person gives it, with what it was qualified by taken off. */
struct image_word {
	const char *whole, *word;
	int lo, hi; /* states that are looked at */
};

/* 1 found, 0 not. */
static int find_exact(struct store_connection *c, const struct image_word *w,
	struct banger_image *ret, struct banger_error *err)
{
	_cleanup_image_ struct banger_image found = {0}, other = {0};
	int n = 0;

	for (int state = w->lo; state <= w->hi; state++) {
		int r = get_image(c, STORE_IMAGE_BY_NAME, w->word, state, n ? &other : &found, err);
		if (r < 0)
			return r;
		n += r;
	}
	if (n > 1)
		return image_ambiguous(w->whole, err);
	if (n == 0 && banger_id_valid(w->word)) {
		n = get_image(c, STORE_IMAGE_BY_ID, w->word, -1, &found, err);
		if (n > 0 && (found.state < w->lo || found.state > w->hi))
			n = 0;
	}
	if (n > 0) {
		*ret = found;
		found = (struct banger_image){0};
	}
	return n;
}

static int find_prefix(struct store_connection *c, const struct image_word *w,
	struct banger_image *ret, struct banger_error *err)
{
	struct prefix_matches m = {0};
	struct prefix_range range;

	if (!prefix_range(w->word, &range))
		return 0;
	int r = prefix_collect(c, STORE_IMAGE_ID_PREFIX, &range, w->lo, w->hi, &m, err);
	for (int state = w->lo; r == 0 && state <= w->hi; state++)
		r = prefix_collect(c, STORE_IMAGE_NAME_PREFIX, &range, state, state, &m, err);
	if (r < 0)
		return r;
	if (m.n > 1)
		return image_ambiguous(w->whole, err);
	return m.n ? get_image(c, STORE_IMAGE_BY_ID, m.ids[0], -1, ret, err) : 0;
}

int store_image_find(struct store *s, const char *word, int state, struct banger_image *ret,
	struct banger_error *err)
{
	_cleanup_read_ struct reading r = {0};
	struct image_word w = {
		.whole = word, .word = word, .lo = BANGER_DRAFT, .hi = BANGER_PUBLISHED};

	if (strncmp(word, "images/", 7) == 0) {
		w.word += 7;
		w.lo = BANGER_PUBLISHED;
	} else if (strncmp(word, "drafts/", 7) == 0) {
		w.word += 7;
		w.hi = BANGER_DRAFT;
	}
	if (!*w.word)
		return banger_error_set(err, BANGER_BAD_REQUEST, "image id or name is required");
	if (state >= 0 && (state < w.lo || state > w.hi))
		return image_not_found(word, err);
	if (state >= 0)
		w.lo = w.hi = state;
	int e = lookup_begin(s, &r, err);
	if (e == 0)
		e = find_exact(r.c, &w, ret, err);
	if (e == 0)
		e = find_prefix(r.c, &w, ret, err);
	return e == 0 ? image_not_found(word, err) : e < 0 ? e : 0;
}

/* ---- changes */

/* Run an insert or update of *i. */
static int put_image(struct write *w, enum store_statement which, const struct banger_image *i,
	struct banger_error *err)
{
	_cleanup_statement_ sqlite3_stmt *st = NULL;

	int r = statement_get(w->c, which, &st, err);
	if (r < 0)
		return r;
	bind_image(st, i);
	int rc = sqlite3_step(st);
	if (rc == SQLITE_CONSTRAINT_UNIQUE)
		return banger_error_set(err, BANGER_EXISTS, "%s name \"%s\" is taken",
			i->state == BANGER_DRAFT ? "draft" : "image", i->name);
	if (rc == SQLITE_CONSTRAINT_PRIMARYKEY)
		return banger_error_set(err, BANGER_EXISTS, "image id \"%s\" is taken", i->id);
	if (rc != SQLITE_DONE)
		return store_error(w->c->db, rc, err, "cannot write the image");
	if (sqlite3_changes(w->c->db) == 0)
		return image_not_found(i->id, err);
	return 0;
}

/* Note that a row goes away from the state that it has. */
static int leave_state(struct write *w, const char *id, struct banger_error *err)
{
	_cleanup_statement_ sqlite3_stmt *st = NULL;

	int r = statement_get(w->c, STORE_IMAGE_STATE, &st, err);
	if (r < 0)
		return r;
	bind_text(st, 1, id);
	int rc = sqlite3_step(st);
	if (rc == SQLITE_ROW)
		w->images[sqlite3_column_int(st, 0) == BANGER_PUBLISHED]--;
	return rc == SQLITE_ROW || rc == SQLITE_DONE
		       ? 0
		       : store_error(w->c->db, rc, err, "cannot read the image");
}

/* One row, its generation and its operation, in one transaction. */
static int change_image(struct store *s, enum store_statement which, struct banger_image *image,
	const struct banger_op_record *op, struct banger_error *err)
{
	_cleanup_write_ struct write w = {0};
	struct banger_image row = *image; /* a shallow copy: the strings stay the caller's */

	int r = write_begin(s, &w, err);
	if (r == 0)
		r = write_generation(&w, &row.generation, err);
	if (r == 0 && which == STORE_IMAGE_UPDATE)
		r = leave_state(&w, row.id, err);
	w.images[row.state]++;
	if (r == 0)
		r = put_image(&w, which, &row, err);
	if (r == 0)
		r = write_op(&w, op, err);
	if (r == 0)
		r = write_commit(&w, err);
	if (r == 0)
		image->generation = row.generation;
	return r;
}

int store_image_insert(struct store *s, struct banger_image *image,
	const struct banger_op_record *op, struct banger_error *err)
{
	return change_image(s, STORE_IMAGE_INSERT, image, op, err);
}

int store_image_update(struct store *s, struct banger_image *image,
	const struct banger_op_record *op, struct banger_error *err)
{
	return change_image(s, STORE_IMAGE_UPDATE, image, op, err);
}

static int set_name(struct write *w, const char *id, const char *name, int64_t generation,
	struct banger_error *err)
{
	_cleanup_statement_ sqlite3_stmt *st = NULL;

	int r = statement_get(w->c, STORE_IMAGE_RENAME, &st, err);
	if (r < 0)
		return r;
	bind_text(st, 1, id);
	bind_text(st, 2, name);
	sqlite3_bind_int64(st, 3, generation);
	r = statement_run(w->c, st, err, "cannot rename the image");
	if (r == 0 && sqlite3_changes(w->c->db) == 0)
		r = image_not_found(id, err);
	return r;
}

/* The two as the database has them now: names may have changed since the caller read them. */
static int reread(
	struct write *w, const char *id, struct banger_image *ret, struct banger_error *err)
{
	int r = get_image(w->c, STORE_IMAGE_BY_ID, id, -1, ret, err);

	return r == 0 ? image_not_found(id, err) : r < 0 ? r : 0;
}

int store_image_swap(struct store *s, struct banger_image *a, struct banger_image *b,
	const struct banger_op_record *op, struct banger_error *err)
{
	/* A name that no image can have: it holds a's place in the index while b's is freed. */
	static const char nobody[] = "/";
	_cleanup_image_ struct banger_image was_a = {0}, was_b = {0};
	_cleanup_write_ struct write w = {0};
	int64_t generation = 0;

	int r = write_begin(s, &w, err);
	if (r == 0)
		r = reread(&w, a->id, &was_a, err);
	if (r == 0)
		r = reread(&w, b->id, &was_b, err);
	if (r < 0)
		return r;
	if (was_a.state != was_b.state || strcmp(was_a.id, was_b.id) == 0)
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"only two different images of one state can be swapped");
	if ((r = write_generation(&w, &generation, err)) < 0 ||
		(r = set_name(&w, was_a.id, nobody, generation, err)) < 0 ||
		(r = set_name(&w, was_b.id, was_a.name, generation, err)) < 0 ||
		(r = set_name(&w, was_a.id, was_b.name, generation, err)) < 0 ||
		(r = write_op(&w, op, err)) < 0 || (r = write_commit(&w, err)) < 0)
		return r;
	strcpy(a->name, was_b.name);
	strcpy(b->name, was_a.name);
	a->generation = b->generation = generation;
	return 0;
}

int store_image_delete(struct store *s, const char *id, const struct banger_op_record *op,
	int64_t *ret_generation, struct banger_error *err)
{
	_cleanup_write_ struct write w = {0};
	_cleanup_statement_ sqlite3_stmt *st = NULL;
	int64_t generation = 0;

	int r = write_begin(s, &w, err);
	if (r == 0)
		r = leave_state(&w, id, err);
	if (r == 0)
		r = statement_get(w.c, STORE_IMAGE_DELETE, &st, err);
	if (r < 0)
		return r;
	bind_text(st, 1, id);
	r = statement_run(w.c, st, err, "cannot delete the image");
	if (r == 0 && sqlite3_changes(w.c->db) == 0)
		r = image_not_found(id, err);
	if (r == 0)
		r = write_generation(&w, &generation, err);
	if (r == 0)
		r = write_op(&w, op, err);
	if (r == 0)
		r = write_commit(&w, err);
	if (r == 0)
		*ret_generation = generation;
	return r;
}
