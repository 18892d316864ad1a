/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The requests that every file knows: lookup, attributes, directories, contents. Each finds its
 * image by the upper half of the node number and the inode by the lower half, reads, answers, lets
 * go.
 *
 * Counting references: an answer that makes the kernel know a node is counted in the image before
 * it is sent, because the kernel may forget the node before the sender goes on, and taken back when
 * it could not be sent.
 *
 * Damage is logged, with an op_id of its own, for the first few of each image.
 */
#include <banger/log.h>
#include <banger/op.h>
#include <linux/limits.h>
#include <stdatomic.h>
#include <string.h>

#include "serve_internal.h"

#define COMPLAINTS 8
#define READ_LONG (256u << 10) /* copying that much takes longer than waking somebody */

/* ---- damage ---- */

static void complain(struct image *i)
{
	banger_op_id id = banger_op_id_mint();

	if (atomic_fetch_add(&i->complaints, 1) >= COMPLAINTS)
		return;
	_cleanup_op_ banger_op_id saved = banger_op_enter(id.s);
	log_warn("damage in an image", KV_S("image", i->id), KV_S("code", "corrupt"),
		KV_S("error", ext4_scratch_why(serve_self->scratch)));
}

void serve_refuse(fuse_req_t req, struct image *i, int r)
{
	if (i && r == -EUCLEAN)
		complain(i);
	if (i)
		table_put(serve_self->s->table, i);
	fuse_reply_err(req, -r);
}

bool serve_node(fuse_req_t req, fuse_ino_t node, struct image **ret_image, struct ext4_inode *ret)
{
	struct image *i;
	int r = slot_of(node) ? table_get_slot(serve_self->s->table, slot_of(node), &i) : -EINVAL;

	if (r < 0) {
		fuse_reply_err(req, -r);
		return false;
	}
	r = ext4_inode_get(i->ext4, serve_self->scratch, (uint32_t)node, ret);
	if (r < 0) {
		serve_refuse(req, i, r);
		return false;
	}
	*ret_image = i;
	return true;
}

/* ---- names and attributes ---- */

static void stat_of(const struct image *i, const struct ext4_inode *inode, struct stat *ret)
{
	ext4_inode_stat(i->ext4, inode, ret);
	ret->st_ino = node_of(i->slot, inode->ino);
}

static void root_stat(struct server *s, struct stat *ret)
{
	struct timespec t = table_mtime(s->table);

	*ret = (struct stat){
		.st_ino = FUSE_ROOT_ID,
		.st_mode = S_IFDIR | 0555,
		.st_nlink = 2 + table_count(s->table),
		.st_uid = s->uid,
		.st_gid = s->gid,
		.st_blksize = 4096,
		.st_atim = t,
		.st_mtim = t,
		.st_ctim = t,
	};
}

static void entry_of(
	const struct image *i, const struct ext4_inode *inode, struct fuse_entry_param *ret)
{
	*ret = (struct fuse_entry_param){
		.ino = node_of(i->slot, inode->ino),
		.attr_timeout = FOR_EVER,
		.entry_timeout = FOR_EVER,
	};
	stat_of(i, inode, &ret->attr);
}

static void reply_entry(fuse_req_t req, struct image *i, const struct ext4_inode *inode)
{
	struct fuse_entry_param e;

	entry_of(i, inode, &e);
	table_referenced(i, 1);
	if (fuse_reply_entry(req, &e) < 0)
		table_forget(serve_self->s->table, i->slot, 1);
	table_put(serve_self->s->table, i);
}

static void lookup_root(fuse_req_t req, const char *name)
{
	struct image *i;
	struct ext4_inode inode;
	int r = table_get_name(serve_self->s->table, name, &i);

	if (r < 0) {
		fuse_reply_err(req, -r);
		return;
	}
	r = ext4_inode_get(i->ext4, serve_self->scratch, EXT4_ROOT, &inode);
	if (r < 0)
		serve_refuse(req, i, r);
	else
		reply_entry(req, i, &inode);
}

/* A directory below itself is damage that would confuse whoever walks it. */
static int get_child(struct image *i, uint32_t parent, uint32_t ino, struct ext4_inode *ret)
{
	if (ino == EXT4_ROOT || ino == parent)
		return -EUCLEAN;
	return ext4_inode_get(i->ext4, serve_self->scratch, ino, ret);
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct image *i;
	struct ext4_inode inode;
	uint32_t ino;
	int r;

	if (parent == FUSE_ROOT_ID) {
		lookup_root(req, name);
		return;
	}
	if (!serve_node(req, parent, &i, &inode))
		return;
	r = ext4_lookup(i->ext4, serve_self->scratch, &inode, name, strlen(name), &ino);
	if (r == -ENOENT) { /* for ever */
		struct fuse_entry_param none = {.entry_timeout = FOR_EVER};
		table_put(serve_self->s->table, i);
		fuse_reply_entry(req, &none);
		return;
	}
	if (r == 0)
		r = get_child(i, inode.ino, ino, &inode);
	if (r == 0 && !S_ISDIR(inode.mode) && lean_looked(serve_self->s->lean, parent))
		serve_drop_lean(serve_self->s);
	if (r < 0)
		serve_refuse(req, i, r);
	else
		reply_entry(req, i, &inode);
}

