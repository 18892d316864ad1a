/* SPDX-License-Identifier: Apache-2.0 */
#include "serving.h"
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>

/* ---- methods */

static int echo(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	call->result = json_object_get(call->params);
	return 0;
}

static int fail_(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	return banger_error_set(err, banger_code_from_name(banger_json_str(call->params, "code")),
		"it was asked for");
}

static int wait_(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	struct serving *s = ctx;
	struct pollfd p = {.fd = operation_cancel_fd(call->op), .events = POLLIN};

	poll(&p, 1, 20000);
	s->cancelled += operation_cancelled(call->op);
	return operation_check_cancelled(call->op, err);
}

static int sleep_(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	usleep(banger_json_int(call->params, "ms", 0) * 1000);
	return 0;
}

static int stream(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	int64_t lines = banger_json_int(call->params, "lines", 0);
	int64_t size = banger_json_int(call->params, "size", 100);
	_cleanup_free_ char *line = malloc(size + 16);

	int r = rpc_stream_reply(call);
	for (int64_t i = 0; r == 0 && i < lines; i++) {
		int n = sprintf(line, "{\"x\":\"");
		memset(line + n, 'x', size);
		memcpy(line + n + size, "\"}", 3);
		r = rpc_stream_send(call->stream, line, strlen(line));
	}
	if (r < 0)
		return r;
	_cleanup_close_ int never = eventfd(0, EFD_CLOEXEC);
	return rpc_stream_wait(call->stream, never) == 0 ? 0 : -EIO;
}

static int fds(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	for (size_t i = 0; i < call->nfds; i++)
		call->reply_fds[call->n_reply_fds++] = TAKE_FD(call->fds[i]);
	return 0;
}

static int big(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	size_t size = banger_json_int(call->params, "size", 0);
	_cleanup_free_ char *text = malloc(size + 1);

	memset(text, 'b', size);
	text[size] = '\0';
	call->result = json_object_new_object();
	return banger_json_add_str(call->result, "text", text);
}

static const struct rpc_param echo_params[] = {{"text", RPC_STRING, true, 0, 16},
	{"n", RPC_INT, false, -5, 10}, {"any", RPC_INT}, {"flag", RPC_BOOL}, {"list", RPC_STRINGS},
	{"obj", RPC_OBJECT}, {0}};
static const struct rpc_param fail_params[] = {{"code", RPC_STRING, true}, {0}};

static const struct rpc_method methods[] = {
	{"echo", echo, RPC_ANYONE, echo_params},
	{"change", sleep_, RPC_CHANGE},
	{"fail", fail_, RPC_ANYONE, fail_params},
	{"wait", wait_, RPC_CHANGE | RPC_HANGUP},
	{"sleep", sleep_, RPC_CHANGE},
	{"stream", stream, RPC_ANYONE | RPC_STREAM},
	{"fds", fds, 0, NULL, 1, 2},
	{"big", big, RPC_ANYONE},
	/* With every flag but what a VM's right is. */
	{"host", sleep_, RPC_CHANGE | RPC_HANGUP | RPC_LONG | RPC_YIELD},
	{"made", sleep_, RPC_CHANGE | RPC_VM},
	{"seen", sleep_, RPC_VM_READER},
	{0},
};

/* ---- the server */

static bool find_vm(void *arg, struct rpc_peer *peer)
{
	const struct serving *s = arg;

	snprintf(peer->vm, sizeof(peer->vm), "%s", s->vm);
	peer->vm_changes = s->vm_changes;
	return s->vm[0];
}

static void *run(void *arg)
{
	struct serving *s = arg;

	assert_int_equal(rpc_server_run(s->server, s->stop_fd, s->grace_ms, NULL), 0);
	return NULL;
}

int serving_start(
	struct serving *s, int64_t connections, int send_timeout_ms, struct banger_error *err)
{
	const struct rpc_server_options o = {.path = s->path,
		.connections = connections,
		.methods = methods,
		.ctx = s,
		.operations = s->ops,
		.find_vm = find_vm,
		.find_vm_arg = s,
		.send_timeout_ms = send_timeout_ms};

