/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Extended attributes: in the inode behind its fixed fields, in a block of their own, and, when one
 * is large, in an inode of its own (ea_inode). A region is a list of entries that ends with four
 * zero bytes, and values somewhere after it; each name and value is checked against the region
 * before it is touched. The namespace is a number on disk and a prefix here.
 *
 * References: kernel documentation, filesystems/ext4/attributes.
 */
#include <stdio.h>

#include "internal.h"

#define MAGIC 0xEA020000u
#define ENTRY 16
#define INDEX_SYSTEM 7
/* What a scan of the whole image may read. */
#define SCAN_BLOCKS (16u << 10)

static const char *const prefixes[] = {
	[1] = "user.",
	[2] = "system.posix_acl_access",
	[3] = "system.posix_acl_default",
	[4] = "trusted.",
	[6] = "security.",
	[8] = "system.richacl",
	[10] = "gnu.",
};

struct region {
	const uint8_t *base; /* value offsets count from here */
	uint32_t at, end;    /* entries: base + at … base + end */
};

struct attr {
	uint8_t index, name_len;
	uint32_t inum, size, hash;
	const uint8_t *name, *value; /* value NULL: in inode inum */
};

static const char *prefix_of(const struct attr *a)
{
	return a->index < ELEMENTSOF(prefixes) ? prefixes[a->index] : NULL;
}

/* 1 and the next entry, 0 at the end of the list, or damage. */
static int region_next(const struct ext4_image *img, struct ext4_scratch *s, uint32_t ino,
	struct region *r, struct attr *ret)
{
	const uint8_t *e = r->base + r->at;
	uint32_t offs;

	if (r->end - r->at < 4 || le32(e) == 0)
		return 0;
	if (r->end - r->at < ENTRY || r->end - r->at - ENTRY < e[0] || memchr(e + ENTRY, 0, e[0]))
		return ext4_damaged(s, "inode %u: an attribute's name is not one", ino);
	*ret = (struct attr){.name_len = e[0],
		.index = e[1],
		.inum = le32(e + 4),
		.size = le32(e + 8),
		.hash = le32(e + 12),
		.name = e + ENTRY};
	offs = le16(e + 2);
	if (ret->inum ? !img->ea_inode || ret->size > 1u << 24
		      : offs > r->end || ret->size > r->end - offs)
		return ext4_damaged(s, "inode %u: an attribute's value is out of bounds", ino);
	ret->value = ret->inum ? NULL : r->base + offs;
	r->at += (ENTRY + ret->name_len + 3u) & ~3u;
	if (r->at > r->end)
		r->at = r->end;
	return 1;
}

/* The region behind the fixed fields of the inode; false: none. */
static bool inode_region(const struct ext4_image *img, const struct ext4_inode *i,
	const uint8_t *raw, struct region *ret)
{
	uint32_t at = 128u + i->extra_isize;

	if (img->inode_size <= 128 || !i->extra_isize || img->inode_size - at < 8 ||
		le32(raw + at) != MAGIC)
		return false;
	*ret = (struct region){.base = raw + at + 4, .at = 0, .end = img->inode_size - at - 4};
	return true;
}

static int block_region(struct ext4_image *img, struct ext4_scratch *s, const struct ext4_inode *i,
	struct region *ret)
{
	static const uint8_t zero[4];
	uint64_t nr = htole64(i->acl_block);
	const uint8_t *b = s->attr;
	uint32_t c;
	int r = ext4_read_block(img, s, i->acl_block, s->attr, "attributes", i->ino);

	if (r < 0)
		return r;
	if (le32(b) != MAGIC || le32(b + 8) != 1)
		return ext4_damaged(s, "inode %u: its block of attributes is not one", i->ino);
	c = csum32(img->csum_seed, &nr, sizeof(nr));
	c = csum32(c, b, 16); /* h_checksum stands at 16 */
	c = csum32(c, zero, 4);
	c = csum32(c, b + 20, img->block_size - 20);
	if (img->csum && c != le32(b + 16))
		return ext4_damaged(
			s, "inode %u: its block of attributes has a wrong checksum", i->ino);
	*ret = (struct region){.base = b, .at = 32, .end = img->block_size};
	return 0;
}

