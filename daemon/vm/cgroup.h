/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A cgroup for each VM's VMM, where this daemon has a part of the cgroup v2 tree of its own: under systemd a unit with
 * Delegate=yes, in a container the namespace's root, else the cgroup that somebody has put the daemon into. There the host
 * can see what each VM takes (cpu.stat), and freeze or limit it with its own means; banger sets no limits there. Anywhere
 * else VMs are in the daemon's cgroup, and nothing is different.
 */
#ifndef BANGER_VM_CGROUP_H
#define BANGER_VM_CGROUP_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define CGROUP_PREFIX "banger-vm-" /* and the VM's id */

/* Where they are made: a directory, and a sentence about it for people. All calls accept one without a directory. */
struct cgroups {
	int fd; /* -1: there is none */
	char about[512];
};
/* proc: "/proc/self" but for tests. */
void cgroups_find(const char *proc, struct cgroups *ret);
void cgroups_done(struct cgroups *c);
/* Put a process into the VM's cgroup, which is made. False, and a line in the log: it stays where it is. */
bool cgroups_enter(const struct cgroups *c, const char *vm_id, pid_t pid);
/* The VM has ended: remove its cgroup, with what is still in it. */
void cgroups_remove(const struct cgroups *c, const char *vm_id);
/* Remove those of VMs that keep() does not know. */
void cgroups_sweep(const struct cgroups *c, bool (*keep)(void *arg, const char *vm_id), void *arg);

/* Of cgroups_find(), for tests: the path after "0::" in /proc/PID/cgroup; false: there is none. */
bool cgroups_parse_own(const char *text, char *ret, size_t size);
/* The mount point of cgroup2 in a line of /proc/PID/mountinfo whose root is "/"; false: another line. */
bool cgroups_parse_mount(const char *line, char *ret, size_t size);

#endif
