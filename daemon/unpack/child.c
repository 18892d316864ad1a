/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One program per run, with an empty environment but for the op_id and the log level. The thread
 * that asked waits for three things at once: lines of the program, the operation's cancellation,
 * and its own patience, which each line that tells of progress renews. When the program closes its
 * side the last line counts: a result, an error, or, if there is neither, how it ended. That it ends
 * then is waited for a while, which a cancellation cuts short, like everything else here.
 *
 * The program is killed and waited for on every path. Its number is its own until it was waited for,
 * so no other process can be hit; its end is waited for by a pidfd, which polls.
 */
#include "unpack/child.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <banger/log.h>
#include <banger/op.h>

#define TICK_MS 500  /* progress is told so often at least */
#define FD_ABOVE 128 /* out of the way of the numbers that the program's descriptors get */
#define FDS_MOST 100
#define END_MS 10000

void child_done(struct child *c)
{
	if (c->pid > 0) {
		kill(c->pid, SIGKILL);
		while (waitpid(c->pid, NULL, 0) < 0 && errno == EINTR)
			;
		c->pid = 0;
	}
	banger_closep(&c->pidfd);
	banger_closep(&c->status_fd);
	feed_done(&c->feed);
	banger_json_putp(&c->result);
	banger_json_putp(&c->failure);
}

/* ---- starting */

/* Descriptors high up, so that none is in another's place when they come down to theirs. */
struct handed {
	int fds[FDS_MOST];
	size_t n;
};

static void handed_done(struct handed *h)
{
	for (size_t i = 0; i < h->n; i++)
		banger_closep(&h->fds[i]);
}

static int hand(struct handed *h, int fd)
{
	int high = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, FD_ABOVE);

	if (fd >= 0 && high < 0)
		return -errno;
	h->fds[h->n++] = high;
	return 0;
}

static int add_actions(posix_spawn_file_actions_t *actions, const struct handed *h)
{
	int e = posix_spawn_file_actions_addopen(actions, 0, "/dev/null", O_RDONLY, 0);

	if (!e)
		e = posix_spawn_file_actions_addopen(actions, 1, "/dev/null", O_WRONLY, 0);
	for (size_t i = 0; i < h->n && !e; i++) {
		int place = UNPACK_FD_TAR + (int)i;
		e = h->fds[i] >= 0 ? posix_spawn_file_actions_adddup2(actions, h->fds[i], place)
				   : posix_spawn_file_actions_addclose(actions, place);
	}
	if (!e)
		e = posix_spawn_file_actions_addclosefrom_np(actions, UNPACK_FD_TAR + (int)h->n);
	return e;
}

/* The daemon takes its signals by a descriptor; the program is to have none blocked. */
static int clear_signals(posix_spawnattr_t *attr)
{
	sigset_t none;

	sigemptyset(&none);
	int e = posix_spawnattr_setsigmask(attr, &none);
	return e ? e : posix_spawnattr_setflags(attr, POSIX_SPAWN_SETSIGMASK);
}

static int spawn(const char *program, const char *const *arguments, const struct handed *h,
	char *const *envp, pid_t *ret)
{
	const char *argv[4] = {"banger-unpack"};
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;

	for (size_t i = 0; arguments[i] && i + 2 < ELEMENTSOF(argv); i++)
		argv[i + 1] = arguments[i];
	int e = posix_spawn_file_actions_init(&actions);
	if (e)
		return -e;
	e = posix_spawnattr_init(&attr);
	if (e) {
		posix_spawn_file_actions_destroy(&actions);
		return -e;
	}
	e = clear_signals(&attr);
	if (!e)
		e = add_actions(&actions, h);
	if (!e)
		e = posix_spawn(ret, program, &actions, &attr, (char *const *)argv, envp);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attr);
	return -e;
}

static int spawn_here(
	const char *program, const char *const *arguments, const struct handed *h, pid_t *ret)
{
	const char *op_id = banger_op_current(), *log_level = getenv("BANGER_LOG_LEVEL");
	char op[64], level[64], *envp[3] = {NULL};
	size_t n = 0;

	if (op_id) {
		snprintf(op, sizeof(op), "BANGER_OP_ID=%s", op_id);
		envp[n++] = op;
	}
	if (log_level && strlen(log_level) < 16) {
		snprintf(level, sizeof(level), "BANGER_LOG_LEVEL=%s", log_level);
		envp[n++] = level;
	}
	return spawn(program, arguments, h, envp, ret);
}

