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
#include <limits.h>
#include <string.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/statfs.h>
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

int fail(char *why, int errnum, const char *what, const char *on)
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

void boot_options_read(struct boot_options *ret)
{
	_cleanup_close_ int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
	struct boot_options o = {.root = "/dev/vda"};
	const struct {
		const char *word;
		char *to;
		size_t size;
	} words[] = {{"banger.name=", o.name, sizeof(o.name)},
		{"banger.root=", o.root, sizeof(o.root)}, {"banger.work=", o.work, sizeof(o.work)},
		{"banger.ip=", o.ip, sizeof(o.ip)},
		{"banger.registry=", o.registry, sizeof(o.registry)},
		{"banger.init=", o.init, sizeof(o.init)}, {"banger.op=", o.op_id, sizeof(o.op_id)}};
	char line[4096], *save = NULL;

	ssize_t n = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);
	line[n > 0 ? n : 0] = '\0';
	for (char *w = strtok_r(line, " \n", &save); w; w = strtok_r(NULL, " \n", &save)) {
		for (size_t i = 0; i < ELEMENTSOF(words); i++)
			if (strncmp(w, words[i].word, strlen(words[i].word)) == 0)
				snprintf(words[i].to, words[i].size, "%s",
					w + strlen(words[i].word));
		o.read_only |= strcmp(w, "banger.ro") == 0;
		o.grow |= strcmp(w, "banger.grow") == 0;
		o.first |= strcmp(w, "banger.first") == 0;
	}
	if (!banger_op_id_valid(o.op_id))
		o.op_id[0] = '\0';
	*ret = o;
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

int wait_for(const char *path)
{
	for (int waited = 0; waited < DEVICE_WAIT_MS; waited += 5) {
		if (access(path, F_OK) == 0)
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

/* The kernel grows a mounted filesystem; e2fsprogs' resize2fs asks it by the same call. */
#define EXT4_IOC_RESIZE_FS _IOW('f', 16, uint64_t)

static int grow(const char *device, char *why)
{
	_cleanup_close_ int disk = open(device, O_RDONLY | O_CLOEXEC);
	_cleanup_close_ int root = open(NEW_ROOT, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct statfs st;
	uint64_t size = 0;

	if (disk < 0 || root < 0 || ioctl(disk, BLKGETSIZE64, &size) < 0 || fstatfs(root, &st) < 0)
		return fail(why, errno, "cannot find out how large the disk is:", device);
	uint64_t blocks = size / st.f_bsize;
	if (ioctl(root, EXT4_IOC_RESIZE_FS, &blocks) < 0)
		return fail(why, errno, "the root filesystem cannot grow to the size of the disk",
			NULL);
	return 0;
}

/* What programs expect and an image seldom carries. Failing here is theirs to notice. */
static void mount_more(void)
{
	static const struct {
		const char *type, *dir, *options;
		mode_t mode;
		unsigned long flags;
	} more[] = {
		{"devpts", "/dev/pts", "gid=5,mode=620,ptmxmode=666", 0755, MS_NOSUID | MS_NOEXEC},
		{"tmpfs", "/dev/shm", "mode=1777", 01777, MS_NOSUID | MS_NODEV},
		{"tmpfs", "/run", "mode=0755", 0755, MS_NOSUID | MS_NODEV},
		{"cgroup2", "/sys/fs/cgroup", NULL, 0755, MS_NOSUID | MS_NODEV | MS_NOEXEC},
	};
	static const char *const links[][2] = {{"/proc/self/fd", "/dev/fd"},
		{"/proc/self/fd/0", "/dev/stdin"}, {"/proc/self/fd/1", "/dev/stdout"},
		{"/proc/self/fd/2", "/dev/stderr"}};

	for (size_t i = 0; i < ELEMENTSOF(more); i++) {
		mkdir(more[i].dir, more[i].mode);
		if (mount(more[i].type, more[i].dir, more[i].type, more[i].flags, more[i].options) <
			0)
			log_debug("cannot mount", KV_S("path", more[i].dir));
	}
	for (size_t i = 0; i < ELEMENTSOF(links); i++)
		if (symlink(links[i][0], links[i][1]) < 0)
			log_debug("cannot make a link", KV_S("path", links[i][1]));
}

int boot_root(const struct boot_options *o, char *why)
{
	int r = mount_root(o, why);

	if (r == 0 && o->grow && !o->read_only)
		r = grow(o->root, why);
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
	mount_more();
	boot_names(o);
	return 0;
}

void make_dirs(const char *dir)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s", dir);
	for (char *p = strchr(path + 1, '/'); p; p = strchr(p + 1, '/')) {
		*p = '\0';
		mkdir(path, 0755);
		*p = '/';
	}
	mkdir(path, 0755);
}

/* DEVICE:DIR or DEVICE:~USER */
static int mount_work(const char *work, char *why)
{
	char device[320];
	struct user u;

	snprintf(device, sizeof(device), "%s", work);
	char *dir = strchr(device, ':');
	if (!dir || (dir[1] != '/' && dir[1] != '~'))
		return fail(why, EINVAL, "banger.work says no DEVICE:DIR", NULL);
	*dir++ = '\0';
	if (*dir == '~') {
		int r = user_find(dir + 1, &u, why);
		if (r < 0)
			return r;
		dir = u.home;
	}
	if (strcmp(dir, "/") == 0)
		return fail(
			why, EINVAL, "the work disk cannot be mounted at the user's home,", dir);
	int r = wait_for(device);
	if (r < 0)
		return fail(why, -r, "the VM has no disk", device);
	make_dirs(dir);
	if (mount(device, dir, "ext4", MS_NOSUID | MS_NODEV, NULL) < 0)
		return fail(why, errno, "cannot mount the work disk at", dir);
	return 0;
}

static int mount_registry(const char *how, char *why)
{
	const unsigned long flags = MS_NOSUID | MS_NODEV;

	mkdir("/banger", 0755);
	if (mount("banger", "/banger", "virtiofs",
		    strcmp(how, "rw") == 0 ? flags : flags | MS_RDONLY, NULL) < 0)
		return fail(why, errno, "cannot mount the registry at", "/banger");
	return 0;
}

int boot_disks(const struct boot_options *o, char *why)
{
	int r = o->work[0] ? mount_work(o->work, why) : 0;

	return r == 0 && o->registry[0] ? mount_registry(o->registry, why) : r;
}
