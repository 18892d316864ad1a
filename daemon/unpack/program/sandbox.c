/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Each layer of this holds without the others. seccomp is required: a kernel without it is refused.
 * Landlock is a second lock on the same door, for the case that a system call on the list turns out
 * to do more than was thought; a kernel without it is accepted.
 *
 * The structures of Landlock are written down here, as newer versions have them, since the headers
 * of the machine that banger is built on may be older than the kernel that it runs on. The kernel
 * takes as much of them as it knows.
 */
#include "unpack/program/sandbox.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <seccomp.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

/* ---- Landlock */

struct landlock_attr {
	uint64_t fs, net, scoped;
};

/* What a ruleset of a version can handle; handled and allowed nowhere is forbidden everywhere. */
static void landlock_handle(int abi, struct landlock_attr *a, size_t *ret_size)
{
	static const int fs_rights[] = {0, 13, 14, 15, 15, 16}; /* by version */
	int rights = abi < (int)ELEMENTSOF(fs_rights) ? fs_rights[abi] : 16;

	*a = (struct landlock_attr){.fs = (UINT64_C(1) << rights) - 1};
	*ret_size = sizeof(a->fs);
	if (abi >= 4) {
		a->net = 3; /* bind and connect of TCP */
		*ret_size = sizeof(a->fs) + sizeof(a->net);
	}
	if (abi >= 6) {
		a->scoped = 3; /* abstract sockets, signals */
		*ret_size = sizeof(*a);
	}
}

static int landlock(int *ret_abi, struct banger_error *err)
{
	struct landlock_attr attr;
	size_t size;
	int abi = syscall(SYS_landlock_create_ruleset, NULL, 0, 1U);

	*ret_abi = 0;
	if (abi <= 0)
		return 0; /* not built in, or switched off */
	landlock_handle(abi, &attr, &size);
	_cleanup_close_ int fd = syscall(SYS_landlock_create_ruleset, &attr, size, 0U);
	if (fd < 0 || syscall(SYS_landlock_restrict_self, fd, 0U) < 0)
		return banger_error_set_errno(err, errno, "cannot restrict itself by Landlock");
	*ret_abi = abi;
	return 0;
}

/* ---- */

static int drop_capabilities(struct banger_error *err)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[2] = {{0}};

	if (syscall(SYS_capset, &header, none) < 0)
		return banger_error_set_errno(err, errno, "cannot drop capabilities");
	return 0;
}

static int limit(int resource, int64_t value, int64_t grace, struct banger_error *err)
{
	const struct rlimit r = {.rlim_cur = value, .rlim_max = value + grace};

	if (setrlimit(resource, &r) < 0)
		return banger_error_set_errno(err, errno, "cannot limit itself");
	return 0;
}

