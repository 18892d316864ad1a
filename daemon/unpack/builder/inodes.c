/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inodes (ext4 documentation, "Index Nodes") and the tables they stand in. Numbers are given
 * without gaps, so the tables in use are the first groups', from their first block to the last
 * inode's; what follows is never written and reads as zeros, which is what the descriptors promise.
 */
#include "unpack/builder/internal.h"

#define FAST_SYMLINK_MAX 59u /* shorter than i_block */
#define SECTORS (BLOCK / 512)

static void put_time(stamp t, uint32_t *ret_low, uint32_t *ret_extra)
{
	int64_t sec = (int64_t)stamp_sec_biased(t) + INT32_MIN;

	*ret_low = (uint32_t)sec;
	/* The two bits of epoch are what the low word, taken as signed, lacks. */
	*ret_extra = (uint32_t)((t & ((1u << 30) - 1)) << EXT4_EPOCH_BITS) |
		     ((uint32_t)((uint64_t)(sec - (int32_t)sec) >> 32) & EXT4_EPOCH_MASK);
}

static void put_dev(const struct node *n, uint32_t *i_block)
{
	uint32_t major = n->dev.major, minor = n->dev.minor;

	if (major < 256 && minor < 256)
		i_block[0] = major << 8 | minor;
	else
		i_block[1] = (minor & 0xff) | major << 8 | (minor & ~0xffu) << 12;
}

/* i_block and flags by type; the number of blocks that the inode has, its attributes' not counted.
 */
static uint64_t put_content(struct ext4_builder *b, struct node *n, struct ext2_inode_large *i)
{
	uint64_t blocks = 0;

	switch (n->mode & S_IFMT) {
	case S_IFREG:
		i->i_flags = EXT4_EXTENTS_FL;
		extents_root(n, (uint8_t *)i->i_block);
		for (uint32_t k = 0; k < n->file.n; k++)
			blocks += node_extent(n, k)->len;
		return blocks + extents_tree_blocks(n->file.n);
	case S_IFDIR: {
		struct extent e[EXTENTS_IN_INODE];
		uint32_t count = 0;
		for (uint32_t done = 0; done < n->dir.blocks; done += e[count++].len) {
			uint32_t left = n->dir.blocks - done;
			e[count] = (struct extent){.logical = done,
				.physical = n->dir.start + done,
				.len = left < EXT_INIT_MAX_LEN ? left : EXT_INIT_MAX_LEN};
		}
		i->i_flags = EXT4_EXTENTS_FL | (n->dir.blocks > 1 ? EXT2_INDEX_FL : 0);
		extents_encode((uint8_t *)i->i_block, EXTENTS_IN_INODE, e, count);
		return n->dir.blocks;
	}
	case S_IFLNK:
		if (n->size <= FAST_SYMLINK_MAX) {
			memcpy(i->i_block, n->link.target, n->size);
			return 0;
		}
		i->i_flags = EXT4_EXTENTS_FL;
		extents_encode((uint8_t *)i->i_block, EXTENTS_IN_INODE,
			&(struct extent){.physical = n->link.block, .len = 1}, 1);
		return 1;
	case S_IFCHR:
	case S_IFBLK:
		put_dev(n, i->i_block);
		return 0;
	default:
		return 0;
	}
}

static void put_xattrs(struct ext4_builder *b, const struct node *n, uint8_t *raw, uint64_t *blocks)
{
	struct ext2_inode_large *i = (struct ext2_inode_large *)raw;

	if (!n->xattrs)
		return;
	struct xattr_set *set = set_at(b, n->xattrs);
	xattr_encode_inode(b, set, raw + 128 + EXTRA_ISIZE, INODE_SIZE - 128 - EXTRA_ISIZE);
	if (set->in_block) {
		i->i_file_acl = set->start + set->seen++ / XATTR_BLOCK_USERS;
		++*blocks;
	}
}

