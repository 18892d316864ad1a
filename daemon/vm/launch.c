/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fork and exec, with a gate between: the child waits at a pipe until whoever is told of its birth has noted it down.
 * A daemon that dies before that takes the child along (PR_SET_PDEATHSIG, dropped at the gate for a VMM that is not
 * tied), so there is never a VMM that runs and is in no record.
 *
 * The child may make system calls only, because other threads held locks when it was forked.
 */
#include "vm/launch.h"
#include "vm/mounts.h"
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "vm/confine.h"

static const char *const dirs[] = {"/usr/local/bin", "/usr/bin", "/bin"};

/* 1: it can be run; 0: it is not there; negative: it is there, and cannot be. */
static int try_program(const char *path)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return errno == ENOENT || errno == ENOTDIR ? 0 : -errno;
	if (!S_ISREG(st.st_mode))
		return -EACCES;
	return access(path, X_OK) == 0 ? 1 : -errno;
}

int spawn_check(const char *program, struct banger_error *err)
{
	char path[512];

	int r = strchr(program, '/') ? try_program(program) : 0;
	for (size_t i = 0; !strchr(program, '/') && i < ELEMENTSOF(dirs) && r <= 0; i++) {
		snprintf(path, sizeof(path), "%s/%s", dirs[i], program);
		int one = try_program(path);
		r = one != 0 ? one : r;
	}
	if (r > 0)
		return 0;
	if (r < 0)
		return banger_error_set(err, BANGER_UNSUPPORTED, "%s cannot be executed: %s",
			program, strerrordesc_np(-r));
	return banger_error_set(
		err, BANGER_UNSUPPORTED, "%s is not installed (Debian: qemu-system-x86)", program);
}

/* What the child needs, all of it made before the fork. */
struct child {
	const struct spawn *spawn;
	char *const *env;
	pid_t parent;
	int gate[2], in, out;
	char dir[PATH_MAX]; /* the working directory, as it is called in another namespace too */
	char uid_map[32], gid_map[32]; /* of a user namespace; "": none is made */
	char **unneeded;               /* mounts of the host */
	int fds[SPAWN_FDS]; /* out of the range that they will have, so that no dup2 hits another's source */
};

static void child_done(struct child *c)
{
	banger_closep(&c->gate[0]);
	banger_closep(&c->gate[1]);
	banger_closep(&c->in);
	banger_closep(&c->out);
	for (size_t i = 0; i < SPAWN_FDS; i++)
		banger_closep(&c->fds[i]);
	mounts_done(&c->unneeded);
}

static int lift(int fd)
{
	return fcntl(fd, F_DUPFD_CLOEXEC, SPAWN_FIRST + SPAWN_FDS);
}

static int find_unneeded(struct child *c)
{
	const char *keep[SPAWN_KEEP + 2] = {c->dir};
	_cleanup_fclose_ FILE *mountinfo = fopen("/proc/self/mountinfo", "re");
	size_t n = 1;

	for (const char *const *k = c->spawn->keep; k && *k && n <= SPAWN_KEEP; k++)
		keep[n++] = *k;
	return mountinfo ? mounts_unneeded(mountinfo, keep, &c->unneeded) : -errno;
}

static int prepare(const struct spawn *s, struct child *c)
{
	char link[40];

	if (s->mounts != SPAWN_SHARED && geteuid() != 0) {
		snprintf(c->uid_map, sizeof(c->uid_map), "0 %u 1", (unsigned)geteuid());
		snprintf(c->gid_map, sizeof(c->gid_map), "0 %u 1", (unsigned)getegid());
	}
	snprintf(link, sizeof(link), "/proc/self/fd/%d", s->dir_fd);
	ssize_t n = s->dir_fd < 0 ? -1 : readlink(link, c->dir, sizeof(c->dir) - 1);
	c->dir[n > 0 ? n : 0] = '\0';
	int r = s->mounts == SPAWN_PRIVATE ? find_unneeded(c) : 0;
	if (r < 0)
		return r;
	c->in = open("/dev/null", O_RDWR | O_CLOEXEC);
	c->out = c->in < 0 ? -1 : lift(s->output_fd >= 0 ? s->output_fd : c->in);
	if (c->out < 0 || pipe2(c->gate, O_CLOEXEC) < 0)
		return -errno;
	for (size_t i = 0; i < s->n_fds; i++)
		if (s->fds[i] >= 0 && (c->fds[i] = lift(s->fds[i])) < 0)
			return -errno;
	return 0;
}

static void wait_at_gate(const struct child *c)
{
	char go;

	close(c->gate[1]);
	while (read(c->gate[0], &go, 1) != 1)
		if (errno != EINTR)
			_exit(127);
}

