/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the initrd to the image's root filesystem.
 *
 * The kernel starts us with nothing mounted. We mount what a system needs, load the modules that
 * the daemon chose in the order that it chose, open the port, mount the root disk and make it the
 * root. The port is opened before the root disk is mounted, so that a disk that does not mount is
 * reported and not guessed from silence. Mount points that the image does not have are made when it
 * is writable.
 */
#include "agent.h"
#include <banger/cleanup.h>
#include <banger/log.h>
#include <banger/op.h>
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>

#define DEVICE_WAIT_MS 5000
#define NEW_ROOT "/newroot"

/* What moves into the new root. Where it is there already (devtmpfs by the kernel), that is fine.
 */
static const struct {
	const char *type, *dir, *options;
	unsigned long flags;
} mounts[] = {
	{"devtmpfs", "/dev", "mode=0755", MS_NOSUID},
	{"proc", "/proc", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC},
	{"sysfs", "/sys", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC},
};

static int fail(char *why, int errnum, const char *what, const char *on)
{
	snprintf(why, WHY_MAX, "%s%s%s: %s", what, on ? " " : "", on ?: "",
		strerrordesc_np(errnum) ?: "error");
	return -errnum;
}

int boot_mounts(char *why)
{
	for (size_t i = 0; i < ELEMENTSOF(mounts); i++) {
		mkdir(mounts[i].dir, 0755);
		if (mount(mounts[i].type, mounts[i].dir, mounts[i].type, mounts[i].flags,
			    mounts[i].options) < 0 &&
			errno != EBUSY)
			return fail(why, errno, "the agent cannot mount", mounts[i].dir);
	}
	return 0;
}

static void sleep_ms(int ms)
{
	struct timespec t = {ms / 1000, ms % 1000 * 1000000L};

	nanosleep(&t, NULL);
}

static void take(char *to, size_t size, const char *from)
{
	snprintf(to, size, "%s", from);
}

void boot_options_read(struct boot_options *ret)
{
	_cleanup_close_ int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
	char line[4096];
	char *save = NULL;

	*ret = (struct boot_options){.root = "/dev/vda"};
	ssize_t n = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);
	line[n > 0 ? n : 0] = '\0';
	for (char *w = strtok_r(line, " \n", &save); w; w = strtok_r(NULL, " \n", &save)) {
		if (strncmp(w, "banger.op=", 10) == 0 && banger_op_id_valid(w + 10))
			take(ret->op_id, sizeof(ret->op_id), w + 10);
		else if (strncmp(w, "banger.name=", 12) == 0)
			take(ret->name, sizeof(ret->name), w + 12);
		else if (strncmp(w, "banger.root=", 12) == 0)
			take(ret->root, sizeof(ret->root), w + 12);
		else if (strcmp(w, "banger.ro") == 0)
			ret->read_only = true;
	}
}

/* EEXIST: built in, or loaded already. The file is not needed again: its memory is given back. */
static int load_module(const char *path, char *why)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return fail(why, errno, "the initrd has no module", path);
	if (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST)
		return fail(why, errno, "the kernel does not take the module", path);
	unlink(path);
	return 0;
}

int boot_modules(char *why)
{
	_cleanup_fclose_ FILE *f = fopen("/modules.list", "re");
	char path[1024];

	if (!f)
		return errno == ENOENT ? 0 : fail(why, errno, "cannot read", "/modules.list");
	while (fgets(path, sizeof(path), f)) {
		path[strcspn(path, "\n")] = '\0';
		int r = *path ? load_module(path, why) : 0;
		if (r < 0)
			return r;
	}
	return 0;
}

/* /sys/class/virtio-ports/vportNpM/name says which port is ours. */
static bool find_port(char *ret, size_t size)
{
	_cleanup_closedir_ DIR *d = opendir("/sys/class/virtio-ports");
	struct dirent *e;

	while (d && (e = readdir(d))) {
		char path[320], name[64];

		snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name", e->d_name);
		_cleanup_close_ int fd =
			e->d_name[0] == '.' ? -1 : open(path, O_RDONLY | O_CLOEXEC);
		ssize_t n = fd < 0 ? -1 : read(fd, name, sizeof(name) - 1);
		if (n <= 0)
			continue;
		name[n] = '\0';
		name[strcspn(name, "\n")] = '\0';
		if (strcmp(name, AGENT_PORT) == 0) {
			snprintf(ret, size, "/dev/%s", e->d_name);
			return true;
		}
	}
	return false;
}

int boot_port(char *why)
{
	char path[300];

	for (int waited = 0; waited < DEVICE_WAIT_MS; waited += 5) {
		if (find_port(path, sizeof(path))) {
			int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
			if (fd >= 0)
				return fd;
			if (errno != ENOENT && errno != ENODEV && errno != ENXIO)
				return fail(why, errno, "cannot open", path);
		}
		sleep_ms(5);
	}
	return fail(why, ENODEV, "the VM has no virtio-serial port", AGENT_PORT);
}

static int wait_for(const char *device)
{
	for (int waited = 0; waited < DEVICE_WAIT_MS; waited += 5) {
		if (access(device, F_OK) == 0)
			return 0;
		sleep_ms(5);
	}
	return -ENODEV;
}

static int mount_root(const struct boot_options *o, char *why)
{
	/* A trial of the machine: that the agent can say so is all that is asked. */
	if (strcmp(o->root, "none") == 0)
		return fail(why, ENODEV, "the VM was given no disk", NULL);
	int r = wait_for(o->root);

	if (r < 0)
		return fail(why, -r, "the VM has no disk", o->root);
	mkdir(NEW_ROOT, 0755);
	if (mount(o->root, NEW_ROOT, "ext4", o->read_only ? MS_RDONLY : 0, NULL) < 0)
		return fail(why, errno, "the kernel cannot mount the image's root filesystem on",
			o->root);
	return 0;
}

int boot_root(const struct boot_options *o, char *why)
{
	int r = mount_root(o, why);

	if (r < 0)
		return r;
	for (size_t i = 0; i < ELEMENTSOF(mounts); i++) {
		char to[64];

		snprintf(to, sizeof(to), NEW_ROOT "%s", mounts[i].dir);
		mkdir(to, 0755);
		if (mount(mounts[i].dir, to, NULL, MS_MOVE, NULL) < 0)
			return fail(why, errno, "the image has no directory", mounts[i].dir);
	}
	if (chdir(NEW_ROOT) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 ||
		chdir("/") < 0)
		return fail(why, errno, "cannot switch to the image's root filesystem", NULL);
	/* What programs expect and an image seldom carries. Failing here is theirs to notice. */
	mkdir("/dev/pts", 0755);
	mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=620,ptmxmode=666");
	mkdir("/dev/shm", 01777);
	mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
	mkdir("/run", 0755);
	mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755");
	if (symlink("/proc/self/fd", "/dev/fd") < 0 ||
		symlink("/proc/self/fd/0", "/dev/stdin") < 0 ||
		symlink("/proc/self/fd/1", "/dev/stdout") < 0 ||
		symlink("/proc/self/fd/2", "/dev/stderr") < 0)
		log_debug("cannot make the links in /dev");
	if (o->name[0] && sethostname(o->name, strlen(o->name) < 64 ? strlen(o->name) : 64) < 0)
		log_warn("cannot set the host name", KV_S("error", strerrordesc_np(errno)));
	return 0;
}

void power_off(void)
{
	kill(-1, SIGKILL);
	sync();
	mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL);
	/* QEMU runs with -no-reboot: a restart ends it, on machine types without a power switch
	 * too. */
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}
