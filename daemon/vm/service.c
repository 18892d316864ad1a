/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Running a VM: find what it needs, check the limits, make its directory and disk, start the VMM,
 * relay, and take everything away again, on whichever path.
 *
 * A VM is in the list of running ones from before its image is opened until its directory is gone;
 * deleting its image or kernel asks that list (vm_service_image_in_use()). The list's lock is held
 * for nothing else.
 *
 * The root disk is a clone of the image's rootfs.ext4 where the state directory's filesystem can
 * make one (FICLONE), which costs nothing and needs no translation; else the VMM keeps the changes
 * apart. Both die with the VM.
 */
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <linux/fs.h>
#include <pthread.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <banger/log.h>
#include "vm/accel.h"
#include "vm/command.h"
#include "vm/console.h"
#include "vm/initrd.h"
#include "vm/relay.h"

#define MEMORY_DEFAULT (256LL << 20)
#define MEMORY_MIN (64LL << 20)
#define BOOT_US 60000000LL
#define CONSOLE_SAID 500
#define INITRDS 4

struct running {
	char name[BANGER_NAME_MAX + 1], image_id[BANGER_ID_LEN + 1], kernel_id[BANGER_ID_LEN + 1];
	struct running *next;
};

struct vm_service {
	struct vm_service_deps deps;
	const struct vmm_driver *driver;
	struct accel *accel;
	int vms_fd;
	pthread_mutex_t lock; /* running and initrds */
	struct running *running;
	struct {
		char kernel_id[BANGER_ID_LEN + 1];
		struct stat agent; /* the program that is in it: an upgrade replaces that */
		int fd;
	} initrds[INITRDS]; /* made lately; the first is the newest */
};

/* What one run holds. */
struct vm {
	struct vm_service *service;
	struct running self;
	bool listed;
	struct banger_image image;
	struct banger_kernel kernel;
	struct command command;
	int64_t cpus, memory;
	enum vm_accel accel;
	char dir[PATH_MAX];
	int dir_fd, kernel_fd, initrd_fd, disk_fd;
	int output_fd; /* the VMM's end of the console's pipe, until it is started */
	struct console *console;
	bool scratch;
	struct vmm vmm;
};

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return type == FTW_DP ? rmdir(path) : unlink(path);
}

static void remove_tree(const char *path)
{
	if (nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) < 0 && errno != ENOENT)
		log_warn("cannot remove a VM's directory", KV_S("path", path),
			KV_S("error", strerrordesc_np(errno)));
}

/* ---- the list */

static void enlist(struct vm *vm)
{
	pthread_mutex_lock(&vm->service->lock);
	vm->self.next = vm->service->running;
	vm->service->running = &vm->self;
	vm->listed = true;
	pthread_mutex_unlock(&vm->service->lock);
}

static void delist(struct vm *vm)
{
	if (!vm->listed)
		return;
	pthread_mutex_lock(&vm->service->lock);
	for (struct running **at = &vm->service->running; *at; at = &(*at)->next)
		if (*at == &vm->self) {
			*at = vm->self.next;
			break;
		}
	pthread_mutex_unlock(&vm->service->lock);
}

static int in_use(
	struct vm_service *s, const char *id, size_t at, const char *what, struct banger_error *err)
{
	int r = 0;

	pthread_mutex_lock(&s->lock);
	for (struct running *v = s->running; v && r == 0; v = v->next)
		if (strcmp((const char *)v + at, id) == 0)
			r = banger_error_set(
				err, BANGER_BUSY, "the %s is in use by VM \"%s\"", what, v->name);
	pthread_mutex_unlock(&s->lock);
	return r;
}

int vm_service_image_in_use(struct vm_service *s, const char *id, struct banger_error *err)
{
	return in_use(s, id, offsetof(struct running, image_id), "image", err);
}

int vm_service_kernel_in_use(void *s, const char *id, struct banger_error *err)
{
	return in_use(s, id, offsetof(struct running, kernel_id), "kernel", err);
}

size_t vm_service_running(struct vm_service *s)
{
	size_t n = 0;

	pthread_mutex_lock(&s->lock);
	for (struct running *v = s->running; v; v = v->next)
		n++;
	pthread_mutex_unlock(&s->lock);
	return n;
}

