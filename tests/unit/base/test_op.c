/* SPDX-License-Identifier: Apache-2.0 */
/* op_ids: their form, and the scopes of a thread. */
#include "check.h"
#include <banger/op.h>

static void form(void **state)
{
	assert_true(banger_op_id_valid("op-0123456789ab"));
	static const char *const bad[] = {"", "op-", "op-0123456789a", "op-0123456789abc",
		"op-0123456789aB", "op_0123456789ab", "OP-0123456789ab", " op-0123456789ab",
		"op-0123456789ab\n", "op-0123456789ag"};
	for (size_t i = 0; i < ELEMENTSOF(bad); i++)
		assert_false(banger_op_id_valid(bad[i]));
	assert_false(banger_op_id_valid(NULL));
	banger_op_id a = banger_op_id_mint(), b = banger_op_id_mint();
	assert_true(banger_op_id_valid(a.s));
	assert_string_not_equal(a.s, b.s);
}

static void scopes(void **state)
{
	assert_null(banger_op_current());
	{
		_cleanup_op_ banger_op_id outer = banger_op_enter("op-000000000001");
		{
			_cleanup_op_ banger_op_id inner = banger_op_enter("op-000000000002");
			assert_string_equal(banger_op_current(), "op-000000000002");
			_cleanup_op_ banger_op_id same = banger_op_enter(banger_op_current());
			assert_string_equal(banger_op_current(), "op-000000000002");
		}
		assert_string_equal(banger_op_current(), "op-000000000001");
	}
	assert_null(banger_op_current());
}

static void actor(void **state)
{
	struct banger_actor a = {.pid = getpid()};
	banger_actor_resolve(&a);
	assert_true(strncmp(a.program, "test_base_op", 12) == 0);
	a.pid = 0;
	banger_actor_resolve(&a);
	assert_string_equal(a.program, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(form), cmocka_unit_test(scopes), cmocka_unit_test(actor)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
