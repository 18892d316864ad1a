/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Root without root's powers. What is left after this:
 *	- one capability, CAP_NET_ADMIN, and no way to another: bounding set, ambient set and securebits, no_new_privs
 *	- the system calls on the list; any other ends the process. None of them starts a program
 *	- one file, /dev/net/tun, to open (Landlock, where the kernel has it; in any case no file is made or
 *	  only read), and one directory in which the socket may be removed
 *	- little memory, few descriptors, no core
 * so that a mistake in parsing a request gives its caller interfaces, and nothing else of root's.
 */
#include "sandbox.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/if_tun.h>
#include <linux/netlink.h>
#include <linux/securebits.h>
#include <seccomp.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>

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

#define MEMORY_MAX (512L << 20)
#define FDS_MAX 256

static int limit(int resource, rlim_t value, struct banger_error *err)
{
	const struct rlimit r = {value, value};

	return setrlimit(resource, &r) < 0
		       ? banger_error_set_errno(err, errno, "cannot limit itself")
		       : 0;
}

static int limit_all(struct banger_error *err)
{
	int r = limit(RLIMIT_CORE, 0, err);

	if (r == 0)
		r = limit(RLIMIT_NOFILE, FDS_MAX, err);
	if (r == 0 && !SANITIZED)
		r = limit(RLIMIT_AS, MEMORY_MAX, err);
	return r;
}

static int drop_capabilities(struct banger_error *err)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	const uint32_t keep = 1u << CAP_NET_ADMIN;
	struct __user_cap_data_struct caps[2] = {{.effective = keep, .permitted = keep}};

	for (int i = 0; prctl(PR_CAPBSET_READ, i, 0, 0, 0) >= 0; i++)
		if (i != CAP_NET_ADMIN && prctl(PR_CAPBSET_DROP, i, 0, 0, 0) < 0)
			return banger_error_set_errno(err, errno, "cannot drop capabilities");
	if (prctl(PR_SET_SECUREBITS, SECURE_ALL_BITS | SECURE_ALL_LOCKS, 0, 0, 0) < 0 ||
		prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 ||
		syscall(SYS_capset, &header, caps) < 0)
		return banger_error_set_errno(
			err, errno, "cannot drop capabilities: is it started by root?");
	if (prctl(PR_SET_DUMPABLE, 0) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return banger_error_set_errno(err, errno, "cannot give up privileges");
	return 0;
}

/* ---- Landlock, as its newer versions have it; a kernel takes as much as it knows */

#define LANDLOCK_EXECUTE (1u << 0)
#define LANDLOCK_WRITE (1u << 1)
#define LANDLOCK_READ (1u << 2)
#define LANDLOCK_REMOVE_FILE (1u << 5)

/* The device alone is to be opened. Removing a file is left to the rule of seccomp's. */
static int landlock(struct banger_error *err)
{
	const uint64_t handled = ((UINT64_C(1) << 13) - 1) & ~(uint64_t)LANDLOCK_REMOVE_FILE;
	struct {
		uint64_t allowed;
		int32_t fd;
	} __attribute__((packed)) rule = {LANDLOCK_READ | LANDLOCK_WRITE, -1};
	_cleanup_close_ int tun = open("/dev/net/tun", O_PATH | O_CLOEXEC);

	if (syscall(SYS_landlock_create_ruleset, NULL, 0, 1U) <= 0)
		return 0; /* not built in, or switched off */
	_cleanup_close_ int fd =
		syscall(SYS_landlock_create_ruleset, &handled, sizeof(handled), 0U);
	if (fd < 0)
		return banger_error_set_errno(err, errno, "cannot restrict itself by Landlock");
	rule.fd = tun;
	/* Without the device there are no TAPs, and the request for one says so. */
	if ((tun >= 0 && syscall(SYS_landlock_add_rule, fd, 1, &rule, 0U) < 0) ||
		syscall(SYS_landlock_restrict_self, fd, 0U) < 0)
		return banger_error_set_errno(err, errno, "cannot restrict itself by Landlock");
	return 0;
}

/* ---- system calls */

