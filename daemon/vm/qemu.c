/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The QEMU driver.
 *
 * What was measured decides (TCG, Debian's QEMU 7.2 and 6.1 cloud kernel, milliseconds from exec to
 * the first byte of a shell's output; what people type, "-M pc" with a bzImage, takes 2130):
 *	microvm with a vmlinux entered by PVH 1240, with a bzImage 1440; q35 with a vmlinux 1390
 *	qboot instead of SeaBIOS saves 25
 *	cryptomgr.notests saves 200: the kernel tests its ciphers
 *	tsc_early_khz and tsc=reliable save 100 and more on a busy host, where the guest's calibration
 *	against the emulated PIT takes long, or fails and takes the guest along, and where its watchdog
 *	gives up a TSC that is right (it is the host's) for a clock that loses time
 *	noreplace-smp saves 120: with one CPU the kernel would overwrite each of its lock prefixes,
 *	and each time the emulator throws away what it had translated; a lone emulated CPU does not
 *	mind the prefixes
 *	memory by memfd saves 50 to 200: no huge pages to clear, most of which the guest never touches;
 *	vhost-user devices need it, too
 *	noapictimer and rtc=off are faster on paper and hang the guest now and then: not used
 * The emulated CPU is "max", because programs are built for x86-64-v2 and -v3 today; without 5-level
 * paging, which costs and gives nothing, and without the fast string instructions: with those the
 * kernel copies by bytes, which an emulator does one by one (copies through the agent's port: half).
 *
 * QEMU gets files as descriptors: the kernel and the initrd by /proc/self/fd, which it reads before
 * its sandbox closes, the disk as an fd set. The image's format is always named: raw data that
 * claims to be a qcow2 must not be believed. Changes go to a temporary overlay that QEMU unlinks as
 * it makes it, in the VM's own directory, unless the disk is a private clone. -sandbox is on; no
 * device, no configuration file, no network but what is named here. The process dies with the
 * daemon.
 */
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <banger/agent.h>
#include <banger/log.h>
#include "vm/driver.h"
#include "vm/tsc.h"

#define ARGS_MAX 96
#define MAX_CPUS 64

struct args {
	char *v[ARGS_MAX + 1];
	size_t n;
	bool failed;
};

static void args_done(struct args *a)
{
	for (size_t i = 0; i < a->n; i++)
		free(a->v[i]);
}

static void add(struct args *a, const char *fmt, ...) _printf_(2, 3);
static void add(struct args *a, const char *fmt, ...)
{
	va_list ap;

	if (a->n == ARGS_MAX) {
		a->failed = true;
		return;
	}
	va_start(ap, fmt);
	if (vasprintf(&a->v[a->n], fmt, ap) < 0) {
		a->v[a->n] = NULL;
		a->failed = true;
	} else {
		a->n++;
	}
	va_end(ap);
}

#define add2(a, option, ...)                                                                       \
	do {                                                                                       \
		add(a, "%s", option);                                                              \
		add(a, __VA_ARGS__);                                                               \
	} while (0)

/* Descriptor numbers in the child, from 10 on: below are the standard ones and what spawn may use.
 */
enum { CHILD_PORT = 10, CHILD_KERNEL, CHILD_INITRD, CHILD_DISK, CHILD_END };

static void kernel_args(struct args *a, const struct vmm_spec *s)
{
	char tsc[64] = "";
	/* Under KVM the kernel is told the rate of its counter. */
	int64_t khz = s->accel == VM_TCG ? tsc_khz() : 0;

	if (khz > 0)
		snprintf(tsc, sizeof(tsc), " tsc=reliable tsc_early_khz=%lld", (long long)khz);
	add2(a, "-bios", "qboot.rom");
	add2(a, "-kernel", "/proc/self/fd/%d", CHILD_KERNEL);
	add2(a, "-initrd", "/proc/self/fd/%d", CHILD_INITRD);
	add2(a, "-append", "console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests%s%s%s%s",
		s->accel == VM_TCG && s->cpus == 1 ? " noreplace-smp" : "", tsc,
		s->append && *s->append ? " " : "", s->append ?: "");
}

static void machine_args(struct args *a, const struct vmm_spec *s)
{
	add2(a, "-name", "guest=banger-%s,process=banger-vm-%.8s,debug-threads=off", s->name,
		s->op_id + 3);
	/* RTC: the guest's clock starts right without a network. */
	add2(a, "-M", "microvm,acpi=on,rtc=on,pic=on,pit=on,usb=off,memory-backend=ram");
	add2(a, "-object", "memory-backend-memfd,id=ram,size=%lldM,share=on",
		(long long)(s->memory >> 20));
	add2(a, "-m", "%lldM", (long long)(s->memory >> 20));
	add2(a, "-accel", "%s",
		s->accel == VM_KVM ? "kvm"
		: s->cpus > 1      ? "tcg,thread=multi"
				   : "tcg");
	add2(a, "-cpu", "%s", s->accel == VM_KVM ? "host" : "max,la57=off,erms=off,fsrm=off");
	add2(a, "-smp", "%lld", (long long)s->cpus);
	add(a, "-nodefaults");
	add(a, "-no-user-config");
	add(a, "-no-reboot");
	add2(a, "-display", "none");
	add2(a, "-sandbox",
		"on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
	add2(a, "-chardev", "stdio,id=console,signal=off");
	add2(a, "-serial", "chardev:console");
}

static void device_args(struct args *a, const struct vmm_spec *s)
{
	add2(a, "-chardev", "socket,id=agent,fd=%d", CHILD_PORT);
	add2(a, "-device", "virtio-serial-device,max_ports=2");
	add2(a, "-device", "virtserialport,chardev=agent,name=%s", AGENT_PORT);
	if (s->disk_fd < 0)
		return;
	add2(a, "-add-fd", "fd=%d,set=1", CHILD_DISK);
	/* Nothing of a throw-away disk has to survive a power cut: flushes are left out. A full disk
	 * of the host is an I/O error in the guest; QEMU would stop the VM and wait for somebody. */
	add2(a, "-drive",
		"if=none,id=root,file=/dev/fdset/1,format=raw,cache=unsafe,werror=report,"
		"rerror=report,%s",
		s->disk_scratch ? "snapshot=off" : "snapshot=on,read-only=off,file.locking=off");
	add2(a, "-device", "virtio-blk-device,drive=root,serial=root");
}

/* Move a descriptor out of the range that the child's will have, so that no dup2 hits another's
 * source. */
static int lift(int fd, int *ret)
{
	if (fd < 0)
		return 0;
	*ret = fcntl(fd, F_DUPFD_CLOEXEC, CHILD_END);
	return *ret < 0 ? -errno : 0;
}

/* In the child, between fork and exec: system calls only. */
static void become_vmm(char **argv, char **env, pid_t parent, const int map[][2], size_t n)
{
	sigset_t none;

	setsid();
	/* This signal comes when the forking thread ends; it is the one that waits for the VM. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
		_exit(127);
	for (size_t i = 0; i < n; i++)
		if (map[i][0] >= 0 && dup2(map[i][0], map[i][1]) < 0)
			_exit(127);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	execvpe(argv[0], argv, env);
	_exit(127);
}

static int spawn(char **argv, const struct vmm_spec *spec, int port, pid_t *ret)
{
	_cleanup_close_ int kernel = -1, initrd = -1, disk = -1, console = -1, lifted = -1,
			    null_fd = -1;
	_cleanup_free_ char *tmpdir = NULL;
	pid_t parent = getpid();
	int r;

	if ((r = lift(spec->kernel_fd, &kernel)) < 0 || (r = lift(spec->initrd_fd, &initrd)) < 0 ||
		(r = lift(spec->disk_fd, &disk)) < 0 ||
		(r = lift(spec->console_fd, &console)) < 0 || (r = lift(port, &lifted)) < 0)
		return r;
	null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (null_fd < 0)
		return -errno;
	if (asprintf(&tmpdir, "TMPDIR=%s", spec->dir) < 0) {
		tmpdir = NULL;
		return -ENOMEM;
	}
	char *env[] = {tmpdir, (char *)"LC_ALL=C.UTF-8",
		(char *)"PATH=/usr/local/bin:/usr/bin:/bin", NULL};
	const int map[][2] = {{null_fd, 0}, {console, 1}, {console, 2}, {lifted, CHILD_PORT},
		{kernel, CHILD_KERNEL}, {initrd, CHILD_INITRD}, {disk, CHILD_DISK}};
	*ret = fork();
	if (*ret == 0)
		become_vmm(argv, env, parent, map, ELEMENTSOF(map));
	return *ret < 0 ? -errno : 0;
}

/* Is the program there? Asked before the fork, whose child can only exit. */
static int check_program(const char *qemu, struct banger_error *err)
{
	static const char *const dirs[] = {"/usr/local/bin", "/usr/bin", "/bin"};
	char path[512];

	if (strchr(qemu, '/') && access(qemu, X_OK) == 0)
		return 0;
	for (size_t i = 0; !strchr(qemu, '/') && i < ELEMENTSOF(dirs); i++) {
		snprintf(path, sizeof(path), "%s/%s", dirs[i], qemu);
		if (access(path, X_OK) == 0)
			return 0;
	}
	return banger_error_set(
		err, BANGER_UNSUPPORTED, "%s is not installed (Debian: qemu-system-x86)", qemu);
}

static int started(pid_t pid, int port, struct vmm *ret, struct banger_error *err)
{
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);

	if (pidfd < 0) {
		int e = errno;
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		return banger_error_set_errno(err, e, "cannot watch the VM");
	}
	fcntl(pidfd, F_SETFD, FD_CLOEXEC);
	*ret = (struct vmm){.pid = pid, .pidfd = pidfd, .port = port};
	return 0;
}

static int qemu_start(const struct banger_config *config, const struct vmm_spec *spec,
	struct vmm *ret, struct banger_error *err)
{
	_cleanup_(args_done) struct args a = {.n = 0};
	_cleanup_close_ int ours = -1, theirs = -1;
	int pair[2];
	pid_t pid = -1;

	add(&a, "%s", config->qemu);
	machine_args(&a, spec);
	kernel_args(&a, spec);
	device_args(&a, spec);
	if (a.failed)
		return banger_error_oom(err);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		return banger_error_set_errno(err, errno, "cannot make a socket for the VM");
	ours = pair[0];
	theirs = pair[1];
	int r = check_program(config->qemu, err);
	if (r < 0)
		return r;
	r = spawn(a.v, spec, theirs, &pid);
	if (r < 0)
		return banger_error_set_errno(err, r, "cannot start %s", config->qemu);
	r = started(pid, ours, ret, err);
	if (r == 0)
		TAKE_FD(ours);
	return r;
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
	int r = posix_spawnp(&pid, config->qemu, &fa, NULL, argv, env);
	posix_spawn_file_actions_destroy(&fa);
	close(p[1]);
	ssize_t n = r == 0 ? read(p[0], text, sizeof(text) - 1) : 0;
	close(p[0]);
	if (r == 0)
		waitpid(pid, NULL, 0);
	text[n > 0 ? n : 0] = '\0';
	const char *v = strstr(text, "version ");
	if (!v)
		return banger_error_set(err, BANGER_UNSUPPORTED,
			"%s is not installed (Debian: qemu-system-x86)", config->qemu);
	v += strlen("version ");
	snprintf(buf, size, "%.*s", (int)strspn(v, "0123456789."), v);
	return 0;
}

const struct vmm_driver vmm_qemu = {
	.name = "qemu",
	.start = qemu_start,
	.version = qemu_version,
	.max_cpus = MAX_CPUS,
	.arch = "amd64",
};
