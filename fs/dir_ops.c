/* SPDX-License-Identifier: Apache-2.0 */
/* ops/OP_ID: the records of recent operations, from the model, looked up anew each time. */
#include <string.h>
#include "tree.h"

static void entry_op(struct fs *fs, const struct model_op *o, struct fuse_entry_param *e)
{
	e->ino = node_id(NODE_OP, o->number);
	attr_file(fs, &e->attr, shown_ino(NODE_OP, o->op), S_IFREG | 0444, o->len,
		us_to_timespec(o->started_us));
}

/* Inside a VM what is done to VMs is not shown: it names others, and what their consoles said (dir_vms.c). */
static bool is_shown(const struct fs *fs, const struct model_op *o)
{
	return !fs->vm || !o->of_vms;
}

static int ops_lookup(struct fs *fs, const struct fuse_ctx *who, uint64_t dir, const char *name,
	struct fuse_entry_param *ret)
{
	MODEL_READ(fs->model);
	const struct model_op *o = model_op_of_id(fs->model, name);

	if (!o || !is_shown(fs, o))
		return -ENOENT;
	entry_op(fs, o, ret);
	return 0;
}

static int ops_getattr(struct fs *fs, const struct fuse_ctx *who, uint64_t node, struct stat *ret,
	double *ret_timeout)
{
	MODEL_READ(fs->model);
	attr_dir(fs, ret, shown_ino(NODE_FIXED, node), 2, model_changed(fs->model, MODEL_OPS));
	*ret_timeout = 0;
	return 0;
}

static int ops_list(struct fs *fs, const struct fuse_ctx *who, uint64_t dir, struct dir_handle *h,
	struct listing *l)
{
	uint64_t place = listing_after(l);
	const struct model_op *o;

	if (!listing_dots(l, shown_ino(NODE_FIXED, dir), 1))
		return 0;
	MODEL_READ(fs->model);
	while ((o = model_next(fs->model, MODEL_OPS, place, &place))) {
		struct fuse_entry_param e = {0};
		char name[BANGER_OP_ID_LEN + 1];

		if (!is_shown(fs, o))
			continue;
		entry_op(fs, o, &e);
		snprintf(name, sizeof(name), "op-%012llx", (unsigned long long)o->op);
		if (!listing_add(l, name, &e, LISTING_FIRST + place))
			break;
	}
	return 0;
}

static int op_getattr(struct fs *fs, const struct fuse_ctx *who, uint64_t node, struct stat *ret,
	double *ret_timeout)
{
	struct fuse_entry_param e = {0};

	MODEL_READ(fs->model);
	const struct model_op *o = model_op(fs->model, node_number(node));
	if (!o)
		return -ENOENT;
	entry_op(fs, o, &e);
	*ret = e.attr;
	*ret_timeout = 0;
	return 0;
}

static int op_text(
	struct fs *fs, const struct fuse_ctx *who, uint64_t node, char **ret, size_t *ret_len)
{
	MODEL_READ(fs->model);
	const struct model_op *o = model_op(fs->model, node_number(node));

	if (!o)
		return -ENOENT;
	char *s = malloc(o->len + 1);
	if (!s)
		return -ENOMEM;
	memcpy(s, o->text, o->len + 1);
	*ret = s;
	*ret_len = o->len;
	return 0;
}

const struct node_type type_ops = {.lookup = ops_lookup, .getattr = ops_getattr, .list = ops_list};
const struct node_type type_op = {.getattr = op_getattr, .text = op_text};
