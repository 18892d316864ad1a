/* SPDX-License-Identifier: Apache-2.0 */
/* vm.*: from JSON to a call of the VM service, and back. */
#include "api/api.h"
#include "vm/service.h"

/* The strings of an array of the parameters, NULL-terminated: one block to free, NULL when the
 * member is absent. */
static int strings(
	struct rpc_call *call, const char *key, const char ***ret, struct banger_error *err)
{
	struct json_object *array = banger_json_get(call->params, key);
	*ret = NULL;
	if (!array)
		return 0;
	size_t n = json_object_array_length(array);
	const char **list = calloc(n + 1, sizeof(*list));
	if (!list)
		return banger_error_oom(err);
	for (size_t i = 0; i < n; i++)
		list[i] = json_object_get_string(json_object_array_get_idx(array, i));
	*ret = list;
	return 0;
}

static int give_result(
	struct rpc_call *call, const struct vm_result *result, struct banger_error *err)
{
	call->result = json_object_new_object();
	if (!call->result || banger_json_add_str(call->result, "name", result->name) < 0 ||
		banger_json_add_str(call->result, "accel", result->accel) < 0 ||
		(result->signal == 0 &&
			banger_json_add_int(call->result, "exit_code", result->exit_code) < 0) ||
		(result->signal != 0 &&
			banger_json_add_int(call->result, "signal", result->signal) < 0))
		return banger_error_oom(err);
	return 0;
}

static int handle_run(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	_cleanup_free_ const char **argv = NULL, **env = NULL;
	struct vm_result result;
	int r = strings(call, "argv", &argv, err);
	if (r == 0)
		r = strings(call, "env", &env, err);
	if (r < 0)
		return r;
	const struct vm_run run = {
		.image = banger_json_str(call->params, "image"),
		.kernel = banger_json_str(call->params, "kernel"),
		.cpus = banger_json_int(call->params, "cpus", 0),
		.memory = banger_json_int(call->params, "memory", 0),
		.argv = argv,
		.env = env,
		.user = banger_json_str(call->params, "user"),
		.workdir = banger_json_str(call->params, "workdir"),
		.accel = banger_json_str(call->params, "accel"),
		.timeout_ms = banger_json_int(call->params, "timeout_ms", 0),
		.stdin_fd = call->fds[0],
		.stdout_fd = call->fds[1],
		.stderr_fd = call->fds[2],
	};
	r = vm_service_run(api->vms, call->op, &run, &result, err);
	return r < 0 ? r : give_result(call, &result, err);
}

static const struct rpc_param run_params[] = {{"image", RPC_STRING, true, 0, 256},
	{"kernel", RPC_STRING, false, 0, 256}, {"cpus", RPC_INT, false, 1, INT32_MAX},
	{"memory", RPC_INT, false, 1, INT64_MAX}, {"argv", RPC_STRINGS}, {"env", RPC_STRINGS},
	{"user", RPC_STRING, false, 0, 256}, {"workdir", RPC_STRING},
	{"accel", RPC_STRING, false, 0, 8}, {"timeout_ms", RPC_INT, false, 1, INT64_MAX / 1000},
	{NULL, RPC_END}};

const struct rpc_method api_vm_methods[] = {
	{"vm.run", handle_run, RPC_CHANGE | RPC_HANGUP, run_params, 3, 3},
	{NULL},
};
