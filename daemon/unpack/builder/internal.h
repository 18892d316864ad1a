/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the builder share: the tree in memory, the allocator, and the order of work at
 * the end. Nothing outside this folder includes it.
 *
 * - tree.c: nodes and names, and which layer put them there
 * - xattr.c: attribute sets, shared by the nodes that have them
 * - content.c: file data to blocks; space.c: where the next free block is
 * - writer.c: blocks to the file, in a thread of its own
 * - record.c: what a layer did, and doing it again; share.c: content from another image's file
 * - copy.c: a part of the tree to another builder
 * - place.c: which block everything else gets, and how large the filesystem is
 * - dirs.c, inodes.c, extents.c: encode, and write to the places
 * - finish.c: the order of all that; superblock, descriptors and bitmaps through libext2fs
 */
#ifndef BANGER_EXT4_BUILDER_INTERNAL_H
#define BANGER_EXT4_BUILDER_INTERNAL_H

#include <string.h>
#include <sys/stat.h>
#include <ext2fs/ext2fs.h>
#include "unpack/builder/builder.h"
#include "unpack/builder/record.h"
#include "unpack/builder/space.h"
#include "unpack/builder/writer.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "structures are written as they are");

#define BLOCK 4096u
#define BLOCK_BITS 12
#define INODE_SIZE 256u
#define EXTRA_ISIZE 32u
#define FIRST_INO 11u /* the first that is not reserved */
#define RESERVED_INOS 10u
#define JOURNAL_INO 8u
#define LINKS_MAX 65000u
#define GDT_LIMIT 1024u /* blocks of descriptors and room for more, at most */
#define NONE 0u         /* no node, no name, no attribute set, no block */

/* A run of blocks of a file. */
struct extent {
	uint32_t logical, physical, len;
};

/* 34 bits of seconds from -2^31 and 30 of nanoseconds: exactly what an inode can hold. */
typedef uint64_t stamp;

struct node {
	uint16_t mode;
	bool dead;
	uint32_t links; /* names; of a directory 2 and its subdirectories */
	uint32_t uid, gid;
	uint32_t xattrs; /* index of the set */
	uint32_t ino;    /* given at the end */
	stamp mtime, atime, ctime;
	uint64_t size; /* of a file, of a symlink's target */
	union {
		struct {
			struct extent first;
			uint32_t n;
			struct extent *more; /* all but the first; room for a power of two */
			uint32_t tree;       /* first block of the extent tree, if it has one */
		} file;
		struct {
			uint32_t parent, self; /* node, its own name (the root has none) */
			uint32_t head, tail;   /* first and last name in it */
			uint32_t count;
			uint32_t start, blocks; /* given at the end */
			uint32_t cleared; /* the layer that left nothing of lower ones in it */
		} dir;
		struct {
			char *target; /* from the text arena */
			uint32_t block;
		} link;
		struct {
			uint32_t major, minor;
		} dev;
	};
};

/* A directory entry: a name in the list of its directory and in the hash table. */
struct name {
	uint32_t node, dir;
	uint32_t next, prev; /* in the directory, in order of arrival */
	uint32_t chain;      /* in the bucket */
	uint32_t hash;
	uint8_t len;
	uint32_t layer; /* that put something here or below, last */
	const char *text;
};

/* A pool of items that never move, addressed by number from 1. */
#define POOL_SHIFT 12
struct pool {
	size_t item;
	char **chunks;
	uint32_t n_chunks, count;
};

/* A list of attributes as it is stored, sorted; equal ones are one. */
struct xattr_set {
	uint8_t *blob; /* see xattr.c */
	uint32_t blob_len;
	uint32_t chain, hash;
	bool in_block;  /* does some of it go to a block? */
	uint32_t users; /* at the end: nodes that have it */
	uint32_t start; /* at the end: first of its blocks, one for each 1024 users */
	uint32_t seen;  /* at the end: users whose inode is written */
};

struct arena {
	char *chunk;
	size_t left;
	void **all;
	size_t n;
};

struct ext4_builder {
	struct ext4_builder_options o;
	struct writer *writer;
	struct space space;
	struct pool nodes, names, sets;
	struct arena text;
	uint32_t *buckets, n_buckets;         /* names */
	uint32_t *set_buckets, n_set_buckets; /* attribute sets */
	uint64_t hash_key[2];
	uint64_t alive;        /* nodes */
	uint64_t n_named;      /* names */
	uint32_t layer;        /* the present one, from 1 on */
	struct record *record; /* of the present layer; NULL: none is kept */

