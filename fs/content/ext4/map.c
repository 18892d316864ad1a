/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a file's blocks are: extent trees and the older block maps.
 *
 * Every call walks from the root in the inode, one node at a time through the scratch's node
 * buffer; nothing is remembered. A node must say the depth that its parent expects, so a walk has
 * at most six steps whatever the pointers do. Each node is checked as a whole before it is used:
 * magic, counts, checksum, entries in order, not overlapping and inside the range of logical blocks
 * that the parent gives to it. A hole is as long as the nodes on the way allow it to be.
 *
 * References: kernel documentation, filesystems/ext4/ifork.
 */
#include "internal.h"

#define DEPTH_MAX 5
#define HEADER 12
#define ENTRY 12
#define UNWRITTEN 32768u
/* Logical block numbers of extents have 32 bits. */
#define LBLK_END (1ull << 32)

struct node {
	const uint8_t *buf;
	uint32_t entries;
	uint32_t depth;
	uint64_t lo, hi; /* the logical blocks it may speak of: lo <= b < hi */
};

static const uint8_t *entry_at(const struct node *n, uint32_t k)
{
	return n->buf + HEADER + (size_t)k * ENTRY;
}

static uint32_t extent_len(const uint8_t *e)
{
	uint32_t len = le16(e + 4);
	return len > UNWRITTEN ? len - UNWRITTEN : len;
}

/* Entries in order, inside the node's range, not overlapping. */
static bool node_ordered(const struct node *n)
{
	uint64_t at = n->lo;

	for (uint32_t k = 0; k < n->entries; k++) {
		const uint8_t *e = entry_at(n, k);
		uint64_t first = le32(e), len = n->depth ? 1 : extent_len(e);
		if (first < at || !len || first + len > n->hi)
			return false;
		at = first + len;
	}
	return true;
}

static int node_check(
	struct ext4_scratch *s, const struct ext4_inode *i, struct node *n, size_t size)
{
	uint32_t max = le16(n->buf + 4);

	n->entries = le16(n->buf + 2);
	if (le16(n->buf) != EXT3_EXT_MAGIC || le16(n->buf + 6) != n->depth || !max ||
		max > (size - HEADER) / ENTRY || n->entries > max || (!n->entries && n->depth))
		return ext4_damaged(s, "inode %u: an extent node is not one", i->ino);
	if (!node_ordered(n))
		return ext4_damaged(s, "inode %u: extents overlap or are out of order", i->ino);
	return 0;
}

static bool node_csum_ok(
	const struct ext4_image *img, const struct ext4_inode *i, const uint8_t *buf)
{
	size_t tail = HEADER + (size_t)le16(buf + 4) * ENTRY; /* after eh_max entries */

	return tail + 4 <= img->block_size && csum32(i->csum_seed, buf, tail) == le32(buf + tail);
}

/* The last entry that begins at or before lblk; entries when there is none. */
static uint32_t node_search(const struct node *n, uint64_t lblk)
{
	uint32_t lo = 0, hi = n->entries;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (le32(entry_at(n, mid)) <= lblk)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo ? lo - 1 : n->entries;
}

static struct ext4_run hole(uint64_t lblk, uint64_t end)
{
	return (struct ext4_run){.lblk = lblk, .pblk = 0, .len = end - lblk};
}

static uint64_t next_key(const struct node *n, uint32_t k)
{
	return k < n->entries ? le32(entry_at(n, k)) : n->hi;
}

static int leaf_run(const struct ext4_image *img, struct ext4_scratch *s,
	const struct ext4_inode *i, const struct node *n, uint64_t lblk, struct ext4_run *ret)
{
	uint32_t k = node_search(n, lblk);
	const uint8_t *e;
	uint64_t first, len, start;

	if (k == n->entries) {
		*ret = hole(lblk, next_key(n, 0));
		return 0;
	}
	e = entry_at(n, k);
	first = le32(e);
	len = extent_len(e);
	if (lblk >= first + len) {
		*ret = hole(lblk, next_key(n, k + 1));
		return 0;
	}
	start = le32(e + 8) | (uint64_t)le16(e + 6) << 32;
	if (!ext4_blocks_valid(img, start, len))
		return ext4_damaged(s, "inode %u: extent of %llu blocks at %llu, where none can be",
			i->ino, (unsigned long long)len, (unsigned long long)start);
	*ret = (struct ext4_run){
		.lblk = lblk,
		.pblk = le16(e + 4) > UNWRITTEN ? 0 : start + (lblk - first),
		.len = first + len - lblk,
	};
	return 0;
}

static int map_extents(struct ext4_image *img, struct ext4_scratch *s, const struct ext4_inode *i,
	uint64_t lblk, struct ext4_run *ret)
{
	struct node n = {.buf = i->block, .depth = le16(i->block + 6), .hi = LBLK_END};
	int r;

	if (n.depth > DEPTH_MAX)
		return ext4_damaged(s, "inode %u: extent tree of depth %u", i->ino, n.depth);
	r = node_check(s, i, &n, sizeof(i->block));
	while (r == 0 && n.depth) {
		uint32_t k = node_search(&n, lblk);
		if (k == n.entries) {
			*ret = hole(lblk, next_key(&n, 0));
			return 0;
		}
		const uint8_t *e = entry_at(&n, k);
		uint64_t child = le32(e + 4) | (uint64_t)le16(e + 8) << 32;
		uint64_t lo = le32(e), hi = next_key(&n, k + 1);
		r = ext4_read_block(img, s, child, s->node, "an extent node", i->ino);
		if (r < 0)
			return r;
		n = (struct node){.buf = s->node, .depth = n.depth - 1, .lo = lo, .hi = hi};
		r = node_check(s, i, &n, img->block_size);
		if (r == 0 && img->csum && !node_csum_ok(img, i, s->node))
			r = ext4_damaged(
				s, "inode %u: an extent node has a wrong checksum", i->ino);
	}
	return r < 0 ? r : leaf_run(img, s, i, &n, lblk, ret);
}

