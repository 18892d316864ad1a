/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The QEMU driver: starting it, and talking with it by QMP.
 *
 * The daemon makes the sockets in the VM's directory, listens on them and gives them to QEMU, so it can connect to
 * them at once, before QEMU has even begun, and again after a restart. Paths of sockets are short in the kernel
 * (108 bytes), those of state directories need not be: a socket is reached as /proc/self/fd/DIRECTORY/NAME. QEMU
 * serves one client on each at a time.
 *
 * What the machine looks like is in qemu_args.c.
 */
#include <fcntl.h>
#include <spawn.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <banger/log.h>
#include "vm/qemu.h"
#include "vm/qmp.h"

#define MAX_CPUS 64
#define OLDEST 6 /* microvm with ACPI, memory backends of machines */
#define ANSWER_MS 5000

/* ---- sockets */

static void socket_path(struct sockaddr_un *sun, int dir_fd, const char *name)
{
	*sun = (struct sockaddr_un){.sun_family = AF_UNIX};
	snprintf(sun->sun_path, sizeof(sun->sun_path), "/proc/self/fd/%d/%s", dir_fd, name);
}

static int open_listener(int dir_fd, const char *name, int *ret)
{
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un sun;

	socket_path(&sun, dir_fd, name);
	unlinkat(dir_fd, name, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&sun, sizeof(sun)) < 0 || listen(fd, 4) < 0)
		return -errno;
	*ret = TAKE_FD(fd);
	return 0;
}

static int open_socket(int dir_fd, const char *name, int *ret, struct banger_error *err)
{
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un sun;

	socket_path(&sun, dir_fd, name);
	if (fd < 0 || connect(fd, (struct sockaddr *)&sun, sizeof(sun)) < 0)
		return banger_error_set(err, BANGER_UNAVAILABLE, "QEMU cannot be reached: %s",
			strerrordesc_np(errno));
	*ret = TAKE_FD(fd);
	return 0;
}

static int qemu_port_open(int dir_fd, int *ret, struct banger_error *err)
{
	return open_socket(dir_fd, QEMU_PORT_SOCKET, ret, err);
}

/* ---- starting */

static void spawn_fds(const struct vmm_spec *s, int port, int control, struct spawn *ret)
{
	ret->fds[QEMU_PORT] = port;
	ret->fds[QEMU_CONTROL] = control;
	ret->fds[QEMU_KERNEL] = s->kernel_fd;
	ret->fds[QEMU_INITRD] = s->initrd_fd;
	for (int i = 0; i < 2; i++) {
		ret->fds[QEMU_DISK + i] = s->disks[i].fd;
		ret->fds[QEMU_BASE + i] = s->disks[i].fd < 0 ? -1 : s->disks[i].base_fd;
	}
	ret->fds[QEMU_TAP] = s->network ? s->tap_fd : -1;
	ret->fds[QEMU_FILES] = s->files ? s->files_fd : -1;
	ret->fds[QEMU_HELD] = s->files ? s->held_fd : -1;
	ret->n_fds = QEMU_HELD + 1;
}

/* The two ends of the port: QEMU's, and ours. */
static int make_port(const struct vmm_spec *s, int *theirs, int *ours, struct banger_error *err)
{
	int pair[2];

	if (!s->bare) {
		int r = open_listener(s->dir_fd, QEMU_PORT_SOCKET, theirs);
		if (r < 0)
			return banger_error_set_errno(err, r, "cannot make a socket for the VM");
		return qemu_port_open(s->dir_fd, ours, err);
	}
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		return banger_error_set_errno(err, errno, "cannot make a socket for the VM");
	*ours = pair[0];
	*theirs = pair[1];
	return 0;
}

/* What QEMU itself has to say goes where the console does. It must not wait there for a reader. */
static int open_output(const struct vmm_spec *s)
{
	return s->bare ? -1 : openat(s->dir_fd, VMM_CONSOLE_OUT, O_RDWR | O_NONBLOCK | O_CLOEXEC);
}

