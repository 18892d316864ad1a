/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The root, the directories that hold nothing of their own, and the files in the root.
 *
 * rootfs/ is a place: the content connection is mounted over it, and what is seen there is the
 * content's. Where that could not be (content.h), rootfs is a symlink to where it is mounted.
 */
#include <string.h>
#include "tree.h"

static const struct {
	const char *name;
	enum fixed_node node;
} in_root[] = {
	{"images", FIXED_IMAGES},
	{"drafts", FIXED_DRAFTS},
	{"rootfs", FIXED_ROOTFS},
	{"by-id", FIXED_BY_ID},
	{"kernels", FIXED_KERNELS},
	{"vms", FIXED_VMS},
	{"ops", FIXED_OPS},
	{"events", FIXED_EVENTS},
	{"last-error", FIXED_LAST_ERROR},
};

static bool has_rootfs_link(struct fs *fs)
{
	pthread_mutex_lock(&fs->lock);
	bool has = fs->rootfs_link != NULL;
	pthread_mutex_unlock(&fs->lock);
	return has;
}

static int fixed_entry(struct fs *fs, const struct fuse_ctx *who, enum fixed_node node,
	struct fuse_entry_param *ret)
{
	if (node == FIXED_ROOTFS && has_rootfs_link(fs))
		node = FIXED_ROOTFS_LINK;
	ret->ino = node;
	ret->entry_timeout = FS_FOREVER;
	return node_type(node)->getattr(fs, who, node, &ret->attr, &ret->attr_timeout);
}

static int root_lookup(struct fs *fs, const struct fuse_ctx *who, uint64_t dir, const char *name,
	struct fuse_entry_param *ret)
{
	for (size_t i = 0; i < ELEMENTSOF(in_root); i++)
		if (strcmp(in_root[i].name, name) == 0)
			return fixed_entry(fs, who, in_root[i].node, ret);
	return -ENOENT;
}

static int fixed_getattr(struct fs *fs, const struct fuse_ctx *who, uint64_t node, struct stat *ret,
	double *ret_timeout)
{
	attr_dir(fs, ret, shown_ino(NODE_FIXED, node), node == FIXED_ROOT ? 9 : 2, fs->started);
	*ret_timeout = FS_FOREVER;
	return 0;
}

static int root_list(struct fs *fs, const struct fuse_ctx *who, uint64_t dir, struct dir_handle *h,
	struct listing *l)
{
	if (!listing_dots(l, 1, 1))
		return 0;
	for (size_t i = listing_after(l); i < ELEMENTSOF(in_root); i++) {
		struct fuse_entry_param e = {0};
		int r = fixed_entry(fs, who, in_root[i].node, &e);

		if (r < 0)
			return r;
		if (!listing_add(l, in_root[i].name, &e, LISTING_FIRST + i + 1))
			break;
	}
	return 0;
}

static int empty_lookup(struct fs *fs, const struct fuse_ctx *who, uint64_t dir, const char *name,
	struct fuse_entry_param *ret)
{
	return -ENOENT;
}

static int empty_list(struct fs *fs, const struct fuse_ctx *who, uint64_t dir, struct dir_handle *h,
	struct listing *l)
{
	listing_dots(l, shown_ino(NODE_FIXED, dir), 1);
	return 0;
}

static int link_getattr(struct fs *fs, const struct fuse_ctx *who, uint64_t node, struct stat *ret,
	double *ret_timeout)
{
	pthread_mutex_lock(&fs->lock);
	attr_file(fs, ret, shown_ino(NODE_FIXED, node), S_IFLNK | 0777,
		fs->rootfs_link ? strlen(fs->rootfs_link) : 0, fs->started);
	pthread_mutex_unlock(&fs->lock);
	*ret_timeout = 0;
	return 0;
}

static int link_read(struct fs *fs, uint64_t node, char **ret)
{
	pthread_mutex_lock(&fs->lock);
	char *s = strdup(fs->rootfs_link ?: "");
	pthread_mutex_unlock(&fs->lock);
	*ret = s;
	return s ? 0 : -ENOMEM;
}

static int events_getattr(struct fs *fs, const struct fuse_ctx *who, uint64_t node,
	struct stat *ret, double *ret_timeout)
{
	attr_file(fs, ret, shown_ino(NODE_FIXED, node), S_IFREG | 0444, 0, fs->started);
	*ret_timeout = FS_FOREVER;
	return 0;
}

static int last_error_text(
	struct fs *fs, const struct fuse_ctx *who, uint64_t node, char **ret, size_t *ret_len)
{
	char *s = malloc(LAST_ERROR_LEN + 1);

	if (!s)
		return -ENOMEM;
	size_t n = last_errors_get(fs->last_errors, who->uid, s);
	if (n > 0)
		s[n++] = '\n';
	*ret = s;
	*ret_len = n;
	return 0;
}

/* Each uid sees a file of its own, so the kernel may keep nothing of it. */
static int last_error_getattr(struct fs *fs, const struct fuse_ctx *who, uint64_t node,
	struct stat *ret, double *ret_timeout)
{
	_cleanup_free_ char *s = NULL;
	size_t n;
	int r = last_error_text(fs, who, node, &s, &n);

	if (r < 0)
		return r;
	attr_file(fs, ret, shown_ino(NODE_FIXED, node), S_IFREG | 0444, n, fs->started);
	*ret_timeout = 0;
	return 0;
}

const struct node_type type_root = {
	.lookup = root_lookup, .getattr = fixed_getattr, .list = root_list};
const struct node_type type_empty = {
	.lookup = empty_lookup, .getattr = fixed_getattr, .list = empty_list};
const struct node_type type_rootfs_link = {.getattr = link_getattr, .readlink = link_read};
const struct node_type type_events = {.getattr = events_getattr};
const struct node_type type_last_error = {.getattr = last_error_getattr, .text = last_error_text};
