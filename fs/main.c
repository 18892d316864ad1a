/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bangerfs: puts the parts together, mounts, serves, takes all down again.
 *
 * The order of coming up: the first snapshot (a mount never shows less than there is), the mount,
 * the threads, the loop, and when it serves the content within it. The order of going down, on a
 * signal: the content (its place is reached through the loop), the notify thread (what it waits for
 * is answered by the loop), then the loop; what waits for bangerd gets some seconds and then an
 * error. Somebody's umount ends the loop by itself.
 */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <banger/paths.h>
#include "background.h"
#include "change.h"
#include "content/content.h"
#include "content/mountinfo.h"
#include "events.h"
#include "follow.h"
#include "loop.h"
#include "ops.h"
#include "options.h"
#include "passthrough.h"

#define READ_AHEAD_KB "1024"
#define CONTENT_READY_MS 10000
#define GRACE_MS 3000 /* for calls that wait for bangerd, at the end */
#define POKE_MS 20

struct server {
	struct options options;
	struct banger_config config;
	struct fs *fs;
	int background; /* descriptor for background_ready() */
	pthread_t watcher, starter;
	int over; /* eventfd: the loop has ended */
	atomic_bool ended;
	bool told; /* to end, by a signal; the watcher's, until it is joined */
};

/* ---- messages of libfuse are records of ours */

static void fuse_log_record(enum fuse_log_level level, const char *fmt, va_list ap) _printf_(2, 0);
static void fuse_log_record(enum fuse_log_level level, const char *fmt, va_list ap)
{
	char text[1024];

	vsnprintf(text, sizeof(text), fmt, ap);
	text[strcspn(text, "\n")] = '\0';
	if (!*text)
		return;
	if (level <= FUSE_LOG_ERR)
		log_err(text);
	else if (level <= FUSE_LOG_WARNING)
		log_warn(text);
	else
		log_info(text); /* asked for with -d */
}

/* libfuse writes its troubles with the device through perror(), past its own log function, and the
 * log has one JSON object a line. */
void perror(const char *s)
{
	log_warn("libfuse", KV_S("error", strerrordesc_np(errno)), KV_S("while", s));
}

/* ---- the mount point */

static void unmount_dead(const char *path)
{
	if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0)
		return;
	const char *argv[] = {"fusermount3", "-u", "-z", "-q", "--", path, NULL};
	pid_t pid = fork();
	if (pid == 0) {
		execvp(argv[0], (char **)argv);
		_exit(127);
	}
	if (pid > 0)
		waitpid(pid, NULL, 0);
}

/* A server that was killed leaves a mount that answers ENOTCONN. */
static int clear_mountpoint(const char *path, struct banger_error *err)
{
	struct stat st;

	if (stat(path, &st) < 0 && errno == ENOTCONN) {
		log_info("taking down the mount of a bangerfs that died", KV_S("path", path));
		unmount_dead(path);
	}
	if (stat(path, &st) < 0)
		return banger_error_set_errno(err, errno, "cannot mount at %s", path);
	if (!S_ISDIR(st.st_mode))
		return banger_error_set_errno(err, ENOTDIR, "cannot mount at %s", path);
	return 0;
}

static int mount_session(struct server *s, struct banger_error *err)
{
	struct options *o = &s->options;

	if (fuse_opt_add_arg(&o->args, "-ofsname=banger,subtype=banger") < 0 ||
		fuse_opt_add_arg(&o->args, "-omax_read=1048576") < 0)
		return banger_error_oom(err);
	s->fs->session = fuse_session_new(&o->args, &fs_operations, sizeof(fs_operations), s->fs);
	if (!s->fs->session)
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"the mount options are not understood: see the records before this one");
	if (fuse_session_mount(s->fs->session, o->mountpoint) != 0)
		return banger_error_set(err, BANGER_INTERNAL,
			"cannot mount at %s: see the records before this one", o->mountpoint);
	return 0;
}