	/* The file that is being written: content.c. */
	uint32_t open;
	uint64_t open_pos;
	uint32_t partial_len;
	uint8_t *partial; /* a block */
	uint64_t content;
	uint64_t put; /* blocks of it that were written */

	/* Blocks given back by what was replaced, to be punched. */
	struct extent *freed;
	size_t n_freed, cap_freed;

	/* The end: place.c, finish.c. */
	uint32_t *order; /* nodes by inode number from FIRST_INO on; the root is not in it */
	uint32_t n_order;
	struct extent journal[4];
	uint32_t n_journal, journal_blocks;
	uint64_t blocks; /* of the filesystem */
	uint32_t head;   /* superblock, descriptors and room for more of them */
	uint32_t groups, inodes_per_group, table_blocks;
	uint32_t *block_bitmaps, *inode_bitmaps, *tables; /* by group */
	uint8_t seed[EXT4_BUILDER_SEED_LEN];
	ext2_filsys fs;
	uint8_t *block; /* scratch */
};

static inline void *pool_at(const struct pool *p, uint32_t i)
{
	i--;
	return p->chunks[i >> POOL_SHIFT] + (size_t)(i & ((1u << POOL_SHIFT) - 1)) * p->item;
}
/* A new zeroed item; its number, or 0 without memory. */
uint32_t pool_add(struct pool *p);

static inline struct node *node_at(const struct ext4_builder *b, uint32_t i)
{
	return pool_at(&b->nodes, i);
}
static inline struct name *name_at(const struct ext4_builder *b, uint32_t i)
{
	return pool_at(&b->names, i);
}
static inline struct xattr_set *set_at(const struct ext4_builder *b, uint32_t i)
{
	return pool_at(&b->sets, i);
}

static inline bool node_is(const struct node *n, uint32_t type)
{
	return (n->mode & S_IFMT) == type;
}
static inline struct extent *node_extent(struct node *n, uint32_t i)
{
	return i == 0 ? &n->file.first : &n->file.more[i - 1];
}
static inline uint64_t stamp_sec_biased(stamp t)
{
	return t >> 30;
}

/* tree.c */
void *arena_copy(struct arena *a, const void *data, size_t len);
uint64_t keyed_hash(const uint64_t key[2], uint64_t salt, const void *data, size_t len);
stamp stamp_make(const struct ext4_time *t);
/* tree.c, for replays: a node that is there and of a type (0: any)? */
bool node_exists(const struct ext4_builder *b, uint64_t node, uint32_t type);
/* content.c */
int content_adopt(struct ext4_builder *b, uint32_t node, uint64_t size, struct banger_error *err);
int content_adopt_run(struct ext4_builder *b, uint32_t node, uint32_t logical, uint32_t len,
	struct banger_error *err);
int content_close(struct ext4_builder *b, struct banger_error *err);
int content_forget(struct ext4_builder *b, uint32_t node, struct banger_error *err);
int content_punch(struct ext4_builder *b, struct banger_error *err);
/* xattr.c */
void xattr_encode_inode(
	struct ext4_builder *b, const struct xattr_set *set, uint8_t *body, size_t room);
int xattr_write_blocks(struct ext4_builder *b, struct xattr_set *set, struct banger_error *err);
#define XATTR_BLOCK_USERS 1024u
/* Gives a node of another builder this set. */
int xattr_copy(struct ext4_builder *from, uint32_t set, struct ext4_builder *to, uint32_t node,
	struct banger_error *err);
/* extents.c */
uint32_t extents_tree_blocks(uint32_t n);
void extents_root(struct node *n, uint8_t *root);
int extents_write_tree(struct ext4_builder *b, struct node *n, struct banger_error *err);
void extents_encode(uint8_t *area, uint32_t max, const struct extent *e, uint32_t n);
#define EXTENTS_IN_INODE 4u
/* dirs.c */
int dirs_measure(struct ext4_builder *b, const struct node *dir, uint32_t *ret_blocks,
	struct banger_error *err);
int dirs_write(struct ext4_builder *b, const struct node *dir, struct banger_error *err);
/* place.c */
int place_everything(struct ext4_builder *b, struct banger_error *err);
/* inodes.c */
int inodes_write(struct ext4_builder *b, struct banger_error *err);
/* io.c */
extern io_manager builder_io_manager;
int builder_fs_error(struct banger_error *err, errcode_t e, const char *what);

#endif
