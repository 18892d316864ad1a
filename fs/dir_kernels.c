/* SPDX-License-Identifier: Apache-2.0 */
/* kernels/NAME/: kernel.json, made from the model, and the kernel's tree on disk. All published. */
#include <string.h>
#include "tree.h"

static uint64_t kernel_ino(enum node_kind kind, const struct model_kernel *k)
{
	uint64_t id = 0;

	(void)model_id_parse(k->k.id, &id);
	return shown_ino(kind, id);
}

static void entry_kernel(struct fs *fs, const struct model_kernel *k, struct fuse_entry_param *e)
{
	e->ino = node_id(NODE_KERNEL, k->number);
	e->entry_timeout = e->attr_timeout = FS_FOREVER;
	attr_dir(fs, &e->attr, kernel_ino(NODE_KERNEL, k), 2, us_to_timespec(k->k.imported_us));
}

static int kernels_lookup(struct fs *fs, const struct fuse_ctx *who, uint64_t dir, const char *name,
	struct fuse_entry_param *ret)
{
	MODEL_READ(fs->model);
	const struct model_kernel *k = model_kernel_named(fs->model, name);

	if (!k)
		return -ENOENT;
	entry_kernel(fs, k, ret);
	model_mark_kernel_known(k);
	return 0;
}

static int kernels_getattr(struct fs *fs, const struct fuse_ctx *who, uint64_t node,
	struct stat *ret, double *ret_timeout)
{
	MODEL_READ(fs->model);
	attr_dir(fs, ret, shown_ino(NODE_FIXED, node), 2 + model_count(fs->model, MODEL_KERNELS),
		model_changed(fs->model, MODEL_KERNELS));
	*ret_timeout = FS_FOREVER;
	return 0;
}

static int kernels_list(struct fs *fs, const struct fuse_ctx *who, uint64_t dir,
	struct dir_handle *h, struct listing *l)
{
	uint64_t place = listing_after(l);
	const struct model_kernel *k;

	if (!listing_dots(l, shown_ino(NODE_FIXED, dir), 1))
		return 0;
	MODEL_READ(fs->model);
	while ((k = model_next(fs->model, MODEL_KERNELS, place, &place))) {
		struct fuse_entry_param e = {0};

		entry_kernel(fs, k, &e);
		if (!listing_add(l, k->k.name, &e, LISTING_FIRST + place))
			break;
		if (l->plus)
			model_mark_kernel_known(k);
	}
	return 0;
}

/* ---- kernels/NAME/ */

static int kernel_getattr(struct fs *fs, const struct fuse_ctx *who, uint64_t node,
	struct stat *ret, double *ret_timeout)
{
	struct fuse_entry_param e = {0};

	MODEL_READ(fs->model);
	const struct model_kernel *k = model_kernel(fs->model, node_number(node));
	if (!k)
		return -ENOENT;
	entry_kernel(fs, k, &e);
	*ret = e.attr;
	*ret_timeout = FS_FOREVER;
	return 0;
}

static int json_text(
	struct fs *fs, const struct fuse_ctx *who, uint64_t node, char **ret, size_t *ret_len)
{
	MODEL_READ(fs->model);
	const struct model_kernel *k = model_kernel(fs->model, node_number(node));

	return k ? pretty_json(banger_kernel_to_json(&k->k), ret, ret_len) : -ENOENT;
}

static int json_getattr(struct fs *fs, const struct fuse_ctx *who, uint64_t node, struct stat *ret,
	double *ret_timeout)
{
	_cleanup_free_ char *text = NULL;
	size_t len;
	int r = json_text(fs, who, node, &text, &len);

	if (r < 0)
		return r;
	MODEL_READ(fs->model);
	const struct model_kernel *k = model_kernel(fs->model, node_number(node));
	if (!k)
		return -ENOENT;
	attr_file(fs, ret, kernel_ino(NODE_KERNEL_JSON, k), S_IFREG | 0644, len,
		us_to_timespec(k->k.imported_us));
	*ret_timeout = FS_FOREVER;
	return 0;
}

static int json_entry(
	struct fs *fs, const struct fuse_ctx *who, uint64_t kernel, struct fuse_entry_param *e)
{
	e->ino = node_id(NODE_KERNEL_JSON, node_number(kernel));
	e->entry_timeout = FS_FOREVER;
	return json_getattr(fs, who, e->ino, &e->attr, &e->attr_timeout);
}

static int kernel_lookup(struct fs *fs, const struct fuse_ctx *who, uint64_t dir, const char *name,
	struct fuse_entry_param *ret)
{
	_cleanup_disk_ struct disk d = {0};

	if (strcmp(name, "kernel.json") == 0)
		return json_entry(fs, who, dir, ret);
	int r = disk_of(fs, dir, &d);
	return r < 0 ? r : entry_disk(fs, dir, &d, name, ret);
}

static int kernel_list(struct fs *fs, const struct fuse_ctx *who, uint64_t dir,
	struct dir_handle *h, struct listing *l)
{
	struct fuse_entry_param e = {0};

	if (!listing_dots(l, dir, shown_ino(NODE_FIXED, FIXED_KERNELS)))
		return 0;
	if (listing_after(l) < 1) {
		int r = json_entry(fs, who, dir, &e);
		if (r < 0)
			return r == -ENOENT ? 0 : r;
		if (!listing_add(l, "kernel.json", &e, LISTING_FIRST + 1))
			return 0;
	}
	return list_disk(fs, dir, "", "kernel.json", 1, h, l);
}

const struct node_type type_kernels = {.lookup = kernels_lookup,
	.getattr = kernels_getattr,
	.list = kernels_list,
	.cache_listing = true};
const struct node_type type_kernel = {
	.lookup = kernel_lookup, .getattr = kernel_getattr, .list = kernel_list};
const struct node_type type_kernel_json = {.getattr = json_getattr, .text = json_text};
