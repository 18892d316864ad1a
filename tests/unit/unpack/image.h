/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Help for the tests of banger-unpack: images in temporary files, looked at with e2fsck and
 * libext2fs, which know nothing of how they were made.
 */
#ifndef TEST_UNPACK_IMAGE_H
#define TEST_UNPACK_IMAGE_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <string.h>
#include <cmocka.h>
#include <ext2fs/ext2fs.h>
#include "unpack/builder/builder.h"

struct image {
	char path[64];
	int fd;
	ext2_filsys fs; /* once opened */
};

/* A new empty file. */
void image_create(struct image *im);
/* Runs e2fsck -fn; fails the test with its output unless all is well. Opens fs. */
void image_check(struct image *im);
void image_done(struct image *im);

/* The inode at a path; fails the test when there is none. */
ext2_ino_t image_inode(struct image *im, const char *path, struct ext2_inode_large *ret);
/* The content of a file, of `size` bytes. Owned by the caller. */
uint8_t *image_read(struct image *im, const char *path, size_t size);
/* An extended attribute; NULL when there is none. Owned by the caller. */
uint8_t *image_xattr(struct image *im, const char *path, const char *name, size_t *ret_len);
/* How many names a directory has, "." and ".." not counted. */
size_t image_count(struct image *im, const char *path);

#endif