/* "QEMU emulator version 7.2.22 (Debian …)" */
static int qemu_version(
	const struct banger_config *config, char *buf, size_t size, struct banger_error *err)
{
	char *argv[] = {config->qemu, (char *)"--version", NULL}, text[256] = "";
	char *env[] = {(char *)"LC_ALL=C.UTF-8", (char *)"PATH=/usr/local/bin:/usr/bin:/bin", NULL};
	posix_spawn_file_actions_t fa;
	int p[2];
	pid_t pid = -1;

	if (pipe2(p, O_CLOEXEC) < 0)
		return banger_error_set_errno(
			err, errno, "cannot ask %s for its version", config->qemu);
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_adddup2(&fa, p[1], 1);
	posix_spawn_file_actions_addopen(&fa, 2, "/dev/null", O_WRONLY, 0);
	int r = posix_spawnp(&pid, config->qemu, &fa, NULL, argv, env);
	posix_spawn_file_actions_destroy(&fa);
	close(p[1]);
	ssize_t n = r == 0 ? read(p[0], text, sizeof(text) - 1) : 0;
	close(p[0]);
	if (r == 0)
		waitpid(pid, NULL, 0);
	text[n > 0 ? n : 0] = '\0';
	const char *v = strstr(text, "version ");
	if (!v && spawn_check(config->qemu, err) == 0)
		return banger_error_set(err, BANGER_UNSUPPORTED,
			"%s is no QEMU: it does not say its version", config->qemu);
	if (!v)
		return banger_error_set(err, BANGER_UNSUPPORTED,
			"%s is not installed (Debian: qemu-system-x86)", config->qemu);
	v += strlen("version ");
	snprintf(buf, size, "%.*s", (int)strspn(v, "0123456789."), v);
	return 0;
}

/* Asked once: another QEMU that is installed meanwhile is started in the same way. */
static int major_version(const struct banger_config *config)
{
	static _Atomic int known;
	char text[32];

	if (known == 0 && qemu_version(config, text, sizeof(text), NULL) == 0)
		known = atoi(text);
	return known;
}

static int qemu_start(const struct banger_config *config, const struct vmm_spec *spec,
	struct vmm *ret, struct banger_error *err)
{
	_cleanup_(argv_done) struct argv a = {.n = 0};
	_cleanup_close_ int ours = -1, theirs = -1, control = -1, control_ours = -1,
			    output = open_output(spec);
	struct spawn s = {.dir_fd = spec->dir_fd,
		.output_fd = output,
		.tied = spec->tied,
		.confined = true,
		.born = spec->born,
		.arg = spec->arg};
	pid_t pid;
	int pidfd;

	if (qemu_args_make(config->qemu, major_version(config), spec, &a) < 0)
		return banger_error_oom(err);
	int r = make_port(spec, &theirs, &ours, err);
	if (r < 0)
		return r;
	r = spec->bare ? 0 : open_listener(spec->dir_fd, QEMU_CONTROL_SOCKET, &control);
	if (r < 0)
		return banger_error_set_errno(err, r, "cannot make a socket for the VM");
	if (!spec->bare)
		r = open_socket(spec->dir_fd, QEMU_CONTROL_SOCKET, &control_ours, err);
	if (r < 0)
		return r;
	s.argv = a.v;
	spawn_fds(spec, theirs, control, &s);
	r = spawn_vmm(&s, &pid, &pidfd, err);
	if (r == 0)
		*ret = (struct vmm){.pid = pid,
			.pidfd = pidfd,
			.port = TAKE_FD(ours),
			.control = TAKE_FD(control_ours)};
	return r;
}

/* ---- control */

struct vmm_control {
	struct qmp *qmp;
	vmm_event *event;
	void *arg;
};

/* SHUTDOWN says why: {"guest":true,"reason":"guest-shutdown"|"guest-reset"|…} or {"guest":false,…} */
static enum vmm_event_kind shutdown_kind(struct json_object *data)
{
	bool object = json_object_is_type(data, json_type_object);
	const char *reason = object ? banger_json_str(data, "reason") : NULL;

