/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Extended headers: records "LENGTH KEY=VALUE\n", LENGTH counting all of it. A record of an empty
 * value takes back what an earlier one said. Keys that are not known are passed over, as the
 * standard wants; those that are must have a sound value.
 *
 * Extended attributes come as SCHILY.xattr.NAME (star, GNU tar, Go; the value as it is), as
 * LIBARCHIVE.xattr.NAME (the name in URL encoding, the value in base 64), as RHT.security.selinux
 * (GNU tar), and ACLs as text.
 */
#include "unpack/tar/internal.h"

#include <stdlib.h>

struct record {
	struct tar_string key, value;
};

static int bad_record(struct banger_error *err)
{
	return banger_error_set(err, BANGER_CORRUPT, "an extended header that is not well-formed");
}

static int bad_value(const struct record *rec, struct banger_error *err)
{
	return banger_error_set(err, BANGER_CORRUPT, "the extended header's %.*s is \"%.*s\"",
		(int)(rec->key.len < 64 ? rec->key.len : 64), rec->key.s,
		(int)(rec->value.len < 64 ? rec->value.len : 64), rec->value.s);
}

/* The record at *at; moves past it. */
static int next_record(
	const char *data, size_t len, size_t *at, struct record *ret, struct banger_error *err)
{
	size_t digits = 0, left = len - *at;
	const char *p = data + *at;
	int64_t size;

	while (digits < left && digits < 20 && p[digits] >= '0' && p[digits] <= '9')
		digits++;
	if (digits == 0 || digits == left || p[digits] != ' ' || tar_decimal(p, digits, &size) < 0)
		return bad_record(err);
	if (size < (int64_t)digits + 3 || (uint64_t)size > left || p[size - 1] != '\n')
		return bad_record(err);
	const char *key = p + digits + 1, *end = p + size - 1;
	const char *equals = memchr(key, '=', end - key);
	if (!equals || equals == key)
		return bad_record(err);
	ret->key = (struct tar_string){key, equals - key};
	ret->value = (struct tar_string){equals + 1, end - equals - 1};
	*at += size;
	return 0;
}

/* ---- extended attributes: known by offsets into t->values, which moves while it grows */

static int add_attr(struct tar_reader *t, size_t name, size_t value, struct banger_error *err)
{
	if (t->n_attrs == t->cap_attrs) {
		size_t cap = t->cap_attrs ? t->cap_attrs * 2 : 8;
		struct tar_attr *list = reallocarray(t->attrs, cap, sizeof(*list));
		if (!list)
			return banger_error_oom(err);
		t->attrs = list;
		t->cap_attrs = cap;
	}
	t->attrs[t->n_attrs++] =
		(struct tar_attr){.name = name, .value = value, .end = t->values.len};
	return 0;
}

/* Decodes %XX. `all`: any byte; else only %3D and %25, which is what GNU tar writes. */
static int append_decoded(
	struct tar_reader *t, const char *s, size_t len, bool all, struct banger_error *err)
{
	int r = 0;

	for (size_t i = 0; i < len && r == 0; i++) {
		char c = s[i];
		if (c == '%' && i + 2 < len) {
			char hex[3] = {s[i + 1], s[i + 2], 0}, *end;
			unsigned long v = strtoul(hex, &end, 16);
			bool is_hex =
				end == hex + 2 && hex[0] != '+' && hex[0] != '-' && hex[0] != ' ';
			if (is_hex && (all || v == '=' || v == '%')) {
				c = (char)v;
				i += 2;
			}
		}
		r = tar_append(&t->values, &c, 1, err);
	}
	return r;
}

static int base64_digit(char c)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const char *at = memchr(digits, c, 64);

	return at ? at - digits : -1;
}

/* libarchive writes no padding; others may. */
static int append_base64(struct tar_reader *t, const struct record *rec, struct banger_error *err)
{
	uint32_t bits = 0, have = 0;
	size_t len = rec->value.len;
	int r = 0;

	while (len > 0 && rec->value.s[len - 1] == '=')
		len--;
	for (size_t i = 0; i < len && r == 0; i++) {
		int d = base64_digit(rec->value.s[i]);
		if (d < 0)
			return bad_value(rec, err);
		bits = bits << 6 | (uint32_t)d;
		have += 6;
		if (have >= 8) {
			have -= 8;
			r = tar_append(&t->values, &(uint8_t){bits >> have}, 1, err);
		}
	}
	return r;
}

