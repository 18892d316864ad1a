/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The durable floor: what registering, promoting and deleting an image cost when nothing but the
 * steps that make them durable is done, in the order that a crash at any instruction needs, by one
 * thread, with no protocol, no checks and no filesystem in between. The store's commit is the only
 * commit point and directories can be repaired from it, so a rename is not synced by itself; what a
 * row promises is synced before the row.
 *
 *	register  mkdir drafts/ID, commit
 *	promote   SHA-256 of the file, chmod, fsync of the file, of drafts/ID and of drafts/,
 *	          rename drafts/ID images/ID, commit
 *	delete    commit, rename images/ID trash/ID
 *
 * A commit is what the contract wants kept: the image's row, the generation that it takes, and the
 * record of the operation with who asked for it; WAL, synchronous=FULL. Usage: durable_floor DIR. Each line of stdin, "register ID", "promote ID" or
 *"delete ID", is answered on stdout with the microseconds that it took. The file to promote is
 * DIR/drafts/ID/rootfs.ext4, put there by the caller.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <openssl/evp.h>
#include <sqlite3.h>
#include <banger/cleanup.h>
#include <banger/log.h>

struct floor {
	sqlite3 *db;
	sqlite3_stmt *begin, *commit, *generation, *insert, *update, *delete, *op;
	int drafts, images, trash;
};

static void die(const char *what)
{
	perror(what);
	exit(EXIT_FAILURE);
}

static void must(int r, const char *what)
{
	if (r < 0)
		die(what);
}

static int open_subdir(int dir, const char *name)
{
	if (mkdirat(dir, name, 0700) < 0 && errno != EEXIST)
		die(name);
	int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	must(fd, name);
	return fd;
}

static sqlite3_stmt *prepare(sqlite3 *db, const char *sql)
{
	sqlite3_stmt *statement;
	if (sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, NULL) !=
		SQLITE_OK) {
		fprintf(stderr, "%s: %s\n", sql, sqlite3_errmsg(db));
		exit(EXIT_FAILURE);
	}
	return statement;
}

static void floor_open(struct floor *f, const char *path)
{
	int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	must(dir, path);
	f->drafts = open_subdir(dir, "drafts");
	f->images = open_subdir(dir, "images");
	f->trash = open_subdir(dir, "trash");
	must(fchdir(dir), path);
	close(dir);
	if (sqlite3_open("floor.db", &f->db) != SQLITE_OK ||
		sqlite3_exec(f->db,
			"PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
			"CREATE TABLE IF NOT EXISTS images (id TEXT PRIMARY KEY, name TEXT NOT "
			"NULL, state INTEGER NOT NULL,"
			" generation INTEGER NOT NULL, digest TEXT, size INTEGER, op_id TEXT, "
			"created INTEGER, UNIQUE (state, name)) STRICT;"
			"CREATE TABLE IF NOT EXISTS registry (one INTEGER PRIMARY KEY, generation "
			"INTEGER) STRICT; INSERT OR IGNORE INTO registry VALUES (1, 0);"
			"CREATE TABLE IF NOT EXISTS ops (op_id TEXT PRIMARY KEY, method TEXT, uid "
			"INTEGER, started INTEGER,"
			" elapsed INTEGER, params TEXT) STRICT;",
			NULL, NULL, NULL) != SQLITE_OK) {
		fprintf(stderr, "floor.db: %s\n", sqlite3_errmsg(f->db));
		exit(EXIT_FAILURE);
	}
	f->begin = prepare(f->db, "BEGIN IMMEDIATE");
	f->commit = prepare(f->db, "COMMIT");
	f->generation = prepare(f->db, "UPDATE registry SET generation = generation + 1");
	f->insert = prepare(f->db,
		"INSERT INTO images VALUES (?1, ?1, 0, 1, NULL, NULL, 'op-000000000000', 1)");
	f->update = prepare(
		f->db, "UPDATE images SET state = 1, digest = ?2, generation = 2 WHERE id = ?1");
	f->delete = prepare(f->db, "DELETE FROM images WHERE id = ?1");
	f->op = prepare(f->db, "INSERT OR REPLACE INTO ops VALUES (?1 || ?2, ?2, 0, 1, 1, ?1)");
}

