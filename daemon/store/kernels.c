/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of kernels: as images.c, without states. */
#include "store/internal.h"

int kernel_from_row(sqlite3_stmt *st, struct banger_kernel *ret, struct banger_error *err)
{
	struct banger_kernel k = {0};

	column_array(st, 0, k.id, sizeof(k.id));
	column_array(st, 1, k.name, sizeof(k.name));
	column_array(st, 2, k.version, sizeof(k.version));
	column_array(st, 3, k.arch, sizeof(k.arch));
	k.generation = sqlite3_column_int64(st, 4);
	k.size = sqlite3_column_int64(st, 5);
	k.imported_us = sqlite3_column_int64(st, 6);
	k.modules = sqlite3_column_int(st, 7);
	k.initrd = sqlite3_column_int(st, 8);
	column_array(st, 9, k.op_id, sizeof(k.op_id));
	if (column_dup(st, 10, &k.source) < 0)
		return banger_error_oom(err);
	*ret = k;
	return 0;
}

/* 1 and *ret, 0 when there is no such row. */
static int get_kernel(struct store_connection *c, enum store_statement which, const char *key,
	struct banger_kernel *ret, struct banger_error *err)
{
	_cleanup_statement_ sqlite3_stmt *st = NULL;

	int r = statement_get(c, which, &st, err);
	if (r < 0)
		return r;
	bind_text(st, 1, key);
	int rc = sqlite3_step(st);
	if (rc == SQLITE_DONE)
		return 0;
	if (rc != SQLITE_ROW)
		return store_error(c->db, rc, err, "cannot read the kernel");
	r = kernel_from_row(st, ret, err);
	return r < 0 ? r : 1;
}

static int find_prefix(struct store_connection *c, const char *word, struct banger_kernel *ret,
	struct banger_error *err)
{
	struct prefix_matches m = {0};
	struct prefix_range range;

	if (!prefix_range(word, &range))
		return 0;
	int r = prefix_collect(c, STORE_KERNEL_ID_PREFIX, &range, 0, 0, &m, err);
	if (r == 0)
		r = prefix_collect(c, STORE_KERNEL_NAME_PREFIX, &range, 0, 0, &m, err);
	if (r < 0)
		return r;
	if (m.n > 1)
		return banger_error_set(
			err, BANGER_AMBIGUOUS, "multiple kernels match \"%s\"", word);
	return m.n ? get_kernel(c, STORE_KERNEL_BY_ID, m.ids[0], ret, err) : 0;
}

int store_kernel_find(
	struct store *s, const char *word, struct banger_kernel *ret, struct banger_error *err)
{
	_cleanup_read_ struct reading r = {0};

	if (!*word)
		return banger_error_set(err, BANGER_BAD_REQUEST, "kernel id or name is required");
	int e = read_begin(s, &r, err);
	if (e == 0)
		e = get_kernel(r.c, STORE_KERNEL_BY_NAME, word, ret, err);
	if (e == 0 && banger_id_valid(word))
		e = get_kernel(r.c, STORE_KERNEL_BY_ID, word, ret, err);
	if (e == 0)
		e = find_prefix(r.c, word, ret, err);
	if (e == 0)
		return banger_error_set(err, BANGER_NOT_FOUND, "kernel \"%s\" not found", word);
	return e < 0 ? e : 0;
}

static int put_kernel(struct write *w, const struct banger_kernel *k, struct banger_error *err)
{
	_cleanup_statement_ sqlite3_stmt *st = NULL;

	int r = statement_get(w->c, STORE_KERNEL_INSERT, &st, err);
	if (r < 0)
		return r;
	bind_text(st, 1, k->id);
	bind_text(st, 2, k->name);
	bind_text_opt(st, 3, k->version);
	bind_text_opt(st, 4, k->arch);
	sqlite3_bind_int64(st, 5, k->generation);
	sqlite3_bind_int64(st, 6, k->size);
	sqlite3_bind_int64(st, 7, k->imported_us);
	sqlite3_bind_int(st, 8, k->modules);
	sqlite3_bind_int(st, 9, k->initrd);
	bind_text_opt(st, 10, k->op_id);
	bind_text(st, 11, k->source);
	int rc = sqlite3_step(st);
	if (rc == SQLITE_CONSTRAINT_UNIQUE || rc == SQLITE_CONSTRAINT_PRIMARYKEY)
		return banger_error_set(err, BANGER_EXISTS, "kernel %s \"%s\" is taken",
			rc == SQLITE_CONSTRAINT_UNIQUE ? "name" : "id",
			rc == SQLITE_CONSTRAINT_UNIQUE ? k->name : k->id);
	return rc == SQLITE_DONE ? 0 : store_error(w->c->db, rc, err, "cannot write the kernel");
}

int store_kernel_insert(struct store *s, struct banger_kernel *k, const struct banger_op_record *op,
	struct banger_error *err)
{
	_cleanup_write_ struct write w = {0};
	struct banger_kernel row = *k; /* shallow */

	int r = write_begin(s, &w, err);
	if (r == 0)
		r = write_generation(&w, &row.generation, err);
	if (r == 0)
		r = put_kernel(&w, &row, err);
	if (r == 0)
		r = write_op(&w, op, err);
	w.kernels = 1;
	if (r == 0)
		r = write_commit(&w, err);
	if (r == 0)
		k->generation = row.generation;
	return r;
}

int store_kernel_delete(struct store *s, const char *id, const struct banger_op_record *op,
	int64_t *ret_generation, struct banger_error *err)
{
	_cleanup_write_ struct write w = {0};
	_cleanup_statement_ sqlite3_stmt *st = NULL;
	int64_t generation = 0;

	int r = write_begin(s, &w, err);
	if (r == 0)
		r = statement_get(w.c, STORE_KERNEL_DELETE, &st, err);
	if (r < 0)
		return r;
	bind_text(st, 1, id);
	r = statement_run(w.c, st, err, "cannot delete the kernel");
	if (r == 0 && sqlite3_changes(w.c->db) == 0)
		r = banger_error_set(err, BANGER_NOT_FOUND, "kernel \"%s\" not found", id);
	if (r == 0)
		r = write_generation(&w, &generation, err);
	if (r == 0)
		r = write_op(&w, op, err);
	w.kernels = -1;
	if (r == 0)
		r = write_commit(&w, err);
	if (r == 0)
		*ret_generation = generation;
	return r;
}
