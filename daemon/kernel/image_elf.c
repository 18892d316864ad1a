/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An ELF file is a header, a table of sections and a table of segments; all offsets and counts in
 * it come from whoever built the file. Each is checked against the size of what we hold (within(),
 * written so that no sum can wrap) before a byte is read, and reads are memcpy()s, since nothing
 * promises alignment.
 */
#include "kernel/image_elf.h"

#include <elf.h>
#include <errno.h>
#include <string.h>

static bool within(uint64_t offset, uint64_t length, uint64_t size)
{
	return offset <= size && length <= size - offset;
}

int elf_open(const void *bytes, size_t size, struct elf_image *ret)
{
	Elf64_Ehdr h;
	if (size < sizeof(h))
		return -EINVAL;
	memcpy(&h, bytes, sizeof(h));
	if (memcmp(h.e_ident, ELFMAG, SELFMAG) != 0 || h.e_ident[EI_CLASS] != ELFCLASS64 ||
		h.e_ident[EI_DATA] != ELFDATA2LSB)
		return -EINVAL;
	if (h.e_shnum > 0 &&
		(h.e_shentsize != sizeof(Elf64_Shdr) || h.e_shstrndx >= h.e_shnum ||
			!within(h.e_shoff, (uint64_t)h.e_shnum * sizeof(Elf64_Shdr), size)))
		return -EINVAL;
	if (h.e_phnum > 0 &&
		(h.e_phentsize != sizeof(Elf64_Phdr) ||
			!within(h.e_phoff, (uint64_t)h.e_phnum * sizeof(Elf64_Phdr), size)))
		return -EINVAL;
	*ret = (struct elf_image){.bytes = bytes,
		.size = size,
		.type = h.e_type,
		.machine = h.e_machine,
		.section_offset = h.e_shoff,
		.segment_offset = h.e_phoff,
		.sections = h.e_shnum,
		.segments = h.e_phnum,
		.names = h.e_shstrndx};
	return 0;
}

static Elf64_Shdr section_at(const struct elf_image *e, unsigned i)
{
	Elf64_Shdr s;
	memcpy(&s, e->bytes + e->section_offset + (uint64_t)i * sizeof(s), sizeof(s));
	return s;
}

int elf_section(const struct elf_image *e, const char *name, const char **ret, size_t *ret_size)
{
	if (e->sections == 0)
		return -ENOENT;
	Elf64_Shdr names = section_at(e, e->names);
	if (names.sh_type == SHT_NOBITS || !within(names.sh_offset, names.sh_size, e->size))
		return -EINVAL;
	size_t want = strlen(name) + 1;
	for (unsigned i = 0; i < e->sections; i++) {
		Elf64_Shdr s = section_at(e, i);
		if (!within(s.sh_name, want, names.sh_size) ||
			memcmp(e->bytes + names.sh_offset + s.sh_name, name, want) != 0)
			continue;
		if (s.sh_type == SHT_NOBITS || !within(s.sh_offset, s.sh_size, e->size))
			return -EINVAL;
		*ret = (const char *)e->bytes + s.sh_offset;
		*ret_size = s.sh_size;
		return 0;
	}
	return -ENOENT;
}

/* One segment of notes: each is a header, the owner's name and a descriptor, both padded to 4
 * bytes. */
static bool notes_have_pvh(const uint8_t *p, size_t size)
{
	enum { XEN_ELFNOTE_PHYS32_ENTRY = 18 };
	while (size >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr n;
		memcpy(&n, p, sizeof(n));
		p += sizeof(n);
		size -= sizeof(n);
		uint64_t name = ((uint64_t)n.n_namesz + 3) & ~UINT64_C(3);
		uint64_t descriptor = ((uint64_t)n.n_descsz + 3) & ~UINT64_C(3);
		if (name + descriptor > size)
			return false;
		if (n.n_type == XEN_ELFNOTE_PHYS32_ENTRY && n.n_namesz == 4 &&
			memcmp(p, "Xen", 4) == 0 && (n.n_descsz == 4 || n.n_descsz == 8))
			return true;
		p += name + descriptor;
		size -= name + descriptor;
	}
	return false;
}

bool elf_has_pvh_entry(const struct elf_image *e)
{
	for (unsigned i = 0; i < e->segments; i++) {
		Elf64_Phdr s;
		memcpy(&s, e->bytes + e->segment_offset + (uint64_t)i * sizeof(s), sizeof(s));
		if (s.p_type == PT_NOTE && within(s.p_offset, s.p_filesz, e->size) &&
			notes_have_pvh(e->bytes + s.p_offset, s.p_filesz))
			return true;
	}
	return false;
}

const char *modinfo_next(const char *section, size_t size, size_t *pos, const char *key)
{
	size_t length = strlen(key);
	while (*pos < size) {
		const char *s = section + *pos;
		const char *end = memchr(s, '\0', size - *pos);
		if (!end)
			break;
		*pos += (size_t)(end - s) + 1;
		if ((size_t)(end - s) > length && memcmp(s, key, length) == 0 && s[length] == '=')
			return s + length + 1;
	}
	*pos = size;
	return NULL;
}
