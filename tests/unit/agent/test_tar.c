/* SPDX-License-Identifier: Apache-2.0 */
/* Trees out of a directory and into another by way of a tar stream; and streams that are none, or want out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <banger/cleanup.h>
#include "parts.h" /* cmocka has a fail() too, a macro */
#include <cmocka.h>
#include "tar.h"

static char from[] = "/tmp/banger-tar-XXXXXX", to[] = "/tmp/banger-tar-XXXXXX";

static const char *at(const char *dir, const char *name)
{
	static char path[4][2 * PATH_MAX];
	static int turn;
	char *p = path[turn++ % 4];

	snprintf(p, sizeof(path[0]), "%s/%s", dir, name);
	return p;
}

static int setup(void **state)
{
	strcpy(from + strlen(from) - 6, "XXXXXX");
	strcpy(to + strlen(to) - 6, "XXXXXX");
	return mkdtemp(from) && mkdtemp(to) ? 0 : -1;
}

static int teardown(void **state)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -rf %s %s", from, to);
	return system(command);
}

static void make(const char *name, const char *text, mode_t mode)
{
	int fd = open(at(from, name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	fchmod(fd, mode);
	close(fd);
}

struct get {
	int fd, r;
	char why[WHY_MAX];
};

static void *get(void *arg)
{
	struct get *g = arg;

	g->r = tar_get(g->fd, from, g->why);
	close(g->fd);
	return NULL;
}

/* from/ to to/NAME-OF-FROM */
static void carry(void)
{
	char why[WHY_MAX] = "";
	pthread_t thread;
	struct get g = {0};
	int p[2];

	assert_int_equal(pipe(p), 0);
	g.fd = p[1];
	assert_int_equal(pthread_create(&thread, NULL, get, &g), 0);
	int r = tar_put(p[0], to, why);
	close(p[0]);
	pthread_join(thread, NULL);
	assert_string_equal(why, "");
	assert_int_equal(r, 0);
	assert_int_equal(g.r, 0);
}

static const char *arrived(const char *name)
{
	static char dir[PATH_MAX];

	snprintf(dir, sizeof(dir), "%s/%s", to, strrchr(from, '/') + 1);
	return at(dir, name);
}

static void a_tree(void **state)
{
	static const char *const odd[] = {"plain", "with space", "new\nline", "-rf", "\xff\xfe",
		"ümläut", "back\\slash", "a:b"};
	char long_name[NAME_MAX + 1], text[64];
	struct stat a, b;

	memset(long_name, 'n', NAME_MAX);
	long_name[NAME_MAX] = '\0';
	for (size_t i = 0; i < ELEMENTSOF(odd); i++)
		make(odd[i], odd[i], 0640);
	make(long_name, "long", 0755);
	assert_int_equal(symlink(long_name, at(from, "link")), 0);
	assert_int_equal(symlink("/nowhere/../at all", at(from, "dangling")), 0);
	assert_int_equal(link(at(from, "plain"), at(from, "zz hard")), 0);
	assert_int_equal(mkfifo(at(from, "fifo"), 0600), 0);
	assert_int_equal(mkdir(at(from, "closed"), 0111), 0);
	assert_int_equal(truncate(at(from, "-rf"), 100 << 20), 0); /* mostly a hole */
	const struct timespec times[][2] = {
		{{5000000000, 1}, {-1, 999999999}}, {{0, 0}, {-5, 0}}, {{0, 0}, {5000000000, 7}}};
	assert_int_equal(utimensat(AT_FDCWD, at(from, "plain"), times[0], 0), 0);
	assert_int_equal(utimensat(AT_FDCWD, at(from, "a:b"), times[1], 0), 0);
	assert_int_equal(utimensat(AT_FDCWD, at(from, "with space"), times[2], 0), 0);
	carry();
	for (size_t i = 0; i < ELEMENTSOF(odd); i++) {
		int fd = open(arrived(odd[i]), O_RDONLY | O_CLOEXEC);
		assert_true(fd >= 0);
		ssize_t n = read(fd, text, sizeof(text));
		assert_true(n >= (ssize_t)strlen(odd[i]));
		assert_memory_equal(text, odd[i], strlen(odd[i]));
		close(fd);
	}
	assert_int_equal(stat(arrived(long_name), &b), 0);
	assert_int_equal(b.st_mode, S_IFREG | 0755);
	ssize_t n = readlink(arrived("dangling"), text, sizeof(text));
	assert_int_equal(n, 18);
	assert_memory_equal(text, "/nowhere/../at all", 18);
	assert_int_equal(stat(arrived("plain"), &a), 0);
	assert_int_equal(stat(arrived("zz hard"), &b), 0);
	assert_int_equal(a.st_ino, b.st_ino);
	assert_int_equal(a.st_mtim.tv_sec, -1);
	assert_int_equal(a.st_mtim.tv_nsec, 999999999);
	assert_int_equal(stat(arrived("a:b"), &a), 0);
	assert_int_equal(a.st_mtim.tv_sec, -5);
	assert_int_equal(stat(arrived("with space"), &a), 0);
	assert_int_equal(a.st_mtim.tv_sec, 5000000000);
	assert_int_equal(a.st_mtim.tv_nsec, 7);
	assert_int_equal(stat(arrived("-rf"), &a), 0);
	assert_int_equal(a.st_size, 100 << 20);
	assert_true(a.st_blocks < 1000);
	assert_int_equal(lstat(arrived("fifo"), &a), 0);
	assert_true(S_ISFIFO(a.st_mode));
	assert_int_equal(stat(arrived("closed"), &a), 0);
	assert_int_equal(a.st_mode, S_IFDIR | 0111);
}

/* ---- streams by hand */

static struct tar_header member(const char *name, char type, size_t size)
{
	struct tar_header h = {.type = type, .magic = "ustar", .version = {'0', '0'}};

	snprintf(h.name, sizeof(h.name), "%s", name);
	snprintf(h.mode, sizeof(h.mode), "%07o", 0644);
	snprintf(h.uid, sizeof(h.uid), "%07o", getuid());
	snprintf(h.gid, sizeof(h.gid), "%07o", getgid());
	snprintf(h.size, sizeof(h.size), "%011zo", size);
	snprintf(h.mtime, sizeof(h.mtime), "%011o", 1);
	return h;
}

/* Members without contents, then an end if wanted. */
static int put(struct tar_header *h, size_t n, bool end, char *why)
{
	static const uint8_t zeros[2 * TAR_BLOCK];
	int p[2];

	assert_int_equal(pipe(p), 0);
	for (size_t i = 0; i < n; i++) {
		snprintf(h[i].checksum, sizeof(h[i].checksum), "%06o", tar_checksum(&h[i]));
		assert_int_equal(write(p[1], &h[i], TAR_BLOCK), TAR_BLOCK);
	}
	if (end)
		assert_int_equal(write(p[1], zeros, sizeof(zeros)), sizeof(zeros));
	close(p[1]);
	why[0] = '\0';
	int r = tar_put(p[0], to, why);
	close(p[0]);
	return r;
}

static void ways_out(void **state)
{
	static const char *const names[] = {"../out", "a/../../out", "..", "a/..", ""};
	char why[WHY_MAX];

	for (size_t i = 0; i < ELEMENTSOF(names); i++) {
		struct tar_header h = member(names[i], '0', 0);
		assert_true(put(&h, 1, true, why) < 0);
		assert_true(why[0]);
	}
	/* An absolute name goes below the directory. */
	struct tar_header h = member("/banger-tar-absolute", '0', 0);
	assert_int_equal(put(&h, 1, true, why), 0);
	assert_int_equal(access(at(to, "banger-tar-absolute"), F_OK), 0);
	assert_int_equal(access("/banger-tar-absolute", F_OK), -1);
}

static void a_hard_link_out(void **state)
{
	char why[WHY_MAX];

	struct tar_header hard = member("stolen", '1', 0);
	strcpy(hard.link, "../../etc/passwd");
	assert_true(put(&hard, 1, true, why) < 0);
	assert_int_equal(access(at(to, "stolen"), F_OK), -1);
}

static void broken_streams(void **state)
{
	struct tar_header h = member("file", '0', 0);
	char why[WHY_MAX];

	assert_true(put(&h, 1, false, why) < 0); /* cut off */
	assert_true(put(&h, 0, false, why) < 0);
	h = member("file", '0', 5); /* its contents are missing */
	assert_true(put(&h, 1, false, why) < 0);
	h = member("file", 'Q', 0);
	assert_true(put(&h, 1, true, why) < 0);
	h = member("file", '0', 0);
	memcpy(h.size, "99999999999", 11);
	assert_true(put(&h, 1, true, why) < 0);
}

static void no_such_place(void **state)
{
	char why[WHY_MAX] = "";

	assert_int_equal(tar_put(0, at(to, "nowhere"), why), -ENOENT);
	assert_non_null(strstr(why, "there is no directory"));
	assert_int_equal(tar_get(1, at(to, "nowhere"), why), -ENOENT);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {TEST(a_tree), TEST(ways_out), TEST(a_hard_link_out),
		TEST(broken_streams), TEST(no_such_place)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
