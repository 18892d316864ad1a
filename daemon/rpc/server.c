/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The server's own thread: an epoll loop over the listening socket, the stop descriptor, the
 * finished connections, and the sockets of those clients whose going away cancels what they asked
 * for (they are in it while such an operation runs; only their hang-up is reported).
 *
 * Stopping. No more connections; the reading side of all is shut down, which ends idle ones and
 * keeps busy ones from taking another request while they can still answer the present one; streams
 * and pulls (RPC_YIELD) are cancelled. Then time for operations to finish, then they are cancelled, then they are waited
 * for: a handler that is in the middle of a change ends it one way or the other. A client that does
 * not take its reply is not waited for.
 */
#include "rpc/internal.h"
#include <banger/log.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#define SEND_TIMEOUT_MS 10000
#define STOP_TICK_MS 20
#define STOP_SEND_US 1000000 /* how long a send may take while the daemon stops */
#define STOP_REMIND_US 5000000

static int watch(struct rpc_server *s, int fd, void *what)
{
	struct epoll_event e = {.events = EPOLLIN, .data.ptr = what};

	return epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, fd, &e);
}

int rpc_server_new(
	const struct rpc_server_options *o, struct rpc_server **ret, struct banger_error *err)
{
	struct rpc_server *s = calloc(1, sizeof(*s));
	int r = 0;

	if (!s)
		return banger_error_oom(err);
	s->options = *o;
	s->owner = geteuid();
	s->listen_fd = -1;
	pthread_mutex_init(&s->lock, NULL);
	s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	s->finished_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	s->path = strdup(o->path);
	if (s->epoll_fd < 0 || s->finished_fd < 0)
		r = banger_error_set_errno(err, errno, "cannot start the server");
	else if (!s->path)
		r = banger_error_oom(err);
	if (r == 0)
		r = listen_open(s, err);
	if (r == 0 && (watch(s, s->listen_fd, &s->listen_fd) < 0 ||
			      watch(s, s->finished_fd, &s->finished_fd) < 0))
		r = banger_error_set_errno(err, errno, "cannot start the server");
	if (r < 0) {
		rpc_server_freep(&s);
		return r;
	}
	*ret = s;
	return 0;
}

void rpc_server_freep(struct rpc_server **p)
{
	struct rpc_server *s = *p;

	if (!s)
		return;
	listen_close(s);
	banger_closep(&s->epoll_fd);
	banger_closep(&s->finished_fd);
	pthread_mutex_destroy(&s->lock);
	free(s->path);
	free(s);
	*p = NULL;
}

size_t rpc_server_clients(const struct rpc_server *s)
{
	return atomic_load(&s->n_connections);
}

/* ---- taking connections */

static int get_peer(struct rpc_server *s, int fd, struct rpc_peer *ret)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return -errno;
	*ret = (struct rpc_peer){.uid = cred.uid, .gid = cred.gid, .pid = cred.pid};
	ret->trusted = cred.uid == 0 || cred.uid == s->owner;
	if (s->options.find_vm && ret->trusted)
		s->options.find_vm(s->options.find_vm_arg, ret);
	return 0;
}

static size_t count_of_uid(struct rpc_server *s, uid_t uid)
{
	size_t n = 0;

	pthread_mutex_lock(&s->lock);
	for (struct rpc_connection *c = s->connections; c; c = c->next)
		n += c->peer.uid == uid;
	pthread_mutex_unlock(&s->lock);
	return n;
}

static int check_limits(struct rpc_server *s, const struct rpc_peer *peer, struct banger_error *err)
{
	size_t all = s->options.connections, share = all / 4 > 0 ? all / 4 : 1;

	if (atomic_load(&s->n_connections) >= all)
		return banger_error_set(
			err, BANGER_BUSY, "the daemon has %zu clients already", all);
	if (!peer->trusted && count_of_uid(s, peer->uid) >= share)
		return banger_error_set(err, BANGER_BUSY,
			"uid %u has %zu connections already, its share of %zu", (unsigned)peer->uid,
			share, all);
	return 0;
}

/* Tell a client that there is no room, without waiting for it; kept as an operation of that client.
 */
static void turn_away(
	struct rpc_server *s, int fd, const struct rpc_peer *peer, const struct banger_error *err)
{
	struct banger_op_record r = {.started_us = banger_now_us(), .code = err->code};
	_cleanup_json_ struct json_object *doc = banger_reply_error(err);
	const char *text = doc ? json_object_to_json_string_ext(doc, JSON_C_TO_STRING_PLAIN) : NULL;

