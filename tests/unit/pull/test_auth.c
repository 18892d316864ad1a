/* SPDX-License-Identifier: Apache-2.0 */
/* Challenges, realms, credentials' files and helpers, settings of hosts: all without a network. */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>
#include <banger/log.h>
#include "pull/auth.h"
#include "pull/settings.h"

/* "SCHEME realm service scope;" of each, '-' for what is not there. */
static void assert_challenges(const char *text, const char *want)
{
	static const char *const schemes[] = {"other", "basic", "bearer"};
	struct auth_challenge list[AUTH_CHALLENGES_MAX];
	char found[4096] = "";
	size_t at = 0;

	int n = auth_challenges_parse(text, list);
	for (int i = 0; i < n; i++) {
		at += (size_t)snprintf(found + at, sizeof(found) - at, "%s %s %s %s;",
			schemes[list[i].scheme], list[i].realm ?: "-", list[i].service ?: "-",
			list[i].scope ?: "-");
		auth_challenge_done(&list[i]);
	}
	assert_string_equal(found, want);
}

static void test_challenges(void **state)
{
	assert_challenges(
		"Bearer "
		"realm=\"https://auth.docker.io/"
		"token\",service=\"registry.docker.io\",scope=\"repository:a/b:pull,push\"",
		"bearer https://auth.docker.io/token registry.docker.io repository:a/b:pull,push;");
	assert_challenges("Basic realm=\"x\"", "basic x - -;");
	assert_challenges("BASIC REALM = x", "basic x - -;");
	assert_challenges("Basic", "basic - - -;");
	assert_challenges(
		"Basic realm=a, Bearer realm=\"b\", scope=c", "basic a - -;bearer b - c;");
	assert_challenges("Basic realm=a\nBearer realm=b", "basic a - -;bearer b - -;");
	assert_challenges("Negotiate, Basic realm=a", "other - - -;basic a - -;");
	assert_challenges("Negotiate YIIabc==, Basic realm=a", "other - - -;basic a - -;");
	assert_challenges("Bearer realm=\"a\\\"b\\\\c\"", "bearer a\"b\\c - -;");
	assert_challenges(
		"Bearer realm=\"a,b=c, Basic realm=d\"", "bearer a,b=c, Basic realm=d - -;");
	assert_challenges("Bearer realm=\"a\",realm=\"b\"", "bearer a - -;");
	/* What makes no sense ends it. */
	assert_challenges("", "");
	assert_challenges(",,, ,", "");
	assert_challenges("realm=\"x\"", "");
	assert_challenges("Bearer realm=\"unterminated", "bearer - - -;");
	assert_challenges("Bearer realm=\"x\\", "bearer - - -;");
	assert_challenges("Bearer realm=\"a\tb\"", "bearer - - -;");
	assert_challenges("Bearer realm=", "bearer - - -;");
	assert_challenges("a b c d e f", "other - - -;");
	assert_challenges("a, b, c, d, e, f, g, h, i, j",
		"other - - -;other - - -;other - - -;other - - -;other - - -;other - - -;other - - "
		"-;other - - -;");
}

static void test_realms(void **state)
{
	static const struct {
		const char *registry, *realm;
		bool with, without;
	} cases[] = {
		{"https://r.example/v2/", "https://auth.example/token", true, true},
		{"https://r.example/v2/", "https://r.example/token", true, true},
		{"https://r.example/v2/", "http://r.example/token", false, false},
		{"https://r.example/v2/", "http://127.0.0.1/token", false, false},
		{"http://r.example:5000/v2/", "http://r.example:5001/token", true, true},
		{"http://r.example:5000/v2/", "https://r.example/token", true, true},
		{"http://r.example:5000/v2/", "https://auth.example/token", false, true},
		{"http://r.example:5000/v2/", "http://auth.example/token", false, true},
		{"http://r.example:5000/v2/", "http://r.example.evil/token", false, true},
		{"http://r.example/v2/", "http://127.0.0.1/token", false, true},
		{"http://127.0.0.1:5000/v2/", "http://localhost:5001/token", true, true},
		{"http://127.0.0.1:5000/v2/", "http://[::1]:5001/token", true, true},
		{"https://127.0.0.1:5000/v2/", "http://127.0.0.1:5001/token", true, true},
		{"http://127.0.0.1:5000/v2/", "https://auth.example/token", false, true},
		{"http://127.0.0.1:5000/v2/", "http://127.0.0.1.evil/token", false, true},
		{"https://r.example/v2/", "https://user@auth.example/token", false, false},
		{"https://r.example/v2/", "ftp://auth.example/token", false, false},
		{"https://r.example/v2/", "token", false, false},
		{"https://r.example/v2/", "", false, false},
	};

	for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
		assert_int_equal(
			auth_realm_check(cases[i].registry, cases[i].realm, true, NULL) == 0,
			cases[i].with);
		assert_int_equal(
			auth_realm_check(cases[i].registry, cases[i].realm, false, NULL) == 0,
			cases[i].without);
	}
}

