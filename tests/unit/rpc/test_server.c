/* SPDX-License-Identifier: Apache-2.0 */
/* The server among many clients, faulty ones too, and its end. */
#include "serving.h"
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

static bool ping(struct serving *s)
{
	_cleanup_client_ struct banger_client *c = NULL;
	struct json_object *params = json_object_new_object();

	banger_json_add_str(params, "text", "ping");
	return banger_client_connect(s->path, &c, NULL) == 0 &&
	       banger_client_call(c, "echo", params, NULL, NULL) == 0;
}

/* ---- the socket */

static void the_socket_is_the_owners(void **state)
{
	struct serving *s = *state;
	struct stat st;

	assert_int_equal(stat(s->path, &st), 0);
	assert_int_equal(st.st_mode, S_IFSOCK | 0600);
	serving_stop(s);
	assert_int_equal(stat(s->path, &st), -1);
}

static void a_stale_socket_is_replaced(void **state)
{
	struct serving *s = *state;
	struct banger_error err = {0};
	struct rpc_server *second = NULL;
	const struct rpc_method none[] = {{0}};
	const struct rpc_server_options o = {.path = s->path, .connections = 8, .methods = none};
	char kept[128];

	/* A live one is not. */
	assert_int_equal(rpc_server_new(&o, &second, &err), -EBUSY);
	assert_non_null(strstr(err.message, s->path));
	/* Keep the file over the end of its server. */
	snprintf(kept, sizeof(kept), "%s-kept", s->path);
	assert_int_equal(rename(s->path, kept), 0);
	serving_stop(s);
	assert_int_equal(rename(kept, s->path), 0);
	assert_ok(serving_start(s, 64, 0, &err), err);
	assert_true(ping(s));
}

static void something_else_in_the_way(void **state)
{
	struct serving *s = *state;
	struct banger_error err = {0};
	char long_path[200];

	serving_stop(s);
	int fd = open(s->path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(serving_start(s, 64, 0, &err), -EEXIST);
	assert_non_null(strstr(err.message, "not a socket"));
	assert_int_equal(unlink(s->path), 0);
	memset(long_path, 'x', sizeof(long_path) - 1);
	long_path[sizeof(long_path) - 1] = '\0';
	const struct rpc_server_options o = {.path = long_path, .connections = 8};
	assert_int_equal(rpc_server_new(&o, &s->server, &err), -EINVAL);
	const struct rpc_server_options g = {
		.path = s->path, .connections = 8, .group = "no-such-group-here"};
	assert_int_equal(rpc_server_new(&g, &s->server, &err), -ENOENT);
	assert_non_null(strstr(err.message, "no-such-group-here"));
}

/* A daemon that started meanwhile keeps its socket. */
static void a_foreign_socket_is_not_removed(void **state)
{
	struct serving *s = *state;
	struct stat st;

	assert_int_equal(unlink(s->path), 0);
	assert_int_equal(mknod(s->path, S_IFSOCK | 0600, 0), 0);
	serving_stop(s);
	assert_int_equal(stat(s->path, &st), 0);
}

/* ---- limits */

static void there_is_a_limit(void **state)
{
	struct serving *s = *state;
	struct banger_error err = {0};
	int fd[8];
	char op_id[BANGER_OP_ID_LEN + 1];
	struct banger_op_record r;

	serving_stop(s);
	assert_ok(serving_start(s, 8, 0, &err), err);
	for (int i = 0; i < 8; i++)
		fd[i] = raw_connect(s);
	wait_for_clients(s, 8);
	int more = raw_connect(s);
	raw_refused(more, NULL, "busy", op_id);
	assert_null(raw_receive(more));
	close(more);
	assert_ok(operations_find(s->ops, op_id, &r, &err), err);
	assert_string_equal(r.message, "the daemon has 8 clients already");
	close(fd[3]);
	wait_for_clients(s, 7);
	assert_true(ping(s));
	for (int i = 0; i < 8; i++)
		if (i != 3)
			close(fd[i]);
	wait_for_clients(s, 0);
}

/* Takes as many connections as it can get; exits with their number. */
static void hoard(struct serving *s, uid_t uid)
{
	int n = 0;

	if (setresgid(uid, uid, uid) < 0 || setresuid(uid, uid, uid) < 0)
		_exit(255);
	for (; n < 40; n++) {
		struct banger_client *c = NULL;
		struct json_object *params = json_object_new_object();

		banger_json_add_str(params, "text", "a");
		if (banger_client_connect(s->path, &c, NULL) < 0 ||
			banger_client_call(c, "echo", params, NULL, NULL) < 0)
			break;
	}
	_exit(n);
}

static void nobody_takes_more_than_a_share(void **state)
{
	struct serving *s = *state;
	int status;

	if (geteuid() != 0)
		skip();
	assert_int_equal(chmod(s->f->dir, 0711), 0);
	assert_int_equal(chmod(s->path, 0666), 0);
	pid_t pid = fork();
	if (pid == 0)
		hoard(s, 12345);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WEXITSTATUS(status), 16); /* a quarter of 64 */
	assert_true(ping(s));
}

