/* SPDX-License-Identifier: Apache-2.0 */
#include "background.h"
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define LOG_MAX (4 * 1024 * 1024)

/* The one that was started. */
static _Noreturn void wait_for(pid_t child, int fd)
{
	char ready;
	int status;
	ssize_t n;

	do {
		n = read(fd, &ready, 1);
	} while (n < 0 && errno == EINTR);
	if (n == 1)
		_exit(0);
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	_exit(WIFEXITED(status) && WEXITSTATUS(status) ? WEXITSTATUS(status) : 1);
}

int background_fork(int *ret_fd, struct banger_error *err)
{
	int pipes[2];

	if (pipe2(pipes, O_CLOEXEC) < 0)
		return banger_error_set_errno(err, errno, "cannot make a pipe");
	pid_t child = fork();
	if (child < 0) {
		int e = errno;
		close(pipes[0]);
		close(pipes[1]);
		return banger_error_set_errno(err, e, "cannot go into the background");
	}
	if (child > 0) {
		close(pipes[1]);
		wait_for(child, pipes[0]);
	}
	close(pipes[0]);
	setsid();
	*ret_fd = pipes[1];
	return 0;
}

void background_detach(void)
{
	struct stat st;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null < 0)
		return;
	dup2(null, STDIN_FILENO);
	dup2(null, STDOUT_FILENO);
	if (fstat(STDERR_FILENO, &st) < 0 || !S_ISREG(st.st_mode))
		dup2(null, STDERR_FILENO);
	close(null);
}

void background_ready(int fd)
{
	if (fd < 0)
		return;
	if (chdir("/") < 0 || write(fd, "", 1) != 1) {
		/* Nobody waits any more. */
	}
	close(fd);
}

void background_log_trim(void)
{
	struct stat st;

	if (fstat(STDERR_FILENO, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > LOG_MAX &&
		ftruncate(STDERR_FILENO, 0) < 0)
		errno = 0; /* it is as long as it is */
}

int background_log_to(const char *path, struct banger_error *err)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0600);

	if (fd < 0)
		return banger_error_set_errno(err, errno, "cannot write to the log %s", path);
	dup2(fd, STDERR_FILENO);
	close(fd);
	return 0;
}
