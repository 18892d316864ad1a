/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Giving up rights, in two steps around the start of the program's threads:
 *
 *	sandbox_restrict()  before them, inherited by them: no new privileges, no capabilities,
 * Landlock without any access (where the kernel has it), limits on memory and CPU, no core
 *	sandbox_seal()      after them, for all of them at once: a list of the system calls that
 *	                    unpacking needs; any other kills the process (signal SIGSYS)
 *
 * What remains: reading and writing the descriptors that are open, memory that is not executable,
 * the clock, exit.
 */
#ifndef BANGER_UNPACK_SANDBOX_H
#define BANGER_UNPACK_SANDBOX_H

#include <stdint.h>
#include <banger/error.h>

struct sandbox_limits {
	int64_t memory;      /* bytes of address space; 0: no limit */
	int64_t cpu_seconds; /* 0: no limit */
};

/* *ret_landlock gets the version of Landlock that is in force, 0: none. */
int sandbox_restrict(
	const struct sandbox_limits *limits, int *ret_landlock, struct banger_error *err);

/* What some runs need beyond that, on certain descriptors only; -1: not. */
struct sandbox_rights {
	int receive_fd; /* recvmsg(2) from this socket, descriptors too */
	int clone_to;   /* ioctl(FICLONE) into this file */
	int clone_into; /* ioctl(FICLONERANGE) into this file */
};
#define SANDBOX_NO_RIGHTS ((struct sandbox_rights){-1, -1, -1})

int sandbox_seal(const struct sandbox_rights *rights, struct banger_error *err);

#endif
