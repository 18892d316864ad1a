/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Going into the background. The process forks at once, before it has threads or connections; the
 * one that was started waits until the other says that it serves, or ends with its exit status. So
 * whoever started it knows what came of it, and reads the reason on standard error.
 */
#ifndef FS_BACKGROUND_H
#define FS_BACKGROUND_H

#include <banger/error.h>

/* Returns in the child only. *ret_fd is for background_ready(). */
int background_fork(int *ret_fd, struct banger_error *err);
/* Let go of the terminal. Standard error stays what it is when it is a regular file. */
void background_detach(void);
/* The child serves: tell the one that waits. fd -1: nobody waits, nothing is done. */
void background_ready(int fd);
/* Append standard error to a file. */
int background_log_to(const char *path, struct banger_error *err);

/* Begin standard error anew when it is a file that has become too long. */
void background_log_trim(void);

#endif
