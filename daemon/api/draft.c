/* SPDX-License-Identifier: Apache-2.0 */
/*
 * draft.*: the files of a draft, for bangerfs. They are not registry changes: nothing is recorded
 * unless it fails, and there is no event; who looks at a draft's directory sees it.
 */
#include <fcntl.h>
#include <stdio.h>
#include "api/api.h"
#include "image/service.h"

static const char *str(const struct rpc_call *call, const char *key)
{
	return banger_json_str(call->params, key);
}

static bool flag(const struct rpc_call *call, const char *key)
{
	return banger_json_bool(call->params, key, false);
}

static int handle_open(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	const struct draft_open open = {
		.id = str(call, "id"),
		.file = str(call, "file"),
		.write = flag(call, "write"),
		.create = flag(call, "create"),
		.excl = flag(call, "excl"),
		.trunc = flag(call, "trunc"),
		.mode = (unsigned)banger_json_int(call->params, "mode", 0644),
	};

	int r = image_service_draft_open(api->images, &open, &call->reply_fds[0], err);
	if (r == 0)
		call->n_reply_fds = 1;
	return r;
}

static int handle_unlink(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	return image_service_draft_unlink(api->images, str(call, "id"), str(call, "file"), err);
}

static int handle_rename(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	unsigned flags = (flag(call, "noreplace") ? RENAME_NOREPLACE : 0) |
			 (flag(call, "exchange") ? RENAME_EXCHANGE : 0);

	return image_service_draft_rename(api->images, str(call, "id"), str(call, "from"),
		str(call, "to_id"), str(call, "to"), flags, err);
}

static int handle_symlink(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	return image_service_draft_symlink(
		api->images, str(call, "id"), str(call, "file"), str(call, "target"), err);
}

static int handle_setattr(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	const struct draft_attr attr = {
		.mode = banger_json_int(call->params, "mode", -1),
		.uid = banger_json_int(call->params, "uid", -1),
		.gid = banger_json_int(call->params, "gid", -1),
		.size = banger_json_int(call->params, "size", -1),
		.atime_ns = banger_json_int(call->params, "atime_ns", INT64_MIN),
		.mtime_ns = banger_json_int(call->params, "mtime_ns", INT64_MIN),
	};

	return image_service_draft_setattr(
		api->images, str(call, "id"), str(call, "file"), &attr, err);
}

/* Whatever the call, it names a draft. Longer than a file's name may be, so that the refusal is the
 * service's. */
#define DRAFT                                                                                      \
	{                                                                                          \
		"id", RPC_STRING, true, 0, 64                                                      \
	}
#define FILE_NAME(name)                                                                            \
	{                                                                                          \
		name, RPC_STRING, true, 0, 1024                                                    \
	}

static const struct rpc_param open_params[] = {DRAFT, FILE_NAME("file"), {"write", RPC_BOOL},
	{"create", RPC_BOOL}, {"excl", RPC_BOOL}, {"trunc", RPC_BOOL},
	{"mode", RPC_INT, false, 0, 07777}, {NULL, RPC_END}};
static const struct rpc_param unlink_params[] = {DRAFT, FILE_NAME("file"), {NULL, RPC_END}};
static const struct rpc_param rename_params[] = {DRAFT, FILE_NAME("from"), FILE_NAME("to"),
	{"to_id", RPC_STRING, false, 0, 64}, {"noreplace", RPC_BOOL}, {"exchange", RPC_BOOL},
	{NULL, RPC_END}};
static const struct rpc_param symlink_params[] = {
	DRAFT, FILE_NAME("file"), {"target", RPC_STRING, true}, {NULL, RPC_END}};
static const struct rpc_param setattr_params[] = {DRAFT, FILE_NAME("file"),
	{"mode", RPC_INT, false, 0, 07777}, {"uid", RPC_INT, false, 0, UINT32_MAX - 1},
	{"gid", RPC_INT, false, 0, UINT32_MAX - 1}, {"size", RPC_INT, false, 0, INT64_MAX},
	{"atime_ns", RPC_INT, false, INT64_MIN, INT64_MAX},
	{"mtime_ns", RPC_INT, false, INT64_MIN, INT64_MAX}, {NULL, RPC_END}};

const struct rpc_method api_draft_methods[] = {
	{"draft.open", handle_open, RPC_VM, open_params},
	{"draft.unlink", handle_unlink, RPC_VM, unlink_params},
	{"draft.rename", handle_rename, RPC_VM, rename_params},
	/* Opened with the daemon's rights at the promotion: not for VMs. */
	{"draft.symlink", handle_symlink, 0, symlink_params},
	{"draft.setattr", handle_setattr, RPC_VM, setattr_params},
	{NULL},
};
