/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the kernel's requests to the tree (tree.h), open files (handle.h) and changes (change.h).
 *
 * Each handler answers its request, or hands it to something that does. Nothing here is logged:
 * what is only read leaves no trace, and a change has its own record (attempt.h).
 */
#include "ops.h"
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/statvfs.h>
#include "change.h"
#include "config.h"
#include "events.h"
#include "handle.h"
#include "loop.h"
#include "passthrough.h"
#include "xattr.h"

#define SMALLEST_ENTRY 128 /* with attributes: bytes of an entry, at least */

static struct fs *fs_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

/* ---- the connection */

#if BANGER_FEATURE_FLAGS
static void want(struct fuse_conn_info *conn, uint64_t flag)
{
	fuse_set_feature_flag(conn, flag);
}
static void do_not_want(struct fuse_conn_info *conn, uint64_t flag)
{
	fuse_unset_feature_flag(conn, flag);
}
#else
static void want(struct fuse_conn_info *conn, unsigned flag)
{
	conn->want |= conn->capable & flag;
}
static void do_not_want(struct fuse_conn_info *conn, unsigned flag)
{
	conn->want &= ~flag;
}
#endif

static void ops_init(void *userdata, struct fuse_conn_info *conn)
{
	want(conn, FUSE_CAP_READDIRPLUS);
	want(conn, FUSE_CAP_READDIRPLUS_AUTO);
	want(conn, FUSE_CAP_PARALLEL_DIROPS);
	want(conn, FUSE_CAP_ASYNC_READ);
	want(conn, FUSE_CAP_ATOMIC_O_TRUNC);
	want(conn, FUSE_CAP_AUTO_INVAL_DATA);
	/* The kernel then clears set-user-ID bits itself, by a setattr. */
	do_not_want(conn, FUSE_CAP_HANDLE_KILLPRIV);
	/* Reads and writes go through memory (file.c). */
	do_not_want(conn, FUSE_CAP_SPLICE_READ);
	do_not_want(conn, FUSE_CAP_SPLICE_WRITE);
	do_not_want(conn, FUSE_CAP_SPLICE_MOVE);
	passthrough_negotiate(userdata, conn);
	conn->max_write = FS_BUFFER;
	conn->max_read = FS_BUFFER;
	conn->max_readahead = FS_BUFFER;
	conn->max_background = 64;
	conn->time_gran = 1;
}

/* ---- names */

static void ops_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	const struct node_type *t = node_type(parent);
	struct fuse_entry_param e = {0};
	int r = t->lookup ? t->lookup(fs_of(req), fuse_req_ctx(req), parent, name, &e) : -ENOENT;

	/* A negative answer is not cached: another door may make the name at any time. */
	if (r < 0)
		fuse_reply_err(req, -r);
	else if (fuse_reply_entry(req, &e) == -ENOENT)
		files_forget(fs_of(req)->files, e.ino, 1);
}

static void ops_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup)
{
	files_forget(fs_of(req)->files, ino, nlookup);
	fuse_reply_none(req);
}

static void ops_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	for (size_t i = 0; i < count; i++)
		files_forget(fs_of(req)->files, forgets[i].ino, forgets[i].nlookup);
	fuse_reply_none(req);
}

static void ops_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	const struct node_type *t = node_type(ino);
	struct handle *h = handle_of(fi);
	double timeout = 0;
	struct stat st;
	int r = t->getattr ? t->getattr(fs_of(req), fuse_req_ctx(req), ino, &st, &timeout)
			   : -ENOENT;

	if (r == 0 && h && h->kind == HANDLE_CONFIG)
		st.st_size = config_size(h);
	if (r < 0)
		fuse_reply_err(req, -r);
	else
		fuse_reply_attr(req, &st, timeout);
}

static void ops_readlink(fuse_req_t req, fuse_ino_t ino)
{
	const struct node_type *t = node_type(ino);
	_cleanup_free_ char *target = NULL;
	int r = t->readlink ? t->readlink(fs_of(req), ino, &target) : -EINVAL;

	if (r < 0)
		fuse_reply_err(req, -r);
	else
		fuse_reply_readlink(req, target);
}

/* What access(2) says of a directory or of what is made from the model. */
static int access_made(
	struct fs *fs, fuse_req_t req, fuse_ino_t ino, const struct stat *st, int mask)
{
	struct image_ref image;

	if ((mask & W_OK) && image_ref_of(fs, ino, &image) == 0 && image.state == BANGER_PUBLISHED)
		return EROFS;
	if ((mask & W_OK) && !fs_may_change(fs, fuse_req_ctx(req)->uid))
		return EACCES;
	return file_permits(req, st, mask) ? 0 : EACCES;
}

