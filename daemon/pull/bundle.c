/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bundles: their document, and taking one apart.
 *
 * Taking apart is done by banger-unpack, which can open nothing: it gets one empty file for the
 * document and one for each file that a bundle may hold at most, made here with names that no file of
 * an image can have ("\1bundle-3"), and fills them in the order of the archive. What it filled is then
 * believed of nobody: the document is parsed here, each file is measured and hashed here, and only
 * then does it get its name.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "pull/bundle.h"
#include "pull/cancel.h"
#include "unpack/bundle_run.h"

#define SIZE_MAX_BYTES (INT64_C(16) << 40)

void bundle_document_done(struct bundle_document *d)
{
	for (size_t i = 0; i < d->n; i++)
		free(d->files[i].name);
	free(d->files);
	free(d->name);
	free(d->kernel);
	free(d->config);
	*d = (struct bundle_document){0};
}

/* ---- from JSON */

static int _printf_(2, 3) corrupt(struct banger_error *err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	int r = banger_error_vset(err, BANGER_CORRUPT, fmt, ap);
	va_end(ap);
	return r;
}

static int read_file_entry(
	struct json_object *o, size_t i, struct bundle_file *ret, struct banger_error *err)
{
	const char *name = banger_json_str(o, "name"), *digest = banger_json_str(o, "digest");
	int64_t size = banger_json_int(o, "size", -1);

	if (!name || banger_file_name_check(name, NULL) < 0 || strcmp(name, BUNDLE_JSON) == 0 ||
		strcmp(name, "image.json") == 0)
		return corrupt(err,
			"files[%zu].name, \"%.255s\", is not the name of an image's file", i,
			name ?: "");
	if (size < 0 || size > SIZE_MAX_BYTES)
		return corrupt(err, "files[%zu].size is not a number of bytes up to 16 TiB", i);
	if (!digest || strncmp(digest, "sha256:", 7) != 0 || !pull_digest_valid(digest))
		return corrupt(err,
			"files[%zu].digest is not \"sha256:\" and 64 lower-case hex digits", i);
	ret->size = size;
	snprintf(ret->digest, sizeof(ret->digest), "%s", digest);
	ret->name = strdup(name);
	return ret->name ? 0 : banger_error_oom(err);
}

static int check_names(const struct bundle_document *d, struct banger_error *err)
{
	if (d->n == 0 || strcmp(d->files[0].name, BUNDLE_ROOTFS) != 0)
		return banger_error_set(
			err, BANGER_INCOMPLETE, "the first of its files is not " BUNDLE_ROOTFS);
	for (size_t i = 1; i < d->n; i++)
		for (size_t k = 0; k < i; k++)
			if (strcmp(d->files[i].name, d->files[k].name) == 0)
				return corrupt(err, "files[%zu] has the name of files[%zu]", i, k);
	return 0;
}

static int read_files(struct json_object *doc, struct bundle_document *d, struct banger_error *err)
{
	struct json_object *list = banger_json_get(doc, "files");

	if (!json_object_is_type(list, json_type_array))
		return corrupt(err, "files is not a list");
	size_t n = json_object_array_length(list);
	if (n > BUNDLE_FILES_MAX)
		return corrupt(err, "it lists more than %d files", BUNDLE_FILES_MAX);
	d->files = calloc(n + 1, sizeof(*d->files));
	if (!d->files)
		return banger_error_oom(err);
	for (size_t i = 0; i < n; i++) {
		d->n = i + 1;
		int r = read_file_entry(json_object_array_get_idx(list, i), i, &d->files[i], err);
		if (r < 0)
			return r;
	}
	return check_names(d, err);
}

static int read_document(
	struct json_object *doc, struct bundle_document *d, struct banger_error *err)
{
	const char *name = banger_json_str(doc, "name");
	struct banger_error why = {0};

	if (!json_object_is_type(doc, json_type_object) || !banger_json_get(doc, "bundle"))
		return corrupt(err, "it is not a bundle's document: \"bundle\" is missing");
	if (banger_json_int(doc, "bundle", 0) != 1)
		return banger_error_set(err, BANGER_UNSUPPORTED,
			"it is of version %lld, and this banger reads version 1",
			(long long)banger_json_int(doc, "bundle", 0));
	if (banger_json_get(doc, "name") && (!name || !banger_name_valid(name)))
		return corrupt(err, "name is not the name of an image");
	if (name && !(d->name = strdup(name)))
		return banger_error_oom(err);
	/* Of a document as image.json is: kernel and config; the rest is not for it. */
	int r = banger_image_config_parse(doc, &d->kernel, &d->config, &why);
	if (r == -EINVAL)
		return corrupt(err, "%s", why.message);
	if (r < 0 && err)
		*err = why;
	return r < 0 ? r : read_files(doc, d, err);
}

