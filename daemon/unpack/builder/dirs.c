/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Directory blocks (ext4 documentation, "Directory Entries"), built whole and in one go.
 *
 * What fits into one block is a plain list, in the order in which the names came. More is a hash
 * tree: the names sorted by hash fill leaf blocks, and the root (block 0), with one level of index
 * nodes after it where needed, says from which hash on each leaf is. When names of one hash go on in
 * the next leaf, the lowest bit of that leaf's hash in the index says so.
 *
 *	block 0 root | index nodes, if any | leaves
 *
 * Every block ends with a checksum; a leaf's looks like an unused entry of 12 bytes.
 */
#include "unpack/builder/internal.h"

#define TAIL 12u
#define LEAF_ROOM (BLOCK - TAIL)
#define ROOT_LIMIT 507u /* (4096 - 32 - 8) / 8 */
#define NODE_LIMIT 510u /* (4096 - 8 - 8) / 8 */
#define DOT_SPACE 24u   /* "." and ".." */

struct hashed {
	uint32_t hash, minor, name;
};

/* A directory on its way into blocks. */
struct packed {
	struct hashed *names; /* sorted; of a tree */
	uint32_t n;
	uint32_t leaves, nodes;
	uint32_t *first; /* of each leaf: the hash that the index has */
};

static void packed_done(struct packed *p)
{
	free(p->names);
	free(p->first);
}
#define _cleanup_packed_ _cleanup_(packed_done)

static int compare_hashed(const void *pa, const void *pb)
{
	const struct hashed *a = pa, *b = pb;

	if (a->hash != b->hash)
		return a->hash < b->hash ? -1 : 1;
	if (a->minor != b->minor)
		return a->minor < b->minor ? -1 : 1;
	return a->name < b->name ? -1 : 1;
}

static const uint8_t *hash_seed(const struct ext4_builder *b)
{
	return b->seed + 16;
}

static int sort_names(
	struct ext4_builder *b, const struct node *dir, struct packed *p, struct banger_error *err)
{
	uint32_t seed[4], i = 0;

	memcpy(seed, hash_seed(b), sizeof(seed));
	p->n = dir->dir.count;
	p->names = calloc(p->n, sizeof(*p->names));
	if (!p->names)
		return banger_error_oom(err);
	for (uint32_t k = dir->dir.head; k; k = name_at(b, k)->next, i++) {
		const struct name *m = name_at(b, k);
		p->names[i].name = k;
		errcode_t e = ext2fs_dirhash2(EXT2_HASH_HALF_MD4, m->text, m->len, NULL, 0, seed,
			&p->names[i].hash, &p->names[i].minor);
		if (e)
			return builder_fs_error(err, e, "a directory hash");
	}
	qsort(p->names, p->n, sizeof(*p->names), compare_hashed);
	return 0;
}

/* How many of the names from `first` on fill a leaf. */
static uint32_t leaf_fill(const struct ext4_builder *b, const struct packed *p, uint32_t first)
{
	uint32_t used = 0, i = first;

	for (; i < p->n; i++) {
		uint32_t len = ext2fs_dir_rec_len(name_at(b, p->names[i].name)->len, 0);
		if (used + len > LEAF_ROOM)
			break;
		used += len;
	}
	return i - first;
}

static int pack_tree(
	struct ext4_builder *b, const struct node *dir, struct packed *p, struct banger_error *err)
{
	int r = sort_names(b, dir, p, err);

	if (r < 0)
		return r;
	for (uint32_t at = 0; at < p->n; at += leaf_fill(b, p, at))
		p->leaves++;
	p->first = calloc(p->leaves, sizeof(*p->first));
	if (!p->first)
		return banger_error_oom(err);
	uint32_t leaf = 0;
	for (uint32_t at = 0; at < p->n; at += leaf_fill(b, p, at)) {
		bool goes_on = at > 0 && p->names[at - 1].hash == p->names[at].hash;
		p->first[leaf++] = p->names[at].hash | goes_on;
	}
	if (p->leaves > ROOT_LIMIT)
		p->nodes = (p->leaves + NODE_LIMIT - 1) / NODE_LIMIT;
	if (p->nodes > ROOT_LIMIT)
		return banger_error_set(err, BANGER_TOO_LARGE,
			"a directory of %u names is more than ext4 can index", p->n);
	return 0;
}

