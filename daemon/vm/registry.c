/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See registry.h. A registry is started by the thread that starts the VM, watched by a thread of its own, and ended by the
 * one that sees the VM's end.
 *
 * The order of a start: bangerfs, until the whole tree can be read; a socket that nobody else can find, because its
 * name is gone once both ends are there; virtiofsd. Each process is in the record before it runs (launch.h), and its pid
 * is here: so bangerfs's first request of the daemon is the VM's (registry_is()).
 *
 * An end that is due to the VM's own is no loss: the watcher waits a moment for somebody to say that it is over.
 */
#include "vm/registry.h"
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <banger/log.h>
#include <banger/model.h>
#include "vm/internal.h"
#include "vm/launch.h"
#include "vm/registry_internal.h"

/* Debian 12's is killed by its own seccomp filter when glibc counts the processors, which it does for the limit of its
 * arenas, unless that is given. */
#define VIRTIOFSD_ENV "MALLOC_ARENA_MAX=4"
#define READY_MS 20000
#define MOMENT_MS 300
#define END_MS 3000
#define STACK (128 * 1024)

struct process {
	_Atomic pid_t pid;
	struct registry_id id;
	int pidfd; /* -1: none */
	bool ours; /* our child */
	bool over;
	char how[96]; /* it ended */
};

struct registry {
	struct registry_options o;
	struct process p[REGISTRY_PROCESSES];
	int leave; /* eventfd: the watcher shall end */
	int output; /* the console's FIFO, so that what virtiofsd says before anybody else has it open is not lost */
	pthread_t thread;
	bool watched;
};

bool registry_is(const struct registry *r, pid_t pid)
{
	return pid > 0 && atomic_load(&r->p[REGISTRY_FS].pid) == pid;
}

int registry_new(const struct registry_options *o, struct registry **ret, struct banger_error *err)
{
	struct registry *r = calloc(1, sizeof(*r));

	if (!r)
		return banger_error_oom(err);
	r->o = *o;
	for (int i = 0; i < REGISTRY_PROCESSES; i++)
		r->p[i].pidfd = -1;
	r->output = -1;
	r->leave = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (r->leave < 0) {
		int e = banger_error_set_errno(err, errno, "cannot watch the VM's registry");
		free(r);
		return e;
	}
	*ret = r;
	return 0;
}

static void release(struct registry *r)
{
	for (int i = 0; i < REGISTRY_PROCESSES; i++)
		banger_closep(&r->p[i].pidfd);
	banger_closep(&r->leave);
	banger_closep(&r->output);
	free(r);
}

/* ---- ends */

static void describe(struct process *p, const char *name, const siginfo_t *info)
{
	if (!p->ours)
		snprintf(p->how, sizeof(p->how), "its %s has ended", name);
	else if (info->si_code == CLD_EXITED)
		snprintf(p->how, sizeof(p->how), "its %s exited with status %d", name,
			info->si_status);
	else
		snprintf(p->how, sizeof(p->how), "its %s was ended by signal %d (SIG%s)", name,
			info->si_status, sigabbrev_np(info->si_status) ?: "?");
}

/* The process is seen to have ended. Returns its exit status, -1 when it has none or is not known. */
static int take_end(struct registry *r, int which)
{
	struct process *p = &r->p[which];
	siginfo_t info = {0};

	if (p->ours && waitid(P_PIDFD, p->pidfd, &info, WEXITED) < 0)
		p->ours = false;
	p->over = true;
	atomic_store(&p->pid, 0);
	describe(p, registry_names[which], &info);
	return p->ours && info.si_code == CLD_EXITED ? info.si_status : -1;
}

/* Let it end by itself for so long, then kill it. */
static void end_process(struct registry *r, int which, int ms)
{
	struct process *p = &r->p[which];

	if (p->pidfd < 0 || p->over)
		return;
	struct pollfd gone = {p->pidfd, POLLIN, 0};
	if (ms == 0 || poll(&gone, 1, ms) == 0) {
		registry_kill(p->pidfd);
		poll(&gone, 1, END_MS);
	}
	if (gone.revents)
		take_end(r, which);
	else
		log_warn("a process of a VM's registry does not end", KV_S("vm", r->o.vm),
			KV_S("process", registry_names[which]), KV_I("pid", p->id.pid));
}

static void stop_watching(struct registry *r)
{
	eventfd_write(r->leave, 1);
	if (r->watched)
		pthread_join(r->thread, NULL);
	r->watched = false;
}

