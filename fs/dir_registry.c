/* SPDX-License-Identifier: Apache-2.0 */
/*
 * images/, drafts/ and by-id/: from the model alone, but for the times of drafts.
 *
 * Names in images/ and drafts/ are given to the kernel for good: an entry is marked as known while
 * the read lock is held under which it was found, so whoever changes it later sees the mark and
 * tells the kernel. The kernel holds the directory's lock from the lookup's request to its reply
 * and takes it for an invalidation too, so the invalidation cannot pass the reply. Links in by-id/
 * are looked up anew each time.
 */
#include <string.h>
#include "tree.h"

static enum banger_image_state state_of(uint64_t dir)
{
	return dir == FIXED_IMAGES ? BANGER_PUBLISHED : BANGER_DRAFT;
}

static int registry_lookup(struct fs *fs, const struct fuse_ctx *who, uint64_t dir,
	const char *name, struct fuse_entry_param *ret)
{
	{
		MODEL_READ(fs->model);
		const struct model_image *i = model_image_named(fs->model, state_of(dir), name);

		if (!i)
			return -ENOENT;
		entry_image(fs, i, ret);
		model_mark_known(i);
	}
	entry_draft(fs, ret);
	return 0;
}

static int registry_getattr(struct fs *fs, const struct fuse_ctx *who, uint64_t node,
	struct stat *ret, double *ret_timeout)
{
	enum model_dir dir = node == FIXED_BY_ID ? MODEL_BY_ID : (enum model_dir)state_of(node);

	MODEL_READ(fs->model);
	size_t n = node == FIXED_BY_ID ? 0 : model_count(fs->model, dir);
	attr_dir(fs, ret, shown_ino(NODE_FIXED, node), 2 + n, model_changed(fs->model, dir));
	*ret_timeout = node == FIXED_BY_ID ? 0 : FS_FOREVER;
	return 0;
}

static int images_list(struct fs *fs, const struct fuse_ctx *who, uint64_t dir,
	struct dir_handle *h, struct listing *l)
{
	uint64_t place = listing_after(l);
	const struct model_image *i;

	if (!listing_dots(l, shown_ino(NODE_FIXED, dir), 1))
		return 0;
	MODEL_READ(fs->model);
	while ((i = model_next(fs->model, MODEL_IMAGES, place, &place))) {
		struct fuse_entry_param e = {0};

		entry_image(fs, i, &e);
		if (!listing_add(l, model_name(i), &e, LISTING_FIRST + place))
			break;
		if (l->plus)
			model_mark_known(i);
	}
	return 0;
}

/* What was taken of a draft under the lock; its times are asked for without it. */
struct draft {
	struct fuse_entry_param e;
	uint64_t place;
	char name[BANGER_NAME_MAX + 1];
};

#define DRAFTS_AT_ONCE 32

static size_t take_drafts(struct fs *fs, uint64_t after, bool plus, struct draft *drafts)
{
	const struct model_image *i;
	size_t n = 0;

	MODEL_READ(fs->model);
	while (n < DRAFTS_AT_ONCE && (i = model_next(fs->model, MODEL_DRAFTS, after, &after))) {
		drafts[n].e = (struct fuse_entry_param){0};
		entry_image(fs, i, &drafts[n].e);
		drafts[n].place = after;
		strcpy(drafts[n].name, model_name(i));
		if (plus)
			model_mark_known(i);
		n++;
	}
	return n;
}

static int drafts_list(struct fs *fs, const struct fuse_ctx *who, uint64_t dir,
	struct dir_handle *h, struct listing *l)
{
	uint64_t after = listing_after(l);
	_cleanup_free_ struct draft *drafts = calloc(DRAFTS_AT_ONCE, sizeof(*drafts));
	size_t n;

	if (!drafts)
		return -ENOMEM;
	if (!listing_dots(l, shown_ino(NODE_FIXED, dir), 1))
		return 0;
	while ((n = take_drafts(fs, after, l->plus, drafts)) > 0) {
		for (size_t k = 0; k < n; k++) {
			struct draft *d = &drafts[k];

			if (l->plus && listing_fits(l, d->name))
				entry_draft(fs, &d->e);
			if (!listing_add(l, d->name, &d->e, LISTING_FIRST + d->place))
				return 0;
			after = d->place;
		}
	}
	return 0;
}

/* ---- by-id/ */

static void entry_link(struct fs *fs, const struct model_image *i, struct fuse_entry_param *e)
{
	size_t len = strlen("../images/") + strlen(model_name(i));

	e->ino = node_id(NODE_BY_ID, i->number);
	attr_file(fs, &e->attr, shown_ino(NODE_BY_ID, i->row.id), S_IFLNK | 0777, len,
		us_to_timespec(i->row.published_us ?: i->row.created_us));
	e->attr.st_blocks = 0;
}

static int by_id_lookup(struct fs *fs, const struct fuse_ctx *who, uint64_t dir, const char *name,
	struct fuse_entry_param *ret)
{
	uint64_t id;

	if (model_id_parse(name, &id) < 0)
		return -ENOENT;
	MODEL_READ(fs->model);
	const struct model_image *i = model_image_of_id(fs->model, id);
	if (!i)
		return -ENOENT;
	entry_link(fs, i, ret);
	return 0;
}

static int by_id_list(struct fs *fs, const struct fuse_ctx *who, uint64_t dir, struct dir_handle *h,
	struct listing *l)
{
	uint64_t place = listing_after(l);
	const struct model_image *i;

	if (!listing_dots(l, shown_ino(NODE_FIXED, dir), 1))
		return 0;
	MODEL_READ(fs->model);
	while ((i = model_next(fs->model, MODEL_BY_ID, place, &place))) {
		struct fuse_entry_param e = {0};
		char name[BANGER_ID_LEN + 1];

		entry_link(fs, i, &e);
		model_id_text(i->row.id, name);
		if (!listing_add(l, name, &e, LISTING_FIRST + place))
			break;
	}
	return 0;
}

static int link_getattr(struct fs *fs, const struct fuse_ctx *who, uint64_t node, struct stat *ret,
	double *ret_timeout)
{
	struct fuse_entry_param e = {0};

	MODEL_READ(fs->model);
	const struct model_image *i = model_image(fs->model, node_number(node));
	if (!i)
		return -ENOENT;
	entry_link(fs, i, &e);
	*ret = e.attr;
	*ret_timeout = 0;
	return 0;
}

static int link_read(struct fs *fs, uint64_t node, char **ret)
{
	MODEL_READ(fs->model);
	const struct model_image *i = model_image(fs->model, node_number(node));
	char *s;

	if (!i)
		return -ENOENT;
	if (asprintf(&s, "../%s/%s", i->row.state == BANGER_PUBLISHED ? "images" : "drafts",
		    model_name(i)) < 0)
		return -ENOMEM;
	*ret = s;
	return 0;
}

const struct node_type type_images = {.lookup = registry_lookup,
	.getattr = registry_getattr,
	.list = images_list,
	.cache_listing = true};
const struct node_type type_drafts = {
	.lookup = registry_lookup, .getattr = registry_getattr, .list = drafts_list};
const struct node_type type_by_id = {
	.lookup = by_id_lookup, .getattr = registry_getattr, .list = by_id_list};
const struct node_type type_link = {.getattr = link_getattr, .readlink = link_read};
