/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent's dispatcher (serve.c) with a host that is played, and programs that are: no process is started, no signal
 * sent, no clock set. For its unit test and its fuzz target, which include this, and by it serve.c itself.
 *
 * A played program is what its arguments say, one after the other:
 *	o:N e:N	writes N bytes of 'o' or 'e' to stdout, stderr at once, as far as the pipe takes them
 *	c	closes its stdin
 *	x:N	ends with status N at once
 *	cat	gives back what it reads, and ends with 0 when there is no more
 * and otherwise lives until a signal ends it. A command "none" cannot be started. A transfer is a program that does
 * nothing.
 */
#ifndef BANGER_TESTS_AGENT_PLAYED_H
#define BANGER_TESTS_AGENT_PLAYED_H

#include <banger/cleanup.h>
#include <banger/log.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>

static pid_t played_waitpid(pid_t pid, int *status, int flags);
static int played_kill(pid_t pid, int sig);
static int played_settime(clockid_t clock, const struct timespec *t);

/* Nothing is waited for. */
static int played_poll(struct pollfd *fds, nfds_t n)
{
	return poll(fds, n, 0);
}

/* What it would log is for a console. */
#undef log_err
#undef log_warn
#undef log_info
#undef log_debug
#define log_err(...) ((void)0)
#define log_warn(...) ((void)0)
#define log_info(...) ((void)0)
#define log_debug(...) ((void)0)
#define waitpid played_waitpid
#define kill played_kill
#define clock_settime played_settime
#define poll(fds, n, ms) ((void)(ms), played_poll(fds, n))
#include "../../../daemon/agent/serve.c"
#undef waitpid
#undef kill
#undef clock_settime
#undef poll

#define PLAYED_MAX (2 * AGENT_CHANNELS)

struct played {
	pid_t pid; /* 0: free */
	int in, out, err;
	bool cat, over, reaped;
	int status, signal; /* signal: the last that it got */
};

static struct {
	int host; /* the host's end of the port */
	struct agent_reader reader;
	struct played programs[PLAYED_MAX];
	pid_t last_pid;
	size_t started;
	int to_all;           /* the last signal that kill(-1) sent */
	struct timespec time; /* that the clock was set to */
	bool more;
} play;

int fail(char *why, int errnum, const char *what, const char *on)
{
	snprintf(why, WHY_MAX, "%.200s%s%.200s", what, on ? " " : "", on ?: "");
	return -errnum;
}

void registry_lost(void)
{
}

void init_ask(enum init_kind kind)
{
}

static struct played *played_find(pid_t pid)
{
	for (size_t i = 0; i < PLAYED_MAX; i++)
		if (play.programs[i].pid == pid && pid)
			return &play.programs[i];
	return NULL;
}

static void played_over(struct played *m, int status)
{
	if (m->over)
		return;
	m->over = true;
	m->status = status;
	banger_closep(&m->in);
	banger_closep(&m->out);
	banger_closep(&m->err);
	m->in = m->out = m->err = -1;
	eventfd_write(server.signals, 1);
}

static int played_pipe(int *read_end, int *write_end)
{
	int p[2];

	if (pipe2(p, O_CLOEXEC | O_NONBLOCK) < 0)
		return -errno;
	*read_end = p[0];
	*write_end = p[1];
	return 0;
}

static void played_write(int fd, char what, const char *n)
{
	uint8_t b[4096];

	memset(b, what, sizeof(b));
	for (size_t left = strtoul(n, NULL, 10) % (1024 * 1024); left > 0;) {
		ssize_t k = write(fd, b, left < sizeof(b) ? left : sizeof(b));
		if (k <= 0)
			return;
		left -= k;
	}
}

static void played_close_in(struct played *m)
{
	banger_closep(&m->in);
	m->in = -1;
}

static void played_begin(struct played *m, const char **argv)
{
	for (const char **a = argv; *a && !m->over; a++) {
		if (strncmp(*a, "o:", 2) == 0 && m->out >= 0)
			played_write(m->out, 'o', *a + 2);
		else if (strncmp(*a, "e:", 2) == 0 && m->err >= 0)
			played_write(m->err, 'e', *a + 2);
		else if (strcmp(*a, "c") == 0)
			played_close_in(m);
		else if (strcmp(*a, "cat") == 0)
			m->cat = true;
		else if (strncmp(*a, "x:", 2) == 0)
			played_over(m, (int)(strtoul(*a + 2, NULL, 10) & 0xff) << 8);
	}
}

