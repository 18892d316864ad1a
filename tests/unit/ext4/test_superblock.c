/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The soundness check against filesystems that mke2fs makes in all its shapes, and against the same
 * with one thing wrong: each refusal has its own words, and the checksums are mended so that it is
 * not they that refuse.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <cmocka.h>
#include "ext4/superblock.h"

static char file[] = "/tmp/banger-test-ext4-XXXXXX";

static int make(const char *size, const char *options)
{
	char command[512];

	snprintf(command, sizeof(command),
		"PATH=$PATH:/usr/sbin:/sbin; rm -f %s; truncate -s %s %s && "
		"mke2fs -q -F %s %s >/dev/null 2>&1",
		file, size, file, options, file);
	return system(command);
}

static int check(struct banger_error *err, struct ext4_summary *ret)
{
	struct stat st;
	int fd = open(file, O_RDONLY | O_CLOEXEC);

	assert_int_equal(fstat(fd, &st), 0);
	*err = (struct banger_error){0};
	int r = ext4_superblock_check(fd, st.st_size, "rootfs.ext4", ret, err);
	close(fd);
	return r;
}

static void accepts(void **state)
{
	static const struct {
		const char *size, *options;
		unsigned block_size;
	} shapes[] = {
		{"64M", "-t ext4 -b 4096 -L banger", 4096},
		{"64M", "-t ext3", 0},
		{"64M", "-t ext2", 0},
		{"4M", "-t ext2 -b 1024 -O none -r 0", 1024},
		{"8M", "-t ext4 -b 1024", 1024},
		{"200M", "-t ext4 -b 2048", 2048},
		{"1G", "-t ext4 -b 65536", 65536},
		{"300M", "-t ext4 -b 1024 -O bigalloc -C 16384", 1024},
		{"300M", "-t ext4 -b 4096 -O bigalloc", 4096},
		{"20G", "-t ext4", 4096},
		{"20G", "-t ext4 -O meta_bg,^resize_inode", 4096},
		{"2G", "-t ext4 -b 1024 -O meta_bg,^resize_inode", 1024},
		{"2G", "-t ext4 -b 1024 -O meta_bg,^resize_inode,^64bit,^flex_bg", 1024},
		{"20G", "-t ext4 -O ^metadata_csum,uninit_bg", 4096},
		{"20G", "-t ext4 -O ^metadata_csum,uninit_bg,^64bit", 4096},
		{"2G", "-t ext4 -O sparse_super2,^resize_inode", 4096},
		{"1G", "-t ext4 -O ^flex_bg", 4096},
		{"64M", "-t ext4 -I 1024 -b 1024", 1024},
		{"64M", "-t ext4 -I 2048 -b 4096 -N 1000", 4096},
		{"64M", "-t ext3 -I 128", 0},
		{"64M", "-t ext4 -O inline_data", 0},
		{"64M",
			"-t ext4 -O casefold,encrypt,verity,quota,project,mmp,ea_inode,large_dir,"
			"metadata_csum_seed,orphan_file,fast_commit",
			0},
		{"64M", "-t ext4 -g 256 -b 1024", 1024},
		{"15T", "-t ext4 -E lazy_itable_init=1 -m0 -N 10000 -O ^has_journal,^resize_inode",
			4096},
	};

	for (size_t i = 0; i < ELEMENTSOF(shapes); i++) {
		struct banger_error err;
		struct ext4_summary s;
		if (make(shapes[i].size, shapes[i].options)) {
			print_message("mke2fs cannot make: %s\n", shapes[i].options);
			continue; /* an older or newer one */
		}
		int r = check(&err, &s);
		if (r < 0)
			print_error("%s: %s\n", shapes[i].options, err.message);
		assert_int_equal(r, 0);
		if (shapes[i].block_size)
			assert_int_equal(s.block_size, shapes[i].block_size);
		assert_true(s.size > 0 && s.groups > 0);
		if (i == 0) {
			assert_string_equal(s.label, "banger");
			assert_int_equal(s.size, 64 << 20);
			assert_int_equal(s.groups, 1);
		}
	}
}

