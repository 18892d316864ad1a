/* SPDX-License-Identifier: Apache-2.0 */
/* The agent's dispatcher: what it does for a host that keeps to the protocol, and for one that does not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include "played.h" /* cmocka has a fail() too, a macro */
#include <cmocka.h>

static const uint8_t token[AGENT_TOKEN] = "a host's token..";

static int setup(void **state)
{
	signal(SIGPIPE, SIG_IGN);
	return play_begin();
}

static int teardown(void **state)
{
	play_end();
	return 0;
}

/* ---- the host */

static void tell(enum agent_type type, uint16_t channel, const void *payload, size_t len)
{
	uint8_t h[AGENT_HEADER];

	agent_header(h, type, channel, len);
	assert_int_equal(send(play.host, h, sizeof(h), MSG_NOSIGNAL), sizeof(h));
	if (len)
		assert_int_equal(send(play.host, payload, len, MSG_NOSIGNAL), len);
}

static void tell_u32(enum agent_type type, uint16_t channel, uint32_t v)
{
	uint8_t b[4];

	agent_put_u32(b, v);
	tell(type, channel, b, sizeof(b));
}

static void grant(uint16_t channel, uint32_t n, uint8_t stream)
{
	uint8_t b[5];

	agent_put_u32(b, n);
	b[4] = stream;
	tell(AGENT_CREDIT, channel, b, sizeof(b));
}

/* A program of these words, separated by blanks. */
static void start(uint16_t channel, uint16_t flags, const char *words)
{
	char b[256], *save = NULL;
	const char *argv[16] = {NULL}, *env[] = {NULL};
	uint8_t packed[512];
	size_t n = 0;

	snprintf(b, sizeof(b), "%s", words);
	for (char *w = strtok_r(b, " ", &save); w; w = strtok_r(NULL, " ", &save))
		argv[n++] = w;
	const struct agent_exec e = {
		.user = "", .workdir = "", .argv = argv, .env = env, .flags = flags};
	long len = agent_exec_pack(&e, packed, sizeof(packed));
	assert_true(len > 0);
	tell(AGENT_EXEC, channel, packed, len);
}

/* The agent's next frame after some turns; type 0: it says nothing. */
static struct agent_frame hear(void)
{
	struct agent_frame f = {0};
	size_t room;

	for (int i = 0; i < 50; i++) {
		int r = agent_reader_next(&play.reader, &f);
		assert_true(r >= 0);
		if (r == 1)
			return f;
		play_turn();
		uint8_t *to = agent_reader_space(&play.reader, &room);
		ssize_t n = recv(play.host, to, room, MSG_DONTWAIT);
		agent_reader_added(&play.reader, n > 0 ? n : 0);
	}
	return (struct agent_frame){0};
}

static void hear_nothing(void)
{
	assert_int_equal(hear().type, 0);
}

static struct agent_frame hear_type(enum agent_type type, uint16_t channel)
{
	struct agent_frame f = hear();

	assert_int_equal(f.type, type);
	assert_int_equal(f.channel, channel);
	return f;
}

static void hear_exit(uint16_t channel, uint8_t by_signal, uint8_t status)
{
	struct agent_frame f = hear_type(AGENT_EXIT, channel);

	assert_int_equal(f.len, 2);
	assert_int_equal(f.payload[0], by_signal);
	assert_int_equal(f.payload[1], status);
}

/* All that a stream has until something else is said; returns how much. */
static size_t hear_stream(enum agent_type type, uint16_t channel, struct agent_frame *ret_next)
{
	size_t n = 0;

	for (*ret_next = hear(); ret_next->type == type && ret_next->channel == channel;
		*ret_next = hear())
		n += ret_next->len;
	return n;
}

static void attach(const uint8_t *with)
{
	uint8_t p[4 + 2 * AGENT_TOKEN];

	agent_put_u32(p, AGENT_PROTOCOL);
	memcpy(p + 4, AGENT_MARK, AGENT_TOKEN);
	memcpy(p + 4 + AGENT_TOKEN, with, AGENT_TOKEN);
	tell(AGENT_ATTACH, 0, p, sizeof(p));
}

