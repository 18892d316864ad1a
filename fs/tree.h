/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tree, node by node: each kind of node says how it is looked up in, listed and read. These
 * functions answer from the model and from open descriptors; they ask nobody and change nothing.
 */
#ifndef FS_TREE_H
#define FS_TREE_H

#include "disk.h"

/* A listing that is being filled for the kernel. */
struct listing {
	fuse_req_t req;
	bool plus;
	off_t off; /* the cookie after which to go on; 0: from the start */
	char *buf;
	size_t size, used;
	uint64_t *referenced; /* file nodes that gained a lookup in this listing */
	size_t nreferenced;
};
#define LISTING_FIRST                                                                              \
	2 /* cookies 1 and 2 are "." and ".."; entry n has cookie LISTING_FIRST + n                \
	   */

struct dir_handle; /* handle.h */

/* A node's kind. Members may be NULL where they make no sense. Errors are -errno. */
struct node_type {
	/* What name is in directory dir; `ret` is zeroed before. A file node gains a lookup. */
	int (*lookup)(struct fs *fs, const struct fuse_ctx *who, uint64_t dir, const char *name,
		struct fuse_entry_param *ret);
	int (*getattr)(struct fs *fs, const struct fuse_ctx *who, uint64_t node, struct stat *ret,
		double *ret_timeout);
	/* Add what comes after l->off, until it is full. */
	int (*list)(struct fs *fs, const struct fuse_ctx *who, uint64_t dir, struct dir_handle *h,
		struct listing *l);
	int (*readlink)(struct fs *fs, uint64_t node, char **ret);
	/* The content, made when it is opened; *ret_len bytes, owned by the caller. */
	int (*text)(struct fs *fs, const struct fuse_ctx *who, uint64_t node, char **ret,
		size_t *ret_len);
	bool cache_listing; /* the kernel may keep it until it is told */
};
const struct node_type *node_type(uint64_t node);

extern const struct node_type type_root, type_empty, type_rootfs_link, type_events, type_last_error;
extern const struct node_type type_images, type_drafts, type_by_id, type_link;
extern const struct node_type type_image, type_image_json, type_kernels, type_kernel,
	type_kernel_json, type_file;
extern const struct node_type type_ops, type_op, type_vms, type_vm, type_vm_json;

/* ---- for their use */

/* Add an entry whose cookie is `cookie`; e->attr's st_ino and st_mode are enough for a listing
 * without attributes. false: it did not fit. */
bool listing_add(
	struct listing *l, const char *name, const struct fuse_entry_param *e, off_t cookie);
/* Would one more entry with this name fit? So that a node need not be made in vain. */
bool listing_fits(const struct listing *l, const char *name);
/* "." and "..", if they come next. */
bool listing_dots(struct listing *l, uint64_t dir_ino, uint64_t parent_ino);
/* The number of the last entry that the reader has; 0: none. */
static inline uint64_t listing_after(const struct listing *l)
{
	return l->off > LISTING_FIRST ? (uint64_t)l->off - LISTING_FIRST : 0;
}
/* e->ino gained a lookup that is to be taken back if the listing cannot be sent. */
void listing_referenced(struct listing *l, uint64_t node);

/* Inode numbers as shown. An image's is its id; a file's is that on disk; all others are from a
 * range of their own. */
uint64_t shown_ino(enum node_kind kind, uint64_t key);
void attr_dir(const struct fs *fs, struct stat *st, uint64_t ino, unsigned nlink,
	struct timespec changed);
void attr_file(const struct fs *fs, struct stat *st, uint64_t ino, mode_t mode, size_t size,
	struct timespec changed);
/* As on disk, but what is published belongs to the owner of the mount and is shown as 0644. */
void attr_disk(const struct fs *fs, struct stat *st, const struct statx *stx, bool published);
struct timespec us_to_timespec(int64_t us);

/* Fill in the entry of an image, with the read lock held; its attributes only if it is published.
 */
void entry_image(struct fs *fs, const struct model_image *i, struct fuse_entry_param *e);
/* The rest, for a draft, without the lock. */
void entry_draft(struct fs *fs, struct fuse_entry_param *e);
/* The entry of the file `path` of `owner`: -ENOENT and so on. Gains a lookup. */
int entry_disk(struct fs *fs, uint64_t owner, const struct disk *d, const char *path,
	struct fuse_entry_param *e);
/* List the directory `path` of `owner`, leaving out `hidden`. first: entries shown before, n of
 * them. */
int list_disk(struct fs *fs, uint64_t owner, const char *path, const char *hidden, size_t n_before,
	struct dir_handle *h, struct listing *l);

/* Pretty JSON with a newline, as a new string. o is taken; NULL is -ENOMEM. */
int pretty_json(struct json_object *o, char **ret, size_t *ret_len);

#endif