static void put_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	size_t n = 0;

	while (text[n])
		n++;
	if (fd < 0 || write(fd, text, n) != (ssize_t)n)
		_exit(SPAWN_NO_NAMESPACE);
	close(fd);
}

/* Mounts and unmounts of the host go on to be seen; ours are not seen there. */
static void leave_mounts(const struct child *c)
{
	bool user = c->uid_map[0];

	if (unshare(CLONE_NEWNS | (user ? CLONE_NEWUSER : 0)) < 0)
		_exit(SPAWN_NO_NAMESPACE);
	if (user) {
		put_text("/proc/self/setgroups", "deny");
		put_text("/proc/self/uid_map", c->uid_map);
		put_text("/proc/self/gid_map", c->gid_map);
	}
	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
		_exit(SPAWN_NO_NAMESPACE);
	/* Some have gone by now, and in a user namespace each is locked. */
	for (char **point = c->unneeded; *point; point++)
		umount2(*point, MNT_DETACH | UMOUNT_NOFOLLOW);
	/* What a program that mounts something needs, and files of whichever owner; not the rest of root. */
	for (int cap = 0; cap <= CAP_LAST_CAP; cap++)
		if (cap != CAP_SYS_ADMIN && cap != CAP_DAC_OVERRIDE && cap != CAP_DAC_READ_SEARCH)
			prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
}

static void enter_mounts(const struct child *c)
{
	const struct spawn *s = c->spawn;

	if (s->mounts == SPAWN_SHARED)
		return;
	if (s->mounts == SPAWN_PRIVATE)
		leave_mounts(c);
	else if (setns(s->with, CLONE_NEWNS | (c->uid_map[0] ? CLONE_NEWUSER : 0)) < 0)
		_exit(SPAWN_NO_NAMESPACE);
	/* The directory that we had is the same one as others see it: without what is mounted here. */
	if (chdir(c->dir) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		_exit(SPAWN_NO_NAMESPACE);
	if (s->tied && prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		_exit(SPAWN_NO_NAMESPACE);
}

static void become_vmm(const struct child *c)
{
	const struct rlimit no_core = {0};
	sigset_t none;

	setsid();
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != c->parent)
		_exit(127);
	wait_at_gate(c);
	if (!c->spawn->tied)
		prctl(PR_SET_PDEATHSIG, 0);
	setrlimit(RLIMIT_CORE, &no_core);
	if ((c->spawn->dir_fd >= 0 ? fchdir(c->spawn->dir_fd) : chdir("/")) < 0 ||
		dup2(c->in, 0) < 0 || dup2(c->out, 1) < 0 || dup2(c->out, 2) < 0)
		_exit(127);
	enter_mounts(c);
	for (size_t i = 0; i < c->spawn->n_fds; i++)
		if (c->fds[i] >= 0 && dup2(c->fds[i], SPAWN_FIRST + (int)i) < 0)
			_exit(127);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	if (c->spawn->confined)
		confine_vmm(c->spawn->dir_fd);
	execvpe(c->spawn->argv[0], c->spawn->argv, c->env);
	_exit(127);
}

static int let_go(const struct spawn *s, const struct child *c, pid_t pid, struct banger_error *err)
{
	int r = s->born ? s->born(s->arg, pid, err) : 0;

	if (r == 0 && write(c->gate[1], "", 1) != 1)
		r = banger_error_set_errno(err, errno, "cannot start %s", s->argv[0]);
	return r;
}

int spawn_vmm(const struct spawn *s, pid_t *ret, int *ret_pidfd, struct banger_error *err)
{
	char *const env[] = {(char *)"TMPDIR=.", (char *)"LC_ALL=C.UTF-8",
		(char *)"PATH=/usr/local/bin:/usr/bin:/bin", (char *)s->env, NULL};
	_cleanup_(child_done) struct child c = {
		.spawn = s, .env = env, .parent = getpid(), .gate = {-1, -1}, .in = -1, .out = -1};

	memset(c.fds, -1, sizeof(c.fds));
	int r = spawn_check(s->argv[0], err);
	if (r < 0)
		return r;
	r = prepare(s, &c);
	if (r < 0)
		return banger_error_set_errno(err, r, "cannot start %s", s->argv[0]);
	pid_t pid = fork();
	if (pid == 0)
		become_vmm(&c);
	if (pid < 0)
		return banger_error_set_errno(err, errno, "cannot start %s", s->argv[0]);
	_cleanup_close_ int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	r = pidfd < 0 ? banger_error_set_errno(err, errno, "cannot watch the VM") : 0;
	if (r == 0) {
		fcntl(pidfd, F_SETFD, FD_CLOEXEC);
		r = let_go(s, &c, pid, err);
	}
	if (r < 0) {
		kill(pid, SIGKILL);
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
		return r;
	}
	*ret = pid;
	*ret_pidfd = TAKE_FD(pidfd);
	return 0;
}
