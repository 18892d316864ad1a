/* SPDX-License-Identifier: Apache-2.0 */
/*
 * VMService: boots images.
 *
 * In this first form a VM lives as long as the call that asked for it: vm_service_run() boots it,
 * runs one command, relays its descriptors and removes it. On disk, under STATE_DIR:
 *	vms/ID/{root.qcow2 or root.ext4,console.log}   removed with the VM; what a crash left, at
 * the next start accel.json                                     what the last trial of /dev/kvm said
 * VMs die with the daemon.
 *
 * For the composition root, after the image and kernel services:
 *	struct vm_service_deps d = {
 *		.config = config, .state_dir_fd = fd,
 *		.images = images, .image_find = image_service_find, .image_open =
 * image_service_open, .kernels = kernels, .kernel_find = kernel_service_find, .kernel_only =
 * kernel_service_only, .kernel_open = kernel_service_open}; vm_service_new(&d, &vms, err);
 *	vm_service_recover(vms, err);                                        before serving
 *	kernel_service_set_in_use(kernels, vm_service_kernel_in_use, vms);
 * and image_service_deps.in_use calls vm_service_image_in_use(vms, id, err). Image and kernel
 * services must outlive it: vm_service_freep() comes before theirs; it waits for a trial of KVM that
 * is under way (ends it). The `doctor` method calls vm_service_doctor().
 */
#ifndef BANGER_VM_SERVICE_H
#define BANGER_VM_SERVICE_H

#include <banger/model.h>
#include <banger/paths.h>
#include "op/operation.h"

struct vm_service;
struct image_service;  /* never looked into here */
struct kernel_service; /* likewise */

/* What VMs need of their peers. Pointers are borrowed and must outlive the service. */
struct vm_service_deps {
	const struct banger_config *config;
	int state_dir_fd;
	struct image_service *images;
	/* A published image (state is BANGER_PUBLISHED) by name, id or unique prefix. */
	int (*image_find)(struct image_service *images, const char *word, int state,
		struct banger_image *ret, struct banger_error *err);
	/* Read-only descriptor of a file of it ("rootfs.ext4"). */
	int (*image_open)(struct image_service *images, const struct banger_image *image,
		const char *file, int *ret_fd, struct banger_error *err);
	struct kernel_service *kernels;
	int (*kernel_find)(struct kernel_service *kernels, const char *word,
		struct banger_kernel *ret, struct banger_error *err);
	int (*kernel_only)(struct kernel_service *kernels, struct banger_kernel *ret,
		struct banger_error *err);
	/* Read-only descriptor of a file of it ("vmlinux", "modules/VERSION/modules.dep");
	 * NOT_FOUND. */
	int (*kernel_open)(struct kernel_service *kernels, const struct banger_kernel *kernel,
		const char *file, int *ret_fd, struct banger_error *err);
};

int vm_service_new(
	const struct vm_service_deps *deps, struct vm_service **ret, struct banger_error *err);
void vm_service_freep(struct vm_service **s);
/* Remove what VMs of an earlier daemon left. Before serving. */
int vm_service_recover(struct vm_service *s, struct banger_error *err);

/* What to run. Strings are borrowed; NULL or 0: not said, so the image's configuration or the
 * default. */
struct vm_run {
	const char *image, *kernel;
	int64_t cpus;   /* default 1 */
	int64_t memory; /* bytes, default 256 MiB */
	const char *const *
		argv; /* NULL-terminated; NULL: the image's entry point and command, else /bin/sh */
	const char *const *env; /* NULL-terminated "A=b", on top of the image's */
	const char *user, *workdir;
	const char *accel;                  /* auto, kvm, tcg; NULL: the configuration's */
	int64_t timeout_ms;                 /* of the whole; 0: none */
	int stdin_fd, stdout_fd, stderr_fd; /* borrowed */
};
struct vm_result {
	char name[BANGER_NAME_MAX + 1];
	int exit_code;     /* -1 when a signal ended the command */
	int signal;        /* 0 when it exited */
	const char *accel; /* static: "kvm" or "tcg" */
};
/* Boot, run, relay until the command has ended and its output is written, remove the VM. Blocks the
 * calling thread; ends with CANCELLED soon after the operation is cancelled, and the VM with it.
 * Other errors: NOT_FOUND and AMBIGUOUS (image, kernel, command, user), BAD_REQUEST (limits),
 * UNSUPPORTED (no QEMU, an accelerator that does not work, a kernel without what a boot needs),
 * TIMEOUT, CORRUPT (the root filesystem does not mount), INTERNAL (the kernel panicked; with the
 * console's last lines). */
int vm_service_run(struct vm_service *s, struct operation *op, const struct vm_run *run,
	struct vm_result *ret, struct banger_error *err);

/* Is the image (kernel) with this id in use by a VM? 0 no; BUSY and the VM's name. Any thread. */
int vm_service_image_in_use(struct vm_service *s, const char *id, struct banger_error *err);
int vm_service_kernel_in_use(void *vm_service, const char *id, struct banger_error *err);

/* What this machine can do, for `doctor`: calls report for each finding (advice NULL: nothing to
 * do). Tries KVM when that has not been tried yet and a kernel is there: up to 5 s then. */
typedef void vm_doctor_report(
	void *arg, const char *name, bool ok, const char *detail, const char *advice);
void vm_service_doctor(struct vm_service *s, vm_doctor_report *report, void *arg);
/* How many VMs run. */
size_t vm_service_running(struct vm_service *s);

#endif
