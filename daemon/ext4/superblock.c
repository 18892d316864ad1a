/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The soundness check of a root filesystem before it is published.
 *
 * Every number in the file is hostile. The order of the checks is what makes them safe: the block
 * size first, then the block count against the file's size, so that from there on "inside the
 * filesystem" means "inside the file" and no product of two numbers that have been checked can
 * overflow 64 bits; then the number of groups, the place of the descriptors, each descriptor, the
 * root inode. The walk over the descriptors stops at the first bad one, and a hole reads as a bad
 * one, so that a sparse file cannot buy more work than it has data.
 *
 * Accessors read little-endian fields at the byte offsets of the on-disk format rather than
 * through structs: nothing then depends on a compiler's layout or on libext2fs.
 */
#include <endian.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include "ext4/superblock.h"

/* Byte offsets in the superblock, which is 1024 bytes at offset 1024. */
enum {
	SB_OFFSET = 1024,
	SB_SIZE = 1024,
	SB_INODES_COUNT = 0x00,
	SB_BLOCKS_COUNT_LO = 0x04,
	SB_FIRST_DATA_BLOCK = 0x14,
	SB_LOG_BLOCK_SIZE = 0x18,
	SB_LOG_CLUSTER_SIZE = 0x1c,
	SB_BLOCKS_PER_GROUP = 0x20,
	SB_CLUSTERS_PER_GROUP = 0x24,
	SB_INODES_PER_GROUP = 0x28,
	SB_MAGIC = 0x38,
	SB_STATE = 0x3a,
	SB_CREATOR_OS = 0x48,
	SB_REV_LEVEL = 0x4c,
	SB_INODE_SIZE = 0x58,
	SB_FEATURE_COMPAT = 0x5c,
	SB_FEATURE_INCOMPAT = 0x60,
	SB_FEATURE_RO_COMPAT = 0x64,
	SB_UUID = 0x68,
	SB_VOLUME_NAME = 0x78,
	SB_RESERVED_GDT_BLOCKS = 0xce,
	SB_JOURNAL_INUM = 0xe0,
	SB_LAST_ORPHAN = 0xe8,
	SB_DESC_SIZE = 0xfe,
	SB_FIRST_META_BG = 0x104,
	SB_BLOCKS_COUNT_HI = 0x150,
	SB_CHECKSUM_TYPE = 0x175,
	SB_BACKUP_BGS = 0x24c,
	SB_CHECKSUM_SEED = 0x270,
	SB_CHECKSUM = 0x3fc,
};

/* In a group descriptor; the _HI halves exist from 64 bytes on. */
enum {
	GD_BLOCK_BITMAP_LO = 0x00,
	GD_INODE_BITMAP_LO = 0x04,
	GD_INODE_TABLE_LO = 0x08,
	GD_CHECKSUM = 0x1e,
	GD_BLOCK_BITMAP_HI = 0x20,
	GD_INODE_BITMAP_HI = 0x24,
	GD_INODE_TABLE_HI = 0x28,
	GD_SIZE = 32,
	GD_SIZE_64BIT = 64,
};

/* In an inode. */
enum {
	INO_MODE = 0x00,
	INO_DTIME = 0x14,
	INO_LINKS = 0x1a,
	INO_FLAGS = 0x20,
	INO_BLOCK = 0x28,
	INO_GENERATION = 0x64,
	INO_CHECKSUM_LO = 0x7c,
	INO_EXTRA_ISIZE = 0x80,
	INO_CHECKSUM_HI = 0x82,
	INO_SIZE_OLD = 128,
	ROOT_INO = 2,
	FLAG_EXTENTS = 0x80000,
	FLAG_INLINE_DATA = 0x10000000,
	EXTENT_MAGIC = 0xf30a,
};

enum {
	MAGIC = 0xef53,
	STATE_CLEAN = 1,
	STATE_ERRORS = 2,
	BLOCK_SIZE_MAX = 65536,
};

enum {
	COMPAT_HAS_JOURNAL = 0x4,

