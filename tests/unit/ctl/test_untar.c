/* SPDX-License-Identifier: Apache-2.0 */
/* Streams from a VM, honest and not: what they become here, and that nothing is written elsewhere. */
#include "check.h"
#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "untar.h"

static char base[64];
static struct banger_error err;
static struct untar_options o;

static int setup(void **state)
{
	char path[128];

	strcpy(base, "/tmp/ctl-untar-XXXXXX");
	if (!mkdtemp(base))
		return -1;
	snprintf(path, sizeof(path), "%s/in", base);
	umask(022);
	o = (struct untar_options){.name = "tree", .as = "tree"};
	err = (struct banger_error){0};
	return mkdir(path, 0755);
}

static int teardown(void **state)
{
	char line[128];

	snprintf(line, sizeof(line), "rm -rf '%s'", base);
	return system(line);
}

/* A member: type 'd', 'f', 'l' (link to text), 'h' (hard link), 'c'. */
struct item {
	char type;
	const char *name, *text;
	int mode;
};

static void write_item(struct archive *a, const struct item *i)
{
	struct archive_entry *e = archive_entry_new();

	archive_entry_set_pathname(e, i->name);
	archive_entry_set_perm(e, i->mode ? i->mode : 0644);
	archive_entry_set_mtime(e, 1000000000, 250000000);
	archive_entry_set_filetype(e, i->type == 'd'   ? AE_IFDIR
				      : i->type == 'l' ? AE_IFLNK
				      : i->type == 'c' ? AE_IFCHR
						       : AE_IFREG);
	if (i->type == 'l')
		archive_entry_set_symlink(e, i->text);
	if (i->type == 'h')
		archive_entry_set_hardlink(e, i->text);
	archive_entry_set_size(e, i->type == 'f' ? (la_int64_t)strlen(i->text) : 0);
	assert_int_equal(archive_write_header(a, e), ARCHIVE_OK);
	if (i->type == 'f')
		assert_int_equal(archive_write_data(a, i->text, strlen(i->text)), strlen(i->text));
	archive_entry_free(e);
}

/* Give the stream, but for its last `cut` bytes; the result of the copy. */
static int unpack_cut(const struct item *items, size_t cut)
{
	static char stream[256 * 1024];
	char directory[128];
	struct untar *u;
	size_t used;
	int ends[2];

	struct archive *a = archive_write_new();
	archive_write_set_format_pax(a);
	archive_write_set_bytes_per_block(a, 512);
	assert_int_equal(archive_write_open_memory(a, stream, sizeof(stream), &used), ARCHIVE_OK);
	for (; items->name; items++)
		write_item(a, items);
	archive_write_close(a);
	archive_write_free(a);
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	fcntl(ends[1], F_SETPIPE_SZ, 1 << 20);
	assert_int_equal(write(ends[1], stream, used - cut), used - cut);
	close(ends[1]);
	snprintf(directory, sizeof(directory), "%s/in", base);
	o.in = ends[0];
	o.directory = directory;
	assert_int_equal(untar_start(&o, &u, &err), 0);
	untar_wait(u);
	return untar_finish(&u, &err);
}
#define UNPACK(...) unpack_cut((const struct item[]){__VA_ARGS__, {0}}, 0)

static bool look(const char *name, struct stat *st)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", base, name);
	return lstat(path, st) == 0;
}

static bool exists(const char *name)
{
	struct stat st;

	return look(name, &st);
}

static void contains(const char *name, const char *text)
{
	char path[256], got[64] = "";

	snprintf(path, sizeof(path), "%s/%s", base, name);
	int fd = open(path, O_RDONLY);
	assert_true(fd >= 0);
	assert_true(read(fd, got, sizeof(got) - 1) >= 0);
	close(fd);
	assert_string_equal(got, text);
}

