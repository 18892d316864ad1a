/* SPDX-License-Identifier: Apache-2.0 */
/* The service itself: made, taken down, asked what uses what and what this machine can do. */
#include <fcntl.h>
#include <string.h>
#include <banger/log.h>
#include "vm/internal.h"
#include "vm/net.h"

#define LEAVE_MS 5000

/* ---- who uses what */

static int in_use(
	struct vm_service *s, const char *id, size_t at, const char *what, struct banger_error *err)
{
	int r = 0;

	pthread_mutex_lock(&s->lock);
	for (struct vm *v = s->vms; v && r == 0; v = v->next)
		if (strcmp((const char *)&v->row + at, id) == 0)
			r = banger_error_set(
				err, BANGER_BUSY, "the %s is in use by VM \"%s\"", what, v->name);
	pthread_mutex_unlock(&s->lock);
	return r;
}

int vm_service_image_in_use(struct vm_service *s, const char *id, struct banger_error *err)
{
	return in_use(s, id, offsetof(struct banger_vm, image_id), "image", err);
}

int vm_service_kernel_in_use(void *s, const char *id, struct banger_error *err)
{
	return in_use(s, id, offsetof(struct banger_vm, kernel_id), "kernel", err);
}

size_t vm_service_running(struct vm_service *s)
{
	size_t n = 0;

	pthread_mutex_lock(&s->lock);
	for (struct vm *v = s->vms; v; v = v->next)
		n += vm_state_has_vmm(v->row.state);
	pthread_mutex_unlock(&s->lock);
	return n;
}

int vm_service_dir_fd(const struct vm_service *s)
{
	return s->vms_fd;
}

/* ---- making and unmaking */

static int open_dir(int state_dir_fd, const char *name, int *ret, struct banger_error *err)
{
	if (mkdirat(state_dir_fd, name, 0700) < 0 && errno != EEXIST)
		return banger_error_set_errno(err, errno, "cannot make the directory %s", name);
	*ret = openat(state_dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	return *ret < 0 ? banger_error_set_errno(err, errno, "cannot open the directory %s", name)
			: 0;
}

int vm_service_new(
	const struct vm_service_deps *deps, struct vm_service **ret, struct banger_error *err)
{
	struct vm_service *s = calloc(1, sizeof(*s));
	pthread_condattr_t attr;

	if (!s)
		return banger_error_oom(err);
	s->deps = *deps;
	s->driver = deps->driver ?: &vmm_qemu;
	s->vms_fd = s->work_fd = -1;
	for (size_t i = 0; i < INITRDS; i++)
		s->initrds[i].fd = -1;
	pthread_mutex_init(&s->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&s->change, &attr);
	pthread_condattr_destroy(&attr);
	recover_boot_id(s->boot_id);
	cgroups_find("/proc/self", &s->cgroups);
	int r = open_dir(deps->state_dir_fd, "vms", &s->vms_fd, err);
	if (r == 0)
		r = open_dir(deps->state_dir_fd, "work", &s->work_fd, err);
	if (r == 0)
		r = accel_new(deps->config, s->driver, deps->state_dir_fd, &s->accel, err);
	if (r < 0) {
		vm_service_freep(&s);
		return r;
	}
	*ret = s;
	return 0;
}

/* VMs that run go on; we are what ends. */
static void leave_all(struct vm_service *s)
{
	while (s->vms) {
		struct vm *vm = s->vms;
		_cleanup_machine_ struct machine *m = vm_machine(vm);

		if (m) {
			machine_leave(m);
			machine_wait(m, LEAVE_MS, -1, NULL);
		}
		vm_sharing_leave(vm);
		vm_delist(vm);
	}
}

void vm_service_freep(struct vm_service **p)
{
	struct vm_service *s = *p;

	if (!s)
		return;
	leave_all(s);
	accel_freep(&s->accel);
	for (size_t i = 0; i < INITRDS; i++)
		banger_closep(&s->initrds[i].fd);
	banger_closep(&s->vms_fd);
	banger_closep(&s->work_fd);
	cgroups_done(&s->cgroups);
	pthread_cond_destroy(&s->change);
	pthread_mutex_destroy(&s->lock);
	free(s);
	*p = NULL;
}

/* ---- doctor */

/* So that doctor can tell before the first VM: start the trial with any kernel there is. */
static void try_kvm(struct vm_service *s)
{
	_cleanup_kernel_ struct banger_kernel kernel = {0};
	_cleanup_close_ int kernel_fd = -1, initrd_fd = -1;
	struct banger_error err;

	if (parts_find_kernel(s, s->deps.config->default_kernel, &kernel, &err) == 0 &&
		parts_open_kernel(s, &kernel, &kernel_fd, &err) == 0 &&
		parts_open_initrd(s, &kernel, 0, &initrd_fd, &err) == 0) {
		accel_begin_trial(s->accel, kernel_fd, initrd_fd);
		accel_wait(s->accel, 7000);
	}
}

static const char *kvm_advice(void)
{
	if (access("/dev/kvm", R_OK | W_OK) < 0 && errno == EACCES)
		return "add the user that runs bangerd to the group kvm, and start bangerd again";
	return "a host with hardware virtualization (or nested virtualization enabled) runs VMs "
	       "faster; accel.json in the state directory remembers what was found: remove it and "
	       "start bangerd again to have KVM tried again";
}

void vm_service_doctor(struct vm_service *s, vm_doctor_report *report, void *arg)
{
	struct banger_error err = {0};
	struct accel_verdict v;
	char version[64] = "", detail[512], advice[512];

	if (parts_check_vmm(s, version, sizeof(version), &err) < 0)
		report(arg, "qemu", false, err.message, "apt-get install qemu-system-x86");
	else
		report(arg, "qemu", true, version, NULL);
	accel_verdict(s->accel, &v);
	if (v.kvm == ACCEL_UNKNOWN && version[0]) {
		try_kvm(s);
		accel_verdict(s->accel, &v);
	}
	snprintf(detail, sizeof(detail), "%s%s", v.reason,
		v.kvm == ACCEL_NO ? "; VMs run under TCG" : "");
	report(arg, "kvm", v.kvm != ACCEL_NO, detail, v.kvm == ACCEL_NO ? kvm_advice() : NULL);
	bool files = registry_doctor(s->deps.config, detail, sizeof(detail));
	report(arg, "virtiofsd", files, detail,
		files ? NULL : "apt-get install virtiofsd (Debian 12: qemu-system-common)");
	snprintf(detail, sizeof(detail), "%s%.480s",
		s->cgroups.fd < 0 ? "VMs have none of their own: " : "each VM has its own, ",
		s->cgroups.about);
	report(arg, "cgroup", true, detail, NULL);
	bool bridge = vm_net_doctor(s->deps.config, detail, sizeof(detail), advice, sizeof(advice));
	report(arg, "bridge", bridge, detail, advice[0] ? advice : NULL);
}
