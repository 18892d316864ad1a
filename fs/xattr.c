/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A table of attributes with a function each. Other name spaces are not supported, and say so with
 * EOPNOTSUPP rather than ENODATA: ls -l and cp -a then ask once, not for every file.
 */
#include "xattr.h"
#include <string.h>
#include "digest.h"
#include "loop.h"
#include "tree.h"

#define PREFIX "user.banger."
#define VALUE_MAX 2048 /* a source is at most half as long, and so is a sentence */

/* Writes the value (no NUL counts); returns its length, 0 when there is none. */
typedef size_t image_value(const struct banger_image *i, char *buf);

static size_t put(char *buf, const char *s)
{
	return s ? (size_t)snprintf(buf, VALUE_MAX, "%s", s) : 0;
}
static size_t value_id(const struct banger_image *i, char *buf)
{
	return put(buf, i->id);
}
static size_t value_state(const struct banger_image *i, char *buf)
{
	return put(buf, banger_image_state_name(i->state));
}
static size_t value_digest(const struct banger_image *i, char *buf)
{
	return put(buf, i->digest);
}
static size_t value_source(const struct banger_image *i, char *buf)
{
	return put(buf, i->source);
}
static size_t value_op_id(const struct banger_image *i, char *buf)
{
	return put(buf, i->op_id);
}
static size_t value_generation(const struct banger_image *i, char *buf)
{
	return snprintf(buf, VALUE_MAX, "%lld", (long long)i->generation);
}
static size_t value_damaged(const struct banger_image *i, char *buf)
{
	return put(buf, i->damaged ? "true" : NULL);
}

static const struct {
	const char *name;
	image_value *value;
} of_images[] = {
	{PREFIX "id", value_id},
	{PREFIX "state", value_state},
	{PREFIX "digest", value_digest},
	{PREFIX "source", value_source},
	{PREFIX "op_id", value_op_id},
	{PREFIX "generation", value_generation},
	{PREFIX "damaged", value_damaged},
};

static const char last_error_name[] = PREFIX "last_error";

static bool is_directory(uint64_t node)
{
	return node_type(node)->list && node_kind(node) != NODE_FILE;
}

static int image_of(struct fs *fs, uint64_t node, struct banger_image *ret)
{
	if (node_kind(node) != NODE_IMAGE)
		return -ENODATA;
	MODEL_READ(fs->model);
	const struct model_image *i = model_image(fs->model, node_number(node));
	return i ? model_image_unpack(i, ret) : -ENODATA;
}

static void answer(fuse_req_t req, const char *value, size_t n, size_t size)
{
	if (size == 0)
		fuse_reply_xattr(req, n);
	else if (n > size)
		fuse_reply_err(req, ERANGE);
	else
		fuse_reply_buf(req, value, n);
}

static void get_last_error(struct fs *fs, fuse_req_t req, size_t size)
{
	char value[LAST_ERROR_LEN];
	size_t n = last_errors_get(fs->last_errors, fuse_req_ctx(req)->uid, value);

	if (n > 0)
		answer(req, value, n, size);
	else
		fuse_reply_err(req, ENODATA);
}

static void wait_for_digest(struct fs *fs, uint64_t node)
{
	if (node_kind(node) != NODE_IMAGE || !digest_pending(fs, node))
		return;
	LOOP_MAY_WAIT();
	digest_wait(fs, node);
}

/* The state of a VM; 0: it is none, or gone. */
static size_t vm_state(struct fs *fs, uint64_t node, char *buf)
{
	if (node_kind(node) != NODE_VM)
		return 0;
	MODEL_READ(fs->model);
	const struct model_vm *v = model_vm(fs->model, node_number(node));
	return put(buf, v ? v->state : NULL);
}

void xattr_get(struct fs *fs, fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	_cleanup_image_ struct banger_image image = {0};
	char value[VALUE_MAX];
	size_t n = 0;

	if (strncmp(name, "user.", 5) != 0) {
		fuse_reply_err(req, EOPNOTSUPP);
		return;
	}
	if (strcmp(name, last_error_name) == 0 && is_directory(ino)) {
		get_last_error(fs, req, size);
		return;
	}
	if (strcmp(name, PREFIX "digest") == 0)
		wait_for_digest(fs, ino);
	if (strncmp(name, PREFIX, strlen(PREFIX)) == 0 && image_of(fs, ino, &image) == 0)
		for (size_t i = 0; i < ELEMENTSOF(of_images); i++)
			if (strcmp(of_images[i].name, name) == 0)
				n = of_images[i].value(&image, value);
	if (strcmp(name, PREFIX "state") == 0 && node_kind(ino) == NODE_VM)
		n = vm_state(fs, ino, value);
	if (n > 0)
		answer(req, value, n, size);
	else
		fuse_reply_err(req, ENODATA);
}

static size_t add_name(char *list, size_t n, const char *name)
{
	strcpy(list + n, name);
	return n + strlen(name) + 1;
}

void xattr_list(struct fs *fs, fuse_req_t req, fuse_ino_t ino, size_t size)
{
	_cleanup_image_ struct banger_image image = {0};
	char list[512], value[VALUE_MAX > LAST_ERROR_LEN ? VALUE_MAX : LAST_ERROR_LEN];
	size_t n = 0;

	wait_for_digest(fs, ino);
	if (image_of(fs, ino, &image) == 0)
		for (size_t i = 0; i < ELEMENTSOF(of_images); i++)
			if (of_images[i].value(&image, value) > 0)
				n = add_name(list, n, of_images[i].name);
	if (vm_state(fs, ino, value) > 0)
		n = add_name(list, n, PREFIX "state");
	if (is_directory(ino) &&
		last_errors_get(fs->last_errors, fuse_req_ctx(req)->uid, value) > 0)
		n = add_name(list, n, last_error_name);
	answer(req, list, n, size);
}
