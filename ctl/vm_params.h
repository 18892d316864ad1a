/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Parameters of vm.create, vm.run and vm.exec from the command line. What is not said is left out: defaults are the
 * daemon's.
 */
#ifndef BANGER_CTL_VM_PARAMS_H
#define BANGER_CTL_VM_PARAMS_H

#include "ctl.h"

/* An array of texts. What is not UTF-8 is BAD_REQUEST, and `what` says which it is. */
int vm_add_texts(struct json_object *params, const char *key, const char *what,
	const char *const *texts, size_t n, struct banger_error *err);
/* What the machine shall be: image, name, kernel, cpus, memory, … */
int vm_add_machine(struct json_object *params, const char *image, const struct cli_invocation *in,
	struct banger_error *err);
/* How a command is run: user, workdir, env. */
int vm_add_circumstances(
	struct json_object *params, const struct cli_invocation *in, struct banger_error *err);

/* The exit status of a command, as a shell would give it, from the result of vm.exec or vm.run. INTERNAL. */
int vm_exit_status(struct json_object *result, struct banger_error *err);

#endif