/* ---- what a VM needs */

static int find_any_kernel(
	struct vm_service *s, const char *word, struct banger_kernel *ret, struct banger_error *err)
{
	if (word)
		return s->deps.kernel_find(s->deps.kernels, word, ret, err);
	int r = s->deps.kernel_only(s->deps.kernels, ret, err);
	if (r == -ENOENT)
		return banger_error_set(err, BANGER_NOT_FOUND,
			"there is no kernel to boot: import one (banger-ctl kernel import FILE "
			"--name NAME)");
	if (r == -ENOTUNIQ)
		return banger_error_set(err, BANGER_AMBIGUOUS,
			"there are several kernels: say which (--kernel NAME), or configure "
			"\"default_kernel\"");
	return r;
}

static int find_kernel(
	struct vm_service *s, const char *word, struct banger_kernel *ret, struct banger_error *err)
{
	_cleanup_kernel_ struct banger_kernel k = {0};

	int r = find_any_kernel(s, word, &k, err);
	if (r < 0)
		return r;
	if (strcmp(k.arch, s->driver->arch) != 0)
		return banger_error_set(err, BANGER_UNSUPPORTED,
			"kernel \"%s\" is for %s, VMs here are %s", k.name, k.arch,
			s->driver->arch);
	*ret = k;
	k = (struct banger_kernel){0};
	return 0;
}

static int find_parts(struct vm *vm, const struct vm_run *run, struct banger_error *err)
{
	struct vm_service *s = vm->service;
	const struct vm_service_deps *d = &s->deps;

	int r = d->image_find(d->images, run->image, BANGER_PUBLISHED, &vm->image, err);
	if (r < 0)
		return r;
	r = find_kernel(s, run->kernel ?: vm->image.kernel ?: d->config->default_kernel, &vm->kernel, err);
	if (r < 0)
		return r;
	strcpy(vm->self.image_id, vm->image.id);
	strcpy(vm->self.kernel_id, vm->kernel.id);
	enlist(vm);
	return command_make(run, vm->image.config, &vm->command, err);
}

static int check_limits(struct vm *vm, const struct vm_run *run, struct banger_error *err)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	struct sysinfo info;

	if (cpus > vm->service->driver->max_cpus)
		cpus = vm->service->driver->max_cpus;
	vm->cpus = run->cpus ?: 1;
	if (vm->cpus < 1 || vm->cpus > cpus)
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"a VM here has 1 to %ld CPUs, not %lld", cpus, (long long)vm->cpus);
	if (sysinfo(&info) < 0)
		return banger_error_set_errno(
			err, errno, "cannot find out how much memory there is");
	int64_t most = (int64_t)info.totalram * info.mem_unit;
	vm->memory = run->memory ? run->memory & ~((1LL << 20) - 1) : MEMORY_DEFAULT;
	if (vm->memory < MEMORY_MIN || vm->memory > most)
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"a VM here has %lld to %lld MiB of memory, not %lld",
			(long long)(MEMORY_MIN >> 20), (long long)(most >> 20),
			(long long)(run->memory >> 20));
	return 0;
}

static int make_console(struct vm *vm, struct banger_error *err)
{
	int p[2];

	if (pipe2(p, O_CLOEXEC) < 0)
		return banger_error_set_errno(
			err, errno, "cannot make a pipe for the VM's console");
	vm->output_fd = p[1];
	return console_new(vm->dir_fd, "console.log", p[0], &vm->console, err);
}

