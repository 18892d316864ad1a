/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Extent trees (ext4 documentation, "Extent Tree"). Up to four extents stand in the inode; more are
 * put into blocks of 340, those under index blocks of 340, until at most four are left for the
 * inode. All blocks but the last of each level are full, so which extents a block covers is
 * arithmetic. The blocks of a tree lie in a row, leaves first.
 */
#include "unpack/builder/internal.h"

#define PER_BLOCK 340u /* (4096 - header - checksum) / 12 */

static uint32_t div_up(uint32_t a, uint32_t b)
{
	return a / b + (a % b != 0);
}

uint32_t extents_tree_blocks(uint32_t n)
{
	uint32_t blocks = 0;

	while (n > EXTENTS_IN_INODE) {
		n = div_up(n, PER_BLOCK);
		blocks += n;
	}
	return blocks;
}

static void put_header(uint8_t *area, uint32_t entries, uint32_t max, uint32_t depth)
{
	const struct ext3_extent_header h = {.eh_magic = EXT3_EXT_MAGIC,
		.eh_entries = entries,
		.eh_max = max,
		.eh_depth = depth};
	memcpy(area, &h, sizeof(h));
}

static void put_extent(uint8_t *area, uint32_t i, const struct extent *e)
{
	const struct ext3_extent x = {
		.ee_block = e->logical, .ee_len = e->len, .ee_start = e->physical};
	memcpy(area + sizeof(struct ext3_extent_header) + i * sizeof(x), &x, sizeof(x));
}

static void put_index(uint8_t *area, uint32_t i, uint32_t logical, uint32_t block)
{
	const struct ext3_extent_idx x = {.ei_block = logical, .ei_leaf = block};
	memcpy(area + sizeof(struct ext3_extent_header) + i * sizeof(x), &x, sizeof(x));
}

void extents_encode(uint8_t *area, uint32_t max, const struct extent *e, uint32_t n)
{
	put_header(area, n, max, 0);
	for (uint32_t i = 0; i < n; i++)
		put_extent(area, i, &e[i]);
}

/* Entries of one block (or the inode) at a level above the leaves: children number `first` and on
 * of the level below, whose blocks start at `below` and cover `span` extents each. */
static void put_indexes(struct node *n, uint8_t *area, uint32_t first, uint32_t count,
	uint32_t below, uint32_t span)
{
	for (uint32_t i = 0; i < count; i++) {
		uint32_t child = first + i;
		put_index(area, i, node_extent(n, child * span)->logical, below + child);
	}
}

/* i_block of a file's inode. */
void extents_root(struct node *n, uint8_t *root)
{
	uint32_t count = n->file.n, below = n->file.tree, depth = 0, span = 1, level = 0;

	if (count <= EXTENTS_IN_INODE) {
		put_header(root, count, EXTENTS_IN_INODE, 0);
		for (uint32_t i = 0; i < count; i++)
			put_extent(root, i, node_extent(n, i));
		return;
	}
	for (; count > EXTENTS_IN_INODE; depth++) {
		below += level;
		count = level = div_up(count, PER_BLOCK);
		span *= PER_BLOCK;
	}
	put_header(root, count, EXTENTS_IN_INODE, depth);
	put_indexes(n, root, 0, count, below, span);
}

static int put_block(
	struct ext4_builder *b, const struct node *n, uint32_t at, struct banger_error *err)
{
	errcode_t e =
		ext2fs_extent_block_csum_set(b->fs, n->ino, (struct ext3_extent_header *)b->block);

	if (e)
		return builder_fs_error(err, e, "an extent block");
	return writer_put(b->writer, at, b->block, 1, err);
}

/* Writes the blocks of a file's tree, if it has one. */
int extents_write_tree(struct ext4_builder *b, struct node *n, struct banger_error *err)
{
	uint32_t count = n->file.n, at = n->file.tree, below = 0, span = 1;

	for (uint32_t depth = 0; count > EXTENTS_IN_INODE; depth++) {
		uint32_t blocks = div_up(count, PER_BLOCK);
		for (uint32_t k = 0; k < blocks; k++) {
			uint32_t first = k * PER_BLOCK;
			uint32_t some = count - first < PER_BLOCK ? count - first : PER_BLOCK;
			memset(b->block, 0, BLOCK);
			put_header(b->block, some, PER_BLOCK, depth);
			if (depth == 0)
				for (uint32_t i = 0; i < some; i++)
					put_extent(b->block, i, node_extent(n, first + i));
			else
				put_indexes(n, b->block, first, some, below, span);
			int r = put_block(b, n, at + k, err);
			if (r < 0)
				return r;
		}
		below = at;
		at += blocks;
		count = blocks;
		span *= PER_BLOCK;
	}
	return 0;
}