int child_start(struct child *c, const char *program, const char *const *arguments, int *fds,
	size_t n, struct banger_error *err)
{
	_cleanup_(handed_done) struct handed h = {.n = 0};
	_cleanup_close_ int end = -1;
	int ends[2], r = 0;

	if (n > FDS_MOST || n <= UNPACK_FD_STATUS - UNPACK_FD_TAR)
		return banger_error_set(err, BANGER_INTERNAL, "%zu descriptors for a program", n);
	if (pipe2(ends, O_CLOEXEC) < 0)
		return banger_error_set_errno(err, errno, "cannot make a pipe");
	c->status_fd = ends[0];
	end = ends[1];
	fds[UNPACK_FD_STATUS - UNPACK_FD_TAR] = end;
	for (size_t i = 0; i < n && r == 0; i++)
		r = hand(&h, fds[i]);
	if (r < 0)
		return banger_error_set_errno(err, r, "cannot hand over descriptors");
	r = spawn_here(program, arguments, &h, &c->pid);
	if (r < 0) {
		c->pid = 0;
		return banger_error_set_errno(err, r, "cannot start %s", program);
	}
	c->pidfd = pidfd_open(c->pid, 0);
	return c->pidfd < 0 ? banger_error_set_errno(err, errno, "cannot wait for %s", program) : 0;
}

/* ---- what it says */

static bool take_progress(struct child *c, const struct child_patience *p, struct json_object *j)
{
	const struct unpack_progress now = {.layer = banger_json_int(j, "layer", 0),
		.read = banger_json_int(j, "read", 0),
		.members = banger_json_int(j, "members", 0),
		.content = banger_json_int(j, "content", 0)};
	bool moved = memcmp(&now, &c->progress, sizeof(now)) != 0;

	c->progress = now;
	if (moved && p->progress)
		p->progress(p->arg, &now);
	return moved;
}

static void take_failure(struct child *c, struct json_object *j)
{
	const char *code = banger_json_str(j, "code"), *message = banger_json_str(j, "message");
	enum banger_code known = banger_code_from_name(code ?: "");

	banger_error_set(&c->error, known == BANGER_OK ? BANGER_INTERNAL : known, "%s",
		message ?: "no reason was given");
	banger_json_putp(&c->failure);
	c->failure = json_object_get(j);
}

/* A member that is an object. */
static struct json_object *member(struct json_object *j, const char *key)
{
	struct json_object *o = banger_json_get(j, key);

	return json_object_is_type(o, json_type_object) ? o : NULL;
}

/* True when the line tells of progress. */
static bool take_line(struct child *c, const struct child_patience *p, const char *line, size_t len)
{
	_cleanup_json_ struct json_object *j = NULL;
	struct json_object *part;

	if (banger_json_parse(line, len, &j, NULL) < 0)
		return false;
	if ((part = member(j, "progress")))
		return take_progress(c, p, part);
	if ((part = member(j, "result"))) {
		banger_json_putp(&c->result);
		c->result = json_object_get(part);
	} else if ((part = member(j, "error"))) {
		take_failure(c, part);
	}
	return false;
}

/* Reads what there is. Returns 1, with *moved set if there was progress, 0 at the end, -EPROTO for
 * a line without end. */
static int read_lines(struct child *c, const struct child_patience *p, bool *moved)
{
	ssize_t n = read(c->status_fd, c->line + c->len, sizeof(c->line) - c->len);
	char *end;

	if (n < 0)
		return errno == EINTR || errno == EAGAIN;
	if (n == 0)
		return 0;
	c->len += (size_t)n;
	while ((end = memchr(c->line, '\n', c->len))) {
		size_t len = (size_t)(end - c->line);
		*moved |= take_line(c, p, c->line, len);
		c->len -= len + 1;
		memmove(c->line, end + 1, c->len);
	}
	return c->len < sizeof(c->line) ? 1 : -EPROTO;
}

/* ---- listening */

static int cancelled(struct banger_error *err)
{
	return banger_error_set(err, BANGER_CANCELLED, "unpacking was cancelled");
}

static int stalled(const struct child *c, int64_t stall_ms, struct banger_error *err)
{
	return banger_error_set(err, BANGER_TIMEOUT,
		"unpacking made no progress for %lld s, after %lld bytes and %lld members of the "
		"archive",
		(long long)(stall_ms / 1000), (long long)c->progress.read,
		(long long)c->progress.members);
}