	int r = rpc_server_new(&o, &s->server, err);
	if (r < 0)
		return r;
	s->stop_fd = eventfd(0, EFD_CLOEXEC);
	assert_int_equal(pthread_create(&s->thread, NULL, run, s), 0);
	s->running = true;
	return 0;
}

void serving_stop(struct serving *s)
{
	if (!s->running)
		return;
	eventfd_write(s->stop_fd, 1);
	pthread_join(s->thread, NULL);
	rpc_server_freep(&s->server);
	close(s->stop_fd);
	s->running = false;
}

int serving_setup(void **state)
{
	struct serving *s = calloc(1, sizeof(*s));
	struct banger_error err = {0};
	void *f = NULL;

	fixture_setup(&f);
	s->f = f;
	snprintf(s->path, sizeof(s->path), "%s/sock", s->f->dir);
	s->grace_ms = 5000;
	assert_int_equal(hub_new(&s->hub), 0);
	assert_int_equal(operations_new(s->f->store, s->hub, 100, &s->ops, NULL), 0);
	assert_ok(serving_start(s, 64, 0, &err), err);
	*state = s;
	return 0;
}

int serving_teardown(void **state)
{
	struct serving *s = *state;
	void *f = s->f;

	serving_stop(s);
	operations_freep(&s->ops);
	hub_freep(&s->hub);
	fixture_teardown(&f);
	free(s);
	return 0;
}

/* ---- clients */

int raw_connect(const struct serving *s)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	const struct timeval patience = {.tv_sec = 15};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(sun.sun_path, s->path);
	assert_int_equal(connect(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	return fd;
}

void raw_send(int fd, const char *text, size_t len)
{
	while (len > 0) {
		ssize_t n = send(fd, text, len, MSG_NOSIGNAL);

		if (n < 0)
			return; /* it has closed: the test sees that when it receives */
		text += n;
		len -= n;
	}
}

void raw_line(int fd, const char *line)
{
	raw_send(fd, line, strlen(line));
	raw_send(fd, "\n", 1);
}

struct json_object *raw_receive(int fd)
{
	size_t n = 0, room = 4096;
	_cleanup_free_ char *b = malloc(room);
	struct json_object *o = NULL;

	for (;;) {
		ssize_t r = recv(fd, b + n, 1, 0);

		if (r < 0 && errno == ECONNRESET)
			r = 0;
		if (r < 0)
			fail_msg("nothing came: %s", strerror(errno));
		if (r == 0 && n == 0)
			return NULL;
		if (r == 0)
			fail_msg("half a line came: %.*s", (int)n, b);
		if (b[n] == '\n')
			break;
		if (++n == room)
			b = realloc(b, room *= 2);
	}
	b[n] = '\0';
	assert_int_equal(banger_json_parse(b, n, &o, NULL), 0);
	return o;
}

static void check_refusal(struct json_object *o, const char *code, char op_id[BANGER_OP_ID_LEN + 1])
{
	struct json_object *e = banger_json_get(o, "error");

	assert_non_null(o);
	assert_false(banger_json_bool(o, "ok", true));
	if (strcmp(banger_json_str(e, "code"), code) != 0)
		fail_msg("%s instead of %s: %s", banger_json_str(e, "code"), code,
			banger_json_str(e, "message"));
	assert_true(strlen(banger_json_str(e, "message")) > 0);
	assert_true(banger_op_id_valid(banger_json_str(e, "op_id")));
	strcpy(op_id, banger_json_str(e, "op_id"));
}

void raw_refused(int fd, const char *line, const char *code, char op_id[BANGER_OP_ID_LEN + 1])
{
	if (line)
		raw_line(fd, line);
	_cleanup_json_ struct json_object *o = raw_receive(fd);
	check_refusal(o, code, op_id);
}

void wait_for_clients(struct serving *s, size_t clients)
{
	for (int i = 0; i < 5000 && rpc_server_clients(s->server) != clients; i++)
		usleep(1000);
	assert_int_equal(rpc_server_clients(s->server), clients);
}