/* ---- faulty clients */

static void a_slow_writer_holds_up_nobody(void **state)
{
	struct serving *s = *state;
	_cleanup_close_ int slow = raw_connect(s);
	const char line[] = "{\"version\":1,\"method\":\"echo\",\"params\":{\"text\":\"slow\"}}\n";

	for (size_t i = 0; i < sizeof(line) - 1; i++) {
		raw_send(slow, line + i, 1);
		assert_true(ping(s));
	}
	_cleanup_json_ struct json_object *o = raw_receive(slow);
	assert_true(banger_json_bool(o, "ok", false));
}

static void stuck_readers_are_cut_off(void **state)
{
	struct serving *s = *state;
	struct banger_error err = {0};
	int stuck[8];

	serving_stop(s);
	assert_ok(serving_start(s, 64, 300, &err), err);
	for (int i = 0; i < 8; i++) {
		stuck[i] = raw_connect(s);
		raw_line(stuck[i],
			"{\"version\":1,\"method\":\"stream\",\"params\":{\"lines\":100000,"
			"\"size\":10000}}");
	}
	wait_for_clients(s, 8);
	assert_true(ping(s));
	for (int i = 0; i < 100; i++)
		assert_true(ping(s));
	wait_for_clients(s, 0);
	for (int i = 0; i < 8; i++)
		close(stuck[i]);
	/* One that reads no reply but asks on and on. */
	int fd = raw_connect(s);
	for (int i = 0; i < 100; i++)
		raw_line(fd, "{\"version\":1,\"method\":\"big\",\"params\":{\"size\":500000}}");
	wait_for_clients(s, 0);
	close(fd);
}

static void many_idle_clients(void **state)
{
	struct serving *s = *state;
	struct banger_error err = {0};
	int fd[200];

	serving_stop(s);
	assert_ok(serving_start(s, 256, 0, &err), err);
	for (size_t i = 0; i < ELEMENTSOF(fd); i++)
		fd[i] = raw_connect(s);
	wait_for_clients(s, ELEMENTSOF(fd));
	for (int i = 0; i < 100; i++)
		assert_true(ping(s));
	for (size_t i = 0; i < ELEMENTSOF(fd); i++) {
		raw_line(fd[i],
			"{\"version\":1,\"method\":\"echo\",\"params\":{\"text\":\"awake\"}}");
		_cleanup_json_ struct json_object *o = raw_receive(fd[i]);
		assert_true(banger_json_bool(o, "ok", false));
		close(fd[i]);
	}
	wait_for_clients(s, 0);
}

/* What a client of the flood sends: good and bad requests, garbage, goings-away. */
static void *flood(void *arg)
{
	static const char *const lines[] = {
		"{\"version\":1,\"method\":\"echo\",\"params\":{\"text\":\"a\"}}", "garbage",
		"{\"version\":7}", "{\"version\":1,\"method\":\"change\"}",
		"{\"version\":1,\"method\":\"fail\",\"params\":{\"code\":\"busy\"}}", "\xff\xfe",
		"{\"version\":1,\"method\":\"nope\",\"op_id\":\"op-000000000000\"}",
		"{\"version\":1,\"method\":\"big\",\"params\":{\"size\":100000}}"};
	struct serving *s = arg;

	for (unsigned i = 0; i < 20; i++) {
		_cleanup_close_ int fd = raw_connect(s);

		for (unsigned k = 0; k < 25; k++)
			raw_line(fd, lines[(i * 7 + k) % ELEMENTSOF(lines)]);
		if (i % 3 == 0)
			raw_send(fd, "{\"half", 6);
		for (unsigned k = 0; k < 25 && i % 2; k++) {
			_cleanup_json_ struct json_object *o = raw_receive(fd);
			assert_non_null(o);
		}
	}
	return NULL;
}

