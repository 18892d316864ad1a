/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The order of the members is the document's, so one pass is enough: the first member says what the
 * others must be. Here it is only asked for names and sizes, which is what finds a member that is not
 * the one it should be; everything in it is checked again by the daemon, on its side.
 */
#include "unpack/bundle/bundle.h"

#include <string.h>
#include <unistd.h>
#include <banger/wire.h>

#define DOCUMENT "bundle.json"
#define BLOCK 4096u

/* What the document lists. */
struct list {
	struct json_object *doc, *files; /* files: of doc */
	size_t n;
};

static void list_done(struct list *l)
{
	json_object_put(l->doc);
}

/* "./rootfs.ext4" is what tar makes of a directory. */
static struct tar_string plain_name(const struct tar_member *m)
{
	struct tar_string s = m->path;

	if (s.len > 2 && memcmp(s.s, "./", 2) == 0)
		s = (struct tar_string){s.s + 2, s.len - 2};
	return s;
}

static bool is_named(const struct tar_member *m, const char *name)
{
	struct tar_string s = plain_name(m);

	return s.len == strlen(name) && memcmp(s.s, name, s.len) == 0;
}

/* ---- writing */

static int write_at(int fd, const uint8_t *data, size_t len, uint64_t at, struct banger_error *err)
{
	while (len > 0) {
		ssize_t n = pwrite(fd, data, len, (off_t)at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return banger_error_set_errno(err, errno, "cannot write it");
		data += n;
		len -= (size_t)n;
		at += (uint64_t)n;
	}
	return 0;
}

static bool is_zero(const uint8_t *data, size_t len)
{
	static const uint8_t zeros[BLOCK];

	return memcmp(data, zeros, len) == 0;
}

/* A piece of content at its place in the file, but for whole blocks of zeros. */
static int write_piece(
	int fd, const uint8_t *data, size_t len, uint64_t at, struct banger_error *err)
{
	size_t from = 0, i = 0;

	while (i < len) {
		size_t n = BLOCK - (size_t)((at + i) % BLOCK);
		if (n > len - i)
			n = len - i;
		if (is_zero(data + i, n)) {
			int r = write_at(fd, data + from, i - from, at + from, err);
			if (r < 0)
				return r;
			from = i + n;
		}
		i += n;
	}
	return write_at(fd, data + from, len - from, at + from, err);
}

static int write_content(struct tar_reader *tar, const struct tar_member *m, int fd,
	const struct bundle_target *t, struct banger_error *err)
{
	const uint8_t *data;
	uint64_t at;
	size_t len;
	int r;

	while ((r = tar_data(tar, &data, &len, &at, err)) > 0) {
		r = write_piece(fd, data, len, at, err);
		if (r == 0 && t->tick)
			r = t->tick(t->arg, err);
		if (r < 0)
			return r;
	}
	if (r == 0 && ftruncate(fd, (off_t)m->size) < 0)
		r = banger_error_set_errno(err, errno, "cannot set its size");
	return r;
}

/* ---- the document */

static int read_text(struct tar_reader *tar, char *text, size_t size, struct banger_error *err)
{
	const uint8_t *data;
	uint64_t at;
	size_t len;
	int r;

	while ((r = tar_data(tar, &data, &len, &at, err)) > 0)
		if (at <= size && len <= size - at)
			memcpy(text + at, data, len);
	return r;
}

static int parse_document(
	const char *text, size_t len, size_t most, struct list *ret, struct banger_error *err)
{
	struct json_object *doc = NULL;
	int r = banger_json_parse(text, len, &doc, err);

	if (r < 0) {
		banger_error_prefix(err, "its " DOCUMENT);
		return r == -EINVAL ? banger_error_set(
					      err, BANGER_CORRUPT, "its " DOCUMENT " is not JSON")
				    : r;
	}
	*ret = (struct list){.doc = doc, .files = banger_json_get(doc, "files")};
	if (!json_object_is_type(ret->files, json_type_array))
		return banger_error_set(
			err, BANGER_CORRUPT, "its " DOCUMENT " has no list of files");
	ret->n = json_object_array_length(ret->files);
	if (ret->n > most)
		return banger_error_set(
			err, BANGER_CORRUPT, "its " DOCUMENT " lists more than %zu files", most);
	return 0;
}

static int take_document(struct tar_reader *tar, const struct bundle_target *t, struct list *ret,
	struct banger_error *err)
{
	const struct tar_member *m;
	_cleanup_free_ char *text = NULL;
	int r = tar_next(tar, &m, err);

	if (r < 0)
		return r;
	if (r == 0 || m->type != TAR_FILE || !is_named(m, DOCUMENT))
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"it is not a bundle: its first member is not " DOCUMENT);
	if (m->size > BUNDLE_DOCUMENT_MAX)
		return banger_error_set(err, BANGER_TOO_LARGE,
			"its " DOCUMENT " has more than %u bytes", BUNDLE_DOCUMENT_MAX);
	size_t size = (size_t)m->size;
	text = calloc(1, size + 1);
	if (!text)
		return banger_error_oom(err);
	r = read_text(tar, text, size, err);
	if (r == 0)
		r = write_at(t->document_fd, (const uint8_t *)text, size, 0, err);
	return r < 0 ? r : parse_document(text, size, t->n, ret, err);
}

/* ---- files */

static int check_member(
	const struct tar_member *m, struct json_object *entry, struct banger_error *err)
{
	const char *name = banger_json_str(entry, "name");
	int64_t size = banger_json_int(entry, "size", -1);
	struct tar_string path = plain_name(m);

	if (!name || !is_named(m, name))
		return banger_error_set(err, BANGER_CORRUPT,
			"its member \"%.*s\" stands where " DOCUMENT " lists \"%.255s\"",
			(int)(path.len < 255 ? path.len : 255), path.s, name ?: "");
	if (m->type != TAR_FILE)
		return banger_error_set(
			err, BANGER_CORRUPT, "its member \"%.255s\" is not a regular file", name);
	if (size < 0 || m->size != (uint64_t)size)
		return banger_error_set(err, BANGER_CORRUPT,
			"its member \"%.255s\" has %llu bytes, and " DOCUMENT " says %lld", name,
			(unsigned long long)m->size, (long long)size);
	return 0;
}

static int too_much(const struct tar_member *m, struct banger_error *err)
{
	struct tar_string path = plain_name(m);

	return banger_error_set(err, BANGER_CORRUPT, "its member \"%.*s\" is not in its " DOCUMENT,
		(int)(path.len < 255 ? path.len : 255), path.s);
}

int bundle_unpack(struct tar_reader *tar, const struct bundle_target *t, size_t *ret_files,
	struct banger_error *err)
{
	_cleanup_(list_done) struct list list = {0};
	const struct tar_member *m;
	size_t i = 0;
	int r = take_document(tar, t, &list, err);

	if (r < 0)
		return r;
	for (; (r = tar_next(tar, &m, err)) > 0; i++) {
		if (i == list.n)
			return too_much(m, err);
		r = check_member(m, json_object_array_get_idx(list.files, i), err);
		if (r == 0)
			r = write_content(tar, m, t->files[i], t, err);
		if (r < 0)
			return r;
	}
	if (r == 0 && i < list.n) {
		const char *name =
			banger_json_str(json_object_array_get_idx(list.files, i), "name");
		return banger_error_set(err, BANGER_CORRUPT,
			"it ends before \"%.255s\", which its " DOCUMENT " lists", name ?: "");
	}
	if (r == 0)
		*ret_files = i;
	return r;
}
