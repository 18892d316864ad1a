/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A registry's documents and layers, its challenges and tokens, mirrors. The registry is on 127.0.0.1, the token
 * server on 127.0.0.2, and both keep what they were sent.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>
#include <sys/stat.h>
#include <banger/log.h>
#include "pull/registry.h"
#include "server.h"

static const char manifest[] = "{\"schemaVersion\":2}";
static const char layer[] = "the bytes of a layer";

struct setup {
	char dir[64];
	int fd;
	struct blobs *blobs;
	struct http *http;
	struct banger_config config;
	struct server *server, *realm;
	struct pull_reference ref;
	struct registry *registry;
	struct banger_error err;
	char digest[PULL_DIGEST_MAX];
	char seen[32][256]; /* "METHOD path|Authorization", by the registry */
	int n_seen;
	char asked[8][1024]; /* the same, with the body, by the token server */
	int n_asked;
	/* what they do */
	bool bearer, basic, forgetful, no_blobs, deny, fail_once;
	const char *realm_url; /* NULL: the token server's */
	int tokens;
};

static bool answer_registry(void *arg, const struct server_request *q)
{
	struct setup *s = arg;
	const char *auth = server_header(q, "Authorization");
	char headers[1024], want[64];

	snprintf(s->seen[s->n_seen++ % 32], sizeof(s->seen[0]), "%s %.100s|%.100s", q->method,
		q->path, auth ?: "");
	if (strcmp(q->path, "/v2/") == 0)
		return server_answer(q, "200 OK", "", "{}");
	if (s->fail_once) {
		s->fail_once = false;
		return server_answer(q, "503 Service Unavailable", "", "");
	}
	snprintf(want, sizeof(want), "Bearer token%d", s->tokens);
	if (s->bearer && (!auth || strcmp(auth, want) != 0 || s->deny)) {
		char realm[128];
		snprintf(realm, sizeof(realm), "http://127.0.0.2:%d/token", server_port(s->realm));
		snprintf(headers, sizeof(headers),
			"WWW-Authenticate: Bearer realm=\"%s\",service=\"the "
			"registry\",scope=\"repository:a/b:pull,push\"\r\n",
			s->realm_url ?: realm);
		return server_answer(q, "401 Unauthorized", headers, "{}");
	}
	if (s->basic && (!auth || strcmp(auth, "Basic bWU6cHc=") != 0))
		return server_answer(
			q, "401 Unauthorized", "WWW-Authenticate: Basic realm=\"x\"\r\n", "{}");
	if (s->forgetful)
		s->tokens++;
	if (strstr(q->path, "/manifests/"))
		return server_answer(q, "200 OK",
			"Content-Type: application/vnd.oci.image.manifest.v1+json; "
			"charset=utf-8\r\n",
			manifest);
	if (strstr(q->path, "/blobs/") && !s->no_blobs)
		return server_content(q, layer, strlen(layer));
	return server_answer(q, "404 Not Found", "",
		"{\"errors\":[{\"code\":\"BLOB_UNKNOWN\",\"message\":\"blob unknown to "
		"registry\"}]}");
}

static bool answer_token(void *arg, const struct server_request *q)
{
	struct setup *s = arg;
	char body[64];

	snprintf(s->asked[s->n_asked++ % 8], sizeof(s->asked[0]), "%s %.500s|%.100s|%.300s",
		q->method, q->path, server_header(q, "Authorization") ?: "", q->body);
	snprintf(body, sizeof(body), "{\"token\":\"token%d\"}", ++s->tokens);
	return server_answer(q, "200 OK", "", body);
}

static int set_up(void **state)
{
	struct setup *s = calloc(1, sizeof(*s));
	struct pull_hash *h = NULL;

	snprintf(s->dir, sizeof(s->dir), "/tmp/banger-registry-XXXXXX");
	assert_non_null(mkdtemp(s->dir));
	s->fd = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	s->config = (struct banger_config){.fetch_stall_ms = 1000, .fetch_retries = 0};
	assert_int_equal(blobs_new(s->fd, &s->blobs, &s->err), 0);
	s->server = server_start("127.0.0.1", answer_registry, s);
	s->realm = server_start("127.0.0.2", answer_token, s);
	assert_int_equal(
		pull_hash_new(
			"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
			&h, NULL),
		0);
	pull_hash_update(h, layer, strlen(layer));
	pull_hash_end(h, s->digest);
	pull_hash_freep(&h);
	setenv("REGISTRY_AUTH_FILE", "/nonexistent", 1);
	*state = s;
	return 0;
}

static int tear_down(void **state)
{
	struct setup *s = *state;
	char command[128];

	registry_freep(&s->registry);
	pull_reference_done(&s->ref);
	http_freep(&s->http);
	blobs_freep(&s->blobs);
	server_stop(s->server);
	server_stop(s->realm);
	close(s->fd);
	snprintf(command, sizeof(command), "rm -r %s", s->dir);
	assert_int_equal(system(command), 0);
	free(s->config.registries);
	free(s);
	return 0;
}

