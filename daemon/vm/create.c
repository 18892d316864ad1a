/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Making VMs and removing them.
 *
 * A VM is in the list from before its image is opened until its directory is gone: deleting its image or kernel asks
 * that list. Its row is committed when its disks are there, and before it starts. So what a crash leaves is a directory
 * without a row, which the next start removes, or a VM that was created. A removal commits first and removes after.
 */
#include <string.h>
#include <banger/fault.h>
#include <banger/log.h>
#include "vm/create.h"

static int check_words(const struct vm_create *c, struct banger_vm *row, struct banger_error *err)
{
	static const char *const accels[] = {"auto", "kvm", "tcg", NULL}, *const inits[] = {"image",
										  "agent", NULL};
	int work, network, registry, accel, init;

	if ((work = banger_vm_word("work_disk", banger_vm_works, c->work_disk, err)) < 0)
		return work;
	if ((network = banger_vm_word("network", banger_vm_networks, c->network, err)) < 0)
		return network;
	if ((registry = banger_vm_word("registry", banger_vm_registries, c->registry, err)) < 0)
		return registry;
	if ((accel = banger_vm_word("accel", accels, c->accel, err)) < 0)
		return accel;
	if ((init = banger_vm_word("init", inits, c->init, err)) < 0)
		return init;
	row->work_disk = work;
	row->network = network;
	row->registry = registry;
	strcpy(row->accel, accels[accel]);
	row->init = init == 0;
	return 0;
}

static int check_publish(const struct vm_create *c, struct banger_vm *row, struct banger_error *err)
{
	struct publish p = {.n = 0};
	int r = 0;

	for (size_t i = 0; c->publish && c->publish[i] && r == 0; i++)
		r = publish_add(&p, c->publish[i], err);
	if (r < 0 || p.n == 0)
		return r;
	if (!c->network)
		row->network = BANGER_NETWORK_USER;
	if (row->network == BANGER_NETWORK_NONE)
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"ports can be published with \"network\" user or bridge");
	return publish_to_text(&p, &row->publish) < 0 ? banger_error_oom(err) : 0;
}

int create_row(struct vm_service *s, const struct vm_create *c, struct banger_vm *ret,
	struct banger_error *err)
{
	_cleanup_vm_ struct banger_vm row = {.created_us = banger_now_us()};
	struct vm_create with = *c;

	with.accel = c->accel ?: s->deps.config->accel;
	banger_id_mint(row.id);
	if (c->name)
		snprintf(row.name, sizeof(row.name), "%s", c->name);
	else
		snprintf(row.name, sizeof(row.name), "vm-%.12s", row.id);
	row.cpus = c->cpus;
	row.memory = c->memory;
	row.disk = c->disk;
	int r = c->name ? banger_name_check("VM", c->name, err) : 0;
	if (r == 0)
		r = check_words(&with, &row, err);
	if (r == 0)
		r = check_publish(&with, &row, err);
	if (r == 0)
		r = parts_check_limits(s, &row.cpus, &row.memory, err);
	if (r == 0) {
		*ret = row;
		row = (struct banger_vm){0};
	}
	return r;
}

int create_find(struct vm_service *s, const struct vm_create *c, struct banger_vm *row,
	struct banger_image *ret, struct banger_error *err)
{
	const struct vm_service_deps *d = &s->deps;
	_cleanup_image_ struct banger_image image = {0};
	_cleanup_kernel_ struct banger_kernel kernel = {0};

	int r = d->image_find(d->images, c->image, BANGER_PUBLISHED, &image, err);
	if (r == 0)
		r = parts_find_kernel(
			s, c->kernel ?: image.kernel ?: d->config->default_kernel, &kernel, err);
	if (r < 0)
		return r;
	strcpy(row->image_id, image.id);
	strcpy(row->image, image.name);
	strcpy(row->kernel_id, kernel.id);
	strcpy(row->kernel, kernel.name);
	*ret = image;
	image = (struct banger_image){0};
	return 0;
}

int create_disks(struct vm *vm, const struct banger_image *image, struct banger_error *err)
{
	int r = disk_make_root(vm, image, err);

	return r == 0 ? disk_make_work(vm, image, err) : r;
}

void create_undo(struct vm *vm)
{
	disk_remove_dir(vm);
	vm_delist(vm);
}

/* The VM with its disks and its row, claimed. */
static int make(struct vm_service *s, struct operation *op, const struct vm_create *c,
	struct vm **ret, struct banger_error *err)
{
	_cleanup_vm_ struct banger_vm row = {0};
	_cleanup_image_ struct banger_image image = {0};
	_cleanup_vmref_ struct vm *vm = NULL;

