/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside an image or a draft: image.json, which is made from the model, and the files on disk.
 *
 * image.json changes when its image is renamed or swapped, by whichever door, and must be right at
 * the next read: its attributes are not cached and it is read by direct I/O. Files of a published
 * image never change; files of a draft may change behind our back (by another mount), so nothing of
 * them is taken for granted for longer than a call.
 *
 * cp -r makes each file of a directory that it has made itself, and insists that it was not there
 * before. A new draft has its image.json already. So one who looks it up in order to make it is
 * told that there is none, and then makes it, which is the same as writing it; nobody else can
 * tell.
 */
#include <limits.h>
#include <string.h>
#include "caller.h"
#include "tree.h"

static int image_text(struct fs *fs, uint64_t number, char **ret, size_t *ret_len)
{
	_cleanup_image_ struct banger_image image = {0};

	{
		MODEL_READ(fs->model);
		const struct model_image *i = model_image(fs->model, number);
		int r = i ? model_image_unpack(i, &image) : -ENOENT;
		if (r < 0)
			return r;
	}
	return pretty_json(banger_image_to_json(&image), ret, ret_len);
}

/* The length of image.json, made once for each row of the model. */
static int json_length(struct fs *fs, uint64_t number, size_t *ret)
{
	_cleanup_free_ char *text = NULL;
	int64_t generation = -1;

	{
		MODEL_READ(fs->model);
		const struct model_image *i = model_image(fs->model, number);
		unsigned len = i ? atomic_load(&i->json_len) : 0;

		if (len > 0) {
			*ret = len;
			return 0;
		}
		generation = i ? i->row.generation : -1;
	}
	int r = image_text(fs, number, &text, ret);
	if (r < 0)
		return r;
	MODEL_READ(fs->model);
	struct model_image *i = (struct model_image *)model_image(fs->model, number);
	if (i && i->row.generation == generation && *ret <= UINT_MAX)
		atomic_store(&i->json_len, *ret);
	return 0;
}

static int json_getattr(struct fs *fs, const struct fuse_ctx *who, uint64_t node, struct stat *ret,
	double *ret_timeout)
{
	size_t len = 0;
	int r = json_length(fs, node_number(node), &len);

	if (r < 0)
		return r;
	MODEL_READ(fs->model);
	const struct model_image *i = model_image(fs->model, node_number(node));
	if (!i)
		return -ENOENT;
	attr_file(fs, ret, shown_ino(NODE_IMAGE_JSON, i->row.id), S_IFREG | 0644, len,
		us_to_timespec(i->row.published_us ?: i->row.created_us));
	*ret_timeout = 0;
	return 0;
}

static int json_text(
	struct fs *fs, const struct fuse_ctx *who, uint64_t node, char **ret, size_t *ret_len)
{
	return image_text(fs, node_number(node), ret, ret_len);
}

static int json_entry(
	struct fs *fs, const struct fuse_ctx *who, uint64_t image, struct fuse_entry_param *e)
{
	e->ino = node_id(NODE_IMAGE_JSON, node_number(image));
	/* Asked for each time, for the sake of those who want to make it. */
	e->entry_timeout = 0;
	return json_getattr(fs, who, e->ino, &e->attr, &e->attr_timeout);
}

/* What is missing there was there when it was published. */
static bool is_damaged(struct fs *fs, uint64_t node)
{
	MODEL_READ(fs->model);
	const struct model_image *i = model_image(fs->model, node_number(node));

	return i && i->row.damaged;
}

static int image_lookup(struct fs *fs, const struct fuse_ctx *who, uint64_t dir, const char *name,
	struct fuse_entry_param *ret)
{
	_cleanup_disk_ struct disk d = {0};
	int r = disk_of(fs, dir, &d);

	if (r < 0)
		return r;
	if (strcmp(name, "image.json") != 0) {
		r = entry_disk(fs, dir, &d, name, ret);
		return r == -ENOENT && is_damaged(fs, dir) ? -EUCLEAN : r;
	}
	if (d.draft && caller_makes_exclusively(who->pid))
		return -ENOENT;
	return json_entry(fs, who, dir, ret);
}

static int image_getattr(struct fs *fs, const struct fuse_ctx *who, uint64_t node, struct stat *ret,
	double *ret_timeout)
{
	struct fuse_entry_param e = {0};

	{
		MODEL_READ(fs->model);
		const struct model_image *i = model_image(fs->model, node_number(node));
		if (!i)
			return -ENOENT;
		entry_image(fs, i, &e);
	}
	entry_draft(fs, &e);
	*ret = e.attr;
	*ret_timeout = e.attr_timeout;
	return 0;
}

static uint64_t image_ino(struct fs *fs, uint64_t node)
{
	MODEL_READ(fs->model);
	const struct model_image *i = model_image(fs->model, node_number(node));

	return i ? shown_ino(NODE_IMAGE, i->row.id) : node;
}

/* Who lists may not care how long it is: it is made for a listing only if that is known, and is else
 * shown without attributes, so that the kernel asks when somebody does. */
static int json_listed(
	struct fs *fs, const struct fuse_ctx *who, uint64_t image, struct fuse_entry_param *e)
{
	{
		MODEL_READ(fs->model);
		const struct model_image *i = model_image(fs->model, node_number(image));

		if (!i)
			return -ENOENT;
		if (atomic_load(&i->json_len) == 0) {
			e->attr.st_ino = shown_ino(NODE_IMAGE_JSON, i->row.id);
			e->attr.st_mode = S_IFREG | 0644;
			return 0;
		}
	}
	return json_entry(fs, who, image, e);
}

static int image_list(struct fs *fs, const struct fuse_ctx *who, uint64_t dir, struct dir_handle *h,
	struct listing *l)
{
	struct fuse_entry_param e = {0};

	if (!listing_dots(l, image_ino(fs, dir), shown_ino(NODE_FIXED, FIXED_IMAGES)))
		return 0;
	if (listing_after(l) < 1) {
		int r = json_listed(fs, who, dir, &e);
		if (r < 0)
			return r == -ENOENT ? 0 : r; /* deleted: an empty directory */
		if (!listing_add(l, "image.json", &e, LISTING_FIRST + 1))
			return 0;
	}
	return list_disk(fs, dir, "", "image.json", 1, h, l);
}

const struct node_type type_image = {
	.lookup = image_lookup, .getattr = image_getattr, .list = image_list};
const struct node_type type_image_json = {.getattr = json_getattr, .text = json_text};
