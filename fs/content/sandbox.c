/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The content process reads what strangers have made, so it keeps nothing that they could use: it
 * has the FUSE device, bangerd's socket and image files, and may open more image files. Three walls:
 *
 *	capabilities	none; for root CAP_DAC_READ_SEARCH, because images may belong to another
 * user Landlock	opening is reading, beneath the images directory; no other path exists
 *	seccomp		a list of system calls; no exec, no fork, no ptrace, no sockets but Unix
 * ones
 *
 * Landlock is there from Linux 5.13 on and may be switched off: without it the other two stand.
 * seccomp looks at numbers, not at paths; that openat cannot write is in its list too.
 *
 * Reconnecting to bangerd needs socket and connect; a thread needs clone (clone3, whose flags a
 * filter cannot see, is said not to exist; the C library then uses clone).
 */
#include <banger/log.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <sched.h>
#include <seccomp.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "sandbox.h"

static int drop_capabilities(struct banger_error *err)
{
	struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct d[2] = {0};

	if (geteuid() == 0)
		d[0].effective = d[0].permitted = 1u << CAP_DAC_READ_SEARCH;
	for (int cap = 0; cap <= CAP_LAST_CAP; cap++)
		(void)prctl(PR_CAPBSET_DROP, cap, 0, 0, 0); /* EPERM for who has none to lose */
	if (syscall(SYS_capset, &h, d) < 0)
		return banger_error_set_errno(err, errno, "cannot drop capabilities");
	return 0;
}

static int landlock(int images, struct banger_error *err)
{
	struct landlock_ruleset_attr attr = {
		.handled_access_fs = LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE |
				     LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR |
				     LANDLOCK_ACCESS_FS_REMOVE_DIR |
				     LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_CHAR |
				     LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG |
				     LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_MAKE_FIFO |
				     LANDLOCK_ACCESS_FS_MAKE_BLOCK | LANDLOCK_ACCESS_FS_MAKE_SYM};
	struct landlock_path_beneath_attr beneath = {
		.allowed_access = LANDLOCK_ACCESS_FS_READ_FILE, .parent_fd = images};
	_cleanup_close_ int rules =
		(int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0);

	if (rules < 0 && (errno == ENOSYS || errno == EOPNOTSUPP)) {
		log_debug("the kernel has no Landlock");
		return 0;
	}
	if (rules < 0 ||
		syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0) <
			0 ||
		syscall(SYS_landlock_restrict_self, rules, 0) < 0)
		return banger_error_set_errno(err, errno, "cannot confine itself with Landlock");
	return 0;
}

/* clang-format off */
static const int allowed[] = {
	/* files and the device */
	SCMP_SYS(read), SCMP_SYS(readv), SCMP_SYS(pread64), SCMP_SYS(preadv), SCMP_SYS(preadv2), SCMP_SYS(write), SCMP_SYS(writev),
	SCMP_SYS(close), SCMP_SYS(fstat), SCMP_SYS(newfstatat), SCMP_SYS(statx), SCMP_SYS(fadvise64),
	SCMP_SYS(fcntl), SCMP_SYS(lseek), SCMP_SYS(poll), SCMP_SYS(ppoll), SCMP_SYS(splice), SCMP_SYS(pipe2),
	/* the sockets */
	SCMP_SYS(connect), SCMP_SYS(sendto), SCMP_SYS(sendmsg), SCMP_SYS(recvfrom), SCMP_SYS(recvmsg),
	SCMP_SYS(shutdown), SCMP_SYS(getsockopt), SCMP_SYS(setsockopt),
	/* memory, threads, time */
	SCMP_SYS(mmap), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(mprotect), SCMP_SYS(madvise), SCMP_SYS(brk),
	SCMP_SYS(futex), SCMP_SYS(set_robust_list), SCMP_SYS(get_robust_list), SCMP_SYS(rseq),
	SCMP_SYS(sched_yield), SCMP_SYS(sched_getaffinity), SCMP_SYS(gettid), SCMP_SYS(getpid),
	SCMP_SYS(getuid), SCMP_SYS(geteuid), SCMP_SYS(getgid), SCMP_SYS(getegid),
	SCMP_SYS(clock_gettime), SCMP_SYS(gettimeofday), SCMP_SYS(nanosleep), SCMP_SYS(clock_nanosleep),
	SCMP_SYS(getrandom), SCMP_SYS(getrlimit), SCMP_SYS(sysinfo), SCMP_SYS(membarrier),
	/* signals and the end */
	SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn), SCMP_SYS(sigaltstack),
	SCMP_SYS(restart_syscall), SCMP_SYS(tgkill), SCMP_SYS(exit), SCMP_SYS(exit_group),
};
/* clang-format on */

static int add_rules(scmp_filter_ctx f)
{
	const unsigned write_flags = O_WRONLY | O_RDWR | O_CREAT | O_TRUNC | O_TMPFILE;
	int r = 0;

	for (size_t k = 0; k < ELEMENTSOF(allowed) && r == 0; k++)
		r = seccomp_rule_add(f, SCMP_ACT_ALLOW, allowed[k], 0);
	if (r == 0)
		r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(openat), 1,
			SCMP_A2(SCMP_CMP_MASKED_EQ, write_flags & ~(unsigned)O_DIRECTORY, 0));
	if (r == 0)
		r = seccomp_rule_add(
			f, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1, SCMP_A0(SCMP_CMP_EQ, AF_UNIX));
	if (r == 0)
		r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
			SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
	if (r == 0)
		r = seccomp_rule_add(f, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
	return r;
}

static int filter(struct banger_error *err)
{
	scmp_filter_ctx f = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	int r;

	if (!f)
		return banger_error_oom(err);
	r = add_rules(f);
	if (r == 0)
		r = seccomp_load(f);
	seccomp_release(f);
	return r < 0 ? banger_error_set_errno(err, r, "cannot confine itself with seccomp") : 0;
}

int sandbox_enter(int images, struct banger_error *err)
{
	struct rlimit none = {0};
	int r;

	(void)setrlimit(RLIMIT_CORE, &none);
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return banger_error_set_errno(err, errno, "cannot give up privileges");
	r = drop_capabilities(err);
	if (r == 0)
		r = landlock(images, err);
	return r < 0 ? r : filter(err);
}
