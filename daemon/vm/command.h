/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a VM runs: the request's command, environment, user and directory over those of the image's
 * OCI configuration, as Docker combines them: a command replaces "cmd" and follows "entrypoint".
 */
#ifndef BANGER_VM_COMMAND_H
#define BANGER_VM_COMMAND_H

#include <banger/agent.h>
#include "vm/service.h"

struct command {
	struct agent_exec exec;     /* its strings are borrowed from the request and from config */
	struct json_object *config; /* owned */
};
/* config: JSON text of the image's configuration, or NULL. */
int command_make(const struct vm_exec *run, const char *config, struct command *ret,
	struct banger_error *err);
void command_done(struct command *c);

#endif
