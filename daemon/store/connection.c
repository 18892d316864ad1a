/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections to the database: opening, settings, errors, prepared statements, transactions.
 *
 * Connections are opened without SQLite's own mutexes: the store's locks say who uses which. The
 * database is a file that may have been damaged or written by somebody else, so SQLite is told to
 * trust its schema with nothing and to check cells as it reads them, and it is never mapped: a
 * truncated file would be a SIGBUS.
 *
 * Checkpoints are not made by the committing thread, as SQLite would, because a change would now
 * and then pay for a thousand others; see store_maintain().
 */
#include "store/internal.h"
#include <banger/fault.h>
#include <banger/log.h>

#define BUSY_TIMEOUT_MS 2000 /* somebody looks into the database with a tool of his own */

int store_error(sqlite3 *db, int rc, struct banger_error *err, const char *what)
{
	int sys = db ? sqlite3_system_errno(db) : 0;
	const char *text = db ? sqlite3_errmsg(db) : sqlite3_errstr(rc);

	switch (rc & 0xFF) {
	case SQLITE_NOMEM:
		return banger_error_oom(err);
	case SQLITE_FULL:
		return banger_error_set_errno(err, ENOSPC, "%s", what);
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		return banger_error_set(err, BANGER_CORRUPT, "%s: %s", what, text);
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return banger_error_set(
			err, BANGER_BUSY, "%s: another program keeps the database locked", what);
	case SQLITE_IOERR:
	case SQLITE_CANTOPEN:
	case SQLITE_READONLY:
	case SQLITE_PERM:
		if (sys == ENOSPC || sys == EDQUOT)
			return banger_error_set_errno(err, sys, "%s", what);
		return banger_error_set(err, BANGER_INTERNAL, "%s: %s%s%s", what, text,
			sys ? ": " : "", sys ? strerrordesc_np(sys) ?: "" : "");
	}
	return banger_error_set(err, BANGER_INTERNAL, "%s: %s", what, text);
}

