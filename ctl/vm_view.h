/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a person or a program sees of a VM that boots: on a terminal a line that is redrawn, on a pipe a plain line for
 * each stage, with --json a line of JSON on standard output. The daemon is asked over a connection of its own.
 */
#ifndef BANGER_CTL_VM_VIEW_H
#define BANGER_CTL_VM_VIEW_H

#include "ctl.h"

struct vm_view;

/* doing: "creating", static. op_id: of the operation. quietly: nothing on a pipe and no JSON, because the outputs are
 * somebody else's. */
int vm_view_new(struct ctl *c, const char *doing, const char *op_id, bool quietly,
	struct vm_view **ret, struct banger_error *err);
void vm_view_freep(struct vm_view **v);
#define _cleanup_vm_view_ _cleanup_(vm_view_freep)

/* Look and show; a daemon that does not answer is not shown. In the shape of ctl_work's members. */
void vm_view_tick(void *v);
/* Take the line away (a terminal). */
void vm_view_end(void *v);
/* Look only. -EHOSTDOWN: there is no daemon. */
int vm_view_look(struct vm_view *v);

/* The last stage that was seen, "" for none; the VM's name, "" when it is not known yet. Borrowed. */
const char *vm_view_phase(const struct vm_view *v);
const char *vm_view_name(const struct vm_view *v);
/* How the operation has ended, NULL while it runs: "completed", "failed"; borrowed. */
const char *vm_view_outcome(const struct vm_view *v);
/* Is it good for anything to call vm_view_tick()? */
bool vm_view_shows(const struct vm_view *v);

#endif