/* ---- one thing wrong */

/* Write `len` bytes at `at`, then mend the superblock's checksum. */
static void patch(int64_t at, const void *data, size_t len)
{
	uint8_t sb[1024];
	int fd = open(file, O_RDWR | O_CLOEXEC);

	assert_int_equal(pwrite(fd, data, len, at), len);
	assert_int_equal(pread(fd, sb, sizeof(sb), 1024), sizeof(sb));
	uint32_t crc = ext4_crc32c(~0u, sb, 0x3fc);
	uint8_t out[4] = {crc & 0xff, crc >> 8 & 0xff, crc >> 16 & 0xff, crc >> 24};
	assert_int_equal(pwrite(fd, out, 4, 1024 + 0x3fc), 4);
	close(fd);
}

static void expect(const char *text)
{
	struct banger_error err;
	struct ext4_summary s = {.groups = 77};
	char whole[600];

	assert_int_equal(check(&err, &s), -EUCLEAN);
	assert_int_equal(err.code, BANGER_CORRUPT);
	snprintf(whole, sizeof(whole), "rootfs.ext4 is not a sound ext4 filesystem: %s", text);
	if (!strstr(err.message, whole))
		print_error("\"%s\" is not \"%s\"\n", err.message, whole);
	assert_non_null(strstr(err.message, whole));
	assert_int_equal(s.groups, 77); /* untouched */
}

static void refuses_fields(void **state)
{
	static const struct {
		unsigned at; /* in the superblock */
		unsigned len;
		const char *bytes, *text;
	} cases[] = {
		{0x38, 2, "\0\0", "the magic number at byte 1080 is 0x0000, not 0xef53"},
		{0x4c, 4, "\2\0\0\0", "its revision level 2 is not known"},
		{0x60, 4, "\xca\x02\0\0", "it is the journal of another filesystem"},
		{0x60, 4, "\xc2\x02\0\x80",
			"it needs features that are not known (incompatible 0x80000000)"},
		{0x60, 4, "\xc3\x02\0\0",
			"it needs features that are not known (incompatible 0x1)"},
		{0x60, 4, "\xc6\x02\0\0", "its journal has not been replayed; unmount it"},
		{0x64, 4, "\x6b\x04\0\x40",
			"it needs features that are not known (read-only compatible 0x40000000)"},
		{0x64, 4, "\x7b\x04\0\0", "it has two kinds of group checksums at once"},
		{0x64, 4, "\x6b\x04\x01\0", "it has deleted files that were open"},
		{0x175, 1, "\2", "its checksum type 2 is not known"},
		{0x3a, 2, "\3\0", "it has errors on record; run e2fsck"},
		{0x3a, 2, "\0\0", "it was not unmounted; unmount it"},
		{0xe8, 4, "\x0c\0\0\0", "it has deleted files that were open"},
		{0xe0, 4, "\0\0\0\0", "its journal is on another device"},
		{0x18, 4, "\7\0\0\0", "its block size is 2^(10+7) bytes"},
		{0x18, 4, "\xff\xff\xff\xff", "its block size is 2^(10+4294967295) bytes"},
		{0x04, 4, "\xff\xff\xff\xff",
			"it says it has 4294967295 blocks of 4096 bytes, but the file has only"},
		{0x150, 4, "\xff\xff\xff\xff", "it says it has"},
		{0x04, 4, "\0\0\0\0", "it has no blocks"},
		{0x58, 2, "\0\0", "its inode size is 0 bytes"},
		{0x58, 2, "\x81\0", "its inode size is 129 bytes"},
		{0x58, 2, "\0\x80", "its inode size is 32768 bytes"},
		{0xfe, 2, "\x20\0", "its group descriptors have 32 bytes"},
		{0xfe, 2, "\x60\0", "its group descriptors have 96 bytes"},
		{0x1c, 4, "\5\0\0\0", "its cluster size is not its block size"},
		{0x20, 4, "\0\0\0\0", "its groups have 0 blocks"},
		{0x20, 4, "\x08\x80\0\0", "its groups have 32776 blocks"},
		{0x20, 4, "\x01\0\0\0", "its groups have 1 blocks"},
		{0x14, 4, "\1\0\0\0", "its first data block is 1"},
		{0x28, 4, "\1\0\0\0", "its groups have 1 inodes"},
		{0x28, 4, "\xff\xff\xff\xff", "its groups have 4294967295 inodes"},
		{0x00, 4, "\1\0\0\0", "it says it has 1 inodes, but its 4 groups of"},
		{0xce, 2, "\xff\xff", "it reserves 65535 blocks for descriptors"},
	};
	uint8_t sound[2048];

	assert_int_equal(make("512M", "-t ext4 -b 4096 -O ^metadata_csum_seed,^orphan_file"), 0);
	int fd = open(file, O_RDONLY | O_CLOEXEC);
	assert_int_equal(pread(fd, sound, sizeof(sound), 0), sizeof(sound));
	close(fd);
	/* The features that the table's bytes are written for. */
	assert_memory_equal(sound + 1024 + 0x60, "\xc2\x02\0\0\x6b\x04\0\0", 8);
	for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
		patch(1024 + cases[i].at, cases[i].bytes, cases[i].len);
		expect(cases[i].text);
		patch(0, sound, sizeof(sound));
	}
	struct banger_error err;
	assert_int_equal(check(&err, NULL), 0);
	/* A wrong checksum by itself. */
	fd = open(file, O_RDWR | O_CLOEXEC);
	assert_int_equal(pwrite(fd, "other", 5, 1024 + 0x78), 5);
	close(fd);
	expect("the superblock's checksum is 0x");
}