static void honest(void **state)
{
	struct stat st, other;
	char cwd[256], now[256];

	assert_non_null(getcwd(cwd, sizeof(cwd)));
	assert_int_equal(UNPACK({'d', "tree", NULL, 0750}, {'f', "tree/a", "text", 0600},
				 {'h', "tree/b", "tree/a", 0}, {'l', "tree/l", "../../x", 0},
				 {'d', "tree/sub", NULL, 0700}, {'f', "tree/sub/c", "", 0755}),
		0);
	contains("in/tree/a", "text");
	assert_true(look("in/tree", &st) && (st.st_mode & 07777) == 0750);
	assert_true(
		look("in/tree/a", &st) && look("in/tree/b", &other) && st.st_ino == other.st_ino);
	assert_int_equal(st.st_mtim.tv_sec, 1000000000);
	assert_int_equal(st.st_mtim.tv_nsec, 250000000);
	assert_true(look("in/tree/l", &st) && S_ISLNK(st.st_mode));
	/* Our working directory is nobody's but ours. */
	assert_non_null(getcwd(now, sizeof(now)));
	assert_string_equal(cwd, now);
}

static void renamed(void **state)
{
	o.as = "other";
	assert_int_equal(UNPACK({'d', "tree", NULL, 0755}, {'f', "tree/a", "1", 0}), 0);
	contains("in/other/a", "1");
	assert_false(exists("in/tree"));
	/* What is in it: into the directory itself, whose mode stays. */
	o.name = ".";
	o.as = NULL;
	assert_int_equal(
		UNPACK({'d', ".", NULL, 0700}, {'f', "./a", "2", 0}, {'h', "./b", "./a", 0}), 0);
	contains("in/b", "2");
	struct stat st;
	assert_true(look("in", &st) && (st.st_mode & 07777) == 0755);
	o.as = "new";
	assert_int_equal(UNPACK({'d', ".", NULL, 0755}, {'f', "./a", "3", 0}), 0);
	contains("in/new/a", "3");
	/* A file takes a file's place. */
	o = (struct untar_options){.name = "f", .as = "b", .is_file = true};
	assert_int_equal(UNPACK({'f', "f", "4", 0}), 0);
	contains("in/b", "4");
	contains("in/a", "2"); /* which it was another name of */
}

static void kinds(void **state)
{
	o.must_be_dir = true;
	assert_int_equal(UNPACK({'f', "tree", "x", 0}), -EINVAL);
	o.must_be_dir = false;
	o.is_file = true;
	assert_int_equal(UNPACK({'d', "tree", NULL, 0755}), -EINVAL);
	assert_false(exists("in/tree"));
}

static void refuses(int code, const struct item *items)
{
	err = (struct banger_error){0};
	assert_int_equal(unpack_cut(items, 0), code);
	assert_false(exists("evil"));
	assert_false(exists("in/evil"));
}
#define REFUSES(code, ...) refuses(code, (const struct item[]){__VA_ARGS__, {0}})

static void hostile_names(void **state)
{
	REFUSES(-EUCLEAN, {'f', "evil", "x", 0});
	REFUSES(-EUCLEAN, {'f', "../evil", "x", 0});
	REFUSES(-EUCLEAN, {'d', "tree", NULL, 0755}, {'f', "tree/../../evil", "x", 0});
	REFUSES(-EUCLEAN, {'d', "tree", NULL, 0755}, {'f', "evil", "x", 0});
	REFUSES(-EUCLEAN, {'d', "tree", NULL, 0755}, {'f', "treeevil", "x", 0});
	REFUSES(-EUCLEAN, {'d', "tree", NULL, 0755}, {'f', "/tree/evil", "x", 0});
	REFUSES(-EUCLEAN, {'d', "tree", NULL, 0755}, {'h', "tree/h", "/etc/passwd", 0});
	REFUSES(-EUCLEAN, {'d', "tree", NULL, 0755}, {'h', "tree/h", "tree/../../x", 0});
	/* The content of a directory, which is a hard link's target. */
	o.name = ".";
	o.as = NULL;
	REFUSES(-EUCLEAN, {'d', ".", NULL, 0755}, {'h', "./h", ".", 0});
	REFUSES(-EUCLEAN, {'d', ".", NULL, 0755}, {'f', "./../evil", "x", 0});
}

static void hostile_links(void **state)
{
	struct stat st;

	/* Through a link that came before, and through one that takes a directory's place. */
	assert_true(UNPACK({'d', "tree", NULL, 0755}, {'l', "tree/out", "../..", 0},
			    {'f', "tree/out/evil", "x", 0}) < 0);
	assert_false(exists("evil"));
	/* A link that was here: its place is taken, what it leads to is left alone. */
	char path[128];
	snprintf(path, sizeof(path), "%s/in/link", base);
	assert_int_equal(symlink("../victim", path), 0);
	o = (struct untar_options){.name = "f", .as = "link"};
	assert_int_equal(UNPACK({'f', "f", "x", 0}), 0);
	assert_true(look("in/link", &st) && S_ISREG(st.st_mode));
	assert_false(exists("victim"));
}

