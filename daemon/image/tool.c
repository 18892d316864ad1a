/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One child per run, killed and waited for on every path. Between fork and exec are system calls only, for the
 * daemon has threads. What it says is read as it comes, so that it never waits for us; what is over the limit is
 * dropped.
 */
#include "image/tool.h"

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <banger/log.h>

#define FIRST_FD 3
#define CANNOT_START 126 /* and 127: the status of a child that did not come to its program */

struct child {
	pid_t pid;
	int pid_fd, out_fd;
};

static const char *find_program(const struct tool *t)
{
	for (const char *const *p = t->places; *p; p++)
		if (access(*p, X_OK) == 0)
			return *p;
	return NULL;
}

int tool_check(const struct tool *t, struct banger_error *err)
{
	return find_program(t) ? 0
			       : banger_error_set(err, BANGER_UNSUPPORTED,
					 "%s is not installed (Debian's package is %s)", t->name,
					 t->package);
}

/* ---- the child's side */

static bool limit(int what, int64_t max)
{
	const struct rlimit l = {.rlim_cur = (rlim_t)max, .rlim_max = (rlim_t)max};

	return setrlimit(what, &l) == 0;
}

static bool drop_rights(void)
{
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return false;
	if (geteuid() != 0)
		return true;
	return setgroups(0, NULL) == 0 && setresgid(TOOL_NOBODY, TOOL_NOBODY, TOOL_NOBODY) == 0 &&
	       setresuid(TOOL_NOBODY, TOOL_NOBODY, TOOL_NOBODY) == 0;
}

/* First out of the way of the places, then into them. */
static bool place_fds(const struct tool *t, int said)
{
	int high[ELEMENTSOF(t->fds)], null = open("/dev/null", O_RDWR), n = 0;

	said = fcntl(said, F_DUPFD, 10);
	null = null < 0 ? -1 : fcntl(null, F_DUPFD, 10);
	for (; n < (int)ELEMENTSOF(t->fds) && t->fds[n] >= 0; n++) {
		high[n] = fcntl(t->fds[n], F_DUPFD, 10);
		if (high[n] < 0)
			return false;
	}
	if (said < 0 || null < 0 || dup2(null, 0) < 0 || dup2(said, 1) < 0 || dup2(said, 2) < 0)
		return false;
	for (int i = 0; i < n; i++)
		if (dup2(high[i], FIRST_FD + i) < 0)
			return false;
	return syscall(SYS_close_range, FIRST_FD + n, ~0u, 0) == 0;
}

_Noreturn static void child(const struct tool *t, const char *program, int said)
{
	static const char *const envp[] = {"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL};
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	if (!place_fds(t, said) || !limit(RLIMIT_CORE, 0) || !limit(RLIMIT_FSIZE, t->file_max) ||
		!limit(RLIMIT_AS, t->memory_max) || !limit(RLIMIT_CPU, t->time_max_s) ||
		!limit(RLIMIT_NOFILE, 64) || !drop_rights() || chdir("/") < 0)
		_exit(CANNOT_START);
	execve(program, (char *const *)t->argv, (char *const *)envp);
	_exit(CANNOT_START + 1);
}

/* ---- ours */

static void child_done(struct child *c)
{
	if (c->pid > 0) {
		kill(c->pid, SIGKILL);
		while (waitpid(c->pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	banger_closep(&c->pid_fd);
	banger_closep(&c->out_fd);
}

static int start(const struct tool *t, struct child *c, struct banger_error *err)
{
	const char *program = find_program(t);
	int ends[2];

	if (!program)
		return tool_check(t, err);
	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
		return banger_error_set_errno(err, errno, "starting %s", t->name);
	c->out_fd = ends[0];
	_cleanup_close_ int said = ends[1];
	(void)fcntl(said, F_SETFL, 0); /* its end of the pipe blocks, as programs expect */
	c->pid = fork();
	if (c->pid == 0)
		child(t, program, said);
	if (c->pid > 0)
		c->pid_fd = (int)syscall(SYS_pidfd_open, c->pid, 0);
	return c->pid < 0 || c->pid_fd < 0
		       ? banger_error_set_errno(err, errno, "starting %s", t->name)
		       : 0;
}

/* False at the end. */
static bool take_output(struct child *c, struct tool_end *end)
{
	char more[1024];

	for (;;) {
		ssize_t n = read(c->out_fd, more, sizeof(more));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 && errno == EAGAIN;
		size_t room = sizeof(end->output) - 1 - end->len;
		size_t keep = room < (size_t)n ? room : (size_t)n;
		memcpy(end->output + end->len, more, keep);
		end->len += keep;
	}
}

static int wait_for_end(const struct tool *t, struct child *c, struct operation *op,
	struct tool_end *end, struct banger_error *err)
{
	int64_t until = banger_monotonic_us() + t->time_max_s * INT64_C(1000000);
	struct pollfd fds[] = {{.fd = c->pid_fd, .events = POLLIN},
		{.fd = operation_cancel_fd(op), .events = POLLIN},
		{.fd = c->out_fd, .events = POLLIN}};

	while (!(fds[0].revents & POLLIN)) {
		int64_t left_ms = (until - banger_monotonic_us()) / 1000;
		if (left_ms <= 0)
			return banger_error_set(err, BANGER_TIMEOUT,
				"%s did not finish in %d seconds", t->name, t->time_max_s);
		if (poll(fds, ELEMENTSOF(fds), (int)left_ms) < 0 && errno != EINTR)
			return banger_error_set_errno(err, errno, "waiting for %s", t->name);
		int r = operation_check_cancelled(op, err);
		if (r < 0)
			return r;
		if (fds[2].revents && !take_output(c, end))
			fds[2].fd = -1;
	}
	(void)take_output(c, end);
	while (waitpid(c->pid, &end->status, 0) < 0)
		if (errno != EINTR)
			return banger_error_set_errno(err, errno, "waiting for %s", t->name);
	c->pid = 0;
	return 0;
}

int tool_run(
	const struct tool *t, struct operation *op, struct tool_end *ret, struct banger_error *err)
{
	_cleanup_(child_done) struct child c = {.pid_fd = -1, .out_fd = -1};

	*ret = (struct tool_end){0};
	int r = start(t, &c, err);
	if (r == 0)
		r = wait_for_end(t, &c, op, ret, err);
	if (r < 0)
		return r;
	ret->output[ret->len] = '\0';
	if (WIFEXITED(ret->status) && (WEXITSTATUS(ret->status) == CANNOT_START ||
					      WEXITSTATUS(ret->status) == CANNOT_START + 1))
		return banger_error_set(err, BANGER_INTERNAL, "%s could not be started", t->name);
	return 0;
}
