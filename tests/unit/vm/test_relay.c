/* SPDX-License-Identifier: Apache-2.0 */
/* The host's end of the agent protocol against an agent that is played here, honest and not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include <banger/log.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include "vm/relay.h"

static const char *argv[] = {"true", NULL}, *env[] = {NULL};
static const struct agent_exec exec = {.user = "", .workdir = "", .argv = argv, .env = env};

struct play {
	int port;
	void (*act)(int port);
};

static void *play(void *arg)
{
	struct play *p = arg;

	p->act(p->port);
	shutdown(p->port, SHUT_WR);
	return NULL;
}

static void say(int port, enum agent_type type, uint16_t channel, const void *payload, size_t len)
{
	uint8_t h[AGENT_HEADER];

	agent_header(h, type, channel, len);
	if (send(port, h, sizeof(h), MSG_NOSIGNAL | MSG_MORE) != sizeof(h) ||
		(len && send(port, payload, len, MSG_NOSIGNAL) != (ssize_t)len))
		pthread_exit(NULL);
}

static struct agent_reader reader;

static bool hear(int port, struct agent_frame *f)
{
	int r;

	while ((r = agent_reader_next(&reader, f)) == 0) {
		size_t room;
		uint8_t *to = agent_reader_space(&reader, &room);
		ssize_t n = recv(port, to, room, 0);
		if (n <= 0)
			return false;
		agent_reader_added(&reader, n);
	}
	return r == 1;
}

static void hello(int port)
{
	uint8_t v[4];
	struct agent_frame f;

	agent_put_u32(v, AGENT_PROTOCOL);
	say(port, AGENT_HELLO, 0, v, 4);
	reader.start = reader.end = 0;
	if (!hear(port, &f) || f.type != AGENT_EXEC)
		pthread_exit(NULL);
}

static int in[2], out[2], errp[2], cancel[2];
static struct relay_result result;
static struct banger_error err;

/* Run the relay against act; stdin is what the test put into in[1]. */
static int against(void (*act)(int), int64_t ms)
{
	int s[2];
	pthread_t t;

	socketpair(AF_UNIX, SOCK_STREAM, 0, s);
	struct play p = {s[1], act};
	struct relay r = {.port = s[0],
		.cancel_fd = cancel[0],
		.vmm_fd = -1,
		.stdin_fd = in[0],
		.stdout_fd = out[1],
		.stderr_fd = errp[1],
		.exec = &exec,
		.boot_by = banger_monotonic_us() + ms * 1000,
		.end_by = banger_monotonic_us() + ms * 1000};
	err = (struct banger_error){0};
	pthread_create(&t, NULL, play, &p);
	int e = relay_run(&r, &result, &err);
	close(s[0]);
	pthread_join(t, NULL);
	close(s[1]);
	return e;
}

static int setup(void **state)
{
	signal(SIGPIPE, SIG_IGN);
	return pipe(in) | pipe(out) | pipe(errp) | pipe(cancel);
}

static int teardown(void **state)
{
	for (int i = 0; i < 2; i++) {
		close(in[i]);
		close(out[i]);
		close(errp[i]);
		close(cancel[i]);
	}
	return 0;
}

static void act_plain(int port)
{
	hello(port);
	say(port, AGENT_STDOUT, 1, "out", 3);
	say(port, AGENT_STDERR, 1, "err", 3);
	say(port, AGENT_EXIT, 1, (uint8_t[]){0, 42}, 2);
}

static void plain(void **state)
{
	char b[16];

	assert_int_equal(against(act_plain, 5000), 0);
	assert_int_equal(result.exit_code, 42);
	assert_int_equal(result.signal, 0);
	assert_int_equal(read(out[0], b, sizeof(b)), 3);
	assert_memory_equal(b, "out", 3);
	assert_int_equal(read(errp[0], b, sizeof(b)), 3);
	assert_memory_equal(b, "err", 3);
}

static void act_killed(int port)
{
	hello(port);
	say(port, AGENT_EXIT, 1, (uint8_t[]){1, 9}, 2);
}

static void killed(void **state)
{
	assert_int_equal(against(act_killed, 5000), 0);
	assert_int_equal(result.exit_code, -1);
	assert_int_equal(result.signal, 9);
}

/* cat: everything that comes is sent back, as far as there is credit. */
static void act_cat(int port)
{
	static uint8_t held[2 * AGENT_WINDOW];
	uint32_t window = AGENT_WINDOW, n = 0;
	bool over = false;
	struct agent_frame f;

	hello(port);
	while (!(over && n == 0) && hear(port, &f)) {
		uint8_t credit[5] = {0};

		if (f.type == AGENT_END)
			over = true;
		else if (f.type == AGENT_CREDIT)
			window += agent_get_u32(f.payload);
		else if (f.type != AGENT_STDIN || n + f.len > AGENT_WINDOW)
			return;
		else
			memcpy(held + n, f.payload, f.len), n += f.len;
		for (uint32_t k; (k = n < window ? n : window) > 0; n -= k, window -= k) {
			k = k < AGENT_DATA_MAX ? k : AGENT_DATA_MAX;
			say(port, AGENT_STDOUT, 1, held, k);
			memmove(held, held + k, n - k);
			agent_put_u32(credit, k);
			say(port, AGENT_CREDIT, 1, credit, 5);
		}
	}
	for (; n > 0; n = 0)
		say(port, AGENT_STDOUT, 1, held, n);
	say(port, AGENT_EXIT, 1, (uint8_t[]){0, 0}, 2);
}