void registry_endp(struct registry **ret)
{
	struct registry *r = *ret;

	*ret = NULL;
	if (!r)
		return;
	stop_watching(r);
	/* The VMM is gone, or never was, and with it the connection. virtiofsd first: it may be two processes, of which the one
	 * that we know waits for the other. */
	end_process(r, REGISTRY_DAEMON, END_MS);
	end_process(r, REGISTRY_FS, 0);
	unlinkat(r->o.dir_fd, REGISTRY_RECORD, 0);
	release(r);
}

void registry_leavep(struct registry **ret)
{
	struct registry *r = *ret;

	*ret = NULL;
	if (!r)
		return;
	stop_watching(r);
	release(r);
}

/* ---- watching */

/* Something has ended. True: it is a loss, and was told. */
static bool on_end(struct registry *r, int which)
{
	struct pollfd leave = {r->leave, POLLIN, 0};

	take_end(r, which);
	if (poll(&leave, 1, MOMENT_MS) != 0)
		return false;
	r->o.lost(r->o.arg, r->p[which].how);
	/* Without virtiofsd nobody uses bangerfs; without bangerfs virtiofsd still gives the guest errors. */
	if (which == REGISTRY_DAEMON)
		end_process(r, REGISTRY_FS, 0);
	return true;
}

static void *watch(void *arg)
{
	struct registry *r = arg;

	for (;;) {
		struct pollfd p[REGISTRY_PROCESSES + 1] = {
			[REGISTRY_PROCESSES] = {r->leave, POLLIN, 0}};

		for (int i = 0; i < REGISTRY_PROCESSES; i++)
			p[i] = (struct pollfd){r->p[i].over ? -1 : r->p[i].pidfd, POLLIN, 0};
		if (poll(p, ELEMENTSOF(p), -1) < 0)
			continue;
		if (p[REGISTRY_PROCESSES].revents)
			return NULL;
		for (int i = 0; i < REGISTRY_PROCESSES; i++)
			if (p[i].revents && !r->p[i].over)
				on_end(r, i);
	}
}

static int start_watching(struct registry *r, struct banger_error *err)
{
	pthread_attr_t attr;

	int e = pthread_attr_init(&attr);
	if (e == 0) {
		pthread_attr_setstacksize(&attr, STACK);
		e = pthread_create(&r->thread, &attr, watch, r);
		pthread_attr_destroy(&attr);
	}
	r->watched = e == 0;
	return e ? banger_error_set_errno(err, e, "cannot start a thread") : 0;
}

/* ---- starting */

struct birth {
	struct registry *r;
	int which;
};

static int on_born(void *arg, pid_t pid, struct banger_error *err)
{
	const struct birth *b = arg;
	struct process *p = &b->r->p[b->which];
	struct registry_id ids[REGISTRY_PROCESSES];

	p->id = (struct registry_id){.pid = pid, .start = recover_start_time(pid)};
	p->ours = true;
	for (int i = 0; i < REGISTRY_PROCESSES; i++)
		ids[i] = b->r->p[i].id;
	int r = registry_record_write(b->r->o.dir_fd, b->r->o.boot_id, ids, err);
	if (r == 0)
		atomic_store(&p->pid, pid);
	return r;
}

static int launch(struct registry *r, int which, struct spawn *s, struct banger_error *err)
{
	struct birth b = {r, which};
	struct process *p = &r->p[which];
	pid_t pid;

	s->dir_fd = r->o.dir_fd;
	s->tied = r->o.tied;
	s->born = on_born;
	s->arg = &b;
	int e = spawn_vmm(s, &pid, &p->pidfd, err);
	if (e < 0) {
		atomic_store(&p->pid, 0);
		p->id = (struct registry_id){0};
	}
	return e;
}

