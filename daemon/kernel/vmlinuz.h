/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a kernel image file says of itself: an x86 bzImage (Linux Documentation/arch/x86/boot.rst),
 * an arm64 Image (Documentation/arch/arm64/booting.rst), or an uncompressed x86 vmlinux (ELF).
 */
#ifndef BANGER_KERNEL_VMLINUZ_H
#define BANGER_KERNEL_VMLINUZ_H

#include <banger/error.h>
#include <stdbool.h>
#include <stdint.h>

struct vmlinuz {
	enum { VMLINUZ_BZIMAGE, VMLINUZ_ARM64, VMLINUZ_ELF } kind;
	const char *arch;  /* static, Debian's word */
	char version[128]; /* "6.1.0-38-cloud-amd64"; "" when it does not say */
	uint64_t payload_offset,
		payload_length; /* of the compressed vmlinux in a bzImage; length 0: none */
	uint64_t payload_size;  /* of it inflated */
};

/* Read the headers of the kernel in fd (pread; the position stays). CORRUPT when it is no kernel.
 */
int vmlinuz_read(int fd, struct vmlinuz *ret, struct banger_error *err);

/* Make the vmlinux of a bzImage in out_fd (empty, read-write). 1: done, and it can be entered by
 * PVH; 0: this kernel has no such thing (contents of out_fd do not matter then); negative: out of
 * space or memory. */
int vmlinuz_extract(int fd, const struct vmlinuz *k, int out_fd, struct banger_error *err);

/* Can the vmlinux in fd be entered by PVH, and what version does its banner give? */
bool vmlinux_inspect(int fd, char *ret_version, size_t size);

#endif
