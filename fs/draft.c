/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Putting a draft together. Which files there are, and their attributes, bangerd changes (draft.*);
 * what is in them is written through the descriptor that it hands out for writing.
 *
 * image.json is there in every draft and is not a file: it can be written (config.h), another file
 * can be renamed to it (rsync, sed -i), and removing it succeeds and does nothing, so that `rm -r`
 * of a draft comes to its rmdir. A draft's directory itself has no attributes to change: chmod,
 * chown and utimens on it are taken and do nothing, as tar, `cp -a` and `rsync -a` do them on the
 * way.
 */
#include <fcntl.h>
#include <string.h>
#include "change.h"
#include "config.h"
#include "handle.h"

#define JSON_NAME "image.json"

/* The draft in which something is to be changed; refuses if node is no draft. */
static int draft_of(struct change *c, uint64_t node, const char *verb, struct image_ref *ret)
{
	int r = attempt_allowed(&c->attempt);

	if (r < 0)
		return r;
	if (node_kind(node) != NODE_IMAGE || image_ref_of(c->fs, node, ret) < 0 ||
		ret->state != BANGER_DRAFT)
		return refuse_change(&c->attempt, node, verb);
	return 0;
}

/* The draft that a file lies in, and its name there. */
static int file_in_draft(struct change *c, struct image_ref *ret, struct file_place *ret_place)
{
	struct attempt *a = &c->attempt;

	int r = attempt_allowed(a);
	if (r < 0)
		return r;
	if (node_kind(c->node) != NODE_FILE)
		return refuse_change(a, c->node, "changed");
	if (files_place(c->fs->files, c->node, ret_place) < 0)
		return attempt_refuse_errno(a, ESTALE, "%s", a->params);
	if (image_ref_of(c->fs, ret_place->owner, ret) < 0 || ret->state != BANGER_DRAFT)
		return refuse_change(a, ret_place->owner, "changed");
	return 0;
}

static struct json_object *file_params(const struct image_ref *draft, const char *file)
{
	_cleanup_json_ struct json_object *o = json_object_new_object();

	if (!o || banger_json_add_str(o, "id", draft->id_text) < 0 ||
		banger_json_add_str(o, "file", file) < 0)
		return NULL;
	return TAKE_PTR(o);
}

static int change_name_check(struct change *c, const char *name)
{
	return banger_file_name_check(name, &c->attempt.err);
}

/* The entry of a file that was just made or moved. */
static int file_entry(
	struct change *c, uint64_t owner, const char *name, struct fuse_entry_param *e)
{
	_cleanup_disk_ struct disk d = {0};
	int r = disk_of(c->fs, owner, &d);

	if (r == 0)
		r = entry_disk(c->fs, owner, &d, name, e);
	return r < 0 ? attempt_refuse_errno(&c->attempt, r, "%s is gone again", name) : 0;
}

static void answer_entry(struct change *c, int r, const struct fuse_entry_param *e)
{
	if (r < 0) {
		change_end(c, r);
		return;
	}
	attempt_end(&c->attempt, 0);
	if (fuse_reply_entry(c->req, e) == -ENOENT)
		files_forget(c->fs->files, e->ino, 1);
	attempt_done(&c->attempt);
}

static void begin(struct change *c, const char *method)
{
	change_begin(c, method);
	c->attempt.quiet = true;
}

/* ---- opening for writing */

static int ask_open(
	struct change *c, const struct image_ref *draft, const char *file, bool create, int *ret_fd)
{
	_cleanup_json_ struct json_object *o = file_params(draft, file);
	int flags = c->fi.flags;

	if (!o || banger_json_add_bool(o, "write", true) < 0 ||
		((flags & O_TRUNC) && banger_json_add_bool(o, "trunc", true) < 0) ||
		(create && (banger_json_add_bool(o, "create", true) < 0 ||
				   banger_json_add_int(o, "mode", c->mode & 07777) < 0)) ||
		(create && (flags & O_EXCL) && banger_json_add_bool(o, "excl", true) < 0))
		return banger_error_oom(&c->attempt.err);
	return attempt_ask(&c->attempt, BANGER_METHOD_DRAFT_OPEN, TAKE_PTR(o), NULL, ret_fd);
}

static int handle_for(struct change *c, const struct image_ref *draft, uint64_t node, int fd)
{
	struct disk_handle *h;

	if (disk_handle_new(c->fs, node, fd, true, draft->number, &h) < 0)
		return banger_error_oom(&c->attempt.err);
	handle_give(c->fs, &h->h, &c->fi);
	return 0;
}

