/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KernelService: owns the kernels that VMs boot.
 *
 * On disk, under STATE_DIR:
 *	kernels/ID/vmlinuz             as it came
 *	kernels/ID/vmlinux             the ELF image out of vmlinuz, when it can be entered by PVH:
 * boots faster kernels/ID/initrd, config      where the package had them
 *	kernels/ID/modules/VERSION/…   the package's lib/modules/VERSION, with modules.dep and
 * modules.softdep made here (a Debian package has none: its postinst runs depmod)
 *	kernels/.staging-*, .trash-*   half-made and half-removed ones; recover() removes them
 * Files are 0444 and never change. A directory without a row in the store is left over from a
 * crash: the row is what makes a kernel.
 *
 * For the composition root: after store, hub, operations and publication lock,
 *	kernel_service_new(&(struct kernel_service_deps){…}, &kernels, err);
 *	kernel_service_recover(kernels, err);                    before serving
 *	…                                                        then image service, then VM service
 * deps.in_use is vm_service_kernel_in_use() with deps.vms the VM service; since that is made later,
 * it is set by kernel_service_set_in_use() before serving. registry.watch hands out
 * kernel_service_kernels_fd(). main.c may free in the reverse order of making.
 */
#ifndef BANGER_KERNEL_SERVICE_H
#define BANGER_KERNEL_SERVICE_H

#include <banger/paths.h>
#include "op/hub.h"
#include "op/operation.h"
#include "op/publication.h"
#include "store/store.h"

struct kernel_service;

/* Pointers are borrowed and must outlive the service. */
struct kernel_service_deps {
	struct store *store;
	struct publication_lock *publication;
	struct hub *hub;
	int state_dir_fd;
};

/* What an import was given. */
struct kernel_import {
	const char *name;
	const char *format; /* "auto" (NULL), "vmlinuz", "deb", "tar" */
	const char *source; /* for people; may be NULL */
	int fd;             /* borrowed: a regular file (read from its start), or a pipe */
};

/* Creates STATE_DIR/kernels. Does not touch what is there. */
int kernel_service_new(const struct kernel_service_deps *deps, struct kernel_service **ret,
	struct banger_error *err);
void kernel_service_freep(struct kernel_service **s);

/* Who uses kernel `id`: 0 nobody; BUSY and who. NULL (as at first): nobody can. Before serving. */
typedef int kernel_in_use(void *arg, const char *id, struct banger_error *err);
void kernel_service_set_in_use(struct kernel_service *s, kernel_in_use *in_use, void *arg);

/* Reconcile store and directory after a crash; logs each repair. Before serving. */
int kernel_service_recover(struct kernel_service *s, struct banger_error *err);
/* The same comparison, changing nothing: calls report for each disagreement, returns their number
 * or an error. Takes the publication lock for the time of one directory listing. */
int kernel_service_check(struct kernel_service *s, void (*report)(void *arg, const char *what),
	void *arg, struct banger_error *err);

/* Import under `in->name`. *ret is owned by the caller (banger_kernel_done). EXISTS, CORRUPT (not a
 * kernel, a hostile archive, and why), TOO_LARGE, NO_SPACE, CANCELLED. Any thread; slow; takes the
 * publication lock only for the final rename and insert. */
int kernel_service_import(struct kernel_service *s, struct operation *op,
	const struct kernel_import *in, struct banger_kernel *ret, struct banger_error *err);
/* What a pull was given. */
struct catalogs;
struct kernel_pull {
	struct catalogs *catalogs; /* pull/catalog.h */
	const char *kernel;	   /* its name there */
	const char *name;	   /* the name that it gets here; NULL: the same */
	const char *arch;	   /* NULL: this machine's */
	/* NULL, or told of bytes that were fetched, on another thread. */
	void (*progress)(void *arg, int64_t fetched);
	void *arg;
};
/* Fetch and import. EXISTS when the name is taken, at once; NOT_FOUND; the errors of pull/catalog.h. */
int kernel_service_pull(struct kernel_service *s, struct operation *op,
	const struct kernel_pull *in, struct banger_kernel *ret, struct banger_error *err);
/* *ret is the kernel as it was, with the generation of its deletion. NOT_FOUND, AMBIGUOUS, BUSY. */
int kernel_service_delete(struct kernel_service *s, struct operation *op, const char *word,
	struct banger_kernel *ret, struct banger_error *err);

/* By name, id or unique prefix. */
int kernel_service_find(struct kernel_service *s, const char *word, struct banger_kernel *ret,
	struct banger_error *err);
/* The only kernel there is: NOT_FOUND when there is none, AMBIGUOUS when there are several. */
int kernel_service_only(
	struct kernel_service *s, struct banger_kernel *ret, struct banger_error *err);
/* Read-only descriptor of a file of a kernel: "vmlinux", "modules/VERSION/kernel/fs/ext4/ext4.ko".
 * Never follows a symlink, never leaves the kernel's directory. NOT_FOUND. */
int kernel_service_open(struct kernel_service *s, const struct banger_kernel *kernel,
	const char *file, int *ret_fd, struct banger_error *err);
/* Everything in such a file, decompressed if it is (a module may be .ko.xz), as one block that the
 * caller frees. TOO_LARGE over max bytes. */
int kernel_service_read(struct kernel_service *s, const struct banger_kernel *kernel,
	const char *file, size_t max, char **ret, size_t *ret_size, struct banger_error *err);
/* The files for kernel.show: [{"name","size","blocks"}], modules summed up as "modules/VERSION".
 * Owned by the caller. */
int kernel_service_files(struct kernel_service *s, const struct banger_kernel *kernel,
	struct json_object **ret, struct banger_error *err);
/* O_PATH descriptor of kernels/, owned by the service. */
int kernel_service_kernels_fd(const struct kernel_service *s);

#endif
