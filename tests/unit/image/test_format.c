/* SPDX-License-Identifier: Apache-2.0 */
/* Telling formats apart, and headers of qcow2 images that name what they must not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include <endian.h>
#include <sys/mman.h>
#include <unistd.h>
#include "image/format.h"
#include "image/qcow2.h"

struct piece {
	size_t at, len;
	const char *bytes;
};

static enum banger_code detect(
	const struct piece *p, size_t n, enum image_format *ret, struct banger_error *err)
{
	unsigned char head[FORMAT_HEAD] = {0};

	for (size_t i = 0; i < n && p[i].bytes; i++)
		memcpy(head + p[i].at, p[i].bytes, p[i].len);
	*err = (struct banger_error){0};
	(void)format_detect(head, sizeof(head), "disk.img", ret, err);
	return err->code;
}

static void known(void **state)
{
	static const struct {
		struct piece p;
		enum image_format is;
	} cases[] = {
		{{1080, 2, "\x53\xef"}, FORMAT_RAW},
		{{0, 4, "QFI\xfb"}, FORMAT_QCOW2},
		{{0, 4, "\x28\xb5\x2f\xfd"}, FORMAT_TAR},
		{{0, 2, "\x1f\x8b"}, FORMAT_TAR},
		{{257, 5, "ustar"}, FORMAT_TAR},
		{{0, 4, "what"}, FORMAT_RAW},
	};
	enum image_format f;
	struct banger_error err;

	for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
		assert_int_equal(detect(&cases[i].p, 1, &f, &err), BANGER_OK);
		assert_int_equal(f, cases[i].is);
	}
	assert_int_equal(format_parse("auto", &f, NULL), 0);
	assert_int_equal(format_parse(NULL, &f, NULL), 0);
	assert_int_equal(format_parse("bundle", &f, NULL), 1);
	assert_int_equal(f, FORMAT_BUNDLE);
	assert_int_equal(format_parse("vmdk", &f, NULL), -EINVAL);
	unsigned char none[1];
	assert_int_equal(format_detect(none, 0, "nothing", &f, NULL), 0);
	assert_int_equal(f, FORMAT_RAW);
}

static void foreign(void **state)
{
	static const struct {
		struct piece p[3];
		const char *why;
	} cases[] = {
		{{{0, 4, "KDMV"}}, "qemu-img convert -f vmdk"},
		{{{0, 8, "conectix"}}, "qemu-img convert -f vpc"},
		{{{0, 8, "vhdxfile"}}, "VHDX"},
		{{{0x40, 4, "\x7f\x10\xda\xbe"}}, "VDI"},
		{{{0, 4, "XFSB"}}, "XFS"},
		/* two partitions, the second the larger: 4096 sectors at 2048 */
		{{{510, 2, "\x55\xaa"}, {446, 16, "\x80\0\0\0\x83\0\0\0\x40\0\0\0\x10\0\0\0"},
			 {462, 16, "\0\0\0\0\x83\0\0\0\0\x08\0\0\0\x10\0\0"}},
			"(MBR), and banger boots a bare ext4 filesystem"},
		{{{510, 2, "\x55\xaa"}, {462, 16, "\0\0\0\0\x83\0\0\0\0\x08\0\0\0\x10\0\0"}},
			"skip=1048576 count=2097152"},
		{{{512, 8, "EFI PART"}, {1024 + 32, 16, "\0\x08\0\0\0\0\0\0\xff\x17\0\0\0\0\0\0"}},
			"(GPT)"},
		{{{512, 8, "EFI PART"},
			 {1024 + 128 + 32, 16, "\0\x08\0\0\0\0\0\0\xff\x17\0\0\0\0\0\0"}},
			"skip=1048576 count=2097152"},
	};
	enum image_format f;
	struct banger_error err;

	for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
		assert_int_equal(detect(cases[i].p, 3, &f, &err), BANGER_UNSUPPORTED);
		if (!strstr(err.message, cases[i].why))
			fail_msg("%s is not in: %s", cases[i].why, err.message);
	}
	/* A boot sector that is code, of a filesystem. */
	const struct piece code[] = {{446, 4, "\xeb\x3c\x90\x90"}, {510, 2, "\x55\xaa"}};
	assert_int_equal(detect(code, 2, &f, &err), BANGER_OK);
}

