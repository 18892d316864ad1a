/* SPDX-License-Identifier: Apache-2.0 */
/*
 * e2fsck -fn on an image, in a process with nothing to lose.
 */
#ifndef BANGER_IMAGE_FSCK_H
#define BANGER_IMAGE_FSCK_H

#include "op/operation.h"

/* Check the filesystem in fd, a read-only descriptor of a file that anybody may read. Returns 1 when e2fsck
 * finds nothing, 0 when it does, with a text for people in ret_text: "clean", or its first complaints;
 * UNSUPPORTED when it is not installed, CANCELLED, TIMEOUT after ten minutes. */
int fsck_check(int fd, struct operation *op, char *ret_text, size_t size, struct banger_error *err);

#endif
