/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Running e2fsck. It parses what a stranger made, and its library has been broken by such before,
 * so the child has one descriptor that can only be read, a pipe to talk into, nobody's rights where
 * we are root, no way to write a file, and limits on memory, time and what is kept of its words.
 * What it says is shown to people, so only printable characters are taken from it.
 *
 * e2fsck opens /proc/self/fd/3 anew: a name that needs no path to the state directory.
 */
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <banger/log.h>
#include "image/fsck.h"

enum {
	TIME_MAX_S = 600,
	OUTPUT_MAX = 16 * 1024,
	NOBODY = 65534,
	IMAGE_FD = 3,
};
#define MEMORY_MAX ((rlim_t)8 << 30)

struct fsck {
	const char *program;
	pid_t pid;
	int pid_fd, out_fd;
	char output[OUTPUT_MAX + 1];
	size_t len;
};

static const char *find_program(void)
{
	static const char *const places[] = {
		"/usr/sbin/e2fsck", "/sbin/e2fsck", "/usr/local/sbin/e2fsck", "/usr/bin/e2fsck"};

	for (size_t i = 0; i < ELEMENTSOF(places); i++)
		if (access(places[i], X_OK) == 0)
			return places[i];
	return NULL;
}

static bool limit(int what, rlim_t max)
{
	return setrlimit(what, &(struct rlimit){.rlim_cur = max, .rlim_max = max}) == 0;
}

static bool drop_rights(void)
{
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return false;
	if (geteuid() != 0)
		return true;
	return setgroups(0, NULL) == 0 && setresgid(NOBODY, NOBODY, NOBODY) == 0 &&
	       setresuid(NOBODY, NOBODY, NOBODY) == 0;
}

/* Between fork and exec in a program with threads: system calls only. */
_Noreturn static void child(const char *program, int image, int out)
{
	char *const argv[] = {(char *)"e2fsck", (char *)"-fn", (char *)"/proc/self/fd/3", NULL};
	char *const envp[] = {
		(char *)"LC_ALL=C", (char *)"PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL};
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	/* First out of the way of 0 to 3, then into place. */
	image = fcntl(image, F_DUPFD, 10);
	out = fcntl(out, F_DUPFD, 10);
	int null = open("/dev/null", O_RDONLY);
	if (image < 0 || out < 0 || null < 0 || dup2(null, 0) < 0 || dup2(out, 1) < 0 ||
		dup2(out, 2) < 0 || dup2(image, IMAGE_FD) < 0 ||
		syscall(SYS_close_range, IMAGE_FD + 1, ~0u, 0) < 0)
		_exit(126);
	if (!limit(RLIMIT_CORE, 0) || !limit(RLIMIT_FSIZE, 0) || !limit(RLIMIT_AS, MEMORY_MAX) ||
		!limit(RLIMIT_CPU, TIME_MAX_S) || !limit(RLIMIT_NOFILE, 64) || !drop_rights() ||
		chdir("/") < 0)
		_exit(126);
	execve(program, argv, envp);
	_exit(127);
}

static int start(struct fsck *f, int image, struct banger_error *err)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
		return banger_error_set_errno(err, errno, "starting e2fsck");
	f->out_fd = ends[0];
	_cleanup_close_ int in = ends[1];
	/* Its end of the pipe blocks, as programs expect. */
	(void)fcntl(in, F_SETFL, 0);
	f->pid = fork();
	if (f->pid == 0)
		child(f->program, image, in);
	if (f->pid < 0)
		return banger_error_set_errno(err, errno, "starting e2fsck");
	f->pid_fd = (int)syscall(SYS_pidfd_open, f->pid, 0);
	if (f->pid_fd < 0)
		return banger_error_set_errno(err, errno, "starting e2fsck");
	return 0;
}

