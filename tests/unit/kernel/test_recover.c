/* SPDX-License-Identifier: Apache-2.0 */
/* What a crash can leave, and what is made of it at the next start. Deleting, and what keeps a
 * kernel. */
#include "fixture.h"

#include <string.h>
#include <sys/stat.h>

static struct bytes image;
static char said[8][300];
static int n_said;

static void report(void *arg, const char *what)
{
	snprintf(said[n_said++ % 8], sizeof(said[0]), "%s", what);
}

static int check(struct fixture *f)
{
	n_said = 0;
	return kernel_service_check(f->service, report, NULL, &f->err);
}

static void import_two(struct fixture *f, struct banger_kernel k[2])
{
	assert_int_equal(import_bytes(f, "one", NULL, &image, &k[0]), 0);
	assert_int_equal(import_bytes(f, "two", NULL, &image, &k[1]), 0);
	assert_int_equal(check(f), 0);
}

static void done(struct banger_kernel k[2])
{
	banger_kernel_done(&k[0]);
	banger_kernel_done(&k[1]);
}

static void leftovers_go(void **state)
{
	struct fixture *f = *state;
	struct banger_kernel k[2];
	import_two(f, k);
	assert_int_equal(mkdirat(f->dir_fd, "kernels/.staging-0123456789abcdef", 0755), 0);
	assert_int_equal(mkdirat(f->dir_fd, "kernels/.staging-0123456789abcdef/modules", 0755), 0);
	assert_int_equal(mkdirat(f->dir_fd, "kernels/.trash-0123456789abcdef", 0755), 0);
	assert_int_equal(mkdirat(f->dir_fd, "kernels/fedcba9876543210", 0755), 0);
	assert_int_equal(check(f), 1); /* only what is not plainly on its way */
	assert_non_null(strstr(said[0], "fedcba9876543210"));
	fixture_restart(f);
	assert_int_equal(entries(f), 2);
	assert_true(has_file(f, &k[0], "vmlinuz") && has_file(f, &k[1], "vmlinuz"));
	assert_int_equal(check(f), 0);
	done(k);
}

static void a_lost_rename_is_done_again(void **state)
{
	struct fixture *f = *state;
	struct banger_kernel k[2];
	char from[64], to[64];
	import_two(f, k);
	snprintf(from, sizeof(from), "kernels/%s", k[0].id);
	snprintf(to, sizeof(to), "kernels/.staging-%s", k[0].id);
	assert_int_equal(renameat(f->dir_fd, from, f->dir_fd, to), 0);
	fixture_restart(f);
	assert_int_equal(check(f), 0);
	assert_true(has_file(f, &k[0], "vmlinuz"));
	done(k);
}

static void a_row_without_files_goes(void **state)
{
	struct fixture *f = *state;
	struct banger_kernel k[2], gone = {0};
	char from[64];
	import_two(f, k);
	snprintf(from, sizeof(from), "kernels/%s", k[0].id);
	assert_int_equal(renameat(f->dir_fd, from, f->dir_fd, "elsewhere"), 0);
	assert_int_equal(check(f), 1);
	fixture_restart(f);
	assert_int_equal(kernel_service_find(f->service, "one", &gone, &f->err), -ENOENT);
	assert_int_equal(check(f), 0);
	done(k);
}

/* A kernel may be called like another's id: directories are told by id alone. */
static void a_name_like_an_id_confuses_nobody(void **state)
{
	struct fixture *f = *state;
	struct banger_kernel a = {0}, b = {0};
	assert_int_equal(import_bytes(f, "one", NULL, &image, &a), 0);
	assert_int_equal(import_bytes(f, a.id, NULL, &image, &b), 0);
	fixture_restart(f);
	assert_true(has_file(f, &a, "vmlinuz") && has_file(f, &b, "vmlinuz"));
	banger_kernel_done(&a);
	banger_kernel_done(&b);
}

static int busy(void *arg, const char *id, struct banger_error *err)
{
	return banger_error_set(err, BANGER_BUSY, "VM \"x\" uses it");
}

static void deletes_what_nobody_uses(void **state)
{
	struct fixture *f = *state;
	struct banger_kernel k[2];
	import_two(f, k);
	kernel_service_set_in_use(f->service, busy, NULL);
	assert_int_equal(delete_kernel(f, "one"), -EBUSY);
	assert_true(has_file(f, &k[0], "vmlinuz"));
	kernel_service_set_in_use(f->service, NULL, NULL);
	int fd = -1;
	char first;
	assert_int_equal(kernel_service_open(f->service, &k[0], "vmlinuz", &fd, &f->err), 0);
	assert_int_equal(delete_kernel(f, "one"), 0);
	assert_int_equal(delete_kernel(f, "one"), -ENOENT);
	assert_int_equal(pread(fd, &first, 1, 0), 1); /* what is open stays readable */
	close(fd);
	assert_int_equal(entries(f), 1);
	assert_int_equal(check(f), 0);
	done(k);
}

static int group_setup(void **state)
{
	image = make_bzimage("6.1.0-9-test", NULL);
	return 0;
}

static int group_teardown(void **state)
{
	free(image.p);
	return 0;
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, fixture_setup, fixture_teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(leftovers_go),
		TEST(a_lost_rename_is_done_again),
		TEST(a_row_without_files_goes),
		TEST(a_name_like_an_id_confuses_nobody),
		TEST(deletes_what_nobody_uses),
	};
	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
