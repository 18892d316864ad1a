/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An archive is a row of blocks of 512 bytes: a header, the content filled up to a block, the next
 * header, …, and at the end a block of zeros, which is required: without it an archive that was cut
 * off between two members would look whole. Some "headers" only say something of the next member:
 * extended ones (x, g), and GNU's long names (L, K). They are collected until the member comes.
 * Where a digest vouches for the archive the end of the data is its end too, as for Go's reader,
 * which is what most layers are written for.
 *
 * Where the same fact is said in several places the more specific one counts: extended header, GNU
 * long name, header. Which types have content in the archive is GNU tar's rule and Go's: a hard
 * link, a device, a directory has none, whatever its size field says.
 *
 * Content is handed out in pieces as they lie in the stream's buffers.
 */
#include "unpack/tar/internal.h"

#include <stdlib.h>

/* ---- bytes of the stream */

/* Makes sure that something is left. Returns 0 at the end of the stream. */
static int refill(struct tar_reader *t, struct banger_error *err)
{
	while (t->left == 0 && !t->ended) {
		int r = stream_next(t->stream, &t->at, &t->left, err);
		if (r < 0)
			return r;
		t->ended = r == 0;
	}
	return t->left > 0;
}

static void advance(struct tar_reader *t, size_t n)
{
	t->at += n;
	t->left -= n;
	t->position += n;
}

static int cut_off(const struct tar_reader *t, struct banger_error *err)
{
	return banger_error_set(err, BANGER_CORRUPT, "the archive ends too early, at byte %llu",
		(unsigned long long)t->position);
}

/* Like tar_take(), but returns 0 if there is nothing at all, 1 if all was there. */
static int take_or_end(struct tar_reader *t, uint8_t *to, size_t len, struct banger_error *err)
{
	for (size_t have = 0; have < len;) {
		int r = refill(t, err);
		if (r < 0)
			return r;
		if (r == 0)
			return have == 0 ? 0 : cut_off(t, err);
		size_t n = t->left < len - have ? t->left : len - have;
		memcpy(to + have, t->at, n);
		advance(t, n);
		have += n;
	}
	return 1;
}

int tar_take(struct tar_reader *t, void *to, size_t len, struct banger_error *err)
{
	int r = take_or_end(t, to, len, err);

	if (r == 0 && len > 0)
		return cut_off(t, err);
	return r < 0 ? r : 0;
}

int tar_skip(struct tar_reader *t, uint64_t len, struct banger_error *err)
{
	while (len > 0) {
		int r = refill(t, err);
		if (r <= 0)
			return r < 0 ? r : cut_off(t, err);
		size_t n = t->left < len ? t->left : len;
		advance(t, n);
		len -= n;
	}
	return 0;
}

uint64_t tar_position(const struct tar_reader *t)
{
	return t->position;
}

int tar_corrupt(
	const struct tar_reader *t, uint64_t offset, const char *what, struct banger_error *err)
{
	return banger_error_set(err, BANGER_CORRUPT, "%s at byte %llu of the archive", what,
		(unsigned long long)offset);
}

int tar_append(struct tar_buffer *b, const void *data, size_t len, struct banger_error *err)
{
	if (len >= b->room - b->len || !b->data) {
		size_t room = b->room ? b->room * 2 : 256;
		while (room - b->len <= len)
			room *= 2;
		char *p = realloc(b->data, room);
		if (!p)
			return banger_error_oom(err);
		b->data = p;
		b->room = room;
	}
	if (len > 0)
		memcpy(b->data + b->len, data, len);
	b->len += len;
	b->data[b->len] = '\0';
	return 0;
}

void tar_buffer_done(struct tar_buffer *b)
{
	free(b->data);
	*b = (struct tar_buffer){0};
}

/* ---- construction */

int tar_new(struct stream *stream, bool whole, struct tar_reader **ret, struct banger_error *err)
{
	struct tar_reader *t = calloc(1, sizeof(*t));

	if (!t)
		return banger_error_oom(err);
	t->stream = stream;
	t->whole = whole;
	*ret = t;
	return 0;
}

void tar_freep(struct tar_reader **pt)
{
	struct tar_reader *t = TAKE_PTR(*pt);

	if (!t)
		return;
	tar_buffer_done(&t->global);
	tar_buffer_done(&t->local);
	tar_buffer_done(&t->long_name);
	tar_buffer_done(&t->long_link);
	tar_buffer_done(&t->path);
	tar_buffer_done(&t->link);
	tar_buffer_done(&t->values);
	free(t->attrs);
	free(t->xattrs);
	free(t->pieces);
	free(t);
}

