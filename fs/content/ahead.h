/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Read-ahead across files, for those who read a tree from one end to the other (tar, grep -r, cp
 * -r). The server tells of each directory it lists and of each file that is read from its start;
 * when files are read in the order in which they were listed, the data of the next ones is asked
 * for, in the order it has on disk.
 */
#ifndef FS_CONTENT_AHEAD_H
#define FS_CONTENT_AHEAD_H

#include "ext4/ext4.h"

struct ahead;

/* slow is called before what takes a while. NULL: no memory. */
struct ahead *ahead_new(void (*slow)(void));
void ahead_free(struct ahead *a);

/* A listing as it is made: one thread's, on its stack or in its worker. */
#define AHEAD_FILES 512
#define AHEAD_DIRS 64
struct ahead_listing {
	uint32_t slot;
	uint32_t files, dirs;
	struct ahead_file {
		uint32_t ino, len; /* bytes to read ahead */
		uint64_t off;      /* in the image */
	} file[AHEAD_FILES];
	struct ext4_range dir[AHEAD_DIRS];
};
void ahead_list_start(struct ahead_listing *l, uint32_t slot);
void ahead_list_entry(
	struct ahead_listing *l, const struct ext4_image *img, const struct ext4_inode *i);
/* The listing was given out: its directories are read ahead at once, its files remembered. */
void ahead_listed(struct ahead *a, const struct ext4_image *img, struct ahead_listing *l);
/* A file is read from its start. */
void ahead_read(struct ahead *a, const struct ext4_image *img, uint32_t slot, uint32_t ino);

#endif
