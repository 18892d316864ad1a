/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The initrd with which the daemon boots a VM: the agent as /init, the modules that reach the root
 * disk and the agent's port, and /modules.list in the order in which to load them.
 */
#ifndef BANGER_VM_INITRD_H
#define BANGER_VM_INITRD_H

#include "vm/service.h"

/* What else the VM needs drivers for. */
enum initrd_feature { INITRD_NETWORK = 1, INITRD_VIRTIOFS = 2 };

/* Build it for a kernel, in memory (a sealed memfd, owned by the caller). agent_fd: the agent's program
 * (borrowed). UNSUPPORTED when the
 * kernel's modules lack what a boot needs. */
int initrd_build(const struct vm_service_deps *deps, const struct banger_kernel *kernel,
	unsigned features, int agent_fd, int *ret_fd, struct banger_error *err);

#endif