/* As many pointers as go on block after block (or are all holes), from k on. */
static uint64_t pointers_run(const uint8_t *p, uint64_t k, uint64_t count)
{
	uint32_t first = le32(p + 4 * k);
	uint64_t n = 1;

	while (k + n < count && le32(p + 4 * (k + n)) == (first ? first + (uint32_t)n : 0))
		n++;
	return n;
}

static int pointer_run(const struct ext4_image *img, struct ext4_scratch *s,
	const struct ext4_inode *i, const uint8_t *p, uint64_t k, uint64_t count, uint64_t lblk,
	struct ext4_run *ret)
{
	uint64_t n = pointers_run(p, k, count);
	uint32_t first = le32(p + 4 * k);

	if (first && !ext4_blocks_valid(img, first, n))
		return ext4_damaged(s, "inode %u: blocks at %u, where none can be", i->ino, first);
	*ret = (struct ext4_run){.lblk = lblk, .pblk = first, .len = n};
	return 0;
}

static int map_pointers(struct ext4_image *img, struct ext4_scratch *s, const struct ext4_inode *i,
	uint64_t lblk, struct ext4_run *ret)
{
	uint64_t per = img->block_size / 4, span = 1, base = EXT2_NDIR_BLOCKS;
	unsigned level;
	uint32_t ptr;

	if (lblk < base)
		return pointer_run(img, s, i, i->block, lblk, base, lblk, ret);
	for (level = 1; level <= 3; level++) {
		span *= per;
		if (lblk - base < span)
			break;
		base += span;
	}
	if (level > 3)
		return ext4_damaged(s, "inode %u: larger than a block map can be", i->ino);
	ptr = le32(i->block + 4 * (EXT2_NDIR_BLOCKS + level - 1));
	for (uint64_t rel = lblk - base;; rel %= span) {
		if (!ptr) {
			*ret = hole(lblk, lblk + span - rel);
			return 0;
		}
		int r = ext4_read_block(img, s, ptr, s->node, "a block map", i->ino);
		if (r < 0)
			return r;
		span /= per;
		if (span == 1)
			return pointer_run(img, s, i, s->node, rel, per, lblk, ret);
		ptr = le32(s->node + 4 * (rel / span));
	}
}

int ext4_map(struct ext4_image *img, struct ext4_scratch *s, const struct ext4_inode *i,
	uint64_t lblk, struct ext4_run *ret)
{
	if (i->flags & EXT4_INLINE_DATA_FL)
		return ext4_damaged(s, "inode %u: inline data has no blocks", i->ino);
	if (lblk >= LBLK_END)
		return ext4_damaged(s, "inode %u: larger than a file can be", i->ino);
	return i->flags & EXT4_EXTENTS_FL ? map_extents(img, s, i, lblk, ret)
					  : map_pointers(img, s, i, lblk, ret);
}

/* What the inode itself names, without reading a node: the extents of a root of depth 0 (an index:
 * the nodes below it), or the direct blocks. Only a hint, so hardly checked. */
size_t ext4_inode_ranges(const struct ext4_image *img, const struct ext4_inode *i, uint64_t max,
	struct ext4_range *ret, size_t n)
{
	uint64_t want = (i->size < max ? i->size : max) + img->block_size - 1;
	size_t k = 0;

	want >>= img->block_bits;
	if (i->flags & EXT4_INLINE_DATA_FL || !want)
		return 0;
	if (i->flags & EXT4_EXTENTS_FL) {
		uint32_t entries = le16(i->block + 2), depth = le16(i->block + 6);
		for (uint32_t e = 0; e < entries && e < 4 && k < n && want; e++) {
			const uint8_t *p = i->block + HEADER + (size_t)e * ENTRY;
			uint64_t at = depth ? le32(p + 4) | (uint64_t)le16(p + 8) << 32
					    : le32(p + 8) | (uint64_t)le16(p + 6) << 32;
			uint64_t len = depth ? 1 : extent_len(p);
			len = len < want ? len : want;
			if (le16(p + 4) > UNWRITTEN && !depth)
				continue;
			if (len && ext4_blocks_valid(img, at, len))
				ret[k++] = (struct ext4_range){
					at << img->block_bits, len << img->block_bits};
			want -= len;
		}
		return k;
	}
	for (uint64_t b = 0; b < EXT2_NDIR_BLOCKS && b < want && k < n;) {
		uint64_t len = pointers_run(
			i->block, b, EXT2_NDIR_BLOCKS < want ? EXT2_NDIR_BLOCKS : want);
		uint64_t at = le32(i->block + 4 * b);
		if (at && ext4_blocks_valid(img, at, len))
			ret[k++] =
				(struct ext4_range){at << img->block_bits, len << img->block_bits};
		b += len;
	}
	return k;
}
