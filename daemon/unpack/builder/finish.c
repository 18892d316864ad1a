/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of the work: everything has a place, and is written in the order of the places; then the
 * bitmaps are made from what inodes and bookkeeping own, and libext2fs writes them, the resize
 * inode, the descriptors and the superblocks.
 *
 * The features are those of a present-day mkfs.ext4: extents, 64bit, flex_bg, checksums on all
 * metadata, indexed directories, a journal, a resize inode with room for 1 TiB and beyond by
 * meta_bg. Set on purpose and not left to the library's environment or clock: times, UUID, hash
 * seed, the kind of hash (signed characters, as on x86, on every machine).
 */
#include "unpack/builder/internal.h"

#include <unistd.h>

/* While directories and extent trees are written their inodes are not there yet; all that the
 * checksums want of them is the generation, which is 0. */
static errcode_t no_inode(ext2_filsys fs, ext2_ino_t ino, struct ext2_inode *inode)
{
	memset(inode, 0, sizeof(*inode));
	return 0;
}

static void set_identity(struct ext4_builder *b)
{
	struct ext2_super_block *sb = b->fs->super;

	memcpy(sb->s_uuid, b->seed, sizeof(sb->s_uuid));
	memcpy(sb->s_hash_seed, b->seed + 16, sizeof(sb->s_hash_seed));
	sb->s_def_hash_version = EXT2_HASH_HALF_MD4;
	sb->s_flags = EXT2_FLAGS_SIGNED_HASH;
	sb->s_mkfs_time = sb->s_lastcheck = b->o.time;
	sb->s_mkfs_time_hi = sb->s_lastcheck_hi = 0;
	sb->s_creator_os = EXT2_OS_LINUX;
	sb->s_max_mnt_count = -1;
	sb->s_checksum_type = EXT2_CRC32C_CHKSUM;
	sb->s_journal_inum = JOURNAL_INO;
	sb->s_kbytes_written = 0;
	ext2fs_init_csum_seed(b->fs);
}

static int open_fs(struct ext4_builder *b, struct banger_error *err)
{
	struct ext2_super_block param = {
		.s_rev_level = EXT2_DYNAMIC_REV,
		.s_log_block_size = BLOCK_BITS - 10,
		.s_log_cluster_size = BLOCK_BITS - 10,
		.s_inode_size = INODE_SIZE,
		.s_blocks_per_group = SPACE_GROUP,
		.s_inodes_count = b->inodes_per_group * b->groups,
		.s_log_groups_per_flex = 4,
		.s_default_mount_opts = EXT2_DEFM_XATTR_USER | EXT2_DEFM_ACL,
		.s_feature_compat = EXT3_FEATURE_COMPAT_HAS_JOURNAL | EXT2_FEATURE_COMPAT_EXT_ATTR |
				    EXT2_FEATURE_COMPAT_RESIZE_INODE |
				    EXT2_FEATURE_COMPAT_DIR_INDEX,
		.s_feature_incompat = EXT2_FEATURE_INCOMPAT_FILETYPE |
				      EXT3_FEATURE_INCOMPAT_EXTENTS | EXT4_FEATURE_INCOMPAT_64BIT |
				      EXT4_FEATURE_INCOMPAT_FLEX_BG,
		.s_feature_ro_compat =
			EXT2_FEATURE_RO_COMPAT_SPARSE_SUPER | EXT2_FEATURE_RO_COMPAT_LARGE_FILE |
			EXT4_FEATURE_RO_COMPAT_HUGE_FILE | EXT4_FEATURE_RO_COMPAT_DIR_NLINK |
			EXT4_FEATURE_RO_COMPAT_EXTRA_ISIZE | EXT4_FEATURE_RO_COMPAT_METADATA_CSUM,
	};
	uint32_t gdt = (b->groups + BLOCK / 64 - 1) / (BLOCK / 64);
	char name[16];

	param.s_reserved_gdt_blocks = b->head - 1 - gdt;
	ext2fs_blocks_count_set(&param, b->blocks);
	snprintf(name, sizeof(name), "%d", b->o.fd);
	errcode_t e = ext2fs_initialize(name, EXT2_FLAG_64BITS, &param, builder_io_manager, &b->fs);
	if (e)
		return builder_fs_error(err, e, "the layout");
	b->fs->now = b->o.time;
	if (ext2fs_blocks_count(b->fs->super) != b->blocks ||
		b->fs->super->s_inodes_per_group != b->inodes_per_group ||
		b->fs->group_desc_count != b->groups || b->fs->desc_blocks != gdt)
		return banger_error_set(err, BANGER_INTERNAL,
			"libext2fs made another layout than was planned (%llu blocks, %u groups)",
			(unsigned long long)ext2fs_blocks_count(b->fs->super),
			b->fs->group_desc_count);
	set_identity(b);
	b->fs->read_inode = no_inode;
	return 0;
}

