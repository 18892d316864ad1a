/* SPDX-License-Identifier: Apache-2.0 */
/*
 * POSIX ACLs in the text form that star, GNU tar and bsdtar put into SCHILY.acl.access and
 * .default: entries "user:NAME:rwx" divided by commas or newlines, NAME empty for the owner's own,
 * a number, or a name with the number as a fourth field. The result is the value of the extended
 * attribute (version 2, entries sorted by kind and number). Whether it is a sound ACL the builder
 * checks.
 */
#include "unpack/tar/internal.h"

#include <stdlib.h>

#define ENTRIES_MAX 1024

struct acl_entry {
	uint16_t tag, perm;
	uint32_t id;
};

struct field {
	const char *s;
	size_t len;
};

static const struct {
	const char *name;
	uint16_t own, named; /* tag without and with a NAME; 0: cannot have one */
} kinds[] = {
	{"user", 1, 2},
	{"u", 1, 2},
	{"group", 4, 8},
	{"g", 4, 8},
	{"mask", 16, 0},
	{"m", 16, 0},
	{"other", 32, 0},
	{"o", 32, 0},
};

static int bad(struct banger_error *err)
{
	return banger_error_set(err, BANGER_CORRUPT, "a POSIX ACL that is not well-formed");
}

static size_t split(const char *s, size_t len, struct field f[5])
{
	size_t n = 0;

	for (; n < 5; n++) {
		const char *colon = memchr(s, ':', len);
		f[n] = (struct field){s, colon ? (size_t)(colon - s) : len};
		if (!colon)
			return n + 1;
		len -= f[n].len + 1;
		s = colon + 1;
	}
	return n;
}

static int parse_perm(struct field f, uint16_t *ret)
{
	uint16_t perm = 0;

	for (size_t i = 0; i < f.len; i++) {
		const char *at = memchr("-xwr", f.s[i], 4);
		if (!at)
			return -EINVAL;
		perm |= f.s[i] == 'r' ? 4 : f.s[i] == 'w' ? 2 : f.s[i] == 'x';
	}
	*ret = perm;
	return 0;
}

static int parse_id(struct field name, struct field number, uint32_t *ret, struct banger_error *err)
{
	int64_t v;
	int r = number.len > 0 ? tar_decimal(number.s, number.len, &v)
			       : tar_decimal(name.s, name.len, &v);

	if (r == 0 && v >= 0 && v < UINT32_MAX) {
		*ret = v;
		return 0;
	}
	if (number.len > 0 || r == 0)
		return bad(err);
	return banger_error_set(err, BANGER_UNSUPPORTED,
		"an ACL for the name \"%.*s\" without its number; make the archive with "
		"--numeric-owner",
		(int)(name.len < 64 ? name.len : 64), name.s);
}

static int parse_entry(const char *s, size_t len, struct acl_entry *e, struct banger_error *err)
{
	struct field f[5] = {0};
	size_t n = split(s, len, f);

	for (size_t i = 0; i < ELEMENTSOF(kinds); i++) {
		if (f[0].len != strlen(kinds[i].name) ||
			memcmp(f[0].s, kinds[i].name, f[0].len) != 0)
			continue;
		/* "mask:rwx" as star writes it: no field for a name. */
		if (n == 2 && !kinds[i].named) {
			f[2] = f[1];
			f[1].len = 0;
			n = 3;
		}
		if (n < 3 || n > 4 || parse_perm(f[2], &e->perm) < 0)
			return bad(err);
		*e = (struct acl_entry){kinds[i].own, e->perm, UINT32_MAX};
		if (f[1].len == 0)
			return 0;
		if (!kinds[i].named)
			return bad(err);
		e->tag = kinds[i].named;
		return parse_id(f[1], n == 4 ? f[3] : (struct field){"", 0}, &e->id, err);
	}
	return bad(err);
}

static int compare(const void *pa, const void *pb)
{
	const struct acl_entry *a = pa, *b = pb;

	if (a->tag != b->tag)
		return a->tag < b->tag ? -1 : 1;
	return a->id < b->id ? -1 : a->id > b->id;
}

/* Where an entry ends: a comma or a newline; a comment goes to the end of its line. */
static size_t entry_end(const char *s, size_t len)
{
	size_t n = 0;

	while (n < len && s[n] != ',' && s[n] != '\n')
		n++;
	return n;
}

static struct field trim(const char *s, size_t len)
{
	const char *comment = memchr(s, '#', len);

	if (comment)
		len = comment - s;
	while (len > 0 && (*s == ' ' || *s == '\t')) {
		s++;
		len--;
	}
	while (len > 0 && (s[len - 1] == ' ' || s[len - 1] == '\t'))
		len--;
	return (struct field){s, len};
}

int tar_acl_parse(const char *text, size_t len, struct tar_buffer *out, struct banger_error *err)
{
	_cleanup_free_ struct acl_entry *entries = calloc(ENTRIES_MAX, sizeof(*entries));
	size_t n = 0;

	if (!entries)
		return banger_error_oom(err);
	while (len > 0) {
		size_t end = entry_end(text, len);
		struct field f = trim(text, end);
		if (f.len > 0) {
			if (n == ENTRIES_MAX)
				return banger_error_set(err, BANGER_TOO_LARGE,
					"a POSIX ACL of more than %d entries", ENTRIES_MAX);
			int r = parse_entry(f.s, f.len, &entries[n++], err);
			if (r < 0)
				return r;
		}
		end += end < len;
		text += end;
		len -= end;
	}
	qsort(entries, n, sizeof(*entries), compare);
	int r = tar_append(out, &(uint32_t){2}, 4, err);
	return r < 0 ? r : tar_append(out, entries, n * sizeof(*entries), err);
}
