/* SPDX-License-Identifier: Apache-2.0 */
/* kernel.*: from JSON to a call of the kernel service, and back. */
#include <string.h>
#include "api/api.h"
#include "kernel/service.h"

/* What a list may weigh, so that the reply stays under the line's limit with all around it. */
#define LIST_BYTES_MAX (BANGER_WIRE_LINE_MAX - 64 * 1024)

/* Add `value` (taken) under key to the call's result. */
static int give(
	struct rpc_call *call, const char *key, struct json_object *value, struct banger_error *err)
{
	if (!call->result)
		call->result = json_object_new_object();
	if (!call->result) {
		json_object_put(value);
		return banger_error_oom(err);
	}
	return banger_json_add(call->result, key, value) < 0 ? banger_error_oom(err) : 0;
}

static int give_kernel(
	struct rpc_call *call, const struct banger_kernel *k, bool change, struct banger_error *err)
{
	int r = give(call, "kernel", banger_kernel_to_json(k), err);
	if (r == 0 && change && banger_json_add_int(call->result, "generation", k->generation) < 0)
		return banger_error_oom(err);
	return r;
}

static int handle_ls(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	_cleanup_(store_view_closep) struct store_view *view = NULL;
	_cleanup_json_ struct json_object *list = json_object_new_array();
	char last[BANGER_ID_LEN + 1] = "";
	size_t bytes = 0, length;
	int r = list ? store_view_open(api->store, &view, err) : banger_error_oom(err);
	if (r < 0)
		return r;
	for (;;) {
		_cleanup_kernel_ struct banger_kernel k = {0};
		r = store_view_next_kernel(view, last[0] ? last : NULL, &k, err);
		if (r <= 0)
			break;
		memcpy(last, k.id, sizeof(last));
		struct json_object *o = banger_kernel_to_json(&k);
		if (!o || !json_object_to_json_string_length(o, JSON_C_TO_STRING_PLAIN, &length) ||
			json_object_array_add(list, o) < 0) {
			json_object_put(o);
			return banger_error_oom(err);
		}
		bytes += length + 1;
		if (bytes > LIST_BYTES_MAX)
			return banger_error_set(err, BANGER_TOO_LARGE,
				"there are too many kernels for one reply: see kernels/ in the "
				"tree");
	}
	return r < 0 ? r : give(call, "kernels", TAKE_PTR(list), err);
}

static int handle_show(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	_cleanup_kernel_ struct banger_kernel k = {0};
	struct json_object *files = NULL;
	int r = kernel_service_find(api->kernels, banger_json_str(call->params, "kernel"), &k, err);
	if (r == 0)
		r = kernel_service_files(api->kernels, &k, &files, err);
	if (r == 0)
		r = give(call, "files", files, err);
	return r < 0 ? r : give_kernel(call, &k, false, err);
}

static int handle_import(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	_cleanup_kernel_ struct banger_kernel k = {0};
	const struct kernel_import in = {
		.name = banger_json_str(call->params, "name"),
		.format = banger_json_str(call->params, "format"),
		.source = banger_json_str(call->params, "source"),
		.fd = call->fds[0],
	};
	int r = kernel_service_import(api->kernels, call->op, &in, &k, err);
	return r < 0 ? r : give_kernel(call, &k, true, err);
}

static int handle_delete(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	_cleanup_kernel_ struct banger_kernel k = {0};
	int r = kernel_service_delete(
		api->kernels, call->op, banger_json_str(call->params, "kernel"), &k, err);
	return r < 0 ? r : give_kernel(call, &k, true, err);
}

static const struct rpc_param show_params[] = {
	{"kernel", RPC_STRING, true, 0, 256}, {NULL, RPC_END}};
static const struct rpc_param import_params[] = {{"name", RPC_STRING, true},
	{"format", RPC_STRING, false, 0, 32}, {"source", RPC_STRING}, {NULL, RPC_END}};

const struct rpc_method api_kernel_methods[] = {
	{"kernel.ls", handle_ls, RPC_ANYONE},
	{"kernel.show", handle_show, RPC_ANYONE, show_params},
	{"kernel.import", handle_import, RPC_CHANGE | RPC_HANGUP, import_params, 1, 1},
	{"kernel.delete", handle_delete, RPC_CHANGE, show_params},
	{NULL},
};
