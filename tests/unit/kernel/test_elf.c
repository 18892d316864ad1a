/* SPDX-License-Identifier: Apache-2.0 */
/* The ELF reader on files that are sound, and on ones whose numbers lie. */
#include "make.h"

#include <elf.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "kernel/image_elf.h"
#include "kernel/vmlinuz.h"

static const char info[] =
	"license=GPL\0depends=jbd2,mbcache\0softdep=pre: crc32c\0depends=second\0cut=off";

static void reads_modinfo(void **state)
{
	struct bytes b = make_module(info, sizeof(info) - 1); /* the last string has no end */
	struct elf_image e;
	const char *section;
	size_t size, pos = 0;
	assert_int_equal(elf_open(b.p, b.n, &e), 0);
	assert_int_equal(elf_section(&e, ".modinfo", &section, &size), 0);
	assert_int_equal(size, sizeof(info) - 1);
	assert_string_equal(modinfo_next(section, size, &pos, "depends"), "jbd2,mbcache");
	assert_string_equal(modinfo_next(section, size, &pos, "depends"), "second");
	assert_null(modinfo_next(section, size, &pos, "depends"));
	pos = 0;
	assert_null(modinfo_next(section, size, &pos, "cut"));
	pos = 0;
	assert_null(modinfo_next(section, size, &pos, "depend"));
	assert_int_equal(elf_section(&e, ".modinf", &section, &size), -ENOENT);
	free(b.p);
}

/* Every prefix, and every byte of headers changed: an answer or an error, and never a byte outside
 * (the copy is on its own heap block, which the sanitizer guards). */
static void survives_lies(void **state)
{
	struct bytes b = make_module(info, sizeof(info));
	for (size_t n = 0; n <= b.n; n++) {
		char *copy = malloc(n ? n : 1);
		struct elf_image e;
		const char *section;
		size_t size, pos = 0;
		memcpy(copy, b.p, n);
		if (elf_open(copy, n, &e) == 0 && elf_section(&e, ".modinfo", &section, &size) == 0)
			(void)modinfo_next(section, size, &pos, "depends");
		free(copy);
	}
	for (size_t at = 0; at < b.n; at++)
		for (unsigned v = 0; v < 256; v += 51) {
			char *copy = malloc(b.n);
			struct elf_image e;
			const char *section;
			size_t size, pos = 0;
			memcpy(copy, b.p, b.n);
			copy[at] = (char)v;
			if (elf_open(copy, b.n, &e) == 0) {
				(void)elf_has_pvh_entry(&e);
				if (elf_section(&e, ".modinfo", &section, &size) == 0)
					(void)modinfo_next(section, size, &pos, "depends");
			}
			free(copy);
		}
	free(b.p);
}

static void finds_pvh_entry(void **state)
{
	struct elf_image e;
	struct bytes with = make_vmlinux("6.1.0", true), without = make_vmlinux("6.1.0", false);
	assert_int_equal(elf_open(with.p, with.n, &e), 0);
	assert_true(elf_has_pvh_entry(&e));
	assert_int_equal(elf_open(without.p, without.n, &e), 0);
	assert_false(elf_has_pvh_entry(&e));
	for (size_t at = 0; at < 300; at++) {
		char *copy = malloc(with.n);
		memcpy(copy, with.p, with.n);
		copy[at] = (char)0xff;
		if (elf_open(copy, with.n, &e) == 0)
			(void)elf_has_pvh_entry(&e);
		free(copy);
	}
	free(with.p);
	free(without.p);
}

static void reads_and_unpacks_a_bzimage(void **state)
{
	struct bytes inner = make_vmlinux("6.1.0-9-test", true),
		     b = make_bzimage("6.1.0-9-test", &inner);
	struct banger_error err = {0};
	struct vmlinuz k;
	int fd = make_file(&b), out = make_file(&(struct bytes){0});
	assert_int_equal(vmlinuz_read(fd, &k, &err), 0);
	assert_int_equal(k.kind, VMLINUZ_BZIMAGE);
	assert_string_equal(k.version, "6.1.0-9-test");
	assert_string_equal(k.arch, "amd64");
	assert_int_equal(vmlinuz_extract(fd, &k, out, &err), 1);
	char *copy = malloc(inner.n);
	assert_int_equal(pread(out, copy, inner.n, 0), (ssize_t)inner.n);
	assert_memory_equal(copy, inner.p, inner.n);
	free(copy);
	close(out);
	/* a damaged payload means booting the bzImage, not an error */
	assert_int_equal(pwrite(fd, "xxxxxxxx", 8, (off_t)k.payload_offset), 8);
	out = make_file(&(struct bytes){0});
	assert_int_equal(vmlinuz_extract(fd, &k, out, &err), 0);
	close(out);
	close(fd);
	free(b.p);
	free(inner.p);
}

static void refuses_what_is_no_kernel(void **state)
{
	struct bytes text = {(char *)"#!/bin/sh\n", 10}, old = make_vmlinux("5.0", false),
		     none = make_bzimage("6.1", NULL);
	struct banger_error err = {0};
	struct vmlinuz k;
	int fd = make_file(&text);
	assert_int_equal(vmlinuz_read(fd, &k, &err), -EUCLEAN);
	close(fd);
	fd = make_file(&old);
	assert_int_equal(vmlinuz_read(fd, &k, &err), -EOPNOTSUPP);
	assert_non_null(strstr(err.message, "PVH"));
	close(fd);
	fd = make_file(&none);
	assert_int_equal(vmlinuz_read(fd, &k, &err), 0);
	assert_int_equal(k.payload_length, 0);
	assert_int_equal(vmlinuz_extract(fd, &k, -1, &err), 0);
	close(fd);
	free(old.p);
	free(none.p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_modinfo),
		cmocka_unit_test(survives_lies),
		cmocka_unit_test(finds_pvh_entry),
		cmocka_unit_test(reads_and_unpacks_a_bzimage),
		cmocka_unit_test(refuses_what_is_no_kernel),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
