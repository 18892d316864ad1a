/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A file that is written by somebody else and appears under its name when it is whole. Until then it
 * has no name at all where the filesystem can do that, so that even a process that is killed leaves
 * nothing; else one that begins with a dot, beside the file that it will become.
 */
#ifndef BANGER_CTL_DESTINATION_H
#define BANGER_CTL_DESTINATION_H

#include "ctl.h"

struct destination {
	int fd;          /* open for writing */
	bool is_stdout;  /* "-" */
	char *path;      /* that it will have, links resolved; NULL: it is written directly */
	char *temporary; /* that it has; NULL: none */
};

/* path "-" is standard output, which must not be a terminal (a usage error). What is there and is no regular file, a
 * FIFO or a device, is written to directly. */
int destination_open(
	struct ctl *c, const char *path, struct destination *ret, struct banger_error *err);
/* Give it its name, durably. */
int destination_commit(struct destination *d, struct banger_error *err);
/* Closes it; what was not committed is gone. */
void destination_done(struct destination *d);
#define _cleanup_destination_ _cleanup_(destination_done)

#endif