static void hear_hello(const uint8_t *with)
{
	struct agent_frame f = hear_type(AGENT_HELLO, 0);

	assert_int_equal(f.len, 4 + AGENT_TOKEN);
	assert_int_equal(agent_get_u32(f.payload), AGENT_PROTOCOL);
	assert_memory_equal(f.payload + 4, with, AGENT_TOKEN);
}

static void greet(void)
{
	static const uint8_t none[AGENT_TOKEN];

	hear_hello(none);
	attach(token);
	hear_hello(token);
}

/* The agent says that the host broke the protocol, and hears nothing more until one attaches. */
static void hear_broken(void)
{
	hear_type(AGENT_BROKEN, 0);
	tell_u32(AGENT_PING, 0, 1);
	hear_nothing();
	attach((const uint8_t *)"another token...");
	hear_hello((const uint8_t *)"another token...");
	tell_u32(AGENT_PING, 0, 2);
	hear_type(AGENT_PONG, 0);
}

/* ---- what it does */

static void attaching(void **state)
{
	greet();
	attach(token); /* again: nothing is said, and nothing ends */
	start(1, 0, "cat");
	hear_nothing();
	attach(token);
	hear_nothing();
	assert_int_equal(server.n_programs, 1);
	attach((const uint8_t *)"the next host...");
	hear_hello((const uint8_t *)"the next host...");
	assert_int_equal(play.programs[0].signal, SIGHUP);
	hear_nothing(); /* of the program, which was another's */
	assert_int_equal(server.n_programs, 0);
	assert_null(server.programs);
}

static void pieces(void **state)
{
	uint8_t b[AGENT_HEADER + 4], zeros[100] = {0};

	greet();
	agent_header(b, AGENT_PING, 0, 4);
	agent_put_u32(b + AGENT_HEADER, 77);
	for (size_t i = 0; i < sizeof(b); i++) {
		assert_int_equal(send(play.host, b + i, 1, 0), 1);
		play_turn();
	}
	assert_int_equal(agent_get_u32(hear_type(AGENT_PONG, 0).payload), 77);
	assert_int_equal(send(play.host, zeros, sizeof(zeros), 0), sizeof(zeros));
	tell_u32(AGENT_PING, 0, 78);
	assert_int_equal(agent_get_u32(hear_type(AGENT_PONG, 0).payload), 78);
}

static void output_then_exit(void **state)
{
	struct agent_frame f;

	greet();
	start(3, 0, "x o:50000 e:10 x:42");
	assert_int_equal(hear_stream(AGENT_STDOUT, 3, &f), 50000);
	assert_int_equal(f.type, AGENT_STDERR);
	assert_int_equal(f.len, 10);
	assert_int_equal(f.payload[0], 'e');
	hear_exit(3, 0, 42);
	start(3, 0, "again x:0"); /* the channel is free */
	hear_exit(3, 0, 0);
}

static void through_cat(void **state)
{
	struct agent_frame f;

	greet();
	start(9, 0, "cat");
	tell(AGENT_STDIN, 9, "hello", 5);
	f = hear_type(AGENT_STDOUT, 9);
	assert_int_equal(f.len, 5);
	assert_memory_equal(f.payload, "hello", 5);
	tell(AGENT_END, 9, NULL, 0);
	hear_exit(9, 0, 0);
}

static void signals(void **state)
{
	greet();
	start(1, 0, "waits");
	tell_u32(AGENT_SIGNAL, 1, SIGKILL);
	hear_exit(1, 1, SIGKILL);
	tell_u32(AGENT_SIGNAL, 1, SIGKILL); /* was on its way */
	hear_nothing();
	start(1, 0, "waits");
	tell_u32(AGENT_SIGNAL, 1, 65);
	hear_broken();
}

