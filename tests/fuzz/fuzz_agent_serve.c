/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent's dispatcher against any host: the input is all that a host says. Programs are played (tests/unit/agent/played.h:
 * nothing is started, killed or set). Whatever comes, what the agent says is frames of its own types; no stream gives
 * more than its window and the credit for it; a channel ends no more often than something was started on it; all stays
 * within its bounds, and nothing is left open at the end.
 */
#include "../unit/agent/played.h"
#include "fuzz.h"

#define INPUT_MAX (192 * 1024)
#define TURNS_MOST 2000

/* What was seen of a channel, on the way in and out. */
struct seen {
	uint32_t starts, ends;
	uint64_t said[2], allowed[2];
};
static struct seen seen[AGENT_CHANNELS + 1];

/* What the host's frames allow, whether the agent takes them or not: an upper bound. */
static void allow(const uint8_t *data, size_t size)
{
	/* Where the agent looks for ATTACH any byte may begin a frame. */
	for (size_t at = 0; at + AGENT_HEADER <= size; at++) {
		uint16_t channel = agent_get_u16(data + at + 2);
		uint8_t type = data[at];

		if (channel == 0 || channel > AGENT_CHANNELS)
			continue;
		struct seen *s = &seen[channel];
		if (type == AGENT_EXEC || type == AGENT_PUT || type == AGENT_GET) {
			s->starts++;
			s->allowed[0] += AGENT_WINDOW;
			s->allowed[1] += AGENT_WINDOW;
		}
		if (type == AGENT_CREDIT && at + AGENT_HEADER + 4 <= size) {
			s->allowed[0] += agent_get_u32(data + at + AGENT_HEADER);
			s->allowed[1] += agent_get_u32(data + at + AGENT_HEADER);
		}
	}
}

static void check_frame(const struct agent_frame *f)
{
	MUST(f->channel <= AGENT_CHANNELS);
	struct seen *s = &seen[f->channel];
	bool common = f->type == AGENT_HELLO || f->type == AGENT_PONG || f->type == AGENT_BROKEN;

	MUST(common == (f->channel == 0));
	switch (f->type) {
	case AGENT_HELLO:
		MUST(f->len == 4 + AGENT_TOKEN);
		break;
	case AGENT_STDOUT:
	case AGENT_STDERR:
		s->said[f->type == AGENT_STDERR] += f->len;
		MUST(f->len > 0 && f->len <= AGENT_DATA_MAX);
		break;
	case AGENT_EXIT:
		MUST(f->len == 2);
		s->ends++;
		break;
	case AGENT_REFUSED:
		MUST(f->len > 4);
		s->ends++;
		break;
	case AGENT_CREDIT:
		MUST(f->len == 5 && f->payload[4] == 0);
		break;
	case AGENT_CLOSE:
		MUST(f->len == 1 && f->payload[0] == 0);
		break;
	default:
		MUST(common);
	}
	MUST(s->ends <= s->starts && s->said[0] <= s->allowed[0] && s->said[1] <= s->allowed[1]);
}

/* Returns whether anything was said. */
static bool hear(void)
{
	struct agent_frame f;
	bool any = false;
	size_t room;
	int r;

	for (;;) {
		while ((r = agent_reader_next(&play.reader, &f)) == 1)
			check_frame(&f);
		MUST(r == 0);
		uint8_t *to = agent_reader_space(&play.reader, &room);
		ssize_t n = recv(play.host, to, room, MSG_DONTWAIT);
		if (n <= 0)
			return any;
		agent_reader_added(&play.reader, n);
		any = true;
	}
}

static void check_bounds(void)
{
	int n = 0;

	for (const struct program *p = server.programs; p; p = p->next) {
		n += p->channel != 0;
		MUST(p->pending_off <= p->pending_len && p->pending_len <= AGENT_WINDOW);
		MUST(p->in.window <= AGENT_WINDOW && p->out.window <= AGENT_WINDOW &&
			p->err.window <= AGENT_WINDOW);
	}
	MUST(n == server.n_programs && n <= AGENT_CHANNELS);
	MUST(server.port.q_off <= server.port.q_len &&
		server.port.q_len <= sizeof(server.port.queue));
}

/* Turns until nothing moves any more. */
static void settle(const uint8_t *data, size_t size)
{
	size_t sent = 0;
	int quiet = 0;

	for (int i = 0; i < TURNS_MOST && quiet < 4 && !server.over; i++) {
		ssize_t n = sent < size ? send(play.host, data + sent, size - sent,
						  MSG_DONTWAIT | MSG_NOSIGNAL)
					: 0;

		sent += n > 0 ? n : 0;
		play_turn();
		check_bounds();
		quiet = hear() || n > 0 || play.more ? 0 : quiet + 1;
	}
}

static int lowest_fd(void)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	close(fd);
	return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int fd = lowest_fd();

	if (size > INPUT_MAX)
		return 0;
	signal(SIGPIPE, SIG_IGN);
	memset(seen, 0, sizeof(seen));
	allow(data, size);
	MUST(play_begin() == 0);
	settle(data, size);
	/* It goes, and what it had started with it. */
	banger_closep(&play.host);
	play.host = -1;
	for (int i = 0; i < 4 && !server.over; i++)
		play_turn();
	MUST(server.over || server.n_programs == 0);
	play_end();
	MUST(lowest_fd() == fd);
	return 0;
}
