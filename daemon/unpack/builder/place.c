/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When the last content is in its blocks, everything else gets a place behind it: inode numbers,
 * directories, extent trees, long symlinks, attribute blocks, the journal, and, for as many groups
 * as the filesystem then turns out to need, bitmaps and inode tables. flex_bg allows all of these to
 * be anywhere. Behind them is only free space.
 *
 *	superblock, descriptors | content | directories … | journal | bitmaps | inode tables | free
 *
 * Numbers and places follow the order of the tree, children in the order in which they came and
 * before grandchildren, so that walking the tree reads forward.
 */
#include "unpack/builder/internal.h"

#define INODES_PER_GROUP_MAX 32768u
#define BYTES_PER_INODE 16384u      /* as mke2fs has it */
#define BYTES_PER_SPARE_INODE 8192u /* of the headroom: what comes later may be small files */
#define SPARE_INODES 1000u
#define ROUND 256u /* the size is a multiple of 1 MiB */

/* ---- inode numbers */

static int number_children(struct ext4_builder *b, const struct node *dir, struct banger_error *err)
{
	for (uint32_t k = dir->dir.head; k; k = name_at(b, k)->next) {
		struct node *n = node_at(b, name_at(b, k)->node);
		if (n->ino)
			continue; /* another name of what has one */
		if (b->n_order >= UINT32_MAX - 2 * SPARE_INODES)
			return banger_error_set(err, BANGER_TOO_LARGE, "too many files");
		n->ino = FIRST_INO + b->n_order;
		b->order[b->n_order++] = name_at(b, k)->node;
	}
	return 0;
}

static int number_inodes(struct ext4_builder *b, struct banger_error *err)
{
	b->order = calloc(b->alive, sizeof(*b->order));
	if (!b->order)
		return banger_error_oom(err);
	node_at(b, EXT4_BUILDER_ROOT)->ino = EXT2_ROOT_INO;
	int r = number_children(b, node_at(b, EXT4_BUILDER_ROOT), err);
	for (uint32_t i = 0; i < b->n_order && r == 0; i++) {
		const struct node *n = node_at(b, b->order[i]);
		if (node_is(n, S_IFDIR))
			r = number_children(b, n, err);
	}
	return r;
}

/* ---- the seed */

/* Without a seed: 32 bytes that depend on all names, attributes and sizes. Two filesystems should
 * not share a UUID; nobody is kept from making two that do. */
static void mix_tree(const struct ext4_builder *b, uint64_t state[4])
{
	for (int i = 0; i < 4; i++)
		state[i] = i;
	for (uint32_t i = 1; i <= b->names.count; i++) {
		const struct name *m = name_at(b, i);
		const struct node *n = node_at(b, m->node);
		if (n->dead)
			continue;
		const uint64_t facts[6] = {n->mode, n->uid, n->gid, n->mtime, n->size, m->dir};
		state[0] = keyed_hash(state, state[2], facts, sizeof(facts));
		state[1] = keyed_hash(state, state[3], m->text, m->len);
		if (node_is(n, S_IFLNK))
			state[2] = keyed_hash(state, state[2], n->link.target, n->size);
		state[3] += state[0];
	}
}

static void take_seed(struct ext4_builder *b)
{
	uint8_t hash[EXT2FS_SHA512_LENGTH];
	uint64_t state[4];

	if (!b->o.seed)
		mix_tree(b, state);
	ext2fs_sha512(b->o.seed ? b->o.seed : (const uint8_t *)state, sizeof(state), hash);
	memcpy(b->seed, hash, sizeof(b->seed));
	/* A UUID of version 8 (RFC 9562): of our own making. */
	b->seed[6] = (b->seed[6] & 0x0f) | 0x80;
	b->seed[8] = (b->seed[8] & 0x3f) | 0x80;
}

/* ---- places behind the content */

static int no_space(const struct ext4_builder *b, struct banger_error *err)
{
	return banger_error_set(err, BANGER_NO_SPACE,
		b->o.size ? "%u files and their content do not fit into a filesystem of %lld bytes"
			  : "%u files are more than a filesystem can hold",
		b->n_order, (long long)b->o.size);
}

