/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ext4 builder by its interface: every image must please e2fsck, and libext2fs must find in it
 * what was put there.
 */
#include "image.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct ext4_attr dir_attr = {.mode = S_IFDIR | 0755, .mtime = {.sec = 1000}};
static const struct ext4_attr file_attr = {.mode = S_IFREG | 0644, .mtime = {.sec = 1000}};

struct work {
	struct image im;
	struct ext4_builder *b;
	struct ext4_builder_result result;
};

static void begin_size(struct work *w, int64_t size)
{
	struct banger_error err = {0};

	memset(w, 0, sizeof(*w));
	image_create(&w->im);
	const struct ext4_builder_options o = {.fd = w->im.fd,
		.size = size,
		.headroom_bytes = 1 << 20,
		.headroom_percent = 1,
		.time = 1000,
		.direct = true};
	if (ext4_builder_new(&o, &w->b, &err) < 0)
		fail_msg("%s", err.message);
}

static void begin(struct work *w)
{
	begin_size(w, 0);
}

static void end(struct work *w)
{
	struct banger_error err = {0};

	if (ext4_builder_finish(w->b, &w->result, &err) < 0)
		fail_msg("%s", err.message);
	ext4_builder_freep(&w->b);
	image_check(&w->im);
}

static void done(struct work *w)
{
	ext4_builder_freep(&w->b);
	image_done(&w->im);
}

static ext4_node add(struct work *w, ext4_node dir, const char *name, const struct ext4_attr *a)
{
	struct banger_error err = {0};
	ext4_node n = 0;

	if (ext4_builder_add(w->b, dir, name, strlen(name), a, NULL, 0, &n, &err) < 0)
		fail_msg("%s: %s", name, err.message);
	return n;
}

static ext4_node add_link(struct work *w, ext4_node dir, const char *name, const char *target)
{
	const struct ext4_attr a = {.mode = S_IFLNK | 0777};
	struct banger_error err = {0};
	ext4_node n = 0;

	if (ext4_builder_add(w->b, dir, name, strlen(name), &a, target, strlen(target), &n, &err) <
		0)
		fail_msg("%s: %s", name, err.message);
	return n;
}

static void put(struct work *w, ext4_node n, uint64_t offset, const void *data, size_t len)
{
	struct banger_error err = {0};

	if (ext4_builder_write(w->b, n, offset, data, len, &err) < 0)
		fail_msg("%s", err.message);
}

static void end_file(struct work *w, ext4_node n, uint64_t size)
{
	struct banger_error err = {0};

	if (ext4_builder_end_file(w->b, n, size, &err) < 0)
		fail_msg("%s", err.message);
}

/* ---- */

static void nothing(void **state)
{
	struct work w;
	struct ext2_inode_large root;

	begin(&w);
	end(&w);
	image_inode(&w.im, "/", &root);
	assert_int_equal(root.i_mode, S_IFDIR | 0755);
	assert_int_equal(root.i_links_count, 2);
	assert_int_equal(image_count(&w.im, "/"), 0);
	assert_int_equal(w.result.inodes, 1);
	assert_true(w.result.free >= 1 << 20);
	assert_int_equal(lseek(w.im.fd, 0, SEEK_END), w.result.size);
	struct stat st;
	assert_int_equal(fstat(w.im.fd, &st), 0);
	assert_true(st.st_blocks * 512 < 256 * 1024);
	done(&w);
}