static void refuses_descriptors(void **state)
{
	uint8_t gdt[4096], zeros[4096] = {0}, inode[256];

	assert_int_equal(make("512M", "-t ext4 -b 4096 -I 256"), 0);
	int fd = open(file, O_RDWR | O_CLOEXEC);
	assert_int_equal(pread(fd, gdt, sizeof(gdt), 4096), sizeof(gdt));
	uint64_t table = gdt[8] | gdt[9] << 8 | gdt[10] << 16 | (uint64_t)gdt[11] << 24;

	patch(4096, zeros, sizeof(zeros));
	expect("the block bitmap of group 0 is at block 0, where the descriptors are");
	patch(4096, gdt, sizeof(gdt));
	patch(4096 + 64 + 4, "\xff\xff\xff\x7f", 4);
	expect("the inode bitmap of group 1 is at block 2147483647, outside blocks 0 to 131071");
	patch(4096, gdt, sizeof(gdt));
	patch(4096 + 2 * 64 + 0x28, "\1", 1);
	expect("the inode table of group 2 is at block 42949");
	patch(4096, gdt, sizeof(gdt));
	patch(4096 + 3 * 64 + 0x0c, "\x77", 1);
	expect("the checksum of group 3's descriptor is 0x");
	patch(4096, gdt, sizeof(gdt));

	int64_t root = (int64_t)table * 4096 + 256;
	assert_int_equal(pread(fd, inode, sizeof(inode), root), sizeof(inode));
	patch(root, "\0\x81", 2);
	expect("the checksum of the root directory's inode is 0x");
	patch(root, inode, sizeof(inode));
	patch(root + 0x84, "\1", 1);
	expect("the checksum of the root directory's inode is 0x");
	patch(root, zeros, sizeof(inode));
	expect("the checksum of the root directory's inode is 0x");
	close(fd);

	/* Without checksums the content itself tells. */
	assert_int_equal(make("64M", "-t ext4 -b 4096 -I 256 -O ^metadata_csum"), 0);
	fd = open(file, O_RDONLY | O_CLOEXEC);
	assert_int_equal(pread(fd, gdt, sizeof(gdt), 4096), sizeof(gdt));
	close(fd);
	table = gdt[8] | gdt[9] << 8 | gdt[10] << 16 | (uint64_t)gdt[11] << 24;
	root = (int64_t)table * 4096 + 256;
	patch(root, "\0\x81", 2);
	expect("its root inode is not a directory (mode 0100400)");
	patch(root, "\xed\x41", 2);
	patch(root + 0x28, "\0\0", 2);
	expect("its root directory has no valid extent tree");
	patch(root + 0x28, "\x0a\xf3", 2);
	patch(root + 0x1a, "\0\0", 2);
	expect("its root directory is deleted");
}

