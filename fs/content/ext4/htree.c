/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lookup by a directory's index: a tree of hashes, at most three levels of index blocks over the
 * leaves. Names of one hash may go on in the next leaf, which the low bit of that leaf's hash says.
 *
 * Only one block is held at a time; the way down is remembered as block numbers and positions, and
 * an index block is read again to go on to its next entry. Whatever is wrong with the index is
 * answered with -EAGAIN: the caller then scans the leaves, which does not need it.
 *
 * References: kernel documentation, filesystems/ext4/directory ("Hash Tree Directories").
 */
#include "internal.h"

#define LEVELS 3
#define ROOT_AT 32
#define NODE_AT 8
#define HASH_EOF 0xfffffffeu

struct level {
	uint32_t lblk, at, count, k;
};

struct walk {
	struct ext4_image *img;
	struct ext4_scratch *s;
	const struct ext4_inode *dir;
	uint32_t hash;
	uint32_t depth; /* index levels below the root */
	struct level level[LEVELS];
};

/* Read the index block of a level, check its counts. */
static int load(struct walk *w, struct level *l)
{
	enum ext4_dir_block kind;
	uint32_t limit;
	int r = ext4_dir_block(w->img, w->s, w->dir, l->lblk, &kind);

	if (r < 0)
		return r == -EUCLEAN ? -EAGAIN : r;
	l->at = l == w->level ? ROOT_AT : NODE_AT;
	limit = le16(w->s->dir + l->at);
	l->count = le16(w->s->dir + l->at + 2);
	if (kind != EXT4_DIR_INDEX || !l->count || l->count > limit ||
		limit > (w->img->block_size - l->at) / 8)
		return -EAGAIN;
	return 0;
}

static uint32_t hash_at(const struct walk *w, const struct level *l, uint32_t k)
{
	return le32(w->s->dir + l->at + 8 * k);
}

static uint32_t block_at(const struct walk *w, const struct level *l)
{
	return le32(w->s->dir + l->at + 8 * l->k + 4) & EXT4_DX_BLOCK_MASK;
}

/* The last entry whose hash is not above the one wanted; the first has none and stands for zero. */
static uint32_t search(const struct walk *w, const struct level *l)
{
	uint32_t lo = 1, hi = l->count;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (hash_at(w, l, mid) > w->hash)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo - 1;
}

static int name_hash(const struct ext4_image *img, const struct ext4_inode *dir, uint8_t version,
	const char *name, size_t len, uint32_t *ret)
{
	ext2_dirhash_t hash, minor;

	if (version > EXT2_HASH_TEA)
		return -EAGAIN;
	version = (uint8_t)(version + img->hash_unsigned);
	if (ext2fs_dirhash2(version, name, (int)len, img->encoding,
		    (int)(dir->flags & EXT4_CASEFOLD_FL), img->hash_seed, &hash, &minor))
		return -EAGAIN;
	*ret = hash == HASH_EOF ? HASH_EOF - 2 : hash;
	return 0;
}

/* From the root: what it says of the tree, and the hash of the name. */
static int start(struct walk *w, const char *name, size_t len)
{
	const uint8_t *b = w->s->dir;
	int r = load(w, &w->level[0]);

	if (r < 0)
		return r;
	w->depth = b[30];
	if (b[29] != 8 || b[31] & 1 || w->depth >= (w->img->largedir ? LEVELS : LEVELS - 1u))
		return -EAGAIN;
	r = name_hash(w->img, w->dir, b[28], name, len, &w->hash);
	if (r == 0)
		w->level[0].k = search(w, &w->level[0]);
	return r;
}

/* The leaf under entry k of level `from`, whose block is loaded; below it the first entries (first)
 * or those of the hash. */
static int down(struct walk *w, uint32_t from, bool first, uint32_t *ret_leaf)
{
	uint32_t next = block_at(w, &w->level[from]);

	for (uint32_t l = from + 1; l <= w->depth; l++) {
		w->level[l] = (struct level){.lblk = next};
		int r = load(w, &w->level[l]);
		if (r < 0)
			return r;
		w->level[l].k = first ? 0 : search(w, &w->level[l]);
		next = block_at(w, &w->level[l]);
	}
	*ret_leaf = next;
	return 0;
}

/* The leaf after this one, if names of the hash go on there: 1, else 0. */
static int next_leaf(struct walk *w, uint32_t *ret_leaf)
{
	for (uint32_t l = w->depth + 1; l-- > 0;) {
		struct level *at = &w->level[l];
		if (at->k + 1 >= at->count)
			continue;
		int r = load(w, at);
		if (r < 0)
			return r;
		at->k++;
		if (hash_at(w, at, at->k) != (w->hash | 1))
			return 0;
		r = down(w, l, true, ret_leaf);
		return r < 0 ? r : 1;
	}
	return 0;
}

/* 1 and *ret_ino, 0: not in this leaf. */
static int search_leaf(
	struct walk *w, uint32_t leaf, const char *name, size_t len, uint32_t *ret_ino)
{
	struct ext4_records records = {.buf = w->s->dir, .len = w->img->block_size};
	enum ext4_dir_block kind;
	struct ext4_dirent e;
	int r;

	if (!leaf || leaf >= ext4_dir_blocks(w->img, w->dir))
		return -EAGAIN;
	r = ext4_dir_block(w->img, w->s, w->dir, leaf, &kind);
	if (r == 0 && kind == EXT4_DIR_INDEX && w->img->csum)
		return -EAGAIN;
	while (r == 0) {
		r = ext4_records_next(w->img, w->s, w->dir->ino, &records, &e);
		if (r <= 0)
			return r;
		r = ext4_name_equal(w->img, w->dir, &e, name, len);
	}
	if (r > 0)
		*ret_ino = e.ino;
	return r;
}

int ext4_htree_lookup(struct ext4_image *img, struct ext4_scratch *s, const struct ext4_inode *dir,
	const char *name, size_t len, uint32_t *ret_ino)
{
	struct walk w = {.img = img, .s = s, .dir = dir};
	uint32_t leaf;
	int r;

	if (len <= 2 && name[0] == '.' && (len == 1 || name[1] == '.'))
		return -EAGAIN; /* they stand in the root, outside the index */
	r = start(&w, name, len);
	if (r == 0)
		r = down(&w, 0, false, &leaf);
	if (r < 0)
		return r;
	for (unsigned leaves = 0; leaves < EXT4_SCAN_MAX; leaves++) {
		if (leaves == EXT4_SCAN_SLOW)
			ext4_slow(s);
		r = search_leaf(&w, leaf, name, len, ret_ino);
		if (r)
			return r;
		r = next_leaf(&w, &leaf);
		if (r <= 0)
			return r;
	}
	return ext4_damaged(s, "directory %u: an endless index", dir->ino);
}