static void attributes(void **state)
{
	static const struct {
		struct ext4_time in, out;
	} times[] = {
		{{0, 0}, {0, 0}},
		{{1700000000, 123456789}, {1700000000, 123456789}},
		{{-1, 999999999}, {-1, 999999999}},
		{{INT32_MIN, 5}, {INT32_MIN, 5}},
		{{INT32_MAX, 1}, {INT32_MAX, 1}},
		{{4102444800, 7}, {4102444800, 7}}, /* 2100 */
		{{0x27fffffff, 999999999}, {0x27fffffff, 999999999}},
		{{0x280000000, 1}, {0x27fffffff, 999999999}},
		{{INT64_MAX, 1}, {0x27fffffff, 999999999}},
		{{INT64_MIN, 1}, {INT32_MIN, 0}},
	};
	struct work w;
	char name[32];

	begin(&w);
	for (size_t i = 0; i < ELEMENTSOF(times); i++) {
		const struct ext4_attr a = {.mode = S_IFREG | 04755,
			.uid = UINT32_MAX - i,
			.gid = 65536 + i,
			.mtime = times[i].in,
			.atime = times[0].in};
		snprintf(name, sizeof(name), "t%zu", i);
		add(&w, EXT4_BUILDER_ROOT, name, &a);
	}
	end(&w);
	for (size_t i = 0; i < ELEMENTSOF(times); i++) {
		struct ext2_inode_large in;
		snprintf(name, sizeof(name), "/t%zu", i);
		image_inode(&w.im, name, &in);
		assert_int_equal(in.i_mode, S_IFREG | 04755);
		uint32_t uid = in.i_uid | (uint32_t)in.osd2.linux2.l_i_uid_high << 16;
		assert_int_equal(uid, UINT32_MAX - i);
		assert_int_equal(in.i_gid | in.osd2.linux2.l_i_gid_high << 16, 65536 + i);
		int64_t sec = (int32_t)in.i_mtime + ((int64_t)(in.i_mtime_extra & 3) << 32);
		assert_int_equal(sec, times[i].out.sec);
		assert_int_equal(in.i_mtime_extra >> 2, times[i].out.nsec);
		assert_int_equal(in.i_atime, 0);
	}
	done(&w);
}

static void kinds(void **state)
{
	struct work w;
	struct ext2_inode_large in;
	char target[EXT4_BUILDER_SYMLINK_MAX + 1];
	static const size_t lengths[] = {1, 59, 60, 61, EXT4_BUILDER_SYMLINK_MAX};

	begin(&w);
	ext4_node d = add(&w, EXT4_BUILDER_ROOT, "dir", &dir_attr);
	add(&w, d, "null", &(struct ext4_attr){.mode = S_IFCHR | 0666, .major = 1, .minor = 3});
	add(&w, d, "big",
		&(struct ext4_attr){.mode = S_IFBLK | 0600, .major = 4095, .minor = 0xfffff});
	add(&w, d, "fifo", &(struct ext4_attr){.mode = S_IFIFO | 0600});
	add(&w, d, "sock", &(struct ext4_attr){.mode = S_IFSOCK | 0600});
	for (size_t i = 0; i < ELEMENTSOF(lengths); i++) {
		memset(target, 'x', lengths[i]);
		target[lengths[i]] = '\0';
		char name[8];
		snprintf(name, sizeof(name), "l%zu", i);
		add_link(&w, d, name, target);
	}
	end(&w);
	image_inode(&w.im, "/dir", &in);
	assert_int_equal(in.i_links_count, 2);
	image_inode(&w.im, "/dir/null", &in);
	assert_int_equal(in.i_mode, S_IFCHR | 0666);
	assert_int_equal(in.i_block[0], 0x103);
	image_inode(&w.im, "/dir/big", &in);
	assert_int_equal(in.i_block[0], 0);
	assert_int_equal(in.i_block[1], 0xff | 4095 << 8 | 0xfff00u << 12);
	image_inode(&w.im, "/dir/fifo", &in);
	assert_int_equal(in.i_mode, S_IFIFO | 0600);
	for (size_t i = 0; i < ELEMENTSOF(lengths); i++) {
		ext2_ino_t ino;
		char name[16];
		snprintf(name, sizeof(name), "dir/l%zu", i);
		assert_int_equal(ext2fs_lookup(w.im.fs, EXT2_ROOT_INO, "dir", 3, NULL, &ino), 0);
		assert_int_equal(ext2fs_lookup(w.im.fs, ino, name + 4, 2, NULL, &ino), 0);
		assert_int_equal(
			ext2fs_read_inode_full(w.im.fs, ino, (struct ext2_inode *)&in, sizeof(in)),
			0);
		assert_int_equal(in.i_size, lengths[i]);
		assert_int_equal(in.i_blocks, lengths[i] < 60 ? 0 : 8);
	}
	done(&w);
}