/* ---- in the order of place.c */

static int write_symlink(struct ext4_builder *b, const struct node *n, struct banger_error *err)
{
	memset(b->block, 0, BLOCK);
	memcpy(b->block, n->link.target, n->size);
	return writer_put(b->writer, n->link.block, b->block, 1, err);
}

static int write_node(struct ext4_builder *b, struct node *n, struct banger_error *err)
{
	switch (n->mode & S_IFMT) {
	case S_IFDIR:
		return dirs_write(b, n, err);
	case S_IFREG:
		return extents_write_tree(b, n, err);
	case S_IFLNK:
		return n->link.block ? write_symlink(b, n, err) : 0;
	default:
		return 0;
	}
}

static int write_journal(struct ext4_builder *b, struct banger_error *err)
{
	struct ext2fs_journal_params params = {.num_journal_blocks = b->journal_blocks};
	char *block;
	errcode_t e = ext2fs_create_journal_superblock2(b->fs, &params, 0, &block);

	if (e)
		return builder_fs_error(err, e, "the journal");
	int r = writer_put(b->writer, b->journal[0].physical, block, 1, err);
	ext2fs_free_mem(&block);
	return r;
}

static int write_metadata(struct ext4_builder *b, struct banger_error *err)
{
	int r = write_node(b, node_at(b, EXT4_BUILDER_ROOT), err);

	for (uint32_t i = 0; i < b->n_order && r == 0; i++)
		r = write_node(b, node_at(b, b->order[i]), err);
	for (uint32_t i = 1; i <= b->sets.count && r == 0; i++)
		if (set_at(b, i)->in_block)
			r = xattr_write_blocks(b, set_at(b, i), err);
	if (r == 0)
		r = write_journal(b, err);
	if (r == 0)
		r = inodes_write(b, err);
	return r;
}

/* ---- bitmaps and counts */

static void mark(struct ext4_builder *b, uint64_t first, uint32_t n)
{
	if (n > 0)
		ext2fs_mark_block_bitmap_range2(b->fs->block_map, first, n);
}

static void mark_node(struct ext4_builder *b, struct node *n)
{
	switch (n->mode & S_IFMT) {
	case S_IFDIR:
		mark(b, n->dir.start, n->dir.blocks);
		break;
	case S_IFREG:
		for (uint32_t i = 0; i < n->file.n; i++)
			mark(b, node_extent(n, i)->physical, node_extent(n, i)->len);
		mark(b, n->file.tree, extents_tree_blocks(n->file.n));
		break;
	case S_IFLNK:
		mark(b, n->link.block, n->link.block ? 1 : 0);
		break;
	}
}

static void mark_blocks(struct ext4_builder *b)
{
	mark_node(b, node_at(b, EXT4_BUILDER_ROOT));
	for (uint32_t i = 0; i < b->n_order; i++)
		mark_node(b, node_at(b, b->order[i]));
	for (uint32_t i = 1; i <= b->sets.count; i++) {
		const struct xattr_set *s = set_at(b, i);
		if (s->in_block)
			mark(b, s->start, (s->users + XATTR_BLOCK_USERS - 1) / XATTR_BLOCK_USERS);
	}
	for (uint32_t i = 0; i < b->n_journal; i++)
		mark(b, b->journal[i].physical, b->journal[i].len);
	for (uint32_t g = 0; g < b->groups; g++) {
		ext2fs_block_bitmap_loc_set(b->fs, g, b->block_bitmaps[g]);
		ext2fs_inode_bitmap_loc_set(b->fs, g, b->inode_bitmaps[g]);
		ext2fs_inode_table_loc_set(b->fs, g, b->tables[g]);
		mark(b, b->block_bitmaps[g], 1);
		mark(b, b->inode_bitmaps[g], 1);
		mark(b, b->tables[g], b->table_blocks);
	}
}

static uint32_t group_used(struct ext4_builder *b, uint64_t first, uint64_t last)
{
	uint32_t used = 0;
	blk64_t set, clear;

	while (first <= last &&
		ext2fs_find_first_set_block_bitmap2(b->fs->block_map, first, last, &set) == 0) {
		if (ext2fs_find_first_zero_block_bitmap2(b->fs->block_map, set, last, &clear) != 0)
			clear = last + 1;
		used += clear - set;
		first = clear;
	}
	return used;
}