static void answer_open(struct change *c, int r)
{
	if (r < 0) {
		change_end(c, r);
		return;
	}
	attempt_end(&c->attempt, 0);
	if (fuse_reply_open(c->req, &c->fi) == -ENOENT)
		handle_close(c->fs, c->req, handle_of(&c->fi));
	attempt_done(&c->attempt);
}

static void open_config(struct change *c)
{
	struct handle *h;
	struct image_ref draft;

	begin(c, BANGER_METHOD_IMAGE_CONFIGURE);
	int r = draft_of(c, node_id(NODE_IMAGE, node_number(c->node)), "changed", &draft);
	if (r == 0) {
		r = config_open(c->fs, &c->who, c->node, c->fi.flags & O_TRUNC, &h);
		if (r < 0)
			attempt_refuse_errno(&c->attempt, r, "%s", JSON_NAME);
	}
	if (r == 0) {
		handle_give(c->fs, h, &c->fi);
		c->fi.direct_io = 1;
	}
	answer_open(c, r);
}

/* The file under this name may be another by now; the kernel then looks again. */
static int check_node(struct change *c, const struct file_place *p, int fd)
{
	struct statx stx;

	if (statx(fd, "", AT_EMPTY_PATH, FILE_STATX, &stx) < 0)
		return attempt_refuse_errno(&c->attempt, errno, "%s", p->path);
	struct file_id id = file_id_of(&stx);
	return file_id_same(&id, &p->id)
		       ? 0
		       : attempt_refuse_errno(&c->attempt, ESTALE, "%s was replaced", p->path);
}

void draft_open(struct change *c)
{
	_cleanup_place_ struct file_place p = {0};
	_cleanup_close_ int fd = -1;
	struct image_ref draft;

	if (node_kind(c->node) == NODE_IMAGE_JSON) {
		open_config(c);
		return;
	}
	begin(c, BANGER_METHOD_DRAFT_OPEN);
	int r = file_in_draft(c, &draft, &p);
	if (r == 0)
		r = ask_open(c, &draft, p.path, false, &fd);
	if (r == 0)
		r = check_node(c, &p, fd);
	if (r == 0)
		r = handle_for(c, &draft, c->node, fd);
	if (r == 0)
		TAKE_FD(fd);
	answer_open(c, r);
}

/* ---- making */

static int new_file(
	struct change *c, const struct image_ref *draft, int fd, struct fuse_entry_param *e)
{
	struct statx stx;

	if (statx(fd, "", AT_EMPTY_PATH, FILE_STATX, &stx) < 0)
		return attempt_refuse_errno(&c->attempt, errno, "%s", c->name);
	e->ino = files_lookup(c->fs->files, c->node, c->name, &stx);
	if (!e->ino)
		return banger_error_oom(&c->attempt.err);
	attr_disk(c->fs, &e->attr, &stx, false);
	return 0;
}

static int make(struct change *c, struct image_ref *draft, int *ret_fd, struct fuse_entry_param *e)
{
	int r = draft_of(c, c->node, "made", draft);

	if (r == 0)
		r = change_name_check(c, c->name);
	if (r == 0 && strcmp(c->name, JSON_NAME) == 0)
		r = attempt_refuse(&c->attempt, BANGER_EXISTS, "%s/%s is there already",
			draft->word, JSON_NAME);
	if (r == 0)
		r = ask_open(c, draft, c->name, true, ret_fd);
	return r == 0 ? new_file(c, draft, *ret_fd, e) : r;
}

static void answer_create(struct change *c, const struct fuse_entry_param *e)
{
	attempt_end(&c->attempt, 0);
	if (fuse_reply_create(c->req, e, &c->fi) == -ENOENT) {
		handle_close(c->fs, c->req, handle_of(&c->fi));
		files_forget(c->fs->files, e->ino, 1);
	}
	attempt_done(&c->attempt);
}

