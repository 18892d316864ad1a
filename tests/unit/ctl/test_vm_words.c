/* SPDX-License-Identifier: Apache-2.0 */
/* What people type about VMs. */
#include "check.h"
#include <signal.h>
#include "vm_words.h"

static struct banger_error err;

static void variables(void **state)
{
	char *s = NULL;

	setenv("BANGER_TEST_SET", "here", 1);
	unsetenv("BANGER_TEST_UNSET");
	assert_int_equal(vm_variable("A=b=c", &s, &err), 0);
	assert_string_equal(s, "A=b=c");
	free(s);
	assert_int_equal(vm_variable("A=", &s, &err), 0);
	assert_string_equal(s, "A=");
	free(s);
	assert_int_equal(vm_variable("BANGER_TEST_SET", &s, &err), 0);
	assert_string_equal(s, "BANGER_TEST_SET=here");
	free(s);
	assert_int_equal(vm_variable("BANGER_TEST_UNSET", &s, &err), 0);
	assert_null(s);
	assert_int_equal(vm_variable("=b", &s, &err), -EINVAL);
	assert_int_equal(vm_variable("", &s, &err), -EINVAL);
	assert_int_equal(vm_variable("A=\xff", &s, &err), -EINVAL);
	assert_string_equal(
		err.message, "the variable A is not UTF-8, and cannot be sent to the VM");
	setenv("BANGER_TEST_SET", "\xff", 1);
	assert_int_equal(vm_variable("BANGER_TEST_SET", &s, &err), -EINVAL);
}

static void place(const char *word, const char *vm, const char *path)
{
	const char *found;
	char *name;

	assert_int_equal(vm_place(word, &name, &found, &err), 0);
	assert_int_equal(name == NULL, vm == NULL);
	if (vm)
		assert_string_equal(name, vm);
	assert_string_equal(found, path);
	free(name);
}

static void places(void **state)
{
	place("web:/etc", "web", "/etc");
	place("web:", "web", "");
	place("web:a:b", "web", "a:b");
	place("file", NULL, "file");
	place("-", NULL, "-");
	place("./a:b", NULL, "./a:b");
	place("/a:b", NULL, "/a:b");
	place(":x", NULL, ":x");
}

static void signals(void **state)
{
	int n = 0;

	assert_int_equal(vm_signal("KILL", &n), 0);
	assert_int_equal(n, SIGKILL);
	assert_int_equal(vm_signal("sigterm", &n), 0);
	assert_int_equal(n, SIGTERM);
	assert_int_equal(vm_signal("15", &n), 0);
	assert_int_equal(n, SIGTERM);
	n = 0;
	assert_int_equal(vm_signal("0", &n), -EINVAL);
	assert_int_equal(vm_signal("65", &n), -EINVAL);
	assert_int_equal(vm_signal("9x", &n), -EINVAL);
	assert_int_equal(vm_signal("", &n), -EINVAL);
	assert_int_equal(vm_signal("SIG", &n), -EINVAL);
	assert_int_equal(vm_signal("NOSUCH", &n), -EINVAL);
	assert_int_equal(n, 0);
}

static void lines(void **state)
{
	int64_t n = 7;

	assert_int_equal(vm_lines("", &n), -EINVAL);
	assert_int_equal(vm_lines("-1", &n), -EINVAL);
	assert_int_equal(vm_lines("5k", &n), -EINVAL);
	assert_int_equal(vm_lines("99999999999999999999", &n), -EINVAL);
	assert_int_equal(n, 7);
	assert_int_equal(vm_lines("0", &n), 0);
	assert_int_equal(n, 0);
	assert_int_equal(vm_lines("2147483647", &n), 0);
	assert_int_equal(n, INT32_MAX);
	assert_int_equal(vm_lines("all", &n), 0);
	assert_int_equal(n, -1);
}

static void keys(void **state)
{
	int k = 7;

	assert_int_equal(vm_key("", &k), -EINVAL);
	assert_int_equal(vm_key("^", &k), 0);
	assert_int_equal(k, '^');
	assert_int_equal(vm_key("^]", &k), 0);
	assert_int_equal(k, 0x1d);
	assert_int_equal(vm_key("^a", &k), 0);
	assert_int_equal(k, 1);
	assert_int_equal(vm_key("q", &k), 0);
	assert_int_equal(k, 'q');
	assert_int_equal(vm_key("none", &k), 0);
	assert_int_equal(k, -1);
	assert_int_equal(vm_key("^1", &k), -EINVAL);
	assert_int_equal(vm_key("^ab", &k), -EINVAL);
	assert_int_equal(vm_key("Esc", &k), -EINVAL);
}

static void path(const char *text, const char *directory, const char *name)
{
	char *d = vm_path_directory(text), *n = vm_path_name(text);

	assert_string_equal(d, directory);
	assert_string_equal(n, name);
	free(d);
	free(n);
}

static void followed(const char *from, const char *target, const char *to)
{
	char *s = vm_path_follow(from, target);

	assert_string_equal(s, to);
	free(s);
}

static void paths(void **state)
{
	path("/a/b", "/a", "b");
	path("/a", "/", "a");
	path("/", "/", ".");
	path("//", "/", ".");
	path("a", ".", "a");
	path("a/b///", "a", "b");
	path("a//b", "a", "b");
	path("/a/.", "/a", ".");
	path("/a/..", "/a", ".");
	path("/a/..b", "/a", "..b");
	path("", ".", ".");
	assert_true(vm_path_means_content(".") && vm_path_means_content("a/.") &&
		    vm_path_means_content("/."));
	assert_false(vm_path_means_content("a.") || vm_path_means_content("") ||
		     vm_path_means_content("a/..") || vm_path_means_content("/"));
	assert_true(vm_path_ends_in_slash("a/") && vm_path_ends_in_slash("/"));
	assert_false(vm_path_ends_in_slash("") || vm_path_ends_in_slash("/a"));
	followed("/a/b", "c", "/a/c");
	followed("/a/b/", "../c", "/a/../c");
	followed("/a/b", "/c", "/c");
	followed("/b", "c", "//c");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(variables),
		cmocka_unit_test(places),
		cmocka_unit_test(signals),
		cmocka_unit_test(lines),
		cmocka_unit_test(keys),
		cmocka_unit_test(paths),
	};
	return cmocka_run_group_tests_name("ctl/vm_words", tests, NULL, NULL);
}
