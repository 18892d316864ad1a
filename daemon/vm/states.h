/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which state of a VM may follow which. One table; nothing else in the service decides that.
 *
 *	created   its disks are there, it never ran            starting  QEMU runs, the agent has not answered yet
 *	running   the agent answered                           paused    its CPUs stand still
 *	stopping  it was asked to power off, or is killed      stopped   it ran, and ended as it should
 *	failed    it ended otherwise; banger_vm.failure says how. It can be started again
 *
 * While a VM has a VMM it is starting, running, paused or stopping, and at no other time.
 */
#ifndef BANGER_VM_STATES_H
#define BANGER_VM_STATES_H

#include <banger/vm.h>

bool vm_state_may_follow(enum banger_vm_state from, enum banger_vm_state to);
bool vm_state_has_vmm(enum banger_vm_state s);
/* BAD_REQUEST with what to do about it: `VM "web" is stopped: start it first`. verb: "paused" */
int vm_state_refuse(const struct banger_vm *v, const char *verb, struct banger_error *err);

#endif
