/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inodes: found through the group descriptors, checked by their checksum and by what the kernel
 * checks before it believes one, and turned into what stat(2) says.
 *
 * The scratch keeps the piece of inode table (4 KiB) that was read last: neighbours in a directory
 * are mostly neighbours there.
 */
#include <sys/sysmacros.h>

#include "internal.h"

#define GOOD_OLD 128
#define SCAN_INODES (512u << 10)

/* *ret_raw: the bytes of inode ino, in the scratch. */
static int find_raw(
	struct ext4_image *img, struct ext4_scratch *s, uint32_t ino, const uint8_t **ret_raw)
{
	uint32_t group = (ino - 1) / img->inodes_per_group;
	uint64_t in_table = (uint64_t)((ino - 1) % img->inodes_per_group) * img->inode_size;
	uint32_t piece = img->inode_size > ITABLE_PIECE ? img->inode_size : ITABLE_PIECE;
	uint64_t off, base, end;

	if (group >= img->group_count || !img->groups[group].itable)
		return ext4_damaged(s, "inode %u: its group has no sound descriptor", ino);
	base = img->groups[group].itable << img->block_bits;
	off = base + (in_table & ~(uint64_t)(piece - 1));
	end = base + (uint64_t)img->inodes_per_group * img->inode_size;
	if (s->inode_serial != img->serial || s->inode_off != off) {
		uint32_t len = end - off < piece ? (uint32_t)(end - off) : piece;
		s->inode_serial = 0;
		int r = ext4_pread_meta(img, s, s->inode, len, off);
		if (r < 0)
			return r;
		s->inode_serial = img->serial;
		s->inode_off = off;
		s->inode_len = len;
	}
	*ret_raw = s->inode + (base + in_table - off);
	return 0;
}

static bool inode_csum_ok(
	const struct ext4_image *img, const uint8_t *raw, uint32_t seed, bool has_high)
{
	static const uint8_t zero[2];
	uint32_t want = le16(raw + 124), c;

	c = csum32(seed, raw, 124); /* l_i_checksum_lo stands at 124 */
	c = csum32(c, zero, 2);
	c = csum32(c, raw + 126, GOOD_OLD - 126);
	if (img->inode_size > GOOD_OLD && has_high) {
		want |= (uint32_t)le16(raw + 130) << 16; /* i_checksum_hi */
		c = csum32(c, raw + 128, 2);
		c = csum32(c, zero, 2);
		c = csum32(c, raw + 132, img->inode_size - 132);
	} else if (img->inode_size > GOOD_OLD) {
		c = csum32(c, raw + GOOD_OLD, img->inode_size - GOOD_OLD);
	}
	return has_high ? c == want : (c & 0xffff) == want;
}

/* Seconds and, where the inode has them, nanoseconds and two more bits of seconds. */
static struct timespec time_at(
	const struct ext4_inode *i, const uint8_t *raw, unsigned base, unsigned extra)
{
	struct timespec t = {.tv_sec = (int32_t)le32(raw + base)};

	if (i->extra_isize + GOOD_OLD >= extra + 4u) {
		uint32_t x = le32(raw + extra);
		t.tv_sec += (time_t)(x & 3) << 32;
		t.tv_nsec = x >> 2 < 1000000000 ? (long)(x >> 2) : 999999999;
	}
	return t;
}

static uint64_t device_of(const uint8_t *block)
{
	uint32_t old = le32(block), new = le32(block + 4);

	if (old)
		return makedev(old >> 8 & 0xff, old & 0xff);
	return makedev(new >> 8 & 0xfff, (new & 0xff) | (new >> 12 & 0xfff00));
}

static void parse(const struct ext4_image *img, const uint8_t *raw, struct ext4_inode *i)
{
	bool reg;

	i->mode = le16(raw);
	i->uid = le16(raw + 2) | (uint32_t)le16(raw + 120) << 16;
	i->gid = le16(raw + 24) | (uint32_t)le16(raw + 122) << 16;
	i->links = le16(raw + 26);
	i->flags = le32(raw + 32);
	reg = S_ISREG(i->mode) || (S_ISDIR(i->mode) && img->largedir);
	i->size = le32(raw + 4) | (reg ? (uint64_t)le32(raw + 108) << 32 : 0);
	i->blocks = le32(raw + 28) | (uint64_t)le16(raw + 116) << 32;
	if (i->flags & EXT4_HUGE_FILE_FL)
		i->blocks <<= img->block_bits - 9;
	i->acl_block = le32(raw + 104) | (uint64_t)le16(raw + 118) << 32;
	memcpy(i->block, raw + 40, sizeof(i->block));
	i->rdev = S_ISCHR(i->mode) || S_ISBLK(i->mode) ? device_of(i->block) : 0;
	i->atime = time_at(i, raw, 8, 140);
	i->ctime = time_at(i, raw, 12, 132);
	i->mtime = time_at(i, raw, 16, 136);
}