static void refusals(void **state)
{
	struct work w;
	struct banger_error err = {0};
	ext4_node n = 77;
	char name[300];
	ext4_node d;
	struct ext4_attr dev = {.mode = S_IFCHR, .major = 4096};

	begin(&w);
	memset(name, 'n', sizeof(name));
	d = add(&w, EXT4_BUILDER_ROOT, "d", &dir_attr);
#define ADD(text, len, attr) ext4_builder_add(w.b, d, text, len, attr, NULL, 0, &n, &err)
	assert_int_equal(ADD(name, 255, &file_attr), 0);
	n = 77;
	assert_int_equal(ADD(name, 256, &file_attr), -ENAMETOOLONG);
	assert_int_equal(ADD("", 0, &file_attr), -EINVAL);
	assert_int_equal(ADD(".", 1, &file_attr), -EINVAL);
	assert_int_equal(ADD("..", 2, &file_attr), -EINVAL);
	assert_int_equal(ADD("a/b", 3, &file_attr), -EINVAL);
	assert_int_equal(ADD("a\0b", 3, &file_attr), -EINVAL);
	assert_int_equal(ADD(name, 255, &file_attr), -EEXIST);
	assert_int_equal(ADD("dev", 3, &dev), -EOPNOTSUPP);
	assert_int_equal(n, 77);
	assert_int_equal(ext4_builder_remove(w.b, d, "gone", 4, &err), -ENOENT);
	assert_int_equal(ext4_builder_link(w.b, d, "self", 4, d, &err), -EINVAL);
	assert_int_equal(ext4_builder_lookup(w.b, d, name, 256), 0);
	end(&w);
	assert_int_equal(image_count(&w.im, "/d"), 1);
	done(&w);
}

static void content(void **state)
{
	struct work w;
	uint8_t data[40000], *back;
	struct ext2_inode_large in;

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = 1 + i % 251;
	begin(&w);
	/* By odd pieces, with a hole, ending in the middle of a block. */
	ext4_node n = add(&w, EXT4_BUILDER_ROOT, "pieces", &file_attr);
	for (size_t at = 0, piece = 1; at < 20000; at += piece, piece = piece * 3 % 5003)
		put(&w, n, at, data + at, at + piece < 20000 ? piece : 20000 - at);
	put(&w, n, 30001, data + 30001, 9);
	put(&w, n, 30020, data + 30020, 9980);
	end_file(&w, n, 50000);
	/* Zeros are holes too. */
	n = add(&w, EXT4_BUILDER_ROOT, "zeros", &file_attr);
	static const uint8_t zeros[16384];
	put(&w, n, 0, zeros, sizeof(zeros));
	put(&w, n, 16384, "x", 1);
	n = add(&w, EXT4_BUILDER_ROOT, "empty", &file_attr);
	end_file(&w, n, 0);
	n = add(&w, EXT4_BUILDER_ROOT, "hole", &file_attr);
	end_file(&w, n, (uint64_t)5 << 40);
	struct banger_error err = {0};
	n = add(&w, EXT4_BUILDER_ROOT, "huge", &file_attr);
	assert_int_equal(ext4_builder_end_file(w.b, n, (uint64_t)17 << 40, &err), -EFBIG);
	assert_int_equal(ext4_builder_write(w.b, n, UINT64_MAX - 3, "abcdefgh", 8, &err), -EFBIG);
	put(&w, n, ((uint64_t)UINT32_MAX - 1) * 4096, "end", 3);
	end(&w);

	memset(data + 20000, 0, 10001);
	memset(data + 30010, 0, 10);
	back = image_read(&w.im, "/pieces", 50000);
	assert_memory_equal(back, data, 40000);
	for (size_t i = 40000; i < 50000; i++)
		assert_int_equal(back[i], 0);
	free(back);
	image_inode(&w.im, "/pieces", &in);
	assert_int_equal(in.i_blocks, 8 * 8); /* 0-4 and 7-9 */
	image_inode(&w.im, "/zeros", &in);
	assert_int_equal(in.i_size, 16385);
	assert_int_equal(in.i_blocks, 8);
	image_inode(&w.im, "/hole", &in);
	assert_int_equal(in.i_size_high, 5 << 8);
	assert_int_equal(in.i_blocks, 0);
	done(&w);
}

