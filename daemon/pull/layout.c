/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Image layouts. All that is below the directory is opened through its descriptor by openat2(2), which
 * keeps it below and follows no link; without blocking, so that a FIFO or a device that stands
 * where a blob should be is seen for what it is and not waited for.
 *
 * index.json is read once, when the layout is opened. It has no digest of its own to be checked
 * against; what it names has.
 */
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include "pull/cancel.h"
#include "pull/fields.h"
#include "pull/layout.h"
#include "pull/parts.h"

#define VERSION_FILE_MAX 4096
#define PIECE (1024 * 1024)
#define LISTED_MAX 20 /* tags that a message names */

struct layout {
	int fd;
	char *dir, *tag; /* tag: NULL: none */
	char *index_text;
	size_t index_len;
	struct pull_document index;
};

/* ---- files */

/* A regular file below the layout. */
static int open_file(const struct layout *l, const char *path, int64_t *ret_size, int *ret_fd,
	struct banger_error *err)
{
	struct open_how how = {
		.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
	};
	_cleanup_close_ int fd = (int)syscall(SYS_openat2, l->fd, path, &how, sizeof(how));
	struct stat st;

	if (fd < 0 && errno == ENOENT)
		return banger_error_set(
			err, BANGER_NOT_FOUND, "image layout %s has no %s", l->dir, path);
	if (fd < 0 && (errno == ELOOP || errno == EXDEV))
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"image layout %s: %s is, or is behind, a symbolic link", l->dir, path);
	if (fd < 0 || fstat(fd, &st) < 0)
		return banger_error_set_errno(err, errno, "image layout %s: %s", l->dir, path);
	if (!S_ISREG(st.st_mode))
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"image layout %s: %s is not a regular file", l->dir, path);
	*ret_size = st.st_size;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

/* Up to len bytes at an offset; fewer at the end of the file. */
static ssize_t read_at(int fd, void *to, size_t len, int64_t offset)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pread(fd, (char *)to + done, len - done, offset + done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		done += n;
	}
	return done;
}

static int read_text(const struct layout *l, int fd, const char *path, int64_t size, char **ret,
	size_t *ret_len, struct banger_error *err)
{
	_cleanup_free_ char *text = malloc(size + 1);

	if (!text)
		return banger_error_oom(err);
	ssize_t n = read_at(fd, text, size, 0);
	if (n < 0)
		return banger_error_set_errno(err, n, "image layout %s: %s", l->dir, path);
	text[n] = '\0';
	*ret = TAKE_PTR(text);
	*ret_len = n;
	return 0;
}

static int read_small(const struct layout *l, const char *path, int64_t max, char **ret,
	size_t *ret_len, struct banger_error *err)
{
	_cleanup_close_ int fd = -1;
	int64_t size = 0;
	int r = open_file(l, path, &size, &fd, err);

	if (r < 0)
		return r;
	if (size > max)
		return banger_error_set(err, BANGER_TOO_LARGE,
			"image layout %s: %s has %lld bytes, more than the %lld allowed", l->dir,
			path, (long long)size, (long long)max);
	return read_text(l, fd, path, size, ret, ret_len, err);
}

/* ---- opening */

static int check_version(const struct layout *l, struct banger_error *err)
{
	_cleanup_free_ char *text = NULL;
	_cleanup_json_ struct json_object *o = NULL;
	const char *version = NULL;
	size_t len = 0;
	int r = read_small(l, "oci-layout", VERSION_FILE_MAX, &text, &len, err);

	if (r < 0) {
		if (r == -ENOENT)
			banger_error_set(err, BANGER_NOT_FOUND,
				"%s is not an image layout: it has no file oci-layout", l->dir);
		return r;
	}
	if ((r = fields_parse(text, len, VERSION_FILE_MAX, &o, err)) < 0 ||
		(r = field_string(o, "", "imageLayoutVersion", true, 32, &version, err)) < 0) {
		banger_error_prefix(err, "image layout %s: oci-layout", l->dir);
		return r;
	}
	if (strncmp(version, "1.", 2) != 0)
		return banger_error_set(err, BANGER_UNSUPPORTED,
			"image layout %s is of version \"%s\"; 1.x is known here", l->dir, version);
	return 0;
}

static int read_index(struct layout *l, struct banger_error *err)
{
	int r = read_small(l, "index.json", PULL_DOCUMENT_MAX, &l->index_text, &l->index_len, err);

	if (r < 0)
		return r;
	r = pull_document_parse(l->index_text, l->index_len, MEDIA_OCI_INDEX, &l->index, err);
	if (r < 0)
		banger_error_prefix(err, "image layout %s: index.json", l->dir);
	return r;
}

