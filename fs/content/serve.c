/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A fixed number of threads, each with its own scratch and buffer, takes requests from the one FUSE
 * device; a request pins its image in the table, reads it through ext4/, answers, and lets go.
 * Nothing is remembered per inode: the node number says it all, the kernel's caches and the page
 * cache of the image file are the caches.
 *
 * Counting references: an answer that makes the kernel know a node is counted in the image before
 * it is sent, because the kernel may forget the node before the sender goes on, and taken back when
 * it could not be sent.
 *
 * Attributes that no file of an image has: `ls -l` asks twice per file for an ACL and a label,
 * which would be most of its time. An image in which no inode has one answers EOPNOTSUPP, as a
 * filesystem without them does, and such programs then stop asking; an image that has some answers
 * ENODATA for each file without. To know it, all inodes are looked through once, when it is first
 * asked.
 *
 * Damage is logged, with an op_id of its own, for the first few of each image.
 */
#define FUSE_USE_VERSION 312

#include <banger/log.h>
#include <banger/op.h>
#include <fuse_lowlevel.h>
#include <pthread.h>
#include <stdio.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <linux/limits.h>

#include "ahead.h"
#include "serve.h"

#define FOR_EVER 1e9 /* seconds */
#define READ_MAX (1u << 20)
#define COMPLAINTS 8
#define THREADS_MAX 16
#define SWEEP_PAUSE_MAX 64 /* seconds */

struct worker {
	struct server *s;
	pthread_t thread;
	bool started;
	struct ext4_scratch *scratch;
	char *buf; /* READ_MAX */
	struct ahead_listing listing;
};

struct server {
	struct fuse_session *session;
	struct table *table;
	struct ahead *ahead;
	struct worker *workers;
	unsigned threads;
	uid_t uid;
	gid_t gid;

	pthread_mutex_t lock; /* of the janitor's work */
	pthread_cond_t wake;
	char *evict[64];
	unsigned evict_count;
	bool sweep; /* there may be deleted images that the kernel refers to */
	unsigned sweep_pause;
	_Atomic bool stopping;
	pthread_t janitor;
	bool janitor_started;
	struct ext4_scratch *janitor_scratch;
};

static __thread struct worker *self;

static uint64_t node_of(uint32_t slot, uint32_t ino)
{
	return (uint64_t)slot << 32 | ino;
}

static uint32_t slot_of(fuse_ino_t node)
{
	return (uint32_t)(node >> 32);
}

/* ---- damage ---- */

static void complain(struct image *i)
{
	banger_op_id id = banger_op_id_mint();

	if (atomic_fetch_add(&i->complaints, 1) >= COMPLAINTS)
		return;
	_cleanup_op_ banger_op_id saved = banger_op_enter(id.s);
	log_warn("damage in an image", KV_S("image", i->id), KV_S("code", "corrupt"),
		KV_S("error", ext4_scratch_why(self->scratch)));
}

/* Answer with an error and let go of the image. */
static void refuse(fuse_req_t req, struct image *i, int r)
{
	if (i && r == -EUCLEAN)
		complain(i);
	if (i)
		table_put(self->s->table, i);
	fuse_reply_err(req, -r);
}

