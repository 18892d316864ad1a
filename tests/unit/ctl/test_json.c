/* SPDX-License-Identifier: Apache-2.0 */
/* Reading the daemon's answers, which may lack anything or have it in another type. */
#include "check.h"
#include "ctl.h"

static void members(void **state)
{
	static const char text[] =
		"{\"s\":\"x\",\"n\":12,\"b\":true,\"o\":{},\"a\":[1,2],\"null\":null,"
		"\"t\":\"2026-03-01T10:00:00.000000Z\"}";
	_cleanup_json_ struct json_object *o = NULL;
	char buf[32];

	assert_int_equal(banger_json_parse(text, strlen(text), &o, NULL), 0);
	assert_string_equal(ctl_json_text(o, "s", buf), "x");
	assert_string_equal(ctl_json_text(o, "n", buf), "12");
	assert_string_equal(ctl_json_text(o, "b", buf), "yes");
	assert_string_equal(ctl_json_text(o, "o", buf), "");
	assert_string_equal(ctl_json_text(o, "null", buf), "");
	assert_string_equal(ctl_json_text(o, "absent", buf), "");
	assert_string_equal(ctl_json_text(NULL, "s", buf), "");
	assert_int_equal(ctl_json_count(o, "a"), 2);
	assert_int_equal(ctl_json_count(o, "s"), 0);
	assert_int_equal(ctl_json_count(NULL, "a"), 0);
	assert_int_equal(json_object_get_int(ctl_json_at(o, "a", 1)), 2);
	assert_true(ctl_json_time(o, "t") == 1772359200LL * 1000000);
	assert_true(ctl_json_time(o, "s") == 0);
	assert_true(ctl_json_time(o, "n") == 0);
}

static void params(void **state)
{
	_cleanup_json_ struct json_object *o = NULL;

	assert_int_equal(ctl_params(&o, NULL, "a", "1", "b", NULL, "c", "", NULL), 0);
	assert_string_equal(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN),
		"{\"a\":\"1\",\"c\":\"\"}");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(members),
		cmocka_unit_test(params),
	};
	return cmocka_run_group_tests_name("ctl/json", tests, NULL, NULL);
}