int ext4_inode_load(struct ext4_image *img, struct ext4_scratch *s, uint32_t ino,
	struct ext4_inode *ret, const uint8_t **ret_raw)
{
	const uint8_t *raw = NULL;
	struct ext4_inode i = {.ino = ino};
	int r;

	if (ino < 1 || ino > img->inodes)
		return ext4_damaged(s, "inode %u: there are %u", ino, img->inodes);
	r = find_raw(img, s, ino, &raw);
	if (r < 0)
		return r;
	if (img->inode_size > GOOD_OLD)
		i.extra_isize = le16(raw + GOOD_OLD);
	if (i.extra_isize + GOOD_OLD > img->inode_size || i.extra_isize % 4)
		return ext4_damaged(s, "inode %u: extra size %u", ino, i.extra_isize);
	i.generation = le32(raw + 100);
	i.csum_seed = csum_le32(csum_le32(img->csum_seed, ino), i.generation);
	if (img->csum && !inode_csum_ok(img, raw, i.csum_seed, i.extra_isize >= 4))
		return ext4_damaged(s, "inode %u: wrong checksum", ino);
	parse(img, raw, &i);
	*ret = i;
	if (ret_raw)
		*ret_raw = raw;
	return 0;
}

static bool is_special(const struct ext4_image *img, uint32_t ino)
{
	if (ino < img->first_ino && ino != EXT4_ROOT)
		return true;
	for (size_t k = 0; k < ELEMENTSOF(img->special); k++)
		if (img->special[k] == ino)
			return true;
	return false;
}

static int check_named(
	const struct ext4_image *img, struct ext4_scratch *s, const struct ext4_inode *i)
{
	if (!i->links)
		return ext4_damaged(s, "inode %u: a directory names it, but it is deleted", i->ino);
	if (i->flags & EXT4_EA_INODE_FL)
		return ext4_damaged(s, "inode %u: it holds an attribute's value", i->ino);
	if (i->size >> 63)
		return ext4_damaged(s, "inode %u: negative size", i->ino);
	if (i->flags & EXT4_INLINE_DATA_FL && !img->inline_data)
		return ext4_damaged(s, "inode %u: inline data without the feature", i->ino);
	switch (i->mode & S_IFMT) {
	case S_IFREG:
	case S_IFDIR:
	case S_IFLNK:
	case S_IFCHR:
	case S_IFBLK:
	case S_IFIFO:
	case S_IFSOCK:
		return 0;
	default:
		return ext4_damaged(s, "inode %u: mode 0%o", i->ino, i->mode);
	}
}

int ext4_inode_get(
	struct ext4_image *img, struct ext4_scratch *s, uint32_t ino, struct ext4_inode *ret)
{
	struct ext4_inode i;
	int r;

	if (is_special(img, ino))
		return ext4_damaged(s, "inode %u: reserved, no directory may name it", ino);
	r = ext4_inode_load(img, s, ino, &i, NULL);
	if (r < 0)
		return r;
	r = check_named(img, s, &i);
	if (r < 0)
		return r;
	if (ino == EXT4_ROOT && !S_ISDIR(i.mode))
		return ext4_damaged(s, "inode 2: the root is not a directory");
	*ret = i;
	return 0;
}

int ext4_image_inodes(struct ext4_image *img, struct ext4_scratch *s, ext4_inode_fn *fn, void *arg)
{
	uint64_t total = 0;

	for (uint32_t g = 0; g < img->group_count; g++)
		total += img->groups[g].used;
	if (total > SCAN_INODES)
		return -EOVERFLOW;
	ext4_slow(s);
	for (uint32_t g = 0; g < img->group_count; g++) {
		for (uint32_t k = 0; k < img->groups[g].used; k++) {
			struct ext4_inode i;
			int r = ext4_inode_get(img, s, g * img->inodes_per_group + k + 1, &i);
			r = r < 0 ? 0 : fn(arg, &i);
			if (r)
				return r;
		}
	}
	return 0;
}

void ext4_inode_stat(const struct ext4_image *img, const struct ext4_inode *i, struct stat *ret)
{
	*ret = (struct stat){
		.st_ino = i->ino,
		.st_mode = i->mode,
		.st_nlink = i->links,
		.st_uid = i->uid,
		.st_gid = i->gid,
		.st_rdev = i->rdev,
		.st_size = (off_t)i->size,
		.st_blksize = (blksize_t)img->block_size,
		.st_blocks = (blkcnt_t)i->blocks,
		.st_atim = i->atime,
		.st_mtim = i->mtime,
		.st_ctim = i->ctime,
	};
	/* As the kernel says it, so that nobody takes a file of inline data for an empty one. */
	if (S_ISREG(i->mode) && i->flags & EXT4_INLINE_DATA_FL)
		ret->st_blocks += (blkcnt_t)((i->size + 511) >> 9);
}
