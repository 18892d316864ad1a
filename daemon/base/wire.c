/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lines and the documents on them.
 *
 * The reader keeps one buffer that grows to the line limit and shrinks back when a long line has
 * been taken, so that many idle connections cost little. Descriptors are queued with the number of
 * bytes that had been received when they came: SCM_RIGHTS arrives with the first byte of the
 * segment that carried it, so a descriptor belongs to the line in which that byte lies.
 */
#include <banger/wire.h>
#include <assert.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define BUFFER_SMALL 4096

struct banger_wire_reader {
	int fd;
	char *buf;
	size_t size, start, end, scanned; /* [start,end) is unread; no newline before scanned */
	uint64_t base;                    /* stream offset of buf[0] */
	struct {
		int fd;
		uint64_t at;
	} fds[BANGER_WIRE_FDS_MAX];
	size_t nfds;
};

int banger_wire_reader_new(int fd, struct banger_wire_reader **ret)
{
	struct banger_wire_reader *r = calloc(1, sizeof(*r));

	if (!r || !(r->buf = malloc(BUFFER_SMALL))) {
		free(r);
		return -ENOMEM;
	}
	r->size = BUFFER_SMALL;
	r->fd = fd;
	*ret = r;
	return 0;
}

void banger_wire_reader_freep(struct banger_wire_reader **p)
{
	struct banger_wire_reader *r = *p;

	if (!r)
		return;
	for (size_t i = 0; i < r->nfds; i++)
		close(r->fds[i].fd);
	free(r->buf);
	free(r);
	*p = NULL;
}

/* Make room for at least one more byte (and the NUL). -EMSGSIZE at the limit. */
static int make_room(struct banger_wire_reader *r)
{
	if (r->start == r->end || (r->start > 0 && r->end + 1 >= r->size)) {
		memmove(r->buf, r->buf + r->start, r->end - r->start);
		r->base += r->start;
		r->end -= r->start;
		r->scanned = r->scanned > r->start ? r->scanned - r->start : 0;
		r->start = 0;
	}
	if (r->end == 0 && r->size > 16 * BUFFER_SMALL) {
		char *small = realloc(r->buf, BUFFER_SMALL);
		if (small) {
			r->buf = small;
			r->size = BUFFER_SMALL;
		}
	}
	if (r->end + 1 < r->size)
		return 0;
	if (r->end >= BANGER_WIRE_LINE_MAX)
		return -EMSGSIZE;
	size_t size =
		r->size * 2 < BANGER_WIRE_LINE_MAX + 1 ? r->size * 2 : BANGER_WIRE_LINE_MAX + 1;
	char *b = realloc(r->buf, size);
	if (!b)
		return -ENOMEM;
	r->buf = b;
	r->size = size;
	return 0;
}

static void queue_fds(struct banger_wire_reader *r, struct msghdr *m, size_t received)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		for (size_t i = 0; i < n; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			if (r->nfds == BANGER_WIRE_FDS_MAX) {
				close(fd);
				continue;
			}
			r->fds[r->nfds].fd = fd;
			r->fds[r->nfds++].at = r->base + r->end + received - 1;
		}
	}
}

static int fill(struct banger_wire_reader *r)
{
	union {
		char b[CMSG_SPACE(sizeof(int) * BANGER_WIRE_FDS_MAX)];
		struct cmsghdr align;
	} control;

	int e = make_room(r);
	if (e < 0)
		return e;
	struct iovec iov = {r->buf + r->end, r->size - 1 - r->end};
	/* One byte over the limit must be readable, to tell "just fits" from "too long". */
	struct msghdr m = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.b,
		.msg_controllen = sizeof(control.b),
	};
	ssize_t n;
	do {
		n = recvmsg(r->fd, &m, MSG_CMSG_CLOEXEC);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EWOULDBLOCK ? -EAGAIN : -errno;
	queue_fds(r, &m, n > 0 ? n : 1);
	r->end += n;
	return n > 0;
}

