/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the kinds of nodes share: which type a node is of, entries of listings, attributes.
 *
 * Permissions are shown as they are meant, and checked where they matter (ops.c, attempt.h):
 * directories are 0755 and published files 0644 so that a copy of a published image is a draft that
 * its owner can go on with; what is published answers a write with EROFS.
 */
#include "tree.h"
#include <string.h>

static const struct node_type *const fixed_types[FIXED_NODES] = {
	[FIXED_ROOT] = &type_root,
	[FIXED_DRAFTS] = &type_drafts,
	[FIXED_IMAGES] = &type_images,
	[FIXED_BY_ID] = &type_by_id,
	[FIXED_KERNELS] = &type_kernels,
	[FIXED_OPS] = &type_ops,
	[FIXED_VMS] = &type_vms,
	[FIXED_ROOTFS] = &type_empty,
	[FIXED_ROOTFS_LINK] = &type_rootfs_link,
	[FIXED_EVENTS] = &type_events,
	[FIXED_LAST_ERROR] = &type_last_error,
};

static const struct node_type *const types[NODE_KINDS] = {
	[NODE_IMAGE] = &type_image,
	[NODE_IMAGE_JSON] = &type_image_json,
	[NODE_BY_ID] = &type_link,
	[NODE_KERNEL] = &type_kernel,
	[NODE_KERNEL_JSON] = &type_kernel_json,
	[NODE_OP] = &type_op,
	[NODE_VM] = &type_vm,
	[NODE_VM_JSON] = &type_vm_json,
	[NODE_FILE] = &type_file,
};

const struct node_type *node_type(uint64_t node)
{
	static const struct node_type none;
	enum node_kind kind = node_kind(node);
	const struct node_type *t = kind != NODE_FIXED   ? types[kind]
				    : node < FIXED_NODES ? fixed_types[node]
							 : NULL;
	return t ? t : &none;
}

/* ---- listings */

bool listing_fits(const struct listing *l, const char *name)
{
	size_t n = l->plus ? fuse_add_direntry_plus(l->req, NULL, 0, name, NULL, 0)
			   : fuse_add_direntry(l->req, NULL, 0, name, NULL, 0);
	return n <= l->size - l->used;
}

bool listing_add(
	struct listing *l, const char *name, const struct fuse_entry_param *e, off_t cookie)
{
	size_t left = l->size - l->used;
	size_t n =
		l->plus ? fuse_add_direntry_plus(l->req, l->buf + l->used, left, name, e, cookie)
			: fuse_add_direntry(l->req, l->buf + l->used, left, name, &e->attr, cookie);

	if (n > left)
		return false;
	l->used += n;
	return true;
}

bool listing_dots(struct listing *l, uint64_t dir_ino, uint64_t parent_ino)
{
	/* Without a node id, so the kernel counts no lookup for them. */
	struct fuse_entry_param e = {.attr = {.st_ino = dir_ino, .st_mode = S_IFDIR | 0755}};

	if (l->off < 1 && !listing_add(l, ".", &e, 1))
		return false;
	e.attr.st_ino = parent_ino;
	if (l->off < LISTING_FIRST && !listing_add(l, "..", &e, LISTING_FIRST))
		return false;
	return true;
}

void listing_referenced(struct listing *l, uint64_t node)
{
	if (l->plus && node_kind(node) == NODE_FILE)
		l->referenced[l->nreferenced++] = node;
}

/* ---- attributes */

uint64_t shown_ino(enum node_kind kind, uint64_t key)
{
	switch (kind) {
	case NODE_IMAGE:
	case NODE_KERNEL:
	case NODE_VM:
		return key;
	case NODE_FIXED:
		return key == FIXED_ROOT ? 1 : 0xBA00000000000000u | key;
	default:
		/* Of an image or a kernel, beside it: ids are random in all their bits. */
		return key ^ (0x5A5A000000000000u + ((uint64_t)kind << 40));
	}
}

struct timespec us_to_timespec(int64_t us)
{
	return (struct timespec){us / 1000000, us % 1000000 * 1000};
}

static void attr_common(const struct fs *fs, struct stat *st, uint64_t ino, mode_t mode,
	unsigned nlink, struct timespec changed)
{
	*st = (struct stat){
		.st_ino = ino,
		.st_mode = mode,
		.st_nlink = nlink,
		.st_uid = fs->uid,
		.st_gid = fs->gid,
		.st_blksize = 4096,
		.st_atim = changed,
		.st_mtim = changed,
		.st_ctim = changed,
	};
}

void attr_dir(
	const struct fs *fs, struct stat *st, uint64_t ino, unsigned nlink, struct timespec changed)
{
	attr_common(fs, st, ino, S_IFDIR | 0755, nlink, changed);
}

void attr_file(const struct fs *fs, struct stat *st, uint64_t ino, mode_t mode, size_t size,
	struct timespec changed)
{
	attr_common(fs, st, ino, mode, 1, changed);
	st->st_size = size;
	st->st_blocks = (size + 511) / 512;
}

static struct timespec statx_time(const struct statx_timestamp *t)
{
	return (struct timespec){t->tv_sec, t->tv_nsec};
}

void attr_disk(const struct fs *fs, struct stat *st, const struct statx *stx, bool published)
{
	attr_common(
		fs, st, stx->stx_ino, stx->stx_mode, stx->stx_nlink, statx_time(&stx->stx_mtime));
	st->st_size = stx->stx_size;
	st->st_blocks = stx->stx_blocks;
	st->st_blksize = stx->stx_blksize;
	st->st_atim = statx_time(&stx->stx_atime);
	st->st_ctim = statx_time(&stx->stx_ctime);
	if (!published) {
		st->st_uid = stx->stx_uid;
		st->st_gid = stx->stx_gid;
	} else if (S_ISREG(stx->stx_mode)) {
		st->st_mode = S_IFREG | 0644;
	} else if (S_ISDIR(stx->stx_mode)) {
		st->st_mode = S_IFDIR | 0755;
	}
}

/* ---- entries */

void entry_image(struct fs *fs, const struct model_image *i, struct fuse_entry_param *e)
{
	bool published = i->row.state == BANGER_PUBLISHED;

	e->ino = node_id_living(NODE_IMAGE, i->number, i->life);
	e->entry_timeout = FS_FOREVER;
	e->attr_timeout = published ? FS_FOREVER : 0;
	attr_dir(fs, &e->attr, shown_ino(NODE_IMAGE, i->row.id), 2,
		us_to_timespec(published ? i->row.published_us : i->row.created_us));
}

void entry_draft(struct fs *fs, struct fuse_entry_param *e)
{
	_cleanup_disk_ struct disk d = {0};
	struct statx stx;

	/* When it last changed; if that cannot be said just now, when it was registered. */
	if (e->attr_timeout > 0 || disk_of(fs, e->ino, &d) < 0 || disk_statx(&d, "", &stx) < 0)
		return;
	e->attr.st_mtim = statx_time(&stx.stx_mtime);
	e->attr.st_ctim = statx_time(&stx.stx_ctime);
}

int pretty_json(struct json_object *o, char **ret, size_t *ret_len)
{
	_cleanup_json_ struct json_object *owned = o;
	size_t n;

	if (!o)
		return -ENOMEM;
	const char *s = json_object_to_json_string_length(o,
		JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED | JSON_C_TO_STRING_NOSLASHESCAPE,
		&n);
	char *text = s ? malloc(n + 2) : NULL;
	if (!text)
		return -ENOMEM;
	memcpy(text, s, n);
	strcpy(text + n, "\n");
	*ret = text;
	*ret_len = n + 1;
	return 0;
}
