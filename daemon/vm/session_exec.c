/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Programs and transfers: the side of the caller, on its own thread.
 *
 * The descriptors are somebody else's: a terminal, a pipe, a file, shared with other processes. Their flags are not
 * changed (O_NONBLOCK would be seen by everyone who shares the open file); instead a descriptor is touched only when
 * poll says so, and written to without waiting where the kernel can (RWF_NOWAIT), else at most PIPE_BUF bytes at a time,
 * which a pipe that polls as writable takes. One that blocks all the same holds up its own program only.
 *
 * The lock is the session's. Of a ring, the end that a thread does not move may move while that thread reads or writes
 * without the lock, and only ever in its favour.
 */
#include "vm/session_channel.h"
#include <banger/log.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/uio.h>

#define READ_MAX (64 * 1024)
#define CONTROL_LINE 64

/* What one call holds. */
struct call {
	struct session *s;
	struct channel *c;
	const struct session_exec *x;
	int in, out[2], control;
	bool file[2]; /* out[] are regular files */
	size_t line_len;
	char line[CONTROL_LINE];
	bool long_line;
};

/* ---- a channel's beginning and end */

static int new_ring(struct ring *r, bool wanted)
{
	r->buf = wanted ? malloc(AGENT_WINDOW) : NULL;
	return wanted && !r->buf ? -ENOMEM : 0;
}

/* With the frame that starts it: `len` bytes of payload, which the caller fills in. */
static struct channel *channel_new(const struct session_exec *x, size_t len)
{
	struct channel *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->window = AGENT_WINDOW;
	c->start_len = AGENT_HEADER + len;
	c->start = malloc(c->start_len);
	c->in_over = x->stdin_fd < 0;
	c->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!c->start || c->wake < 0 || new_ring(&c->in, x->stdin_fd >= 0) < 0 ||
		new_ring(&c->out[0], x->stdout_fd >= 0) < 0 ||
		new_ring(&c->out[1], x->stderr_fd >= 0) < 0) {
		channel_free(c);
		return NULL;
	}
	return c;
}

static int link_channel(
	struct session *s, struct channel *c, enum agent_type type, struct banger_error *err)
{
	int r = -EBUSY;

	pthread_mutex_lock(&s->lock);
	if (s->state == SESSION_OVER)
		r = banger_error_set(err, s->code, "VM \"%s\": %s", s->vm, s->text);
	for (unsigned i = 1; i <= AGENT_CHANNELS && r == -EBUSY; i++)
		if (!s->channels[i]) {
			c->id = i;
			agent_header(c->start, type, i, c->start_len - AGENT_HEADER);
			s->channels[i] = c;
			session_kick(s);
			r = 0;
		}
	pthread_mutex_unlock(&s->lock);
	return r == -EBUSY
		       ? banger_error_set(err, BANGER_BUSY,
				 "VM \"%s\": %d programs run in it already", s->vm, AGENT_CHANNELS)
		       : r;
}

static void drop_ring(struct ring *r)
{
	free(TAKE_PTR(r->buf));
	r->owed += r->len;
	r->len = r->start = 0;
	r->closed = true;
}

/* The caller leaves: what has not begun never will, what runs is killed and forgotten. */
static void leave_channel(struct session *s, struct channel *c)
{
	pthread_mutex_lock(&s->lock);
	bool ours = c->ended || c->start;
	if (!c->ended && c->start)
		s->channels[c->id] = NULL;
	if (!ours) {
		c->abandoned = true;
		c->signals = 1ull << 9;
		drop_ring(&c->in);
		drop_ring(&c->out[0]);
		drop_ring(&c->out[1]);
		c->in_over = true;
		session_kick(s);
	}
	pthread_mutex_unlock(&s->lock);
	if (ours)
		channel_free(c);
}

/* ---- the descriptors */

static void after_stdin(struct call *k, size_t n, bool at_end)
{
	pthread_mutex_lock(&k->s->lock);
	if (!k->c->in_over) { /* the program may have closed it meanwhile */
		k->c->in.len += n;
		k->c->in_over = at_end;
		session_kick(k->s);
	}
	pthread_mutex_unlock(&k->s->lock);
	if (at_end)
		k->in = -1;
}

static void read_stdin(struct call *k)
{
	struct ring *r = &k->c->in;

	pthread_mutex_lock(&k->s->lock);
	size_t at = (r->start + r->len) % AGENT_WINDOW, room = AGENT_WINDOW - r->len;
	pthread_mutex_unlock(&k->s->lock);
	room = room < AGENT_WINDOW - at ? room : AGENT_WINDOW - at;
	ssize_t n = read(k->in, r->buf + at, room < READ_MAX ? room : READ_MAX);
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	after_stdin(k, n > 0 ? n : 0, n <= 0);
}

