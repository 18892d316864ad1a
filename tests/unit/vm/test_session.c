/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions against an agent that is played here, honest and not: many programs at once, what a guest can do wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include <banger/log.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include "vm/session.h"

static const char *argv[] = {"true", NULL}, *env[] = {NULL};

/* ---- the agent */

struct play {
	int port;
	void (*act)(struct play *p);
	struct agent_reader reader;
	uint8_t token[AGENT_TOKEN];
};

static bool say(
	struct play *p, enum agent_type type, uint16_t channel, const void *payload, size_t len)
{
	uint8_t h[AGENT_HEADER];

	agent_header(h, type, channel, len);
	return send(p->port, h, sizeof(h), MSG_NOSIGNAL | MSG_MORE) == sizeof(h) &&
	       (!len || send(p->port, payload, len, MSG_NOSIGNAL) == (ssize_t)len);
}

static bool hear(struct play *p, struct agent_frame *f)
{
	int r;

	while ((r = agent_reader_next(&p->reader, f)) == 0) {
		size_t room;
		uint8_t *to = agent_reader_space(&p->reader, &room);
		ssize_t n = recv(p->port, to, room, 0);
		if (n <= 0)
			return false;
		agent_reader_added(&p->reader, n);
	}
	return r == 1;
}

static void hello(struct play *p, uint32_t version)
{
	uint8_t h[4 + AGENT_TOKEN];
	struct agent_frame f;

	if (!hear(p, &f) || f.type != AGENT_ATTACH || f.len != 4 + 2 * AGENT_TOKEN ||
		memcmp(f.payload + 4, AGENT_MARK, AGENT_TOKEN) != 0)
		return;
	agent_put_u32(h, version);
	memcpy(h + 4, f.payload + 4 + AGENT_TOKEN, AGENT_TOKEN);
	say(p, AGENT_HELLO, 0, h, sizeof(h));
}

