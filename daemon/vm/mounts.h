/* SPDX-License-Identifier: Apache-2.0 */
/* Which of the host's mounts a program in a mount namespace of its own does not need. */
#ifndef BANGER_VM_MOUNTS_H
#define BANGER_VM_MOUNTS_H

#include <stdio.h>

/*
 * From the text of /proc/PID/mountinfo (proc_pid_mountinfo(5)): the mount points, in the order in which they can be
 * taken away, that are neither the system's (/usr, /etc, /proc, /dev, …), nor hold one of the paths to keep (absolute;
 * NULL-terminated). *ret: NULL-terminated; mounts_done(). -ENOMEM, or the error of reading.
 */
int mounts_unneeded(FILE *mountinfo, const char *const *keep, char ***ret);
void mounts_done(char ***points);

#endif