/* By one who was told that it is not there: see dir_image.c. */
static void create_config(struct change *c)
{
	uint64_t node = node_id(NODE_IMAGE_JSON, node_number(c->node));
	struct fuse_entry_param e = {.ino = node};
	struct image_ref draft;
	struct handle *h;

	begin(c, BANGER_METHOD_IMAGE_CONFIGURE);
	int r = draft_of(c, c->node, "made", &draft);
	if (r == 0) {
		r = node_type(node)->getattr(c->fs, &c->who, node, &e.attr, &e.attr_timeout);
		if (r == 0)
			r = config_open(c->fs, &c->who, node, true, &h);
		if (r < 0)
			attempt_refuse_errno(&c->attempt, r, JSON_NAME);
	}
	if (r < 0) {
		change_end(c, r);
		return;
	}
	e.attr.st_size = 0;
	handle_give(c->fs, h, &c->fi);
	c->fi.direct_io = 1;
	answer_create(c, &e);
}

void draft_create(struct change *c)
{
	struct fuse_entry_param e = {0};
	_cleanup_close_ int fd = -1;
	struct image_ref draft;

	if (node_kind(c->node) == NODE_IMAGE && strcmp(c->name, JSON_NAME) == 0) {
		create_config(c);
		return;
	}
	begin(c, BANGER_METHOD_DRAFT_OPEN);
	int r = make(c, &draft, &fd, &e);
	if (r == 0)
		r = handle_for(c, &draft, e.ino, fd);
	if (r < 0) {
		if (e.ino)
			files_forget(c->fs->files, e.ino, 1);
		change_end(c, r);
		return;
	}
	TAKE_FD(fd);
	answer_create(c, &e);
}

void draft_mknod(struct change *c)
{
	struct fuse_entry_param e = {0};
	_cleanup_close_ int fd = -1;
	struct image_ref draft;
	int r;

	begin(c, S_ISREG(c->mode) ? BANGER_METHOD_DRAFT_OPEN : "fs.mknod");
	if (S_ISREG(c->mode)) {
		c->fi.flags = O_EXCL;
		r = make(c, &draft, &fd, &e);
	} else {
		r = attempt_allowed(&c->attempt);
		if (r == 0)
			r = refuse_change(&c->attempt, c->node, "made");
	}
	answer_entry(c, r, &e);
}

void draft_symlink(struct change *c)
{
	struct fuse_entry_param e = {0};
	struct json_object *o;
	struct image_ref draft;

	begin(c, BANGER_METHOD_DRAFT_SYMLINK);
	int r = draft_of(c, c->node, "made", &draft);
	if (r == 0)
		r = change_name_check(c, c->name);
	if (r == 0 && !banger_utf8_valid(c->to_name, strlen(c->to_name)))
		r = attempt_refuse(&c->attempt, BANGER_BAD_REQUEST,
			"the target of a symlink here must be valid UTF-8");
	if (r == 0) {
		o = file_params(&draft, c->name);
		if (o && banger_json_add_str(o, "target", c->to_name) < 0) {
			json_object_put(o);
			o = NULL;
		}
		r = attempt_ask(&c->attempt, BANGER_METHOD_DRAFT_SYMLINK, o, NULL, NULL);
	}
	if (r == 0)
		r = file_entry(c, c->node, c->name, &e);
	/* A promotion puts the artifact itself in its place; the kernel takes nothing but a link from us. */
	if (r == 0 && !S_ISLNK(e.attr.st_mode)) {
		files_forget(c->fs->files, e.ino, 1);
		r = attempt_refuse(&c->attempt, BANGER_BUSY,
			"\"%s\" of %s was replaced as soon as it was made: the draft is being "
			"published",
			c->name, draft.word);
	}
	answer_entry(c, r, &e);
}

void draft_link(struct change *c)
{
	change_begin(c, "fs.link");
	int r = attempt_allowed(&c->attempt);
	if (r == 0)
		r = refuse_change(&c->attempt, c->node, "made");
	change_end(c, r);
}

/* ---- removing and renaming */

void draft_unlink(struct change *c)
{
	struct image_ref draft;

	begin(c, node_kind(c->node) == NODE_IMAGE ? BANGER_METHOD_DRAFT_UNLINK : "fs.unlink");
	int r = draft_of(c, c->node, "removed", &draft);
	if (r == 0 && strcmp(c->name, JSON_NAME) != 0)
		r = attempt_ask(&c->attempt, BANGER_METHOD_DRAFT_UNLINK,
			file_params(&draft, c->name), NULL, NULL);
	change_end(c, r);
}

static int ask_unlink(struct change *c, const struct image_ref *draft, const char *name)
{
	return attempt_ask(
		&c->attempt, BANGER_METHOD_DRAFT_UNLINK, file_params(draft, name), NULL, NULL);
}