/* More extents than an inode, than one block, than 4 blocks of the tree hold. */
static void fragments(void **state)
{
	static const uint32_t counts[] = {4, 5, 340, 341, 1360, 1361, 5000};
	struct work w;
	char name[32];
	uint8_t block[4096];

	begin(&w);
	for (size_t i = 0; i < ELEMENTSOF(counts); i++) {
		snprintf(name, sizeof(name), "f%u", counts[i]);
		ext4_node n = add(&w, EXT4_BUILDER_ROOT, name, &file_attr);
		for (uint32_t k = 0; k < counts[i]; k++) {
			memset(block, 1 + k % 255, sizeof(block));
			put(&w, n, (uint64_t)k * 8192, block, sizeof(block));
		}
	}
	end(&w);
	for (size_t i = 0; i < ELEMENTSOF(counts); i++) {
		snprintf(name, sizeof(name), "/f%u", counts[i]);
		size_t size = counts[i] * 8192u - 4096;
		uint8_t *back = image_read(&w.im, name, size);
		for (size_t at = 0; at < size; at += 512)
			assert_int_equal(back[at], at % 8192 < 4096 ? 1 + at / 8192 % 255 : 0);
		free(back);
	}
	done(&w);
}

/* Past the copies of the superblock at 128 MiB and 384 MiB. */
static void crosses_groups(void **state)
{
	const size_t size = 400 << 20, piece = 1 << 20;
	uint32_t *data = malloc(piece);
	struct work w;

	assert_non_null(data);
	begin(&w);
	ext4_node n = add(&w, EXT4_BUILDER_ROOT, "big", &file_attr);
	for (size_t at = 0; at < size; at += piece) {
		for (size_t i = 0; i < piece / 4; i++)
			data[i] = at + i + 1;
		put(&w, n, at, data, piece);
	}
	end(&w);
	ext2_file_t f;
	struct ext2_inode_large in;
	unsigned got;
	ext2_ino_t ino = image_inode(&w.im, "/big", &in);
	assert_int_equal(ext2fs_file_open(w.im.fs, ino, 0, &f), 0);
	for (size_t at = 0; at < size; at += piece) {
		assert_int_equal(ext2fs_file_read(f, data, piece, &got), 0);
		assert_int_equal(got, piece);
		for (size_t i = 0; i < piece / 4; i += 1024)
			if (data[i] != (uint32_t)(at + i + 1))
				fail_msg("wrong content at %zu", at + i * 4);
	}
	ext2fs_file_close(f);
	assert_true(w.im.fs->group_desc_count >= 4);
	done(&w);
	free(data);
}

static void add_many(struct work *w, const char *dir, const char *prefix, int width, unsigned n,
	const struct ext4_attr *attr)
{
	ext4_node d = add(w, EXT4_BUILDER_ROOT, dir, &dir_attr);
	char name[300];

	for (unsigned i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "%s%0*u", prefix, width, i);
		add(w, d, name, attr);
	}
}

static void large_directories(void **state)
{
	struct work w;
	struct ext2_inode_large in;

	begin(&w);
	add_many(&w, "many", "file-", 1, 100000, &file_attr);
	add_many(&w, "long", "", 255, 20000, &file_attr);
	add_many(&w, "dirs", "", 1, 66000, &dir_attr);
	for (unsigned n = 300; n < 345; n++) { /* about one block's worth */
		char name[16];
		snprintf(name, sizeof(name), "edge%u", n);
		add_many(&w, name, "", 4, n, &file_attr);
	}
	end(&w);
	assert_int_equal(image_count(&w.im, "/many"), 100000);
	assert_int_equal(image_count(&w.im, "/long"), 20000);
	assert_int_equal(image_count(&w.im, "/dirs"), 66000);
	image_inode(&w.im, "/dirs", &in);
	assert_int_equal(in.i_links_count, 1);
	assert_true(in.i_flags & EXT2_INDEX_FL);
	image_inode(&w.im, "/edge338", &in);
	assert_int_equal(in.i_size, 4096);
	image_inode(&w.im, "/edge339", &in);
	assert_true(in.i_size > 4096 && (in.i_flags & EXT2_INDEX_FL));
	done(&w);
}

