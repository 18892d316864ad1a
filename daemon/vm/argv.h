/* SPDX-License-Identifier: Apache-2.0 */
/* A command line that is being put together. What goes wrong meanwhile is asked for once, in the end. */
#ifndef BANGER_VM_ARGV_H
#define BANGER_VM_ARGV_H

#include <stdbool.h>
#include <stddef.h>
#include <banger/cleanup.h>

#define ARGV_MAX 96

struct argv {
	char *v[ARGV_MAX + 1]; /* NULL-terminated; owned */
	size_t n;
	bool failed; /* no memory, or too many */
};

/* One argument, formatted. */
void argv_add(struct argv *a, const char *fmt, ...) _printf_(2, 3);
/* Move it to *ret; -ENOMEM, and released, if something failed. */
int argv_give(struct argv *a, struct argv *ret);
void argv_done(struct argv *a);

/* An option and its argument. */
#define argv_add2(a, option, ...)                                                                  \
	do {                                                                                       \
		argv_add(a, "%s", option);                                                         \
		argv_add(a, __VA_ARGS__);                                                          \
	} while (0)

#endif
