/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Running other programs. Output goes to a file without a name rather than through a pipe, so a
 * program that leaves a child behind, or writes a lot, cannot hold us up.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "program.h"

enum { OUTPUT_MAX = 64 << 10 };

extern char **environ;

/* `dir` (of length n) and name, if a program is there. */
static char *program_at(const char *dir, size_t n, const char *name)
{
	char *path = NULL;

	if (asprintf(&path, "%.*s/%s", (int)n, dir, name) < 0)
		return NULL;
	char *real = access(path, X_OK) == 0 ? realpath(path, NULL) : NULL;
	free(path);
	return real;
}

char *program_find(const char *name)
{
	const char *path = getenv("PATH");
	char *found = NULL;

	for (const char *p = path ? path : ""; *p && !found;) {
		size_t n = strcspn(p, ":");

		if (n > 0)
			found = program_at(p, n, name);
		p += n + (p[n] == ':');
	}
	if (!found)
		found = program_at("/usr/sbin", 9, name);
	return found ? found : program_at("/sbin", 5, name);
}

/* In a build tree the programs stand in neighbouring directories. */
static char *beside(const char *name)
{
	static const char *const near[] = {
		"", "/../fs", "/../daemon", "/../daemon/bangerd", "/../daemon/unpack"};
	char self[4096];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 64);
	char *slash, *found = NULL;

	if (n <= 0)
		return NULL;
	self[n] = '\0';
	slash = strrchr(self, '/');
	if (!slash)
		return NULL;
	for (size_t i = 0; i < ELEMENTSOF(near) && !found; i++) {
		strcpy(slash, near[i]);
		found = program_at(self, strlen(self), name);
	}
	return found;
}

int program_find_own(
	const struct banger_config *config, const char *name, char **ret, struct banger_error *err)
{
	char *found = beside(name);

	if (!found && banger_config_program(config, name, &found, NULL) < 0)
		found = program_find(name);
	if (!found)
		return banger_error_set(err, BANGER_NOT_FOUND,
			"%s was not found: not beside banger-ctl, not in %s, not in PATH", name,
			config->libexec_dir ? config->libexec_dir : BANGER_LIBEXECDIR);
	*ret = found;
	return 0;
}

int program_start(const char *const *argv, int out_fd, pid_t *ret, struct banger_error *err)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none;
	pid_t pid;

	sigemptyset(&none);
	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
	int e = posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	if (!e)
		e = posix_spawn_file_actions_adddup2(&actions, out_fd, STDOUT_FILENO);
	if (!e)
		e = posix_spawn_file_actions_adddup2(&actions, out_fd, STDERR_FILENO);
	if (!e)
		e = posix_spawn(&pid, argv[0], &actions, &attr, (char *const *)argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attr);
	if (e)
		return banger_error_set_errno(err, e, "cannot start %s", argv[0]);
	*ret = pid;
	return 0;
}

int program_wait(pid_t pid, int timeout_ms, int *ret_status, struct banger_error *err)
{
	_cleanup_close_ int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	struct pollfd p = {.fd = pidfd, .events = POLLIN};
	int n;

	do
		n = poll(&p, 1, timeout_ms);
	while (n < 0 && errno == EINTR);
	if (n == 0)
		kill(pid, SIGKILL);
	while (waitpid(pid, ret_status, 0) < 0)
		if (errno != EINTR)
			return banger_error_set_errno(
				err, errno, "cannot wait for process %d", (int)pid);
	if (n == 0)
		return banger_error_set(
			err, BANGER_TIMEOUT, "it took longer than %d seconds", timeout_ms / 1000);
	return 0;
}

int program_capture(const char *const *argv, int timeout_ms, char **ret_output, int *ret_status,
	struct banger_error *err)
{
	_cleanup_close_ int out = memfd_create("output", MFD_CLOEXEC);
	_cleanup_free_ char *text = calloc(1, OUTPUT_MAX + 1);
	pid_t pid;

	if (!text)
		return banger_error_oom(err);
	if (out < 0)
		return banger_error_set_errno(err, errno, "cannot keep the output of %s", argv[0]);
	int r = program_start(argv, out, &pid, err);
	if (r == 0)
		r = program_wait(pid, timeout_ms, ret_status, err);
	if (r < 0)
		return r;
	if (pread(out, text, OUTPUT_MAX, 0) < 0)
		return banger_error_set_errno(err, errno, "cannot read the output of %s", argv[0]);
	*ret_output = TAKE_PTR(text);
	return 0;
}