	strcpy(r.op_id, err->op_id);
	snprintf(r.message, sizeof(r.message), "%s", err->message);
	r.actor = (struct banger_actor){.uid = peer->uid, .gid = peer->gid, .pid = peer->pid};
	strcpy(r.actor.door, "rpc");
	operations_report(s->options.operations, &r);
	/* A new socket's buffer is empty and takes it whole. */
	if (text && send(fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT) > 0)
		send(fd, "\n", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static int start(
	struct rpc_server *s, int *fd, const struct rpc_peer *peer, struct banger_error *err)
{
	int ms = s->options.send_timeout_ms > 0 ? s->options.send_timeout_ms : SEND_TIMEOUT_MS;
	struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
	struct rpc_connection *c = calloc(1, sizeof(*c));

	if (!c)
		return banger_error_oom(err);
	setsockopt(*fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
	c->server = s;
	c->peer = *peer;
	c->fd = *fd;
	pthread_mutex_lock(&s->lock);
	c->next = s->connections;
	if (c->next)
		c->next->prev = c;
	s->connections = c;
	atomic_fetch_add(&s->n_connections, 1);
	int e = connection_start(c);
	if (e != 0) {
		s->connections = c->next;
		if (c->next)
			c->next->prev = NULL;
		atomic_fetch_sub(&s->n_connections, 1);
		free(c);
	} else {
		*fd = -1;
	}
	pthread_mutex_unlock(&s->lock);
	return e == 0 ? 0
		      : banger_error_set(err, BANGER_BUSY, "no thread is left for a client: %s",
				strerrordesc_np(e));
}

static void take_connection(struct rpc_server *s)
{
	_cleanup_close_ int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	struct banger_error err = {0};
	struct rpc_peer peer;

	if (fd < 0) {
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
			log_err("cannot take a client", KV_S("error", strerrordesc_np(errno)));
			usleep(50000); /* it stays in the queue; do not spin */
		}
		return;
	}
	if (get_peer(s, fd, &peer) < 0)
		return;
	banger_op_id op_id = banger_op_id_mint();
	_cleanup_op_ banger_op_id saved = banger_op_enter(op_id.s);
	if (check_limits(s, &peer, &err) < 0 || start(s, &fd, &peer, &err) < 0)
		turn_away(s, fd, &peer, &err);
}

/* ---- the loop */

static void cancel_for_hangup(struct rpc_server *s, struct rpc_connection *c)
{
	pthread_mutex_lock(&s->lock);
	/* It may have ended since; another one of this client is cancelled as rightly. */
	if (c->op && c->watched) {
		log_info("the client has gone", KV_I("uid", c->peer.uid), KV_I("pid", c->peer.pid),
			KV_S("cancels", operation_id(c->op)));
		operation_cancel(c->op);
		epoll_ctl(s->epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
	}
	pthread_mutex_unlock(&s->lock);
}

static void join_finished(struct rpc_server *s)
{
	eventfd_t n;

	pthread_mutex_lock(&s->lock);
	eventfd_read(s->finished_fd, &n);
	struct rpc_connection *c = s->finished;
	s->finished = NULL;
	pthread_mutex_unlock(&s->lock);
	while (c) {
		struct rpc_connection *next = c->next;

		pthread_join(c->thread, NULL);
		free(c);
		c = next;
	}
}

/* One round. Returns whether the stop descriptor (data.ptr NULL) was readable, or -errno. */
static int loop_once(struct rpc_server *s, int timeout_ms)
{
	struct epoll_event e[64];
	bool stop = false, finished = false;

	int n = epoll_wait(s->epoll_fd, e, ELEMENTSOF(e), timeout_ms);
	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	for (int i = 0; i < n; i++) {
		void *what = e[i].data.ptr;

		if (!what)
			stop = true;
		else if (what == &s->finished_fd)
			finished = true;
		else if (what == &s->listen_fd)
			take_connection(s);
		else
			cancel_for_hangup(s, what);
	}
	/* Last: the events above may point to connections that are freed here. */
	if (finished)
		join_finished(s);
	return stop;
}

/* ---- stopping */

static void shut_readers(struct rpc_server *s)
{
	pthread_mutex_lock(&s->lock);
	atomic_store(&s->stopping, true);
	for (struct rpc_connection *c = s->connections; c; c = c->next) {
		shutdown(c->fd, SHUT_RD);
		if (c->op && c->yields)
			operation_cancel(c->op);
	}
	pthread_mutex_unlock(&s->lock);
}

static void cut_stuck_senders(struct rpc_server *s)
{
	int64_t now = banger_monotonic_us();

	pthread_mutex_lock(&s->lock);
	for (struct rpc_connection *c = s->connections; c; c = c->next) {
		int64_t since = atomic_load(&c->sending);

		if (since && now - since > STOP_SEND_US)
			shutdown(c->fd, SHUT_RDWR);
	}
	pthread_mutex_unlock(&s->lock);
}

static bool all_gone(struct rpc_server *s)
{
	pthread_mutex_lock(&s->lock);
	bool gone = !s->connections && atomic_load(&s->n_connections) == 0;
	pthread_mutex_unlock(&s->lock);
	return gone;
}

static void stop_serving(struct rpc_server *s, int grace_ms)
{
	int64_t start_us = banger_monotonic_us(), reminded = start_us;
	bool cancelled = false;

	epoll_ctl(s->epoll_fd, EPOLL_CTL_DEL, s->listen_fd, NULL);
	listen_close(s);
	shut_readers(s);
	while (!all_gone(s)) {
		int64_t now = banger_monotonic_us();

		if (!cancelled && now - start_us >= grace_ms * 1000LL) {
			log_warn("operations still run and are cancelled",
				KV_I("clients", rpc_server_clients(s)));
			operations_cancel_all(s->options.operations);
			cancelled = true;
		}
		if (now - reminded >= STOP_REMIND_US) {
			log_warn("waiting for operations to end",
				KV_I("clients", rpc_server_clients(s)));
			reminded = now;
		}
		cut_stuck_senders(s);
		loop_once(s, STOP_TICK_MS);
	}
	join_finished(s);
}

int rpc_server_run(struct rpc_server *s, int stop_fd, int grace_ms, struct banger_error *err)
{
	int r = 0;

	if (watch(s, stop_fd, NULL) < 0)
		return banger_error_set_errno(err, errno, "cannot start the server");
	while (r == 0)
		r = loop_once(s, -1);
	epoll_ctl(s->epoll_fd, EPOLL_CTL_DEL, stop_fd, NULL);
	stop_serving(s, grace_ms);
	return r < 0 ? banger_error_set_errno(err, r, "the server's loop") : 0;
}