static void test_base64(void **state)
{
	static const char *const texts[] = {"", "a", "ab", "abc", "user:\xff\xfe\n"};
	size_t len;

	for (size_t i = 0; i < ELEMENTSOF(texts); i++) {
		_cleanup_free_ char *e = auth_base64(texts[i], strlen(texts[i]));
		_cleanup_free_ char *d = auth_unbase64(e, &len);
		assert_string_equal(d, texts[i]);
		assert_int_equal(len, strlen(texts[i]));
	}
	assert_null(auth_unbase64("a b", &len));
	assert_null(auth_unbase64("YQ==YQ==", &len));
}

/* ---- credentials ---- */

static char dir[64];

static void write_file(const char *name, const char *text, unsigned mode)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	for (char *p = path + strlen(dir) + 1; (p = strchr(p, '/')); p++) {
		*p = '\0';
		mkdir(path, 0700);
		*p = '/';
	}
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

static void set_path(const char *variable, const char *name)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	setenv(variable, path, 1);
}

static int set_up(void **state)
{
	snprintf(dir, sizeof(dir), "/tmp/banger-auth-XXXXXX");
	assert_non_null(mkdtemp(dir));
	set_path("HOME", "home");
	set_path("XDG_RUNTIME_DIR", "run");
	unsetenv("XDG_CONFIG_HOME");
	unsetenv("DOCKER_CONFIG");
	unsetenv("REGISTRY_AUTH_FILE");
	return 0;
}

static int tear_down(void **state)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -r %s", dir);
	return system(command);
}

/* "USER:PASSWORD", "token:…", "none" or "error: MESSAGE". */
static const char *look(const char *host, const char *repository)
{
	static char text[1200];
	struct auth_credentials c = {0};
	struct banger_error err = {0};

	int r = auth_credentials_find(host, repository, -1, &c, &err);
	if (r < 0)
		snprintf(text, sizeof(text), "error: %s", err.message);
	else if (r == 0)
		snprintf(text, sizeof(text), "none");
	else if (c.identity_token)
		snprintf(text, sizeof(text), "token:%s", c.identity_token);
	else
		snprintf(text, sizeof(text), "%s:%s", c.user, c.password);
	auth_credentials_done(&c);
	return text;
}

#define A "\"auth\":\"YTph\"" /* a:a */
#define B "\"auth\":\"Yjpi\""
#define C "\"auth\":\"Yzpj\""

static void test_files(void **state)
{
	assert_string_equal(look("r.example", "x/y"), "none");
	write_file("home/.docker/config.json", "{\"auths\":{\"r.example\":{" A "}}}", 0600);
	assert_string_equal(look("r.example", "x/y"), "a:a");
	write_file(
		"home/.config/containers/auth.json", "{\"auths\":{\"r.example\":{" B "}}}", 0600);
	assert_string_equal(look("r.example", "x/y"), "b:b");
	write_file("run/containers/auth.json",
		"{\"auths\":{\"other.example\":{" C "},\"r.example\":{}}}", 0600);
	assert_string_equal(look("r.example", "x/y"), "b:b");
	assert_string_equal(look("other.example", "x/y"), "c:c");
	write_file("named", "{}", 0600);
	set_path("REGISTRY_AUTH_FILE", "named");
	assert_string_equal(look("r.example", "x/y"), "none");
}

static void test_keys(void **state)
{
	set_path("REGISTRY_AUTH_FILE", "named");
	write_file("named",
		"{\"auths\":{\"r.example\":{" A "},\"r.example/x\":{" B "},\"r.example/x/y\":{" C
		"},"
		"\"https://old.example/v1/\":{" B "},\"https://index.docker.io/v1/\":{" C "},"
		"\"R.UPPER:5000\":{" A "}}}",
		0600);
	assert_string_equal(look("r.example", "z"), "a:a");
	assert_string_equal(look("r.example", "xy"), "a:a");
	assert_string_equal(look("r.example", "x"), "b:b");
	assert_string_equal(look("r.example", "x/yy"), "b:b");
	assert_string_equal(look("r.example", "x/y/z"), "c:c");
	assert_string_equal(look("r.example:5000", "x"), "none");
	assert_string_equal(look("old.example", "x"), "b:b");
	assert_string_equal(look("docker.io", "library/debian"), "c:c");
	assert_string_equal(look("r.upper:5000", "x"), "a:a");
	assert_string_equal(look("r.upper", "x"), "none");
}

