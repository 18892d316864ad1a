/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a line to a handler and back.
 *
 * The op_id comes first: the line's own if it gave a well-formed one, else a new one; from then on
 * the thread works for it, so that whatever goes wrong next carries it. A request that is refused
 * here (malformed, another version, unknown, not permitted, wrong parameters) is an operation like
 * any other: it has a first and a last log record and is kept. The operation ends before the reply
 * is sent, so a client that has its answer finds the trace complete.
 */
#include "rpc/internal.h"
#include <banger/log.h>
#include <poll.h>
#include <string.h>

struct rpc_stream {
	struct rpc_connection *c;
	struct operation *op;
	const char *reply_op_id; /* for the reply; NULL: the request had none */
	bool replied;
};

/* Close what is still there, and forget it. */
static void close_all(int *fds, size_t *n)
{
	for (size_t i = 0; i < *n; i++)
		banger_closep(&fds[i]);
	*n = 0;
}

static const struct rpc_method *find_method(const struct rpc_server *s, const char *name)
{
	for (const struct rpc_method *m = s->options.methods; m->name; m++)
		if (strcmp(m->name, name) == 0)
			return m;
	return NULL;
}

static struct banger_actor who(const struct rpc_connection *c, const struct banger_request *q)
{
	struct banger_actor a = {.uid = c->peer.uid, .gid = c->peer.gid, .pid = c->peer.pid};

	if (q->actor && c->peer.trusted)
		a = *q->actor;
	else
		snprintf(a.program, sizeof(a.program), "%s", c->program);
	if (!a.door[0])
		strcpy(a.door, "rpc");
	/* What a VM's users are called inside it says nothing here. */
	if (c->peer.vm[0]) {
		a.uid = c->peer.uid;
		a.gid = c->peer.gid;
	}
	snprintf(a.vm, sizeof(a.vm), "%s", c->peer.vm);
	return a;
}

static enum operation_kind kind_of(const struct rpc_method *m)
{
	if (!m || !(m->flags & RPC_CHANGE))
		return OPERATION_READ;
	return m->flags & (RPC_HANGUP | RPC_LONG) ? OPERATION_LONG : OPERATION_CHANGE;
}

static int check_vm(const struct rpc_connection *c, const struct rpc_method *m,
	const struct banger_request *q, struct banger_error *err)
{
	const char *vm = c->peer.vm;

	if (c->peer.trusted && q->actor && strcmp(q->actor->vm, vm) != 0)
		return banger_error_set(err, BANGER_DENIED,
			"only the filesystem that bangerd started for VM \"%s\" can ask on its "
			"behalf",
			q->actor->vm[0] ? q->actor->vm : vm);
	if (!vm[0] || m->flags & (RPC_ANYONE | RPC_VM_READER) ||
		(m->flags & RPC_VM && c->peer.vm_changes))
		return 0;
	return banger_error_set(err, BANGER_DENIED,
		m->flags & RPC_VM ? "VM \"%2$s\" has the registry to read only: no %1$s"
				  : "%1$s is not for VMs (VM \"%2$s\")",
		m->name, vm);
}

/* May this peer call the method with these parameters and descriptors? */
static int check_call(const struct rpc_connection *c, const struct rpc_method *m,
	const struct banger_request *q, size_t nfds, struct banger_error *err)
{
	if (!m)
		return banger_error_set(
			err, BANGER_UNKNOWN_METHOD, "unknown method \"%s\"", q->method);
	if (!(m->flags & RPC_ANYONE) && !c->peer.trusted)
		return banger_error_set(err, BANGER_DENIED,
			"%s is for root and the daemon's own user (uid %u); uid %u may only look",
			m->name, (unsigned)c->server->owner, (unsigned)c->peer.uid);
	int r = check_vm(c, m, q, err);
	if (r < 0)
		return r;
	r = schema_check(m->params, q->params, err);
	if (r < 0) {
		banger_error_prefix(err, "%s", m->name);
		return r;
	}
	if (nfds < m->min_fds || nfds > m->max_fds)
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"%s takes %zu%s descriptors, %zu came", m->name, m->min_fds,
			m->max_fds > m->min_fds ? " or more" : "", nfds);
	return 0;
}

