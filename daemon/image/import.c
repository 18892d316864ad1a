/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Import: a raw ext4 image or a tar stream becomes a published image, by way of staging.h. A failure
 * leaves nothing.
 */
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include "ext4/superblock.h"
#include "image/reference.h"
#include "image/staging.h"

enum { HEAD_SIZE = 2048 }; /* enough for every magic number that is looked for */

struct import {
	struct image_service *s;
	struct operation *op;
	const struct image_import *in;
	const char *what; /* the input, in messages */
	mode_t kind;      /* of its descriptor: S_IFREG, … */
	int64_t input_size;
	bool tar;
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
static int wait_for_head(struct import *i, struct banger_error *err)
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

static bool looks_like_tar(const unsigned char *head, size_t len)
{
	static const struct {
		unsigned at, len;
		const char *bytes;
	} signs[] = {{257, 5, "ustar"}, {0, 2, "\x1f\x8b"}, {0, 4, "\x28\xb5\x2f\xfd"},
		{0, 6, "\xfd\x37zXZ\0"}, {0, 3, "BZh"}};

	for (size_t k = 0; k < ELEMENTSOF(signs); k++)
		if (len >= signs[k].at + signs[k].len &&
			!memcmp(head + signs[k].at, signs[k].bytes, signs[k].len))
			return true;
	return false;
}

static int choose_format(struct import *i, struct banger_error *err)
{
	const char *format = i->in->format ?: "auto";
	unsigned char head[HEAD_SIZE];

	if (!strcmp(format, "tar") || !strcmp(format, "raw")) {
		i->tar = format[0] == 't';
		return 0;
	}
	if (strcmp(format, "auto"))
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"format \"%s\" is not one of auto, raw, tar", format);
	if (is_stream(i)) {
		int r = wait_for_head(i, err);
		if (r < 0)
			return r;
	}
	ssize_t n = is_stream(i) ? peek_stream(i, head) : pread(i->in->fd, head, sizeof(head), 0);
	if (n < 0)
		return banger_error_set_errno(err, errno, "reading %s", i->what);
	/* What is neither is taken for raw, whose check says best what is wrong with it. */
	i->tar = !ext4_magic(head, (size_t)n) && looks_like_tar(head, (size_t)n);
	return 0;
}

/* ---- the root filesystem */

static int import_raw(struct import *i, struct banger_error *err)
{
	int64_t size = i->input_size;
	int r = 0;

	if (i->in->size)
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"a raw image has a size of its own; only for a tar can one be given");
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
		r = i.tar ? import_tar(&i, err) : import_raw(&i, err);
	if (r == 0)
		r = staging_seal(&t, err);
	if (r == 0)
		r = staging_publish(&t, "imported", err);
	if (r < 0)
		return r;
	*ret = image_take(&t.image);
	return 0;
}
