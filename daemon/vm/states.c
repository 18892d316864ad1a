/* SPDX-License-Identifier: Apache-2.0 */
/* The table of states.h. */
#include "vm/states.h"

#define TO(s) (1u << BANGER_VM_##s)

static const unsigned followers[BANGER_VM_STATE_COUNT] = {
	[BANGER_VM_CREATED] = TO(STARTING),
	[BANGER_VM_STARTING] = TO(RUNNING) | TO(STOPPING) | TO(STOPPED) | TO(FAILED),
	[BANGER_VM_RUNNING] = TO(PAUSED) | TO(STOPPING) | TO(STOPPED) | TO(FAILED),
	[BANGER_VM_PAUSED] = TO(RUNNING) | TO(STOPPING) | TO(STOPPED) | TO(FAILED),
	[BANGER_VM_STOPPING] = TO(STOPPED) | TO(FAILED),
	[BANGER_VM_STOPPED] = TO(STARTING),
	[BANGER_VM_FAILED] = TO(STARTING),
};

bool vm_state_may_follow(enum banger_vm_state from, enum banger_vm_state to)
{
	return from < BANGER_VM_STATE_COUNT && to < BANGER_VM_STATE_COUNT &&
	       (followers[from] & 1u << to);
}

bool vm_state_has_vmm(enum banger_vm_state s)
{
	return s == BANGER_VM_STARTING || s == BANGER_VM_RUNNING || s == BANGER_VM_PAUSED ||
	       s == BANGER_VM_STOPPING;
}

int vm_state_refuse(const struct banger_vm *v, const char *verb, struct banger_error *err)
{
	const char *advice = v->state == BANGER_VM_PAUSED     ? ": resume it first"
			     : v->state == BANGER_VM_STARTING ? ": wait until it runs"
			     : v->state == BANGER_VM_STOPPING ? ": wait until it has stopped"
			     : !vm_state_has_vmm(v->state)    ? ": start it first"
							      : "";

	return banger_error_set(err, BANGER_BAD_REQUEST, "VM \"%s\" is %s and cannot be %s%s",
		v->name, banger_vm_state_name(v->state), verb, advice);
}
