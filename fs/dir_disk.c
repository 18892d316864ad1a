/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files and directories that lie on disk: in an image, a draft, a kernel's tree.
 *
 * A node is opened and asked by the name under which it was last seen, and what is found there is
 * compared with the inode that the node stands for. If it is another (something was renamed over
 * it, by a way that this mount does not see), a handle that is open on it is asked instead; and if
 * there is none, ESTALE makes the kernel look the name up again.
 */
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include "handle.h"

int entry_disk(struct fs *fs, uint64_t owner, const struct disk *d, const char *path,
	struct fuse_entry_param *e)
{
	struct statx stx;
	int r = disk_statx(d, path, &stx);

	if (r < 0)
		return r;
	e->ino = files_lookup(fs->files, owner, path, &stx);
	if (!e->ino)
		return -ENOMEM;
	attr_disk(fs, &e->attr, &stx, !d->draft);
	e->entry_timeout = e->attr_timeout = d->draft ? 0 : FS_FOREVER;
	return 0;
}

static int fill(struct fs *fs, uint64_t owner, const char *path, struct dir_handle *h)
{
	_cleanup_disk_ struct disk d = {0};

	disk_list_done(&h->list);
	h->filled = true;
	int r = disk_of(fs, owner, &d);
	if (r == 0)
		r = disk_list(&d, path, &h->list);
	return r == -ENOENT ? 0 : r; /* deleted while it was open: empty */
}

/* The entry for one name of the list; 1 when it has gone in the meantime. */
static int list_entry(struct fs *fs, uint64_t owner, const struct disk *d, const char *path,
	const struct disk_entry *from, bool plus, struct fuse_entry_param *e)
{
	char full[PATH_MAX];

	if (!plus) {
		e->attr.st_ino = from->ino;
		e->attr.st_mode = DTTOIF(from->type);
		return 0;
	}
	if (snprintf(full, sizeof(full), "%s%s%s", path, *path ? "/" : "", from->name) >=
		(int)sizeof(full))
		return 1;
	int r = entry_disk(fs, owner, d, full, e);
	return r == -ENOENT ? 1 : r;
}

int list_disk(struct fs *fs, uint64_t owner, const char *path, const char *hidden, size_t n_before,
	struct dir_handle *h, struct listing *l)
{
	_cleanup_disk_ struct disk d = {0};
	uint64_t after = listing_after(l);
	int r = 0;

	/* As it is at the start of each pass; the cookies are places in that list. */
	if (!h->filled || after <= n_before)
		r = fill(fs, owner, path, h);
	if (r < 0 || disk_of(fs, owner, &d) < 0)
		return r;
	for (size_t i = after > n_before ? after - n_before : 0; i < h->list.n; i++) {
		const struct disk_entry *from = &h->list.entries[i];
		struct fuse_entry_param e = {0};

		if (hidden && strcmp(from->name, hidden) == 0)
			continue;
		if (!listing_fits(l, from->name))
			break;
		r = list_entry(fs, owner, &d, path, from, l->plus, &e);
		if (r < 0)
			return r;
		if (r == 0) {
			listing_add(l, from->name, &e, LISTING_FIRST + n_before + i + 1);
			listing_referenced(l, e.ino);
		}
	}
	return 0;
}

static int file_statx(struct fs *fs, uint64_t node, struct statx *ret, bool *ret_published)
{
	_cleanup_place_ struct file_place p = {0};
	_cleanup_disk_ struct disk d = {0};
	struct statx stx;

	int r = files_place(fs->files, node, &p);
	if (r < 0)
		return r;
	*ret_published = false;
	r = disk_of(fs, p.owner, &d);
	if (r == 0) {
		*ret_published = !d.draft;
		r = disk_statx(&d, p.path, &stx);
	}
	if (r == 0) {
		struct file_id now = file_id_of(&stx);
		if (file_id_same(&now, &p.id)) {
			*ret = stx;
			return 0;
		}
	}
	return files_statx_open(fs->files, node, ret) < 0 ? -ESTALE : 0;
}

static int file_getattr(struct fs *fs, const struct fuse_ctx *who, uint64_t node, struct stat *ret,
	double *ret_timeout)
{
	bool published;
	struct statx stx;
	int r = file_statx(fs, node, &stx, &published);

	if (r < 0)
		return r;
	attr_disk(fs, ret, &stx, published);
	*ret_timeout = published ? FS_FOREVER : 0;
	return 0;
}

static int file_readlink(struct fs *fs, uint64_t node, char **ret)
{
	_cleanup_place_ struct file_place p = {0};
	_cleanup_disk_ struct disk d = {0};

	int r = files_place(fs->files, node, &p);
	if (r == 0)
		r = disk_of(fs, p.owner, &d);
	if (r == 0)
		r = disk_readlink(&d, p.path, ret);
	return r;
}

/* A directory in a kernel's tree. */
static int file_lookup(struct fs *fs, const struct fuse_ctx *who, uint64_t dir, const char *name,
	struct fuse_entry_param *ret)
{
	_cleanup_place_ struct file_place p = {0};
	_cleanup_disk_ struct disk d = {0};
	char path[PATH_MAX];

	int r = files_place(fs->files, dir, &p);
	if (r == 0)
		r = disk_of(fs, p.owner, &d);
	if (r < 0)
		return r;
	if (snprintf(path, sizeof(path), "%s/%s", p.path, name) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	return entry_disk(fs, p.owner, &d, path, ret);
}

static int file_list(struct fs *fs, const struct fuse_ctx *who, uint64_t dir, struct dir_handle *h,
	struct listing *l)
{
	_cleanup_place_ struct file_place p = {0};

	int r = files_place(fs->files, dir, &p);
	if (r < 0)
		return r;
	if (!listing_dots(l, p.id.ino, p.id.ino))
		return 0;
	return list_disk(fs, p.owner, p.path, NULL, 0, h, l);
}

const struct node_type type_file = {.lookup = file_lookup,
	.getattr = file_getattr,
	.list = file_list,
	.readlink = file_readlink};