	INCOMPAT_RECOVER = 0x4,
	INCOMPAT_JOURNAL_DEV = 0x8,
	INCOMPAT_META_BG = 0x10,
	INCOMPAT_64BIT = 0x80,
	INCOMPAT_FLEX_BG = 0x200,
	INCOMPAT_CSUM_SEED = 0x2000,
	/* filetype recover meta_bg extents 64bit mmp flex_bg ea_inode csum_seed largedir
	 * inline_data encrypt casefold: what the kernel mounts. Compression (0x1) it never did. */
	INCOMPAT_KNOWN = 0x2 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 |
			 0x8000 | 0x10000 | 0x20000,

	RO_SPARSE_SUPER = 0x1,
	RO_GDT_CSUM = 0x10,
	RO_BIGALLOC = 0x200,
	RO_METADATA_CSUM = 0x400,
	RO_ORPHAN_PRESENT = 0x10000,
	/* sparse_super large_file btree_dir huge_file gdt_csum dir_nlink extra_isize quota bigalloc
	 * metadata_csum read-only project shared_blocks verity orphan_present. */
	RO_KNOWN = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x40 | 0x100 | 0x200 | 0x400 | 0x1000 |
		   0x2000 | 0x4000 | 0x8000 | 0x10000,

	COMPAT_SPARSE_SUPER2 = 0x200,
};

struct check {
	int fd;
	int64_t file_size;
	const char *what;
	struct banger_error *err;
	uint8_t sb[SB_SIZE];

	/* Of the superblock, once checked. */
	uint32_t compat, incompat, ro_compat;
	unsigned block_size, inode_size, desc_size;
	uint64_t blocks;
	uint32_t first_data_block, blocks_per_group, inodes_per_group, groups, first_meta_bg;
	uint32_t descs_per_block, desc_blocks, inode_table_blocks;
	uint32_t seed;       /* of metadata_csum */
	uint64_t root_table; /* first block of group 0's inode table */
};

static uint16_t le16(const uint8_t *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t le32(const uint8_t *p)
{
	return le16(p) | (uint32_t)le16(p + 2) << 16;
}

static uint32_t crc32c_table[256];

static void crc32c_init(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t c = i;
		for (int k = 0; k < 8; k++)
			c = c >> 1 ^ (c & 1 ? 0x82f63b78u : 0);
		crc32c_table[i] = c;
	}
}

uint32_t ext4_crc32c(uint32_t crc, const void *data, size_t len)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, crc32c_init);
	for (const uint8_t *p = data; len > 0; len--)
		crc = crc >> 8 ^ crc32c_table[(crc ^ *p++) & 0xff];
	return crc;
}

uint16_t ext4_crc16(uint16_t crc, const void *data, size_t len)
{
	for (const uint8_t *p = data; len > 0; len--) {
		crc ^= *p++;
		for (int k = 0; k < 8; k++)
			crc = (uint16_t)(crc >> 1 ^ (crc & 1 ? 0xa001 : 0));
	}
	return crc;
}

_printf_(2, 3) static int unsound(const struct check *c, const char *fmt, ...)
{
	char why[512];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	return banger_error_set(
		c->err, BANGER_CORRUPT, "%s is not a sound ext4 filesystem: %s", c->what, why);
}

/* Reads all of it or fails: what the checks ask for lies inside the file, unless that shrinks. */
static int read_at(const struct check *c, uint64_t offset, void *buf, size_t len)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = pread(c->fd, (uint8_t *)buf + done, len - done, (off_t)(offset + done));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return banger_error_set_errno(c->err, errno, "reading %s", c->what);
		if (n == 0)
			return unsound(c, "it ended at byte %llu while it was read",
				(unsigned long long)(offset + done));
		done += (size_t)n;
	}
	return 0;
}

bool ext4_magic(const void *head, size_t len)
{
	return len >= EXT4_MAGIC_HEAD &&
	       le16((const uint8_t *)head + SB_OFFSET + SB_MAGIC) == MAGIC;
}