	int r = create_row(s, c, &row, err);
	if (r == 0)
		r = create_find(s, c, &row, &image, err);
	if (r < 0)
		return r;
	vm_progress(op, "disk", row.name);
	if (vm_new(s, &row, &vm) < 0)
		return banger_error_oom(err);
	r = vm_claim(vm, operation_id(op), "created", err);
	if (r == 0)
		r = disk_make_dir(vm, err);
	if (r == 0)
		r = vm_enlist(vm, err);
	if (r < 0) {
		disk_remove_dir(vm);
		return r;
	}
	FAULT_POINT("vm.create.dir");
	r = create_disks(vm, &image, err);
	if (r == 0)
		r = operation_check_cancelled(op, err);
	if (r == 0)
		r = vm_commit_new(vm, err);
	if (r < 0) {
		create_undo(vm);
		return r;
	}
	FAULT_POINT("vm.create.committed");
	*ret = TAKE_PTR(vm);
	return 0;
}

static void take_back(struct vm *vm)
{
	if (vm_commit_gone(vm, NULL, NULL) < 0)
		log_warn("a VM that did not start stays", KV_S("vm", vm->name));
	else
		create_undo(vm);
}

int vm_service_create(struct vm_service *s, struct operation *op, const struct vm_create *c,
	struct banger_vm *ret, struct banger_error *err)
{
	_cleanup_vmref_ struct vm *vm = NULL;

	int r = make(s, op, c, &vm, err);
	if (r < 0)
		return r;
	if (!c->stay)
		r = vm_boot(vm, op, false, err);
	if (r < 0 && (r == -ECANCELED || vm_state(vm) == BANGER_VM_CREATED))
		take_back(vm);
	if (r == 0)
		r = vm_copy(vm, ret, err);
	vm_release(vm, operation_id(op));
	return r;
}

/* ---- removing */

static int check_removable(struct vm *vm, bool force, struct banger_error *err)
{
	enum banger_vm_state state = vm_state(vm);

	if (!vm_state_has_vmm(state))
		return 0;
	if (!force)
		return banger_error_set(err, BANGER_BUSY,
			"VM \"%s\" is %s: stop it first, or force its removal", vm->name,
			banger_vm_state_name(state));
	return vm_end(vm, NULL, err);
}

static int remove_vm(
	struct vm *vm, struct operation *op, struct banger_vm *ret, struct banger_error *err)
{
	_cleanup_vm_ struct banger_vm row = {0};

	int r = vm_copy(vm, &row, err);
	if (r == 0)
		r = vm_commit_gone(vm, op, err);
	if (r < 0)
		return r;
	FAULT_POINT("vm.remove.committed");
	disk_remove_dir(vm);
	vm_delist(vm);
	log_info("VM removed", KV_S("vm", row.name), KV_S("id", row.id));
	*ret = row;
	row = (struct banger_vm){0};
	return 0;
}

int vm_service_remove(struct vm_service *s, struct operation *op, const char *word, bool force,
	struct banger_vm *ret, struct banger_error *err)
{
	_cleanup_vmref_ struct vm *vm = NULL;

	int r = vm_find(s, word, &vm, err);
	if (r == 0 && vm->transient && force && vm_state_has_vmm(vm_state(vm))) {
		r = vm_end(vm, NULL, err); /* its run does the rest */
		return r < 0 ? r : vm_copy(vm, ret, err);
	}
	if (r == 0 && vm->transient)
		r = banger_error_set(err, BANGER_BUSY,
			"VM \"%s\" belongs to a running \"vm run\" and goes with it", vm->name);
	if (r < 0)
		return r;
	if (force && (r = vm_end(vm, NULL, err)) < 0) /* whoever is at it fails, and lets go */
		return r;
	r = vm_claim_wait(vm, operation_id(op), "removed", force ? VM_END_MS : 0, err);
	if (r < 0)
		return r;
	r = check_removable(vm, force, err);
	if (r == 0)
		r = remove_vm(vm, op, ret, err);
	vm_release(vm, operation_id(op));
	return r;
}

/* ---- looking */

int vm_service_find(
	struct vm_service *s, const char *word, struct banger_vm *ret, struct banger_error *err)
{
	_cleanup_vmref_ struct vm *vm = NULL;

	int r = vm_find(s, word, &vm, err);
	return r < 0 ? r : vm_copy(vm, ret, err);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct banger_vm *)a)->name, ((const struct banger_vm *)b)->name);
}

int vm_service_list(
	struct vm_service *s, struct banger_vm **ret, size_t *ret_n, struct banger_error *err)
{
	struct banger_vm *list;
	size_t n = 0, max = 0;
	int r = 0;

	pthread_mutex_lock(&s->lock);
	for (struct vm *v = s->vms; v; v = v->next)
		max++;
	list = calloc(max + 1, sizeof(*list));
	for (struct vm *v = s->vms; list && v && r == 0; v = v->next)
		if ((r = banger_vm_copy(&v->row, &list[n])) == 0)
			n++;
	pthread_mutex_unlock(&s->lock);
	if (!list || r < 0) {
		for (size_t i = 0; i < n; i++)
			banger_vm_done(&list[i]);
		free(list);
		return banger_error_oom(err);
	}
	qsort(list, n, sizeof(*list), by_name);
	*ret = list;
	*ret_n = n;
	return 0;
}
