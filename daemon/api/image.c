/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image.*: from JSON to a call of the image service, and back. A change answers with the image and,
 * beside it, the generation that the change took, by which a watcher knows that it has seen it.
 */
#include <string.h>
#include <sys/stat.h>
#include "api/api.h"
#include "api/text.h"
#include "image/service.h"

enum {
	LS_LIMIT = 1000,
	/* What a list may weigh, so that the reply stays under the line's limit with all around it.
	 */
	LIST_BYTES_MAX = BANGER_WIRE_LINE_MAX - 128 * 1024,
};

static const char *str(const struct rpc_call *call, const char *key)
{
	return banger_json_str(call->params, key);
}

static int no_memory(struct json_object **o, struct banger_error *err)
{
	json_object_put(*o);
	*o = NULL;
	return banger_error_oom(err);
}

/* {"image":…} and, for a change, "generation". */
static int give_image(struct rpc_call *call, const struct banger_image *image, bool change,
	struct banger_error *err)
{
	if (!call->result)
		call->result = json_object_new_object();
	if (!call->result ||
		banger_json_add(call->result, "image", banger_image_to_json(image)) < 0 ||
		(change && banger_json_add_int(call->result, "generation", image->generation) < 0))
		return no_memory(&call->result, err);
	return 0;
}

/* A list that grows to what fits in one reply. */
struct list {
	struct json_object *array;
	size_t bytes;
};

/* Takes o. 1 added, 0 no room (o is put), -ENOMEM. */
static int list_add(struct list *list, struct json_object *o)
{
	size_t len;

	if (!o || !json_object_to_json_string_length(o, JSON_C_TO_STRING_PLAIN, &len)) {
		json_object_put(o);
		return -ENOMEM;
	}
	if (list->bytes + len + 1 > LIST_BYTES_MAX) {
		json_object_put(o);
		return 0;
	}
	if (json_object_array_add(list->array, o) < 0) {
		json_object_put(o);
		return -ENOMEM;
	}
	list->bytes += len + 1;
	return 1;
}

/* ---- what reads */

/* Write images from the view to the text, as many as fit; ret_next gets the id to go on after, "" at the
 * end. */
static int ls_fill(struct image_service *images, struct store_view *view, int state,
	const char *after, int64_t limit, struct text *text, char ret_next[BANGER_ID_LEN + 1],
	struct banger_error *err)
{
	char last[BANGER_ID_LEN + 1];

	snprintf(last, sizeof(last), "%s", after ?: "");
	for (int64_t n = 0;; n++) {
		_cleanup_image_ struct banger_image image = {0};
		size_t before = text->len;
		int r = store_view_next_image(view, state, last[0] ? last : NULL, &image, err);
		if (r <= 0) {
			ret_next[0] = 0;
			return r;
		}
		if (n < limit) {
			image.damaged = image_service_damaged(images, &image);
			text_add(text, n ? "," : "");
			text_add_image(text, &image);
		}
		if (n == limit || text->len > LIST_BYTES_MAX) {
			text->len = before;
			strcpy(ret_next, last);
			return 0;
		}
		strcpy(last, image.id);
	}
}

static void ls_finish(struct text *text, const char *next, int64_t generation)
{
	text_add(text, "]");
	if (next[0]) {
		text_add(text, ",\"next\":");
		text_add_string(text, next);
	}
	text_add(text, ",\"generation\":");
	text_add_int(text, generation);
	text_add(text, "}");
}

