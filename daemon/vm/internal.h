/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Between the files of the VM service.
 *
 * struct vm is what the service has in memory of each VM: its row, who changes it now (the claim), and its machine
 * while it has a VMM. The service's lock guards the list and every field of a struct vm that can change, and is held
 * for a few instructions. A transition (vm_transition()) is made under the publication lock, outside the service's.
 */
#ifndef BANGER_VM_INTERNAL_H
#define BANGER_VM_INTERNAL_H

#include <pthread.h>
#include <sys/stat.h>
#include "vm/accel.h"
#include "vm/cgroup.h"
#include "vm/machine.h"
#include "vm/publish.h"
#include "vm/registry.h"
#include "vm/service.h"
#include "vm/states.h"

#define INITRDS 4
#define VM_BOOT_US 60000000LL
#define VM_END_MS 10000 /* for a killed VMM to be gone */

struct vm {
	struct vm_service *service;
	struct vm *next;
	int refs;
	/* Never change, and so can be read without the lock; the row has them too. */
	char name[BANGER_NAME_MAX + 1], id[BANGER_ID_LEN + 1];
	bool transient;
	struct banger_vm row;
	bool gone;                          /* removed: off the list */
	char claim[BANGER_OP_ID_LEN + 1];   /* the operation that changes it; "" none */
	const char *claim_verb;             /* "started"; static */
	char cause[BANGER_OP_ID_LEN + 1];   /* the operation that is to blame for the VMM's end; "" none */
	char *fail_why;                     /* the VMM is being ended because of this; owned */
	bool agent;                         /* it was ready in this run */
	struct machine *machine;            /* a reference */
	struct registry *registry;          /* while it has a VMM that uses it, or is about to; else NULL */
	unsigned ends;                      /* how many machines of it are over */
	int dir_fd;                         /* vms/ID, from its creation on; -1 */
};

struct initrd {
	char kernel_id[BANGER_ID_LEN + 1];
	unsigned features;
	struct stat agent; /* the program that is in it: an upgrade replaces that */
	int fd;
};

struct vm_service {
	struct vm_service_deps deps;
	const struct vmm_driver *driver;
	struct accel *accel;
	int vms_fd, work_fd;
	struct cgroups cgroups;
	char boot_id[40];
	pthread_mutex_t lock;
	pthread_cond_t change; /* of a claim */
	struct vm *vms;
	struct initrd initrds[INITRDS]; /* made lately; the first is the newest */
};

/* ---- vms.c: the list, claims, transitions */

/* One reference, not in the list. row: taken. */
int vm_new(struct vm_service *s, struct banger_vm *row, struct vm **ret);
struct vm *vm_ref(struct vm *vm);
void vm_unrefp(struct vm **vm);
#define _cleanup_vmref_ _cleanup_(vm_unrefp)
/* EXISTS. The list holds a reference of its own. */
int vm_enlist(struct vm *vm, struct banger_error *err);
void vm_delist(struct vm *vm);
int vm_find(struct vm_service *s, const char *word, struct vm **ret, struct banger_error *err);
/* The claim: BUSY. Given back by vm_release(), which accepts one that is not held. */
int vm_claim(struct vm *vm, const char *op_id, const char *verb, struct banger_error *err);
/* The same, waiting for the one who has it. */
int vm_claim_wait(struct vm *vm, const char *op_id, const char *verb, int timeout_ms, struct banger_error *err);
void vm_release(struct vm *vm, const char *op_id);
/* Copies, under the lock. */
int vm_copy(struct vm *vm, struct banger_vm *ret, struct banger_error *err);
enum banger_vm_state vm_state(struct vm *vm);
int vm_refuse(struct vm *vm, const char *verb, struct banger_error *err); /* vm_state_refuse() */
struct machine *vm_machine(struct vm *vm); /* a reference, or NULL */

/* Let *change fill in what comes with the new state (under the service's lock; may be NULL), write the row, tell watchers, log. The
 * table of states.h is asked first: -EBUSY without a word when it says no, because somebody else was faster. The
 * calling thread's op_id becomes the row's. Transient VMs have no row. */
