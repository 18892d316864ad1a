/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A run of banger-unpack as its parent sees it, whatever the program is to do: started with its descriptors and an
 * empty environment, listened to, ended. run.h and bundle_run.h are made of this.
 */
#ifndef BANGER_UNPACK_CHILD_H
#define BANGER_UNPACK_CHILD_H

#include <sys/types.h>
#include <banger/wire.h>
#include "unpack/feed.h"
#include "unpack/program/protocol.h"
#include "unpack/run.h"

#define CHILD_MEMORY (INT64_C(768) << 20)
#define CHILD_CPU_SECONDS 3600
#define CHILD_STALL_MS 300000

struct child {
	pid_t pid; /* 0: it was not started, or is gone */
	int pidfd;
	int status_fd;    /* its lines */
	struct feed feed; /* fd -1: it asks for nothing */
	char line[UNPACK_LINE_MAX];
	size_t len;
	struct unpack_progress progress;
	struct json_object *result, *failure; /* as it said them; NULL: not */
	struct banger_error error;            /* failure as an error */
};
#define CHILD_NONE                                                                                 \
	{                                                                                          \
		.pidfd = -1, .status_fd = -1, .feed = {.fd = -1 }                                  \
	}

/* Kills what still runs, waits for it and frees the rest. */
void child_done(struct child *c);
#define _cleanup_child_ _cleanup_(child_done)

/* fds become 3, 4, 5 … of the program; -1: it has none there; borrowed. Its lines are to come at the number
 * UNPACK_FD_STATUS, whose place in fds is overwritten. arguments: after the program's name, ended by NULL. */
int child_start(struct child *c, const char *program, const char *const *arguments, int *fds,
	size_t n, struct banger_error *err);

struct child_patience {
	int cancel_fd;       /* readable: cancelled; -1: none */
	int64_t stall_ms;    /* without progress */
	int64_t cpu_seconds; /* that it was given, for messages */
	/* NULL, or called now and then with the last that it said. */
	void (*progress)(void *arg, const struct unpack_progress *p);
	void *arg;
};

/* Until it has ended. 0: c->result is there. CANCELLED; TIMEOUT: no progress for so long, or more CPU time than
 * allowed; INTERNAL: it crashed, or broke the rules of the sandbox or of the protocol; else c->error, what it said. */
int child_run(struct child *c, const struct child_patience *p, struct banger_error *err);

#endif
