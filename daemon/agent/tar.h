/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tar as both directions of a transfer know it: POSIX.1-2017 pax interchange format ("pax", Extended Description), its
 * ustar header blocks, GNU's sparse files of version 1.0 as records of it, and star's SCHILY.xattr records.
 */
#ifndef BANGER_AGENT_TAR_H
#define BANGER_AGENT_TAR_H

#include <stdint.h>

#define TAR_BLOCK 512
#define TAR_PAX_MAX (1024 * 1024) /* of one member's records */

struct tar_header {
	char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100];
	char magic[6], version[2], uname[32], gname[32], major[8], minor[8], prefix[155], rest[12];
};
_Static_assert(sizeof(struct tar_header) == TAR_BLOCK, "a tar header is a block");

static inline unsigned tar_checksum(const struct tar_header *h)
{
	const uint8_t *p = (const uint8_t *)h;
	unsigned sum = 8 * ' ';

	/* The field itself counts as blanks. */
	for (unsigned i = 0; i < TAR_BLOCK; i++)
		if (i < __builtin_offsetof(struct tar_header, checksum) ||
			i >= __builtin_offsetof(struct tar_header, type))
			sum += p[i];
	return sum;
}

#endif
