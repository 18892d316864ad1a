/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent's end of the protocol: one poll(2) loop over the port, SIGCHLD and the programs' pipes.
 *
 * Nothing blocks. What goes to the port waits in one queue; no pipe is read while more than
 * QUEUE_FULL bytes are in it, and no stream sends more than its window, so the queue is bounded
 * whatever programs and host do. A host that breaks the protocol or goes away ends the VM: it
 * belongs to that host alone.
 *
 * A program's EXIT is sent when it has been reaped and what its pipes held then has been sent. A
 * descendant that keeps the pipes open is not waited for.
 */
#include "agent.h"
#include <banger/cleanup.h>
#include <banger/log.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

#define QUEUE_FULL (512 * 1024)
#define QUEUE_MAX (1024 * 1024)
#define PROGRAMS_MAX 256

struct server {
	int port, signals;
	struct agent_reader reader;
	uint8_t queue[QUEUE_MAX];
	size_t q_off, q_len; /* unsent: [q_off, q_len) */
	struct program *programs;
	int n_programs;
	bool over;
};

static struct server server;

static size_t queued(void)
{
	return server.q_len - server.q_off;
}

static void say(enum agent_type type, uint16_t channel, const void *a, size_t a_len, const void *b,
	size_t b_len)
{
	size_t need = AGENT_HEADER + a_len + b_len;

	if (server.q_off > 0 && server.q_len + need > sizeof(server.queue)) {
		memmove(server.queue, server.queue + server.q_off, queued());
		server.q_len -= server.q_off;
		server.q_off = 0;
	}
	if (server.q_len + need > sizeof(server.queue)) {
		/* Only a host that asks and asks and does not read gets here. */
		server.over = true;
		return;
	}
	uint8_t *p = server.queue + server.q_len;
	agent_header(p, type, channel, a_len + b_len);
	if (a_len)
		memcpy(p + AGENT_HEADER, a, a_len);
	if (b_len)
		memcpy(p + AGENT_HEADER + a_len, b, b_len);
	server.q_len += need;
}

static void flush(void)
{
	while (queued() > 0) {
		ssize_t n = write(server.port, server.queue + server.q_off, queued());

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n <= 0) {
			server.over = true;
			return;
		}
		server.q_off += n;
	}
	server.q_off = server.q_len = 0;
}

static struct program *find(uint16_t channel)
{
	for (struct program *p = server.programs; p; p = p->next)
		if (p->channel == channel)
			return p;
	return NULL;
}

static void broken(const char *what)
{
	log_err("the host broke the agent protocol", KV_S("error", what));
	server.over = true;
}

/* ---- what the host says */

static void on_exec(const struct agent_frame *f)
{
	struct agent_exec e;
	struct program *p;
	char why[WHY_MAX] = "the request is malformed";
	uint8_t code[4];

	if (f->channel == 0 || find(f->channel))
		return broken("EXEC on a channel in use");
	int r = server.n_programs < PROGRAMS_MAX ? agent_exec_unpack(f->payload, f->len, &e)
						 : -EAGAIN;
	if (r == -EAGAIN)
		snprintf(why, sizeof(why), "%d programs run already", PROGRAMS_MAX);
	if (r == 0) {
		r = program_start(f->channel, &e, &p, why);
		agent_exec_done(&e);
	}
	if (r < 0) {
		agent_put_u32(code, -r);
		say(AGENT_REFUSED, f->channel, code, sizeof(code), why, strlen(why));
		return;
	}
	p->next = server.programs;
	server.programs = p;
	server.n_programs++;
}

/* Tell the host that nobody reads this program's stdin any more. */
static void refuse_in(struct program *p)
{
	static const uint8_t stream = 0;

	if (!p->in_ended)
		say(AGENT_CLOSE, p->channel, &stream, 1, NULL, 0);
}

static void close_in(struct program *p)
{
	banger_closep(&p->in.fd);
	p->in.fd = -1;
	p->pending_len = p->pending_off = 0;
}

