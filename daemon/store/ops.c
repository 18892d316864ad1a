/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records of finished operations and their log lines.
 *
 * The record of a change is written in the change's own transaction (write_op). Everything else
 * comes here in batches from a thread of its own: such a batch is committed without waiting for the
 * disk, so it holds the writing lock for the time of some inserts only. In the write-ahead log it
 * stands before any later change, so that the fsync of that one covers it; a power cut may lose
 * records and lines of the moments before it, a crash of the daemon none that were handed over.
 *
 * What VMs do has a share of the room (STORE_OPS_SHARE_OF_VMS): a guest that has itself refused again and again
 * pushes out its like, not the records of what people did.
 */
#include "store/internal.h"
#include <banger/log.h>

#define LINES_NEWEST_MAX 1000

static int put_op(
	struct store_connection *c, const struct banger_op_record *r, struct banger_error *err)
{
	_cleanup_statement_ sqlite3_stmt *st = NULL;

	int e = statement_get(c, STORE_OP_PUT, &st, err);
	if (e < 0)
		return e;
	bind_text(st, 1, r->op_id);
	bind_text(st, 2, r->method);
	bind_text_opt(st, 3, r->params);
	sqlite3_bind_int64(st, 4, r->actor.uid);
	sqlite3_bind_int64(st, 5, r->actor.gid);
	sqlite3_bind_int64(st, 6, r->actor.pid);
	bind_text_opt(st, 7, r->actor.program);
	bind_text_opt(st, 8, r->actor.door);
	bind_text_opt(st, 9, r->actor.vm);
	sqlite3_bind_int64(st, 10, r->started_us);
	sqlite3_bind_int64(st, 11, r->elapsed_us);
	bind_text(st, 12, r->code == BANGER_OK ? NULL : banger_code_name(r->code));
	bind_text_opt(st, 13, r->message);
	return statement_run(c, st, err, "cannot record the operation");
}

int write_op(struct write *w, const struct banger_op_record *op, struct banger_error *err)
{
	return op ? put_op(w->c, op, err) : 0;
}

static int put_line(
	struct store_connection *c, const struct store_op_line *l, struct banger_error *err)
{
	_cleanup_statement_ sqlite3_stmt *st = NULL;

	int r = statement_get(c, STORE_LINE_PUT, &st, err);
	if (r < 0)
		return r;
	bind_text(st, 1, l->op_id);
	bind_text(st, 2, l->line);
	return statement_run(c, st, err, "cannot keep a log record");
}

/* Run a statement with one integer. */
static int run_with(
	struct store_connection *c, enum store_statement which, int64_t v, struct banger_error *err)
{
	_cleanup_statement_ sqlite3_stmt *st = NULL;

	int r = statement_get(c, which, &st, err);
	if (r < 0)
		return r;
	sqlite3_bind_int64(st, 1, v);
	return statement_run(c, st, err, "cannot trim the records of operations");
}

/* seq of the newest record that is one too many, or 0. */
static int bound(struct store_connection *c, int64_t kept, int64_t *ret, struct banger_error *err)
{
	_cleanup_statement_ sqlite3_stmt *st = NULL;

	int r = statement_get(c, STORE_OPS_BOUND, &st, err);
	if (r < 0)
		return r;
	sqlite3_bind_int64(st, 1, kept);
	int rc = sqlite3_step(st);
	if (rc != SQLITE_ROW && rc != SQLITE_DONE)
		return store_error(c->db, rc, err, "cannot trim the records of operations");
	*ret = rc == SQLITE_ROW ? sqlite3_column_int64(st, 0) : 0;
	return 0;
}

static int trim(struct store_connection *c, int64_t kept, struct banger_error *err)
{
	int64_t last = 0;

	int r = bound(c, kept, &last, err);
	if (r == 0 && last > 0)
		r = run_with(c, STORE_OPS_TRIM_LINES, last, err);
	if (r == 0 && last > 0)
		r = run_with(c, STORE_OPS_TRIM, last, err);
	return r < 0 ? r : run_with(c, STORE_LINES_TRIM, kept * STORE_LINES_PER_OP, err);
}

