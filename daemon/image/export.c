/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Export: a published image becomes a bundle (pull/bundle.h) in a file or pipe of the caller's.
 *
 * The bundle begins with the digests of all its files and their maps, so each file is read twice:
 * first to hash it and to find its blocks of zeros, then to write it out. Which blocks are zeros is
 * asked of the content, not of the filesystem that holds it, so that the bundle is the same wherever
 * the image is. What was published never changes, so the two readings agree; that the root filesystem
 * is still what was published is found out on the way, before the first byte is written.
 *
 * The files are opened at once. The image may be deleted, renamed or swapped meanwhile.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <banger/log.h>
#include "image/internal.h"
#include "pull/bundle.h"

enum {
	PIECE = 256 * 1024,
	BLOCK = 4096,
	HOLE_PIECE = 64 << 20, /* bytes that are hashed between two looks at the cancellation */
	PIECES_MAX = 1 << 19,  /* of a file; readers take twice as many */
	PROGRESS_US = 250000,
};

/* A file and its map. */
struct part {
	char *name;
	int fd;
	int64_t size;
	char digest[DIGEST_SIZE];
	struct bundle_piece *pieces;
	size_t n, room;
	int64_t gap; /* holes up to this are taken for data: there were too many */
};

struct export
{
	struct image_service *s;
	struct operation *op;
	struct banger_image image;
	struct part *parts;
	size_t n;
	const char *phase;
	int64_t done, total, told_us; /* progress */
};

static void export_done(struct export *x)
{
	for (size_t i = 0; i < x->n; i++) {
		free(x->parts[i].name);
		free(x->parts[i].pieces);
		banger_closep(&x->parts[i].fd);
	}
	free(x->parts);
	banger_image_done(&x->image);
}

/* ---- progress */

static void tell(void *arg, int64_t done)
{
	struct export *x = arg;
	int64_t now = banger_monotonic_us();

	x->done = done;
	if (now - x->told_us < PROGRESS_US)
		return;
	x->told_us = now;
	struct json_object *o = json_object_new_object();
	if (!o)
		return;
	banger_json_add_str(o, "phase", x->phase);
	banger_json_add_int(o, "done", done);
	banger_json_add_int(o, "total", x->total);
	operation_progress(x->op, o);
}

static void enter_phase(struct export *x, const char *phase, int64_t total)
{
	x->phase = phase;
	x->done = 0;
	x->total = total;
	x->told_us = 0;
}

/* ---- which files */

static int by_name(const void *a, const void *b)
{
	const struct part *x = a, *y = b;
	bool root_x = !strcmp(x->name, ROOTFS), root_y = !strcmp(y->name, ROOTFS);

	return root_x != root_y ? root_y - root_x : strcmp(x->name, y->name);
}

static int add_part(struct export *x, int dir_fd, const char *name, struct banger_error *err)
{
	_cleanup_close_ int fd =
		openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return banger_error_set_errno(
			err, errno, "opening \"%s\" of image \"%s\"", name, x->image.name);
	if (!S_ISREG(st.st_mode))
		return banger_error_set(err, BANGER_CORRUPT,
			"\"%s\" of image \"%s\" is not a regular file", name, x->image.name);
	if (x->n == BUNDLE_FILES_MAX)
		return banger_error_set(err, BANGER_TOO_LARGE,
			"image \"%s\" has more than %d files, which is what a bundle takes",
			x->image.name, BUNDLE_FILES_MAX);
	struct part *p = &x->parts[x->n];
	*p = (struct part){.name = strdup(name), .fd = -1, .size = st.st_size};
	if (!p->name)
		return banger_error_oom(err);
	p->fd = TAKE_FD(fd);
	x->n++;
	x->total += st.st_size;
	return 0;
}

static int open_parts(struct export *x, struct banger_error *err)
{
	_cleanup_closedir_ DIR *d = image_open_dir(x->s->dirs[DIR_IMAGES], x->image.id);
	struct dirent *de;
	int r = 0;

	x->parts = calloc(BUNDLE_FILES_MAX, sizeof(*x->parts));
	if (!x->parts)
		return banger_error_oom(err);
	if (!d)
		return banger_error_set_errno(
			err, errno, "opening the files of image \"%s\"", x->image.name);
	while (r == 0 && (errno = 0, de = readdir(d)))
		if (!image_is_dots(de->d_name))
			r = add_part(x, dirfd(d), de->d_name, err);
	if (r == 0 && errno)
		r = banger_error_set_errno(
			err, errno, "listing the files of image \"%s\"", x->image.name);
	if (r < 0)
		return r;
	qsort(x->parts, x->n, sizeof(*x->parts), by_name);
	if (x->n == 0 || strcmp(x->parts[0].name, ROOTFS))
		return banger_error_set(
			err, BANGER_CORRUPT, "image \"%s\" has no " ROOTFS, x->image.name);
	return 0;
}

