/* SPDX-License-Identifier: Apache-2.0 */
/* A directory as a tar stream: read back with libarchive and compared with what was made. */
#include "check.h"
#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <locale.h>
#include "tree.h"

static char dir[64];
static int root = -1;

static void shell(const char *before, const char *after)
{
	char line[300];

	snprintf(line, sizeof(line), "%s '%s'%s", before, dir, after);
	assert_int_equal(system(line), 0);
}

static int setup(void **state)
{
	strcpy(dir, "/tmp/ctl-tree-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	root = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return root < 0 ? -1 : 0;
}

static int teardown(void **state)
{
	close(root);
	shell("chmod -R u+rwX", "");
	shell("rm -rf", "");
	return 0;
}

static void put(const char *name, const char *text)
{
	int fd = openat(root, name, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

/* Start a stream of the tree and open it for reading. */
static struct archive *begin(struct tree_stream **s, int *fd)
{
	struct banger_error err = {0};
	struct archive *a = archive_read_new();

	assert_int_equal(tree_stream_start(dup(root), "tree", false, s, fd, &err), 0);
	archive_read_support_format_tar(a);
	assert_int_equal(archive_read_open_fd(a, *fd, 65536), ARCHIVE_OK);
	return a;
}

static void end(struct archive *a, struct tree_stream *s, int fd)
{
	struct banger_error err = {0};

	assert_int_equal(archive_read_free(a), ARCHIVE_OK);
	close(fd);
	assert_int_equal(tree_stream_finish(&s, &err), 0);
	assert_null(s);
}

static struct archive_entry *next(struct archive *a, const char *name)
{
	struct archive_entry *e = NULL;

	assert_int_equal(archive_read_next_header(a, &e), ARCHIVE_OK);
	/* A directory's name ends in a slash. */
	char have[512];
	snprintf(have, sizeof(have), "%s", archive_entry_pathname(e));
	size_t n = strlen(have);
	if (n > 1 && have[n - 1] == '/')
		have[n - 1] = '\0';
	assert_string_equal(have, name);
	return e;
}

static void attributes(void **state)
{
	const struct timespec times[2] = {{1000000000, 0}, {1500000000, 123456789}};
	struct tree_stream *s = NULL;
	struct archive_entry *e;
	const char *key;
	const void *value;
	size_t size;
	char buf[64];
	int fd;

	put("file", "hello");
	assert_int_equal(fchmodat(root, "file", 04711, 0), 0);
	if (geteuid() == 0)
		assert_int_equal(fchownat(root, "file", 1234567, 7654321, 0), 0);
	assert_int_equal(fchmodat(root, "file", 04711, 0), 0);
	int file = openat(root, "file", O_RDONLY);
	bool attrs = fsetxattr(file, "user.colour", "red\0ish", 7, 0) == 0;
	close(file);
	assert_int_equal(symlinkat("../else/where", root, "link"), 0);
	assert_int_equal(mkfifoat(root, "pipe", 0600), 0);
	put("other", "");
	assert_int_equal(linkat(root, "other", root, "zlink", 0), 0);
	assert_int_equal(utimensat(root, "file", times, 0), 0);
	assert_int_equal(utimensat(root, "link", times, AT_SYMLINK_NOFOLLOW), 0);
	struct archive *a = begin(&s, &fd);
	e = next(a, ".");
	assert_int_equal(archive_entry_filetype(e), AE_IFDIR);
	e = next(a, "file");
	assert_int_equal(archive_entry_perm(e), 04711);
	assert_int_equal(archive_entry_uid(e), geteuid() == 0 ? 1234567 : geteuid());
	assert_int_equal(archive_entry_mtime(e), 1500000000);
	assert_int_equal(archive_entry_mtime_nsec(e), 123456789);
	assert_true(!archive_entry_uname(e) || !*archive_entry_uname(e));
	assert_false(archive_entry_ctime_is_set(e));
	if (attrs) {
		assert_true(archive_entry_xattr_reset(e) >= 1);
		assert_int_equal(archive_entry_xattr_next(e, &key, &value, &size), ARCHIVE_OK);
		assert_string_equal(key, "user.colour");
		assert_int_equal(size, 7);
		assert_memory_equal(value, "red\0ish", 7);
	}
	assert_int_equal(archive_read_data(a, buf, sizeof(buf)), 5);
	e = next(a, "link");
	assert_string_equal(archive_entry_symlink(e), "../else/where");
	assert_int_equal(archive_entry_mtime_nsec(e), 123456789);
	e = next(a, "other");
	assert_null(archive_entry_hardlink(e));
	e = next(a, "pipe");
	assert_int_equal(archive_entry_filetype(e), AE_IFIFO);
	e = next(a, "zlink");
	assert_string_equal(archive_entry_hardlink(e), "other");
	assert_int_equal(archive_read_next_header(a, &e), ARCHIVE_EOF);
	end(a, s, fd);
}

static void acls(void **state)
{
	struct tree_stream *s = NULL;
	struct archive_entry *e;
	int fd;

	put("file", "x");
	assert_int_equal(mkdirat(root, "sub", 0755), 0);
	char line[400];
	snprintf(line, sizeof(line),
		"cd '%s' && setfacl -m u:4242:r file && setfacl -d -m g:4343:rx sub", dir);
	if (system("command -v setfacl >/dev/null") != 0 || system(line) != 0)
		skip();
	struct archive *a = begin(&s, &fd);
	next(a, ".");
	e = next(a, "file");
	assert_true(archive_entry_acl_count(e, ARCHIVE_ENTRY_ACL_TYPE_ACCESS) > 0);
	e = next(a, "sub");
	assert_true(archive_entry_acl_count(e, ARCHIVE_ENTRY_ACL_TYPE_DEFAULT) > 0);
	assert_int_equal(archive_read_next_header(a, &e), ARCHIVE_EOF);
	end(a, s, fd);
}

/* Data at 1 GiB of a file of 4 GiB and a bit, and a file that is one hole. */
static void sparse(void **state)
{
	const int64_t at = 1LL << 30, size = (4LL << 30) + 12345;
	struct tree_stream *s = NULL;
	struct archive_entry *e;
	const void *block;
	size_t n;
	la_int64_t offset;
	int64_t data = 0;
	bool seen = false;
	int in, fd = openat(root, "big", O_RDWR | O_CREAT, 0644);

	assert_int_equal(ftruncate(fd, size), 0);
	assert_int_equal(pwrite(fd, "needle", 6, at), 6);
	close(fd);
	fd = openat(root, "hole", O_RDWR | O_CREAT, 0644);
	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	close(fd);
	struct archive *a = begin(&s, &in);
	next(a, ".");
	e = next(a, "big");
	assert_true(archive_entry_size(e) == size);
	while (archive_read_data_block(a, &block, &n, &offset) == ARCHIVE_OK) {
		data += n;
		if (n && offset <= at && offset + (int64_t)n > at + 6)
			seen = memcmp((const char *)block + (at - offset), "needle", 6) == 0;
	}
	assert_true(seen);
	assert_true(data <= 1 << 20);
	e = next(a, "hole");
	assert_true(archive_entry_size(e) == 1 << 20);
	assert_int_equal(archive_read_next_header(a, &e), ARCHIVE_EOF);
	assert_true(atomic_load(tree_stream_bytes(s)) < 2 << 20);
	end(a, s, in);
}

static void names(void **state)
{
	struct tree_stream *s = NULL;
	struct archive_entry *e;
	char longest[256];
	int fd;

	memset(longest, 'n', 255);
	longest[255] = '\0';
	put("\xff\xfe raw", "");
	put("a\nb", "");
	put(longest, "");
	put("\xc3\xbc", "");
	struct archive *a = begin(&s, &fd);
	next(a, ".");
	next(a, "a\nb");
	next(a, longest);
	next(a, "\xc3\xbc");
	next(a, "\xff\xfe raw");
	assert_int_equal(archive_read_next_header(a, &e), ARCHIVE_EOF);
	end(a, s, fd);
}

/* Deeper than a process has descriptors by default. */
static void deep(void **state)
{
	struct tree_stream *s = NULL;
	struct archive_entry *e;
	int fd, r, n = 0, at = dup(root);

	for (int i = 0; i < 2000; i++) {
		assert_int_equal(mkdirat(at, "d", 0755), 0);
		int inner = openat(at, "d", O_RDONLY | O_DIRECTORY);
		close(at);
		at = inner;
	}
	close(at);
	struct archive *a = begin(&s, &fd);
	while ((r = archive_read_next_header(a, &e)) == ARCHIVE_OK)
		n++;
	assert_int_equal(r, ARCHIVE_EOF);
	assert_int_equal(n, 2001);
	end(a, s, fd);
}

static void sockets_left_out(void **state)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	struct tree_stream *s = NULL;
	struct archive_entry *e;
	int fd, sock = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s/sock", dir);
	assert_int_equal(bind(sock, (struct sockaddr *)&sun, sizeof(sun)), 0);
	close(sock);
	struct archive *a = begin(&s, &fd);
	next(a, ".");
	assert_int_equal(archive_read_next_header(a, &e), ARCHIVE_EOF);
	/* The thread has closed its end; what it counted is known once it is joined. */
	archive_read_free(a);
	close(fd);
	assert_int_equal(tree_stream_finish(&s, NULL), 0);
}

/* A symlink that points out of the tree is a symlink, whatever is behind it. */
static void stays_inside(void **state)
{
	struct tree_stream *s = NULL;
	struct archive_entry *e;
	int fd;

	assert_int_equal(symlinkat("/etc", root, "etc"), 0);
	assert_int_equal(symlinkat("/etc/passwd", root, "passwd"), 0);
	struct archive *a = begin(&s, &fd);
	next(a, ".");
	assert_int_equal(archive_entry_filetype(next(a, "etc")), AE_IFLNK);
	assert_int_equal(archive_entry_filetype(next(a, "passwd")), AE_IFLNK);
	assert_int_equal(archive_read_next_header(a, &e), ARCHIVE_EOF);
	end(a, s, fd);
}

/* Read a stream to its end as a reader of tar; ARCHIVE_EOF would mean that it looked whole. */
static int read_all(struct archive *a)
{
	struct archive_entry *e;
	int r;

	while ((r = archive_read_next_header(a, &e)) == ARCHIVE_OK)
		if ((r = archive_read_data_skip(a)) != ARCHIVE_OK)
			break;
	return r;
}

/* Something that cannot be read in the middle of the tree: the stream must not look whole. */
static void broken_is_not_whole(void **state)
{
	struct banger_error err = {0};
	struct tree_stream *s = NULL;
	int fd;

	put("a", "first");
	put("m", "");
	put("z", "last");
	/* Root reads everything, so the tree is changed behind the stream's back instead: the pipe
	 * holds the thread while it is in a large file, which then shrinks. */
	int big = openat(root, "m", O_WRONLY);
	char *block = calloc(1, 1 << 20);
	memset(block, 'x', 1 << 20);
	for (int i = 0; i < 16; i++)
		assert_int_equal(write(big, block, 1 << 20), 1 << 20);
	free(block);
	struct archive *a = begin(&s, &fd);
	assert_int_equal(ftruncate(big, 1000), 0);
	close(big);
	int r = read_all(a);
	assert_true(r < ARCHIVE_OK);
	archive_read_free(a);
	close(fd);
	assert_true(tree_stream_finish(&s, &err) < 0);
	assert_string_equal(err.message, "tree/m: became shorter while it was read");
}

/* The same between two entries, where nothing but our own mark shows it: without fractions of
 * seconds a header is 512 bytes, and all up to the end of "a" is a multiple of the blocks that are
 * written. */
static void vanished_is_not_whole(void **state)
{
	const struct timespec times[2] = {{1000000000, 0}, {1500000000, 0}};
	const int size = (8 << 20) - 2 * 512;
	struct banger_error err = {0};
	struct tree_stream *s = NULL;
	int fd, big = openat(root, "a", O_WRONLY | O_CREAT, 0644);
	char *block = calloc(1, size);

	memset(block, 'x', size);
	assert_int_equal(write(big, block, size), size);
	close(big);
	free(block);
	put("b", "");
	assert_int_equal(utimensat(root, "a", times, 0), 0);
	assert_int_equal(futimens(root, times), 0);
	struct archive *a = begin(&s, &fd);
	/* The thread has listed the directory before it wrote this much, and waits in "a". */
	next(a, ".");
	next(a, "a");
	assert_int_equal(unlinkat(root, "b", 0), 0);
	assert_true(read_all(a) < ARCHIVE_OK);
	archive_read_free(a);
	close(fd);
	assert_true(tree_stream_finish(&s, &err) < 0);
	assert_string_equal(err.message, "tree/b: cannot look at it: No such file or directory");
}

static void reader_goes_away(void **state)
{
	struct banger_error err = {0};
	struct tree_stream *s = NULL;
	int fd, big = openat(root, "a", O_WRONLY | O_CREAT, 0644);
	char *block = calloc(1, 8 << 20);

	memset(block, 'x', 8 << 20);
	assert_int_equal(write(big, block, 8 << 20), 8 << 20);
	close(big);
	free(block);
	assert_int_equal(tree_stream_start(dup(root), "tree", false, &s, &fd, &err), 0);
	close(fd);
	assert_int_equal(tree_stream_finish(&s, &err), -EPIPE);
}

/* Start a stream of a part of the tree, as it goes into a VM. */
static struct archive *begin_part(
	const char *name, const char *as, bool owners, struct tree_stream **s, int *fd)
{
	const struct tree_part part = {
		.dir_fd = dup(root), .name = name, .as = as, .shown = "it", .keep_owners = owners};
	struct banger_error err = {0};
	struct archive *a = archive_read_new();

	assert_int_equal(tree_stream_part(&part, s, fd, &err), 0);
	archive_read_support_format_tar(a);
	assert_int_equal(archive_read_open_fd(a, *fd, 65536), ARCHIVE_OK);
	return a;
}

static void parts(void **state)
{
	struct tree_stream *s = NULL;
	struct archive_entry *e;
	int fd;

	assert_int_equal(mkdirat(root, "sub", 0755), 0);
	put("sub/file", "hello");
	put("top", "x");
	if (geteuid() == 0)
		assert_int_equal(fchownat(root, "sub/file", 1234, 567, 0), 0);
	/* A tree under another name, root's. */
	struct archive *a = begin_part("sub", "there", false, &s, &fd);
	assert_int_equal(archive_entry_uid(next(a, "there")), 0);
	e = next(a, "there/file");
	assert_int_equal(archive_entry_uid(e) + archive_entry_gid(e), 0);
	assert_int_equal(archive_read_next_header(a, &e), ARCHIVE_EOF);
	end(a, s, fd);
	/* A file, with its owner. */
	a = begin_part("top", "a", true, &s, &fd);
	assert_int_equal(archive_entry_uid(next(a, "a")), geteuid());
	assert_int_equal(archive_read_next_header(a, &e), ARCHIVE_EOF);
	end(a, s, fd);
	/* What is in a directory, and not that. */
	a = begin_part(NULL, NULL, false, &s, &fd);
	next(a, "sub");
	next(a, "sub/file");
	next(a, "top");
	assert_int_equal(archive_read_next_header(a, &e), ARCHIVE_EOF);
	end(a, s, fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(attributes, setup, teardown),
		cmocka_unit_test_setup_teardown(acls, setup, teardown),
		cmocka_unit_test_setup_teardown(sparse, setup, teardown),
		cmocka_unit_test_setup_teardown(names, setup, teardown),
		cmocka_unit_test_setup_teardown(deep, setup, teardown),
		cmocka_unit_test_setup_teardown(sockets_left_out, setup, teardown),
		cmocka_unit_test_setup_teardown(stays_inside, setup, teardown),
		cmocka_unit_test_setup_teardown(broken_is_not_whole, setup, teardown),
		cmocka_unit_test_setup_teardown(vanished_is_not_whole, setup, teardown),
		cmocka_unit_test_setup_teardown(reader_goes_away, setup, teardown),
		cmocka_unit_test_setup_teardown(parts, setup, teardown),
	};
	setlocale(LC_CTYPE, "C.UTF-8");
	return cmocka_run_group_tests_name("ctl/tree", tests, NULL, NULL);
}