static int make_dir(struct vm *vm, struct banger_error *err)
{
	struct vm_service *s = vm->service;

	if ((size_t)snprintf(vm->dir, sizeof(vm->dir), "%s/vms/%s", s->deps.config->state_dir,
		    vm->self.name) >= sizeof(vm->dir))
		return banger_error_set(
			err, BANGER_NAME_TOO_LONG, "the state directory's path is too long");
	if (mkdirat(s->vms_fd, vm->self.name, 0700) < 0) {
		int e = errno;
		vm->dir[0] = '\0'; /* not ours to remove */
		return banger_error_set_errno(err, e, "cannot make a directory for the VM");
	}
	vm->dir_fd =
		openat(s->vms_fd, vm->self.name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (vm->dir_fd < 0)
		return banger_error_set_errno(err, errno, "cannot open the VM's directory");
	return make_console(vm, err);
}

static int make_disk(struct vm *vm, struct banger_error *err)
{
	const struct vm_service_deps *d = &vm->service->deps;
	_cleanup_close_ int base = -1, clone = -1;

	int r = d->image_open(d->images, &vm->image, "rootfs.ext4", &base, err);
	if (r < 0)
		return r;
	clone = openat(vm->dir_fd, "root.ext4", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (clone >= 0 && ioctl(clone, FICLONE, base) == 0) {
		vm->disk_fd = TAKE_FD(clone);
		vm->scratch = true;
		return 0;
	}
	if (clone >= 0)
		unlinkat(vm->dir_fd, "root.ext4", 0);
	vm->disk_fd = TAKE_FD(base);
	return 0;
}

static int open_kernel(struct vm *vm, struct banger_error *err)
{
	const struct vm_service_deps *d = &vm->service->deps;
	struct banger_error none;

	if (d->kernel_open(d->kernels, &vm->kernel, "vmlinux", &vm->kernel_fd, &none) == 0)
		return 0;
	return d->kernel_open(d->kernels, &vm->kernel, "vmlinuz", &vm->kernel_fd, err);
}

static bool same_file(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
	       a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

/* A copy of the initrd that was made for this kernel and agent, or -1. */
static int recall_initrd(struct vm_service *s, const char *kernel_id, const struct stat *agent)
{
	int fd = -1;

	pthread_mutex_lock(&s->lock);
	for (size_t i = 0; i < INITRDS && fd < 0; i++)
		if (s->initrds[i].fd >= 0 && strcmp(s->initrds[i].kernel_id, kernel_id) == 0 &&
			same_file(&s->initrds[i].agent, agent))
			fd = fcntl(s->initrds[i].fd, F_DUPFD_CLOEXEC, 0);
	pthread_mutex_unlock(&s->lock);
	return fd;
}

static void keep_initrd(
	struct vm_service *s, const char *kernel_id, const struct stat *agent, int fd)
{
	int kept = fcntl(fd, F_DUPFD_CLOEXEC, 0);

	pthread_mutex_lock(&s->lock);
	banger_closep(&s->initrds[INITRDS - 1].fd);
	memmove(s->initrds + 1, s->initrds, sizeof(s->initrds) - sizeof(s->initrds[0]));
	strcpy(s->initrds[0].kernel_id, kernel_id);
	s->initrds[0].agent = *agent;
	s->initrds[0].fd = kept;
	pthread_mutex_unlock(&s->lock);
}

/* The initrd of a kernel, made once for each of the last few. */
static int get_initrd(struct vm *vm, struct banger_error *err)
{
	struct vm_service *s = vm->service;
	_cleanup_free_ char *path = NULL;
	struct stat agent;

	int r = banger_config_program(s->deps.config, "banger-agent", &path, err);
	if (r < 0)
		return r;
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &agent) < 0)
		return banger_error_set_errno(err, errno, "cannot open the guest agent %s", path);
	vm->initrd_fd = recall_initrd(s, vm->kernel.id, &agent);
	if (vm->initrd_fd >= 0)
		return 0;
	r = initrd_build(&s->deps, &vm->kernel, fd, &vm->initrd_fd, err);
	if (r == 0)
		keep_initrd(s, vm->kernel.id, &agent, vm->initrd_fd);
	return r;
}

static int choose_accel(struct vm *vm, const struct vm_run *run, struct banger_error *err)
{
	struct vm_service *s = vm->service;
	const char *want = run->accel ?: s->deps.config->accel;
	struct accel_verdict v;
	_cleanup_free_ char *dir = NULL;

	vm->accel = VM_TCG;
	if (strcmp(want, "tcg") == 0)
		return 0;
	accel_verdict(s->accel, &v);
	if (strcmp(want, "kvm") == 0) {
		if (v.kvm == ACCEL_NO)
			return banger_error_set(
				err, BANGER_UNSUPPORTED, "KVM cannot be used here: %s", v.reason);
		vm->accel = VM_KVM;
		return 0;
	}
	if (strcmp(want, "auto") != 0)
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"\"accel\" must be auto, kvm or tcg, not \"%s\"", want);
	if (v.kvm == ACCEL_YES)
		vm->accel = VM_KVM;
	if (v.kvm == ACCEL_UNKNOWN && asprintf(&dir, "%s/vms", s->deps.config->state_dir) > 0)
		accel_begin_trial(s->accel, vm->kernel_fd, vm->initrd_fd, dir);
	return 0;
}

