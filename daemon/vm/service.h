/* SPDX-License-Identifier: Apache-2.0 */
/*
 * VMService: owns VMs, from their creation to their removal.
 *
 * On disk, under STATE_DIR:
 *	vms/ID/root.ext4 | root.qcow2    the root disk: a clone of the image's, or what differs from it
 *	vms/ID/work.ext4                 the work disk, of a VM that has one of its own
 *	vms/ID/console.log               what the VM said, bounded
 *	vms/ID/console.in console.out agent.sock qmp.sock    channels to the VMM (driver.h)
 *	work/NAME.ext4                   the work disk of VM NAME, when it outlives the VM ("keep")
 *	accel.json                       what the last trial of /dev/kvm said
 * A VM that was made by vm_service_create() goes on when the daemon stops or dies, and the next one finds it again
 * (recover.c). One of vm_service_run() ends with its caller.
 *
 * A VM keeps its image and its kernel for as long as it exists, whether it runs or not: they cannot be deleted.
 *
 * Any thread may call. VMs are named by exact name, exact id, or a prefix of either that one has: BAD_REQUEST (empty),
 * AMBIGUOUS, NOT_FOUND. One operation at a time changes a VM: BUSY names the one that does. BAD_REQUEST: the VM's state
 * does not allow it. Not listed below: INTERNAL, NO_SPACE, CANCELLED.
 *
 * For the composition root: after the image and kernel services; vm_service_recover() before serving;
 * kernel_service_set_in_use(kernels, vm_service_kernel_in_use, vms), and image_service_deps.in_use calls
 * vm_service_image_in_use(). vm_service_freep() comes before theirs, when no call is under way: it lets go of VMs that
 * run, and ends a trial of KVM.
 */
#ifndef BANGER_VM_SERVICE_H
#define BANGER_VM_SERVICE_H

#include <banger/paths.h>
#include <banger/vm.h>
#include "op/hub.h"
#include "op/operation.h"
#include "op/publication.h"
#include "store/store.h"

struct vm_service;
struct image_service;  /* never looked into here */
struct kernel_service; /* likewise */
struct vmm_driver;

/* What VMs need of their peers. Pointers are borrowed and must outlive the service. */
struct vm_service_deps {
	const struct banger_config *config;
	int state_dir_fd;
	struct store *store;
	struct operations *operations;
	struct publication_lock *publication;
	struct hub *hub;
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
	const struct vmm_driver *driver; /* NULL: QEMU */
};

int vm_service_new(
	const struct vm_service_deps *deps, struct vm_service **ret, struct banger_error *err);
void vm_service_freep(struct vm_service **s);
/* Find again the VMs that run, remove what half-made ones left. Before serving. */
int vm_service_recover(struct vm_service *s, struct banger_error *err);

/* ---- the life of a VM */

/* Strings are borrowed; NULL or 0: not said, so the image's configuration or the default. */
struct vm_create {
	const char *name; /* NULL: "vm-" and digits */
	const char *image, *kernel;
	int64_t cpus;   /* default 1 */
	int64_t memory; /* bytes, default 256 MiB */
	int64_t disk;   /* bytes, at least the image's size, which is the default */
	const char *work_disk, *network, *registry; /* banger/vm.h; default none */
	const char *const *publish; /* NULL-terminated, publish.h; means network "user" */
	const char *accel;          /* auto, kvm, tcg; the configuration's */
	const char *init;           /* image, agent; default image */
	bool stay;                  /* do not start it */
};
/* Make a VM and start it: returns when its agent is ready. When it could not even be started, nothing is left of it; one
 * that did not boot stays, "failed", with its console's log. Progress: {"phase":"disk|network|boot|agent","name":NAME}.
 * EXISTS, NOT_FOUND, AMBIGUOUS, BAD_REQUEST (limits), BUSY (a port is in use), UNSUPPORTED (no QEMU, an accelerator or a
 * network that is not there, a kernel without what a boot needs), TIMEOUT, CORRUPT (the agent's reasons), UNAVAILABLE (it ended
 * while it booted; with the console's last lines). *ret: owned by the caller, for all of these. */
int vm_service_create(struct vm_service *s, struct operation *op, const struct vm_create *c,
	struct banger_vm *ret, struct banger_error *err);
/* The same for one that exists. One that runs is left alone: 0. Errors as above. */
int vm_service_start(struct vm_service *s, struct operation *op, const char *word,
	struct banger_vm *ret, struct banger_error *err);
/* Ask the agent to power off, then press the power button, then kill it: when timeout_ms has passed (0: 30 s), of which
 * the agent gets two thirds. One that does not run is left alone. */
int vm_service_stop(struct vm_service *s, struct operation *op, const char *word, int64_t timeout_ms,
	struct banger_vm *ret, struct banger_error *err);
