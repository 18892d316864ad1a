/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which acceleration a VM gets. /dev/kvm that opens is no proof: under some hosts it makes VMs in
 * which a stock kernel hangs. So KVM is believed only after a VM was seen to boot under it: a
 * trial, once for each boot of the host and version of the VMM, remembered in STATE_DIR/accel.json.
 */
#ifndef BANGER_VM_ACCEL_H
#define BANGER_VM_ACCEL_H

#include "vm/driver.h"

enum accel_state { ACCEL_UNKNOWN, ACCEL_NO, ACCEL_YES };
struct accel_verdict {
	enum accel_state kvm;
	char reason[256]; /* one clause: "a trial VM booted", "/dev/kvm does not open: No such file
			     or directory" */
};

struct accel;
int accel_new(const struct banger_config *config, const struct vmm_driver *driver, int state_dir_fd,
	struct accel **ret, struct banger_error *err);
/* Ends a trial that is under way and waits for it. */
void accel_freep(struct accel **a);

/* The first call reads what is remembered and asks /dev/kvm the questions that need no VM. */
void accel_verdict(struct accel *a, struct accel_verdict *ret);

/* Start a trial in the background if the verdict is unknown and none is under way. The descriptors
 * are duplicated. */
void accel_begin_trial(struct accel *a, int kernel_fd, int initrd_fd);
/* Wait for the trial that is under way, at most ms. */
void accel_wait(struct accel *a, int ms);

#endif