/* The last record of bangerfs's log says why it ended. */
static void last_words(struct registry *r, char *ret, size_t size)
{
	_cleanup_close_ int fd =
		openat(r->o.dir_fd, REGISTRY_LOG, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	_cleanup_json_ struct json_object *o = NULL;
	char text[4096];
	struct stat st;

	ret[0] = '\0';
	if (fd < 0 || fstat(fd, &st) < 0)
		return;
	off_t from = st.st_size > (off_t)sizeof(text) ? st.st_size - (off_t)sizeof(text) : 0;
	ssize_t n = pread(fd, text, sizeof(text), from);
	while (n > 0 && text[n - 1] == '\n')
		n--;
	char *line = n > 0 ? memrchr(text, '\n', n) : NULL;
	line = line ? line + 1 : text;
	if (n > 0 && banger_json_parse(line, text + n - line, &o, NULL) == 0 &&
		json_object_is_type(o, json_type_object))
		snprintf(ret, size, ": %s", banger_json_str(o, "error") ?: banger_json_str(o, "msg") ?: "");
}

static int fs_failed(struct registry *r, struct banger_error *err)
{
	char said[512];

	if (take_end(r, REGISTRY_FS) == SPAWN_NO_NAMESPACE)
		return banger_error_set(err, BANGER_UNSUPPORTED,
			"the registry cannot be shared with VMs: the kernel gives uid %u no "
			"%snamespace "
			"of its own",
			(unsigned)geteuid(), geteuid() == 0 ? "mount " : "user ");
	last_words(r, said, sizeof(said));
	return banger_error_set(err, BANGER_UNAVAILABLE, "the VM has no registry: %s%s",
		r->p[REGISTRY_FS].how, said);
}

static int wait_ready(struct registry *r, int ready_fd, int cancel_fd, struct banger_error *err)
{
	struct pollfd p[3] = {{ready_fd, POLLIN, 0}, {r->p[REGISTRY_FS].pidfd, POLLIN, 0},
		{cancel_fd, POLLIN, 0}};
	int64_t by = banger_monotonic_us() + READY_MS * INT64_C(1000);
	char byte;

	for (;;) {
		int64_t left = (by - banger_monotonic_us()) / 1000;

		if (left <= 0)
			return banger_error_set(err, BANGER_TIMEOUT,
				"the VM has no registry: its bangerfs is not ready after %d s",
				READY_MS / 1000);
		if (poll(p, 3, (int)left) <= 0)
			continue;
		if (p[0].revents && read(ready_fd, &byte, 1) == 1)
			return 0;
		if (p[2].revents)
			return banger_error_set(err, BANGER_CANCELLED, "cancelled");
		p[0].fd = -1; /* closed without a word: it ends */
		if (p[1].revents)
			return fs_failed(r, err);
	}
}

static int start_fs(struct registry *r, const struct virtiofsd *v, int cancel_fd, int *ret_held,
	struct banger_error *err)
{
	_cleanup_(argv_done) struct argv a = {.n = 0};
	_cleanup_close_ int ready = -1, ready_theirs = -1, held = -1, until = -1, log = -1;
	int pair[2];
	char program[PATH_MAX], bangerd[PATH_MAX];

	int e = bangerfs_find(r->o.config, program, err);
	if (e < 0)
		return e;
	if (!realpath(r->o.config->socket, bangerd)) /* it is looked for from elsewhere */
		return banger_error_set_errno(
			err, errno, "cannot find the daemon's socket %s", r->o.config->socket);
	if (bangerfs_args(
		    program, bangerd, r->o.vm, r->o.changes, SPAWN_FIRST, SPAWN_FIRST + 1, &a) < 0)
		return banger_error_oom(err);
	if (pipe2(pair, O_CLOEXEC) == 0) {
		ready = pair[0];
		ready_theirs = pair[1];
	}
	if (ready >= 0 && pipe2(pair, O_CLOEXEC) == 0) {
		until = pair[0];
		held = pair[1];
	}
	log = openat(r->o.dir_fd, REGISTRY_LOG,
		O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (held < 0 || log < 0 ||
		(mkdirat(r->o.dir_fd, REGISTRY_MOUNT, 0700) < 0 && errno != EEXIST))
		return banger_error_set_errno(err, errno, "cannot prepare the VM's registry");
	const char *const keep[] = {program, bangerd, v->program, NULL};
	struct spawn s = {.argv = a.v,
		.output_fd = log,
		.fds = {ready_theirs, until},
		.n_fds = 2,
		.mounts = SPAWN_PRIVATE,
		.keep = keep};
	e = launch(r, REGISTRY_FS, &s, err);
	if (e < 0)
		return e;
	close(TAKE_FD(ready_theirs));
	e = wait_ready(r, ready, cancel_fd, err);
	if (e == 0)
		*ret_held = TAKE_FD(held);
	return e;
}

/* A listening socket and a connection that waits on it. Its name is short-lived. */
static int make_socket(int dir_fd, int *ret_listener, int *ret_client)
{
	_cleanup_close_ int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	_cleanup_close_ int client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un sun = {.sun_family = AF_UNIX};

	snprintf(sun.sun_path, sizeof(sun.sun_path), "/proc/self/fd/%d/files.sock", dir_fd);
	unlinkat(dir_fd, "files.sock", 0);
	if (listener < 0 || client < 0 || bind(listener, (struct sockaddr *)&sun, sizeof(sun)) < 0)
		return -errno;
	int e = listen(listener, 1) < 0 || connect(client, (struct sockaddr *)&sun, sizeof(sun)) < 0
			? -errno
			: 0;
	unlinkat(dir_fd, "files.sock", 0);
	if (e == 0) {
		*ret_listener = TAKE_FD(listener);
		*ret_client = TAKE_FD(client);
	}
	return e;
}

/* What it says goes where QEMU's words go, to the console: bounded, and nobody waits for a reader. */
static int start_daemon(
	struct registry *r, const struct virtiofsd *v, int *ret_files, struct banger_error *err)
{
	_cleanup_(argv_done) struct argv a = {.n = 0};
	_cleanup_close_ int listener = -1, client = -1;
	char link[40], dir[PATH_MAX];

	r->output = openat(r->o.dir_fd, VMM_CONSOLE_OUT, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	int e = make_socket(r->o.dir_fd, &listener, &client);
	if (e < 0)
		return banger_error_set_errno(err, e, "cannot make a socket for the VM's registry");
	snprintf(link, sizeof(link), "/proc/self/fd/%d", r->o.dir_fd);
	ssize_t n = readlink(link, dir, sizeof(dir) - sizeof("/" REGISTRY_MOUNT));
	if (n <= 0)
		return banger_error_set_errno(err, errno, "cannot find the VM's directory");
	strcpy(dir + n, "/" REGISTRY_MOUNT);
	if (virtiofsd_args(v->program, v->kind, dir, SPAWN_FIRST, geteuid() == 0, &a) < 0)
		return banger_error_oom(err);
	struct spawn s = {.argv = a.v,
		.output_fd = r->output,
		.fds = {listener},
		.n_fds = 1,
		.mounts = SPAWN_WITH,
		.env = VIRTIOFSD_ENV,
		.with = r->p[REGISTRY_FS].pidfd};
	e = launch(r, REGISTRY_DAEMON, &s, err);
	if (e == 0)
		*ret_files = TAKE_FD(client);
	return e;
}

int registry_start(
	struct registry *r, int cancel_fd, int *ret_files, int *ret_held, struct banger_error *err)
{
	_cleanup_close_ int files = -1, held = -1;
	int64_t begun = banger_monotonic_us();
	struct virtiofsd v;

	int e = virtiofsd_find(r->o.config, &v, err);
	if (e == 0)
		e = start_fs(r, &v, cancel_fd, &held, err);
	if (e == 0)
		e = start_daemon(r, &v, &files, err);
	if (e == 0)
		e = start_watching(r, err);
	if (e < 0) {
		banger_closep(&files);
		files = -1;
		end_process(r, REGISTRY_DAEMON, END_MS);
		end_process(r, REGISTRY_FS, 0);
		unlinkat(r->o.dir_fd, REGISTRY_RECORD, 0);
		return e;
	}
	log_info("VM's registry started", KV_S("vm", r->o.vm),
		KV_S("access", r->o.changes ? "rw" : "ro"),
		KV_I("bangerfs", r->p[REGISTRY_FS].id.pid),
		KV_I("virtiofsd", r->p[REGISTRY_DAEMON].id.pid), KV_S("version", v.version),
		KV_D("elapsed_ms", (banger_monotonic_us() - begun) / 1000.0));
	*ret_files = TAKE_FD(files);
	*ret_held = TAKE_FD(held);
	return 0;
}

int registry_find(struct registry *r, struct banger_error *err)
{
	struct registry_id ids[REGISTRY_PROCESSES];
	int missing = -1;

	registry_record_read(r->o.dir_fd, r->o.boot_id, ids);
	for (int i = 0; i < REGISTRY_PROCESSES; i++) {
		struct process *p = &r->p[i];

		p->id = ids[i];
		p->pidfd = registry_id_open(&ids[i]);
		p->over = p->pidfd < 0;
		atomic_store(&p->pid, p->over ? 0 : ids[i].pid);
		if (p->over && missing < 0)
			missing = i;
	}
	if (missing >= 0) {
		describe(&r->p[missing], registry_names[missing], NULL);
		r->o.lost(r->o.arg, r->p[missing].how);
	}
	return start_watching(r, err);
}
