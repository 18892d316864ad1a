/* SPDX-License-Identifier: Apache-2.0 */
/* Making texts safe, widths, sizes, times. */
#include "check.h"
#include <errno.h>
#include <locale.h>
#include <time.h>
#include "text.h"

static void check_clean(const char *dirty, const char *want)
{
	char *got = text_clean(dirty);

	assert_string_equal(got, want);
	free(got);
}

static void cleaning(void **state)
{
	check_clean(NULL, "");
	check_clean("plain text, with \\ and %s", "plain text, with \\ and %s");
	check_clean("Gr\xc3\xbc\xc3\x9f"
		    "e \xe6\x97\xa5\xe6\x9c\xac \xf0\x9f\x90\xa7",
		"Gr\xc3\xbc\xc3\x9f"
		"e \xe6\x97\xa5\xe6\x9c\xac \xf0\x9f\x90\xa7");
	check_clean("\033[31mred\033[0m", "\\x1b[31mred\\x1b[0m");
	check_clean("a\nb\rc\td\177", "a\\nb\\x0dc d\\x7f");
	check_clean("\xc2\x9b"
		    "31m",
		"\\x9b31m"); /* CSI as one character of C1 */
	check_clean("\xe2\x80\xae"
		    "exe",
		"\\u202e"
		"exe");                                          /* right-to-left override */
	check_clean("\x9b\xff", "\\x9b\\xff");                   /* no UTF-8 at all */
	check_clean("\xc0\xaf", "\\xc0\\xaf");                   /* overlong */
	check_clean("\xed\xa0\x80", "\\xed\\xa0\\x80");          /* surrogate */
	check_clean("\xe6\x97", "\\xe6\\x97");                   /* ends too early */
	check_clean("\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80"); /* beyond the last one */
}

static void cleaning_json(void **state)
{
	char *got = text_clean_json("{\n  \"a\": \"x\177\xc2\x9b\xe2\x80\xae\"\n}");

	assert_string_equal(got, "{\n  \"a\": \"x\\u007f\\u009b\\u202e\"\n}");
	free(got);
}

static void widths(void **state)
{
	assert_non_null(setlocale(LC_CTYPE, "C.UTF-8"));
	assert_int_equal(text_width(""), 0);
	assert_int_equal(text_width("abc"), 3);
	assert_int_equal(text_width("Gr\xc3\xbc\xc3\x9f"
				    "e"),
		5);
	assert_int_equal(text_width("\xe6\x97\xa5\xe6\x9c\xac"), 4); /* two wide ones */
	assert_int_equal(text_width("e\xcc\x81"), 1);                /* a combining accent */
}

static void sizes_shown(void **state)
{
	static const struct {
		int64_t bytes;
		const char *text;
	} cases[] = {{0, "0B"}, {1, "1B"}, {999, "999B"}, {1000, "1.0KiB"}, {1024, "1.0KiB"},
		{10240, "10KiB"}, {1 << 20, "1.0MiB"}, {(1 << 20) + (1 << 19), "1.5MiB"},
		{1023 * 1024, "1.0MiB"}, {512LL << 20, "512MiB"}, {INT64_MAX, "8.0EiB"}};
	char buf[TEXT_SIZE_LEN];

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
		assert_string_equal(text_size(cases[i].bytes, buf), cases[i].text);
}

