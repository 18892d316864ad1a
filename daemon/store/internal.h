/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shared by the files of daemon/store alone: connections, transactions, rows.
 *
 * A connection is used by one thread at a time: the writing and the reading one behind their mutexes, a
 * view's by its owner. Statements are prepared at first use, kept with their connection, and must be handed
 * back (statement_done) before the transaction ends.
 */
#ifndef BANGER_STORE_INTERNAL_H
#define BANGER_STORE_INTERNAL_H

#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include "store/store.h"

#define STORE_APPLICATION_ID 0x626e6772 /* "bngr", in the database's header */

/* The columns of a row in the order in which *_from_row() reads them. */
#define IMAGE_COLUMNS                                                                              \
	"id, state, name, generation, digest, size, op_id, created_us, published_us, source, "     \
	"kernel, config"
#define KERNEL_COLUMNS                                                                             \
	"id, name, version, arch, generation, size, imported_us, modules, initrd, op_id, source"
#define VM_COLUMNS                                                                                 \
	"id, name, state, generation, op_id, image_id, image, kernel_id, kernel, cpus, memory, "   \
	"disk, overlay, work_disk, network, registry, init, accel, publish, failure, "             \
	"created_us, started_us, pid, pid_start, boot_id, accel_used"
#define OP_COLUMNS                                                                                 \
	"op_id, method, params, uid, gid, pid, program, door, vm, started_us, elapsed_us, code, "  \
	"message"

