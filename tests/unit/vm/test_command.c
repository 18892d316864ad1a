/* SPDX-License-Identifier: Apache-2.0 */
/* The request over the image's configuration. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "vm/command.h"

static const char config[] =
	"{\"entrypoint\":[\"/entry\",\"-x\"],\"cmd\":[\"serve\"],\"env\":[\"A=1\",\"B=2\"],"
	"\"user\":\"web\",\"working_dir\":\"/srv\"}";

static void expect(const char **list, const char *words)
{
	char joined[256] = "";

	for (size_t i = 0; list[i]; i++) {
		strcat(joined, i ? " " : "");
		strcat(joined, list[i]);
	}
	assert_string_equal(joined, words);
}

static void from_config(void **state)
{
	struct vm_exec run = {.entrypoint = true};
	struct command c;

	assert_int_equal(command_make(&run, config, &c, NULL), 0);
	expect(c.exec.argv, "/entry -x serve");
	expect(c.exec.env, "A=1 B=2");
	assert_string_equal(c.exec.user, "web");
	assert_string_equal(c.exec.workdir, "/srv");
	command_done(&c);
}

static void from_request(void **state)
{
	const char *argv[] = {"ls", "-l", NULL}, *env[] = {"B=3", NULL};
	struct vm_exec run = {.entrypoint = true, .argv = argv, .env = env, .user = "root", .workdir = "/"};
	struct command c;

	assert_int_equal(command_make(&run, config, &c, NULL), 0);
	expect(c.exec.argv, "/entry -x ls -l");
	expect(c.exec.env, "A=1 B=2 B=3");
	assert_string_equal(c.exec.user, "root");
	assert_string_equal(c.exec.workdir, "/");
	command_done(&c);
	assert_int_equal(command_make(&run, NULL, &c, NULL), 0);
	expect(c.exec.argv, "ls -l");
	command_done(&c);
	/* What is run in a VM that is there already does not go through its entry point. */
	run.entrypoint = false;
	assert_int_equal(command_make(&run, config, &c, NULL), 0);
	expect(c.exec.argv, "ls -l");
	command_done(&c);
}

static void nothing_said(void **state)
{
	struct vm_exec run = {.entrypoint = true};
	struct command c;

	assert_int_equal(command_make(&run, NULL, &c, NULL), 0);
	expect(c.exec.argv, "/bin/sh");
	assert_string_equal(c.exec.user, "");
	command_done(&c);
}

static void refused(void **state)
{
	static char big[AGENT_PAYLOAD_MAX + 1];
	const char *argv[] = {big, NULL};
	struct vm_exec run = {.entrypoint = true, .argv = argv};
	struct command c;
	struct banger_error err;

	memset(big, 'x', AGENT_PAYLOAD_MAX);
	assert_int_equal(command_make(&run, NULL, &c, &err), -EFBIG);
	run.argv = NULL;
	assert_int_equal(command_make(&run, "{", &c, &err), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(from_config),
		cmocka_unit_test(from_request), cmocka_unit_test(nothing_said),
		cmocka_unit_test(refused)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