/* The image and the inode of a node; on failure the request is answered. */
static bool get_node(
	fuse_req_t req, fuse_ino_t node, struct image **ret_image, struct ext4_inode *ret)
{
	struct image *i;
	int r = slot_of(node) ? table_get_slot(self->s->table, slot_of(node), &i) : -EINVAL;

	if (r < 0) {
		fuse_reply_err(req, -r);
		return false;
	}
	r = ext4_inode_get(i->ext4, self->scratch, (uint32_t)node, ret);
	if (r < 0) {
		refuse(req, i, r);
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
		table_forget(self->s->table, i->slot, 1);
	table_put(self->s->table, i);
}

static void lookup_root(fuse_req_t req, const char *name)
{
	struct image *i;
	struct ext4_inode inode;
	int r = table_get_name(self->s->table, name, &i);

	if (r < 0) {
		fuse_reply_err(req, -r);
		return;
	}
	r = ext4_inode_get(i->ext4, self->scratch, EXT4_ROOT, &inode);
	if (r < 0)
		refuse(req, i, r);
	else
		reply_entry(req, i, &inode);
}

/* A directory below itself is damage that would confuse whoever walks it. */
static int get_child(struct image *i, uint32_t parent, uint32_t ino, struct ext4_inode *ret)
{
	if (ino == EXT4_ROOT || ino == parent)
		return -EUCLEAN;
	return ext4_inode_get(i->ext4, self->scratch, ino, ret);
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
	if (!get_node(req, parent, &i, &inode))
		return;
	r = ext4_lookup(i->ext4, self->scratch, &inode, name, strlen(name), &ino);
	if (r == -ENOENT) { /* for ever */
		struct fuse_entry_param none = {.entry_timeout = FOR_EVER};
		table_put(self->s->table, i);
		fuse_reply_entry(req, &none);
		return;
	}
	if (r == 0)
		r = get_child(i, inode.ino, ino, &inode);
	if (r < 0)
		refuse(req, i, r);
	else
		reply_entry(req, i, &inode);
}

static void op_forget(fuse_req_t req, fuse_ino_t node, uint64_t n)
{
	if (slot_of(node))
		table_forget(self->s->table, slot_of(node), n);
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
			table_forget(self->s->table, slot, n);
	}
	fuse_reply_none(req);
}

static void op_getattr(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi)
{
	struct image *i;
	struct ext4_inode inode;
	struct stat st;

	if (node == FUSE_ROOT_ID) {
		root_stat(self->s, &st);
		fuse_reply_attr(req, &st, 0);
		return;
	}
	if (!get_node(req, node, &i, &inode))
		return;
	stat_of(i, &inode, &st);
	table_put(self->s->table, i);
	fuse_reply_attr(req, &st, FOR_EVER);
}

static void op_readlink(fuse_req_t req, fuse_ino_t node)
{
	struct image *i;
	struct ext4_inode inode;
	char target[PATH_MAX];

	if (!get_node(req, node, &i, &inode))
		return;
	int r = ext4_readlink(i->ext4, self->scratch, &inode, target);
	if (r < 0) {
		refuse(req, i, r);
		return;
	}
	table_put(self->s->table, i);
	fuse_reply_readlink(req, target);
}