/* What people put there by mistake, so that the message can say what to do about it. */
static const struct {
	unsigned offset, len;
	const char *bytes, *is;
} lookalikes[] = {
	{0, 4, "QFI\xfb", "a qcow2 image (qemu-img convert -O raw makes it a plain one)"},
	{0, 4, "KDMV", "a VMDK image (qemu-img convert -O raw makes it a plain one)"},
	{0, 8, "vhdxfile", "a VHDX image (qemu-img convert -O raw makes it a plain one)"},
	{0, 2, "\x1f\x8b", "compressed with gzip"},
	{0, 6, "\xfd\x37zXZ\0", "compressed with xz"},
	{0, 4, "\x28\xb5\x2f\xfd", "compressed with zstd"},
	{0, 3, "BZh", "compressed with bzip2"},
	{0, 4, "XFSB", "an XFS filesystem"},
	{0, 4, "hsqs", "a squashfs filesystem"},
	{257, 5, "ustar", "a tar archive (image import takes those)"},
	{1024, 4, "\xe2\xe1\xf5\xe0", "an EROFS filesystem"},
	{512, 8, "EFI PART", "a whole disk with a partition table (take out its root partition)"},
	{510, 2, "\x55\xaa", "a whole disk with a partition table (take out its root partition)"},
};

static int wrong_magic(const struct check *c, const uint8_t *head)
{
	for (size_t i = 0; i < ELEMENTSOF(lookalikes); i++)
		if (!memcmp(head + lookalikes[i].offset, lookalikes[i].bytes, lookalikes[i].len))
			return unsound(c, "it is %s", lookalikes[i].is);
	return unsound(c, "the magic number at byte %d is 0x%04x, not 0x%04x", SB_OFFSET + SB_MAGIC,
		le16(c->sb + SB_MAGIC), MAGIC);
}

static int read_superblock(struct check *c)
{
	uint8_t head[SB_OFFSET + SB_SIZE];

	if (c->file_size == 0)
		return unsound(c, "it is empty");
	if (c->file_size < (int64_t)sizeof(head))
		return unsound(c, "it has only %lld bytes", (long long)c->file_size);
	int r = read_at(c, 0, head, sizeof(head));
	if (r < 0)
		return r;
	memcpy(c->sb, head + SB_OFFSET, SB_SIZE);
	if (!ext4_magic(head, sizeof(head)))
		return wrong_magic(c, head);
	return 0;
}

static int check_features(struct check *c)
{
	uint32_t rev = le32(c->sb + SB_REV_LEVEL);
	if (rev > 1)
		return unsound(c, "its revision level %u is not known", rev);
	if (rev == 0) /* from before there were features */
		return 0;
	c->compat = le32(c->sb + SB_FEATURE_COMPAT);
	c->incompat = le32(c->sb + SB_FEATURE_INCOMPAT);
	c->ro_compat = le32(c->sb + SB_FEATURE_RO_COMPAT);
	if (c->incompat & INCOMPAT_JOURNAL_DEV)
		return unsound(c, "it is the journal of another filesystem");
	if (c->incompat & ~(uint32_t)INCOMPAT_KNOWN)
		return unsound(c, "it needs features that are not known (incompatible 0x%x)",
			c->incompat & ~(uint32_t)INCOMPAT_KNOWN);
	if (c->ro_compat & ~(uint32_t)RO_KNOWN)
		return unsound(c,
			"it needs features that are not known (read-only compatible 0x%x)",
			c->ro_compat & ~(uint32_t)RO_KNOWN);
	return 0;
}

static int check_checksum(struct check *c)
{
	if (c->incompat & INCOMPAT_CSUM_SEED)
		c->seed = le32(c->sb + SB_CHECKSUM_SEED);
	else
		c->seed = ext4_crc32c(~0u, c->sb + SB_UUID, 16);
	if (!(c->ro_compat & RO_METADATA_CSUM))
		return 0;
	if (c->ro_compat & RO_GDT_CSUM)
		return unsound(c, "it has two kinds of group checksums at once");
	if (c->sb[SB_CHECKSUM_TYPE] != 1)
		return unsound(c, "its checksum type %u is not known", c->sb[SB_CHECKSUM_TYPE]);
	uint32_t sum = ext4_crc32c(~0u, c->sb, SB_CHECKSUM);
	if (sum != le32(c->sb + SB_CHECKSUM))
		return unsound(c, "the superblock's checksum is 0x%08x and should be 0x%08x",
			le32(c->sb + SB_CHECKSUM), sum);
	return 0;
}

