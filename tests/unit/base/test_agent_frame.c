/* SPDX-License-Identifier: Apache-2.0 */
/* Frames cut into pieces, headers that lie, and EXEC there and back. */
#include "check.h"
#include <banger/agent.h>
#include <errno.h>
#include <stdlib.h>

static struct agent_reader r;

static void give(const void *bytes, size_t n)
{
	size_t room;
	uint8_t *p = agent_reader_space(&r, &room);

	assert_true(room >= n);
	memcpy(p, bytes, n);
	agent_reader_added(&r, n);
}

static void pieces(void **state)
{
	uint8_t stream[3 * AGENT_HEADER + 5];
	struct agent_frame f;

	agent_header(stream, AGENT_STDOUT, 513, 5);
	memcpy(stream + AGENT_HEADER, "hello", 5);
	agent_header(stream + AGENT_HEADER + 5, AGENT_END, 7, 0);
	agent_header(stream + 2 * AGENT_HEADER + 5, AGENT_HELLO, 0, 4);
	for (size_t size = 1; size <= sizeof(stream); size++) {
		int n = 0;

		r.start = r.end = 0;
		for (size_t off = 0; off < sizeof(stream); off += size) {
			give(stream + off,
				off + size < sizeof(stream) ? size : sizeof(stream) - off);
			while (agent_reader_next(&r, &f) == 1) {
				if (n == 0) {
					assert_int_equal(f.type, AGENT_STDOUT);
					assert_int_equal(f.channel, 513);
					assert_int_equal(f.len, 5);
					assert_memory_equal(f.payload, "hello", 5);
				} else {
					assert_int_equal(f.type, AGENT_END);
					assert_int_equal(f.channel, 7);
				}
				n++;
			}
		}
		assert_int_equal(n, 2); /* the third waits for its payload */
	}
}

static void largest(void **state)
{
	static uint8_t payload[AGENT_PAYLOAD_MAX];
	uint8_t h[AGENT_HEADER];
	struct agent_frame f;

	r.start = r.end = 0;
	agent_header(h, AGENT_STDERR, 1, AGENT_PAYLOAD_MAX);
	give(h, sizeof(h));
	assert_int_equal(agent_reader_next(&r, &f), 0);
	give(payload, sizeof(payload));
	assert_int_equal(agent_reader_next(&r, &f), 1);
	assert_int_equal(f.len, AGENT_PAYLOAD_MAX);
}

static void lies(void **state)
{
	static const uint8_t bad[][AGENT_HEADER] = {{1, 1, 0, 0, 0, 0, 0, 0},
		{1, 0, 0, 0, 1, 0, 2, 0}, {1, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF}};
	struct agent_frame f;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		r.start = r.end = 0;
		give(bad[i], AGENT_HEADER);
		assert_int_equal(agent_reader_next(&r, &f), -EPROTO);
	}
}

/* Zeros between frames are nothing: they end what somebody else left half-said. */
static void padding(void **state)
{
	static const uint8_t zeros[13],
		frame[AGENT_HEADER + 1] = {AGENT_STDOUT, 0, 7, 0, 1, 0, 0, 0, 'x'};
	struct agent_frame f;

	r.start = r.end = 0;
	for (int i = 0; i < 3; i++) {
		give(zeros, sizeof(zeros));
		assert_int_equal(agent_reader_next(&r, &f), 0);
		give(frame, sizeof(frame));
		assert_int_equal(agent_reader_next(&r, &f), 1);
		assert_int_equal(f.type, AGENT_STDOUT);
		assert_int_equal(f.channel, 7);
		assert_int_equal(f.len, 1);
		assert_int_equal(f.payload[0], 'x');
	}
}

static void exec(void **state)
{
	const char *argv[] = {"/bin/sh", "-c", "", NULL}, *env[] = {"A=b", NULL};
	struct agent_exec e = {.user = "web:web", .workdir = "/srv", .argv = argv, .env = env},
			  back;
	uint8_t buf[256];
	long n = agent_exec_pack(&e, buf, sizeof(buf));

	assert_int_equal(n, agent_exec_pack(&e, NULL, 0));
	assert_int_equal(agent_exec_unpack(buf, n, &back), 0);
	assert_string_equal(back.user, "web:web");
	assert_string_equal(back.workdir, "/srv");
	assert_string_equal(back.argv[1], "-c");
	assert_string_equal(back.argv[2], "");
	assert_null(back.argv[3]);
	assert_string_equal(back.env[0], "A=b");
	assert_null(back.env[1]);
	agent_exec_done(&back);
	/* Every shorter one is refused, and so is a longer one. */
	for (long k = 0; k < n; k++)
		assert_int_equal(agent_exec_unpack(buf, k, &back), -EPROTO);
	buf[n] = 0;
	assert_int_equal(agent_exec_unpack(buf, n + 1, &back), -EPROTO);
	assert_int_equal(agent_exec_pack(&e, buf, 10), -E2BIG);
	argv[0] = NULL;
	assert_int_equal(agent_exec_pack(&e, buf, sizeof(buf)), -EINVAL);
}

static void exec_limits(void **state)
{
	char *big = malloc(AGENT_PAYLOAD_MAX + 1);
	const char *argv[] = {big, NULL};
	struct agent_exec e = {.argv = argv}, back;
	uint8_t huge[16] = {0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF};

	memset(big, 'x', AGENT_PAYLOAD_MAX);
	big[AGENT_PAYLOAD_MAX] = '\0';
	assert_int_equal(agent_exec_pack(&e, NULL, 0), -E2BIG);
	assert_int_equal(agent_exec_unpack(huge, sizeof(huge), &back), -EPROTO);
	free(big);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(pieces), cmocka_unit_test(largest),
		cmocka_unit_test(lies), cmocka_unit_test(padding), cmocka_unit_test(exec),
		cmocka_unit_test(exec_limits)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
