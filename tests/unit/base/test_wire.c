/* SPDX-License-Identifier: Apache-2.0 */
/* Lines, descriptors and documents over a socket pair. */
#include "check.h"
#include <banger/wire.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

static int s[2];
static struct banger_wire_reader *r;
static int fds[BANGER_WIRE_FDS_MAX];
static size_t nfds, len;
static char *line;

static int setup(void **state)
{
	socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s);
	return banger_wire_reader_new(s[1], &r);
}

static int teardown(void **state)
{
	banger_wire_reader_freep(&r);
	if (s[0] >= 0)
		close(s[0]);
	close(s[1]);
	return 0;
}

static void hang_up(void)
{
	close(s[0]);
	s[0] = -1;
}

static void lines(void **state)
{
	assert_int_equal(write(s[0], "one\n\ntw", 7), 7);
	assert_int_equal(banger_wire_read(r, &line, &len, fds, &nfds), 1);
	assert_string_equal(line, "one");
	assert_true(banger_wire_pending(r));
	assert_int_equal(banger_wire_read(r, &line, &len, fds, &nfds), 1);
	assert_int_equal(len, 0);
	assert_false(banger_wire_pending(r));
	assert_int_equal(write(s[0], "o\nhalf", 6), 6);
	assert_int_equal(banger_wire_read(r, &line, &len, fds, &nfds), 1);
	assert_string_equal(line, "two");
	hang_up();
	assert_int_equal(banger_wire_read(r, &line, &len, fds, &nfds), -EPIPE);
}

static void end(void **state)
{
	hang_up();
	assert_int_equal(banger_wire_read(r, &line, &len, fds, &nfds), 0);
}

static void *send_big(void *arg)
{
	size_t n = *(size_t *)arg;
	char *b = malloc(n);

	memset(b, 'x', n);
	b[n - 1] = '\n';
	for (size_t off = 0; off < n;) {
		ssize_t w = send(s[0], b + off, n - off, MSG_NOSIGNAL);
		if (w < 0)
			break;
		off += w;
	}
	free(b);
	return NULL;
}

static void limit(void **state)
{
	pthread_t t;
	size_t n = BANGER_WIRE_LINE_MAX;

	pthread_create(&t, NULL, send_big, &n);
	assert_int_equal(banger_wire_read(r, &line, &len, fds, &nfds), 1);
	assert_int_equal(len, n - 1);
	pthread_join(t, NULL);
	assert_int_equal(write(s[0], "ok\n", 3), 3);
	assert_int_equal(banger_wire_read(r, &line, &len, fds, &nfds), 1);
	assert_string_equal(line, "ok");
	n++;
	pthread_create(&t, NULL, send_big, &n);
	assert_int_equal(banger_wire_read(r, &line, &len, fds, &nfds), -EMSGSIZE);
	shutdown(s[1], SHUT_RDWR);
	pthread_join(t, NULL);
}

static bool same_file(int a, int b)
{
	struct stat x, y;
	return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_ino == y.st_ino &&
	       x.st_dev == y.st_dev;
}

static void descriptors(void **state)
{
	_cleanup_close_ int a = memfd_create("a", MFD_CLOEXEC), b = memfd_create("b", MFD_CLOEXEC);
	int ab[2] = {a, b};

	/* Three lines are in the socket before the first is read; each keeps its own descriptors.
	 */
	assert_int_equal(banger_wire_send_text(s[0], "none", 4, NULL, 0), 0);
	assert_int_equal(banger_wire_send_text(s[0], "two", 3, ab, 2), 0);
	assert_int_equal(banger_wire_send_text(s[0], "b", 1, &b, 1), 0);
	assert_int_equal(banger_wire_read(r, &line, &len, fds, &nfds), 1);
	assert_int_equal(nfds, 0);
	assert_int_equal(banger_wire_read(r, &line, &len, fds, &nfds), 1);
	assert_string_equal(line, "two");
	assert_int_equal(nfds, 2);
	assert_true(same_file(fds[0], a) && same_file(fds[1], b));
	assert_true(fcntl(fds[0], F_GETFD) & FD_CLOEXEC);
	close(fds[0]);
	close(fds[1]);
	assert_int_equal(banger_wire_read(r, &line, &len, fds, &nfds), 1);
	assert_int_equal(nfds, 1);
	assert_true(same_file(fds[0], b));
	close(fds[0]);
	assert_int_equal(
		banger_wire_send_text(s[0], "x", 1, fds, BANGER_WIRE_FDS_MAX + 1), -EINVAL);
}

