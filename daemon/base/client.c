/* SPDX-License-Identifier: Apache-2.0 */
/* A client of the wire: see client.h. The reader and the reply parser do the work. */
#include <banger/client.h>
#include <banger/log.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

struct banger_client {
	void (*wait)(void *arg, int fd);
	void *wait_arg;
	int fd;
	struct banger_wire_reader *reader;
	struct banger_actor actor;
	bool has_actor;
	bool lost;
};

int banger_client_connect(const char *path, struct banger_client **ret, struct banger_error *err)
{
	_cleanup_client_ struct banger_client *c = calloc(1, sizeof(*c));
	struct sockaddr_un sun = {.sun_family = AF_UNIX};

	if (!c)
		return banger_error_oom(err);
	c->fd = -1;
	if (strlen(path) >= sizeof(sun.sun_path))
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"the socket's path is longer than %zu bytes: %s", sizeof(sun.sun_path) - 1,
			path);
	strcpy(sun.sun_path, path);
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (c->fd < 0)
		return banger_error_set_errno(err, errno, "cannot make a socket");
	if (connect(c->fd, (struct sockaddr *)&sun, sizeof(sun)) < 0) {
		if (errno == EACCES || errno == EPERM)
			return banger_error_set(err, BANGER_DENIED,
				"no permission to use bangerd's socket %s", path);
		return banger_error_set(err, BANGER_UNAVAILABLE,
			"bangerd cannot be reached at %s: %s", path, strerrordesc_np(errno));
	}
	if (banger_wire_reader_new(c->fd, &c->reader) < 0)
		return banger_error_oom(err);
	*ret = TAKE_PTR(c);
	return 0;
}

void banger_client_freep(struct banger_client **p)
{
	struct banger_client *c = *p;

	if (!c)
		return;
	banger_wire_reader_freep(&c->reader);
	banger_closep(&c->fd);
	free(c);
	*p = NULL;
}

int banger_client_fd(const struct banger_client *c)
{
	return c->fd;
}

bool banger_client_lost(const struct banger_client *c)
{
	return c->lost;
}

void banger_client_set_actor(struct banger_client *c, const struct banger_actor *actor)
{
	c->has_actor = actor != NULL;
	if (actor)
		c->actor = *actor;
}

void banger_client_set_waiter(struct banger_client *c, void (*wait)(void *arg, int fd), void *arg)
{
	c->wait = wait;
	c->wait_arg = arg;
}

bool banger_look(int fd, int us)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	int64_t until = banger_monotonic_us() + us;

	do {
		if (poll(&p, 1, 0) != 0)
			return true;
		sched_yield();
	} while (banger_monotonic_us() < until);
	return false;
}

void banger_client_shutdown(struct banger_client *c)
{
	shutdown(c->fd, SHUT_RDWR);
}

static void close_all(const int *fds, size_t n)
{
	for (size_t i = 0; i < n; i++)
		close(fds[i]);
}

/* A broken connection, as the caller sees it. */
static int lost(struct banger_client *c, int r, struct banger_error *err)
{
	c->lost = true;
	switch (r) {
	case -EMSGSIZE:
		return banger_error_set(
			err, BANGER_TOO_LARGE, "a message to or from bangerd is over 1 MiB");
	case -ENOMEM:
		return banger_error_oom(err);
	case -ETIMEDOUT:
	case -EAGAIN:
		return banger_error_set(err, BANGER_TIMEOUT, "bangerd does not answer");
	default:
		return banger_error_set(
			err, BANGER_UNAVAILABLE, "the connection to bangerd was lost");
	}
}

int banger_client_call_fds(struct banger_client *c, const char *method, struct json_object *params,
	const int *fds, size_t nfds, struct json_object **ret_result, int *ret_fds,
	size_t *ret_nfds, struct banger_error *err)
{
	_cleanup_json_ struct json_object *q = banger_request_json(
		method, params, banger_op_current(), c->has_actor ? &c->actor : NULL);
	_cleanup_json_ struct json_object *result = NULL;
	int got[BANGER_WIRE_FDS_MAX];
	size_t n = 0, len;
	char *line;

	if (!q)
		return banger_error_oom(err);
	int sent = banger_wire_send(c->fd, q, fds, nfds);
	/* A peer that refuses and closes may have said why before it did. */
	if (sent < 0 && sent != -EPIPE)
		return lost(c, sent, err);
	if (c->wait)
		c->wait(c->wait_arg, c->fd);
	int r = banger_wire_read(c->reader, &line, &len, got, &n);
	if (r <= 0)
		return lost(c, sent < 0 ? sent : r, err);
	r = banger_reply_parse(line, len, &result, err);
	size_t want = r == 0 && ret_nfds ? *ret_nfds : 0;
	size_t keep = n < want ? n : want;
	close_all(got + keep, n - keep);
	if (r < 0)
		return r;
	if (keep > 0)
		memcpy(ret_fds, got, keep * sizeof(int));
	if (ret_nfds)
		*ret_nfds = keep;
	if (ret_result)
		*ret_result = TAKE_PTR(result);
	return 0;
}

int banger_client_call(struct banger_client *c, const char *method, struct json_object *params,
	struct json_object **ret_result, struct banger_error *err)
{
	return banger_client_call_fds(c, method, params, NULL, 0, ret_result, NULL, NULL, err);
}

int banger_client_next(
	struct banger_client *c, int timeout_ms, struct json_object **ret, struct banger_error *err)
{
	int fds[BANGER_WIRE_FDS_MAX];
	size_t n = 0, len;
	char *line;

	if (timeout_ms >= 0 && !banger_wire_pending(c->reader)) {
		struct pollfd p = {.fd = c->fd, .events = POLLIN};
		int k = poll(&p, 1, timeout_ms);

		if (k <= 0)
			return k < 0 && errno != EINTR
				       ? banger_error_set_errno(
						 err, errno, "cannot wait for bangerd")
				       : banger_error_set(err, BANGER_TIMEOUT,
						 "nothing came from bangerd in time");
	}
	int r = banger_wire_read(c->reader, &line, &len, fds, &n);
	if (r == 0)
		return 0;
	if (r < 0)
		return lost(c, r, err);
	close_all(fds, n);
	r = banger_json_parse(line, len, ret, err);
	return r < 0 ? r : 1;
}
