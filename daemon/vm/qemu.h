/* SPDX-License-Identifier: Apache-2.0 */
/* Between the files of the QEMU driver, and for its tests. */
#ifndef BANGER_VM_QEMU_H
#define BANGER_VM_QEMU_H

#include "vm/argv.h"
#include "vm/driver.h"
#include "vm/launch.h"

/* Where the child finds its descriptors: SPAWN_FIRST + these. */
enum qemu_fd {
	QEMU_PORT,
	QEMU_CONTROL,
	QEMU_KERNEL,
	QEMU_INITRD,
	QEMU_DISK,
	QEMU_BASE = QEMU_DISK + 2,
	QEMU_TAP = QEMU_BASE + 2,
	QEMU_FILES,
	QEMU_HELD
};

/* Sockets in the VM's directory. QEMU is given them open and listening. */
#define QEMU_PORT_SOCKET "agent.sock"
#define QEMU_CONTROL_SOCKET "qmp.sock"

/* The command line for a VM; pure. version: the major one, 0: not known. -ENOMEM. */
int qemu_args_make(const char *program, int version, const struct vmm_spec *s, struct argv *ret);

#endif