static int check_state(struct check *c)
{
	uint16_t state = le16(c->sb + SB_STATE);

	if (c->incompat & INCOMPAT_RECOVER)
		return unsound(c, "its journal has not been replayed; unmount it where it is "
				  "mounted, or run e2fsck -f on it");
	if (state & STATE_ERRORS)
		return unsound(c, "it has errors on record; run e2fsck -f on it");
	if (!(state & STATE_CLEAN))
		return unsound(c, "it was not unmounted; unmount it where it is mounted, or run "
				  "e2fsck -f on it");
	if (le32(c->sb + SB_LAST_ORPHAN) != 0 || (c->ro_compat & RO_ORPHAN_PRESENT))
		return unsound(c, "it has deleted files that were open when it was last in use; "
				  "run e2fsck -f on it");
	if ((c->compat & COMPAT_HAS_JOURNAL) && le32(c->sb + SB_JOURNAL_INUM) == 0)
		return unsound(c, "its journal is on another device");
	return 0;
}

static int check_sizes(struct check *c)
{
	uint32_t log_block = le32(c->sb + SB_LOG_BLOCK_SIZE);
	if (log_block > 6)
		return unsound(c, "its block size is 2^(10+%u) bytes", log_block);
	c->block_size = 1024u << log_block;

	c->blocks = le32(c->sb + SB_BLOCKS_COUNT_LO);
	if (c->incompat & INCOMPAT_64BIT)
		c->blocks |= (uint64_t)le32(c->sb + SB_BLOCKS_COUNT_HI) << 32;
	if (c->blocks > (uint64_t)c->file_size / c->block_size)
		return unsound(c,
			"it says it has %llu blocks of %u bytes, but the file has only %lld bytes",
			(unsigned long long)c->blocks, c->block_size, (long long)c->file_size);

	c->inode_size =
		le32(c->sb + SB_REV_LEVEL) == 0 ? INO_SIZE_OLD : le16(c->sb + SB_INODE_SIZE);
	if (c->inode_size < INO_SIZE_OLD || c->inode_size > c->block_size ||
		(c->inode_size & (c->inode_size - 1)))
		return unsound(c, "its inode size is %u bytes", c->inode_size);

	c->desc_size = GD_SIZE;
	if (c->incompat & INCOMPAT_64BIT)
		c->desc_size = le16(c->sb + SB_DESC_SIZE);
	if ((c->incompat & INCOMPAT_64BIT) &&
		(c->desc_size < GD_SIZE_64BIT || c->desc_size > 1024 ||
			(c->desc_size & (c->desc_size - 1))))
		return unsound(c, "its group descriptors have %u bytes", c->desc_size);
	return 0;
}

/* Clusters of several blocks are what bigalloc adds; without it a cluster is a block. */
static int check_clusters(struct check *c)
{
	uint32_t log_block = le32(c->sb + SB_LOG_BLOCK_SIZE);
	uint32_t log_cluster = le32(c->sb + SB_LOG_CLUSTER_SIZE);
	uint32_t clusters = le32(c->sb + SB_CLUSTERS_PER_GROUP);
	uint64_t most = (uint64_t)c->block_size * 8; /* what a bitmap of one block counts */

	c->blocks_per_group = le32(c->sb + SB_BLOCKS_PER_GROUP);
	if (!(c->ro_compat & RO_BIGALLOC)) {
		if (log_cluster != log_block)
			return unsound(c, "its cluster size is not its block size");
		clusters = c->blocks_per_group;
	} else if (log_cluster < log_block || log_cluster > 20 ||
		   (uint64_t)clusters << (log_cluster - log_block) != c->blocks_per_group) {
		return unsound(c, "its groups have %u blocks in %u clusters of 2^(10+%u) bytes",
			c->blocks_per_group, clusters, log_cluster);
	}
	if (clusters == 0 || clusters > most || clusters % 8)
		return unsound(c, "its groups have %u blocks", c->blocks_per_group);

	/* The block of the superblock; 0 also with bigalloc on blocks of 1024 bytes. */
	c->first_data_block = le32(c->sb + SB_FIRST_DATA_BLOCK);
	bool one = c->first_data_block == 1 && c->block_size == 1024;
	bool zero = c->first_data_block == 0 && (c->block_size > 1024 || log_cluster > log_block);
	if (!one && !zero)
		return unsound(c, "its first data block is %u", c->first_data_block);
	if (c->first_data_block >= c->blocks)
		return unsound(c, "it has no blocks");
	return 0;
}