/* The kernel reads ahead by 128 KB unless root says otherwise. */
static void raise_read_ahead(const char *mountpoint)
{
	unsigned major, minor;
	char path[64];

	if (!mountinfo_find(mountpoint, &major, &minor))
		return;
	snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/read_ahead_kb", major, minor);
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, READ_AHEAD_KB, strlen(READ_AHEAD_KB)) < 0)
		log_debug("the read-ahead stays as it is", KV_S("path", path));
}

/* ---- the content within the mount, and readiness */

static void placed(void *arg, const char *link)
{
	struct server *s = arg;

	if (fs_set_rootfs_link(s->fs, link) < 0)
		log_err("no memory to show rootfs");
}

static void start_content(struct server *s)
{
	struct content *content;
	struct banger_error err;
	const struct content_options o = {
		.mountpoint = s->options.mountpoint,
		.socket = s->config.socket,
		.runtime_dir = s->config.runtime_dir,
		.allow_other = s->options.allow_other,
		.placed = placed,
		.arg = s,
	};

	int r = content_start(&o, &content, &err);
	if (r < 0) {
		log_err("rootfs cannot be shown", KV_ERR(&err));
		return;
	}
	pthread_rwlock_wrlock(&s->fs->content_lock);
	s->fs->content = content;
	pthread_rwlock_unlock(&s->fs->content_lock);
	pthread_rwlock_rdlock(&s->fs->content_lock);
	if (s->fs->content)
		content_wait(s->fs->content, model_generation(s->fs->model), CONTENT_READY_MS);
	pthread_rwlock_unlock(&s->fs->content_lock);
}

static void *starter(void *arg)
{
	struct server *s = arg;

	start_content(s);
	log_info("mounted", KV_S("path", s->options.mountpoint),
		KV_I("generation", model_generation(s->fs->model)));
	background_ready(s->background);
	return NULL;
}

static void stop_content(struct server *s)
{
	pthread_rwlock_wrlock(&s->fs->content_lock);
	struct content *content = s->fs->content;
	s->fs->content = NULL;
	pthread_rwlock_unlock(&s->fs->content_lock);
	content_stop(content);
}

/* ---- the end */

static void nothing(int signum)
{
}

static void end_loop(struct server *s)
{
	for (int ms = 0; !atomic_load(&s->ended); ms += POKE_MS) {
		if (ms >= GRACE_MS)
			calls_abort(s->fs->calls, "");
		loop_end(s->fs->session);
		poll(&(struct pollfd){.fd = s->over, .events = POLLIN}, 1, POKE_MS);
	}
}

static void *watcher(void *arg)
{
	struct server *s = arg;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	_cleanup_close_ int fd = signalfd(-1, &set, SFD_CLOEXEC);
	struct pollfd p[3] = {{.fd = fd, .events = POLLIN}, {.fd = s->over, .events = POLLIN},
		{.fd = s->options.until_fd, .events = POLLIN}};
	while (poll(p, 3, -1) < 0)
		;
	if (p[1].revents)
		return NULL;
	s->told = true;
	log_info("unmounting", KV_S("path", s->options.mountpoint));
	pthread_join(s->starter, NULL);
	stop_content(s);
	notify_stop(s->fs->notify);
	events_stop(s->fs->events);
	end_loop(s);
	return NULL;
}

/* ---- serving */

static void block_signals(void)
{
	const struct sigaction ignore = {.sa_handler = SIG_IGN}, none = {.sa_handler = nothing};
	sigset_t set;

	sigaction(SIGPIPE, &ignore, NULL);
	sigaction(SIGUSR2, &none, NULL); /* loop.c's; without SA_RESTART */
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
}

static int start_threads(struct server *s, struct follow *follow, struct banger_error *err)
{
	int r = notify_start(s->fs->notify);

	if (r == 0)
		r = errands_start(s->fs->errands);
	if (r == 0)
		r = follow_start(follow);
	if (r == 0)
		r = -pthread_create(&s->starter, NULL, starter, s);
	if (r == 0)
		r = -pthread_create(&s->watcher, NULL, watcher, s);
	return r < 0 ? banger_error_set_errno(err, r, "cannot start a thread") : 0;
}