/* ---- headers */

static bool is_zero(const struct tar_header *h)
{
	const char *p = (const char *)h;

	return p[0] == 0 && memcmp(p, p + 1, sizeof(*h) - 1) == 0;
}

/* The sum of the header's bytes, its own field as blanks; old tars took bytes as signed. */
static bool checksum_ok(const struct tar_header *h)
{
	const uint8_t *p = (const uint8_t *)h;
	int64_t stated, plain = 0, with_sign = 0;

	if (tar_number(h->checksum, sizeof(h->checksum), &stated) < 0)
		return false;
	for (size_t i = 0; i < sizeof(*h); i++) {
		bool own = i >= offsetof(struct tar_header, checksum) &&
			   i < offsetof(struct tar_header, type);
		uint8_t byte = own ? ' ' : p[i];
		plain += byte;
		with_sign += (int8_t)byte;
	}
	return stated == plain || stated == with_sign;
}

/* Reads the next header: 1, or 0 at the end of the archive. */
static int read_header(struct tar_reader *t, struct tar_header *h, struct banger_error *err)
{
	uint64_t offset = t->position;
	int r = take_or_end(t, (uint8_t *)h, sizeof(*h), err);

	if (r < 0 && !t->any && t->ended && t->position < sizeof(*h))
		return banger_error_set(err, BANGER_BAD_REQUEST, "not a tar archive");
	if (r < 0)
		return r;
	if (r == 0 && t->whole)
		return 0;
	if (r == 0 && offset == 0)
		return banger_error_set(err, BANGER_BAD_REQUEST, "the archive is empty");
	if (r == 0)
		return banger_error_set(err, BANGER_CORRUPT,
			"the archive has no end mark: it was cut off at byte %llu",
			(unsigned long long)offset);
	if (is_zero(h)) {
		r = take_or_end(t, (uint8_t *)h, sizeof(*h), err);
		if (r < 0)
			return r;
		return r == 0 || is_zero(h) ? 0
					    : tar_corrupt(t, offset, "a lone block of zeros", err);
	}
	if (!checksum_ok(h))
		return t->any ? tar_corrupt(t, offset, "a header with a wrong checksum", err)
			      : banger_error_set(err, BANGER_BAD_REQUEST, "not a tar archive");
	t->any = true;
	return 1;
}

static int header_size(const struct tar_reader *t, const struct tar_header *h, int64_t *ret,
	struct banger_error *err)
{
	if (tar_number(h->size, sizeof(h->size), ret) < 0 || *ret < 0)
		return tar_corrupt(
			t, t->position - TAR_BLOCK_SIZE, "a header with a size that is none", err);
	return 0;
}

static uint32_t padding_of(uint64_t size)
{
	return -size % TAR_BLOCK_SIZE;
}

/* The content of a header that is about the next member, appended to *to. */
static int read_extension(struct tar_reader *t, const struct tar_header *h, struct tar_buffer *to,
	size_t max, struct banger_error *err)
{
	uint64_t offset = t->position - TAR_BLOCK_SIZE;
	int64_t size;
	int r = header_size(t, h, &size, err);

	if (r < 0)
		return r;
	if ((uint64_t)size > max || to->len > max - (size_t)size)
		return banger_error_set(err, BANGER_TOO_LARGE,
			"an extended header of %lld bytes at byte %llu of the archive is over the "
			"limit of %zu",
			(long long)size, (unsigned long long)offset, max);
	for (uint64_t left = size; left > 0;) {
		r = refill(t, err);
		if (r <= 0)
			return r < 0 ? r : cut_off(t, err);
		size_t n = t->left < left ? t->left : left;
		r = tar_append(to, t->at, n, err);
		if (r < 0)
			return r;
		advance(t, n);
		left -= n;
	}
	return tar_skip(t, padding_of(size), err);
}

static int read_long(struct tar_reader *t, const struct tar_header *h, struct tar_buffer *to,
	struct banger_error *err)
{
	to->len = 0;
	int r = read_extension(t, h, to, TAR_EXTENDED_MAX, err);
	if (r == 0 && to->len > 0)
		to->len = strnlen(to->data, to->len);
	return r;
}

/* ---- from header to member */

enum layout { V7, USTAR, GNU, STAR };