int bundle_document_parse(
	const char *text, size_t len, struct bundle_document *ret, struct banger_error *err)
{
	_cleanup_json_ struct json_object *doc = NULL;
	_cleanup_bundle_document_ struct bundle_document d = {0};
	struct banger_error why = {0};
	int r = banger_json_parse(text, len, &doc, &why);

	if (r == -EINVAL)
		r = corrupt(err, "%s", why.message);
	else if (r < 0 && err)
		*err = why;
	if (r == 0)
		r = read_document(doc, &d, err);
	if (r < 0) {
		banger_error_prefix(err, "the bundle's " BUNDLE_JSON);
		return r;
	}
	*ret = d;
	d = (struct bundle_document){0};
	return 0;
}

/* ---- to JSON */

static struct json_object *file_json(const struct bundle_file *f)
{
	_cleanup_json_ struct json_object *o = json_object_new_object();

	if (!o || banger_json_add_str(o, "name", f->name) < 0 ||
		banger_json_add_int(o, "size", f->size) < 0 ||
		banger_json_add_str(o, "digest", f->digest) < 0)
		return NULL;
	return TAKE_PTR(o);
}

static struct json_object *document_json(const struct bundle_document *d)
{
	_cleanup_json_ struct json_object *o = json_object_new_object(), *config = NULL,
					  *files = json_object_new_array();

	if (!o || !files || banger_json_add_int(o, "bundle", 1) < 0 ||
		banger_json_add_str(o, "name", d->name) < 0 ||
		banger_json_add_str(o, "kernel", d->kernel) < 0)
		return NULL;
	if (d->config && (banger_json_parse(d->config, strlen(d->config), &config, NULL) < 0 ||
				 banger_json_add(o, "config", TAKE_PTR(config)) < 0))
		return NULL;
	for (size_t i = 0; i < d->n; i++) {
		struct json_object *f = file_json(&d->files[i]);
		if (!f || json_object_array_add(files, f) < 0) {
			json_object_put(f);
			return NULL;
		}
	}
	return banger_json_add(o, "files", TAKE_PTR(files)) < 0 ? NULL : TAKE_PTR(o);
}

int bundle_document_text(
	const struct bundle_document *d, char **ret, size_t *ret_len, struct banger_error *err)
{
	_cleanup_json_ struct json_object *o = document_json(d);
	const char *text = o ? json_object_to_json_string_ext(
				       o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE)
			     : NULL;
	char *copy;

	if (!text || asprintf(&copy, "%s\n", text) < 0)
		return banger_error_oom(err);
	*ret_len = strlen(copy);
	*ret = copy;
	return 0;
}

/* ---- taking one apart */

/* What banger-unpack fills; names are "\1bundle-0" (the document), "\1bundle-1", … */
struct slots {
	int dir_fd;
	int fds[1 + BUNDLE_FILES_MAX];
	size_t n;
};

static const char *slot_name(size_t i, char ret[32])
{
	snprintf(ret, 32, "\1bundle-%zu", i);
	return ret;
}

/* Those that still have such a name go. */
static void slots_done(struct slots *s)
{
	char name[32];

	for (size_t i = 0; i < s->n; i++) {
		close(s->fds[i]);
		(void)unlinkat(s->dir_fd, slot_name(i, name), 0);
	}
}