static int check_groups(struct check *c)
{
	uint32_t inodes_per_block = c->block_size / c->inode_size;
	uint64_t groups = (c->blocks - c->first_data_block - 1) / c->blocks_per_group + 1;

	c->descs_per_block = c->block_size / c->desc_size;
	if (groups > UINT32_MAX - c->descs_per_block)
		return unsound(c, "it has %llu groups", (unsigned long long)groups);
	c->groups = (uint32_t)groups;
	c->desc_blocks = (c->groups + c->descs_per_block - 1) / c->descs_per_block;

	c->inodes_per_group = le32(c->sb + SB_INODES_PER_GROUP);
	if (c->inodes_per_group < inodes_per_block || c->inodes_per_group > c->block_size * 8)
		return unsound(c, "its groups have %u inodes", c->inodes_per_group);
	if (groups * c->inodes_per_group != le32(c->sb + SB_INODES_COUNT))
		return unsound(c, "it says it has %u inodes, but its %u groups of %u have %llu",
			le32(c->sb + SB_INODES_COUNT), c->groups, c->inodes_per_group,
			(unsigned long long)groups * c->inodes_per_group);
	c->inode_table_blocks = (c->inodes_per_group + inodes_per_block - 1) / inodes_per_block;

	if (le16(c->sb + SB_RESERVED_GDT_BLOCKS) > c->block_size / 4)
		return unsound(c, "it reserves %u blocks for descriptors",
			le16(c->sb + SB_RESERVED_GDT_BLOCKS));
	c->first_meta_bg = c->desc_blocks;
	if (c->incompat & INCOMPAT_META_BG)
		c->first_meta_bg = le32(c->sb + SB_FIRST_META_BG);
	if (c->first_meta_bg > c->desc_blocks)
		return unsound(c, "its first meta block group is %u of %u", c->first_meta_bg,
			c->desc_blocks);
	return 0;
}

static bool power_of(uint32_t n, uint32_t base)
{
	while (n % base == 0)
		n /= base;
	return n == 1;
}

/* Does the group begin with a copy of the superblock? */
static bool group_has_super(const struct check *c, uint32_t group)
{
	if (group == 0)
		return true;
	if (c->compat & COMPAT_SPARSE_SUPER2)
		return group == le32(c->sb + SB_BACKUP_BGS) ||
		       group == le32(c->sb + SB_BACKUP_BGS + 4);
	if (group == 1 || !(c->ro_compat & RO_SPARSE_SUPER))
		return true;
	return power_of(group, 3) || power_of(group, 5) || power_of(group, 7);
}

static uint64_t group_first_block(const struct check *c, uint32_t group)
{
	return c->first_data_block + (uint64_t)group * c->blocks_per_group;
}

static uint64_t superblock_block(const struct check *c)
{
	return SB_OFFSET / c->block_size; /* 1 with blocks of 1024 bytes, else 0 */
}

/* The block that holds the n-th block of descriptors. With meta_bg those from first_meta_bg on
 * stand in the first group that they describe, after its superblock if it has one. */
static uint64_t descriptor_block(const struct check *c, uint32_t n)
{
	if (n < c->first_meta_bg)
		return superblock_block(c) + 1 + n;
	if (n == 0)
		return superblock_block(c) + 1;
	uint32_t group = n * c->descs_per_block;
	return group_first_block(c, group) + (group_has_super(c, group) ? 1 : 0);
}

