/* SPDX-License-Identifier: Apache-2.0 */
/* Which listings are lean, and that the checksum by instruction is the one by tables. */
#include "check.h"
#include <content/ext4/internal.h>
#include <content/lean.h>
#include <unistd.h>

/* Lists until listings are lean; how many were not. */
static unsigned walk(struct lean *l, uint64_t node)
{
	unsigned full = 0;

	for (; !lean_listing(l, true); full++)
		assert_true(full < 100);
	lean_listed(l, node);
	return full;
}

static void test_walker(void **state)
{
	struct lean *l = lean_new();

	assert_non_null(l);
	assert_false(lean_listing(l, false));
	assert_true(walk(l, 7) >= 2);
	assert_true(lean_listing(l, false)); /* the rest of a directory too */
	usleep(60000);
	assert_false(lean_listing(l, true)); /* another walk, or none */
	lean_free(l);
}

static void test_looks(void **state)
{
	struct lean *l = lean_new();
	size_t n = 0;

	walk(l, 7);
	assert_false(lean_looked(l, 8));
	walk(l, 1ull << 32 | 2);
	lean_listed(l, 7);
	assert_true(lean_looked(l, 7));
	for (unsigned k = 0; k < 20; k++)
		assert_false(lean_listing(l, true));
	uint64_t *node = lean_take(l, &n);
	assert_int_equal(n, 2);
	assert_int_equal(node[0] + node[1], (1ull << 32) + 9);
	free(node);
	assert_null(lean_take(l, &n));
	assert_false(lean_looked(l, 7));
	lean_free(l);
}

static void test_full(void **state)
{
	struct lean *l = lean_new();
	size_t n = 0;

	walk(l, 1);
	for (uint64_t k = 1; k < 100000; k++)
		lean_listed(l, k << 32 | 2);
	assert_false(lean_listing(l, true));
	free(lean_take(l, &n));
	assert_true(n > 1000 && n < 100000);
	walk(l, 1);
	lean_free(l);
}

static void test_checksum(void **state)
{
	uint8_t p[300];

	for (size_t k = 0; k < sizeof(p); k++)
		p[k] = (uint8_t)(k * 37 + 11);
	for (size_t at = 0; at < 9; at++)
		for (size_t len = 0; at + len <= sizeof(p); len++)
			assert_int_equal(csum32(0xdeadbeef + (uint32_t)len, p + at, len),
				ext2fs_crc32c_le(0xdeadbeef + (uint32_t)len, p + at, len));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_walker),
		cmocka_unit_test(test_looks),
		cmocka_unit_test(test_full),
		cmocka_unit_test(test_checksum),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
