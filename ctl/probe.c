/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The probes of doctor: each looks at one thing and says what it found, and, if that is not what it
 * should be, what to do about it in the words of a Debian machine. A probe changes nothing.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include "doctor.h"
#include "program.h"

enum { PATIENCE_MS = 10000 };

static void found(struct finding *f, const char *fmt, ...) _printf_(2, 3);
static void advise(struct finding *f, const char *fmt, ...) _printf_(2, 3);

static void found(struct finding *f, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(f->detail, sizeof(f->detail), fmt, ap);
	va_end(ap);
}

static void advise(struct finding *f, const char *fmt, ...)
{
	va_list ap;

	f->ok = false;
	va_start(ap, fmt);
	vsnprintf(f->advice, sizeof(f->advice), fmt, ap);
	va_end(ap);
}

/* The first line of what a program says of itself; "" when it does not run. */
static void first_line(const char *program, const char *flag, char *buf, size_t size)
{
	const char *argv[] = {program, flag, NULL};
	_cleanup_free_ char *said = NULL;
	int status = 0;

	*buf = '\0';
	if (program_capture(argv, PATIENCE_MS, &said, &status, NULL) < 0 || !WIFEXITED(status) ||
		WEXITSTATUS(status) != 0)
		return;
	snprintf(buf, size, "%.*s", (int)strcspn(said, "\n"), said);
}

/* ---- FUSE */

static void probe_fuse(const struct ctl *c, struct finding *f)
{
	_cleanup_close_ int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);

	if (fd >= 0) {
		found(f, "/dev/fuse opens");
		return;
	}
	found(f, "/dev/fuse: %s", strerrordesc_np(errno));
	if (errno == ENOENT)
		advise(f, "load the kernel's module (modprobe fuse); a container needs the device "
			  "passed in (--device /dev/fuse)");
	else if (errno == EPERM)
		advise(f, "this container is not allowed the device; start it with --device "
			  "/dev/fuse");
	else
		advise(f, "make /dev/fuse readable and writable (mode 0666 is usual)");
}

static void probe_fusermount(const struct ctl *c, struct finding *f)
{
	_cleanup_free_ char *path = program_find("fusermount3");
	struct stat st;

	if (geteuid() == 0) {
		found(f, "not needed by root%s%s", path ? "; " : "", path ? path : "");
		return;
	}
	if (!path || stat(path, &st) < 0) {
		found(f, "not found");
		advise(f, "apt install fuse3");
		return;
	}
	found(f, "%s", path);
	if (!(st.st_mode & S_ISUID)) {
		found(f, "%s is not set-user-id root", path);
		advise(f, "apt install --reinstall fuse3, or chmod u+s %s", path);
	}
}

static void probe_bangerfs(const struct ctl *c, struct finding *f)
{
	_cleanup_free_ char *path = NULL;
	struct banger_error err = {0};
	char line[200];

	if (program_find_own(&c->config, "bangerfs", &path, &err) < 0) {
		found(f, "%s", err.message);
		advise(f, "install bangerfs beside banger-ctl, or in PATH");
		return;
	}
	first_line(path, "--version", line, sizeof(line));
	found(f, "%s%s%s", path, *line ? ": " : "", line);
	if (!*line) {
		found(f, "%s does not run", path);
		advise(f, "run \"%s --version\" to see why", path);
	}
}

/* "libfuse 3.14.0", "FUSE library version 3.17.1" in what bangerfs says of itself */
static bool libfuse_version(const struct ctl *c, int *ret_minor)
{
	_cleanup_free_ char *path = NULL, *said = NULL;
	int status = 0;

	if (program_find_own(&c->config, "bangerfs", &path, NULL) < 0)
		return false;
	const char *argv[] = {path, "--version", NULL};
	if (program_capture(argv, PATIENCE_MS, &said, &status, NULL) < 0)
		return false;
	const char *at = strcasestr(said, "libfuse");
	if (!at)
		at = strcasestr(said, "fuse library");
	at = at ? strstr(at, "3.") : NULL;
	return at && sscanf(at, "3.%d", ret_minor) == 1;
}