static const int allowed[] = {
	/* descriptors and sockets that it has or is given */
	SCMP_SYS(read),
	SCMP_SYS(write),
	SCMP_SYS(close),
	SCMP_SYS(poll),
	SCMP_SYS(ppoll),
	SCMP_SYS(pselect6),
	SCMP_SYS(select),
	SCMP_SYS(accept4),
	SCMP_SYS(bind),
	SCMP_SYS(recvmsg),
	SCMP_SYS(recvfrom),
	SCMP_SYS(sendmsg),
	SCMP_SYS(sendto),
	SCMP_SYS(getsockopt),
	SCMP_SYS(setsockopt),
	SCMP_SYS(getsockname),
	SCMP_SYS(shutdown),
	SCMP_SYS(newfstatat),
	SCMP_SYS(fstat),
	SCMP_SYS(lseek),
	/* memory; mmap and mprotect are below */
	SCMP_SYS(brk),
	SCMP_SYS(munmap),
	SCMP_SYS(mremap),
	SCMP_SYS(madvise),
	/* itself */
	SCMP_SYS(futex),
	SCMP_SYS(rt_sigprocmask),
	SCMP_SYS(rt_sigreturn),
	SCMP_SYS(restart_syscall),
	SCMP_SYS(getpid),
	SCMP_SYS(gettid),
	SCMP_SYS(getuid),
	SCMP_SYS(geteuid),
	SCMP_SYS(getrandom),
	SCMP_SYS(clock_gettime),
	SCMP_SYS(gettimeofday),
	SCMP_SYS(exit),
	SCMP_SYS(exit_group),
};

static const struct {
	int call;
	unsigned argument;
	uint64_t value;
} conditional[] = {
	{SCMP_SYS(ioctl), 1, TUNSETIFF}, {SCMP_SYS(ioctl), 1, TUNSETOWNER},
	{SCMP_SYS(fcntl), 1, F_GETFL}, {SCMP_SYS(fcntl), 1, F_SETFL},
	{SCMP_SYS(socket), 0, AF_INET}, /* to try a port */
};

static int allow_files(scmp_filter_ctx ctx, int dir_fd)
{
	const uint64_t flags = O_RDWR | O_CLOEXEC | O_NONBLOCK;
	int r = seccomp_rule_add(
		ctx, SCMP_ACT_ALLOW, SCMP_SYS(openat), 1, SCMP_A2(SCMP_CMP_EQ, flags));

	/* Configuration that a library may look for after all: it does without. */
	if (r == 0)
		r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EACCES), SCMP_SYS(openat), 1,
			SCMP_A2(SCMP_CMP_NE, flags));
	if (r == 0 && dir_fd >= 0)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(unlinkat), 2,
			SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)dir_fd), SCMP_A2(SCMP_CMP_EQ, 0));
	return r;
}

static int allow_memory(scmp_filter_ctx ctx)
{
	int r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 2,
		SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0),
		SCMP_A3(SCMP_CMP_MASKED_EQ, MAP_ANONYMOUS, MAP_ANONYMOUS));

	if (r == 0)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
			SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	/* abort(3), so that our own mistakes do not look like a breach. */
	if (r == 0)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
			SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid()));
	return r == 0 && SANITIZED ? seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(sigaltstack), 0)
				   : r;
}

static int filter(int dir_fd, struct banger_error *err)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_KILL_PROCESS);
	int r = 0;

	if (!ctx)
		return banger_error_oom(err);
	for (size_t i = 0; i < ELEMENTSOF(allowed) && r == 0; i++)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, allowed[i], 0);
	for (size_t i = 0; i < ELEMENTSOF(conditional) && r == 0; i++)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, conditional[i].call, 1,
			SCMP_CMP64(conditional[i].argument, SCMP_CMP_EQ, conditional[i].value));
	if (r == 0)
		r = allow_files(ctx, dir_fd);
	if (r == 0)
		r = allow_memory(ctx);
	if (r == 0)
		r = seccomp_load(ctx);
	seccomp_release(ctx);
	return r < 0 ? banger_error_set_errno(err, r, "cannot restrict its system calls") : 0;
}

int helper_sandbox(int dir_fd, struct banger_error *err)
{
	int r = limit_all(err);

	if (r == 0)
		r = drop_capabilities(err);
	if (r == 0)
		r = landlock(err);
	return r == 0 ? filter(dir_fd, err) : r;
}
