/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's end of the agent protocol (banger/agent.h) for one program: waits for the agent,
 * starts the program, carries its stdin, stdout and stderr between descriptors and the port, gives
 * its status.
 *
 * The guest is hostile. It can lie and flood; what it can get by that is a PROTOCOL error of its
 * own VM. Nothing here allocates by what it says.
 */
#ifndef BANGER_VM_RELAY_H
#define BANGER_VM_RELAY_H

#include <banger/agent.h>
#include <banger/error.h>
#include "vm/console.h"

struct relay {
	int port; /* the socket that is the other end of the virtio-serial port; non-blocking */
	int cancel_fd;   /* readable: stop (CANCELLED); -1: none */
	int vmm_fd;      /* readable: the VMM has ended, a pidfd; -1: none */
	bool ready;      /* HELLO has come and was taken: begin at once */
	int64_t boot_by; /* banger_monotonic_us() by which HELLO must have come; 0: no limit */
	int64_t end_by;  /* the same for the program's end */
	int stdin_fd, stdout_fd, stderr_fd; /* borrowed; -1: nothing to read, output dropped */
	const struct agent_exec *exec;
	struct console *console; /* to be read meanwhile; NULL: none */
};

struct relay_result {
	int64_t hello_us; /* banger_monotonic_us() at HELLO */
	int exit_code;    /* -1 when a signal ended it */
	int signal;       /* 0 when it exited */
};

/* Returns 0 with *ret when the program has ended and its output is written. Errors:
 *	CANCELLED, TIMEOUT       as asked
 *	UNAVAILABLE              the VM ended before the program did
 *	CORRUPT                  the agent says that the VM cannot be used (its words in the
 * message) NOT_FOUND, DENIED, …     the program could not be started (the agent's errno and words)
 *	INTERNAL                 the guest broke the protocol
 * Whichever, the caller ends the VM. A stdout or stderr that nobody reads any more (EPIPE) is
 * closed to the program as a pipe would be. */
int relay_run(const struct relay *r, struct relay_result *ret, struct banger_error *err);

/* Ask the agent to power the VM off; best effort, does not wait. */
void relay_power_off(int port);

#endif