static void open_registry(struct setup *s)
{
	char text[128];

	if (!s->http)
		assert_int_equal(http_new(&s->config, &s->http, &s->err), 0);
	snprintf(text, sizeof(text), "127.0.0.1:%d/a/b:1", server_port(s->server));
	assert_int_equal(pull_reference_parse(text, &s->ref, &s->err), 0);
	assert_int_equal(registry_open(s->http, &s->config, &s->ref, -1, &s->registry, &s->err), 0);
	s->n_seen = 0;
}

static void credentials(struct setup *s, const char *rest)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/auth.json", s->dir);
	FILE *f = fopen(path, "we");
	assert_non_null(f);
	fprintf(f, "{\"auths\":{\"127.0.0.1:%d\":{%s}}}", server_port(s->server), rest);
	fclose(f);
	setenv("REGISTRY_AUTH_FILE", path, 1);
}

static int get_manifest(struct setup *s)
{
	_cleanup_free_ char *text = NULL;
	char type[160], digest[PULL_DIGEST_MAX];
	size_t len;

	int r = registry_manifest(s->registry, NULL, NULL, &text, &len, type, digest, &s->err);
	if (r == 0) {
		assert_string_equal(text, manifest);
		assert_string_equal(type, "application/vnd.oci.image.manifest.v1+json");
		assert_true(pull_digest_matches(digest, manifest, strlen(manifest)));
	}
	return r;
}

static int get_layer(struct setup *s, char **urls)
{
	struct pull_descriptor d = {.size = (int64_t)strlen(layer), .urls = urls};
	_cleanup_blob_ struct blob *b = NULL;
	bool writer;

	snprintf(d.digest, sizeof(d.digest), "%s", s->digest);
	assert_int_equal(blobs_get(s->blobs, d.digest, d.size, &b, &writer, &s->err), 0);
	assert_true(writer);
	int r = registry_blob(s->registry, &d, b, &s->err);
	assert_int_equal(blob_whole(b), r == 0);
	return r;
}

static void test_open(void **state)
{
	struct setup *s = *state;

	open_registry(s);
	assert_int_equal(get_manifest(s), 0);
	assert_int_equal(get_layer(s, NULL), 0);
	assert_string_equal(s->seen[0], "GET /v2/a/b/manifests/1|");
	assert_int_equal(s->n_seen, 2);
}

static void test_token(void **state)
{
	struct setup *s = *state;

	s->bearer = true;
	open_registry(s);
	assert_int_equal(get_manifest(s), 0);
	assert_int_equal(get_layer(s, NULL), 0);
	/* Bare, then with a token, which serves for the layer too. Only the right to pull is asked for. */
	assert_string_equal(s->seen[0], "GET /v2/a/b/manifests/1|");
	assert_string_equal(s->seen[1], "GET /v2/a/b/manifests/1|Bearer token1");
	assert_non_null(strstr(s->seen[2], "|Bearer token1"));
	assert_int_equal(s->n_seen, 3);
	assert_string_equal(
		s->asked[0], "GET /token?scope=repository%3Aa%2Fb%3Apull&service=the%20registry||");
	assert_int_equal(s->n_asked, 1);
}

static void test_token_renewed(void **state)
{
	struct setup *s = *state;

	s->bearer = s->forgetful = true;
	open_registry(s);
	assert_int_equal(get_manifest(s), 0);
	s->forgetful = false;
	assert_int_equal(get_layer(s, NULL), 0);
	assert_int_equal(s->n_asked, 2);
}

static void test_denied(void **state)
{
	struct setup *s = *state;

	s->bearer = s->deny = true;
	open_registry(s);
	assert_int_equal(get_manifest(s), -EACCES);
	assert_in_range(s->n_seen, 2, 3);
	assert_non_null(strstr(s->err.message, "/a/b"));
}

static void test_token_with_password(void **state)
{
	struct setup *s = *state;

	s->bearer = true;
	credentials(s, "\"auth\":\"bWU6cHc=\"");
	open_registry(s);
	assert_int_equal(get_manifest(s), 0);
	assert_non_null(strstr(s->asked[0], "|Basic bWU6cHc=|"));
	for (int i = 0; i < s->n_seen; i++)
		assert_null(strstr(s->seen[i], "Basic"));
}

static void test_identity_token(void **state)
{
	struct setup *s = *state;

	s->bearer = true;
	credentials(s, "\"auth\":\"bWU6cHc=\",\"identitytoken\":\"id&entity\"");
	open_registry(s);
	assert_int_equal(get_manifest(s), 0);
	assert_non_null(strstr(s->asked[0], "POST /token||"));
	assert_non_null(strstr(s->asked[0], "grant_type=refresh_token"));
	assert_non_null(strstr(s->asked[0], "refresh_token=id%26entity"));
}

static void test_basic(void **state)
{
	struct setup *s = *state;

	s->basic = true;
	credentials(s, "\"auth\":\"bWU6cHc=\"");
	open_registry(s);
	assert_int_equal(get_manifest(s), 0);
	assert_int_equal(get_layer(s, NULL), 0);
	assert_int_equal(s->n_seen, 3);
}