static void give_stdin(struct program *p)
{
	while (p->in.fd >= 0 && p->pending_off < p->pending_len) {
		ssize_t n = write(
			p->in.fd, p->pending + p->pending_off, p->pending_len - p->pending_off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0) { /* it does not read any more; the rest is dropped, as a pipe would */
			n = p->pending_len - p->pending_off;
			p->pending_off += n;
			p->taken += n;
			refuse_in(p);
			close_in(p);
			break;
		}
		p->pending_off += n;
		p->taken += n;
	}
	if (p->pending_off == p->pending_len) {
		p->pending_off = p->pending_len = 0;
		if (p->in_ended)
			close_in(p);
	}
	if (p->taken >= AGENT_WINDOW / 4) {
		uint8_t credit[5] = {0};

		agent_put_u32(credit, p->taken);
		say(AGENT_CREDIT, p->channel, credit, sizeof(credit), NULL, 0);
		p->in.window += p->taken;
		p->taken = 0;
	}
}

static void on_stdin(struct program *p, const struct agent_frame *f)
{
	if (f->len > p->in.window || p->in_ended)
		return broken("more stdin than there was credit for");
	p->in.window -= f->len;
	if (p->in.fd < 0) {
		p->taken += f->len;
		return give_stdin(p);
	}
	if (!p->pending && !(p->pending = malloc(AGENT_WINDOW)))
		return broken("no memory for stdin");
	/* The window bounds what is pending; what was written already makes room. */
	memmove(p->pending, p->pending + p->pending_off, p->pending_len - p->pending_off);
	p->pending_len -= p->pending_off;
	p->pending_off = 0;
	memcpy(p->pending + p->pending_len, f->payload, f->len);
	p->pending_len += f->len;
	give_stdin(p);
}

static void on_credit(struct program *p, const struct agent_frame *f)
{
	if (f->len != 5 || f->payload[4] < 1 || f->payload[4] > 2)
		return broken("a malformed CREDIT");
	struct stream *s = f->payload[4] == 1 ? &p->out : &p->err;
	uint32_t n = agent_get_u32(f->payload);
	if (n > AGENT_WINDOW - s->window)
		return broken("more credit than was used");
	s->window += n;
}

/* The host takes no more of this output: what the program writes from now on meets a closed pipe.
 */
static void on_close(struct program *p, const struct agent_frame *f)
{
	if (f->len != 1 || f->payload[0] < 1 || f->payload[0] > 2)
		return broken("a malformed CLOSE");
	struct stream *s = f->payload[0] == 1 ? &p->out : &p->err;
	banger_closep(&s->fd);
	s->fd = -1;
}

static void on_signal(struct program *p, const struct agent_frame *f)
{
	uint32_t sig = f->len == 4 ? agent_get_u32(f->payload) : 0;

	if (sig < 1 || sig > 64)
		return broken("a malformed SIGNAL");
	if (!p->ended)
		kill(-p->pid, sig);
}

static void on_frame(const struct agent_frame *f)
{
	struct program *p = f->channel ? find(f->channel) : NULL;

	if (f->type == AGENT_EXEC)
		return on_exec(f);
	if (f->type == AGENT_POWEROFF) {
		server.over = true;
		return;
	}
	if (f->type != AGENT_STDIN && f->type != AGENT_END && f->type != AGENT_SIGNAL &&
		f->type != AGENT_CREDIT && f->type != AGENT_CLOSE)
		return broken("a frame of an unknown type");
	if (!p)
		return; /* its EXIT is on the way to the host */
	if (f->type == AGENT_STDIN)
		return on_stdin(p, f);
	if (f->type == AGENT_CREDIT)
		return on_credit(p, f);
	if (f->type == AGENT_SIGNAL)
		return on_signal(p, f);
	if (f->type == AGENT_CLOSE)
		return on_close(p, f);
	p->in_ended = true;
	give_stdin(p);
}

static void read_port(void)
{
	struct agent_frame f;
	size_t room;
	uint8_t *to = agent_reader_space(&server.reader, &room);
	ssize_t n = read(server.port, to, room);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		server.over = true;
		return;
	}
	agent_reader_added(&server.reader, n);
	int r;
	while (!server.over && (r = agent_reader_next(&server.reader, &f)) != 0) {
		if (r < 0)
			return broken("not a frame");
		on_frame(&f);
	}
}

/* ---- what programs say */

/* Read one stream into frames until it has no more for now, its window is used up or the queue is
 * full. Returns whether more may be there. Of a program that has ended only what the pipe held then
 * counts: a descendant of it may write for ever. */
