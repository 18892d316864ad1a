/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vms/NAME/: vm.json, made from the model, and console.log, the daemon's file. Both change while they are looked at, so
 * the kernel asks each time; `tail -f` sees the log grow.
 */
#include <string.h>
#include "tree.h"

#define LOG "console.log"

static uint64_t vm_ino(enum node_kind kind, const struct model_vm *v)
{
	uint64_t id = 0;

	(void)model_id_parse(v->id, &id);
	return shown_ino(kind, id);
}

static void entry_vm(struct fs *fs, const struct model_vm *v, struct fuse_entry_param *e)
{
	e->ino = node_id(NODE_VM, v->number);
	e->entry_timeout = e->attr_timeout = FS_FOREVER;
	attr_dir(fs, &e->attr, vm_ino(NODE_VM, v), 2, us_to_timespec(v->created_us));
}

/* Seen from inside a VM there is that VM alone: consoles of others are not its business. */
static bool is_shown(const struct fs *fs, const struct model_vm *v)
{
	return !fs->vm || strcmp(v->name, fs->vm) == 0;
}

static int vms_lookup(struct fs *fs, const struct fuse_ctx *who, uint64_t dir, const char *name,
	struct fuse_entry_param *ret)
{
	MODEL_READ(fs->model);
	const struct model_vm *v = model_vm_named(fs->model, name);

	if (!v || !is_shown(fs, v))
		return -ENOENT;
	entry_vm(fs, v, ret);
	model_mark_vm_known(v);
	return 0;
}

static int vms_getattr(struct fs *fs, const struct fuse_ctx *who, uint64_t node, struct stat *ret,
	double *ret_timeout)
{
	MODEL_READ(fs->model);
	attr_dir(fs, ret, shown_ino(NODE_FIXED, node),
		fs->vm ? 2 + !!model_vm_named(fs->model, fs->vm)
		       : 2 + model_count(fs->model, MODEL_VMS),
		model_changed(fs->model, MODEL_VMS));
	*ret_timeout = FS_FOREVER;
	return 0;
}

static int vms_list(struct fs *fs, const struct fuse_ctx *who, uint64_t dir, struct dir_handle *h,
	struct listing *l)
{
	uint64_t place = listing_after(l);
	const struct model_vm *v;

	if (!listing_dots(l, shown_ino(NODE_FIXED, dir), 1))
		return 0;
	MODEL_READ(fs->model);
	while ((v = model_next(fs->model, MODEL_VMS, place, &place))) {
		struct fuse_entry_param e = {0};

		if (!is_shown(fs, v))
			continue;
		entry_vm(fs, v, &e);
		if (!listing_add(l, v->name, &e, LISTING_FIRST + place))
			break;
		if (l->plus)
			model_mark_vm_known(v);
	}
	return 0;
}

/* ---- vms/NAME/ */

static int vm_getattr(struct fs *fs, const struct fuse_ctx *who, uint64_t node, struct stat *ret,
	double *ret_timeout)
{
	struct fuse_entry_param e = {0};

	MODEL_READ(fs->model);
	const struct model_vm *v = model_vm(fs->model, node_number(node));
	if (!v)
		return -ENOENT;
	entry_vm(fs, v, &e);
	*ret = e.attr;
	*ret_timeout = FS_FOREVER;
	return 0;
}

static int json_text(
	struct fs *fs, const struct fuse_ctx *who, uint64_t node, char **ret, size_t *ret_len)
{
	MODEL_READ(fs->model);
	const struct model_vm *v = model_vm(fs->model, node_number(node));

	if (!v)
		return -ENOENT;
	char *text = strndup(v->text, v->len);
	if (!text)
		return -ENOMEM;
	*ret = text;
	*ret_len = v->len;
	return 0;
}

static int json_getattr(struct fs *fs, const struct fuse_ctx *who, uint64_t node, struct stat *ret,
	double *ret_timeout)
{
	MODEL_READ(fs->model);
	const struct model_vm *v = model_vm(fs->model, node_number(node));

	if (!v)
		return -ENOENT;
	attr_file(fs, ret, vm_ino(NODE_VM_JSON, v), S_IFREG | 0444, v->len,
		us_to_timespec(v->created_us));
	*ret_timeout = 0;
	return 0;
}

static int json_entry(
	struct fs *fs, const struct fuse_ctx *who, uint64_t vm, struct fuse_entry_param *e)
{
	e->ino = node_id(NODE_VM_JSON, node_number(vm));
	e->entry_timeout = FS_FOREVER;
	return json_getattr(fs, who, e->ino, &e->attr, &e->attr_timeout);
}

/* Of the directory on disk only the log is anybody's business. */
static int log_entry(struct fs *fs, uint64_t vm, struct fuse_entry_param *e)
{
	_cleanup_disk_ struct disk d = {0};

	int r = disk_of(fs, vm, &d);
	return r < 0 ? r : entry_disk(fs, vm, &d, LOG, e);
}

static int vm_lookup(struct fs *fs, const struct fuse_ctx *who, uint64_t dir, const char *name,
	struct fuse_entry_param *ret)
{
	if (strcmp(name, "vm.json") == 0)
		return json_entry(fs, who, dir, ret);
	return strcmp(name, LOG) == 0 ? log_entry(fs, dir, ret) : -ENOENT;
}

static int vm_list(struct fs *fs, const struct fuse_ctx *who, uint64_t dir, struct dir_handle *h,
	struct listing *l)
{
	struct fuse_entry_param e = {0};

	if (!listing_dots(l, dir, shown_ino(NODE_FIXED, FIXED_VMS)))
		return 0;
	if (listing_after(l) < 1) {
		if (json_entry(fs, who, dir, &e) < 0)
			return 0; /* it was removed */
		if (!listing_add(l, "vm.json", &e, LISTING_FIRST + 1))
			return 0;
	}
	if (listing_after(l) >= 2 || !listing_fits(l, LOG))
		return 0;
	e = (struct fuse_entry_param){0};
	if (log_entry(fs, dir, &e) < 0)
		return 0; /* it never ran */
	listing_add(l, LOG, &e, LISTING_FIRST + 2);
	if (l->plus)
		listing_referenced(l, e.ino);
	else
		files_forget(fs->files, e.ino, 1);
	return 0;
}

const struct node_type type_vms = {
	.lookup = vms_lookup, .getattr = vms_getattr, .list = vms_list, .cache_listing = true};
const struct node_type type_vm = {.lookup = vm_lookup, .getattr = vm_getattr, .list = vm_list};
const struct node_type type_vm_json = {.getattr = json_getattr, .text = json_text};