int layout_open(const struct pull_reference *ref, struct layout **ret, struct banger_error *err)
{
	_cleanup_layout_ struct layout *l = calloc(1, sizeof(*l));
	int r;

	if (!l)
		return banger_error_oom(err);
	l->fd = -1;
	if (ref->dir[0] != '/')
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"image layout \"%s\" must be named by an absolute path", ref->dir);
	l->dir = strdup(ref->dir);
	l->tag = ref->tag ? strdup(ref->tag) : NULL;
	if (!l->dir || (ref->tag && !l->tag))
		return banger_error_oom(err);
	l->fd = open(l->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NONBLOCK);
	if (l->fd < 0)
		return banger_error_set_errno(err, errno, "image layout %s", l->dir);
	if ((r = check_version(l, err)) < 0 || (r = read_index(l, err)) < 0)
		return r;
	*ret = TAKE_PTR(l);
	return 0;
}

void layout_freep(struct layout **p)
{
	struct layout *l = *p;

	if (!l)
		return;
	if (l->fd >= 0)
		close(l->fd);
	pull_document_done(&l->index);
	free(l->index_text);
	free(l->dir);
	free(l->tag);
	free(l);
	*p = NULL;
}

/* ---- blobs */

int layout_blob_fd(
	struct layout *l, const struct pull_descriptor *d, int *ret_fd, struct banger_error *err)
{
	char path[sizeof("blobs/") + PULL_DIGEST_MAX];
	_cleanup_close_ int fd = -1;
	int64_t size = 0;
	int r = pull_digest_check("the digest", d->digest, err);

	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "blobs/%s", d->digest);
	*strchr(path, ':') = '/';
	if ((r = open_file(l, path, &size, &fd, err)) < 0)
		return r;
	if (size != d->size)
		return banger_error_set(err, BANGER_CORRUPT,
			"image layout %s: %s has %lld bytes, but its descriptor says %lld", l->dir,
			path, (long long)size, (long long)d->size);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int layout_verify(int fd, const struct pull_descriptor *d, int cancel_fd, struct banger_error *err)
{
	_cleanup_pull_hash_ struct pull_hash *h = NULL;
	/* banger-unpack may have set O_DIRECT on what we share with it. */
	_cleanup_free_ char *piece = aligned_alloc(4096, PIECE);
	char actual[PULL_DIGEST_MAX];
	int64_t done = 0;
	ssize_t n;
	int r = pull_hash_new(d->digest, &h, err);

	if (r < 0)
		return r;
	if (!piece)
		return banger_error_oom(err);
	do {
		if ((r = pull_check_cancelled(cancel_fd, err)) < 0)
			return r;
		if ((n = read_at(fd, piece, PIECE, done)) < 0)
			return banger_error_set_errno(
				err, n, "blob %s at byte %lld", d->digest, (long long)done);
		pull_hash_update(h, piece, n);
		done += n;
	} while (n == PIECE && done <= d->size);
	if (done != d->size)
		return banger_error_set(err, BANGER_CORRUPT,
			"blob %s has another size than the %lld bytes its descriptor says",
			d->digest, (long long)d->size);
	pull_hash_end(h, actual);
	if (strcmp(actual, d->digest) != 0)
		return banger_error_set(
			err, BANGER_CORRUPT, "blob %s has another digest: %s", d->digest, actual);
	return 0;
}

int layout_document(struct layout *l, const struct pull_descriptor *d, char **ret_text,
	size_t *ret_len, struct banger_error *err)
{
	_cleanup_free_ char *text = NULL;
	_cleanup_close_ int fd = -1;
	size_t len = 0;
	int r;

	if (d->size > PULL_DOCUMENT_MAX)
		return banger_error_set(err, BANGER_TOO_LARGE,
			"blob %s has %lld bytes, more than the %d a document may have", d->digest,
			(long long)d->size, PULL_DOCUMENT_MAX);
	if ((r = layout_blob_fd(l, d, &fd, err)) < 0 ||
		(r = read_text(l, fd, d->digest, d->size, &text, &len, err)) < 0)
		return r;
	if (len != d->size || !pull_digest_matches(d->digest, text, len))
		return banger_error_set(err, BANGER_CORRUPT,
			"image layout %s: blob %s has another digest than its name", l->dir,
			d->digest);
	*ret_text = TAKE_PTR(text);
	*ret_len = len;
	return 0;
}

