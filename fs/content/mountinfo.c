/* SPDX-License-Identifier: Apache-2.0 */
/*
 * /proc/self/mountinfo: one mount a line, "ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS…"; blanks
 * in a path are written as \040 and the like. See proc(5).
 */
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <banger/cleanup.h>

#include "mountinfo.h"

static void unescape(char *s)
{
	char *out = s;

	while (*s) {
		unsigned c;
		if (s[0] == '\\' && sscanf(s + 1, "%3o", &c) == 1 && strlen(s) >= 4) {
			*out++ = (char)c;
			s += 4;
		} else {
			*out++ = *s++;
		}
	}
	*out = '\0';
}

bool mountinfo_find(const char *path, unsigned *ret_major, unsigned *ret_minor)
{
	_cleanup_fclose_ FILE *f = fopen("/proc/self/mountinfo", "re");
	_cleanup_free_ char *line = NULL;
	size_t size = 0;
	bool found = false;

	while (f && getline(&line, &size, f) > 0) {
		_cleanup_free_ char *point = NULL;
		unsigned major, minor;

		if (sscanf(line, "%*d %*d %u:%u %*s %ms", &major, &minor, &point) != 3)
			continue;
		unescape(point);
		if (strcmp(point, path) != 0)
			continue;
		found = true; /* the last one is the topmost */
		if (ret_major)
			*ret_major = major;
		if (ret_minor)
			*ret_minor = minor;
	}
	return found;
}
