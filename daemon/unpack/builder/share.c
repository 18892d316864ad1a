/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Content that need not be written because another file has it.
 *
 * All content stands between the head and the allocator's cursor, but for the superblock's copies,
 * and where a layer's content is does not depend on the layers above it. So the content of the
 * lower layers of an image can be cloned from the file of another image that has them too, as one
 * range. That file must be as it was before ext4_builder_finish(): finishing makes holes of what
 * upper layers removed, and the lower layers' content may be among that. Hence the copy of the data
 * that is made on the way (ext4_builder_give_content()), which where the filesystem shares blocks
 * costs nothing but what was removed.
 *
 * Where the filesystem does not share blocks, the content is copied.
 */
#include "unpack/builder/internal.h"

#include <linux/fs.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define PIECE (1u << 20)

/* What stands where the superblock's copies will be belongs to another filesystem. */
static int punch_copies(struct ext4_builder *b, struct banger_error *err)
{
	for (uint64_t g = 0; g * SPACE_GROUP < b->space.next; g++) {
		if (!space_has_copy(g))
			continue;
		if (fallocate(b->o.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			    (off_t)g * SPACE_GROUP * BLOCK, (off_t)b->head * BLOCK) < 0)
			return banger_error_set_errno(
				err, errno, "cannot make room for the superblock's copies");
	}
	return 0;
}

static int copy_range(
	struct ext4_builder *b, int from_fd, uint64_t first, uint64_t end, struct banger_error *err)
{
	_cleanup_free_ uint8_t *piece = NULL;

	if (posix_memalign((void **)&piece, BLOCK, PIECE) != 0) {
		piece = NULL;
		return banger_error_oom(err);
	}
	while (first < end) {
		size_t want = end - first < PIECE / BLOCK ? (end - first) * BLOCK : PIECE;
		ssize_t n = pread(from_fd, piece, want, (off_t)first * BLOCK);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < (ssize_t)BLOCK)
			return banger_error_set_errno(
				err, n < 0 ? errno : EIO, "cannot read the earlier image");
		uint32_t blocks = n / BLOCK;
		int r = writer_put(b->writer, first, piece, blocks, err);
		if (r < 0)
			return r;
		first += blocks;
	}
	return 0;
}

/* Runs between the copies of the superblock. */
static int copy_content(struct ext4_builder *b, int from_fd, struct banger_error *err)
{
	for (uint64_t g = 0; g * SPACE_GROUP < b->space.next; g++) {
		uint64_t first = g * SPACE_GROUP + (space_has_copy(g) ? b->head : 0);
		uint64_t end = (g + 1) * SPACE_GROUP;
		int r = copy_range(
			b, from_fd, first, end < b->space.next ? end : b->space.next, err);
		if (r < 0)
			return r;
	}
	return 0;
}

int ext4_builder_take_content(
	struct ext4_builder *b, int from_fd, bool *ret_shared, struct banger_error *err)
{
	struct file_clone_range range = {.src_fd = from_fd,
		.src_offset = (uint64_t)b->head * BLOCK,
		.src_length = (b->space.next - b->head) * BLOCK,
		.dest_offset = (uint64_t)b->head * BLOCK};
	bool shared = true;
	int r = content_close(b, err);

	/* A length of 0 would mean all. */
	if (r == 0 && range.src_length > 0) {
		shared = ioctl(b->o.fd, FICLONERANGE, &range) == 0;
		r = shared ? punch_copies(b, err) : copy_content(b, from_fd, err);
	}
	if (r == 0 && ret_shared)
		*ret_shared = shared;
	return r;
}

int ext4_builder_give_content(struct ext4_builder *b, int to_fd, struct banger_error *err)
{
	int r = content_close(b, err);

	if (r == 0)
		r = writer_flush(b->writer, err);
	if (r < 0)
		return r;
	if (ioctl(to_fd, FICLONE, b->o.fd) < 0)
		return errno == ENOSPC || errno == EDQUOT
			       ? banger_error_set_errno(err, errno, "cannot keep the content")
			       : banger_error_set(err, BANGER_UNSUPPORTED,
					 "the filesystem cannot clone files");
	return 0;
}
