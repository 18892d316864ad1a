/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Changes of the registry: mkdir registers, rename promotes, renames and swaps, rmdir deletes.
 *
 * bangerd is told names, not ids, so that of two callers who race for a name one gets what he asked
 * for and the other is refused. The kernel, on its side, moves the directory that it has looked up
 * under that name; should bangerd have meant another one in the meantime, the kernel's idea of the
 * names is wrong and it is told to forget them. It is wrong also where a notification of somebody
 * else's change still waits for this call to be over: the kernel moves the old directory, and the
 * notification then finds nothing under the old name (settle_names()).
 */
#include <string.h>
#include "change.h"
#include "tree.h"

#define WRITERS_MS 500 /* how long a promotion waits for the last RELEASE of a draft's files */

static struct json_object *params(const char *k1, const char *v1, const char *k2, const char *v2)
{
	_cleanup_json_ struct json_object *o = json_object_new_object();

	if (!o || banger_json_add_str(o, k1, v1) < 0 || (k2 && banger_json_add_str(o, k2, v2) < 0))
		return NULL;
	return TAKE_PTR(o);
}

/* The id of the image in a reply; `otherwise` when there is none. */
static uint64_t result_id(struct json_object *result, uint64_t otherwise)
{
	uint64_t id;
	const char *s = banger_json_str(banger_json_get(result, "image"), "id");

	return s && model_id_parse(s, &id) == 0 ? id : otherwise;
}

static void forget_name(struct fs *fs, uint64_t dir, const char *name)
{
	notify_entry(fs->notify, dir, name);
	notify_inode(fs->notify, dir);
}

/* After a rename or a swap that succeeded, before its answer. meant: bangerd changed what the names stood for
 * here. No notification of these names that was on its way when the kernel made the call has got through
 * since: the call holds the directory. */
static void settle_names(struct change *c, bool meant)
{
	struct notify *n = c->fs->notify;

	if (meant && !notify_is_pending(n, c->node, c->name) &&
		!notify_is_pending(n, c->to_node, c->to_name))
		return;
	forget_name(c->fs, c->node, c->name);
	forget_name(c->fs, c->to_node, c->to_name);
}

/* ---- mkdir */

/* A directory that another deleted or moved before the caller could be told of it, or that is not shown yet: it
 * was made, which is what he asked for. The node is one that never comes to be anything, and the kernel asks
 * for the name again each time. It must not be the image's own: the kernel would have one directory in two
 * places, and fail a lookup of the true one with ESTALE. */
static void passing_entry(struct fs *fs, uint64_t id, struct fuse_entry_param *e)
{
	static atomic_ullong passed;
	uint64_t last = ((uint64_t)1 << NODE_NUMBER_BITS) - 1;

	e->ino = node_id(NODE_IMAGE, last - atomic_fetch_add(&passed, 1) % (last / 2));
	attr_dir(fs, &e->attr, shown_ino(NODE_IMAGE, id), 2, fs->started);
}

static bool is_draft_named(const struct model_image *i, const char *name)
{
	return i && i->row.state == BANGER_DRAFT && strcmp(model_name(i), name) == 0;
}

/* The entry for the draft that was just registered. */
static void new_entry(struct change *c, uint64_t id, struct fuse_entry_param *e)
{
	bool found;

	{
		MODEL_READ(c->fs->model);
		const struct model_image *i =
			id ? model_image_of_id(c->fs->model, id)
			   : model_image_named(c->fs->model, BANGER_DRAFT, c->name);
		found = is_draft_named(i, c->name);
		if (found) {
			entry_image(c->fs, i, e);
			model_mark_known(i);
		}
	}
	if (found)
		entry_draft(c->fs, e);
	else
		passing_entry(c->fs, id, e);
}

