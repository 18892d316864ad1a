/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sparse files as GNU tar archives them (its manual, "Storing Sparse Files"). The archive holds
 * only the pieces that are no holes, one behind another, and a map of where in the file they belong:
 *
 *	old GNU  type 'S', the map in the header and in blocks behind it
 *	0.0      pairs of GNU.sparse.offset and .numbytes in the extended header
 *	0.1      GNU.sparse.map, the same as one list
 *	1.0      the map as lines of text at the start of the content, filled up to a block
 */
#include "unpack/tar/internal.h"

#include <stdlib.h>

#define OLD_IN_HEADER 4
#define OLD_IN_BLOCK 21
#define OLD_MAP 386 /* offsets in the header */
#define OLD_EXTENDED 482
#define OLD_REALSIZE 483

int tar_add_piece(struct tar_reader *t, uint64_t offset, uint64_t len, struct banger_error *err)
{
	if (t->n_pieces == t->cap_pieces) {
		size_t cap = t->cap_pieces ? t->cap_pieces * 2 : 16;
		if (cap > TAR_SPARSE_MAX)
			return banger_error_set(err, BANGER_TOO_LARGE,
				"a sparse file of more than %u pieces", TAR_SPARSE_MAX);
		struct tar_piece *list = reallocarray(t->pieces, cap, sizeof(*list));
		if (!list)
			return banger_error_oom(err);
		t->pieces = list;
		t->cap_pieces = cap;
	}
	t->pieces[t->n_pieces++] = (struct tar_piece){offset, len};
	return 0;
}

static int bad_map(struct banger_error *err)
{
	return banger_error_set(err, BANGER_CORRUPT, "a sparse file's map is not well-formed");
}

/* ---- old GNU */

static int old_entries(struct tar_reader *t, const char *p, int n, struct banger_error *err)
{
	for (int i = 0; i < n; i++, p += 24) {
		int64_t offset, len;
		if (p[0] == '\0' || p[12] == '\0')
			return 0; /* the list ends with an empty entry */
		if (tar_number(p, 12, &offset) < 0 || tar_number(p + 12, 12, &len) < 0 ||
			offset < 0 || len < 0)
			return bad_map(err);
		int r = tar_add_piece(t, offset, len, err);
		if (r < 0)
			return r;
	}
	return 0;
}

int tar_sparse_old(struct tar_reader *t, const struct tar_header *h, struct banger_error *err)
{
	const char *raw = (const char *)h;
	char block[TAR_BLOCK_SIZE];
	int64_t size;
	bool more = raw[OLD_EXTENDED] != 0;
	int r = old_entries(t, raw + OLD_MAP, OLD_IN_HEADER, err);

	if (r < 0)
		return r;
	if (tar_number(raw + OLD_REALSIZE, 12, &size) < 0 || size < 0)
		return bad_map(err);
	t->member.size = size;
	while (more) {
		r = tar_take(t, block, sizeof(block), err);
		if (r == 0)
			r = old_entries(t, block, OLD_IN_BLOCK, err);
		if (r < 0)
			return r;
		more = block[504] != 0;
	}
	t->sparse = true;
	return 0;
}

/* ---- in extended headers */

/* 0.1: offset,length,offset,length,… */
static int parse_list(struct tar_reader *t, const struct tar_string *map, struct banger_error *err)
{
	const char *p = map->s, *end = p + map->len;
	int64_t v[2];

	for (int i = 0; p < end; i ^= 1) {
		const char *comma = memchr(p, ',', end - p);
		size_t len = comma ? (size_t)(comma - p) : (size_t)(end - p);
		if (tar_decimal(p, len, &v[i]) < 0 || v[i] < 0)
			return bad_map(err);
		int r = i ? tar_add_piece(t, v[0], v[1], err) : 0;
		if (r < 0)
			return r;
		p += len + 1;
		if (p >= end && i == 0)
			return bad_map(err);
	}
	return 0;
}

/* Lines of text at the start of the content. */
struct lines {
	struct tar_reader *t;
	char block[TAR_BLOCK_SIZE];
	size_t at, len;
};

static int next_number(struct lines *l, int64_t *ret, struct banger_error *err)
{
	char digits[24];

	for (size_t n = 0;; n++) {
		if (l->at == l->len) {
			if (l->t->data_left < sizeof(l->block))
				return bad_map(err);
			int r = tar_take(l->t, l->block, sizeof(l->block), err);
			if (r < 0)
				return r;
			l->t->data_left -= sizeof(l->block);
			l->at = 0;
			l->len = sizeof(l->block);
		}
		char c = l->block[l->at++];
		if (c == '\n')
			return tar_decimal(digits, n, ret) < 0 || *ret < 0 ? bad_map(err) : 0;
		if (n == sizeof(digits))
			return bad_map(err);
		digits[n] = c;
	}
}

static int parse_lines(struct tar_reader *t, struct banger_error *err)
{
	struct lines l = {.t = t};
	int64_t n, offset, len;
	int r = next_number(&l, &n, err);

	for (int64_t i = 0; i < n && r == 0; i++) {
		r = next_number(&l, &offset, err);
		if (r == 0)
			r = next_number(&l, &len, err);
		if (r == 0)
			r = tar_add_piece(t, offset, len, err);
	}
	return r;
}

int tar_sparse_pax(struct tar_reader *t, const struct tar_pax *pax, struct banger_error *err)
{
	bool lines = pax->sparse_major > 0;
	int r = 0;

	if (!lines && !pax->sparse_map.s && !pax->sparse_pairs)
		return 0;
	if (lines && (pax->sparse_major != 1 || pax->sparse_minor > 0))
		return banger_error_set(err, BANGER_UNSUPPORTED,
			"a sparse file of the unknown version %lld.%lld",
			(long long)pax->sparse_major, (long long)pax->sparse_minor);
	if (pax->pair_open || pax->sparse_size < 0)
		return bad_map(err);
	if (lines)
		r = parse_lines(t, err);
	else if (pax->sparse_map.s)
		r = parse_list(t, &pax->sparse_map, err);
	t->member.size = pax->sparse_size;
	t->sparse = true;
	return r;
}

int tar_sparse_check(struct tar_reader *t, struct banger_error *err)
{
	uint64_t end = 0, sum = 0;

	if (!t->sparse)
		return 0;
	for (size_t i = 0; i < t->n_pieces; i++) {
		const struct tar_piece *p = &t->pieces[i];
		if (p->offset < end || p->offset > t->member.size ||
			p->len > t->member.size - p->offset)
			return bad_map(err);
		end = p->offset + p->len;
		sum += p->len;
	}
	return sum == t->data_left ? 0 : bad_map(err);
}
