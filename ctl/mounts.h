/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is mounted, read from the kernel's table: a mount is never touched for it, since one whose
 * server is stuck or dead would not answer.
 */
#ifndef BANGER_CTL_MOUNTS_H
#define BANGER_CTL_MOUNTS_H

#include <stdbool.h>
#include <banger/error.h>

/* The mount point that `path` names, absolute and without links, though what is mounted there may
 * be dead: only what leads to it is looked at. Caller frees. */
int mounts_resolve(const char *path, char **ret, struct banger_error *err);

enum mounts_kind { MOUNTS_NOTHING, MOUNTS_OTHER, MOUNTS_BANGERFS };
/* What is mounted (uppermost) exactly at `point`. */
int mounts_at(const char *point, enum mounts_kind *ret, struct banger_error *err);

/* "bash[123], vim[456]": who has something open under `point`, as far as it can be seen; "" for
 * nobody. */
void mounts_users(const char *point, char *buf, size_t size);

#endif
