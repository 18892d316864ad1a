/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon starts, and finds in the store VMs that ran when it ended.
 *
 *	row says                                 so
 *	no VMM                                   nothing to do
 *	a VMM, in another boot of the host       stopped: it can be started again
 *	a VMM that is gone                       failed, with the console's last words
 *	a VMM that is there                      watched over again; running or paused, as it says itself. One
 *	                                         that does not answer is killed, and failed
 * A VMM is known by pid and start time, looked at again once a pidfd holds it, so that a pid that somebody else has
 * by now is not taken for it. A directory in vms/ that has no row was left by a creation or a removal that was cut
 * short, or by vm.run, and goes.
 */
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <banger/log.h>
#include "vm/console.h"
#include "vm/internal.h"
#include "vm/net.h"
#include "vm/recover.h"

int64_t recover_parse_stat(const char *text)
{
	/* The program's name, in parentheses, may hold anything. Then: state (3rd field), …, start time (22nd). */
	const char *p = strrchr(text, ')');
	unsigned long long start;
	char state;

	if (!p || sscanf(p + 1,
			  " %c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s "
			  "%*s %*s %*s %llu",
			  &state, &start) != 2)
		return -1;
	return state == 'Z' || state == 'X' ? -1 : (int64_t)start;
}

int64_t recover_start_time(pid_t pid)
{
	char path[64], text[1024];

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (n <= 0)
		return -1;
	text[n] = '\0';
	return recover_parse_stat(text);
}

void recover_boot_id(char ret[40])
{
	_cleanup_close_ int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, ret, 39);

	ret[n > 0 ? n : 0] = '\0';
	ret[strcspn(ret, "\n")] = '\0';
}

enum recovery recover_decide(const struct banger_vm *row, const char *boot_id, int64_t start_time)
{
	if (!vm_state_has_vmm(row->state))
		return RECOVER_KEEP;
	if (strcmp(row->boot_id, boot_id) != 0)
		return RECOVER_REBOOTED;
	return row->pid > 0 && start_time >= 0 && start_time == row->pid_start ? RECOVER_FIND
									       : RECOVER_DEAD;
}

/* ---- what is done about it */

static int set_state(
	struct vm *vm, enum banger_vm_state to, const char *failure, struct banger_error *err)
{
	_cleanup_vm_ struct banger_vm row = {0};

	int r = vm_copy(vm, &row, err);
	if (r < 0)
		return r;
	row.state = to;
	free(row.failure);
	row.failure = failure ? strdup(failure) : NULL;
	if (!vm_state_has_vmm(to))
		row.pid = row.pid_start = 0;
	log_info("VM found", KV_S("vm", row.name), KV_S("state", banger_vm_state_name(to)),
		KV_S("failure", failure));
	return vm_put_row(vm, &row, banger_vm_state_name(to), err);
}

/* What the console's log ends with; "" when nothing can be said. */
static void last_words(struct vm *vm, char *ret, size_t size)
{
	struct console *c = NULL;
	int fd = openat(vm->dir_fd, VMM_CONSOLE_OUT, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);

	ret[0] = '\0';
	if (fd < 0 || console_new(vm->dir_fd, "console.log", fd, &c, NULL) < 0)
		return;
	console_recall(c);
	console_summary(c, ret, size);
	console_freep(&c);
}

static int set_dead(struct vm *vm, struct banger_error *err)
{
	char said[512], text[768];

	last_words(vm, said, sizeof(said));
	snprintf(text, sizeof(text), "its VMM ended while bangerd was not running%s%s",
		said[0] ? "; its console ends with: " : "", said);
	return set_state(vm, BANGER_VM_FAILED, text, err);
}

static void kill_stranger(pid_t pid, int64_t start)
{
	_cleanup_close_ int fd = (int)syscall(SYS_pidfd_open, pid, 0);

	if (fd >= 0 && recover_start_time(pid) == start)
		syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0);
}

/* It is there. 0; -ESRCH when it is not after all. */
static int hold(struct vm *vm, const struct banger_vm *row, struct machine **ret)
{
	struct vmm vmm = {.pid = (pid_t)row->pid, .port = -1, .control = -1};
	struct banger_error err = {0};

	vmm.pidfd = (int)syscall(SYS_pidfd_open, vmm.pid, 0);
	if (vmm.pidfd < 0)
		return -ESRCH;
	fcntl(vmm.pidfd, F_SETFD, FD_CLOEXEC);
	if (recover_start_time(vmm.pid) != row->pid_start) {
		close(vmm.pidfd);
		return -ESRCH;
	}
	int r = vm_attach(vm, &vmm, true, ret, &err);
	if (r == 0)
		return 0;
	/* Nobody would ever hear of it again. */
	log_warn("a VM that runs cannot be reached and is ended", KV_S("vm", vm->name),
		KV_ERR(&err));
	kill_stranger(vmm.pid, row->pid_start);
	return -ESRCH;
}