static void probe_passthrough(const struct ctl *c, struct finding *f)
{
	int major = 0, minor = 0, library = 0;
	char version[24] = "unknown";
	struct utsname u;

	if (uname(&u) < 0 || sscanf(u.release, "%d.%d", &major, &minor) != 2) {
		found(f, "the kernel's version cannot be read");
		f->ok = false;
		return;
	}
	if (libfuse_version(c, &library))
		snprintf(version, sizeof(version), "3.%d", library);
	if (major < 6 || (major == 6 && minor < 9))
		advise(f, "faster reads of big files need Linux 6.9 or later");
	else if (library < 17)
		advise(f, "faster reads of big files need banger built with libfuse 3.17 or later "
			  "(Debian 13)");
	else if (geteuid() != 0)
		advise(f, "faster reads of big files need a bangerfs that root starts");
	found(f, "kernel %d.%d, libfuse %s%s", major, minor, version,
		f->ok ? "" : ": big files are read through bangerfs");
}

/* ---- VMs */

static void probe_qemu(const struct ctl *c, struct finding *f)
{
	const char *name = c->config.qemu;
	_cleanup_free_ char *path = strchr(name, '/') ? strdup(name) : program_find(name);
	char line[200];

	if (!path || access(path, X_OK) < 0) {
		found(f, "%s was not found", name);
		advise(f, "apt install qemu-system-x86 (vm run needs it)");
		return;
	}
	first_line(path, "--version", line, sizeof(line));
	found(f, "%s%s%s", path, *line ? ": " : "", line);
	if (!*line) {
		found(f, "%s does not run", path);
		advise(f, "run \"%s --version\" to see why", path);
	}
}

static void probe_kvm(const struct ctl *c, struct finding *f)
{
	_cleanup_close_ int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int version;

	if (fd >= 0 && (version = ioctl(fd, KVM_GET_API_VERSION, 0)) >= 0) {
		found(f,
			"/dev/kvm opens (interface %d); whether a kernel boots with it, bangerd "
			"finds out",
			version);
		return;
	}
	found(f, "/dev/kvm: %s; VMs are emulated", strerrordesc_np(errno));
	if (errno == EACCES)
		advise(f, "add the user that runs bangerd to the group kvm (usermod -aG kvm USER)");
	else if (errno == ENOENT)
		advise(f, "switch virtualisation on in the firmware, or nested virtualisation on "
			  "the host (modprobe kvm_intel or kvm_amd)");
	else
		advise(f, "KVM is there but does not answer; VMs run without it, slower");
}

static void probe_virtiofsd(const struct ctl *c, struct finding *f)
{
	static const char *const places[] = {"/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"};

	for (size_t i = 0; i < ELEMENTSOF(places); i++)
		if (access(places[i], X_OK) == 0) {
			found(f, "%s", places[i]);
			return;
		}
	found(f, "not found");
	advise(f, "apt install virtiofsd (Debian 13), or qemu-system-common (Debian 12): "
		  "directories shared with VMs need it");
}

/* ---- tools */

static void probe_tool(
	struct finding *f, const char *program, const char *package, const char *what)
{
	_cleanup_free_ char *path = program_find(program);

	if (path) {
		found(f, "%s", path);
		return;
	}
	found(f, "not found");
	advise(f, "apt install %s (%s)", package, what);
}

static void probe_e2fsck(const struct ctl *c, struct finding *f)
{
	probe_tool(f, "e2fsck", "e2fsprogs", "image verify checks filesystems with it");
}

static void probe_qemu_img(const struct ctl *c, struct finding *f)
{
	probe_tool(f, "qemu-img", "qemu-utils", "VMs get their copy-on-write disks from it");
}

const struct probe doctor_probes[] = {
	{"fuse", true, probe_fuse},
	{"fusermount3", true, probe_fusermount},
	{"bangerfs", true, probe_bangerfs},
	{"passthrough", false, probe_passthrough},
	{"qemu", false, probe_qemu},
	{"qemu-img", false, probe_qemu_img},
	{"kvm", false, probe_kvm},
	{"virtiofsd", false, probe_virtiofsd},
	{"e2fsck", false, probe_e2fsck},
	{NULL},
};