static int check_descriptor_checksum(const struct check *c, uint32_t group, uint8_t *d)
{
	uint8_t number[4] = {
		group & 0xff, group >> 8 & 0xff, group >> 16 & 0xff, group >> 24 & 0xff};
	uint16_t stored = le16(d + GD_CHECKSUM), sum;

	if (c->ro_compat & RO_METADATA_CSUM) {
		d[GD_CHECKSUM] = d[GD_CHECKSUM + 1] = 0;
		uint32_t crc = ext4_crc32c(c->seed, number, sizeof(number));
		sum = (uint16_t)ext4_crc32c(crc, d, c->desc_size);
	} else if (c->ro_compat & RO_GDT_CSUM) {
		sum = ext4_crc16(0xffff, c->sb + SB_UUID, 16);
		sum = ext4_crc16(sum, number, sizeof(number));
		sum = ext4_crc16(sum, d, GD_CHECKSUM);
		sum = ext4_crc16(sum, d + GD_CHECKSUM + 2, c->desc_size - GD_CHECKSUM - 2);
	} else {
		return 0;
	}
	if (sum != stored)
		return unsound(c,
			"the checksum of group %u's descriptor is 0x%04x and should be 0x%04x",
			group, stored, sum);
	return 0;
}

static uint64_t descriptor_field(const struct check *c, const uint8_t *d, int lo, int hi)
{
	return le32(d + lo) | (c->desc_size >= GD_SIZE_64BIT ? (uint64_t)le32(d + hi) << 32 : 0);
}

/* `n` blocks from `first` on must be the filesystem's (the group's own without flex_bg), and
 * neither the superblock nor the descriptors after it. */
static int check_place(
	const struct check *c, uint32_t group, const char *name, uint64_t first, uint64_t n)
{
	uint64_t lo = c->first_data_block, hi = c->blocks;
	uint64_t taken = superblock_block(c) + (c->first_meta_bg > 0 ? c->first_meta_bg : 1);

	if (!(c->incompat & INCOMPAT_FLEX_BG)) {
		lo = group_first_block(c, group);
		if (group + 1 < c->groups)
			hi = lo + c->blocks_per_group;
	}
	if (first < lo || first >= hi || n > hi - first)
		return unsound(c,
			"the %s of group %u is at block %llu, outside blocks %llu to %llu", name,
			group, (unsigned long long)first, (unsigned long long)lo,
			(unsigned long long)(hi - 1));
	if (first <= taken)
		return unsound(c, "the %s of group %u is at block %llu, where the descriptors are",
			name, group, (unsigned long long)first);
	return 0;
}

static int check_descriptor(struct check *c, uint32_t group, uint8_t *d)
{
	uint64_t table = descriptor_field(c, d, GD_INODE_TABLE_LO, GD_INODE_TABLE_HI);
	int r;

	r = check_place(c, group, "block bitmap",
		descriptor_field(c, d, GD_BLOCK_BITMAP_LO, GD_BLOCK_BITMAP_HI), 1);
	if (r == 0)
		r = check_place(c, group, "inode bitmap",
			descriptor_field(c, d, GD_INODE_BITMAP_LO, GD_INODE_BITMAP_HI), 1);
	if (r == 0)
		r = check_place(c, group, "inode table", table, c->inode_table_blocks);
	if (r == 0)
		r = check_descriptor_checksum(c, group, d);
	if (r == 0 && group == 0)
		c->root_table = table;
	return r;
}

static int check_descriptors(struct check *c)
{
	_cleanup_free_ uint8_t *block = malloc(c->block_size);
	if (!block)
		return banger_error_oom(c->err);
	for (uint32_t n = 0; n < c->desc_blocks; n++) {
		uint64_t where = descriptor_block(c, n);
		if (where >= c->blocks)
			return unsound(c, "its group descriptors do not fit: block %llu of %llu",
				(unsigned long long)where, (unsigned long long)c->blocks);
		int r = read_at(c, where * c->block_size, block, c->block_size);
		for (uint32_t i = 0; r == 0 && i < c->descs_per_block; i++) {
			uint32_t group = n * c->descs_per_block + i;
			if (group >= c->groups)
				break;
			r = check_descriptor(c, group, block + (size_t)i * c->desc_size);
		}
		if (r < 0)
			return r;
	}
	return 0;
}