static int trim_vms(struct store_connection *c, int64_t kept, struct banger_error *err)
{
	int64_t share = kept / STORE_OPS_SHARE_OF_VMS ?: 1;

	int r = run_with(c, STORE_OPS_TRIM_LINES_OF_VMS, share, err);
	return r < 0 ? r : run_with(c, STORE_OPS_TRIM_VMS, share, err);
}

static int put_batch(struct write *w, const struct banger_op_record *ops, size_t n,
	const struct store_op_line *lines, size_t n_lines, int64_t kept, struct banger_error *err)
{
	bool of_vms = false;
	int r = 0;

	for (size_t i = 0; r == 0 && i < n; i++) {
		r = put_op(w->c, &ops[i], err);
		of_vms |= ops[i].actor.vm[0] != '\0';
	}
	for (size_t i = 0; r == 0 && i < n_lines; i++)
		r = put_line(w->c, &lines[i], err);
	if (r == 0 && of_vms)
		r = trim_vms(w->c, kept, err);
	return r < 0 ? r : trim(w->c, kept, err);
}

/* The setting takes effect for the transactions begun after it. The lock is held by the caller. */
static void set_synchronous(struct store_connection *c, bool full)
{
	struct banger_error err = {0};

	if (connection_exec(c, full ? "PRAGMA synchronous = FULL" : "PRAGMA synchronous = NORMAL",
		    &err) < 0)
		log_err("cannot set how the database syncs", KV_ERR(&err));
}

int store_ops_put(struct store *s, const struct banger_op_record *ops, size_t n,
	const struct store_op_line *lines, size_t n_lines, int64_t kept, struct banger_error *err)
{
	pthread_mutex_lock(&s->write_lock);
	set_synchronous(&s->writer, false);
	struct write w = {0};
	int r = connection_run(&s->writer, STORE_BEGIN_IMMEDIATE, err);
	if (r == 0) {
		w.c = &s->writer;
		r = put_batch(&w, ops, n, lines, n_lines, kept, err);
	}
	if (r == 0)
		r = connection_run(&s->writer, STORE_COMMIT, err);
	if (!sqlite3_get_autocommit(s->writer.db))
		connection_run(&s->writer, STORE_ROLLBACK, NULL);
	set_synchronous(&s->writer, true);
	pthread_mutex_unlock(&s->write_lock);
	return r;
}

static void op_from_row(sqlite3_stmt *st, struct banger_op_record *r)
{
	const char *code = (const char *)sqlite3_column_text(st, 11);

	*r = (struct banger_op_record){.code = code ? banger_code_from_name(code) : BANGER_OK};
	column_array(st, 0, r->op_id, sizeof(r->op_id));
	column_array(st, 1, r->method, sizeof(r->method));
	column_array(st, 2, r->params, sizeof(r->params));
	r->actor.uid = sqlite3_column_int64(st, 3);
	r->actor.gid = sqlite3_column_int64(st, 4);
	r->actor.pid = sqlite3_column_int(st, 5);
	column_array(st, 6, r->actor.program, sizeof(r->actor.program));
	column_array(st, 7, r->actor.door, sizeof(r->actor.door));
	column_array(st, 8, r->actor.vm, sizeof(r->actor.vm));
	r->started_us = sqlite3_column_int64(st, 9);
	r->elapsed_us = sqlite3_column_int64(st, 10);
	column_array(st, 12, r->message, sizeof(r->message));
}

/* 1 and *ret, 0 when there is none. */
static int get_op(struct store_connection *c, const char *op_id, struct banger_op_record *ret,
	struct banger_error *err)
{
	_cleanup_statement_ sqlite3_stmt *st = NULL;

	int r = statement_get(c, STORE_OP_BY_ID, &st, err);
	if (r < 0)
		return r;
	bind_text(st, 1, op_id);
	int rc = sqlite3_step(st);
	if (rc == SQLITE_DONE)
		return 0;
	if (rc != SQLITE_ROW)
		return store_error(c->db, rc, err, "cannot read the operation");
	op_from_row(st, ret);
	return 1;
}

