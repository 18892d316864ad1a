/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A mount namespace begins as a copy of all mounts. Where they are not shared (no systemd), an unmount on the host
 * does not reach the copies: a disk that somebody has unmounted would stay in use until the VM ends. So what is not
 * needed goes at once. What is needed is kept by a list of the system's places, not found out: a mount too many
 * does little harm, one too few would.
 */
#include "vm/mounts.h"
#include <stdbool.h>
#include <string.h>
#include <banger/cleanup.h>

static const char *const system_places[] = {"/usr", "/lib", "/lib32", "/lib64", "/libx32", "/bin",
	"/sbin", "/etc", "/opt", "/nix", "/gnu", "/proc", "/sys", "/dev"};

/* Is `path` the directory or below it? */
static bool is_within(const char *path, const char *dir)
{
	size_t n = strlen(dir);

	if (n == 1)
		return true;
	return strncmp(path, dir, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

static bool is_needed(const char *point, const char *const *keep)
{
	for (size_t i = 0; i < ELEMENTSOF(system_places); i++)
		if (is_within(point, system_places[i]) || is_within(system_places[i], point))
			return true;
	for (; *keep; keep++)
		if (is_within(*keep, point))
			return true;
	return false;
}

/* The fifth word of a line; blanks and backslashes in it are written in octal. In place; NULL: there is none. */
static char *point_of(char *line)
{
	char *save, *word = strtok_r(line, " \n", &save), *to;

	for (int i = 0; word && i < 4; i++)
		word = strtok_r(NULL, " \n", &save);
	if (!word || word[0] != '/')
		return NULL;
	to = word;
	for (const char *s = word; *s; s++) {
		bool octal = s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' &&
			     s[2] <= '7' && s[3] >= '0' && s[3] <= '7';
		*to++ = octal ? (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0')) : *s;
		s += octal ? 3 : 0;
	}
	*to = '\0';
	return word;
}

static int add(char ***points, size_t *n, const char *point)
{
	char **p = reallocarray(*points, *n + 2, sizeof(*p));

	if (!p)
		return -ENOMEM;
	*points = p;
	p[*n] = strdup(point);
	p[*n + 1] = NULL;
	if (!p[*n])
		return -ENOMEM;
	++*n;
	return 0;
}

/* What was mounted last goes first. */
static void reverse(char **points, size_t n)
{
	for (size_t i = 0; i < n / 2; i++) {
		char *p = points[i];

		points[i] = points[n - 1 - i];
		points[n - 1 - i] = p;
	}
}

int mounts_unneeded(FILE *mountinfo, const char *const *keep, char ***ret)
{
	_cleanup_free_ char *line = NULL;
	char **points = calloc(1, sizeof(*points));
	size_t size = 0, n = 0;
	int r = points ? 0 : -ENOMEM;

	while (r == 0 && (errno = 0, getline(&line, &size, mountinfo)) >= 0) {
		const char *point = point_of(line);

		if (point && !is_needed(point, keep))
			r = add(&points, &n, point);
	}
	if (r == 0 && ferror(mountinfo))
		r = -(errno ?: EIO);
	if (r < 0) {
		mounts_done(&points);
		return r;
	}
	reverse(points, n);
	*ret = points;
	return 0;
}

void mounts_done(char ***points)
{
	for (char **p = *points; p && *p; p++)
		free(*p);
	free(*points);
	*points = NULL;
}
