/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The little of ELF that kernels and their modules need (System V ABI, 64 bits, little-endian):
 * sections by name, strings of .modinfo, the note by which a hypervisor enters a kernel. A pure
 * reader over bytes in memory; whatever they are, nothing outside of them is touched.
 */
#ifndef BANGER_KERNEL_ELF_H
#define BANGER_KERNEL_ELF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct elf_image {
	const uint8_t *bytes; /* borrowed */
	size_t size;
	uint16_t type, machine; /* ET_*, EM_* */
	uint64_t section_offset, segment_offset;
	uint16_t sections, segments, names;
};

/* 0, or -EINVAL when it is not such a file or its header lies. */
int elf_open(const void *bytes, size_t size, struct elf_image *ret);
/* Contents of the first section called name. -ENOENT, -EINVAL. */
int elf_section(const struct elf_image *e, const char *name, const char **ret, size_t *ret_size);
/* Has it the note XEN_ELFNOTE_PHYS32_ENTRY (owner "Xen", type 18)? With it QEMU boots a vmlinux
 * directly (PVH). */
bool elf_has_pvh_entry(const struct elf_image *e);

/* Walk "key=value" strings of a .modinfo section: *pos starts at 0. Returns the next value of
 * `key`, or NULL at the end. The section's last string counts only if it is terminated. */
const char *modinfo_next(const char *section, size_t size, size_t *pos, const char *key);

#endif
