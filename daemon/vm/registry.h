/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registry inside a VM: two processes for each VM that has it.
 *
 *	guest's kernel ──virtqueue──► virtiofsd ──► a mount of its own ──► bangerfs --vm=NAME ──► bangerd
 *
 * bangerfs mounts in a mount namespace that nobody else is in but virtiofsd, so there is no mount to be left anywhere;
 * virtiofsd is shut into that tree. Both go on without the daemon, and end with the VMM: virtiofsd when its connection
 * closes, bangerfs when the VMM lets go of a pipe. What they are is written down in the VM's directory
 * (registry.json) before they run, so that the next daemon knows them.
 *
 * When one of them ends before the VM does, the VM runs on without its registry until it is started again: QEMU does not
 * connect a device a second time.
 */
#ifndef BANGER_VM_REGISTRY_H
#define BANGER_VM_REGISTRY_H

#include <banger/paths.h>
#include <banger/vm.h>
#include <sys/types.h>
#include "vm/argv.h"

#define REGISTRY_TAG "banger"
#define REGISTRY_MOUNT "banger" /* in the VM's directory, and empty there */
#define REGISTRY_RECORD "registry.json"
#define REGISTRY_LOG "registry.log" /* bangerfs's; it keeps it short */

struct registry;

struct registry_options {
	const struct banger_config *config; /* borrowed, for as long as it lives; the strings too */
	const char *vm, *boot_id;
	int dir_fd;   /* of the VM; the same */
	bool changes; /* the VM may change the registry */
	bool tied;    /* ends with the thread that starts it */
	/* One of the two has ended, and not because somebody wanted it: a sentence. On a thread of the registry's. */
	void (*lost)(void *arg, const char *how);
	void *arg;
};

int registry_new(const struct registry_options *o, struct registry **ret, struct banger_error *err);
/* What the VMM gets: a connection to virtiofsd, and a descriptor to hold. Both are the caller's. UNSUPPORTED: no virtiofsd, or
 * no namespaces for this user; CANCELLED. On failure nothing of it runs any more. */
int registry_start(
	struct registry *r, int cancel_fd, int *ret_files, int *ret_held, struct banger_error *err);
/* Take up those that an earlier daemon started. What is missing is told by `lost`. */
int registry_find(struct registry *r, struct banger_error *err);
/* End both and wait for it; registry_leave(): let them go on. Both free. NULL is fine. */
void registry_endp(struct registry **r);
void registry_leavep(struct registry **r);
/* Is this process its bangerfs? Any thread. */
bool registry_is(const struct registry *r, pid_t pid);
/* End what the record in a directory names; `vms_fd` and the name of the VM's directory. */
void registry_sweep(int vms_fd, const char *name, const char *boot_id);

/* For `doctor`: can VMs have the registry? "virtiofsd 1.13.2 (/usr/libexec/virtiofsd)", or why not. */
bool registry_doctor(const struct banger_config *config, char *detail, size_t size);

/* ---- registry_args.c: command lines; pure */

enum virtiofsd_kind {
	VIRTIOFSD_C, /* of QEMU, up to 7.2 */
	VIRTIOFSD_RUST,
};
/* What `virtiofsd --version` says. *ret_version: "7.2.22". -EINVAL: it is no virtiofsd. */
int virtiofsd_parse_version(const char *text, enum virtiofsd_kind *ret, char ret_version[32]);

/* dir: the mount, absolute. socket_fd: it listens there. root: it runs as root of the host. -ENOMEM. */
int virtiofsd_args(const char *program, enum virtiofsd_kind kind, const char *dir, int socket_fd,
	bool root, struct argv *ret);
int bangerfs_args(const char *program, const char *socket, const char *vm, bool changes,
	int ready_fd, int until_fd, struct argv *ret);

#endif
