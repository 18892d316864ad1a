/* SPDX-License-Identifier: Apache-2.0 */
/* Which modules a boot loads, in which order. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "vm/modules.h"

static const char dep[] =
	"kernel/drivers/virtio/virtio_mmio.ko.xz: kernel/drivers/virtio/virtio.ko.xz "
	"kernel/drivers/virtio/virtio_ring.ko.xz\n"
	"kernel/drivers/virtio/virtio.ko.xz: kernel/drivers/virtio/virtio_ring.ko.xz\n"
	"kernel/drivers/virtio/virtio_ring.ko.xz:\n"
	"kernel/drivers/block/virtio-blk.ko.xz: kernel/drivers/virtio/virtio_ring.ko.xz "
	"kernel/drivers/virtio/virtio.ko.xz\n"
	"kernel/fs/ext4/ext4.ko.xz: kernel/fs/jbd2/jbd2.ko.xz kernel/fs/mbcache.ko.xz\n"
	"kernel/fs/jbd2/jbd2.ko.xz:\n"
	"kernel/fs/mbcache.ko.xz:\n"
	"kernel/crypto/crc32c_generic.ko.xz:\n"
	"kernel/fs/ext4/ext4_more.ko.xz:";
static const char softdep[] = "softdep other pre: nothing\nsoftdep ext4 pre: crc32c absent post: "
			      "mbcache\nsoftdep ext4_more post: ext4\nsoftdep jbd2 pre: crc32c\n";
static const char builtin[] = "kernel/drivers/char/virtio_console.ko\nkernel/lib/crc16.ko\n";

/* The order as one text of base names. */
static const char *order(
	const struct module_texts *t, const char *const *names, struct banger_error *err)
{
	static char text[1024];
	char **list;

	text[0] = '\0';
	if (module_order(t, names, &list, err) < 0)
		return NULL;
	for (char **p = list; *p; p++) {
		strcat(text, strrchr(*p, '/') + 1);
		strcat(text, " ");
	}
	module_order_free(&list);
	assert_null(list);
	return text;
}

static void needs_come_first(void **state)
{
	const struct module_texts t = {dep, softdep, builtin};
	struct banger_error err = {0};
	const char *const names[] = {"virtio_mmio", "virtio_blk", "virtio_console", "ext4", NULL};
	assert_string_equal(order(&t, names, &err),
		"virtio_ring.ko.xz virtio.ko.xz virtio_mmio.ko.xz virtio-blk.ko.xz "
		"crc32c_generic.ko.xz jbd2.ko.xz mbcache.ko.xz ext4.ko.xz ");
}

static void says_what_is_missing(void **state)
{
	const struct module_texts t = {dep, NULL, builtin}, none = {NULL, NULL, NULL};
	struct banger_error err = {0};
	const char *const names[] = {"virtio_console", "virtio_net", NULL};
	assert_null(order(&t, names, &err));
	assert_int_equal(err.code, BANGER_UNSUPPORTED);
	assert_non_null(strstr(err.message, "virtio_net"));
	assert_null(order(&none, names, &err));
	assert_true(module_available(&t, "virtio_console") && module_available(&t, "virtio_blk"));
	assert_false(module_available(&t, "virtio_net") || module_available(&t, "ext") ||
		     module_available(&t, "ext4_mor"));
}

static void cycles_end(void **state)
{
	const struct module_texts t = {"a.ko: b.ko\nb.ko: c.ko\nc.ko: a.ko\n", NULL, NULL};
	const struct module_texts soft = {
		"x/a.ko:\nx/b.ko:\n", "softdep a pre: b\nsoftdep b pre: a\n", NULL};
	struct banger_error err = {0};
	const char *const names[] = {"a", NULL};
	assert_null(order(&t, names, &err));
	assert_int_equal(err.code, BANGER_CORRUPT);
	assert_null(order(&soft, names, &err));
}

/* Texts that are no tables: an answer, and no byte outside (they are on the heap, exactly as long). */
static void survives_nonsense(void **state)
{
	const char *const names[] = {"a", NULL};
	const char *const texts[] = {"", "\n", ":", "a.ko", "a.ko:", "a.ko: ", "a.ko:  b.ko  ",
		"softdep", "softdep a", "softdep a ", "softdep a pre:", "a.ko: a.ko",
		"x/a.ko: x/a.ko\n", ":::\n:::"};
	for (size_t i = 0; i < ELEMENTSOF(texts); i++)
		for (size_t j = 0; j < ELEMENTSOF(texts); j++) {
			_cleanup_free_ char *a = strdup(texts[i]), *b = strdup(texts[j]);
			const struct module_texts t = {a, b, b};
			_cleanup_(module_order_free) char **list = NULL;
			(void)module_order(&t, names, &list, NULL);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(needs_come_first),
		cmocka_unit_test(says_what_is_missing),
		cmocka_unit_test(cycles_end),
		cmocka_unit_test(survives_nonsense),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