/* The reply whose result is text already; op_id needs no escapes. */
static int send_result_text(
	struct rpc_connection *c, const struct rpc_call *call, const char *reply_op_id)
{
	static const char begin[] = "{\"ok\":true,\"result\":";
	char end[32 + BANGER_OP_ID_LEN];
	int n = reply_op_id ? snprintf(end, sizeof(end), ",\"op_id\":\"%s\"}", reply_op_id)
			    : snprintf(end, sizeof(end), "}");
	_cleanup_free_ char *line = malloc(sizeof(begin) + call->result_len + n);

	if (!line)
		return -ENOMEM;
	char *p = mempcpy(line, begin, sizeof(begin) - 1);
	p = mempcpy(p, call->result_text, call->result_len);
	p = mempcpy(p, end, n);
	return connection_send_text(c, line, p - line);
}

static int send_reply(struct rpc_connection *c, struct rpc_call *call, const char *reply_op_id,
	const struct banger_error *why)
{
	if (why->code == BANGER_OK && call->result_text)
		return send_result_text(c, call, reply_op_id);
	_cleanup_json_ struct json_object *doc =
		why->code != BANGER_OK
			? banger_reply_error(why)
			: banger_reply_ok(json_object_get(call->result), reply_op_id);
	return doc ? connection_send(c, doc, call->reply_fds, call->n_reply_fds) : -ENOMEM;
}

/* Send a reply, or say why it cannot be sent. Returns whether the connection is still good. */
static bool reply(struct rpc_connection *c, struct rpc_call *call, const char *reply_op_id,
	const struct banger_error *why)
{
	struct banger_error err = {0};
	int r = send_reply(c, call, reply_op_id, why);

	if (r == -EMSGSIZE || r == -ENOMEM) {
		if (r == -ENOMEM)
			banger_error_oom(&err);
		else
			banger_error_set(&err, BANGER_TOO_LARGE, "the result is over 1 MiB");
		log_err("cannot reply", KV_ERR(&err));
		struct json_object *doc = banger_reply_error(&err);
		r = doc ? connection_send(c, doc, NULL, 0) : -ENOMEM;
		json_object_put(doc);
	}
	if (r == -ETIMEDOUT)
		log_warn("the client does not read; its connection is closed",
			KV_I("uid", c->peer.uid), KV_I("pid", c->peer.pid));
	return r == 0;
}

/* How the operation ends when a stream's reader has gone: that is how streams end. */
static bool is_end_of_stream(const struct rpc_stream *stream, int r)
{
	return stream->replied && (r == -EPIPE || r == -ECANCELED || r == -ETIMEDOUT);
}

static void run_handler(struct rpc_connection *c, const struct rpc_method *m, struct rpc_call *call,
	struct banger_error *err)
{
	connection_begin(c, call->op, m);
	int r = m->handler(c->server->options.ctx, call, err);
	connection_end(c);
	if (r == 0 || is_end_of_stream(call->stream, r))
		*err = (struct banger_error){0};
	else if (err->code == BANGER_OK)
		banger_error_set_errno(err, r, "%s", m->name);
}

/* The operation that q asks for (or that could not be read: *refused), from begin to reply. */
static bool carry_out(struct rpc_connection *c, struct banger_request *q, const char *op_id,
	const struct banger_error *refused, struct rpc_call *call)
{
	const struct rpc_method *m =
		refused->code == BANGER_OK ? find_method(c->server, q->method) : NULL;
	const char *reply_op_id = q->op_id.s[0] ? q->op_id.s : NULL;
	struct rpc_stream stream = {.c = c, .reply_op_id = reply_op_id};
	struct banger_actor actor = who(c, q);
	struct banger_error err = *refused;

	if (operation_begin(c->server->options.operations, kind_of(m), q->method, op_id, &actor,
		    q->params, &call->op, &err) < 0) {
		log_warn("request refused", KV_S("method", q->method), KV_ERR(&err));
		return reply(c, call, reply_op_id, &err);
	}
	stream.op = call->op;
	call->stream = &stream;
	call->params = q->params;
	c->changes = kind_of(m) == OPERATION_CHANGE;
	if (err.code == BANGER_OK && check_call(c, m, q, call->nfds, &err) == 0)
		run_handler(c, m, call, &err);
	/* Before the reply: a client that gave away its only descriptor of a pipe may wait for its end. */
	close_all(call->fds, &call->nfds);
	if (call->op)
		operation_end(call->op, &err);
	call->op = NULL;
	if (stream.replied)
		return false;
	bool good = reply(c, call, reply_op_id, &err);
	return good && !(m && m->flags & RPC_STREAM && err.code == BANGER_OK);
}

