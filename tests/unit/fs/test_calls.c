/* SPDX-License-Identifier: Apache-2.0 */
/* Requests to bangerd, and errands, against a daemon that the test plays itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <banger/log.h>
#include <banger/methods.h>
#include "calls.h"
#include "errands.h"

/* A daemon: answers each request with what `answer` says; NULL: with silence, "": by hanging up. */
static struct {
	char dir[64], path[96];
	int listening;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	const char *answer;
	int connections, requests;
	char last[8192];
	char ops[512][BANGER_OP_ID_LEN + 1]; /* of op.report, in order */
	int nops;
} d = {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};

static void take(const char *line)
{
	_cleanup_json_ struct json_object *o = NULL;
	struct banger_error err;

	if (banger_json_parse(line, strlen(line), &o, &err) < 0)
		return;
	struct json_object *op = banger_json_get(banger_json_get(o, "params"), "op");
	if (op && d.nops < 512)
		snprintf(d.ops[d.nops++], sizeof(d.ops[0]), "%s", banger_json_str(op, "op_id"));
}

static void *converse(void *arg)
{
	int fd = (int)(intptr_t)arg;
	struct banger_wire_reader *r;
	int fds[BANGER_WIRE_FDS_MAX];
	size_t len, nfds;
	char *line;

	if (banger_wire_reader_new(fd, &r) < 0)
		return NULL;
	while (banger_wire_read(r, &line, &len, fds, &nfds) > 0) {
		pthread_mutex_lock(&d.lock);
		snprintf(d.last, sizeof(d.last), "%s", line);
		take(line);
		d.requests++;
		const char *answer = d.answer;
		pthread_cond_broadcast(&d.cond);
		pthread_mutex_unlock(&d.lock);
		if (answer && !*answer)
			break;
		if (answer)
			banger_wire_send_text(fd, answer, strlen(answer), NULL, 0);
	}
	banger_wire_reader_freep(&r);
	close(fd);
	return NULL;
}

static void *serve(void *arg)
{
	pthread_t t;

	for (;;) {
		int fd = accept4((int)(intptr_t)arg, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0)
			return NULL;
		pthread_mutex_lock(&d.lock);
		d.connections++;
		pthread_mutex_unlock(&d.lock);
		if (pthread_create(&t, NULL, converse, (void *)(intptr_t)fd) == 0)
			pthread_detach(t);
	}
}

static void daemon_start(const char *answer)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};

	d.answer = answer;
	d.connections = d.requests = d.nops = 0;
	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s", d.path);
	unlink(d.path);
	d.listening = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(d.listening, (struct sockaddr *)&sun, sizeof(sun)), 0);
	assert_int_equal(listen(d.listening, 16), 0);
	pthread_create(&d.thread, NULL, serve, (void *)(intptr_t)d.listening);
}

/* No longer there for new connections. */
static void daemon_leave(void)
{
	shutdown(d.listening, SHUT_RDWR);
	pthread_join(d.thread, NULL);
	close(d.listening);
	unlink(d.path);
}

static void wait_requests(int n)
{
	pthread_mutex_lock(&d.lock);
	while (d.requests < n)
		pthread_cond_wait(&d.cond, &d.lock);
	pthread_mutex_unlock(&d.lock);
}

static void set_answer(const char *answer)
{
	pthread_mutex_lock(&d.lock);
	d.answer = answer;
	pthread_mutex_unlock(&d.lock);
}

static int connections(void)
{
	pthread_mutex_lock(&d.lock);
	int n = d.connections;
	pthread_mutex_unlock(&d.lock);
	return n;
}

static int set_up(void **state)
{
	strcpy(d.dir, "/tmp/banger-calls-XXXXXX");
	if (!mkdtemp(d.dir))
		return -1;
	snprintf(d.path, sizeof(d.path), "%s/s", d.dir);
	return 0;
}

static int tear_down(void **state)
{
	unlink(d.path);
	return rmdir(d.dir);
}

static int ask(struct calls *c, bool *heard, struct banger_error *err)
{
	return calls_ask(c, &(struct call){.method = "ping", .params = json_object_new_object()},
		NULL, heard, err);
}

static void nobody_there(void **state)
{
	struct banger_error err;
	struct calls *c;
	bool heard = true;

	assert_int_equal(calls_new(d.path, &c), 0);
	assert_int_equal(ask(c, &heard, &err), -EHOSTDOWN);
	assert_false(heard);
	assert_non_null(strstr(err.message, d.path));
	calls_freep(&c);
}

