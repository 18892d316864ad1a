/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Modes are a terminal's, not a process's: whoever leaves without restoring them leaves a shell that echoes nothing. The
 * signals that mean "end" are read by whoever uses this (relay.c), who restores; here are those that are nobody's: a
 * crash, an abort, a timer. tcsetattr(3) may be called in their handlers.
 */
#include "terminal.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <termios.h>

static struct termios saved;
static volatile sig_atomic_t raw_fd = -1;

static void on_fatal(int number)
{
	if (raw_fd >= 0)
		tcsetattr(raw_fd, TCSANOW, &saved);
	raise(number); /* SA_RESETHAND: this time nobody is here */
}

static void guard(void)
{
	static const int numbers[] = {
		SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, SIGSYS, SIGALRM, SIGXCPU};
	struct sigaction now, ours = {.sa_handler = on_fatal, .sa_flags = (int)SA_RESETHAND};

	for (size_t i = 0; i < ELEMENTSOF(numbers); i++)
		if (sigaction(numbers[i], NULL, &now) == 0 && !(now.sa_flags & SA_SIGINFO) &&
			now.sa_handler == SIG_DFL)
			sigaction(numbers[i], &ours, NULL);
}

int terminal_raw(int fd, struct banger_error *err)
{
	struct termios raw;

	if (raw_fd >= 0)
		return 0;
	if (tcgetattr(fd, &saved) < 0)
		return banger_error_set_errno(err, errno, "cannot read the terminal's modes");
	raw = saved;
	cfmakeraw(&raw);
	guard();
	raw_fd = fd;
	if (tcsetattr(fd, TCSADRAIN, &raw) == 0)
		return 0;
	raw_fd = -1;
	return banger_error_set_errno(err, errno, "cannot set the terminal's modes");
}

bool terminal_is_ours(int fd)
{
	return tcgetpgrp(fd) == getpgrp();
}

void terminal_restore(void)
{
	int fd = raw_fd;

	if (fd < 0)
		return;
	if (terminal_is_ours(fd))
		tcsetattr(fd, TCSANOW, &saved);
	raw_fd = -1;
}

bool terminal_size(unsigned short *ret_rows, unsigned short *ret_cols)
{
	static const int fds[] = {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO};
	struct winsize size;

	for (size_t i = 0; i < ELEMENTSOF(fds); i++)
		if (ioctl(fds[i], TIOCGWINSZ, &size) == 0) {
			*ret_rows = size.ws_row;
			*ret_cols = size.ws_col;
			return true;
		}
	return false;
}

int terminal_reopen(int fd, int flags)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	int own = open(path, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	return own >= 0 ? own : fcntl(fd, F_DUPFD_CLOEXEC, 3);
}
