/* SPDX-License-Identifier: Apache-2.0 */
/*
 * VMM drivers: what runs a virtual machine. One vtable; QEMU is the one there is. A driver starts a
 * process that the service owns from then on: it waits for it, kills it and reaps it.
 */
#ifndef BANGER_VM_DRIVER_H
#define BANGER_VM_DRIVER_H

#include <banger/paths.h>
#include <sys/types.h>

enum vm_accel { VM_TCG, VM_KVM };
const char *vm_accel_name(enum vm_accel a);

/* Descriptors are borrowed. */
struct vmm_spec {
	const char *name;  /* of the VM */
	const char *op_id; /* of the operation that starts it */
	const char *dir;   /* a private directory for the VMM's own files; removed by the service */
	enum vm_accel accel;
	int64_t cpus;
	int64_t memory; /* bytes, a multiple of 1 MiB */
	int kernel_fd;  /* vmlinux that can be entered by PVH, or a bzImage */
	int initrd_fd;
	const char *append; /* for the kernel's command line, beside what the driver needs itself */
	int disk_fd;        /* raw image, the root disk; -1: none */
	bool disk_scratch;  /* disk_fd may be written to; else the driver keeps changes apart and
			       drops them */
	int console_fd;     /* the serial console's output goes here */
};

struct vmm {
	pid_t pid;
	int pidfd; /* readable when it has ended */
	int port;  /* socket: the other end of the agent's virtio-serial port; non-blocking */
};
void vmm_done(struct vmm *v); /* kills, reaps, closes; accepts one that never ran */

struct vmm_driver {
	const char *name;
	/* UNSUPPORTED when the VMM is not installed; it may still fail later, which the port's end
	 * tells. */
	int (*start)(const struct banger_config *config, const struct vmm_spec *spec,
		struct vmm *ret, struct banger_error *err);
	/* "7.2.22" or "" into buf; UNSUPPORTED when it is not installed. */
	int (*version)(const struct banger_config *config, char *buf, size_t size,
		struct banger_error *err);
	/* How many CPUs and how much memory it gives a VM at most. */
	int64_t max_cpus;
	const char *arch; /* of its VMs, Debian's word */
};

extern const struct vmm_driver vmm_qemu;

#endif
