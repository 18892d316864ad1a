/* SPDX-License-Identifier: Apache-2.0 */
/* Catalogs: what a document may say, what a location may be, what a configuration may list. */
#include "check.h"
#include <stdio.h>
#include "pull/catalog.h"

#define HEX "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define REST "\"size\":7,\"sha256\":\"" HEX "\""
#define HTTP "http://host:8080/a/catalog.json"
#define FILE_ "/srv/catalogs/catalog.json"

/* The error's code, or OK; c: what was read. */
static enum banger_code parse(
	const char *text, const char *location, struct catalog *c, struct banger_error *err)
{
	*c = (struct catalog){0};
	*err = (struct banger_error){0};
	int r = catalog_parse(text, strlen(text), location, c, err);

	assert_int_equal(r < 0, err->code != BANGER_OK);
	if (r < 0) {
		assert_null(c->entries);
		assert_message(err, location);
	}
	return err->code;
}

static void whole(void **state)
{
	static const char text[] =
		"{\"version\":1,\"later\":[],\"bundles\":[{\"name\":\"web\",\"arch\":\"amd64\","
		"\"location\":\"b/web.tar.zst?x=1\"," REST
		",\"kernel\":\"deb-6.1\",\"description\":\"a \\u00fc\"},"
		"{\"name\":\"web\",\"arch\":\"arm64\",\"location\":\"/top.zst\"," REST
		",\"new\":1}],"
		"\"kernels\":[{\"name\":\"web\",\"arch\":\"amd64\",\"version\":\"6.1.0-1\","
		"\"location\":\"https://o/k\"," REST "}]}";
	struct banger_error err;
	struct catalog c;

	assert_int_equal(parse(text, HTTP, &c, &err), BANGER_OK);
	assert_int_equal(c.n, 3);
	const struct catalog_entry *e = catalog_lookup(&c, CATALOG_BUNDLE, "web", "amd64");
	assert_string_equal(e->location, "http://host:8080/a/b/web.tar.zst?x=1");
	assert_string_equal(e->kernel, "deb-6.1");
	assert_string_equal(e->digest, "sha256:" HEX);
	assert_int_equal(e->size, 7);
	assert_string_equal(catalog_lookup(&c, CATALOG_BUNDLE, "web", "arm64")->location,
		"http://host:8080/top.zst");
	e = catalog_lookup(&c, CATALOG_KERNEL, "web", "amd64");
	assert_string_equal(e->location, "https://o/k");
	assert_string_equal(e->version, "6.1.0-1");
	assert_null(catalog_lookup(&c, CATALOG_KERNEL, "web", "arm64"));
	assert_null(catalog_lookup(&c, CATALOG_KERNEL, "we", "amd64"));
	catalog_done(&c);
	assert_int_equal(parse("{\"version\":1}", HTTP, &c, &err), BANGER_OK);
	assert_int_equal(c.n, 0);
	catalog_done(&c);
}

static void locations(void **state)
{
	static const struct {
		const char *catalog, *location, *is, *why; /* is NULL: refused */
	} cases[] = {
		{HTTP, "x.zst", "http://host:8080/a/x.zst", NULL},
		{HTTP, "../x.zst", "http://host:8080/x.zst", NULL},
		{HTTP, "../../../../x.zst", "http://host:8080/x.zst", NULL},
		{HTTP, "https://other/x.zst", "https://other/x.zst", NULL},
		{HTTP, "//other/x.zst", NULL, "not a file"},
		{HTTP, "file:///etc/passwd", NULL, "not a file"},
		{HTTP, "FILE:///etc/passwd", NULL, "not a file"},
		{HTTP, "ftp://other/x", NULL, "not a file"},
		{HTTP, "javascript:alert", NULL, "not a file"},
		{HTTP, "http://u:p@other/x", NULL, "user name"},
		{HTTP, "http://other/x#y", NULL, "\"#\""},
		{HTTP, "http://", NULL, ""},
		{HTTP, "a b", "http://host:8080/a/a%20b", NULL},
		{FILE_, "x.zst", "/srv/catalogs/x.zst", NULL},
		{FILE_, "sub/a:b.zst", "/srv/catalogs/sub/a:b.zst", NULL},
		{FILE_, "/abs/x.zst", "/abs/x.zst", NULL},
		{FILE_, "file:///abs/a%20b", "/abs/a b", NULL},
		{FILE_, "file://host/abs", NULL, "file:///PATH"},
		{FILE_, "http://other/x", "http://other/x", NULL},
		{FILE_, "ftp://other/x", NULL, "nor file"},
		{FILE_, "", NULL, "empty"},
		{FILE_, "a\\nb", NULL, "control"},
	};
	struct banger_error err;
	struct catalog c;
	char text[512];

	for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
		snprintf(text, sizeof(text),
			"{\"version\":1,\"bundles\":[{\"name\":\"w\",\"arch\":\"amd64\","
			"\"location\":\"%s\"," REST "}]}",
			cases[i].location);
		enum banger_code code = parse(text, cases[i].catalog, &c, &err);
		if (cases[i].is) {
			assert_int_equal(code, BANGER_OK);
			assert_string_equal(c.entries[0].location, cases[i].is);
			catalog_done(&c);
		} else {
			if (code != BANGER_CORRUPT)
				fail_msg("\"%s\": %s", cases[i].location, err.message);
			assert_message(&err, "bundles[0].location");
			assert_message(&err, cases[i].why);
		}
	}
}

