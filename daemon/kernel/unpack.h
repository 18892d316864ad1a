/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Take a kernel out of what a person gave: a bare kernel image, a Debian package (deb(5): an ar
 * archive with data.tar.*), or a tar of a directory. Names that are taken, and where to:
 *	[boot/]vmlinuz[-*]                              vmlinuz
 *	[boot/]initrd[.img][-*]                         initrd
 *	[boot/]config[-*]                               config
 *	[[usr/]lib/]modules/VERSION/…                   modules/VERSION/…
 * All else is passed over. Nothing that is not a plain file or directory is taken.
 */
#ifndef BANGER_KERNEL_UNPACK_H
#define BANGER_KERNEL_UNPACK_H

#include <banger/error.h>
#include <stdbool.h>
#include "op/operation.h"

struct unpacked {
	bool vmlinuz, initrd, config;
	char modules[128]; /* VERSION, "" without modules */
};

/* Into the empty directory dir_fd. format: "auto", "vmlinuz", "deb" or "tar"; fd must be a regular
 * file (its position moves). CORRUPT: not what it claims, hostile, or without a kernel; TOO_LARGE,
 * NO_SPACE, CANCELLED. */
int kernel_unpack(int fd, const char *format, int dir_fd, struct operation *op,
	struct unpacked *ret, struct banger_error *err);

#endif
