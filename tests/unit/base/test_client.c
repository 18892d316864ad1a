/* SPDX-License-Identifier: Apache-2.0 */
/* The client against a peer that answers, refuses, hangs up, streams and passes descriptors. */
#include "check.h"
#include <banger/client.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

static char dir[] = "/tmp/banger-test-client-XXXXXX", path[64];

/* Serve one connection: read one line, send what `arg` says, hang up. */
struct script {
	int listener, fd;
	const char *reply;
	char got[1024];
	bool lost;
};

static void *serve(void *arg)
{
	struct script *s = arg;
	struct banger_wire_reader *r = NULL;
	int fds[BANGER_WIRE_FDS_MAX], c = accept(s->listener, NULL, NULL);
	size_t n, len;
	char *line;

	banger_wire_reader_new(c, &r);
	if (banger_wire_read(r, &line, &len, fds, &n) == 1)
		snprintf(s->got, sizeof(s->got), "%s", line);
	if (s->reply)
		banger_wire_send_text(c, s->reply, strlen(s->reply), &s->fd, s->fd >= 0);
	banger_wire_reader_freep(&r);
	close(c);
	return NULL;
}

static pthread_t start(struct script *s)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	pthread_t t;

	unlink(path);
	strcpy(sun.sun_path, path);
	s->listener = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(bind(s->listener, (void *)&sun, sizeof(sun)), 0);
	listen(s->listener, 1);
	pthread_create(&t, NULL, serve, s);
	return t;
}

static int call(
	struct script *s, struct json_object **o, int *fds, size_t *n, struct banger_error *e)
{
	_cleanup_client_ struct banger_client *c = NULL;
	struct banger_actor actor = {.uid = 7, .door = "fs"};
	pthread_t t = start(s);
	_cleanup_op_ banger_op_id saved = banger_op_enter("op-0123456789ab");

	assert_int_equal(banger_client_connect(path, &c, e), 0);
	banger_client_set_actor(c, &actor);
	int r = banger_client_call_fds(c, "ping", NULL, NULL, 0, o, fds, n, e);
	s->lost = banger_client_lost(c);
	pthread_join(t, NULL);
	close(s->listener);
	return r;
}

static void answers(void **state)
{
	struct script s = {.fd = -1, .reply = "{\"ok\":true,\"result\":{\"a\":1}}"};
	_cleanup_json_ struct json_object *o = NULL;
	struct banger_error e = {0};

	assert_int_equal(call(&s, &o, NULL, NULL, &e), 0);
	assert_int_equal(banger_json_int(o, "a", 0), 1);
	assert_string_equal(s.got,
		"{\"version\":1,\"method\":\"ping\",\"op_id\":\"op-0123456789ab\","
		"\"actor\":{\"uid\":7,\"gid\":0,\"door\":\"fs\"}}");
}

static void failures(void **state)
{
	struct script refuse = {.fd = -1,
		.reply = "{\"ok\":false,\"error\":{\"code\":\"busy\",\"message\":\"in "
			 "use\",\"op_id\":\"op-0000000000ff\"}}"};
	struct script away = {.fd = -1,
		.reply = "{\"ok\":false,\"error\":{\"code\":\"unavailable\",\"message\":\"a registry\"}}"};
	struct script hang_up = {.fd = -1};
	struct banger_error e = {0};
	struct json_object *o = NULL;
	struct banger_client *c = NULL;

	assert_int_equal(call(&refuse, &o, NULL, NULL, &e), -EBUSY);
	assert_string_equal(e.message, "in use");
	assert_string_equal(e.op_id, "op-0000000000ff");
	assert_false(refuse.lost);
	assert_int_equal(call(&away, &o, NULL, NULL, &e), -EHOSTDOWN);
	assert_false(away.lost);
	assert_int_equal(call(&hang_up, &o, NULL, NULL, &e), -EHOSTDOWN);
	assert_true(hang_up.lost);
	assert_string_equal(e.op_id, "op-0123456789ab");
	assert_int_equal(banger_client_connect("/nonexistent/sock", &c, &e), -EHOSTDOWN);
	assert_null(c);
	assert_null(o);
}

static void descriptors(void **state)
{
	_cleanup_close_ int mem = memfd_create("x", MFD_CLOEXEC);
	struct script s = {.fd = mem, .reply = "{\"ok\":true}"};
	int fds[2] = {-1, -1};
	size_t n = 2;

	assert_int_equal(call(&s, NULL, fds, &n, NULL), 0);
	assert_int_equal(n, 1);
	close(fds[0]);
	n = 0;
	struct script not_wanted = {.fd = mem, .reply = "{\"ok\":true}"};
	assert_int_equal(call(&not_wanted, NULL, NULL, &n, NULL), 0);
}

static void stream(void **state)
{
	struct script s = {
		.fd = -1, .reply = "{\"ok\":true}\n{\"event\":\"x\"}\n{\"event\":\"y\"}"};
	_cleanup_client_ struct banger_client *c = NULL;
	struct banger_error e = {0};
	pthread_t t = start(&s);

	assert_int_equal(banger_client_connect(path, &c, &e), 0);
	assert_int_equal(banger_client_call(c, "registry.watch", NULL, NULL, &e), 0);
	for (int i = 0; i < 2; i++) {
		_cleanup_json_ struct json_object *o = NULL;
		assert_int_equal(banger_client_next(c, 1000, &o, &e), 1);
		assert_string_equal(banger_json_str(o, "event"), i ? "y" : "x");
	}
	struct json_object *o = NULL;
	assert_int_equal(banger_client_next(c, 1000, &o, &e), 0);
	pthread_join(t, NULL);
	close(s.listener);
}

static int in_dir(void **state)
{
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/sock", dir);
	return 0;
}

static int out_of_dir(void **state)
{
	unlink(path);
	return rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(answers), cmocka_unit_test(failures),
		cmocka_unit_test(descriptors), cmocka_unit_test(stream)};
	return cmocka_run_group_tests(tests, in_dir, out_of_dir);
}
