/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The supervisor: one thread in the registry process that starts the content process, hears what it
 * says, and takes the mount down.
 *
 *	STARTING ──mounted──► UP ──it dies──► DOWN ──pause──► STARTING …
 *	    any ──stop, or somebody unmounted it──► ENDED
 *
 * The mount is taken down by path, lazily, from here: the content process has given up every right
 * to do so. That path leads through the registry's own connection, so nothing here may be called by
 * a thread that this connection needs in order to answer.
 *
 * The process is started with fork and exec of /proc/self/exe. Between the two only what may be
 * called in the child of a process with threads; every descriptor but the control socket, the page
 * and the standard three is closed by exec.
 */
#include <banger/log.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "content.h"
#include "control.h"
#include "mountinfo.h"
#include "page.h"

#define PAUSE_FIRST_MS 100
#define PAUSE_MAX_MS 5000
#define LIVED_MS 10000 /* a process that lived so long is started again at once */
#define END_MS 2000    /* how long an unmounted process may take to end */

enum state { STARTING, UP, DOWN, ENDED };

struct content {
	struct content_setup setup; /* mountpoint: of the content */
	char *registry;             /* the registry's mountpoint */
	char *own_dir;              /* made to mount at, NULL: MOUNTPOINT/rootfs */
	void (*placed)(void *arg, const char *link);
	void *arg;

	pthread_t thread;
	int stop; /* eventfd */
	pid_t pid;
	int control;

	int page_fd;
	struct content_page *page;
	_Atomic(enum state) state; /* changes are told by the page */
};

static void set_state(struct content *c, enum state state)
{
	atomic_store(&c->state, state);
	content_page_wake(c->page);
}

/* ---- the process ---- */

static _Noreturn void child(int control, int page, const char *fd_text, const char *page_text)
{
	const char *argv[] = {"bangerfs", CONTENT_ROLE, fd_text, page_text, NULL};

	(void)syscall(SYS_close_range, 3, ~0u, CLOSE_RANGE_CLOEXEC);
	(void)fcntl(control, F_SETFD, 0);
	(void)fcntl(page, F_SETFD, 0);
	execv("/proc/self/exe", (char **)argv);
	_exit(127);
}

static int start_process(struct content *c)
{
	int pair[2];
	char fd_text[16], page_text[16];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	(void)snprintf(fd_text, sizeof(fd_text), "%d", pair[1]);
	(void)snprintf(page_text, sizeof(page_text), "%d", c->page_fd);
	atomic_store(&c->page->generation, -1); /* an earlier process has gone */
	c->pid = fork();
	if (c->pid == 0)
		child(pair[1], c->page_fd, fd_text, page_text);
	int r = c->pid < 0 ? -errno : 0;
	close(pair[1]);
	if (r == 0 && send(pair[0], &c->setup, sizeof(c->setup), MSG_NOSIGNAL) < 0)
		log_debug("the content process ended at once");
	if (r < 0) {
		c->pid = 0;
		close(pair[0]);
		return r;
	}
	c->control = pair[0];
	return 0;
}

/* Wait for the process to end, for a while; then end it. The wait status. */
static int reap(struct content *c)
{
	struct timespec tick = {0, 5000000};
	int status = 0;

	banger_closep(&c->control);
	c->control = -1;
	for (int k = 0; k < END_MS / 5; k++) {
		if (waitpid(c->pid, &status, WNOHANG) != 0)
			goto done;
		(void)nanosleep(&tick, NULL);
	}
	(void)kill(c->pid, SIGKILL);
	(void)waitpid(c->pid, &status, 0);
done:
	c->pid = 0;
	return status;
}

static void unmount(const struct content *c)
{
	const char *argv[] = {"fusermount3", "-u", "-z", "-q", "--", c->setup.mountpoint, NULL};
	extern char **environ;
	pid_t pid;

	if (!mountinfo_find(c->setup.mountpoint, NULL, NULL))
		return;
	if (umount2(c->setup.mountpoint, MNT_DETACH) == 0 || errno != EPERM)
		return;
	if (posix_spawnp(&pid, argv[0], NULL, NULL, (char **)argv, environ) == 0)
		(void)waitpid(pid, NULL, 0);
}

