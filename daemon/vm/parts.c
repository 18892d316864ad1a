/* SPDX-License-Identifier: Apache-2.0 */
/* What a VM needs of others: its kernel, an initrd for it, an accelerator, and limits that this host can keep. */
#include <fcntl.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <banger/log.h>
#include "vm/initrd.h"
#include "vm/internal.h"

#define MEMORY_DEFAULT (256LL << 20)
#define MEMORY_MIN (64LL << 20)

/* ---- kernels */

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

int parts_find_kernel(
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

int parts_open_kernel(
	struct vm_service *s, const struct banger_kernel *k, int *ret, struct banger_error *err)
{
	const struct vm_service_deps *d = &s->deps;
	struct banger_error none;

	if (d->kernel_open(d->kernels, k, "vmlinux", ret, &none) == 0)
		return 0;
	return d->kernel_open(d->kernels, k, "vmlinuz", ret, err);
}

/* ---- the VMM */

int parts_check_vmm(struct vm_service *s, char *buf, size_t size, struct banger_error *err)
{
	int r = s->driver->version(s->deps.config, buf, size, err);

	if (r == 0 && atoi(buf) < s->driver->oldest)
		return banger_error_set(err, BANGER_UNSUPPORTED,
			"%s %s is too old: banger needs %d.0 or newer", s->driver->name, buf,
			s->driver->oldest);
	return r;
}

/* ---- limits */

int parts_check_limits(
	struct vm_service *s, int64_t *cpus, int64_t *memory, struct banger_error *err)
{
	long most_cpus = sysconf(_SC_NPROCESSORS_ONLN);
	struct sysinfo info;

	if (most_cpus > s->driver->max_cpus)
		most_cpus = s->driver->max_cpus;
	int64_t c = *cpus ?: 1;
	if (c < 1 || c > most_cpus)
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"a VM here has 1 to %ld CPUs, not %lld", most_cpus, (long long)c);
	if (sysinfo(&info) < 0)
		return banger_error_set_errno(
			err, errno, "cannot find out how much memory there is");
	int64_t most = (int64_t)info.totalram * info.mem_unit;
	int64_t m = *memory ? *memory & ~((1LL << 20) - 1) : MEMORY_DEFAULT;
	if (m < MEMORY_MIN || m > most)
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"a VM here has %lld to %lld MiB of memory, not %lld",
			(long long)(MEMORY_MIN >> 20), (long long)(most >> 20),
			(long long)(*memory >> 20));
	*cpus = c;
	*memory = m;
	return 0;
}

/* ---- initrds */

static bool same_file(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
	       a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

/* A copy of the initrd that was made for this kernel and agent, or -1. */
static int recall_initrd(
	struct vm_service *s, const char *kernel_id, unsigned features, const struct stat *agent)
{
	int fd = -1;

	pthread_mutex_lock(&s->lock);
	for (size_t i = 0; i < INITRDS && fd < 0; i++)
		if (s->initrds[i].fd >= 0 && strcmp(s->initrds[i].kernel_id, kernel_id) == 0 &&
			s->initrds[i].features == features &&
			same_file(&s->initrds[i].agent, agent))
			fd = fcntl(s->initrds[i].fd, F_DUPFD_CLOEXEC, 0);
	pthread_mutex_unlock(&s->lock);
	return fd;
}

static void keep_initrd(struct vm_service *s, const char *kernel_id, unsigned features,
	const struct stat *agent, int fd)
{
	int kept = fcntl(fd, F_DUPFD_CLOEXEC, 0);

	pthread_mutex_lock(&s->lock);
	banger_closep(&s->initrds[INITRDS - 1].fd);
	memmove(s->initrds + 1, s->initrds, sizeof(s->initrds) - sizeof(s->initrds[0]));
	strcpy(s->initrds[0].kernel_id, kernel_id);
	s->initrds[0].features = features;
	s->initrds[0].agent = *agent;
	s->initrds[0].fd = kept;
	pthread_mutex_unlock(&s->lock);
}

int parts_open_initrd(struct vm_service *s, const struct banger_kernel *k, unsigned features,
	int *ret, struct banger_error *err)
{
	_cleanup_free_ char *path = NULL;
	struct stat agent;

	int r = banger_config_program(s->deps.config, "banger-agent", &path, err);
	if (r < 0)
		return r;
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &agent) < 0)
		return banger_error_set_errno(err, errno, "cannot open the guest agent %s", path);
	_cleanup_close_ int initrd = recall_initrd(s, k->id, features, &agent);
	if (initrd < 0) {
		r = initrd_build(&s->deps, k, features, fd, &initrd, err);
		if (r < 0)
			return r;
		keep_initrd(s, k->id, features, &agent, initrd);
	}
	*ret = TAKE_FD(initrd);
	return 0;
}

/* ---- accelerators */

int parts_choose_accel(struct vm_service *s, const char *want, int kernel_fd, int initrd_fd,
	enum vm_accel *ret, struct banger_error *err)
{
	struct accel_verdict v;

	if (strcmp(want, "tcg") == 0) {
		*ret = VM_TCG;
		return 0;
	}
	accel_verdict(s->accel, &v);
	if (strcmp(want, "kvm") == 0 && v.kvm == ACCEL_NO)
		return banger_error_set(
			err, BANGER_UNSUPPORTED, "KVM cannot be used here: %s", v.reason);
	if (strcmp(want, "kvm") == 0 || v.kvm == ACCEL_YES) {
		*ret = VM_KVM;
		return 0;
	}
	if (v.kvm == ACCEL_UNKNOWN)
		accel_begin_trial(s->accel, kernel_fd, initrd_fd);
	*ret = VM_TCG;
	return 0;
}