static enum layout layout_of(const struct tar_header *h)
{
	if (memcmp(h->magic, "ustar  ", 8) == 0)
		return GNU;
	if (memcmp(h->magic, "ustar", 6) != 0)
		return V7;
	return memcmp(h->pad + 8, "tar", 4) == 0 ? STAR : USTAR;
}

static int set_name(struct tar_reader *t, const struct tar_header *h, const struct tar_pax *pax,
	struct banger_error *err)
{
	enum layout layout = layout_of(h);
	size_t prefix_max = layout == USTAR ? sizeof(h->prefix) : layout == STAR ? 131 : 0;
	size_t prefix = strnlen(h->prefix, prefix_max);
	int r = 0;

	t->path.len = 0;
	if (pax->sparse_name.s)
		return tar_append(&t->path, pax->sparse_name.s, pax->sparse_name.len, err);
	if (pax->path.s)
		return tar_append(&t->path, pax->path.s, pax->path.len, err);
	if (t->long_name.len > 0)
		return tar_append(&t->path, t->long_name.data, t->long_name.len, err);
	if (prefix > 0) {
		r = tar_append(&t->path, h->prefix, prefix, err);
		if (r == 0)
			r = tar_append(&t->path, "/", 1, err);
	}
	if (r == 0)
		r = tar_append(&t->path, h->name, strnlen(h->name, sizeof(h->name)), err);
	return r;
}

static int set_link(struct tar_reader *t, const struct tar_header *h, const struct tar_pax *pax,
	struct banger_error *err)
{
	t->link.len = 0;
	if (pax->link.s)
		return tar_append(&t->link, pax->link.s, pax->link.len, err);
	if (t->long_link.len > 0)
		return tar_append(&t->link, t->long_link.data, t->long_link.len, err);
	return tar_append(&t->link, h->link, strnlen(h->link, sizeof(h->link)), err);
}

/* One of the header's numbers, which must be within [0, max]. */
static int field(const struct tar_reader *t, const char *name, const char *f, size_t len,
	int64_t max, int64_t *ret, struct banger_error *err)
{
	if (tar_number(f, len, ret) == 0 && *ret >= 0 && *ret <= max)
		return 0;
	return banger_error_set(err, BANGER_CORRUPT, "the header's %s is out of range", name);
}

static int set_owner(struct tar_reader *t, const struct tar_header *h, const struct tar_pax *pax,
	struct banger_error *err)
{
	struct tar_member *m = &t->member;
	int64_t uid = pax->uid, gid = pax->gid;
	int r = 0;

	if (!pax->has_uid)
		r = field(t, "uid", h->uid, sizeof(h->uid), INT64_MAX, &uid, err);
	if (r == 0 && !pax->has_gid)
		r = field(t, "gid", h->gid, sizeof(h->gid), INT64_MAX, &gid, err);
	if (r < 0)
		return r;
	if (uid > UINT32_MAX || gid > UINT32_MAX)
		return banger_error_set(err, BANGER_UNSUPPORTED,
			"the owner %lld:%lld is beyond 32 bits", (long long)uid, (long long)gid);
	m->uid = uid;
	m->gid = gid;
	return 0;
}

static int set_times(struct tar_reader *t, const struct tar_header *h, const struct tar_pax *pax,
	struct banger_error *err)
{
	struct tar_member *m = &t->member;

	m->mtime = pax->mtime;
	if (!pax->has_mtime) {
		m->mtime.nsec = 0;
		if (tar_number(h->mtime, sizeof(h->mtime), &m->mtime.sec) < 0)
			return banger_error_set(
				err, BANGER_CORRUPT, "the header's mtime is not a number");
	}
	m->atime = pax->has_atime ? pax->atime : m->mtime;
	m->ctime = pax->has_ctime ? pax->ctime : m->mtime;
	return 0;
}

static int set_xattrs(struct tar_reader *t, struct banger_error *err)
{
	if (t->n_attrs > t->cap_xattrs) {
		struct tar_xattr *list = reallocarray(t->xattrs, t->cap_attrs, sizeof(*list));
		if (!list)
			return banger_error_oom(err);
		t->xattrs = list;
		t->cap_xattrs = t->cap_attrs;
	}
	for (size_t i = 0; i < t->n_attrs; i++) {
		const struct tar_attr *a = &t->attrs[i];
		t->xattrs[i].name =
			(struct tar_string){t->values.data + a->name, a->value - a->name};
		t->xattrs[i].value =
			(struct tar_string){t->values.data + a->value, a->end - a->value};
	}
	t->member.xattrs = t->xattrs;
	t->member.n_xattrs = t->n_attrs;
	return 0;
}