/* ---- the thread ---- */

static void heard(struct content *c, const struct content_report *m)
{
	if (m->what != CONTENT_MOUNTED)
		return;
	if (c->placed)
		c->placed(c->arg, c->own_dir);
	set_state(c, UP);
}

/* Until the process ends (false) or a stop is wanted (true). */
static bool listen_to(struct content *c)
{
	for (;;) {
		struct pollfd p[2] = {
			{.fd = c->control, .events = POLLIN}, {.fd = c->stop, .events = POLLIN}};
		struct content_report m;

		if (poll(p, 2, -1) < 0)
			continue;
		if (p[1].revents)
			return true;
		ssize_t n = recv(c->control, &m, sizeof(m), 0);
		if (n == sizeof(m))
			heard(c, &m);
		else if (n >= 0 || errno != EINTR)
			return false;
	}
}

/* true: a stop is wanted. */
static bool pause_for(struct content *c, int ms)
{
	struct pollfd p = {.fd = c->stop, .events = POLLIN};

	return poll(&p, 1, ms) > 0;
}

static void say_how_it_ended(int status)
{
	if (WIFSIGNALED(status))
		log_err("the content process was killed; starting another",
			KV_I("signal", WTERMSIG(status)));
	else
		log_err("the content process failed; starting another",
			KV_I("status", WEXITSTATUS(status)));
}

/* One life of the process. true: there shall be another. */
static bool one_life(struct content *c)
{
	int r = start_process(c);

	if (r < 0) {
		struct banger_error err;
		banger_error_set_errno(&err, r, "cannot start the content process");
		log_err("rootfs cannot be shown", KV_ERR(&err));
		return !pause_for(c, 0);
	}
	bool stop = listen_to(c);
	bool mounted = mountinfo_find(c->setup.mountpoint, NULL, NULL);
	set_state(c, DOWN);
	unmount(c);
	int status = reap(c);
	unmount(c); /* it may have been about to mount */
	if (stop)
		return false;
	if (!mounted && WIFEXITED(status) && WEXITSTATUS(status) == CONTENT_EXIT_UNMOUNTED) {
		log_info("rootfs was unmounted");
		return false;
	}
	say_how_it_ended(status);
	return true;
}

/* The path as the kernel's table of mounts will have it. Asks the registry's connection, therefore
 * here and not in content_start(). */
static int resolve_place(struct content *c)
{
	_cleanup_free_ char *root = c->own_dir ? strdup(c->own_dir) : realpath(c->registry, NULL);

	if (!root)
		return -errno;
	if (strlen(root) + sizeof("/rootfs") > sizeof(c->setup.mountpoint))
		return -ENAMETOOLONG;
	(void)sprintf(c->setup.mountpoint, "%s%s", root, c->own_dir ? "" : "/rootfs");
	return 0;
}

static void *supervise(void *arg)
{
	struct content *c = arg;
	int pause = PAUSE_FIRST_MS, r;
	sigset_t all;

	sigfillset(&all); /* signals are for the program's own threads */
	(void)pthread_sigmask(SIG_BLOCK, &all, NULL);
	(void)pthread_setname_np(pthread_self(), "content");
	r = resolve_place(c);
	if (r < 0)
		log_err("rootfs cannot be shown: its place cannot be resolved",
			KV_S("path", c->registry), KV_S("error", strerrordesc_np(-r)));
	while (r == 0) {
		int64_t since = banger_monotonic_us();
		if (!one_life(c))
			break;
		if (banger_monotonic_us() - since > LIVED_MS * 1000)
			pause = PAUSE_FIRST_MS;
		if (pause_for(c, pause))
			break;
		pause = pause * 2 < PAUSE_MAX_MS ? pause * 2 : PAUSE_MAX_MS;
	}
	set_state(c, ENDED);
	return NULL;
}

/* ---- the calls ---- */

