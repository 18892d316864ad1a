/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starting a program: user, environment, working directory, three pipes or a terminal, a session of its own.
 *
 * Until its exec the child has the agent's memory (vfork): it reports there what fails, so a program that cannot be
 * started is told from one that ended with 127. PATH is searched as execvp does, in the environment that the program
 * will have.
 *
 * A transfer is a fork without an exec: the child carries the tar stream, so whatever happens to it there happens
 * to it alone.
 */
#include "agent.h"
#include <banger/cleanup.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>

#define PIPE_SIZE (256 * 1024) /* fewer turns between two programs and us */

/* What the child tells: which step failed, and errno. */
struct report {
	int step, errnum;
};
enum { STEP_USER = 1, STEP_TTY, STEP_WORKDIR, STEP_EXEC };

static int become(const struct user *u)
{
	if (setgroups(u->n_groups, u->groups) < 0 || setgid(u->gid) < 0 || setuid(u->uid) < 0)
		return -errno;
	return 0;
}

/* What is left of the agent in a child. */
static void be_ordinary(void)
{
	sigset_t none;

	setsid();
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	/* An agent beside an init is spared when memory is short; what it starts is not. */
	if (getppid() != 1) {
		_cleanup_close_ int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
		if (fd >= 0 && write(fd, "0", 1) != 1)
			errno = 0;
	}
}

static int enter(const struct agent_exec *e, const struct user *u)
{
	if (*e->workdir)
		return chdir(e->workdir);
	return chdir(u->home) < 0 ? chdir("/") : 0;
}

/* What the child does. It has our memory, and what it changes there we find changed; we wait until it is another program
 * or has ended. */
struct start {
	const struct agent_exec *exec;
	const struct user *user;
	const char **env;
	const int *std;
	/* Of a report. To the compiler an ordinary store before _exit() would be none. */
	volatile int step, errnum;
};

/* In the child. Never returns. */
__attribute__((noreturn)) static void run(struct start *s)
{
	const struct agent_exec *e = s->exec;
	const struct user *u = s->user;
	struct report report = {STEP_EXEC, 0};
	bool tty = e->flags & AGENT_EXEC_TTY;

	be_ordinary();
	for (int i = 0; i < 3; i++)
		dup2(s->std[i], i);
	if (tty && ioctl(0, TIOCSCTTY, 0) < 0)
		report = (struct report){STEP_TTY, errno};
	else if (tty && fchown(0, u->uid, -1) < 0)
		report = (struct report){STEP_TTY, errno};
	if (e->flags & AGENT_EXEC_MKDIR && *e->workdir)
		make_dirs(e->workdir);
	int r = report.errnum ? 0 : become(u);
	if (report.errnum) {
	} else if (r < 0) {
		report = (struct report){STEP_USER, -r};
	} else if (enter(e, u) < 0) {
		report = (struct report){STEP_WORKDIR, errno};
	} else {
		environ = (char **)s->env; /* where PATH is */
		execvp(e->argv[0], (char **)e->argv);
		report.errnum = errno;
	}
	s->step = report.step;
	s->errnum = report.errnum;
	_exit(127);
}

/* Page tables are not copied, and neither is anything afterwards that one of the two writes to. */
static pid_t start(struct start *s)
{
	char **before = environ;
	pid_t pid = vfork();

	if (pid == 0)
		run(s);
	environ = before;
	return pid;
}

static int explain(const struct report *r, const struct agent_exec *e, char *why)
{
	const char *text = strerrordesc_np(r->errnum) ?: "error";

	switch (r->step) {
	case STEP_USER:
		snprintf(why, WHY_MAX, "cannot become user \"%.64s\": %s", e->user, text);
		break;
	case STEP_TTY:
		snprintf(why, WHY_MAX, "cannot give the command a terminal: %s", text);
		break;
	case STEP_WORKDIR:
		snprintf(why, WHY_MAX, "cannot enter the working directory \"%.256s\": %s",
			e->workdir, text);
		break;
	default:
		if (r->errnum == ENOENT && !strchr(e->argv[0], '/'))
			text = "not found in $PATH";
		snprintf(why, WHY_MAX, "cannot run \"%.256s\": %s", e->argv[0], text);
	}
	return -r->errnum;
}

/* Descriptors of a program: its own and ours. -1: none. */
struct ends {
	int theirs[3], in, out, err;
};

static void ends_done(struct ends *e)
{
	int last = -1;

	/* One descriptor may stand for several. */
	for (int i = 0; i < 3; i++) {
		if (e->theirs[i] != last)
			banger_closep(&e->theirs[i]);
		last = e->theirs[i];
	}
	banger_closep(&e->in);
	banger_closep(&e->out);
	banger_closep(&e->err);
}

static int never_blocks(int fd)
{
	return fcntl(fd, F_SETFL, O_NONBLOCK) < 0 ? -errno : 0;
}

/* from: the reading end. Ours never blocks; theirs does. */
static int make_pipe(int *from, int *to, bool read_by_us)
{
	int p[2];

	if (pipe2(p, O_CLOEXEC) < 0)
		return -errno;
	*from = p[0];
	*to = p[1];
	fcntl(p[0], F_SETPIPE_SZ, PIPE_SIZE); /* else the default is as good */
	return never_blocks(read_by_us ? p[0] : p[1]);
}

static int open_pipes(struct ends *e)
{
	int r = make_pipe(&e->theirs[0], &e->in, false);

	if (r == 0)
		r = make_pipe(&e->out, &e->theirs[1], true);
	return r < 0 ? r : make_pipe(&e->err, &e->theirs[2], true);
}

