/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The image's own init, and the end of the VM.
 *
 * An /sbin/init in an image need not be one that works: images of containers carry busybox's, without what it would
 * start. So it is taken for an init by what it is: a program made for that, or one whose configuration is there.
 *
 * How an init is asked to power off differs. systemd takes SIGRTMIN+4, busybox SIGUSR2; all the others restart the
 * machine on SIGINT, which is what the kernel sends for Ctrl-Alt-Del, and a VM that restarts ends.
 */
#include "agent.h"
#include <banger/cleanup.h>
#include <banger/log.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <time.h>

static const char *base(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

static bool there(const char *path)
{
	return access(path, X_OK) == 0;
}

/* Is there anything for an init that reads /etc/inittab to start? */
static bool has_scripts(void)
{
	return access("/etc/inittab", R_OK) == 0 &&
	       (there("/sbin/openrc") || there("/etc/init.d/rcS") || there("/etc/init.d/rc") ||
		       there("/etc/rc.d/rc"));
}

enum init_kind init_find(const char **ret_path)
{
	static const char *const places[] = {
		"/sbin/init", "/usr/sbin/init", "/lib/systemd/systemd"};
	char path[PATH_MAX];

	for (size_t i = 0; i < ELEMENTSOF(places); i++) {
		if (!there(places[i]) || !realpath(places[i], path))
			continue;
		*ret_path = places[i];
		if (strcmp(base(path), "systemd") == 0)
			return INIT_SYSTEMD;
		if (strstr(base(path), "busybox"))
			return has_scripts() ? INIT_BUSYBOX : INIT_NONE;
		return strcmp(base(path), "init") != 0 || has_scripts() ? INIT_OTHER : INIT_NONE;
	}
	return INIT_NONE;
}

/* Without udev no device is announced to systemd, and the start would be waiting for one that is the console for as long
 * as systemd has patience (90 s). So there is no login there. */
void init_prepare(enum init_kind kind)
{
	if (kind != INIT_SYSTEMD || there("/lib/systemd/systemd-udevd") ||
		there("/usr/lib/systemd/systemd-udevd"))
		return;
	make_dirs("/run/systemd/system");
	if (symlink("/dev/null", "/run/systemd/system/serial-getty@ttyS0.service") < 0)
		log_debug("cannot mask the console's login");
}

void init_ask(enum init_kind kind)
{
	/* The inits of distributions are built against glibc, whose first real-time signal this is, or do not care. */
	kill(1, kind == INIT_SYSTEMD ? SIGRTMIN + 4 : kind == INIT_BUSYBOX ? SIGUSR2 : SIGINT);
}

int init_become(const char *path, char *why)
{
	char *argv[] = {(char *)path, NULL};
	char *env[] = {(char *)"HOME=/", (char *)"TERM=linux",
		(char *)"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", NULL};

	execve(path, argv, env);
	return fail(why, errno, "cannot run the image's init", path);
}

static void unmount_all(void)
{
	char *lines[256], line[1024];
	size_t n = 0;

	/* Read first: unmounting changes the list. The later may stand on the earlier. */
	{
		_cleanup_fclose_ FILE *f = fopen("/proc/self/mounts", "re");

		while (f && n < ELEMENTSOF(lines) && fgets(line, sizeof(line), f)) {
			char *dir = strchr(line, ' '), *end = dir ? strchr(++dir, ' ') : NULL;

			if (!end)
				continue;
			*end = '\0';
			if (strcmp(dir, "/") != 0 && strncmp(dir, "/proc", 5) != 0 &&
				(lines[n] = strdup(dir)))
				n++;
		}
	}
	while (n-- > 0) {
		umount2(lines[n], MNT_DETACH);
		free(lines[n]);
	}
}

void power_off(void)
{
	const struct timespec moment = {0, 2000000};

	kill(-1, SIGKILL);
	/* Until they are gone their files hold the filesystems. */
	for (int i = 0; i < 200 && (waitpid(-1, NULL, WNOHANG) >= 0 || errno == EINTR); i++)
		nanosleep(&moment, NULL);
	unmount_all();
	sync();
	mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL);
	/* QEMU runs with -no-reboot: a restart ends it, on machine types without a power switch
	 * too. */
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}