static void test_basic_wrong(void **state)
{
	struct setup *s = *state;

	s->basic = true;
	credentials(s, "\"auth\":\"bWU6d3Jvbmc=\"");
	open_registry(s);
	assert_int_equal(get_manifest(s), -EACCES);
	assert_int_equal(s->n_seen, 2);
	assert_non_null(strstr(s->err.message, "auth.json"));
	assert_null(strstr(s->err.message, "wrong"));
}

static void test_basic_none(void **state)
{
	struct setup *s = *state;

	s->basic = true;
	open_registry(s);
	assert_int_equal(get_manifest(s), -EACCES);
	assert_int_equal(s->n_seen, 1);
}

/* A name that cannot be resolved: if it were asked, the error would be another. */
static void test_realm_elsewhere(void **state)
{
	struct setup *s = *state;

	s->bearer = true;
	s->realm_url = "http://tokens.invalid/token?secret=1";
	credentials(s, "\"auth\":\"bWU6cHc=\"");
	open_registry(s);
	assert_int_equal(get_manifest(s), -EACCES);
	assert_non_null(strstr(s->err.message, "http://tokens.invalid/token: refused"));
	s->realm_url = "https://tokens.invalid/token";
	assert_int_equal(get_manifest(s), -EACCES);
	s->realm_url = "file:///etc/passwd";
	assert_int_equal(get_manifest(s), -EINVAL);
	assert_int_equal(s->n_asked, 0);
}

/* Waited for, though nobody said how long. */
static void test_fails_once(void **state)
{
	struct setup *s = *state;
	int64_t begin = banger_monotonic_us();

	s->config.fetch_retries = 1;
	open_registry(s);
	s->fail_once = true;
	assert_int_equal(get_manifest(s), 0);
	assert_in_range(banger_monotonic_us() - begin, 375000, 2000000);
}

static void test_missing(void **state)
{
	static char *urls[] = {(char *)"https://storage.invalid/layer?sig=SECRET", NULL};
	struct setup *s = *state;

	s->no_blobs = true;
	open_registry(s);
	assert_int_equal(get_layer(s, NULL), -ENOENT);
	assert_non_null(strstr(s->err.message, "blob unknown to registry"));
	assert_non_null(strstr(s->err.message, s->digest));
	assert_int_equal(get_layer(s, urls), -EOPNOTSUPP);
	assert_non_null(strstr(s->err.message, "https://storage.invalid/layer, and"));
}

static void test_content_lies(void **state)
{
	struct setup *s = *state;
	struct pull_descriptor d = {.size = (int64_t)strlen(manifest)};
	_cleanup_free_ char *text = NULL;
	char type[160], digest[PULL_DIGEST_MAX];
	size_t len;

	open_registry(s);
	snprintf(d.digest, sizeof(d.digest), "%s", s->digest);
	assert_int_equal(
		registry_manifest(s->registry, NULL, &d, &text, &len, type, digest, &s->err),
		-EUCLEAN);
	d.size++;
	assert_int_equal(
		registry_manifest(s->registry, NULL, &d, &text, &len, type, digest, &s->err),
		-EUCLEAN);
	d.size = 3;
	assert_int_equal(
		registry_manifest(s->registry, NULL, &d, &text, &len, type, digest, &s->err),
		-EFBIG);
	d.size = PULL_DOCUMENT_MAX + 1;
	assert_int_equal(registry_document(s->registry, &d, &text, &len, &s->err), -EFBIG);
	d.size = (int64_t)strlen(layer);
	assert_int_equal(registry_document(s->registry, &d, &text, &len, &s->err), 0);
	assert_string_equal(text, layer);
}

/* The mirror has documents and no layers. */
static void test_mirror(void **state)
{
	struct setup *s = *state, *m = NULL;
	void *other = NULL;

	set_up(&other);
	m = other;
	m->no_blobs = true;
	assert_true(asprintf(&s->config.registries,
			    "{\"127.0.0.1:%d\":{\"mirror\":\"127.0.0.1:%d\",\"plain_http\":true}}",
			    server_port(s->server), server_port(m->server)) > 0);
	open_registry(s);
	m->n_seen = 0;
	assert_int_equal(get_manifest(s), 0);
	assert_int_equal(s->n_seen, 0);
	assert_int_equal(m->n_seen, 1);
	assert_int_equal(get_layer(s, NULL), 0);
	assert_int_equal(s->n_seen, 1);
	tear_down(&other);
}

int main(void)
{
#define WITH_SERVER(t) cmocka_unit_test_setup_teardown(t, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		WITH_SERVER(test_open),
		WITH_SERVER(test_token),
		WITH_SERVER(test_token_renewed),
		WITH_SERVER(test_denied),
		WITH_SERVER(test_token_with_password),
		WITH_SERVER(test_identity_token),
		WITH_SERVER(test_basic),
		WITH_SERVER(test_basic_wrong),
		WITH_SERVER(test_basic_none),
		WITH_SERVER(test_realm_elsewhere),
		WITH_SERVER(test_fails_once),
		WITH_SERVER(test_missing),
		WITH_SERVER(test_content_lies),
		WITH_SERVER(test_mirror),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
