/* SPDX-License-Identifier: Apache-2.0 */
/* See argv.h. The room is fixed, because what is put together here has a known number of parts. */
#include "vm/argv.h"
#include <stdarg.h>

void argv_done(struct argv *a)
{
	for (size_t i = 0; i < a->n; i++)
		free(a->v[i]);
	*a = (struct argv){0};
}

void argv_add(struct argv *a, const char *fmt, ...)
{
	va_list ap;

	if (a->n == ARGV_MAX) {
		a->failed = true;
		return;
	}
	va_start(ap, fmt);
	if (vasprintf(&a->v[a->n], fmt, ap) < 0) {
		a->v[a->n] = NULL;
		a->failed = true;
	} else {
		a->n++;
	}
	va_end(ap);
}

int argv_give(struct argv *a, struct argv *ret)
{
	if (a->failed) {
		argv_done(a);
		return -ENOMEM;
	}
	*ret = *a;
	return 0;
}