static void put_fixed(const struct node *n, struct ext2_inode_large *i)
{
	uint64_t size = node_is(n, S_IFDIR) ? (uint64_t)n->dir.blocks * BLOCK : n->size;

	i->i_mode = n->mode;
	i->i_uid = n->uid;
	i->osd2.linux2.l_i_uid_high = n->uid >> 16;
	i->i_gid = n->gid;
	i->osd2.linux2.l_i_gid_high = n->gid >> 16;
	i->i_size = size;
	i->i_size_high = size >> 32;
	/* dir_nlink: one that is beyond the limit is 1. */
	i->i_links_count = n->links > LINKS_MAX && node_is(n, S_IFDIR) ? 1 : n->links;
	i->i_extra_isize = EXTRA_ISIZE;
	put_time(n->mtime, &i->i_mtime, &i->i_mtime_extra);
	put_time(n->atime, &i->i_atime, &i->i_atime_extra);
	put_time(n->ctime, &i->i_ctime, &i->i_ctime_extra);
	put_time(n->mtime, &i->i_crtime, &i->i_crtime_extra);
}

static void encode_node(struct ext4_builder *b, uint32_t node, uint8_t *raw)
{
	struct ext2_inode_large *i = (struct ext2_inode_large *)raw;
	struct node *n = node_at(b, node);

	put_fixed(n, i);
	uint64_t blocks = put_content(b, n, i);
	put_xattrs(b, n, raw, &blocks);
	i->i_blocks = blocks * SECTORS;
	i->osd2.linux2.l_i_blocks_hi = blocks * SECTORS >> 32;
}

static void encode_journal(struct ext4_builder *b, uint8_t *raw)
{
	struct ext2_inode_large *i = (struct ext2_inode_large *)raw;

	i->i_mode = S_IFREG | 0600;
	i->i_links_count = 1;
	i->i_size = b->journal_blocks * BLOCK;
	i->i_flags = EXT4_EXTENTS_FL;
	i->i_blocks = b->journal_blocks * SECTORS;
	i->i_extra_isize = EXTRA_ISIZE;
	i->i_mtime = i->i_atime = i->i_ctime = i->i_crtime = b->o.time;
	extents_encode((uint8_t *)i->i_block, EXTENTS_IN_INODE, b->journal, b->n_journal);
	/* e2fsck finds the journal by this copy when inode 8 is lost. */
	memcpy(b->fs->super->s_jnl_blocks, i->i_block, sizeof(i->i_block));
	b->fs->super->s_jnl_blocks[15] = 0;
	b->fs->super->s_jnl_blocks[16] = i->i_size;
	b->fs->super->s_jnl_backup_type = EXT3_JNL_BACKUP_BLOCKS;
}

static int encode(struct ext4_builder *b, uint32_t ino, uint8_t *raw, struct banger_error *err)
{
	if (ino == EXT2_ROOT_INO)
		encode_node(b, EXT4_BUILDER_ROOT, raw);
	else if (ino == JOURNAL_INO)
		encode_journal(b, raw);
	else if (ino >= FIRST_INO)
		encode_node(b, b->order[ino - FIRST_INO], raw);
	else
		return 0;
	errcode_t e = ext2fs_inode_csum_set(b->fs, ino, (struct ext2_inode_large *)raw);
	return e ? builder_fs_error(err, e, "an inode") : 0;
}

int inodes_write(struct ext4_builder *b, struct banger_error *err)
{
	const uint32_t per_block = BLOCK / INODE_SIZE, last = RESERVED_INOS + b->n_order;

	for (uint32_t ino = 1; ino <= last; ino += per_block) {
		uint32_t group = (ino - 1) / b->inodes_per_group;
		uint32_t within = (ino - 1) % b->inodes_per_group;
		memset(b->block, 0, BLOCK);
		for (uint32_t k = 0; k < per_block && ino + k <= last; k++) {
			int r = encode(b, ino + k, b->block + k * INODE_SIZE, err);
			if (r < 0)
				return r;
		}
		int r = writer_put(b->writer, (uint64_t)b->tables[group] + within / per_block,
			b->block, 1, err);
		if (r < 0)
			return r;
	}
	return 0;
}