/* ---- qcow2 */

struct change {
	size_t at;
	uint64_t value;
	int bits; /* 0: none */
};

static enum banger_code check(
	const struct change *c, size_t n, size_t len, struct banger_error *err)
{
	unsigned char h[512] = "QFI\xfb";
	const struct change sound[] = {{4, 3, 32}, {20, 16, 32}, {24, 1 << 20, 64}, {36, 1, 32},
		{40, 65536, 64}, {100, 104, 32}};
	int64_t size = -1;

	for (size_t i = 0; i < ELEMENTSOF(sound) + n; i++) {
		const struct change *x =
			i < ELEMENTSOF(sound) ? &sound[i] : &c[i - ELEMENTSOF(sound)];
		uint64_t big = htobe64(x->value);
		uint32_t small = htobe32((uint32_t)x->value);
		memcpy(h + x->at, x->bits == 64 ? (void *)&big : (void *)&small, x->bits / 8);
	}
	int fd = memfd_create("qcow2", MFD_CLOEXEC);
	assert_int_equal(write(fd, h, len), len);
	*err = (struct banger_error){0};
	int r = qcow2_check(fd, "web.qcow2", &size, err);
	close(fd);
	assert_int_equal(size, r == 0 ? 1 << 20 : -1);
	return err->code;
}

static void qcow2_headers(void **state)
{
	static const struct {
		struct change c[2];
		enum banger_code code;
		const char *why;
	} cases[] = {
		{{{0}}, BANGER_OK, ""}, {{{4, 2, 32}, {72, 0, 64}}, BANGER_OK, ""},
		{{{8, 104, 64}, {16, 11, 32}}, BANGER_UNSUPPORTED, "backing file"},
		{{{8, 104, 64}}, BANGER_UNSUPPORTED, "backing file"},
		{{{16, 11, 32}}, BANGER_UNSUPPORTED, "backing file"},
		{{{4, 2, 32}, {8, 72, 64}}, BANGER_UNSUPPORTED, "backing file"},
		{{{32, 1, 32}}, BANGER_UNSUPPORTED, "encrypted"},
		{{{72, 4, 64}}, BANGER_UNSUPPORTED, "data in another file"},
		{{{104, 0x44415441, 32}}, BANGER_UNSUPPORTED, "data in another file"},
		{{{104, 0x6803f857, 32}, {112, 0x44415441, 32}}, BANGER_UNSUPPORTED,
			"data in another file"},
		{{{104, 0x0537be77, 32}}, BANGER_UNSUPPORTED, "encrypted"},
		{{{72, 2, 64}}, BANGER_CORRUPT, "corrupt"},
		{{{72, 64, 64}}, BANGER_UNSUPPORTED, "later QEMU"}, {{{72, 25, 64}}, BANGER_OK, ""},
		{{{4, 4, 32}}, BANGER_UNSUPPORTED, "version"},
		{{{20, 40, 32}}, BANGER_CORRUPT, "clusters"},
		{{{24, UINT64_MAX, 64}}, BANGER_CORRUPT, "16 TiB"},
		{{{24, 0, 64}}, BANGER_CORRUPT, "empty"},
		{{{100, 72, 32}}, BANGER_CORRUPT, "cut off"},
		{{{104, 1, 32}, {108, UINT32_MAX, 32}}, BANGER_OK,
			""}, /* past the cluster: nothing there is read */
	};
	struct banger_error err;

	for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
		if (check(cases[i].c, 2, 512, &err) != cases[i].code)
			fail_msg("case %zu: %s", i, err.message);
		if (!strstr(err.message, cases[i].why))
			fail_msg("case %zu: %s", i, err.message);
	}
	assert_int_equal(check(NULL, 0, 60, &err), BANGER_CORRUPT);
	assert_int_equal(check(NULL, 0, 80, &err), BANGER_CORRUPT);
	assert_int_equal(check(NULL, 0, 104, &err), BANGER_CORRUPT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(known), cmocka_unit_test(foreign),
		cmocka_unit_test(qcow2_headers)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