static void write_file(const void *data, size_t len, int64_t size)
{
	int fd = open(file, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_int_equal(write(fd, data, len), len);
	assert_int_equal(ftruncate(fd, size), 0);
	close(fd);
}

static void knows_what_it_is_instead(void **state)
{
	uint8_t head[2048] = {0};

	write_file("", 0, 0);
	expect("it is empty");
	write_file("x", 1, 1000);
	expect("it has only 1000 bytes");
	write_file("", 0, 1 << 20);
	expect("the magic number at byte 1080 is 0x0000");
	write_file("QFI\xfb", 4, 1 << 20);
	expect("it is a qcow2 image (qemu-img convert -O raw");
	write_file("\x1f\x8b", 2, 1 << 20);
	expect("it is compressed with gzip");
	memcpy(head + 257, "ustar", 5);
	write_file(head, sizeof(head), 1 << 20);
	expect("it is a tar archive (image import takes those)");
	memset(head, 0, sizeof(head));
	memcpy(head + 510, "\x55\xaa", 2);
	write_file(head, sizeof(head), 1 << 20);
	expect("it is a whole disk with a partition table");
}

/* Cut anywhere, it is refused and nothing is read past the end. */
static void truncated(void **state)
{
	assert_int_equal(make("64M", "-t ext4"), 0);
	for (int64_t size = (64 << 20) - 1; size > 0; size = size * 3 / 4) {
		assert_int_equal(truncate(file, size), 0);
		expect("it ");
	}
	/* A file that shrinks while it is looked at. */
	assert_int_equal(make("64M", "-t ext4"), 0);
	assert_int_equal(truncate(file, 3000), 0);
	struct banger_error err = {0};
	int fd = open(file, O_RDONLY | O_CLOEXEC);
	assert_int_equal(ext4_superblock_check(fd, 64 << 20, "rootfs.ext4", NULL, &err), -EUCLEAN);
	assert_non_null(strstr(err.message, "it ended at byte"));
	close(fd);
	fd = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(ext4_superblock_check(fd, 64 << 20, "x", NULL, &err), -EISDIR);
	close(fd);
}

static void checksums(void **state)
{
	/* Of "123456789": CRC-32C without its final inversion, and CRC-16/ARC from an initial ~0.
	 */
	assert_int_equal(ext4_crc32c(~0u, "123456789", 9) ^ ~0u, 0xe3069283u);
	assert_int_equal(ext4_crc16(0, "123456789", 9), 0xbb3d);
	uint8_t head[EXT4_MAGIC_HEAD] = {0};
	head[1080] = 0x53;
	head[1081] = 0xef;
	assert_true(ext4_magic(head, sizeof(head)));
	assert_false(ext4_magic(head, sizeof(head) - 1));
}

static int setup(void **state)
{
	int fd = mkstemp(file);
	close(fd);
	return fd < 0;
}

static int teardown(void **state)
{
	return unlink(file);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(accepts),
		cmocka_unit_test(refuses_fields), cmocka_unit_test(refuses_descriptors),
		cmocka_unit_test(knows_what_it_is_instead), cmocka_unit_test(truncated),
		cmocka_unit_test(checksums)};
	return cmocka_run_group_tests(tests, setup, teardown);
}