/* ---- one run */

static int start(struct vm *vm, struct operation *op, struct banger_error *err)
{
	char append[256];

	snprintf(append, sizeof(append), "banger.op=%s banger.name=%s banger.root=/dev/vda",
		operation_id(op), vm->self.name);
	const struct vmm_spec spec = {
		.name = vm->self.name,
		.op_id = operation_id(op),
		.dir = vm->dir,
		.accel = vm->accel,
		.cpus = vm->cpus,
		.memory = vm->memory,
		.kernel_fd = vm->kernel_fd,
		.initrd_fd = vm->initrd_fd,
		.append = append,
		.disk_fd = vm->disk_fd,
		.disk_scratch = vm->scratch,
		.console_fd = vm->output_fd,
	};
	int r = vm->service->driver->start(vm->service->deps.config, &spec, &vm->vmm, err);
	/* Its copy is the only one now: the console ends when the VMM does. */
	banger_closep(&vm->output_fd);
	vm->output_fd = -1;
	if (r == 0)
		log_info("VM started", KV_S("vm", vm->self.name), KV_S("image", vm->image.name),
			KV_S("kernel", vm->kernel.name), KV_S("accel", vm_accel_name(vm->accel)),
			KV_I("pid", vm->vmm.pid), KV_S("disk", vm->scratch ? "clone" : "overlay"));
	return r;
}

/* What the console said last, for a VM that failed. */
static void add_console(struct vm *vm, struct banger_error *err)
{
	char said[CONSOLE_SAID];
	struct banger_error whole;

	console_read(vm->console);
	console_summary(vm->console, said, sizeof(said));
	if (!err || !said[0])
		return;
	banger_error_set(
		&whole, err->code, "%.400s; its console ends with: %s", err->message, said);
	*err = whole;
}

static int relay(struct vm *vm, struct operation *op, const struct vm_run *run,
	struct vm_result *ret, struct banger_error *err)
{
	int64_t now = banger_monotonic_us();
	struct relay_result result = {0};
	const struct relay r = {
		.port = vm->vmm.port,
		.cancel_fd = operation_cancel_fd(op),
		.vmm_fd = vm->vmm.pidfd,
		.boot_by = now + BOOT_US,
		.end_by = run->timeout_ms ? now + run->timeout_ms * 1000 : 0,
		.stdin_fd = run->stdin_fd,
		.stdout_fd = run->stdout_fd,
		.stderr_fd = run->stderr_fd,
		.exec = &vm->command.exec,
		.console = vm->console,
	};
	int e = relay_run(&r, &result, err);
	if (e < 0) {
		if (e == -EHOSTDOWN || e == -EUCLEAN || (e == -ETIMEDOUT && !result.hello_us))
			add_console(vm, err);
		banger_error_prefix(err, "VM \"%s\"", vm->self.name);
		return e;
	}
	log_info("VM's command ended", KV_S("vm", vm->self.name),
		KV_I("exit_code", result.exit_code), KV_I("signal", result.signal),
		KV_D("boot_ms", (result.hello_us - now) / 1000.0));
	strcpy(ret->name, vm->self.name);
	ret->exit_code = result.exit_code;
	ret->signal = result.signal;
	ret->accel = vm_accel_name(vm->accel);
	return 0;
}

static void vm_done(struct vm *vm)
{
	vmm_done(&vm->vmm);
	banger_closep(&vm->kernel_fd);
	banger_closep(&vm->initrd_fd);
	banger_closep(&vm->disk_fd);
	banger_closep(&vm->output_fd);
	console_freep(&vm->console);
	banger_closep(&vm->dir_fd);
	if (vm->dir[0])
		remove_tree(vm->dir);
	delist(vm);
	command_done(&vm->command);
	banger_image_done(&vm->image);
	banger_kernel_done(&vm->kernel);
}

