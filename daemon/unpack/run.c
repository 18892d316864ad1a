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
#include "unpack/feed.h"
#include "unpack/flatten.h"
#include "unpack/program/protocol.h"

#define MEMORY (INT64_C(768) << 20)
#define CPU_SECONDS 3600
#define TICK_MS 500 /* progress is told so often at least */
#define STALL_MS 300000
#define HEADROOM (INT64_C(64) << 20)
#define HEADROOM_PERCENT 10
#define UNPACKED_MAX (INT64_C(1) << 40)
#define HOME "/root"
#define HOME_HEADROOM (INT64_C(1) << 30)
#define FD_ABOVE 16 /* out of the way of the numbers that the program's descriptors get */
#define END_MS 10000

struct child {
	pid_t pid;
	int pidfd;
	int status_fd; /* its lines */
	struct feed feed;
	char line[UNPACK_LINE_MAX];
	size_t len;
	struct unpack_progress progress;
	struct json_object *result;
	struct banger_error error; /* that it reported */
	bool has_error;
	bool reuse;    /* of the error: because of what was reused */
	int64_t layer; /* of the error; -1 */
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
	feed_done(&c->feed);
	banger_json_putp(&c->result);
}
#define _cleanup_child_ _cleanup_(child_done)

/* ---- starting */

static bool is_fd(int fd)
{
	return fd > 0;
}

static int add_home(struct json_object *j, const struct unpack_options *o)
{
	_cleanup_json_ struct json_object *home = json_object_new_object();

	if (!home ||
		banger_json_add_str(home, "path", o->work_seed_path ? o->work_seed_path : HOME) <
			0 ||
		banger_json_add_int(home, "size", o->work_seed_size) < 0 ||
		banger_json_add_int(home, "headroom", HOME_HEADROOM) < 0)
		return -ENOMEM;
	return banger_json_add(j, "home", TAKE_PTR(home));
}

static int add_layers(struct json_object *j, const struct unpack_options *o)
{
	if (banger_json_add_int(j, "layers", o->n_layers) < 0 ||
		banger_json_add_int(j, "replay", feed_replayed(o)) < 0 ||
		banger_json_add_int(
			j, "unpacked", o->unpacked_max > 0 ? o->unpacked_max : UNPACKED_MAX) < 0 ||
		banger_json_add_bool(j, "keep", is_fd(o->keep_fd)) < 0)
		return -ENOMEM;
	return 0;
}

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
	if (banger_json_add_str(j, "seed", o->seed ? seed : NULL) < 0 ||
		banger_json_add_bool(j, "mountpoints", o->mountpoints) < 0 ||
		(o->n_layers > 0 && add_layers(j, o) < 0) ||
		(is_fd(o->work_seed_fd) && add_home(j, o) < 0))
		return NULL;
	return TAKE_PTR(j);
}

#define N_FDS (UNPACK_FD_END - UNPACK_FD_TAR)

/* Descriptors high up, then down to their places, so that none of them is in another's place. -1:
 * the program has none there. */
static int spawn_with(const char *program, const char *argument, const int fds[N_FDS], pid_t *ret)
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
	for (int i = 0; i < N_FDS && !e; i++)
		e = fds[i] >= 0
			    ? posix_spawn_file_actions_adddup2(&actions, fds[i], UNPACK_FD_TAR + i)
			    : posix_spawn_file_actions_addclose(&actions, UNPACK_FD_TAR + i);
	if (!e)
		e = posix_spawn_file_actions_addclosefrom_np(&actions, UNPACK_FD_END);
	if (!e)
		e = posix_spawn(ret, program, &actions, &attr, argv, envp);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attr);
	return -e;
}

static int duplicate(int fd, int *ret, struct banger_error *err)
{
	*ret = fcntl(fd, F_DUPFD_CLOEXEC, FD_ABOVE);
	return *ret < 0 ? banger_error_set_errno(err, errno, "cannot hand over descriptors") : 0;
}

struct fds {
	int at[N_FDS];
};

static void fds_done(struct fds *f)
{
	for (int i = 0; i < N_FDS; i++)
		banger_closep(&f->at[i]);
}

/* Takes input and status, which are the program's ends. */
static int gather_fds(const struct unpack_options *o, int input, int status, struct fds *ret,
	struct banger_error *err)
{
	_cleanup_close_ int own_input = input, own_status = status;
	const struct {
		int place, fd;
		bool always;
	} given[] = {{UNPACK_FD_TAR, own_input >= 0 ? own_input : o->tar_fd, true},
		{UNPACK_FD_IMAGE, o->out_fd, true}, {UNPACK_FD_STATUS, own_status, true},
		{UNPACK_FD_HOME, o->work_seed_fd, false}, {UNPACK_FD_KEEP, o->keep_fd, false},
		{UNPACK_FD_FROM, o->from_fd, false}};
	int r = 0;

	for (size_t i = 0; i < ELEMENTSOF(given) && r == 0; i++)
		if (given[i].always || is_fd(given[i].fd))
			r = duplicate(given[i].fd, &ret->at[given[i].place - UNPACK_FD_TAR], err);
	return r;
}

static int child_start(struct child *c, const char *program, const struct unpack_options *o,
	struct banger_error *err)
{
	_cleanup_json_ struct json_object *options = options_json(o);
	_cleanup_(fds_done) struct fds fds = {{-1, -1, -1, -1, -1, -1}};
	int input = -1, ends[2];

