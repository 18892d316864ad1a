/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing records and carrying them out. The calls, by their first byte:
 *
 *	ADD      dir, name, attr, target (of a symlink) or device numbers
 *	IMPLIED  dir, name                 LINK     dir, name, node
 *	REMOVE   dir, name                 ATTR     node, attr
 *	XATTRS   node, n, n × (name, value)
 *	CONTENT  node, size, n, n × (blocks of hole before, blocks)
 *	END      the allocator's cursor, members, ignored xattrs, bytes of content
 *
 *	attr: mode, uid, gid, mtime, and atime and ctime if they differ from it, by the flags
 *
 * Nodes are known by their numbers, which are given out in order, so they come out the same. A
 * record is some 60 bytes a file; it is read into memory whole.
 */
#include "unpack/builder/record.h"

#include <unistd.h>
#include "unpack/builder/internal.h"
#include "unpack/stream/digest.h"

#define VERSION 1u
#define SIZE_MAX_RECORD ((int64_t)512 << 20)
#define BUFFER (128u << 10)

static const char magic[8] = "bangrec1";

enum call { ADD = 1, IMPLIED, LINK, REMOVE, ATTR, XATTRS, CONTENT, END };
enum { HAS_ATIME = 1, HAS_CTIME = 2 };

struct header {
	char magic[8];
	uint32_t version, layer, head, pad;
	uint64_t cursor;
	uint8_t chain[32];
};

struct record {
	int fd;
	struct digest *digest;
	size_t len;
	struct banger_error error;
	uint8_t buffer[BUFFER];
};

/* ---- writing */

static void fail(struct record *rec, const char *what)
{
	if (rec->error.code == BANGER_OK)
		banger_error_set_errno(&rec->error, errno, "%s", what);
}

static void write_all(struct record *rec, const void *data, size_t len)
{
	for (const uint8_t *p = data; len > 0 && rec->error.code == BANGER_OK;) {
		ssize_t n = write(rec->fd, p, len);
		if (n < 0 && errno != EINTR)
			fail(rec, "cannot write the layer's record");
		p += n > 0 ? n : 0;
		len -= n > 0 ? n : 0;
	}
}

static void flush(struct record *rec)
{
	struct banger_error ignored;

	if (digest_add(rec->digest, rec->buffer, rec->len, &ignored) < 0 &&
		rec->error.code == BANGER_OK)
		rec->error = ignored;
	write_all(rec, rec->buffer, rec->len);
	rec->len = 0;
}

static void put_bytes(struct record *rec, const void *data, size_t len)
{
	for (const uint8_t *p = data; len > 0;) {
		if (rec->len == BUFFER)
			flush(rec);
		size_t n = len < BUFFER - rec->len ? len : BUFFER - rec->len;
		memcpy(rec->buffer + rec->len, p, n);
		rec->len += n;
		p += n;
		len -= n;
	}
}

static void put(struct record *rec, uint64_t v)
{
	uint8_t bytes[10];
	size_t n = 0;

	do {
		bytes[n] = (v & 0x7f) | (v > 0x7f ? 0x80 : 0);
		v >>= 7;
	} while (bytes[n++] & 0x80);
	put_bytes(rec, bytes, n);
}

static void put_string(struct record *rec, const void *s, size_t len)
{
	put(rec, len);
	put_bytes(rec, s, len);
}

static void put_call(struct record *rec, enum call call, uint32_t node)
{
	put(rec, call);
	put(rec, node);
}

static void put_time(struct record *rec, const struct ext4_time *t)
{
	put(rec, (uint64_t)t->sec << 1 ^ (uint64_t)(t->sec >> 63));
	put(rec, t->nsec);
}

static bool same_time(const struct ext4_time *a, const struct ext4_time *b)
{
	return a->sec == b->sec && a->nsec == b->nsec;
}

static void put_attr(struct record *rec, const struct ext4_attr *a)
{
	unsigned flags = (same_time(&a->atime, &a->mtime) ? 0 : HAS_ATIME) |
			 (same_time(&a->ctime, &a->mtime) ? 0 : HAS_CTIME);

	put(rec, flags);
	put(rec, a->mode);
	put(rec, a->uid);
	put(rec, a->gid);
	put_time(rec, &a->mtime);
	if (flags & HAS_ATIME)
		put_time(rec, &a->atime);
	if (flags & HAS_CTIME)
		put_time(rec, &a->ctime);
}