static void a_flood(void **state)
{
	struct serving *s = *state;
	pthread_t t[20];

	for (size_t i = 0; i < ELEMENTSOF(t); i++)
		assert_int_equal(pthread_create(&t[i], NULL, flood, s), 0);
	for (size_t i = 0; i < ELEMENTSOF(t); i++)
		pthread_join(t[i], NULL);
	wait_for_clients(s, 0);
	assert_true(ping(s));
}

/* ---- going away, and stopping */

static void going_away_cancels(void **state)
{
	struct serving *s = *state;

	for (int i = 1; i <= 20; i++) {
		int fd = raw_connect(s);

		raw_line(fd, "{\"version\":1,\"method\":\"wait\",\"op_id\":\"op-000000000001\"}");
		for (int k = 0; k < 5000 && !operations_is_running(s->ops, "op-000000000001"); k++)
			usleep(1000);
		close(fd);
		wait_for_clients(s, 0);
		assert_int_equal(s->cancelled, i);
	}
	/* One that has only ended its own side waits for the answer. */
	_cleanup_close_ int fd = raw_connect(s);
	raw_line(fd, "{\"version\":1,\"method\":\"sleep\",\"params\":{\"ms\":100}}");
	shutdown(fd, SHUT_WR);
	_cleanup_json_ struct json_object *o = raw_receive(fd);
	assert_true(banger_json_bool(o, "ok", false));
	assert_null(raw_receive(fd));
}

static void stopping_lets_operations_end(void **state)
{
	struct serving *s = *state;
	_cleanup_close_ int idle = raw_connect(s), busy = raw_connect(s), stream = raw_connect(s);

	raw_line(stream, "{\"version\":1,\"method\":\"stream\"}");
	_cleanup_json_ struct json_object *begun = raw_receive(stream);
	raw_line(busy, "{\"version\":1,\"method\":\"sleep\",\"params\":{\"ms\":300},\"op_id\":\"op-"
		       "000000000001\"}");
	for (int k = 0; k < 5000 && !operations_is_running(s->ops, "op-000000000001"); k++)
		usleep(1000);
	/* Asked for before the stop, but not begun: it is not carried out. */
	raw_line(busy, "{\"version\":1,\"method\":\"sleep\",\"params\":{\"ms\":20000}}");
	int64_t t0 = banger_monotonic_us();
	serving_stop(s);
	int64_t took = banger_monotonic_us() - t0;
	assert_true(took > 200000 && took < 3000000);
	_cleanup_json_ struct json_object *o = raw_receive(busy);
	assert_true(banger_json_bool(o, "ok", false));
	assert_null(raw_receive(busy));
	assert_null(raw_receive(idle));
	assert_null(raw_receive(stream));
}

static void stopping_cancels_after_a_while(void **state)
{
	struct serving *s = *state;
	_cleanup_close_ int fd = raw_connect(s);
	char op_id[BANGER_OP_ID_LEN + 1];

	raw_line(fd, "{\"version\":1,\"method\":\"wait\",\"op_id\":\"op-000000000001\"}");
	for (int k = 0; k < 5000 && !operations_is_running(s->ops, "op-000000000001"); k++)
		usleep(1000);
	s->grace_ms = 200;
	serving_stop(s);
	raw_refused(fd, NULL, "cancelled", op_id);
	assert_int_equal(s->cancelled, 1);
}

static void stopping_does_not_wait_for_stuck_readers(void **state)
{
	struct serving *s = *state;
	_cleanup_close_ int fd = raw_connect(s);

	raw_line(fd, "{\"version\":1,\"method\":\"stream\",\"params\":{\"lines\":100000,\"size\":"
		     "10000}}");
	usleep(100000);
	int64_t t0 = banger_monotonic_us();
	serving_stop(s);
	assert_true(banger_monotonic_us() - t0 < 4000000);
}

int main(void)
{
	serving_init();
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, serving_setup, serving_teardown)
		T(the_socket_is_the_owners), T(a_stale_socket_is_replaced),
		T(something_else_in_the_way), T(a_foreign_socket_is_not_removed),
		T(there_is_a_limit), T(nobody_takes_more_than_a_share),
		T(a_slow_writer_holds_up_nobody), T(stuck_readers_are_cut_off),
		T(many_idle_clients), T(a_flood), T(going_away_cancels),
		T(stopping_lets_operations_end), T(stopping_cancels_after_a_while),
		T(stopping_does_not_wait_for_stuck_readers)};

	return cmocka_run_group_tests_name("rpc/server", tests, NULL, NULL);
}