/* Temporary file and rename: the document is taken over and the file is done with. */
static int rename_to_json(struct change *c, const struct image_ref *from)
{
	_cleanup_disk_ struct disk d = {0};
	_cleanup_close_ int fd = -1;

	int r = disk_of(c->fs, c->node, &d);
	if (r == 0)
		r = disk_open(&d, c->name, O_RDONLY | O_NONBLOCK, NULL, &fd);
	if (r < 0)
		return attempt_refuse_errno(&c->attempt, r, "%s", c->name);
	r = config_take_file(c, c->to_node, fd);
	return r == 0 ? ask_unlink(c, from, c->name) : r;
}

static int ask_rename(struct change *c, const struct image_ref *from, const struct image_ref *to)
{
	_cleanup_json_ struct json_object *o = json_object_new_object();

	if (!o || banger_json_add_str(o, "id", from->id_text) < 0 ||
		banger_json_add_str(o, "from", c->name) < 0 ||
		banger_json_add_str(o, "to", c->to_name) < 0 ||
		(to->id != from->id && banger_json_add_str(o, "to_id", to->id_text) < 0) ||
		((c->flags & RENAME_NOREPLACE) && banger_json_add_bool(o, "noreplace", true) < 0) ||
		((c->flags & RENAME_EXCHANGE) && banger_json_add_bool(o, "exchange", true) < 0))
		return banger_error_oom(&c->attempt.err);
	return attempt_ask(&c->attempt, BANGER_METHOD_DRAFT_RENAME, TAKE_PTR(o), NULL, NULL);
}

/* Files keep their nodes under their new names. */
static void note_name(struct fs *fs, uint64_t owner, const char *name)
{
	_cleanup_disk_ struct disk d = {0};
	struct statx stx;

	if (disk_of(fs, owner, &d) == 0 && disk_statx(&d, name, &stx) == 0)
		files_renamed(fs->files, owner, name, &stx);
}

void draft_rename(struct change *c)
{
	struct image_ref from, to;
	bool json;

	begin(c, BANGER_METHOD_DRAFT_RENAME);
	int r = draft_of(c, c->node, "renamed", &from);
	if (r == 0)
		r = draft_of(c, c->to_node, "renamed", &to);
	if (r == 0)
		r = change_name_check(c, c->to_name);
	json = strcmp(c->to_name, JSON_NAME) == 0;
	if (r == 0 && (strcmp(c->name, JSON_NAME) == 0 || (json && (c->flags & RENAME_EXCHANGE))))
		r = attempt_refuse(&c->attempt, BANGER_NOT_PERMITTED,
			"%s/" JSON_NAME " is made by the registry and stays where it is",
			from.word);
	else if (r == 0 && json)
		r = rename_to_json(c, &from);
	else if (r == 0)
		r = ask_rename(c, &from, &to);
	if (r == 0 && !json) {
		note_name(c->fs, c->to_node, c->to_name);
		if (c->flags & RENAME_EXCHANGE)
			note_name(c->fs, c->node, c->name);
	}
	change_end(c, r);
}

/* ---- attributes */

static int64_t time_ns(const struct timespec *t, bool now)
{
	struct timespec n;

	if (!now)
		return t->tv_sec * 1000000000LL + t->tv_nsec;
	clock_gettime(CLOCK_REALTIME, &n);
	return n.tv_sec * 1000000000LL + n.tv_nsec;
}

static struct json_object *setattr_params(
	const struct change *c, const struct image_ref *draft, const char *file, int set)
{
	_cleanup_json_ struct json_object *o = file_params(draft, file);
	const struct stat *st = &c->attr;

	if (!o ||
		((set & FUSE_SET_ATTR_MODE) &&
			banger_json_add_int(o, "mode", st->st_mode & 07777) < 0) ||
		((set & FUSE_SET_ATTR_UID) && banger_json_add_int(o, "uid", st->st_uid) < 0) ||
		((set & FUSE_SET_ATTR_GID) && banger_json_add_int(o, "gid", st->st_gid) < 0) ||
		((set & FUSE_SET_ATTR_SIZE) && banger_json_add_int(o, "size", st->st_size) < 0) ||
		((set & FUSE_SET_ATTR_ATIME) &&
			banger_json_add_int(o, "atime_ns",
				time_ns(&st->st_atim, set & FUSE_SET_ATTR_ATIME_NOW)) < 0) ||
		((set & FUSE_SET_ATTR_MTIME) &&
			banger_json_add_int(o, "mtime_ns",
				time_ns(&st->st_mtim, set & FUSE_SET_ATTR_MTIME_NOW)) < 0))
		return NULL;
	return TAKE_PTR(o);
}