void registry_mkdir(struct change *c)
{
	_cleanup_json_ struct json_object *result = NULL;
	struct fuse_entry_param e = {0};
	struct attempt *a = &c->attempt;

	change_begin(c, c->node == FIXED_DRAFTS ? BANGER_METHOD_IMAGE_REGISTER : "fs.mkdir");
	int r = attempt_allowed(a);
	if (r == 0 && c->node != FIXED_DRAFTS)
		r = refuse_change(a, c->node, "made");
	if (r == 0)
		r = banger_name_check("image", c->name, &a->err);
	if (r == 0)
		r = attempt_change(a, BANGER_METHOD_IMAGE_REGISTER,
			params("name", c->name, NULL, NULL), false, &result);
	if (r < 0) {
		change_end(c, r);
		return;
	}
	new_entry(c, result_id(result, 0), &e);
	attempt_end(a, 0);
	fuse_reply_entry(c->req, &e);
	attempt_done(a);
}

/* ---- rmdir */

void registry_rmdir(struct change *c)
{
	bool images = c->node == FIXED_IMAGES, here = images || c->node == FIXED_DRAFTS;
	_cleanup_json_ struct json_object *result = NULL;
	struct attempt *a = &c->attempt;
	struct image_ref image;

	change_begin(c, here ? BANGER_METHOD_IMAGE_DELETE : "fs.rmdir");
	int r = attempt_allowed(a);
	if (r == 0 && !here)
		r = refuse_change(a, c->node, "removed");
	if (r == 0 && image_ref_named(c->fs, c->node, c->name, &image) < 0)
		r = attempt_refuse(a, BANGER_NOT_FOUND, "%s \"%s\" not found",
			images ? "image" : "draft", c->name);
	if (r == 0)
		r = attempt_change(a, BANGER_METHOD_IMAGE_DELETE,
			params("image", image.word, NULL, NULL), images, &result);
	if (r == 0 && result_id(result, image.id) != image.id)
		forget_name(c->fs, c->node, c->name);
	change_end(c, r);
}

/* ---- rename */

static void swap(struct change *c)
{
	bool images = c->node == FIXED_IMAGES;
	struct attempt *a = &c->attempt;
	struct image_ref x, y;

	change_begin(c, BANGER_METHOD_IMAGE_SWAP);
	int r = attempt_allowed(a);
	if (r == 0 && (image_ref_named(c->fs, c->node, c->name, &x) < 0 ||
			      image_ref_named(c->fs, c->node, c->to_name, &y) < 0))
		r = attempt_refuse(a, BANGER_NOT_FOUND, "one of \"%s\" and \"%s\" not found",
			c->name, c->to_name);
	if (r == 0 && strcmp(c->name, c->to_name) != 0) {
		r = attempt_change(a, BANGER_METHOD_IMAGE_SWAP, params("a", x.word, "b", y.word),
			images, NULL);
		struct image_ref at_name, at_to;
		if (r == 0)
			settle_names(c,
				image_ref_named(c->fs, c->node, c->name, &at_name) == 0 &&
					image_ref_named(c->fs, c->node, c->to_name, &at_to) == 0 &&
					at_name.id == y.id && at_to.id == x.id);
	}
	change_end(c, r);
}

/* Promotion, or a new name. */
static void rename_image(struct change *c)
{
	bool promote = c->node == FIXED_DRAFTS && c->to_node == FIXED_IMAGES;
	const char *method = promote ? BANGER_METHOD_IMAGE_PROMOTE : BANGER_METHOD_IMAGE_RENAME;
	_cleanup_json_ struct json_object *result = NULL;
	struct attempt *a = &c->attempt;
	struct image_ref image;

	change_begin(c, method);
	int r = attempt_allowed(a);
	if (r == 0)
		r = banger_name_check("image", c->to_name, &a->err);
	if (r == 0 && image_ref_named(c->fs, c->node, c->name, &image) < 0)
		r = attempt_refuse(a, BANGER_NOT_FOUND, "%s \"%s\" not found",
			c->node == FIXED_IMAGES ? "image" : "draft", c->name);
	if (r == 0 && !promote && strcmp(c->name, c->to_name) == 0) {
		change_end(c, 0); /* of itself to itself */
		return;
	}
	if (r == 0 && promote)
		model_wait_writers(c->fs->model, image.number, WRITERS_MS);
	if (r == 0)
		r = attempt_change(a, method,
			params(promote ? "draft" : "image", image.word, "name", c->to_name),
			c->to_node == FIXED_IMAGES, &result);
	if (r == 0)
		settle_names(c, result_id(result, image.id) == image.id);
	change_end(c, r);
}