static void ops_access(fuse_req_t req, fuse_ino_t ino, int mask)
{
	const struct node_type *t = node_type(ino);
	struct fs *fs = fs_of(req);
	_cleanup_place_ struct file_place p = {0};
	double timeout;
	struct stat st;
	int r = t->getattr ? t->getattr(fs, fuse_req_ctx(req), ino, &st, &timeout) : -ENOENT;

	if (r == 0 && node_kind(ino) == NODE_FILE && files_place(fs->files, ino, &p) == 0)
		ino = p.owner; /* it can be written as what it lies in can */
	fuse_reply_err(req, r < 0 ? -r : access_made(fs, req, ino, &st, mask));
}

/* ---- directories */

/* A directory of files that are published: what it lists never changes. */
static bool on_disk_for_good(struct fs *fs, fuse_ino_t ino)
{
	_cleanup_place_ struct file_place p = {0};
	_cleanup_disk_ struct disk d = {0};

	if (node_kind(ino) == NODE_FILE)
		ino = files_place(fs->files, ino, &p) == 0 ? p.owner : 0;
	if (node_kind(ino) != NODE_IMAGE && node_kind(ino) != NODE_KERNEL)
		return false;
	return disk_of(fs, ino, &d) == 0 && !d.draft;
}

static void ops_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	const struct node_type *t = node_type(ino);
	enum node_kind kind = node_kind(ino);
	struct fs *fs = fs_of(req);
	struct dir_handle *h = NULL;

	if (!t->list) {
		fuse_reply_err(req, ENOTDIR);
		return;
	}
	if (kind == NODE_IMAGE || kind == NODE_KERNEL || kind == NODE_VM || kind == NODE_FILE) {
		h = calloc(1, sizeof(*h));
		if (!h) {
			fuse_reply_err(req, ENOMEM);
			return;
		}
		h->h.kind = HANDLE_DIR;
		handle_give(fs, &h->h, fi);
	}
	fi->cache_readdir = fi->keep_cache = t->cache_listing || on_disk_for_good(fs, ino);
	if (fuse_reply_open(req, fi) == -ENOENT)
		handle_close(fs, NULL, handle_of(fi));
}

static void ops_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	handle_close(fs_of(req), req, handle_of(fi));
	fuse_reply_err(req, 0);
}

static void list(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi,
	bool plus)
{
	struct fs *fs = fs_of(req);
	struct listing l = {.req = req, .plus = plus, .off = off, .size = size};
	struct dir_handle *h = (struct dir_handle *)handle_of(fi);
	_cleanup_free_ char *buf = l.buf = malloc(size);
	_cleanup_free_ uint64_t *referenced = l.referenced =
		plus && h ? malloc((size / SMALLEST_ENTRY + 1) * sizeof(*referenced)) : NULL;

	if (!buf || (plus && h && !referenced)) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	int r = node_type(ino)->list(fs, fuse_req_ctx(req), ino, h, &l);
	if (r < 0 && l.used == 0)
		r = fuse_reply_err(req, -r);
	else
		r = fuse_reply_buf(req, l.buf, l.used);
	for (size_t i = 0; r < 0 && i < l.nreferenced; i++)
		files_forget(fs->files, l.referenced[i], 1);
}

static void ops_readdir(
	fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	list(req, ino, size, off, fi, false);
}

static void ops_readdirplus(
	fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	list(req, ino, size, off, fi, true);
}

static void ops_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	_cleanup_disk_ struct disk d = {0};
	_cleanup_close_ int fd = -1;
	int r = 0;

	/* Other directories are bangerd's, and on disk before it answers. */
	if (node_kind(ino) == NODE_IMAGE && disk_of(fs_of(req), ino, &d) == 0 && d.draft) {
		LOOP_MAY_WAIT();
		r = disk_open(&d, "", O_RDONLY | O_DIRECTORY, NULL, &fd);
		if (r == 0 && fsync(fd) < 0)
			r = -errno;
	}
	fuse_reply_err(req, -r);
}

static void ops_statfs(fuse_req_t req, fuse_ino_t ino)
{
	_cleanup_(directories_unrefp) struct directories *d = fs_directories(fs_of(req));
	struct statvfs st;

	if (fstatvfs(d->fd[DIRECTORY_IMAGES], &st) < 0)
		fuse_reply_err(req, errno);
	else
		fuse_reply_statfs(req, &st);
}

/* ---- files */

static void submit(struct change *c, struct fuse_file_info *fi)
{
	if (!c)
		return;
	if (fi) {
		c->fi = *fi;
		c->has_fi = true;
	}
	change_submit(c);
}

static void ops_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct fs *fs = fs_of(req);

	if ((fi->flags & O_ACCMODE) != O_RDONLY || (fi->flags & O_TRUNC))
		submit(change_new(fs, req, draft_open, ino, NULL, 0, NULL), fi);
	else
		file_open(fs, req, ino, fi);
}

static void ops_create(
	fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	struct change *c = change_new(fs_of(req), req, draft_create, parent, name, 0, NULL);

	if (c)
		c->mode = mode;
	submit(c, fi);
}

static void ops_read(
	fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	file_read(fs_of(req), req, ino, size, off, fi);
}

