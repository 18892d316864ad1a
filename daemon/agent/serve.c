/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent's end of the protocol: one poll(2) loop over the port, SIGCHLD and the programs' pipes.
 *
 * Nothing blocks. What goes to the port waits in one queue; no pipe is read while more than
 * QUEUE_FULL bytes are in it, and no stream sends more than its window, so the queue is bounded
 * whatever programs and host do. A host that breaks the protocol or goes away loses what it has started (SIGHUP, and
 * pipes that are closed); the VM goes on and waits for one that attaches.
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
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>

#define QUEUE_FULL (512 * 1024)
#define ASK_MS 1000
#define TTY_REST_MS                                                                                \
	100 /* how long what a program wrote on its terminal may need to come out of it */

struct server {
	struct port port;
	int signals;
	struct program *programs;
	int n_programs; /* of them, those with a channel */
	enum init_kind init;
	bool heard;     /* the host has said something */
	bool over;      /* the VM ends now */
	bool closing;   /* programs, or the image's init, were asked to end */
	int64_t end_by; /* milliseconds: when they are not waited for any longer */
	int64_t ask_at; /* the image's init again: it may not have been listening yet */
};

static struct server server;

int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

static void say(enum agent_type type, uint16_t channel, const void *a, size_t len)
{
	port_say(&server.port, type, channel, a, len, NULL, 0);
}

static void refuse(uint16_t channel, int errnum, const char *why)
{
	uint8_t code[4];

	agent_put_u32(code, errnum);
	port_say(&server.port, AGENT_REFUSED, channel, code, sizeof(code), why, strlen(why));
}

static struct program *find(uint16_t channel)
{
	for (struct program *p = server.programs; p && channel; p = p->next)
		if (p->channel == channel)
			return p;
	return NULL;
}

/* ---- hosts that come and go */

static void set_apart(struct program *p)
{
	if (p->channel == 0)
		return;
	p->channel = 0;
	server.n_programs--;
	if (!p->ended)
		program_signal(p, p->transfer ? SIGKILL : SIGHUP);
	banger_closep(&p->in.fd);
	banger_closep(&p->out.fd);
	banger_closep(&p->err.fd);
	p->in.fd = p->out.fd = p->err.fd = -1;
	p->pending_len = p->pending_off = 0;
}

/* The host is gone, or is not to be trusted any more. */
static void detach(void)
{
	for (struct program *p = server.programs; p; p = p->next)
		set_apart(p);
	port_reset(&server.port);
	server.port.attached = false;
	memset(server.port.token, 0, AGENT_TOKEN);
}

static void broken(const char *what)
{
	log_err("the host broke the agent protocol", KV_S("error", what));
	detach();
	say(AGENT_BROKEN, 0, what, strlen(what));
}

static void on_attach(const struct agent_frame *f)
{
	const uint8_t *token = f->payload + 4 + AGENT_TOKEN;

	if (f->channel != 0 || f->len != 4 + 2 * AGENT_TOKEN ||
		memcmp(f->payload + 4, AGENT_MARK, AGENT_TOKEN) != 0)
		return broken("a malformed ATTACH");
	if (server.port.attached && memcmp(token, server.port.token, AGENT_TOKEN) == 0)
		return;
	detach();
	server.port.attached = true;
	memcpy(server.port.token, token, AGENT_TOKEN);
	/* Whether versions agree is for the host to see. */
	port_hello(&server.port, false);
}

/* ---- what the host says to all */

static void begin_end(uint32_t grace_ms)
{
	if (server.closing)
		return;
	server.closing = true;
	server.end_by = now_ms() + grace_ms;
	log_info("powering off", KV_I("grace_ms", grace_ms));
	if (server.init != INIT_NONE) {
		/* They are none of its services: it would wait for those that do not end by SIGTERM. */
		for (struct program *p = server.programs; p; p = p->next)
			if (!p->ended)
				program_signal(p, SIGHUP);
		return;
	}
	kill(-1, SIGTERM);
	kill(-1, SIGCONT);
	for (struct program *p = server.programs; p; p = p->next)
		if (p->tty && !p->ended) /* a shell on a terminal does not end by SIGTERM */
			program_signal(p, SIGHUP);
}

