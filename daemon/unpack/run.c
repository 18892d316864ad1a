/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One program per run, with an empty environment but for the op_id and the log level. The thread
 * that asked waits for three things at once: lines of the program, the operation's cancellation,
 * and its own patience, which each line that tells of progress renews. When the program closes its
 * side the last line counts: a result, an error, or, if there is neither, how it ended.
 *
 * The program is killed and waited for on every path; by a pidfd, so that no other process can be
 * hit.
 */
#include "unpack/run.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <banger/log.h>
#include <banger/wire.h>
#include "unpack/flatten.h"
#include "unpack/program/protocol.h"

#define MEMORY (INT64_C(768) << 20)
#define CPU_SECONDS 3600
#define STALL_MS 300000
#define HEADROOM (INT64_C(64) << 20)
#define HEADROOM_PERCENT 10
#define FD_ABOVE 16 /* out of the way of the numbers that the program's descriptors get */
#define END_MS 10000

struct child {
	pid_t pid;
	int pidfd;
	int status_fd; /* its lines */
	char line[UNPACK_LINE_MAX];
	size_t len;
	struct unpack_progress progress;
	struct json_object *result;
	struct banger_error error; /* that it reported */
	bool has_error;
};

/* Kills what still runs and waits for it. */
static void child_done(struct child *c)
{
	if (c->pid > 0) {
		kill(c->pid, SIGKILL); /* not reaped yet, so the number is still its own */
		while (waitpid(c->pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	banger_closep(&c->pidfd);
	banger_closep(&c->status_fd);
	banger_json_putp(&c->result);
}
#define _cleanup_child_ _cleanup_(child_done)

/* ---- starting */

static struct json_object *options_json(const struct unpack_options *o)
{
	const struct {
		const char *key;
		int64_t value;
	} numbers[] = {
		{"size", o->size},
		{"headroom", o->headroom < 0 ? HEADROOM : o->headroom},
		{"headroom_percent",
			o->headroom_percent < 0 ? HEADROOM_PERCENT : o->headroom_percent},
		{"time", o->time > 0 ? o->time : 1},
		{"memory", o->memory > 0 ? o->memory : MEMORY},
		{"cpu_seconds", o->cpu_seconds > 0 ? o->cpu_seconds : CPU_SECONDS},
	};
	_cleanup_json_ struct json_object *j = json_object_new_object();
	char seed[65];

	for (size_t i = 0; i < ELEMENTSOF(numbers); i++)
		if (!j || banger_json_add_int(j, numbers[i].key, numbers[i].value) < 0)
			return NULL;
	for (int i = 0; o->seed && i < 32; i++)
		snprintf(seed + 2 * i, 3, "%02x", o->seed[i]);
	return banger_json_add_str(j, "seed", o->seed ? seed : NULL) < 0 ? NULL : TAKE_PTR(j);
}

/* Descriptors high up, then down to their places, so that none of the three is in another's place.
 */
static int spawn_with(const char *program, const char *argument, const int fds[3], pid_t *ret)
{
	char *argv[] = {(char *)"banger-unpack", (char *)argument, NULL};
	char op[64], level[64], *envp[5] = {NULL};
	size_t n = 0;
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none;
	const char *op_id = banger_op_current(), *log_level = getenv("BANGER_LOG_LEVEL");

	if (op_id) {
		snprintf(op, sizeof(op), "BANGER_OP_ID=%s", op_id);
		envp[n++] = op;
	}
	if (log_level && strlen(log_level) < 16) {
		snprintf(level, sizeof(level), "BANGER_LOG_LEVEL=%s", log_level);
		envp[n++] = level;
	}
	int e = posix_spawn_file_actions_init(&actions);
	if (e)
		return -e;
	e = posix_spawnattr_init(&attr);
	if (e) {
		posix_spawn_file_actions_destroy(&actions);
		return -e;
	}
	/* The daemon takes its signals by a descriptor; the program is to have none blocked. */
	sigemptyset(&none);
	e = posix_spawnattr_setsigmask(&attr, &none);
	if (!e)
		e = posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
	if (!e)
		e = posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
	if (!e)
		e = posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
	for (int i = 0; i < 3 && !e; i++)
		e = posix_spawn_file_actions_adddup2(&actions, fds[i], UNPACK_FD_TAR + i);
	if (!e)
		e = posix_spawn_file_actions_addclosefrom_np(&actions, UNPACK_FD_END);
	if (!e)
		e = posix_spawn(ret, program, &actions, &attr, argv, envp);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attr);
	return -e;
}

static int child_start(struct child *c, const char *program, const struct unpack_options *o,
	struct banger_error *err)
{
	_cleanup_json_ struct json_object *options = options_json(o);
	_cleanup_close_ int tar = -1, out = -1, status = -1;
	int ends[2];

	if (!options)
		return banger_error_oom(err);
	if (pipe2(ends, O_CLOEXEC) < 0)
		return banger_error_set_errno(err, errno, "cannot make a pipe");
	c->status_fd = ends[0];
	status = fcntl(ends[1], F_DUPFD_CLOEXEC, FD_ABOVE);
	close(ends[1]);
	tar = fcntl(o->tar_fd, F_DUPFD_CLOEXEC, FD_ABOVE);
	out = fcntl(o->out_fd, F_DUPFD_CLOEXEC, FD_ABOVE);
	if (status < 0 || tar < 0 || out < 0)
		return banger_error_set_errno(err, errno, "cannot hand over descriptors");
	int r = spawn_with(program, json_object_to_json_string_ext(options, JSON_C_TO_STRING_PLAIN),
		(const int[]){tar, out, status}, &c->pid);
	if (r < 0) {
		c->pid = 0;
		return banger_error_set_errno(err, r, "cannot start %s", program);
	}
	c->pidfd = pidfd_open(c->pid, 0);
	return 0;
}

/* ---- listening */

/* Takes one line. Returns true when it tells of progress. */
static bool take_progress(struct child *c, const struct unpack_options *o, struct json_object *j)
{
	const struct unpack_progress now = {.read = banger_json_int(j, "read", 0),
		.members = banger_json_int(j, "members", 0),
		.content = banger_json_int(j, "content", 0)};
	bool moved = memcmp(&now, &c->progress, sizeof(now)) != 0;

	c->progress = now;
	if (moved && o->progress)
		o->progress(o->arg, &now);
	return moved;
}

/* A member that is an object. */
static struct json_object *member(struct json_object *j, const char *key)
{
	struct json_object *o = banger_json_get(j, key);

	return json_object_is_type(o, json_type_object) ? o : NULL;
}

static bool take_line(struct child *c, const struct unpack_options *o, const char *line, size_t len)
{
	_cleanup_json_ struct json_object *j = NULL;
	struct json_object *part;

	if (banger_json_parse(line, len, &j, NULL) < 0)
		return false;
	if ((part = member(j, "progress")))
		return take_progress(c, o, part);
	if ((part = member(j, "result"))) {
		banger_json_putp(&c->result);
		c->result = json_object_get(part);
	} else if ((part = member(j, "error"))) {
		const char *code = banger_json_str(part, "code");
		const char *message = banger_json_str(part, "message");
		enum banger_code known = banger_code_from_name(code ? code : "");
		banger_error_set(&c->error, known == BANGER_OK ? BANGER_INTERNAL : known, "%s",
			message ? message : "no reason was given");
		c->has_error = true;
	}
	return false;
}

/* Reads what there is. Returns 1, with *moved set if there was progress, 0 at the end, -EPROTO for
 * a line without end. */
static int child_read(struct child *c, const struct unpack_options *o, bool *moved)
{
	ssize_t n = read(c->status_fd, c->line + c->len, sizeof(c->line) - c->len);
	char *end;

	if (n < 0)
		return errno == EINTR || errno == EAGAIN;
	if (n == 0)
		return 0;
	c->len += n;
	while ((end = memchr(c->line, '\n', c->len))) {
		size_t len = end - c->line;
		*moved |= take_line(c, o, c->line, len);
		c->len -= len + 1;
		memmove(c->line, end + 1, c->len);
	}
	return c->len < sizeof(c->line) ? 1 : -EPROTO;
}

static int child_listen(struct child *c, const struct unpack_options *o, struct banger_error *err)
{
	int64_t stall_us = (o->stall_ms > 0 ? o->stall_ms : STALL_MS) * INT64_C(1000);
	int64_t last = banger_monotonic_us();

	for (;;) {
		struct pollfd p[2] = {{.fd = c->status_fd, .events = POLLIN},
			{.fd = o->cancel_fd, .events = POLLIN}};
		int64_t left = last + stall_us - banger_monotonic_us();
		bool moved = false;
		int n = left > 0 ? poll(p, 2, (left + 999) / 1000) : 0;
		if (n < 0 && errno != EINTR)
			return banger_error_set_errno(err, errno, "cannot wait for banger-unpack");
		if (n < 0)
			continue;
		if (n == 0)
			return banger_error_set(err, BANGER_TIMEOUT,
				"unpacking made no progress for %lld s, after %lld bytes and %lld "
				"members of the archive",
				(long long)(stall_us / 1000000), (long long)c->progress.read,
				(long long)c->progress.members);
		if (p[1].revents)
			return banger_error_set(err, BANGER_CANCELLED, "unpacking was cancelled");
		n = child_read(c, o, &moved);
		if (n == 0)
			return 0;
		if (n < 0)
			return banger_error_set(err, BANGER_INTERNAL,
				"banger-unpack reported more than %d bytes in one line",
				UNPACK_LINE_MAX);
		if (moved)
			last = banger_monotonic_us();
	}
}

/* ---- how it ended */

/* Waits for the end. A program that has closed its pipe and does not end is killed. */
static int child_wait(struct child *c)
{
	struct pollfd p = {.fd = c->pidfd, .events = POLLIN};
	int status;

	if (c->pidfd < 0 || poll(&p, 1, END_MS) <= 0)
		kill(c->pid, SIGKILL);
	while (waitpid(c->pid, &status, 0) < 0)
		if (errno != EINTR) {
			status = W_EXITCODE(255, 0);
			break;
		}
	c->pid = 0;
	return status;
}

static int killed(int signum, const struct unpack_options *o, struct banger_error *err)
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
			(long long)(o->cpu_seconds > 0 ? o->cpu_seconds : CPU_SECONDS));
	case SIGKILL:
		return banger_error_set(err, BANGER_INTERNAL,
			"banger-unpack was killed (signal %d), perhaps for want of memory", signum);
	default:
		return banger_error_set(
			err, BANGER_INTERNAL, "banger-unpack crashed (signal %d)", signum);
	}
}

