/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Other programs: where they are, and running one to see what it says.
 */
#ifndef BANGER_CTL_PROGRAM_H
#define BANGER_CTL_PROGRAM_H

#include <sys/types.h>
#include <banger/paths.h>

/* The path of one of banger's own programs: beside banger-ctl, in the libexec directory, else in
 * PATH. Caller frees. NOT_FOUND. */
int program_find_own(
	const struct banger_config *config, const char *name, char **ret, struct banger_error *err);
/* The path of a program in PATH or the system's directories for administrators; NULL: there is
 * none. */
char *program_find(const char *name);

/* Start argv[0] (a path) with standard input from /dev/null and both outputs to out_fd. */
int program_start(const char *const *argv, int out_fd, pid_t *ret, struct banger_error *err);
/* Wait for it: its wait status, or TIMEOUT, after which it was killed. */
int program_wait(pid_t pid, int timeout_ms, int *ret_status, struct banger_error *err);
/* Run it to its end within timeout_ms; what it wrote (its first 64 KiB) is the caller's. */
int program_capture(const char *const *argv, int timeout_ms, char **ret_output, int *ret_status,
	struct banger_error *err);

#endif