/* fn for each attribute, those in the inode first, until it returns other than 0. */
typedef int attr_fn(void *arg, const struct attr *a);

static int region_walk(struct ext4_image *img, struct ext4_scratch *s, uint32_t ino,
	struct region r, attr_fn *fn, void *arg)
{
	struct attr a;
	int n;

	while ((n = region_next(img, s, ino, &r, &a)) > 0) {
		n = fn(arg, &a);
		if (n)
			return n;
	}
	return n;
}

static int walk(struct ext4_image *img, struct ext4_scratch *s, const struct ext4_inode *i,
	attr_fn *fn, void *arg)
{
	struct ext4_inode again;
	struct region region;
	const uint8_t *raw;
	int r = ext4_inode_load(img, s, i->ino, &again, &raw);

	if (r == 0 && inode_region(img, &again, raw, &region))
		r = region_walk(img, s, i->ino, region, fn, arg);
	if (r || !i->acl_block)
		return r;
	r = block_region(img, s, i, &region);
	return r < 0 ? r : region_walk(img, s, i->ino, region, fn, arg);
}

struct list {
	char *buf;
	size_t size, len;
};

static int list_one(void *arg, const struct attr *a)
{
	struct list *l = arg;
	const char *prefix = prefix_of(a);
	size_t plen = prefix ? strlen(prefix) : 0, n = plen + a->name_len + 1;

	if (!prefix)
		return 0;
	if (l->size) {
		if (n > l->size - l->len)
			return -ERANGE;
		memcpy(l->buf + l->len, prefix, plen);
		memcpy(l->buf + l->len + plen, a->name, a->name_len);
		l->buf[l->len + n - 1] = '\0';
	}
	l->len += n;
	return 0;
}

ssize_t ext4_xattr_list(struct ext4_image *img, struct ext4_scratch *s, const struct ext4_inode *i,
	char *buf, size_t size)
{
	struct list l = {.buf = buf, .size = size};
	int r = walk(img, s, i, list_one, &l);

	return r < 0 ? r : (ssize_t)l.len;
}

struct get {
	struct ext4_scratch *s;
	const char *name;
	size_t name_len;
	uint32_t ino, inum, hash;
	void *buf;
	size_t size;
	ssize_t result;
};

static bool name_is(const struct attr *a, const char *name, size_t len)
{
	const char *prefix = prefix_of(a);
	size_t plen = prefix ? strlen(prefix) : 0;

	return prefix && len == plen + a->name_len && memcmp(name, prefix, plen) == 0 &&
	       memcmp(name + plen, a->name, a->name_len) == 0;
}

static int get_one(void *arg, const struct attr *a)
{
	struct get *g = arg;

	if (!name_is(a, g->name, g->name_len))
		return 0;
	g->inum = a->inum;
	g->hash = a->hash;
	g->result = a->size;
	if (a->inum)
		return 1;
	if (a->index == 2 || a->index == 3)
		g->result = ext4_acl_convert(g->s, g->ino, a->value, a->size, g->buf, g->size);
	else if (g->size && a->size > g->size)
		g->result = -ERANGE;
	else if (g->size)
		memcpy(g->buf, a->value, a->size);
	return 1;
}

/* The value is an inode's contents; its checksum stands in that inode's atime. */
static ssize_t get_inode_value(struct ext4_image *img, struct ext4_scratch *s, struct get *g)
{
	struct ext4_inode v;
	ssize_t n;
	int r;

	if (g->result > EXT4_XATTR_MAX)
		return -E2BIG;
	if (g->size && (size_t)g->result > g->size)
		return -ERANGE;
	r = ext4_inode_load(img, s, g->inum, &v, NULL);
	if (r < 0)
		return r;
	if (!(v.flags & EXT4_EA_INODE_FL) || !S_ISREG(v.mode) || v.size != (uint64_t)g->result)
		return ext4_damaged(
			s, "inode %u: inode %u is no attribute's value", g->ino, g->inum);
	if (!g->size)
		return g->result;
	n = ext4_read(img, s, &v, 0, g->buf, (size_t)g->result);
	if (n < 0)
		return n;
	if (n != g->result || csum32(img->csum_seed, g->buf, (size_t)n) != (uint32_t)v.atime.tv_sec)
		return ext4_damaged(s, "inode %u: the attribute in inode %u has a wrong checksum",
			g->ino, g->inum);
	return n;
}

