/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent's port: a queue of frames out, a reader of frames in.
 *
 * While no host is connected, reading gives 0, writing EAGAIN, and poll(2) says POLLHUP without end. So the port is
 * watched through an epoll that tells of changes only, and used until it has no more to give.
 */
#include "agent.h"
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

int port_init(struct port *p, int fd)
{
	struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLET};

	p->fd = fd;
	p->events = epoll_create1(EPOLL_CLOEXEC);
	if (p->events < 0 || epoll_ctl(p->events, EPOLL_CTL_ADD, fd, &e) < 0)
		return -errno;
	p->attached = true; /* a host that has just started the VM begins at a frame */
	return 0;
}

size_t port_queued(const struct port *p)
{
	return p->q_len - p->q_off;
}

/* Where `need` bytes can be put, or NULL. */
static uint8_t *space(struct port *p, size_t need)
{
	if (p->q_off > 0 && p->q_len + need > sizeof(p->queue)) {
		memmove(p->queue, p->queue + p->q_off, port_queued(p));
		p->q_len -= p->q_off;
		p->q_off = 0;
	}
	if (p->q_len + need > sizeof(p->queue)) {
		p->overflow = true;
		return NULL;
	}
	uint8_t *at = p->queue + p->q_len;
	p->q_len += need;
	return at;
}

void port_say(struct port *p, enum agent_type type, uint16_t channel, const void *a, size_t a_len,
	const void *b, size_t b_len)
{
	uint8_t *at = p->lost ? NULL : space(p, AGENT_HEADER + a_len + b_len);

	if (!at)
		return;
	agent_header(at, type, channel, a_len + b_len);
	if (a_len)
		memcpy(at + AGENT_HEADER, a, a_len);
	if (b_len)
		memcpy(at + AGENT_HEADER + a_len, b, b_len);
}

ssize_t port_say_from(struct port *p, enum agent_type type, uint16_t channel, int fd, size_t most)
{
	uint8_t *at = p->lost ? NULL : space(p, AGENT_HEADER + most);

	if (!at) {
		errno = ENOBUFS;
		return -1;
	}
	ssize_t n = read(fd, at + AGENT_HEADER, most);
	if (n > 0)
		agent_header(at, type, channel, n);
	p->q_len -= n > 0 ? most - n : AGENT_HEADER + most;
	return n;
}

void port_say_u32(struct port *p, enum agent_type type, uint16_t channel, uint32_t v)
{
	uint8_t b[4];

	agent_put_u32(b, v);
	port_say(p, type, channel, b, sizeof(b), NULL, 0);
}

void port_hello(struct port *p, bool padded)
{
	uint8_t version[4];
	uint8_t *at = padded ? space(p, AGENT_PAD) : NULL;

	if (at)
		memset(at, 0, AGENT_PAD);
	agent_put_u32(version, AGENT_PROTOCOL);
	port_say(p, AGENT_HELLO, 0, version, sizeof(version), p->token, sizeof(p->token));
}

void port_reset(struct port *p)
{
	p->q_off = p->q_len = 0;
	p->overflow = false;
}

int port_flush(struct port *p)
{
	while (port_queued(p) > 0) {
		ssize_t n = write(p->fd, p->queue + p->q_off, port_queued(p));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return 0;
		if (n <= 0)
			return -errno;
		p->q_off += n;
	}
	p->q_off = p->q_len = 0;
	return 0;
}

int port_read(struct port *p)
{
	size_t room;
	uint8_t *to = agent_reader_space(&p->reader, &room);
	ssize_t n = read(p->fd, to, room);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0) {
		p->lost = true;
		p->attached = false;
		p->reader.start = p->reader.end = 0;
		return -ENOTCONN;
	}
	p->lost = false;
	agent_reader_added(&p->reader, n);
	return 1;
}
