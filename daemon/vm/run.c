/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Programs in VMs: exec in one that runs, files into it and out of it, and vm.run, which is all of a VM's life in one
 * call. Its VM is in the list, so that its image cannot go, and in no store: it ends with this thread, whatever
 * happens to it (vmm_spec.tied).
 */
#include <string.h>
#include <banger/log.h>
#include "vm/command.h"
#include "vm/create.h"

#define READY_US 10000000
#define WAIT_MS 1000 /* between looks at the time */

static int run_command(struct vm *vm, struct machine *m, struct operation *op,
	const struct vm_exec *x, const char *config, struct session_result *ret,
	struct banger_error *err)
{
	_cleanup_(command_done) struct command command = {0};

	int r = command_make(x, config, &command, err);
	if (r < 0)
		return r;
	const struct session_exec e = {.exec = &command.exec,
		.stdin_fd = x->stdin_fd,
		.stdout_fd = x->stdout_fd,
		.stderr_fd = x->stderr_fd,
		.control_fd = x->control_fd,
		.cancel_fd = operation_cancel_fd(op),
		.end_by = x->timeout_ms ? banger_monotonic_us() + x->timeout_ms * 1000 : 0};
	r = session_exec(machine_session(m), &e, ret, err);
	if (r == 0)
		log_info("VM's command ended", KV_S("vm", vm->name),
			KV_I("exit_code", ret->exit_code), KV_I("signal", ret->signal));
	return r;
}

static int give(struct vm *vm, const struct session_result *from, struct vm_result *ret)
{
	pthread_mutex_lock(&vm->service->lock);
	bool kvm = strcmp(vm->row.accel_used, "kvm") == 0;
	pthread_mutex_unlock(&vm->service->lock);
	strcpy(ret->name, vm->name);
	ret->exit_code = from->exit_code;
	ret->signal = from->signal;
	ret->accel = vm_accel_name(kvm ? VM_KVM : VM_TCG);
	return 0;
}

/* Sessions say which VM it is themselves. */
static void name_vm(struct vm *vm, struct banger_error *err)
{
	if (err && strncmp(err->message, "VM \"", 4) != 0)
		banger_error_prefix(err, "VM \"%s\"", vm->name);
}

/* ---- exec */

static int find_running(struct vm_service *s, const char *word, struct vm **ret,
	struct machine **ret_machine, struct banger_error *err)
{
	_cleanup_vmref_ struct vm *vm = NULL;

	int r = vm_find(s, word, &vm, err);
	if (r < 0)
		return r;
	struct machine *m = vm_state(vm) == BANGER_VM_RUNNING ? vm_machine(vm) : NULL;
	if (!m)
		return vm_refuse(vm, "used", err);
	*ret = TAKE_PTR(vm);
	*ret_machine = m;
	return 0;
}

int vm_service_exec(struct vm_service *s, struct operation *op, const char *word,
	const struct vm_exec *x, struct vm_result *ret, struct banger_error *err)
{
	const struct vm_service_deps *d = &s->deps;
	_cleanup_machine_ struct machine *m = NULL;
	_cleanup_image_ struct banger_image image = {0};
	_cleanup_vm_ struct banger_vm row = {0};
	_cleanup_vmref_ struct vm *vm = NULL;
	struct session_result result;

	int r = find_running(s, word, &vm, &m, err);
	if (r < 0)
		return r;
	r = vm_copy(vm, &row, err);
	if (r == 0)
		r = d->image_find(d->images, row.image_id, BANGER_PUBLISHED, &image, err);
	/* After a restart of the daemon or of the agent it may take a moment. */
	if (r == 0)
		r = session_wait_ready(machine_session(m), banger_monotonic_us() + READY_US,
			operation_cancel_fd(op), err);
	if (r == 0)
		r = run_command(vm, m, op, x, image.config, &result, err);
	if (r < 0) {
		name_vm(vm, err);
		return r;
	}
	return give(vm, &result, ret);
}

typedef int carry(
	struct session *s, const char *path, int fd, int cancel_fd, struct banger_error *err);

static int carry_files(struct vm_service *s, struct operation *op, const char *word,
	const char *path, int fd, carry *how, struct banger_error *err)
{
	_cleanup_machine_ struct machine *m = NULL;
	_cleanup_vmref_ struct vm *vm = NULL;

	int r = find_running(s, word, &vm, &m, err);
	if (r < 0)
		return r;
	r = session_wait_ready(
		machine_session(m), banger_monotonic_us() + READY_US, operation_cancel_fd(op), err);
	if (r == 0)
		r = how(machine_session(m), path, fd, operation_cancel_fd(op), err);
	if (r < 0)
		name_vm(vm, err);
	return r;
}

int vm_service_put(struct vm_service *s, struct operation *op, const char *word, const char *path,
	int fd, struct banger_error *err)
{
	return carry_files(s, op, word, path, fd, session_put, err);
}

