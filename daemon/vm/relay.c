/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One poll(2) loop between three descriptors and the port.
 *
 * To the guest: stdin is read only when the agent's window and our own buffer have room, so one
 * frame at a time is on its way. From the guest: each output stream has a ring as large as its
 * window; credit is given when its bytes have been written, so the ring cannot overflow while the
 * guest keeps to the protocol, and that it does is checked. A reader that stalls therefore stalls
 * the program, nothing else, and costs nobody memory.
 *
 * The descriptors are somebody else's: a terminal, a pipe, a file, shared with other processes.
 * Their flags are not changed (O_NONBLOCK would be seen by everyone who shares the open file);
 * instead a descriptor is touched only when poll says so, and written to at most PIPE_BUF bytes at
 * a time, which a pipe that polls as writable takes without blocking.
 */
#include "vm/relay.h"
#include <banger/log.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#define CHANNEL 1

struct ring {
	int fd; /* -1: dropped */
	int stream;
	uint8_t *buf; /* AGENT_WINDOW bytes */
	size_t start, len;
	uint32_t owed; /* written or dropped, credit not given yet */
	bool lost;     /* its reader went away, and the agent is to be told */
};

struct state {
	const struct relay *r;
	struct agent_reader reader;
	struct ring out, err;
	uint8_t to_port[2 * (AGENT_HEADER + AGENT_DATA_MAX) + AGENT_PAYLOAD_MAX + AGENT_HEADER];
	size_t p_off, p_len;
	uint32_t window; /* stdin bytes that may still be sent */
	bool hello, stdin_over, end_sent, ended;
	struct relay_result result;
};

static size_t unsent(const struct state *s)
{
	return s->p_len - s->p_off;
}

static bool room_for(struct state *s, size_t payload)
{
	if (s->p_off > 0) {
		memmove(s->to_port, s->to_port + s->p_off, unsent(s));
		s->p_len -= s->p_off;
		s->p_off = 0;
	}
	return sizeof(s->to_port) - s->p_len >= AGENT_HEADER + payload;
}

static void say(
	struct state *s, enum agent_type type, uint16_t channel, const void *payload, size_t len)
{
	agent_header(s->to_port + s->p_len, type, channel, len);
	if (len)
		memcpy(s->to_port + s->p_len + AGENT_HEADER, payload, len);
	s->p_len += AGENT_HEADER + len;
}

static int broken(struct banger_error *err, const char *what)
{
	return banger_error_set(err, BANGER_INTERNAL, "the VM broke the agent protocol: %s", what);
}

/* ---- frames from the agent */

/* The agent is there: start the program. */
static int begin(struct state *s, struct banger_error *err)
{
	s->hello = true;
	long n = agent_exec_pack(s->r->exec, NULL, 0);
	if (n < 0)
		return banger_error_set(err, n == -E2BIG ? BANGER_TOO_LARGE : BANGER_BAD_REQUEST,
			n == -E2BIG ? "arguments and environment are over 128 KiB"
				    : "there is no command to run");
	room_for(s, n);
	agent_header(s->to_port + s->p_len, AGENT_EXEC, CHANNEL, n);
	agent_exec_pack(s->r->exec, s->to_port + s->p_len + AGENT_HEADER, n);
	s->p_len += AGENT_HEADER + n;
	return 0;
}

static int on_hello(struct state *s, const struct agent_frame *f, struct banger_error *err)
{
	if (s->hello || f->channel != 0 || f->len < 4)
		return broken(err, "a HELLO that is none");
	uint32_t version = agent_get_u32(f->payload);
	if (version != AGENT_PROTOCOL)
		return banger_error_set(err, BANGER_UNSUPPORTED,
			"the VM's agent speaks protocol %u, this daemon speaks %u", version,
			AGENT_PROTOCOL);
	s->result.hello_us = banger_monotonic_us();
	return begin(s, err);
}

static int on_data(struct ring *ring, const struct agent_frame *f, struct banger_error *err)
{
	/* What is in the ring and what is owed is exactly what the guest has used of its window. */
	if (f->len > AGENT_WINDOW - ring->len - ring->owed)
		return broken(err, "more output than there was credit for");
	if (ring->fd < 0) {
		ring->owed += f->len;
		return 0;
	}
	size_t at = (ring->start + ring->len) % AGENT_WINDOW;
	size_t first = f->len < AGENT_WINDOW - at ? f->len : AGENT_WINDOW - at;
	memcpy(ring->buf + at, f->payload, first);
	memcpy(ring->buf, f->payload + first, f->len - first);
	ring->len += f->len;
	return 0;
}

/* The guest's words for a message; whatever they are, the error struct makes them printable. */
static const char *words(const uint8_t *p, uint32_t n, char ret[513])
{
	snprintf(ret, 513, "%.*s", (int)(n < 512 ? n : 512), (const char *)p);
	return *ret ? ret : "the agent gives no reason";
}

