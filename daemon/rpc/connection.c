/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connection, on its thread: read a line, dispatch it, until the peer ends, the stream is lost, a
 * streaming method has ended, or the daemon stops (which shuts the reading side down).
 *
 * A stream is lost when a line is over the limit or ends in the middle: what follows cannot be
 * understood. The peer is told, and what it goes on sending is read and thrown away for a moment,
 * because a close with unread data would look to it like a reset and take the answer with it.
 */
#include "rpc/internal.h"
#include <banger/client.h>
#include <banger/log.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

/* Handlers keep buffers on the heap; what they do not touch of this costs nothing. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define STACK_SIZE (4 * 1024 * 1024)
#else
#define STACK_SIZE (512 * 1024)
#endif

#define LOOK_US 150 /* for the next request, after a change */
#define LINGER_MS 1000
#define LINGER_BYTES (16 * 1024 * 1024)

void connection_begin(struct rpc_connection *c, struct operation *op, const struct rpc_method *m)
{
	struct rpc_server *s = c->server;
	struct epoll_event e = {.events = 0 /* EPOLLHUP comes unasked */, .data.ptr = c};

	pthread_mutex_lock(&s->lock);
	c->op = op;
	c->yields = m->flags & (RPC_STREAM | RPC_YIELD);
	c->watched = m->flags & RPC_HANGUP;
	if (c->watched && epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, c->fd, &e) < 0)
		log_warn("cannot watch the client", KV_S("error", strerrordesc_np(errno)));
	/* The server cancelled those that it saw; this one came after. */
	if (c->yields && atomic_load(&s->stopping))
		operation_cancel(op);
	pthread_mutex_unlock(&s->lock);
}

void connection_end(struct rpc_connection *c)
{
	struct rpc_server *s = c->server;

	pthread_mutex_lock(&s->lock);
	if (c->watched)
		epoll_ctl(s->epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
	c->op = NULL;
	c->yields = c->watched = false;
	pthread_mutex_unlock(&s->lock);
}

int connection_send(struct rpc_connection *c, struct json_object *o, const int *fds, size_t nfds)
{
	atomic_store(&c->sending, banger_monotonic_us());
	int r = banger_wire_send(c->fd, o, fds, nfds);
	atomic_store(&c->sending, 0);
	return r;
}

int connection_send_text(struct rpc_connection *c, const char *line, size_t len)
{
	atomic_store(&c->sending, banger_monotonic_us());
	int r = banger_wire_send_text(c->fd, line, len, NULL, 0);
	atomic_store(&c->sending, 0);
	return r;
}

static void linger(struct rpc_connection *c)
{
	int64_t until = banger_monotonic_us() + LINGER_MS * 1000;
	struct pollfd p = {.fd = c->fd, .events = POLLIN};
	char b[65536];
	size_t total = 0;
	ssize_t n = 1;

	shutdown(c->fd, SHUT_WR);
	while (n > 0 && total < LINGER_BYTES && !atomic_load(&c->server->stopping)) {
		int64_t left = (until - banger_monotonic_us()) / 1000;

		if (left <= 0 || poll(&p, 1, left) <= 0)
			break;
		n = recv(c->fd, b, sizeof(b), MSG_DONTWAIT);
		total += n > 0 ? n : 0;
	}
}

static void serve(struct rpc_connection *c, struct banger_wire_reader *reader)
{
	int fds[BANGER_WIRE_FDS_MAX];
	size_t len, nfds;
	bool more = true;
	char *line;
	int r = 0;

	while (more && !atomic_load(&c->server->stopping)) {
		/* Who has changed something may be about to change more. */
		if (c->changes && !banger_wire_pending(reader))
			(void)banger_look(c->fd, LOOK_US);
		r = banger_wire_read(reader, &line, &len, fds, &nfds);
		if (r <= 0)
			break;
		more = dispatch_line(c, line, len, fds, nfds);
	}
	if (r == -EMSGSIZE)
		dispatch_refuse(c, BANGER_TOO_LARGE, "malformed request: the line is over 1 MiB");
	else if (r == -EPIPE)
		dispatch_refuse(c, BANGER_BAD_REQUEST,
			"malformed request: it ends in the middle of a line");
	if (r == -EMSGSIZE)
		linger(c);
}

/* Leave the list (nobody touches c->fd any more), close, and ask to be joined. */
static void leave(struct rpc_connection *c)
{
	struct rpc_server *s = c->server;

	pthread_mutex_lock(&s->lock);
	if (c->prev)
		c->prev->next = c->next;
	else
		s->connections = c->next;
	if (c->next)
		c->next->prev = c->prev;
	pthread_mutex_unlock(&s->lock);
	close(c->fd);
	pthread_mutex_lock(&s->lock);
	atomic_fetch_sub(&s->n_connections, 1); /* here: none left means all can be joined */
	c->next = s->finished;
	s->finished = c;
	eventfd_write(s->finished_fd, 1);
	pthread_mutex_unlock(&s->lock);
}

static void *run(void *arg)
{
	struct rpc_connection *c = arg;
	_cleanup_(banger_wire_reader_freep) struct banger_wire_reader *reader = NULL;
	struct banger_actor actor = {.pid = c->peer.pid};

	banger_actor_resolve(&actor);
	snprintf(c->program, sizeof(c->program), "%s", actor.program);
	if (banger_wire_reader_new(c->fd, &reader) == 0)
		serve(c, reader);
	banger_wire_reader_freep(&reader);
	leave(c);
	return NULL;
}

int connection_start(struct rpc_connection *c)
{
	pthread_attr_t attr;

	int e = pthread_attr_init(&attr);
	if (e != 0)
		return e;
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	e = pthread_create(&c->thread, &attr, run, c);
	pthread_attr_destroy(&attr);
	return e;
}
