/* SPDX-License-Identifier: Apache-2.0 */
/* Every code point in its shortest form is valid, and nothing else of up to four bytes near the
 * borders. */
#include "check.h"
#include <banger/wire.h>

static size_t encode(uint32_t c, char *b)
{
	if (c < 0x80)
		return b[0] = c, 1;
	if (c < 0x800)
		return b[0] = 0xC0 | c >> 6, b[1] = 0x80 | (c & 63), 2;
	if (c < 0x10000)
		return b[0] = 0xE0 | c >> 12, b[1] = 0x80 | (c >> 6 & 63), b[2] = 0x80 | (c & 63),
		       3;
	return b[0] = 0xF0 | c >> 18, b[1] = 0x80 | (c >> 12 & 63), b[2] = 0x80 | (c >> 6 & 63),
	       b[3] = 0x80 | (c & 63), 4;
}

static void all(void **state)
{
	char b[4];

	for (uint32_t c = 0; c < 0x120000; c++) {
		size_t n = encode(c, b);
		bool good = c <= 0x10FFFF && !(c >= 0xD800 && c <= 0xDFFF);
		assert_int_equal(banger_utf8_valid(b, n), good);
		if (n > 1)
			assert_false(banger_utf8_valid(b, n - 1));
	}
	assert_true(banger_utf8_valid("", 0));
	assert_false(banger_utf8_valid("\xC0\x80", 2));
	assert_false(banger_utf8_valid("\xE0\x80\x80", 3));
	assert_false(banger_utf8_valid("\xF0\x80\x80\x80", 4));
	assert_false(banger_utf8_valid("\x80", 1));
	assert_false(banger_utf8_valid("a\xFF", 2));
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(all)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
