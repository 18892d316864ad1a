/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The session's thread: frames between the port and the rings of channels.
 *
 * To the guest everything goes through one buffer, filled when less than OUT_LOW bytes are in it: small frames first,
 * then one frame of stdin of each channel in turn, as far as the agent's windows go. From the guest whole frames are
 * taken. An output ring is as large as its window, and credit is given for what has left it, so it cannot overflow
 * while the guest keeps to the protocol; that it does is checked, and a guest that does not has lost its session.
 *
 * Attaching: the port is a stream that an earlier daemon may have left in the middle of a frame, in both directions.
 * Until HELLO with our token has come everything else is passed over; see banger/agent.h.
 *
 * A channel's id is given again only after its last frame has come, and nothing is said for it after that: so a frame
 * is never taken for that of the channel which had the id before.
 */
#include "vm/session_channel.h"
#include <banger/log.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>

#define OUT_LOW (64 * 1024)
#define STACK (256 * 1024)
#define ATTACH_US 2000000 /* how long the agent has to answer before it is asked with padding */

/* ---- small things */

void session_kick(struct session *s)
{
	if (!s->kicked)
		eventfd_write(s->kick, 1);
	s->kicked = true;
}

void channel_wake(struct channel *c)
{
	if (!c->woken)
		eventfd_write(c->wake, 1);
	c->woken = true;
}

void channel_free(struct channel *c)
{
	free(c->start);
	free(c->in.buf);
	free(c->out[0].buf);
	free(c->out[1].buf);
	banger_closep(&c->wake);
	free(c);
}

/* The guest's words for a message; whatever they are, the error struct makes them printable. */
static void words(char *to, size_t size, const uint8_t *p, uint32_t n)
{
	snprintf(to, size, "%.*s", (int)(n < 512 ? n : 512), (const char *)p);
	if (!*to)
		snprintf(to, size, "the agent gives no reason");
}

/* The session is over: say why, once. Returns -1. */
static int over(struct session *s, enum banger_code code, const char *text)
{
	if (s->state != SESSION_OVER) {
		s->state = SESSION_OVER;
		s->code = code;
		snprintf(s->text, sizeof(s->text), "%s", text);
	}
	return -1;
}

static int broken(struct session *s, const char *what)
{
	char text[256];

	snprintf(text, sizeof(text), "the VM broke the agent protocol: %s", what);
	return over(s, BANGER_INTERNAL, text);
}

static int gone(struct session *s)
{
	return over(s, BANGER_UNAVAILABLE, "the VM, or its agent, went away");
}

/* ---- to the agent */

static size_t unsent(const struct session *s)
{
	return s->o_len - s->o_off;
}

static bool room_for(struct session *s, size_t payload)
{
	if (s->o_off > 0) {
		memmove(s->out, s->out + s->o_off, unsent(s));
		s->o_len -= s->o_off;
		s->o_off = 0;
	}
	return sizeof(s->out) - s->o_len >= AGENT_HEADER + payload;
}

static void put(struct session *s, const void *data, size_t len)
{
	memcpy(s->out + s->o_len, data, len);
	s->o_len += len;
}

/* False: there is no room now. */
static bool say(
	struct session *s, enum agent_type type, uint16_t channel, const void *payload, size_t len)
{
	if (!room_for(s, len)) {
		s->held = true;
		return false;
	}
	agent_header(s->out + s->o_len, type, channel, len);
	s->o_len += AGENT_HEADER;
	if (len)
		put(s, payload, len);
	return true;
}

static bool say_u32(struct session *s, enum agent_type type, uint16_t channel, uint32_t v)
{
	uint8_t b[4];

	agent_put_u32(b, v);
	return say(s, type, channel, b, sizeof(b));
}

static void attach(struct session *s)
{
	uint8_t p[4 + 2 * AGENT_TOKEN];

	s->attach_at = banger_monotonic_us() + ATTACH_US;
	if (unsent(s) > 0)
		return; /* the VM has not even taken the last one */
	agent_put_u32(p, AGENT_PROTOCOL);
	memcpy(p + 4, AGENT_MARK, AGENT_TOKEN);
	memcpy(p + 4 + AGENT_TOKEN, s->token, AGENT_TOKEN);
	if (s->attach_padded) {
		room_for(s, AGENT_PAD);
		memset(s->out + s->o_len, 0, AGENT_PAD);
		s->o_len += AGENT_PAD;
	}
	say(s, AGENT_ATTACH, 0, p, sizeof(p));
	s->attach_padded = true;
}

