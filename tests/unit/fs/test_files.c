/* SPDX-License-Identifier: Apache-2.0 */
/* The table of files: identity, names, lifetimes, passthrough. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>
#include "files.h"
#include "nodes.h"

#define OWNER node_id(NODE_IMAGE, 1)
#define OTHER node_id(NODE_IMAGE, 2)

static struct files *f;

static int set_up(void **state)
{
	return files_new(&f);
}

static int tear_down(void **state)
{
	files_freep(&f);
	return 0;
}

static struct statx inode(uint64_t ino, int64_t born)
{
	return (struct statx){
		.stx_mask = STATX_BTIME, .stx_ino = ino, .stx_btime = {.tv_sec = born}};
}

static void expect_place(uint64_t node, uint64_t owner, const char *path)
{
	_cleanup_place_ struct file_place p = {0};

	assert_int_equal(files_place(f, node, &p), 0);
	assert_int_equal(p.owner, owner);
	assert_string_equal(p.path, path);
}

static void one_inode_is_one_node(void **state)
{
	struct statx x = inode(7, 1), y = inode(8, 1), reborn = inode(7, 2);
	uint64_t a = files_lookup(f, OWNER, "a", &x);

	assert_int_equal(node_kind(a), NODE_FILE);
	assert_int_equal(files_lookup(f, OWNER, "a", &x), a);
	assert_true(files_lookup(f, OWNER, "b", &y) != a);
	/* A number that the disk gave to another file since. */
	assert_true(files_lookup(f, OWNER, "a", &reborn) != a);
	/* Renamed by somebody else: the same node under its new name, in another draft too. */
	assert_int_equal(files_lookup(f, OTHER, "c", &x), a);
	expect_place(a, OTHER, "c");
	files_renamed(f, OWNER, "d", &x);
	expect_place(a, OWNER, "d");
	struct statx unknown = inode(99, 1);
	files_renamed(f, OWNER, "e", &unknown);
	assert_int_equal(files_count(f), 3);
}

static void forgotten_when_the_last_lookup_is(void **state)
{
	_cleanup_place_ struct file_place p = {0};
	struct statx x = inode(7, 1);
	uint64_t a = files_lookup(f, OWNER, "a", &x);

	files_lookup(f, OWNER, "a", &x);
	files_forget(f, a, 1);
	expect_place(a, OWNER, "a");
	files_forget(f, a, 1);
	assert_int_equal(files_place(f, a, &p), -ENOENT);
	assert_int_equal(files_count(f), 0);
	/* Late, wrong, or of another kind: nothing happens. */
	files_forget(f, a, 1);
	files_forget(f, OWNER, 5);
	assert_true(files_lookup(f, OWNER, "a", &x) != a);
}

static void a_handle_keeps_its_node(void **state)
{
	struct open_file o = {.fd = open("/dev/null", O_RDONLY | O_CLOEXEC)};
	struct statx x = inode(7, 1), got;

	o.node = files_lookup(f, OWNER, "a", &x);
	assert_int_equal(files_statx_open(f, o.node, &got), -ENOENT);
	files_opened(f, &o);
	files_forget(f, o.node, 1); /* may overtake the release */
	assert_int_equal(files_statx_open(f, o.node, &got), 0);
	assert_true(S_ISCHR(got.stx_mode));
	files_closed(f, &o);
	assert_int_equal(files_count(f), 0);
	close(o.fd);
}

static void pages_are_kept_from_the_second_open_on(void **state)
{
	struct statx x = inode(7, 1);
	uint64_t a = files_lookup(f, OWNER, "a", &x);

	assert_false(files_keep_cache(f, a));
	assert_true(files_keep_cache(f, a));
	assert_false(files_keep_cache(f, OWNER));
}

static int attached;

static int attach(void *arg, int fd)
{
	return ++attached;
}

static int refuse(void *arg, int fd)
{
	return 0;
}

static void all_opens_of_a_file_are_of_one_sort(void **state)
{
	struct open_file cached = {.fd = -1}, one = {.fd = -1}, two = {.fd = -1};
	struct statx x = inode(7, 1);
	uint64_t a = files_lookup(f, OWNER, "a", &x);

	cached.node = one.node = two.node = a;
	attached = 0;
	/* Open since it was a draft: through the page cache, then so are the others. */
	files_opened(f, &cached);
	assert_int_equal(files_pass_open(f, a, attach, NULL, -1), 0);
	files_closed(f, &cached);
	/* All that pass through share one id, which goes with the last. */
	assert_int_equal(files_pass_open(f, a, refuse, NULL, -1), 0);
	assert_int_equal(files_pass_open(f, a, attach, NULL, -1), 1);
	files_opened(f, &one);
	assert_int_equal(files_pass_open(f, a, attach, NULL, -1), 1);
	files_opened(f, &two);
	assert_int_equal(files_pass_close(f, a), 0);
	files_closed(f, &one);
	assert_int_equal(files_pass_close(f, a), 1);
	files_closed(f, &two);
	assert_int_equal(files_pass_open(f, a, attach, NULL, -1), 2);
	assert_int_equal(files_pass_close(f, a), 2);
}

#define T(t) cmocka_unit_test_setup_teardown(t, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(one_inode_is_one_node),
		T(forgotten_when_the_last_lookup_is),
		T(a_handle_keeps_its_node),
		T(pages_are_kept_from_the_second_open_on),
		T(all_opens_of_a_file_are_of_one_sort),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
