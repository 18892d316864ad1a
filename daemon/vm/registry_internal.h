/* SPDX-License-Identifier: Apache-2.0 */
/* Between the files of the registry inside a VM. */
#ifndef BANGER_VM_REGISTRY_INTERNAL_H
#define BANGER_VM_REGISTRY_INTERNAL_H

#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include "vm/registry.h"

/* ---- registry_programs.c */

struct virtiofsd {
	char program[PATH_MAX], version[32];
	enum virtiofsd_kind kind;
};
/* UNSUPPORTED. */
int virtiofsd_find(const struct banger_config *config, struct virtiofsd *ret, struct banger_error *err);
int bangerfs_find(const struct banger_config *config, char ret[PATH_MAX], struct banger_error *err);

/* ---- registry_record.c: registry.json */

enum { REGISTRY_FS, REGISTRY_DAEMON, REGISTRY_PROCESSES };
extern const char *const registry_names[REGISTRY_PROCESSES]; /* "bangerfs", "virtiofsd" */

/* A process, as two numbers that no other has in one boot of the host. pid 0: there is none. */
struct registry_id {
	pid_t pid;
	int64_t start;
};
int registry_record_write(int dir_fd, const char *boot_id, const struct registry_id ids[REGISTRY_PROCESSES], struct banger_error *err);
/* What is not there, or is of another boot, is none. */
void registry_record_read(int dir_fd, const char *boot_id, struct registry_id ret[REGISTRY_PROCESSES]);
/* A pidfd of it, -1 when it has ended. */
int registry_id_open(const struct registry_id *id);
/* SIGKILL. */
void registry_kill(int pidfd);

#endif
