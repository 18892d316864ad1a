/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Import: a raw ext4 image, a tar stream, a bundle or a qcow2 image becomes a published image, by way
 * of staging.h. A failure leaves nothing.
 */
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include "ext4/superblock.h"
#include "image/format.h"
#include "image/qcow2.h"
#include "image/reference.h"
#include "image/staging.h"
#include "pull/bundle.h"

enum { HEAD_SIZE = FORMAT_HEAD };

struct import {
	struct image_service *s;
	struct operation *op;
	const struct image_import *in;
	const char *what; /* the input, in messages */
	mode_t kind;      /* of its descriptor: S_IFREG, … */
	int64_t input_size;
	enum image_format format;
	struct staging *t;
};

/* ---- what is it? */

static bool is_stream(const struct import *i)
{
	return S_ISFIFO(i->kind) || S_ISSOCK(i->kind);
}

static int look_at_input(struct import *i, struct banger_error *err)
{
	struct stat st;

	if (fstat(i->in->fd, &st) < 0)
		return banger_error_set_errno(err, errno, "looking at %s", i->what);
	i->kind = st.st_mode & S_IFMT;
	if (!S_ISREG(i->kind) && !S_ISBLK(i->kind) && !is_stream(i))
		return banger_error_set(
			err, BANGER_BAD_REQUEST, "%s is neither a file nor a pipe", i->what);
	int r = reference_size(i->in->fd, &i->input_size);
	return r < 0 ? banger_error_set_errno(err, r, "looking at %s", i->what) : 0;
}

/* Wait until a stream holds enough to tell, or all that it will ever hold. */
static int wait_for_head(const struct import *i, struct banger_error *err)
{
	struct pollfd fds[] = {{.fd = i->in->fd, .events = POLLIN | POLLRDHUP},
		{.fd = operation_cancel_fd(i->op), .events = POLLIN}};
	int held = 0;

	for (;;) {
		if (poll(fds, ELEMENTSOF(fds), -1) < 0 && errno != EINTR)
			return banger_error_set_errno(err, errno, "waiting for %s", i->what);
		int r = operation_check_cancelled(i->op, err);
		if (r < 0)
			return r;
		if (ioctl(i->in->fd, FIONREAD, &held) < 0)
			return banger_error_set_errno(err, errno, "looking at %s", i->what);
		if (held >= HEAD_SIZE || (fds[0].revents & (POLLHUP | POLLRDHUP | POLLERR)))
			return 0;
		/* There is something but not enough, and no event tells of more. */
		(void)poll(&fds[1], 1, 2);
	}
}

/* Read the head without taking it: tee(2) copies references to a pipe's buffers. */
static ssize_t peek_stream(const struct import *i, unsigned char *head)
{
	int ends[2];

	if (S_ISSOCK(i->kind))
		return recv(i->in->fd, head, HEAD_SIZE, MSG_PEEK);
	if (pipe2(ends, O_CLOEXEC) < 0)
		return -1;
	_cleanup_close_ int out = ends[0], in = ends[1];
	ssize_t n = tee(i->in->fd, in, HEAD_SIZE, SPLICE_F_NONBLOCK);
	if (n <= 0)
		return n;
	size_t got = 0;
	while (got < (size_t)n) {
		ssize_t m = read(out, head + got, (size_t)n - got);
		if (m <= 0)
			return -1;
		got += (size_t)m;
	}
	return n;
}

/* The first bytes of the input, which stay to be read. */
static int read_head(
	const struct import *i, unsigned char *head, size_t *ret_len, struct banger_error *err)
{
	int r = is_stream(i) ? wait_for_head(i, err) : 0;

	if (r < 0)
		return r;
	ssize_t n = is_stream(i) ? peek_stream(i, head) : pread(i->in->fd, head, HEAD_SIZE, 0);
	if (n < 0)
		return banger_error_set_errno(err, errno, "reading %s", i->what);
	*ret_len = (size_t)n;
	return 0;
}

static int choose_format(struct import *i, struct banger_error *err)
{
	unsigned char head[HEAD_SIZE];
	size_t len = 0;
	int r = format_parse(i->in->format, &i->format, err);

	if (r == 0)
		r = read_head(i, head, &len, err);
	else if (r > 0)
		return 0;
	return r < 0 ? r : format_detect(head, len, i->what, &i->format, err);
}

/* ---- the root filesystem */

static int import_raw(struct import *i, struct banger_error *err)
{
	int64_t size = i->input_size;
	int r = 0;

	if (is_stream(i)) {
		r = durable_copy_stream(
			i->in->fd, i->t->rootfs_fd, i->op, i->what, &size, i->t->image.digest, err);
	} else {
		/* Before a long copy; and below on the copy, for this one may be written to. */
		r = ext4_superblock_check(i->in->fd, size, i->what, NULL, err);
		if (r == 0)
			r = durable_copy(i->in->fd, size, i->t->rootfs_fd, i->op, i->what,
				i->t->image.digest, err);
	}
	if (r == 0)
		r = ext4_superblock_check(i->t->rootfs_fd, size, i->what, NULL, err);
	if (r == 0)
		i->t->image.size = size;
	return r;
}

