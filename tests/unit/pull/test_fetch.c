/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Transfers against servers that misbehave. Each test names what the server does; what must come out is either the
 * whole blob with its digest, or the error that says what was wrong. Back-offs are short ones: the first is
 * half a second, so tests have one or two.
 */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <banger/log.h>
#include "pull/fetch.h"
#include "server.h"

#define SIZE (3 * 1024 * 1024 + 777)

struct setup {
	char dir[64];
	int fd;
	struct blobs *blobs;
	struct http *http;
	struct banger_config config;
	struct server *server;
	char *data;
	char digest[PULL_DIGEST_MAX];
	char url[128];
	int cancel_fd;
	struct banger_error err;
	/* what the server saw */
	int64_t ranges[32];
	bool authorized[32];
	int mode;
	struct server *other;
};

static void digest_of(const void *data, size_t len, char ret[PULL_DIGEST_MAX])
{
	struct pull_hash *h = NULL;

	assert_int_equal(
		pull_hash_new(
			"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
			&h, NULL),
		0);
	pull_hash_update(h, data, len);
	pull_hash_end(h, ret);
	pull_hash_freep(&h);
}

static bool handle(void *arg, const struct server_request *q);
static bool handle_other(void *arg, const struct server_request *q);

static int set_up(void **state)
{
	struct setup *s = calloc(1, sizeof(*s));

	snprintf(s->dir, sizeof(s->dir), "/tmp/banger-fetch-XXXXXX");
	assert_non_null(mkdtemp(s->dir));
	s->fd = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	s->config = (struct banger_config){.fetch_stall_ms = 500, .fetch_retries = 2};
	s->cancel_fd = eventfd(0, EFD_CLOEXEC);
	assert_int_equal(blobs_new(s->fd, &s->blobs, &s->err), 0);
	assert_int_equal(http_new(&s->config, &s->http, &s->err), 0);
	s->data = malloc(SIZE);
	for (size_t i = 0; i < SIZE; i++)
		s->data[i] = (char)(i * 2654435761u >> 13);
	digest_of(s->data, SIZE, s->digest);
	s->server = server_start("127.0.0.1", handle, s);
	s->other = server_start("127.0.0.2", handle_other, s);
	snprintf(s->url, sizeof(s->url), "http://127.0.0.1:%d/blob?sig=SECRET",
		server_port(s->server));
	*state = s;
	return 0;
}

static int tear_down(void **state)
{
	struct setup *s = *state;
	char command[128];

	http_freep(&s->http);
	blobs_freep(&s->blobs);
	server_stop(s->server);
	server_stop(s->other);
	close(s->fd);
	close(s->cancel_fd);
	snprintf(command, sizeof(command), "rm -r %s", s->dir);
	assert_int_equal(system(command), 0);
	free(s->data);
	free(s);
	return 0;
}

enum mode {
	SOUND,
	RESETS_ONCE, /* at 1 MB, then sound */
	SHORT_ONCE,  /* a Content-Length that is too small, once */
	STALLS_ONCE,
	STALLS,
	BUSY_ONCE,     /* 429 with Retry-After: 1 */
	BUSY_LONG,     /* 429 with Retry-After: 86400 */
	FAILS,         /* 500 */
	NO_RANGE,      /* resets at 1 MB, then 200 from the start */
	WRONG_RANGE,   /* resets at 1 MB, then a 206 for other bytes, then whole */
	NO_SUCH_RANGE, /* resets at 1 MB, then 416 for all ranges */
	MISSING,
	FORBIDDEN,
	TOO_LONG,         /* Content-Length over the size */
	TOO_LONG_CHUNKED, /* the same without saying so */
	WRONG_CONTENT,
	REDIRECTS, /* to the other host */
	REDIRECTS_FOR_EVER,
	REDIRECTS_TO_FILE,
	REDIRECTS_WITH_USER,
	WANTS_BASIC,
	TRICKLES,
	MANY_HEADERS,
	NO_HTTP,
};