static void sizes_read(void **state)
{
	static const struct {
		const char *text;
		int64_t bytes;
	} cases[] = {{"0", 0}, {"1", 1}, {"4096", 4096}, {"4096B", 4096}, {"1K", 1024},
		{"1k", 1024}, {"1KiB", 1024}, {"1KB", 1000}, {"512M", 512LL << 20},
		{"1.5G", 3LL << 29}, {"2T", 2LL << 40}, {"0.5K", 512},
		{"9223372036854775807", INT64_MAX}, {"7E", 7LL << 60}, {"1GB", 1000000000}};
	static const char *const wrong[] = {"", "M", "-1", "+1", "1 M", " 1", "1MM", "1Mi", "1MiBs",
		"0x10", "1e3", "1.", ".5", "1X", "1.5.2", "nan", "inf", "12345678901234567890"};
	static const char *const large[] = {"8E", "9223372036854775808", "9999999999G", "8.0E"};
	int64_t n;

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		assert_int_equal(text_size_parse(cases[i].text, &n), 0);
		assert_true(n == cases[i].bytes);
	}
	n = 77;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
		assert_int_equal(text_size_parse(wrong[i], &n), -EINVAL);
	for (size_t i = 0; i < sizeof(large) / sizeof(*large); i++)
		assert_int_equal(text_size_parse(large[i], &n), -ERANGE);
	assert_int_equal(n, 77);
}

static void durations(void **state)
{
	char buf[TEXT_DURATION_LEN];
	int64_t ms;

	assert_string_equal(text_duration(210, buf), "0.21ms");
	assert_string_equal(text_duration(120000, buf), "120ms");
	assert_string_equal(text_duration(1500000, buf), "1.5s");
	assert_string_equal(text_duration(59999999, buf), "59s");
	assert_string_equal(text_duration(200000000, buf), "3m 20s");
	assert_string_equal(text_duration(7500000000, buf), "2h 5m");
	assert_string_equal(text_duration(273600000000, buf), "3d 4h");
	assert_int_equal(text_duration_parse("30", &ms), 0);
	assert_int_equal(ms, 30000);
	assert_int_equal(text_duration_parse("250ms", &ms), 0);
	assert_int_equal(ms, 250);
	assert_int_equal(text_duration_parse("1.5m", &ms), 0);
	assert_int_equal(ms, 90000);
	assert_int_equal(text_duration_parse("2d", &ms), 0);
	assert_int_equal(ms, 172800000);
	assert_int_equal(text_duration_parse("-1", &ms), -EINVAL);
	assert_int_equal(text_duration_parse("1w", &ms), -EINVAL);
	assert_int_equal(text_duration_parse("9999999999999999d", &ms), -ERANGE);
}

static void moments(void **state)
{
	char buf[TEXT_AGE_LEN], time[TEXT_TIME_LEN];
	const int64_t now = 1772362800LL * 1000000;

	assert_string_equal(text_age(now, now, buf), "just now");
	assert_string_equal(text_age(now - 1000000, now, buf), "1 second ago");
	assert_string_equal(text_age(now - 180 * 1000000LL, now, buf), "3 minutes ago");
	assert_string_equal(text_age(now - 8 * 86400 * 1000000LL, now, buf), "1 week ago");
	assert_string_equal(text_age(now + 7200 * 1000000LL, now, buf), "in 2 hours");
	setenv("TZ", "CET-1", 1);
	tzset();
	assert_string_equal(text_time(now, time), "2026-03-01 12:00:00 +0100");
	assert_string_equal(text_clock(now + 45000, time), "12:00:00.045");
}

static void distances(void **state)
{
	assert_int_equal(text_distance("", "", 2), 0);
	assert_int_equal(text_distance("show", "show", 2), 0);
	assert_int_equal(text_distance("shwo", "show", 2), 2);
	assert_int_equal(text_distance("promot", "promote", 2), 1);
	assert_int_equal(text_distance("a", "abcdef", 2), 3);
	assert_int_equal(text_distance("kitten", "sitting", 3), 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cleaning),
		cmocka_unit_test(cleaning_json),
		cmocka_unit_test(widths),
		cmocka_unit_test(sizes_shown),
		cmocka_unit_test(sizes_read),
		cmocka_unit_test(durations),
		cmocka_unit_test(moments),
		cmocka_unit_test(distances),
	};
	return cmocka_run_group_tests_name("ctl/text", tests, NULL, NULL);
}
