/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qcow2 disk images (QEMU's docs/interop/qcow2.txt), read through qemu-img, a child with limits.
 *
 * Such an image can name files of the host: one that it builds upon, one that holds its data. QEMU
 * would open them. So the header is read here, and an image that names any is refused before QEMU
 * sees it; and since its owner could change it in between, what is looked at and converted is a
 * private copy.
 */
#ifndef BANGER_IMAGE_QCOW2_H
#define BANGER_IMAGE_QCOW2_H

#include "op/operation.h"

/* fd: the private copy. *ret_size: of the disk in it. CORRUPT: no sound header; UNSUPPORTED: a backing file, an
 * external data file, encryption, features that are not known. */
int qcow2_check(int fd, const char *what, int64_t *ret_size, struct banger_error *err);
/* The disk of size bytes into `out`, an empty file; sparse. Both open for reading and writing. UNSUPPORTED:
 * qemu-img is not installed; CORRUPT, with what it said; NO_SPACE; TIMEOUT after an hour; CANCELLED. */
int qcow2_convert(int in, int out, int64_t size, struct operation *op, const char *what,
	struct banger_error *err);

#endif
