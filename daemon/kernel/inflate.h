/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Read a file that may be compressed (gzip, xz, zstd, lz4, or not at all), as kernels and modules
 * are.
 */
#ifndef BANGER_KERNEL_INFLATE_H
#define BANGER_KERNEL_INFLATE_H

#include <banger/error.h>
#include <stdint.h>

/* Everything in it, inflated, as one block (caller frees); the descriptor's position moves. `what`
 * names it in errors. TOO_LARGE past max bytes (a bomb), CORRUPT. */
int inflate_file(int fd, const char *what, size_t max, char **ret, size_t *ret_size,
	struct banger_error *err);

/* Inflate `length` bytes from `offset` of in_fd into out_fd until `size` bytes have come. What
 * follows in the input is not looked at. CORRUPT when it ends or breaks before. */
int inflate_range(int in_fd, uint64_t offset, uint64_t length, int out_fd, uint64_t size,
	struct banger_error *err);

#endif
