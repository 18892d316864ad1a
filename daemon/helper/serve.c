/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One thread, one poll(2). Nothing that a request does takes long, so requests are carried out one after the other,
 * in the order in which they come, and no lock is needed anywhere.
 *
 * Anybody may connect, so that who is refused is told and is in the log. Such a stranger gets one answer, has two
 * seconds to ask, and there are few of them at a time: the trusted caller always finds a place. A caller that does
 * not read its answers is given up after a short while.
 *
 * While a trusted caller is connected, a bridge without TAPs stays: it may be about to make one.
 */
#include "serve.h"

#include <banger/log.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#define TRUSTED_MAX 64
#define STRANGERS_MAX 8
#define CONNECTIONS (TRUSTED_MAX + STRANGERS_MAX)
#define STRANGER_US 2000000
#define REQUESTS_IN_A_ROW 16

struct connection {
	int fd; /* -1: a free place */
	struct helper_peer peer;
	bool trusted;
	int64_t until; /* a stranger's */
	struct banger_wire_reader *reader;
};

struct loop {
	const struct serve *serve;
	struct connection connections[CONNECTIONS];
	bool sweep; /* wanted */
};

static int count(const struct loop *l, bool trusted)
{
	int n = 0;

	for (int i = 0; i < CONNECTIONS; i++)
		n += l->connections[i].fd >= 0 && l->connections[i].trusted == trusted;
	return n;
}

static void drop(struct loop *l, struct connection *c)
{
	banger_wire_reader_freep(&c->reader);
	close(TAKE_FD(c->fd));
	l->sweep = l->sweep || c->trusted;
}

/* Send, and give the reply back. */
static int send_reply(int sock, struct json_object *reply, int fd)
{
	_cleanup_json_ struct json_object *o = reply;

	return o ? banger_wire_send(sock, o, &fd, fd >= 0) : -ENOMEM;
}

/* ---- connecting */

static void refuse(int fd, const struct helper_peer *peer, enum banger_code code, const char *why)
{
	send_reply(fd, helper_refuse(peer, code, why), -1);
}

static struct connection *free_place(struct loop *l)
{
	for (int i = 0; i < CONNECTIONS; i++)
		if (l->connections[i].fd < 0)
			return &l->connections[i];
	return NULL;
}

static void admit(struct loop *l, int fd_, const struct helper_peer *peer)
{
	_cleanup_close_ int fd = fd_;
	const struct timeval patience = {.tv_usec = 500000};
	bool trusted = helper_trusts(l->serve->service, peer);
	struct connection *c = free_place(l);

	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if (!c || count(l, trusted) >= (trusted ? TRUSTED_MAX : STRANGERS_MAX)) {
		refuse(fd, peer, trusted ? BANGER_BUSY : BANGER_DENIED,
			trusted ? "banger-helper has too many connections"
				: "banger-helper does nothing for this user");
		return;
	}
	*c = (struct connection){.fd = -1, .peer = *peer, .trusted = trusted};
	c->until = trusted ? INT64_MAX : banger_monotonic_us() + STRANGER_US;
	if (banger_wire_reader_new(fd, &c->reader) == 0)
		c->fd = TAKE_FD(fd);
}

