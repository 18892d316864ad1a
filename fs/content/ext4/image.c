/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening an image.
 *
 * libext2fs reads and checks the superblock and the group descriptors, with their checksums; before
 * that, the few superblock fields that decide how much it would allocate are bounded by the size of
 * the file, so that a lie costs nothing. Then what reading needs is copied out (per group: where
 * the inode table is) and the library's handle is closed again: an open image is a few hundred
 * bytes and 16 per group, and nothing of it is written to afterwards but the read-ahead bitmap.
 *
 * The zones are the blocks of the filesystem's own metadata (superblocks, descriptors, bitmaps,
 * inode tables, the journal). An extent that points into one is damage: the kernel's ext4 says so
 * too.
 */
#include <stdio.h>

#include "internal.h"

/* 16 MiB of descriptors: 32 TiB with the usual groups of 128 MiB. */
#define DESCRIPTORS_MAX (16u << 20)
/* Inode tables of 256 GiB are read ahead, larger ones are not. */

#define INCOMPAT_KNOWN                                                                             \
	(EXT2_FEATURE_INCOMPAT_FILETYPE | EXT3_FEATURE_INCOMPAT_RECOVER |                          \
		EXT2_FEATURE_INCOMPAT_META_BG | EXT3_FEATURE_INCOMPAT_EXTENTS |                    \
		EXT4_FEATURE_INCOMPAT_64BIT | EXT4_FEATURE_INCOMPAT_MMP |                          \
		EXT4_FEATURE_INCOMPAT_FLEX_BG | EXT4_FEATURE_INCOMPAT_EA_INODE |                   \
		EXT4_FEATURE_INCOMPAT_CSUM_SEED | EXT4_FEATURE_INCOMPAT_LARGEDIR |                 \
		EXT4_FEATURE_INCOMPAT_INLINE_DATA | EXT4_FEATURE_INCOMPAT_ENCRYPT |                \
		EXT4_FEATURE_INCOMPAT_CASEFOLD)

void ext4_note(struct ext4_scratch *s, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (s)
		(void)vsnprintf(s->why, sizeof(s->why), fmt, ap);
	va_end(ap);
}

struct ext4_scratch *ext4_scratch_new(void)
{
	struct ext4_scratch *s = malloc(sizeof(*s)); /* the buffers need no clearing */

	if (!s)
		return NULL;
	s->inode_serial = 0;
	s->slow = NULL;
	s->why[0] = '\0';
	return s;
}

void ext4_scratch_on_slow(struct ext4_scratch *s, void (*fn)(void *arg), void *arg)
{
	s->slow = fn;
	s->slow_arg = arg;
}

void ext4_slow(const struct ext4_scratch *s)
{
	if (s && s->slow)
		s->slow(s->slow_arg);
}

void ext4_scratch_free(struct ext4_scratch *s)
{
	free(s);
}

const char *ext4_scratch_why(const struct ext4_scratch *s)
{
	return s->why;
}

const char *ext4_lib_error(errcode_t code)
{
	switch (code) {
	case EXT2_ET_BAD_MAGIC:
		return "it has no ext4 superblock";
	case EXT2_ET_SB_CSUM_INVALID:
		return "the superblock's checksum is wrong";
	case EXT2_ET_UNKNOWN_CSUM:
		return "it uses an unknown checksum";
	case EXT2_ET_CORRUPT_SUPERBLOCK:
		return "the superblock contradicts itself";
	case EXT2_ET_BAD_DESC_SIZE:
		return "the group descriptors have an impossible size";
	case EXT2_ET_SHORT_READ:
		return "the group descriptors cannot be read";
	default:
		return "the superblock or the group descriptors are not sound";
	}
}

