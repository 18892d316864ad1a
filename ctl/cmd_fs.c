/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fs mount and unmount: the registry as a filesystem.
 *
 * mount starts bangerfs, which goes into the background when it serves; its log goes to a file,
 * from which we also read what it has to say when it does not come up. A mount point is judged by
 * the kernel's table, never by looking into it.
 *
 * unmount takes down rootfs/ (a connection of its own) and then the registry above it. bangerfs
 * sees that it was unmounted and ends; no process is looked for and none is killed.
 */
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <banger/log.h>
#include "ctl.h"
#include "mounts.h"
#include "program.h"
#include "text.h"

enum { START_MS = 30000, LOG_MAX = 65536, BUSY_TRIES = 20, BUSY_PAUSE_US = 50000 };

/* ---- mount */

/* RUNTIME_DIR/bangerfs.log, or the file that --log names. */
static int open_log(
	const struct ctl *c, const char *named, char **ret_path, struct banger_error *err)
{
	_cleanup_free_ char *path = NULL;

	if (named) {
		path = strdup(named);
	} else {
		int r = banger_mkdir_p(c->config.runtime_dir, 0700, err);
		if (r < 0)
			return r;
		if (asprintf(&path, "%s/bangerfs.log", c->config.runtime_dir) < 0)
			path = NULL;
	}
	if (!path)
		return banger_error_oom(err);
	int fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return banger_error_set_errno(err, errno, "cannot write to the log %s", path);
	*ret_path = TAKE_PTR(path);
	return fd;
}

/* What a line of bangerfs gives as a reason, or NULL: the error of a log record, its message if it
 * is at level error, or a line that is no record. Borrowed from the record or the line. */
static const char *reason_of(const char *line, struct json_object **ret_record)
{
	if (banger_json_parse(line, strlen(line), ret_record, NULL) < 0)
		return line;
	const char *level = banger_json_str(*ret_record, "level");
	const char *error = banger_json_str(*ret_record, "error");
	if (error)
		return error;
	return level && strcmp(level, "error") == 0 ? banger_json_str(*ret_record, "msg") : NULL;
}

/* All reasons that the log gives since offset `from`, the first one first: libfuse's own come
 * before what bangerfs makes of them. */
static void read_reasons(int log, off_t from, char *buf, size_t size)
{
	_cleanup_free_ char *text = calloc(1, LOG_MAX + 1);
	char *save = NULL;
	size_t n = 0;

	*buf = '\0';
	if (!text || pread(log, text, LOG_MAX, from) <= 0)
		return;
	for (char *line = strtok_r(text, "\n", &save); line && n < size;
		line = strtok_r(NULL, "\n", &save)) {
		_cleanup_json_ struct json_object *record = NULL;
		const char *reason = reason_of(line, &record);

		if (reason && !strstr(buf, reason))
			n += (size_t)snprintf(buf + n, size - n, "%s%s", n ? "; " : "", reason);
	}
}

static int check_mount_point(const char *path, const char *point, struct banger_error *err)
{
	enum mounts_kind kind;
	struct stat st;

	int r = mounts_at(point, &kind, err);
	if (r < 0)
		return r;
	if (kind == MOUNTS_BANGERFS)
		return banger_error_set(err, BANGER_EXISTS,
			"bangerfs is mounted at %s already; \"banger-ctl fs unmount %s\" takes it "
			"down",
			point, path);
	if (stat(point, &st) < 0)
		return banger_error_set_errno(err, errno, "cannot mount at %s", point);
	if (!S_ISDIR(st.st_mode))
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"cannot mount at %s: it is not a directory", point);
	return 0;
}

/* The environment is how bangerfs learns what our own flags said. */
static int export_flags(
	const struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	if (setenv("BANGER_SOCKET", c->config.socket, 1) < 0 ||
		(cli_given(in, "config") && setenv("BANGER_CONFIG", cli_text(in, "config"), 1) < 0))
		return banger_error_oom(err);
	return 0;
}

static int start(const char *program, const struct cli_invocation *in, const char *point, int log,
	struct banger_error *err)
{
	_cleanup_free_ const char **argv = calloc(in->n_values * 2 + 3, sizeof(*argv));
	size_t n = 0, i = 0;
	const char *option;
	char reasons[700];
	int status = 0;
	pid_t pid;