/* ---- which image */

/* Could an entry be an image? As in the choice by platform. */
static bool is_image(const struct pull_descriptor *d)
{
	struct pull_document one = {
		.kind = PULL_INDEX, .items = (struct pull_descriptor *)d, .n = 1};
	const struct pull_descriptor *found;

	/* Refused for its platform is still an image. */
	return pull_index_select(&one, &d->platform, &found, NULL) != -EOPNOTSUPP;
}

static void list_tags(const struct layout *l, char *to, size_t size)
{
	size_t n = 0;

	snprintf(to, size, "no tag");
	for (size_t i = 0; i < l->index.n; i++) {
		const char *name = l->index.items[i].ref_name;
		size_t at = n ? strlen(to) : 0;

		if (!name || !is_image(&l->index.items[i]))
			continue;
		if (n++ == LISTED_MAX) {
			snprintf(to + at, size - at, ", …");
			return;
		}
		snprintf(to + at, size - at, "%s%.64s", at ? ", " : "", name);
	}
}

static bool is_named(const struct pull_descriptor *d, const char *what)
{
	return strcmp(d->digest, what) == 0 || (d->ref_name && strcmp(d->ref_name, what) == 0);
}

static int refuse_choice(
	const struct layout *l, const char *what, size_t n, struct banger_error *err)
{
	char tags[700];

	list_tags(l, tags, sizeof(tags));
	if (n > 1 && what)
		return banger_error_set(err, BANGER_AMBIGUOUS,
			"image layout %s has %zu images tagged \"%.128s\"", l->dir, n, what);
	if (n > 1)
		return banger_error_set(err, BANGER_AMBIGUOUS,
			"image layout %s has %zu images: name one as oci:%s:TAG; it has %s", l->dir,
			n, l->dir, tags);
	if (what)
		return banger_error_set(err, BANGER_NOT_FOUND,
			"image layout %s has no image tagged \"%.128s\"; it has %s", l->dir, what,
			tags);
	return banger_error_set(err, BANGER_NOT_FOUND, "image layout %s has no image", l->dir);
}

/* The entry that was asked for; NULL with 0: index.json itself. */
static int choose(const struct layout *l, const char *what, const struct pull_descriptor **ret,
	struct banger_error *err)
{
	const struct pull_descriptor *found = NULL;
	size_t n = 0, named = 0;

	for (size_t i = 0; i < l->index.n; i++) {
		const struct pull_descriptor *d = &l->index.items[i];

		if (!is_image(d) || (what && !is_named(d, what)))
			continue;
		found = d;
		n++;
		named += d->ref_name != NULL;
	}
	if (n == 0 || (n > 1 && (what || named > 0)))
		return refuse_choice(l, what, n, err);
	*ret = n == 1 ? found : NULL;
	return 0;
}

static int give_index(struct layout *l, char **ret_text, size_t *ret_len,
	char ret_digest[PULL_DIGEST_MAX], struct banger_error *err)
{
	_cleanup_pull_hash_ struct pull_hash *h = NULL;
	_cleanup_free_ char *text = strndup(l->index_text, l->index_len);
	char like[PULL_DIGEST_MAX];

	if (!text)
		return banger_error_oom(err);
	snprintf(like, sizeof(like), "sha256:%064d", 0);
	int r = pull_hash_new(like, &h, err);
	if (r < 0)
		return r;
	pull_hash_update(h, text, l->index_len);
	pull_hash_end(h, ret_digest);
	*ret_text = TAKE_PTR(text);
	*ret_len = l->index_len;
	return 0;
}

int layout_manifest(struct layout *l, const char *what, const struct pull_descriptor *descriptor,
	char **ret_text, size_t *ret_len, char ret_media_type[160],
	char ret_digest[PULL_DIGEST_MAX], struct banger_error *err)
{
	const struct pull_descriptor *d = descriptor;
	int r;

	if (!d && (r = choose(l, what ?: l->tag, &d, err)) < 0)
		return r;
	r = d ? layout_document(l, d, ret_text, ret_len, err)
	      : give_index(l, ret_text, ret_len, ret_digest, err);
	if (r < 0)
		return r;
	strcpy(ret_media_type, d ? d->media_type : MEDIA_OCI_INDEX);
	if (d)
		strcpy(ret_digest, d->digest);
	return 0;
}
