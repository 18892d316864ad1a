/* SPDX-License-Identifier: Apache-2.0 */
/* What people write for an image, what is made of it, and what is refused with which words. */
#include "check.h"
#include <sys/stat.h>
#include "pull/reference.h"

#define HEX64 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define S256 "sha256:" HEX64
#define S512 "sha512:" HEX64 HEX64

/* text, host, repository, tag, digest, canonical (NULL: as written) */
static const struct {
	const char *text, *host, *repository, *tag, *digest, *canonical;
} taken[] = {
	{"debian", "docker.io", "library/debian", "latest", "", "docker.io/library/debian:latest"},
	{"debian:12", "docker.io", "library/debian", "12", "", "docker.io/library/debian:12"},
	{"me/tool", "docker.io", "me/tool", "latest", "", "docker.io/me/tool:latest"},
	{"docker.io/debian", "docker.io", "library/debian", "latest", "",
		"docker.io/library/debian:latest"},
	{"index.docker.io/debian:12", "docker.io", "library/debian", "12", "",
		"docker.io/library/debian:12"},
	{"index.docker.io/me/tool:1", "docker.io", "me/tool", "1", "", "docker.io/me/tool:1"},
	{"docker.io/library/debian:12", "docker.io", "library/debian", "12", "", NULL},
	{"debian@" S256, "docker.io", "library/debian", NULL, S256,
		"docker.io/library/debian@" S256},
	{"debian:12@" S256, "docker.io", "library/debian", "12", S256,
		"docker.io/library/debian:12@" S256},
	{"example.org/a@" S512, "example.org", "a", NULL, S512, NULL},
	{"example.org/a/b/c/d:x", "example.org", "a/b/c/d", "x", "", NULL},
	{"example.org/a", "example.org", "a", "latest", "", "example.org/a:latest"},
	{"127.0.0.1:5000/debian:12", "127.0.0.1:5000", "debian", "12", "", NULL},
	{"localhost/foo", "localhost", "foo", "latest", "", "localhost/foo:latest"},
	{"localhost:5000/foo:1", "localhost:5000", "foo", "1", "", NULL},
	{"localhost:5000", "docker.io", "library/localhost", "5000", "",
		"docker.io/library/localhost:5000"},
	{"registry:80/foo:1", "registry:80", "foo", "1", "", NULL},
	{"registry/foo:1", "docker.io", "registry/foo", "1", "", "docker.io/registry/foo:1"},
	{"[::1]/foo:1", "[::1]", "foo", "1", "", NULL},
	{"[2001:db8::1]:5000/foo@" S256, "[2001:db8::1]:5000", "foo", NULL, S256, NULL},
	{"[FE80::1]:5000/foo:1", "[fe80::1]:5000", "foo", "1", "", "[fe80::1]:5000/foo:1"},
	{"Example.ORG/foo:1", "example.org", "foo", "1", "", "example.org/foo:1"},
	{"HOST/foo:1", "HOST", "foo", "1", "", NULL},
	{"xn--n3h.com/foo:1", "xn--n3h.com", "foo", "1", "", NULL},
	{"a-b.c/foo:1", "a-b.c", "foo", "1", "", NULL},
	{"a.b/c_d/e__f/g---h/i.j/0:1", "a.b", "c_d/e__f/g---h/i.j/0", "1", "", NULL},
	{"x.y/foo:_", "x.y", "foo", "_", "", NULL},
	{"x.y/foo:Ab_c.d-e", "x.y", "foo", "Ab_c.d-e", "", NULL},
	{"x.y/" HEX64 ":1", "x.y", HEX64, "1", "", NULL},
	{"oci", "docker.io", "library/oci", "latest", "", "docker.io/library/oci:latest"},
};

static void accepted(void **state)
{
	for (size_t i = 0; i < ELEMENTSOF(taken); i++) {
		_cleanup_pull_reference_ struct pull_reference r = {0};
		struct banger_error e = {0};

		if (pull_reference_parse(taken[i].text, &r, &e) < 0)
			fail_msg("%s: %s", taken[i].text, e.message);
		assert_false(r.layout);
		assert_null(r.dir);
		assert_string_equal(r.host, taken[i].host);
		assert_string_equal(r.repository, taken[i].repository);
		assert_string_equal(r.tag ?: "(none)", taken[i].tag ?: "(none)");
		assert_string_equal(r.digest, taken[i].digest);
		assert_string_equal(r.text, taken[i].canonical ?: taken[i].text);
		/* The canonical text means the same. */
		_cleanup_pull_reference_ struct pull_reference again = {0};
		assert_int_equal(pull_reference_parse(r.text, &again, NULL), 0);
		assert_string_equal(again.text, r.text);
	}
}