int vm_service_get(struct vm_service *s, struct operation *op, const char *word, const char *path,
	int fd, struct banger_error *err)
{
	return carry_files(s, op, word, path, fd, session_get, err);
}

/* ---- vm.run */

static int make(struct vm_service *s, struct operation *op, const struct vm_create *c,
	struct banger_image *ret_image, struct vm **ret, struct banger_error *err)
{
	_cleanup_vm_ struct banger_vm row = {0};
	_cleanup_image_ struct banger_image image = {0};
	_cleanup_vmref_ struct vm *vm = NULL;

	int r = create_row(s, c, &row, err);
	if (r == 0)
		r = create_find(s, c, &row, &image, err);
	if (r < 0)
		return r;
	row.transient = true;
	if (!c->name)
		snprintf(row.name, sizeof(row.name), "vm-%s", operation_id(op) + 3);
	vm_progress(op, "disk", row.name);
	if (vm_new(s, &row, &vm) < 0)
		return banger_error_oom(err);
	r = vm_claim(vm, operation_id(op), "run", err);
	if (r == 0)
		r = disk_make_dir(vm, err);
	if (r == 0)
		r = vm_enlist(vm, err);
	if (r == 0)
		r = create_disks(vm, &image, err);
	if (r < 0) {
		create_undo(vm);
		return r;
	}
	*ret = TAKE_PTR(vm);
	*ret_image = image;
	image = (struct banger_image){0};
	return 0;
}

/* The error of a VM that ended, or never came up, has its last words; that of a command has not. */
static void add_failure(struct vm *vm, struct machine *m, int r, struct banger_error *err)
{
	_cleanup_vm_ struct banger_vm row = {0};

	if (machine_wait(m, VM_END_MS, -1, NULL) < 0 || vm_copy(vm, &row, NULL) < 0 || !row.failure)
		return;
	banger_error_set(err, banger_code_from_errno(r), "VM \"%s\" %s: %s", vm->name,
		r == -EHOSTDOWN ? "ended before its command did" : "failed", row.failure);
}

/* The command was left to itself: its end is that of the VM, which powers off with it. */
static int wait_end(struct vm *vm, struct machine *m, struct operation *op, int64_t end_by,
	struct banger_error *err)
{
	int r;

	vm_progress(op, "running", vm->name);
	do
		r = machine_wait(m, WAIT_MS, operation_cancel_fd(op), err);
	while (r == -ETIMEDOUT && (!end_by || banger_monotonic_us() < end_by));
	return r;
}

static int boot_and_run(struct vm *vm, struct operation *op, const struct vm_exec *x,
	const char *config, struct session_result *ret, struct banger_error *err)
{
	int64_t begun = banger_monotonic_us(),
		end_by = x->timeout_ms ? begun + x->timeout_ms * 1000 : 0;

	int r = vm_boot(vm, op, true, err);
	if (r < 0)
		return r;
	_cleanup_machine_ struct machine *m = vm_machine(vm);
	if (!m)
		return banger_error_set(
			err, BANGER_UNAVAILABLE, "the VM ended before its command did");
	int64_t boot_by = begun + VM_BOOT_US;
	vm_progress(op, "agent", vm->name);
	r = session_wait_ready(machine_session(m), end_by && end_by < boot_by ? end_by : boot_by,
		operation_cancel_fd(op), err);
	if (r == 0) {
		struct vm_exec with = *x;
		int64_t left = (end_by - banger_monotonic_us()) / 1000;

		with.timeout_ms = !end_by ? 0 : left > 0 ? left : 1;
		log_debug("VM's agent is ready", KV_S("vm", vm->name),
			KV_D("boot_ms", (banger_monotonic_us() - begun) / 1000.0));
		vm_transition(vm, BANGER_VM_RUNNING, NULL, NULL, NULL);
		vm_progress(op, "command", vm->name);
		r = run_command(vm, m, op, &with, config, ret, err);
		if (r == 0 && x->detach)
			r = wait_end(vm, m, op, end_by, err);
	} else if (r == -ETIMEDOUT || r == -EUCLEAN) {
		vm_end(vm, err ? err->message : "its agent does not answer", NULL);
		add_failure(vm, m, r, err);
	}
	if (r == -EHOSTDOWN)
		add_failure(vm, m, r, err);
	return r;
}

int vm_service_run(struct vm_service *s, struct operation *op, const struct vm_create *c,
	const struct vm_exec *x, struct vm_result *ret, struct banger_error *err)
{
	_cleanup_image_ struct banger_image image = {0};
	_cleanup_vmref_ struct vm *vm = NULL;
	struct session_result result;

	int r = make(s, op, c, &image, &vm, err);
	if (r < 0)
		return r;
	r = boot_and_run(vm, op, x, image.config, &result, err);
	if (r < 0)
		name_vm(vm, err);
	vm_end(vm, NULL, NULL);
	if (r == 0)
		give(vm, &result, ret);
	create_undo(vm);
	vm_tell_gone(vm);
	return r;
}