static void deep(void **state)
{
	struct work w;
	struct banger_error err = {0};
	ext4_node d = EXT4_BUILDER_ROOT;

	begin(&w);
	for (int i = 0; i < 2000; i++)
		d = add(&w, d, "d", &dir_attr);
	add(&w, d, "bottom", &file_attr);
	d = add(&w, EXT4_BUILDER_ROOT, "gone", &dir_attr);
	for (int i = 0; i < 300000; i++)
		d = add(&w, d, "x", &dir_attr);
	assert_int_equal(ext4_builder_remove(w.b, EXT4_BUILDER_ROOT, "gone", 4, &err), 0);
	end(&w);
	assert_int_equal(w.result.directories, 2001);
	done(&w);
}

static void replaced(void **state)
{
	struct work w;
	struct banger_error err = {0};
	struct stat st;
	uint8_t *data = malloc(8 << 20);

	assert_non_null(data);
	memset(data, 'z', 8 << 20);
	begin(&w);
	ext4_node d = add(&w, EXT4_BUILDER_ROOT, "d", &dir_attr);
	ext4_node n = add(&w, d, "big", &file_attr);
	put(&w, n, 0, data, 8 << 20);
	ext4_node keep = add(&w, EXT4_BUILDER_ROOT, "keep", &file_attr);
	put(&w, keep, 0, "kept", 4);
	assert_int_equal(ext4_builder_link(w.b, d, "again", 5, keep, &err), 0);
	assert_int_equal(ext4_builder_links(w.b, keep), 2);
	assert_int_equal(ext4_builder_remove(w.b, EXT4_BUILDER_ROOT, "d", 1, &err), 0);
	assert_int_equal(ext4_builder_links(w.b, keep), 1);
	assert_int_equal(ext4_builder_lookup(w.b, EXT4_BUILDER_ROOT, "d", 1), 0);
	/* Removed while it is being written. */
	n = add(&w, EXT4_BUILDER_ROOT, "half", &file_attr);
	put(&w, n, 0, data, 5000);
	assert_int_equal(ext4_builder_remove(w.b, EXT4_BUILDER_ROOT, "half", 4, &err), 0);
	add(&w, EXT4_BUILDER_ROOT, "d", &file_attr);
	end(&w);
	assert_int_equal(w.result.inodes, 3);
	uint8_t *back = image_read(&w.im, "/keep", 4);
	assert_memory_equal(back, "kept", 4);
	free(back);
	assert_int_equal(fstat(w.im.fd, &st), 0);
	assert_true(st.st_blocks * 512 < 1 << 20); /* the eight megabytes are holes */
	done(&w);
	free(data);
}

static void many_links(void **state)
{
	struct work w;
	struct banger_error err = {0};
	struct ext2_inode_large in;
	char name[16];

	begin(&w);
	ext4_node n = add(&w, EXT4_BUILDER_ROOT, "f", &file_attr);
	for (int i = 1; i < 65000; i++) {
		snprintf(name, sizeof(name), "%d", i);
		assert_int_equal(
			ext4_builder_link(w.b, EXT4_BUILDER_ROOT, name, strlen(name), n, &err), 0);
	}
	assert_int_equal(ext4_builder_link(w.b, EXT4_BUILDER_ROOT, "no", 2, n, &err), -EFBIG);
	end(&w);
	image_inode(&w.im, "/f", &in);
	assert_int_equal(in.i_links_count, 65000);
	done(&w);
}

/* ---- extended attributes */