/* Write without waiting, but for what a file's disk needs. */
static ssize_t write_some(int fd, bool file, const uint8_t *p, size_t n)
{
	struct iovec v = {(void *)p, n};

	if (file)
		return write(fd, p, n);
	ssize_t w = pwritev2(fd, &v, 1, -1, RWF_NOWAIT);

	if (w < 0 && (errno == EOPNOTSUPP || errno == EINVAL || errno == ENOSYS))
		w = write(fd, p, n < PIPE_BUF ? n : PIPE_BUF);
	return w;
}

/* False: nobody reads it any more. */
static bool write_output(struct call *k, int i)
{
	struct ring *r = &k->c->out[i];

	pthread_mutex_lock(&k->s->lock);
	const uint8_t *p = r->buf + r->start;
	size_t n = AGENT_WINDOW - r->start < r->len ? AGENT_WINDOW - r->start : r->len;
	pthread_mutex_unlock(&k->s->lock);
	ssize_t w = write_some(k->out[i], k->file[i], p, n);
	if (w < 0 && (errno == EINTR || errno == EAGAIN))
		return true;
	pthread_mutex_lock(&k->s->lock);
	if (w < 0) {
		r->owed += r->len;
		r->len = r->start = 0;
		r->closed = true;
		k->out[i] = -1;
	} else {
		r->len -= w;
		r->start = (r->start + w) % AGENT_WINDOW;
		r->owed += w;
	}
	if (r->closed || r->owed >= CREDIT_AT)
		session_kick(k->s);
	pthread_mutex_unlock(&k->s->lock);
	return w >= 0;
}

static void on_line(struct call *k)
{
	unsigned a, b;
	char end;

	pthread_mutex_lock(&k->s->lock);
	if (sscanf(k->line, "resize %5u %5u%c", &a, &b, &end) == 2 && a <= UINT16_MAX &&
		b <= UINT16_MAX) {
		k->c->rows = a;
		k->c->cols = b;
		k->c->resize = true;
	} else if (sscanf(k->line, "signal %2u%c", &a, &end) == 1 && a >= 1 && a < 64) {
		k->c->signals |= 1ull << a;
	}
	session_kick(k->s);
	pthread_mutex_unlock(&k->s->lock);
}

static void read_control(struct call *k)
{
	char b[256];
	ssize_t n = read(k->control, b, sizeof(b));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0)
		k->control = -1;
	for (ssize_t i = 0; i < n; i++) {
		if (b[i] == '\n') {
			k->line[k->line_len] = '\0';
			if (!k->long_line)
				on_line(k);
			k->line_len = 0;
			k->long_line = false;
		} else if (k->line_len + 1 < sizeof(k->line)) {
			k->line[k->line_len++] = b[i];
		} else {
			k->long_line = true;
		}
	}
}

/* ---- the loop */

/* What to wait for, as the channel stands now. */
struct wants {
	bool in, out[2], done, stop;
};

static struct wants look(struct call *k)
{
	struct channel *c = k->c;
	struct wants w;

	pthread_mutex_lock(&k->s->lock);
	if (c->in_over || c->ended)
		k->in = -1;
	w.in = k->in >= 0 && c->in.len < AGENT_WINDOW;
	c->waits_for_room = k->in >= 0 && !w.in;
	for (int i = 0; i < 2; i++)
		w.out[i] = k->out[i] >= 0 && c->out[i].len > 0;
	w.done = c->ended && !w.out[0] && !w.out[1];
	w.stop = k->s->stop;
	c->woken = false;
	pthread_mutex_unlock(&k->s->lock);
	return w;
}

static int time_left(int64_t by_us)
{
	int64_t ms = by_us ? (by_us - banger_monotonic_us() + 999) / 1000 : -1;

	return !by_us ? -1 : ms < 0 ? 0 : ms < INT_MAX ? (int)ms : INT_MAX;
}