/* The fields that decide how much is read and allocated, before libext2fs does. */
static int check_super(const struct ext4_image *img, const uint8_t *sb, struct banger_error *err)
{
	uint32_t incompat = le32(sb + 96), log_bs = le32(sb + 24), per_group = le32(sb + 32);
	uint64_t blocks = le32(sb + 4), groups;
	unsigned desc = 32;

	if (le16(sb + 56) != EXT2_SUPER_MAGIC)
		return banger_error_set(err, BANGER_CORRUPT, "it has no ext4 superblock");
	if (incompat & ~(uint32_t)INCOMPAT_KNOWN)
		return banger_error_set(err, BANGER_UNSUPPORTED,
			"it uses a feature that is not known here (incompat 0x%x)",
			incompat & ~(uint32_t)INCOMPAT_KNOWN);
	if (incompat & EXT3_FEATURE_INCOMPAT_RECOVER)
		return banger_error_set(err, BANGER_CORRUPT,
			"its journal was not replayed: it was not unmounted (e2fsck -p repairs "
			"that)");
	if (incompat & EXT4_FEATURE_INCOMPAT_64BIT) {
		blocks |= (uint64_t)le32(sb + 336) << 32;
		desc = le16(sb + 254);
	}
	if (log_bs > 6 || per_group < 8 || !blocks || blocks >> 48 || desc > 1024)
		return banger_error_set(err, BANGER_CORRUPT, "the superblock contradicts itself");
	if (blocks > img->file_size >> (10 + log_bs))
		return banger_error_set(err, BANGER_CORRUPT,
			"the filesystem has %llu blocks of %u, the file is shorter",
			(unsigned long long)blocks, 1024u << log_bs);
	groups = blocks / per_group + 1;
	if (groups * desc > DESCRIPTORS_MAX)
		return banger_error_set(
			err, BANGER_CORRUPT, "it has %llu groups", (unsigned long long)groups);
	return 0;
}

static void copy_super(struct ext4_image *img, ext2_filsys fs)
{
	struct ext2_super_block *sb = fs->super;

	img->block_size = fs->blocksize;
	img->block_bits = (uint32_t)EXT2_BLOCK_SIZE_BITS(sb);
	img->blocks = ext2fs_blocks_count(sb);
	img->free_blocks = ext2fs_free_blocks_count(sb);
	img->first_block = sb->s_first_data_block;
	img->inodes = sb->s_inodes_count;
	img->free_inodes = sb->s_free_inodes_count;
	img->inodes_per_group = sb->s_inodes_per_group;
	img->inode_size = (uint32_t)EXT2_INODE_SIZE(sb);
	img->first_ino = EXT2_FIRST_INO(sb);
	img->csum_seed = fs->csum_seed;
	memcpy(img->hash_seed, sb->s_hash_seed, sizeof(img->hash_seed));
	img->hash_unsigned = sb->s_flags & EXT2_FLAGS_UNSIGNED_HASH ? 3 : 0;
	img->csum = ext2fs_has_feature_metadata_csum(sb);
	img->filetype = ext2fs_has_feature_filetype(sb);
	img->largedir = ext2fs_has_feature_largedir(sb);
	img->ea_inode = ext2fs_has_feature_ea_inode(sb);
	img->inline_data = ext2fs_has_feature_inline_data(sb);
	img->xattr = ext2fs_has_feature_xattr(sb);
	img->dir_index = ext2fs_has_feature_dir_index(sb);
	img->bigalloc = ext2fs_has_feature_bigalloc(sb);
	img->cluster_size = fs->blocksize << fs->cluster_ratio_bits;
	img->overhead = (uint64_t)sb->s_overhead_clusters << fs->cluster_ratio_bits;
	img->encoding = fs->encoding;
	if (ext2fs_has_feature_quota(sb)) {
		img->special[0] = sb->s_usr_quota_inum;
		img->special[1] = sb->s_grp_quota_inum;
		if (ext2fs_has_feature_project(sb))
			img->special[2] = sb->s_prj_quota_inum;
	}
	if (ext2fs_has_feature_orphan_file(sb))
		img->special[3] = sb->s_orphan_file_inum;
}

/* Where the inode tables are, as far as the descriptors are to be believed. */
static int copy_groups(struct ext4_image *img, ext2_filsys fs)
{
	uint64_t table = (uint64_t)img->inodes_per_group * img->inode_size;
	uint64_t table_blocks = (table + img->block_size - 1) >> img->block_bits;

	img->group_count = fs->group_desc_count;
	img->groups = calloc(img->group_count, sizeof(*img->groups));
	img->misses = calloc(1, sizeof(*img->misses));
	if (!img->groups || !img->misses)
		return -ENOMEM;
	for (uint32_t g = 0; g < img->group_count; g++) {
		uint64_t at = ext2fs_inode_table_loc(fs, g);
		uint32_t unused = 0;

		if (!ext2fs_group_desc_csum_verify(fs, g))
			continue;
		if (at <= img->first_block || at >= img->blocks || table_blocks > img->blocks - at)
			continue;
		if (ext2fs_has_group_desc_csum(fs))
			unused = ext2fs_bg_flags_test(fs, g, EXT2_BG_INODE_UNINIT)
					 ? img->inodes_per_group
					 : ext2fs_bg_itable_unused(fs, g);
		img->groups[g].itable = at;
		img->groups[g].used =
			unused < img->inodes_per_group ? img->inodes_per_group - unused : 0;
	}
	return 0;
}