static int on_failed(const struct agent_frame *f, struct banger_error *err)
{
	char text[513];

	return banger_error_set(
		err, BANGER_CORRUPT, "the VM cannot be used: %s", words(f->payload, f->len, text));
}

static int on_refused(const struct agent_frame *f, struct banger_error *err)
{
	char text[513];

	if (f->len < 4)
		return broken(err, "a REFUSED that is none");
	uint32_t num = agent_get_u32(f->payload);
	enum banger_code code =
		num > 0 && num < 4096 ? banger_code_from_errno((int)num) : BANGER_INTERNAL;
	return banger_error_set(err, code, "%s", words(f->payload + 4, f->len - 4, text));
}

static int on_ended(struct state *s, const struct agent_frame *f, struct banger_error *err)
{
	bool killed = f->len == 2 && f->payload[0] == 1;

	if (f->len != 2 || f->payload[0] > 1 || (killed && (!f->payload[1] || f->payload[1] > 64)))
		return broken(err, "an EXIT that is none");
	s->ended = true;
	s->result.signal = f->payload[0] ? f->payload[1] : 0;
	s->result.exit_code = f->payload[0] ? -1 : f->payload[1];
	return 0;
}

static int on_frame(struct state *s, const struct agent_frame *f, struct banger_error *err)
{
	if (f->type == AGENT_FAILED)
		return on_failed(f, err);
	if (f->type == AGENT_HELLO)
		return on_hello(s, f, err);
	if (!s->hello || f->channel != CHANNEL || s->ended)
		return broken(err, "a frame that cannot come now");
	switch (f->type) {
	case AGENT_STDOUT:
		return on_data(&s->out, f, err);
	case AGENT_STDERR:
		return on_data(&s->err, f, err);
	case AGENT_EXIT:
		return on_ended(s, f, err);
	case AGENT_REFUSED:
		return on_refused(f, err);
	case AGENT_CREDIT:
		if (f->len != 5 || f->payload[4] != 0 ||
			agent_get_u32(f->payload) > AGENT_WINDOW - s->window)
			return broken(err, "a CREDIT that is none");
		s->window += agent_get_u32(f->payload);
		return 0;
	case AGENT_CLOSE:
		if (f->len != 1 || f->payload[0] != 0)
			return broken(err, "a CLOSE that is none");
		s->stdin_over = s->end_sent = true; /* the program reads no more of it */
		return 0;
	}
	return broken(err, "a frame of an unknown type");
}

static int lost(struct banger_error *err)
{
	return banger_error_set(err, BANGER_UNAVAILABLE, "the VM ended before its command did");
}

static int read_port(struct state *s, struct banger_error *err)
{
	struct agent_frame f;
	size_t room;
	uint8_t *to = agent_reader_space(&s->reader, &room);
	ssize_t n = recv(s->r->port, to, room, MSG_DONTWAIT);
	int r;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0)
		return lost(err);
	agent_reader_added(&s->reader, n);
	while ((r = agent_reader_next(&s->reader, &f)) == 1)
		if ((r = on_frame(s, &f, err)) < 0)
			return r;
	return r < 0 ? broken(err, "not a frame") : 0;
}

static int write_port(struct state *s, struct banger_error *err)
{
	while (unsent(s) > 0) {
		ssize_t n = send(
			s->r->port, s->to_port + s->p_off, unsent(s), MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return 0;
		if (n < 0)
			return lost(err);
		s->p_off += n;
	}
	s->p_off = s->p_len = 0;
	return 0;
}

/* ---- the descriptors */

static bool wants_stdin(const struct state *s)
{
	return s->hello && !s->ended && !s->stdin_over && s->window > 0 &&
	       unsent(s) < AGENT_DATA_MAX;
}

static void read_stdin(struct state *s)
{
	uint8_t buf[AGENT_DATA_MAX];
	size_t most = s->window < sizeof(buf) ? s->window : sizeof(buf);
	ssize_t n = read(s->r->stdin_fd, buf, most);

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0) {
		s->stdin_over = true;
		return;
	}
	s->window -= n;
	room_for(s, n);
	say(s, AGENT_STDIN, CHANNEL, buf, n);
}