static int turn(struct call *k, const struct wants *w, struct banger_error *err)
{
	enum { WAKE, CANCEL, CONTROL, IN, OUT, ERR, COUNT };
	/* A negative descriptor is passed over by poll(2). */
	struct pollfd p[COUNT] = {{k->c->wake, POLLIN, 0}, {k->x->cancel_fd, POLLIN, 0},
		{k->control, POLLIN, 0}, {w->in ? k->in : -1, POLLIN, 0},
		{w->out[0] ? k->out[0] : -1, POLLOUT, 0}, {w->out[1] ? k->out[1] : -1, POLLOUT, 0}};
	int ms = time_left(k->x->end_by);
	eventfd_t n;

	if (ms == 0)
		return banger_error_set(err, BANGER_TIMEOUT, "the command did not end in time");
	if (poll(p, COUNT, ms) < 0)
		return errno == EINTR
			       ? 0
			       : banger_error_set_errno(err, errno, "cannot wait for the VM");
	if (p[CANCEL].revents)
		return banger_error_set(err, BANGER_CANCELLED, "cancelled");
	if (p[WAKE].revents)
		eventfd_read(k->c->wake, &n);
	if (p[CONTROL].revents)
		read_control(k);
	if (p[OUT].revents)
		write_output(k, 0);
	if (p[ERR].revents)
		write_output(k, 1);
	if (p[IN].revents)
		read_stdin(k);
	return 0;
}

/* Carry the streams until the channel has ended and its output is written. */
static int carry(struct call *k, struct session_result *ret, struct banger_error *err)
{
	for (;;) {
		struct wants w = look(k);

		if (w.done || (w.stop && k->c->ended))
			break;
		int r = turn(k, &w, err);
		if (r < 0)
			return r;
	}
	/* A transfer whose reader went away is over, and not for the agent to complain of. */
	bool unread = !k->x->exec && k->x->stdout_fd >= 0 && k->out[0] < 0;
	if (k->c->code && !unread)
		return banger_error_set(err, k->c->code, "%s", k->c->text);
	*ret = k->c->result;
	return 0;
}

static bool is_file(int fd)
{
	struct stat st;

	return fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
}

/* c is taken over. */
static int go(struct session *s, struct channel *c, enum agent_type type,
	const struct session_exec *x, struct session_result *ret, struct banger_error *err)
{
	struct call k = {.s = s,
		.c = c,
		.x = x,
		.in = x->stdin_fd,
		.out = {x->stdout_fd, x->stderr_fd},
		.file = {is_file(x->stdout_fd), is_file(x->stderr_fd)},
		.control = x->control_fd};

	int r = link_channel(s, c, type, err);
	if (r < 0) {
		channel_free(c);
		return r;
	}
	r = carry(&k, ret, err);
	leave_channel(s, c);
	return r;
}

int session_exec(struct session *s, const struct session_exec *x, struct session_result *ret,
	struct banger_error *err)
{
	long n = agent_exec_pack(x->exec, NULL, 0);

	if (n < 0)
		return banger_error_set(err, n == -E2BIG ? BANGER_TOO_LARGE : BANGER_BAD_REQUEST,
			n == -E2BIG ? "arguments and environment are over 128 KiB"
				    : "there is no command to run");
	int r = session_enter(s, err);
	if (r < 0)
		return r;
	struct channel *c = channel_new(x, n);
	if (c) {
		agent_exec_pack(x->exec, c->start + AGENT_HEADER, n);
		r = go(s, c, AGENT_EXEC, x, ret, err);
	} else {
		r = banger_error_oom(err);
	}
	session_leave(s);
	return r;
}

/* ---- trees */

static int transfer(struct session *s, enum agent_type type, const char *path,
	const struct session_exec *x, struct banger_error *err)
{
	struct session_result result;
	size_t n = strlen(path);

	if (path[0] != '/' || n > PATH_MAX)
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"a path in a VM is absolute, not \"%.200s\"", path);
	int r = session_enter(s, err);
	if (r < 0)
		return r;
	struct channel *c = channel_new(x, n);
	if (c) {
		memcpy(c->start + AGENT_HEADER, path, n);
		r = go(s, c, type, x, &result, err);
	} else {
		r = banger_error_oom(err);
	}
	session_leave(s);
	if (r == 0 && (result.exit_code != 0 || result.signal))
		r = banger_error_set(
			err, BANGER_INTERNAL, "the VM's agent ended in the middle of the transfer");
	return r;
}

int session_put(
	struct session *s, const char *path, int fd, int cancel_fd, struct banger_error *err)
{
	const struct session_exec x = {.stdin_fd = fd,
		.stdout_fd = -1,
		.stderr_fd = -1,
		.control_fd = -1,
		.cancel_fd = cancel_fd};

	return transfer(s, AGENT_PUT, path, &x, err);
}

int session_get(
	struct session *s, const char *path, int fd, int cancel_fd, struct banger_error *err)
{
	const struct session_exec x = {.stdin_fd = -1,
		.stdout_fd = fd,
		.stderr_fd = -1,
		.control_fd = -1,
		.cancel_fd = cancel_fd};

	return transfer(s, AGENT_GET, path, &x, err);
}