static bool is_plain(const struct ext4_builder *b, const struct node *dir)
{
	uint32_t used = DOT_SPACE;

	for (uint32_t k = dir->dir.head; k && used <= LEAF_ROOM; k = name_at(b, k)->next)
		used += ext2fs_dir_rec_len(name_at(b, k)->len, 0);
	return used <= LEAF_ROOM;
}

int dirs_measure(struct ext4_builder *b, const struct node *dir, uint32_t *ret_blocks,
	struct banger_error *err)
{
	if (is_plain(b, dir)) {
		*ret_blocks = 1;
		return 0;
	}
	_cleanup_packed_ struct packed p = {0};
	int r = pack_tree(b, dir, &p, err);
	if (r < 0)
		return r;
	*ret_blocks = 1 + p.nodes + p.leaves;
	return 0;
}

/* ---- writing */

static uint8_t file_type(uint32_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
		return EXT2_FT_REG_FILE;
	case S_IFDIR:
		return EXT2_FT_DIR;
	case S_IFCHR:
		return EXT2_FT_CHRDEV;
	case S_IFBLK:
		return EXT2_FT_BLKDEV;
	case S_IFIFO:
		return EXT2_FT_FIFO;
	case S_IFSOCK:
		return EXT2_FT_SOCK;
	default:
		return EXT2_FT_SYMLINK;
	}
}

/* Returns the number of bytes that the entry takes at least. */
static uint32_t put_entry(
	uint8_t *at, uint32_t ino, uint32_t rec_len, const char *name, uint32_t len, uint8_t type)
{
	const struct ext2_dir_entry_2 e = {
		.inode = ino, .rec_len = rec_len, .name_len = len, .file_type = type};

	memcpy(at, &e, EXT2_DIR_ENTRY_HEADER_LEN);
	memcpy(at + EXT2_DIR_ENTRY_HEADER_LEN, name, len);
	return ext2fs_dir_rec_len(len, 0);
}

static void set_rec_len(uint8_t *entry, uint16_t len)
{
	memcpy(entry + offsetof(struct ext2_dir_entry, rec_len), &len, sizeof(len));
}

static int put_block(
	struct ext4_builder *b, const struct node *dir, uint32_t index, struct banger_error *err)
{
	errcode_t e = ext2fs_dir_block_csum_set(b->fs, dir->ino, (struct ext2_dir_entry *)b->block);

	if (e)
		return builder_fs_error(err, e, "a directory block");
	return writer_put(b->writer, dir->dir.start + index, b->block, 1, err);
}

static void put_tail(struct ext4_builder *b, uint8_t *last)
{
	/* The last entry reaches to the tail. */
	set_rec_len(last, b->block + LEAF_ROOM - last);
	ext2fs_initialize_dirent_tail(b->fs, (struct ext2_dir_entry_tail *)(b->block + LEAF_ROOM));
}

static uint8_t *put_name(struct ext4_builder *b, uint8_t *at, uint32_t k)
{
	const struct name *m = name_at(b, k);
	const struct node *n = node_at(b, m->node);

	return at + put_entry(at, n->ino, ext2fs_dir_rec_len(m->len, 0), m->text, m->len,
			    file_type(n->mode));
}

