/* SPDX-License-Identifier: Apache-2.0 */
/* The allow-lists: what is in them, and everything beside it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <string.h>
#include <banger/cleanup.h>
#include "words.h"

static void names(void **state)
{
	static const char *const bridges[] = {
		"bngr0", "bngra", "bngr0123456789", "bngrt", "bngrt012345678"};
	static const char *const no_bridges[] = {NULL, "", "bngr", "bngrA", "bngr-0",
		"bngr01234567890", "eth0", "xbngr0", "bngr0 ", "bngr0\n", "bngr%d", "bngr/0",
		"bngr.", "bngrt0123456789", "BNGR0"};
	static const char *const no_taps[] = {NULL, "", "bngrt", "bngrt012345678",
		"bngrt01234567890", "bngrt012345678A", "bngrt012345678g", "bngr00123456789", "tap0",
		"bngrt%d34567890"};

	for (size_t i = 0; i < ELEMENTSOF(bridges); i++)
		assert_true(helper_is_bridge(bridges[i]));
	for (size_t i = 0; i < ELEMENTSOF(no_bridges); i++)
		assert_false(helper_is_bridge(no_bridges[i]));
	assert_true(helper_is_tap("bngrt0123456789"));
	assert_true(helper_is_tap("bngrtabcdefabcd"));
	for (size_t i = 0; i < ELEMENTSOF(no_taps); i++)
		assert_false(helper_is_tap(no_taps[i]));
	assert_true(helper_is_vm("0123456789abcdef"));
	assert_false(helper_is_vm("0123456789abcde"));
	assert_false(helper_is_vm("0123456789abcdeF"));
	assert_false(helper_is_vm("0123456789abcdef0"));
	assert_false(helper_is_vm(NULL));
}

/* No name is both, whatever a VM's id is. */
static void tap_of(void **state)
{
	char tap[HELPER_NAME_MAX + 1];

	helper_tap_of("0123456789abcdef", tap);
	assert_string_equal(tap, "bngrt0123456789");
	assert_true(helper_is_tap(tap));
	assert_false(helper_is_bridge(tap));
}

static void subnets(void **state)
{
	static const char *const bad[] = {NULL, "", "10.0.0.0", "10.0.0.0/", "10.0.0.0/7",
		"10.0.0.0/30", "10.0.0.0/016", "10.0.0.1/24", "10.0.0.0/33", "10.0.0/16",
		"010.0.0.0/16", "10.0.0.0/1 ", "10.0.0.0/-8", "::/16", "10.0.0.0.0.0.0.0/16",
		"10.0.0.0/99", "/16", "256.0.0.0/8"};
	struct helper_subnet s, t;
	char text[HELPER_SUBNET_MAX + 1];

	assert_true(helper_parse_subnet("10.141.0.0/16", &s));
	assert_int_equal(s.address, 0x0a8d0000);
	assert_int_equal(s.prefix, 16);
	assert_string_equal(helper_subnet_text(&s, text), "10.141.0.0/16");
	for (size_t i = 0; i < ELEMENTSOF(bad); i++)
		assert_false(helper_parse_subnet(bad[i], &t));
	assert_true(helper_parse_subnet("10.141.8.0/24", &t));
	assert_true(helper_subnet_within(&t, &s));
	assert_false(helper_subnet_within(&s, &t));
	assert_true(helper_subnet_overlap(&s, &t) && helper_subnet_overlap(&t, &s));
	assert_true(helper_parse_subnet("10.142.0.0/24", &t));
	assert_false(helper_subnet_within(&t, &s) || helper_subnet_overlap(&s, &t));
	/* A default route overlaps everything. */
	t = (struct helper_subnet){0, 0};
	assert_true(helper_subnet_overlap(&s, &t));
}

/* Every address of a subnet that can be a VM's is met once, and no other. */
static void candidates(void **state)
{
	struct helper_subnet s;
	unsigned seen = 0;

	assert_true(helper_parse_subnet("10.1.2.8/29", &s));
	assert_int_equal(helper_hosts(&s), 5);
	assert_int_equal(helper_gateway(&s), 0x0a010209);
	for (uint32_t i = 0; i < helper_hosts(&s); i++) {
		uint32_t a = helper_candidate(&s, "ffffffffffffffff", i);
		assert_true(helper_is_host(&s, a));
		assert_false(seen >> (a & 7) & 1);
		seen |= 1u << (a & 7);
	}
	assert_int_equal(seen, 0x7c);
	assert_false(helper_is_host(&s, 0x0a010208) || helper_is_host(&s, 0x0a010209) ||
		     helper_is_host(&s, 0x0a01020f) || helper_is_host(&s, 0x0a010210));
	assert_int_equal(helper_candidate(&s, "0123456789abcdef", 0),
		helper_candidate(&s, "0123456789abcdef", 0));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names),
		cmocka_unit_test(tap_of),
		cmocka_unit_test(subnets),
		cmocka_unit_test(candidates),
	};

	return cmocka_run_group_tests_name("helper/words", tests, NULL, NULL);
}