int store_op_find(
	struct store *s, const char *word, struct banger_op_record *ret, struct banger_error *err)
{
	_cleanup_read_ struct reading r = {0};
	struct prefix_matches m = {0};
	struct prefix_range range;

	if (!*word)
		return banger_error_set(err, BANGER_BAD_REQUEST, "op_id is required");
	int e = read_begin(s, &r, err);
	if (e == 0)
		e = get_op(r.c, word, ret, err);
	if (e == 0 && prefix_range(word, &range)) {
		e = prefix_collect(r.c, STORE_OP_PREFIX, &range, 0, 0, &m, err);
		if (e == 0 && m.n > 1)
			return banger_error_set(
				err, BANGER_AMBIGUOUS, "multiple operations match \"%s\"", word);
		if (e == 0 && m.n == 1)
			e = get_op(r.c, m.ids[0], ret, err);
	}
	if (e == 0)
		return banger_error_set(err, BANGER_NOT_FOUND, "operation \"%s\" not found", word);
	return e < 0 ? e : 0;
}

int store_ops_list(struct store *s, int64_t limit, bool failed_only, int64_t uid,
	struct banger_op_record **ret, size_t *ret_n, struct banger_error *err)
{
	_cleanup_read_ struct reading r = {0};
	_cleanup_statement_ sqlite3_stmt *st = NULL;
	_cleanup_free_ struct banger_op_record *ops = NULL;
	size_t n = 0, room = 0;
	int rc;

	int e = read_begin(s, &r, err);
	if (e == 0)
		e = statement_get(r.c, STORE_OPS_NEWEST, &st, err);
	if (e < 0)
		return e;
	sqlite3_bind_int(st, 1, failed_only);
	sqlite3_bind_int64(st, 2, uid);
	sqlite3_bind_int64(st, 3, limit);
	while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
		if (n == room) {
			room = room ? room * 2 : 16;
			struct banger_op_record *more = reallocarray(ops, room, sizeof(*ops));
			if (!more)
				return banger_error_oom(err);
			ops = more;
		}
		op_from_row(st, &ops[n++]);
	}
	if (rc != SQLITE_DONE)
		return store_error(r.c->db, rc, err, "cannot read the operations");
	*ret = TAKE_PTR(ops);
	*ret_n = n;
	return 0;
}

/* Rows of one text column as an array of strings. */
static int collect_lines(struct store_connection *c, sqlite3_stmt *st, char ***ret, size_t *ret_n,
	struct banger_error *err)
{
	size_t n = 0, room = 0;
	char **lines = NULL;
	int rc, r = 0;

	while (r == 0 && (rc = sqlite3_step(st)) == SQLITE_ROW) {
		if (n == room) {
			room = room ? room * 2 : 16;
			char **more = reallocarray(lines, room, sizeof(*lines));
			if (!more) {
				r = banger_error_oom(err);
				break;
			}
			lines = more;
		}
		if (column_dup(st, 0, &lines[n]) < 0)
			r = banger_error_oom(err);
		else
			n++;
	}
	if (r == 0 && rc != SQLITE_DONE)
		r = store_error(c->db, rc, err, "cannot read the log records");
	if (r < 0) {
		while (n > 0)
			free(lines[--n]);
		free(lines);
		return r;
	}
	*ret = lines;
	*ret_n = n;
	return 0;
}

int store_op_lines(
	struct store *s, const char *op_id, char ***ret, size_t *ret_n, struct banger_error *err)
{
	_cleanup_read_ struct reading r = {0};
	_cleanup_statement_ sqlite3_stmt *st = NULL;

	int e = read_begin(s, &r, err);
	if (e == 0)
		e = statement_get(r.c, op_id ? STORE_LINES_OF_OP : STORE_LINES_NEWEST, &st, err);
	if (e < 0)
		return e;
	if (op_id)
		bind_text(st, 1, op_id);
	else
		sqlite3_bind_int(st, 1, LINES_NEWEST_MAX);
	return collect_lines(r.c, st, ret, ret_n, err);
}