/* No more than the window without credit, and after it as much as was granted. */
static void windows(void **state)
{
	struct agent_frame f;
	size_t n = 0;

	greet();
	start(2, 0, "more");
	for (int i = 0; i < 20; i++) {
		played_write(play.programs[0].out, 'o', "40000");
		n += hear_stream(AGENT_STDOUT, 2, &f);
		assert_int_equal(f.type, 0);
	}
	assert_int_equal(n, AGENT_WINDOW);
	grant(2, 1000, 1);
	assert_int_equal(hear_stream(AGENT_STDOUT, 2, &f), 1000);
	grant(2, AGENT_WINDOW + 1, 1);
	hear_broken();
}

/* One that does not read holds up nobody; what it has not read waits, up to the window. */
static void a_slow_reader(void **state)
{
	static uint8_t data[AGENT_DATA_MAX];
	size_t sent = 0, credit = 0;
	struct agent_frame f;

	greet();
	start(1, 0, "waits");
	while (sent + sizeof(data) <= AGENT_WINDOW) {
		tell(AGENT_STDIN, 1, data, sizeof(data));
		sent += sizeof(data);
		f = hear();
		credit += f.type == AGENT_CREDIT ? agent_get_u32(f.payload) : 0;
	}
	assert_true(credit <= 64 * 1024); /* what a pipe holds */
	start(2, 0, "cat");
	tell(AGENT_STDIN, 2, "x", 1);
	assert_int_equal(hear_type(AGENT_STDOUT, 2).len, 1);
	/* All of it comes in the end, and then the end. */
	tell(AGENT_END, 1, NULL, 0);
	play.programs[0].cat = true;
	size_t n = 0;
	for (f = hear(); f.type == AGENT_STDOUT || f.type == AGENT_CREDIT; f = hear())
		n += f.type == AGENT_STDOUT ? f.len : 0;
	assert_int_equal(n, sent);
	assert_int_equal(f.type, AGENT_EXIT);
}

static void too_much_stdin(void **state)
{
	static uint8_t data[AGENT_DATA_MAX];

	greet();
	start(1, 0, "waits");
	for (size_t sent = 0; sent <= AGENT_WINDOW + 64 * 1024; sent += sizeof(data)) {
		tell(AGENT_STDIN, 1, data, sizeof(data));
		for (int i = 0; i < 3; i++)
			play_turn();
		if (play.programs[0].signal)
			break;
	}
	assert_int_equal(play.programs[0].signal, SIGHUP);
}

static void closed_streams(void **state)
{
	greet();
	start(1, 0, "p c");
	tell(AGENT_STDIN, 1, "x", 1);
	struct agent_frame f = hear_type(AGENT_CLOSE, 1);
	assert_int_equal(f.payload[0], 0);
	tell(AGENT_CLOSE, 1, "\1", 1);
	hear_nothing();
	assert_true(write(play.programs[0].out, "x", 1) < 0 && errno == EPIPE);
	tell(AGENT_CLOSE, 1, "\0", 1);
	hear_broken();
}

static void refusals(void **state)
{
	greet();
	start(1, 0, "none");
	struct agent_frame f = hear_type(AGENT_REFUSED, 1);
	assert_int_equal(agent_get_u32(f.payload), ENOENT);
	assert_memory_equal(f.payload + 4, "there is none", 13);
	tell(AGENT_PUT, 1, "/a\0b", 4);
	hear_type(AGENT_REFUSED, 1);
	tell(AGENT_EXEC, 1, "not one", 7);
	hear_type(AGENT_REFUSED, 1);
	assert_int_equal(server.n_programs, 0);
}

static void channels(void **state)
{
	static const uint16_t bad[] = {0, AGENT_CHANNELS + 1, 5};

	greet();
	for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
		start(5, 0, "waits");
		hear_nothing();
		start(bad[i], 0, "waits");
		hear_broken();
		assert_int_equal(server.n_programs, 0);
	}
}