void record_add(struct record *rec, uint32_t dir, const char *name, size_t name_len,
	const struct ext4_attr *attr, const char *target, size_t target_len)
{
	if (!rec)
		return;
	put_call(rec, attr ? ADD : IMPLIED, dir);
	put_string(rec, name, name_len);
	if (!attr)
		return;
	put_attr(rec, attr);
	if (S_ISLNK(attr->mode)) {
		put_string(rec, target, target_len);
	} else if (S_ISCHR(attr->mode) || S_ISBLK(attr->mode)) {
		put(rec, attr->major);
		put(rec, attr->minor);
	}
}

void record_link(struct record *rec, uint32_t dir, const char *name, size_t name_len, uint32_t node)
{
	if (!rec)
		return;
	put_call(rec, LINK, dir);
	put_string(rec, name, name_len);
	put(rec, node);
}

void record_remove(struct record *rec, uint32_t dir, const char *name, size_t name_len)
{
	if (!rec)
		return;
	put_call(rec, REMOVE, dir);
	put_string(rec, name, name_len);
}

void record_attr(struct record *rec, uint32_t node, const struct ext4_attr *attr)
{
	if (!rec)
		return;
	put_call(rec, ATTR, node);
	put_attr(rec, attr);
}

void record_xattrs(struct record *rec, uint32_t node, const struct ext4_xattr *list, size_t n)
{
	if (!rec)
		return;
	put_call(rec, XATTRS, node);
	put(rec, n);
	for (size_t i = 0; i < n; i++) {
		put_string(rec, list[i].name, list[i].name_len);
		put_string(rec, list[i].value, list[i].value_len);
	}
}

void record_content(struct record *rec, uint32_t node, struct node *n)
{
	uint32_t at = 0;

	if (!rec || (n->size == 0 && n->file.n == 0))
		return;
	put_call(rec, CONTENT, node);
	put(rec, n->size);
	put(rec, n->file.n);
	for (uint32_t i = 0; i < n->file.n; i++) {
		const struct extent *e = node_extent(n, i);
		put(rec, e->logical - at);
		put(rec, e->len);
		at = e->logical + e->len;
	}
}

static struct header make_header(const struct ext4_builder *b, const struct record_id *id)
{
	struct header h = {
		.version = VERSION, .layer = id->layer, .head = b->head, .cursor = b->space.next};

	memcpy(h.magic, magic, sizeof(magic));
	memcpy(h.chain, id->chain, sizeof(h.chain));
	return h;
}

int record_begin(struct ext4_builder *b, int fd, const struct record_id *id, struct digest *digest,
	struct banger_error *err)
{
	const struct header h = make_header(b, id);
	int r = digest_begin(digest, NULL, err);
	struct record *rec = r < 0 ? NULL : malloc(sizeof(*rec));

	if (!rec)
		return r < 0 ? r : banger_error_oom(err);
	rec->fd = fd;
	rec->digest = digest;
	rec->len = 0;
	rec->error = (struct banger_error){0};
	put_bytes(rec, &h, sizeof(h));
	b->record = rec;
	return 0;
}

int record_end(struct ext4_builder *b, const struct record_counts *counts, struct banger_error *err)
{
	_cleanup_free_ struct record *rec = TAKE_PTR(b->record);
	uint8_t sum[DIGEST_SHA256];

	put(rec, END);
	put(rec, b->space.next);
	put(rec, counts->members);
	put(rec, counts->ignored_xattrs);
	put(rec, b->content);
	flush(rec);
	int r = digest_end_raw(rec->digest, sum, err);
	if (r < 0)
		return r;
	write_all(rec, sum, sizeof(sum));
	if (rec->error.code != BANGER_OK)
		return banger_error_set(err, rec->error.code, "%s", rec->error.message);
	return 0;
}

void record_drop(struct ext4_builder *b)
{
	free(TAKE_PTR(b->record));
}

/* ---- carrying out */

struct replay {
	struct ext4_builder *b;
	const uint8_t *at, *end;
	bool bad; /* something was not there or out of range */
};

