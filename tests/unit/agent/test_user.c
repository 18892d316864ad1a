/* SPDX-License-Identifier: Apache-2.0 */
/* Users as an image names them; passwd and group are the image's, and may be anything. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static const char *the_passwd, *the_group;

static FILE *test_fopen(const char *path, const char *mode)
{
	const char *text = strcmp(path, "/etc/passwd") == 0 ? the_passwd : the_group;

	return text ? fmemopen((void *)text, strlen(text), "r") : NULL;
}

#define fopen test_fopen
#include "../../../daemon/agent/user.c"
#undef fopen
#include <cmocka.h> /* has a fail() too, a macro */

static int setup(void **state)
{
	the_passwd =
		"root:x:0:0:root:/root:/bin/bash\nweb:x:33:34::/srv:\nno line\nbad:x:one:2::/:\n"
		"short:x:5:5\nhuge:x:4294967295:1::/:\nlast:x:77:78::/home/last:/bin/sh";
	the_group = "root:x:0:\naudio:x:29:web,other\nvideo:x:44:other,webb\nplugdev:x:46:other,"
		    "web\nstaff:x:50:\n";
	return 0;
}

static void by_name(void **state)
{
	char why[WHY_MAX];
	struct user u;

	assert_int_equal(user_find("web", &u, why), 0);
	assert_int_equal(u.uid, 33);
	assert_int_equal(u.gid, 34);
	assert_string_equal(u.home, "/srv");
	assert_string_equal(u.shell, "");
	assert_int_equal(u.n_groups, 2);
	assert_int_equal(u.groups[0], 29);
	assert_int_equal(u.groups[1], 46);
	assert_int_equal(user_find("last", &u, why), 0); /* without a newline */
	assert_string_equal(u.shell, "/bin/sh");
	assert_int_equal(user_find("", &u, why), 0);
	assert_string_equal(u.name, "root");
}

static void by_number(void **state)
{
	char why[WHY_MAX];
	struct user u;

	assert_int_equal(user_find("1234", &u, why), 0);
	assert_int_equal(u.uid, 1234);
	assert_int_equal(u.gid, 0);
	assert_string_equal(u.home, "/");
	assert_string_equal(u.name, "");
	assert_int_equal(user_find("33:50", &u, why), 0);
	assert_int_equal(u.gid, 50);
	assert_int_equal(u.n_groups, 0); /* who names a group gets that one */
	assert_int_equal(user_find("web:staff", &u, why), 0);
	assert_int_equal(u.gid, 50);
}

static void of_nobody(void **state)
{
	static const char *const none[] = {
		"nobody", "bad", "huge", "short", "web:nogroup", "4294967295", "-1", "3x", ":"};
	char why[WHY_MAX];
	struct user u;

	for (size_t i = 0; i < sizeof(none) / sizeof(none[0]); i++) {
		why[0] = '\0';
		assert_int_equal(user_find(none[i], &u, why), -ENOENT);
		assert_non_null(strstr(why, "the image has no"));
	}
}

/* An entry that does not fit is none, rather than half of one. */
static void long_entries(void **state)
{
	static char text[1000];
	char why[WHY_MAX];
	struct user u;

	snprintf(text, sizeof(text), "long:x:7:7::/%0300d:/bin/sh\nlong:x:8:8::/home:/bin/sh\n", 1);
	the_passwd = text;
	assert_int_equal(user_find("long", &u, why), 0);
	assert_int_equal(u.uid, 8);
	assert_string_equal(u.home, "/home");
}

static void no_files(void **state)
{
	char why[WHY_MAX];
	struct user u;

	the_passwd = the_group = NULL;
	assert_int_equal(user_find("", &u, why), 0);
	assert_int_equal(u.uid, 0);
	assert_string_equal(u.home, "/root");
	assert_int_equal(user_find("5:6", &u, why), 0);
	assert_int_equal(u.gid, 6);
	assert_int_equal(user_find("web", &u, why), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test_setup(by_name, setup),
		cmocka_unit_test_setup(by_number, setup), cmocka_unit_test_setup(of_nobody, setup),
		cmocka_unit_test_setup(long_entries, setup),
		cmocka_unit_test_setup(no_files, setup)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
