/* SPDX-License-Identifier: Apache-2.0 */
/* Programs that are really started: streams, environment, what cannot be started and why, and that the agent is as it was. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
#include "parts.h" /* cmocka has a fail() too, a macro */
#include <cmocka.h>

static int lowest_fd(void)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	close(fd);
	return fd;
}

static int run(uint16_t flags, const char *workdir, const char **argv, const char **env,
	struct program **ret, char *why)
{
	static const char *none[] = {NULL};
	const struct agent_exec e = {
		.user = "", .workdir = workdir, .argv = argv, .env = env ?: none, .flags = flags};

	why[0] = '\0';
	return program_start(1, &e, ret, why);
}

/* What a program says until it closes; NUL-terminated. */
static void take_all(int fd, char *to, size_t size)
{
	size_t n = 0;

	for (;;) {
		struct pollfd p = {fd, POLLIN, 0};
		assert_int_equal(poll(&p, 1, 10000), 1);
		ssize_t k = read(fd, to + n, size - 1 - n);
		if (k <= 0)
			break;
		n += k;
	}
	to[n] = '\0';
}

static int status_of(struct program *p)
{
	int status;

	assert_int_equal(waitpid(p->pid, &status, 0), p->pid);
	program_free(p);
	return status;
}

static void streams(void **state)
{
	const char *argv[] = {"sh", "-c",
		"read x; echo \"got $x\"; echo err >&2; echo $A $HOME; pwd; exit 3", NULL};
	const char *env[] = {"A=b", "HOME=/elsewhere", NULL};
	char why[WHY_MAX], said[256];
	struct program *p;
	int fd = lowest_fd();
	char **before = environ;

	assert_int_equal(run(0, "/usr", argv, env, &p, why), 0);
	assert_ptr_equal(environ, before);
	assert_int_equal(write(p->in.fd, "line\n", 5), 5);
	take_all(p->out.fd, said, sizeof(said));
	assert_string_equal(said, "got line\nb /elsewhere\n/usr\n");
	take_all(p->err.fd, said, sizeof(said));
	assert_string_equal(said, "err\n");
	assert_int_equal(WEXITSTATUS(status_of(p)), 3);
	assert_int_equal(lowest_fd(), fd);
}

/* PATH is the program's, not ours; and what cannot be started is told apart from a program that fails. */
static void refusals(void **state)
{
	const char *none[] = {"banger-there-is-none", NULL}, *dir[] = {"/", NULL},
		   *sh[] = {"sh", "-c", "true", NULL};
	const char *path[] = {"PATH=/nowhere", NULL};
	char why[WHY_MAX];
	struct program *p = NULL;
	int fd = lowest_fd();

	assert_int_equal(run(0, "", none, NULL, &p, why), -ENOENT);
	assert_string_equal(why, "cannot run \"banger-there-is-none\": not found in $PATH");
	assert_int_equal(run(0, "", sh, path, &p, why), -ENOENT);
	assert_int_equal(run(0, "/", dir, NULL, &p, why), -EACCES);
	assert_int_equal(run(0, "/nowhere", sh, NULL, &p, why), -ENOENT);
	assert_string_equal(
		why, "cannot enter the working directory \"/nowhere\": No such file or directory");
	assert_null(p);
	assert_int_equal(lowest_fd(), fd);
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* no zombies either */
	assert_int_equal(errno, ECHILD);
}

static void by_signal(void **state)
{
	const char *argv[] = {"sh", "-c", "sleep 100 & wait", NULL};
	char why[WHY_MAX], said[16];
	struct program *p;

	assert_int_equal(run(0, "/", argv, NULL, &p, why), 0);
	program_signal(p, SIGKILL);
	take_all(p->out.fd, said, sizeof(said)); /* its children are gone as well */
	assert_int_equal(WTERMSIG(status_of(p)), SIGKILL);
}

static void a_terminal(void **state)
{
	const char *argv[] = {"sh", "-c", "test -t 0 && stty size && echo $TERM", NULL};
	static const char *none[] = {NULL};
	const struct agent_exec e = {.user = "",
		.workdir = "/",
		.argv = argv,
		.env = none,
		.flags = AGENT_EXEC_TTY,
		.rows = 31,
		.cols = 77};
	char why[WHY_MAX] = "", said[256];
	struct program *p;

	assert_int_equal(program_start(1, &e, &p, why), 0);
	assert_int_equal(WEXITSTATUS(({
		int status;
		waitpid(p->pid, &status, 0);
		status;
	})),
		0);
	ssize_t n = read(p->out.fd, said, sizeof(said) - 1);
	said[n > 0 ? n : 0] = '\0';
	assert_string_equal(said, "31 77\r\nxterm\r\n");
	program_free(p);
}

/* Signals that the agent has blocked are not blocked in a program. */
static void signals_of_a_program(void **state)
{
	const char *argv[] = {"grep", "-E", "Sig(Blk|Ign)", "/proc/self/status", NULL};
	char why[WHY_MAX], said[256];
	sigset_t set;
	struct program *p;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	assert_int_equal(run(0, "/", argv, NULL, &p, why), 0);
	take_all(p->out.fd, said, sizeof(said));
	assert_string_equal(said, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
	status_of(p);
	sigprocmask(SIG_BLOCK, NULL, &set);
	assert_true(sigismember(&set, SIGTERM));
	assert_ptr_equal(signal(SIGPIPE, SIG_IGN), SIG_IGN);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(streams), cmocka_unit_test(refusals),
		cmocka_unit_test(by_signal), cmocka_unit_test(a_terminal),
		cmocka_unit_test(signals_of_a_program)};

	if (geteuid() != 0) /* it becomes the user that it was told, who is root */
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