static void take_connections(struct loop *l)
{
	int fd;

	while ((fd = accept4(l->serve->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0) {
		struct ucred cred = {.uid = -1};
		socklen_t len = sizeof(cred);

		if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0) {
			close(fd);
			continue;
		}
		admit(l, fd, &(const struct helper_peer){.uid = cred.uid, .pid = cred.pid});
	}
}

/* ---- requests */

static void close_all(const int *fds, size_t n)
{
	for (size_t i = 0; i < n; i++)
		close(fds[i]);
}

/* 1: another may follow; 0: wait for more; negative: the connection is over. */
static int take_request(struct loop *l, struct connection *c)
{
	int fds[BANGER_WIRE_FDS_MAX];
	_cleanup_close_ int out = -1;
	size_t len, nfds = 0;
	char *line;

	int r = banger_wire_read(c->reader, &line, &len, fds, &nfds);
	if (r == -EAGAIN)
		return 0;
	if (r == -EMSGSIZE)
		refuse(c->fd, &c->peer, BANGER_TOO_LARGE,
			"malformed request: the line is over 64 KiB");
	else if (r == -EPIPE)
		refuse(c->fd, &c->peer, BANGER_BAD_REQUEST,
			"malformed request: it ends in the middle of a line");
	if (r <= 0)
		return -ECONNRESET;
	close_all(fds, nfds);
	struct json_object *reply =
		helper_dispatch(l->serve->service, &c->peer, line, len, nfds, &out);
	r = send_reply(c->fd, reply, out);
	return r < 0 || !c->trusted ? -ECONNRESET : 1;
}

static void serve_connection(struct loop *l, struct connection *c)
{
	int r = 1;

	/* Others get their turn; what is left is taken in the next round. */
	for (int i = 0; i < REQUESTS_IN_A_ROW && r > 0; i++)
		r = take_request(l, c);
	if (r < 0)
		drop(l, c);
}

/* ---- sweeping */

static void sweep(struct loop *l)
{
	struct helper_swept swept = {0};
	struct banger_error err = {0};

	l->sweep = false;
	int r = network_sweep(l->serve->network, count(l, true) == 0, &swept, &err);
	if (r < 0)
		log_warn("helper could not clean up", KV_ERR(&err));
	if (swept.taps + swept.published + swept.bridges > 0)
		log_info("helper cleaned up", KV_I("taps", swept.taps),
			KV_I("published", swept.published), KV_I("bridges", swept.bridges));
}

/* ---- the loop */

/* The descriptors to poll, connections from the fourth on, in their places; the time to wait in *ret_ms. */
static void prepare(struct loop *l, struct pollfd p[CONNECTIONS + 3], int *ret_ms)
{
	int64_t now = banger_monotonic_us(), next = INT64_MAX;

	p[0] = (struct pollfd){.fd = l->serve->stop_fd, .events = POLLIN};
	p[1] = (struct pollfd){.fd = l->serve->listen_fd, .events = POLLIN};
	p[2] = (struct pollfd){.fd = network_news_fd(l->serve->network), .events = POLLIN};
	*ret_ms = -1;
	for (int i = 0; i < CONNECTIONS; i++) {
		struct connection *c = &l->connections[i];

		if (c->fd >= 0 && c->until <= now) {
			refuse(c->fd, &c->peer, BANGER_DENIED,
				"banger-helper does nothing for this user");
			drop(l, c);
		}
		p[3 + i] = (struct pollfd){.fd = c->fd, .events = POLLIN};
		if (c->fd < 0)
			continue;
		next = c->until < next ? c->until : next;
		if (banger_wire_pending(c->reader))
			*ret_ms = 0;
	}
	if (*ret_ms < 0 && next < INT64_MAX)
		*ret_ms = (int)((next - now) / 1000 + 1);
}

int serve_run(const struct serve *s, struct banger_error *err)
{
	static struct loop l; /* one */
	struct pollfd p[CONNECTIONS + 3];
	int ms;

	l = (struct loop){.serve = s, .sweep = true};
	for (int i = 0; i < CONNECTIONS; i++)
		l.connections[i].fd = -1;
	for (;;) {
		if (l.sweep)
			sweep(&l);
		prepare(&l, p, &ms);
		if (poll(p, ELEMENTSOF(p), ms) < 0 && errno != EINTR)
			return banger_error_set_errno(err, errno, "cannot wait for requests");
		if (p[0].revents)
			break;
		if (p[2].revents && network_news(s->network))
			l.sweep = true;
		for (int i = 0; i < CONNECTIONS; i++) {
			struct connection *c = &l.connections[i];
			if (c->fd >= 0 && c->fd == p[3 + i].fd &&
				(p[3 + i].revents || banger_wire_pending(c->reader)))
				serve_connection(&l, c);
		}
		if (p[1].revents)
			take_connections(&l);
	}
	for (int i = 0; i < CONNECTIONS; i++)
		if (l.connections[i].fd >= 0)
			drop(&l, &l.connections[i]);
	return 0;
}
