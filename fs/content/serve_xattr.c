/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Extended attributes.
 *
 * What no file of an image has: `ls -l` asks twice per file, for an ACL and a label, which would be
 * most of its time. An image in which no inode has one answers EOPNOTSUPP, as a filesystem without
 * them does, and such programs then stop asking; an image that has some answers ENODATA for each
 * file without. To know it, all inodes are looked through once, when it is first asked.
 */
#include <stdatomic.h>
#include <string.h>

#include "serve_internal.h"

static bool image_has(struct image *i, _Atomic int *known, const char *prefix)
{
	int has = atomic_load(known);

	if (has < 0) {
		has = ext4_image_has_xattr(i->ext4, serve_self->scratch, prefix) != 0;
		atomic_store(known, has);
	}
	return has;
}

/* What to say of an attribute that the file does not have. */
static int absent(struct image *i, const char *name)
{
	if (strncmp(name, "system.posix_acl_", 17) == 0)
		return image_has(i, &i->has_acl, "system.posix_acl_") ? -ENODATA : -EOPNOTSUPP;
	if (strcmp(name, "security.selinux") == 0)
		return image_has(i, &i->has_label, name) ? -ENODATA : -EOPNOTSUPP;
	return -ENODATA;
}

static void op_getxattr(fuse_req_t req, fuse_ino_t node, const char *name, size_t size)
{
	struct image *i;
	struct ext4_inode inode;
	ssize_t n;

	if (node == FUSE_ROOT_ID) {
		fuse_reply_err(req, EOPNOTSUPP);
		return;
	}
	if (!serve_node(req, node, &i, &inode))
		return;
	n = ext4_xattr_get(i->ext4, serve_self->scratch, &inode, name, serve_self->buf,
		size < EXT4_XATTR_MAX ? size : EXT4_XATTR_MAX);
	if (n == -ENODATA)
		n = absent(i, name);
	if (n < 0) {
		serve_refuse(req, i, (int)n);
		return;
	}
	table_put(serve_self->s->table, i);
	if (size)
		fuse_reply_buf(req, serve_self->buf, (size_t)n);
	else
		fuse_reply_xattr(req, (size_t)n);
}

/* Names that only root sees are left out for others. */
static size_t without_trusted(char *names, size_t len)
{
	size_t out = 0;

	for (size_t at = 0, n; at < len; at += n) {
		n = strlen(names + at) + 1;
		if (strncmp(names + at, "trusted.", 8) == 0)
			continue;
		memmove(names + out, names + at, n);
		out += n;
	}
	return out;
}

static void op_listxattr(fuse_req_t req, fuse_ino_t node, size_t size)
{
	struct image *i;
	struct ext4_inode inode;
	ssize_t n;

	if (node == FUSE_ROOT_ID) {
		fuse_reply_xattr(req, 0);
		return;
	}
	if (!serve_node(req, node, &i, &inode))
		return;
	n = ext4_xattr_list(i->ext4, serve_self->scratch, &inode, serve_self->buf, EXT4_XATTR_MAX);
	if (n == -ERANGE)
		n = -E2BIG;
	if (n < 0) {
		serve_refuse(req, i, (int)n);
		return;
	}
	table_put(serve_self->s->table, i);
	if (fuse_req_ctx(req)->uid != 0)
		n = (ssize_t)without_trusted(serve_self->buf, (size_t)n);
	if (!size)
		fuse_reply_xattr(req, (size_t)n);
	else if ((size_t)n > size)
		fuse_reply_err(req, ERANGE);
	else
		fuse_reply_buf(req, serve_self->buf, (size_t)n);
}

void serve_xattr_ops(struct fuse_lowlevel_ops *ops)
{
	ops->getxattr = op_getxattr;
	ops->listxattr = op_listxattr;
}