static struct ext4_xattr x(const char *name, const void *value, size_t len)
{
	return (struct ext4_xattr){
		.name = name, .name_len = strlen(name), .value = value, .value_len = len};
}

static void set(
	struct work *w, ext4_node n, const struct ext4_xattr *list, size_t count, size_t ignored)
{
	struct banger_error err = {0};
	size_t got = 99;

	if (ext4_builder_set_xattrs(w->b, n, list, count, &got, &err) < 0)
		fail_msg("%s", err.message);
	assert_int_equal(got, ignored);
}

static void check_xattr(
	struct work *w, const char *path, const char *name, const void *want, size_t len)
{
	size_t got = 0;
	uint8_t *value = image_xattr(&w->im, path, name, &got);

	if (!want) {
		assert_null(value);
		return;
	}
	if (!value)
		fail_msg("%s has no %s", path, name);
	assert_int_equal(got, len);
	assert_memory_equal(value, want, len);
	ext2fs_free_mem(&value);
}

static void xattrs(void **state)
{
	struct work w;
	char big[4000];
	const char cap[20] = {1, 0, 0, 2, 0, 4};
	struct ext4_xattr list[4];

	memset(big, 'b', sizeof(big));
	begin(&w);
	ext4_node n = add(&w, EXT4_BUILDER_ROOT, "small", &file_attr);
	list[0] = x("user.b", "first", 5);
	list[1] = x("security.capability", cap, sizeof(cap));
	list[2] = x("user.b", "second", 6);
	list[3] = x("com.apple.provenance", "?", 1);
	set(&w, n, list, 4, 1);
	n = add(&w, EXT4_BUILDER_ROOT, "empty", &file_attr);
	list[0] = x("user.none", "", 0);
	set(&w, n, list, 1, 0);
	n = add(&w, EXT4_BUILDER_ROOT, "both", &file_attr);
	list[0] = x("user.big", big, 4000);
	list[1] = x("trusted.t", "0123456789012345678901234567890123456789", 40);
	set(&w, n, list, 2, 0);
	for (int i = 0; i < 2500; i++) { /* three shared blocks */
		char name[16];
		snprintf(name, sizeof(name), "s%d", i);
		n = add(&w, EXT4_BUILDER_ROOT, name, &file_attr);
		list[0] = x("security.selinux", big, 300);
		set(&w, n, list, 1, 0);
	}
	n = add_link(&w, EXT4_BUILDER_ROOT, "link", "x");
	list[0] = x("user.no", "1", 1);
	list[1] = x("security.selinux", "label", 6);
	set(&w, n, list, 2, 1);
	n = add(&w, EXT4_BUILDER_ROOT, "toobig", &file_attr);
	struct banger_error err = {0};
	size_t ignored;
	list[0] = x("user.a", big, 3000);
	list[1] = x("user.b", big, 3000);
	assert_int_equal(ext4_builder_set_xattrs(w.b, n, list, 2, &ignored, &err), -EFBIG);
	end(&w);
	check_xattr(&w, "/small", "user.b", "second", 6);
	check_xattr(&w, "/small", "security.capability", cap, sizeof(cap));
	check_xattr(&w, "/small", "com.apple.provenance", NULL, 0);
	check_xattr(&w, "/empty", "user.none", "", 0);
	check_xattr(&w, "/both", "user.big", big, 4000);
	check_xattr(&w, "/both", "trusted.t", "0123456789012345678901234567890123456789", 40);
	check_xattr(&w, "/s2499", "security.selinux", big, 300);
	struct ext2_inode_large in;
	image_inode(&w.im, "/small", &in);
	assert_int_equal(in.i_file_acl, 0);
	image_inode(&w.im, "/s0", &in);
	uint32_t first = in.i_file_acl;
	image_inode(&w.im, "/s2499", &in);
	assert_int_equal(in.i_file_acl, first + 2);
	done(&w);
}

