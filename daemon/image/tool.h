/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Programs of others that read what a stranger made (e2fsck, qemu-img). Each run gets the descriptors that it is given,
 * from 3 on, a pipe to talk into, and nothing else: nobody's rights where we are root, no new privileges, limits on
 * memory, time and the size of what it writes. It opens files by /proc/self/fd/N, which needs no path to the state
 * directory.
 */
#ifndef BANGER_IMAGE_TOOL_H
#define BANGER_IMAGE_TOOL_H

#include "op/operation.h"

#define TOOL_NOBODY 65534

struct tool {
	const char *name;
	const char *const *
		places; /* absolute paths to look at, NULL-terminated; the first that can be run is */
	const char *package;     /* Debian's, for who has not got it */
	const char *const *argv; /* NULL-terminated; "N" of /proc/self/fd/N counts from 3 */
	int fds[2];              /* -1: none; become 3 and 4 */
	int64_t memory_max;      /* bytes of address space */
	int64_t file_max;        /* of a file that it writes */
	int time_max_s;
};

struct tool_end {
	int status;                 /* as waitpid() has it */
	char output[16 * 1024 + 1]; /* what it said at first; terminated, anything may be in it */
	size_t len;
};

/* UNSUPPORTED: it is not installed. TIMEOUT, CANCELLED: it was killed. INTERNAL: it could not be started. */
int tool_check(const struct tool *t, struct banger_error *err);
int tool_run(
	const struct tool *t, struct operation *op, struct tool_end *ret, struct banger_error *err);

#endif