static int handle_ls(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	_cleanup_(store_view_closep) struct store_view *view = NULL;
	const char *state = str(call, "state"), *after = str(call, "after");
	char next[BANGER_ID_LEN + 1] = "";
	_cleanup_(text_done) struct text text = {0};

	if (state && strcmp(state, "draft") && strcmp(state, "published"))
		return banger_error_set(
			err, BANGER_BAD_REQUEST, "\"state\" is neither draft nor published");
	if (after && !banger_id_valid(after))
		return banger_error_set(err, BANGER_BAD_REQUEST, "\"after\" is not an image id");
	int r = store_view_open(api->store, &view, err);
	if (r < 0)
		return r;
	int which = !state ? -1 : !strcmp(state, "draft") ? BANGER_DRAFT : BANGER_PUBLISHED;
	text_add(&text, "{\"images\":[");
	r = ls_fill(api->images, view, which, after,
		banger_json_int(call->params, "limit", LS_LIMIT), &text, next, err);
	if (r < 0)
		return r;
	ls_finish(&text, next, store_view_generation(view));
	if (text.failed)
		return banger_error_oom(err);
	call->result_len = text.len;
	call->result_text = TAKE_PTR(text.s);
	return 0;
}

static int add_file(void *arg, const char *name, const struct stat *st)
{
	_cleanup_json_ struct json_object *o = json_object_new_object();

	if (!o || banger_json_add_str(o, "name", name) < 0 ||
		banger_json_add_int(o, "size", st->st_size) < 0 ||
		banger_json_add_int(o, "blocks", st->st_blocks) < 0 ||
		(S_ISLNK(st->st_mode) && banger_json_add_bool(o, "symlink", true) < 0))
		return -ENOMEM;
	int r = list_add(arg, TAKE_PTR(o));
	return r < 0 ? r : r == 0; /* 1 ends the listing */
}

static int handle_show(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	_cleanup_image_ struct banger_image image = {0};
	struct list list = {0};

	int r = image_service_find(api->images, str(call, "image"), -1, &image, err);
	if (r == 0)
		r = image_service_digest(api->images, call->op, &image, err);
	if (r < 0)
		return r;
	r = give_image(call, &image, false, err);
	if (r < 0)
		return r;
	_cleanup_json_ struct json_object *array = list.array = json_object_new_array();
	if (!array)
		return no_memory(&call->result, err);
	r = image_service_files(api->images, &image, add_file, &list, err);
	if (r == -ENOMEM)
		return no_memory(&call->result, err);
	if (r < 0)
		return r;
	if (banger_json_add(call->result, "files", TAKE_PTR(array)) < 0 ||
		(r > 0 && banger_json_add_bool(call->result, "more", true) < 0))
		return no_memory(&call->result, err);
	return 0;
}

static int handle_verify(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	struct image_verdict v = {0};

	int r = image_service_verify(api->images, call->op, str(call, "image"), &v, err);
	if (r < 0)
		return r;
	r = give_image(call, &v.image, false, err);
	banger_image_done(&v.image);
	if (r < 0)
		return r;
	if (banger_json_add_str(call->result, "digest", v.digest) < 0 ||
		banger_json_add_bool(call->result, "digest_ok", v.digest_ok) < 0 ||
		banger_json_add_str(call->result, "fsck", v.fsck) < 0 ||
		banger_json_add_bool(call->result, "ok", v.digest_ok && v.fsck_ok) < 0)
		return no_memory(&call->result, err);
	return 0;
}

/* ---- what changes */

static int handle_register(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	_cleanup_image_ struct banger_image image = {0};

	int r = image_service_register(
		api->images, call->op, str(call, "name"), str(call, "source"), &image, err);
	return r < 0 ? r : give_image(call, &image, true, err);
}

static int handle_promote(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	_cleanup_image_ struct banger_image image = {0};

	int r = image_service_promote(
		api->images, call->op, str(call, "draft"), str(call, "name"), &image, err);
	return r < 0 ? r : give_image(call, &image, true, err);
}

static int handle_rename(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	_cleanup_image_ struct banger_image image = {0};

	int r = image_service_rename(
		api->images, call->op, str(call, "image"), str(call, "name"), &image, err);
	return r < 0 ? r : give_image(call, &image, true, err);
}