static void one_connection_for_many_requests(void **state)
{
	struct banger_actor actor = {
		.uid = 12, .gid = 34, .pid = 56, .program = "cp", .door = "fs"};
	struct banger_error err;
	struct calls *c;
	bool heard;

	daemon_start("{\"ok\":true,\"result\":{}}");
	assert_int_equal(calls_new(d.path, &c), 0);
	{
		_cleanup_op_ banger_op_id saved = banger_op_enter("op-0123456789ab");
		for (int i = 0; i < 5; i++)
			assert_int_equal(calls_ask(c,
						 &(struct call){.method = "ping",
							 .params = json_object_new_object(),
							 .actor = &actor},
						 NULL, &heard, &err),
				0);
	}
	assert_true(heard);
	assert_int_equal(connections(), 1);
	assert_non_null(strstr(d.last, "\"op_id\":\"op-0123456789ab\""));
	assert_non_null(strstr(d.last, "\"uid\":12"));
	assert_non_null(strstr(d.last, "\"door\":\"fs\""));
	calls_freep(&c);
	daemon_leave();
}

static void a_stale_connection_is_replaced(void **state)
{
	struct banger_error err;
	struct calls *c;
	bool heard;

	daemon_start("{\"ok\":true,\"result\":{}}");
	assert_int_equal(calls_new(d.path, &c), 0);
	assert_int_equal(ask(c, &heard, &err), 0);
	/* It dies while the connection is idle; another takes its place. */
	set_answer("");
	assert_int_equal(ask(c, &heard, &err), -EHOSTDOWN);
	assert_false(heard);
	set_answer("{\"ok\":true,\"result\":{}}");
	assert_int_equal(ask(c, &heard, &err), 0);
	assert_int_equal(connections(), 2);
	calls_drop_idle(c);
	assert_int_equal(ask(c, &heard, &err), 0);
	assert_int_equal(connections(), 3);
	calls_freep(&c);
	daemon_leave();
}

static void a_refusal_was_heard(void **state)
{
	struct banger_error err;
	struct calls *c;
	bool heard = false;

	daemon_start("{\"ok\":false,\"error\":{\"code\":\"exists\",\"message\":\"taken\"}}");
	assert_int_equal(calls_new(d.path, &c), 0);
	assert_int_equal(ask(c, &heard, &err), -EEXIST);
	assert_true(heard);
	assert_string_equal(err.message, "taken");
	/* Even one with a code that a broken connection has, too. */
	d.answer =
		"{\"ok\":false,\"error\":{\"code\":\"unavailable\",\"message\":\"helper away\"}}";
	heard = false;
	assert_int_equal(ask(c, &heard, &err), -EHOSTDOWN);
	assert_true(heard);
	calls_freep(&c);
	daemon_leave();
}

static void a_descriptor_that_does_not_come(void **state)
{
	struct banger_error err;
	struct calls *c;
	bool heard;
	int fd = -1;

	daemon_start("{\"ok\":true,\"result\":{}}");
	assert_int_equal(calls_new(d.path, &c), 0);
	assert_int_equal(calls_ask(c,
				 &(struct call){.method = "draft.open",
					 .params = json_object_new_object(),
					 .ret_fd = &fd},
				 NULL, &heard, &err),
		-EIO);
	assert_int_equal(fd, -1);
	calls_freep(&c);
	daemon_leave();
}

static void *ask_in_thread(void *arg)
{
	_cleanup_op_ banger_op_id saved = banger_op_enter("op-aaaaaaaaaaaa");
	struct banger_error err;
	bool heard;

	return (void *)(intptr_t)ask(arg, &heard, &err);
}

static void a_stuck_request_can_be_broken(void **state)
{
	struct calls *c;
	pthread_t t;
	void *r;

	daemon_start(NULL);
	assert_int_equal(calls_new(d.path, &c), 0);
	pthread_create(&t, NULL, ask_in_thread, c);
	wait_requests(1);
	assert_true(calls_in_flight(c, "op-aaaaaaaaaaaa"));
	calls_abort(c, "op-bbbbbbbbbbbb"); /* not this one */
	assert_true(calls_in_flight(c, "op-aaaaaaaaaaaa"));
	calls_abort(c, "op-aaaaaaaaaaaa");
	pthread_join(t, &r);
	assert_int_equal((intptr_t)r, -EHOSTDOWN);
	assert_false(calls_in_flight(c, "op-aaaaaaaaaaaa"));
	/* At the end: all, and whatever comes later. */
	calls_abort(c, "");
	pthread_create(&t, NULL, ask_in_thread, c);
	pthread_join(t, &r);
	assert_int_equal((intptr_t)r, -EHOSTDOWN);
	calls_freep(&c);
	daemon_leave();
}