/* Every program is cat. A PING gets its PONG, SIGNAL ends a program, RESIZE is told on stderr. */
static void act_cat(struct play *p)
{
	struct agent_frame f;
	uint8_t b[5] = {0};
	bool live[AGENT_CHANNELS + 1] = {false};

	say(p, AGENT_HELLO, 0, "\2\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 4 + AGENT_TOKEN);
	say(p, AGENT_STDOUT, 7, "of an earlier session", 21);
	hello(p, AGENT_PROTOCOL);
	while (hear(p, &f)) {
		uint16_t c = f.channel;

		if (f.type == AGENT_EXEC) {
			live[c] = true;
		} else if (c && !live[c] && f.type != AGENT_GET) {
			/* its last frame is on its way */
		} else if (f.type == AGENT_STDIN) {
			say(p, AGENT_STDOUT, c, f.payload, f.len);
		} else if (f.type == AGENT_CREDIT) { /* as much as went out again may come in */
			memcpy(b, f.payload, 4);
			say(p, AGENT_CREDIT, c, b, 5);
		} else if (f.type == AGENT_END) {
			live[c] = !say(p, AGENT_EXIT, c, (uint8_t[]){0, 42}, 2);
		} else if (f.type == AGENT_SIGNAL) {
			live[c] = !say(p, AGENT_EXIT, c, (uint8_t[]){1, f.payload[0]}, 2);
		} else if (f.type == AGENT_RESIZE) {
			say(p, AGENT_STDERR, c, f.payload, f.len);
		} else if (f.type == AGENT_PING) {
			say(p, AGENT_PONG, 0, f.payload, f.len);
		} else if (f.type == AGENT_GET) {
			say(p, AGENT_REFUSED, c, "\2\0\0\0no\033x", 8);
		}
	}
}

static void *play(void *arg)
{
	struct play *p = arg;

	p->act(p);
	shutdown(p->port, SHUT_WR);
	return NULL;
}

/* ---- the host */

static struct play agent;
static pthread_t agent_thread;
static struct session *session;
static struct banger_error err;
static atomic_int events[3];

static void on_event(void *arg, enum session_event e, const char *text)
{
	atomic_fetch_add(&events[e], 1);
}

static void begin(void (*act)(struct play *))
{
	int s[2];

	for (int i = 0; i < 3; i++)
		atomic_store(&events[i], 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
	agent.port = s[1];
	agent.act = act;
	agent.reader.start = agent.reader.end = 0;
	const struct session_options o = {.port = s[0], .vm = "web", .event = on_event};
	assert_int_equal(session_new(&o, &session, &err), 0);
	assert_int_equal(pthread_create(&agent_thread, NULL, play, &agent), 0);
}

static void end(void)
{
	session_freep(&session);
	pthread_join(agent_thread, NULL);
	close(agent.port);
}

static int ready(void)
{
	return session_wait_ready(session, banger_monotonic_us() + 10000000, -1, &err);
}

static const struct agent_exec command = {.user = "", .workdir = "", .argv = argv, .env = env};
static const struct session_exec nothing = {.exec = &command,
	.stdin_fd = -1,
	.stdout_fd = -1,
	.stderr_fd = -1,
	.control_fd = -1,
	.cancel_fd = -1};

#ifndef MANY
#define MANY (3 * 1024 * 1024)
#endif
static uint8_t byte_at(size_t off, unsigned salt)
{
	return (off + salt) * 2654435761u >> 24;
}

struct one {
	int in[2], out[2];
	unsigned salt;
	size_t eaten, wrong;
	int result;
	struct session_result status;
	pthread_t run, feed, eat;
};

static void *run_one(void *arg)
{
	struct one *o = arg;
	struct banger_error e;
	struct session_exec x = nothing;

	x.stdin_fd = o->in[0];
	x.stdout_fd = o->out[1];
	o->result = session_exec(session, &x, &o->status, &e);
	close(o->out[1]);
	return NULL;
}

static void *feed_one(void *arg)
{
	struct one *o = arg;
	uint8_t b[4096];

	for (size_t off = 0; off < MANY; off += sizeof(b)) {
		for (size_t i = 0; i < sizeof(b); i++)
			b[i] = byte_at(off + i, o->salt);
		if (write(o->in[1], b, sizeof(b)) != sizeof(b))
			break;
	}
	close(o->in[1]);
	return NULL;
}

static void *eat_one(void *arg)
{
	struct one *o = arg;
	uint8_t b[5000];
	ssize_t n;

	while ((n = read(o->out[0], b, sizeof(b))) > 0)
		for (ssize_t i = 0; i < n; i++, o->eaten++)
			o->wrong += b[i] != byte_at(o->eaten, o->salt);
	return NULL;
}

/* Eight at once, each with its own bytes; one whose reader stalls holds up none of the others. */
static void many(void **state)
{
	static struct one ones[9];

	begin(act_cat);
	assert_int_equal(ready(), 0);
	for (unsigned i = 0; i < 9; i++) {
		struct one *o = &ones[i];

		*o = (struct one){.salt = i * 77};
		assert_int_equal(pipe(o->in) | pipe(o->out), 0);
		pthread_create(&o->run, NULL, run_one, o);
		pthread_create(&o->feed, NULL, feed_one, o);
		if (i > 0)
			pthread_create(&o->eat, NULL, eat_one, o);
	}
	for (unsigned i = 1; i < 10; i++) {
		struct one *o = &ones[i % 9];

		if (i == 9)
			pthread_create(&o->eat, NULL, eat_one, o);
		pthread_join(o->run, NULL);
		pthread_join(o->feed, NULL);
		pthread_join(o->eat, NULL);
		assert_int_equal(o->result, 0);
		assert_int_equal(o->status.exit_code, 42);
		assert_int_equal(o->eaten, MANY);
		assert_int_equal(o->wrong, 0);
		close(o->in[0]);
		close(o->out[0]);
	}
	end();
	assert_int_equal(atomic_load(&events[SESSION_READY]), 1);
	assert_int_equal(atomic_load(&events[SESSION_LOST]), 1);
}

static void small_calls(void **state)
{
	struct session_exec x = nothing;
	struct session_result r;
	int in[2], control[2], out[2];
	uint8_t b[4];
	int64_t us = -1;

	begin(act_cat);
	assert_int_equal(ready(), 0);
	assert_int_equal(session_ping(session, 5000, &us, &err), 0);
	assert_true(us >= 0);
	assert_int_equal(session_get(session, "/x", -1, -1, &err), -ENOENT);
	assert_string_equal(err.message, "no?x");
	assert_int_equal(session_get(session, "x", -1, -1, &err), -EINVAL);
	assert_int_equal(pipe(in) | pipe(control) | pipe(out), 0);
	x.stdin_fd = in[0]; /* open, and silent */
	x.control_fd = control[0];
	x.stderr_fd = out[1];
	assert_int_equal(write(control[1], "nonsense\nresize 9 8\nsignal 99\nsignal 15\n", 40), 40);
	assert_int_equal(session_exec(session, &x, &r, &err), 0);
	assert_int_equal(r.signal, 15);
	assert_int_equal(read(out[0], b, 4), 4);
	assert_memory_equal(b, "\11\0\10\0", 4);
	end();
}

static void act_silent(struct play *p)
{
	struct agent_frame f;

	hello(p, AGENT_PROTOCOL);
	while (hear(p, &f))
		if (f.type == AGENT_SIGNAL && f.payload[0] == 9)
			say(p, AGENT_EXIT, f.channel, (uint8_t[]){1, 9}, 2);
}

/* A program that is given up is killed, and its channel is free again. */
static void given_up(void **state)
{
	struct session_exec x = nothing;
	struct session_result r;
	int64_t us;

	begin(act_silent);
	assert_int_equal(ready(), 0);
	for (int i = 0; i < 2 * AGENT_CHANNELS; i++) {
		x.end_by = banger_monotonic_us() + 100;
		assert_int_equal(session_exec(session, &x, &r, &err), -ETIMEDOUT);
	}
	x.end_by = 0;
	x.cancel_fd = eventfd(1, EFD_CLOEXEC);
	assert_int_equal(session_exec(session, &x, &r, &err), -ECANCELED);
	close(x.cancel_fd);
	assert_int_equal(session_ping(session, 20, &us, &err), -ETIMEDOUT);
	end();
}

/* ---- liars */

static bool hear_exec(struct play *p)
{
	struct agent_frame f;

	hello(p, AGENT_PROTOCOL);
	return hear(p, &f) && f.type == AGENT_EXEC;
}

static void act_flood(struct play *p)
{
	static uint8_t b[AGENT_PAYLOAD_MAX];

	for (int i = 0; hear_exec(p) && i < 5; i++)
		for (int k = 0; k < 5 && say(p, AGENT_STDOUT, 1, b, sizeof(b)); k++)
			;
}
#define LIE(name, type, channel, payload)                                                          \
	static void name(struct play *p)                                                           \
	{                                                                                          \
		struct agent_frame f;                                                              \
		if (hear_exec(p) && say(p, type, channel, payload, sizeof(payload) - 1))           \
			while (hear(p, &f))                                                        \
				;                                                                  \
	}
LIE(act_channel, AGENT_STDOUT, 2, "x")
LIE(act_high, AGENT_STDOUT, 60000, "x")
LIE(act_credit, AGENT_CREDIT, 1, "\1\0\0\0\0")
LIE(act_credit_short, AGENT_CREDIT, 1, "\1")
LIE(act_close, AGENT_CLOSE, 1, "\1")
LIE(act_exit, AGENT_EXIT, 1, "\1\0")
LIE(act_exit_long, AGENT_EXIT, 1, "\0\0\0")
LIE(act_refused, AGENT_REFUSED, 1, "\1")
LIE(act_pong, AGENT_PONG, 0, "\7\0\0\0")
LIE(act_unknown, 77, 1, "")
LIE(act_common, AGENT_STDOUT, 0, "x")
LIE(act_broken, AGENT_BROKEN, 0, "what?")
static void act_long(struct play *p)
{
	const uint8_t h[AGENT_HEADER] = {AGENT_STDOUT, 0, 1, 0, 0, 0, 0, 0xff};

	if (hear_exec(p) && send(p->port, h, sizeof(h), MSG_NOSIGNAL) == sizeof(h))
		return act_silent(p);
}

static void liars(void **state)
{
	void (*const lies[])(struct play *) = {act_flood, act_channel, act_high, act_credit,
		act_credit_short, act_close, act_exit, act_exit_long, act_refused, act_pong,
		act_unknown, act_common, act_broken, act_long};
	struct session_result r;

	for (size_t i = 0; i < ELEMENTSOF(lies); i++) {
		struct session_exec x = nothing;
		int out[2];

		/* Nobody reads stdout: the flood is found by its credit, not by a full pipe. */
		assert_int_equal(pipe(out), 0);
		begin(lies[i]);
		assert_int_equal(ready(), 0);
		x.stdout_fd = out[1];
		x.end_by = banger_monotonic_us() + 5000000;
		if (lies[i] != act_flood) {
			assert_int_equal(session_exec(session, &x, &r, &err), -EIO);
			assert_int_equal(session_exec(session, &x, &r, &err), -EIO);
		} else {
			x.end_by = banger_monotonic_us() +
				   300000; /* what had come is still to be written */
			assert_true(session_exec(session, &x, &r, &err) < 0);
			assert_int_equal(session_exec(session, &x, &r, &err), -EIO);
		}
		end();
		assert_int_equal(atomic_load(&events[SESSION_LOST]), 1);
		close(out[0]);
		close(out[1]);
	}
}

/* ---- beginnings */

static void act_failed(struct play *p)
{
	say(p, AGENT_FAILED, 0, "no disk", 7);
}
static void act_version(struct play *p)
{
	hello(p, 9);
}
static void act_old(struct play *p)
{
	say(p, AGENT_HELLO, 0, "\1\0\0\0", 4);
}
static void act_gone(struct play *p)
{
}
/* The tail of a frame, and half of another. */
static void act_middle(struct play *p)
{
	static uint8_t junk[70000];

	memset(junk, 0x41, sizeof(junk));
	if (send(p->port, junk, sizeof(junk), MSG_NOSIGNAL) == sizeof(junk))
		act_cat(p);
}

static void beginnings(void **state)
{
	struct session_result r;

	begin(act_failed);
	assert_int_equal(ready(), -EUCLEAN);
	assert_non_null(strstr(err.message, "no disk"));
	end();
	assert_int_equal(atomic_load(&events[SESSION_FAILED]), 1);
	begin(act_version);
	assert_int_equal(ready(), -EOPNOTSUPP);
	assert_non_null(strstr(err.message, "protocol 9"));
	end();
	begin(act_old);
	assert_int_equal(ready(), -EOPNOTSUPP);
	end();
	begin(act_gone);
	assert_int_equal(ready(), -EHOSTDOWN);
	assert_int_equal(session_exec(session, &nothing, &r, &err), -EHOSTDOWN);
	assert_int_equal(session_power_off(session, 1000, &err), -EHOSTDOWN);
	end();
	begin(act_middle);
	assert_int_equal(ready(), 0);
	assert_int_equal(session_exec(session, &nothing, &r, &err), 0);
	assert_int_equal(r.exit_code, 42);
	end();
}

/* Pulled away while a program runs and another is waited for. */
static void *exec_one(void *arg)
{
	struct session_result r;
	struct banger_error e;

	return (void *)(intptr_t)session_exec(session, &nothing, &r, &e);
}

static void freed(void **state)
{
	pthread_t t[4];
	void *r;

	begin(act_silent);
	assert_int_equal(ready(), 0);
	for (int i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, exec_one, NULL);
	usleep(100000);
	end();
	for (int i = 0; i < 4; i++) {
		pthread_join(t[i], &r);
		assert_int_equal((int)(intptr_t)r, -EHOSTDOWN);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(many), cmocka_unit_test(small_calls),
		cmocka_unit_test(given_up), cmocka_unit_test(liars), cmocka_unit_test(beginnings),
		cmocka_unit_test(freed)};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
