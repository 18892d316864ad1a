/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls during which something in a VM has our standard streams: vm.run, vm.exec, vm.console.
 *
 * A pipe or a file of ours goes to the daemon as it is, and not a byte passes through here. A terminal stays with us:
 * what is typed and shown goes through pipes, so that a job that is stopped neither reads nor writes, the terminal's
 * modes are ours to set and to restore, and a progress line is gone before the first output is there.
 */
#ifndef BANGER_CTL_RELAY_H
#define BANGER_CTL_RELAY_H

#include "ctl.h"
#include "vm_view.h"

struct relay {
	/* What is wanted. */
	bool in;  /* our standard input goes to it; else it has none */
	bool tty; /* it has a terminal: ours becomes raw when that is our standard input, and changes of size are told */
	bool raw; /* our terminal becomes raw, whatever it has */
	bool program; /* it is a program: standard error and a control descriptor go along, signals are forwarded to it */
	int escape; /* a key that ends the call, typed at our terminal; -1: none */
	struct vm_view *
		view; /* of a VM that has to boot first; until the program runs signals mean "cancel". NULL: it runs */
	/* What came of it. */
	bool left; /* by the escape key */
};

/* The rows and columns to begin with, into params. */
int relay_add_size(struct json_object *params, struct banger_error *err);

/* As ctl_call_long(). Signals for the program: INT, TERM, HUP, QUIT, USR1, USR2; the third of those that mean "stop"
 * ends the call. An operation that a signal stopped fails with CANCELLED and c->signal is set. The terminal is as it was
 * when this returns. */
int ctl_call_relayed(struct ctl *c, struct relay *relay, const char *method,
	struct json_object *params, struct json_object **ret, struct banger_error *err);

#endif
