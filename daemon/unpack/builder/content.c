/* SPDX-License-Identifier: Apache-2.0 */
/*
 * File content on its way to blocks. Whole blocks go from the caller's buffer to the writer's; only
 * the pieces at the edges of blocks meet in `partial`. Blocks of zeros are left out, whether the
 * archive had them as a hole or as zeros. Since one file is written at a time and the allocator
 * only goes forward, a file's blocks lie in a row but for its holes and the superblock's copies.
 *
 * What a later archive member replaces has been written already: its blocks are free in the bitmaps
 * and punched out of the file at the end.
 */
#include "unpack/builder/internal.h"

#include <fcntl.h>

/* 2^32 - 1 blocks of 4 KiB: what an extent can address. */
#define FILE_MAX ((uint64_t)UINT32_MAX * BLOCK)

static bool all_zero(const uint8_t *p, size_t len)
{
	/* The first words decide for nearly every block that is not empty. */
	uint64_t head[4];
	memcpy(head, p, sizeof(head));
	if (head[0] | head[1] | head[2] | head[3])
		return false;
	return memcmp(p, p + sizeof(head), len - sizeof(head)) == 0;
}

static int add_extent(struct node *n, const struct extent *e, struct banger_error *err)
{
	if (n->file.n > 0) {
		struct extent *last = node_extent(n, n->file.n - 1);
		if (last->logical + last->len == e->logical &&
			last->physical + last->len == e->physical &&
			last->len + e->len <= EXT_INIT_MAX_LEN) {
			last->len += e->len;
			return 0;
		}
	}
	uint32_t more = n->file.n > 0 ? n->file.n - 1 : 0;
	/* Full at every power of two. */
	if (n->file.n > 0 && (more & (more - 1)) == 0) {
		struct extent *list =
			reallocarray(n->file.more, more ? more * 2 : 1, sizeof(*list));
		if (!list)
			return banger_error_oom(err);
		n->file.more = list;
	}
	n->file.n++;
	*node_extent(n, n->file.n - 1) = *e;
	return 0;
}

/* Blocks that are not empty, all in a row in the file. */
static int put_run(struct ext4_builder *b, struct node *n, uint32_t logical, const uint8_t *data,
	uint32_t count, struct banger_error *err)
{
	while (count > 0) {
		uint64_t at;
		if (b->o.room && (b->put + count) * BLOCK > b->o.room)
			return banger_error_set(err, BANGER_NO_SPACE,
				"the disk has room for no more than %llu MiB of content, beside "
				"what "
				"is still to be fetched and a reserve",
				(unsigned long long)(b->o.room >> 20));
		uint32_t got = space_take(
			&b->space, count < EXT_INIT_MAX_LEN ? count : EXT_INIT_MAX_LEN, &at);
		if (got == 0)
			return banger_error_set(err, BANGER_NO_SPACE,
				b->o.size
					? "the content does not fit into a filesystem of %lld bytes"
					: "the content is over the limit of a filesystem",
				(long long)b->o.size);
		const struct extent e = {.logical = logical, .physical = at, .len = got};
		int r = add_extent(n, &e, err);
		b->put += got;
		if (r == 0)
			r = writer_put(b->writer, at, data, got, err);
		if (r < 0)
			return r;
		logical += got;
		data += (size_t)got * BLOCK;
		count -= got;
	}
	return 0;
}

/* Whole blocks, of which some may be empty. */
static int put_blocks(struct ext4_builder *b, struct node *n, uint32_t logical, const uint8_t *data,
	uint32_t count, struct banger_error *err)
{
	for (uint32_t i = 0; i < count;) {
		uint32_t run = 0;
		while (i + run < count && !all_zero(data + (size_t)(i + run) * BLOCK, BLOCK))
			run++;
		int r = put_run(b, n, logical + i, data + (size_t)i * BLOCK, run, err);
		if (r < 0)
			return r;
		i += run;
		while (i < count && all_zero(data + (size_t)i * BLOCK, BLOCK))
			i++;
	}
	return 0;
}