static int make_slots(struct slots *s, struct banger_error *err)
{
	char name[32];

	while (s->n < ELEMENTSOF(s->fds)) {
		int fd = openat(s->dir_fd, slot_name(s->n, name),
			O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
		if (fd < 0)
			return banger_error_set_errno(
				err, errno, "making a file for the bundle's content");
		s->fds[s->n++] = fd;
	}
	return 0;
}

static int read_text(int fd, char **ret, size_t *ret_len, struct banger_error *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return banger_error_set_errno(err, errno, "reading the bundle's " BUNDLE_JSON);
	if (st.st_size > BUNDLE_JSON_MAX)
		return banger_error_set(
			err, BANGER_TOO_LARGE, "the bundle's " BUNDLE_JSON " is too large");
	_cleanup_free_ char *text = malloc((size_t)st.st_size + 1);
	if (!text)
		return banger_error_oom(err);
	ssize_t n = pread(fd, text, (size_t)st.st_size, 0);
	if (n != st.st_size)
		return banger_error_set_errno(
			err, n < 0 ? errno : EIO, "reading the bundle's " BUNDLE_JSON);
	*ret_len = (size_t)n;
	*ret = TAKE_PTR(text);
	return 0;
}

#define PIECE (256 << 10)

/* A few bytes of an archive can make a hole of terabytes, which takes an hour to hash. */
static int digest_zeros(struct pull_hash *h, int64_t len, int cancel_fd, struct banger_error *err)
{
	static const char zeros[PIECE];
	int r = 0;

	while (r == 0 && len > 0) {
		size_t n = len < PIECE ? (size_t)len : PIECE;
		pull_hash_update(h, zeros, n);
		len -= (int64_t)n;
		r = pull_check_cancelled(cancel_fd, err);
	}
	return r;
}

static int digest_data(struct pull_hash *h, int fd, int64_t at, int64_t end, char *buf,
	int cancel_fd, struct banger_error *err)
{
	while (at < end) {
		ssize_t n = pread(fd, buf, end - at < PIECE ? (size_t)(end - at) : PIECE, at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return banger_error_set_errno(err, n < 0 ? errno : EIO, "reading it");
		int r = pull_check_cancelled(cancel_fd, err);
		if (r < 0)
			return r;
		pull_hash_update(h, buf, (size_t)n);
		at += n;
	}
	return 0;
}

/* The SHA-256 of a file, its holes as zeros that need not be read. */
static int digest_file(
	int fd, int64_t size, int cancel_fd, char ret[PULL_DIGEST_MAX], struct banger_error *err)
{
	_cleanup_pull_hash_ struct pull_hash *h = NULL;
	_cleanup_free_ char *buf = malloc(PIECE);
	int r = buf ? pull_hash_new(PULL_SHA256_LIKE, &h, err) : banger_error_oom(err);

	for (int64_t at = 0, hole; r == 0 && at < size; at = hole) {
		off_t data = lseek(fd, at, SEEK_DATA);
		int64_t from = data < 0 ? (errno == ENXIO ? size : at) : data;
		off_t end = data < 0 ? -1 : lseek(fd, data, SEEK_HOLE);
		hole = end < 0 || end > size ? size : end;
		if (from > size)
			from = size;
		r = digest_zeros(h, from - at, cancel_fd, err);
		if (r == 0)
			r = digest_data(h, fd, from, hole, buf, cancel_fd, err);
	}
	if (r == 0)
		pull_hash_end(h, ret);
	return r;
}

/* Is the file in slot i + 1 what the document says of file i? */
static int check_file(const struct slots *s, const struct bundle_document *d, size_t i,
	int cancel_fd, struct banger_error *err)
{
	const struct bundle_file *f = &d->files[i];
	char digest[PULL_DIGEST_MAX];
	int fd = s->fds[i + 1];
	struct stat st;

	if (fstat(fd, &st) < 0)
		return banger_error_set_errno(err, errno, "looking at %s", f->name);
	if (st.st_size != f->size)
		return banger_error_set(err, BANGER_CORRUPT,
			"the bundle's file \"%s\" has %lld bytes, and its " BUNDLE_JSON
			" says %lld",
			f->name, (long long)st.st_size, (long long)f->size);
	int r = digest_file(fd, st.st_size, cancel_fd, digest, err);
	if (r < 0) {
		banger_error_prefix(err, "checking %s", f->name);
		return r;
	}
	if (strcmp(digest, f->digest) != 0)
		return banger_error_set(err, BANGER_CORRUPT,
			"the bundle's file \"%s\" has the digest %s, and its " BUNDLE_JSON
			" says %s",
			f->name, digest, f->digest);
	return 0;
}

static int name_file(
	const struct slots *s, const struct bundle_document *d, size_t i, struct banger_error *err)
{
	char name[32];

	if (renameat2(s->dir_fd, slot_name(i + 1, name), s->dir_fd, d->files[i].name,
		    RENAME_NOREPLACE) < 0)
		return banger_error_set_errno(
			err, errno, "naming the bundle's file \"%s\"", d->files[i].name);
	return 0;
}

int bundle_extract(const struct banger_config *config, const struct bundle_source *source,
	struct bundle_document *ret, struct banger_error *err)
{
	_cleanup_(slots_done) struct slots s = {.dir_fd = source->dir_fd};
	_cleanup_bundle_document_ struct bundle_document d = {0};
	_cleanup_free_ char *text = NULL;
	size_t len = 0;
	int r = make_slots(&s, err);

	if (r < 0)
		return r;
	const struct unpack_bundle work = {.in_fd = source->fd,
		.document_fd = s.fds[0],
		.files = s.fds + 1,
		.n = BUNDLE_FILES_MAX,
		.cancel_fd = source->cancel_fd,
		.progress = source->progress,
		.arg = source->arg};
	r = unpack_bundle_run(config, &work, err);
	if (r == 0)
		r = read_text(s.fds[0], &text, &len, err);
	if (r == 0)
		r = bundle_document_parse(text, len, &d, err);
	for (size_t i = 0; r == 0 && i < d.n; i++)
		r = check_file(&s, &d, i, source->cancel_fd, err);
	for (size_t i = 0; r == 0 && i < d.n; i++)
		r = name_file(&s, &d, i, err);
	if (r < 0)
		return r;
	*ret = d;
	d = (struct bundle_document){0};
	return 0;
}