static const uint8_t acl[] = {2, 0, 0, 0, /* version */
	1, 0, 7, 0, 255, 255, 255, 255,   /* user::rwx */
	2, 0, 4, 0, 0xe8, 3, 0, 0,        /* user:1000:r-- */
	4, 0, 5, 0, 255, 255, 255, 255,   /* group::r-x */
	8, 0, 6, 0, 0xe9, 3, 0, 0,        /* group:1001:rw- */
	16, 0, 6, 0, 255, 255, 255, 255,  /* mask::rw- */
	32, 0, 1, 0, 255, 255, 255, 255}; /* other::--x */
static const uint8_t plain_acl[] = {2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 4, 0, 4, 0, 255,
	255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255};

static void acls(void **state)
{
	struct work w;
	struct ext2_inode_large in;
	struct banger_error err = {0};
	size_t ignored;
	struct ext4_xattr list[2] = {x("system.posix_acl_access", acl, sizeof(acl)),
		x("system.posix_acl_default", acl, sizeof(acl))};

	begin(&w);
	ext4_node n = add(&w, EXT4_BUILDER_ROOT, "dir", &dir_attr);
	set(&w, n, list, 2, 0);
	n = add(&w, EXT4_BUILDER_ROOT, "file", &file_attr);
	set(&w, n, list, 2, 1);
	n = add(&w, EXT4_BUILDER_ROOT, "plain", &file_attr);
	list[0] = x("system.posix_acl_access", plain_acl, sizeof(plain_acl));
	set(&w, n, list, 1, 0);
	uint8_t bad[sizeof(acl)];
	n = add(&w, EXT4_BUILDER_ROOT, "bad", &file_attr);
	for (size_t i = 0; i < sizeof(acl); i += 4) {
		memcpy(bad, acl, sizeof(acl));
		bad[i] ^= 0x40;
		if (i % 8 == 0 && i > 0)
			continue; /* an id: any is well-formed */
		list[0] = x("system.posix_acl_access", bad, sizeof(bad));
		assert_int_equal(
			ext4_builder_set_xattrs(w.b, n, list, 1, &ignored, &err), -EUCLEAN);
	}
	for (size_t len = 0; len < sizeof(acl); len += 4) {
		list[0] = x("system.posix_acl_access", acl, len);
		assert_int_equal(
			ext4_builder_set_xattrs(w.b, n, list, 1, &ignored, &err), -EUCLEAN);
	}
	end(&w);
	/* libext2fs gives entries without an id the id 0. */
	uint8_t want[sizeof(acl)];
	memcpy(want, acl, sizeof(acl));
	for (size_t i = 8; i < sizeof(acl); i += 8)
		if (want[i + 3] == 255)
			memset(want + i, 0, 4);
	check_xattr(&w, "/dir", "system.posix_acl_access", want, sizeof(want));
	check_xattr(&w, "/dir", "system.posix_acl_default", want, sizeof(want));
	check_xattr(&w, "/file", "system.posix_acl_access", want, sizeof(want));
	check_xattr(&w, "/file", "system.posix_acl_default", NULL, 0);
	image_inode(&w.im, "/file", &in);
	assert_int_equal(in.i_mode, S_IFREG | 0761);
	check_xattr(&w, "/plain", "system.posix_acl_access", NULL, 0);
	image_inode(&w.im, "/plain", &in);
	assert_int_equal(in.i_mode, S_IFREG | 0640);
	done(&w);
}

/* ---- sizes */

static void sizes(void **state)
{
	static const int64_t mib = 1 << 20;
	const int64_t list[] = {16 * mib, 17 * mib + 4096, 100 * mib, 128 * mib, 129 * mib,
		257 * mib, 1000 * mib, 10240 * mib, (1 << 20) * mib, 7 * (1 << 20) * mib};

	for (size_t i = 0; i < ELEMENTSOF(list); i++) {
		struct work w;
		struct stat st;
		begin_size(&w, list[i]);
		put(&w, add(&w, EXT4_BUILDER_ROOT, "f", &file_attr), 0, "hello", 5);
		end(&w);
		assert_int_equal(w.result.size, list[i]);
		assert_int_equal(fstat(w.im.fd, &st), 0);
		assert_int_equal(st.st_size, list[i]);
		done(&w);
	}
}