/* Kill it if it still runs, and take its leave. */
static void fsck_done(struct fsck *f)
{
	if (f->pid > 0) {
		kill(f->pid, SIGKILL);
		while (waitpid(f->pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	banger_closep(&f->pid_fd);
	banger_closep(&f->out_fd);
}

/* Take what it said; what is over the limit is read and dropped. False at the end. */
static bool take_output(struct fsck *f)
{
	char more[4096];

	for (;;) {
		ssize_t n = read(f->out_fd, more, sizeof(more));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN;
		if (n == 0)
			return false;
		size_t keep = OUTPUT_MAX - f->len < (size_t)n ? OUTPUT_MAX - f->len : (size_t)n;
		memcpy(f->output + f->len, more, keep);
		f->len += keep;
	}
}

static int wait_for_end(
	struct fsck *f, struct operation *op, int *ret_status, struct banger_error *err)
{
	int64_t until = banger_monotonic_us() + TIME_MAX_S * 1000000LL;
	struct pollfd fds[] = {{.fd = f->pid_fd, .events = POLLIN},
		{.fd = operation_cancel_fd(op), .events = POLLIN},
		{.fd = f->out_fd, .events = POLLIN}};

	while (!(fds[0].revents & POLLIN)) {
		int64_t left_ms = (until - banger_monotonic_us()) / 1000;
		if (left_ms <= 0)
			return banger_error_set(err, BANGER_TIMEOUT,
				"e2fsck did not finish in %d seconds", TIME_MAX_S);
		if (poll(fds, ELEMENTSOF(fds), (int)left_ms) < 0 && errno != EINTR)
			return banger_error_set_errno(err, errno, "waiting for e2fsck");
		int r = operation_check_cancelled(op, err);
		if (r < 0)
			return r;
		if (fds[2].revents && !take_output(f))
			fds[2].fd = -1;
	}
	(void)take_output(f);
	while (waitpid(f->pid, ret_status, 0) < 0)
		if (errno != EINTR)
			return banger_error_set_errno(err, errno, "waiting for e2fsck");
	f->pid = 0;
	return 0;
}

/* Lines that only say what it is doing. */
static bool is_chatter(const char *line)
{
	return !strncmp(line, "e2fsck ", 7) || !strncmp(line, "Pass ", 5) || !line[0] ||
	       strstr(line, "WARNING: Filesystem still has errors");
}

/* The complaints, as one line. */
static void summarise(struct fsck *f, char *ret, size_t size)
{
	char *save = NULL;
	size_t len = 0;

	ret[0] = 0;
	for (size_t i = 0; i < f->len; i++)
		if ((f->output[i] < 0x20 && f->output[i] != '\n') || f->output[i] > 0x7e)
			f->output[i] = '?';
	f->output[f->len] = 0;
	for (char *line = strtok_r(f->output, "\n", &save); line;
		line = strtok_r(NULL, "\n", &save)) {
		if (is_chatter(line) || len + 1 >= size)
			continue;
		int n = snprintf(ret + len, size - len, "%s%s", len ? "; " : "", line);
		len += (size_t)n < size - len ? (size_t)n : size - len - 1;
	}
}

int fsck_check(int fd, struct operation *op, char *ret_text, size_t size, struct banger_error *err)
{
	_cleanup_(fsck_done) struct fsck f = {.pid_fd = -1, .out_fd = -1};
	char text[512];
	int status;

	f.program = find_program();
	if (!f.program)
		return banger_error_set(err, BANGER_UNSUPPORTED,
			"e2fsck is not installed (Debian's package is e2fsprogs)");
	int r = start(&f, fd, err);
	if (r == 0)
		r = wait_for_end(&f, op, &status, err);
	if (r < 0)
		return r;
	summarise(&f, text, sizeof(text));
	if (WIFEXITED(status) && (WEXITSTATUS(status) == 126 || WEXITSTATUS(status) == 127))
		return banger_error_set(err, BANGER_INTERNAL, "e2fsck could not be started");
	if (WIFSIGNALED(status))
		snprintf(ret_text, size, "e2fsck was killed by signal %d", WTERMSIG(status));
	else if (WEXITSTATUS(status) == 0)
		snprintf(ret_text, size, "clean");
	else if (text[0])
		snprintf(ret_text, size, "%s", text);
	else
		snprintf(ret_text, size, "e2fsck exited with %d", WEXITSTATUS(status));
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}