static void ops_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
	struct fuse_file_info *fi)
{
	file_write(fs_of(req), req, ino, buf, size, off, fi);
}

static void ops_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct handle *h = handle_of(fi);

	if (h->kind == HANDLE_CONFIG && config_dirty(h))
		submit(change_new(fs_of(req), req, config_flush, ino, NULL, 0, NULL), fi);
	else
		fuse_reply_err(req, 0);
}

static void ops_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	struct handle *h = handle_of(fi);

	if (h->kind == HANDLE_CONFIG)
		ops_flush(req, ino, fi);
	else
		file_fsync(fs_of(req), req, ino, datasync, fi);
}

static void ops_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct handle *h = handle_of(fi);

	if (h->kind == HANDLE_CONFIG)
		config_released(fs_of(req), h);
	handle_close(fs_of(req), req, h);
	fuse_reply_err(req, 0);
}

static void ops_lseek(
	fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
	file_lseek(fs_of(req), req, ino, off, whence, fi);
}

static void ops_fallocate(
	fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len, struct fuse_file_info *fi)
{
	file_fallocate(fs_of(req), req, ino, mode, off, len, fi);
}

static void ops_copy_file_range(fuse_req_t req, fuse_ino_t ino_in, off_t off_in,
	struct fuse_file_info *in, fuse_ino_t ino_out, off_t off_out, struct fuse_file_info *out,
	size_t len, int flags)
{
	file_copy_range(fs_of(req), req, off_in, in, ino_out, off_out, out, len);
}

static void ops_poll(
	fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct fuse_pollhandle *ph)
{
	struct handle *h = handle_of(fi);

	if (h->kind == HANDLE_EVENTS) {
		events_poll(fs_of(req)->events, h, req, ph);
		return;
	}
	if (ph)
		fuse_pollhandle_destroy(ph);
	fuse_reply_poll(req, POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM);
}

/* ---- changes */

static void ops_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	submit(change_new(fs_of(req), req, registry_mkdir, parent, name, 0, NULL), NULL);
}

static void ops_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	submit(change_new(fs_of(req), req, registry_rmdir, parent, name, 0, NULL), NULL);
}

static void ops_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t newparent,
	const char *newname, unsigned flags)
{
	struct change *c =
		change_new(fs_of(req), req, change_rename, parent, name, newparent, newname);

	if (c)
		c->flags = flags;
	submit(c, NULL);
}

static void ops_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	submit(change_new(fs_of(req), req, draft_unlink, parent, name, 0, NULL), NULL);
}

static void ops_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	submit(change_new(fs_of(req), req, draft_symlink, parent, name, 0, target), NULL);
}

static void ops_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	struct change *c = change_new(fs_of(req), req, draft_mknod, parent, name, 0, NULL);

	if (c)
		c->mode = mode;
	submit(c, NULL);
}

static void ops_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t newparent, const char *newname)
{
	submit(change_new(fs_of(req), req, draft_link, newparent, newname, 0, NULL), NULL);
}

static void ops_setattr(
	fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi)
{
	struct change *c = change_new(fs_of(req), req, draft_setattr, ino, NULL, 0, NULL);

	if (c) {
		c->attr = *attr;
		c->to_set = to_set;
	}
	submit(c, fi);
}

static void ops_setxattr(
	fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags)
{
	submit(change_new(fs_of(req), req, draft_setxattr, ino, NULL, 0, NULL), NULL);
}

static void ops_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	submit(change_new(fs_of(req), req, draft_setxattr, ino, NULL, 0, NULL), NULL);
}

static void ops_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	xattr_get(fs_of(req), req, ino, name, size);
}

static void ops_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	xattr_list(fs_of(req), req, ino, size);
}

const struct fuse_lowlevel_ops fs_operations = {
	.init = ops_init,
	.lookup = ops_lookup,
	.forget = ops_forget,
	.forget_multi = ops_forget_multi,
	.getattr = ops_getattr,
	.setattr = ops_setattr,
	.readlink = ops_readlink,
	.access = ops_access,
	.mknod = ops_mknod,
	.mkdir = ops_mkdir,
	.unlink = ops_unlink,
	.rmdir = ops_rmdir,
	.symlink = ops_symlink,
	.rename = ops_rename,
	.link = ops_link,
	.open = ops_open,
	.create = ops_create,
	.read = ops_read,
	.write = ops_write,
	.flush = ops_flush,
	.release = ops_release,
	.fsync = ops_fsync,
	.opendir = ops_opendir,
	.readdir = ops_readdir,
	.readdirplus = ops_readdirplus,
	.releasedir = ops_releasedir,
	.fsyncdir = ops_fsyncdir,
	.statfs = ops_statfs,
	.getxattr = ops_getxattr,
	.setxattr = ops_setxattr,
	.listxattr = ops_listxattr,
	.removexattr = ops_removexattr,
	.poll = ops_poll,
	.lseek = ops_lseek,
	.fallocate = ops_fallocate,
	.copy_file_range = ops_copy_file_range,
};