static int take_schily(struct tar_reader *t, const struct record *rec, struct tar_string name,
	struct banger_error *err)
{
	size_t at = t->values.len;
	int r = append_decoded(t, name.s, name.len, false, err);
	size_t value = t->values.len;

	if (r == 0)
		r = tar_append(&t->values, rec->value.s, rec->value.len, err);
	return r < 0 ? r : add_attr(t, at, value, err);
}

static int take_libarchive(struct tar_reader *t, const struct record *rec, struct tar_string name,
	struct banger_error *err)
{
	size_t at = t->values.len;
	int r = append_decoded(t, name.s, name.len, true, err);
	size_t value = t->values.len;

	if (r == 0)
		r = append_base64(t, rec, err);
	return r < 0 ? r : add_attr(t, at, value, err);
}

static int take_acl(
	struct tar_reader *t, const struct record *rec, const char *name, struct banger_error *err)
{
	size_t at = t->values.len;
	int r = tar_append(&t->values, name, strlen(name), err);
	size_t value = t->values.len;

	if (r == 0)
		r = tar_acl_parse(rec->value.s, rec->value.len, &t->values, err);
	return r < 0 ? r : add_attr(t, at, value, err);
}

/* The label is a C string, and has its NUL in the attribute. */
static int take_selinux(struct tar_reader *t, const struct record *rec, struct banger_error *err)
{
	static const char name[] = "security.selinux";
	size_t at = t->values.len;
	int r = tar_append(&t->values, name, sizeof(name) - 1, err);
	size_t value = t->values.len;

	if (r == 0)
		r = tar_append(&t->values, rec->value.s, rec->value.len, err);
	if (r == 0)
		r = tar_append(&t->values, "", 1, err);
	return r < 0 ? r : add_attr(t, at, value, err);
}

/* Returns 1 when the record was about an attribute. */
static int take_attribute(struct tar_reader *t, const struct record *rec, struct banger_error *err)
{
	static const struct {
		const char *prefix;
		int (*take)(struct tar_reader *, const struct record *, struct tar_string,
			struct banger_error *);
	} prefixes[] = {{"SCHILY.xattr.", take_schily}, {"LIBARCHIVE.xattr.", take_libarchive}};
	static const struct {
		const char *key, *name;
	} acls[] = {{"SCHILY.acl.access", "system.posix_acl_access"},
		{"SCHILY.acl.default", "system.posix_acl_default"}};
	int r;

	for (size_t i = 0; i < ELEMENTSOF(prefixes); i++) {
		size_t n = strlen(prefixes[i].prefix);
		if (rec->key.len > n && memcmp(rec->key.s, prefixes[i].prefix, n) == 0) {
			r = prefixes[i].take(
				t, rec, (struct tar_string){rec->key.s + n, rec->key.len - n}, err);
			return r < 0 ? r : 1;
		}
	}
	for (size_t i = 0; i < ELEMENTSOF(acls); i++)
		if (rec->key.len == strlen(acls[i].key) &&
			memcmp(rec->key.s, acls[i].key, rec->key.len) == 0) {
			r = rec->value.len > 0 ? take_acl(t, rec, acls[i].name, err) : 0;
			return r < 0 ? r : 1;
		}
	if (rec->key.len == 20 && memcmp(rec->key.s, "RHT.security.selinux", 20) == 0) {
		r = rec->value.len > 0 ? take_selinux(t, rec, err) : 0;
		return r < 0 ? r : 1;
	}
	return 0;
}

/* ---- the other keys */

static int take_int(const struct record *rec, int64_t *ret, bool *has, struct banger_error *err)
{
	if (rec->value.len > 0 && (tar_decimal(rec->value.s, rec->value.len, ret) < 0 || *ret < 0))
		return bad_value(rec, err);
	if (has)
		*has = rec->value.len > 0;
	return 0;
}

static int take_time(
	const struct record *rec, struct tar_time *ret, bool *has, struct banger_error *err)
{
	if (rec->value.len > 0 && tar_seconds(rec->value.s, rec->value.len, ret) < 0)
		return bad_value(rec, err);
	*has = rec->value.len > 0;
	return 0;
}