/* ---- what is in them */

/* Take holes up to twice as long for data until half of the pieces are left. */
static void coarsen(struct part *p)
{
	while (p->n > PIECES_MAX / 2) {
		size_t to = 0;

		p->gap = p->gap ? 2 * p->gap : BLOCK;
		for (size_t i = 1; i < p->n; i++) {
			struct bundle_piece *last = &p->pieces[to], *next = &p->pieces[i];
			if (next->offset - (last->offset + last->len) <= p->gap)
				last->len = next->offset + next->len - last->offset;
			else
				p->pieces[++to] = *next;
		}
		p->n = to + 1;
	}
}

static int add_piece(struct part *p, int64_t offset, int64_t len, struct banger_error *err)
{
	struct bundle_piece *last = p->n ? &p->pieces[p->n - 1] : NULL;

	if (last && offset - (last->offset + last->len) <= p->gap) {
		last->len = offset + len - last->offset;
		return 0;
	}
	if (p->n == PIECES_MAX) {
		coarsen(p);
		return add_piece(p, offset, len, err);
	}
	if (p->n == p->room) {
		size_t room = p->room ? 2 * p->room : 64;
		struct bundle_piece *more = reallocarray(p->pieces, room, sizeof(*more));
		if (!more)
			return banger_error_oom(err);
		p->pieces = more;
		p->room = room;
	}
	p->pieces[p->n++] = (struct bundle_piece){offset, len};
	return 0;
}

/* Blocks of the buffer, which stands at offset `at` of the file, that are not zeros. */
static int map_blocks(
	struct part *p, const unsigned char *buf, size_t len, int64_t at, struct banger_error *err)
{
	static const unsigned char zeros[BLOCK];
	int r = 0;

	for (size_t i = 0; r == 0 && i < len; i += BLOCK) {
		size_t n = len - i < BLOCK ? len - i : BLOCK;
		if (memcmp(buf + i, zeros, n) != 0)
			r = add_piece(p, at + (int64_t)i, (int64_t)n, err);
	}
	return r;
}

/* Fill the buffer, so that blocks are whole. */
static ssize_t read_piece(int fd, unsigned char *buf, size_t len, int64_t at)
{
	size_t got = 0;

	while (got < len) {
		ssize_t n = pread(fd, buf + got, len - got, at + (int64_t)got);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -EUCLEAN;
		got += (size_t)n;
	}
	return (ssize_t)got;
}

static int scan_data(struct export *x, struct part *p, struct digest *d, unsigned char *buf,
	int64_t at, int64_t end, struct banger_error *err)
{
	while (at < end) {
		ssize_t n =
			read_piece(p->fd, buf, end - at < PIECE ? (size_t)(end - at) : PIECE, at);
		if (n < 0)
			return banger_error_set_errno(err, (int)n, "reading %s", p->name);
		int r = digest_update(d, buf, (size_t)n, err);
		if (r == 0)
			r = map_blocks(p, buf, (size_t)n, at, err);
		if (r == 0)
			r = operation_check_cancelled(x->op, err);
		if (r < 0)
			return r;
		at += n;
		tell(x, x->done + n);
	}
	return 0;
}

/* Where the next data begin and end, in whole blocks; what the filesystem does not know is data. */
static void next_data(const struct part *p, int64_t at, int64_t *ret_from, int64_t *ret_end)
{
	off_t from = lseek(p->fd, at, SEEK_DATA);
	bool none = from < 0 && errno == ENXIO;
	off_t end = from < 0 ? -1 : lseek(p->fd, from, SEEK_HOLE);

	from = none || from > p->size ? p->size : from < at ? at : from & ~(off_t)(BLOCK - 1);
	*ret_from = from < at ? at : from;
	*ret_end = end < 0 || end > p->size ? p->size : (end + BLOCK - 1) & ~(off_t)(BLOCK - 1);
	if (*ret_end > p->size)
		*ret_end = p->size;
}

static int scan_hole(
	struct export *x, struct digest *d, int64_t at, int64_t end, struct banger_error *err)
{
	int r = 0;

	while (r == 0 && at < end) {
		int64_t n = end - at < HOLE_PIECE ? end - at : HOLE_PIECE;
		r = digest_zeros(d, (uint64_t)n, err);
		if (r == 0)
			r = operation_check_cancelled(x->op, err);
		tell(x, x->done + n);
		at += n;
	}
	return r;
}