static void fill_common(struct session *s)
{
	uint8_t b[8];

	if (s->power_off && say_u32(s, AGENT_POWEROFF, 0, s->grace_ms))
		s->power_off = false;
	if (s->set_time) {
		agent_put_u32(b, (uint32_t)s->set_time);
		agent_put_u32(b + 4, (uint32_t)(s->set_time >> 32));
		if (say(s, AGENT_TIME, 0, b, sizeof(b)))
			s->set_time = 0;
	}
	if (s->registry_lost)
		s->registry_lost = !say(s, AGENT_REGISTRY_LOST, 0, NULL, 0);
	/* One answer is enough for all who asked until now. */
	if (s->pings_sent != s->pings && say_u32(s, AGENT_PING, 0, s->pings))
		s->pings_sent = s->pings;
}

static void fill_output(struct session *s, struct channel *c, uint8_t stream)
{
	struct ring *r = &c->out[stream - 1];
	uint8_t b[5];

	if (r->closed && !r->told)
		r->told = say(s, AGENT_CLOSE, c->id, &stream, 1);
	if (r->owed >= CREDIT_AT) {
		agent_put_u32(b, r->owed);
		b[4] = stream;
		if (say(s, AGENT_CREDIT, c->id, b, sizeof(b)))
			r->owed = 0;
	}
}

static void fill_small(struct session *s, struct channel *c)
{
	uint8_t b[4];

	agent_put_u16(b, c->rows);
	agent_put_u16(b + 2, c->cols);
	if (c->resize)
		c->resize = !say(s, AGENT_RESIZE, c->id, b, sizeof(b));
	for (int sig = 1; c->signals && sig < 64; sig++)
		if (c->signals & 1ull << sig && say_u32(s, AGENT_SIGNAL, c->id, sig))
			c->signals &= ~(1ull << sig);
	fill_output(s, c, 1);
	fill_output(s, c, 2);
	if (c->in_over && !c->end_sent && !c->in.len)
		c->end_sent = say(s, AGENT_END, c->id, NULL, 0);
}

/* One frame of stdin. True: there was one. */
static bool fill_stdin(struct session *s, struct channel *c)
{
	size_t n = c->in.len < c->window ? c->in.len : c->window;
	size_t whole = AGENT_WINDOW - c->in.start;

	n = n < AGENT_DATA_MAX ? n : AGENT_DATA_MAX;
	n = n < whole ? n : whole;
	if (n == 0 || c->start)
		return false;
	if (unsent(s) >= OUT_LOW || !say(s, AGENT_STDIN, c->id, c->in.buf + c->in.start, n)) {
		s->held = true;
		return false;
	}
	c->window -= n;
	c->in.len -= n;
	c->in.start = (c->in.start + n) % AGENT_WINDOW;
	if (c->waits_for_room && AGENT_WINDOW - c->in.len >= AGENT_WINDOW / 4) {
		c->waits_for_room = false;
		channel_wake(c);
	}
	return true;
}

static void fill(struct session *s)
{
	bool more = true;

	s->held = false;
	fill_common(s);
	for (unsigned i = 1; i <= AGENT_CHANNELS; i++) {
		struct channel *c = s->channels[i];

		s->held |= c && c->start && !room_for(s, c->start_len);
		if (c && c->start && room_for(s, c->start_len)) {
			put(s, c->start, c->start_len);
			free(TAKE_PTR(c->start));
		}
		if (c && !c->start)
			fill_small(s, c);
	}
	while (more) {
		more = false;
		for (unsigned i = 0; i < AGENT_CHANNELS; i++) {
			struct channel *c = s->channels[(s->turn + i) % AGENT_CHANNELS + 1];

			more |= c && c->in.len && fill_stdin(s, c);
		}
		s->turn++;
	}
	/* What fill_stdin() has emptied may be over. */
	for (unsigned i = 1; i <= AGENT_CHANNELS; i++)
		if (s->channels[i] && s->channels[i]->in_over && !s->channels[i]->start)
			fill_small(s, s->channels[i]);
}