static int check_inode_checksum(const struct check *c, uint8_t *inode)
{
	static const uint8_t number[4] = {ROOT_INO};
	uint32_t stored = le16(inode + INO_CHECKSUM_LO), mask = 0xffff;

	/* The fields have other meanings where another system made the filesystem. */
	if (!(c->ro_compat & RO_METADATA_CSUM) || le32(c->sb + SB_CREATOR_OS) != 0)
		return 0;
	inode[INO_CHECKSUM_LO] = inode[INO_CHECKSUM_LO + 1] = 0;
	if (c->inode_size > INO_SIZE_OLD && le16(inode + INO_EXTRA_ISIZE) >= 4) {
		stored |= (uint32_t)le16(inode + INO_CHECKSUM_HI) << 16;
		inode[INO_CHECKSUM_HI] = inode[INO_CHECKSUM_HI + 1] = 0;
		mask = UINT32_MAX;
	}
	uint32_t crc = ext4_crc32c(c->seed, number, sizeof(number));
	crc = ext4_crc32c(crc, inode + INO_GENERATION, 4);
	crc = ext4_crc32c(crc, inode, c->inode_size) & mask;
	if (crc != stored)
		return unsound(c,
			"the checksum of the root directory's inode is 0x%08x and should be 0x%08x",
			stored, crc);
	return 0;
}

static int check_root(struct check *c)
{
	_cleanup_free_ uint8_t *inode = malloc(c->inode_size);
	if (!inode)
		return banger_error_oom(c->err);
	/* Inode 2 is the second of the table, and a table has at least a block: it may be in the
	 * table's second block when an inode fills one. */
	uint64_t at = c->root_table * c->block_size + (ROOT_INO - 1) * (uint64_t)c->inode_size;
	if (c->inodes_per_group < ROOT_INO || at + c->inode_size > (uint64_t)c->file_size)
		return unsound(c, "its inode table has no room for the root directory");
	int r = read_at(c, at, inode, c->inode_size);
	if (r == 0)
		r = check_inode_checksum(c, inode);
	if (r < 0)
		return r;
	if (!S_ISDIR(le16(inode + INO_MODE)))
		return unsound(
			c, "its root inode is not a directory (mode 0%o)", le16(inode + INO_MODE));
	if (le16(inode + INO_LINKS) == 0 || le32(inode + INO_DTIME) != 0)
		return unsound(c, "its root directory is deleted");
	uint32_t flags = le32(inode + INO_FLAGS);
	if ((flags & FLAG_EXTENTS) && !(flags & FLAG_INLINE_DATA) &&
		le16(inode + INO_BLOCK) != EXTENT_MAGIC)
		return unsound(c, "its root directory has no valid extent tree");
	return 0;
}

int ext4_superblock_check(
	int fd, int64_t size, const char *what, struct ext4_summary *ret, struct banger_error *err)
{
	/* Each may rely on what those before it have found to be so. */
	static int (*const steps[])(struct check *) = {
		read_superblock,
		check_features,
		check_checksum,
		check_state,
		check_sizes,
		check_clusters,
		check_groups,
		check_descriptors,
		check_root,
	};
	struct check c = {.fd = fd, .file_size = size, .what = what, .err = err};

	for (size_t i = 0; i < ELEMENTSOF(steps); i++) {
		int r = steps[i](&c);
		if (r < 0)
			return r;
	}
	if (ret) {
		*ret = (struct ext4_summary){
			.size = (int64_t)(c.blocks * c.block_size),
			.block_size = c.block_size,
			.groups = c.groups,
		};
		memcpy(ret->uuid, c.sb + SB_UUID, sizeof(ret->uuid));
		memcpy(ret->label, c.sb + SB_VOLUME_NAME, 16);
	}
	return 0;
}
