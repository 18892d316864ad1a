/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Contents of regular files and targets of symlinks. Contents are the runs of ext4_map(), zeros
 * where nothing was written, or inline data: up to 60 bytes in i_block, the rest in the attribute
 * system.data. Nothing after the file's size is ever given out.
 */
#include <limits.h>

#include "internal.h"

static int readable(const struct ext4_inode *i)
{
	if (S_ISDIR(i->mode))
		return -EISDIR;
	if (!S_ISREG(i->mode))
		return -EINVAL;
	return i->flags & EXT4_ENCRYPT_FL ? -ENOKEY : 0;
}

/* Bytes off … off+len of inline data; what was never written reads as zeros. */
static int read_inline(struct ext4_image *img, struct ext4_scratch *s, const struct ext4_inode *i,
	uint64_t off, uint8_t *buf, size_t len)
{
	const uint8_t *rest;
	size_t rest_len;
	int r = ext4_inline_rest(img, s, i, &rest, &rest_len);

	if (r < 0)
		return r;
	if (i->size > img->block_size)
		return ext4_damaged(s, "inode %u: inline data of %llu bytes", i->ino,
			(unsigned long long)i->size);
	for (size_t k = 0; k < len; k++) {
		uint64_t at = off + k;
		if (at < sizeof(i->block))
			buf[k] = i->block[at];
		else
			buf[k] = at - sizeof(i->block) < rest_len ? rest[at - sizeof(i->block)] : 0;
	}
	return 0;
}

static int read_runs(struct ext4_image *img, struct ext4_scratch *s, const struct ext4_inode *i,
	uint64_t off, uint8_t *buf, size_t len)
{
	while (len > 0) {
		uint64_t in_block = off & (img->block_size - 1);
		struct ext4_run run;
		int r = ext4_map(img, s, i, off >> img->block_bits, &run);
		if (r < 0)
			return r;
		uint64_t bytes = run.len >= (UINT64_MAX >> img->block_bits)
					 ? UINT64_MAX
					 : (run.len << img->block_bits) - in_block;
		size_t n = bytes < len ? (size_t)bytes : len;
		if (run.pblk)
			r = ext4_pread(img, s, buf, n, (run.pblk << img->block_bits) + in_block);
		else
			memset(buf, 0, n);
		if (r < 0)
			return r;
		buf += n;
		off += n;
		len -= n;
	}
	return 0;
}

ssize_t ext4_read(struct ext4_image *img, struct ext4_scratch *s, const struct ext4_inode *i,
	uint64_t off, void *buf, size_t len)
{
	int r = readable(i);

	if (r < 0)
		return r;
	if (off >= i->size || !len)
		return 0;
	if (len > i->size - off)
		len = (size_t)(i->size - off);
	if (len > SSIZE_MAX)
		len = SSIZE_MAX;
	r = i->flags & EXT4_INLINE_DATA_FL ? read_inline(img, s, i, off, buf, len)
					   : read_runs(img, s, i, off, buf, len);
	return r < 0 ? r : (ssize_t)len;
}

/* The end of the file is a hole. Every run is at least a block, and what is neither data nor hole
 * is damage, so the walk ends. */
int64_t ext4_seek(struct ext4_image *img, struct ext4_scratch *s, const struct ext4_inode *i,
	uint64_t off, bool want_hole)
{
	int r = readable(i);

	if (r < 0)
		return r;
	if (off >= i->size)
		return -ENXIO;
	if (i->flags & EXT4_INLINE_DATA_FL)
		return (int64_t)(want_hole ? i->size : off);
	for (unsigned steps = 0; off < i->size; steps++) {
		struct ext4_run run;
		r = ext4_map(img, s, i, off >> img->block_bits, &run);
		if (r < 0)
			return r;
		if (want_hole == !run.pblk)
			return (int64_t)off;
		if (steps == EXT4_SCAN_MAX) /* a lawful answer: there is data up to the end */
			return want_hole ? (int64_t)i->size : (int64_t)off;
		uint64_t next = run.lblk + run.len;
		if (next > i->size >> img->block_bits)
			break;
		off = next << img->block_bits;
	}
	return want_hole ? (int64_t)i->size : -ENXIO;
}

static bool is_fast(const struct ext4_image *img, const struct ext4_inode *i)
{
	uint64_t ea = i->acl_block ? img->cluster_size >> 9 : 0;

	if (i->flags & EXT4_INLINE_DATA_FL)
		return false;
	if (img->ea_inode)
		return i->size && i->size < sizeof(i->block);
	return i->blocks == ea;
}

int ext4_readlink(
	struct ext4_image *img, struct ext4_scratch *s, const struct ext4_inode *i, char ret[4096])
{
	int r = 0;

	if (!S_ISLNK(i->mode))
		return -EINVAL;
	if (i->flags & EXT4_ENCRYPT_FL)
		return -ENOKEY;
	if (!i->size || i->size >= PATH_MAX || (is_fast(img, i) && i->size >= sizeof(i->block)))
		return ext4_damaged(s, "inode %u: a symlink of %llu bytes", i->ino,
			(unsigned long long)i->size);
	if (is_fast(img, i))
		memcpy(ret, i->block, i->size);
	else if (i->flags & EXT4_INLINE_DATA_FL)
		r = read_inline(img, s, i, 0, (uint8_t *)ret, i->size);
	else
		r = read_runs(img, s, i, 0, (uint8_t *)ret, i->size);
	if (r < 0)
		return r;
	ret[i->size] = '\0';
	if (strlen(ret) != i->size)
		return ext4_damaged(s, "inode %u: a NUL in a symlink", i->ino);
	return 0;
}
