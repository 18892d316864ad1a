/* SPDX-License-Identifier: Apache-2.0 */
/* The precedence of flags, environment and file, and refusals that name the setting. */
#include "check.h"
#include <banger/paths.h>
#include <fcntl.h>

static char dir[] = "/tmp/banger-test-config-XXXXXX", file[64];

static void write_file(const char *text)
{
	_cleanup_close_ int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
}

static int setup(void **state)
{
	static const char *const names[] = {"BANGER_STATE_DIR", "BANGER_RUNTIME_DIR",
		"BANGER_SOCKET", "BANGER_CONFIG", "BANGER_HELPER_SOCKET", "BANGER_LIBEXEC_DIR",
		"BANGER_QEMU"};
	for (size_t i = 0; i < ELEMENTSOF(names); i++)
		unsetenv(names[i]);
	return 0;
}

static void precedence(void **state)
{
	struct banger_config_flags flags = {.config = file};
	struct banger_config c;
	struct banger_error e;

	write_file("{\"state_dir\":\"/from-file\",\"runtime_dir\":\"/"
		   "run-file\",\"ops_kept\":7,\"accel\":\"tcg\"}");
	assert_int_equal(banger_config_load(&flags, &c, &e), 0);
	assert_string_equal(c.state_dir, "/from-file");
	assert_string_equal(c.socket, "/run-file/bangerd.sock");
	assert_string_equal(c.helper_socket, "/run-file/helper.sock");
	assert_string_equal(c.accel, "tcg");
	assert_string_equal(c.qemu, "qemu-system-x86_64");
	assert_int_equal(c.ops_kept, 7);
	assert_int_equal(c.connections, 512);
	banger_config_done(&c);
	setenv("BANGER_STATE_DIR", "/from-env", 1);
	setenv("BANGER_SOCKET", "/env.sock", 1);
	assert_int_equal(banger_config_load(&flags, &c, &e), 0);
	assert_string_equal(c.state_dir, "/from-env");
	assert_string_equal(c.socket, "/env.sock");
	banger_config_done(&c);
	flags.state_dir = "/from-flag";
	flags.runtime_dir = "/run-flag";
	assert_int_equal(banger_config_load(&flags, &c, &e), 0);
	assert_string_equal(c.state_dir, "/from-flag");
	assert_string_equal(c.socket, "/run-flag/bangerd.sock");
	banger_config_done(&c);
	flags.socket = "/flag.sock";
	assert_int_equal(banger_config_load(&flags, &c, &e), 0);
	assert_string_equal(c.socket, "/flag.sock");
	banger_config_done(&c);
}

static void refusals(void **state)
{
	static const struct {
		const char *text, *part;
	} bad[] = {{"{\"stat_dir\":\"/x\"}", "stat_dir"}, {"{\"state_dir\":5}", "state_dir"},
		{"{\"ops_kept\":0}", "ops_kept"}, {"{\"ops_kept\":\"5\"}", "ops_kept"},
		{"{\"accel\":\"kv\"}", "auto|kvm|tcg"}, {"[]", "object"}, {"{", file}};
	struct banger_config_flags flags = {.config = file};
	struct banger_config c;
	struct banger_error e;

	for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
		write_file(bad[i].text);
		assert_int_equal(banger_config_load(&flags, &c, &e), -EINVAL);
		assert_non_null(strstr(e.message, bad[i].part));
	}
	flags.config = "/nonexistent/config";
	assert_int_equal(banger_config_load(&flags, &c, &e), -ENOENT);
}

static void programs(void **state)
{
	struct banger_config c = {0};
	struct banger_error e;
	char *p = NULL;

	assert_int_equal(banger_config_program(&c, "test_base_config", &p, &e), 0);
	assert_int_equal(access(p, X_OK), 0);
	free(p);
	p = NULL;
	assert_int_equal(banger_config_program(&c, "no-such-program", &p, &e), -ENOENT);
	assert_non_null(strstr(e.message, "no-such-program"));
	c.libexec_dir = dir;
	assert_int_equal(banger_config_program(&c, "x", &p, &e), -ENOENT);
	assert_null(p);
}

static void directories(void **state)
{
	char deep[128];
	struct banger_error e;

	snprintf(deep, sizeof(deep), "%s/a/b", dir);
	assert_int_equal(banger_mkdir_p(deep, 0700, &e), 0);
	assert_int_equal(banger_mkdir_p(deep, 0700, &e), 0);
	rmdir(deep);
	deep[strlen(deep) - 2] = '\0';
	rmdir(deep);
	assert_int_equal(banger_mkdir_p(file, 0700, &e), -ENOTDIR);
}

static int in_dir(void **state)
{
	if (!mkdtemp(dir))
		return -1;
	snprintf(file, sizeof(file), "%s/config.json", dir);
	return 0;
}

static int out_of_dir(void **state)
{
	unlink(file);
	return rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test_setup(precedence, setup),
		cmocka_unit_test_setup(refusals, setup), cmocka_unit_test_setup(programs, setup),
		cmocka_unit_test(directories)};
	return cmocka_run_group_tests(tests, in_dir, out_of_dir);
}
