/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's end of one VM's agent port (banger/agent.h): a thread that owns the port and carries many
 * channels at once. It lives as long as the connection to the port: from the start of the VM, or of
 * the daemon that finds it running, until the port's other end closes.
 *
 * The guest is hostile. It can lie, flood and stop in the middle; what it gets by that is the end of its
 * own session (LOST, with the reason). Nothing here allocates by what it says, and a channel whose
 * descriptors are slow holds up no other.
 *
 * Any thread may call; session_exec() and the other long ones block their caller, many at once.
 */
#ifndef BANGER_VM_SESSION_H
#define BANGER_VM_SESSION_H

#include <banger/agent.h>
#include <banger/error.h>

struct session;

enum session_event {
	SESSION_READY,	/* the agent said HELLO: programs can be started */
	SESSION_FAILED, /* the agent says that the VM cannot be used; text: why */
	SESSION_LOST,	/* the port is closed, or the guest broke the protocol; text: which. The last event. */
};

struct session_options {
	int port;	/* a connected stream socket; taken over, also on failure */
	const char *vm; /* the VM's name, for messages; copied */
	/* On the session's thread; must not block and must not free the session. */
	void (*event)(void *arg, enum session_event event, const char *text);
	void *arg;
};
int session_new(const struct session_options *o, struct session **ret, struct banger_error *err);
/* Closes the port (the VM goes on), ends what still runs on channels with UNAVAILABLE, waits for the thread. */
void session_freep(struct session **s);

/* Wait until it is ready. by_us: banger_monotonic_us(), 0: no limit: TIMEOUT; CORRUPT: the agent said why the VM cannot be
 * used; UNAVAILABLE: lost; CANCELLED. */
int session_wait_ready(struct session *s, int64_t by_us, int cancel_fd, struct banger_error *err);

struct session_exec {
	const struct agent_exec *exec; /* argv, env, user, workdir, tty and its size */
	int stdin_fd, stdout_fd, stderr_fd; /* borrowed; -1: nothing to read, output dropped. With a tty stderr is unused. */
	/* Lines from the client, or -1: "resize ROWS COLS\n", "signal NUMBER\n". Anything else is ignored; its end too. */
	int control_fd;
	int cancel_fd;	/* readable: the program is killed and CANCELLED returned; -1: none */
	int64_t end_by; /* banger_monotonic_us(); 0: no limit; then it is killed: TIMEOUT */
};
struct session_result {
	int exit_code; /* -1 when a signal ended it */
	int signal;    /* 0 when it exited */
};
/* Start a program and carry its streams until it has ended and its output is written. NOT_FOUND, DENIED, … : it could not be
 * started (the agent's words); UNAVAILABLE: the VM or its agent went away meanwhile. */
int session_exec(struct session *s, const struct session_exec *x, struct session_result *ret, struct banger_error *err);

/* A file or a tree into or out of the guest, as a tar stream (pax) on fd: with owners, modes, times, links, xattrs and
 * sparse files. path: absolute, in the guest. put: the stream's members go below path (a directory that exists). get: path's
 * last component is the stream's first member. */
int session_put(struct session *s, const char *path, int fd, int cancel_fd, struct banger_error *err);
int session_get(struct session *s, const char *path, int fd, int cancel_fd, struct banger_error *err);

/* Ask the agent to end programs, sync and power off (or reboot the image's init to do so). Does not wait for it.
 * grace_ms: how long they may take. */
int session_power_off(struct session *s, int grace_ms, struct banger_error *err);
/* Tell the guest what time it is, after a pause. Best effort. */
void session_set_time(struct session *s, int64_t realtime_us);
/* Say that the registry's server is gone, so that nobody in the VM waits for it. */
void session_registry_lost(struct session *s);
/* Ask the agent whether it is there: round trip in microseconds; TIMEOUT after timeout_ms. */
int session_ping(struct session *s, int timeout_ms, int64_t *ret_us, struct banger_error *err);

#endif
