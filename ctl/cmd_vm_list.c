/* SPDX-License-Identifier: Apache-2.0 */
/* VMs, looked at. */
#include <string.h>
#include <banger/log.h>
#include <banger/methods.h>
#include "cmd_vm.h"
#include "text.h"

/* "127.0.0.1:8080->80/tcp, …", as docker shows it; the caller frees. */
static char *ports_of(struct json_object *vm)
{
	char *text = NULL;
	size_t size = 0;
	FILE *f = open_memstream(&text, &size);

	if (!f)
		return NULL;
	for (size_t i = 0; i < ctl_json_count(vm, "publish"); i++) {
		const char *port = json_object_get_string(ctl_json_at(vm, "publish", i));
		const char *guest = port ? strrchr(port, ':') : NULL;

		if (guest)
			fprintf(f, "%s%.*s->%s", i ? ", " : "", (int)(guest - port), port,
				guest + 1);
	}
	if (fclose(f) == 0)
		return text;
	free(text);
	return NULL;
}

/* ---- ls */

static const struct listing_column columns[] = {{"NAME"}, {"STATE"}, {"IMAGE"}, {"CPUS", true},
	{"MEMORY", true}, {"NETWORK"}, {"PORTS"}, {"STARTED"}, {"ID"}};

static int add_vm(struct listing *l, struct json_object *vm)
{
	char cpus[32], memory[TEXT_SIZE_LEN], age[TEXT_AGE_LEN] = "";
	int64_t started = ctl_json_time(vm, "started");
	_cleanup_free_ char *ports = ports_of(vm);

	if (!ports)
		return -ENOMEM;
	if (started)
		text_age(started, banger_now_us(), age);
	return LISTING_ADD(l, banger_json_str(vm, "name"), banger_json_str(vm, "state"),
		banger_json_str(vm, "image"), ctl_json_text(vm, "cpus", cpus),
		text_size(banger_json_int(vm, "memory", 0), memory), banger_json_str(vm, "network"),
		ports, age, banger_json_str(vm, "id"));
}

static bool is_wanted(const struct cli_invocation *in, struct json_object *vm)
{
	const char *state = banger_json_str(vm, "state"), *wanted;
	bool any = true;
	size_t i = 0;

	while ((wanted = cli_next(in, "state", &i))) {
		if (state && strcmp(state, wanted) == 0)
			return true;
		any = false;
	}
	return any;
}

/* The wanted ones as they came. */
static int print_document(struct ctl *c, const struct cli_invocation *in,
	struct json_object *result, struct banger_error *err)
{
	_cleanup_json_ struct json_object *document = json_object_new_object(),
					  *vms = json_object_new_array();
	int r = document && vms ? 0 : -ENOMEM;

	for (size_t i = 0; r == 0 && i < ctl_json_count(result, "vms"); i++) {
		struct json_object *vm = ctl_json_at(result, "vms", i);
		if (is_wanted(in, vm))
			r = json_object_array_add(vms, json_object_get(vm));
	}
	if (r < 0 || banger_json_add(document, "vms", TAKE_PTR(vms)) < 0)
		return banger_error_oom(err);
	return ctl_print_json(c, document, err);
}

int do_vm_ls(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_json_ struct json_object *result = NULL;
	_cleanup_listing_ struct listing *l = NULL;

	int r = ctl_call(c, BANGER_METHOD_VM_LS, NULL, &result, err);
	if (r < 0)
		return r;
	if (c->json)
		return print_document(c, in, result, err);
	r = listing_new(columns, ELEMENTSOF(columns), &l);
	for (size_t i = 0; r == 0 && i < ctl_json_count(result, "vms"); i++) {
		struct json_object *vm = ctl_json_at(result, "vms", i);
		if (is_wanted(in, vm))
			r = add_vm(l, vm);
	}
	if (r < 0)
		return banger_error_oom(err);
	for (size_t i = 0; c->quiet && i < listing_rows(l); i++)
		puts(listing_cell(l, i, 0));
	if (!c->quiet)
		listing_print(l, stdout, c->terminal);
	return 0;
}

/* ---- show */

static int add_size(struct listing *l, struct json_object *vm, const char *key)
{
	char size[TEXT_SIZE_LEN];
	int64_t bytes = banger_json_int(vm, key, -1);

	return bytes < 0 ? 0
			 : fields_addf(l, key, "%s (%lld bytes)", text_size(bytes, size),
				   (long long)bytes);
}

static int add_texts(struct listing *l, struct json_object *vm, const char *const (*fields)[2])
{
	char buf[32];
	int r = 0;

	for (; (*fields)[0] && r == 0; fields++)
		r = fields_add(l, (*fields)[1], ctl_json_text(vm, (*fields)[0], buf));
	return r;
}

static int add_fields(struct listing *l, struct json_object *vm)
{
	static const char *const first[][2] = {{"name", "name"}, {"id", "id"}, {"state", "state"},
		{"failure", "failure"}, {"image", "image"}, {"image_id", "image id"},
		{"kernel", "kernel"}, {"cpus", "cpus"}, {NULL}};
	static const char *const then[][2] = {{"disk_kind", "disk kind"},
		{"work_disk", "work disk"}, {"network", "network"}, {"registry", "registry"},
		{"init", "init"}, {"accel", "acceleration"}, {"accel_used", "runs under"},
		{"pid", "pid"}, {"transient", "transient"}, {"op_id", "op_id"},
		{"generation", "generation"}, {NULL}};
	_cleanup_free_ char *ports = ports_of(vm);
	char when[CTL_WHEN_LEN];

	int r = ports ? add_texts(l, vm, first) : -ENOMEM;
	if (r == 0)
		r = add_size(l, vm, "memory");
	if (r == 0)
		r = add_size(l, vm, "disk");
	if (r == 0)
		r = add_texts(l, vm, then);
	if (r == 0)
		r = fields_add(l, "ports", ports);
	if (r == 0)
		r = fields_add(l, "created", ctl_when(ctl_json_time(vm, "created"), when));
	return r < 0 ? r : fields_add(l, "started", ctl_when(ctl_json_time(vm, "started"), when));
}

int do_vm_show(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = NULL, *result = NULL;
	_cleanup_listing_ struct listing *l = NULL;

	int r = ctl_params(&params, err, "vm", in->args[0], NULL);
	if (r == 0)
		r = ctl_call(c, BANGER_METHOD_VM_SHOW, TAKE_PTR(params), &result, err);
	if (r < 0)
		return r;
	if (c->json || c->quiet)
		return ctl_print_made(c, "", "vm", result, err);
	if (fields_new(&l) < 0 || add_fields(l, banger_json_get(result, "vm")) < 0)
		return banger_error_oom(err);
	listing_print(l, stdout, c->terminal);
	return 0;
}
