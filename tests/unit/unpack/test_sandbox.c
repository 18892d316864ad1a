/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a process in the sandbox can still do, and what kills it. Each attempt is a child of its
 * own; the attempts are made by the first thread and by one that was there before the sandbox was
 * sealed.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "unpack/program/sandbox.h"

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#define SANITIZED __has_feature(address_sanitizer)
#else
#define SANITIZED 0
#endif

static int file; /* open in each child */
static int receive_from;

static void try_open(void)
{
	open("/etc/passwd", O_RDONLY);
}
static void try_create(void)
{
	syscall(SYS_creat, "/var/tmp/banger-unpack-escape", 0644);
}
static void try_openat2(void)
{
	syscall(SYS_openat2, AT_FDCWD, "/", NULL, 0);
}
static void try_stat(void)
{
	access("/etc/passwd", F_OK);
}
static void try_socket(void)
{
	socket(AF_UNIX, SOCK_STREAM, 0);
}
static void try_fork(void)
{
	syscall(SYS_fork);
}
static void try_clone(void)
{
	syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
}
static void try_exec(void)
{
	execl("/bin/true", "true", NULL);
}
static void try_kill(void)
{
	kill(getppid(), 0);
}
static void try_signal_parent(void)
{
	syscall(SYS_tgkill, 1, 1, 0);
}
static void try_ptrace(void)
{
	ptrace(PTRACE_TRACEME, 0, 0, 0);
}
static void try_exec_memory(void)
{
	(void)!mmap(
		NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}
static void try_map_file(void)
{
	(void)!mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, file, 0);
}
static void try_make_executable(void)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	mprotect(p, 4096, PROT_READ | PROT_EXEC);
}
static void try_ioctl(void)
{
	syscall(SYS_ioctl, file, 0x5421, 0);
}
static void try_dup(void)
{
	fcntl(file, F_DUPFD, 50);
}
static void try_chmod(void)
{
	fchmod(file, 0777);
}
static void try_io_uring(void)
{
	syscall(SYS_io_uring_setup, 1, NULL);
}
static void try_bpf(void)
{
	syscall(SYS_bpf, 0, NULL, 0);
}
static void try_mount(void)
{
	syscall(SYS_mount, "none", "/", "tmpfs", 0, NULL);
}

static int other; /* a descriptor without rights */
static void try_receive(void)
{
	struct msghdr msg = {0};
	recvmsg(other, &msg, MSG_DONTWAIT);
}
static void try_clone_file(void)
{
	syscall(SYS_ioctl, other, FICLONE, file);
}
static void try_clone_wrongly(void)
{
	syscall(SYS_ioctl, file, FICLONERANGE, NULL);
}

static void (*const forbidden[])(void) = {try_open, try_create, try_openat2, try_stat, try_socket,
	try_fork, try_clone, try_exec, try_kill, try_signal_parent, try_ptrace, try_exec_memory,
	try_map_file, try_make_executable, try_ioctl, try_dup, try_chmod, try_io_uring, try_bpf,
	try_mount, try_receive, try_clone_file, try_clone_wrongly};

struct attempt {
	void (*what)(void);
	int up;    /* a pipe: written when the thread is there */
	int start; /* a pipe: read before the attempt is made */
};

static void *attempt_later(void *arg)
{
	struct attempt *a = arg;
	char c;

	(void)!write(a->up, "x", 1);
	if (read(a->start, &c, 1) == 1)
		a->what();
	return NULL;
}

/* In a child. The attempt must not return; if it does the child exits with 77. */
static void attempt_in_sandbox(void (*what)(void), bool by_thread)
{
	const struct sandbox_limits limits = {.memory = (int64_t)1 << 30, .cpu_seconds = 10};
	struct sandbox_rights rights = SANDBOX_NO_RIGHTS;
	int ends_of_socket[2];
	struct banger_error err = {0};
	int up[2], ends[2], abi;
	pthread_t t;
	char c;

	file = open("/dev/null", O_RDWR);
	other = open("/dev/null", O_RDWR);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends_of_socket) < 0)
		_exit(1);
	receive_from = ends_of_socket[0];
	rights = (struct sandbox_rights){
		.receive_fd = receive_from, .clone_to = file, .clone_into = other};
	if (file < 0 || pipe(up) < 0 || pipe(ends) < 0)
		_exit(1);
	struct attempt a = {what, up[1], ends[0]};
	if (sandbox_restrict(&limits, &abi, &err) < 0)
		_exit(2);
	if (pthread_create(&t, NULL, attempt_later, &a) != 0 || read(up[0], &c, 1) != 1)
		_exit(3);
	if (sandbox_seal(&rights, &err) < 0)
		_exit(4);
	if (!by_thread)
		what();
	(void)!write(ends[1], "x", 1);
	pthread_join(t, NULL);
	_exit(77);
}

static int outcome(void (*what)(void), bool by_thread)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0)
		attempt_in_sandbox(what, by_thread);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static void kills(void **state)
{
	for (size_t i = 0; i < ELEMENTSOF(forbidden); i++)
		for (int by_thread = 0; by_thread < 2; by_thread++) {
			int status = outcome(forbidden[i], by_thread);
			if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGSYS)
				fail_msg("attempt %zu was let through: status %x", i, status);
		}
	assert_int_equal(access("/var/tmp/banger-unpack-escape", F_OK), -1);
}

static void work_as_usual(void)
{
	char buffer[64] = "";
	void *p = malloc(64 << 20);

	/* Nothing here may fail; a process that cannot do this cannot unpack. */
	if (!p || write(file, buffer, sizeof(buffer)) != sizeof(buffer) ||
		pread(file, buffer, 8, 0) != 0 || fcntl(file, F_GETFL) < 0)
		_exit(5);
	free(p);
	/* With rights: they are let through, and fail for other reasons. */
	struct msghdr msg = {0};
	if (recvmsg(receive_from, &msg, MSG_DONTWAIT) != -1 || errno != EAGAIN ||
		syscall(SYS_ioctl, file, FICLONE, -1) != -1 ||
		syscall(SYS_ioctl, other, FICLONERANGE, NULL) != -1)
		_exit(6);
}

static void lets_work(void **state)
{
	int status = outcome(work_as_usual, false);

	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 77);
}

static void take_too_much(void)
{
	char *volatile p = malloc((size_t)2 << 30); /* or the compiler would do without */

	if (p)
		_exit(6);
}

static void limits_memory(void **state)
{
	if (SANITIZED)
		skip(); /* its shadow memory takes terabytes: there is no limit */
	assert_int_equal(WEXITSTATUS(outcome(take_too_much, false)), 77);
}

/* Without seccomp, Landlock alone keeps files shut, and there is no capability left. */
static void landlock_alone(void **state)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		struct banger_error err = {0};
		int abi = 0;
		if (sandbox_restrict(&(struct sandbox_limits){0}, &abi, &err) < 0)
			_exit(1);
		if (abi > 0 && (open("/etc/passwd", O_RDONLY) >= 0 || open("/", O_RDONLY) >= 0))
			_exit(2);
		if (setpriority(PRIO_PROCESS, 0, -5) == 0)
			_exit(3);
		_exit(77);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 77);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(kills), cmocka_unit_test(lets_work),
		cmocka_unit_test(limits_memory), cmocka_unit_test(landlock_alone)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