/* A directory of images/ or drafts/ moved into one of them: what mv makes of an existing target. */
static void rename_into(struct change *c)
{
	struct attempt *a = &c->attempt;
	struct image_ref into;

	change_begin(c, "fs.rename");
	int r = attempt_allowed(a);
	if (r == 0 && strcmp(c->name, c->to_name) == 0 &&
		image_ref_of(c->fs, c->to_node, &into) == 0)
		r = attempt_refuse(a, BANGER_EXISTS,
			"%s is there already, and nothing can be moved into it", into.word);
	if (r == 0)
		r = refuse_change(a, c->to_node, "made");
	change_end(c, r);
}

static void refuse_rename(struct change *c, enum banger_code code, const char *why)
{
	change_begin(c, "fs.rename");
	int r = attempt_allowed(&c->attempt);

	change_end(c, r < 0 ? r : attempt_refuse(&c->attempt, code, "%s", why));
}

static void refuse_rename_in(struct change *c, uint64_t node)
{
	change_begin(c, "fs.rename");
	int r = attempt_allowed(&c->attempt);

	change_end(c, r < 0 ? r : refuse_change(&c->attempt, node, "renamed"));
}

static bool is_published(struct fs *fs, uint64_t node)
{
	struct image_ref image;
	return image_ref_of(fs, node, &image) == 0 && image.state == BANGER_PUBLISHED;
}

static bool holds_images(uint64_t node)
{
	return node == FIXED_IMAGES || node == FIXED_DRAFTS;
}

static bool is_image(uint64_t node)
{
	return node_kind(node) == NODE_IMAGE;
}

static void exchange(struct change *c)
{
	struct image_ref x, y;

	if (holds_images(c->node) && c->node == c->to_node)
		swap(c);
	else if (image_ref_of(c->fs, c->node, &x) == 0 && is_image(c->node) &&
		 image_ref_of(c->fs, c->to_node, &y) == 0 && is_image(c->to_node) &&
		 x.state == BANGER_DRAFT && y.state == BANGER_DRAFT)
		draft_rename(c);
	else
		refuse_rename(c, BANGER_BAD_REQUEST,
			"only two images, two drafts, or two files of drafts can be exchanged");
}

void change_rename(struct change *c)
{
	if (c->flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE))
		refuse_rename(c, BANGER_BAD_REQUEST,
			"renameat2 here takes the flags RENAME_NOREPLACE and RENAME_EXCHANGE only");
	else if (c->flags & RENAME_EXCHANGE)
		exchange(c);
	else if (c->node == FIXED_IMAGES && c->to_node == FIXED_DRAFTS)
		refuse_rename(c, BANGER_NOT_PERMITTED,
			"a published image does not become a draft again: copy it to drafts/");
	else if (holds_images(c->node) && holds_images(c->to_node))
		rename_image(c);
	else if (holds_images(c->node) && is_image(c->to_node))
		rename_into(c);
	else if (is_image(c->node) && !is_published(c->fs, c->node) && is_image(c->to_node) &&
		 !is_published(c->fs, c->to_node))
		draft_rename(c);
	else if (is_image(c->node) && is_published(c->fs, c->node))
		refuse_rename_in(c, c->node);
	else if (is_image(c->to_node) && is_published(c->fs, c->to_node))
		refuse_rename_in(c, c->to_node);
	else
		refuse_rename(c, BANGER_NOT_PERMITTED,
			"only images and drafts, and files within drafts, can be renamed here");
}