static int scan_part(struct export *x, struct part *p, unsigned char *buf, struct banger_error *err)
{
	_cleanup_digest_ struct digest *d = NULL;
	int r = digest_new(&d, err);

	for (int64_t at = 0, from, end; r == 0 && at < p->size; at = end) {
		next_data(p, at, &from, &end);
		r = scan_hole(x, d, at, from, err);
		if (r == 0)
			r = scan_data(x, p, d, buf, from, end, err);
	}
	return r < 0 ? r : digest_final(d, p->digest, err);
}

static int scan(struct export *x, struct banger_error *err)
{
	_cleanup_free_ unsigned char *buf = malloc(PIECE);
	int r = buf ? 0 : banger_error_oom(err);

	enter_phase(x, "checking", x->total);
	for (size_t i = 0; r == 0 && i < x->n; i++)
		r = scan_part(x, &x->parts[i], buf, err);
	if (r == 0 && strcmp(x->parts[0].digest, x->image.digest))
		r = banger_error_set(err, BANGER_CORRUPT,
			"image \"%s\" is not what was published: its " ROOTFS
			" has the digest %s, not %s",
			x->image.name, x->parts[0].digest, x->image.digest);
	return r;
}

/* ---- the bundle */

static int make_document(
	const struct export *x, char **ret, size_t *ret_len, struct banger_error *err)
{
	struct bundle_file files[BUNDLE_FILES_MAX];
	const struct bundle_document d = {.name = (char *)x->image.name,
		.kernel = x->image.kernel,
		.config = x->image.config,
		.files = files,
		.n = x->n};

	for (size_t i = 0; i < x->n; i++) {
		files[i] = (struct bundle_file){.name = x->parts[i].name, .size = x->parts[i].size};
		strcpy(files[i].digest, x->parts[i].digest);
	}
	return bundle_document_text(&d, ret, ret_len, err);
}

static int write_bundle(
	struct export *x, int fd, struct image_exported *ret, struct banger_error *err)
{
	const struct bundle_output o = {
		.fd = fd, .cancel_fd = operation_cancel_fd(x->op), .progress = tell, .arg = x};
	_cleanup_bundle_writer_ struct bundle_writer *w = NULL;
	_cleanup_free_ char *text = NULL;
	int64_t total = 0;
	size_t len;

	for (size_t i = 0; i < x->n; i++)
		for (size_t k = 0; k < x->parts[i].n; k++)
			total += x->parts[i].pieces[k].len;
	enter_phase(x, "writing", total);
	int r = make_document(x, &text, &len, err);
	if (r == 0)
		r = bundle_writer_new(&o, &w, err);
	if (r == 0)
		r = bundle_writer_document(w, text, len, err);
	for (size_t i = 0; r == 0 && i < x->n; i++) {
		const struct part *p = &x->parts[i];
		r = bundle_writer_file(w, p->name, p->fd, p->size, p->pieces, p->n, err);
	}
	return r < 0 ? r : bundle_writer_finish(w, &ret->size, ret->digest, err);
}

/* What is written to must be new or a stream: nothing of it would be left behind the bundle. */
static int check_output(int fd, struct banger_error *err)
{
	int flags = fcntl(fd, F_GETFL);
	struct stat st;

	if (flags < 0 || fstat(fd, &st) < 0)
		return banger_error_set_errno(err, errno, "looking at the bundle's file");
	if ((flags & O_ACCMODE) == O_RDONLY)
		return banger_error_set(
			err, BANGER_BAD_REQUEST, "the bundle's file is not open for writing");
	if (!S_ISREG(st.st_mode) && !S_ISFIFO(st.st_mode) && !S_ISSOCK(st.st_mode) &&
		!S_ISCHR(st.st_mode))
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"a bundle goes to a file or a pipe, not to a directory or a disk");
	return 0;
}

int image_service_export(struct image_service *s, struct operation *op, const char *image, int fd,
	struct image_exported *ret, struct banger_error *err)
{
	_cleanup_(export_done) struct export x = {.s = s, .op = op};
	int r = image_service_find(s, image, BANGER_PUBLISHED, &x.image, err);

	if (r == 0)
		r = check_output(fd, err);
	if (r == 0)
		r = image_need_digest(s, op, &x.image, err);
	if (r == 0)
		r = open_parts(&x, err);
	if (r == 0)
		r = scan(&x, err);
	if (r == 0)
		r = write_bundle(&x, fd, ret, err);
	if (r < 0)
		return r;
	ret->image = image_take(&x.image);
	return 0;
}