static const char *const refused[][2] = {
	{"", "empty"},
	{":12", "empty component"},
	{"@" S256, "no repository"},
	{HEX64, "image's id"},
	{"Debian", "lower case (\"library/debian\"?)"},
	{"docker.io/Library/debian", "lower case"},
	{"x.y/Foo/bar:Tag", "lower case"},
	{"https://docker.io/debian", "leave out \"https://\""},
	{"docker://debian", "leave out \"docker://\""},
	{"debian:", "tag is missing"},
	{"debian:-x", "not a tag"},
	{"debian:.x", "not a tag"},
	{"debian:a b", "not a tag"},
	{"debian:a+b", "not a tag"},
	{"debian:a:b", "not a tag"},
	{"docker.io/foo:5000/bar", "not a tag"},
	{"debian@", "is missing"},
	{"debian@sha256:12", "64 digits"},
	{"debian@md5:0123456789abcdef0123456789abcdef", "sha256: or sha512:"},
	{"debian@" S256 ":12", "64 digits"},
	{"debian@" S256 "@" S256, "64 digits"},
	{"debian@sha256:" HEX64 "0", "64 digits"},
	{"debian@sha512:" HEX64, "128 digits"},
	{"debian@sha256:0123456789ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef",
		"64 digits"},
	{"/debian", "empty component"},
	{"a//b", "empty component"},
	{"a/b/", "empty component"},
	{"x.y/", "empty component"},
	{"x.y/:1", "empty component"},
	{"a/../b", "\"..\""},
	{"x.y/../b", "\"..\""},
	{"../b", "not a host"},
	{"./b", "not a host"},
	{"-a", "\"-a\""},
	{"a-", "\"a-\""},
	{"a_", "\"a_\""},
	{"a___b", "\"a___b\""},
	{"a..b", "\"a..b\""},
	{"a._b", "\"a._b\""},
	{"a.-b", "\"a.-b\""},
	{"x.y/a b", "\"a b\""},
	{"x.y/a\nb", "\"a?b\""},
	{"x.y/a%2fb", "\"a%2fb\""},
	{"x.y/a?b", "\"a?b\""},
	{"x.y/caf\xc3\xa9", "repository's name"},
	{"x.y/\xff", "repository's name"},
	{"ex_ample.org/a", "not a host"},
	{"-example.org/a", "not a host"},
	{"example-.org/a", "not a host"},
	{"example..org/a", "not a host"},
	{".org/a", "not a host"},
	{"org./a", "not a host"},
	{"user@host/a", "sha256: or sha512:"},
	{"host:/a", "port number is missing"},
	{"host:x/a", "not a port number"},
	{"host:80x/a", "not a port number"},
	{"host:+80/a", "not a port number"},
	{"host:0/a", "1 to 65535"},
	{"host:65536/a", "1 to 65535"},
	{"host:99999999999999999999/a", "1 to 65535"},
	{"host:80:80/a", "not a port number"},
	{"::1/a", "not a host"},
	{"[::1/a", "not a host"},
	{"[::1]x/a", "unexpected \"x\""},
	{"[::1]:/a", "port number is missing"},
	{"[]/a", "not a host"},
	{"[:::1]/a", "not a host"},
	{"[fe80::1%eth0]/a", "not a host"},
	{"[::ffff:1.2.3.4]/a", "not a host"},
	{"[127.0.0.1]/a", "not a host"},
};

static void refusals(void **state)
{
	for (size_t i = 0; i < ELEMENTSOF(refused); i++) {
		struct pull_reference r = {.host = (char *)"untouched"};
		struct banger_error e = {0};

		if (pull_reference_parse(refused[i][0], &r, &e) != -EINVAL)
			fail_msg("\"%s\" was not refused", refused[i][0]);
		assert_string_equal(r.host, "untouched");
		assert_message(&e, refused[i][1]);
		assert_memory_equal(e.message, "reference \"", 11);
	}
}

/* "x.y/" and n times 'a', with a suffix. */
static int parse_long(const char *prefix, size_t n, const char *suffix, struct banger_error *e)
{
	_cleanup_free_ char *as = malloc(n + 1), *text = NULL;
	_cleanup_pull_reference_ struct pull_reference r = {0};

	memset(as, 'a', n);
	as[n] = '\0';
	assert_true(asprintf(&text, "%s%s%s", prefix, as, suffix) >= 0);
	return pull_reference_parse(text, &r, e);
}