#define SET_SUPPORTED                                                                              \
	(FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID | FUSE_SET_ATTR_SIZE |         \
		FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME)

static int set_file(struct change *c)
{
	_cleanup_place_ struct file_place p = {0};
	struct disk_handle *h = c->has_fi ? disk_handle_of(&c->fi) : NULL;
	struct image_ref draft;
	int set = c->to_set;

	int r = file_in_draft(c, &draft, &p);
	if (r < 0)
		return r;
	if ((set & FUSE_SET_ATTR_SIZE) && h && h->writable) {
		if (ftruncate(h->open.fd, c->attr.st_size) < 0)
			return attempt_refuse_errno(&c->attempt, errno, "%s", p.path);
		set &= ~FUSE_SET_ATTR_SIZE;
	}
	if (!(set & SET_SUPPORTED))
		return 0;
	return attempt_ask(&c->attempt, BANGER_METHOD_DRAFT_SETATTR,
		setattr_params(c, &draft, p.path, set), NULL, NULL);
}

/* image.json and the directory: nothing is kept, but a truncation is one of the open handle. */
static int set_made(struct change *c)
{
	struct image_ref draft;
	struct handle *h = c->has_fi ? handle_of(&c->fi) : NULL;

	int r = draft_of(c, node_id(NODE_IMAGE, node_number(c->node)), "changed", &draft);
	if (r < 0 || !(c->to_set & FUSE_SET_ATTR_SIZE))
		return r;
	if (h && h->kind == HANDLE_CONFIG) {
		r = config_truncate(h, c->attr.st_size);
		return r < 0 ? attempt_refuse_errno(&c->attempt, r, JSON_NAME) : 0;
	}
	if (c->attr.st_size == 0)
		return 0; /* a writer that truncates by name and then writes a whole document */
	return attempt_refuse(&c->attempt, BANGER_BAD_REQUEST, JSON_NAME " cannot be cut");
}

static void answer_attr(struct change *c)
{
	struct disk_handle *h = c->has_fi ? disk_handle_of(&c->fi) : NULL;
	struct handle *any = c->has_fi ? handle_of(&c->fi) : NULL;
	double timeout = 0;
	struct statx stx;
	struct stat st;
	int r = 0;

	if (h && statx(h->open.fd, "", AT_EMPTY_PATH, FILE_STATX, &stx) == 0)
		attr_disk(c->fs, &st, &stx, false);
	else
		r = node_type(c->node)->getattr(c->fs, &c->who, c->node, &st, &timeout);
	if (r == 0 && any && any->kind == HANDLE_CONFIG)
		st.st_size = config_size(any);
	if (r < 0)
		fuse_reply_err(c->req, -r);
	else
		fuse_reply_attr(c->req, &st, timeout);
}

void draft_setattr(struct change *c)
{
	bool file = node_kind(c->node) == NODE_FILE;
	bool made = node_kind(c->node) == NODE_IMAGE || node_kind(c->node) == NODE_IMAGE_JSON;

	begin(c, file ? BANGER_METHOD_DRAFT_SETATTR : "fs.setattr");
	int r = made ? set_made(c) : set_file(c);
	if (r < 0) {
		change_end(c, r);
		return;
	}
	attempt_end(&c->attempt, 0);
	answer_attr(c);
	attempt_done(&c->attempt);
}

void draft_setxattr(struct change *c)
{
	struct image_ref image;
	uint64_t owner = c->node;
	_cleanup_place_ struct file_place p = {0};

	if (node_kind(owner) == NODE_FILE && files_place(c->fs->files, owner, &p) == 0)
		owner = p.owner;
	/* Other than on what is published, as on any disk that has no attributes: cp -a tries. */
	if (image_ref_of(c->fs, owner, &image) < 0 || image.state != BANGER_PUBLISHED) {
		fuse_reply_err(c->req, EOPNOTSUPP);
		return;
	}
	begin(c, "fs.setxattr");
	int r = attempt_allowed(&c->attempt);
	change_end(c, r < 0 ? r : refuse_change(&c->attempt, c->node, "changed"));
}
