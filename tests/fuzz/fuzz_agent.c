/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent protocol from both ends. The input is what one end sends:
 *	- to the host, over a socket, as all that a guest ever says: the relay ends, with the program's status or an
 *	  error that has a message, and writes no more output than the guest sent;
 *	- to the guest: frames come out of the reader as they went in however the bytes are cut, and an EXEC that is
 *	  taken is the same when it is packed again.
 */
#include "fuzz.h"

#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/socket.h>
#include "vm/relay.h"

#define SAID_MAX (128 * 1024) /* what a socket's buffer holds */

static int null_fd(void)
{
	static int fd = -1;
	if (fd < 0)
		fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	return fd;
}

static void to_host(const uint8_t *data, size_t size)
{
	const char *argv[] = {"true", NULL}, *env[] = {NULL};
	const struct agent_exec exec = {.user = "", .workdir = "", .argv = argv, .env = env};
	struct relay_result result = {.exit_code = INT_MIN};
	struct banger_error err = {0};
	int s[2], big = 1 << 20;
	if (size > SAID_MAX ||
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, s) < 0)
		return;
	setsockopt(s[0], SOL_SOCKET, SO_SNDBUF, &big, sizeof(big));
	if (send(s[0], data, size, MSG_NOSIGNAL) == (ssize_t)size && shutdown(s[0], SHUT_WR) == 0) {
		const struct relay relay = {.port = s[1],
			.cancel_fd = -1,
			.vmm_fd = -1,
			.exec = &exec,
			.stdin_fd = null_fd(),
			.stdout_fd = null_fd(),
			.stderr_fd = null_fd()};
		int r = relay_run(&relay, &result, &err);
		MUST(r <= 0);
		MUST((r < 0) == (err.code != BANGER_OK) && (r < 0) == (err.message[0] != '\0'));
		if (r == 0)
			MUST((result.signal != 0) == (result.exit_code == -1) &&
				result.exit_code <= 255);
	}
	close(s[0]);
	close(s[1]);
}

static void unpack(const struct agent_frame *f)
{
	static uint8_t again[AGENT_PAYLOAD_MAX];
	struct agent_exec e;
	if (agent_exec_unpack(f->payload, f->len, &e) < 0)
		return;
	long n = agent_exec_pack(&e, again, sizeof(again));
	MUST(n == (long)f->len && memcmp(again, f->payload, f->len) == 0);
	agent_exec_done(&e);
}

/* The frames of data when it comes in pieces of `piece` bytes: a sum over them. */
static uint32_t frames(const uint8_t *data, size_t size, size_t piece, bool look)
{
	static struct agent_reader reader;
	struct agent_frame f;
	uint32_t sum = 0;
	reader.start = reader.end = 0;
	for (size_t at = 0; at < size;) {
		size_t room, n;
		int r;
		uint8_t *to = agent_reader_space(&reader, &room);
		n = size - at < piece ? size - at : piece;
		n = n < room ? n : room;
		MUST(n > 0);
		memcpy(to, data + at, n);
		agent_reader_added(&reader, n);
		at += n;
		while ((r = agent_reader_next(&reader, &f)) == 1) {
			MUST(f.len <= AGENT_PAYLOAD_MAX);
			sum = sum * 31 + f.type + f.channel * 7u + f.len;
			for (uint32_t i = 0; i < f.len; i++)
				sum = sum * 31 + f.payload[i];
			if (look)
				unpack(&f);
		}
		if (r < 0)
			return sum + 1;
	}
	return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	to_host(data, size);
	uint32_t whole = frames(data, size, SIZE_MAX, true);
	MUST(frames(data, size, 1, false) == whole);
	MUST(frames(data, size, 13, false) == whole);
	if (size <= AGENT_PAYLOAD_MAX) {
		const struct agent_frame f = {
			.type = AGENT_EXEC, .channel = 1, .len = (uint32_t)size, .payload = data};
		unpack(&f);
	}
	return 0;
}
