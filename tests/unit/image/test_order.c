/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The order of durable steps, as the kernel sees it: fsync, fdatasync (SQLite's commit) and renames
 * are caught on their way and written down. And what a commit that fails leaves: the store is made
 * to refuse by a trigger.
 */
#include "fixture.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sqlite3.h>
#include <sys/syscall.h>

static char trace[4096];
static atomic_bool tracing;
static struct fixture *traced;
static pthread_t thread;

/* The trash and the operations' journal have threads of their own. */
static bool noting(void)
{
	return tracing && pthread_equal(thread, pthread_self());
}

static void note(const char *what)
{
	size_t n = strlen(trace);
	snprintf(trace + n, sizeof(trace) - n, "%s ", what);
}

/* The path below the state directory, an image's id shown as ID. */
static void note_path(const char *verb, int fd, const char *name)
{
	char link[64], target[300], text[400];

	if (!noting())
		return;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, target, sizeof(target) - 1);
	target[n > 0 ? n : 0] = 0;
	const char *at = target;
	if (!strncmp(at, traced->dir, strlen(traced->dir)))
		at += strlen(traced->dir);
	snprintf(text, sizeof(text), "%s:%s%s%s", verb, at, name ? "/" : "", name ?: "");
	for (char *p = text; (p = strchr(p, '/')); p++) {
		char id[BANGER_ID_LEN + 1] = "";
		strncat(id, p + 1, BANGER_ID_LEN);
		if (!banger_id_valid(id))
			continue;
		memmove(p + 3, p + 1 + BANGER_ID_LEN, strlen(p + 1 + BANGER_ID_LEN) + 1);
		memcpy(p + 1, "ID", 2);
	}
	note(text);
}

int fsync(int fd)
{
	note_path("fsync", fd, NULL);
	return (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd)
{
	note_path("commit", fd, NULL);
	return (int)syscall(SYS_fdatasync, fd);
}

int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags)
{
	note_path("from", from_fd, from);
	note_path("to", to_fd, to);
	return (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, flags);
}

/* A filesystem without leases. */
static bool no_leases;

int fcntl(int fd, int cmd, ...)
{
	va_list ap;
	va_start(ap, cmd);
	long arg = va_arg(ap, long);
	va_end(ap);
	if (cmd == F_SETLEASE && no_leases) {
		errno = EOPNOTSUPP;
		return -1;
	}
	return (int)syscall(SYS_fcntl, fd, cmd, arg);
}

/* A path that cannot be opened before somebody lets it. */
static atomic_bool stuck, opened;

int open(const char *p, int flags, ...)
{
	va_list ap;
	va_start(ap, flags);
	int mode = flags & O_CREAT ? va_arg(ap, int) : 0;
	va_end(ap);
	while (!strncmp(p, "/proc/self/fd/", 14) && atomic_load(&stuck))
		usleep(1000);
	int fd = (int)syscall(SYS_openat, AT_FDCWD, p, flags, mode);
	atomic_store(&opened, true);
	return fd;
}

#define TRACE(f, call)                                                                             \
	do {                                                                                       \
		traced = (f);                                                                      \
		thread = pthread_self();                                                           \
		trace[0] = 0;                                                                      \
		tracing = true;                                                                    \
		assert_ok(f, call);                                                                \
		tracing = false;                                                                   \
	} while (0)

static void order(void **state)
{
	struct fixture *f = *state;
	_cleanup_image_ struct banger_image i = {0};
	struct image_import in = {.name = "nimported", .format = "raw"};

	TRACE(f, do_register(f, "nweb", &i));
	assert_string_equal(trace, "commit:/registry.db-wal ");
	put_rootfs(f, i.id);
	put_file(f, i.id, "README", "x");
	TRACE(f, do_promote(f, "nweb", NULL, NULL));
	/* The two files in whatever order the directory has them. */
	const char *rest = strstr(trace, "fsync:/drafts/ID ");
	assert_non_null(rest);
	assert_string_equal(rest, "fsync:/drafts/ID fsync:/drafts from:/drafts/ID to:/images/ID "
				  "commit:/registry.db-wal ");
	assert_non_null(strstr(trace, "fsync:/drafts/ID/rootfs.ext4 "));
	assert_non_null(strstr(trace, "fsync:/drafts/ID/README "));
	TRACE(f, do_rename(f, "nweb", "nother", NULL));
	assert_string_equal(trace, "commit:/registry.db-wal ");
	in.fd = open(sound_image(), O_RDONLY | O_CLOEXEC);
	TRACE(f, do_import(f, &in, NULL));
	close(in.fd);
	assert_string_equal(trace, "fsync:/staging/ID/rootfs.ext4 fsync:/staging/ID fsync:/staging "
				   "from:/staging/ID to:/images/ID commit:/registry.db-wal ");
	TRACE(f, do_swap(f, "nother", "nimported"));
	assert_string_equal(trace, "commit:/registry.db-wal ");
	TRACE(f, do_delete(f, "nother"));
	assert_string_equal(trace, "commit:/registry.db-wal from:/images/ID to:/trash/ID ");
}