bool banger_wire_pending(const struct banger_wire_reader *r)
{
	return memchr(r->buf + r->start, '\n', r->end - r->start) != NULL;
}

static void take_fds(struct banger_wire_reader *r, uint64_t before, int *ret_fds, size_t *ret_nfds)
{
	size_t n = 0;

	while (n < r->nfds && r->fds[n].at < before) {
		ret_fds[n] = r->fds[n].fd;
		n++;
	}
	memmove(r->fds, r->fds + n, (r->nfds - n) * sizeof(r->fds[0]));
	r->nfds -= n;
	*ret_nfds = n;
}

int banger_wire_read(struct banger_wire_reader *r, char **ret_line, size_t *ret_len, int *ret_fds,
	size_t *ret_nfds)
{
	for (;;) {
		char *from = r->buf + (r->scanned > r->start ? r->scanned : r->start);
		char *nl = memchr(from, '\n', r->buf + r->end - from);

		if (nl) {
			*nl = '\0';
			*ret_line = r->buf + r->start;
			*ret_len = nl - *ret_line;
			r->start = r->scanned = nl + 1 - r->buf;
			take_fds(r, r->base + r->start, ret_fds, ret_nfds);
			return 1;
		}
		r->scanned = r->end;
		int e = fill(r);
		if (e < 0)
			return e;
		if (e == 0)
			return r->start == r->end ? 0 : -EPIPE;
	}
}

static int wait_writable(int sock)
{
	struct timeval tv = {0};
	socklen_t len = sizeof(tv);
	struct pollfd p = {.fd = sock, .events = POLLOUT};

	/* A blocking socket's time-out has passed already; a non-blocking one waits here, for as
	 * long. */
	if (getsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &tv, &len) < 0)
		return -errno;
	int ms = tv.tv_sec || tv.tv_usec ? (int)(tv.tv_sec * 1000 + tv.tv_usec / 1000) : -1;
	int n = poll(&p, 1, ms);
	return n > 0 ? 0 : n == 0 ? -ETIMEDOUT : -errno;
}

int banger_wire_send_text(int sock, const char *line, size_t len, const int *fds, size_t nfds)
{
	union {
		char b[CMSG_SPACE(sizeof(int) * BANGER_WIRE_FDS_MAX)];
		struct cmsghdr align;
	} control = {0};
	struct iovec iov[2] = {{(char *)line, len}, {(char *)"\n", 1}};
	struct msghdr m = {.msg_iov = iov, .msg_iovlen = 2};

	if (len + 1 > BANGER_WIRE_LINE_MAX)
		return -EMSGSIZE;
	if (nfds > BANGER_WIRE_FDS_MAX)
		return -EINVAL;
	if (nfds > 0) {
		m.msg_control = control.b;
		m.msg_controllen = CMSG_SPACE(sizeof(int) * nfds);
		struct cmsghdr *c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * nfds);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * nfds);
	}
	while (iov[0].iov_len + iov[1].iov_len > 0) {
		ssize_t n = sendmsg(sock, &m, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
			/* EAGAIN from a blocking socket means that its send time-out passed. */
			struct timeval tv = {0};
			socklen_t tl = sizeof(tv);
			bool timed = getsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &tv, &tl) == 0 &&
				     (tv.tv_sec || tv.tv_usec);
			int e = timed ? -ETIMEDOUT : wait_writable(sock);
			if (e < 0)
				return e;
			continue;
		}
		if (n < 0)
			return errno == ECONNRESET ? -EPIPE : -errno;
		m.msg_control = NULL; /* descriptors went with the first byte */
		m.msg_controllen = 0;
		for (int i = 0; i < 2; i++) {
			size_t k = (size_t)n < iov[i].iov_len ? (size_t)n : iov[i].iov_len;
			iov[i].iov_base = (char *)iov[i].iov_base + k;
			iov[i].iov_len -= k;
			n -= k;
		}
	}
	return 0;
}