	if (!options)
		return banger_error_oom(err);
	int r = o->n_layers > 0 ? feed_init(&c->feed, o, &input, err) : 0;
	if (r < 0)
		return r;
	if (pipe2(ends, O_CLOEXEC) < 0) {
		r = banger_error_set_errno(err, errno, "cannot make a pipe");
		banger_closep(&input);
		return r;
	}
	c->status_fd = ends[0];
	r = gather_fds(o, input, ends[1], &fds, err);
	if (r < 0)
		return r;
	r = spawn_with(program, json_object_to_json_string_ext(options, JSON_C_TO_STRING_PLAIN),
		fds.at, &c->pid);
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
	const struct unpack_progress now = {.layer = banger_json_int(j, "layer", 0),
		.read = banger_json_int(j, "read", 0),
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
		c->reuse = banger_json_bool(part, "reuse", false);
		c->layer = banger_json_int(part, "layer", -1);
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

static int stalled(const struct child *c, int64_t stall_us, struct banger_error *err)
{
	return banger_error_set(err, BANGER_TIMEOUT,
		"unpacking made no progress for %lld s, after %lld bytes and %lld members of the "
		"archive",
		(long long)(stall_us / 1000000), (long long)c->progress.read,
		(long long)c->progress.members);
}

/* Until the program has closed its side. Waiting for input is no standing still. */
static int child_listen(struct child *c, const struct unpack_options *o, struct banger_error *err)
{
	int64_t stall_us = (o->stall_ms > 0 ? o->stall_ms : STALL_MS) * INT64_C(1000);
	int64_t last = banger_monotonic_us();

	for (;;) {
		struct pollfd p[4] = {{.fd = c->status_fd, .events = POLLIN},
			{.fd = o->cancel_fd, .events = POLLIN},
			{.fd = c->feed.fd, .events = feed_events(&c->feed)},
			{.fd = feed_notify_fd(&c->feed), .events = POLLIN}};
		bool moved = feed_starved(&c->feed);
		int64_t now = banger_monotonic_us();
		if (moved)
			last = now;
		int64_t left = last + stall_us - now;
		int wait = moved || left > TICK_MS * 1000 ? TICK_MS : (int)((left + 999) / 1000);
		int n = left <= 0 ? 0 : poll(p, 4, wait), r = 0;
		if (n < 0 && errno != EINTR)
			return banger_error_set_errno(err, errno, "cannot wait for banger-unpack");
		if (n < 0)
			continue;
		if (n == 0 && !moved && left <= TICK_MS * 1000)
			return stalled(c, stall_us, err);
		if (n == 0) { /* what is waited for may have come nearer */
			if (o->progress)
				o->progress(o->arg, &c->progress);
			continue;
		}
		if (p[1].revents)
			return banger_error_set(err, BANGER_CANCELLED, "unpacking was cancelled");
		if (p[3].revents)
			r = feed_notified(&c->feed, err);
		if (r == 0 && p[2].revents)
			r = feed_socket(&c->feed, err);
		if (r < 0)
			return r;
		n = p[0].revents ? child_read(c, o, &moved) : 1;
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
	struct json_object *home = member(j, "home");

	*ret = (struct unpack_result){.size = banger_json_int(j, "size", 0),
		.used = banger_json_int(j, "used", 0),
		.free = banger_json_int(j, "free", 0),
		.content = banger_json_int(j, "content", 0),
		.inodes = banger_json_int(j, "inodes", 0),
		.members = banger_json_int(j, "members", 0),
		.ignored_xattrs = banger_json_int(j, "ignored_xattrs", 0),
		.read = banger_json_int(j, "read", 0),
		.kept = banger_json_bool(j, "kept", false),
		.shared = banger_json_bool(j, "shared", false),
		.work_seed_size = home ? banger_json_int(home, "size", 0) : 0,
		.work_seed_inodes = home ? banger_json_int(home, "inodes", 0) : 0};
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

/* What the program could not say itself: which layer it was at. */
static void name_layer(
	const struct child *c, const struct unpack_options *o, int r, struct banger_error *err)
{
	if (!c->feed.any || c->has_error || r == -ECANCELED)
		return;
	const char *digest = o->layers[c->feed.layer].digest;
	banger_error_prefix(err, "layer %u of %zu%s%s%s", c->feed.layer + 1, o->n_layers,
		digest ? " (" : "", digest ? digest : "", digest ? ")" : "");
}

static int run(struct child *c, const char *program, const struct unpack_options *o,
	struct unpack_result *ret, struct banger_error *err)
{
	int r = child_start(c, program, o, err);

	if (r == 0)
		r = child_listen(c, o, err);
	if (r == 0)
		r = conclude(c, o, ret, err);
	if (r == 0)
		return 0;
	name_layer(c, o, r, err);
	if (o->failure)
		*o->failure = (struct unpack_failure){.reuse = c->reuse,
			.layer = c->has_error  ? c->layer
				 : c->feed.any ? (int64_t)c->feed.layer
					       : -1};
	return r;
}

int unpack_run(const struct banger_config *config, const struct unpack_options *o,
	struct unpack_result *ret, struct banger_error *err)
{
	_cleanup_free_ char *program = NULL;
	_cleanup_child_ struct child c = {
		.pidfd = -1, .status_fd = -1, .layer = -1, .feed = {.fd = -1}};
	struct unpack_result result;
	int64_t started = banger_monotonic_us();
	int r = banger_config_program(config, "banger-unpack", &program, err);

	if (r == 0)
		r = run(&c, program, o, &result, err);
	if (r < 0)
		return r;
	log_info(o->n_layers > 0 ? "layers unpacked" : "archive unpacked",
		KV_I("size", result.size), KV_I("content", result.content),
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
