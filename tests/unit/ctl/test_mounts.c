/* SPDX-License-Identifier: Apache-2.0 */
/* Judging mount points by the kernel's table. */
#include "check.h"
#include <sys/stat.h>
#include "mounts.h"

static void kinds(void **state)
{
	enum mounts_kind kind;

	assert_int_equal(mounts_at("/proc", &kind, NULL), 0);
	assert_int_equal(kind, MOUNTS_OTHER);
	assert_int_equal(mounts_at("/no/such/place", &kind, NULL), 0);
	assert_int_equal(kind, MOUNTS_NOTHING);
}

static void resolving(void **state)
{
	char dir[] = "/tmp/ctl-mounts-XXXXXX", path[64], want[64];
	_cleanup_free_ char *a = NULL, *b = NULL, *c = NULL, *d = NULL;
	struct banger_error err = {0};

	assert_int_equal(mounts_resolve("/proc/", &a, NULL), 0);
	assert_string_equal(a, "/proc");
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/link", dir);
	assert_int_equal(symlink("/proc", path), 0);
	assert_int_equal(mounts_resolve(path, &b, NULL), 0);
	assert_string_equal(b, "/proc");
	snprintf(want, sizeof(want), "%s/.///", dir);
	assert_int_equal(mounts_resolve(want, &c, NULL), 0);
	assert_string_equal(c, dir);
	snprintf(want, sizeof(want), "%s/absent", dir);
	assert_int_equal(mounts_resolve(want, &d, &err), -ENOENT);
	assert_non_null(strstr(err.message, "absent"));
	unlink(path);
	rmdir(dir);
}

static void users(void **state)
{
	char dir[] = "/tmp/ctl-users-XXXXXX", who[200], us[32];

	assert_non_null(mkdtemp(dir));
	mounts_users(dir, who, sizeof(who));
	assert_string_equal(who, "");
	assert_int_equal(chdir(dir), 0);
	mounts_users(dir, who, sizeof(who));
	assert_int_equal(chdir("/"), 0);
	snprintf(us, sizeof(us), "[%d]", (int)getpid());
	assert_non_null(strstr(who, us));
	rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(kinds),
		cmocka_unit_test(resolving),
		cmocka_unit_test(users),
	};
	return cmocka_run_group_tests_name("ctl/mounts", tests, NULL, NULL);
}