	if (!object || !banger_json_bool(data, "guest", false))
		return VMM_ENDING;
	if (reason && strcmp(reason, "guest-reset") == 0)
		return VMM_RESET;
	return reason && strcmp(reason, "guest-panic") == 0 ? VMM_PANICKED : VMM_POWERED_OFF;
}

static void on_event(void *arg, const char *name, struct json_object *data)
{
	static const struct {
		const char *name;
		enum vmm_event_kind kind;
	} known[] = {
		{"STOP", VMM_PAUSED}, {"RESUME", VMM_RESUMED}, {"GUEST_PANICKED", VMM_PANICKED}};
	struct vmm_control *c = arg;

	if (strcmp(name, "SHUTDOWN") == 0)
		c->event(c->arg, shutdown_kind(data));
	for (size_t i = 0; i < ELEMENTSOF(known); i++)
		if (strcmp(known[i].name, name) == 0)
			c->event(c->arg, known[i].kind);
}

static int qemu_control_open(int dir_fd, int fd_, vmm_event *event, void *arg,
	struct vmm_control **ret, struct banger_error *err)
{
	struct vmm_control *c = calloc(1, sizeof(*c));
	_cleanup_close_ int fd = fd_;

	if (!c)
		return banger_error_oom(err);
	c->event = event;
	c->arg = arg;
	int r = fd >= 0 ? 0 : open_socket(dir_fd, QEMU_CONTROL_SOCKET, &fd, err);
	if (r == 0 && qmp_new(TAKE_FD(fd), on_event, c, &c->qmp) < 0)
		r = banger_error_oom(err);
	if (r < 0)
		free(c);
	else
		*ret = c;
	return r;
}

static void qemu_control_close(struct vmm_control **p)
{
	if (!*p)
		return;
	qmp_freep(&(*p)->qmp);
	free(*p);
	*p = NULL;
}

static int qemu_control_fd(const struct vmm_control *c)
{
	return qmp_fd(c->qmp);
}

static int qemu_control_read(struct vmm_control *c)
{
	return qmp_read(c->qmp);
}

static int qemu_pause(struct vmm_control *c, struct banger_error *err)
{
	return qmp_command(c->qmp, "stop", NULL, ANSWER_MS, NULL, err);
}

static int qemu_resume(struct vmm_control *c, struct banger_error *err)
{
	return qmp_command(c->qmp, "cont", NULL, ANSWER_MS, NULL, err);
}

static int qemu_power_button(struct vmm_control *c, struct banger_error *err)
{
	return qmp_command(c->qmp, "system_powerdown", NULL, ANSWER_MS, NULL, err);
}

static int qemu_status(struct vmm_control *c, enum vmm_status *ret, struct banger_error *err)
{
	_cleanup_json_ struct json_object *o = NULL;

	int r = qmp_command(c->qmp, "query-status", NULL, ANSWER_MS, &o, err);
	if (r < 0)
		return r;
	const char *s =
		json_object_is_type(o, json_type_object) ? banger_json_str(o, "status") : NULL;
	if (!s)
		return banger_error_set(err, BANGER_INTERNAL, "QEMU does not say how it is");
	*ret = strcmp(s, "running") == 0    ? VMM_IS_RUNNING
	       : strcmp(s, "shutdown") == 0 ? VMM_IS_OVER
					    : VMM_IS_PAUSED;
	return 0;
}

const struct vmm_driver vmm_qemu = {
	.name = "qemu",
	.start = qemu_start,
	.version = qemu_version,
	.control_open = qemu_control_open,
	.control_fd = qemu_control_fd,
	.control_read = qemu_control_read,
	.control_close = qemu_control_close,
	.pause = qemu_pause,
	.resume = qemu_resume,
	.power_button = qemu_power_button,
	.status = qemu_status,
	.port_open = qemu_port_open,
	.oldest = OLDEST,
	.max_cpus = MAX_CPUS,
	.arch = "amd64",
};