static void content_free(struct content *c)
{
	if (!c)
		return;
	if (c->own_dir) {
		(void)rmdir(c->own_dir);
		free(c->own_dir);
	}
	free(c->registry);
	banger_closep(&c->stop);
	banger_closep(&c->page_fd);
	content_page_free(c->page);
	free(c);
}

/* A process of one user cannot pass through its own mount by way of fusermount3, unless others may:
 * see content.h. */
static int make_own_dir(struct content *c, const char *runtime_dir, struct banger_error *err)
{
	_cleanup_free_ char *path = NULL;

	if (asprintf(&path, "%s/rootfs-XXXXXX", runtime_dir) < 0) {
		path = NULL;
		return banger_error_oom(err);
	}
	if (!mkdtemp(path))
		return banger_error_set_errno(
			err, errno, "cannot make a directory in %s", runtime_dir);
	c->own_dir = realpath(path, NULL);
	if (!c->own_dir)
		return banger_error_set_errno(err, errno, "cannot resolve %s", path);
	return 0;
}

static int copy_options(
	struct content *c, const struct content_options *o, struct banger_error *err)
{
	c->placed = o->placed;
	c->arg = o->arg;
	c->setup.allow_other = o->allow_other;
	c->setup.threads = o->threads;
	if (o->socket[0] != '/' || strlen(o->socket) >= sizeof(c->setup.socket))
		return banger_error_set(
			err, BANGER_BAD_REQUEST, "not an absolute path: %s", o->socket);
	strcpy(c->setup.socket, o->socket);
	c->registry = strdup(o->mountpoint);
	if (!c->registry)
		return banger_error_oom(err);
	return geteuid() == 0 || o->allow_other ? 0 : make_own_dir(c, o->runtime_dir, err);
}

int content_start(const struct content_options *o, struct content **ret, struct banger_error *err)
{
	struct content *c = calloc(1, sizeof(*c));
	int r = 0;

	if (!c)
		return banger_error_oom(err);
	c->control = -1;
	c->page_fd = -1;
	c->stop = eventfd(0, EFD_CLOEXEC);
	c->page = content_page_new(&c->page_fd);
	if (c->stop < 0 || !c->page)
		r = banger_error_set_errno(err, errno, "cannot watch the content process");
	if (r == 0)
		r = copy_options(c, o, err);
	if (r == 0) {
		r = pthread_create(&c->thread, NULL, supervise, c);
		if (r)
			r = banger_error_set_errno(err, r, "cannot start a thread");
	}
	if (r < 0) {
		content_free(c);
		return r;
	}
	*ret = c;
	return 0;
}

static struct timespec deadline(int timeout_ms)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_sec += timeout_ms / 1000;
	t.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
	if (t.tv_nsec >= 1000000000) {
		t.tv_sec++;
		t.tv_nsec -= 1000000000;
	}
	return t;
}

bool content_look(struct content *c, int64_t generation, int us)
{
	int64_t until = banger_monotonic_us() + us;

	do {
		if (atomic_load(&c->state) != STARTING &&
			atomic_load(&c->page->generation) >= generation)
			return true;
		sched_yield();
	} while (banger_monotonic_us() < until);
	return false;
}

int content_wait(struct content *c, int64_t generation, int timeout_ms)
{
	struct timespec until = deadline(timeout_ms < 0 ? 0 : timeout_ms);
	int r = 0;

	while (r == 0) {
		uint32_t seen = atomic_load(&c->page->changes);
		enum state state = atomic_load(&c->state);
		if (state == DOWN || state == ENDED)
			return -EHOSTDOWN;
		if (state == UP && atomic_load(&c->page->generation) >= generation)
			return 0;
		r = content_page_wait(c->page, seen, timeout_ms < 0 ? NULL : &until);
	}
	return r;
}

void content_stop(struct content *c)
{
	uint64_t one = 1;

	if (!c)
		return;
	if (write(c->stop, &one, sizeof(one)) < 0)
		log_err("cannot stop the content process"); /* an eventfd takes a first write */
	pthread_join(c->thread, NULL);
	content_free(c);
}