static int take_string(const struct record *rec, struct tar_string *ret)
{
	*ret = rec->value.len > 0 ? rec->value : (struct tar_string){0};
	return 0;
}

/* Version 0.0: GNU.sparse.offset and .numbytes in turn. */
static int take_pair(struct tar_reader *t, struct tar_pax *pax, const struct record *rec,
	bool offset, struct banger_error *err)
{
	int64_t v;

	if (rec->value.len == 0 || take_int(rec, &v, NULL, err) < 0 || pax->pair_open == offset)
		return bad_value(rec, err);
	pax->sparse_pairs = true;
	pax->pair_open = offset;
	if (offset)
		return tar_add_piece(t, v, 0, err);
	t->pieces[t->n_pieces - 1].len = v;
	return 0;
}

enum key {
	PATH,
	LINKPATH,
	SIZE,
	UID,
	GID,
	MTIME,
	ATIME,
	CTIME,
	SPARSE_MAJOR,
	SPARSE_MINOR,
	SPARSE_NAME,
	SPARSE_REALSIZE,
	SPARSE_SIZE,
	SPARSE_MAP,
	SPARSE_OFFSET,
	SPARSE_NUMBYTES,
	KEY_COUNT
};

static const char *const key_names[KEY_COUNT] = {
	[PATH] = "path",
	[LINKPATH] = "linkpath",
	[SIZE] = "size",
	[UID] = "uid",
	[GID] = "gid",
	[MTIME] = "mtime",
	[ATIME] = "atime",
	[CTIME] = "ctime",
	[SPARSE_MAJOR] = "GNU.sparse.major",
	[SPARSE_MINOR] = "GNU.sparse.minor",
	[SPARSE_NAME] = "GNU.sparse.name",
	[SPARSE_REALSIZE] = "GNU.sparse.realsize",
	[SPARSE_SIZE] = "GNU.sparse.size",
	[SPARSE_MAP] = "GNU.sparse.map",
	[SPARSE_OFFSET] = "GNU.sparse.offset",
	[SPARSE_NUMBYTES] = "GNU.sparse.numbytes",
};

static enum key find_key(const struct tar_string *s)
{
	enum key k = 0;

	while (k < KEY_COUNT &&
		(strlen(key_names[k]) != s->len || memcmp(key_names[k], s->s, s->len) != 0))
		k++;
	return k;
}

static int take_key(struct tar_reader *t, struct tar_pax *pax, const struct record *rec,
	struct banger_error *err)
{
	switch (find_key(&rec->key)) {
	case PATH:
		return take_string(rec, &pax->path);
	case LINKPATH:
		return take_string(rec, &pax->link);
	case SIZE:
		return take_int(rec, &pax->size, &pax->has_size, err);
	case UID:
		return take_int(rec, &pax->uid, &pax->has_uid, err);
	case GID:
		return take_int(rec, &pax->gid, &pax->has_gid, err);
	case MTIME:
		return take_time(rec, &pax->mtime, &pax->has_mtime, err);
	case ATIME:
		return take_time(rec, &pax->atime, &pax->has_atime, err);
	case CTIME:
		return take_time(rec, &pax->ctime, &pax->has_ctime, err);
	case SPARSE_MAJOR:
		return take_int(rec, &pax->sparse_major, NULL, err);
	case SPARSE_MINOR:
		return take_int(rec, &pax->sparse_minor, NULL, err);
	case SPARSE_NAME:
		return take_string(rec, &pax->sparse_name);
	case SPARSE_REALSIZE:
	case SPARSE_SIZE:
		return take_int(rec, &pax->sparse_size, NULL, err);
	case SPARSE_MAP:
		return take_string(rec, &pax->sparse_map);
	case SPARSE_OFFSET:
		return take_pair(t, pax, rec, true, err);
	case SPARSE_NUMBYTES:
		return take_pair(t, pax, rec, false, err);
	default:
		return 0;
	}
}

int tar_pax_apply(struct tar_reader *t, const struct tar_buffer *records, struct tar_pax *pax,
	struct banger_error *err)
{
	for (size_t at = 0; at < records->len;) {
		struct record rec;
		int r = next_record(records->data, records->len, &at, &rec, err);
		if (r == 0)
			r = take_attribute(t, &rec, err);
		if (r == 0)
			r = take_key(t, pax, &rec, err);
		if (r < 0)
			return r;
	}
	return 0;
}