static bool pump(struct program *p, struct stream *s, enum agent_type type)
{
	uint8_t buf[AGENT_DATA_MAX];

	while (s->fd >= 0 && s->window > 0 && s->left != 0 && queued() < QUEUE_FULL) {
		size_t most = s->window < sizeof(buf) ? s->window : sizeof(buf);
		ssize_t n = read(s->fd, buf,
			s->left >= 0 && (size_t)s->left < most ? (size_t)s->left : most);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return false;
		if (n <= 0) {
			close(s->fd);
			s->fd = -1;
			return false;
		}
		s->window -= n;
		s->left -= s->left > 0 ? n : 0;
		say(type, p->channel, buf, n, NULL, 0);
	}
	return s->fd >= 0 && s->left != 0;
}

/* True when the program is done and gone from the list. */
static bool finish(struct program **at)
{
	struct program *p = *at;
	bool more_out = pump(p, &p->out, AGENT_STDOUT), more_err = pump(p, &p->err, AGENT_STDERR);

	if (!p->ended || more_out || more_err)
		return false;
	/* The signal's own bits rather than WIFSIGNALED(), which is a signed comparison: TCG (seen in
	 * QEMU 7.2) loses the flags of one whose result is stored to a page that faults just then, and
	 * after a fork many do. The host was told "exited with 0" of a program that was killed. */
	const uint8_t signal = WTERMSIG(p->status);
	const uint8_t how[2] = {signal != 0, signal != 0 ? signal : WEXITSTATUS(p->status)};
	say(AGENT_EXIT, p->channel, how, sizeof(how), NULL, 0);
	*at = p->next;
	program_free(p);
	server.n_programs--;
	return true;
}

static void note_end(struct program *p, int status)
{
	p->ended = true;
	p->status = status;
	if (p->out.fd < 0 || ioctl(p->out.fd, FIONREAD, &p->out.left) < 0)
		p->out.left = 0;
	if (p->err.fd < 0 || ioctl(p->err.fd, FIONREAD, &p->err.left) < 0)
		p->err.left = 0;
}

static void reap(void)
{
	struct signalfd_siginfo info;
	int status;
	pid_t pid;

	while (read(server.signals, &info, sizeof(info)) > 0)
		;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		for (struct program *p = server.programs; p; p = p->next)
			if (p->pid == pid)
				note_end(p, status);
}

static void turn(void)
{
	struct pollfd fds[2 + 3 * PROGRAMS_MAX];
	int n = 0;

	fds[n++] = (struct pollfd){server.port, POLLIN | (queued() ? POLLOUT : 0), 0};
	fds[n++] = (struct pollfd){server.signals, POLLIN, 0};
	for (struct program *p = server.programs; p; p = p->next) {
		bool room = queued() < QUEUE_FULL;

		if (p->in.fd >= 0 && p->pending_len > p->pending_off)
			fds[n++] = (struct pollfd){p->in.fd, POLLOUT, 0};
		if (p->out.fd >= 0 && p->out.window > 0 && room)
			fds[n++] = (struct pollfd){p->out.fd, POLLIN, 0};
		if (p->err.fd >= 0 && p->err.window > 0 && room)
			fds[n++] = (struct pollfd){p->err.fd, POLLIN, 0};
	}
	if (poll(fds, n, -1) < 0)
		return;
	if (fds[1].revents)
		reap();
	if (fds[0].revents & POLLIN)
		read_port();
	else if (fds[0].revents & (POLLHUP | POLLERR))
		server.over = true;
	for (struct program **at = &server.programs; *at;) {
		give_stdin(*at);
		if (!finish(at))
			at = &(*at)->next;
	}
	flush();
}

void serve(int port)
{
	uint8_t version[4];
	sigset_t set;

	server.port = port;
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	server.signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (server.signals < 0)
		return serve_failed(port, "the kernel has no signalfd");
	agent_put_u32(version, AGENT_PROTOCOL);
	say(AGENT_HELLO, 0, version, sizeof(version), NULL, 0);
	flush();
	while (!server.over)
		turn();
}

void serve_failed(int port, const char *why)
{
	struct pollfd p = {.fd = port, .events = POLLOUT};

	server.port = port;
	say(AGENT_FAILED, 0, why, strlen(why), NULL, 0);
	while (queued() > 0 && !server.over && poll(&p, 1, 5000) > 0)
		flush();
}
