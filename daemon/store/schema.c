/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The schema, as the steps that lead to it. user_version is the number of steps done; a step once
 * released is never changed, a new one is added at the end.
 *
 * Rows of images are clustered by id (WITHOUT ROWID), and the one index, (state, name), carries the
 * id: a change touches two pages beside the operation's, and a name is found in one descent. The
 * registry table has one row; its generation counts changes and only grows.
 */
#include "store/internal.h"

static const char *const steps[] = {
	/* 1 */
	"CREATE TABLE registry ("
	"  one INTEGER PRIMARY KEY CHECK (one = 1),"
	"  generation INTEGER NOT NULL"
	") STRICT;"
	"INSERT INTO registry (one, generation) VALUES (1, 0);"
	"CREATE TABLE images ("
	"  id TEXT NOT NULL PRIMARY KEY CHECK (length(id) = 16),"
	"  state INTEGER NOT NULL CHECK (state IN (0, 1)),"
	"  name TEXT NOT NULL,"
	"  generation INTEGER NOT NULL,"
	"  digest TEXT,"
	"  size INTEGER,"
	"  op_id TEXT,"
	"  created_us INTEGER NOT NULL,"
	"  published_us INTEGER,"
	"  source TEXT,"
	"  kernel TEXT,"
	"  config TEXT,"
	"  UNIQUE (state, name),"
	"  CHECK (state = 0 OR"
	"    (digest IS NOT NULL AND size IS NOT NULL AND published_us IS NOT NULL))"
	") STRICT, WITHOUT ROWID;"
	"CREATE TABLE kernels ("
	"  id TEXT NOT NULL PRIMARY KEY CHECK (length(id) = 16),"
	"  name TEXT NOT NULL UNIQUE,"
	"  version TEXT,"
	"  arch TEXT,"
	"  generation INTEGER NOT NULL,"
	"  size INTEGER NOT NULL,"
	"  imported_us INTEGER NOT NULL,"
	"  modules INTEGER NOT NULL,"
	"  initrd INTEGER NOT NULL,"
	"  op_id TEXT,"
	"  source TEXT"
	") STRICT, WITHOUT ROWID;"
	"CREATE TABLE ops ("
	"  seq INTEGER PRIMARY KEY,"
	"  op_id TEXT NOT NULL UNIQUE,"
	"  method TEXT NOT NULL,"
	"  params TEXT,"
	"  uid INTEGER NOT NULL,"
	"  gid INTEGER NOT NULL,"
	"  pid INTEGER NOT NULL,"
	"  program TEXT,"
	"  door TEXT,"
	"  vm TEXT,"
	"  started_us INTEGER NOT NULL,"
	"  elapsed_us INTEGER NOT NULL,"
	"  code TEXT," /* NULL: completed */
	"  message TEXT"
	") STRICT;"
	"CREATE TABLE op_lines ("
	"  seq INTEGER PRIMARY KEY,"
	"  op_id TEXT NOT NULL,"
	"  line TEXT NOT NULL"
	") STRICT;"
	"CREATE INDEX op_lines_op_id ON op_lines (op_id);",
	/* 2 */
	"CREATE TABLE vms ("
	"  id TEXT NOT NULL PRIMARY KEY CHECK (length(id) = 16),"
	"  name TEXT NOT NULL UNIQUE,"
	"  state INTEGER NOT NULL,"
	"  generation INTEGER NOT NULL,"
	"  op_id TEXT,"
	"  image_id TEXT NOT NULL,"
	"  image TEXT NOT NULL,"
	"  kernel_id TEXT NOT NULL,"
	"  kernel TEXT NOT NULL,"
	"  cpus INTEGER NOT NULL,"
	"  memory INTEGER NOT NULL,"
	"  disk INTEGER NOT NULL,"
	"  overlay INTEGER NOT NULL,"
	"  work_disk INTEGER NOT NULL,"
	"  network INTEGER NOT NULL,"
	"  registry INTEGER NOT NULL,"
	"  init INTEGER NOT NULL,"
	"  accel TEXT NOT NULL,"
	"  publish TEXT,"
	"  failure TEXT,"
	"  created_us INTEGER NOT NULL,"
	"  started_us INTEGER NOT NULL,"
	"  pid INTEGER NOT NULL,"
	"  pid_start INTEGER NOT NULL,"
	"  boot_id TEXT,"
	"  accel_used TEXT"
	") STRICT, WITHOUT ROWID;",
};

int schema_version(void)
{
	return ELEMENTSOF(steps);
}

static int migrate_one(struct store_connection *c, int step, struct banger_error *err)
{
	char sql[128];

	int r = connection_run(c, STORE_BEGIN_IMMEDIATE, err);
	if (r < 0)
		return r;
	snprintf(sql, sizeof(sql), "PRAGMA application_id = %d; PRAGMA user_version = %d",
		STORE_APPLICATION_ID, step + 1);
	if ((r = connection_exec(c, steps[step], err)) < 0 ||
		(r = connection_exec(c, sql, err)) < 0 ||
		(r = connection_run(c, STORE_COMMIT, err)) < 0) {
		if (!sqlite3_get_autocommit(c->db))
			connection_run(c, STORE_ROLLBACK, NULL);
		banger_error_prefix(err, "cannot bring the database to version %d", step + 1);
	}
	return r;
}

int schema_migrate(struct store_connection *c, struct banger_error *err)
{
	int64_t version;

	int r = connection_get_int(c, "PRAGMA user_version", &version, err);
	for (int64_t v = version; r == 0 && v < schema_version(); v++)
		r = migrate_one(c, v, err);
	return r;
}
