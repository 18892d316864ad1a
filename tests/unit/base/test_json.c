/* SPDX-License-Identifier: Apache-2.0 */
/* What the strict parser takes and refuses. */
#include "check.h"
#include <banger/wire.h>

static int parse(const char *s, struct banger_error *e)
{
	_cleanup_json_ struct json_object *o = NULL;
	return banger_json_parse(s, strlen(s), &o, e);
}

static void taken(void **state)
{
	static const char *const good[] = {
		"{}", "[]", "1", " {\"a\":[1,2.5,true,null,\"x\\u00e9\"]} ", "\"x\"", "null", "-5"};
	for (size_t i = 0; i < ELEMENTSOF(good); i++)
		assert_int_equal(parse(good[i], NULL), 0);
}

static void refused(void **state)
{
	static const char *const bad[] = {"", "{", "[1", "{} {}", "{}x", "{a:1}", "['a']", "[1,]",
		"{\"a\":1,}", "\"\xff\"", "nul", "NaN", "[-Infinity]", "{'a':1}", "TRUE", "01x",
		"/* c */ {}", "{\"a\" 1}", "\"\n", "\"a\tb\"", "\"a\tb\""};
	struct banger_error e;

	for (size_t i = 0; i < ELEMENTSOF(bad); i++)
		if (parse(bad[i], &e) != -EINVAL)
			fail_msg("taken: %s", bad[i]);
	struct json_object *o = NULL;
	assert_int_equal(banger_json_parse("{}\0{}", 5, &o, &e), -EINVAL);
}

static void depth(void **state)
{
	char s[200];
	struct banger_error e;

	for (int n = 1; n < 90; n++) {
		memset(s, '[', n);
		memset(s + n, ']', n);
		s[2 * n] = '\0';
		int r = parse(s, &e);
		if (n < BANGER_WIRE_DEPTH_MAX)
			assert_int_equal(r, 0);
		else if (n > BANGER_WIRE_DEPTH_MAX)
			assert_int_equal(r, -EINVAL);
	}
}

static void members(void **state)
{
	_cleanup_json_ struct json_object *o = NULL;
	const char *s = "{\"s\":\"x\",\"n\":5,\"b\":true,\"nul\":\"a\\u0000b\",\"z\":null}";

	assert_int_equal(banger_json_parse(s, strlen(s), &o, NULL), 0);
	assert_string_equal(banger_json_str(o, "s"), "x");
	assert_null(banger_json_str(o, "n"));
	assert_null(banger_json_str(o, "nul"));
	assert_null(banger_json_str(o, "z"));
	assert_null(banger_json_str(NULL, "z"));
	assert_int_equal(banger_json_int(o, "n", -1), 5);
	assert_int_equal(banger_json_int(o, "s", -1), -1);
	assert_true(banger_json_bool(o, "b", false));
	assert_false(banger_json_bool(o, "s", false));
	assert_int_equal(banger_json_add_str(o, "absent", NULL), 0);
	assert_null(banger_json_get(o, "absent"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(taken), cmocka_unit_test(refused),
		cmocka_unit_test(depth), cmocka_unit_test(members)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
