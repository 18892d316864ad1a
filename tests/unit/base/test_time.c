/* SPDX-License-Identifier: Apache-2.0 */
/* Times against the C library's own calendar, and what is not a time. */
#include "check.h"
#include <banger/log.h>
#include <time.h>

static void against_libc(void **state)
{
	char ours[BANGER_TIME_LEN + 1], theirs[64];

	for (int64_t t = -62167219200; t < 253402300800; t += 86400LL * 13 + 7919) {
		struct tm tm;
		time_t tt = t;
		int64_t back;

		gmtime_r(&tt, &tm);
		snprintf(theirs, sizeof(theirs), "%04d-%02d-%02dT%02d:%02d:%02d.000042Z",
			tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min,
			tm.tm_sec);
		assert_string_equal(banger_time_format(t * 1000000 + 42, ours), theirs);
		assert_int_equal(banger_time_parse(ours, &back), 0);
		assert_true(back == t * 1000000 + 42);
	}
	assert_string_equal(banger_time_format(INT64_MAX, ours), "9999-12-31T23:59:59.999999Z");
	assert_string_equal(banger_time_format(INT64_MIN, ours), "0000-01-01T00:00:00.000000Z");
}

static void refused(void **state)
{
	static const char *const bad[] = {"", "2026-03-01", "2026-13-01T00:00:00.000000Z",
		"2026-02-29T00:00:00.000000Z", "2026-00-10T00:00:00.000000Z",
		"2026-01-01T24:00:00.000000Z", "2026-01-01T00:60:00.000000Z",
		"2026-01-01 00:00:00.000000Z", "2026-01-01T00:00:00.000000+",
		"2026-01-01T00:00:00.00000Z ", "2026-01-01T00:00:0x.000000Z"};
	int64_t us = 7;

	for (size_t i = 0; i < ELEMENTSOF(bad); i++)
		assert_int_equal(banger_time_parse(bad[i], &us), -EINVAL);
	assert_int_equal(banger_time_parse(NULL, &us), -EINVAL);
	assert_int_equal(us, 7);
	assert_int_equal(banger_time_parse("2024-02-29T00:00:00.000000Z", &us), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(against_libc), cmocka_unit_test(refused)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