static int zone_add(struct ext4_image *img, uint64_t first, uint64_t len)
{
	struct ext4_zone *last = img->zone_count ? &img->zones[img->zone_count - 1] : NULL;

	if (!len || first >= img->blocks || len > img->blocks - first)
		return 0; /* outside: no file can be there anyway */
	if (last && first == last->last + 1) {
		last->last = first + len - 1;
		return 0;
	}
	if (img->zone_count % 64 == 0) {
		void *more = realloc(img->zones, (img->zone_count + 64) * sizeof(*img->zones));
		if (!more)
			return -ENOMEM;
		img->zones = more;
	}
	img->zones[img->zone_count++] = (struct ext4_zone){first, first + len - 1};
	return 0;
}

static int zone_cmp(const void *a, const void *b)
{
	const struct ext4_zone *x = a, *y = b;
	return x->first < y->first ? -1 : x->first > y->first;
}

static void zones_sort(struct ext4_image *img)
{
	size_t n = 0;

	if (!img->zone_count)
		return;
	qsort(img->zones, img->zone_count, sizeof(*img->zones), zone_cmp);
	for (size_t i = 1; i < img->zone_count; i++) {
		if (img->zones[i].first > img->zones[n].last + 1)
			img->zones[++n] = img->zones[i];
		else if (img->zones[i].last > img->zones[n].last)
			img->zones[n].last = img->zones[i].last;
	}
	img->zone_count = n + 1;
}

/* Kind by kind, because with flex_bg the blocks of one kind stand together and merge at once. */
static int copy_zones(struct ext4_image *img, ext2_filsys fs)
{
	uint64_t table =
		((uint64_t)img->inodes_per_group * img->inode_size + img->block_size - 1) >>
		img->block_bits;
	uint64_t old_len = ext2fs_has_feature_meta_bg(fs->super)
				   ? fs->super->s_first_meta_bg
				   : fs->desc_blocks + fs->super->s_reserved_gdt_blocks;
	int r = 0;

	for (uint32_t g = 0; g < img->group_count && r == 0; g++) {
		blk64_t super, old, new;
		ext2fs_super_and_bgd_loc2(fs, g, &super, &old, &new, NULL);
		if (super || g == 0)
			r = zone_add(img, super, 1);
		if (old && r == 0)
			r = zone_add(img, old, old_len);
		if (new &&r == 0)
			r = zone_add(img, new, 1);
	}
	for (uint32_t g = 0; g < img->group_count && r == 0; g++)
		r = zone_add(img, ext2fs_block_bitmap_loc(fs, g), 1);
	for (uint32_t g = 0; g < img->group_count && r == 0; g++)
		r = zone_add(img, ext2fs_inode_bitmap_loc(fs, g), 1);
	for (uint32_t g = 0; g < img->group_count && r == 0; g++)
		if (img->groups[g].itable)
			r = zone_add(img, img->groups[g].itable, table);
	if (r == 0)
		zones_sort(img);
	return r;
}

/* The journal's blocks are metadata too. A journal that cannot be walked protects nothing. */
static int journal_zones(struct ext4_image *img, uint32_t ino)
{
	struct ext4_scratch *s = ext4_scratch_new();
	struct ext4_inode i;
	struct ext4_run runs[256];
	size_t n = 0;
	int r = 0;

	if (!s)
		return -ENOMEM;
	if (ext4_inode_load(img, s, ino, &i, NULL) == 0) {
		uint64_t end = i.size >> img->block_bits;
		for (uint64_t b = 0; b < end && n < ELEMENTSOF(runs); b += runs[n++].len)
			if (ext4_map(img, s, &i, b, &runs[n]) < 0)
				break;
	}
	for (size_t k = 0; k < n && r == 0; k++)
		if (runs[k].pblk)
			r = zone_add(img, runs[k].pblk, runs[k].len);
	zones_sort(img);
	ext4_scratch_free(s);
	return r;
}