typedef void vm_change(void *arg, struct banger_vm *row);
int vm_transition(struct vm *vm, enum banger_vm_state to, vm_change *change, void *arg, struct banger_error *err);
/* Change something else of the row, in the same way. Watchers are told of `what`. */
int vm_note(struct vm *vm, vm_change *change, void *arg, const char *what, struct banger_error *err);
/* Write the row of a new VM; drop that of one that goes. */
int vm_commit_new(struct vm *vm, struct banger_error *err);
/* The same for one that has no row: watchers are told. */
void vm_tell_gone(struct vm *vm);
int vm_commit_gone(struct vm *vm, struct operation *op, struct banger_error *err);
/* Write the row as it is found to be at the start, past the table (recovery). */
int vm_put_row(struct vm *vm, const struct banger_vm *row, const char *change, struct banger_error *err);

/* ---- parts.c: what a VM needs of others */

/* UNSUPPORTED: the VMM is not there, cannot be executed, or is too old. Starts it to ask for its version; buf gets that. */
int parts_check_vmm(struct vm_service *s, char *buf, size_t size, struct banger_error *err);
int parts_find_kernel(struct vm_service *s, const char *word, struct banger_kernel *ret, struct banger_error *err);
int parts_check_limits(struct vm_service *s, int64_t *cpus, int64_t *memory, struct banger_error *err);
int parts_open_kernel(struct vm_service *s, const struct banger_kernel *k, int *ret, struct banger_error *err);
int parts_open_initrd(struct vm_service *s, const struct banger_kernel *k, unsigned features, int *ret, struct banger_error *err);
/* May start a trial of KVM with this kernel and initrd. */
int parts_choose_accel(struct vm_service *s, const char *want, int kernel_fd, int initrd_fd, enum vm_accel *ret, struct banger_error *err);

/* ---- disk.c: directories and disks */

/* Make vms/ID with its FIFOs and open it. */
int disk_make_dir(struct vm *vm, struct banger_error *err);
int disk_open_dir(struct vm *vm, struct banger_error *err);
void disk_remove_dir(struct vm *vm);
/* Remove vms/NAME whatever it is; for what nobody knows. */
void disk_remove_leftover(struct vm_service *s, const char *name);
/* Make the root disk; sets row.disk (at least the image's) and row.overlay. */
int disk_make_root(struct vm *vm, const struct banger_image *image, struct banger_error *err);
int disk_make_work(struct vm *vm, const struct banger_image *image, struct banger_error *err);
struct disks {
	int root_fd, base_fd, work_fd;
	bool grow; /* the root disk is larger than the image's */
};
void disks_done(struct disks *d);
int disk_open(const struct banger_vm *row, struct vm *vm, const struct banger_image *image, struct disks *ret, struct banger_error *err);
/* The header of an empty qcow2 file of that size, whose clusters are all its backing file's. */
int qcow2_make(int fd, int64_t size);

/* ---- boot.c: starting */

/* Report where an operation is. */
void vm_progress(struct operation *op, const char *phase, const char *name);
/* Start the VMM, wait for the agent unless `early`; the caller has the claim. When the VMM runs but the VM does not
 * come up, it is ended and the VM is "failed" with the reason. */
int vm_boot(struct vm *vm, struct operation *op, bool early, struct banger_error *err);
/* Watch over a VMM that runs. found: it ran before this daemon did. *ret: a reference; may be NULL. */
int vm_attach(struct vm *vm, const struct vmm *vmm, bool found, struct machine **ret, struct banger_error *err);

/* ---- sharing.c: the registry inside VMs */

/* Start it, before the VMM: vmm_spec.files_fd and held_fd. vm_sharing_end(): when the VMM has ended, or never began. */
int vm_sharing_start(struct vm *vm, bool changes, int cancel_fd, int *ret_files, int *ret_held, struct banger_error *err);
/* Take up that of a VM that was found. */
void vm_sharing_find(struct vm *vm, bool changes);
void vm_sharing_end(struct vm *vm);
void vm_sharing_leave(struct vm *vm); /* without ending it */

/* ---- power.c: ending */

/* Kill the VMM and wait for its end. why: the VM is "failed" for that; NULL: "stopped". */
int vm_end(struct vm *vm, const char *why, struct banger_error *err);
/* machine_options.over; arg: a reference to the VM. */
void vm_over(void *arg, const struct machine_end *end);

/* ---- recover.c */

/* When the process started, in ticks since the boot; -1: there is none, or it is a zombie. */
int64_t recover_start_time(pid_t pid);
/* Identifies this boot of the host. */
void recover_boot_id(char ret[40]);

#endif
