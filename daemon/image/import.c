/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Import: a raw ext4 image or a tar stream becomes a published image, without ever being a draft.
 *
 * It is put together in staging/ID, where nobody else has a name or a descriptor of it, made
 * durable there, and published in one step like a promotion. A failure leaves nothing: what is in
 * staging goes to the trash, and what a crash leaves there is removed at the next start, unless the
 * row was committed before the rename was on the disk (recover.c moves it then). staging/ID.import
 * says as long as it runs that images/ID may be without a row because of it, and not because the
 * registry was lost.
 */
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <banger/fault.h>
#include <banger/log.h>
#include "ext4/superblock.h"
#include "image/internal.h"
#include "image/reference.h"

enum { HEAD_SIZE = 2048 }; /* enough for every magic number that is looked for */

struct import {
	struct image_service *s;
	struct operation *op;
	const struct image_import *in;
	const char *what; /* the input, in messages */
	mode_t kind;      /* of its descriptor: S_IFREG, … */
	int64_t input_size;
	bool tar;
	struct banger_image image;
	int rootfs_fd;
	enum image_dir where; /* of the directory ID; DIR_COUNT: nowhere yet */
	char marker[BANGER_ID_LEN + sizeof(IMPORT_SUFFIX)];
};

static void import_done(struct import *i)
{
	banger_closep(&i->rootfs_fd);
	banger_image_done(&i->image);
}

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

static int make_staging(struct import *i, struct banger_error *err)
{
	int staging = i->s->dirs[DIR_STAGING];

	FAULT_POINT("image.import.begin");
	snprintf(i->marker, sizeof(i->marker), "%s" IMPORT_SUFFIX, i->image.id);
	if (mkdirat(staging, i->marker, 0700) < 0 || mkdirat(staging, i->image.id, 0700) < 0)
		return banger_error_set_errno(err, errno, "making a directory to import into");
	i->where = DIR_STAGING;
	FAULT_POINT("image.import.staged");
	_cleanup_close_ int dir =
		openat(staging, i->image.id, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir >= 0)
		i->rootfs_fd = openat(dir, ROOTFS, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (i->rootfs_fd < 0)
		return banger_error_set_errno(err, errno, "making a file to import into");
	FAULT_POINT("image.import.created");
	return 0;
}

static int import_raw(struct import *i, struct banger_error *err)
{
	int64_t size = i->input_size;
	int r = 0;

	if (i->in->size)
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"a raw image has a size of its own; only for a tar can one be given");
	if (is_stream(i)) {
		r = durable_copy_stream(
			i->in->fd, i->rootfs_fd, i->op, i->what, &size, i->image.digest, err);
	} else {
		/* Before a long copy; and below on the copy, for this one may be written to. */
		r = ext4_superblock_check(i->in->fd, size, i->what, NULL, err);
		if (r == 0)
			r = durable_copy(i->in->fd, size, i->rootfs_fd, i->op, i->what,
				i->image.digest, err);
	}
	if (r == 0)
		r = ext4_superblock_check(i->rootfs_fd, size, i->what, NULL, err);
	if (r == 0)
		i->image.size = size;
	return r;
}

static int import_tar(struct import *i, struct banger_error *err)
{
	const struct image_service_deps *deps = &i->s->deps;
	struct stat st;

	if (!deps->flatten_tar)
		return banger_error_set(
			err, BANGER_UNSUPPORTED, "this build cannot import tar archives");
	int r = deps->flatten_tar(deps->arg, i->op, i->in->fd, i->rootfs_fd, i->in->size, err);
	if (r < 0)
		return r;
	if (fstat(i->rootfs_fd, &st) < 0)
		return banger_error_set_errno(err, errno, "looking at the imported image");
	r = ext4_superblock_check(
		i->rootfs_fd, st.st_size, "what was made of the archive", NULL, err);
	if (r == 0)
		r = durable_digest(i->rootfs_fd, st.st_size, i->op, "the imported image",
			i->image.digest, err);
	if (r == 0)
		i->image.size = st.st_size;
	return r;
}

static int import_rootfs(struct import *i, struct banger_error *err)
{
	int r = i->tar ? import_tar(i, err) : import_raw(i, err);
	if (r < 0)
		return r;
	FAULT_POINT("image.import.copied");
	if (fchmod(i->rootfs_fd, 0444) < 0)
		return banger_error_set_errno(err, errno, "sealing the imported image");
	FAULT_POINT("image.import.sealed");
	r = durable_sync_image(i->s->dirs[DIR_STAGING], i->image.id, i->op, err);
	FAULT_POINT("image.import.synced");
	return r;
}

/* ---- publication */

static int publish(struct import *i, struct banger_error *err)
{
	struct image_service *s = i->s;
	_cleanup_(publication_leavep) struct publication_lock *held =
		publication_enter(s->deps.publication);
	struct banger_op_record record;

	FAULT_POINT("image.import.locked");
	int r = image_name_free(s, BANGER_PUBLISHED, i->image.name, err);
	if (r < 0)
		return r;
	if (renameat2(s->dirs[DIR_STAGING], i->image.id, s->dirs[DIR_IMAGES], i->image.id,
		    RENAME_NOREPLACE) < 0)
		return banger_error_set_errno(err, errno, "publishing image \"%s\"", i->image.name);
	i->where = DIR_IMAGES;
	FAULT_POINT("image.import.renamed");
	i->image.published_us = banger_now_us();
	operation_completed_record(i->op, &record);
	r = store_image_insert(s->deps.store, &i->image, &record, err);
	if (r < 0)
		return r;
	FAULT_POINT("image.import.committed");
	image_event(s, "imported", &i->image, 1);
	FAULT_POINT("image.import.published");
	return 0;
}

static void discard(struct import *i)
{
	struct banger_error err = {0};

	if (i->where != DIR_COUNT &&
		trash_put(i->s->trash, i->s->dirs[i->where], i->image.id, &err) < 0)
		log_warn("what is left of an import stays until the next start",
			KV_S("id", i->image.id), KV_ERR(&err));
}

static int begin(struct import *i, struct banger_error *err)
{
	int r = banger_name_check("image", i->in->name, err);
	if (r == 0)
		r = image_source_check(i->in->source, err);
	if (r == 0)
		r = image_name_free(i->s, BANGER_PUBLISHED, i->in->name, err);
	if (r < 0)
		return r;
	banger_id_mint(i->image.id);
	strcpy(i->image.name, i->in->name);
	strcpy(i->image.op_id, operation_id(i->op));
	if (i->in->source && !(i->image.source = strdup(i->in->source)))
		return banger_error_oom(err);
	r = look_at_input(i, err);
	return r < 0 ? r : choose_format(i, err);
}

int image_service_import(struct image_service *s, struct operation *op,
	const struct image_import *in, struct banger_image *ret, struct banger_error *err)
{
	_cleanup_(import_done) struct import i = {
		.s = s,
		.op = op,
		.in = in,
		.what = in->source ?: "the imported file",
		.image = {.state = BANGER_PUBLISHED, .size = -1, .created_us = banger_now_us()},
		.rootfs_fd = -1,
		.where = DIR_COUNT,
	};

	int r = begin(&i, err);
	if (r == 0)
		r = make_staging(&i, err);
	if (r == 0)
		r = import_rootfs(&i, err);
	if (r == 0)
		r = publish(&i, err);
	if (r < 0)
		discard(&i);
	else
		*ret = image_take(&i.image);
	if (i.marker[0])
		(void)unlinkat(s->dirs[DIR_STAGING], i.marker, AT_REMOVEDIR);
	return r;
}