static void count_blocks(struct ext4_builder *b)
{
	uint64_t all = 0;

	for (uint32_t g = 0; g < b->groups; g++) {
		uint64_t first = (uint64_t)g * SPACE_GROUP;
		uint64_t last = ext2fs_group_last_block2(b->fs, g);
		uint32_t used = group_used(b, first, last), free = last - first + 1 - used;
		if (used > 0)
			ext2fs_bg_flags_clear(b->fs, g, EXT2_BG_BLOCK_UNINIT);
		ext2fs_bg_free_blocks_count_set(b->fs, g, free);
		all += free;
	}
	ext2fs_free_blocks_count_set(b->fs->super, all);
}

static void count_inodes(struct ext4_builder *b)
{
	uint32_t used = RESERVED_INOS + b->n_order;

	for (uint32_t ino = 1; ino <= used; ino++)
		ext2fs_mark_inode_bitmap2(b->fs->inode_map, ino);
	for (uint32_t g = 0, left = used; g < b->groups; g++) {
		uint32_t here = left < b->inodes_per_group ? left : b->inodes_per_group;
		ext2fs_bg_free_inodes_count_set(b->fs, g, b->inodes_per_group - here);
		ext2fs_bg_used_dirs_count_set(b->fs, g, 0);
		/* What was never written of the tables reads as zeros: nothing for the kernel to
		 * do. */
		ext2fs_bg_flags_set(b->fs, g, EXT2_BG_INODE_ZEROED);
		left -= here;
	}
	b->fs->super->s_free_inodes_count = b->fs->super->s_inodes_count - used;
}

static void count_dir(struct ext4_builder *b, const struct node *n)
{
	uint32_t g = (n->ino - 1) / b->inodes_per_group;

	if (node_is(n, S_IFDIR))
		ext2fs_bg_used_dirs_count_set(b->fs, g, ext2fs_bg_used_dirs_count(b->fs, g) + 1);
}

/* ---- */

static int close_fs(struct ext4_builder *b, struct banger_error *err)
{
	b->fs->read_inode = NULL;
	errcode_t e = ext2fs_create_resize_inode(b->fs);
	if (!e)
		e = ext2fs_set_gdt_csum(b->fs);
	if (e)
		return builder_fs_error(err, e, "the resize inode");
	ext2fs_mark_super_dirty(b->fs);
	ext2fs_mark_bb_dirty(b->fs);
	ext2fs_mark_ib_dirty(b->fs);
	e = ext2fs_close2(b->fs, EXT2_FLAG_FLUSH_NO_SYNC);
	if (e)
		return builder_fs_error(err, e, "the superblock");
	b->fs = NULL;
	return 0;
}

static void count_node(const struct node *n, struct ext4_builder_result *ret)
{
	ret->inodes++;
	switch (n->mode & S_IFMT) {
	case S_IFREG:
		ret->files++;
		break;
	case S_IFDIR:
		ret->directories++;
		break;
	case S_IFLNK:
		ret->symlinks++;
		break;
	default:
		ret->others++;
	}
}

static void report(struct ext4_builder *b, struct ext4_builder_result *ret)
{
	uint64_t free = ext2fs_free_blocks_count(b->fs->super);

	*ret = (struct ext4_builder_result){
		.size = b->o.size ? (uint64_t)b->o.size : b->blocks * BLOCK,
		.free = free * BLOCK,
		.used = (b->blocks - free) * BLOCK,
		.content = b->content};
	memcpy(ret->uuid, b->seed, sizeof(ret->uuid));
	count_node(node_at(b, EXT4_BUILDER_ROOT), ret);
	for (uint32_t i = 0; i < b->n_order; i++)
		count_node(node_at(b, b->order[i]), ret);
}

int ext4_builder_finish(
	struct ext4_builder *b, struct ext4_builder_result *ret, struct banger_error *err)
{
	struct ext4_builder_result result;
	int r = content_close(b, err);

	if (r == 0)
		r = place_everything(b, err);
	if (r == 0)
		r = open_fs(b, err);
	if (r == 0)
		r = write_metadata(b, err);
	if (r == 0)
		r = writer_flush(b->writer, err);
	if (r == 0)
		r = content_punch(b, err);
	if (r == 0)
		r = writer_end_direct(b->writer, err);
	if (r < 0)
		return r;
	if (ftruncate(b->o.fd, b->o.size ? b->o.size : (off_t)b->blocks * BLOCK) < 0)
		return banger_error_set_errno(err, errno, "cannot set the image's size");
	mark_blocks(b);
	count_blocks(b);
	count_inodes(b);
	count_dir(b, node_at(b, EXT4_BUILDER_ROOT));
	for (uint32_t i = 0; i < b->n_order; i++)
		count_dir(b, node_at(b, b->order[i]));
	report(b, &result);
	r = close_fs(b, err);
	if (r < 0)
		return r;
	*ret = result;
	return 0;
}
