/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What this machine can do: the checks that need no daemon.
 */
#ifndef BANGER_CTL_DOCTOR_H
#define BANGER_CTL_DOCTOR_H

#include "ctl.h"

/* One finding. */
struct finding {
	const char *name;
	bool ok, required; /* required: banger cannot do without */
	char detail[300];
	char advice[300]; /* what to install or change; "" for none */
};

struct probe {
	const char *name;
	bool required;
	void (*run)(const struct ctl *c, struct finding *f);
};
/* Ended by name NULL. */
extern const struct probe doctor_probes[];

int do_doctor(struct ctl *c, const struct cli_invocation *in, struct banger_error *err);

#endif
