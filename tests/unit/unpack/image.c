/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The images are unlinked as soon as they are open, and reached as /proc/self/fd/N (e2fsck through
 * a descriptor of the same number), so that a test that fails leaves nothing behind.
 */
#include "image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

void image_create(struct image *im)
{
	*im = (struct image){.fd = -1};
	char name[] = "/var/tmp/banger-unpack-XXXXXX";
	im->fd = mkostemp(name, O_CLOEXEC);
	assert_true(im->fd >= 0);
	unlink(name);
	snprintf(im->path, sizeof(im->path), "/proc/%d/fd/%d", getpid(), im->fd);
}

void image_check(struct image *im)
{
	char command[128], output[4096];

	snprintf(command, sizeof(command), "e2fsck -fn %s 2>&1", im->path);
	FILE *p = popen(command, "re");
	assert_non_null(p);
	size_t n = fread(output, 1, sizeof(output) - 1, p);
	output[n] = '\0';
	int status = pclose(p);
	if (status != 0 || !strstr(output, "Pass 5"))
		fail_msg("e2fsck: status %d: %s", status, output);
	if (im->fs)
		ext2fs_close_free(&im->fs);
	errcode_t e = ext2fs_open(im->path, EXT2_FLAG_64BITS, 0, 0, unix_io_manager, &im->fs);
	if (e)
		fail_msg("ext2fs_open: %s", error_message(e));
}

void image_done(struct image *im)
{
	if (im->fs)
		ext2fs_close_free(&im->fs);
	if (im->fd >= 0)
		close(im->fd);
	im->fd = -1;
}

ext2_ino_t image_inode(struct image *im, const char *path, struct ext2_inode_large *ret)
{
	ext2_ino_t ino;
	errcode_t e = ext2fs_namei(im->fs, EXT2_ROOT_INO, EXT2_ROOT_INO, path, &ino);

	if (e)
		fail_msg("%s: %s", path, error_message(e));
	memset(ret, 0, sizeof(*ret));
	e = ext2fs_read_inode_full(im->fs, ino, (struct ext2_inode *)ret, sizeof(*ret));
	assert_int_equal(e, 0);
	return ino;
}

uint8_t *image_read(struct image *im, const char *path, size_t size)
{
	struct ext2_inode_large inode;
	ext2_ino_t ino = image_inode(im, path, &inode);
	uint8_t *data = malloc(size + 1);
	ext2_file_t f;
	unsigned got;

	assert_non_null(data);
	assert_int_equal(EXT2_I_SIZE((struct ext2_inode *)&inode), size);
	assert_int_equal(ext2fs_file_open(im->fs, ino, 0, &f), 0);
	assert_int_equal(ext2fs_file_read(f, data, size + 1, &got), 0);
	assert_int_equal(got, size);
	ext2fs_file_close(f);
	return data;
}

uint8_t *image_xattr(struct image *im, const char *path, const char *name, size_t *ret_len)
{
	struct ext2_inode_large inode;
	ext2_ino_t ino = image_inode(im, path, &inode);
	struct ext2_xattr_handle *h;
	void *value = NULL;

	assert_int_equal(ext2fs_xattrs_open(im->fs, ino, &h), 0);
	assert_int_equal(ext2fs_xattrs_read(h), 0);
	if (ext2fs_xattr_get(h, name, &value, ret_len) != 0)
		value = NULL;
	ext2fs_xattrs_close(&h);
	return value;
}

static int count_entry(
	struct ext2_dir_entry *entry, int offset, int blocksize, char *buf, void *arg)
{
	++*(size_t *)arg;
	return 0;
}

size_t image_count(struct image *im, const char *path)
{
	struct ext2_inode_large inode;
	ext2_ino_t ino = image_inode(im, path, &inode);
	size_t n = 0;

	assert_int_equal(ext2fs_dir_iterate(im->fs, ino, 0, NULL, count_entry, &n), 0);
	return n - 2;
}