static void copies_are_synced_in_place(void **state)
{
	struct fixture *f = *state;
	_cleanup_image_ struct banger_image i = {0};

	assert_ok(f, do_register(f, "nweb", &i));
	assert_ok(f, image_service_draft_symlink(f->service, i.id, ROOTFS, sound_image(), &f->err));
	TRACE(f, do_promote(f, "nweb", NULL, NULL));
	assert_string_equal(trace, "from:/staging/ID.promote/0.copy to:/drafts/ID/rootfs.ext4 "
				   "fsync:/drafts/ID/rootfs.ext4 fsync:/drafts/ID fsync:/drafts "
				   "from:/drafts/ID to:/images/ID commit:/registry.db-wal "
				   "from:/staging/ID.promote to:/trash/ID.promote ");
}

/* Where it cannot be known who else writes, a copy is published, and the draft's own file given up.
 */
static void copies_without_leases(void **state)
{
	struct fixture *f = *state;
	char id[BANGER_ID_LEN + 1], byte = 1;
	struct image_verdict v = {0};
	struct stat before, after;

	make_draft(f, "nweb", id);
	int writer = open(path(f, "drafts/%s/" ROOTFS, id), O_RDWR | O_CLOEXEC);
	assert_int_equal(fstat(writer, &before), 0);
	no_leases = true;
	/* It fails late once, and all is as it was. */
	assert_int_equal(mkdir(path(f, "images/%s", id), 0700), 0);
	assert_code(f, do_promote(f, "nweb", NULL, NULL), EXISTS);
	assert_int_equal(rmdir(path(f, "images/%s", id)), 0);
	assert_int_equal(stat(path(f, "drafts/%s/" ROOTFS, id), &after), 0);
	assert_true(before.st_ino == after.st_ino && before.st_mode == after.st_mode);
	wait_trash(f);
	assert_ok(f, do_promote(f, "nweb", NULL, NULL));
	no_leases = false;
	assert_int_equal(pwrite(writer, &byte, 1, 5 << 20), 1);
	close(writer);
	assert_int_equal(stat(path(f, "images/%s/" ROOTFS, id), &after), 0);
	assert_true(before.st_ino != after.st_ino);
	assert_ok(f, do_verify(f, "nweb", &v));
	assert_true(v.digest_ok && v.fsck_ok);
	banger_image_done(&v.image);
}

static void reference_that_cannot_be_opened(void **state)
{
	struct fixture *f = *state;
	_cleanup_image_ struct banger_image i = {0};

	assert_ok(f, do_register(f, "nweb", &i));
	assert_ok(f, image_service_draft_symlink(f->service, i.id, ROOTFS, sound_image(), &f->err));
	stuck = true;
	assert_code(f, do_promote(f, "nweb", NULL, NULL), TIMEOUT);
	assert_int_equal(count_dir(path(f, "staging")), 0);
	/* The thread that was left behind goes by itself, and all is as before. */
	opened = false;
	stuck = false;
	while (!opened)
		usleep(1000);
	assert_ok(f, do_promote(f, "nweb", NULL, NULL));
}

static void sql(struct fixture *f, const char *text)
{
	sqlite3 *db;
	char *error = NULL;

	assert_int_equal(sqlite3_open(path(f, "registry.db"), &db), SQLITE_OK);
	sqlite3_busy_timeout(db, 5000);
	if (sqlite3_exec(db, text, NULL, NULL, &error) != SQLITE_OK)
		print_error("%s: %s\n", text, error);
	assert_null(error);
	sqlite3_close(db);
}

static void failed_commits(void **state)
{
	struct fixture *f = *state;
	struct image_import in = {.name = "nimported", .format = "raw"};
	char draft[BANGER_ID_LEN + 1], image[BANGER_ID_LEN + 1];

	make_draft(f, "ndraft", draft);
	put_file(f, draft, "README", "hello");
	make_image(f, "nimage", image);
	sql(f, "CREATE TABLE saved AS SELECT generation FROM registry;"
	       "UPDATE registry SET generation = 9223372036854775807;");
	in.fd = open(sound_image(), O_RDONLY | O_CLOEXEC);
	assert_true(do_register(f, "nother", NULL) < 0);
	assert_true(do_promote(f, "ndraft", NULL, NULL) < 0);
	assert_true(do_import(f, &in, NULL) < 0);
	assert_true(do_rename(f, "nimage", "nother", NULL) < 0);
	assert_true(do_delete(f, "nimage") < 0);
	assert_true(do_configure(f, "ndraft", "{}", NULL) < 0);
	close(in.fd);
	wait_trash(f);
	assert_int_equal(count_dir(path(f, "staging")), 0);
	assert_int_equal(count_dir(path(f, "drafts")), 1);
	assert_int_equal(count_dir(path(f, "images")), 1);
	assert_int_equal(mode_of(path(f, "drafts/%s/README", draft)), 0640);
	assert_int_equal(disagreements(f), 0);
	sql(f, "UPDATE registry SET generation = (SELECT generation FROM saved); DROP TABLE "
	       "saved;");
	assert_ok(f, do_promote(f, "ndraft", NULL, NULL));
	assert_ok(f, do_delete(f, "nimage"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {TEST(order), TEST(copies_are_synced_in_place),
		TEST(copies_without_leases), TEST(reference_that_cannot_be_opened),
		TEST(failed_commits)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