static void lengths(void **state)
{
	struct banger_error e;

	assert_int_equal(parse_long("x.y/", 255, ":1", &e), 0);
	assert_int_equal(parse_long("x.y/", 256, ":1", &e), -EINVAL);
	assert_message(&e, "longer than 255 bytes");
	assert_int_equal(parse_long("library/", 247, "", &e), 0);
	assert_int_equal(parse_long("", 247, "", &e), 0);
	assert_int_equal(parse_long("", 248, "", &e), -EINVAL);
	assert_int_equal(parse_long("x.y/a:", 128, "", &e), 0);
	assert_int_equal(parse_long("x.y/a:", 129, "", &e), -EINVAL);
	assert_message(&e, "longer than 128 bytes");
	assert_int_equal(parse_long("", 253, ".a/b", &e), 0);
	assert_int_equal(parse_long("", 254, ".a/b", &e), -EINVAL);
	assert_message(&e, "longer than 255 bytes");
	assert_int_equal(parse_long("", 1000000, "", &e), -EINVAL);
	assert_message(&e, "longer than 1024 bytes");
	assert_int_equal(parse_long("oci:/", 4094, "", &e), 0);
	assert_int_equal(parse_long("oci:/", 4095, "", &e), -EINVAL);
}

static void layout_is(const char *text, const char *dir, const char *tag)
{
	_cleanup_pull_reference_ struct pull_reference r = {0};

	assert_int_equal(pull_reference_parse(text, &r, NULL), 0);
	assert_true(r.layout);
	assert_null(r.host);
	assert_null(r.repository);
	assert_string_equal(r.digest, "");
	assert_string_equal(r.dir, dir);
	assert_string_equal(r.tag ?: "(none)", tag ?: "(none)");
	assert_string_equal(r.text, text);
}

static void layouts(void **state)
{
	struct banger_error e;

	layout_is("oci:/nowhere/x", "/nowhere/x", NULL);
	layout_is("oci:/nowhere/x:12", "/nowhere/x", "12");
	layout_is("oci:/nowhere/x:a:b", "/nowhere/x:a", "b");
	layout_is("oci:x", "x", NULL);
	/* What cannot be a tag belongs to the directory. */
	layout_is("oci:/nowhere/x:", "/nowhere/x:", NULL);
	layout_is("oci:/nowhere/x:a b", "/nowhere/x:a b", NULL);
	layout_is("oci:/nowhere/a:b/c", "/nowhere/a:b/c", NULL);
	assert_int_equal(pull_reference_parse("oci:", &(struct pull_reference){0}, &e), -EINVAL);
	assert_message(&e, "directory is missing");
	assert_int_equal(pull_reference_parse("oci::x", &(struct pull_reference){0}, &e), -EINVAL);
	assert_int_equal(
		pull_reference_parse("oci:/\xff", &(struct pull_reference){0}, &e), -EINVAL);
	assert_message(&e, "UTF-8");
}

/* What is there decides where the directory's name ends. */
static void existing_layouts(void **state)
{
	char top[] = "/tmp/banger-reference-XXXXXX", path[128], text[160];
	static const char *const dirs[] = {"a", "a:b", "l"};

	assert_non_null(mkdtemp(top));
	for (size_t i = 0; i < ELEMENTSOF(dirs); i++) {
		snprintf(path, sizeof(path), "%s/%s", top, dirs[i]);
		assert_int_equal(mkdir(path, 0700), 0);
	}
	static const char *const cases[][3] = {{"a", "a", NULL}, {"a:b", "a:b", NULL},
		{"a:c", "a", "c"}, {"a:b:c", "a:b", "c"},
		{"l:docker.io/library/debian:12", "l", "docker.io/library/debian:12"},
		{"l:host:5000/x:1", "l", "host:5000/x:1"}, {"l/:1", "l/", "1"}};
	for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
		snprintf(text, sizeof(text), "oci:%s/%s", top, cases[i][0]);
		snprintf(path, sizeof(path), "%s/%s", top, cases[i][1]);
		layout_is(text, path, cases[i][2]);
	}
	for (size_t i = ELEMENTSOF(dirs); i-- > 0;) {
		snprintf(path, sizeof(path), "%s/%s", top, dirs[i]);
		assert_int_equal(rmdir(path), 0);
	}
	assert_int_equal(rmdir(top), 0);
}

static void like(void **state)
{
	assert_true(pull_reference_like("oci:/x"));
	assert_true(pull_reference_like("debian:12"));
	assert_true(pull_reference_like("me/tool"));
	assert_true(pull_reference_like("debian@" S256));
	assert_false(pull_reference_like("debian"));
	assert_false(pull_reference_like(""));
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(accepted), cmocka_unit_test(refusals),
		cmocka_unit_test(lengths), cmocka_unit_test(layouts),
		cmocka_unit_test(existing_layouts), cmocka_unit_test(like)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