static void size_errors(void **state)
{
	struct banger_error err = {0};
	struct work w;
	struct ext4_builder *b = NULL;
	uint8_t block[4096];

	memset(block, 1, sizeof(block));
	begin_size(&w, 16 << 20);
	ext4_node n = add(&w, EXT4_BUILDER_ROOT, "f", &file_attr);
	int r = 0;
	for (uint64_t at = 0; at < 32 << 20 && r == 0; at += 4096)
		r = ext4_builder_write(w.b, n, at, block, sizeof(block), &err);
	assert_int_equal(r, -ENOSPC);
	done(&w);
	begin_size(&w, 4096);
	assert_int_equal(ext4_builder_finish(w.b, &w.result, &err), -ENOSPC);
	done(&w);
	image_create(&w.im);
	struct ext4_builder_options o = {.fd = w.im.fd, .size = 4097};
	assert_int_equal(ext4_builder_new(&o, &b, &err), -EINVAL);
	o.size = (int64_t)9 << 40;
	assert_int_equal(ext4_builder_new(&o, &b, &err), -EFBIG);
	assert_null(b);
	image_done(&w.im);
}

/* ---- the same calls, the same bytes */

static void build_some(struct work *w, const uint8_t *seed)
{
	struct banger_error err = {0};
	char name[32] = "";

	memset(w, 0, sizeof(*w));
	image_create(&w->im);
	const struct ext4_builder_options o = {.fd = w->im.fd,
		.headroom_bytes = 1 << 20,
		.seed = seed,
		.time = 1000,
		.direct = true};
	assert_int_equal(ext4_builder_new(&o, &w->b, &err), 0);
	for (int i = 0; i < 3000; i++) {
		snprintf(name, sizeof(name), "f%d", i * 7919 % 3001);
		ext4_node n = add(w, EXT4_BUILDER_ROOT, name, &file_attr);
		put(w, n, i % 100 * 4096, name, sizeof(name));
		struct ext4_xattr a = x("user.n", name, sizeof(name));
		set(w, n, &a, 1, 0);
	}
	end(w);
}

static uint64_t digest(int fd)
{
	uint64_t sum = 0, block[512];
	ssize_t n;

	for (off_t at = 0; (n = pread(fd, block, sizeof(block), at)) > 0; at += n)
		for (size_t i = 0; i < n / sizeof(*block); i++)
			sum = (sum ^ block[i]) * 0x9e3779b97f4a7c15 + (sum >> 29);
	return sum;
}

static void reproducible(void **state)
{
	static const uint8_t seed[EXT4_BUILDER_SEED_LEN] = {1, 2, 3};
	struct work a, b, c;

	setenv("SOURCE_DATE_EPOCH", "77", 1);
	setenv("E2FSPROGS_FAKE_TIME", "88", 1);
	build_some(&a, NULL);
	unsetenv("SOURCE_DATE_EPOCH");
	unsetenv("E2FSPROGS_FAKE_TIME");
	build_some(&b, NULL);
	assert_true(digest(a.im.fd) == digest(b.im.fd));
	build_some(&c, seed);
	assert_memory_equal(a.result.uuid, b.result.uuid, 16);
	assert_memory_not_equal(a.result.uuid, c.result.uuid, 16);
	assert_memory_equal(a.im.fs->super->s_uuid, a.result.uuid, 16);
	done(&a);
	done(&b);
	done(&c);
}

int main(void)
{
	initialize_ext2_error_table();
	const struct CMUnitTest tests[] = {cmocka_unit_test(nothing), cmocka_unit_test(attributes),
		cmocka_unit_test(kinds), cmocka_unit_test(refusals), cmocka_unit_test(content),
		cmocka_unit_test(fragments), cmocka_unit_test(crosses_groups),
		cmocka_unit_test(large_directories), cmocka_unit_test(deep),
		cmocka_unit_test(replaced), cmocka_unit_test(many_links), cmocka_unit_test(xattrs),
		cmocka_unit_test(acls), cmocka_unit_test(sizes), cmocka_unit_test(size_errors),
		cmocka_unit_test(reproducible)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