static int write_port(struct session *s)
{
	while (unsent(s) > 0) {
		ssize_t n =
			send(s->port, s->out + s->o_off, unsent(s), MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return 0;
		if (n < 0)
			return gone(s);
		s->o_off += n;
	}
	s->o_off = s->o_len = 0;
	return 0;
}

/* ---- from the agent */

static void end_channel(struct session *s, struct channel *c)
{
	s->channels[c->id] = NULL;
	if (c->abandoned)
		return channel_free(c);
	c->ended = true;
	channel_wake(c);
}

static int on_data(
	struct session *s, struct channel *c, struct ring *r, const struct agent_frame *f)
{
	/* What is in the ring and what is owed is exactly what the guest has used of its window. */
	if (f->len > AGENT_WINDOW - r->len - r->owed)
		return broken(s, "more output than there was credit for");
	if (!r->buf || r->closed) {
		r->owed += f->len;
		return 0;
	}
	size_t at = (r->start + r->len) % AGENT_WINDOW;
	size_t first = f->len < AGENT_WINDOW - at ? f->len : AGENT_WINDOW - at;
	memcpy(r->buf + at, f->payload, first);
	memcpy(r->buf, f->payload + first, f->len - first);
	r->len += f->len;
	channel_wake(c);
	return 0;
}

static int on_ended(struct session *s, struct channel *c, const struct agent_frame *f)
{
	bool killed = f->len == 2 && f->payload[0] == 1;

	if (f->len != 2 || f->payload[0] > 1 || (killed && (!f->payload[1] || f->payload[1] > 64)))
		return broken(s, "an EXIT that is none");
	c->result.signal = killed ? f->payload[1] : 0;
	c->result.exit_code = killed ? -1 : f->payload[1];
	end_channel(s, c);
	return 0;
}

static int on_refused(struct session *s, struct channel *c, const struct agent_frame *f)
{
	if (f->len < 4)
		return broken(s, "a REFUSED that is none");
	uint32_t num = agent_get_u32(f->payload);
	c->code = num > 0 && num < 4096 ? banger_code_from_errno((int)num) : BANGER_INTERNAL;
	words(c->text, sizeof(c->text), f->payload + 4, f->len - 4);
	end_channel(s, c);
	return 0;
}

static int on_credit(struct session *s, struct channel *c, const struct agent_frame *f)
{
	if (f->len != 5 || f->payload[4] != 0 ||
		agent_get_u32(f->payload) > AGENT_WINDOW - c->window)
		return broken(s, "a CREDIT that is none");
	c->window += agent_get_u32(f->payload);
	return 0;
}

/* The program reads no more of its stdin. */
static int on_close(struct session *s, struct channel *c, const struct agent_frame *f)
{
	if (f->len != 1 || f->payload[0] != 0)
		return broken(s, "a CLOSE that is none");
	c->in.len = c->in.start = 0;
	c->in_over = c->end_sent = true;
	channel_wake(c);
	return 0;
}

static int on_channel(struct session *s, struct channel *c, const struct agent_frame *f)
{
	switch (f->type) {
	case AGENT_STDOUT:
		return on_data(s, c, &c->out[0], f);
	case AGENT_STDERR:
		return on_data(s, c, &c->out[1], f);
	case AGENT_EXIT:
		return on_ended(s, c, f);
	case AGENT_REFUSED:
		return on_refused(s, c, f);
	case AGENT_CREDIT:
		return on_credit(s, c, f);
	case AGENT_CLOSE:
		return on_close(s, c, f);
	}
	return broken(s, "a frame of an unknown type");
}

static int on_common(struct session *s, const struct agent_frame *f)
{
	char said[600], text[SESSION_TEXT];

	switch (f->type) {
	case AGENT_PONG:
		if (f->len != 4 || agent_get_u32(f->payload) - s->pongs > s->pings_sent - s->pongs)
			return broken(s, "a PONG that is none");
		s->pongs = agent_get_u32(f->payload);
		pthread_cond_broadcast(&s->changed);
		return 0;
	case AGENT_HELLO:
		if (f->len == 4 + AGENT_TOKEN && memcmp(f->payload + 4, s->token, AGENT_TOKEN) == 0)
			return 0; /* ATTACH was said twice */
		return over(s, BANGER_UNAVAILABLE, "the VM's agent ended, and was started again");
	case AGENT_BROKEN:
		words(said, sizeof(said), f->payload, f->len);
		snprintf(text, sizeof(text), "the VM's agent does not understand the host: %s",
			said);
		return over(s, BANGER_INTERNAL, text);
	}
	return broken(s, "a frame that cannot come now");
}

static int on_frame(struct session *s, const struct agent_frame *f)
{
	if (f->channel == 0)
		return on_common(s, f);
	struct channel *c = f->channel <= AGENT_CHANNELS ? s->channels[f->channel] : NULL;
	if (!c || c->start)
		return broken(s, "a frame on a channel that is not in use");
	return on_channel(s, c, f);
}

static int check_version(struct session *s, uint32_t version)
{
	char text[128];

	if (version == AGENT_PROTOCOL)
		return 0;
	snprintf(text, sizeof(text), "the VM's agent speaks protocol %u, this daemon speaks %u",
		version, AGENT_PROTOCOL);
	return over(s, BANGER_UNSUPPORTED, text);
}

/* The first thing on a port may be FAILED, or HELLO of an agent that does not know tokens. Returns 1 when more of it
 * must come before anything can be said. */
static int on_first(struct session *s)
{
	const uint8_t *h = s->reader.buf + s->reader.start, *p = h + AGENT_HEADER;
	size_t have = s->reader.end - s->reader.start;
	char said[600];

	if (have < AGENT_HEADER)
		return 1;
	uint32_t len = agent_get_u32(h + 4);
	bool failed = h[0] == AGENT_FAILED && len <= 4096, old = h[0] == AGENT_HELLO && len == 4;
	if ((!failed && !old) || h[1] || h[2] || h[3]) {
		s->begun = true;
		return 0;
	}
	if (have < AGENT_HEADER + len)
		return 1;
	if (old)
		return check_version(s, agent_get_u32(p)) < 0 ? -1
							      : broken(s, "a HELLO that is none");
	words(said, sizeof(said), p, len);
	return over(s, BANGER_CORRUPT, said);
}

/* 1: attached just now; 0: not yet. */
static int look_for_hello(struct session *s)
{
	struct agent_frame f;
	int r;

	if (!s->begun && (r = on_first(s)) != 0)
		return r < 0 ? r : 0;
	if (!agent_reader_seek(&s->reader, AGENT_HELLO, s->token))
		return 0;
	r = agent_reader_next(&s->reader, &f);
	if (r <= 0)
		return r == 0 ? 0 : broken(s, "a HELLO that is none");
	if (check_version(s, agent_get_u32(f.payload)) < 0)
		return -1;
	s->state = SESSION_OPEN;
	return 1;
}

static int take_frames(struct session *s, bool *ret_opened)
{
	struct agent_frame f;
	int r = 0;

	if (s->state == SESSION_WAITING) {
		r = look_for_hello(s);
		if (r <= 0)
			return r;
		*ret_opened = true;
	}
	while ((r = agent_reader_next(&s->reader, &f)) == 1)
		if (on_frame(s, &f) < 0)
			return -1;
	return r < 0 ? broken(s, "not a frame") : 0;
}

static int read_port(struct session *s)
{
	bool opened = false;
	size_t room;
	uint8_t *to = agent_reader_space(&s->reader, &room);
	ssize_t n = recv(s->port, to, room, MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	pthread_mutex_lock(&s->lock);
	int r = n <= 0 ? gone(s) : 0;
	if (r == 0) {
		agent_reader_added(&s->reader, n);
		r = take_frames(s, &opened);
	}
	pthread_mutex_unlock(&s->lock);
	if (opened) {
		eventfd_write(s->ready, 1);
		s->event(s->arg, SESSION_READY, "");
	}
	return r;
}

/* ---- the thread */

static int turn(struct session *s)
{
	struct pollfd p[2] = {{s->port, POLLIN, 0}, {s->kick, POLLIN, 0}};
	eventfd_t n;
	int ms = -1;

	pthread_mutex_lock(&s->lock);
	if (s->stop)
		over(s, BANGER_UNAVAILABLE, "the daemon has let go of the VM");
	bool waiting = s->state == SESSION_WAITING, end = s->state == SESSION_OVER;
	if (s->state == SESSION_OPEN)
		fill(s);
	pthread_mutex_unlock(&s->lock);
	if (end)
		return -1;
	if (waiting && banger_monotonic_us() >= s->attach_at)
		attach(s);
	if (waiting)
		ms = (int)((s->attach_at - banger_monotonic_us()) / 1000 + 1);
	if (unsent(s) && write_port(s) < 0)
		return -1;
	p[0].events |= unsent(s) ? POLLOUT : 0;
	if (s->held && unsent(s) < OUT_LOW)
		ms = 0; /* there is room now for what had none */
	if (poll(p, 2, ms < -1 ? 0 : ms) < 0)
		return 0;
	if (p[1].revents) {
		eventfd_read(s->kick, &n);
		pthread_mutex_lock(&s->lock);
		s->kicked = false;
		pthread_mutex_unlock(&s->lock);
	}
	return p[0].revents & ~POLLOUT ? read_port(s) : 0;
}

/* Everything that waits learns that there is nothing to wait for. */
static void end_all(struct session *s)
{
	pthread_mutex_lock(&s->lock);
	gone(s); /* unless something better is known */
	for (unsigned i = 1; i <= AGENT_CHANNELS; i++) {
		struct channel *c = s->channels[i];

		if (!c)
			continue;
		c->code = s->code;
		snprintf(c->text, sizeof(c->text), "%s", s->text);
		end_channel(s, c);
	}
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	eventfd_write(s->ready, 1);
}

static void *run(void *arg)
{
	struct session *s = arg;

	while (turn(s) == 0)
		;
	end_all(s);
	banger_closep(&s->port); /* it takes one peer at a time: another session may come */
	s->port = -1;
	if (s->code == BANGER_CORRUPT)
		s->event(s->arg, SESSION_FAILED, s->text);
	s->event(s->arg, SESSION_LOST, s->text);
	return NULL;
}

static void no_event(void *arg, enum session_event event, const char *text)
{
}

/* What can be had before the thread is. */
static int init(struct session *s, const struct session_options *o)
{
	pthread_condattr_t attr;

	snprintf(s->vm, sizeof(s->vm), "%s", o->vm);
	s->event = o->event ?: no_event;
	s->arg = o->arg;
	s->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	s->ready = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	pthread_mutex_init(&s->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&s->changed, &attr);
	pthread_condattr_destroy(&attr);
	if (s->kick < 0 || s->ready < 0 ||
		getrandom(s->token, sizeof(s->token), 0) != sizeof(s->token))
		return -errno;
	return 0;
}

static void destroy(struct session *s)
{
	banger_closep(&s->port);
	banger_closep(&s->kick);
	banger_closep(&s->ready);
	pthread_mutex_destroy(&s->lock);
	pthread_cond_destroy(&s->changed);
	free(s);
}

int session_new(const struct session_options *o, struct session **ret, struct banger_error *err)
{
	struct session *s =
		malloc(sizeof(*s)); /* its buffers are not touched before they are needed */
	pthread_attr_t attr;

	if (!s) {
		close(o->port);
		return banger_error_oom(err);
	}
	memset(s, 0, offsetof(struct session, reader));
	s->reader.start = s->reader.end = s->o_off = s->o_len = 0;
	s->port = o->port;
	int e = -init(s, o);
	if (e == 0)
		e = pthread_attr_init(&attr);
	if (e == 0) {
		pthread_attr_setstacksize(&attr, STACK);
		e = pthread_create(&s->thread, &attr, run, s);
		pthread_attr_destroy(&attr);
	}
	if (e != 0) {
		destroy(s);
		return banger_error_set_errno(err, e, "cannot start a session with the VM's agent");
	}
	*ret = s;
	return 0;
}

void session_freep(struct session **p)
{
	struct session *s = *p;

	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	s->stop = true;
	session_kick(s);
	pthread_mutex_unlock(&s->lock);
	pthread_join(s->thread, NULL);
	pthread_mutex_lock(&s->lock);
	while (s->users > 0)
		pthread_cond_wait(&s->changed, &s->lock);
	pthread_mutex_unlock(&s->lock);
	destroy(s);
	*p = NULL;
}

/* ---- calls that carry no streams */

int session_enter(struct session *s, struct banger_error *err)
{
	int r = 0;

	pthread_mutex_lock(&s->lock);
	if (s->state == SESSION_WAITING)
		r = banger_error_set(
			err, BANGER_UNAVAILABLE, "VM \"%s\": its agent is not ready yet", s->vm);
	else if (s->state == SESSION_OVER)
		r = banger_error_set(err, s->code, "VM \"%s\": %s", s->vm, s->text);
	else
		s->users++;
	pthread_mutex_unlock(&s->lock);
	return r;
}

void session_leave(struct session *s)
{
	pthread_mutex_lock(&s->lock);
	if (--s->users == 0)
		pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
}

static int wait_ready(struct session *s, int64_t by_us, int cancel_fd, struct banger_error *err)
{
	for (;;) {
		struct pollfd p[2] = {{s->ready, POLLIN, 0}, {cancel_fd, POLLIN, 0}};
		int64_t left = by_us ? (by_us - banger_monotonic_us() + 999) / 1000 : -1;

		if (by_us && left < 0)
			left = 0;
		int n = poll(p, 2, left < INT_MAX ? (int)left : INT_MAX);
		if (n < 0)
			continue;
		if (p[0].revents)
			break;
		if (p[1].revents)
			return banger_error_set(err, BANGER_CANCELLED, "cancelled");
		if (by_us && banger_monotonic_us() >= by_us)
			return banger_error_set(err, BANGER_TIMEOUT,
				"VM \"%s\": its agent did not answer in time", s->vm);
	}
	pthread_mutex_lock(&s->lock);
	int r = s->state == SESSION_OPEN
			? 0
			: banger_error_set(err, s->code, "VM \"%s\": %s%s", s->vm,
				  s->code == BANGER_CORRUPT ? "it cannot be used: " : "", s->text);
	pthread_mutex_unlock(&s->lock);
	return r;
}

int session_wait_ready(struct session *s, int64_t by_us, int cancel_fd, struct banger_error *err)
{
	pthread_mutex_lock(&s->lock);
	s->users++;
	pthread_mutex_unlock(&s->lock);
	int r = wait_ready(s, by_us, cancel_fd, err);
	session_leave(s);
	return r;
}

int session_power_off(struct session *s, int grace_ms, struct banger_error *err)
{
	int r = session_enter(s, err);

	if (r < 0)
		return r;
	pthread_mutex_lock(&s->lock);
	s->power_off = true;
	s->grace_ms = grace_ms;
	session_kick(s);
	pthread_mutex_unlock(&s->lock);
	session_leave(s);
	return 0;
}

void session_set_time(struct session *s, int64_t realtime_us)
{
	pthread_mutex_lock(&s->lock);
	s->set_time = realtime_us;
	session_kick(s);
	pthread_mutex_unlock(&s->lock);
}

void session_registry_lost(struct session *s)
{
	pthread_mutex_lock(&s->lock);
	s->registry_lost = true;
	session_kick(s);
	pthread_mutex_unlock(&s->lock);
}

static int wait_for_pong(struct session *s, int64_t by_us)
{
	struct timespec by = {by_us / 1000000, by_us % 1000000 * 1000};
	int e = 0;

	/* Differences, because the numbers wrap. */
	uint32_t mine = ++s->pings;
	session_kick(s);
	while (s->state == SESSION_OPEN && (int32_t)(s->pongs - mine) < 0 && e != ETIMEDOUT)
		e = pthread_cond_timedwait(&s->changed, &s->lock, &by);
	return (int32_t)(s->pongs - mine) >= 0 ? 0
	       : s->state == SESSION_OPEN      ? -ETIMEDOUT
					       : -EHOSTDOWN;
}

int session_ping(struct session *s, int timeout_ms, int64_t *ret_us, struct banger_error *err)
{
	int64_t begun = banger_monotonic_us();

	int r = session_enter(s, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&s->lock);
	r = wait_for_pong(s, begun + timeout_ms * 1000LL);
	pthread_mutex_unlock(&s->lock);
	if (r == 0)
		*ret_us = banger_monotonic_us() - begun;
	else
		r = banger_error_set(err, r == -ETIMEDOUT ? BANGER_TIMEOUT : BANGER_UNAVAILABLE,
			"VM \"%s\": its agent does not answer", s->vm);
	session_leave(s);
	return r;
}