static void write_ring(struct ring *ring)
{
	size_t n = AGENT_WINDOW - ring->start < ring->len ? AGENT_WINDOW - ring->start : ring->len;
	ssize_t w = write(ring->fd, ring->buf + ring->start, n < PIPE_BUF ? n : PIPE_BUF);

	if (w < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (w < 0) { /* nobody reads: the rest is dropped, the program gets SIGPIPE if it goes on */
		ring->owed += ring->len;
		ring->len = ring->start = 0;
		ring->fd = -1;
		ring->lost = true;
		return;
	}
	ring->start = (ring->start + w) % AGENT_WINDOW;
	ring->len -= w;
	ring->owed += w;
}

static void give_credit(struct state *s, struct ring *ring)
{
	uint8_t credit[5];

	if (s->ended || ring->owed < AGENT_WINDOW / 4 || !room_for(s, sizeof(credit)))
		return;
	agent_put_u32(credit, ring->owed);
	credit[4] = ring->stream;
	say(s, AGENT_CREDIT, CHANNEL, credit, sizeof(credit));
	ring->owed = 0;
}

static void tell_lost(struct state *s, struct ring *ring)
{
	uint8_t stream = (uint8_t)ring->stream;

	if (!ring->lost || s->ended || !room_for(s, 1))
		return;
	say(s, AGENT_CLOSE, CHANNEL, &stream, 1);
	ring->lost = false;
}

/* ---- the loop */

static int time_left(const struct state *s, int *ret_ms, struct banger_error *err)
{
	int64_t by = !s->hello && s->r->boot_by ? s->r->boot_by : s->r->end_by;
	int64_t now = banger_monotonic_us();

	if (!s->hello && s->r->boot_by && s->r->end_by && s->r->end_by < by)
		by = s->r->end_by;
	*ret_ms = -1;
	if (!by)
		return 0;
	if (now >= by)
		return banger_error_set(err, BANGER_TIMEOUT,
			s->hello ? "the command did not end in time"
				 : "the VM's agent did not answer in time");
	int64_t ms = (by - now + 999) / 1000;
	*ret_ms = ms < INT_MAX ? (int)ms : INT_MAX;
	return 0;
}

static int turn(struct state *s, struct banger_error *err)
{
	enum { PORT, CANCEL, VMM, IN, OUT, ERR, CONSOLE, COUNT };
	struct pollfd p[COUNT];
	int ms, r = time_left(s, &ms, err);

	if (r < 0)
		return r;
	/* A negative descriptor is passed over by poll(2). */
	p[PORT] =
		(struct pollfd){s->ended ? -1 : s->r->port, POLLIN | (unsent(s) ? POLLOUT : 0), 0};
	p[CANCEL] = (struct pollfd){s->r->cancel_fd, POLLIN, 0};
	p[VMM] = (struct pollfd){s->ended ? -1 : s->r->vmm_fd, POLLIN, 0};
	p[IN] = (struct pollfd){wants_stdin(s) ? s->r->stdin_fd : -1, POLLIN, 0};
	p[OUT] = (struct pollfd){s->out.len ? s->out.fd : -1, POLLOUT, 0};
	p[ERR] = (struct pollfd){s->err.len ? s->err.fd : -1, POLLOUT, 0};
	p[CONSOLE] = (struct pollfd){s->r->console ? console_fd(s->r->console) : -1, POLLIN, 0};
	if (poll(p, COUNT, ms) < 0)
		return errno == EINTR
			       ? 0
			       : banger_error_set_errno(err, errno, "cannot wait for the VM");
	if (p[CANCEL].revents)
		return banger_error_set(err, BANGER_CANCELLED, "cancelled");
	if (p[CONSOLE].revents)
		console_read(s->r->console);
	if (p[OUT].revents)
		write_ring(&s->out);
	if (p[ERR].revents)
		write_ring(&s->err);
	if (p[IN].revents)
		read_stdin(s);
	if (p[PORT].revents)
		r = read_port(s, err);
	else if (p[VMM].revents)
		r = lost(err); /* only when the port has nothing more to say */
	if (r < 0)
		return r;
	if (s->hello && s->stdin_over && !s->end_sent && !s->ended && room_for(s, 0)) {
		say(s, AGENT_END, CHANNEL, NULL, 0);
		s->end_sent = true;
	}
	give_credit(s, &s->out);
	give_credit(s, &s->err);
	tell_lost(s, &s->out);
	tell_lost(s, &s->err);
	return s->ended ? 0 : write_port(s, err);
}

static int ring_init(struct ring *ring, int fd, int stream)
{
	*ring = (struct ring){.fd = fd, .stream = stream, .buf = malloc(AGENT_WINDOW)};
	return ring->buf ? 0 : -ENOMEM;
}

int relay_run(const struct relay *r, struct relay_result *ret, struct banger_error *err)
{
	struct state *s = calloc(1, sizeof(*s));
	int e = 0;

	if (!s)
		return banger_error_oom(err);
	s->r = r;
	s->window = AGENT_WINDOW;
	s->stdin_over = r->stdin_fd < 0;
	if (r->ready)
		e = begin(s, err);
	if (ring_init(&s->out, r->stdout_fd, 1) < 0 || ring_init(&s->err, r->stderr_fd, 2) < 0)
		e = banger_error_oom(err);
	while (e == 0 && !(s->ended && !s->out.len && !s->err.len))
		e = turn(s, err);
	if (e == 0)
		*ret = s->result;
	free(s->out.buf);
	free(s->err.buf);
	free(s);
	return e;
}

void relay_power_off(int port)
{
	uint8_t frame[AGENT_HEADER + 4];

	agent_header(frame, AGENT_POWEROFF, 0, 4);
	agent_put_u32(frame + AGENT_HEADER, 0);
	if (send(port, frame, sizeof(frame), MSG_DONTWAIT | MSG_NOSIGNAL) != sizeof(frame))
		log_debug("the VM's agent cannot be told to power off");
}