static void test_bad_files(void **state)
{
	static const struct {
		const char *text, *word;
	} cases[] = {
		{"{", "not JSON"},
		{"[]", "not a JSON object"},
		{"{\"auths\":{\"r.example\":{\"auth\":\"***\"}}}", "not base64"},
		{"{\"auths\":{\"r.example\":{\"auth\":\"YWJj\"}}}", "USER:PASSWORD"},
		{"{\"auths\":{\"r.example\":{\"auth\":\"OmFi\"}}}", "USER:PASSWORD"},
		{"{\"credsStore\":\"../../bin/sh\"}", "not the name of a credential helper"},
		{"{\"credsStore\":\"no-such-helper\"}", "cannot be run"},
		{"{\"credHelpers\":{\"r.example\":1}}", "not a string"},
	};

	set_path("REGISTRY_AUTH_FILE", "named");
	for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
		write_file("named", cases[i].text, 0600);
		const char *found = look("r.example", "x");
		if (!strstr(found, cases[i].word))
			fail_msg("%s: %s", cases[i].text, found);
		assert_memory_equal(found, "error", 5);
	}
	/* What is no entry is passed over. */
	write_file("named", "{\"auths\":{\"r.example\":1,\"r.example/x\":null}}", 0600);
	assert_string_equal(look("r.example", "x"), "none");
	/* Docker's NULs at the end; an identity token beside a pair. */
	write_file("named", "{\"auths\":{\"r.example\":{\"auth\":\"YTphAAA=\"}}}", 0600);
	assert_string_equal(look("r.example", "x"), "a:a");
	write_file("named", "{\"auths\":{\"r.example\":{" A ",\"identitytoken\":\"t\"}}}", 0600);
	assert_string_equal(look("r.example", "x"), "token:t");
}

static void *cancel_soon(void *arg)
{
	usleep(200000);
	(void)eventfd_write(*(int *)arg, 1);
	return NULL;
}

static void test_helpers(void **state)
{
	char path[512];

	write_file("bin/docker-credential-good",
		"#!/bin/sh\nread host; case \"$1 $host\" in 'get r.example') echo "
		"'{\"ServerURL\":\"r.example\",\"Username\":\"h\",\"Secret\":\"s\"}';; "
		"'get https://index.docker.io/v1/') echo "
		"'{\"Username\":\"<token>\",\"Secret\":\"hub\"}';; *) echo 'credentials not found "
		"in "
		"native keychain'; exit 1;; esac\n",
		0700);
	write_file("bin/docker-credential-bad", "#!/bin/sh\necho 'keychain is locked'; exit 1\n",
		0700);
	write_file("bin/docker-credential-loud", "#!/bin/sh\nexec yes\n", 0700);
	write_file("bin/docker-credential-odd", "#!/bin/sh\necho hello\n", 0700);
	snprintf(path, sizeof(path), "%s/bin:%s", dir, getenv("PATH"));
	setenv("PATH", path, 1);
	set_path("DOCKER_CONFIG", "docker");
	write_file("docker/config.json", "{\"auths\":{\"r.example\":{}},\"credsStore\":\"good\"}",
		0600);
	assert_string_equal(look("r.example", "x"), "h:s");
	assert_string_equal(look("docker.io", "x"), "token:hub");
	assert_string_equal(look("other.example", "x"), "none");
	write_file("docker/config.json",
		"{\"auths\":{\"r.example\":{" A "}},\"credHelpers\":{\"r.example\":\"good\"}}",
		0600);
	assert_string_equal(look("r.example", "x"), "h:s");
	write_file("docker/config.json", "{\"credsStore\":\"bad\"}", 0600);
	assert_non_null(
		strstr(look("r.example", "x"), "docker-credential-bad failed: keychain is locked"));
	write_file("docker/config.json", "{\"credsStore\":\"loud\"}", 0600);
	assert_non_null(strstr(look("r.example", "x"), "too much"));
	write_file("docker/config.json", "{\"credsStore\":\"odd\"}", 0600);
	assert_non_null(strstr(look("r.example", "x"), "not JSON"));
	/* One that has said all and does not end is not waited for by who does not want to. */
	write_file("bin/docker-credential-slow", "#!/bin/sh\nexec sleep 100 >&-\n", 0700);
	write_file("docker/config.json", "{\"credsStore\":\"slow\"}", 0600);
	struct auth_credentials found = {0};
	struct banger_error err = {0};
	pthread_t thread;
	int cancel = eventfd(0, EFD_CLOEXEC);
	int64_t began = banger_monotonic_us();
	assert_int_equal(pthread_create(&thread, NULL, cancel_soon, &cancel), 0);
	assert_int_equal(auth_credentials_find("r.example", "x", cancel, &found, &err), -ECANCELED);
	assert_true(banger_monotonic_us() - began < 5000000);
	pthread_join(thread, NULL);
	close(cancel);
}