bool ext4_blocks_valid(const struct ext4_image *img, uint64_t blk, uint64_t len)
{
	size_t lo = 0, hi = img->zone_count;

	if (blk < img->first_block || !blk || blk >= img->blocks || len > img->blocks - blk)
		return false;
	while (lo < hi) { /* the first zone that ends at or after blk */
		size_t mid = lo + (hi - lo) / 2;
		if (img->zones[mid].last < blk)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo == img->zone_count || img->zones[lo].first >= blk + len;
}

static int read_library(struct ext4_image *img, struct banger_error *err)
{
	char name[16];
	ext2_filsys fs = NULL;
	errcode_t code;
	int r;

	(void)snprintf(name, sizeof(name), "%d", img->fd);
	code = ext2fs_open2(
		name, NULL, EXT2_FLAG_64BITS | EXT2_FLAG_SKIP_MMP, 0, 0, &ext4_io_manager, &fs);
	if (code == EXT2_ET_NO_MEMORY)
		return banger_error_oom(err);
	if (code == EXT2_ET_UNSUPP_FEATURE || code == EXT2_ET_REV_TOO_HIGH)
		return banger_error_set(
			err, BANGER_UNSUPPORTED, "it uses a feature that libext2fs does not know");
	if (code)
		return banger_error_set(err, BANGER_CORRUPT, "%s", ext4_lib_error(code));
	copy_super(img, fs);
	r = copy_groups(img, fs);
	if (r == 0)
		r = copy_zones(img, fs);
	if (r == 0 && ext2fs_has_feature_journal(fs->super) && fs->super->s_journal_inum)
		r = journal_zones(img, fs->super->s_journal_inum);
	(void)ext2fs_close_free(&fs);
	return r < 0 ? banger_error_oom(err) : 0;
}

static int open_image(struct ext4_image *img, struct banger_error *err)
{
	uint8_t sb[SUPERBLOCK_SIZE];
	struct stat st;
	int r;

	if (fstat(img->fd, &st) < 0)
		return banger_error_set_errno(err, errno, "it cannot be examined");
	if (!S_ISREG(st.st_mode))
		return banger_error_set(err, BANGER_CORRUPT, "it is not a regular file");
	img->file_size = (uint64_t)st.st_size;
	img->mtime = st.st_mtim;
	if (img->file_size < SUPERBLOCK_OFFSET + SUPERBLOCK_SIZE)
		return banger_error_set(err, BANGER_CORRUPT, "it is too short for a filesystem");
	r = ext4_pread(img, NULL, sb, sizeof(sb), SUPERBLOCK_OFFSET);
	if (r < 0)
		return banger_error_set_errno(err, r, "its superblock cannot be read");
	r = check_super(img, sb, err);
	return r < 0 ? r : read_library(img, err);
}

int ext4_image_open(int fd, struct ext4_image **ret, struct banger_error *err)
{
	static _Atomic uint64_t serial = 1;
	struct ext4_image *img = calloc(1, sizeof(*img));
	int r;

	if (!img) {
		close(fd);
		return banger_error_oom(err);
	}
	img->fd = fd;
	img->serial = atomic_fetch_add(&serial, 1);
	r = open_image(img, err);
	if (r < 0) {
		ext4_image_close(img);
		return r;
	}
	*ret = img;
	return 0;
}

void ext4_image_close(struct ext4_image *img)
{
	if (!img)
		return;
	close(img->fd);
	free(img->groups);
	free(img->zones);
	free(img->misses);
	free(img);
}

bool ext4_image_unchanged(const struct ext4_image *img)
{
	struct stat st;

	return fstat(img->fd, &st) == 0 && (uint64_t)st.st_size == img->file_size &&
	       st.st_mtim.tv_sec == img->mtime.tv_sec && st.st_mtim.tv_nsec == img->mtime.tv_nsec;
}

int ext4_image_fd(const struct ext4_image *img)
{
	return img->fd;
}

unsigned ext4_block_bits(const struct ext4_image *img)
{
	return img->block_bits;
}

size_t ext4_image_memory(const struct ext4_image *img)
{
	return sizeof(*img) + img->group_count * (sizeof(*img->groups) + 1) +
	       img->zone_count * sizeof(*img->zones);
}

void ext4_image_statfs(const struct ext4_image *img, struct statvfs *ret)
{
	*ret = (struct statvfs){
		.f_bsize = img->block_size,
		.f_frsize = img->block_size,
		.f_blocks = img->blocks - (img->overhead < img->blocks ? img->overhead : 0),
		.f_bfree = img->free_blocks,
		.f_bavail = 0, /* nothing can be written */
		.f_files = img->inodes,
		.f_ffree = img->free_inodes,
		.f_namemax = 255,
	};
}