static int find_again(struct vm *vm, const struct banger_vm *row, struct banger_error *err)
{
	_cleanup_machine_ struct machine *m = NULL;
	enum vmm_status status = VMM_IS_OVER;
	struct banger_error why = {0};

	if (hold(vm, row, &m) < 0)
		return set_dead(vm, err);
	if (row->registry != BANGER_REGISTRY_NONE)
		vm_sharing_find(vm, row->registry == BANGER_REGISTRY_RW);
	if (vm->service->driver->status(machine_control(m), &status, &why) < 0) {
		log_warn("a VM does not answer and is ended", KV_S("vm", vm->name), KV_ERR(&why));
		vm_end(vm, "its VMM did not answer when bangerd started", NULL);
		return 0;
	}
	/* It had begun, so its end will be its own. */
	pthread_mutex_lock(&vm->service->lock);
	vm->agent = true;
	bool over = !vm->machine;
	pthread_mutex_unlock(&vm->service->lock);
	if (over)
		return 0;
	return set_state(
		vm, status == VMM_IS_PAUSED ? BANGER_VM_PAUSED : BANGER_VM_RUNNING, NULL, err);
}

static int recover_one(struct vm *vm, struct banger_error *err)
{
	_cleanup_vm_ struct banger_vm row = {0};

	int r = vm_copy(vm, &row, err);
	if (r < 0)
		return r;
	if (disk_open_dir(vm, NULL) < 0)
		return row.state == BANGER_VM_FAILED
			       ? 0
			       : set_state(vm, BANGER_VM_FAILED, "its directory is gone", err);
	switch (recover_decide(&row, vm->service->boot_id, recover_start_time((pid_t)row.pid))) {
	case RECOVER_KEEP:
		return 0;
	case RECOVER_REBOOTED:
		return set_state(vm, BANGER_VM_STOPPED, NULL, err);
	case RECOVER_DEAD:
		registry_sweep(vm->service->vms_fd, vm->id, vm->service->boot_id);
		return set_dead(vm, err);
	case RECOVER_FIND:
		return find_again(vm, &row, err);
	}
	return 0;
}

static int load(struct vm_service *s, struct banger_error *err)
{
	_cleanup_(store_view_closep) struct store_view *view = NULL;
	char after[BANGER_ID_LEN + 1] = "";

	int r = store_view_open(s->deps.store, &view, err);
	while (r == 0) {
		_cleanup_vm_ struct banger_vm row = {0};
		_cleanup_vmref_ struct vm *vm = NULL;

		int more = store_view_next_vm(view, after[0] ? after : NULL, &row, err);
		if (more <= 0)
			return more;
		strcpy(after, row.id);
		if (vm_new(s, &row, &vm) < 0)
			return banger_error_oom(err);
		r = vm_enlist(vm, err);
	}
	return r;
}

/* ---- leftovers */

static bool is_known(struct vm_service *s, const char *id)
{
	bool known = false;

	for (struct vm *v = s->vms; v && !known; v = v->next)
		known = strcmp(v->id, id) == 0;
	return known;
}

static bool has_vmm(void *arg, const char *id)
{
	struct vm_service *s = arg;
	bool runs = false;

	pthread_mutex_lock(&s->lock);
	for (struct vm *v = s->vms; v && !runs; v = v->next)
		runs = strcmp(v->id, id) == 0 && vm_state_has_vmm(v->row.state);
	pthread_mutex_unlock(&s->lock);
	return runs;
}

static int sweep(struct vm_service *s, struct banger_error *err)
{
	int fd = fcntl(s->vms_fd, F_DUPFD_CLOEXEC, 0);
	_cleanup_closedir_ DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	if (!d) {
		int num = errno;
		banger_closep(&fd);
		return banger_error_set_errno(err, num, "cannot list the directory vms");
	}
	rewinddir(d);
	while ((e = readdir(d))) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
			is_known(s, e->d_name))
			continue;
		log_info("removing what a VM left", KV_S("vm", e->d_name));
		registry_sweep(s->vms_fd, e->d_name, s->boot_id);
		disk_remove_leftover(s, e->d_name);
	}
	return 0;
}

int vm_service_recover(struct vm_service *s, struct banger_error *err)
{
	banger_op_id id = banger_op_id_mint();
	_cleanup_op_ banger_op_id saved = banger_op_enter(id.s);

	int r = load(s, err);
	/* Nobody else is here yet; what machines do to a VM does not change the list. */
	for (struct vm *v = s->vms; v && r == 0; v = v->next)
		r = recover_one(v, err);
	if (r == 0)
		r = sweep(s, err);
	if (r == 0)
		cgroups_sweep(&s->cgroups, has_vmm, s);
	if (r == 0)
		vm_net_cleanup(s->deps.config, NULL);
	return r;
}