int vm_service_run(struct vm_service *s, struct operation *op, const struct vm_run *run,
	struct vm_result *ret, struct banger_error *err)
{
	_cleanup_(vm_done) struct vm vm = {.service = s,
		.dir_fd = -1,
		.kernel_fd = -1,
		.initrd_fd = -1,
		.disk_fd = -1,
		.output_fd = -1,
		.vmm = {.pidfd = -1, .port = -1}};

	snprintf(vm.self.name, sizeof(vm.self.name), "vm-%s", operation_id(op) + 3);
	int r = check_limits(&vm, run, err);
	if (r == 0)
		r = find_parts(&vm, run, err);
	if (r == 0)
		r = open_kernel(&vm, err);
	if (r == 0)
		r = get_initrd(&vm, err);
	if (r == 0)
		r = choose_accel(&vm, run, err);
	if (r == 0)
		r = make_dir(&vm, err);
	if (r == 0)
		r = make_disk(&vm, err);
	if (r == 0)
		r = operation_check_cancelled(op, err);
	if (r == 0)
		r = start(&vm, op, err);
	return r == 0 ? relay(&vm, op, run, ret, err) : r;
}

/* ---- the service */

int vm_service_new(
	const struct vm_service_deps *deps, struct vm_service **ret, struct banger_error *err)
{
	struct vm_service *s = calloc(1, sizeof(*s));
	int r = 0;

	if (!s)
		return banger_error_oom(err);
	s->deps = *deps;
	s->driver = &vmm_qemu;
	s->vms_fd = -1;
	for (size_t i = 0; i < INITRDS; i++)
		s->initrds[i].fd = -1;
	pthread_mutex_init(&s->lock, NULL);
	if (mkdirat(deps->state_dir_fd, "vms", 0700) < 0 && errno != EEXIST)
		r = banger_error_set_errno(err, errno, "cannot make the directory vms");
	if (r == 0) {
		s->vms_fd = openat(
			deps->state_dir_fd, "vms", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
		if (s->vms_fd < 0)
			r = banger_error_set_errno(err, errno, "cannot open the directory vms");
	}
	if (r == 0)
		r = accel_new(deps->config, s->driver, deps->state_dir_fd, &s->accel, err);
	if (r < 0) {
		vm_service_freep(&s);
		return r;
	}
	*ret = s;
	return 0;
}

void vm_service_freep(struct vm_service **p)
{
	struct vm_service *s = *p;

	if (!s)
		return;
	accel_freep(&s->accel);
	for (size_t i = 0; i < INITRDS; i++)
		banger_closep(&s->initrds[i].fd);
	banger_closep(&s->vms_fd);
	pthread_mutex_destroy(&s->lock);
	free(s);
	*p = NULL;
}

int vm_service_recover(struct vm_service *s, struct banger_error *err)
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
		char path[PATH_MAX];

		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		log_info("removing what a VM left", KV_S("vm", e->d_name));
		snprintf(path, sizeof(path), "%s/vms/%s", s->deps.config->state_dir, e->d_name);
		remove_tree(path);
	}
	return 0;
}

/* ---- doctor */

/* So that doctor can tell before the first VM: start the trial with any kernel there is. */
static void try_kvm(struct vm_service *s)
{
	struct vm vm = {.service = s, .kernel_fd = -1, .initrd_fd = -1};
	_cleanup_free_ char *dir = NULL;
	struct banger_error err;

	if (find_kernel(s, s->deps.config->default_kernel, &vm.kernel, &err) == 0 &&
		open_kernel(&vm, &err) == 0 && get_initrd(&vm, &err) == 0 &&
		asprintf(&dir, "%s/vms", s->deps.config->state_dir) > 0) {
		accel_begin_trial(s->accel, vm.kernel_fd, vm.initrd_fd, dir);
		accel_wait(s->accel, 7000);
	}
	banger_closep(&vm.kernel_fd);
	banger_closep(&vm.initrd_fd);
	banger_kernel_done(&vm.kernel);
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
	char version[64] = "", detail[512];

	if (s->driver->version(s->deps.config, version, sizeof(version), &err) < 0)
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
}