static int import_tar(struct import *i, struct banger_error *err)
{
	const struct image_service_deps *deps = &i->s->deps;
	struct stat st;

	if (!deps->flatten_tar)
		return banger_error_set(
			err, BANGER_UNSUPPORTED, "this build cannot import tar archives");
	int r = deps->flatten_tar(deps->arg, i->op, i->in->fd, i->t->rootfs_fd, i->in->size, err);
	if (r < 0)
		return r;
	if (fstat(i->t->rootfs_fd, &st) < 0)
		return banger_error_set_errno(err, errno, "looking at the imported image");
	r = ext4_superblock_check(
		i->t->rootfs_fd, st.st_size, "what was made of the archive", NULL, err);
	if (r == 0)
		r = durable_digest_direct(i->t->rootfs_fd, st.st_size, i->op, "the imported image",
			i->t->image.digest, err);
	if (r == 0)
		i->t->image.size = st.st_size;
	return r;
}

/* A private copy that has no name. */
static int copy_aside(struct import *i, int *ret_fd, struct banger_error *err)
{
	_cleanup_close_ int fd = openat(i->t->dir_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	int64_t size = i->input_size;

	if (fd < 0)
		return banger_error_set_errno(err, errno, "making a copy of %s", i->what);
	int r = is_stream(i) ? durable_copy_stream(i->in->fd, fd, i->op, i->what, &size, NULL, err)
			     : durable_copy(i->in->fd, size, fd, i->op, i->what, NULL, err);
	if (r == 0)
		*ret_fd = TAKE_FD(fd);
	return r;
}

/* A disk that came out of an image: a bare filesystem, sound. */
static int take_disk(struct import *i, int64_t size, struct banger_error *err)
{
	unsigned char head[HEAD_SIZE];
	ssize_t n = pread(i->t->rootfs_fd, head, sizeof(head), 0);
	char what[300];

	snprintf(what, sizeof(what), "the disk in %.250s", i->what);
	if (n < 0)
		return banger_error_set_errno(err, errno, "reading %s", what);
	int r = format_check_disk(head, (size_t)n, what, err);
	if (r == 0)
		r = ext4_superblock_check(i->t->rootfs_fd, size, what, NULL, err);
	if (r == 0)
		r = durable_digest(i->t->rootfs_fd, size, i->op, what, i->t->image.digest, err);
	if (r == 0)
		i->t->image.size = size;
	return r;
}

static int import_qcow2(struct import *i, struct banger_error *err)
{
	_cleanup_close_ int copy = -1;
	int64_t size;
	int r = copy_aside(i, &copy, err);

	if (r == 0)
		r = qcow2_check(copy, i->what, &size, err);
	if (r == 0)
		r = qcow2_convert(copy, i->t->rootfs_fd, size, i->op, i->what, err);
	return r < 0 ? r : take_disk(i, size, err);
}

/* The bundle brings a root filesystem of its own in place of the empty one. */
static int import_bundle(struct import *i, struct banger_error *err)
{
	_cleanup_bundle_document_ struct bundle_document d = {0};
	const struct bundle_source source = {
		.fd = i->in->fd, .dir_fd = i->t->dir_fd, .cancel_fd = operation_cancel_fd(i->op)};

	banger_closep(&i->t->rootfs_fd);
	i->t->rootfs_fd = -1;
	if (unlinkat(i->t->dir_fd, ROOTFS, 0) < 0)
		return banger_error_set_errno(err, errno, "making room for a bundle");
	int r = bundle_extract(i->s->deps.config, &source, &d, err);
	if (r < 0) {
		banger_error_prefix(err, "%s", i->what);
		return r;
	}
	i->t->rootfs_fd = openat(i->t->dir_fd, ROOTFS, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (i->t->rootfs_fd < 0)
		return banger_error_set_errno(err, errno, "opening the bundle's root filesystem");
	r = ext4_superblock_check(i->t->rootfs_fd, d.files[0].size, i->what, NULL, err);
	if (r < 0)
		return r;
	i->t->image.size = d.files[0].size;
	memcpy(i->t->image.digest, d.files[0].digest, DIGEST_SIZE); /* a sha256, checked */
	i->t->image.kernel = TAKE_PTR(d.kernel);
	i->t->image.config = TAKE_PTR(d.config);
	return 0;
}

static int import_rootfs(struct import *i, struct banger_error *err)
{
	if (i->in->size && i->format != FORMAT_TAR)
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"%s has a size of its own; only for a tar can one be given",
			i->format == FORMAT_RAW     ? "a raw image"
			: i->format == FORMAT_QCOW2 ? "a qcow2 image"
						    : "a bundle");
	switch (i->format) {
	case FORMAT_TAR:
		return import_tar(i, err);
	case FORMAT_BUNDLE:
		return import_bundle(i, err);
	case FORMAT_QCOW2:
		return import_qcow2(i, err);
	default:
		return import_raw(i, err);
	}
}

int image_service_import(struct image_service *s, struct operation *op,
	const struct image_import *in, struct banger_image *ret, struct banger_error *err)
{
	_cleanup_staging_ struct staging t = STAGING_INIT(s, op);
	struct import i = {
		.s = s, .op = op, .in = in, .what = in->source ?: "the imported file", .t = &t};

	int r = staging_begin(&t, in->name, in->source, err);
	if (r == 0)
		r = look_at_input(&i, err);
	if (r == 0)
		r = choose_format(&i, err);
	if (r == 0)
		r = staging_make(&t, err);
	if (r == 0)
		r = import_rootfs(&i, err);
	if (r == 0)
		r = staging_seal(&t, err);
	if (r == 0)
		r = staging_publish(&t, "imported", err);
	if (r < 0)
		return r;
	*ret = image_take(&t.image);
	return 0;
}
