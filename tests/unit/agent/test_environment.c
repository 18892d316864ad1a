/* SPDX-License-Identifier: Apache-2.0 */
/* A program's environment: what is there without being asked for, what overrides what. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include "agent.h" /* cmocka has a fail() too, a macro */
#include <cmocka.h>

static const struct user web = {
	.uid = 33, .gid = 33, .name = "web", .home = "/srv", .shell = "/bin/sh"};

static const char *value(const struct environment *e, const char *name)
{
	const char *found = NULL;
	size_t n = strlen(name);

	for (const char **v = e->v; *v; v++)
		if (strncmp(*v, name, n) == 0 && (*v)[n] == '=') {
			assert_null(found); /* each name once */
			found = *v + n + 1;
		}
	return found;
}

static struct environment make(const char **env, uint16_t flags, const struct user *u)
{
	static struct environment e; /* its strings are its own */
	const struct agent_exec x = {.env = env, .flags = flags};

	assert_int_equal(environment_make(&x, u, &e), 0);
	return e;
}

static void defaults(void **state)
{
	const char *none[] = {NULL};
	struct user nobody = {.uid = 7, .home = "/"};
	struct environment e = make(none, 0, &web);

	assert_string_equal(value(&e, "HOME"), "/srv");
	assert_string_equal(value(&e, "USER"), "web");
	assert_string_equal(value(&e, "SHELL"), "/bin/sh");
	assert_non_null(strstr(value(&e, "PATH"), "/usr/bin:"));
	assert_null(value(&e, "TERM"));
	environment_done(&e);
	e = make(none, AGENT_EXEC_TTY, &nobody);
	assert_string_equal(value(&e, "TERM"), "xterm");
	assert_string_equal(value(&e, "HOME"), "/");
	assert_null(value(&e, "USER"));
	assert_null(value(&e, "SHELL"));
	environment_done(&e);
}

static void overrides(void **state)
{
	const char *env[] = {"A=1", "HOME=/elsewhere", "B=", "A=2", "AA=3", "SHELL", "C=1", "C",
		"D=x=y", "=z", NULL};
	struct environment e = make(env, 0, &web);

	assert_string_equal(value(&e, "A"), "2");
	assert_string_equal(value(&e, "AA"), "3");
	assert_string_equal(value(&e, "B"), "");
	assert_string_equal(value(&e, "D"), "x=y");
	assert_string_equal(value(&e, "HOME"), "/elsewhere");
	assert_null(value(&e, "SHELL"));
	assert_null(value(&e, "C"));
	environment_done(&e);
}

static void as_many_as_a_frame_holds(void **state)
{
	enum { MANY = AGENT_PAYLOAD_MAX / 4 };
	static char text[MANY][8];
	static const char *env[MANY + 1];

	for (int i = 0; i < MANY; i++) {
		snprintf(text[i], sizeof(text[i]), "%x=", i / 2);
		env[i] = text[i];
	}
	struct environment e = make(env, 0, &web);
	size_t n = 0;
	while (e.v[n])
		n++;
	assert_int_equal(n, MANY / 2 + 4);
	environment_done(&e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(defaults), cmocka_unit_test(overrides),
		cmocka_unit_test(as_many_as_a_frame_holds)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
