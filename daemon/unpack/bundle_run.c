/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One program per bundle, with an empty environment but for the op_id and the log level. This thread
 * waits for its lines, for the cancellation, and for its own patience to end; each line that tells of
 * more bytes renews that. The program is killed and waited for on every path.
 */
#include "unpack/bundle_run.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <banger/log.h>
#include <banger/op.h>
#include <banger/wire.h>
#include "unpack/program/bundle.h"
#include "unpack/program/protocol.h"

#define MEMORY (INT64_C(768) << 20)
#define CPU_SECONDS 3600
#define STALL_US INT64_C(300000000)
#define FD_ABOVE 128 /* out of the way of the numbers that the program's descriptors get */
#define END_MS 10000

struct child {
	pid_t pid;
	int status_fd;
	char line[UNPACK_LINE_MAX];
	size_t len;
	int64_t read, last_us;
	bool has_result, has_error;
	struct banger_error error; /* that it reported */
};

static void child_done(struct child *c)
{
	if (c->pid > 0) {
		kill(c->pid, SIGKILL); /* not reaped yet, so the number is still its own */
		while (waitpid(c->pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	banger_closep(&c->status_fd);
}

/* ---- starting */

/* Descriptors high up, so that none is in another's place when they come down to theirs. */
struct handed {
	int fds[BUNDLE_FD_FILES - BUNDLE_FD_IN + BUNDLE_FILES_MOST];
	size_t n;
};

static void handed_done(struct handed *h)
{
	for (size_t i = 0; i < h->n; i++)
		close(h->fds[i]);
}

static int hand(struct handed *h, int fd)
{
	int high = fcntl(fd, F_DUPFD_CLOEXEC, FD_ABOVE);

	if (high < 0)
		return -errno;
	h->fds[h->n++] = high;
	return 0;
}

static int collect(struct handed *h, const struct unpack_bundle *b, int status)
{
	int r = hand(h, b->in_fd);

	if (r == 0)
		r = hand(h, b->document_fd);
	if (r == 0)
		r = hand(h, status);
	for (size_t i = 0; i < b->n && r == 0; i++)
		r = hand(h, b->files[i]);
	return r;
}

static int add_actions(posix_spawn_file_actions_t *actions, const struct handed *h)
{
	int e = posix_spawn_file_actions_addopen(actions, 0, "/dev/null", O_RDONLY, 0);

	if (!e)
		e = posix_spawn_file_actions_addopen(actions, 1, "/dev/null", O_WRONLY, 0);
	for (size_t i = 0; i < h->n && !e; i++)
		e = posix_spawn_file_actions_adddup2(actions, h->fds[i], BUNDLE_FD_IN + (int)i);
	if (!e)
		e = posix_spawn_file_actions_addclosefrom_np(actions, BUNDLE_FD_IN + (int)h->n);
	return -e;
}

static int spawn(const char *program, char *options, const struct handed *h, pid_t *ret)
{
	const char *op_id = banger_op_current(), *log_level = getenv("BANGER_LOG_LEVEL");
	char *argv[] = {(char *)"banger-unpack", (char *)"--bundle", options, NULL};
	char op[64], level[64], *envp[] = {op, level, NULL};
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none;

	snprintf(op, sizeof(op), "BANGER_OP_ID=%s", op_id ?: "");
	snprintf(level, sizeof(level), "BANGER_LOG_LEVEL=%.16s", log_level ?: "info");
	int e = posix_spawn_file_actions_init(&actions);
	if (e)
		return -e;
	e = posix_spawnattr_init(&attr);
	if (e) {
		posix_spawn_file_actions_destroy(&actions);
		return -e;
	}
	sigemptyset(&none);
	e = posix_spawnattr_setsigmask(&attr, &none);
	if (!e)
		e = posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
	if (!e)
		e = -add_actions(&actions, h);
	if (!e)
		e = posix_spawn(ret, program, &actions, &attr, argv, envp);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attr);
	return -e;
}

static int child_start(struct child *c, const char *program, const struct unpack_bundle *b,
	struct banger_error *err)
{
	_cleanup_(handed_done) struct handed h = {0};
	char options[128];
	int ends[2];

	if (b->n > BUNDLE_FILES_MOST)
		return banger_error_set(err, BANGER_INTERNAL, "too many files for a bundle");
	snprintf(options, sizeof(options), "{\"files\":%zu,\"memory\":%lld,\"cpu_seconds\":%d}",
		b->n, (long long)MEMORY, CPU_SECONDS);
	if (pipe2(ends, O_CLOEXEC) < 0)
		return banger_error_set_errno(err, errno, "cannot make a pipe");
	c->status_fd = ends[0];
	int r = collect(&h, b, ends[1]);
	close(ends[1]);
	if (r < 0)
		return banger_error_set_errno(err, r, "cannot hand over descriptors");
	r = spawn(program, options, &h, &c->pid);
	if (r < 0) {
		c->pid = 0;
		return banger_error_set_errno(err, r, "cannot start %s", program);
	}
	return 0;
}

/* ---- listening */

static void take_error(struct child *c, struct json_object *o)
{
	const char *code = banger_json_str(o, "code"), *message = banger_json_str(o, "message");
	enum banger_code known = banger_code_from_name(code ?: "");

	banger_error_set(&c->error, known == BANGER_OK ? BANGER_INTERNAL : known, "%s",
		message ?: "no reason was given");
	c->has_error = true;
}

static void take_line(struct child *c, const struct unpack_bundle *b, const char *line, size_t len)
{
	_cleanup_json_ struct json_object *j = NULL;
	struct json_object *part;

	if (banger_json_parse(line, len, &j, NULL) < 0)
		return;
	if ((part = banger_json_get(j, "progress"))) {
		int64_t now = banger_json_int(part, "read", 0);
		if (now > c->read) {
			c->read = now;
			c->last_us = banger_monotonic_us();
			if (b->progress)
				b->progress(b->arg, now);
		}
	} else if ((part = banger_json_get(j, "error"))) {
		take_error(c, part);
	} else if (banger_json_get(j, "result")) {
		c->has_result = true;
	}
}

/* Reads what there is: 1, or 0 at the end, -EPROTO for a line without end. */
static int child_read(struct child *c, const struct unpack_bundle *b)
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
		take_line(c, b, c->line, len);
		c->len -= len + 1;
		memmove(c->line, end + 1, c->len);
	}
	return c->len < sizeof(c->line) ? 1 : -EPROTO;
}