#define MANY (8 * 1024 * 1024)

static void *feed(void *arg)
{
	static uint8_t b[4096];

	for (size_t off = 0; off < MANY; off += sizeof(b)) {
		for (size_t i = 0; i < sizeof(b); i++)
			b[i] = (off + i) * 2654435761u >> 24;
		if (write(in[1], b, sizeof(b)) != sizeof(b))
			break;
	}
	close(in[1]);
	return NULL;
}

static size_t eaten, wrong;

static void *eat(void *arg)
{
	uint8_t b[4096];
	ssize_t n;

	eaten = wrong = 0;
	while (eaten < MANY && (n = read(out[0], b, sizeof(b))) > 0)
		for (ssize_t i = 0; i < n; i++, eaten++)
			wrong += b[i] != (uint8_t)(eaten * 2654435761u >> 24);
	return NULL;
}

static void flow(void **state)
{
	pthread_t a, b;

	pthread_create(&a, NULL, feed, NULL);
	pthread_create(&b, NULL, eat, NULL);
	assert_int_equal(against(act_cat, 30000), 0);
	pthread_join(a, NULL);
	pthread_join(b, NULL);
	assert_int_equal(eaten, MANY);
	assert_int_equal(wrong, 0);
}

static void act_refuse(int port)
{
	hello(port);
	uint8_t p[] = {2, 0, 0, 0, 'n', 'o', '\033', 'x'};
	say(port, AGENT_REFUSED, 1, p, sizeof(p));
}

static void act_failed(int port)
{
	say(port, AGENT_FAILED, 0, "no disk", 7);
}

static void act_gone(int port)
{
	hello(port);
}

static void act_silent(int port)
{
	char b;
	while (recv(port, &b, 1, 0) > 0)
		;
}

static void refusals(void **state)
{
	assert_int_equal(against(act_refuse, 5000), -ENOENT);
	assert_string_equal(err.message, "no?x");
	assert_int_equal(against(act_failed, 5000), -EUCLEAN);
	assert_non_null(strstr(err.message, "no disk"));
	assert_int_equal(against(act_gone, 5000), -EHOSTDOWN);
	assert_int_equal(against(act_silent, 50), -ETIMEDOUT);
	assert_int_equal(write(cancel[1], "x", 1), 1);
	assert_int_equal(against(act_silent, 5000), -ECANCELED);
}

static void act_flood(int port)
{
	static uint8_t b[AGENT_PAYLOAD_MAX];

	hello(port);
	for (int i = 0; i < 4; i++)
		say(port, AGENT_STDOUT, 1, b, sizeof(b));
}
static void act_early(int port)
{
	say(port, AGENT_STDOUT, 1, "x", 1);
}
static void act_channel(int port)
{
	hello(port);
	say(port, AGENT_STDOUT, 2, "x", 1);
}
static void act_twice(int port)
{
	hello(port);
	say(port, AGENT_EXIT, 1, (uint8_t[]){0, 0}, 2);
	say(port, AGENT_STDOUT, 1, "x", 1);
}
static void act_credit(int port)
{
	hello(port);
	say(port, AGENT_CREDIT, 1, (uint8_t[]){1, 0, 0, 0, 0}, 5);
}
static void act_unknown(int port)
{
	hello(port);
	say(port, 77, 1, "", 0);
}
static void act_garbage(int port)
{
	if (send(port, "GET / HTTP/1.0\r\n\r\n", 18, MSG_NOSIGNAL) != 18)
		return;
}
static void act_version(int port)
{
	say(port, AGENT_HELLO, 0, (uint8_t[]){9, 0, 0, 0}, 4);
}

static void liars(void **state)
{
	void (*const lies[])(int) = {
		act_flood, act_early, act_channel, act_credit, act_unknown, act_garbage};
	pthread_t t;

	/* Nobody reads stdout in these: the flood is found by its credit, not by a full pipe. */
	for (size_t i = 0; i < ELEMENTSOF(lies); i++) {
		assert_int_equal(against(lies[i], 5000), -EIO);
		assert_non_null(strstr(err.message, "agent protocol"));
	}
	assert_int_equal(against(act_version, 5000), -EOPNOTSUPP);
	pthread_create(&t, NULL, eat, NULL);
	int e = against(act_twice, 5000);
	assert_true(e == 0 || e == -EIO);
	close(out[1]);
	out[1] = -1;
	pthread_join(t, NULL);
}

static void act_closed(int port)
{
	struct agent_frame f;
	uint8_t b[1024] = {0};

	hello(port);
	for (uint32_t sent = 0, credit = AGENT_WINDOW; sent < 4 * AGENT_WINDOW; sent += sizeof(b)) {
		while (credit - sent < sizeof(b) && hear(port, &f) && f.type == AGENT_CREDIT)
			credit += agent_get_u32(f.payload);
		say(port, AGENT_STDOUT, 1, b, sizeof(b));
	}
	say(port, AGENT_EXIT, 1, (uint8_t[]){0, 7}, 2);
}

static void nobody_reads(void **state)
{
	close(out[0]);
	out[0] = -1;
	assert_int_equal(against(act_closed, 10000), 0);
	assert_int_equal(result.exit_code, 7);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(plain), T(killed), T(flow), T(refusals), T(liars), T(nobody_reads)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