/* Ends the block that is being collected, if any. */
static int put_partial(struct ext4_builder *b, struct banger_error *err)
{
	if (b->partial_len == 0)
		return 0;
	uint32_t logical = (b->open_pos - 1) >> BLOCK_BITS;
	memset(b->partial + b->partial_len, 0, BLOCK - b->partial_len);
	b->partial_len = 0;
	return put_blocks(b, node_at(b, b->open), logical, b->partial, 1, err);
}

int content_close(struct ext4_builder *b, struct banger_error *err)
{
	if (!b->open)
		return 0;
	int r = put_partial(b, err);
	struct node *n = node_at(b, b->open);
	if (n->size < b->open_pos)
		n->size = b->open_pos;
	b->open = NONE;
	return r;
}

static int content_open(struct ext4_builder *b, uint32_t node, struct banger_error *err)
{
	if (b->open == node)
		return 0;
	int r = content_close(b, err);
	if (r < 0)
		return r;
	const struct node *n = node_at(b, node);
	if (!node_is(n, S_IFREG))
		return banger_error_set(err, BANGER_BAD_REQUEST, "content of what is not a file");
	if (n->file.n > 0 || n->size > 0)
		return banger_error_set(err, BANGER_INTERNAL, "the file's content has ended");
	b->open = node;
	b->open_pos = 0;
	b->partial_len = 0;
	return 0;
}

/* Moves the position forward over a hole. */
static int skip_to(struct ext4_builder *b, uint64_t offset, struct banger_error *err)
{
	uint32_t within = offset % BLOCK;
	int r = 0;

	if (b->partial_len > 0 && offset >> BLOCK_BITS != b->open_pos >> BLOCK_BITS)
		r = put_partial(b, err);
	memset(b->partial + b->partial_len, 0,
		within > b->partial_len ? within - b->partial_len : 0);
	b->partial_len = within;
	b->open_pos = offset;
	return r;
}

static int check_range(
	const struct ext4_builder *b, uint64_t offset, size_t len, struct banger_error *err)
{
	if (offset > FILE_MAX || len > FILE_MAX - offset)
		return banger_error_set(
			err, BANGER_TOO_LARGE, "a file of more than the 16 TiB that ext4 takes");
	if (offset < b->open_pos)
		return banger_error_set(
			err, BANGER_BAD_REQUEST, "content that goes back to an earlier offset");
	return 0;
}

int ext4_builder_write(struct ext4_builder *b, ext4_node node, uint64_t offset, const void *data,
	size_t len, struct banger_error *err)
{
	const uint8_t *p = data;
	int r = content_open(b, node, err);

	if (r == 0)
		r = check_range(b, offset, len, err);
	if (r == 0 && offset > b->open_pos && len > 0)
		r = skip_to(b, offset, err);
	if (r < 0)
		return r;
	b->content += len;
	if (b->partial_len > 0 || len < BLOCK) {
		size_t now = len < BLOCK - b->partial_len ? len : BLOCK - b->partial_len;
		if (now > 0)
			memcpy(b->partial + b->partial_len, p, now);
		b->partial_len += now;
		b->open_pos += now;
		p += now;
		len -= now;
		if (b->partial_len == BLOCK && (r = put_partial(b, err)) < 0)
			return r;
	}
	if (len >= BLOCK) {
		uint32_t whole = len >> BLOCK_BITS;
		r = put_blocks(b, node_at(b, node), b->open_pos >> BLOCK_BITS, p, whole, err);
		if (r < 0)
			return r;
		p += (size_t)whole * BLOCK;
		b->open_pos += (uint64_t)whole * BLOCK;
		len -= (size_t)whole * BLOCK;
	}
	if (len > 0) {
		memcpy(b->partial, p, len);
		b->partial_len = len;
		b->open_pos += len;
	}
	return 0;
}