static void set_time(const struct agent_frame *f)
{
	uint64_t us = agent_get_u32(f->payload) | (uint64_t)agent_get_u32(f->payload + 4) << 32;
	const struct timespec t = {us / 1000000, us % 1000000 * 1000};

	if (clock_settime(CLOCK_REALTIME, &t) < 0)
		log_warn("cannot set the clock", KV_S("error", strerrordesc_np(errno)));
}

static bool on_common(const struct agent_frame *f)
{
	switch (f->type) {
	case AGENT_ATTACH:
		on_attach(f);
		return true;
	case AGENT_POWEROFF:
		if (f->len == 4)
			begin_end(agent_get_u32(f->payload));
		else
			broken("a malformed POWEROFF");
		return true;
	case AGENT_PING:
		if (f->len == 4)
			port_say_u32(&server.port, AGENT_PONG, 0, agent_get_u32(f->payload));
		else
			broken("a malformed PING");
		return true;
	case AGENT_REGISTRY_LOST:
		if (f->len == 0)
			registry_lost();
		else
			broken("a malformed REGISTRY_LOST");
		return true;
	case AGENT_TIME:
		if (f->len == 8)
			set_time(f);
		else
			broken("a malformed TIME");
		return true;
	}
	return false;
}

/* ---- what the host says to one */

static int start_program(const struct agent_frame *f, struct program **ret, char *why)
{
	struct agent_exec e;

	int r = agent_exec_unpack(f->payload, f->len, &e);
	if (r < 0) {
		snprintf(why, WHY_MAX, "the request is malformed");
		return r;
	}
	r = program_start(f->channel, &e, ret, why);
	agent_exec_done(&e);
	return r;
}

static int start_transfer(const struct agent_frame *f, struct program **ret, char *why)
{
	char path[4096];

	if (f->len >= sizeof(path) || memchr(f->payload, 0, f->len)) {
		snprintf(why, WHY_MAX, "the path is too long, or none");
		return -ENAMETOOLONG;
	}
	memcpy(path, f->payload, f->len);
	path[f->len] = '\0';
	return transfer_start(f->channel, f->type == AGENT_PUT, path, ret, why);
}

static void on_start(const struct agent_frame *f)
{
	static const uint8_t done[2];
	struct program *p;
	char why[WHY_MAX] = "";

	if (f->channel == 0 || f->channel > AGENT_CHANNELS || find(f->channel))
		return broken("EXEC on a channel in use");
	int r = f->type == AGENT_EXEC ? start_program(f, &p, why) : start_transfer(f, &p, why);
	if (r < 0)
		return refuse(f->channel, -r, why);
	p->next = server.programs;
	server.programs = p;
	server.n_programs++;
	if (p->out.fd < 0 && p->in.fd < 0) { /* started apart from the host */
		say(AGENT_EXIT, f->channel, done, sizeof(done));
		p->channel = 0;
		server.n_programs--;
	}
}

/* Tell the host that nobody reads this program's stdin any more. */
static void refuse_in(struct program *p)
{
	static const uint8_t stream = 0;

	if (!p->in_ended && p->channel)
		say(AGENT_CLOSE, p->channel, &stream, 1);
}

static void close_in(struct program *p)
{
	banger_closep(&p->in.fd);
	p->in.fd = -1;
	p->pending_len = p->pending_off = 0;
}

/* Stdin of a terminal has no end that could be closed: what a person would type is typed. In the middle of a line the
 * first one only ends that. */
static void type_end(struct program *p)
{
	struct termios t;
	char eof[2] = {4, 4};

	if (tcgetattr(p->in.fd, &t) == 0)
		eof[0] = eof[1] = (char)t.c_cc[VEOF];
	if (write(p->in.fd, eof, p->in_line ? 2 : 1) < 0)
		log_debug("cannot end a terminal's input");
}

static void give_credit(struct program *p)
{
	uint8_t credit[5] = {0};

	if (p->taken < AGENT_WINDOW / 4 || !p->channel)
		return;
	agent_put_u32(credit, p->taken);
	say(AGENT_CREDIT, p->channel, credit, sizeof(credit));
	p->in.window += p->taken;
	p->taken = 0;
}

