/* SPDX-License-Identifier: Apache-2.0 */
/*
 * op.*: what was done, by whom, how it ended, and the log records of one operation.
 *
 * op.log subscribes before it reads what is kept, so that nothing falls between; a line that is in
 * both is sent once (lines carry microseconds and are compared whole).
 */
#include <string.h>
#include "api/api.h"
#include "api/watch.h"

#define LS_LIMIT 100
#define LS_BYTES_MAX (BANGER_WIRE_LINE_MAX - 64 * 1024)

static int op_ls(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	_cleanup_free_ struct banger_op_record *ops = NULL;
	_cleanup_json_ struct json_object *list = json_object_new_array();
	size_t n = 0, bytes = 0;

	int r = operations_list(api->operations, banger_json_int(call->params, "limit", LS_LIMIT),
		banger_json_bool(call->params, "failed", false),
		banger_json_int(call->params, "uid", -1), &ops, &n, err);
	if (r < 0)
		return r;
	for (size_t i = 0; list && i < n; i++) {
		struct json_object *o = banger_op_record_to_json(&ops[i]);
		size_t len;

		if (!o || !json_object_to_json_string_length(o, JSON_C_TO_STRING_PLAIN, &len)) {
			json_object_put(o);
			return banger_error_oom(err);
		}
		bytes += len + 1;
		if (bytes > LS_BYTES_MAX || json_object_array_add(list, o) < 0) {
			json_object_put(o);
			break;
		}
	}
	call->result = json_object_new_object();
	return list && call->result && banger_json_add(call->result, "ops", TAKE_PTR(list)) == 0
		       ? 0
		       : banger_error_oom(err);
}

struct json_object *api_op_to_json(const struct api *api, const struct banger_op_record *record)
{
	_cleanup_json_ struct json_object *o = banger_op_record_to_json(record);
	struct json_object *progress = operations_progress(api->operations, record->op_id);

	return o && (!progress || banger_json_add(o, "progress", progress) == 0) ? TAKE_PTR(o)
										 : NULL;
}

static int op_show(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	struct banger_op_record record;

	int r = operations_find(
		api->operations, banger_json_str(call->params, "op_id"), &record, err);
	if (r < 0)
		return r;
	call->result = json_object_new_object();
	struct json_object *op = api_op_to_json(api, &record);
	return call->result && op && banger_json_add(call->result, "op", op) == 0
		       ? 0
		       : banger_error_oom(err);
}

/* ---- op.log */

struct lines {
	char **v;
	size_t n;
};

static void lines_done(struct lines *l)
{
	for (size_t i = 0; i < l->n; i++)
		free(l->v[i]);
	free(l->v);
}

static bool has_line(const struct lines *l, const char *line)
{
	for (size_t i = l->n; i > 0; i--)
		if (strcmp(l->v[i - 1], line) == 0)
			return true;
	return false;
}

/* Send what is kept, then what came meanwhile and is not among it. 1: the operation's last line was
 * there. */
static int send_kept(
	struct rpc_call *call, const struct lines *kept, struct hub_subscription *subscription)
{
	for (size_t i = 0; i < kept->n; i++) {
		int r = rpc_stream_send(call->stream, kept->v[i], strlen(kept->v[i]));
		if (r < 0)
			return r;
	}
	for (;;) {
		_cleanup_free_ char *line = NULL;
		size_t len;

		int r = subscription ? hub_take(subscription, &line, &len) : 0;
		if (r <= 0)
			return r;
		if (len == 0)
			return 1;
		if (!has_line(kept, line) && (r = rpc_stream_send(call->stream, line, len)) < 0)
			return r;
	}
}

static bool runs(const struct api *api, const char *op_id)
{
	struct banger_op_record r;

	return operations_find(api->operations, op_id, &r, NULL) == 0 && r.elapsed_us < 0;
}

static int op_log_one(const struct api *api, struct rpc_call *call, const char *word, bool follow,
	struct banger_error *err)
{
	_cleanup_(hub_unsubscribep) struct hub_subscription *subscription = NULL;
	_cleanup_(lines_done) struct lines kept = {0};
	struct banger_op_record record;

	int r = operations_find(api->operations, word, &record, err);
	if (r < 0)
		return r;
	if (follow && hub_subscribe(api->hub, HUB_LOG, record.op_id, &subscription) < 0)
		return banger_error_oom(err);
	/* An operation that ended before the subscription has said all. */
	bool live = follow && runs(api, record.op_id);
	r = operations_lines(api->operations, record.op_id, &kept.v, &kept.n, err);
	if (r < 0)
		return r;
	r = rpc_stream_reply(call);
	if (r == 0)
		r = send_kept(call, &kept, live ? subscription : NULL);
	return r == 0 && live ? watch_forward(call, subscription, true) : r < 0 ? r : 0;
}

static int op_log(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	const char *word = banger_json_str(call->params, "op_id");
	bool follow = banger_json_bool(call->params, "follow", false);
	_cleanup_(hub_unsubscribep) struct hub_subscription *subscription = NULL;

	if (word)
		return op_log_one(api, call, word, follow, err);
	if (!follow)
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"op_id is required, unless all operations are followed");
	if (hub_subscribe(api->hub, HUB_LOG, NULL, &subscription) < 0)
		return banger_error_oom(err);
	int r = rpc_stream_reply(call);
	return r < 0 ? r : watch_forward(call, subscription, false);
}

static int op_cancel(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;

	const char *id = banger_json_str(call->params, "op_id"), *vm = call->peer->vm;
	struct banger_op_record record;

	if (vm[0]) { /* its own only */
		int r = operations_find(api->operations, id, &record, err);
		if (r < 0)
			return r;
		if (strcmp(record.actor.vm, vm) != 0)
			return banger_error_set(
				err, BANGER_DENIED, "%s is not an operation of VM \"%s\"", id, vm);
	}
	return operations_cancel(api->operations, id, err);
}

static int op_report(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	struct banger_op_record record;

	int r = banger_op_record_from_json(banger_json_get(call->params, "op"), &record, err);
	if (r < 0)
		return r;
	if (record.elapsed_us < 0)
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"only an operation that has ended can be reported");
	snprintf(record.actor.vm, sizeof(record.actor.vm), "%s", call->peer->vm);
	if (call->peer->vm[0]) {
		record.actor.uid = call->peer->uid;
		record.actor.gid = call->peer->gid;
	}
	operations_report(api->operations, &record);
	return 0;
}

static const struct rpc_param ls_params[] = {{"limit", RPC_INT, false, 1, 1000000},
	{"failed", RPC_BOOL}, {"uid", RPC_INT, false, 0, UINT32_MAX}, {0}};
static const struct rpc_param id_params[] = {{"op_id", RPC_STRING, true, 0, 64}, {0}};
static const struct rpc_param log_params[] = {
	{"op_id", RPC_STRING, false, 0, 64}, {"follow", RPC_BOOL}, {0}};
static const struct rpc_param report_params[] = {{"op", RPC_OBJECT, true}, {0}};

const struct rpc_method api_op_methods[] = {
	{"op.ls", op_ls, RPC_ANYONE, ls_params},
	{"op.show", op_show, RPC_ANYONE, id_params},
	{"op.log", op_log, RPC_ANYONE | RPC_STREAM, log_params},
	{"op.cancel", op_cancel, RPC_CHANGE | RPC_VM, id_params},
	{"op.report", op_report, RPC_VM_READER, report_params},
	{0},
};
