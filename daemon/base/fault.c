/* SPDX-License-Identifier: Apache-2.0 */
/* Fault points: see fault.h. Nothing of this is in an ordinary build. */
#include <banger/fault.h>

#ifdef BANGER_FAULT_POINTS
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static atomic_long passages;

static void note(const char *file, const char *name)
{
	char line[128];
	int n = snprintf(line, sizeof(line), "%s\n", name);
	int fd = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

	if (fd >= 0) {
		if (write(fd, line, n) != n)
			abort();
		close(fd);
	}
}

void banger_fault_point(const char *name)
{
	const char *log = getenv("BANGER_FAULT_LOG"), *fault = getenv("BANGER_FAULT");
	const char *colon = fault ? strrchr(fault, ':') : NULL;

	if (log)
		note(log, name);
	if (!colon)
		return;
	size_t n = colon - fault;
	if (!(n == 1 && *fault == '*') && (strlen(name) != n || strncmp(fault, name, n) != 0))
		return;
	if (atomic_fetch_add(&passages, 1) + 1 == strtol(colon + 1, NULL, 10))
		kill(getpid(), SIGKILL);
}
#else
/* ISO C wants a translation unit to declare something. */
typedef int banger_no_fault_points;
#endif