int connection_open(
	const char *path, bool create, struct store_connection *c, struct banger_error *err)
{
	int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE |
		    (create ? SQLITE_OPEN_CREATE : 0);

	*c = (struct store_connection){0};
	int rc = sqlite3_open_v2(path, &c->db, flags, NULL);
	if (rc != SQLITE_OK) {
		int r = store_error(c->db, rc, err, "cannot open the registry's database");

		banger_error_prefix(err, "%s", path);
		connection_close(c);
		return r;
	}
	sqlite3_busy_timeout(c->db, BUSY_TIMEOUT_MS);
	sqlite3_db_config(c->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
	sqlite3_db_config(c->db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
	sqlite3_db_config(c->db, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, NULL);
	sqlite3_db_config(c->db, SQLITE_DBCONFIG_ENABLE_VIEW, 0, NULL);
	sqlite3_db_config(c->db, SQLITE_DBCONFIG_DQS_DML, 0, NULL);
	sqlite3_db_config(c->db, SQLITE_DBCONFIG_DQS_DDL, 0, NULL);
	sqlite3_db_config(c->db, SQLITE_DBCONFIG_ENABLE_FKEY, 1, NULL);
	return 0;
}

int connection_configure(struct store_connection *c, int cache_kib, struct banger_error *err)
{
	char sql[64];

	sqlite3_wal_autocheckpoint(c->db, 0);
	snprintf(sql, sizeof(sql), "PRAGMA cache_size = -%d", cache_kib);
	int r = connection_exec(c, sql, err);
	if (r == 0)
		r = connection_exec(c, "PRAGMA mmap_size = 0", err);
	if (r == 0)
		r = connection_exec(c, "PRAGMA cell_size_check = ON", err);
	if (r == 0)
		r = connection_exec(c, "PRAGMA synchronous = FULL", err);
	return r;
}

void connection_close(struct store_connection *c)
{
	for (size_t i = 0; i < STORE_STATEMENT_COUNT; i++)
		sqlite3_finalize(c->statements[i]);
	sqlite3_close(c->db);
	*c = (struct store_connection){0};
}

int connection_exec(struct store_connection *c, const char *sql, struct banger_error *err)
{
	int rc = sqlite3_exec(c->db, sql, NULL, NULL, NULL);

	return rc == SQLITE_OK ? 0 : store_error(c->db, rc, err, "the registry's database");
}

static void finalizep(sqlite3_stmt **st)
{
	sqlite3_finalize(*st);
}

/* Prepare and step to the first row of `sql`. */
static int first_row(
	struct store_connection *c, const char *sql, sqlite3_stmt **ret, struct banger_error *err)
{
	_cleanup_(finalizep) sqlite3_stmt *st = NULL;

	int rc = sqlite3_prepare_v2(c->db, sql, -1, &st, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_step(st);
	if (rc != SQLITE_ROW)
		return store_error(c->db, rc == SQLITE_DONE ? SQLITE_CORRUPT : rc, err,
			"cannot read the registry's database");
	*ret = TAKE_PTR(st);
	return 0;
}

int connection_get_int(
	struct store_connection *c, const char *sql, int64_t *ret, struct banger_error *err)
{
	_cleanup_(finalizep) sqlite3_stmt *st = NULL;

	int r = first_row(c, sql, &st, err);
	if (r == 0)
		*ret = sqlite3_column_int64(st, 0);
	return r;
}

int connection_get_text(
	struct store_connection *c, const char *sql, char **ret, struct banger_error *err)
{
	_cleanup_(finalizep) sqlite3_stmt *st = NULL;

	int r = first_row(c, sql, &st, err);
	if (r < 0)
		return r;
	char *s = strdup((const char *)sqlite3_column_text(st, 0) ?: "");
	if (!s)
		return banger_error_oom(err);
	*ret = s;
	return 0;
}

int statement_get(struct store_connection *c, enum store_statement which, sqlite3_stmt **ret,
	struct banger_error *err)
{
	static const char *const text[] = {
#define X(name, sql) [STORE_##name] = sql,
		STORE_STATEMENTS(X)
#undef X
	};

	if (!c->statements[which]) {
		int rc = sqlite3_prepare_v3(c->db, text[which], -1, SQLITE_PREPARE_PERSISTENT,
			&c->statements[which], NULL);
		if (rc != SQLITE_OK)
			return store_error(c->db, rc, err, "cannot read the registry's database");
	}
	*ret = c->statements[which];
	return 0;
}

void statement_donep(sqlite3_stmt **st)
{
	if (!*st)
		return;
	sqlite3_reset(*st);
	sqlite3_clear_bindings(*st);
}

void bind_text(sqlite3_stmt *st, int i, const char *s)
{
	if (s)
		sqlite3_bind_text(st, i, s, -1, SQLITE_STATIC);
	else
		sqlite3_bind_null(st, i);
}

void bind_text_opt(sqlite3_stmt *st, int i, const char *s)
{
	bind_text(st, i, s && *s ? s : NULL);
}

int statement_run(
	struct store_connection *c, sqlite3_stmt *st, struct banger_error *err, const char *what)
{
	int rc = sqlite3_step(st);

	return rc == SQLITE_DONE ? 0 : store_error(c->db, rc, err, what);
}

int connection_run(struct store_connection *c, enum store_statement which, struct banger_error *err)
{
	_cleanup_statement_ sqlite3_stmt *st = NULL;

	int r = statement_get(c, which, &st, err);
	return r < 0 ? r : statement_run(c, st, err, "the registry's database");
}

void column_array(sqlite3_stmt *st, int i, char *to, size_t size)
{
	snprintf(to, size, "%s", (const char *)sqlite3_column_text(st, i) ?: "");
}

int column_dup(sqlite3_stmt *st, int i, char **to)
{
	const char *s = (const char *)sqlite3_column_text(st, i);

	*to = s ? strdup(s) : NULL;
	/* No text though the column has some: SQLite ran out of memory. */
	return *to || (!s && sqlite3_column_type(st, i) == SQLITE_NULL) ? 0 : -ENOMEM;
}

bool prefix_range(const char *word, struct prefix_range *ret)
{
	static const char chars[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
	size_t n = strspn(word, chars);

	if (n == 0 || word[n] != '\0' || n > BANGER_NAME_MAX)
		return false;
	memcpy(ret->lo, word, n + 1);
	memcpy(ret->hi, word, n + 1);
	ret->hi[n - 1]++; /* 'z' at most: no overflow */
	return true;
}

int prefix_collect(struct store_connection *c, enum store_statement which,
	const struct prefix_range *range, int state_lo, int state_hi, struct prefix_matches *m,
	struct banger_error *err)
{
	_cleanup_statement_ sqlite3_stmt *st = NULL;
	int rc = SQLITE_DONE;

	int r = statement_get(c, which, &st, err);
	if (r < 0)
		return r;
	bind_text(st, 1, range->lo);
	bind_text(st, 2, range->hi);
	if (sqlite3_bind_parameter_count(st) >= 3)
		sqlite3_bind_int(st, 3, state_lo);
	if (sqlite3_bind_parameter_count(st) >= 4)
		sqlite3_bind_int(st, 4, state_hi);
	while (m->n < 2 && (rc = sqlite3_step(st)) == SQLITE_ROW) {
		char id[sizeof(m->ids[0])];

		column_array(st, 0, id, sizeof(id));
		if (m->n == 0 || strcmp(m->ids[0], id) != 0)
			strcpy(m->ids[m->n++], id);
	}
	return rc == SQLITE_DONE || rc == SQLITE_ROW
		       ? 0
		       : store_error(c->db, rc, err, "cannot read the registry's database");
}

/* ---- transactions */

int write_begin(struct store *s, struct write *w, struct banger_error *err)
{
	pthread_mutex_lock(&s->write_lock);
	int r = connection_run(&s->writer, STORE_BEGIN_IMMEDIATE, err);
	if (r < 0) {
		pthread_mutex_unlock(&s->write_lock);
		return r;
	}
	*w = (struct write){.store = s, .c = &s->writer};
	return 0;
}

/* Where nobody calls store_maintain(), or it cannot keep up. A view that is open for long keeps the
 * log from beginning anew; then not each commit tries again. */
static void shorten_log(struct store *s)
{
	int pages = atomic_load(&s->wal_pages);

	if (pages < STORE_WAL_PAGES_MAX)
		s->checkpoint_at = STORE_WAL_PAGES_MAX;
	if (pages < s->checkpoint_at)
		return;
	sqlite3_wal_checkpoint_v2(s->writer.db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
	s->checkpoint_at = pages + STORE_WAL_PAGES_MAX;
}

/* Before the first count this adds to nothing that is ever read. */
static void count_rows(const struct write *w)
{
	struct store *s = w->store;

	for (int state = BANGER_DRAFT; state <= BANGER_PUBLISHED; state++)
		if (w->images[state])
			atomic_fetch_add(&s->images[state], w->images[state]);
	if (w->kernels)
		atomic_fetch_add(&s->kernels, w->kernels);
}

int write_commit(struct write *w, struct banger_error *err)
{
	FAULT_POINT("store.commit.before");
	int r = connection_run(w->c, STORE_COMMIT, err);
	FAULT_POINT("store.commit.after");
	if (r < 0)
		return r; /* write_donep() rolls back */
	count_rows(w);
	shorten_log(w->store);
	w->c = NULL;
	return 0;
}

void write_donep(struct write *w)
{
	struct banger_error err = {0};

	if (!w->store)
		return;
	/* A failed commit may have rolled back already. */
	if (w->c && !sqlite3_get_autocommit(w->c->db) &&
		connection_run(w->c, STORE_ROLLBACK, &err) < 0)
		log_err("cannot roll back", KV_ERR(&err));
	pthread_mutex_unlock(&w->store->write_lock);
	w->store = NULL;
}

int write_generation(struct write *w, int64_t *ret, struct banger_error *err)
{
	_cleanup_statement_ sqlite3_stmt *st = NULL;

	int r = statement_get(w->c, STORE_NEXT_GENERATION, &st, err);
	if (r < 0)
		return r;
	int rc = sqlite3_step(st);
	if (rc != SQLITE_ROW)
		return store_error(w->c->db, rc == SQLITE_DONE ? SQLITE_CORRUPT : rc, err,
			"cannot count the registry's generation");
	int64_t generation = sqlite3_column_int64(st, 0);
	r = statement_run(w->c, st, err, "cannot count the registry's generation");
	if (r == 0)
		*ret = generation;
	return r;
}

static pthread_mutex_t *lock_of(struct store *s, const struct store_connection *c)
{
	return c == &s->writer ? &s->write_lock : &s->read_lock;
}

/* The lock is held. */
static int begin_reading(
	struct store *s, struct store_connection *c, struct reading *r, struct banger_error *err)
{
	int e = connection_run(c, STORE_BEGIN, err);
	if (e < 0) {
		pthread_mutex_unlock(lock_of(s, c));
		return e;
	}
	*r = (struct reading){.store = s, .c = c};
	return 0;
}

int read_begin(struct store *s, struct reading *r, struct banger_error *err)
{
	pthread_mutex_lock(&s->read_lock);
	return begin_reading(s, &s->reader, r, err);
}

int lookup_begin(struct store *s, struct reading *r, struct banger_error *err)
{
	if (pthread_mutex_trylock(&s->write_lock) != 0)
		return read_begin(s, r, err);
	return begin_reading(s, &s->writer, r, err);
}

void read_donep(struct reading *r)
{
	if (!r->store)
		return;
	if (!sqlite3_get_autocommit(r->c->db))
		connection_run(r->c, STORE_COMMIT, NULL);
	pthread_mutex_unlock(lock_of(r->store, r->c));
	r->store = NULL;
}
