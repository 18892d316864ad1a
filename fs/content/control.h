/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the supervisor (content.c) and the content process (role.c) say to each other, over a pair
 * of SOCK_SEQPACKET sockets: one packet is one message. The supervisor sends the setup, once; after
 * that its end of the pair only says that it lives: when it is closed, the content process ends.
 */
#ifndef FS_CONTENT_CONTROL_H
#define FS_CONTENT_CONTROL_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

/* argv[1] of the content process; argv[2] is the descriptor of its end, argv[3] that of the page (page.h). */
#define CONTENT_ROLE "--content-process"

/* To the content process. Paths are absolute. */
struct content_setup {
	char mountpoint[PATH_MAX]; /* of the content itself */
	char socket[PATH_MAX];     /* bangerd's */
	bool allow_other;
	unsigned threads;
};

/* From it. */
struct content_report {
	enum { CONTENT_MOUNTED = 1 } what; /* how far it is, is in the page */
};

/* Exit status: taken down by an unmount, as opposed to having failed. */
#define CONTENT_EXIT_UNMOUNTED 0
#define CONTENT_EXIT_FAILED 1

#endif