int banger_wire_send(int sock, struct json_object *o, const int *fds, size_t nfds)
{
	size_t len;
	const char *s = json_object_to_json_string_length(
		o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &len);

	return s ? banger_wire_send_text(sock, s, len, fds, nfds) : -ENOMEM;
}

void banger_request_done(struct banger_request *q)
{
	json_object_put(q->params);
	free(q->actor);
	*q = (struct banger_request){0};
}

/* Copy a short word of printable ASCII; longer ones are cut, other bytes shown as '?'. */
static void copy_word(char *to, size_t size, const char *from)
{
	size_t n = 0;

	for (; from && from[n] && n + 1 < size; n++)
		to[n] = from[n] < 0x20 || from[n] >= 0x7F ? '?' : from[n];
	to[n] = '\0';
}

static int parse_actor(struct json_object *o, struct banger_request *q, struct banger_error *err)
{
	struct json_object *actor = banger_json_get(o, "actor");

	if (!actor)
		return 0;
	q->actor = calloc(1, sizeof(*q->actor));
	if (!q->actor)
		return banger_error_oom(err);
	if (banger_actor_from_json(actor, q->actor) < 0)
		return banger_error_set(err, BANGER_BAD_REQUEST, "\"actor\" is not one");
	return 0;
}

int banger_request_parse(
	const char *line, size_t len, struct banger_request *q, struct banger_error *err)
{
	_cleanup_json_ struct json_object *o = NULL;
	const char *op, *method;

	*q = (struct banger_request){0};
	int r = banger_json_parse(line, len, &o, err);
	if (r < 0) {
		banger_error_prefix(err, "malformed request");
		return r;
	}
	if (!json_object_is_type(o, json_type_object))
		return banger_error_set(
			err, BANGER_BAD_REQUEST, "malformed request: not a JSON object");
	op = banger_json_str(o, "op_id");
	if (banger_op_id_valid(op))
		memcpy(q->op_id.s, op, sizeof(q->op_id.s));
	method = banger_json_str(o, "method");
	/* Cut or not, what is not a method's name stays none. */
	copy_word(q->method, sizeof(q->method), method);
	struct json_object *v = banger_json_get(o, "version");
	if (!json_object_is_type(v, json_type_int))
		return banger_error_set(err, BANGER_BAD_VERSION,
			"the request has no \"version\"; this daemon speaks version %d",
			BANGER_WIRE_VERSION);
	if (json_object_get_int64(v) != BANGER_WIRE_VERSION)
		return banger_error_set(err, BANGER_BAD_VERSION,
			"protocol version %lld is not spoken here; this daemon speaks version %d",
			(long long)json_object_get_int64(v), BANGER_WIRE_VERSION);
	if (!method || !*method)
		return banger_error_set(err, BANGER_BAD_REQUEST, "the request names no \"method\"");
	struct json_object *params = banger_json_get(o, "params");
	if (params && !json_object_is_type(params, json_type_object))
		return banger_error_set(err, BANGER_BAD_REQUEST, "\"params\" is not an object");
	q->params = params ? json_object_get(params) : json_object_new_object();
	if (!q->params)
		return banger_error_oom(err);
	return parse_actor(o, q, err);
}

struct json_object *banger_request_json(const char *method, struct json_object *params,
	const char *op_id, const struct banger_actor *actor)
{
	_cleanup_json_ struct json_object *o = json_object_new_object(), *p = params;

	if (!o || banger_json_add_int(o, "version", BANGER_WIRE_VERSION) < 0 ||
		banger_json_add_str(o, "method", method) < 0)
		return NULL;
	if (p && banger_json_add(o, "params", TAKE_PTR(p)) < 0)
		return NULL;
	if (banger_json_add_str(o, "op_id", op_id && *op_id ? op_id : NULL) < 0)
		return NULL;
	if (actor && banger_json_add(o, "actor", banger_actor_to_json(actor)) < 0)
		return NULL;
	return TAKE_PTR(o);
}

struct json_object *banger_reply_ok(struct json_object *result, const char *op_id)
{
	_cleanup_json_ struct json_object *o = json_object_new_object(),
					  *r = result ?: json_object_new_object();

