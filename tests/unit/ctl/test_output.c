/* SPDX-License-Identifier: Apache-2.0 */
/* Listings and fields: alignment by columns of a terminal, order, safety. */
#include "check.h"
#include <locale.h>
#include "output.h"

static const struct listing_column columns[] = {{"NAME"}, {"SIZE", true}, {"NOTE"}};

static void check_print(const struct listing *l, bool terminal, const char *want)
{
	char *text = NULL;
	size_t size = 0;
	FILE *f = open_memstream(&text, &size);

	listing_print(l, f, terminal);
	fclose(f);
	assert_string_equal(text, want);
	free(text);
}

static void aligned(void **state)
{
	_cleanup_listing_ struct listing *l = NULL;

	assert_int_equal(listing_new(columns, 3, &l), 0);
	check_print(l, false, "NAME  SIZE  NOTE\n");
	assert_int_equal(LISTING_ADD(l, "web", "1.0GiB", "x"), 0);
	assert_int_equal(LISTING_ADD(l, "a-longer-name", "5B", ""), 0);
	assert_int_equal(LISTING_ADD(l, NULL, NULL, NULL), 0);
	check_print(l, false,
		"NAME             SIZE  NOTE\n"
		"web            1.0GiB  x\n"
		"a-longer-name      5B  -\n"
		"-                   -  -\n");
	assert_int_equal(listing_rows(l), 3);
	assert_string_equal(listing_cell(l, 1, 0), "a-longer-name");
}

static void terminal_heading(void **state)
{
	_cleanup_listing_ struct listing *l = NULL;

	assert_int_equal(listing_new(columns, 3, &l), 0);
	assert_int_equal(LISTING_ADD(l, "a", "1", "b"), 0);
	check_print(l, true, "\033[1mNAME  SIZE  NOTE\033[0m\na        1  b\n");
}

static void by_columns(void **state)
{
	_cleanup_listing_ struct listing *l = NULL;

	assert_non_null(setlocale(LC_CTYPE, "C.UTF-8"));
	assert_int_equal(listing_new(columns, 3, &l), 0);
	assert_int_equal(LISTING_ADD(l, "\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e", "1", "wide"), 0);
	assert_int_equal(LISTING_ADD(l,
				 "Gr\xc3\xbc\xc3\x9f"
				 "e",
				 "1", "umlaut"),
		0);
	assert_int_equal(LISTING_ADD(l, "\033[2J", "1", "escape"), 0);
	check_print(l, false,
		"NAME     SIZE  NOTE\n"
		"\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e      1  wide\n"
		"Gr\xc3\xbc\xc3\x9f"
		"e       1  umlaut\n"
		"\\x1b[2J     1  escape\n");
}

static void sorted(void **state)
{
	_cleanup_listing_ struct listing *l = NULL;

	assert_int_equal(listing_new(columns, 3, &l), 0);
	for (int i = 99; i >= 0; i--) {
		char name[8], note[8];
		snprintf(name, sizeof(name), "n%02d", i / 2);
		snprintf(note, sizeof(note), "%d", i % 2);
		assert_int_equal(LISTING_ADD(l, name, "", note), 0);
	}
	listing_sort(l, 0, 2);
	for (size_t i = 0; i < 100; i++) {
		assert_int_equal(atoi(listing_cell(l, i, 0) + 1), i / 2);
		assert_int_equal(atoi(listing_cell(l, i, 2)), i % 2);
	}
}

static void fields(void **state)
{
	_cleanup_listing_ struct listing *l = NULL;

	assert_int_equal(fields_new(&l), 0);
	assert_int_equal(fields_add(l, "name", "web"), 0);
	assert_int_equal(fields_add(l, "source", NULL), 0);
	assert_int_equal(fields_add(l, "kernel", ""), 0);
	assert_int_equal(fields_addf(l, "generation", "%d", 12), 0);
	check_print(l, true, "name        web\ngeneration  12\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(aligned),
		cmocka_unit_test(terminal_heading),
		cmocka_unit_test(by_columns),
		cmocka_unit_test(sorted),
		cmocka_unit_test(fields),
	};
	return cmocka_run_group_tests_name("ctl/output", tests, NULL, NULL);
}