static int open_tty(struct ends *e, const struct agent_exec *x)
{
	const struct winsize size = {.ws_row = x->rows, .ws_col = x->cols};
	const int unlocked = 0;

	e->out = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	if (e->out < 0 || ioctl(e->out, TIOCSPTLCK, &unlocked) < 0)
		return -errno;
	e->theirs[0] = ioctl(e->out, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	e->theirs[1] = e->theirs[2] = e->theirs[0];
	e->in = fcntl(e->out, F_DUPFD_CLOEXEC, 0);
	if (e->theirs[0] < 0 || e->in < 0)
		return -errno;
	return x->rows && x->cols && ioctl(e->out, TIOCSWINSZ, &size) < 0 ? -errno : 0;
}

/* Apart from the host: output is for the VM's console. */
static int open_apart(struct ends *e)
{
	e->theirs[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
	e->theirs[1] = open("/dev/console", O_WRONLY | O_NOCTTY | O_CLOEXEC);
	if (e->theirs[1] < 0)
		e->theirs[1] = open("/dev/null", O_WRONLY | O_CLOEXEC);
	e->theirs[2] = e->theirs[1];
	return e->theirs[0] < 0 || e->theirs[1] < 0 ? -errno : 0;
}

static int open_ends(struct ends *e, const struct agent_exec *x)
{
	if (x->flags & AGENT_EXEC_DETACH)
		return open_apart(e);
	return x->flags & AGENT_EXEC_TTY ? open_tty(e, x) : open_pipes(e);
}

static void take_ends(struct program *p, struct ends *e)
{
	p->in.fd = TAKE_FD(e->in);
	p->out.fd = TAKE_FD(e->out);
	p->err.fd = TAKE_FD(e->err);
}

static int cannot_start(int r, char *why)
{
	return fail(why, -r, "cannot start a program in the VM", NULL);
}

static int spawn(struct program *p, const struct agent_exec *e, const struct user *u, char *why)
{
	_cleanup_(ends_done) struct ends ends = {{-1, -1, -1}, -1, -1, -1};
	_cleanup_(environment_done) struct environment env = {0};
	struct start s = {.exec = e, .user = u, .std = ends.theirs};

	int r = environment_make(e, u, &env);
	if (r == 0)
		r = open_ends(&ends, e);
	if (r < 0)
		return cannot_start(r, why);
	s.env = env.v;
	pid_t pid = start(&s);
	if (pid < 0)
		return cannot_start(-errno, why);
	const struct report said = {s.step, s.errnum};
	if (said.errnum) {
		waitpid(pid, NULL, 0);
		return explain(&said, e, why);
	}
	p->pid = pid;
	take_ends(p, &ends);
	return 0;
}

static struct program *new_program(uint16_t channel, char *why)
{
	struct program *p = calloc(1, sizeof(*p));

	if (!p) {
		snprintf(why, WHY_MAX, "out of memory in the VM");
		return NULL;
	}
	p->channel = channel;
	p->in = p->out = p->err = (struct stream){.fd = -1, .window = AGENT_WINDOW, .left = -1};
	return p;
}

int program_start(uint16_t channel, const struct agent_exec *e, struct program **ret, char *why)
{
	struct user u;

	int r = user_find(e->user, &u, why);
	if (r < 0)
		return r;
	struct program *p = new_program(channel, why);
	if (!p)
		return -ENOMEM;
	p->tty = (e->flags & AGENT_EXEC_TTY) && !(e->flags & AGENT_EXEC_DETACH);
	p->main = e->flags & AGENT_EXEC_MAIN;
	r = spawn(p, e, &u, why);
	if (r < 0) {
		program_free(p);
		return r;
	}
	*ret = p;
	return 0;
}

/* In the child. Never returns. */
static void carry(bool put, const char *path, const struct ends *e)
{
	struct transfer_report report = {0};

	be_ordinary();
	dup2(e->theirs[2], 2);
	dup2(put ? e->theirs[0] : e->theirs[1], 0);
	/* Other programs' pipes among them: held here, they would have no end. */
	close_range(3, ~0u, 0);
	int r = put ? tar_put(0, path, report.why) : tar_get(0, path, report.why);
	report.errnum = -r;
	if (r < 0 && write(2, &report, sizeof(report)) != sizeof(report))
		_exit(126);
	_exit(r < 0);
}

int transfer_start(uint16_t channel, bool put, const char *path, struct program **ret, char *why)
{
	_cleanup_(ends_done) struct ends ends = {{-1, -1, -1}, -1, -1, -1};
	struct program *p = new_program(channel, why);

	if (!p)
		return -ENOMEM;
	int r = put ? make_pipe(&ends.theirs[0], &ends.in, false)
		    : make_pipe(&ends.out, &ends.theirs[1], true);
	if (r == 0)
		r = make_pipe(&ends.err, &ends.theirs[2], true);
	if (r == 0 && (p->pid = fork()) < 0)
		r = -errno;
	if (r < 0) {
		program_free(p);
		return cannot_start(r, why);
	}
	if (p->pid == 0)
		carry(put, path, &ends);
	p->transfer = true;
	take_ends(p, &ends);
	*ret = p;
	return 0;
}

void program_signal(const struct program *p, int sig)
{
	pid_t front = p->tty && p->out.fd >= 0 ? tcgetpgrp(p->out.fd) : -1;

	kill(front > 0 ? -front : -p->pid, sig);
}

void program_free(struct program *p)
{
	banger_closep(&p->in.fd);
	banger_closep(&p->out.fd);
	banger_closep(&p->err.fd);
	free(p->pending);
	free(p);
}
