/* SPDX-License-Identifier: Apache-2.0 */
/* What parts of the agent need of its others (boot.c), for tests of those parts. */
#ifndef BANGER_TESTS_AGENT_PARTS_H
#define BANGER_TESTS_AGENT_PARTS_H

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include "agent.h"

int fail(char *why, int errnum, const char *what, const char *on)
{
	snprintf(why, WHY_MAX, "%.100s%s%.200s: %.100s", what, on ? " " : "", on ?: "", strerror(errnum));
	return -errnum;
}

void make_dirs(const char *dir)
{
	mkdir(dir, 0755);
}

#endif