static int child_listen(struct child *c, const struct unpack_bundle *b, struct banger_error *err)
{
	struct pollfd p[] = {
		{.fd = c->status_fd, .events = POLLIN}, {.fd = b->cancel_fd, .events = POLLIN}};

	c->last_us = banger_monotonic_us();
	for (;;) {
		int64_t left_us = c->last_us + STALL_US - banger_monotonic_us();
		int n = left_us > 0 ? poll(p, ELEMENTSOF(p), (int)((left_us + 999) / 1000)) : 0;
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return banger_error_set_errno(err, errno, "cannot wait for banger-unpack");
		if (n == 0)
			return banger_error_set(err, BANGER_TIMEOUT,
				"unpacking the bundle made no progress for %d s, after %lld bytes "
				"of it",
				(int)(STALL_US / 1000000), (long long)c->read);
		if (p[1].revents)
			return banger_error_set(err, BANGER_CANCELLED, "unpacking was cancelled");
		n = child_read(c, b);
		if (n == 0)
			return 0;
		if (n < 0)
			return banger_error_set(err, BANGER_INTERNAL,
				"banger-unpack reported more than %d bytes in one line",
				UNPACK_LINE_MAX);
	}
}

/* ---- how it ended */

static int killed(int signum, struct banger_error *err)
{
	if (signum == SIGXCPU)
		return banger_error_set(err, BANGER_TIMEOUT,
			"unpacking took more than the %d s of CPU time that it may", CPU_SECONDS);
	return banger_error_set(err, BANGER_INTERNAL, "banger-unpack was killed by signal %d%s",
		signum,
		signum == SIGSYS ? ": it tried a system call that its sandbox forbids" : "");
}

/* It has closed its pipe; one that does not end then is killed. */
static int child_wait(struct child *c)
{
	int status = 0;

	for (int waited = 0; waitpid(c->pid, &status, waited < END_MS ? WNOHANG : 0) == 0;
		waited += 2) {
		(void)poll(NULL, 0, 2);
		if (waited + 2 >= END_MS)
			kill(c->pid, SIGKILL);
	}
	c->pid = 0;
	return status;
}

static int conclude(struct child *c, struct banger_error *err)
{
	int status = child_wait(c);

	if (WIFSIGNALED(status))
		return killed(WTERMSIG(status), err);
	if (c->has_error)
		return banger_error_set(err, c->error.code, "%s", c->error.message);
	if (WEXITSTATUS(status) != 0 || !c->has_result)
		return banger_error_set(err, BANGER_INTERNAL,
			"banger-unpack ended with status %d and no result", WEXITSTATUS(status));
	return 0;
}

int unpack_bundle_run(
	const struct banger_config *config, const struct unpack_bundle *b, struct banger_error *err)
{
	_cleanup_(child_done) struct child c = {.status_fd = -1};
	_cleanup_free_ char *program = NULL;
	int r = banger_config_program(config, "banger-unpack", &program, err);

	if (r == 0)
		r = child_start(&c, program, b, err);
	if (r == 0)
		r = child_listen(&c, b, err);
	return r < 0 ? r : conclude(&c, err);
}