/* A method's name as a peer gave it, fit for logs and records. */
static void clean_name(char *s)
{
	for (; *s; s++)
		if (*s < 0x21 || *s > 0x7E)
			*s = '?';
}

bool dispatch_line(struct rpc_connection *c, const char *line, size_t len, int *fds, size_t nfds)
{
	banger_op_id op_id = banger_op_id_mint();
	_cleanup_op_ banger_op_id saved = banger_op_enter(op_id.s);
	struct rpc_call call = {.peer = &c->peer, .nfds = nfds};
	struct banger_error refused = {0};
	struct banger_request q;

	memcpy(call.fds, fds, nfds * sizeof(int));
	banger_request_parse(line, len, &q, &refused);
	if (q.op_id.s[0]) {
		op_id = q.op_id;
		banger_op_enter(op_id.s);
		if (refused.code != BANGER_OK)
			strcpy(refused.op_id, op_id.s);
	}
	clean_name(q.method);
	operations_hold(c->server->options.operations);
	bool more = carry_out(c, &q, op_id.s, &refused, &call);
	operations_release(c->server->options.operations);
	close_all(call.fds, &call.nfds);
	close_all(call.reply_fds, &call.n_reply_fds);
	json_object_put(call.result);
	free(call.result_text);
	banger_request_done(&q);
	return more;
}

void dispatch_refuse(struct rpc_connection *c, enum banger_code code, const char *what)
{
	banger_op_id op_id = banger_op_id_mint();
	_cleanup_op_ banger_op_id saved = banger_op_enter(op_id.s);
	struct rpc_call call = {.peer = &c->peer};
	struct banger_request q = {0};
	struct banger_error refused = {0};

	banger_error_set(&refused, code, "%s", what);
	carry_out(c, &q, op_id.s, &refused, &call);
}

struct operation *rpc_call_detach(struct rpc_call *call)
{
	struct operation *op = TAKE_PTR(call->op);

	connection_end(call->stream->c);
	operation_leave(op);
	return op;
}

/* ---- streams */

int rpc_stream_reply(struct rpc_call *call)
{
	struct rpc_stream *s = call->stream;
	struct json_object *doc = banger_reply_ok(json_object_get(call->result), s->reply_op_id);

	if (!doc)
		return -ENOMEM;
	s->replied = true;
	int r = connection_send(s->c, doc, call->reply_fds, call->n_reply_fds);
	json_object_put(doc);
	return r;
}

int rpc_stream_send(struct rpc_stream *s, const char *line, size_t len)
{
	if (operation_cancelled(s->op))
		return -ECANCELED;
	int r = connection_send_text(s->c, line, len);
	if (r == -ETIMEDOUT)
		log_warn("the client does not read; its stream is closed",
			KV_I("uid", s->c->peer.uid), KV_I("pid", s->c->peer.pid));
	return r == -ETIMEDOUT ? -EPIPE : r;
}

int rpc_stream_wait(struct rpc_stream *s, int fd)
{
	struct pollfd p[] = {{.fd = fd, .events = POLLIN},
		{.fd = s->c->fd, .events = 0 /* POLLHUP comes unasked */},
		{.fd = operation_cancel_fd(s->op), .events = POLLIN}};

	while (poll(p, ELEMENTSOF(p), -1) < 0)
		if (errno != EINTR)
			return 0;
	return p[1].revents == 0 && p[2].revents == 0;
}