static uint64_t get(struct replay *p)
{
	uint64_t v = 0;

	for (unsigned shift = 0; shift < 64 && p->at < p->end; shift += 7) {
		uint8_t byte = *p->at++;
		if (shift == 63 && byte > 1)
			break;
		v |= (uint64_t)(byte & 0x7f) << shift;
		if (!(byte & 0x80))
			return v;
	}
	p->bad = true;
	return 0;
}

static uint32_t get32(struct replay *p)
{
	uint64_t v = get(p);

	p->bad = p->bad || v > UINT32_MAX;
	return v;
}

static const char *get_string(struct replay *p, size_t *ret_len)
{
	uint64_t len = get(p);
	const uint8_t *s = p->at;

	if (p->bad || len > (size_t)(p->end - p->at)) {
		p->bad = true;
		*ret_len = 0;
		return "";
	}
	p->at += len;
	*ret_len = len;
	return (const char *)s;
}

static uint32_t get_node(struct replay *p, uint32_t type)
{
	uint64_t node = get(p);

	if (!p->bad && node_exists(p->b, node, type))
		return node;
	p->bad = true;
	return EXT4_BUILDER_ROOT;
}

static struct ext4_time get_time(struct replay *p)
{
	uint64_t sec = get(p);

	return (struct ext4_time){.sec = (int64_t)(sec >> 1 ^ -(sec & 1)), .nsec = get32(p)};
}

static struct ext4_attr get_attr(struct replay *p)
{
	unsigned flags = get32(p);
	struct ext4_attr a = {.mode = get32(p)};

	a.uid = get32(p);
	a.gid = get32(p);
	a.atime = a.ctime = a.mtime = get_time(p);
	if (flags & HAS_ATIME)
		a.atime = get_time(p);
	if (flags & HAS_CTIME)
		a.ctime = get_time(p);
	return a;
}

static int replay_add(struct replay *p, uint32_t dir, struct banger_error *err)
{
	size_t len, target_len = 0;
	const char *name = get_string(p, &len), *target = NULL;
	struct ext4_attr a = get_attr(p);
	ext4_node node;

	if (S_ISLNK(a.mode)) {
		target = get_string(p, &target_len);
	} else if (S_ISCHR(a.mode) || S_ISBLK(a.mode)) {
		a.major = get32(p);
		a.minor = get32(p);
	}
	return p->bad ? 0
		      : ext4_builder_add(p->b, dir, name, len, &a, target, target_len, &node, err);
}

static int replay_name(struct replay *p, enum call call, uint32_t dir, struct banger_error *err)
{
	size_t len;
	const char *name = get_string(p, &len);
	ext4_node node = call == LINK ? get_node(p, 0) : NONE;

	if (p->bad)
		return 0;
	switch (call) {
	case IMPLIED:
		return ext4_builder_add_implied(p->b, dir, name, len, &node, err);
	case LINK:
		return ext4_builder_link(p->b, dir, name, len, node, err);
	default:
		return ext4_builder_remove(p->b, dir, name, len, err);
	}
}

static int replay_attr(struct replay *p, uint32_t node)
{
	const struct ext4_attr a = get_attr(p);

	if (!p->bad) {
		ext4_builder_set_attr(p->b, node, &a);
		if (node_is(node_at(p->b, node), S_IFDIR))
			ext4_builder_touch(p->b, node);
	}
	return 0;
}

static int replay_xattrs(struct replay *p, uint32_t node, struct banger_error *err)
{
	uint64_t n = get(p);
	size_t ignored;

	/* Each takes two bytes at least. */
	if (p->bad || n > (size_t)(p->end - p->at) / 2) {
		p->bad = true;
		return 0;
	}
	_cleanup_free_ struct ext4_xattr *list = calloc(n + 1, sizeof(*list));
	if (!list)
		return banger_error_oom(err);
	for (uint64_t i = 0; i < n; i++) {
		list[i].name = get_string(p, &list[i].name_len);
		list[i].value = get_string(p, &list[i].value_len);
	}
	return p->bad ? 0 : ext4_builder_set_xattrs(p->b, node, list, n, &ignored, err);
}

static int replay_content(struct replay *p, uint32_t node, struct banger_error *err)
{
	uint64_t size = get(p), n = get(p), at = 0;

	if (p->bad || !node_is(node_at(p->b, node), S_IFREG)) {
		p->bad = true;
		return 0;
	}
	int r = content_adopt(p->b, node, size, err);
	for (uint64_t i = 0; i < n && r == 0 && !p->bad; i++) {
		at += get32(p);
		uint32_t len = get32(p);
		if (p->bad || at + len > (size + BLOCK - 1) / BLOCK) {
			p->bad = true;
			return 0;
		}
		r = content_adopt_run(p->b, node, at, len, err);
		at += len;
	}
	return r;
}