static void copy_result(struct json_object *j, struct unpack_result *ret)
{
	const char *uuid = banger_json_str(j, "uuid");

	*ret = (struct unpack_result){.size = banger_json_int(j, "size", 0),
		.used = banger_json_int(j, "used", 0),
		.free = banger_json_int(j, "free", 0),
		.content = banger_json_int(j, "content", 0),
		.inodes = banger_json_int(j, "inodes", 0),
		.members = banger_json_int(j, "members", 0),
		.ignored_xattrs = banger_json_int(j, "ignored_xattrs", 0),
		.read = banger_json_int(j, "read", 0)};
	snprintf(ret->uuid, sizeof(ret->uuid), "%s", uuid ? uuid : "");
}

static int conclude(struct child *c, const struct unpack_options *o, struct unpack_result *ret,
	struct banger_error *err)
{
	int status = child_wait(c);

	if (WIFSIGNALED(status))
		return killed(WTERMSIG(status), o, err);
	if (c->has_error)
		return banger_error_set(err, c->error.code, "%s", c->error.message);
	if (WEXITSTATUS(status) != 0 || !c->result)
		return banger_error_set(err, BANGER_INTERNAL,
			"banger-unpack ended with status %d and no result", WEXITSTATUS(status));
	copy_result(c->result, ret);
	return 0;
}