static int played_new(
	uint16_t channel, bool in, bool out, struct program **ret, struct played **mine)
{
	struct program *p = calloc(1, sizeof(*p));
	struct played *m = NULL;
	int r = 0;

	for (size_t i = 0; i < PLAYED_MAX && !m; i++)
		m = play.programs[i].pid ? NULL : &play.programs[i];
	if (!p || !m) {
		free(p);
		return -ENOMEM;
	}
	*m = (struct played){.pid = ++play.last_pid, .in = -1, .out = -1, .err = -1};
	p->channel = channel;
	p->pid = m->pid;
	p->in = p->out = p->err = (struct stream){.fd = -1, .window = AGENT_WINDOW, .left = -1};
	if (in)
		r = played_pipe(&m->in, &p->in.fd);
	if (r == 0 && out)
		r = played_pipe(&p->out.fd, &m->out);
	if (r == 0)
		r = played_pipe(&p->err.fd, &m->err);
	if (r < 0) {
		played_over(m, 0);
		m->pid = 0;
		program_free(p);
		return r;
	}
	play.started++;
	*ret = p;
	*mine = m;
	return 0;
}

int program_start(uint16_t channel, const struct agent_exec *e, struct program **ret, char *why)
{
	struct played *m;

	if (strcmp(e->argv[0], "none") == 0)
		return fail(why, ENOENT, "there is none", NULL);
	bool apart = e->flags & AGENT_EXEC_DETACH;
	int r = played_new(channel, !apart, !apart, ret, &m);
	if (r < 0)
		return fail(why, -r, "cannot be played", NULL);
	(*ret)->main = e->flags & AGENT_EXEC_MAIN;
	if (apart) {
		banger_closep(&(*ret)->err.fd);
		(*ret)->err.fd = -1;
	}
	played_begin(m, e->argv);
	return 0;
}

int transfer_start(uint16_t channel, bool put, const char *path, struct program **ret, char *why)
{
	struct played *m;

	int r = played_new(channel, put, !put, ret, &m);
	if (r < 0)
		return fail(why, -r, "cannot be played", path);
	(*ret)->transfer = true;
	return 0;
}

void program_free(struct program *p)
{
	struct played *m = played_find(p->pid);

	if (m && m->reaped)
		m->pid = 0;
	banger_closep(&p->in.fd);
	banger_closep(&p->out.fd);
	banger_closep(&p->err.fd);
	free(p->pending);
	free(p);
}

void program_signal(const struct program *p, int sig)
{
	struct played *m = played_find(p->pid);

	if (m)
		m->signal = sig;
	if (m)
		played_over(m, sig & 0x7f);
}

static pid_t played_waitpid(pid_t pid, int *status, int flags)
{
	bool any = false;

	for (size_t i = 0; i < PLAYED_MAX; i++) {
		struct played *m = &play.programs[i];

		any |= m->pid && !m->reaped;
		if (m->pid && m->over && !m->reaped) {
			m->reaped = true;
			*status = m->status;
			return m->pid;
		}
	}
	return any ? 0 : -1;
}

static int played_kill(pid_t pid, int sig)
{
	if (sig != SIGCONT)
		play.to_all = sig;
	for (size_t i = 0; i < PLAYED_MAX && sig == SIGTERM; i++)
		if (play.programs[i].pid)
			played_over(&play.programs[i], sig);
	return 0;
}

static int played_settime(clockid_t clock, const struct timespec *t)
{
	play.time = *t;
	return 0;
}

/* One read and write of each cat. */
static void played_step(void)
{
	uint8_t b[4096];

	for (size_t i = 0; i < PLAYED_MAX; i++) {
		struct played *m = &play.programs[i];

		if (!m->pid || !m->cat || m->in < 0)
			continue;
		ssize_t n = read(m->in, b, sizeof(b));
		if (n > 0 && write(m->out, b, n) < 0)
			m->cat = false; /* its reader is slow, or gone: it stops */
		else if (n == 0)
			played_over(m, 0);
	}
}

/* A new agent, and its host. */
static int play_begin(void)
{
	int s[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, s) < 0)
		return -errno;
	memset(&server, 0, sizeof(server));
	server.signals = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	memset(&play.programs, 0, sizeof(play.programs));
	play.reader.start = play.reader.end = 0;
	play.host = s[1];
	play.last_pid = 0;
	play.started = 0;
	play.to_all = 0;
	play.time = (struct timespec){0};
	play.more = true;
	if (server.signals < 0 || port_init(&server.port, s[0]) < 0)
		return -errno;
	port_hello(&server.port, false);
	return 0;
}

static void play_end(void)
{
	for (size_t i = 0; i < PLAYED_MAX; i++)
		if (play.programs[i].pid)
			played_over(&play.programs[i], 0);
	while (server.programs) {
		struct program *p = server.programs;

		server.programs = p->next;
		program_free(p);
	}
	banger_closep(&server.port.events);
	banger_closep(&server.port.fd);
	banger_closep(&server.signals);
	banger_closep(&play.host);
}

static void play_turn(void)
{
	played_step();
	turn(&play.more);
}

#endif
