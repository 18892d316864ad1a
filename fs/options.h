/* SPDX-License-Identifier: Apache-2.0 */
/* The command line of bangerfs: its own options, and FUSE's. */
#ifndef FS_OPTIONS_H
#define FS_OPTIONS_H

#include "fs.h"

struct options {
	struct fuse_args args; /* what is libfuse's, for fuse_session_new() */
	char *mountpoint;      /* absolute */
	bool foreground, single_thread, allow_other;
	char *socket, *config, *log; /* NULL: not given */
	/* Of a bangerfs that bangerd starts for a VM: the VM's name; written to when the tree is there; the end of the file
	 * there ends us. NULL, -1: not given. */
	char *vm;
	int ready_fd, until_fd;
};

/* Parses; prints and returns what to exit with (>= 0) for --help, --version and wrong usage, -1 to
 * go on. */
int options_parse(int argc, char **argv, struct options *ret);
void options_done(struct options *o);

#endif