static int take_row(struct ext4_builder *b, uint32_t n, uint32_t *ret, struct banger_error *err)
{
	uint64_t at;

	if (n == 0)
		return 0;
	if (space_take_row(&b->space, n, &at) < 0)
		return no_space(b, err);
	*ret = at;
	return 0;
}

static int place_node(struct ext4_builder *b, struct node *n, struct banger_error *err)
{
	int r = 0;

	if (n->xattrs)
		set_at(b, n->xattrs)->users++;
	switch (n->mode & S_IFMT) {
	case S_IFDIR:
		r = dirs_measure(b, n, &n->dir.blocks, err);
		return r < 0 ? r : take_row(b, n->dir.blocks, &n->dir.start, err);
	case S_IFREG:
		return take_row(b, extents_tree_blocks(n->file.n), &n->file.tree, err);
	case S_IFLNK:
		return n->size < 60 ? 0 : take_row(b, 1, &n->link.block, err);
	default:
		return 0;
	}
}

static int place_xattrs(struct ext4_builder *b, struct banger_error *err)
{
	for (uint32_t i = 1; i <= b->sets.count; i++) {
		struct xattr_set *s = set_at(b, i);
		if (!s->in_block)
			continue;
		uint32_t blocks = (s->users + XATTR_BLOCK_USERS - 1) / XATTR_BLOCK_USERS;
		int r = take_row(b, blocks, &s->start, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- the size */

/* What a filesystem of `blocks` looks like. */
struct shape {
	uint64_t blocks;
	uint32_t groups, inodes_per_group, table_blocks, journal_blocks;
};

/* As mke2fs chooses it, but that what is to grow starts with 16 MiB. */
static uint32_t journal_size(uint64_t blocks)
{
	if (blocks < 16384)
		return 1024;
	if (blocks < 512 * 1024)
		return 4096;
	return blocks < 4096 * 1024 ? 16384 : 32768;
}

static uint32_t round_up(uint64_t n, uint32_t to)
{
	return (n + to - 1) / to * to;
}

static void shape_of(const struct ext4_builder *b, uint64_t blocks, struct shape *s)
{
	uint64_t inodes = (uint64_t)RESERVED_INOS + b->n_order;

	s->blocks = blocks;
	s->groups = (blocks + SPACE_GROUP - 1) / SPACE_GROUP;
	s->journal_blocks = journal_size(blocks);
	if (!b->o.size)
		inodes += SPARE_INODES + (uint64_t)b->o.headroom_bytes / BYTES_PER_SPARE_INODE +
			  inodes * b->o.headroom_percent / 100;
	uint64_t usual = (blocks < SPACE_GROUP ? blocks : SPACE_GROUP) * BLOCK / BYTES_PER_INODE;
	uint64_t per_group = (inodes + s->groups - 1) / s->groups;
	s->inodes_per_group = round_up(per_group > usual ? per_group : usual, BLOCK / INODE_SIZE);
	s->table_blocks = s->inodes_per_group / (BLOCK / INODE_SIZE);
}

/* libext2fs drops a last group that is hardly larger than its own bookkeeping would be. Blocks of
 * the last group that are too few, 0 if they are enough; *ret_need gets what is enough. */
static uint32_t short_tail(const struct ext4_builder *b, const struct shape *s, uint32_t *ret_need)
{
	uint32_t tail = s->blocks % SPACE_GROUP;

	*ret_need = 2 + s->table_blocks + 50 + (space_has_copy(s->groups - 1) ? b->head : 0);
	return tail > 0 && tail < *ret_need ? tail : 0;
}

static int place_journal(struct ext4_builder *b, struct space *at, uint32_t blocks)
{
	b->n_journal = 0;
	b->journal_blocks = blocks;
	for (uint32_t done = 0; done < blocks;) {
		uint64_t first;
		uint32_t want = blocks - done;
		if (want > EXT_INIT_MAX_LEN)
			want = EXT_INIT_MAX_LEN;
		uint32_t got = space_take(at, want, &first);
		if (got == 0 || b->n_journal == ELEMENTSOF(b->journal))
			return -ENOSPC;
		b->journal[b->n_journal++] =
			(struct extent){.logical = done, .physical = first, .len = got};
		done += got;
	}
	return 0;
}

/* Journal, bitmaps and tables behind what is there. lists may be NULL to see only where it ends. */
static int place_shape(struct ext4_builder *b, const struct shape *s, struct space *at, bool keep)
{
	uint64_t first = 0;
	int r = place_journal(b, at, s->journal_blocks);

	for (uint32_t g = 0; g < 2 * s->groups && r == 0; g++) {
		r = space_take_row(at, 1, &first);
		if (r == 0 && keep)
			(g < s->groups ? b->block_bitmaps : b->inode_bitmaps - s->groups)[g] =
				first;
	}
	for (uint32_t g = 0; g < s->groups && r == 0; g++) {
		r = space_take_row(at, s->table_blocks, &first);
		if (r == 0 && keep)
			b->tables[g] = first;
	}
	return r;
}

/* Exactly the size that was asked for, but for a last group that would be too small. */
static int shape_given(struct ext4_builder *b, struct shape *s, struct banger_error *err)
{
	uint32_t need;

	shape_of(b, (uint64_t)b->o.size / BLOCK, s);
	uint32_t tail = short_tail(b, s, &need);
	if (tail > 0 && s->groups == 1)
		return no_space(b, err);
	if (tail > 0)
		shape_of(b, s->blocks - tail, s);
	if (s->inodes_per_group > INODES_PER_GROUP_MAX)
		return no_space(b, err);
	return 0;
}

/* The smallest size that holds everything and the headroom. It only grows from round to round: more
 * groups need more tables, which need more groups. */
static int shape_needed(struct ext4_builder *b, struct shape *s, struct banger_error *err)
{
	uint64_t blocks = b->space.next;

	for (;;) {
		struct space at = b->space;
		uint32_t need;

		if (blocks >= UINT32_MAX)
			return no_space(b, err);
		shape_of(b, blocks, s);
		if (s->inodes_per_group > INODES_PER_GROUP_MAX) {
			blocks = (uint64_t)s->groups * SPACE_GROUP + SPACE_GROUP;
			continue;
		}
		if (place_shape(b, s, &at, false) < 0)
			return no_space(b, err);
		uint64_t free_min = b->o.headroom_bytes / BLOCK;
		uint64_t free_share = at.next / 100 * b->o.headroom_percent;
		uint64_t want = at.next + (free_min > free_share ? free_min : free_share);
		want = (want + ROUND - 1) / ROUND * ROUND;
		if (want > blocks) {
			blocks = want;
			continue;
		}
		uint32_t tail = short_tail(b, s, &need);
		if (tail == 0)
			return 0;
		blocks = (blocks - tail + need + ROUND - 1) / ROUND * ROUND;
	}
}

int place_everything(struct ext4_builder *b, struct banger_error *err)
{
	struct shape s;
	int r = number_inodes(b, err);

	if (r < 0)
		return r;
	take_seed(b);
	r = place_node(b, node_at(b, EXT4_BUILDER_ROOT), err);
	for (uint32_t i = 0; i < b->n_order && r == 0; i++)
		r = place_node(b, node_at(b, b->order[i]), err);
	if (r == 0)
		r = place_xattrs(b, err);
	if (r == 0)
		r = b->o.size ? shape_given(b, &s, err) : shape_needed(b, &s, err);
	if (r < 0)
		return r;
	b->blocks = s.blocks;
	b->groups = s.groups;
	b->inodes_per_group = s.inodes_per_group;
	b->table_blocks = s.table_blocks;
	b->block_bitmaps = calloc(s.groups, sizeof(uint32_t));
	b->inode_bitmaps = calloc(s.groups, sizeof(uint32_t));
	b->tables = calloc(s.groups, sizeof(uint32_t));
	if (!b->block_bitmaps || !b->inode_bitmaps || !b->tables)
		return banger_error_oom(err);
	b->space.end = b->blocks;
	if (place_shape(b, &s, &b->space, true) < 0)
		return no_space(b, err);
	return 0;
}