/* ---- settings ---- */

static void test_settings(void **state)
{
	static const struct {
		const char *text, *word;
	} cases[] = {
		{"[]", "must be an object"},
		{"{\"a b\":{}}", "not a host"},
		{"{\"https://a\":{}}", "not a host"},
		{"{\"a/b\":{}}", "not a host"},
		{"{\"a:b\":{}}", "not a host"},
		{"{\"a\":1}", "\"a\": must be an object"},
		{"{\"a\":{\"plain\":true}}", "\"plain\": unknown key"},
		{"{\"a\":{\"plain_http\":1}}", "\"plain_http\": must be true or false"},
		{"{\"a\":{\"ca_file\":\"x.pem\"}}", "absolute"},
		{"{\"a\":{\"cert_file\":\"x.pem\",\"key_file\":\"/x\"}}", "absolute"},
		{"{\"a\":{\"cert_file\":\"/x.pem\"}}", "go together"},
		{"{\"a\":{\"key_file\":\"/x.pem\"}}", "go together"},
		{"{\"a\":{\"plain_http\":true,\"key_file\":\"/x\",\"cert_file\":\"/x\"}}",
			"no certificates"},
		{"{\"a\":{\"mirror\":\"http://x\"}}", "HOST:PORT"},
		{"{\"a\":{\"mirror\":\"A\"}}", "itself"},
		{"{\"a\":{\"plain_http\":true,\"insecure\":true}}", "no certificates"},
	};
	struct banger_config c = {.file = (char *)"/etc/x.json"};
	struct pull_settings *s = NULL;
	struct banger_error err;

	for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
		c.registries = (char *)cases[i].text;
		assert_int_equal(pull_settings_check(&c, &err), -EINVAL);
		if (!strstr(err.message, cases[i].word) || !strstr(err.message, "/etc/x.json"))
			fail_msg("%s: %s", cases[i].text, err.message);
	}
	c.registries = NULL;
	assert_int_equal(pull_settings_check(&c, &err), 0);
	c.registries = (char *)"{\"R.example:443\":{\"insecure\":true},\"[::1]:5000\":{\"plain_"
			       "http\":false},"
			       "\"docker.io\":{\"mirror\":\"m.example:5000\"}}";
	assert_int_equal(pull_settings_new(&c, &s, &err), 0);
	assert_true(pull_settings_find(s, "r.example")->insecure);
	assert_false(pull_settings_find(s, "r.example:5000")->insecure);
	assert_true(pull_settings_find(s, "[::1]:5000")->tls);
	assert_string_equal(
		pull_settings_find(s, "registry-1.docker.io")->mirror, "m.example:5000");
	assert_null(pull_settings_find(s, "x")->host);
	/* A port may be left out only where it is the scheme's: plain HTTP for one port is none for another. */
	assert_null(pull_settings_find(s, "r.example:80")->host);
	pull_settings_freep(&s);
	c.registries = (char *)"{\"r.example:80\":{\"plain_http\":true}}";
	assert_int_equal(pull_settings_new(&c, &s, &err), 0);
	assert_true(pull_settings_find(s, "r.example")->plain_http);
	assert_null(pull_settings_find(s, "r.example:443")->host);
	pull_settings_freep(&s);
}

static void test_loopback(void **state)
{
	static const char *const yes[] = {"localhost", "localhost:5000", "LOCALHOST.", "127.0.0.1",
		"127.1.2.3:80", "[::1]", "[::1]:5000", "[0:0:0:0:0:0:0:1]:1"};
	static const char *const no[] = {"", "localhost.example", "127.0.0.1.example", "128.0.0.1",
		"[::2]", "[::1", "::1", "127", "0.0.0.0", "[fe80::1]", "example:127"};

	for (size_t i = 0; i < ELEMENTSOF(yes); i++)
		assert_true(pull_host_loopback(yes[i]));
	for (size_t i = 0; i < ELEMENTSOF(no); i++)
		assert_false(pull_host_loopback(no[i]));
}

int main(void)
{
#define WITH_FILES(t) cmocka_unit_test_setup_teardown(t, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_challenges),
		cmocka_unit_test(test_realms),
		cmocka_unit_test(test_base64),
		WITH_FILES(test_files),
		WITH_FILES(test_keys),
		WITH_FILES(test_bad_files),
		WITH_FILES(test_helpers),
		cmocka_unit_test(test_settings),
		cmocka_unit_test(test_loopback),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