static int write_plain(struct ext4_builder *b, const struct node *dir, struct banger_error *err)
{
	uint8_t *at = b->block, *last;

	memset(b->block, 0, BLOCK);
	at += put_entry(at, dir->ino, 12, ".", 1, EXT2_FT_DIR);
	last = at;
	at += put_entry(at, node_at(b, dir->dir.parent)->ino, 12, "..", 2, EXT2_FT_DIR);
	for (uint32_t k = dir->dir.head; k; k = name_at(b, k)->next) {
		last = at;
		at = put_name(b, at, k);
	}
	put_tail(b, last);
	return put_block(b, dir, 0, err);
}

/* Entries of the root or of an index node. The first has no hash: its place is that of the counts.
 * step: leaves under each child; child: number of the first child's block. */
static void put_index(uint8_t *at, uint32_t limit, const uint32_t *hashes, uint32_t count,
	uint32_t step, uint32_t child)
{
	struct ext2_dx_entry *entries = (struct ext2_dx_entry *)at;
	struct ext2_dx_countlimit *head = (struct ext2_dx_countlimit *)at;

	for (uint32_t i = 0; i < count; i++) {
		entries[i].hash = hashes[(size_t)i * step];
		entries[i].block = child + i;
	}
	head->limit = limit;
	head->count = count;
}

static int write_root(struct ext4_builder *b, const struct node *dir, const struct packed *p,
	struct banger_error *err)
{
	struct ext2_dx_root_info info = {.hash_version = EXT2_HASH_HALF_MD4,
		.info_length = sizeof(info),
		.indirect_levels = p->nodes > 0};

	memset(b->block, 0, BLOCK);
	put_entry(b->block, dir->ino, 12, ".", 1, EXT2_FT_DIR);
	put_entry(
		b->block + 12, node_at(b, dir->dir.parent)->ino, BLOCK - 12, "..", 2, EXT2_FT_DIR);
	memcpy(b->block + 24, &info, sizeof(info));
	if (p->nodes > 0)
		put_index(b->block + 32, ROOT_LIMIT, p->first, p->nodes, NODE_LIMIT, 1);
	else
		put_index(b->block + 32, ROOT_LIMIT, p->first, p->leaves, 1, 1);
	return put_block(b, dir, 0, err);
}

static int write_nodes(struct ext4_builder *b, const struct node *dir, const struct packed *p,
	struct banger_error *err)
{
	for (uint32_t i = 0; i < p->nodes; i++) {
		uint32_t first = i * NODE_LIMIT;
		uint32_t count = p->leaves - first < NODE_LIMIT ? p->leaves - first : NODE_LIMIT;
		memset(b->block, 0, BLOCK);
		put_entry(b->block, 0, BLOCK, "", 0, 0);
		put_index(
			b->block + 8, NODE_LIMIT, p->first + first, count, 1, 1 + p->nodes + first);
		int r = put_block(b, dir, 1 + i, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int write_leaves(struct ext4_builder *b, const struct node *dir, const struct packed *p,
	struct banger_error *err)
{
	uint32_t index = 1 + p->nodes;

	for (uint32_t at = 0; at < p->n; index++) {
		uint32_t fill = leaf_fill(b, p, at);
		uint8_t *next = b->block, *last = next;
		memset(b->block, 0, BLOCK);
		for (uint32_t i = 0; i < fill; i++) {
			last = next;
			next = put_name(b, next, p->names[at + i].name);
		}
		put_tail(b, last);
		int r = put_block(b, dir, index, err);
		if (r < 0)
			return r;
		at += fill;
	}
	return 0;
}

int dirs_write(struct ext4_builder *b, const struct node *dir, struct banger_error *err)
{
	if (dir->dir.blocks == 1)
		return write_plain(b, dir, err);
	_cleanup_packed_ struct packed p = {0};
	int r = pack_tree(b, dir, &p, err);
	if (r == 0)
		r = write_root(b, dir, &p, err);
	if (r == 0)
		r = write_nodes(b, dir, &p, err);
	if (r == 0)
		r = write_leaves(b, dir, &p, err);
	return r;
}
