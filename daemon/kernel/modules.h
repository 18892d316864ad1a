/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What depmod(8) would find out: which module needs which. Read from the modules themselves
 * ("depends=" and "softdep=" in .modinfo), because a Debian package has no modules.dep.
 */
#ifndef BANGER_KERNEL_MODULES_H
#define BANGER_KERNEL_MODULES_H

#include <banger/error.h>
#include "op/operation.h"

/*
 * Write modules.dep and modules.softdep, in depmod's format, into modules/VERSION (name) of dir_fd,
 * in place of any that are there. A file that is no module of this format is left out with a
 * warning in the log. modules.dep: "PATH: PATH…" with all dependencies, direct or not, each before
 * those that it needs itself.
 */
int modules_index(int dir_fd, const char *version, struct operation *op, struct banger_error *err);

/* ---- the pure part */
struct module {
	char *path, *name; /* "kernel/fs/ext4/ext4.ko.xz", "ext4" ('-' is '_' in names) */
	char *depends;     /* "jbd2,mbcache" */
	char *softdep;     /* "pre: crc32c", or NULL */
	unsigned mark;
};
struct module_list {
	struct module *modules;
	size_t n, room;
};
void module_list_done(struct module_list *l);
/* Name of the module in a file of this name (no directory), or -EINVAL when it is none. */
int module_name(const char *file, char ret[64]);
/* Add one from the bytes of its file. -EINVAL: no module; -ENOMEM. */
int module_list_add(struct module_list *l, const char *path, const void *bytes, size_t size);
/* The texts, to be freed by the caller. Sorts the list. A dependency that is not in the list is
 * taken to be built in; cycles are cut. */
int module_list_dep(struct module_list *l, char **ret, size_t *ret_size);
int module_list_softdep(struct module_list *l, char **ret, size_t *ret_size);

#endif