ssize_t ext4_xattr_get(struct ext4_image *img, struct ext4_scratch *s, const struct ext4_inode *i,
	const char *name, void *buf, size_t size)
{
	struct get g = {.s = s,
		.name = name,
		.name_len = strlen(name),
		.ino = i->ino,
		.buf = buf,
		.size = size};
	int r = walk(img, s, i, get_one, &g);

	if (r < 0)
		return r;
	if (r == 0)
		return -ENODATA;
	return g.inum ? get_inode_value(img, s, &g) : g.result;
}

struct inline_rest {
	const uint8_t *value;
	size_t len;
};

static int inline_one(void *arg, const struct attr *a)
{
	struct inline_rest *x = arg;

	if (a->index != INDEX_SYSTEM || a->name_len != 4 || memcmp(a->name, "data", 4) != 0 ||
		a->inum)
		return 0;
	x->value = a->value;
	x->len = a->size;
	return 1;
}

int ext4_inline_rest(struct ext4_image *img, struct ext4_scratch *s, const struct ext4_inode *i,
	const uint8_t **ret, size_t *ret_len)
{
	struct inline_rest x = {0};
	struct ext4_inode again;
	struct region region;
	const uint8_t *raw;
	int r = ext4_inode_load(img, s, i->ino, &again, &raw);

	if (r == 0 && inode_region(img, &again, raw, &region))
		r = region_walk(img, s, i->ino, region, inline_one, &x);
	if (r < 0)
		return r;
	*ret = x.value;
	*ret_len = x.len;
	return 0;
}

static int prefix_one(void *arg, const struct attr *a)
{
	const char *want = arg, *prefix = prefix_of(a);
	char name[300];

	if (!prefix)
		return 0;
	(void)snprintf(name, sizeof(name), "%s%.*s", prefix, a->name_len, (const char *)a->name);
	return strncmp(name, want, strlen(want)) == 0;
}

struct scan {
	struct ext4_image *img;
	struct ext4_scratch *s;
	const char *prefix;
	uint64_t last_block; /* of attributes, has none of the prefix; files share such blocks */
	uint32_t blocks;
};

static int scan_block(struct scan *scan, const struct ext4_inode *i)
{
	struct region region;

	if (++scan->blocks > SCAN_BLOCKS)
		return -EOVERFLOW;
	if (block_region(scan->img, scan->s, i, &region) < 0 ||
		region_walk(scan->img, scan->s, i->ino, region, prefix_one, (void *)scan->prefix))
		return 1;
	scan->last_block = i->acl_block;
	return 0;
}

static int scan_inode(void *arg, const struct ext4_inode *i)
{
	struct scan *scan = arg;
	struct ext4_inode again;
	struct region region;
	const uint8_t *raw;

	if (ext4_inode_load(scan->img, scan->s, i->ino, &again, &raw) < 0)
		return 1;
	if (inode_region(scan->img, i, raw, &region) &&
		region_walk(scan->img, scan->s, i->ino, region, prefix_one, (void *)scan->prefix))
		return 1;
	return i->acl_block && i->acl_block != scan->last_block ? scan_block(scan, i) : 0;
}

int ext4_image_has_xattr(struct ext4_image *img, struct ext4_scratch *s, const char *prefix)
{
	struct scan scan = {.img = img, .s = s, .prefix = prefix};

	return img->xattr ? ext4_image_inodes(img, s, scan_inode, &scan) : 0;
}
