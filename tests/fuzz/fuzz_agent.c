/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent protocol from both ends. The input is what one end sends:
 *	- to the host, over a socket, as all that a guest ever says after it has greeted and a program was started: the
 *	  program ends, with a status or an error that has a message; and as all that it says before: the session is lost;
 *	- to the guest: frames come out of the reader as they went in however the bytes are cut, an EXEC that is
 *	  taken is the same when it is packed again, and ATTACH is found where it stands.
 */
#include "fuzz.h"

#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include "vm/session.h"

#define SAID_MAX (128 * 1024) /* what a socket's buffer holds */

static int null_fd(void)
{
	static int fd = -1;
	if (fd < 0)
		fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	return fd;
}

struct program {
	struct session *session;
	struct banger_error err;
	struct session_result result;
	int r;
};

static void *run(void *arg)
{
	const char *argv[] = {"true", NULL}, *env[] = {NULL};
	const struct agent_exec exec = {.user = "", .workdir = "", .argv = argv, .env = env};
	const struct session_exec x = {.exec = &exec,
		.stdin_fd = null_fd(),
		.stdout_fd = null_fd(),
		.stderr_fd = null_fd(),
		.control_fd = -1,
		.cancel_fd = -1};
	struct program *p = arg;

	p->r = session_exec(p->session, &x, &p->result, &p->err);
	return NULL;
}

/* A fuzzer's clock may interrupt. */
static void take(int port, uint8_t *to, size_t n)
{
	for (size_t off = 0; off < n;) {
		ssize_t k = recv(port, to + off, n - off, 0);
		MUST(k > 0 || (k < 0 && errno == EINTR));
		off += k > 0 ? (size_t)k : 0;
	}
}

static void greet(int port)
{
	uint8_t attach[AGENT_HEADER + 4 + 2 * AGENT_TOKEN], hello[AGENT_HEADER + 4 + AGENT_TOKEN];

	take(port, attach, sizeof(attach));
	agent_header(hello, AGENT_HELLO, 0, sizeof(hello) - AGENT_HEADER);
	agent_put_u32(hello + AGENT_HEADER, AGENT_PROTOCOL);
	memcpy(hello + AGENT_HEADER + 4, attach + AGENT_HEADER + 4 + AGENT_TOKEN, AGENT_TOKEN);
	MUST(send(port, hello, sizeof(hello), MSG_NOSIGNAL) == sizeof(hello));
}

static void say_all(int port, const uint8_t *data, size_t size)
{
	for (size_t off = 0; off < size;) {
		ssize_t n = send(port, data + off, size - off, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break; /* the session was lost by then */
		off += n;
	}
	shutdown(port, SHUT_WR);
}

static void to_host(const uint8_t *data, size_t size, bool greeted)
{
	struct program p = {.result = {.exit_code = INT_MIN}};
	struct banger_error err = {0};
	uint8_t exec[AGENT_HEADER + 12 + 1 + 1 + 5]; /* as run() has it packed */
	pthread_t thread;
	int s[2];

	if (size > SAID_MAX || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s) < 0)
		return;
	const struct session_options o = {.port = s[1], .vm = "web"};
	MUST(session_new(&o, &p.session, &err) == 0);
	if (greeted) {
		greet(s[0]);
		MUST(session_wait_ready(p.session, 0, -1, &err) == 0);
		MUST(pthread_create(&thread, NULL, run, &p) == 0);
		take(s[0], exec, sizeof(exec));
	}
	say_all(s[0], data, size);
	if (greeted) {
		MUST(pthread_join(thread, NULL) == 0);
		MUST(p.r <= 0 && (p.r < 0) == (p.err.code != BANGER_OK) &&
			(p.r < 0) == (p.err.message[0] != '\0'));
		if (p.r == 0)
			MUST((p.result.signal != 0) == (p.result.exit_code == -1) &&
				p.result.exit_code <= 255);
	} else {
		MUST(session_wait_ready(p.session, 0, -1, &err) < 0 && err.message[0]);
	}
	session_freep(&p.session);
	close(s[0]);
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

/* ATTACH behind anything is found, and is the next frame. */
static void seek(const uint8_t *data, size_t size)
{
	static struct agent_reader reader;
	uint8_t attach[AGENT_HEADER + 4 + 2 * AGENT_TOKEN] = {0};
	struct agent_frame f;
	size_t room;

	if (size > SAID_MAX - sizeof(attach))
		return;
	agent_header(attach, AGENT_ATTACH, 0, sizeof(attach) - AGENT_HEADER);
	memcpy(attach + AGENT_HEADER + 4, AGENT_MARK, AGENT_TOKEN);
	reader.start = reader.end = 0;
	uint8_t *to = agent_reader_space(&reader, &room);
	memcpy(to, data, size);
	memcpy(to + size, attach, sizeof(attach));
	agent_reader_added(&reader, size + sizeof(attach));
	MUST(agent_reader_seek(&reader, AGENT_ATTACH, (const uint8_t *)AGENT_MARK));
	MUST(memmem(data, size, AGENT_MARK, AGENT_TOKEN) ||
		(agent_reader_next(&reader, &f) == 1 && f.type == AGENT_ATTACH));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	to_host(data, size, true);
	to_host(data, size, false);
	seek(data, size);
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