/* Write to the program. Returns how much of it is done with: all, when it does not read any more, because a pipe would
 * drop it too. */
static size_t write_stdin(struct program *p, const uint8_t *data, size_t len)
{
	size_t at = 0;

	while (p->in.fd >= 0 && at < len) {
		ssize_t n = write(p->in.fd, data + at, len - at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0) {
			refuse_in(p);
			close_in(p);
			break;
		}
		at += n;
		p->in_line = data[at - 1] != '\n';
	}
	if (p->in.fd < 0)
		at = len;
	p->taken += at;
	return at;
}

static void give_stdin(struct program *p)
{
	if (p->pending_off < p->pending_len) {
		size_t n = write_stdin(
			p, p->pending + p->pending_off, p->pending_len - p->pending_off);

		if (p->in.fd >= 0) /* else nothing is pending any more */
			p->pending_off += n;
	}
	if (p->pending_off == p->pending_len) {
		p->pending_off = p->pending_len = 0;
		if (p->in_ended && p->in.fd >= 0 && p->tty)
			type_end(p);
		if (p->in_ended)
			close_in(p);
	}
	give_credit(p);
}

/* What the program does not take at once waits. The window bounds it; what was written already makes room. */
static int keep_stdin(struct program *p, const uint8_t *data, size_t len)
{
	if (!p->pending && !(p->pending = malloc(AGENT_WINDOW)))
		return -ENOMEM;
	if (p->pending_len + len > AGENT_WINDOW) {
		memmove(p->pending, p->pending + p->pending_off, p->pending_len - p->pending_off);
		p->pending_len -= p->pending_off;
		p->pending_off = 0;
	}
	memcpy(p->pending + p->pending_len, data, len);
	p->pending_len += len;
	return 0;
}

static void on_stdin(struct program *p, const struct agent_frame *f)
{
	size_t at = 0;

	if (f->len > p->in.window || p->in_ended)
		return broken("more stdin than there was credit for");
	p->in.window -= f->len;
	if (p->pending_len == p->pending_off)
		at = write_stdin(p, f->payload, f->len);
	if (at < f->len && keep_stdin(p, f->payload + at, f->len - at) < 0)
		return broken("no memory for stdin");
	give_credit(p);
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
	if (p->transfer && s == &p->err)
		return; /* that one is ours */
	banger_closep(&s->fd);
	s->fd = -1;
	if (p->tty)
		close_in(p); /* both are the one terminal, which hangs up */
}

static void on_signal(struct program *p, const struct agent_frame *f)
{
	uint32_t sig = f->len == 4 ? agent_get_u32(f->payload) : 0;

	if (sig < 1 || sig > 64)
		return broken("a malformed SIGNAL");
	if (!p->ended)
		program_signal(p, sig);
}

static void on_resize(struct program *p, const struct agent_frame *f)
{
	if (f->len != 4 || !p->tty)
		return broken("a malformed RESIZE");
	const struct winsize w = {
		.ws_row = agent_get_u16(f->payload), .ws_col = agent_get_u16(f->payload + 2)};
	if (p->out.fd >= 0 && ioctl(p->out.fd, TIOCSWINSZ, &w) < 0)
		log_debug("cannot resize a terminal");
}

static void on_end(struct program *p, const struct agent_frame *f)
{
	p->in_ended = true;
	give_stdin(p);
}

static void on_frame(const struct agent_frame *f)
{
	static const struct {
		uint8_t type;
		void (*act)(struct program *p, const struct agent_frame *f);
	} acts[] = {{AGENT_STDIN, on_stdin}, {AGENT_END, on_end}, {AGENT_SIGNAL, on_signal},
		{AGENT_RESIZE, on_resize}, {AGENT_CREDIT, on_credit}, {AGENT_CLOSE, on_close}};

	if (on_common(f))
		return;
	if (f->type == AGENT_EXEC || f->type == AGENT_PUT || f->type == AGENT_GET)
		return on_start(f);
	struct program *p = find(f->channel);
	for (size_t i = 0; i < ELEMENTSOF(acts); i++)
		if (acts[i].type == f->type) {
			if (p) /* else its EXIT is on the way to the host */
				acts[i].act(p, f);
			return;
		}
	broken("a frame of an unknown type");
}

