/* SPDX-License-Identifier: Apache-2.0 */
/*
 * /proc/self/mountinfo, and who holds a mount. A line is
 *	ID PARENT MAJ:MIN ROOT POINT OPTIONS [TAG...] - TYPE SOURCE SUPEROPTIONS
 * with spaces and the like in ROOT, POINT and SOURCE as \040 (proc(5)). Where mounts cover each
 * other the last line counts.
 */
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include "mounts.h"

int mounts_resolve(const char *path, char **ret, struct banger_error *err)
{
	_cleanup_free_ char *copy = strdup(path), *parent = NULL;
	char *slash, *base, *point = NULL;
	enum mounts_kind kind;

	if (!copy)
		return banger_error_oom(err);
	for (size_t n = strlen(copy); n > 1 && copy[n - 1] == '/'; n--)
		copy[n - 1] = '\0';
	slash = strrchr(copy, '/');
	base = slash ? slash + 1 : copy;
	if (*base && strcmp(base, ".") != 0 && strcmp(base, "..") != 0) {
		char keep = *base;

		*base = '\0';
		parent = realpath(slash ? copy : ".", NULL);
		*base = keep;
		if (!parent)
			return banger_error_set_errno(err, errno, "cannot find %s", path);
		if (asprintf(&point, "%s/%s", strcmp(parent, "/") == 0 ? "" : parent, base) < 0)
			return banger_error_oom(err);
		if (mounts_at(point, &kind, NULL) == 0 && kind != MOUNTS_NOTHING) {
			*ret = point;
			return 0;
		}
		free(point);
	}
	/* Nothing is mounted there by that name: a symlink, or an ordinary directory. */
	*ret = realpath(path, NULL);
	return *ret ? 0 : banger_error_set_errno(err, errno, "cannot find %s", path);
}

/* Octal escapes, in place. */
static void unescape(char *s)
{
	char *to = s;

	while (*s) {
		if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' &&
			s[3] >= '0' && s[3] <= '7') {
			*to++ = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
			s += 4;
		} else {
			*to++ = *s++;
		}
	}
	*to = '\0';
}

static enum mounts_kind kind_of(char *fields)
{
	char *save = NULL, *type = strtok_r(fields, " \n", &save),
	     *source = strtok_r(NULL, " \n", &save);

	if (type && source && strncmp(type, "fuse", 4) == 0 &&
		(strstr(type, "banger") || strncmp(source, "banger", 6) == 0))
		return MOUNTS_BANGERFS;
	return MOUNTS_OTHER;
}

int mounts_at(const char *point, enum mounts_kind *ret, struct banger_error *err)
{
	_cleanup_fclose_ FILE *f = fopen("/proc/self/mountinfo", "re");
	_cleanup_free_ char *line = NULL;
	enum mounts_kind kind = MOUNTS_NOTHING;
	size_t size = 0;

	if (!f)
		return banger_error_set_errno(err, errno, "cannot read /proc/self/mountinfo");
	while (getline(&line, &size, f) > 0) {
		char *dash = strstr(line, " - "), *field = line, *save = NULL;

		if (!dash)
			continue;
		*dash = '\0';
		field = strtok_r(line, " ", &save);
		for (int i = 0; i < 4 && field; i++)
			field = strtok_r(NULL, " ", &save);
		if (!field)
			continue;
		unescape(field);
		if (strcmp(field, point) == 0)
			kind = kind_of(dash + 3);
	}
	*ret = kind;
	return 0;
}

/* ---- who holds it */

static bool link_is_under(int dir, const char *name, const char *point)
{
	char target[4096];
	ssize_t n = readlinkat(dir, name, target, sizeof(target) - 1);
	size_t len = strlen(point);

	if (n < 0)
		return false;
	target[n] = '\0';
	return strncmp(target, point, len) == 0 && (target[len] == '/' || target[len] == '\0');
}

static bool holds(int process, const char *point)
{
	static const char *const links[] = {"cwd", "root", "exe"};
	_cleanup_closedir_ DIR *d = NULL;
	struct dirent *e;

	for (size_t i = 0; i < ELEMENTSOF(links); i++)
		if (link_is_under(process, links[i], point))
			return true;
	int fds = openat(process, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	d = fds >= 0 ? fdopendir(fds) : NULL;
	if (!d && fds >= 0)
		close(fds);
	while (d && (e = readdir(d)))
		if (link_is_under(dirfd(d), e->d_name, point))
			return true;
	return false;
}

static void name_of(int process, char buf[32])
{
	_cleanup_close_ int fd = openat(process, "comm", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd >= 0 ? read(fd, buf, 31) : 0;

	buf[n > 0 ? n : 0] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
}

void mounts_users(const char *point, char *buf, size_t size)
{
	_cleanup_closedir_ DIR *d = opendir("/proc");
	struct dirent *e;
	size_t at = 0;

	*buf = '\0';
	while (d && (e = readdir(d)) && at + 64 < size) {
		char name[32];

		if (e->d_name[0] < '0' || e->d_name[0] > '9')
			continue;
		_cleanup_close_ int process =
			openat(dirfd(d), e->d_name, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (process < 0 || !holds(process, point))
			continue;
		name_of(process, name);
		at += (size_t)snprintf(
			buf + at, size - at, "%s%s[%.10s]", at ? ", " : "", name, e->d_name);
	}
}
