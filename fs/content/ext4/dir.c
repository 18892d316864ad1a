/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Directories as rows of blocks. A directory with an index is such a row too: its leaves hold the
 * entries, its index blocks look like empty ones. So listing goes through the blocks in order,
 * which makes every position in them a cookie that stays valid and follows the order on disk; the
 * index is for lookups only (htree.c).
 *
 * A record must be long enough for its name, a multiple of four, and end inside its block. "." and
 * ".." are the first two records and nowhere else. A name with '/' or NUL in it is damage.
 *
 * Positions: block number << block_bits plus the offset in it. For inline data: 0 and 1 are before
 * "." and "..", then 4 + the offset in the first part (i_block after the parent's number), then
 * 4096 + the offset in the second (the attribute system.data). Once a damaged block was passed,
 * positions carry PASSED_DAMAGE, so that a listing in several calls shows what is sound and still
 * ends with an error.
 */
#include "internal.h"

#define HEADER 8
#define TAIL 12
#define TAIL_MARK 0xDE00u
#define INLINE_SECOND 4096u
#define PASSED_DAMAGE (1ull << 62)

static uint32_t record_len(const struct ext4_image *img, const uint8_t *p)
{
	uint32_t len = le16(p + 4);

	if (img->block_size < 65536)
		return len;
	return len == 65535 || len == 0 ? 65536 : (len & 65532) | (len & 3) << 16;
}

static uint8_t type_of(const struct ext4_image *img, uint8_t type)
{
	static const uint8_t types[] = {
		DT_UNKNOWN, DT_REG, DT_DIR, DT_CHR, DT_BLK, DT_FIFO, DT_SOCK, DT_LNK};

	return img->filetype && type < ELEMENTSOF(types) ? types[type] : DT_UNKNOWN;
}

int ext4_records_next(const struct ext4_image *img, struct ext4_scratch *s, uint32_t dir_ino,
	struct ext4_records *r, struct ext4_dirent *ret)
{
	while (r->len - r->off >= HEADER) {
		const uint8_t *p = r->buf + r->off;
		uint32_t len = record_len(img, p), name = p[6], ino = le32(p);
		if (len < HEADER || len % 4 || len > r->len - r->off ||
			(ino && HEADER + name > len))
			return ext4_damaged(s, "directory %u: a record of %u bytes", dir_ino, len);
		r->off += len;
		if (!ino)
			continue;
		if (!name || memchr(p + HEADER, '/', name) || memchr(p + HEADER, 0, name))
			return ext4_damaged(s, "directory %u: an impossible name", dir_ino);
		ret->next = r->off;
		ret->ino = ino;
		ret->type = type_of(img, p[7]);
		ret->len = (uint8_t)name;
		memcpy(ret->name, p + HEADER, name);
		ret->name[name] = '\0';
		return 1;
	}
	return 0;
}

static bool has_tail(const struct ext4_image *img, const uint8_t *b)
{
	const uint8_t *t = b + img->block_size - TAIL;

	return le32(t) == 0 && le16(t + 4) == TAIL && le16(t + 6) == TAIL_MARK;
}

/* Where count and limit stand in an index block; 0: it is not one. */
static uint32_t index_offset(const struct ext4_image *img, const uint8_t *b)
{
	if (record_len(img, b) == img->block_size && le32(b) == 0 && b[6] == 0)
		return HEADER;
	if (le16(b + 4) == 12 && record_len(img, b + 12) == img->block_size - 12 &&
		le32(b + 24) == 0 && b[29] == 8)
		return 32;
	return 0;
}

static bool index_csum_ok(
	const struct ext4_image *img, const struct ext4_inode *dir, const uint8_t *b, uint32_t at)
{
	static const uint8_t zero[4];
	uint32_t limit = le16(b + at), count = le16(b + at + 2), tail = at + limit * 8, c;

	if (tail + 8 > img->block_size || count > limit)
		return false;
	c = csum32(dir->csum_seed, b, at + count * 8);
	c = csum32(c, b + tail, 4);
	c = csum32(c, zero, 4);
	return c == le32(b + tail + 4);
}

uint64_t ext4_dir_blocks(const struct ext4_image *img, const struct ext4_inode *dir)
{
	return dir->size >> img->block_bits;
}

int ext4_dir_block(struct ext4_image *img, struct ext4_scratch *s, const struct ext4_inode *dir,
	uint64_t lblk, enum ext4_dir_block *ret)
{
	struct ext4_run run;
	uint32_t at;
	int r = ext4_map(img, s, dir, lblk, &run);

	if (r < 0)
		return r;
	if (!run.pblk)
		return ext4_damaged(s, "directory %u: block %llu is missing", dir->ino,
			(unsigned long long)lblk);
	r = ext4_read_block(img, s, run.pblk, s->dir, "a directory block", dir->ino);
	if (r < 0)
		return r;
	at = dir->flags & EXT2_INDEX_FL && img->dir_index ? index_offset(img, s->dir) : 0;
	*ret = at ? EXT4_DIR_INDEX : EXT4_DIR_LEAF;
	if (!img->csum)
		return 0;
	if (at ? !index_csum_ok(img, dir, s->dir, at)
	       : !has_tail(img, s->dir) || csum32(dir->csum_seed, s->dir, img->block_size - TAIL) !=
						   le32(s->dir + img->block_size - 4))
		return ext4_damaged(s, "directory %u: block %llu has a wrong checksum", dir->ino,
			(unsigned long long)lblk);
	return 0;
}

static bool is_dot(const struct ext4_dirent *e)
{
	return e->name[0] == '.' && (e->len == 1 || (e->len == 2 && e->name[1] == '.'));
}

struct listing {
	struct ext4_image *img;
	struct ext4_scratch *s;
	const struct ext4_inode *dir;
	ext4_dirent_fn *fn;
	void *arg;
	uint64_t given; /* entries handed out in this call */
	bool damaged;   /* in this call or an earlier one */
};

static int give(struct listing *l, struct ext4_dirent *e)
{
	int r;

	if (l->damaged)
		e->next |= PASSED_DAMAGE;
	r = l->fn(l->arg, e);
	if (r == 0)
		l->given++;
	return r;
}

/* The records of one buffer from offset `skip` on, positions counted from base. dots: the first two
 * are "." and "..". 1: fn has stopped. */
static int list_records(struct listing *l, const uint8_t *buf, uint32_t len, uint32_t skip,
	uint64_t base, bool dots)
{
	struct ext4_records r = {.buf = buf, .len = len};
	struct ext4_dirent e;
	int n;

	for (unsigned k = 0; (n = ext4_records_next(l->img, l->s, l->dir->ino, &r, &e)) > 0; k++) {
		const char *dot = k == 0 ? "." : "..";
		if (dots && k < 2 ? strcmp(e.name, dot) != 0 : is_dot(&e))
			return ext4_damaged(
				l->s, "directory %u: \"%s\" out of place", l->dir->ino, e.name);
		if (e.next <= skip)
			continue;
		e.next += base;
		n = give(l, &e);
		if (n)
			return n;
	}
	return n;
}

/* Blocks follow each other on disk mostly: have the next ones read while this one is listed. */
static void blocks_ahead(struct listing *l, uint64_t lblk, uint64_t end)
{
	struct ext4_run run;

	if (end - lblk < 2 || lblk % 64 || ext4_map(l->img, l->s, l->dir, lblk, &run) < 0 ||
		!run.pblk)
		return;
	if (run.len > 64)
		run.len = 64;
	ext4_will_read(l->img, run.pblk << l->img->block_bits, run.len << l->img->block_bits);
}

static int list_block(struct listing *l, uint64_t lblk, uint32_t skip)
{
	enum ext4_dir_block kind;
	int r = ext4_dir_block(l->img, l->s, l->dir, lblk, &kind);

	/* The records of an index root are "." and ".."; those of other index blocks none. */
	if (r == 0 && (kind == EXT4_DIR_LEAF || lblk == 0))
		r = list_records(l, l->s->dir, l->img->block_size, skip, lblk << l->img->block_bits,
			lblk == 0);
	return r;
}

static int list_blocks(struct listing *l, uint64_t pos)
{
	const struct ext4_image *img = l->img;
	uint64_t lblk = pos >> img->block_bits, end = ext4_dir_blocks(img, l->dir);
	uint32_t skip = (uint32_t)(pos & (img->block_size - 1));

	for (uint64_t scanned = 0; lblk < end; lblk++, skip = 0) {
		if (scanned == EXT4_SCAN_MAX)
			return ext4_damaged(l->s, "directory %u: endless", l->dir->ino);
		if (scanned++ == EXT4_SCAN_SLOW)
			ext4_slow(l->s);
		blocks_ahead(l, lblk, end);
		int r = list_block(l, lblk, skip);
		if (r > 0)
			return r;
		if (r < 0)
			l->damaged = true;
	}
	return 0;
}

static int give_dot(struct listing *l, const char *name, uint32_t ino, uint64_t next)
{
	struct ext4_dirent e = {.next = next, .ino = ino, .type = DT_DIR};

	e.len = (uint8_t)strlen(name);
	memcpy(e.name, name, e.len + 1u);
	return give(l, &e);
}

static int list_inline(struct listing *l, uint64_t pos)
{
	const uint8_t *first = l->dir->block + 4, *rest;
	uint32_t len = sizeof(l->dir->block) - 4;
	size_t rest_len;
	int r = 0;

	if (l->dir->size < len + 4)
		len = l->dir->size < 4 ? 0 : (uint32_t)l->dir->size - 4;
	if (pos < 1)
		r = give_dot(l, ".", l->dir->ino, 1);
	if (r == 0 && pos < 2)
		r = give_dot(l, "..", le32(l->dir->block), 4);
	if (r == 0 && pos < INLINE_SECOND)
		r = list_records(l, first, len, pos < 4 ? 0 : (uint32_t)pos - 4, 4, false);
	if (r == 0)
		r = ext4_inline_rest(l->img, l->s, l->dir, &rest, &rest_len);
	if (r || !rest_len)
		return r;
	memcpy(l->s->dir, rest, rest_len); /* fn may read inodes into the buffer that rest is in */
	return list_records(l, l->s->dir, (uint32_t)rest_len,
		pos > INLINE_SECOND ? (uint32_t)(pos - INLINE_SECOND) : 0, INLINE_SECOND, false);
}

/* 1: fn has stopped; 0: the end; damage only when there is nothing else to say. */
static int list(struct listing *l, uint64_t pos)
{
	int r;

	l->damaged = pos & PASSED_DAMAGE;
	pos &= ~PASSED_DAMAGE;
	r = l->dir->flags & EXT4_INLINE_DATA_FL ? list_inline(l, pos) : list_blocks(l, pos);
	if (r == 0 && l->damaged)
		r = -EUCLEAN;
	return r;
}

int ext4_readdir(struct ext4_image *img, struct ext4_scratch *s, const struct ext4_inode *dir,
	uint64_t pos, ext4_dirent_fn *fn, void *arg)
{
	struct listing l = {.img = img, .s = s, .dir = dir, .fn = fn, .arg = arg};
	int r;

	if (!S_ISDIR(dir->mode))
		return -ENOTDIR;
	if (dir->flags & EXT4_ENCRYPT_FL)
		return -ENOKEY;
	ext4_note(s, "directory %u: some of its blocks", dir->ino);
	r = list(&l, pos);
	return r == 1 || (r < 0 && l.given) ? 0 : r;
}

bool ext4_name_equal(const struct ext4_image *img, const struct ext4_inode *dir,
	const struct ext4_dirent *e, const char *name, size_t len)
{
	if (e->len == len && memcmp(e->name, name, len) == 0)
		return true;
	return dir->flags & EXT4_CASEFOLD_FL && img->encoding &&
	       ext2fs_casefold_cmp(img->encoding, (const unsigned char *)e->name, e->len,
		       (const unsigned char *)name, len) == 0;
}

struct scan {
	const struct ext4_image *img;
	const struct ext4_inode *dir;
	const char *name;
	size_t len;
	uint32_t ino;
};

static int scan_entry(void *arg, const struct ext4_dirent *e)
{
	struct scan *x = arg;

	if (!ext4_name_equal(x->img, x->dir, e, x->name, x->len))
		return 0;
	x->ino = e->ino;
	return 1;
}

/* Through all entries; when the name is not among those that are sound, damage may hide it. */
static int scan(struct ext4_image *img, struct ext4_scratch *s, struct scan *x)
{
	struct listing l = {.img = img, .s = s, .dir = x->dir, .fn = scan_entry, .arg = x};

	return list(&l, 0);
}

int ext4_lookup(struct ext4_image *img, struct ext4_scratch *s, const struct ext4_inode *dir,
	const char *name, size_t len, uint32_t *ret_ino)
{
	struct scan x = {.img = img, .dir = dir, .name = name, .len = len};
	int r = -EAGAIN;

	if (!S_ISDIR(dir->mode))
		return -ENOTDIR;
	if (len > 255)
		return -ENAMETOOLONG;
	if (dir->flags & EXT4_ENCRYPT_FL)
		return -ENOKEY;
	if (dir->flags & EXT2_INDEX_FL && img->dir_index && !(dir->flags & EXT4_INLINE_DATA_FL))
		r = ext4_htree_lookup(img, s, dir, name, len, &x.ino);
	if (r == -EAGAIN)
		r = scan(img, s, &x);
	if (r < 0)
		return r;
	if (r == 0)
		return -ENOENT;
	*ret_ino = x.ino;
	return 0;
}