static void take_frames(void)
{
	struct agent_frame f;
	int r = 1;

	while (r == 1 && !server.over) {
		if (!server.port.attached && !agent_reader_seek(&server.port.reader, AGENT_ATTACH,
						     (const uint8_t *)AGENT_MARK))
			return;
		r = agent_reader_next(&server.port.reader, &f);
		if (r == 1)
			on_frame(&f);
		if (r < 0) {
			broken("not a frame");
			r = 1;
		}
	}
}

/* What the port has, but not more than one turn's worth: programs have their turn too. Returns whether more may be there. */
static bool read_port(void)
{
	int r = 1;

	for (int i = 0; i < 64 && r > 0 && !server.over; i++) {
		r = port_read(&server.port);
		if (r > 0) {
			server.heard = true;
			take_frames();
		}
	}
	if (r < 0 && server.heard) {
		detach();
	} else if (r < 0) { /* no host yet: it finds what was said meanwhile */
		server.port.lost = false;
		server.port.attached = true;
	}
	return r > 0;
}

/* ---- what programs say */

static bool tty_rests(const struct program *p)
{
	return p->ended && now_ms() - p->ended_at > TTY_REST_MS;
}

/* Read one stream into frames until it has no more for now, its window is used up or the queue is
 * full. Returns whether more may be there. Of a program that has ended only what the pipe held then
 * counts: a descendant of it may write for ever. */
static bool pump(struct program *p, struct stream *s, enum agent_type type)
{
	if (p->tty && p->ended && now_ms() - p->ended_at > 10 * TTY_REST_MS)
		s->left = 0;
	while (s->fd >= 0 && s->window > 0 && s->left != 0 &&
		port_queued(&server.port) < QUEUE_FULL) {
		size_t most = s->window < AGENT_DATA_MAX ? s->window : AGENT_DATA_MAX;

		if (s->left >= 0 && (size_t)s->left < most)
			most = s->left;
		ssize_t n = port_say_from(&server.port, type, p->channel, s->fd, most);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return p->tty && !tty_rests(p);
		if (n < 0 && errno == ENOBUFS)
			return true;
		if (n <= 0) {
			close(s->fd);
			s->fd = -1;
			return false;
		}
		s->window -= n;
		s->left -= s->left > 0 ? n : 0;
	}
	return s->fd >= 0 && s->left != 0;
}

/* A transfer has ended with nothing to say but by its report. */
static void end_transfer(struct program *p)
{
	static const uint8_t done[2];
	struct transfer_report report = {EIO, "the transfer ended in the middle"};

	if (p->status == 0)
		return say(AGENT_EXIT, p->channel, done, sizeof(done));
	if (read(p->err.fd, &report, sizeof(report)) == sizeof(report))
		report.why[WHY_MAX - 1] = '\0';
	refuse(p->channel, report.errnum, report.why);
}

static void end_program(struct program *p)
{
	/* The signal's own bits rather than WIFSIGNALED(), which is a signed comparison: TCG (seen in
	 * QEMU 7.2) loses the flags of one whose result is stored to a page that faults just then, and
	 * after a fork many do. The host was told "exited with 0" of a program that was killed. */
	const uint8_t signal = WTERMSIG(p->status);
	const uint8_t how[2] = {signal != 0, signal != 0 ? signal : WEXITSTATUS(p->status)};

	if (p->transfer)
		end_transfer(p);
	else
		say(AGENT_EXIT, p->channel, how, sizeof(how));
}

/* True when the program is done and gone from the list. */
static bool finish(struct program **at)
{
	struct program *p = *at;
	bool more = pump(p, &p->out, AGENT_STDOUT);

	if (!p->transfer)
		more |= pump(p, &p->err, AGENT_STDERR);
	if (!p->ended || more)
		return false;
	if (p->channel) {
		end_program(p);
		server.n_programs--;
	}
	if (p->main && server.init == INIT_NONE)
		begin_end(0);
	*at = p->next;
	program_free(p);
	return true;
}