#define ENTRY(rest) "{\"version\":1,\"kernels\":[{" rest "}]}"
#define GOOD "\"name\":\"k\",\"arch\":\"amd64\",\"location\":\"x\","

static void hostile(void **state)
{
	static const struct {
		const char *text, *why;
		enum banger_code code;
	} cases[] = {
		{"", "too early", BANGER_CORRUPT},
		{"[]", "not a JSON object", BANGER_CORRUPT},
		{"{\"version\":1} {}", "unexpected character", BANGER_CORRUPT},
		{"{}", "no version", BANGER_CORRUPT},
		{"{\"version\":\"1\"}", "no version", BANGER_CORRUPT},
		{"{\"version\":2,\"bundles\":7}", "version 2", BANGER_UNSUPPORTED},
		{"{\"version\":1,\"bundles\":{}}", "bundles is not a list", BANGER_CORRUPT},
		{"{\"version\":1,\"kernels\":[1]}", "kernels[0] is not an object", BANGER_CORRUPT},
		{ENTRY("\"arch\":\"amd64\",\"location\":\"x\"," REST), "kernels[0].name is missing",
			BANGER_CORRUPT},
		{ENTRY("\"name\":\"../k\",\"arch\":\"amd64\",\"location\":\"x\"," REST),
			"not a name", BANGER_CORRUPT},
		{ENTRY("\"name\":7,\"arch\":\"amd64\",\"location\":\"x\"," REST), "not a string",
			BANGER_CORRUPT},
		{ENTRY("\"name\":\"k\",\"arch\":\"x86-64\",\"location\":\"x\"," REST),
			"kernels[0].arch", BANGER_CORRUPT},
		{ENTRY(GOOD "\"sha256\":\"" HEX "\""), "kernels[0].size", BANGER_CORRUPT},
		{ENTRY(GOOD "\"size\":0,\"sha256\":\"" HEX "\""), "kernels[0].size",
			BANGER_CORRUPT},
		{ENTRY(GOOD "\"size\":-1,\"sha256\":\"" HEX "\""), "kernels[0].size",
			BANGER_CORRUPT},
		{ENTRY(GOOD "\"size\":1e3,\"sha256\":\"" HEX "\""), "kernels[0].size",
			BANGER_CORRUPT},
		{ENTRY(GOOD "\"size\":99999999999999999999,\"sha256\":\"" HEX "\""),
			"kernels[0].size", BANGER_CORRUPT},
		{ENTRY(GOOD "\"size\":7"), "kernels[0].sha256", BANGER_CORRUPT},
		{ENTRY(GOOD "\"size\":7,\"sha256\":\"" HEX "0\""), "kernels[0].sha256",
			BANGER_CORRUPT},
		{ENTRY(GOOD "\"size\":7,\"sha256\":\"../../etc/passwd\""), "kernels[0].sha256",
			BANGER_CORRUPT},
		{"{\"version\":1,\"kernels\":[{" GOOD REST "},{" GOOD REST "}]}", "there twice",
			BANGER_CORRUPT},
	};
	struct banger_error err;
	struct catalog c;

	for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
		if (parse(cases[i].text, HTTP, &c, &err) != cases[i].code)
			fail_msg("%s: %s", cases[i].text, err.message);
		assert_message(&err, cases[i].why);
	}
}

static void too_many(void **state)
{
	struct banger_error err;
	struct catalog c;
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	fputs("{\"version\":1,\"bundles\":[", f);
	for (int i = 0; i <= CATALOG_ENTRIES_MAX; i++)
		fprintf(f, "%s{\"name\":\"n%d\",\"arch\":\"amd64\",\"location\":\"x\"," REST "}",
			i ? "," : "", i);
	fputs("]}", f);
	fclose(f);
	assert_int_equal(parse(text, HTTP, &c, &err), BANGER_CORRUPT);
	assert_message(&err, "more than 10000");
	free(text);
}

static void settings(void **state)
{
	static const struct {
		const char *text, *why; /* NULL: good */
	} cases[] = {
		{"[]", NULL},
		{"[{\"location\":\"https://h/c.json\",\"digest\":\"sha256:" HEX
		 "\"},{\"location\":\"/srv/c.json\"}]",
			NULL},
		{"[{\"location\":\"file:///srv/c.json\"}]", NULL},
		{"{}", "not a list"},
		{"[1]", "catalogs[0] is not an object"},
		{"[{}]", "catalogs[0].location is missing"},
		{"[{\"location\":\"srv/c.json\"}]", "absolute path"},
		{"[{\"location\":\"ftp://h/c\"}]", "catalogs[0].location"},
		{"[{\"location\":\"http://u@h/c\"}]", "user name"},
		{"[{\"location\":\"/c\"},{\"location\":\"/d\",\"digest\":\"md5:00\"}]",
			"catalogs[1].digest"},
		{"[{\"location\":\"/c\",\"digest\":7}]", "catalogs[0].digest is not a string"},
		{"[{\"location\":\"/c\",\"pin\":\"x\"}]", "unknown key \"pin\""},
	};

	for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
		struct banger_config config = {.catalogs = (char *)cases[i].text};
		struct banger_error err = {0};
		int r = catalog_settings_check(&config, &err);

		if ((r < 0) != (cases[i].why != NULL))
			fail_msg("%s: %s", cases[i].text, err.message);
		if (cases[i].why)
			assert_message(&err, cases[i].why);
	}
	assert_int_equal(catalog_settings_check(&(struct banger_config){0}, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(whole), cmocka_unit_test(locations),
		cmocka_unit_test(hostile), cmocka_unit_test(too_many), cmocka_unit_test(settings)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