static bool reset_at(const struct server_request *q, const char *data, size_t at)
{
	server_printf(q, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", SIZE);
	server_send(q, data, at);
	return false;
}

static bool handle(void *arg, const struct server_request *q)
{
	struct setup *s = arg;
	bool first = q->number == 1;

	if (q->number < 32) {
		s->ranges[q->number] = q->range;
		s->authorized[q->number] = server_header(q, "Authorization") != NULL;
	}
	switch ((enum mode)s->mode) {
	case RESETS_ONCE:
		return first ? reset_at(q, s->data, 1000001) : server_content(q, s->data, SIZE);
	case SHORT_ONCE:
		if (!first)
			return server_content(q, s->data, SIZE);
		server_printf(q, "HTTP/1.1 200 OK\r\nContent-Length: 500000\r\n\r\n");
		return server_send(q, s->data, 500000);
	case STALLS_ONCE:
	case STALLS:
		if (!first && s->mode == STALLS_ONCE)
			return server_content(q, s->data, SIZE);
		server_printf(q, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", SIZE);
		server_send(q, s->data, 300);
		poll(NULL, 0, 3000);
		return false;
	case BUSY_ONCE:
		return first ? server_answer(q, "429 Too Many Requests", "Retry-After: 1\r\n", "")
			     : server_content(q, s->data, SIZE);
	case BUSY_LONG:
		return server_answer(q, "429 Too Many Requests", "Retry-After: 86400\r\n", "");
	case FAILS:
		return server_answer(q, "500 Internal Server Error", "",
			"{\"errors\":[{\"code\":\"UNKNOWN\",\"message\":\"disk on fire\"}]}");
	case NO_RANGE:
		if (first)
			return reset_at(q, s->data, 1000001);
		server_printf(q, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", SIZE);
		return server_send(q, s->data, SIZE);
	case WRONG_RANGE:
		if (first)
			return reset_at(q, s->data, 1000001);
		if (q->range >= 0)
			return server_printf(q,
				"HTTP/1.1 206 Partial Content\r\nContent-Length: "
				"10\r\nContent-Range: "
				"bytes 0-9/%d\r\n\r\n0123456789",
				SIZE);
		return server_content(q, s->data, SIZE);
	case NO_SUCH_RANGE:
		if (first)
			return reset_at(q, s->data, 1000001);
		return q->range >= 0 ? server_answer(q, "416 Range Not Satisfiable", "", "")
				     : server_content(q, s->data, SIZE);
	case MISSING:
		return server_answer(q, "404 Not Found", "", "");
	case FORBIDDEN:
		return server_answer(q, "403 Forbidden", "", "");
	case TOO_LONG:
		server_printf(q, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", SIZE + 1);
		return server_send(q, s->data, SIZE);
	case TOO_LONG_CHUNKED:
		server_printf(q, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
		server_send(q, s->data, SIZE);
		server_send(q, s->data, SIZE);
		return false;
	case WRONG_CONTENT:
		s->data[SIZE - 1] ^= 1;
		return server_content(q, s->data, SIZE);
	case REDIRECTS: {
		char to[128];
		snprintf(to, sizeof(to), "Location: http://127.0.0.2:%d/elsewhere?sig=SECRET\r\n",
			server_port(s->other));
		return server_answer(q, "307 Temporary Redirect", to, "gone");
	}
	case REDIRECTS_FOR_EVER:
		return server_answer(q, "302 Found", "Location: /again\r\n", "");
	case REDIRECTS_TO_FILE:
		return server_answer(q, "302 Found", "Location: file:///etc/passwd\r\n", "");
	case REDIRECTS_WITH_USER:
		return server_answer(q, "302 Found", "Location: http://me:pw@127.0.0.1/\r\n", "");
	case WANTS_BASIC:
		if (server_header(q, "Authorization"))
			return server_content(q, s->data, SIZE);
		return server_answer(
			q, "401 Unauthorized", "WWW-Authenticate: Basic realm=\"x\"\r\n", "");
	case TRICKLES:
		server_printf(q, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", SIZE);
		for (int i = 0; i < 8; i++) {
			server_send(q, s->data + i, 1);
			poll(NULL, 0, 100);
		}
		return server_send(q, s->data + 8, SIZE - 8);
	case MANY_HEADERS:
		server_printf(q, "HTTP/1.1 200 OK\r\n");
		while (server_printf(q, "X-Absurd: %0512d\r\n", 0))
			;
		return false;
	case NO_HTTP:
		server_printf(q, "SSH-2.0-hello\r\n");
		return false;
	default:
		return server_content(q, s->data, SIZE);
	}
}

static bool handle_other(void *arg, const struct server_request *q)
{
	struct setup *s = arg;

	s->authorized[31] |= server_header(q, "Authorization") != NULL;
	return server_content(q, s->data, SIZE);
}

static int authorize(
	void *arg, bool challenged, const char *challenge, char **ret, struct banger_error *err)
{
	int *calls = arg;

	*ret = challenged || *calls < 0 ? strdup("Basic c2VjcmV0OnNlY3JldA==") : NULL;
	*calls += 1;
	return 0;
}

/* Fetches; the blob stays held. */
static int fetch(struct setup *s, enum mode mode, struct blob **ret)
{
	const struct fetch f = {.http = s->http,
		.config = &s->config,
		.url = s->url,
		.cancel_fd = s->cancel_fd,
		.what = "layer X"};
	bool writer = false;

	s->mode = mode;
	assert_int_equal(blobs_get(s->blobs, s->digest, SIZE, ret, &writer, &s->err), 0);
	assert_true(writer);
	return fetch_blob(&f, *ret, &s->err);
}

static void assert_content(struct setup *s, struct blob *b)
{
	char *found = malloc(SIZE);

	assert_true(blob_whole(b));
	assert_int_equal(blob_available(b), SIZE);
	assert_int_equal(pread(blob_fd(b), found, SIZE, 0), SIZE);
	assert_memory_equal(found, s->data, SIZE);
	free(found);
}

static void assert_good(struct setup *s, enum mode mode, int requests)
{
	_cleanup_blob_ struct blob *b = NULL;

	int r = fetch(s, mode, &b);
	if (r < 0)
		print_error("%s\n", s->err.message);
	assert_int_equal(r, 0);
	assert_content(s, b);
	assert_int_equal(server_requests(s->server), requests);
}

static void assert_refused(
	struct setup *s, enum mode mode, enum banger_code code, int requests, const char *word)
{
	_cleanup_blob_ struct blob *b = NULL;

	assert_true(fetch(s, mode, &b) < 0);
	if (s->err.code != code || !strstr(s->err.message, word))
		print_error("%s: %s\n", banger_code_name(s->err.code), s->err.message);
	assert_int_equal(s->err.code, code);
	assert_non_null(strstr(s->err.message, word));
	assert_non_null(strstr(s->err.message, "layer X: "));
	assert_null(strstr(s->err.message, "SECRET"));
	assert_int_equal(server_requests(s->server), requests);
	assert_int_equal(blob_failure(b, NULL), -banger_code_errno(code));
}

static void test_sound(void **state)
{
	assert_good(*state, SOUND, 1);
}

static void test_resets(void **state)
{
	struct setup *s = *state;

	assert_good(s, RESETS_ONCE, 2);
	assert_int_equal(s->ranges[1], -1);
	assert_int_equal(s->ranges[2], 1000001);
}

static void test_short(void **state)
{
	struct setup *s = *state;

	assert_good(s, SHORT_ONCE, 2);
	assert_int_equal(s->ranges[2], 500000);
}

static void test_stalls_once(void **state)
{
	struct setup *s = *state;

	assert_good(s, STALLS_ONCE, 2);
	assert_int_equal(s->ranges[2], 300);
}

static void test_stalls(void **state)
{
	assert_refused(*state, STALLS, BANGER_TIMEOUT, 3, "nothing came for 0.5 seconds");
}

static void test_trickles(void **state)
{
	assert_good(*state, TRICKLES, 1);
}

static void test_busy(void **state)
{
	int64_t begin = banger_monotonic_us();

	assert_good(*state, BUSY_ONCE, 2);
	assert_in_range(banger_monotonic_us() - begin, 1000000, 4000000);
}

static void test_busy_long(void **state)
{
	assert_refused(*state, BUSY_LONG, BANGER_UNAVAILABLE, 1, "86400");
}

static void test_fails(void **state)
{
	assert_refused(*state, FAILS, BANGER_UNAVAILABLE, 3, "disk on fire");
}

static void test_no_range(void **state)
{
	struct setup *s = *state;

	assert_good(s, NO_RANGE, 2);
	assert_int_equal(s->ranges[2], 1000001);
}

static void test_wrong_range(void **state)
{
	struct setup *s = *state;

	assert_good(s, WRONG_RANGE, 3);
	assert_int_equal(s->ranges[3], -1);
}

static void test_no_such_range(void **state)
{
	assert_good(*state, NO_SUCH_RANGE, 3);
}

static void test_statuses(void **state)
{
	assert_refused(*state, MISSING, BANGER_NOT_FOUND, 1, "404");
	assert_refused(*state, FORBIDDEN, BANGER_DENIED, 2, "403");
}

static void test_too_long(void **state)
{
	assert_refused(*state, TOO_LONG, BANGER_TOO_LARGE, 1, "longer");
	assert_refused(*state, TOO_LONG_CHUNKED, BANGER_TOO_LARGE, 2, "longer");
}

static void test_wrong_content(void **state)
{
	struct setup *s = *state;
	char path[256];

	assert_refused(s, WRONG_CONTENT, BANGER_CORRUPT, 1, s->digest);
	snprintf(path, sizeof(path), "%s/blobs/sha256/%s.partial", s->dir, s->digest + 7);
	assert_int_not_equal(access(path, F_OK), 0);
}

static void test_redirect(void **state)
{
	struct setup *s = *state;

	assert_good(s, REDIRECTS, 1);
}

static void test_bad_redirects(void **state)
{
	struct setup *s = *state;

	s->config.fetch_retries = 0;
	assert_refused(s, REDIRECTS_FOR_EVER, BANGER_UNAVAILABLE, 11, "ten redirects");
	assert_refused(s, REDIRECTS_TO_FILE, BANGER_DENIED, 12, "redirects to file:///etc/passwd");
	assert_refused(s, REDIRECTS_WITH_USER, BANGER_DENIED, 13, "redirects to http://127.0.0.1/");
}

static void test_odd_answers(void **state)
{
	struct setup *s = *state;

	s->config.fetch_retries = 0;
	assert_refused(s, MANY_HEADERS, BANGER_UNAVAILABLE, 1, "headers");
	assert_refused(s, NO_HTTP, BANGER_UNAVAILABLE, 2, "127.0.0.1");
}

/* Authorization goes to whom it is for, and not along. */
static void test_authorization(void **state)
{
	struct setup *s = *state;
	int calls = 0;
	struct fetch f = {.http = s->http,
		.config = &s->config,
		.url = s->url,
		.cancel_fd = -1,
		.authorize = authorize,
		.arg = &calls};
	bool writer;

	for (int i = 0; i < 2; i++) {
		_cleanup_blob_ struct blob *b = NULL;
		s->mode = i == 0 ? WANTS_BASIC : REDIRECTS;
		assert_int_equal(blobs_get(s->blobs, s->digest, SIZE, &b, &writer, &s->err), 0);
		assert_int_equal(fetch_blob(&f, b, &s->err), 0);
		assert_content(s, b);
		blob_putp(&b);
		b = NULL;
		assert_int_equal(blobs_prune(s->blobs, 0, NULL, &s->err), 0);
		calls = -5;
	}
	assert_false(s->authorized[1]);
	assert_true(s->authorized[2]);
	assert_true(s->authorized[3]);
	assert_int_equal(server_requests(s->other), 1);
	assert_false(s->authorized[31]);
}

static void *cancel_soon(void *arg)
{
	struct setup *s = arg;

	poll(NULL, 0, 100);
	eventfd_write(s->cancel_fd, 1);
	return NULL;
}

static void test_cancel(void **state)
{
	struct setup *s = *state;
	pthread_t t;
	int64_t begin = banger_monotonic_us();

	s->config.fetch_stall_ms = 30000;
	pthread_create(&t, NULL, cancel_soon, s);
	assert_refused(s, STALLS, BANGER_CANCELLED, 1, "cancelled");
	pthread_join(t, NULL);
	assert_in_range(banger_monotonic_us() - begin, 100000, 450000);
}

/* Nobody listens: two more attempts, not as many as are configured. */
static void test_unreachable(void **state)
{
	struct setup *s = *state;
	struct server *gone = server_start("127.0.0.1", handle, s);
	_cleanup_blob_ struct blob *b = NULL;

	snprintf(s->url, sizeof(s->url), "http://127.0.0.1:%d/blob?sig=SECRET", server_port(gone));
	server_stop(gone);
	s->config.fetch_retries = 5;
	assert_int_equal(fetch(s, SOUND, &b), -ECONNREFUSED);
	assert_int_equal(s->err.code, BANGER_UNAVAILABLE);
	assert_non_null(strstr(s->err.message, "(the last of 3 attempts)"));
}

/* The proxy is the other server: it is asked for hosts elsewhere, which it need not be able to find, and never for
 * loopback ones. */
static void test_proxy(void **state)
{
	static const char *const variables[] = {"http_proxy", "HTTP_PROXY"};
	struct setup *s = *state;
	char proxy[64];

	snprintf(proxy, sizeof(proxy), "http://127.0.0.2:%d", server_port(s->other));
	for (size_t i = 0; i < ELEMENTSOF(variables); i++) {
		setenv(variables[i], proxy, 1);
		http_freep(&s->http);
		s->http = NULL;
		assert_int_equal(http_new(&s->config, &s->http, &s->err), 0);
		_cleanup_blob_ struct blob *b = NULL;
		assert_int_equal(fetch(s, SOUND, &b), 0);
		assert_int_equal(server_requests(s->other), i);
		blob_putp(&b);
		b = NULL;
		assert_int_equal(blobs_prune(s->blobs, 0, NULL, &s->err), 0);
		char url[sizeof(s->url)];
		memcpy(url, s->url, sizeof(url));
		snprintf(s->url, sizeof(s->url), "http://storage.invalid/blob");
		assert_int_equal(fetch(s, SOUND, &b), 0);
		assert_int_equal(server_requests(s->other), i + 1);
		blob_putp(&b);
		b = NULL;
		assert_int_equal(blobs_prune(s->blobs, 0, NULL, &s->err), 0);
		s->config.fetch_retries = 0;
		setenv("no_proxy", "storage.invalid", 1);
		assert_int_equal(fetch(s, SOUND, &b), -ECONNREFUSED);
		unsetenv("no_proxy");
		memcpy(s->url, url, sizeof(url));
		unsetenv(variables[i]);
		blob_putp(&b);
		b = NULL;
		assert_int_equal(blobs_prune(s->blobs, 0, NULL, &s->err), 0);
	}
}

static void put_partial(struct setup *s, const void *data, size_t len)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/blobs/sha256/%s.partial", s->dir, s->digest + 7);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_int_equal(write(fd, data, len), len);
	close(fd);
}

/* What an earlier run left: whole blocks of it are kept. */
static void test_resume(void **state)
{
	struct setup *s = *state;

	put_partial(s, s->data, 2000000);
	assert_good(s, SOUND, 1);
	assert_int_equal(s->ranges[1], 2000000 / 4096 * 4096);
}

static void test_resume_whole(void **state)
{
	struct setup *s = *state;

	put_partial(s, s->data, SIZE);
	assert_good(s, SOUND, 0);
}

static void test_resume_wrong(void **state)
{
	struct setup *s = *state;
	char *wrong = calloc(1, 1000000);

	put_partial(s, wrong, 1000000);
	free(wrong);
	assert_good(s, SOUND, 2);
	assert_int_equal(s->ranges[2], -1);
}

static void test_resume_too_long(void **state)
{
	struct setup *s = *state;
	char *wrong = calloc(1, SIZE + 5);

	put_partial(s, wrong, SIZE + 5);
	free(wrong);
	assert_good(s, SOUND, 1);
	assert_int_equal(s->ranges[1], -1);
}

/* ---- and what needs no server ---- */

static void test_backoff(void **state)
{
	int64_t ms;

	assert_true(fetch_backoff_ms(1, -1, &ms));
	assert_in_range(ms, 375, 500);
	assert_true(fetch_backoff_ms(3, -1, &ms));
	assert_in_range(ms, 1500, 2000);
	assert_true(fetch_backoff_ms(1000, -1, &ms));
	assert_in_range(ms, 22500, 30000);
	assert_true(fetch_backoff_ms(1, 7, &ms));
	assert_in_range(ms, 7000, 7250);
	assert_true(fetch_backoff_ms(1, 60, &ms));
	assert_false(fetch_backoff_ms(1, 61, &ms));
	assert_false(fetch_backoff_ms(1, INT64_MAX, &ms));
}

static void test_urls(void **state)
{
	static const struct {
		const char *url, *text;
	} shown[] = {{"https://a/b?c=d#e", "https://a/b"}, {"https://u:p@a:1/b", "https://a:1/b"},
		{"https://u@p@a/b@c", "https://a/b@c"}, {"http://a#@b", "http://a"}, {"x", "x"}};
	static const char *const bad[] = {"ftp://a/", "file:///etc/passwd", "http://u:p@a/",
		"https://u@a/", "http:///x", "a", "", "http://a b/", "http://a\r\nX: y/"};
	_cleanup_free_ char *host = NULL;
	char buf[128];
	bool tls;

	for (size_t i = 0; i < ELEMENTSOF(shown); i++)
		assert_string_equal(http_url_text(shown[i].url, buf, sizeof(buf)), shown[i].text);
	for (size_t i = 0; i < ELEMENTSOF(bad); i++)
		assert_true(http_url_split(bad[i], NULL, NULL, NULL) < 0);
	assert_int_equal(http_url_split("https://A.Example:443/x", &tls, &host, NULL), 0);
	assert_true(tls);
	assert_string_equal(host, "a.example");
	free(TAKE_PTR(host));
	assert_int_equal(http_url_split("http://[::1]:5000/x", &tls, &host, NULL), 0);
	assert_false(tls);
	assert_string_equal(host, "[::1]:5000");
	assert_true(http_same_origin("https://a/x", "https://A:443/y?z"));
	assert_false(http_same_origin("https://a/x", "http://a/x"));
	assert_false(http_same_origin("https://a/x", "https://a:444/x"));
	assert_false(http_same_origin("https://a/x", "https://b/x"));
}

int main(void)
{
#define WITH_SERVER(t) cmocka_unit_test_setup_teardown(t, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		WITH_SERVER(test_sound),
		WITH_SERVER(test_resets),
		WITH_SERVER(test_short),
		WITH_SERVER(test_stalls_once),
		WITH_SERVER(test_stalls),
		WITH_SERVER(test_trickles),
		WITH_SERVER(test_busy),
		WITH_SERVER(test_busy_long),
		WITH_SERVER(test_fails),
		WITH_SERVER(test_no_range),
		WITH_SERVER(test_wrong_range),
		WITH_SERVER(test_no_such_range),
		WITH_SERVER(test_statuses),
		WITH_SERVER(test_too_long),
		WITH_SERVER(test_wrong_content),
		WITH_SERVER(test_redirect),
		WITH_SERVER(test_bad_redirects),
		WITH_SERVER(test_odd_answers),
		WITH_SERVER(test_authorization),
		WITH_SERVER(test_cancel),
		WITH_SERVER(test_unreachable),
		WITH_SERVER(test_proxy),
		WITH_SERVER(test_resume),
		WITH_SERVER(test_resume_whole),
		WITH_SERVER(test_resume_wrong),
		WITH_SERVER(test_resume_too_long),
		cmocka_unit_test(test_backoff),
		cmocka_unit_test(test_urls),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
