/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels, modules and archives made up for tests. Everything returned is freed by the caller. */
#ifndef TESTS_KERNEL_MAKE_H
#define TESTS_KERNEL_MAKE_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>
#include <cmocka.h>

struct bytes {
	char *p;
	size_t n;
};

/* A relocatable ELF file with a .modinfo section of `info`, NUL-separated strings. */
struct bytes make_module(const char *info, size_t n);
/* An x86-64 vmlinux that names `version`; pvh: with the note of a PVH entry. */
struct bytes make_vmlinux(const char *version, bool pvh);
/* A bzImage around a vmlinux (NULL: no payload), gzipped. */
struct bytes make_bzimage(const char *version, const struct bytes *vmlinux);

/* One member of an archive. type: 'f' file, 'd' directory, 'l' symlink to text, 'h' hard link to
 * text, 'c' device. */
struct member {
	char type;
	const char *name;
	const char *text; /* of a file; NULL: bytes */
	struct bytes bytes;
};
/* A tar with pax headers; filter: "none", "gzip", "xz", "zstd". */
struct bytes make_tar(const struct member *m, size_t n, const char *filter);
/* A Debian package: ar of debian-binary, control.tar.xz and the given data.tar, which is called
 * `data_name`. */
struct bytes make_deb(const struct bytes *data, const char *data_name);

/* The bytes in an unnamed file. */
int make_file(const struct bytes *b);

#endif
