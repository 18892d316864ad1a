/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of the kernel service: what its files share. */
#ifndef BANGER_KERNEL_INTERNAL_H
#define BANGER_KERNEL_INTERNAL_H

#include "kernel/service.h"

#define STAGING_PREFIX ".staging-" /* and the id */
#define TRASH_PREFIX ".trash-"

struct kernel_service {
	struct kernel_service_deps deps;
	int dir_fd; /* STATE_DIR/kernels */
	kernel_in_use *in_use;
	void *in_use_arg;
};

/* Tell watchers; after the commit, under the publication lock. change: "imported" or "deleted". */
void kernel_event(struct kernel_service *s, const char *change, const struct banger_kernel *k);

/* ".trash-ID" and the like. */
#define KERNEL_DIR_NAME_MAX 32
void kernel_dir_name(const char *prefix, const char *id, char ret[KERNEL_DIR_NAME_MAX]);
/* Remove kernels/NAME, logging what cannot be removed: the next start tries again. */
void kernel_dir_remove(struct kernel_service *s, const char *name);

#endif
