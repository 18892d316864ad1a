/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registry inside VMs, as VMs have it: whose registry.h's processes are, and what is known of their loss.
 *
 * vm.registry is there from before bangerfs runs until the VMM is gone; the service's lock guards the pointer, and is
 * held while it is looked into (vm_service_find_client()). Whoever takes the pointer out ends it, without the lock.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <banger/log.h>
#include "vm/internal.h"

static void note_lost(void *arg, struct banger_vm *row)
{
	if (vm_state_has_vmm(row->state))
		snprintf(row->registry_lost, sizeof(row->registry_lost), "%s", (const char *)arg);
}

/* registry_options.lost. Watchers are told; the state stays what it is, for the VM runs. */
static void lost(void *arg, const char *how)
{
	struct vm *vm = arg;
	banger_op_id id = banger_op_id_mint();
	_cleanup_op_ banger_op_id saved = banger_op_enter(id.s);
	_cleanup_vm_ struct banger_vm row = {0};
	struct banger_error err = {0};

	/* Its end is due to the VM's own. */
	if (vm_copy(vm, &row, NULL) < 0 || !vm_state_has_vmm(row.state) ||
		(row.pid && recover_start_time((pid_t)row.pid) != row.pid_start))
		return;
	log_warn("a VM has lost its registry, until it is started again", KV_S("vm", vm->name),
		KV_S("reason", how));
	_cleanup_machine_ struct machine *m = vm_machine(vm);
	if (m)
		session_registry_lost(machine_session(m));
	if (vm_note(vm, note_lost, (void *)how, "registry lost", &err) < 0)
		log_err("the loss of a VM's registry could not be told", KV_S("vm", vm->name),
			KV_ERR(&err));
}

static int make(struct vm *vm, bool changes, struct registry **ret, struct banger_error *err)
{
	const struct registry_options o = {.config = vm->service->deps.config,
		.vm = vm->name,
		.boot_id = vm->service->boot_id,
		.dir_fd = vm->dir_fd,
		.changes = changes,
		.tied = vm->transient,
		.lost = lost,
		.arg = vm};

	int r = registry_new(&o, ret, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&vm->service->lock);
	vm->registry = *ret;
	pthread_mutex_unlock(&vm->service->lock);
	return 0;
}

static struct registry *take(struct vm *vm)
{
	pthread_mutex_lock(&vm->service->lock);
	struct registry *r = TAKE_PTR(vm->registry);
	pthread_mutex_unlock(&vm->service->lock);
	return r;
}

int vm_sharing_start(struct vm *vm, bool changes, int cancel_fd, int *ret_files, int *ret_held,
	struct banger_error *err)
{
	struct registry *registry;

	int r = make(vm, changes, &registry, err);
	if (r == 0)
		r = registry_start(registry, cancel_fd, ret_files, ret_held, err);
	if (r < 0)
		vm_sharing_end(vm);
	return r;
}

void vm_sharing_find(struct vm *vm, bool changes)
{
	struct banger_error err = {0};
	struct registry *registry;

	int r = make(vm, changes, &registry, &err);
	if (r == 0)
		r = registry_find(registry, &err);
	if (r < 0)
		log_warn("nobody watches over a VM's registry", KV_S("vm", vm->name), KV_ERR(&err));
}

void vm_sharing_end(struct vm *vm)
{
	struct registry *r = take(vm);

	registry_endp(&r);
}

void vm_sharing_leave(struct vm *vm)
{
	struct registry *r = take(vm);

	registry_leavep(&r);
}

/* Of which process it is a child; 0: nobody can say. */
static pid_t parent_of(pid_t pid)
{
	char path[64], text[512];
	int parent = 0;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	text[n > 0 ? n : 0] = '\0';
	/* The program's name, in parentheses, may hold anything. */
	const char *p = strrchr(text, ')');
	return p && sscanf(p + 1, " %*c %d", &parent) == 1 ? parent : 0;
}

/* Its VMM has nothing to ask of us. One that does was broken by its guest, and is of the daemon's own user. */
static bool is_vmm(const struct vm *v, pid_t pid)
{
	return vm_state_has_vmm(v->row.state) && v->row.pid > 0 && v->row.pid == pid;
}

bool vm_service_find_client(
	struct vm_service *s, pid_t pid, char ret_name[BANGER_NAME_MAX + 1], bool *ret_changes)
{
	pid_t parent = parent_of(pid); /* bangerfs's process for content is its child */
	bool found = false;

	pthread_mutex_lock(&s->lock);
	for (struct vm *v = s->vms; v && !found; v = v->next) {
		bool changes = v->registry && registry_is(v->registry, pid);

		found = changes || (v->registry && registry_is(v->registry, parent)) ||
			is_vmm(v, pid);
		if (found) {
			strcpy(ret_name, v->name);
			*ret_changes = changes && v->row.registry == BANGER_REGISTRY_RW;
		}
	}
	pthread_mutex_unlock(&s->lock);
	return found;
}