/* What poll() has found. Returns 1, 0 when the program has closed its side. */
static int attend(struct child *c, const struct child_patience *p, const struct pollfd at[4],
	bool *moved, struct banger_error *err)
{
	int r = 0;

	if (at[1].revents)
		return cancelled(err);
	if (at[3].revents)
		r = feed_notified(&c->feed, err);
	if (r == 0 && at[2].revents)
		r = feed_socket(&c->feed, err);
	if (r < 0)
		return r;
	r = at[0].revents ? read_lines(c, p, moved) : 1;
	return r >= 0 ? r
		      : banger_error_set(err, BANGER_INTERNAL,
				"banger-unpack reported more than %d bytes in one line",
				UNPACK_LINE_MAX);
}

/* Until the program has closed its side. Waiting for input is no standing still. */
static int listen_to(struct child *c, const struct child_patience *p, struct banger_error *err)
{
	int64_t last = banger_monotonic_us(), stall_us = p->stall_ms * 1000;

	for (;;) {
		struct pollfd at[4] = {{.fd = c->status_fd, .events = POLLIN},
			{.fd = p->cancel_fd, .events = POLLIN},
			{.fd = c->feed.fd, .events = feed_events(&c->feed)},
			{.fd = feed_notify_fd(&c->feed), .events = POLLIN}};
		bool moved = feed_starved(&c->feed);
		int64_t now = banger_monotonic_us();
		if (moved)
			last = now;
		int64_t left = last + stall_us - now;
		int wait = moved || left > TICK_MS * 1000 ? TICK_MS : (int)((left + 999) / 1000);
		int n = left <= 0 ? 0 : poll(at, 4, wait);
		if (n < 0 && errno != EINTR)
			return banger_error_set_errno(err, errno, "cannot wait for banger-unpack");
		if (n < 0)
			continue;
		if (n == 0 && !moved && left <= TICK_MS * 1000)
			return stalled(c, p->stall_ms, err);
		if (n == 0) { /* what is waited for may have come nearer */
			if (p->progress)
				p->progress(p->arg, &c->progress);
			continue;
		}
		int r = attend(c, p, at, &moved, err);
		if (r <= 0)
			return r;
		if (moved)
			last = banger_monotonic_us();
	}
}

/* ---- how it ended */

/* Waits for its end; one that has closed its pipe and does not end is killed. */
static int await_end(
	struct child *c, const struct child_patience *p, int *ret_status, struct banger_error *err)
{
	struct pollfd at[] = {
		{.fd = c->pidfd, .events = POLLIN}, {.fd = p->cancel_fd, .events = POLLIN}};
	int64_t until = banger_monotonic_us() + END_MS * 1000;

	while (!at[0].revents) {
		int64_t left = (until - banger_monotonic_us() + 999) / 1000;
		int n = left > 0 ? poll(at, 2, (int)left) : 0;
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			kill(c->pid, SIGKILL);
			break;
		}
		/* What has ended well before that is not taken back. */
		if (at[1].revents && !at[0].revents)
			return cancelled(err);
	}
	while (waitpid(c->pid, ret_status, 0) < 0)
		if (errno != EINTR) {
			*ret_status = W_EXITCODE(255, 0);
			break;
		}
	c->pid = 0;
	return 0;
}

static int killed(int signum, const struct child_patience *p, struct banger_error *err)
{
	switch (signum) {
	case SIGSYS:
		return banger_error_set(err, BANGER_INTERNAL,
			"banger-unpack was killed by its sandbox (signal %d): it tried a forbidden "
			"system call",
			signum);
	case SIGXCPU:
		return banger_error_set(err, BANGER_TIMEOUT,
			"unpacking took more than the %lld s of CPU time that it may",
			(long long)p->cpu_seconds);
	case SIGKILL:
		return banger_error_set(err, BANGER_INTERNAL,
			"banger-unpack was killed (signal %d), perhaps for want of memory", signum);
	default:
		return banger_error_set(
			err, BANGER_INTERNAL, "banger-unpack crashed (signal %d)", signum);
	}
}

int child_run(struct child *c, const struct child_patience *p, struct banger_error *err)
{
	int status = 0;
	int r = listen_to(c, p, err);

	if (r == 0)
		r = await_end(c, p, &status, err);
	if (r < 0)
		return r;
	if (WIFSIGNALED(status))
		return killed(WTERMSIG(status), p, err);
	if (c->failure)
		return banger_error_set(err, c->error.code, "%s", c->error.message);
	if (WEXITSTATUS(status) != 0 || !c->result)
		return banger_error_set(err, BANGER_INTERNAL,
			"banger-unpack ended with status %d and no result", WEXITSTATUS(status));
	return 0;
}