static void no_rights(void **state)
{
	struct stat st;

	assert_int_equal(UNPACK({'d', "tree", NULL, 01777}, {'f', "tree/s", "x", 06755},
				 {'c', "tree/null", NULL, 0666}),
		0);
	assert_true(look("in/tree/s", &st) && (st.st_mode & 07777) == 0755);
	assert_true(look("in/tree", &st) && (st.st_mode & 07777) == 0777);
	assert_false(exists("in/tree/null"));
}

static void broken_streams(void **state)
{
	const struct item items[] = {{'d', "tree", NULL, 0755}, {'f', "tree/a", "text", 0}, {0}};
	char path[128];
	struct untar *u;
	int ends[2];

	/* In the middle of the last file. */
	assert_int_equal(unpack_cut(items, 1024 + 510), -ENODATA);
	/* Nothing at all. */
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	close(ends[1]);
	snprintf(path, sizeof(path), "%s/in", base);
	o.in = ends[0];
	o.directory = path;
	assert_int_equal(untar_start(&o, &u, &err), 0);
	assert_int_equal(untar_finish(&u, &err), -ENODATA);
}

/* What a VM writes that says of a sparse file that it has ever more pieces, until nobody reads. */
static void write_map(int fd)
{
	static const char pax[] =
		"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n24 GNU.sparse.name=tree\n"
		"27 GNU.sparse.realsize=512\n";
	char blocks[4][512] = {0}, pieces[32 * 1024];
	const char *names[] = {"x", NULL, "GNUSparseFile.0/tree"}, types[] = {'x', 0, '0'};
	const unsigned long long sizes[] = {sizeof(pax) - 1, 0, 7ull << 30};

	for (int i = 0; i < 3; i += 2) {
		char *b = blocks[i];
		unsigned sum = 0;

		strcpy(b, names[i]);
		strcpy(b + 100, "0000644");
		snprintf(b + 124, 12, "%011llo", sizes[i]);
		b[156] = types[i];
		memcpy(b + 257, "ustar\00000", 8);
		memset(b + 148, ' ', 8);
		for (int k = 0; k < 512; k++)
			sum += (unsigned char)b[k];
		snprintf(b + 148, 8, "%06o", sum);
	}
	strcpy(blocks[1], pax);
	for (size_t i = 0; i < sizeof(pieces); i += 4)
		memcpy(pieces + i, "1\n0\n", 4);
	memcpy(blocks[3], pieces, 512);
	memcpy(blocks[3], "10000000000\n", 12); /* so many pieces */
	if (write(fd, blocks, sizeof(blocks)) == sizeof(blocks))
		while (write(fd, pieces, sizeof(pieces)) > 0)
			;
}

static void endless_map(void **state)
{
	char directory[128];
	struct untar *u;
	int ends[2];

	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	pid_t pid = fork();
	if (pid == 0) {
		close(ends[0]);
		signal(SIGPIPE, SIG_IGN);
		write_map(ends[1]);
		_exit(0);
	}
	close(ends[1]);
	snprintf(directory, sizeof(directory), "%s/in", base);
	o.in = ends[0];
	o.directory = directory;
	assert_int_equal(untar_start(&o, &u, &err), 0);
	untar_wait(u);
	assert_in_range(*untar_bytes(u), 32 << 20, 34 << 20);
	assert_int_equal(untar_finish(&u, &err), -ENODATA);
	assert_non_null(strstr(err.message, "header is over 32 MiB"));
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(honest, setup, teardown),
		cmocka_unit_test_setup_teardown(renamed, setup, teardown),
		cmocka_unit_test_setup_teardown(kinds, setup, teardown),
		cmocka_unit_test_setup_teardown(hostile_names, setup, teardown),
		cmocka_unit_test_setup_teardown(hostile_links, setup, teardown),
		cmocka_unit_test_setup_teardown(no_rights, setup, teardown),
		cmocka_unit_test_setup_teardown(broken_streams, setup, teardown),
		cmocka_unit_test_setup_teardown(endless_map, setup, teardown),
	};
	return cmocka_run_group_tests_name("ctl/untar", tests, NULL, NULL);
}
