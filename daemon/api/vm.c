/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vm.*: from JSON to a call of the VM service, and back. vm.create has the two forms of a long operation, as
 * image.pull has (pull.c): one call that ends with its client, and vm.create.begin, which goes on by itself (jobs.h).
 */
#include <string.h>
#include "api/api.h"
#include "api/jobs.h"
#include "vm/service.h"

/* The strings of an array of the parameters, NULL-terminated: one block to free, NULL when the
 * member is absent. */
static int strings(
	struct json_object *params, const char *key, const char ***ret, struct banger_error *err)
{
	struct json_object *array = banger_json_get(params, key);
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

static struct json_object *vm_result(const struct banger_vm *vm)
{
	_cleanup_json_ struct json_object *o = json_object_new_object();

	if (!o || banger_json_add(o, "vm", banger_vm_to_json(vm)) < 0 ||
		banger_json_add_int(o, "generation", vm->generation) < 0)
		return NULL;
	return TAKE_PTR(o);
}

static int give_vm(struct rpc_call *call, const struct banger_vm *vm, struct banger_error *err)
{
	call->result = vm_result(vm);
	return call->result ? 0 : banger_error_oom(err);
}

/* ---- making */

static void take_create(struct json_object *p, struct vm_create *ret)
{
	*ret = (struct vm_create){
		.name = banger_json_str(p, "name"),
		.image = banger_json_str(p, "image"),
		.kernel = banger_json_str(p, "kernel"),
		.cpus = banger_json_int(p, "cpus", 0),
		.memory = banger_json_int(p, "memory", 0),
		.disk = banger_json_int(p, "disk", 0),
		.work_disk = banger_json_str(p, "work_disk"),
		.network = banger_json_str(p, "network"),
		.registry = banger_json_str(p, "registry"),
		.accel = banger_json_str(p, "accel"),
		.init = banger_json_str(p, "init"),
		.stay = !banger_json_bool(p, "start", true),
	};
}

static int create(const struct api *api, struct operation *op, struct json_object *params,
	bool trusted, struct json_object **ret, struct banger_error *err)
{
	_cleanup_vm_ struct banger_vm vm = {0};
	_cleanup_free_ const char **publish = NULL;
	struct vm_create c;

	take_create(params, &c);
	int r = strings(params, "publish", &publish, err);
	c.publish = publish;
	if (r == 0)
		r = vm_service_create(api->vms, op, &c, &vm, err);
	if (r < 0)
		return r;
	*ret = vm_result(&vm);
	return *ret ? 0 : banger_error_oom(err);
}

static int handle_create(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	return create(ctx, call->op, call->params, call->peer->trusted, &call->result, err);
}

static int handle_begin(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	return job_begin(ctx, call, create, err);
}

static int handle_status(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	return job_status(ctx, call, "vm.create", "creation of a VM", err);
}

static int handle_cancel(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	return job_cancel(ctx, call, "vm.create", "creation of a VM", err);
}

/* ---- looking */

static int handle_ls(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	_cleanup_json_ struct json_object *list = json_object_new_array();
	_cleanup_free_ struct banger_vm *vms = NULL;
	size_t n = 0;

	int r = list ? vm_service_list(api->vms, &vms, &n, err) : banger_error_oom(err);
	for (size_t i = 0; i < n; i++) {
		struct json_object *o = banger_vm_to_json(&vms[i]);
		if (r == 0 && (!o || json_object_array_add(list, o) < 0)) {
			json_object_put(o);
			r = banger_error_oom(err);
		}
		banger_vm_done(&vms[i]);
	}
	if (r < 0)
		return r;
	call->result = json_object_new_object();
	return call->result && banger_json_add(call->result, "vms", TAKE_PTR(list)) == 0
		       ? 0
		       : banger_error_oom(err);
}

static const char *word(const struct rpc_call *call)
{
	return banger_json_str(call->params, "vm");
}

static int handle_show(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	_cleanup_vm_ struct banger_vm vm = {0};

	int r = vm_service_find(api->vms, word(call), &vm, err);
	return r < 0 ? r : give_vm(call, &vm, err);
}

/* ---- power */

static int handle_start(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	_cleanup_vm_ struct banger_vm vm = {0};

	int r = vm_service_start(api->vms, call->op, word(call), &vm, err);
	return r < 0 ? r : give_vm(call, &vm, err);
}

static int handle_stop(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	_cleanup_vm_ struct banger_vm vm = {0};

	int r = vm_service_stop(api->vms, call->op, word(call),
		banger_json_int(call->params, "timeout_ms", 0), &vm, err);
	return r < 0 ? r : give_vm(call, &vm, err);
}

static int handle_kill(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	_cleanup_vm_ struct banger_vm vm = {0};

	int r = vm_service_kill(api->vms, call->op, word(call), &vm, err);
	return r < 0 ? r : give_vm(call, &vm, err);
}

static int handle_pause(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	_cleanup_vm_ struct banger_vm vm = {0};

	int r = vm_service_pause(api->vms, call->op, word(call), &vm, err);
	return r < 0 ? r : give_vm(call, &vm, err);
}

static int handle_resume(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	_cleanup_vm_ struct banger_vm vm = {0};

	int r = vm_service_resume(api->vms, call->op, word(call), &vm, err);
	return r < 0 ? r : give_vm(call, &vm, err);
}

static int handle_rm(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	_cleanup_vm_ struct banger_vm vm = {0};

	int r = vm_service_remove(api->vms, call->op, word(call),
		banger_json_bool(call->params, "force", false), &vm, err);
	return r < 0 ? r : give_vm(call, &vm, err);
}

/* ---- in a VM */

static int fd_at(const struct rpc_call *call, size_t i)
{
	return call && i < call->nfds ? call->fds[i] : -1;
}

static int give_end(
	const struct vm_result *result, struct json_object **ret, struct banger_error *err)
{
	_cleanup_json_ struct json_object *o = json_object_new_object();

	if (!o || banger_json_add_str(o, "name", result->name) < 0 ||
		banger_json_add_str(o, "accel", result->accel) < 0 ||
		(result->signal == 0 &&
			banger_json_add_int(o, "exit_code", result->exit_code) < 0) ||
		(result->signal != 0 && banger_json_add_int(o, "signal", result->signal) < 0))
		return banger_error_oom(err);
	*ret = TAKE_PTR(o);
	return 0;
}

/* call NULL: without descriptors. */
static void take_exec(const struct rpc_call *call, struct json_object *p, struct vm_exec *ret)
{
	*ret = (struct vm_exec){
		.user = banger_json_str(p, "user"),
		.workdir = banger_json_str(p, "workdir"),
		.tty = banger_json_bool(p, "tty", false),
		.detach = banger_json_bool(p, "detach", false),
		.main = banger_json_bool(p, "main", false),
		.rows = banger_json_int(p, "rows", 0),
		.cols = banger_json_int(p, "cols", 0),
		.timeout_ms = banger_json_int(p, "timeout_ms", 0),
		.stdin_fd = fd_at(call, 0),
		.stdout_fd = fd_at(call, 1),
		.stderr_fd = fd_at(call, 2),
		.control_fd = fd_at(call, 3),
	};
}

static int handle_exec(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	_cleanup_free_ const char **argv = NULL, **env = NULL;
	struct vm_result result;
	struct vm_exec x;

	int r = strings(call->params, "argv", &argv, err);
	if (r == 0)
		r = strings(call->params, "env", &env, err);
	if (r < 0)
		return r;
	take_exec(call, call->params, &x);
	x.argv = argv;
	x.entrypoint = banger_json_bool(call->params, "entrypoint", false);
	x.env = env;
	r = vm_service_exec(api->vms, call->op, word(call), &x, &result, err);
	return r < 0 ? r : give_end(&result, &call->result, err);
}

/* call NULL: apart from any client, so the command is too. */
static int run(const struct api *api, const struct rpc_call *call, struct operation *op,
	struct json_object *params, struct json_object **ret, struct banger_error *err)
{
	_cleanup_free_ const char **argv = NULL, **env = NULL, **publish = NULL;
	struct vm_result result;
	struct vm_create c;
	struct vm_exec x;

