/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A VMM that runs, while this daemon knows it: its process, its control channel, its console and the session with its
 * agent, with a thread that watches over them until the process has ended. It knows nothing of states and rows; it
 * tells its owner what happened.
 *
 * Counted references: one is the thread's, who uses the session or the control channel holds one meanwhile.
 */
#ifndef BANGER_VM_MACHINE_H
#define BANGER_VM_MACHINE_H

#include "vm/driver.h"
#include "vm/session.h"

struct machine;

/* How it ended. */
struct machine_end {
	bool known;       /* code is what waitid(2) says; else it was not our child */
	int code, status; /* CLD_EXITED, CLD_KILLED, … and the status or signal */
	bool powered_off, reset, panicked; /* what the guest did before */
	char console[512]; /* what it said last */
};

struct machine_options {
	const struct vmm_driver *driver;
	const char *name;  /* of the VM; copied */
	int dir_fd;        /* borrowed, for as long as the machine lives */
	struct vmm vmm;    /* taken over, also on failure; pid 0: attach to the one with this pidfd and no port */
	bool found;        /* it ran before this daemon did: not our child, its console has begun */
	/* On the machine's thread, as its last act. The end of a machine that was only left (machine_leave()) is not told. */
	void (*over)(void *arg, const struct machine_end *end);
	void *arg;
};
/* On failure a VMM that is our child is killed. */
int machine_new(const struct machine_options *o, struct machine **ret, struct banger_error *err);
struct machine *machine_ref(struct machine *m);
void machine_unrefp(struct machine **m);
#define _cleanup_machine_ _cleanup_(machine_unrefp)

struct session *machine_session(struct machine *m);
struct vmm_control *machine_control(struct machine *m);
/* SIGKILL. */
void machine_kill(struct machine *m);
/* Wait until it has ended and `over` has returned. TIMEOUT; CANCELLED when cancel_fd (or -1) becomes readable. */
int machine_wait(struct machine *m, int timeout_ms, int cancel_fd, struct banger_error *err);
/* Let go of it while it runs on. */
void machine_leave(struct machine *m);

#endif
