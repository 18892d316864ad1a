/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel does not tell a FUSE server why a name is looked up. A thread that waits for our
 * answer is inside its system call, though, and /proc/TID/syscall shows which one with its
 * arguments. The file needs the right to trace the process: root has it, and a process of the same
 * user has it unless the machine restricts tracing.
 */
#include "caller.h"
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <banger/op.h>
#include "loop.h"

#define TRIES 50 /* the thread may not have gone to sleep yet */
#define PAUSE_US 20

/* Read /proc/TID/NAME; the length, or -1. */
static ssize_t read_proc(pid_t tid, const char *name, char *buf, size_t size)
{
	char path[48];

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)tid, name);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd >= 0 ? read(fd, buf, size - 1) : -1;
	buf[n > 0 ? n : 0] = '\0';
	return n;
}

bool caller_is_dying(pid_t tid)
{
	static const char *const keys[] = {"\nSigPnd:", "\nShdPnd:"};
	uint64_t pending = 0;
	char buf[4096];

	if (tid <= 0 || read_proc(tid, "status", buf, sizeof(buf)) <= 0)
		return false;
	/* A signal that ends the process has been turned into SIGKILL for each of its threads. */
	for (size_t i = 0; i < ELEMENTSOF(keys); i++) {
		const char *s = strstr(buf, keys[i]);
		pending |= s ? strtoull(s + strlen(keys[i]), NULL, 16) : 0;
	}
	return pending >> (SIGKILL - 1) & 1;
}

static bool flags_of(const char *syscall, unsigned long *ret)
{
	unsigned long a[3];
	long nr;

	if (sscanf(syscall, "%ld %lx %lx %lx", &nr, &a[0], &a[1], &a[2]) != 4)
		return false;
	if (nr == SYS_openat) {
		*ret = a[2];
		return true;
	}
#ifdef SYS_open
	if (nr == SYS_open) {
		*ret = a[1];
		return true;
	}
#endif
	*ret = 0;
	return true;
}

static bool copies(pid_t tid)
{
	static const char *const programs[] = {"cp", "mv", "install", "gcp", "gmv"};
	struct banger_actor a = {.pid = tid};

	banger_actor_resolve(&a);
	for (size_t i = 0; i < ELEMENTSOF(programs); i++)
		if (strcmp(a.program, programs[i]) == 0)
			return true;
	return false;
}

bool caller_makes_exclusively(pid_t tid)
{
	unsigned long flags;
	char buf[256];

	if (tid <= 0)
		return false;
	LOOP_MAY_WAIT(); /* for that process, too, should it wait for us with another thread */
	for (int i = 0; i < TRIES; i++) {
		if (read_proc(tid, "syscall", buf, sizeof(buf)) <= 0)
			return copies(tid);
		if (flags_of(buf, &flags))
			return (flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL);
		usleep(PAUSE_US); /* "running" */
	}
	return false;
}