int ext4_builder_end_file(
	struct ext4_builder *b, ext4_node node, uint64_t size, struct banger_error *err)
{
	int r = content_open(b, node, err);

	if (r == 0)
		r = check_range(b, size, 0, err);
	if (r == 0)
		r = content_close(b, err);
	if (r < 0)
		return r;
	node_at(b, node)->size = size;
	record_content(b->record, node, node_at(b, node));
	return 0;
}

/* A file's content as a record has it: the allocator gives it the places that it got before, so a
 * record cannot put it anywhere else. */
int content_adopt(struct ext4_builder *b, uint32_t node, uint64_t size, struct banger_error *err)
{
	int r = content_open(b, node, err);

	if (r == 0)
		r = check_range(b, size, 0, err);
	if (r < 0)
		return r;
	b->open = NONE;
	node_at(b, node)->size = size;
	return 0;
}

int content_adopt_run(struct ext4_builder *b, uint32_t node, uint32_t logical, uint32_t len,
	struct banger_error *err)
{
	uint64_t at;

	if (len == 0 || len > EXT_INIT_MAX_LEN || space_take(&b->space, len, &at) != len)
		return banger_error_set(err, BANGER_CORRUPT, "content in another place");
	const struct extent e = {.logical = logical, .physical = at, .len = len};
	return add_extent(node_at(b, node), &e, err);
}

/* Gives back the blocks of a file whose last name is gone. */
int content_forget(struct ext4_builder *b, uint32_t node, struct banger_error *err)
{
	struct node *n = node_at(b, node);

	if (b->open == node) {
		b->open = NONE;
		b->partial_len = 0;
	}
	for (uint32_t i = 0; i < n->file.n; i++) {
		if (b->n_freed == b->cap_freed) {
			size_t cap = b->cap_freed ? b->cap_freed * 2 : 64;
			struct extent *list = reallocarray(b->freed, cap, sizeof(*list));
			if (!list)
				return banger_error_oom(err);
			b->freed = list;
			b->cap_freed = cap;
		}
		b->freed[b->n_freed++] = *node_extent(n, i);
	}
	free(TAKE_PTR(n->file.more));
	n->file.n = 0;
	return 0;
}

static int by_place(const void *a, const void *b)
{
	uint32_t pa = ((const struct extent *)a)->physical,
		 pb = ((const struct extent *)b)->physical;

	return pa < pb ? -1 : pa > pb;
}

/* What was removed together was often written together: one hole instead of many. */
static void merge_freed(struct ext4_builder *b)
{
	size_t n = 0;

	if (b->n_freed == 0)
		return;
	qsort(b->freed, b->n_freed, sizeof(*b->freed), by_place);
	for (size_t i = 1; i < b->n_freed; i++) {
		struct extent *last = &b->freed[n];
		if (last->physical + last->len == b->freed[i].physical)
			last->len += b->freed[i].len;
		else
			b->freed[++n] = b->freed[i];
	}
	b->n_freed = n + 1;
}

/* Makes a hole of blocks. A file that cannot have holes keeps stale bytes in free blocks, so they
 * are overwritten there. */
static int punch(struct ext4_builder *b, const struct extent *e, struct banger_error *err)
{
	off_t at = (off_t)e->physical * BLOCK, len = (off_t)e->len * BLOCK;

	if (fallocate(b->o.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, len) == 0)
		return 0;
	if (errno != EOPNOTSUPP)
		return banger_error_set_errno(err, errno, "cannot free blocks of the image");
	memset(b->block, 0, BLOCK);
	for (uint32_t k = 0; k < e->len; k++) {
		int r = writer_put(b->writer, e->physical + k, b->block, 1, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Nothing that was removed stays readable. What the writer has must be in the file. */
int content_punch(struct ext4_builder *b, struct banger_error *err)
{
	merge_freed(b);
	for (size_t i = 0; i < b->n_freed; i++) {
		int r = punch(b, &b->freed[i], err);
		if (r < 0)
			return r;
	}
	return 0;
}
