/* SPDX-License-Identifier: Apache-2.0 */
/* Log records are whole JSON whatever is put into them, with the op_id of the thread. */
#include "check.h"
#include <banger/log.h>
#include <banger/op.h>
#include <banger/wire.h>
#include <fcntl.h>

/* Run `what` with stderr in a pipe and parse the one line that comes. */
static struct json_object *record(void (*what)(void))
{
	static char buf[16384];
	int p[2], saved = dup(2);
	struct json_object *o = NULL;

	assert_int_equal(pipe(p), 0);
	dup2(p[1], 2);
	what();
	dup2(saved, 2);
	close(saved);
	close(p[1]);
	ssize_t n = read(p[0], buf, sizeof(buf));
	close(p[0]);
	assert_true(n > 1);
	assert_int_equal(buf[n - 1], '\n');
	assert_null(memchr(buf, '\n', n - 1));
	assert_int_equal(banger_json_parse(buf, n - 1, &o, NULL), 0);
	return o;
}

static void log_plain(void)
{
	_cleanup_op_ banger_op_id saved = banger_op_enter("op-0123456789ab");
	log_info("hello", KV_S("name", "web"), KV_I("size", 5), KV_D("ms", 1.5), KV_B("ok", true),
		KV_S("none", NULL));
}

static void plain(void **state)
{
	_cleanup_json_ struct json_object *o = record(log_plain);
	int64_t us;

	assert_string_equal(banger_json_str(o, "program"), "test");
	assert_string_equal(banger_json_str(o, "level"), "info");
	assert_string_equal(banger_json_str(o, "msg"), "hello");
	assert_string_equal(banger_json_str(o, "op_id"), "op-0123456789ab");
	assert_string_equal(banger_json_str(o, "name"), "web");
	assert_int_equal(banger_json_int(o, "size", 0), 5);
	assert_true(banger_json_bool(o, "ok", false));
	assert_null(banger_json_get(o, "none"));
	assert_int_equal(banger_time_parse(banger_json_str(o, "ts"), &us), 0);
	assert_true(banger_now_us() - us < 60000000);
}

static void log_hostile(void)
{
	static char big[20000];

	memset(big, '"', sizeof(big) - 1);
	log_err("q\"\\\n\x01\x7f\xff\xc3", KV_S("a", "\xe2\x82"), KV_S("big", big),
		KV_S("after", "x"));
}

static void hostile(void **state)
{
	_cleanup_json_ struct json_object *o = record(log_hostile);

	assert_string_equal(banger_json_str(o, "msg"), "q\"\\\n\x01\x7f\xEF\xBF\xBD\xEF\xBF\xBD");
	assert_non_null(banger_json_str(o, "big"));
	assert_null(banger_json_get(o, "op_id"));
}

static char hooked[64];

static void hook(void *arg, const char *op_id, const char *line, size_t len)
{
	assert_ptr_equal(arg, hooked);
	assert_int_equal(line[len - 1], '}');
	strcpy(hooked, op_id);
}

static void hooks(void **state)
{
	banger_log_set_hook(hook, hooked);
	_cleanup_json_ struct json_object *o = record(log_hostile);
	assert_string_equal(hooked, "");
	_cleanup_json_ struct json_object *o2 = record(log_plain);
	assert_string_equal(hooked, "op-0123456789ab");
	banger_log_set_hook(NULL, NULL);
}

static void levels(void **state)
{
	assert_false(banger_log_enabled(BANGER_DEBUG));
	setenv("BANGER_LOG_LEVEL", "debug", 1);
	banger_log_init("test");
	assert_true(banger_log_enabled(BANGER_DEBUG));
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(plain), cmocka_unit_test(hostile),
		cmocka_unit_test(hooks), cmocka_unit_test(levels)};
	banger_log_init("test");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