/* At once, whatever is being done to it. BAD_REQUEST when it does not run. */
int vm_service_kill(struct vm_service *s, struct operation *op, const char *word,
	struct banger_vm *ret, struct banger_error *err);
int vm_service_pause(struct vm_service *s, struct operation *op, const char *word,
	struct banger_vm *ret, struct banger_error *err);
int vm_service_resume(struct vm_service *s, struct operation *op, const char *word,
	struct banger_vm *ret, struct banger_error *err);
/* BUSY when it runs, unless force: then it is killed first. */
int vm_service_remove(struct vm_service *s, struct operation *op, const char *word, bool force,
	struct banger_vm *ret, struct banger_error *err);

int vm_service_find(
	struct vm_service *s, const char *word, struct banger_vm *ret, struct banger_error *err);
/* All, by name: an array to free, each one by banger_vm_done(). */
int vm_service_list(
	struct vm_service *s, struct banger_vm **ret, size_t *ret_n, struct banger_error *err);

/* ---- in a VM */

/* What to run. Strings and descriptors are borrowed; NULL or 0: as the image's configuration says. */
struct vm_exec {
	const char *const *
		argv; /* NULL-terminated; NULL: the image's entry point and command, else /bin/sh */
	bool entrypoint;        /* argv follows the image's entry point */
	bool detach;            /* returns when it runs: stdin is empty, output goes to the console */
	bool main;              /* the VM powers off when it ends, unless the image's own init runs */
	const char *const *env; /* NULL-terminated "A=b", on top of the image's */
	const char *user, *workdir;
	bool tty;
	int64_t rows, cols;    /* of the terminal */
	int64_t timeout_ms;    /* 0: none */
	int stdin_fd, stdout_fd, stderr_fd, control_fd; /* session.h; -1: none */
};
struct vm_result {
	char name[BANGER_NAME_MAX + 1];
	int exit_code;     /* -1 when a signal ended the command */
	int signal;        /* 0 when it exited */
	const char *accel; /* static: "kvm" or "tcg" */
};
/* Blocks until the command has ended and its output is written. NOT_FOUND, DENIED: it could not be started; UNAVAILABLE: the
 * VM went away meanwhile. */
int vm_service_exec(struct vm_service *s, struct operation *op, const char *word,
	const struct vm_exec *x, struct vm_result *ret, struct banger_error *err);
/* session.h, session_put() and session_get(). */
int vm_service_put(struct vm_service *s, struct operation *op, const char *word, const char *path,
	int fd, struct banger_error *err);
int vm_service_get(struct vm_service *s, struct operation *op, const char *word, const char *path,
	int fd, struct banger_error *err);

/* Boot, run, remove: a VM that ends with its caller. As create and exec; its VM is not in the store. The command's end is
 * the VM's. Progress: as create, then the phase "command".
 * With x->detach and x->main it goes on until the command has ended, in the phase "running". */
int vm_service_run(struct vm_service *s, struct operation *op, const struct vm_create *create,
	const struct vm_exec *x, struct vm_result *ret, struct banger_error *err);

/* The console's log to out_fd: its last `lines` (negative: all there is), then with follow what is added, until the VM
 * has no VMM, out_fd's reader goes away or the operation is cancelled. in_fd: what is typed there goes to the console;
 * -1: nothing. */
int vm_service_console(struct vm_service *s, struct operation *op, const char *word, int64_t lines,
	bool follow, int in_fd, int out_fd, struct banger_error *err);

/* ---- for others */

/* Read-only descriptor of vms/, which holds ID/console.log for each VM. The service's. */
int vm_service_dir_fd(const struct vm_service *s);
/* Has a VM the image (kernel) with this id? 0 no; BUSY and the VM's name. Any thread. */
int vm_service_image_in_use(struct vm_service *s, const char *id, struct banger_error *err);
int vm_service_kernel_in_use(void *vm_service, const char *id, struct banger_error *err);

/* Is this process one that was started for a VM: its filesystem, the child that reads images for that, its VMM? The VM's
 * name, and whether it may change the registry, which the first may. */
bool vm_service_find_client(struct vm_service *s, pid_t pid, char ret_name[BANGER_NAME_MAX + 1], bool *ret_changes);

/* What this machine can do, for `doctor`: calls report for each finding (advice NULL: nothing to
 * do). Tries KVM when that has not been tried yet and a kernel is there: up to 5 s then. */
typedef void vm_doctor_report(
	void *arg, const char *name, bool ok, const char *detail, const char *advice);
void vm_service_doctor(struct vm_service *s, vm_doctor_report *report, void *arg);
/* How many VMs run. */
size_t vm_service_running(struct vm_service *s);

#endif