static void op_forget(fuse_req_t req, fuse_ino_t node, uint64_t n)
{
	if (slot_of(node))
		table_forget(serve_self->s->table, slot_of(node), n);
	fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *f)
{
	for (size_t k = 0; k < count;) {
		uint32_t slot = slot_of(f[k].ino);
		uint64_t n = 0;
		for (; k < count && slot_of(f[k].ino) == slot; k++)
			n += f[k].nlookup;
		if (slot)
			table_forget(serve_self->s->table, slot, n);
	}
	fuse_reply_none(req);
}

static void op_getattr(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi)
{
	struct image *i;
	struct ext4_inode inode;
	struct stat st;

	if (node == FUSE_ROOT_ID) {
		root_stat(serve_self->s, &st);
		fuse_reply_attr(req, &st, 0);
		return;
	}
	if (!serve_node(req, node, &i, &inode))
		return;
	stat_of(i, &inode, &st);
	table_put(serve_self->s->table, i);
	fuse_reply_attr(req, &st, FOR_EVER);
}

static void op_readlink(fuse_req_t req, fuse_ino_t node)
{
	struct image *i;
	struct ext4_inode inode;
	char target[PATH_MAX];

	if (!serve_node(req, node, &i, &inode))
		return;
	int r = ext4_readlink(i->ext4, serve_self->scratch, &inode, target);
	if (r < 0) {
		serve_refuse(req, i, r);
		return;
	}
	table_put(serve_self->s->table, i);
	fuse_reply_readlink(req, target);
}

static void op_statfs(fuse_req_t req, fuse_ino_t node)
{
	struct statvfs v = {.f_bsize = 4096, .f_frsize = 4096, .f_namemax = 255};
	struct image *i;

	if (slot_of(node) && table_get_slot(serve_self->s->table, slot_of(node), &i) == 0) {
		ext4_image_statfs(i->ext4, &v);
		table_put(serve_self->s->table, i);
	}
	fuse_reply_statfs(req, &v);
}

/* ---- directories ---- */

struct fill {
	fuse_req_t req;
	struct image *i;
	uint32_t dir;
	char *buf;
	size_t size, len;
	uint64_t known; /* nodes that the answer makes known */
	bool plus, lean;
};

/* Leanly, only what is a directory gets attributes: whoever walks goes into it. */
static bool wants_attributes(const struct fill *f, const struct ext4_dirent *d)
{
	return !f->lean || d->type == DT_DIR || d->type == DT_UNKNOWN;
}

static int fill_root(void *arg, const char *name, uint32_t slot, uint64_t next)
{
	struct fill *f = arg;
	struct fuse_entry_param e = {
		.attr = {.st_ino = node_of(slot, EXT4_ROOT), .st_mode = S_IFDIR}};
	size_t n;

	/* Without attributes, also where they are asked for: that would open every image. */
	n = f->plus ? fuse_add_direntry_plus(
			      f->req, f->buf + f->len, f->size - f->len, name, &e, (off_t)next + 2)
		    : fuse_add_direntry(f->req, f->buf + f->len, f->size - f->len, name, &e.attr,
			      (off_t)next + 2);
	if (n > f->size - f->len)
		return 1;
	f->len += n;
	return 0;
}

static int fill_entry(void *arg, const struct ext4_dirent *d)
{
	struct fill *f = arg;
	struct fuse_entry_param e = {
		.attr = {.st_ino = node_of(f->i->slot, d->ino), .st_mode = DTTOIF(d->type)}};
	bool dot = d->name[0] == '.' && (d->len == 1 || (d->len == 2 && d->name[1] == '.'));
	struct ext4_inode inode;
	size_t n, room = f->size - f->len;

	if (dot && f->dir == EXT4_ROOT && d->len == 2)
		e.attr.st_ino = FUSE_ROOT_ID;
	if (!f->plus) {
		n = fuse_add_direntry(
			f->req, f->buf + f->len, room, d->name, &e.attr, (off_t)d->next);
	} else {
		/* One that cannot be read is listed by its name; looking it up says why. */
		if (!dot && room > d->len && wants_attributes(f, d) &&
			get_child(f->i, f->dir, d->ino, &inode) == 0) {
			entry_of(f->i, &inode, &e);
			ahead_list_entry(&serve_self->listing, f->i->ext4, &inode);
		}
		n = fuse_add_direntry_plus(
			f->req, f->buf + f->len, room, d->name, &e, (off_t)d->next);
	}
	if (n > room)
		return 1;
	f->len += n;
	f->known += e.ino != 0;
	return 0;
}