	if (!argv)
		return banger_error_oom(err);
	argv[n++] = program;
	while ((option = cli_next(in, "options", &i))) {
		argv[n++] = "-o";
		argv[n++] = option;
	}
	argv[n++] = point;
	off_t before = lseek(log, 0, SEEK_END);
	int r = program_start(argv, log, &pid, err);
	if (r == 0)
		r = program_wait(pid, START_MS, &status, err);
	if (r == 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	read_reasons(log, before, reasons, sizeof(reasons));
	if (!*reasons)
		strcpy(reasons, "it does not say why");
	if (r < 0)
		return banger_error_set(err, BANGER_TIMEOUT,
			"bangerfs does not serve %s after %d seconds: %s", point, START_MS / 1000,
			reasons);
	return banger_error_set(
		err, BANGER_INTERNAL, "bangerfs cannot serve %s: %s", point, reasons);
}

static int print_point(
	const struct ctl *c, const char *did, const char *point, struct banger_error *err)
{
	_cleanup_json_ struct json_object *o = NULL;
	_cleanup_free_ char *safe = text_clean(point);

	if (c->json) {
		int r = ctl_params(&o, err, "mountpoint", safe, NULL);
		return r < 0 ? r : ctl_print_json(c, o, err);
	}
	if (!c->quiet)
		printf("%s %s\n", did, safe ? safe : "?");
	return 0;
}

static int do_mount(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_free_ char *point = NULL, *program = NULL, *log_path = NULL;
	enum mounts_kind kind = MOUNTS_NOTHING;

	int r = ctl_connect(c, err);
	if (r == 0)
		r = mounts_resolve(in->args[0], &point, err);
	if (r == 0)
		r = check_mount_point(in->args[0], point, err);
	if (r == 0)
		r = program_find_own(&c->config, "bangerfs", &program, err);
	if (r == 0)
		r = export_flags(c, in, err);
	if (r < 0)
		return r;
	_cleanup_close_ int log = open_log(c, cli_text(in, "log"), &log_path, err);
	if (log < 0)
		return log;
	r = start(program, in, point, log, err);
	if (r == 0)
		r = mounts_at(point, &kind, err);
	if (r < 0)
		return r;
	if (kind != MOUNTS_BANGERFS)
		return banger_error_set(err, BANGER_INTERNAL,
			"bangerfs started, but nothing is mounted at %s; its log is %s", point,
			log_path);
	return print_point(c, "mounted", point, err);
}

/* ---- unmount */

/* fusermount3 is set-user-id root and takes down what its caller mounted. */
static int unmount_as_user(const char *point, bool lazy, struct banger_error *err)
{
	_cleanup_free_ char *program = program_find("fusermount3"), *said = NULL;
	const char *argv[] = {
		program, "-u", lazy ? "-z" : "--", lazy ? "--" : point, lazy ? point : NULL, NULL};
	int status = 0;

	if (!program)
		return banger_error_set(
			err, BANGER_NOT_FOUND, "fusermount3 is not installed (Debian: fuse3)");
	int r = program_capture(argv, 10000, &said, &status, err);
	if (r < 0)
		return r;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	if (strcasestr(said, "busy"))
		return -EBUSY;
	said[strcspn(said, "\n")] = '\0';
	return banger_error_set(err, BANGER_INTERNAL, "cannot unmount %s: %s", point,
		*said ? said : "fusermount3 does not say why");
}

/* -EBUSY without an error set: somebody has something open there. */
static int unmount_once(const char *point, bool lazy, struct banger_error *err)
{
	if (geteuid() != 0)
		return unmount_as_user(point, lazy, err);
	if (umount2(point, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) == 0)
		return 0;
	return errno == EBUSY ? -EBUSY
			      : banger_error_set_errno(err, errno, "cannot unmount %s", point);
}

static int in_use(const char *point, const char *users, const char *more, struct banger_error *err)
{
	return banger_error_set(err, BANGER_BUSY,
		"%s is in use%s%s%s; end that, or detach it with --lazy", point,
		*users ? " by " : "", users, more);
}

/* What somebody closed this moment may still be on its way: a mount is busy when it stays so. */
static int unmount_point(const char *point, bool lazy, const char *more, struct banger_error *err)
{
	char users[300];
	int r = 0;

	for (int i = 0; i < BUSY_TRIES; i++) {
		r = unmount_once(point, lazy, err);
		if (r != -EBUSY)
			return r;
		usleep(BUSY_PAUSE_US);
	}
	mounts_users(point, users, sizeof(users));
	return in_use(point, users, more, err);
}

/* rootfs/ does not come back by itself, so the registry above it must be free before it is taken down,
 * as far as can be seen. */
static int check_unused(const char *point, struct banger_error *err)
{
	char users[300];

	for (int i = 0; i < BUSY_TRIES; i++) {
		mounts_users(point, users, sizeof(users));
		if (!*users)
			return 0;
		usleep(BUSY_PAUSE_US);
	}
	return in_use(point, users, "", err);
}

static int unmount_both(const char *point, const char *content, bool lazy, struct banger_error *err)
{
	enum mounts_kind inner = MOUNTS_NOTHING;
	const char *more = "";
	int r = mounts_at(content, &inner, err);

	if (r == 0 && !lazy)
		r = check_unused(point, err);
	if (r == 0 && inner == MOUNTS_BANGERFS) {
		r = unmount_point(content, lazy, "", err);
		more = " (its rootfs/ is taken down already)";
	}
	return r < 0 ? r : unmount_point(point, lazy, more, err);
}

static int do_unmount(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_free_ char *point = NULL, *content = NULL;
	enum mounts_kind kind = MOUNTS_NOTHING;

	int r = mounts_resolve(in->args[0], &point, err);
	if (r == 0)
		r = mounts_at(point, &kind, err);
	if (r < 0)
		return r;
	if (kind != MOUNTS_BANGERFS)
		return banger_error_set(
			err, BANGER_NOT_FOUND, "no bangerfs is mounted at %s", point);
	if (asprintf(&content, "%s/rootfs", point) < 0) {
		content = NULL;
		return banger_error_oom(err);
	}
	/* We may stand in it ourselves. */
	if (chdir("/") < 0)
		return banger_error_set_errno(err, errno, "cannot leave the current directory");
	r = unmount_both(point, content, cli_given(in, "lazy"), err);
	return r < 0 ? r : print_point(c, "unmounted", point, err);
}

/* clang-format off */
const struct cli_command cmd_fs_commands[] = {
	{
		.name = "mount",
		.help = "Mount the registry as a filesystem",
		.about = "Starts bangerfs and returns when it serves, or says why it does not. Its "
			"log is bangerfs.log in the runtime directory ($BANGER_RUNTIME_DIR) unless "
			"--log says otherwise.",
		.arguments = CLI_ARGUMENTS(
			{"MOUNTPOINT", "An existing directory", .words = CLI_DIRECTORIES}),
		.options = CLI_OPTIONS(
			{"options", 'o', CLI_TEXTS, "OPT[,OPT...]",
				"Options of the mount: ro, allow_other, and those of FUSE"},
			{"log", 0, CLI_TEXT, "FILE", "Append bangerfs's log to this file",
				.words = CLI_FILES}),
		.examples = CLI_EXAMPLES(
			{"banger-ctl fs mount ~/banger", "then: ls ~/banger/images"},
			{"banger-ctl fs mount /banger -o allow_other",
				"for all users of the machine"}),
		.handler = do_mount,
	},
	{
		.name = "unmount",
		.help = "Unmount the registry",
		.about = "Takes down what \"fs mount\" put up, or a bangerfs that died. Fails, and "
			"names the processes it can see, while somebody uses it.",
		.arguments = CLI_ARGUMENTS(
			{"MOUNTPOINT", "Where it is mounted", .words = CLI_DIRECTORIES}),
		.options = CLI_OPTIONS(
			{"lazy", 0, CLI_FLAG, NULL,
				"Take it out of sight now, even in use; it ends when its last "
				"user does"}),
		.examples = CLI_EXAMPLES(
			{"banger-ctl fs unmount ~/banger", "takes it down"}),
		.handler = do_unmount,
	},
	{NULL},
};
/* clang-format on */