static void malformed(void **state)
{
	static const struct {
		uint8_t type;
		const char *payload;
		size_t len;
	} all[] = {{AGENT_PING, "abc", 3}, {AGENT_TIME, "abcd", 4}, {AGENT_POWEROFF, "", 0},
		{AGENT_SIGNAL, "\0\0\0\0", 4}, {AGENT_CREDIT, "\1\0\0\0\3", 5},
		{AGENT_CLOSE, "\3", 1}, {AGENT_RESIZE, "\1\0\1\0", 4}, {AGENT_STDOUT, "x", 1},
		{200, "", 0}, {AGENT_ATTACH, "x", 1}};

	greet();
	for (size_t i = 0; i < ELEMENTSOF(all); i++) {
		start(1, 0, "waits");
		tell(all[i].type, all[i].type >= AGENT_EXEC && all[i].type != AGENT_ATTACH ? 1 : 0,
			all[i].payload, all[i].len);
		hear_broken();
	}
	assert_int_equal(send(play.host, "\1\1\1\1\1\1\1\1\1", 9, 0), 9);
	hear_type(AGENT_BROKEN, 0);
}

static void time_and_end(void **state)
{
	uint8_t b[8];

	greet();
	agent_put_u32(b, 1500000);
	agent_put_u32(b + 4, 0);
	tell(AGENT_TIME, 0, b, sizeof(b));
	start(1, 0, "waits");
	hear_nothing();
	assert_int_equal(play.time.tv_sec, 1);
	assert_int_equal(play.time.tv_nsec, 500000000);
	tell_u32(AGENT_POWEROFF, 0, 1000);
	hear_exit(1, 1, SIGTERM);
	assert_int_equal(play.to_all, SIGTERM);
	hear_nothing();
	assert_true(server.over);
}

static void apart_and_main(void **state)
{
	greet();
	start(1, AGENT_EXEC_DETACH, "waits");
	hear_exit(1, 0, 0);
	assert_non_null(server.programs);
	attach((const uint8_t *)"another token...");
	hear_hello((const uint8_t *)"another token...");
	assert_int_equal(play.programs[0].signal, 0); /* is nobody's */
	start(2, AGENT_EXEC_MAIN, "x:0");
	hear_exit(2, 0, 0);
	assert_true(server.closing);
}

static void a_host_that_goes(void **state)
{
	greet();
	start(1, 0, "waits");
	tell(AGENT_PUT, 2, "/tmp", 4);
	hear_nothing();
	banger_closep(&play.host);
	play.host = -1;
	for (int i = 0; i < 5; i++)
		play_turn();
	assert_int_equal(play.programs[0].signal, SIGHUP);
	assert_int_equal(play.programs[1].signal, SIGKILL);
	assert_null(server.programs);
	assert_false(server.over);
}

static void transfers(void **state)
{
	struct transfer_report report = {ENOSPC, "the disk is full"};

	greet();
	tell(AGENT_GET, 4, "/etc", 4);
	hear_nothing();
	played_write(play.programs[0].out, 't', "100");
	assert_int_equal(hear_type(AGENT_STDOUT, 4).len, 100);
	played_over(&play.programs[0], 0);
	hear_exit(4, 0, 0);
	tell(AGENT_PUT, 4, "/etc", 4);
	hear_nothing();
	assert_int_equal(write(play.programs[0].err, &report, sizeof(report)), sizeof(report));
	played_over(&play.programs[0], 1 << 8);
	struct agent_frame f = hear_type(AGENT_REFUSED, 4);
	assert_int_equal(agent_get_u32(f.payload), ENOSPC);
	tell(AGENT_PUT, 4, "/etc", 4);
	hear_nothing();
	played_over(&play.programs[0], SIGSEGV); /* says nothing of it */
	hear_type(AGENT_REFUSED, 4);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {TEST(attaching), TEST(pieces), TEST(output_then_exit),
		TEST(through_cat), TEST(signals), TEST(windows), TEST(a_slow_reader),
		TEST(too_much_stdin), TEST(closed_streams), TEST(refusals), TEST(channels),
		TEST(malformed), TEST(time_and_end), TEST(apart_and_main), TEST(a_host_that_goes),
		TEST(transfers)};

	banger_log_init("test");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