static void note_end(struct program *p, int status)
{
	p->ended = true;
	p->ended_at = now_ms();
	p->status = status;
	if (p->tty)
		return; /* it says when there is no more */
	if (p->out.fd < 0 || ioctl(p->out.fd, FIONREAD, &p->out.left) < 0)
		p->out.left = 0;
	if (p->err.fd < 0 || ioctl(p->err.fd, FIONREAD, &p->err.left) < 0)
		p->err.left = 0;
}

/* Whether there is any child left. */
static bool reap(void)
{
	struct signalfd_siginfo info;
	int status;
	pid_t pid;

	while (read(server.signals, &info, sizeof(info)) > 0)
		;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		for (struct program *p = server.programs; p; p = p->next)
			if (p->pid == pid && !p->ended)
				note_end(p, status);
	return pid == 0;
}

/* ---- the loop */

struct polled {
	struct pollfd fds[2 + 3 * AGENT_CHANNELS];
	int n;
};

static void add(struct polled *p, bool wanted, int fd, short events)
{
	if (wanted && fd >= 0)
		p->fds[p->n++] = (struct pollfd){fd, events, 0};
}

/* Returns how long to wait at most: -1 without end. */
static int collect(struct polled *all)
{
	bool room = port_queued(&server.port) < QUEUE_FULL;
	int ms = -1;

	add(all, true, server.port.events, POLLIN);
	add(all, true, server.signals, POLLIN);
	for (struct program *p = server.programs; p; p = p->next) {
		if (!p->channel)
			continue;
		add(all, p->pending_len > p->pending_off, p->in.fd, POLLOUT);
		add(all, p->out.window > 0 && p->out.left != 0 && room, p->out.fd, POLLIN);
		add(all, p->err.window > 0 && p->err.left != 0 && room && !p->transfer, p->err.fd,
			POLLIN);
		if (p->tty && p->ended)
			ms = TTY_REST_MS / 2;
	}
	if (server.closing) {
		int64_t left = server.end_by - now_ms();
		ms = left < 0 ? 0 : left < 100 ? (int)left : 100;
	}
	return ms;
}

static void go_on_ending(bool children)
{
	if (server.init != INIT_NONE && now_ms() >= server.ask_at) {
		init_ask(server.init);
		server.ask_at = now_ms() + ASK_MS;
	}
	if (now_ms() >= server.end_by ||
		(server.init == INIT_NONE && !children && !server.programs))
		server.over = true;
}

static void turn(bool *more)
{
	static struct polled all;
	struct epoll_event e;
	bool children = true;

	all.n = 0;
	int ms = collect(&all);
	if (poll(all.fds, all.n, *more ? 0 : ms) < 0)
		return;
	if (all.fds[1].revents || server.closing)
		children = reap();
	if (all.fds[0].revents)
		*more |= epoll_wait(server.port.events, &e, 1, 0) > 0;
	if (*more)
		*more = read_port();
	for (struct program **at = &server.programs; *at;) {
		give_stdin(*at);
		if (!finish(at))
			at = &(*at)->next;
	}
	if (server.port.overflow)
		broken("more was asked for than was read");
	if (port_flush(&server.port) < 0)
		detach();
	if (server.closing)
		go_on_ending(children);
}

static int watch_children(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM); /* of an init that ends all it sees */
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	server.signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return server.signals < 0 ? -errno : 0;
}

static void say_the_rest(int ms)
{
	struct pollfd p = {.fd = server.port.fd, .events = POLLOUT};

	for (int64_t by = now_ms() + ms; now_ms() < by;) {
		if (port_flush(&server.port) < 0 || port_queued(&server.port) == 0)
			return;
		poll(&p, 1, 100);
	}
}

void serve(const struct serve_options *o)
{
	bool more = true;

	server.init = o->init;
	if (watch_children() < 0 || port_init(&server.port, o->port) < 0)
		return serve_failed(o->port, "the kernel has no signalfd or epoll");
	port_hello(&server.port, o->again);
	while (!server.over)
		turn(&more);
	say_the_rest(1000);
}

void serve_failed(int port, const char *why)
{
	server.port.fd = port;
	port_say(&server.port, AGENT_FAILED, 0, why, strlen(why), NULL, 0);
	say_the_rest(5000);
}
