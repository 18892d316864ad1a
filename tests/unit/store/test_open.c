/* SPDX-License-Identifier: Apache-2.0 */
/* Opening: what is refused, with which words, and that it is left as it was. */
#include "fixture.h"
#include <sqlite3.h>
#include <sys/stat.h>
#include <sys/wait.h>

static void path_of(const struct fixture *f, const char *name, char *to, size_t size)
{
	snprintf(to, size, "%s/%s", f->dir, name);
}

/* Run SQL on the database, which no store has open. */
static void tamper(const struct fixture *f, const char *sql)
{
	char path[128];
	sqlite3 *db;

	path_of(f, "registry.db", path, sizeof(path));
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
}

static void overwrite(const struct fixture *f, off_t at, size_t n, char with)
{
	_cleanup_close_ int fd = openat(f->dir_fd, "registry.db", O_WRONLY);
	char b[8192];

	memset(b, with, sizeof(b));
	assert_true(n <= sizeof(b));
	assert_int_equal(pwrite(fd, b, n, at), n);
}

static void opens_again(void **state)
{
	struct fixture *f = *state;
	struct banger_error err = {0};
	struct banger_image i = make_draft("web");
	struct store_description d;
	struct stat st;
	int64_t g;

	assert_ok(store_image_insert(f->store, &i, NULL, &err), err);
	assert_ok(store_describe(f->store, &d, &err), err);
	assert_string_equal(d.journal, "wal");
	assert_int_equal(d.schema, 2);
	store_closep(&f->store);
	assert_int_equal(fstatat(f->dir_fd, "registry.db-wal", &st, 0), -1);
	assert_ok(open_store(f, &err), err);
	assert_ok(store_generation(f->store, &g, &err), err);
	assert_int_equal(g, 1);
}

static void refuses_a_second_daemon(void **state)
{
	struct fixture *f = *state;
	struct banger_error err = {0};
	struct store *second = NULL;
	char pid[32];

	assert_int_equal(store_open(f->dir_fd, f->dir, &second, &err), -EBUSY);
	assert_null(second);
	snprintf(pid, sizeof(pid), "(pid %d)", getpid());
	assert_non_null(strstr(err.message, pid));
	assert_non_null(strstr(err.message, f->dir));
}