/* X(name, text): every statement but those of the schema. */
#define STORE_STATEMENTS(X)                                                                        \
	X(BEGIN, "BEGIN")                                                                          \
	X(BEGIN_IMMEDIATE, "BEGIN IMMEDIATE")                                                      \
	X(COMMIT, "COMMIT")                                                                        \
	X(ROLLBACK, "ROLLBACK")                                                                    \
	X(GENERATION, "SELECT generation FROM registry")                                           \
	X(NEXT_GENERATION,                                                                         \
		"UPDATE registry SET generation = generation + 1 RETURNING generation")            \
	X(COUNT, "SELECT (SELECT count(*) FROM images WHERE state = 1), "                          \
		 "(SELECT count(*) FROM images WHERE state = 0), (SELECT count(*) FROM kernels)")  \
	X(IMAGE_STATE, "SELECT state FROM images WHERE id = ?1")                                   \
	X(IMAGE_BY_ID, "SELECT " IMAGE_COLUMNS " FROM images WHERE id = ?1")                       \
	X(IMAGE_BY_NAME,                                                                           \
		"SELECT " IMAGE_COLUMNS " FROM images WHERE state = ?2 AND name = ?1")             \
	X(IMAGE_ID_PREFIX, "SELECT id FROM images WHERE id >= ?1 AND id < ?2 AND "                 \
			   "state BETWEEN ?3 AND ?4 LIMIT 2")                                      \
	X(IMAGE_NAME_PREFIX,                                                                       \
		"SELECT id FROM images WHERE state = ?3 AND name >= ?1 AND name < ?2 LIMIT 2")     \
	X(IMAGE_INSERT, "INSERT INTO images (" IMAGE_COLUMNS ") "                                  \
			"VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)")              \
	X(IMAGE_UPDATE, "UPDATE images SET state = ?2, name = ?3, generation = ?4, digest = ?5, "  \
			"size = ?6, op_id = ?7, created_us = ?8, published_us = ?9, "              \
			"source = ?10, kernel = ?11, config = ?12 WHERE id = ?1")                  \
	X(IMAGE_RENAME, "UPDATE images SET name = ?2, generation = ?3 WHERE id = ?1")              \
	X(IMAGE_DELETE, "DELETE FROM images WHERE id = ?1")                                        \
	X(IMAGES_AFTER, "SELECT " IMAGE_COLUMNS " FROM images WHERE id > ?1 AND "                  \
			"state BETWEEN ?2 AND ?3 ORDER BY id")                                     \
	X(KERNEL_BY_ID, "SELECT " KERNEL_COLUMNS " FROM kernels WHERE id = ?1")                    \
	X(KERNEL_BY_NAME, "SELECT " KERNEL_COLUMNS " FROM kernels WHERE name = ?1")                \
	X(KERNEL_ID_PREFIX, "SELECT id FROM kernels WHERE id >= ?1 AND id < ?2 LIMIT 2")           \
	X(KERNEL_NAME_PREFIX, "SELECT id FROM kernels WHERE name >= ?1 AND name < ?2 LIMIT 2")     \
	X(KERNEL_INSERT, "INSERT INTO kernels (" KERNEL_COLUMNS ") "                               \
			 "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)")                  \
	X(KERNEL_DELETE, "DELETE FROM kernels WHERE id = ?1")                                      \
	X(KERNELS_AFTER, "SELECT " KERNEL_COLUMNS " FROM kernels WHERE id > ?1 ORDER BY id")       \
	X(VM_PUT, "INSERT INTO vms (" VM_COLUMNS ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, "  \
		  "?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, "    \
		  "?25, ?26) ON CONFLICT (id) DO UPDATE SET name = ?2, state = ?3, "               \
		  "generation = ?4, op_id = ?5, image_id = ?6, image = ?7, kernel_id = ?8, "       \
		  "kernel = ?9, cpus = ?10, memory = ?11, disk = ?12, overlay = ?13, "             \
		  "work_disk = ?14, network = ?15, registry = ?16, init = ?17, accel = ?18, "      \
		  "publish = ?19, failure = ?20, created_us = ?21, started_us = ?22, pid = ?23, "  \
		  "pid_start = ?24, boot_id = ?25, accel_used = ?26")                              \
	X(VM_DELETE, "DELETE FROM vms WHERE id = ?1")                                              \
	X(VMS_AFTER, "SELECT " VM_COLUMNS " FROM vms WHERE id > ?1 ORDER BY id")                   \
	X(OP_PUT, "INSERT OR REPLACE INTO ops (" OP_COLUMNS ") "                                   \
		  "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)")               \
	X(OP_BY_ID, "SELECT " OP_COLUMNS " FROM ops WHERE op_id = ?1")                             \
	X(OP_PREFIX, "SELECT op_id FROM ops WHERE op_id >= ?1 AND op_id < ?2 LIMIT 2")             \
	X(OPS_NEWEST, "SELECT " OP_COLUMNS " FROM ops WHERE (?1 = 0 OR code IS NOT NULL) AND "     \
		      "(?2 < 0 OR uid = ?2) ORDER BY started_us DESC, seq DESC LIMIT ?3")                           \
	X(OPS_BOUND, "SELECT seq FROM ops ORDER BY seq DESC LIMIT 1 OFFSET ?1")                    \
	X(OPS_TRIM_LINES, "DELETE FROM op_lines WHERE op_id IN "                                   \
			  "(SELECT op_id FROM ops WHERE seq <= ?1)")                               \
	X(OPS_TRIM, "DELETE FROM ops WHERE seq <= ?1")                                             \
	X(OPS_TRIM_LINES_OF_VMS, "DELETE FROM op_lines WHERE op_id IN (SELECT op_id FROM ops "     \
				 "WHERE vm IS NOT NULL ORDER BY seq DESC LIMIT -1 OFFSET ?1)")     \
	X(OPS_TRIM_VMS, "DELETE FROM ops WHERE seq IN (SELECT seq FROM ops "                       \
			"WHERE vm IS NOT NULL ORDER BY seq DESC LIMIT -1 OFFSET ?1)")              \
	X(LINE_PUT, "INSERT INTO op_lines (op_id, line) VALUES (?1, ?2)")                          \
	X(LINES_OF_OP, "SELECT line FROM op_lines WHERE op_id = ?1 ORDER BY seq")                  \
	X(LINES_NEWEST, "SELECT line FROM (SELECT seq, line FROM op_lines ORDER BY seq DESC "      \
			"LIMIT ?1) ORDER BY seq")                                                  \
	X(LINES_TRIM,                                                                              \
		"DELETE FROM op_lines WHERE seq <= (SELECT max(seq) FROM op_lines) - ?1")

enum store_statement {
#define X(name, text) STORE_##name,
	STORE_STATEMENTS(X)
#undef X
		STORE_STATEMENT_COUNT
};

struct store_connection {
	sqlite3 *db;
	sqlite3_stmt *statements[STORE_STATEMENT_COUNT];
};

#define STORE_VIEWS_KEPT 4
/* Length of the write-ahead log, in pages of 4 KiB, from which it is copied into the database so that it can
 * begin anew; which its file is given room for; from which a commit copies it itself. */
#define STORE_WAL_PAGES 1000
#define STORE_WAL_PAGES_ROOM 2000
#define STORE_WAL_PAGES_MAX 8000
/* Of the log's index: 32 KiB for each 4096 pages, with much to spare for a log that a view keeps. */
#define STORE_INDEX_ROOM (1 << 20)

struct store {
	char *path; /* of the database */
	int lock_fd;
	pthread_mutex_t write_lock, read_lock, checkpoint_lock, views_lock;
	struct store_connection writer, reader, checkpointer;
	struct store_connection *views[STORE_VIEWS_KEPT]; /* idle, for the next store_view_open() */
	size_t n_views;
	atomic_int wal_pages; /* length of the write-ahead log after the last commit */
	/* How many rows there are, kept up to date by commits from the first store_count() on. */
	atomic_int_least64_t images[2], kernels;
	atomic_bool counted;
	atomic_bool has_room; /* the write-ahead log's file was made long */
	int checkpoint_at;    /* the length at which a commit makes a checkpoint itself; by write_lock */
};