/* Either the kernel is told by the answer to the call, or it is notified: never both, never neither. */
static void whose_change(void **state)
{
	struct calls *c;

	assert_int_equal(calls_new(d.path, &c), 0);
	assert_false(calls_seen(c, "op-aaaaaaaaaaaa", 1));
	calls_own(c, "op-aaaaaaaaaaaa");
	calls_own(c, "op-bbbbbbbbbbbb");
	assert_true(calls_seen(c, "op-aaaaaaaaaaaa", 7));
	assert_int_equal(calls_disown(c, "op-aaaaaaaaaaaa"), 7);
	assert_false(calls_seen(c, "op-aaaaaaaaaaaa", 8));
	assert_int_equal(calls_disown(c, "op-bbbbbbbbbbbb"), -1);
	assert_int_equal(calls_disown(c, "op-bbbbbbbbbbbb"), -1);
	calls_own(c, "op-cccccccccccc"); /* freed with the rest */
	calls_freep(&c);
}

/* ---- errands */

static void report(struct errands *e, int n)
{
	struct banger_op_record r = {.method = "fs.mkdir",
		.code = BANGER_NOT_PERMITTED,
		.message = "no",
		.started_us = 1,
		.elapsed_us = 1};

	snprintf(r.op_id, sizeof(r.op_id), "op-%012x", n);
	errands_report(e, &r);
}

static void reports_wait_for_the_daemon(void **state)
{
	struct errands *e;
	struct calls *c;

	assert_int_equal(calls_new(d.path, &c), 0);
	assert_int_equal(errands_new(c, &e), 0);
	assert_int_equal(errands_start(e), 0);
	/* More than are kept: the oldest give way. */
	for (int i = 0; i < ERRANDS_MAX + 10; i++)
		report(e, i);
	usleep(20000);
	daemon_start("{\"ok\":true,\"result\":{}}");
	errands_wake(e);
	wait_requests(ERRANDS_MAX - 1);
	usleep(20000);
	errands_freep(&e);
	/* One may have been on its way when the others were dropped. */
	assert_in_range(d.nops, ERRANDS_MAX - 1, ERRANDS_MAX + 1);
	for (int i = 1; i < d.nops; i++)
		assert_true(strcmp(d.ops[i - 1], d.ops[i]) < 0);
	assert_non_null(strstr(d.last, "op.report"));
	assert_non_null(strstr(d.last, "not_permitted"));
	calls_freep(&c);
	daemon_leave();
}

static void what_is_refused_is_not_repeated(void **state)
{
	struct errands *e;
	struct calls *c;

	setenv("BANGER_LOG_LEVEL", "error", 1);
	banger_log_init("test");
	daemon_start("{\"ok\":false,\"error\":{\"code\":\"bad_request\",\"message\":\"no\"}}");
	assert_int_equal(calls_new(d.path, &c), 0);
	assert_int_equal(errands_new(c, &e), 0);
	assert_int_equal(errands_start(e), 0);
	report(e, 1);
	report(e, 2);
	wait_requests(2);
	usleep(20000);
	errands_freep(&e);
	assert_int_equal(d.requests, 2);
	calls_freep(&c);
	daemon_leave();
}

static void a_cancellation_breaks_what_it_cannot_cancel(void **state)
{
	struct errands *e;
	struct calls *c;
	pthread_t t;
	void *r;

	daemon_start(NULL);
	assert_int_equal(calls_new(d.path, &c), 0);
	assert_int_equal(errands_new(c, &e), 0);
	assert_int_equal(errands_start(e), 0);
	pthread_create(&t, NULL, ask_in_thread, c);
	wait_requests(1);
	d.answer =
		"{\"ok\":true,\"result\":{}}"; /* it takes the cancellation and goes on all the same */
	errands_cancel(e, "op-aaaaaaaaaaaa");
	pthread_join(t, &r);
	assert_int_equal((intptr_t)r, -EHOSTDOWN);
	errands_freep(&e);
	calls_freep(&c);
	daemon_leave();
	assert_non_null(strstr(d.last, "op.cancel"));
}

#define T(t) cmocka_unit_test_setup_teardown(t, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(nobody_there),
		T(one_connection_for_many_requests),
		T(a_stale_connection_is_replaced),
		T(a_refusal_was_heard),
		T(a_descriptor_that_does_not_come),
		T(a_stuck_request_can_be_broken),
		T(whose_change),
		T(reports_wait_for_the_daemon),
		T(what_is_refused_is_not_repeated),
		T(a_cancellation_breaks_what_it_cannot_cancel),
	};
	banger_log_init("test");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