static int set_type(struct tar_reader *t, const struct tar_header *h, bool *ret_content,
	struct banger_error *err)
{
	struct tar_member *m = &t->member;

	*ret_content = false;
	switch (h->type) {
	case '0':
	case '\0':
	case '7':
	case 'S':
		*ret_content = true;
		m->type = TAR_FILE;
		/* Before there was a type for directories they were files with such a name. */
		if (t->path.len > 0 && t->path.data[t->path.len - 1] == '/' && h->type != 'S')
			m->type = TAR_DIR;
		return 0;
	case '1':
		m->type = TAR_LINK;
		return 0;
	case '2':
		m->type = TAR_SYMLINK;
		return 0;
	case '3':
		m->type = TAR_CHAR;
		return 0;
	case '4':
		m->type = TAR_BLOCK;
		return 0;
	case 'D': /* an incremental archive's directory, with a list of names as its content */
		*ret_content = true;
		m->type = TAR_DIR;
		return 0;
	case '5':
		m->type = TAR_DIR;
		return 0;
	case '6':
		m->type = TAR_FIFO;
		return 0;
	case 'M':
		return banger_error_set(
			err, BANGER_UNSUPPORTED, "a part of an archive of several volumes");
	default:
		return banger_error_set(err, BANGER_UNSUPPORTED, "a member of unknown type 0x%02x",
			(unsigned)(uint8_t)h->type);
	}
}

static int set_device(struct tar_reader *t, const struct tar_header *h, struct banger_error *err)
{
	int64_t major, minor;
	int r = field(t, "device number", h->major, sizeof(h->major), UINT32_MAX, &major, err);

	if (r == 0)
		r = field(t, "device number", h->minor, sizeof(h->minor), UINT32_MAX, &minor, err);
	if (r < 0)
		return r;
	t->member.major = major;
	t->member.minor = minor;
	return 0;
}

static int set_size(struct tar_reader *t, const struct tar_header *h, const struct tar_pax *pax,
	bool content, struct banger_error *err)
{
	int64_t size = pax->size;
	int r = pax->has_size ? 0 : header_size(t, h, &size, err);

	if (r < 0)
		return r;
	t->data_left = content ? size : 0;
	t->padding = padding_of(t->data_left);
	t->member.size = t->member.type == TAR_FILE ? size : 0;
	return 0;
}

static int set_mode(struct tar_reader *t, const struct tar_header *h, struct banger_error *err)
{
	int64_t mode;
	int r = field(t, "mode", h->mode, sizeof(h->mode), UINT32_MAX, &mode, err);

	/* Some writers put the file type there too; the type is elsewhere. */
	t->member.mode = r < 0 ? 0 : mode & 07777;
	return r;
}

/* Everything about the member but its map, if it is sparse. */
static int describe(struct tar_reader *t, const struct tar_header *h, struct tar_pax *pax,
	struct banger_error *err)
{
	bool content = false;
	int r = tar_pax_apply(t, &t->global, pax, err);

	if (r == 0)
		r = tar_pax_apply(t, &t->local, pax, err);
	if (r == 0)
		r = set_name(t, h, pax, err);
	if (r == 0)
		r = set_link(t, h, pax, err);
	t->member.path = (struct tar_string){t->path.data ? t->path.data : "", t->path.len};
	t->member.link = (struct tar_string){t->link.data ? t->link.data : "", t->link.len};
	if (r == 0)
		r = set_type(t, h, &content, err);
	if (r == 0)
		r = set_mode(t, h, err);
	if (r == 0)
		r = set_owner(t, h, pax, err);
	if (r == 0)
		r = set_times(t, h, pax, err);
	if (r == 0 && (t->member.type == TAR_CHAR || t->member.type == TAR_BLOCK))
		r = set_device(t, h, err);
	if (r == 0)
		r = set_size(t, h, pax, content, err);
	if (r == 0)
		r = set_xattrs(t, err);
	return r;
}

static int find_map(struct tar_reader *t, const struct tar_header *h, const struct tar_pax *pax,
	struct banger_error *err)
{
	int r = 0;

	if (t->member.type != TAR_FILE)
		return 0;
	if (h->type == 'S')
		r = tar_sparse_old(t, h, err);
	else
		r = tar_sparse_pax(t, pax, err);
	return r < 0 ? r : tar_sparse_check(t, err);
}

/* Puts the member's name before an error, with what is not plain in it as '?', its end if it is
 * long; where no name is known yet, its place alone. */