int sandbox_restrict(
	const struct sandbox_limits *limits, int *ret_landlock, struct banger_error *err)
{
	int r = limit(RLIMIT_CORE, 0, 0, err);

	/* AddressSanitizer's shadow takes terabytes of address space. */
	if (r == 0 && limits->memory > 0 && !SANITIZED)
		r = limit(RLIMIT_AS, limits->memory, 0, err);
	/* At the limit SIGXCPU, which says why; SIGKILL only after it. */
	if (r == 0 && limits->cpu_seconds > 0)
		r = limit(RLIMIT_CPU, limits->cpu_seconds, 5, err);
	if (r < 0)
		return r;
	if (prctl(PR_SET_DUMPABLE, 0) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return banger_error_set_errno(err, errno, "cannot give up privileges");
	r = drop_capabilities(err);
	return r < 0 ? r : landlock(ret_landlock, err);
}

/* ---- system calls */

static const int allowed[] = {
	/* the descriptors */
	SCMP_SYS(read),
	SCMP_SYS(write),
	SCMP_SYS(pread64),
	SCMP_SYS(pwrite64),
	SCMP_SYS(lseek),
	SCMP_SYS(fallocate),
	SCMP_SYS(ftruncate),
	SCMP_SYS(close),
	SCMP_SYS(poll),
	SCMP_SYS(ppoll),
	/* memory; mmap and mprotect are below */
	SCMP_SYS(brk),
	SCMP_SYS(munmap),
	SCMP_SYS(mremap),
	SCMP_SYS(madvise),
	/* threads among themselves */
	SCMP_SYS(futex),
	SCMP_SYS(sched_yield),
	SCMP_SYS(rt_sigprocmask),
	SCMP_SYS(rt_sigreturn),
	SCMP_SYS(restart_syscall),
	SCMP_SYS(getpid),
	SCMP_SYS(gettid),
	SCMP_SYS(exit),
	SCMP_SYS(exit_group),
	/* where the vDSO does not do it */
	SCMP_SYS(clock_gettime),
};

/* Questions that the C library and libext2fs put to the system and do without an answer to: how
 * much memory there is (qsort), whether the process is privileged (before looking at the
 * environment). */
static const int refused[] = {SCMP_SYS(sysinfo), SCMP_SYS(sched_getaffinity), SCMP_SYS(prctl),
	SCMP_SYS(getuid), SCMP_SYS(geteuid), SCMP_SYS(getgid), SCMP_SYS(getegid),
	SCMP_SYS(getrandom)};

static int allow_all(scmp_filter_ctx ctx)
{
	int r = 0;

	for (size_t i = 0; i < ELEMENTSOF(refused) && r == 0; i++)
		r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), refused[i], 0);

	for (size_t i = 0; i < ELEMENTSOF(allowed) && r == 0; i++)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, allowed[i], 0);
	if (r == 0 && SANITIZED)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(sigaltstack), 0);
	return r;
}

/* With conditions on their arguments. */
static int allow_some(scmp_filter_ctx ctx)
{
	/* Memory of its own that cannot be executed. */
	int r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 2,
		SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0),
		SCMP_A3(SCMP_CMP_MASKED_EQ, MAP_ANONYMOUS, MAP_ANONYMOUS));

	if (r == 0)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
			SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	/* O_DIRECT on and off. */
	if (r == 0)
		r = seccomp_rule_add(
			ctx, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1, SCMP_A1(SCMP_CMP_EQ, F_GETFL));
	if (r == 0)
		r = seccomp_rule_add(
			ctx, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1, SCMP_A1(SCMP_CMP_EQ, F_SETFL));
	/* abort(3), so that our own mistakes do not look like a breach. */
	if (r == 0)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
			SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid()));
	return r;
}

static int allow_on(scmp_filter_ctx ctx, int syscall, int fd)
{
	return fd < 0 ? 0
		      : seccomp_rule_add(ctx, SCMP_ACT_ALLOW, syscall, 1,
				SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)fd));
}

static int allow_clone(scmp_filter_ctx ctx, int fd, unsigned long request)
{
	return fd < 0 ? 0
		      : seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 2,
				SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)fd),
				SCMP_A1(SCMP_CMP_EQ, request));
}

static int allow_rights(scmp_filter_ctx ctx, const struct sandbox_rights *rights)
{
	int r = allow_on(ctx, SCMP_SYS(recvmsg), rights->receive_fd);

	if (r == 0)
		r = allow_clone(ctx, rights->clone_to, FICLONE);
	if (r == 0)
		r = allow_clone(ctx, rights->clone_into, FICLONERANGE);
	return r;
}

int sandbox_seal(const struct sandbox_rights *rights, struct banger_error *err)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_KILL_PROCESS);

	if (!ctx)
		return banger_error_oom(err);
	/* For every thread that there is. */
	int r = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_TSYNC, 1);
	if (r == 0)
		r = allow_all(ctx);
	if (r == 0)
		r = allow_some(ctx);
	if (r == 0)
		r = allow_rights(ctx, rights);
	if (r == 0)
		r = seccomp_load(ctx);
	seccomp_release(ctx);
	if (r < 0)
		return banger_error_set_errno(err, r, "cannot restrict its system calls");
	return 0;
}
