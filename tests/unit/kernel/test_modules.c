/* SPDX-License-Identifier: Apache-2.0 */
/* modules.dep and modules.softdep out of modules. */
#include "make.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "kernel/modules.h"

static void add(struct module_list *l, const char *path, const char *depends, const char *softdep)
{
	char info[512];
	int n = snprintf(
		info, sizeof(info), "depends=%s%csoftdep=%s", depends, 0, softdep ? softdep : "");
	struct bytes b = make_module(info, (size_t)n + 1);
	assert_int_equal(module_list_add(l, path, b.p, b.n), 0);
	free(b.p);
}

static void expect(struct module_list *l, const char *dep, const char *softdep)
{
	char *text;
	size_t n;
	assert_int_equal(module_list_dep(l, &text, &n), 0);
	assert_string_equal(text, dep);
	assert_int_equal(strlen(text), n);
	free(text);
	assert_int_equal(module_list_softdep(l, &text, &n), 0);
	assert_string_equal(text, softdep);
	free(text);
	module_list_done(l);
}

static void lists_all_dependencies(void **state)
{
	struct module_list l = {0};
	add(&l, "kernel/fs/ext4/ext4.ko.xz", "jbd2,mbcache,crc16", "pre: crc32c");
	add(&l, "kernel/fs/jbd2/jbd2.ko", "crc-special", NULL);
	add(&l, "kernel/lib/crc-special.ko", "", NULL);
	add(&l, "kernel/fs/mbcache.ko", "", NULL);
	/* crc16 is built in. What a module needs comes after it, so loading goes from the end. */
	expect(&l,
		"kernel/lib/crc-special.ko:\n"
		"kernel/fs/ext4/ext4.ko.xz: kernel/fs/mbcache.ko kernel/fs/jbd2/jbd2.ko "
		"kernel/lib/crc-special.ko\n"
		"kernel/fs/jbd2/jbd2.ko: kernel/lib/crc-special.ko\n"
		"kernel/fs/mbcache.ko:\n",
		"softdep ext4 pre: crc32c\n");
}

static void shares_and_orders_a_diamond(void **state)
{
	struct module_list l = {0};
	add(&l, "a.ko", "b,c", NULL);
	add(&l, "b.ko", "d", NULL);
	add(&l, "c.ko", "d", NULL);
	add(&l, "d.ko", "", NULL);
	expect(&l, "a.ko: c.ko b.ko d.ko\nb.ko: d.ko\nc.ko: d.ko\nd.ko:\n", "");
}

static void cuts_cycles(void **state)
{
	struct module_list l = {0};
	add(&l, "a.ko", "b,a", NULL);
	add(&l, "b.ko", "a,,b,", NULL);
	expect(&l, "a.ko: b.ko\nb.ko: a.ko\n", "");
}

/* A chain as long as a hostile package could make it: no recursion runs out of stack. */
static void walks_a_long_chain(void **state)
{
	struct module_list l = {0};
	char path[32], needs[32], *text;
	size_t n;
	for (int i = 0; i < 2000; i++) {
		snprintf(path, sizeof(path), "m%04d.ko", i);
		snprintf(needs, sizeof(needs), "m%04d", i + 1);
		add(&l, path, needs, NULL);
	}
	assert_int_equal(module_list_dep(&l, &text, &n), 0);
	assert_non_null(strstr(text, "m1998.ko: m1999.ko\nm1999.ko:\n"));
	free(text);
	module_list_done(&l);
}

static void names_and_refuses(void **state)
{
	struct module_list l = {0};
	char name[64];
	struct bytes b = make_module("x=y", 4);
	assert_int_equal(module_name("virtio-rng.ko.zst", name), 0);
	assert_string_equal(name, "virtio_rng");
	assert_int_equal(module_name("a.ko.gz", name), 0);
	assert_int_equal(module_name(".ko", name), -EINVAL);
	assert_int_equal(module_name("a.ko.bz2", name), -EINVAL);
	assert_int_equal(module_name("a b.ko", name), -EINVAL);
	assert_int_equal(module_name("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
				     "aaaaaaaaaaa.ko",
				 name),
		-EINVAL);
	assert_int_equal(module_list_add(&l, "a.ko", "not ELF", 7), -EINVAL);
	assert_int_equal(module_list_add(&l, "a.txt", b.p, b.n), -EINVAL);
	assert_int_equal(module_list_add(&l, "a.ko", b.p, b.n), 0); /* no depends= is none */
	free(b.p);
	expect(&l, "a.ko:\n", "");
}

static void softdep_cannot_forge_lines(void **state)
{
	struct module_list l = {0};
	add(&l, "a.ko", "", "pre: b\nsoftdep c pre: evil");
	expect(&l, "a.ko:\n", "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lists_all_dependencies),
		cmocka_unit_test(shares_and_orders_a_diamond),
		cmocka_unit_test(cuts_cycles),
		cmocka_unit_test(walks_a_long_chain),
		cmocka_unit_test(names_and_refuses),
		cmocka_unit_test(softdep_cannot_forge_lines),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
