/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the reader share. On-disk numbers are little-endian and are read with le16(),
 * le32(), le64() from bytes, never through pointers to structs, so that neither alignment nor the
 * machine's byte order matter. Field offsets stand where they are used, with the field's kernel
 * name.
 */
#ifndef FS_CONTENT_EXT4_INTERNAL_H
#define FS_CONTENT_EXT4_INTERNAL_H

#include <endian.h>
#include <stdatomic.h>
#include <string.h>
#include <et/com_err.h>
#include <ext2fs/ext2fs.h>

#include "ext4.h"

#define EXT4_BLOCK_MAX 65536
#define ITABLE_PIECE 4096
#define EXT4_SCAN_SLOW 32 /* directory blocks after which a scan counts as one that takes long */

struct ext4_zone {
	uint64_t first, last; /* blocks of the filesystem's own metadata */
};

struct ext4_group {
	uint64_t itable; /* first block of the inode table, 0: the descriptor is damaged */
	uint32_t used;   /* inodes before the unused tail */
};

struct ext4_image {
	int fd;
	uint64_t serial; /* never the same for two images of one process: tags what a scratch holds
			  */
	uint64_t file_size;
	struct timespec mtime;
	uint64_t blocks; /* of the filesystem */
	uint64_t free_blocks, overhead;
	uint32_t block_size, block_bits;
	uint32_t first_block;
	uint32_t inodes, free_inodes, inodes_per_group, inode_size, first_ino;
	uint32_t special[4]; /* quota and orphan files: no directory names them */
	uint32_t csum_seed;
	uint32_t hash_seed[4];
	uint8_t hash_unsigned; /* added to a directory's hash version */
	bool csum, filetype, largedir, ea_inode, inline_data, xattr, bigalloc, dir_index;
	uint32_t cluster_size;
	const struct ext2fs_nls_table *encoding;
	struct ext4_group *groups;
	uint32_t group_count;
	struct ext4_zone *zones; /* sorted, disjoint */
	size_t zone_count;
	struct ext4_misses *misses;
};

/* Metadata that was not in the page cache when it was wanted. */
struct ext4_misses {
	_Atomic int64_t last_us;
	_Atomic unsigned window_bits; /* of what was read with the last one */
};

/* One buffer per purpose, so that a function may call those below it: inode (a piece of an inode
 * table, which stays from call to call), node (extent nodes, map blocks), dir, attr. */
struct ext4_scratch {
	uint64_t inode_serial, inode_off; /* what inode[] holds; serial 0: nothing */
	uint32_t inode_len;
	void (*slow)(void *arg); /* NULL: nobody wants to know */
	void *slow_arg;
	char why[160];
	uint8_t inode[EXT4_BLOCK_MAX];
	uint8_t node[EXT4_BLOCK_MAX];
	uint8_t dir[EXT4_BLOCK_MAX];
	uint8_t attr[EXT4_BLOCK_MAX];
};

static inline uint16_t le16(const void *p)
{
	uint16_t v;
	memcpy(&v, p, sizeof(v));
	return le16toh(v);
}
static inline uint32_t le32(const void *p)
{
	uint32_t v;
	memcpy(&v, p, sizeof(v));
	return le32toh(v);
}
uint32_t csum32(uint32_t seed, const void *p, size_t len); /* crc.c */
static inline uint32_t csum_le32(uint32_t seed, uint32_t v)
{
	v = htole32(v);
	return csum32(seed, &v, sizeof(v));
}

/* Note what is damaged; -EUCLEAN (seen by the compiler, which then knows that it is negative). */
void ext4_note(struct ext4_scratch *s, const char *fmt, ...) _printf_(2, 3);
#define ext4_damaged(s, ...) (ext4_note(s, __VA_ARGS__), -EUCLEAN)

/* Exactly len bytes of the image at off, or -EIO; what is outside the file is -EUCLEAN (why is
 * set). */
int ext4_pread(
	const struct ext4_image *img, struct ext4_scratch *s, void *buf, size_t len, uint64_t off);
/* The same for metadata, whose neighbours are read with it when it is not in the page cache. */
int ext4_pread_meta(
	const struct ext4_image *img, struct ext4_scratch *s, void *buf, size_t len, uint64_t off);
/* Tell who wants to know that this takes long. */
void ext4_slow(const struct ext4_scratch *s);
/* May these blocks hold what a file owns: inside the filesystem, outside its own metadata? */
bool ext4_blocks_valid(const struct ext4_image *img, uint64_t blk, uint64_t len);
/* Read block blk, which what (for the message) of inode ino names. */
int ext4_read_block(const struct ext4_image *img, struct ext4_scratch *s, uint64_t blk, void *buf,
	const char *what, uint32_t ino);

/* io.c: libext2fs's way to the file; the channel's name is the descriptor in decimal. */
extern struct struct_io_manager ext4_io_manager;
/* The libext2fs message of code, for people. */
const char *ext4_lib_error(errcode_t code);

/* inode.c: the inode without the question whether a directory may name it; *ret_raw (may be NULL)
 * is the whole on-disk inode, inside the scratch until the next inode is read. */
int ext4_inode_load(struct ext4_image *img, struct ext4_scratch *s, uint32_t ino,
	struct ext4_inode *ret, const uint8_t **ret_raw);

/* xattr.c: the value of the inode's inline data beyond the 60 bytes in i_block; *ret points into
 * the scratch's inode buffer. *ret_len 0 when there is none. */
int ext4_inline_rest(struct ext4_image *img, struct ext4_scratch *s, const struct ext4_inode *i,
	const uint8_t **ret, size_t *ret_len);

/* acl.c: on-disk ACL to the form of getxattr(2). Returns the size, -ERANGE, -EUCLEAN. */
ssize_t ext4_acl_convert(struct ext4_scratch *s, uint32_t ino, const uint8_t *disk, size_t len,
	void *buf, size_t size);

/* dir.c: block number lblk of the directory into s->dir, checked by its checksum. leaf false: an
 * index block is wanted. */
enum ext4_dir_block { EXT4_DIR_LEAF, EXT4_DIR_INDEX };
int ext4_dir_block(struct ext4_image *img, struct ext4_scratch *s, const struct ext4_inode *dir,
	uint64_t lblk, enum ext4_dir_block *ret);
uint64_t ext4_dir_blocks(const struct ext4_image *img, const struct ext4_inode *dir);

/* Walk the records in buf[0..len). Calls fn with each entry in use from record offset `from` on;
 * base is added to positions. */
struct ext4_records {
	const uint8_t *buf;
	uint32_t len;
	uint32_t off;
};
/* The next record in use: 1 and *ret (next: its end's offset in buf), 0 at the end, -EUCLEAN. */
int ext4_records_next(const struct ext4_image *img, struct ext4_scratch *s, uint32_t dir_ino,
	struct ext4_records *r, struct ext4_dirent *ret);

/* htree.c: 1 and *ret_ino when found, 0 when certainly not there, -EAGAIN when the index cannot be
 * used (scan instead), -EUCLEAN, -EIO. */
int ext4_htree_lookup(struct ext4_image *img, struct ext4_scratch *s, const struct ext4_inode *dir,
	const char *name, size_t len, uint32_t *ret_ino);
/* Does the entry have this name, by the directory's rules (case folding)? */
bool ext4_name_equal(const struct ext4_image *img, const struct ext4_inode *dir,
	const struct ext4_dirent *e, const char *name, size_t len);

#endif
