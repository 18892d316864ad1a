/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The soundness check of ext4 images. The input's first byte chooses the file's size (a power of
 * two, so that a few kilobytes of input can stand for a large sparse image) and the second which
 * checksums are mended before the check, so that the fuzzer gets past them; the rest is the file's
 * beginning. What the check lets through must be what it promises: inside the file.
 */
#include "fuzz.h"

#include <string.h>
#include <unistd.h>
#include <sys/mman.h>
#include "ext4/superblock.h"

enum {
	MEND_SUPERBLOCK = 1,
	MEND_GROUPS = 2,
	MEND_ROOT = 4,
	SIZE_LOG_MAX = 34,
	IMAGE_MAX = 1 << 16
};

static uint8_t image[IMAGE_MAX];

static uint32_t le32(const uint8_t *p)
{
	return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24;
}

static void put16(uint8_t *p, uint32_t v)
{
	p[0] = v & 0xff;
	p[1] = v >> 8 & 0xff;
}

static uint32_t seed_of(const uint8_t *sb)
{
	return le32(sb + 0x60) & 0x2000 ? le32(sb + 0x270) : ext4_crc32c(~0u, sb + 0x68, 16);
}

/* Descriptors in the first block of them. */
static void mend_groups(const uint8_t *sb, uint32_t block_size, uint32_t desc_size)
{
	uint32_t at = (1024 / block_size + 1) * block_size;

	for (uint32_t i = 0; i < block_size / desc_size && at + desc_size <= IMAGE_MAX; i++) {
		uint8_t *d = image + at,
			number[4] = {i & 0xff, i >> 8 & 0xff, i >> 16 & 0xff, i >> 24};
		put16(d + 0x1e, 0);
		uint32_t crc = ext4_crc32c(seed_of(sb), number, 4);
		if (le32(sb + 0x64) & 0x400) {
			put16(d + 0x1e, ext4_crc32c(crc, d, desc_size));
		} else {
			uint16_t c = ext4_crc16(0xffff, sb + 0x68, 16);
			c = ext4_crc16(c, number, 4);
			c = ext4_crc16(c, d, 0x1e);
			put16(d + 0x1e, ext4_crc16(c, d + 0x20, desc_size - 0x20));
		}
		at += desc_size;
	}
}

static void mend_root(const uint8_t *sb, uint32_t block_size)
{
	static const uint8_t two[4] = {2};
	uint32_t inode_size = sb[0x58] | sb[0x59] << 8;
	uint32_t first = (1024 / block_size + 1) * block_size; /* descriptor */

	if (first + 32 > IMAGE_MAX)
		return;
	uint64_t at = (uint64_t)le32(image + first + 8) * block_size + inode_size;
	if (inode_size < 128 || inode_size > 4096 || at + inode_size > IMAGE_MAX)
		return;
	uint8_t *inode = image + at;
	put16(inode + 0x7c, 0);
	if (inode_size > 128)
		put16(inode + 0x82, 0);
	uint32_t crc = ext4_crc32c(seed_of(sb), two, 4);
	crc = ext4_crc32c(ext4_crc32c(crc, inode + 0x64, 4), inode, inode_size);
	put16(inode + 0x7c, crc);
	if (inode_size > 128)
		put16(inode + 0x82, crc >> 16);
}

static void mend(unsigned what)
{
	uint8_t *sb = image + 1024;
	uint32_t block_size = 1024u << (le32(sb + 0x18) % 7);
	uint32_t desc_size = le32(sb + 0x60) & 0x80 ? (uint32_t)(sb[0xfe] | sb[0xff] << 8) : 32;

	if ((what & MEND_GROUPS) && desc_size >= 32 && desc_size <= 1024)
		mend_groups(sb, block_size, desc_size);
	if (what & MEND_ROOT)
		mend_root(sb, block_size);
	if (what & MEND_SUPERBLOCK) {
		uint32_t crc = ext4_crc32c(~0u, sb, 0x3fc);
		put16(sb + 0x3fc, crc);
		put16(sb + 0x3fe, crc >> 16);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static int fd = -1;
	struct banger_error err = {0};
	struct ext4_summary s = {0};

	if (size < 2 || size - 2 > IMAGE_MAX)
		return 0;
	if (fd < 0)
		fd = memfd_create("image", MFD_CLOEXEC);
	MUST(fd >= 0);
	memset(image, 0, sizeof(image));
	memcpy(image, data + 2, size - 2);
	mend(data[1]);
	int64_t length = (int64_t)1 << (data[0] % (SIZE_LOG_MAX + 1));
	size_t wrote = length < IMAGE_MAX ? (size_t)length : IMAGE_MAX;
	/* Only the part that is not zeros need be there. */
	while (wrote > 0 && !image[wrote - 1])
		wrote--;
	MUST(ftruncate(fd, 0) == 0 && ftruncate(fd, length) == 0);
	MUST(pwrite(fd, image, wrote, 0) == (ssize_t)wrote);

	int r = ext4_superblock_check(fd, length, "image", &s, &err);
	if (r < 0) {
		MUST(err.code == BANGER_CORRUPT && err.message[0]);
		return 0;
	}
	MUST(s.size > 0 && s.size <= length && s.groups > 0);
	MUST(s.block_size >= 1024 && s.block_size <= 65536 && s.size % s.block_size == 0);
	MUST(ext4_magic(image, sizeof(image)));
	return 0;
}