	int r = strings(params, "argv", &argv, err);
	if (r == 0)
		r = strings(params, "env", &env, err);
	if (r == 0)
		r = strings(params, "publish", &publish, err);
	if (r < 0)
		return r;
	take_create(params, &c);
	c.init = c.init ?: "agent";
	c.publish = publish;
	take_exec(call, params, &x);
	x.argv = argv;
	x.entrypoint = banger_json_bool(params, "entrypoint", true);
	x.env = env;
	x.detach = x.main = !call;
	r = vm_service_run(api->vms, op, &c, &x, &result, err);
	return r < 0 ? r : give_end(&result, ret, err);
}

static int handle_run(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	return run(ctx, call, call->op, call->params, &call->result, err);
}

static int run_apart(const struct api *api, struct operation *op, struct json_object *params,
	bool trusted, struct json_object **ret, struct banger_error *err)
{
	return run(api, NULL, op, params, ret, err);
}

static int handle_run_begin(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	return job_begin(ctx, call, run_apart, err);
}

static int handle_put(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;

	return vm_service_put(api->vms, call->op, word(call), banger_json_str(call->params, "path"),
		call->fds[0], err);
}

static int handle_get(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;

	return vm_service_get(api->vms, call->op, word(call), banger_json_str(call->params, "path"),
		call->fds[0], err);
}

static int handle_logs(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;

	return vm_service_console(api->vms, call->op, word(call),
		banger_json_int(call->params, "lines", -1),
		banger_json_bool(call->params, "follow", false), -1, call->fds[0], err);
}

static int handle_console(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;

	return vm_service_console(api->vms, call->op, word(call),
		banger_json_int(call->params, "lines", 0), true, call->fds[0], call->fds[1], err);
}

/* ---- the table */

#define VM_WORD                                                                                    \
	{                                                                                          \
		"vm", RPC_STRING, true, 0, 256                                                     \
	}
#define CREATE_PARAMS                                                                              \
	{"image", RPC_STRING, true, 0, 256}, {"kernel", RPC_STRING, false, 0, 256},                \
		{"cpus", RPC_INT, false, 1, INT32_MAX}, {"memory", RPC_INT, false, 1, INT64_MAX},  \
		{"disk", RPC_INT, false, 1, INT64_MAX}, {"work_disk", RPC_STRING, false, 0, 16},   \
		{"network", RPC_STRING, false, 0, 16}, {"registry", RPC_STRING, false, 0, 16},     \
		{"publish", RPC_STRINGS}, {"accel", RPC_STRING, false, 0, 8},                      \
	{                                                                                          \
		"init", RPC_STRING, false, 0, 8                                                    \
	}
#define EXEC_PARAMS                                                                                \
	{"argv", RPC_STRINGS}, {"env", RPC_STRINGS}, {"user", RPC_STRING, false, 0, 256},          \
		{"workdir", RPC_STRING}, {"entrypoint", RPC_BOOL}, {"tty", RPC_BOOL},              \
		{"rows", RPC_INT, false, 0, 65535}, {"cols", RPC_INT, false, 0, 65535},            \
	{                                                                                          \
		"timeout_ms", RPC_INT, false, 1, INT64_MAX / 1000                                  \
	}

static const struct rpc_param create_params[] = {
	{"name", RPC_STRING, false, 0, 256}, CREATE_PARAMS, {"start", RPC_BOOL}, {NULL, RPC_END}};
static const struct rpc_param run_params[] = {
	{"name", RPC_STRING, false, 0, 256}, CREATE_PARAMS, EXEC_PARAMS, {NULL, RPC_END}};
static const struct rpc_param exec_params[] = {
	VM_WORD, EXEC_PARAMS, {"detach", RPC_BOOL}, {"main", RPC_BOOL}, {NULL, RPC_END}};
static const struct rpc_param vm_params[] = {VM_WORD, {NULL, RPC_END}};
static const struct rpc_param stop_params[] = {
	VM_WORD, {"timeout_ms", RPC_INT, false, 1, INT32_MAX}, {NULL, RPC_END}};
static const struct rpc_param rm_params[] = {VM_WORD, {"force", RPC_BOOL}, {NULL, RPC_END}};
static const struct rpc_param path_params[] = {
	VM_WORD, {"path", RPC_STRING, true, 0, 4096}, {NULL, RPC_END}};
static const struct rpc_param logs_params[] = {
	VM_WORD, {"lines", RPC_INT, false, 0, INT32_MAX}, {"follow", RPC_BOOL}, {NULL, RPC_END}};

const struct rpc_method api_vm_methods[] = {
	{"vm.create", handle_create, RPC_CHANGE | RPC_HANGUP, create_params},
	{"vm.create.begin", handle_begin, RPC_CHANGE | RPC_LONG, create_params},
	{"vm.create.status", handle_status, RPC_ANYONE, job_params},
	{"vm.create.cancel", handle_cancel, 0, job_params},
	{"vm.ls", handle_ls, RPC_ANYONE},
	{"vm.show", handle_show, RPC_ANYONE, vm_params},
	{"vm.start", handle_start, RPC_CHANGE | RPC_HANGUP, vm_params},
	{"vm.stop", handle_stop, RPC_CHANGE, stop_params},
	{"vm.kill", handle_kill, RPC_CHANGE, vm_params},
	{"vm.pause", handle_pause, RPC_CHANGE, vm_params},
	{"vm.resume", handle_resume, RPC_CHANGE, vm_params},
	{"vm.rm", handle_rm, RPC_CHANGE, rm_params},
	{"vm.exec", handle_exec, RPC_CHANGE | RPC_HANGUP, exec_params, 3, 4},
	{"vm.put", handle_put, RPC_CHANGE | RPC_HANGUP, path_params, 1, 1},
	{"vm.get", handle_get, RPC_CHANGE | RPC_HANGUP, path_params, 1, 1},
	{"vm.logs", handle_logs, RPC_HANGUP, logs_params, 1, 1},
	{"vm.console", handle_console, RPC_HANGUP, logs_params, 2, 2},
	{"vm.run", handle_run, RPC_CHANGE | RPC_HANGUP, run_params, 3, 4},
	{"vm.run.begin", handle_run_begin, RPC_CHANGE | RPC_LONG, run_params},
	{NULL},
};