int unpack_run(const struct banger_config *config, const struct unpack_options *o,
	struct unpack_result *ret, struct banger_error *err)
{
	_cleanup_free_ char *program = NULL;
	_cleanup_child_ struct child c = {.pidfd = -1, .status_fd = -1};
	struct unpack_result result;
	int64_t started = banger_monotonic_us();
	int r = banger_config_program(config, "banger-unpack", &program, err);

	if (r == 0)
		r = child_start(&c, program, o, err);
	if (r == 0)
		r = child_listen(&c, o, err);
	if (r == 0)
		r = conclude(&c, o, &result, err);
	if (r < 0)
		return r;
	log_info("archive unpacked", KV_I("size", result.size), KV_I("content", result.content),
		KV_I("inodes", result.inodes), KV_I("read", result.read),
		KV_D("elapsed_ms", (double)(banger_monotonic_us() - started) / 1000));
	if (result.ignored_xattrs > 0)
		log_warn("extended attributes that Linux does not have were left out",
			KV_I("count", result.ignored_xattrs));
	if (ret)
		*ret = result;
	return 0;
}

int unpack_flatten(const struct banger_config *config, int cancel_fd, int tar_fd, int out_fd,
	int64_t size, struct banger_error *err)
{
	const struct unpack_options o = {.tar_fd = tar_fd,
		.out_fd = out_fd,
		.cancel_fd = cancel_fd,
		.size = size,
		.headroom = -1,
		.headroom_percent = -1};

	return unpack_run(config, &o, NULL, err);
}