	if (!o || !r || banger_json_add_bool(o, "ok", true) < 0 ||
		banger_json_add(o, "result", TAKE_PTR(r)) < 0 ||
		banger_json_add_str(o, "op_id", op_id && *op_id ? op_id : NULL) < 0)
		return NULL;
	return TAKE_PTR(o);
}

struct json_object *banger_reply_error(const struct banger_error *err)
{
	_cleanup_json_ struct json_object *o = json_object_new_object(),
					  *e = json_object_new_object();

	if (!o || !e || banger_json_add_bool(o, "ok", false) < 0 ||
		banger_json_add_str(e, "code", banger_code_name(err->code)) < 0 ||
		banger_json_add_str(e, "message", err->message) < 0 ||
		banger_json_add_str(e, "op_id", err->op_id[0] ? err->op_id : NULL) < 0 ||
		banger_json_add(o, "error", TAKE_PTR(e)) < 0)
		return NULL;
	return TAKE_PTR(o);
}

int banger_reply_parse(
	const char *line, size_t len, struct json_object **ret_result, struct banger_error *err)
{
	_cleanup_json_ struct json_object *o = NULL;

	int r = banger_json_parse(line, len, &o, err);
	if (r < 0) {
		banger_error_prefix(err, "malformed reply");
		return r;
	}
	if (banger_json_bool(o, "ok", false)) {
		struct json_object *result = banger_json_get(o, "result");

		if (result && !json_object_is_type(result, json_type_object))
			return banger_error_set(err, BANGER_BAD_REQUEST,
				"malformed reply: \"result\" is not an object");
		result = result ? json_object_get(result) : json_object_new_object();
		if (!result)
			return banger_error_oom(err);
		*ret_result = result;
		return 0;
	}
	struct json_object *e = banger_json_get(o, "error");
	const char *code = banger_json_str(e, "code"), *message = banger_json_str(e, "message");
	const char *op = banger_json_str(e, "op_id");
	if (!code)
		return banger_error_set(
			err, BANGER_BAD_REQUEST, "malformed reply: neither a result nor an error");
	r = banger_error_set(err, banger_code_from_name(code), "%s",
		message && *message ? message : "the peer gave no reason");
	if (err && banger_op_id_valid(op))
		memcpy(err->op_id, op, sizeof(err->op_id));
	return r;
}

struct json_object *banger_actor_to_json(const struct banger_actor *a)
{
	_cleanup_json_ struct json_object *o = json_object_new_object();

	if (!o || banger_json_add_int(o, "uid", a->uid) < 0 ||
		banger_json_add_int(o, "gid", a->gid) < 0 ||
		(a->pid > 0 && banger_json_add_int(o, "pid", a->pid) < 0) ||
		(a->program[0] && banger_json_add_str(o, "program", a->program) < 0) ||
		(a->door[0] && banger_json_add_str(o, "door", a->door) < 0) ||
		(a->vm[0] && banger_json_add_str(o, "vm", a->vm) < 0))
		return NULL;
	return TAKE_PTR(o);
}

int banger_actor_from_json(struct json_object *o, struct banger_actor *ret)
{
	struct banger_actor a = {0};

	if (!json_object_is_type(o, json_type_object))
		return -EINVAL;
	int64_t uid = banger_json_int(o, "uid", -1), gid = banger_json_int(o, "gid", 0);
	int64_t pid = banger_json_int(o, "pid", 0);
	if (uid < 0 || uid > UINT32_MAX || gid < 0 || gid > UINT32_MAX || pid < 0 ||
		pid > INT32_MAX)
		return -EINVAL;
	a.uid = uid;
	a.gid = gid;
	a.pid = pid;
	copy_word(a.program, sizeof(a.program), banger_json_str(o, "program"));
	copy_word(a.door, sizeof(a.door), banger_json_str(o, "door"));
	copy_word(a.vm, sizeof(a.vm), banger_json_str(o, "vm"));
	*ret = a;
	return 0;
}
