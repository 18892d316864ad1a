/* SPDX-License-Identifier: Apache-2.0 */
/*
 * copy_file_range within the mount: `cp images/a/rootfs.ext4 drafts/b/`.
 *
 * The kernel clones the range where the disk can (it tries that first by itself), and else copies
 * without a way through here. Holes are kept: a stretch without data is left out, or punched where
 * the target has something, so a sparse image stays sparse.
 */
#include <fcntl.h>
#include "attempt.h"
#include "handle.h"
#include "loop.h"

/* How much one call does at most, so that the caller can be interrupted between two. */
#define COPY_MAX (256 * 1024 * 1024)

/* Make [off, off + len) of fd read as zeros. */
static int make_hole(int fd, off_t off, off_t len)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (off + len > st.st_size && ftruncate(fd, off + len) < 0)
		return -errno;
	if (off >= st.st_size)
		return 0;
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len) == 0)
		return 0;
	return errno == EOPNOTSUPP ? 1 : -errno;
}

/* Copy up to len bytes of data. Returns how many, 0 at the end of the file, or -errno. */
static ssize_t copy_data(int in, off_t from, int out, off_t to, size_t len)
{
	for (;;) {
		ssize_t n = copy_file_range(in, &(off_t){from}, out, &(off_t){to}, len, 0);
		if (n >= 0 || errno != EINTR)
			return n < 0 ? -errno : n;
	}
}

/* One stretch of data or hole from `from` on. */
static ssize_t copy_stretch(int in, off_t from, int out, off_t to, size_t len)
{
	struct stat st;
	off_t data = lseek(in, from, SEEK_DATA);

	if (fstat(in, &st) < 0)
		return -errno;
	if (data < 0 && errno == ENXIO)
		data = st.st_size; /* nothing but a hole up to the end */
	if (data < 0)
		return copy_data(in, from, out, to, len);
	if (data > from) {
		size_t hole = (size_t)(data - from) < len ? (size_t)(data - from) : len;
		int r = make_hole(out, to, hole);
		if (r <= 0)
			return r < 0 ? r : (ssize_t)hole;
		return copy_data(in, from, out, to, hole);
	}
	off_t end = lseek(in, from, SEEK_HOLE);
	if (end > from && (size_t)(end - from) < len)
		len = end - from;
	return copy_data(in, from, out, to, len);
}

void file_copy_range(struct fs *fs, fuse_req_t req, off_t off_in, struct fuse_file_info *in,
	fuse_ino_t ino_out, off_t off_out, struct fuse_file_info *out, size_t len)
{
	struct disk_handle *from = disk_handle_of(in), *to = disk_handle_of(out);
	size_t done = 0;
	ssize_t n = 0;

	if (!from || !to || !to->writable) {
		/* The caller then copies by reading and writing. */
		fuse_reply_err(req, EOPNOTSUPP);
		return;
	}
	LOOP_MAY_WAIT();
	if (len > COPY_MAX)
		len = COPY_MAX;
	while (done < len) {
		n = copy_stretch(
			from->open.fd, off_in + done, to->open.fd, off_out + done, len - done);
		if (n <= 0)
			break;
		done += n;
	}
	if (n < 0 && done == 0)
		fuse_reply_err(
			req, attempt_failed(fs, fuse_req_ctx(req), "draft.copy", ino_out, -n));
	else
		fuse_reply_write(req, done);
}