static void op_statfs(fuse_req_t req, fuse_ino_t node)
{
	struct statvfs v = {.f_bsize = 4096, .f_frsize = 4096, .f_namemax = 255};
	struct image *i;

	if (slot_of(node) && table_get_slot(self->s->table, slot_of(node), &i) == 0) {
		ext4_image_statfs(i->ext4, &v);
		table_put(self->s->table, i);
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
	bool plus;
};

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
		if (!dot && room > d->len && get_child(f->i, f->dir, d->ino, &inode) == 0) {
			entry_of(f->i, &inode, &e);
			ahead_list_entry(&self->listing, f->i->ext4, &inode);
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
	table_list(self->s->table, off - 2, fill_root, f);
	fuse_reply_buf(req, f->buf, f->len);
}

static void list(fuse_req_t req, fuse_ino_t node, size_t size, off_t off, bool plus)
{
	struct fill f = {.req = req, .buf = self->buf, .plus = plus};
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
	if (!get_node(req, node, &f.i, &inode))
		return;
	f.dir = inode.ino;
	ahead_list_start(&self->listing, f.i->slot);
	r = ext4_readdir(f.i->ext4, self->scratch, &inode, (uint64_t)off, fill_entry, &f);
	if (r < 0) {
		refuse(req, f.i, r);
		return;
	}
	table_referenced(f.i, f.known);
	if (fuse_reply_buf(req, f.buf, f.len) < 0)
		table_forget(self->s->table, f.i->slot, f.known);
	else if (plus)
		ahead_listed(self->s->ahead, f.i->ext4, &self->listing);
	table_put(self->s->table, f.i);
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

	if (!get_node(req, node, &i, &inode))
		return;
	if (off == 0)
		ahead_read(self->s->ahead, i->ext4, i->slot, inode.ino);
	n = ext4_read(i->ext4, self->scratch, &inode, (uint64_t)off, self->buf,
		size < READ_MAX ? size : READ_MAX);
	if (n < 0) {
		refuse(req, i, (int)n);
		return;
	}
	table_put(self->s->table, i);
	fuse_reply_buf(req, self->buf, (size_t)n);
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
	if (!get_node(req, node, &i, &inode))
		return;
	r = ext4_seek(i->ext4, self->scratch, &inode, (uint64_t)off, whence == SEEK_HOLE);
	if (r < 0) {
		refuse(req, i, (int)r);
		return;
	}
	table_put(self->s->table, i);
	fuse_reply_lseek(req, r);
}

/* ---- extended attributes ---- */

static bool image_has(struct image *i, _Atomic int *known, const char *prefix)
{
	int has = atomic_load(known);

	if (has < 0) {
		has = ext4_image_has_xattr(i->ext4, self->scratch, prefix) != 0;
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
	if (!get_node(req, node, &i, &inode))
		return;
	n = ext4_xattr_get(i->ext4, self->scratch, &inode, name, self->buf,
		size < EXT4_XATTR_MAX ? size : EXT4_XATTR_MAX);
	if (n == -ENODATA)
		n = absent(i, name);
	if (n < 0) {
		refuse(req, i, (int)n);
		return;
	}
	table_put(self->s->table, i);
	if (size)
		fuse_reply_buf(req, self->buf, (size_t)n);
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
	if (!get_node(req, node, &i, &inode))
		return;
	n = ext4_xattr_list(i->ext4, self->scratch, &inode, self->buf, EXT4_XATTR_MAX);
	if (n == -ERANGE)
		n = -E2BIG;
	if (n < 0) {
		refuse(req, i, (int)n);
		return;
	}
	table_put(self->s->table, i);
	if (fuse_req_ctx(req)->uid != 0)
		n = (ssize_t)without_trusted(self->buf, (size_t)n);
	if (!size)
		fuse_reply_xattr(req, (size_t)n);
	else if ((size_t)n > size)
		fuse_reply_err(req, ERANGE);
	else
		fuse_reply_buf(req, self->buf, (size_t)n);
}

/* ---- the connection ---- */

static void op_init(void *arg, struct fuse_conn_info *conn)
{
	conn->want |= conn->capable & (FUSE_CAP_NO_OPEN_SUPPORT | FUSE_CAP_NO_OPENDIR_SUPPORT |
					      FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_CACHE_SYMLINKS |
					      FUSE_CAP_READDIRPLUS | FUSE_CAP_ASYNC_READ);
	/* Attributes come for free with every listing, so always with it. */
	conn->want &= ~(unsigned)(FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_SPLICE_READ);
	conn->max_write = READ_MAX; /* also the limit of a read, by max_pages */
	conn->max_background = 64;
	conn->congestion_threshold = 48;
	conn->time_gran = 1;
}

static const struct fuse_lowlevel_ops ops = {
	.init = op_init,
	.lookup = op_lookup,
	.forget = op_forget,
	.forget_multi = op_forget_multi,
	.getattr = op_getattr,
	.readlink = op_readlink,
	.open = op_no_open,
	.opendir = op_no_open,
	.read = op_read,
	.lseek = op_lseek,
	.readdir = op_readdir,
	.readdirplus = op_readdirplus,
	.getxattr = op_getxattr,
	.listxattr = op_listxattr,
	.statfs = op_statfs,
};

void server_stale(struct server *s, const char *name)
{
	if (!name) {
		(void)fuse_lowlevel_notify_inval_inode(s->session, FUSE_ROOT_ID, 0, 0);
		return;
	}
	(void)fuse_lowlevel_notify_inval_entry(s->session, FUSE_ROOT_ID, name, strlen(name));
	pthread_mutex_lock(&s->lock);
	if (!s->sweep)
		pthread_cond_signal(&s->wake);
	s->sweep = true;
	s->sweep_pause = 1;
	pthread_mutex_unlock(&s->lock);
}

void server_evict(struct server *s, const char *name)
{
	pthread_mutex_lock(&s->lock);
	if (s->evict_count < ELEMENTSOF(s->evict)) { /* else it will be asked again */
		s->evict[s->evict_count] = strdup(name);
		s->evict_count += s->evict[s->evict_count] != NULL;
		pthread_cond_signal(&s->wake);
	}
	pthread_mutex_unlock(&s->lock);
}

struct sweep {
	struct server *s;
	struct image *i;
	fuse_ino_t dir;
};

static int sweep_entry(void *arg, const struct ext4_dirent *d)
{
	const struct sweep *w = arg;

	(void)fuse_lowlevel_notify_inval_entry(w->s->session, w->dir, d->name, d->len);
	return 0;
}

static int sweep_inode(void *arg, const struct ext4_inode *i)
{
	struct sweep *w = arg;

	w->dir = node_of(w->i->slot, i->ino);
	/* Asking for less than nothing to be dropped tells whether the kernel knows the directory.
	 */
	if (S_ISDIR(i->mode) && fuse_lowlevel_notify_inval_inode(w->s->session, w->dir, -1, 0) == 0)
		(void)ext4_readdir(w->i->ext4, w->s->janitor_scratch, i, 0, sweep_entry, w);
	return w->s->stopping;
}

/* Files that were open when their image was deleted leave entries in the kernel's cache that nobody
 * can reach any more, and that would keep the image's file. true: there still are such images. */
static bool sweep(struct server *s)
{
	struct sweep w = {.s = s};
	uint32_t slot = 0;

	while ((w.i = table_get_unwanted(s->table, slot))) {
		slot = w.i->slot;
		(void)ext4_image_inodes(w.i->ext4, s->janitor_scratch, sweep_inode, &w);
		table_put(s->table, w.i);
	}
	return slot != 0;
}

static void wait_for_work(struct server *s)
{
	struct timespec t;

	if (!s->sweep) {
		pthread_cond_wait(&s->wake, &s->lock);
		return;
	}
	clock_gettime(CLOCK_REALTIME, &t);
	t.tv_sec += s->sweep_pause;
	if (s->sweep_pause < SWEEP_PAUSE_MAX)
		s->sweep_pause *= 2;
	(void)pthread_cond_timedwait(&s->wake, &s->lock, &t);
}

/* Evictions at once, sweeps after a pause that grows while they find no end. */
static void *janitor_main(void *arg)
{
	struct server *s = arg;

	pthread_mutex_lock(&s->lock);
	while (!s->stopping) {
		if (!s->evict_count)
			wait_for_work(s);
		bool sweeping = s->sweep && !s->evict_count;
		_cleanup_free_ char *name = s->evict_count ? s->evict[--s->evict_count] : NULL;
		s->sweep = s->sweep && !sweeping;
		pthread_mutex_unlock(&s->lock);
		if (name)
			(void)fuse_lowlevel_notify_inval_entry(
				s->session, FUSE_ROOT_ID, name, strlen(name));
		bool more = name || (sweeping && sweep(s));
		pthread_mutex_lock(&s->lock);
		s->sweep |= more;
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct fuse_session *se = w->s->session;
	struct fuse_buf buf = {0};

	self = w;
	while (!fuse_session_exited(se)) {
		int n = fuse_session_receive_buf(se, &buf);
		if (n == -EINTR || n == -EAGAIN)
			continue;
		if (n <= 0)
			break;
		fuse_session_process_buf(se, &buf);
	}
	free(buf.mem);
	fuse_session_exit(se);
	return NULL;
}

static int options_build(const struct server_options *o, struct fuse_args *args)
{
	int r = fuse_opt_add_arg(args, "bangerfs");

	if (r == 0)
		r = fuse_opt_add_arg(args, "-oro,fsname=banger-rootfs,subtype=banger");
	if (r == 0 && o->allow_other)
		r = fuse_opt_add_arg(args, "-oallow_other");
	return r;
}

int server_new(const struct server_options *o, struct server **ret, struct banger_error *err)
{
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	struct server *s = calloc(1, sizeof(*s));
	unsigned cpus = (unsigned)get_nprocs();

	if (!s)
		return banger_error_oom(err);
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->wake, NULL);
	s->sweep_pause = 1;
	s->uid = getuid();
	s->gid = getgid();
	s->threads = o->threads ? o->threads : 2 * cpus;
	if (s->threads > THREADS_MAX)
		s->threads = THREADS_MAX;
	if (options_build(o, &args) == 0)
		s->session = fuse_session_new(&args, &ops, sizeof(ops), s);
	fuse_opt_free_args(&args);
	if (!s->session) {
		server_free(s);
		return banger_error_set(err, BANGER_INTERNAL, "libfuse refused its options");
	}
	if (fuse_session_mount(s->session, o->mountpoint) != 0) {
		server_free(s);
		return banger_error_set(err, BANGER_DENIED, "cannot mount at %s", o->mountpoint);
	}
	*ret = s;
	return 0;
}

void server_set_table(struct server *s, struct table *t)
{
	s->table = t;
}

int server_prepare(struct server *s, struct banger_error *err)
{
	s->ahead = ahead_new();
	s->workers = calloc(s->threads, sizeof(*s->workers));
	s->janitor_scratch = ext4_scratch_new();
	if (!s->ahead || !s->workers || !s->janitor_scratch)
		return banger_error_oom(err);
	for (unsigned k = 0; k < s->threads; k++) {
		struct worker *w = &s->workers[k];
		w->s = s;
		w->scratch = ext4_scratch_new();
		if (!w->scratch || posix_memalign((void **)&w->buf, 4096, READ_MAX) != 0)
			return banger_error_oom(err);
	}
	return 0;
}

int server_run(struct server *s)
{
	int r;

	r = pthread_create(&s->janitor, NULL, janitor_main, s);
	s->janitor_started = r == 0;
	for (unsigned k = 1; k < s->threads && r == 0; k++) {
		r = pthread_create(&s->workers[k].thread, NULL, worker_main, &s->workers[k]);
		s->workers[k].started = r == 0;
	}
	if (r == 0)
		worker_main(&s->workers[0]);
	fuse_session_exit(s->session);
	pthread_mutex_lock(&s->lock);
	s->stopping = true;
	pthread_cond_signal(&s->wake);
	pthread_mutex_unlock(&s->lock);
	if (s->janitor_started)
		pthread_join(s->janitor, NULL);
	for (unsigned k = 1; k < s->threads; k++)
		if (s->workers[k].started)
			pthread_join(s->workers[k].thread, NULL);
	return -r;
}

void server_stop(struct server *s)
{
	fuse_session_exit(s->session);
}

void server_free(struct server *s)
{
	if (!s)
		return;
	for (unsigned k = 0; s->workers && k < s->threads; k++) {
		ext4_scratch_free(s->workers[k].scratch);
		free(s->workers[k].buf);
	}
	free(s->workers);
	ext4_scratch_free(s->janitor_scratch);
	ahead_free(s->ahead);
	while (s->evict_count)
		free(s->evict[--s->evict_count]);
	if (s->session) {
		fuse_session_unmount(s->session);
		fuse_session_destroy(s->session);
	}
	pthread_cond_destroy(&s->wake);
	pthread_mutex_destroy(&s->lock);
	free(s);
}
