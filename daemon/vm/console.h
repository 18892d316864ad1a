/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a VM says on its console: a log file of bounded size, and the last of it for error messages.
 */
#ifndef BANGER_VM_CONSOLE_H
#define BANGER_VM_CONSOLE_H

#include <banger/error.h>

struct console;
/* Writes to `name` in dir_fd (created, or gone on with). Reads from fd (owned; made non-blocking). */
int console_new(
	int dir_fd, const char *name, int fd, struct console **ret, struct banger_error *err);
void console_freep(struct console **c);
int console_fd(const struct console *c); /* to poll for POLLIN; -1 at its end */
/* Take what is there, without waiting, and not more than 64 KiB: the number of bytes. */
size_t console_read(struct console *c);
/* Take the log's end for what was said last: of a VM that ran before the daemon did. */
void console_recall(struct console *c);
/* The last lines that say something, joined by " | ", at most size - 1 bytes: a kernel's panic message first, if
 * there is one. "" when nothing was said. */
void console_summary(const struct console *c, char *ret, size_t size);

#endif
