/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whose part of the tree it is decides: systemd wants to be the only one who makes cgroups below its units, but for those
 * that it marks as delegated (user.delegate, or trusted.delegate, which only root can read). Where there is no systemd,
 * whoever may write there may use it. The root of the machine's tree is nobody's; it alone has no cgroup.events.
 *
 * Controllers are not enabled for the VMs' cgroups, because the daemon is in the one above them, and a cgroup with
 * processes cannot give controllers to those below. What every cgroup has without one is enough: who is in it, the CPU time
 * that they took, an end for all of them at once.
 *
 * A VMM is put there before it does anything (vmm_spec.born), so that its threads are born there.
 */
#include "vm/cgroup.h"
#include <banger/cleanup.h>
#include <banger/log.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define GONE_TRIES 100 /* 5 ms each, for killed processes to leave */

static void say(struct cgroups *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(struct cgroups *c, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(c->about, sizeof(c->about), fmt, ap);
	va_end(ap);
}

/* ---- finding our own */

bool cgroups_parse_own(const char *text, char *ret, size_t size)
{
	for (const char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n') {
		size_t n = strcspn(line, "\n");

		if (strncmp(line, "0::/", 4) != 0 || n - 3 >= size)
			continue;
		memcpy(ret, line + 3, n - 3);
		ret[n - 3] = '\0';
		return true;
	}
	return false;
}

/* man 5 proc: id, parent, major:minor, root, mount point, options, optional fields, "-", type, … */
bool cgroups_parse_mount(const char *line, char *ret, size_t size)
{
	char root[16], point[256];
	const char *type = strstr(line, " - ");

	if (!type || strncmp(type + 3, "cgroup2 ", 8) != 0 ||
		sscanf(line, "%*s %*s %*s %15s %255s", root, point) != 2 ||
		strcmp(root, "/") != 0 || strchr(point, '\\') || strlen(point) >= size)
		return false;
	strcpy(ret, point);
	return true;
}

static bool read_own(const char *proc, char *ret, size_t size)
{
	char path[64], text[4096];

	snprintf(path, sizeof(path), "%s/cgroup", proc);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	text[n > 0 ? n : 0] = '\0';
	return cgroups_parse_own(text, ret, size);
}

static bool read_mount(const char *proc, char *ret, size_t size)
{
	char path[64], line[4096];
	bool found = false;

	snprintf(path, sizeof(path), "%s/mountinfo", proc);
	_cleanup_fclose_ FILE *f = fopen(path, "re");
	while (f && !found && fgets(line, sizeof(line), f))
		found = cgroups_parse_mount(line, ret, size);
	return found;
}

static bool is_marked(int fd, const char *name)
{
	char value[8];
	ssize_t n = fgetxattr(fd, name, value, sizeof(value));

	return n == 1 && value[0] == '1';
}

static bool is_delegated(int fd, const char *own)
{
	return strcmp(own, "/") == 0 || access("/run/systemd/system", F_OK) < 0 ||
	       is_marked(fd, "user.delegate") || is_marked(fd, "trusted.delegate");
}

void cgroups_find(const char *proc, struct cgroups *ret)
{
	char own[PATH_MAX / 2], mount[256], path[PATH_MAX];

	*ret = (struct cgroups){.fd = -1};
	if (!read_own(proc, own, sizeof(own)) || !read_mount(proc, mount, sizeof(mount)))
		return say(ret, "there is no cgroup v2 here");
	snprintf(path, sizeof(path), "%s%s", mount, own);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return say(
			ret, "bangerd's own cgroup cannot be opened: %s", strerrordesc_np(errno));
	if (faccessat(fd, "cgroup.events", F_OK, 0) < 0)
		return say(ret, "bangerd is in the root cgroup, which is nobody's");
	if (faccessat(fd, "cgroup.procs", W_OK, AT_EACCESS) < 0 || access(path, W_OK) < 0)
		return say(ret, "bangerd may not write to its own cgroup, %.200s", own);
	if (!is_delegated(fd, own))
		return say(ret,
			"systemd has not delegated %.200s to bangerd (Delegate=yes in its unit)",
			own);
	ret->fd = TAKE_FD(fd);
	say(ret, "below %.300s", own);
}

void cgroups_done(struct cgroups *c)
{
	banger_closep(&c->fd);
	c->fd = -1;
}

/* ---- a VM's */

static void make_name(const char *vm_id, const char *file, char ret[NAME_MAX + 1])
{
	snprintf(ret, NAME_MAX + 1, CGROUP_PREFIX "%s%s%s", vm_id, file ? "/" : "", file ?: "");
}

static int put(const struct cgroups *c, const char *vm_id, const char *file, const char *text)
{
	char name[NAME_MAX + 1];

	make_name(vm_id, file, name);
	_cleanup_close_ int fd = openat(c->fd, name, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		return -errno;
	return 0;
}

bool cgroups_enter(const struct cgroups *c, const char *vm_id, pid_t pid)
{
	char name[NAME_MAX + 1], text[16];

	if (c->fd < 0)
		return false;
	make_name(vm_id, NULL, name);
	snprintf(text, sizeof(text), "%d", (int)pid);
	int r = mkdirat(c->fd, name, 0755) < 0 && errno != EEXIST ? -errno : 0;
	if (r == 0)
		r = put(c, vm_id, "cgroup.procs", text);
	if (r < 0)
		log_warn("a VM has no cgroup of its own", KV_S("id", vm_id),
			KV_S("error", strerrordesc_np(-r)));
	return r == 0;
}

void cgroups_remove(const struct cgroups *c, const char *vm_id)
{
	const struct timespec moment = {0, 5000000};
	char name[NAME_MAX + 1];

	if (c->fd < 0)
		return;
	make_name(vm_id, NULL, name);
	for (int i = 0; i < GONE_TRIES; i++) {
		if (unlinkat(c->fd, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
			return;
		if (errno != EBUSY)
			break;
		put(c, vm_id, "cgroup.kill", "1"); /* before Linux 5.14 there is none */
		nanosleep(&moment, NULL);
	}
	log_warn("a VM's cgroup stays", KV_S("id", vm_id), KV_S("error", strerrordesc_np(errno)));
}

void cgroups_sweep(const struct cgroups *c, bool (*keep)(void *arg, const char *vm_id), void *arg)
{
	int fd = c->fd < 0 ? -1 : openat(c->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_closedir_ DIR *d = fd < 0 ? NULL : fdopendir(fd);
	const size_t n = strlen(CGROUP_PREFIX);
	struct dirent *e;

	if (!d)
		banger_closep(&fd);
	while (d && (e = readdir(d)))
		if (strncmp(e->d_name, CGROUP_PREFIX, n) == 0 && !keep(arg, e->d_name + n)) {
			log_info("removing a cgroup that a VM left", KV_S("id", e->d_name + n));
			cgroups_remove(c, e->d_name + n);
		}
}
