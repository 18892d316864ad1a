/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the image service asks of this folder: a tar stream becomes an ext4 image. A thin face of
 * run.h, in the shape of the service's flatten_tar step; it knows no operation, only the descriptor
 * that becomes readable when the operation is cancelled (operation_cancel_fd()).
 */
#ifndef BANGER_UNPACK_FLATTEN_H
#define BANGER_UNPACK_FLATTEN_H

#include <banger/paths.h>

/*
 * Reads a tar stream (plain, gzip, zstd or xz) from tar_fd to its end and writes a bootable ext4
 * filesystem to out_fd, a regular file open for reading and writing, whose content is replaced.
 * size: of the filesystem in bytes; 0: what it holds and some headroom. Descriptors stay the
 * caller's; the file is not fsynced. Blocks the calling thread until the work is done, an error, or
 * cancel_fd (-1: none) is readable. The op_id of the calling thread goes with it.
 *
 * BAD_REQUEST  not a tar archive, or a member that no filesystem could take (".." in its name, …)
 * CORRUPT      the archive is damaged or ends too early
 * UNSUPPORTED  a compression or a kind of member that banger does not read
 * NAME_TOO_LONG, TOO_LARGE, NO_SPACE, CANCELLED, TIMEOUT (the stream stood still), INTERNAL
 * The message names the archive's member and its offset. After a failure out_fd holds nothing
 * useful.
 */
int unpack_flatten(const struct banger_config *config, int cancel_fd, int tar_fd, int out_fd,
	int64_t size, struct banger_error *err);

#endif
