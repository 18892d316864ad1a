/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A part of the tree becomes a filesystem of its own. The walk is over names, directories before
 * what is in them, without recursion. Names of one file stay names of one file; those that are
 * outside of the part are not there, of course.
 *
 * Content is read back from the image's file, where it is already (it may have been written around
 * the page cache, so it is read in whole blocks into an aligned buffer).
 */
#include "unpack/builder/internal.h"

#include <unistd.h>

#define PIECE_BLOCKS 64u

struct copy {
	struct ext4_builder *from, *to;
	uint32_t *map; /* node of `from` to node of `to` */
	uint8_t *piece;
};

static struct ext4_time time_of(stamp t)
{
	return (struct ext4_time){
		.sec = (int64_t)stamp_sec_biased(t) + INT32_MIN, .nsec = t & ((1u << 30) - 1)};
}

static struct ext4_attr attr_of(const struct node *n)
{
	struct ext4_attr a = {.mode = n->mode,
		.uid = n->uid,
		.gid = n->gid,
		.mtime = time_of(n->mtime),
		.atime = time_of(n->atime),
		.ctime = time_of(n->ctime)};

	if (node_is(n, S_IFCHR) || node_is(n, S_IFBLK)) {
		a.major = n->dev.major;
		a.minor = n->dev.minor;
	}
	return a;
}

static int copy_extent(struct copy *c, const struct extent *e, uint64_t size, uint32_t node,
	struct banger_error *err)
{
	for (uint32_t done = 0; done < e->len;) {
		uint32_t want = e->len - done < PIECE_BLOCKS ? e->len - done : PIECE_BLOCKS;
		uint64_t at = (uint64_t)(e->logical + done) * BLOCK;
		ssize_t n = pread(c->from->o.fd, c->piece, (size_t)want * BLOCK,
			((off_t)e->physical + done) * BLOCK);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < (ssize_t)BLOCK)
			return banger_error_set_errno(
				err, n < 0 ? errno : EIO, "cannot read the image back");
		uint32_t blocks = n / BLOCK;
		size_t len = (size_t)blocks * BLOCK;
		if (at + len > size)
			len = size > at ? size - at : 0;
		int r = ext4_builder_write(c->to, node, at, c->piece, len, err);
		if (r < 0)
			return r;
		done += blocks;
	}
	return 0;
}

static int copy_content(struct copy *c, struct node *n, uint32_t node, struct banger_error *err)
{
	int r = 0;

	for (uint32_t i = 0; i < n->file.n && r == 0; i++)
		r = copy_extent(c, node_extent(n, i), n->size, node, err);
	return r < 0 ? r : ext4_builder_end_file(c->to, node, n->size, err);
}

static int copy_node(struct copy *c, uint32_t k, uint32_t dir, struct banger_error *err)
{
	const struct name *m = name_at(c->from, k);
	struct node *n = node_at(c->from, m->node);
	const struct ext4_attr a = attr_of(n);
	bool link = node_is(n, S_IFLNK);
	ext4_node node;

	if (c->map[m->node])
		return ext4_builder_link(c->to, dir, m->text, m->len, c->map[m->node], err);
	int r = ext4_builder_add(c->to, dir, m->text, m->len, &a, link ? n->link.target : NULL,
		link ? n->size : 0, &node, err);
	if (r < 0)
		return r;
	c->map[m->node] = node;
	if (n->xattrs)
		r = xattr_copy(c->from, n->xattrs, c->to, node, err);
	if (r == 0 && node_is(n, S_IFREG))
		r = copy_content(c, n, node, err);
	return r;
}

static int copy_below(struct copy *c, uint32_t top, struct banger_error *err)
{
	uint32_t dir = top, k = node_at(c->from, top)->dir.head;

	for (;;) {
		if (!k) {
			if (dir == top)
				return 0;
			const struct node *d = node_at(c->from, dir);
			k = name_at(c->from, d->dir.self)->next;
			dir = d->dir.parent;
			continue;
		}
		int r = copy_node(c, k, c->map[dir], err);
		if (r < 0)
			return r;
		const struct name *m = name_at(c->from, k);
		const struct node *n = node_at(c->from, m->node);
		if (node_is(n, S_IFDIR)) {
			dir = m->node;
			k = n->dir.head;
		} else {
			k = m->next;
		}
	}
}

static int copy_root(struct copy *c, uint32_t dir, struct banger_error *err)
{
	const struct node *n = node_at(c->from, dir);
	const struct ext4_attr a = attr_of(n);

	c->map[dir] = EXT4_BUILDER_ROOT;
	ext4_builder_set_attr(c->to, EXT4_BUILDER_ROOT, &a);
	return n->xattrs ? xattr_copy(c->from, n->xattrs, c->to, EXT4_BUILDER_ROOT, err) : 0;
}

int ext4_builder_copy(
	struct ext4_builder *b, ext4_node dir, struct ext4_builder *to, struct banger_error *err)
{
	struct copy c = {.from = b, .to = to};
	struct node *root = node_at(to, EXT4_BUILDER_ROOT);

	if (!dir) {
		root->mode = (root->mode & ~07777) | 0700;
		return 0;
	}
	_cleanup_free_ uint32_t *map = calloc(b->nodes.count + 1, sizeof(*map));
	_cleanup_free_ uint8_t *piece = NULL;
	if (posix_memalign((void **)&piece, BLOCK, PIECE_BLOCKS * BLOCK) != 0)
		piece = NULL;
	if (!map || !piece)
		return banger_error_oom(err);
	c.map = map;
	c.piece = piece;
	int r = content_close(b, err);
	if (r == 0)
		r = writer_flush(b->writer, err);
	if (r == 0)
		r = copy_root(&c, dir, err);
	return r < 0 ? r : copy_below(&c, dir, err);
}

/* One extent's share of the buffer, by whole blocks. */
static int read_extent(const struct ext4_builder *b, const struct extent *e, uint8_t *block,
	char *buf, size_t len, struct banger_error *err)
{
	for (uint32_t i = 0; i < e->len; i++) {
		uint64_t at = (uint64_t)(e->logical + i) * BLOCK;
		if (at >= len)
			break;
		ssize_t n = pread(b->o.fd, block, BLOCK, ((off_t)e->physical + i) * BLOCK);
		if (n != (ssize_t)BLOCK)
			return banger_error_set_errno(
				err, n < 0 ? errno : EIO, "cannot read the image back");
		memcpy(buf + at, block, len - at < BLOCK ? len - at : BLOCK);
	}
	return 0;
}

int ext4_builder_read(struct ext4_builder *b, ext4_node file, char *buf, size_t size,
	size_t *ret_len, struct banger_error *err)
{
	struct node *n = file ? node_at(b, file) : NULL;
	_cleanup_free_ uint8_t *block = NULL;

	*ret_len = 0;
	if (!n || !node_is(n, S_IFREG))
		return 0;
	if (posix_memalign((void **)&block, BLOCK, BLOCK) != 0) {
		block = NULL;
		return banger_error_oom(err);
	}
	int r = content_close(b, err);
	if (r == 0)
		r = writer_flush(b->writer, err);
	size_t len = n->size < size ? n->size : size;
	memset(buf, 0, len);
	for (uint32_t i = 0; i < n->file.n && r == 0; i++)
		r = read_extent(b, node_extent(n, i), block, buf, len, err);
	if (r == 0)
		*ret_len = len;
	return r;
}