/* A daemon that was killed leaves its lock file, and no lock. */
static void takes_over_after_a_crash(void **state)
{
	struct fixture *f = *state;
	struct banger_error err = {0};
	struct banger_image i = make_draft("web"), found;
	int status;

	store_closep(&f->store);
	pid_t pid = fork();
	if (pid == 0) {
		struct banger_image mine = make_draft("crashed");
		if (open_store(f, NULL) == 0 &&
			store_image_insert(f->store, &mine, NULL, NULL) == 0)
			kill(getpid(), SIGKILL);
		_exit(1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	assert_ok(open_store(f, &err), err);
	assert_ok(store_image_find(f->store, "crashed", -1, &found, &err), err);
	assert_int_equal(found.generation, 1);
	assert_ok(store_image_insert(f->store, &i, NULL, &err), err);
	assert_int_equal(i.generation, 2);
}

/* The log's file is longer than the log: what is behind its end is not taken for a part of it, and what was
 * committed before and after it was made long, and after it began anew, is there. */
static void finds_the_end_of_a_long_log(void **state)
{
	struct fixture *f = *state;
	struct banger_error err = {0};
	struct banger_image found = {0};
	char path[128], name[32];
	struct stat st;
	int status;

	store_closep(&f->store);
	pid_t pid = fork();
	if (pid == 0) {
		int r = open_store(f, NULL);
		for (int i = 0; r == 0 && i < 600; i++) {
			struct banger_image mine = make_draft("x");
			snprintf(mine.name, sizeof(mine.name), "d%d", i);
			r = store_image_insert(f->store, &mine, NULL, NULL);
			if (i % 100 == 50)
				store_maintain(f->store);
		}
		if (r == 0)
			kill(getpid(), SIGKILL);
		_exit(1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	path_of(f, "registry.db-wal", path, sizeof(path));
	assert_int_equal(stat(path, &st), 0);
	/* Made long, and not made longer by what was written. */
	assert_int_equal(st.st_size, 32 + 2000 * 4120);
	assert_ok(open_store(f, &err), err);
	for (int i = 0; i < 600; i++) {
		snprintf(name, sizeof(name), "drafts/d%d", i);
		assert_ok(store_image_find(f->store, name, -1, &found, &err), err);
		banger_image_done(&found);
	}
}

static void refuses_the_future(void **state)
{
	struct fixture *f = *state;
	struct banger_error err = {0};

	store_closep(&f->store);
	tamper(f, "PRAGMA user_version = 9");
	assert_int_equal(open_store(f, &err), -EOPNOTSUPP);
	assert_int_equal(err.code, BANGER_UNSUPPORTED);
	assert_non_null(strstr(err.message, "newer banger wrote it (version 9"));
	tamper(f, "PRAGMA user_version = 2");
	assert_ok(open_store(f, &err), err);
}

static void refuses_garbage(void **state)
{
	struct fixture *f = *state;
	struct banger_error err = {0};
	struct stat before, after;

	store_closep(&f->store);
	overwrite(f, 0, 4096, 'x');
	assert_int_equal(fstatat(f->dir_fd, "registry.db", &before, 0), 0);
	assert_int_equal(open_store(f, &err), -EUCLEAN);
	assert_int_equal(err.code, BANGER_CORRUPT);
	assert_non_null(strstr(err.message, "nothing was changed"));
	assert_int_equal(fstatat(f->dir_fd, "registry.db", &after, 0), 0);
	assert_int_equal(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec);
	assert_int_equal(before.st_size, after.st_size);
}

static void refuses_a_damaged_page(void **state)
{
	struct fixture *f = *state;
	struct banger_error err = {0};
	struct stat st;

	for (int k = 0; k < 200; k++) {
		char name[16];
		snprintf(name, sizeof(name), "image-%d", k);
		struct banger_image i = make_draft(name);
		assert_ok(store_image_insert(f->store, &i, NULL, &err), err);
	}
	store_closep(&f->store);
	assert_int_equal(fstatat(f->dir_fd, "registry.db", &st, 0), 0);
	overwrite(f, st.st_size - 4096, 4096, '\x55');
	assert_int_equal(open_store(f, &err), -EUCLEAN);
	assert_int_equal(err.code, BANGER_CORRUPT);
	/* The lock is not kept by one who was refused. */
	assert_int_equal(open_store(f, &err), -EUCLEAN);
}

static void refuses_another_programs_database(void **state)
{
	struct fixture *f = *state;
	struct banger_error err = {0};
	char path[128];
	sqlite3 *db;

	store_closep(&f->store);
	path_of(f, "registry.db", path, sizeof(path));
	assert_int_equal(unlink(path), 0);
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, "CREATE TABLE bookmarks (url)", 0, 0, 0), SQLITE_OK);
	sqlite3_close(db);
	assert_int_equal(open_store(f, &err), -EUCLEAN);
	assert_non_null(strstr(err.message, "another program"));
	tamper(f, "SELECT * FROM bookmarks");
}

static void makes_an_empty_file_ours(void **state)
{
	struct fixture *f = *state;
	struct banger_error err = {0};
	char path[128];

	store_closep(&f->store);
	path_of(f, "registry.db", path, sizeof(path));
	assert_int_equal(truncate(path, 0), 0);
	assert_ok(open_store(f, &err), err);
}

static void says_where_it_cannot_write(void **state)
{
	struct fixture *f = *state;
	struct banger_error err = {0};
	char path[128];

	store_closep(&f->store);
	path_of(f, "registry.db", path, sizeof(path));
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkdir(path, 0700), 0);
	assert_true(open_store(f, &err) < 0);
	assert_non_null(strstr(err.message, path));
	assert_int_equal(rmdir(path), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, fixture_setup, fixture_teardown)
		T(opens_again), T(refuses_a_second_daemon), T(takes_over_after_a_crash),
		T(finds_the_end_of_a_long_log), T(refuses_the_future), T(refuses_garbage),
		T(refuses_a_damaged_page), T(refuses_another_programs_database),
		T(makes_an_empty_file_ours), T(says_where_it_cannot_write)};

	return cmocka_run_group_tests_name("store/open", tests, NULL, NULL);
}