/* ---- connection.c */

/* Open `path` with the settings that every connection has. create: make the file if it is missing. */
int connection_open(const char *path, bool create, struct store_connection *c, struct banger_error *err);
/* Settings that need a database known to be ours: WAL, synchronous, cache of `cache_kib`. */
int connection_configure(struct store_connection *c, int cache_kib, struct banger_error *err);
void connection_close(struct store_connection *c);

/* Fill err from a failed call; returns -errno. what: "cannot read the registry". */
int store_error(sqlite3 *db, int rc, struct banger_error *err, const char *what);
/* Run one statement of text that returns nothing. */
int connection_exec(struct store_connection *c, const char *sql, struct banger_error *err);
/* The first column of the first row of `sql`, as an integer; as text (caller frees). */
int connection_get_int(struct store_connection *c, const char *sql, int64_t *ret, struct banger_error *err);
int connection_get_text(struct store_connection *c, const char *sql, char **ret, struct banger_error *err);

/* The prepared statement, reset. */
int statement_get(struct store_connection *c, enum store_statement which, sqlite3_stmt **ret, struct banger_error *err);
/* Hand it back: reset, bindings cleared. Accepts NULL. */
void statement_donep(sqlite3_stmt **st);
#define _cleanup_statement_ _cleanup_(statement_donep)
/* Bind a string that outlives the step; NULL and, for _opt, "" are NULL. */
void bind_text(sqlite3_stmt *st, int i, const char *s);
void bind_text_opt(sqlite3_stmt *st, int i, const char *s);
/* Step a statement that returns no rows. */
int statement_run(struct store_connection *c, sqlite3_stmt *st, struct banger_error *err, const char *what);
/* Run a statement that has no parameters. */
int connection_run(struct store_connection *c, enum store_statement which, struct banger_error *err);
/* Text of a column into an array (cut to fit: the schema's rows are ours), or a copy. */
void column_array(sqlite3_stmt *st, int i, char *to, size_t size);
int column_dup(sqlite3_stmt *st, int i, char **to);

/* The range [lo, hi) of strings that begin with `word`. False for a word that no name or id has. */
struct prefix_range {
	char lo[BANGER_NAME_MAX + 1], hi[BANGER_NAME_MAX + 1];
};
bool prefix_range(const char *word, struct prefix_range *ret);
/* Collect into ids the different keys that the statement gives for the range: their number, at most 2. */
struct prefix_matches {
	char ids[2][BANGER_ID_LEN + 1];
	int n;
};
int prefix_collect(struct store_connection *c, enum store_statement which, const struct prefix_range *range,
	int state_lo, int state_hi, struct prefix_matches *m, struct banger_error *err);

/* ---- transactions of the writing connection */

/* The writing lock and an open transaction. Ended by write_commit(); else rolled back at scope end. */
struct write {
	struct store *store;
	struct store_connection *c;
	int images[2], kernels; /* by how many rows it changes what store_count() counts */
};
int write_begin(struct store *s, struct write *w, struct banger_error *err);
int write_commit(struct write *w, struct banger_error *err);
void write_donep(struct write *w);
#define _cleanup_write_ _cleanup_(write_donep)
/* Take the next generation, in the transaction. */
int write_generation(struct write *w, int64_t *ret, struct banger_error *err);
/* Put the record of the operation beside the change it made; op may be NULL. ops.c */
int write_op(struct write *w, const struct banger_op_record *op, struct banger_error *err);

/* A read transaction, with the lock of its connection: the reading one; for a lookup the writing one when
 * nobody writes, because its cache outlives changes and the reading one's does not. */
struct reading {
	struct store *store;
	struct store_connection *c;
};
int read_begin(struct store *s, struct reading *r, struct banger_error *err);
int lookup_begin(struct store *s, struct reading *r, struct banger_error *err);
void read_donep(struct reading *r);
#define _cleanup_read_ _cleanup_(read_donep)

/* ---- schema.c */

/* Bring an empty or older database to this program's schema, each step in a transaction. */
int schema_migrate(struct store_connection *c, struct banger_error *err);
int schema_version(void);

/* ---- rows */
int image_from_row(sqlite3_stmt *st, struct banger_image *ret, struct banger_error *err);
int kernel_from_row(sqlite3_stmt *st, struct banger_kernel *ret, struct banger_error *err);
int vm_from_row(sqlite3_stmt *st, struct banger_vm *ret, struct banger_error *err);

#endif