static int replay_call(struct replay *p, enum call call, struct banger_error *err)
{
	switch (call) {
	case ADD:
		return replay_add(p, get_node(p, S_IFDIR), err);
	case IMPLIED:
	case LINK:
	case REMOVE:
		return replay_name(p, call, get_node(p, S_IFDIR), err);
	case ATTR:
		return replay_attr(p, get_node(p, 0));
	case XATTRS:
		return replay_xattrs(p, get_node(p, 0), err);
	case CONTENT:
		return replay_content(p, get_node(p, S_IFREG), err);
	default:
		p->bad = true;
		return 0;
	}
}

static int replay_all(struct replay *p, struct record_counts *ret, struct banger_error *err)
{
	int r = 0;

	while (r == 0 && !p->bad) {
		enum call call = p->at < p->end ? *p->at++ : 0;
		if (call == END)
			break;
		r = replay_call(p, call, err);
	}
	uint64_t cursor = get(p);
	ret->members = get(p);
	ret->ignored_xattrs = get(p);
	p->b->content = get(p);
	if (r == 0 && (p->bad || p->at != p->end || cursor != p->b->space.next))
		return banger_error_set(err, BANGER_CORRUPT, "it is not well-formed");
	return r;
}

static int read_all(int fd, uint8_t **ret, size_t *ret_len, struct banger_error *err)
{
	off_t size = lseek(fd, 0, SEEK_END);

	if (size < 0)
		return banger_error_set_errno(err, errno, "cannot read it");
	if (size < (off_t)(sizeof(struct header) + DIGEST_SHA256) || size > SIZE_MAX_RECORD)
		return banger_error_set(
			err, BANGER_CORRUPT, "it cannot be %lld bytes long", (long long)size);
	_cleanup_free_ uint8_t *data = malloc(size);
	if (!data)
		return banger_error_oom(err);
	for (off_t have = 0; have < size;) {
		ssize_t n = pread(fd, data + have, size - have, have);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return banger_error_set_errno(err, n < 0 ? errno : EIO, "cannot read it");
		have += n;
	}
	*ret = TAKE_PTR(data);
	*ret_len = size;
	return 0;
}

static int check_sum(
	struct digest *digest, const uint8_t *data, size_t len, struct banger_error *err)
{
	uint8_t sum[DIGEST_SHA256];
	int r = digest_begin(digest, NULL, err);

	if (r == 0)
		r = digest_add(digest, data, len, err);
	if (r == 0)
		r = digest_end_raw(digest, sum, err);
	if (r < 0)
		return r;
	return memcmp(sum, data + len, sizeof(sum)) == 0
		       ? 0
		       : banger_error_set(err, BANGER_CORRUPT, "its checksum is wrong");
}

static int carry_out(struct ext4_builder *b, int fd, const struct record_id *id,
	struct digest *digest, struct record_counts *ret, struct banger_error *err)
{
	const struct header want = make_header(b, id);
	_cleanup_free_ uint8_t *data = NULL;
	size_t len = 0;
	int r = read_all(fd, &data, &len, err);

	if (r == 0)
		r = check_sum(digest, data, len - DIGEST_SHA256, err);
	if (r < 0)
		return r;
	if (memcmp(data, &want, sizeof(want)) != 0)
		return banger_error_set(err, BANGER_CORRUPT, "it is not of this layer");
	struct replay p = {.b = b, .at = data + sizeof(want), .end = data + len - DIGEST_SHA256};
	return replay_all(&p, ret, err);
}

int record_replay(struct ext4_builder *b, int fd, const struct record_id *id, struct digest *digest,
	struct record_counts *ret, struct banger_error *err)
{
	struct banger_error why = {0};
	int r = carry_out(b, fd, id, digest, ret, &why);

	if (r == 0 || r == -ENOMEM) {
		if (r < 0 && err)
			*err = why;
		return r;
	}
	return banger_error_set(
		err, BANGER_CORRUPT, "the layer's record cannot be used: %s", why.message);
}
