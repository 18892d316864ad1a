/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes as an archive of any compression, to an image in memory. Whatever they are, the outcome is an
 * error with a message, or an image that libext2fs opens and walks.
 *
 * Mutations would all end at the first header's checksum, so libFuzzer gets a mutator that puts the
 * checksums right again.
 */
#include "fuzz.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <ext2fs/ext2fs.h>
#include "unpack/builder/builder.h"
#include "unpack/layer/layer.h"

static int unpack(int tar_fd, int image_fd, struct banger_error *err)
{
	const struct ext4_builder_options o = {
		.fd = image_fd, .headroom_bytes = 1 << 20, .headroom_percent = 1, .time = 1};
	const struct layer_options lo = {0};
	const struct stream_blob *blob;
	_cleanup_stream_ struct stream *stream = NULL;
	_cleanup_tar_ struct tar_reader *tar = NULL;
	_cleanup_ext4_builder_ struct ext4_builder *b = NULL;
	struct ext4_builder_result result;
	struct layer_counts counts = {0};

	MUST(stream_new_fd(tar_fd, &stream, err) == 0);
	MUST(tar_new(stream, false, &tar, err) == 0);
	MUST(ext4_builder_new(&o, &b, err) == 0);
	stream_start(stream);
	MUST(stream_begin(stream, &blob, err) == 1);
	int r = layer_apply(tar, b, &lo, &counts, err);
	return r < 0 ? r : ext4_builder_finish(b, &result, err);
}

static void check_image(int fd)
{
	char path[32];
	ext2_filsys fs;
	ext2_inode_scan scan;
	ext2_ino_t ino;
	struct ext2_inode inode;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	MUST(ext2fs_open(path, EXT2_FLAG_64BITS, 0, 0, unix_io_manager, &fs) == 0);
	MUST(ext2fs_read_bitmaps(fs) == 0);
	MUST(ext2fs_open_inode_scan(fs, 0, &scan) == 0);
	do
		MUST(ext2fs_get_next_inode(scan, &ino, &inode) == 0);
	while (ino);
	ext2fs_close_inode_scan(scan);
	ext2fs_close_free(&fs);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int tar_fd = memfd_create("tar", MFD_CLOEXEC),
	    image_fd = memfd_create("image", MFD_CLOEXEC);
	struct banger_error err = {0};

	MUST(tar_fd >= 0 && image_fd >= 0);
	MUST(write(tar_fd, data, size) == (ssize_t)size);
	MUST(lseek(tar_fd, 0, SEEK_SET) == 0);
	if (unpack(tar_fd, image_fd, &err) < 0)
		MUST(err.code != BANGER_OK && err.message[0] != '\0');
	else
		check_image(image_fd);
	close(tar_fd);
	close(image_fd);
	return 0;
}

#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION

#define BLOCK 512u

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);

static void set_checksum(uint8_t *h)
{
	unsigned sum = 0;
	char text[8];

	memset(h + 148, ' ', 8);
	for (unsigned i = 0; i < BLOCK; i++)
		sum += h[i];
	snprintf(text, sizeof(text), "%06o", sum & 0777777);
	memcpy(h + 148, text, 7);
}

static size_t octal(const uint8_t *p, size_t len)
{
	size_t v = 0;

	for (size_t i = 0; i < len && p[i] >= '0' && p[i] <= '7'; i++)
		v = v << 3 | (p[i] - '0');
	return v;
}

/* Where headers are if the sizes are right. Now and then a checksum stays wrong. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
	size = LLVMFuzzerMutate(data, size, max_size);
	for (size_t at = 0; at + BLOCK <= size && seed % 64 != 0;) {
		static const uint8_t zero[BLOCK];
		if (memcmp(data + at, zero, BLOCK) != 0)
			set_checksum(data + at);
		size_t content = (octal(data + at + 124, 11) + BLOCK - 1) / BLOCK * BLOCK;
		at += BLOCK + (content < size - at ? content : 0);
	}
	return size;
}

#endif