static int blame(const struct tar_reader *t, int r, struct banger_error *err)
{
	size_t len = t->path.len, from = len > 200 ? len - 200 : 0;
	unsigned long long offset = t->member.offset;

	if (len > 0)
		banger_error_prefix(err, "member \"%s%.*s\" at byte %llu of the archive",
			from ? "…" : "", (int)(len - from), t->path.data + from, offset);
	else
		banger_error_prefix(err, "member at byte %llu of the archive", offset);
	return r;
}

static int skip_rest(struct tar_reader *t, struct banger_error *err)
{
	int r = tar_skip(t, t->data_left + t->padding, err);

	if (r < 0)
		return blame(t, r, err);
	t->data_left = t->padding = 0;
	t->path.len = t->long_name.len = t->long_link.len = t->local.len = t->values.len = 0;
	t->n_attrs = t->n_pieces = t->piece = 0;
	t->data_at = t->piece_done = 0;
	t->sparse = false;
	return 0;
}

/* The stream goes on behind the archive's end: what is left of the last record, and the checks of
 * the compressed form. */
static int drain(struct tar_reader *t, struct banger_error *err)
{
	int r;

	while ((r = refill(t, err)) > 0)
		advance(t, t->left);
	return r;
}

static int take_member(struct tar_reader *t, const struct tar_header *h, struct banger_error *err)
{
	struct tar_pax pax = {.sparse_major = -1, .sparse_minor = -1, .sparse_size = -1};
	int r = describe(t, h, &pax, err);

	if (r == 0)
		r = find_map(t, h, &pax, err);
	return r < 0 ? blame(t, r, err) : 0;
}

/* One header. Returns 1 when it was a member's, 0 when it was about the next one. */
static int take_header(struct tar_reader *t, const struct tar_header *h, struct banger_error *err)
{
	int64_t size;
	int r;

	switch (h->type) {
	case 'x':
	case 'X':
		return read_extension(t, h, &t->local, TAR_EXTENDED_MAX, err);
	case 'g':
		return read_extension(t, h, &t->global, TAR_GLOBAL_MAX, err);
	case 'L':
		return read_long(t, h, &t->long_name, err);
	case 'K':
		return read_long(t, h, &t->long_link, err);
	case 'V': /* the archive's label */
		r = header_size(t, h, &size, err);
		return r < 0 ? r : tar_skip(t, (uint64_t)size + padding_of((uint64_t)size), err);
	default:
		r = take_member(t, h, err);
		return r < 0 ? r : 1;
	}
}

int tar_next(struct tar_reader *t, const struct tar_member **ret, struct banger_error *err)
{
	struct tar_header h;
	int r = skip_rest(t, err);

	t->member = (struct tar_member){0};
	while (r == 0) {
		uint64_t offset = t->position;
		r = read_header(t, &h, err);
		if (r < 0)
			return r;
		if (r == 0 && (t->local.len > 0 || t->long_name.len > 0 || t->long_link.len > 0))
			return tar_corrupt(t, offset, "an extended header without its member", err);
		if (r == 0)
			return drain(t, err);
		t->member.offset = offset;
		r = take_header(t, &h, err);
	}
	if (r > 0)
		*ret = &t->member;
	return r;
}

/* ---- content */

/* Where the next byte belongs and how many follow it there. 0 at the end. */
static uint64_t run_length(struct tar_reader *t)
{
	if (!t->sparse)
		return t->data_left;
	while (t->piece < t->n_pieces && t->piece_done == t->pieces[t->piece].len) {
		t->piece++;
		t->piece_done = 0;
	}
	if (t->piece == t->n_pieces)
		return 0;
	t->data_at = t->pieces[t->piece].offset + t->piece_done;
	return t->pieces[t->piece].len - t->piece_done;
}

int tar_data(struct tar_reader *t, const uint8_t **ret, size_t *ret_len, uint64_t *ret_offset,
	struct banger_error *err)
{
	uint64_t run = t->member.type == TAR_FILE ? run_length(t) : 0;

	if (run == 0)
		return 0;
	int r = refill(t, err);
	if (r <= 0)
		return blame(t, r < 0 ? r : cut_off(t, err), err);
	size_t n = t->left < run ? t->left : run;
	*ret = t->at;
	*ret_len = n;
	*ret_offset = t->data_at;
	advance(t, n);
	t->data_at += n;
	t->piece_done += n;
	t->data_left -= n;
	return 1;
}
