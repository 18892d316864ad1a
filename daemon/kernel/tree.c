/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tree here was made by us out of an archive, so its depth and names are bounded; somebody with
 * our uid may have put other things there since, so every step is by descriptor, does not follow
 * symlinks and checks the bounds again.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include "kernel/tree.h"

struct walk {
	tree_visit *visit;
	void *arg;
	char path[TREE_PATH_MAX];
};

static int walk_dir(struct walk *w, int parent_fd, const char *name, size_t length, unsigned depth);

static int walk_entry(struct walk *w, int dir_fd, const char *name, size_t length, unsigned depth)
{
	struct stat st;
	int n = snprintf(
		w->path + length, sizeof(w->path) - length, "%s%s", length ? "/" : "", name);
	if (n < 0 || (size_t)n >= sizeof(w->path) - length)
		return -ENAMETOOLONG;
	if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	int r = S_ISDIR(st.st_mode) ? walk_dir(w, dir_fd, name, length + (size_t)n, depth + 1) : 0;
	w->path[length + (size_t)n] = '\0';
	return r ? r : w->visit(w->arg, dir_fd, name, w->path, &st);
}

static int walk_dir(struct walk *w, int parent_fd, const char *name, size_t length, unsigned depth)
{
	if (depth > TREE_DEPTH_MAX)
		return -ELOOP;
	int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	_cleanup_closedir_ DIR *d = fdopendir(fd);
	if (!d) {
		int r = -errno;
		close(fd);
		return r;
	}
	for (;;) {
		errno = 0;
		struct dirent *e = readdir(d);
		if (!e)
			return -errno;
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		int r = walk_entry(w, dirfd(d), e->d_name, length, depth);
		if (r)
			return r;
	}
}

int tree_walk(int parent_fd, const char *name, tree_visit *visit, void *arg)
{
	struct walk w = {.visit = visit, .arg = arg};
	return walk_dir(&w, parent_fd, name, 0, 0);
}

static int remove_entry(
	void *arg, int dir_fd, const char *name, const char *path, const struct stat *st)
{
	return unlinkat(dir_fd, name, S_ISDIR(st->st_mode) ? AT_REMOVEDIR : 0) < 0 &&
			       errno != ENOENT
		       ? -errno
		       : 0;
}

int tree_remove(int parent_fd, const char *name)
{
	if (unlinkat(parent_fd, name, 0) == 0 || errno == ENOENT)
		return 0;
	int r = tree_walk(parent_fd, name, remove_entry, NULL);
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	return unlinkat(parent_fd, name, AT_REMOVEDIR) < 0 && errno != ENOENT ? -errno : 0;
}
