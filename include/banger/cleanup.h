/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ownership by scope. A variable marked _cleanup_x_ is released when its scope
 * ends, on whichever path; TAKE_PTR() and TAKE_FD() move the value out, so that
 * the scope no longer owns it. Every destructor accepts the empty value (NULL, -1).
 */
#ifndef BANGER_CLEANUP_H
#define BANGER_CLEANUP_H

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <json-c/json.h>

#define _cleanup_(f) __attribute__((cleanup(f), unused))
#define _printf_(a, b) __attribute__((format(printf, a, b)))
#define ELEMENTSOF(a) (sizeof(a) / sizeof((a)[0]))

#define TAKE_PTR(p)                                                                                \
	({                                                                                         \
		__typeof__(p) *_pp = &(p);                                                         \
		__typeof__(p) _v = *_pp;                                                           \
		*_pp = NULL;                                                                       \
		_v;                                                                                \
	})
#define TAKE_FD(fd)                                                                                \
	({                                                                                         \
		int *_pf = &(fd);                                                                  \
		int _v = *_pf;                                                                     \
		*_pf = -1;                                                                         \
		_v;                                                                                \
	})

static inline void banger_freep(void *p)
{
	free(*(void **)p);
}
static inline void banger_closep(const int *fd)
{
	if (*fd >= 0) {
		int saved = errno;
		close(*fd);
		errno = saved;
	}
}
static inline void banger_fclosep(FILE **f)
{
	if (*f)
		fclose(*f);
}
static inline void banger_closedirp(DIR **d)
{
	if (*d)
		closedir(*d);
}
static inline void banger_json_putp(struct json_object **o)
{
	if (*o)
		json_object_put(*o);
}

#define _cleanup_free_ _cleanup_(banger_freep)
#define _cleanup_close_ _cleanup_(banger_closep)
#define _cleanup_fclose_ _cleanup_(banger_fclosep)
#define _cleanup_closedir_ _cleanup_(banger_closedirp)
#define _cleanup_json_ _cleanup_(banger_json_putp)

#endif