static void step(sqlite3_stmt *statement, const char *a, const char *b)
{
	sqlite3_bind_text(statement, 1, a, -1, SQLITE_STATIC);
	sqlite3_bind_text(statement, 2, b, -1, SQLITE_STATIC);
	if (sqlite3_step(statement) != SQLITE_DONE) {
		fprintf(stderr, "%s: %s\n", sqlite3_sql(statement),
			sqlite3_errmsg(sqlite3_db_handle(statement)));
		exit(EXIT_FAILURE);
	}
	sqlite3_reset(statement);
}

static void commit(struct floor *f, sqlite3_stmt *change, const char *id, const char *digest,
	const char *method)
{
	step(f->begin, NULL, NULL);
	step(f->generation, NULL, NULL);
	step(change, id, digest);
	step(f->op, id, method);
	step(f->commit, NULL, NULL);
}

/* The digest as hexadecimal text. Read in pieces that fit the cache. */
static void digest_fd(int fd, char hex[EVP_MAX_MD_SIZE * 2 + 1])
{
	static char buffer[256 * 1024];
	unsigned char raw[EVP_MAX_MD_SIZE];
	unsigned len = 0;
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	ssize_t n;

	if (!md || !EVP_DigestInit_ex(md, EVP_sha256(), NULL))
		die("sha256");
	while ((n = read(fd, buffer, sizeof(buffer))) > 0)
		EVP_DigestUpdate(md, buffer, n);
	must(n, "read");
	EVP_DigestFinal_ex(md, raw, &len);
	EVP_MD_CTX_free(md);
	for (unsigned i = 0; i < len; i++)
		sprintf(hex + 2 * i, "%02x", raw[i]);
}

static void floor_register(struct floor *f, const char *id)
{
	must(mkdirat(f->drafts, id, 0700), id);
	commit(f, f->insert, id, NULL, "register");
}

static void floor_promote(struct floor *f, const char *id)
{
	char digest[EVP_MAX_MD_SIZE * 2 + 1];
	_cleanup_close_ int dir = openat(f->drafts, id, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	must(dir, id);
	_cleanup_close_ int fd = openat(dir, "rootfs.ext4", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	must(fd, "rootfs.ext4");
	digest_fd(fd, digest);
	must(fchmod(fd, 0444), "fchmod");
	must(fsync(fd), "fsync");
	must(fsync(dir), "fsync");
	must(fsync(f->drafts), "fsync");
	must(renameat2(f->drafts, id, f->images, id, RENAME_NOREPLACE), "rename");
	commit(f, f->update, id, digest, "promote");
}

static void floor_delete(struct floor *f, const char *id)
{
	commit(f, f->delete, id, NULL, "delete");
	must(renameat(f->images, id, f->trash, id), "rename");
}

int main(int argc, char **argv)
{
	struct floor f = {0};
	char line[256];

	if (argc != 2) {
		fprintf(stderr, "usage: durable_floor DIR\n");
		return 2;
	}
	floor_open(&f, argv[1]);
	while (fgets(line, sizeof(line), stdin)) {
		char verb[16], id[128];
		if (sscanf(line, "%15s %127s", verb, id) != 2) {
			fprintf(stderr, "not understood: %s", line);
			return 2;
		}
		int64_t start = banger_monotonic_us();
		if (!strcmp(verb, "register"))
			floor_register(&f, id);
		else if (!strcmp(verb, "promote"))
			floor_promote(&f, id);
		else
			floor_delete(&f, id);
		printf("%lld\n", (long long)(banger_monotonic_us() - start));
		fflush(stdout);
	}
	return 0;
}
