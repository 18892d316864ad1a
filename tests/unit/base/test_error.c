/* SPDX-License-Identifier: Apache-2.0 */
/* Codes round-trip, messages are fit for a terminal, and the op_id of the thread is in them. */
#include "check.h"
#include <banger/op.h>
#include <banger/wire.h>

static void codes(void **state)
{
	for (int i = 0; i < BANGER_CODE_COUNT; i++) {
		assert_int_equal(
			banger_code_from_name(banger_code_name(i)), i ? i : BANGER_INTERNAL);
		assert_int_equal(banger_code_from_errno(banger_code_errno(i)), i);
		assert_int_equal(banger_code_from_errno(-banger_code_errno(i)), i);
	}
	assert_int_equal(banger_code_from_name("from_the_future"), BANGER_INTERNAL);
	assert_int_equal(banger_code_from_errno(EDQUOT), BANGER_NO_SPACE);
	assert_string_equal(banger_code_name((enum banger_code)999), "internal");
}

static void set(void **state)
{
	struct banger_error e = {0};
	char buf[128];
	{
		_cleanup_op_ banger_op_id saved = banger_op_enter("op-0123456789ab");
		assert_int_equal(
			banger_error_set(&e, BANGER_EXISTS, "image name \"%s\" is taken", "web"),
			-EEXIST);
	}
	banger_error_prefix(&e, "promote %d", 1);
	assert_string_equal(e.message, "promote 1: image name \"web\" is taken");
	assert_string_equal(banger_error_sentence(&e, buf, sizeof(buf)),
		"promote 1: image name \"web\" is taken (op-0123456789ab)");
	assert_int_equal(banger_error_set(NULL, BANGER_BUSY, "x"), -EBUSY);
	assert_int_equal(banger_error_set_errno(&e, -EDQUOT, "cannot write"), -EDQUOT);
	assert_int_equal(e.code, BANGER_NO_SPACE);
	assert_string_equal(e.op_id, "");
}

static void hostile_text(void **state)
{
	struct banger_error e;

	banger_error_set(&e, BANGER_BAD_REQUEST, "a\033[31mb\n\xff\xc3\xa9\xc2\x9b\x7f");
	assert_string_equal(e.message, "a?[31mb??\xc3\xa9???");
	char big[4000];
	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	banger_error_set(&e, BANGER_BAD_REQUEST, "%s", big);
	banger_error_prefix(&e, "%s", big);
	assert_int_equal(strlen(e.message), sizeof(e.message) - 1);
	/* A character cut in half by the end of the buffer is not left there. */
	for (size_t i = 0; i + 2 < sizeof(big); i += 2)
		memcpy(big + i, "\xc3\xa9", 2);
	banger_error_set(&e, BANGER_BAD_REQUEST, "%s", big);
	assert_true(banger_utf8_valid(e.message, strlen(e.message)));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(codes), cmocka_unit_test(set), cmocka_unit_test(hostile_text)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
