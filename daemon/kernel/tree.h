/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Walking and removing a directory tree of ours, by descriptors and never through a symlink.
 */
#ifndef BANGER_KERNEL_TREE_H
#define BANGER_KERNEL_TREE_H

#include <sys/stat.h>
#include <banger/error.h>

#define TREE_DEPTH_MAX 32
#define TREE_PATH_MAX 1024

/* One entry: path is relative to where the walk began; st is of the entry itself (never followed).
 * For a directory it comes after what is in it. Non-zero ends the walk and is what tree_walk()
 * returns. */
typedef int tree_visit(
	void *arg, int dir_fd, const char *name, const char *path, const struct stat *st);

/* Walk everything below parent_fd/name, in no particular order. 0, what visit returned, or -errno
 * (-ELOOP: too deep, -ENAMETOOLONG). */
int tree_walk(int parent_fd, const char *name, tree_visit *visit, void *arg);

/* Remove parent_fd/name and all below it. That it is not there is fine. -errno. */
int tree_remove(int parent_fd, const char *name);

#endif
