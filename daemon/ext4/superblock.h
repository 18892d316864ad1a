/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Is a file a sound ext2, ext3 or ext4 filesystem?
 *
 * A bounded check of what everything else in the filesystem hangs from: superblock, group
 * descriptors, root inode (layout: the kernel's Documentation/filesystems/ext4, "Data Structures
 * and Algorithms"). It is what the kernel looks at before it mounts, and a little stricter: a
 * filesystem that is only sound once its journal has been replayed, or that has an error on record,
 * is refused, because a published image is never written to again. It is not an e2fsck:
 * image.verify runs that.
 */
#ifndef BANGER_EXT4_SUPERBLOCK_H
#define BANGER_EXT4_SUPERBLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <banger/error.h>

struct ext4_summary {
	int64_t size; /* of the filesystem in bytes; the file may be longer */
	unsigned block_size;
	uint32_t groups;
	uint8_t uuid[16];
	char label[17]; /* as it stands there: bytes, not necessarily UTF-8 */
};

/* Check the filesystem that starts at offset 0 of fd (a regular file or block device of `size`
 * bytes). Reads with pread(2) only; time is linear in the number of block groups, memory constant.
 * Any thread. Returns 0 with *ret (may be NULL), or CORRUPT: "WHAT is not a sound ext4 filesystem:
 * REASON", or an error of reading. */
int ext4_superblock_check(
	int fd, int64_t size, const char *what, struct ext4_summary *ret, struct banger_error *err);

/* Does the file begin like an ext2, ext3 or ext4 filesystem (the magic number, nothing else)? For
 * telling formats apart. `head` is the file's first bytes, at least EXT4_MAGIC_HEAD of them. */
#define EXT4_MAGIC_HEAD 1082
bool ext4_magic(const void *head, size_t len);

/* The checksums of the format, for tests and tools that make or mend images. */
uint32_t ext4_crc32c(uint32_t crc, const void *data, size_t len);
uint16_t ext4_crc16(uint16_t crc, const void *data, size_t len);

#endif