static void sending(void **state)
{
	struct timeval tv = {.tv_usec = 20000};
	char *big = calloc(1, BANGER_WIRE_LINE_MAX + 1);

	memset(big, 'x', BANGER_WIRE_LINE_MAX);
	assert_int_equal(
		banger_wire_send_text(s[0], big, BANGER_WIRE_LINE_MAX, NULL, 0), -EMSGSIZE);
	/* A peer that does not read: the send time-out ends it. */
	setsockopt(s[0], SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
	assert_int_equal(
		banger_wire_send_text(s[0], big, BANGER_WIRE_LINE_MAX - 1, NULL, 0), -ETIMEDOUT);
	fcntl(s[0], F_SETFL, O_NONBLOCK);
	free(big);
	shutdown(s[1], SHUT_RD);
	assert_int_equal(banger_wire_send_text(s[0], "x", 1, NULL, 0), -EPIPE);
}

static int request(const char *text, struct banger_request *q, struct banger_error *e)
{
	*e = (struct banger_error){0};
	return banger_request_parse(text, strlen(text), q, e);
}

static void requests(void **state)
{
	struct banger_request q;
	struct banger_error e;

	assert_int_equal(request("{\"version\":1,\"method\":\"ping\",\"op_id\":\"op-0123456789ab\","
				 "\"new\":[],"
				 "\"actor\":{\"uid\":5,\"program\":\"x\\u001b\"}}",
				 &q, &e),
		0);
	assert_string_equal(q.method, "ping");
	assert_string_equal(q.op_id.s, "op-0123456789ab");
	assert_int_equal(q.actor->uid, 5);
	assert_string_equal(q.actor->program, "x?");
	assert_true(json_object_is_type(q.params, json_type_object));
	banger_request_done(&q);
	assert_int_equal(
		request("{\"version\":1,\"method\":\"ping\",\"op_id\":\"nonsense\"}", &q, &e), 0);
	assert_string_equal(q.op_id.s, "");
	banger_request_done(&q);
	/* Refusals keep a well-formed op_id. */
	assert_int_equal(
		request("{\"version\":2,\"method\":\"ping\",\"op_id\":\"op-0123456789ab\"}", &q,
			&e),
		-EPROTO);
	assert_string_equal(q.op_id.s, "op-0123456789ab");
	banger_request_done(&q);
	assert_int_equal(request("{\"method\":\"ping\"}", &q, &e), -EPROTO);
	banger_request_done(&q);
	static const char *const bad[] = {"", "x", "[]", "{\"version\":1}",
		"{\"version\":1,\"method\":5}", "{\"version\":1,\"method\":\"\"}",
		"{\"version\":1,\"method\":\"a\",\"params\":[]}",
		"{\"version\":1,\"method\":\"a\",\"actor\":{\"uid\":-1}}",
		"{\"version\":1,\"method\":\"a\",\"actor\":7}"};
	for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
		assert_int_equal(request(bad[i], &q, &e), -EINVAL);
		banger_request_done(&q);
	}
}

static void replies(void **state)
{
	struct banger_error e = {0}, got = {0};
	struct json_object *result = NULL;
	_cleanup_op_ banger_op_id saved = banger_op_enter("op-0123456789ab");

	banger_error_set(&e, BANGER_EXISTS, "taken");
	_cleanup_json_ struct json_object *o = banger_reply_error(&e);
	const char *text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN);
	assert_string_equal(text, "{\"ok\":false,\"error\":{\"code\":\"exists\",\"message\":"
				  "\"taken\",\"op_id\":\"op-0123456789ab\"}}");
	assert_int_equal(banger_reply_parse(text, strlen(text), &result, &got), -EEXIST);
	assert_string_equal(got.op_id, "op-0123456789ab");
	assert_null(result);
	_cleanup_json_ struct json_object *ok = banger_reply_ok(NULL, "");
	text = json_object_to_json_string_ext(ok, JSON_C_TO_STRING_PLAIN);
	assert_string_equal(text, "{\"ok\":true,\"result\":{}}");
	assert_int_equal(banger_reply_parse(text, strlen(text), &result, &got), 0);
	json_object_put(result);
	static const char *const bad[] = {
		"{}", "{\"ok\":false}", "{\"ok\":true,\"result\":5}", "nonsense", "[]"};
	for (size_t i = 0; i < ELEMENTSOF(bad); i++)
		assert_int_equal(
			banger_reply_parse(bad[i], strlen(bad[i]), &result, &got), -EINVAL);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {T(lines), T(end), T(limit), T(descriptors), T(sending),
		cmocka_unit_test(requests), cmocka_unit_test(replies)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