static int handle_swap(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	_cleanup_image_ struct banger_image one = {0}, two = {0};
	struct banger_image both[2] = {{{0}}};

	int r = image_service_swap(
		api->images, call->op, str(call, "a"), str(call, "b"), both, err);
	if (r < 0)
		return r;
	one = both[0];
	two = both[1];
	_cleanup_json_ struct json_object *array = json_object_new_array();
	struct list list = {.array = array};
	call->result = json_object_new_object();
	if (!array || !call->result || list_add(&list, banger_image_to_json(&one)) < 0 ||
		list_add(&list, banger_image_to_json(&two)) < 0 ||
		banger_json_add(call->result, "images", TAKE_PTR(array)) < 0 ||
		banger_json_add_int(call->result, "generation", one.generation) < 0)
		return no_memory(&call->result, err);
	return 0;
}

static int handle_delete(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	_cleanup_image_ struct banger_image image = {0};

	int r = image_service_delete(api->images, call->op, str(call, "image"), &image, err);
	return r < 0 ? r : give_image(call, &image, true, err);
}

static int handle_import(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	_cleanup_image_ struct banger_image image = {0};
	const struct image_import in = {
		.name = str(call, "name"),
		.format = str(call, "format"),
		.source = str(call, "source"),
		.size = banger_json_int(call->params, "size", 0),
		.fd = call->fds[0],
	};

	int r = image_service_import(api->images, call->op, &in, &image, err);
	return r < 0 ? r : give_image(call, &image, true, err);
}

static int handle_configure(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	_cleanup_image_ struct banger_image image = {0};

	int r = image_service_configure(api->images, call->op, str(call, "image"),
		banger_json_get(call->params, "document"), &image, err);
	return r < 0 ? r : give_image(call, &image, true, err);
}

/* ---- the table */

#define IMAGE_WORD(name, required)                                                                 \
	{                                                                                          \
		name, RPC_STRING, required, 0, 512                                                 \
	}

static const struct rpc_param ls_params[] = {{"state", RPC_STRING}, {"after", RPC_STRING},
	{"limit", RPC_INT, false, 1, 100000}, {NULL, RPC_END}};
static const struct rpc_param image_params[] = {IMAGE_WORD("image", true), {NULL, RPC_END}};
static const struct rpc_param register_params[] = {
	{"name", RPC_STRING, true}, {"source", RPC_STRING}, {NULL, RPC_END}};
static const struct rpc_param promote_params[] = {
	IMAGE_WORD("draft", true), {"name", RPC_STRING}, {NULL, RPC_END}};
static const struct rpc_param rename_params[] = {
	IMAGE_WORD("image", true), {"name", RPC_STRING, true}, {NULL, RPC_END}};
static const struct rpc_param swap_params[] = {
	IMAGE_WORD("a", true), IMAGE_WORD("b", true), {NULL, RPC_END}};
static const struct rpc_param import_params[] = {{"name", RPC_STRING, true}, {"format", RPC_STRING},
	{"source", RPC_STRING}, {"size", RPC_INT, false, 0, (int64_t)16 << 40}, {NULL, RPC_END}};
static const struct rpc_param configure_params[] = {
	IMAGE_WORD("image", true), {"document", RPC_OBJECT, true}, {NULL, RPC_END}};

const struct rpc_method api_image_methods[] = {
	{"image.ls", handle_ls, RPC_ANYONE, ls_params},
	{"image.show", handle_show, RPC_ANYONE | RPC_HANGUP, image_params},
	{"image.register", handle_register, RPC_CHANGE | RPC_VM, register_params},
	{"image.promote", handle_promote, RPC_CHANGE | RPC_HANGUP | RPC_VM, promote_params},
	{"image.rename", handle_rename, RPC_CHANGE | RPC_VM, rename_params},
	{"image.swap", handle_swap, RPC_CHANGE | RPC_VM, swap_params},
	{"image.delete", handle_delete, RPC_CHANGE | RPC_VM, image_params},
	{"image.import", handle_import, RPC_CHANGE | RPC_HANGUP, import_params, 1, 1},
	{"image.verify", handle_verify, RPC_HANGUP, image_params},
	{"image.configure", handle_configure, RPC_CHANGE | RPC_VM, configure_params},
	{NULL},
};
