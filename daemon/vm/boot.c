/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starting VMs. A start is one commit ("starting", with the VMM's pid, before the VMM does anything: vmm_spec.born) and
 * another when the agent is ready ("running"). What goes wrong before the first leaves the VM as it was; after it, the
 * VMM is ended, and how that is told is power.c's.
 */
#include <stdarg.h>
#include <string.h>
#include <banger/log.h>
#include "vm/initrd.h"
#include "vm/internal.h"
#include "vm/net.h"

void vm_progress(struct operation *op, const char *phase, const char *name)
{
	struct json_object *o = json_object_new_object();

	log_debug("VM's stage", KV_S("vm", name), KV_S("stage", phase));
	if (o && banger_json_add_str(o, "phase", phase) == 0 &&
		banger_json_add_str(o, "name", name) == 0)
		operation_progress(op, o);
	else
		json_object_put(o);
}

struct boot {
	struct vm *vm;
	struct banger_vm row; /* as it is before */
	struct banger_image image;
	struct banger_kernel kernel;
	struct publish publish;
	struct vm_net net; /* on a bridge */
	struct disks disks;
	int files_fd, held_fd; /* of the registry inside */
	int kernel_fd, initrd_fd;
	enum vm_accel accel;
	char append[640];
};

static void boot_done(struct boot *b)
{
	disks_done(&b->disks);
	vm_net_done(&b->net);
	banger_closep(&b->files_fd);
	banger_closep(&b->held_fd);
	banger_closep(&b->kernel_fd);
	banger_closep(&b->initrd_fd);
	banger_vm_done(&b->row);
	banger_image_done(&b->image);
	banger_kernel_done(&b->kernel);
}

static int find_parts(struct boot *b, struct banger_error *err)
{
	const struct vm_service_deps *d = &b->vm->service->deps;

	int r = d->image_find(d->images, b->row.image_id, BANGER_PUBLISHED, &b->image, err);
	if (r == 0)
		r = d->kernel_find(d->kernels, b->row.kernel_id, &b->kernel, err);
	return r;
}

static int open_parts(struct boot *b, struct banger_error *err)
{
	struct vm_service *s = b->vm->service;
	unsigned features = (b->row.network != BANGER_NETWORK_NONE ? INITRD_NETWORK : 0) |
			    (b->row.registry != BANGER_REGISTRY_NONE ? INITRD_VIRTIOFS : 0);

	int r = parts_open_kernel(s, &b->kernel, &b->kernel_fd, err);
	if (r == 0)
		r = parts_open_initrd(s, &b->kernel, features, &b->initrd_fd, err);
	if (r == 0)
		r = parts_choose_accel(s, b->row.accel, b->kernel_fd, b->initrd_fd, &b->accel, err);
	if (r == 0)
		r = disk_open(&b->row, b->vm, &b->image, &b->disks, err);
	return r;
}

static int make_network(struct boot *b, struct banger_error *err)
{
	int r = publish_from_text(b->row.publish, &b->publish, err);
	if (r == 0 && b->row.network == BANGER_NETWORK_USER)
		r = publish_check(&b->publish, err);
	if (r == 0 && b->row.network == BANGER_NETWORK_BRIDGE)
		r = vm_net_bridge(b->vm->service->deps.config, b->row.id, b->publish.v,
			b->publish.n, &b->net, err);
	return r;
}

static void add_word(struct boot *b, const char *fmt, ...) _printf_(2, 3);
static void add_word(struct boot *b, const char *fmt, ...)
{
	size_t n = strlen(b->append);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(b->append + n, sizeof(b->append) - n, fmt, ap);
	va_end(ap);
}

/* The user as the command line can carry it, without the group: without one, or with a strange one, root's home. */
static size_t user_of(struct json_object *config, const char **ret)
{
	static const char letters[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
	const char *user = config ? banger_json_str(config, "user") : NULL;
	size_t n = user ? strcspn(user, ":") : 0;

	*ret = user;
	return n < 64 && user && strspn(user, letters) >= n ? n : 0;
}

static void make_append(struct boot *b)
{
	_cleanup_json_ struct json_object *config =
		b->image.config ? json_tokener_parse(b->image.config) : NULL;
	const char *user;

	add_word(b, "banger.op=%s banger.name=%s banger.root=/dev/vda", banger_op_current(),
		b->row.name);
	if (b->disks.grow)
		add_word(b, " banger.grow");
	if (b->row.started_us == 0)
		add_word(b, " banger.first");
	if (b->disks.work_fd >= 0) {
		int n = (int)user_of(config, &user);
		add_word(b, " banger.work=/dev/vdb:~%.*s", n, user ?: "");
	}
	if (b->row.init)
		add_word(b, " banger.init=image");
	if (b->row.network == BANGER_NETWORK_USER)
		add_word(b, " banger.ip=10.0.2.15/24,10.0.2.2,10.0.2.3");
	if (b->net.tap_fd >= 0)
		add_word(b, " banger.ip=%s", b->net.ip);
	if (b->row.registry != BANGER_REGISTRY_NONE)
		add_word(b, " banger.registry=%s", banger_vm_registries[b->row.registry]);
}

static void note_start(void *arg, struct banger_vm *row)
{
	struct banger_vm *from = arg;

	row->pid = from->pid;
	row->pid_start = from->pid_start;
	strcpy(row->boot_id, from->boot_id);
	strcpy(row->accel_used, from->accel_used);
	row->started_us = banger_now_us();
}

/* vmm_spec.born: the row knows the process before it does anything. */
static int on_born(void *arg, pid_t pid, struct banger_error *err)
{
	struct boot *b = arg;
	struct banger_vm start = {.pid = pid};

	start.pid_start = recover_start_time(pid);
	if (start.pid_start < 0)
		return banger_error_set(err, BANGER_INTERNAL, "cannot look at the VM's process");
	strcpy(start.boot_id, b->vm->service->boot_id);
	strcpy(start.accel_used, vm_accel_name(b->accel));
	cgroups_enter(&b->vm->service->cgroups, b->row.id, pid);
	return vm_transition(b->vm, BANGER_VM_STARTING, note_start, &start, err);
}

static int start_vmm(struct boot *b, struct vmm *ret, struct banger_error *err)
{
	struct vm_service *s = b->vm->service;
	struct vmm_spec spec = {
		.name = b->row.name,
		.op_id = banger_op_current(),
		.dir_fd = b->vm->dir_fd,
		.accel = b->accel,
		.cpus = b->row.cpus,
		.memory = b->row.memory,
		.kernel_fd = b->kernel_fd,
		.initrd_fd = b->initrd_fd,
		.append = b->append,
		.disks = {{b->disks.root_fd, b->disks.base_fd, "root"},
			{b->disks.work_fd, -1, "work"}},
		.durable = !b->row.transient,
		.tied = b->row.transient,
		.network = b->row.network != BANGER_NETWORK_NONE,
		.tap_fd = b->net.tap_fd,
		.files = b->files_fd >= 0,
		.tag = REGISTRY_TAG,
		.files_fd = b->files_fd,
		.held_fd = b->held_fd,
		.publish = b->publish.v,
		.n_publish = b->publish.n,
		.born = on_born,
		.arg = b,
	};

	snprintf(spec.mac, sizeof(spec.mac), "52:54:00:%.2s:%.2s:%.2s", b->row.id, b->row.id + 2,
		b->row.id + 4);
	if (b->net.tap_fd >= 0)
		strcpy(spec.mac, b->net.mac);
	int r = s->driver->start(s->deps.config, &spec, ret, err);
	if (r == 0)
		log_info("VM started", KV_S("vm", b->row.name), KV_S("image", b->image.name),
			KV_S("kernel", b->kernel.name), KV_S("accel", vm_accel_name(b->accel)),
			KV_I("pid", ret->pid), KV_S("disk", b->row.overlay ? "overlay" : "clone"));
	return r;
}

/* The VMM alone holds them, so that their end is its end. */
static void leave_files(struct boot *b)
{
	banger_closep(&b->files_fd);
	banger_closep(&b->held_fd);
	b->files_fd = b->held_fd = -1;
}

int vm_attach(struct vm *vm, const struct vmm *vmm, bool found, struct machine **ret,
	struct banger_error *err)
{
	struct vm_service *s = vm->service;
	struct machine *m = NULL, *old = NULL;
	struct vm *held = vm_ref(vm);
	const struct machine_options o = {.driver = s->driver,
		.name = vm->name,
		.dir_fd = vm->dir_fd,
		.vmm = *vmm,
		.found = found,
		.over = vm_over,
		.arg = held};

	pthread_mutex_lock(&s->lock);
	free(TAKE_PTR(vm->fail_why));
	vm->cause[0] = '\0';
	vm->agent = false;
	unsigned ends = vm->ends;
	pthread_mutex_unlock(&s->lock);
	int r = machine_new(&o, &m, err);
	if (r < 0) {
		vm_unrefp(&held);
		return r;
	}
	pthread_mutex_lock(&s->lock);
	if (vm->ends == ends) { /* else it is over already */
		old = vm->machine;
		vm->machine = machine_ref(m);
	}
	pthread_mutex_unlock(&s->lock);
	machine_unrefp(&old);
	if (ret)
		*ret = TAKE_PTR(m);
	machine_unrefp(&m);
	return 0;
}

/* The VMM ended while somebody waited for the agent: how, as the transition says it. r: what the wait gave. */
static int tell_end(struct vm *vm, struct machine *m, int r, struct banger_error *err)
{
	_cleanup_vm_ struct banger_vm row = {0};

	if (machine_wait(m, VM_END_MS, -1, NULL) < 0 || vm_copy(vm, &row, NULL) < 0)
		return r;
	if (row.failure)
		return banger_error_set(err, banger_code_from_errno(r), "VM \"%s\" failed: %s",
			row.name, row.failure);
	return banger_error_set(err, BANGER_CANCELLED,
		"VM \"%s\" was ended while it started (by %s)", row.name, row.op_id);
}

static int wait_agent(
	struct vm *vm, struct machine *m, struct operation *op, struct banger_error *err)
{
	int64_t begun = banger_monotonic_us();

	int r = session_wait_ready(
		machine_session(m), begun + VM_BOOT_US, op ? operation_cancel_fd(op) : -1, err);
	if (r == 0) {
		pthread_mutex_lock(&vm->service->lock);
		vm->agent = true;
		pthread_mutex_unlock(&vm->service->lock);
		r = vm_transition(vm, BANGER_VM_RUNNING, NULL, NULL, err);
		log_info("VM's agent is ready", KV_S("vm", vm->name),
			KV_D("boot_ms", (banger_monotonic_us() - begun) / 1000.0));
	}
	if (r == 0)
		return 0;
	if (r == -EHOSTDOWN)
		return tell_end(vm, m, r, err);
	vm_end(vm, r == -ECANCELED ? "its start was cancelled" : err->message, NULL);
	return r == -ETIMEDOUT || r == -EUCLEAN ? tell_end(vm, m, r, err) : r;
}

int vm_boot(struct vm *vm, struct operation *op, bool early, struct banger_error *err)
{
	_cleanup_(boot_done) struct boot b = {.vm = vm,
		.files_fd = -1,
		.held_fd = -1,
		.kernel_fd = -1,
		.initrd_fd = -1,
		.net = VM_NET_NONE,
		.disks = {.root_fd = -1, .base_fd = -1, .work_fd = -1}};
	_cleanup_machine_ struct machine *m = NULL;
	struct vmm vmm = {.pidfd = -1, .port = -1, .control = -1};

	int r = vm_copy(vm, &b.row, err);
	if (r == 0)
		r = find_parts(&b, err);
	if (r == 0) {
		vm_progress(op, "network", b.row.name);
		r = make_network(&b, err);
	}
	if (r == 0)
		r = open_parts(&b, err);
	if (r == 0)
		r = operation_check_cancelled(op, err);
	if (r == 0 && b.row.registry != BANGER_REGISTRY_NONE)
		r = vm_sharing_start(vm, b.row.registry == BANGER_REGISTRY_RW,
			operation_cancel_fd(op), &b.files_fd, &b.held_fd, err);
	if (r < 0)
		return r;
	make_append(&b);
	vm_progress(op, "boot", b.row.name);
	r = start_vmm(&b, &vmm, err);
	leave_files(&b);
	if (r == 0)
		r = vm_attach(vm, &vmm, false, &m, err);
	if (r < 0) {
		vm_sharing_end(vm);
		cgroups_remove(&vm->service->cgroups, vm->id);
	}
	if (r < 0 && vm_state(vm) == BANGER_VM_STARTING)
		vm_transition(vm, BANGER_VM_FAILED, NULL, NULL, NULL);
	if (r < 0 || early)
		return r;
	vm_progress(op, "agent", b.row.name);
	return wait_agent(vm, m, op, err);
}