static int serve(struct server *s, struct follow *follow, struct banger_error *err)
{
	int r = start_threads(s, follow, err);

	if (r < 0)
		return r;
	r = loop_run(s->fs->session, s->options.single_thread);
	atomic_store(&s->ended, true);
	eventfd_write(s->over, 1);
	pthread_join(s->watcher, NULL);
	if (!s->told) {
		/* Somebody's umount ended the loop; there is no path to the content any more. */
		pthread_join(s->starter, NULL);
		stop_content(s);
	}
	return r < 0 ? banger_error_set_errno(err, r, "serving %s", s->options.mountpoint) : 0;
}

static int run(struct server *s, struct banger_error *err)
{
	_cleanup_(follow_freep) struct follow *follow = NULL;

	int r = clear_mountpoint(s->options.mountpoint, err);
	if (r == 0)
		r = follow_new(s->fs, s->config.socket, &follow, err);
	s->fs->follow = follow;
	if (r == 0)
		r = mount_session(s, err);
	if (r < 0)
		return r;
	passthrough_prepare(s->fs);
	raise_read_ahead(s->options.mountpoint);
	if (s->background >= 0)
		background_detach(); /* before others inherit what somebody waits to see closed */
	r = serve(s, follow, err);
	fuse_session_unmount(s->fs->session);
	log_info("unmounted", KV_S("path", s->options.mountpoint));
	return r;
}

/* ---- setting up */

static void raise_descriptors(void)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_NOFILE, &l) == 0) {
		l.rlim_cur = l.rlim_max;
		setrlimit(RLIMIT_NOFILE, &l);
	}
}

static int absolute_socket(struct banger_config *c, struct banger_error *err)
{
	_cleanup_free_ char *cwd = NULL;
	char *path;

	if (c->socket[0] == '/')
		return 0;
	cwd = getcwd(NULL, 0);
	if (!cwd || asprintf(&path, "%s/%s", cwd, c->socket) < 0)
		return banger_error_oom(err);
	free(c->socket);
	c->socket = path;
	return 0;
}

static int set_up(struct server *s, struct banger_error *err)
{
	const struct banger_config_flags flags = {
		.config = s->options.config, .socket = s->options.socket};

	int r = banger_config_load(&flags, &s->config, err);
	if (r == 0)
		r = absolute_socket(&s->config, err);
	if (r == 0 && s->options.log)
		r = background_log_to(s->options.log, err);
	if (r == 0 && !s->options.foreground)
		r = background_fork(&s->background, err);
	if (r < 0)
		return r;
	block_signals();
	raise_descriptors();
	fuse_set_log_func(fuse_log_record);
	if (s->options.ready_fd >= 0)
		s->background = s->options.ready_fd;
	for (int i = 0; i < 2; i++) {
		int fd = i ? s->options.ready_fd : s->options.until_fd;
		if (fd >= 0)
			fcntl(fd, F_SETFD, FD_CLOEXEC);
	}
	s->over = eventfd(0, EFD_CLOEXEC);
	if (s->over < 0)
		return banger_error_set_errno(err, errno, "cannot make an eventfd");
	if (fs_new(s->config.socket, &s->fs) < 0)
		return banger_error_oom(err);
	s->fs->vm = s->options.vm;
	return 0;
}

int main(int argc, char **argv)
{
	struct server s = {.background = -1, .over = -1};
	struct banger_error err = {0};

	content_main_role(argc, argv);
	banger_log_init("bangerfs");
	int status = options_parse(argc, argv, &s.options);
	if (status >= 0)
		return status;
	int r = set_up(&s, &err);
	if (r == 0)
		r = run(&s, &err);
	if (r < 0)
		log_err("bangerfs failed", KV_ERR(&err));
	if (s.fs && s.fs->session)
		fuse_session_destroy(s.fs->session);
	fs_freep(&s.fs);
	banger_closep(&s.over);
	banger_config_done(&s.config);
	options_done(&s.options);
	return r < 0 ? 1 : 0;
}