static void list_root(fuse_req_t req, struct fill *f, uint64_t off)
{
	struct stat dot = {.st_ino = FUSE_ROOT_ID, .st_mode = S_IFDIR};
	struct fuse_entry_param e = {.attr = dot};

	for (const char *name = off == 0 ? "." : ".."; off < 2; name = "..", off++)
		f->len += f->plus ? fuse_add_direntry_plus(req, f->buf + f->len, f->size - f->len,
					    name, &e, (off_t)off + 1)
				  : fuse_add_direntry(req, f->buf + f->len, f->size - f->len, name,
					    &dot, (off_t)off + 1);
	table_list(serve_self->s->table, off - 2, fill_root, f);
	fuse_reply_buf(req, f->buf, f->len);
}

static void list(fuse_req_t req, fuse_ino_t node, size_t size, off_t off, bool plus)
{
	struct fill f = {.req = req, .buf = serve_self->buf, .plus = plus};
	struct ext4_inode inode;
	int r;

	f.size = size < READ_MAX ? size : READ_MAX;
	if (off < 0 || f.size < 512) {
		fuse_reply_err(req, EINVAL);
		return;
	}
	if (node == FUSE_ROOT_ID) {
		list_root(req, &f, (uint64_t)off);
		return;
	}
	if (!serve_node(req, node, &f.i, &inode))
		return;
	f.dir = inode.ino;
	f.lean = plus && lean_listing(serve_self->s->lean, off == 0);
	if (f.lean)
		lean_listed(serve_self->s->lean, node);
	ahead_list_start(&serve_self->listing, f.i->slot);
	r = ext4_readdir(f.i->ext4, serve_self->scratch, &inode, (uint64_t)off, fill_entry, &f);
	if (r < 0) {
		serve_refuse(req, f.i, r);
		return;
	}
	table_referenced(f.i, f.known);
	if (fuse_reply_buf(req, f.buf, f.len) < 0)
		table_forget(serve_self->s->table, f.i->slot, f.known);
	else if (plus)
		ahead_listed(serve_self->s->ahead, f.i->ext4, &serve_self->listing);
	table_put(serve_self->s->table, f.i);
}

static void op_readdir(
	fuse_req_t req, fuse_ino_t node, size_t size, off_t off, struct fuse_file_info *fi)
{
	list(req, node, size, off, false);
}

static void op_readdirplus(
	fuse_req_t req, fuse_ino_t node, size_t size, off_t off, struct fuse_file_info *fi)
{
	list(req, node, size, off, true);
}

/* The kernel asks once in the connection's life. */
static void op_no_open(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi)
{
	fuse_reply_err(req, ENOSYS);
}

/* ---- contents ---- */

static void op_read(
	fuse_req_t req, fuse_ino_t node, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct image *i;
	struct ext4_inode inode;
	ssize_t n;

	if (!serve_node(req, node, &i, &inode))
		return;
	if (size >= READ_LONG)
		serve_slow(serve_self);
	if (off == 0)
		ahead_read(serve_self->s->ahead, i->ext4, i->slot, inode.ino);
	n = ext4_read(i->ext4, serve_self->scratch, &inode, (uint64_t)off, serve_self->buf,
		size < READ_MAX ? size : READ_MAX);
	if (n < 0) {
		serve_refuse(req, i, (int)n);
		return;
	}
	table_put(serve_self->s->table, i);
	fuse_reply_buf(req, serve_self->buf, (size_t)n);
}

static void op_lseek(
	fuse_req_t req, fuse_ino_t node, off_t off, int whence, struct fuse_file_info *fi)
{
	struct image *i;
	struct ext4_inode inode;
	int64_t r;

	if (off < 0 || (whence != SEEK_DATA && whence != SEEK_HOLE)) {
		fuse_reply_err(req, EINVAL);
		return;
	}
	if (!serve_node(req, node, &i, &inode))
		return;
	r = ext4_seek(i->ext4, serve_self->scratch, &inode, (uint64_t)off, whence == SEEK_HOLE);
	if (r < 0) {
		serve_refuse(req, i, (int)r);
		return;
	}
	table_put(serve_self->s->table, i);
	fuse_reply_lseek(req, r);
}

void serve_ops(struct fuse_lowlevel_ops *ops)
{
	ops->lookup = op_lookup;
	ops->forget = op_forget;
	ops->forget_multi = op_forget_multi;
	ops->getattr = op_getattr;
	ops->readlink = op_readlink;
	ops->open = op_no_open;
	ops->opendir = op_no_open;
	ops->read = op_read;
	ops->lseek = op_lseek;
	ops->readdir = op_readdir;
	ops->readdirplus = op_readdirplus;
	ops->statfs = op_statfs;
}
