/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Artifacts by reference: opening the path that a symlink in a draft names.
 */
#ifndef BANGER_IMAGE_REFERENCE_H
#define BANGER_IMAGE_REFERENCE_H

#include "op/operation.h"

/* Open `target`, an absolute path to a regular file or block device, for reading. The path may lead through
 * symlinks (/dev/disk/by-label/…), but not through /proc's to our own descriptors. INCOMPLETE when there is
 * nothing, BAD_REQUEST when it is something else, TIMEOUT when it cannot be opened within wait_ms.
 * what: whose reference it is, in messages. */
int reference_open(const char *target, const char *what, int64_t wait_ms, struct operation *op, int *ret_fd,
	struct banger_error *err);
/* The size in bytes of a regular file or block device. 0 or -errno. */
int reference_size(int fd, int64_t *ret);

#endif
