/* SPDX-License-Identifier: Apache-2.0 */
/* Where the daemon's own cgroup is said to be, and a directory of cgroups played by one of files. */
#include "vm/cgroup.h"
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static void own_path(void **state)
{
	char path[32];

	assert_true(cgroups_parse_own("0::/system.slice/x\n", path, sizeof(path)));
	assert_string_equal(path, "/system.slice/x");
	assert_true(cgroups_parse_own("9:name=systemd:/a\n1:cpu:/\n0::/\n", path, sizeof(path)));
	assert_string_equal(path, "/");
	assert_true(cgroups_parse_own("0::/last", path, sizeof(path)));
	assert_string_equal(path, "/last");
	assert_false(cgroups_parse_own("", path, sizeof(path)));
	assert_false(cgroups_parse_own("10::/x\n1:cpu:/0::/\n", path, sizeof(path)));
	assert_false(
		cgroups_parse_own("0::/it/is/longer/than/there/is/room/for", path, sizeof(path)));
}

static void mount_point(void **state)
{
	char path[32];

	assert_true(cgroups_parse_mount(
		"30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n", path,
		sizeof(path)));
	assert_string_equal(path, "/sys/fs/cgroup");
	assert_true(cgroups_parse_mount(
		"30 24 0:26 / /c rw master:1 shared:9 - cgroup2 x rw", path, sizeof(path)));
	assert_string_equal(path, "/c");
	/* Another type, a part of it only, a name that would have to be unescaped, nothing. */
	assert_false(cgroups_parse_mount(
		"30 24 0:26 / /c rw - cgroup c rw,cgroup2", path, sizeof(path)));
	assert_false(
		cgroups_parse_mount("30 24 0:26 /sub /c rw - cgroup2 c rw", path, sizeof(path)));
	assert_false(
		cgroups_parse_mount("30 24 0:26 / /a\\040b rw - cgroup2 c rw", path, sizeof(path)));
	assert_false(cgroups_parse_mount(
		"30 24 0:26 / /it/is/longer/than/there/is/room rw - cgroup2 c rw", path,
		sizeof(path)));
	assert_false(cgroups_parse_mount("", path, sizeof(path)));
}

static void none_found(void **state)
{
	struct cgroups c;

	cgroups_find("/nonexistent", &c);
	assert_int_equal(c.fd, -1);
	assert_non_null(strstr(c.about, "no cgroup v2"));
	assert_false(cgroups_enter(&c, "0123", 1));
	cgroups_remove(&c, "0123");
	cgroups_sweep(&c, NULL, NULL);
	cgroups_done(&c);
}

static bool is_b(void *arg, const char *id)
{
	(*(int *)arg)++;
	return strcmp(id, "b") == 0;
}

static void sweeps_its_own_only(void **state)
{
	char dir[] = "/tmp/banger-cgroup-XXXXXX";
	int asked = 0;

	assert_non_null(mkdtemp(dir));
	struct cgroups c = {.fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
	assert_true(c.fd >= 0);
	assert_int_equal(mkdirat(c.fd, CGROUP_PREFIX "a", 0755), 0);
	assert_int_equal(mkdirat(c.fd, CGROUP_PREFIX "b", 0755), 0);
	assert_int_equal(mkdirat(c.fd, "other", 0755), 0);
	cgroups_sweep(&c, is_b, &asked);
	assert_int_equal(asked, 2);
	assert_int_equal(faccessat(c.fd, CGROUP_PREFIX "a", F_OK, 0), -1);
	assert_int_equal(faccessat(c.fd, CGROUP_PREFIX "b", F_OK, 0), 0);
	assert_int_equal(faccessat(c.fd, "other", F_OK, 0), 0);
	cgroups_remove(&c, "b");
	cgroups_remove(&c, "b");
	assert_int_equal(unlinkat(c.fd, "other", AT_REMOVEDIR), 0);
	cgroups_done(&c);
	assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(own_path),
		cmocka_unit_test(mount_point), cmocka_unit_test(none_found),
		cmocka_unit_test(sweeps_its_own_only)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
