/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A VM's network: what QEMU and the guest are told of it, and the client of banger-helper (protocol:
 * daemon/helper/request.h), without which there is everything but bridges. The op_id of the calling thread goes out
 * with each request. Any thread; nothing is kept between calls.
 */
#ifndef BANGER_VM_NET_H
#define BANGER_VM_NET_H

#include "vm/driver.h"

#define NET_BRIDGE "bngr0"

/* A place on the bridge. It lasts as long as a copy of tap_fd is open anywhere: when the VMM has ended, TAP, published
 * ports and, after the last VM, the bridge go by themselves. */
struct vm_net {
	int tap_fd;   /* for vmm_spec.tap_fd: the VMM gets a copy, and this one is closed */
	char tap[16]; /* its name */
	char mac[18]; /* for vmm_spec.mac */
	char ip[80]; /* for the kernel's command line, "banger.ip=" and this: ADDRESS/PREFIX,GATEWAY[,DNS] */
	char address[16];
};
#define VM_NET_NONE                                                                                \
	{                                                                                          \
		.tap_fd = -1                                                                       \
	}

/* Ensure the bridge, make a TAP on it for the VM with this id, publish its ports. The address is the same at each start
 * of a VM, unless another VM has it. UNAVAILABLE: no helper, and how to start it; DENIED: the helper is not this user's, a port
 * below 1024, an address that is not the host's; BUSY: a port is in use, the subnet is routed elsewhere; EXISTS: the VM has a
 * TAP, or another VM's port. Nothing is left on failure. */
int vm_net_bridge(const struct banger_config *config, const char *vm_id,
	const struct vmm_publish *publish, size_t n_publish, struct vm_net *ret,
	struct banger_error *err);
/* Closes; accepts VM_NET_NONE. */
void vm_net_done(struct vm_net *n);
#define _cleanup_vm_net_ _cleanup_(vm_net_done)
/* Remove a VM's TAP although somebody may hold it: a VMM that cannot be killed. None there: 0. */
int vm_net_remove(const struct banger_config *config, const char *vm_id, struct banger_error *err);
/* Have the helper look for what nobody holds any more; 0 also when there is no helper. After a daemon's start. */
int vm_net_cleanup(const struct banger_config *config, struct banger_error *err);

/* For `doctor`: can VMs be on a bridge? Fills detail, and advice ("" when it is so). */
bool vm_net_doctor(const struct banger_config *config, char *detail, size_t detail_size,
	char *advice, size_t advice_size);

#endif
