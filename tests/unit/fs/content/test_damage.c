/* SPDX-License-Identifier: Apache-2.0 */
/* The reader on damaged images: an error for what is damaged, an end to every walk, the same each
 * time. */
#include "check.h"
#include <endian.h>
#include <ext2fs/ext2fs.h>
#include "walk.h"

static struct ext4_scratch *scratch;
static char *buf;

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* Flips bytes where the base is not empty, many variants of each base. */
static void random_bytes(void **state)
{
	uint64_t rng = 88172645463325252u;
	unsigned damaged = 0, variants = 0;

	for (size_t k = 0; k < ELEMENTSOF(bases); k++) {
		uint8_t *bytes = base_expand(&bases[k]);
		int fd = base_file(bytes, bases[k].size);
		for (unsigned v = 0; v < 4000; v++, variants++) {
			size_t at[24];
			unsigned n = 1 + (unsigned)(next_random(&rng) % ELEMENTSOF(at));
			for (unsigned j = 0; j < n; j++) {
				uint8_t b = (uint8_t)next_random(&rng);
				do
					at[j] = next_random(&rng) % bases[k].size;
				while (!bytes[at[j]] && next_random(&rng) % 4096);
				assert_int_equal(pwrite(fd, &b, 1, (off_t)at[j]), 1);
			}
			struct walk a = walk_image(fd, scratch, buf);
			if (v % 50 == 0)
				assert_true(walk_image(fd, scratch, buf).sum == a.sum);
			damaged += a.errors > 0;
			for (unsigned j = 0; j < n; j++)
				assert_int_equal(pwrite(fd, &bytes[at[j]], 1, (off_t)at[j]), 1);
		}
		assert_int_equal(walk_image(fd, scratch, buf).errors, 0);
		close(fd);
		free(bytes);
	}
	assert_true(damaged > variants / 4);
}

/* Cut off at every length: refused, because the filesystem says that it is longer. */
static void truncated(void **state)
{
	uint8_t *bytes = base_expand(&bases[0]);

	for (size_t size = 0; size < bases[0].size; size += 7919) {
		struct ext4_image *img;
		struct banger_error err = {0};
		int fd = base_file(bytes, size);
		assert_int_equal(ext4_image_open(fd, &img, &err), -EUCLEAN);
		assert_int_equal(err.code, BANGER_CORRUPT);
	}
	free(bytes);
}

/* ---- crafted damage, in the base without checksums ---- */

struct crafted {
	uint8_t *bytes;
	struct ext4_image *img;
	uint32_t table; /* offset of the inode table */
};

static struct crafted craft(const char *name)
{
	struct crafted c = {0};
	size_t k = 0;

	while (strcmp(bases[k].name, name) != 0)
		k++;
	c.bytes = base_expand(&bases[k]);
	memcpy(&c.table, c.bytes + 2048 + 8, 4); /* bg_inode_table of group 0 */
	c.table *= 1024;
	return c;
}

static void open_crafted(struct crafted *c)
{
	struct banger_error err = {0};

	ext4_image_close(c->img);
	assert_int_equal(ext4_image_open(base_file(c->bytes, bases[0].size), &c->img, &err), 0);
}

static void free_crafted(struct crafted *c)
{
	ext4_image_close(c->img);
	free(c->bytes);
}

static uint8_t *inode_bytes(struct crafted *c, uint32_t ino)
{
	return c->bytes + c->table + (size_t)(ino - 1) * 256;
}

static uint32_t ino_of(struct crafted *c, const char *name)
{
	struct ext4_inode root;
	uint32_t ino;

	open_crafted(c);
	assert_int_equal(ext4_inode_get(c->img, scratch, EXT4_ROOT, &root), 0);
	assert_int_equal(ext4_lookup(c->img, scratch, &root, name, strlen(name), &ino), 0);
	return ino;
}

static void put16(uint8_t *p, uint16_t v)
{
	v = htole16(v);
	memcpy(p, &v, 2);
}

static void put32(uint8_t *p, uint32_t v)
{
	v = htole32(v);
	memcpy(p, &v, 4);
}

static int64_t read_of(struct crafted *c, uint32_t ino, uint64_t off, size_t len)
{
	struct ext4_inode i;

	open_crafted(c);
	int r = ext4_inode_get(c->img, scratch, ino, &i);
	return r < 0 ? r : ext4_read(c->img, scratch, &i, off, buf, len);
}

static void extents(void **state)
{
	struct crafted c = craft("plain");
	uint32_t ino = ino_of(&c, "sparse");
	uint8_t *root = inode_bytes(&c, ino) + 40, saved[60];

	memcpy(saved, root, 60);
	assert_int_equal(read_of(&c, ino, 70000, 100), 100);
	put32(root + 12 + 8, 5000); /* beyond the device */
	assert_int_equal(read_of(&c, ino, 70000, 100), -EUCLEAN);
	assert_int_equal(read_of(&c, ino, 0, 100), 100); /* the hole before it is sound */
	put32(root + 12 + 8, c.table / 1024);            /* the inode table is nobody's data */
	assert_int_equal(read_of(&c, ino, 70000, 100), -EUCLEAN);
	put32(root + 12 + 8, 1); /* nor is the superblock */
	assert_int_equal(read_of(&c, ino, 70000, 100), -EUCLEAN);
	memcpy(root, saved, 60);
	put16(root + 12 + 4, 0); /* an extent of no block */
	assert_int_equal(read_of(&c, ino, 70000, 100), -EUCLEAN);
	put16(root + 12 + 4, 32768 + 1); /* reserved, not written: zeros, whatever is on disk */
	assert_int_equal(read_of(&c, ino, 70000, 100), 100);
	for (int k = 0; k < 100; k++)
		assert_int_equal(buf[k], 0);
	memcpy(root, saved, 60);
	put16(root + 2, 2); /* two extents, the second the same as the first */
	memcpy(root + 24, root + 12, 12);
	assert_int_equal(read_of(&c, ino, 70000, 100), -EUCLEAN);
	memcpy(root, saved, 60);
	put16(root + 2, 5); /* more than fit */
	assert_int_equal(read_of(&c, ino, 70000, 100), -EUCLEAN);
	memcpy(root, saved, 60);
	put16(root + 6, 6); /* too deep */
	assert_int_equal(read_of(&c, ino, 70000, 100), -EUCLEAN);
	memcpy(root, saved, 60);
	free_crafted(&c);
}

/* An index node that points to itself: each level must say its depth, so it cannot go round. */
static void extent_loop(void **state)
{
	struct crafted c = craft("plain");
	uint32_t ino = ino_of(&c, "scattered");
	uint8_t *root = inode_bytes(&c, ino) + 40, *node;
	uint32_t leaf;

	assert_true(root[6] >= 1);
	memcpy(&leaf, root + 12 + 4, 4);
	node = c.bytes + (size_t)leaf * 1024;
	assert_int_equal(read_of(&c, ino, 0, 10), 10);
	for (uint16_t depth = 1; depth < 6; depth++) {
		put16(root + 6, depth);
		put16(node + 6, (uint16_t)(depth - 1));
		put16(node + 2, 1);
		put32(node + 12 + 4, leaf);
		put16(node + 12 + 8, 0);
		if (depth > 1)
			assert_int_equal(read_of(&c, ino, 0, 10), -EUCLEAN);
	}
	free_crafted(&c);
}

static void block_map(void **state)
{
	struct crafted c = craft("blocks");
	struct ext4_inode i;
	struct ext4_run run;
	uint32_t ino = ino_of(&c, "scattered"), indirect;
	uint8_t *raw = c.bytes + c.table + (size_t)(ino - 1) * 128;

	memcpy(&indirect, raw + 40 + 48, 4);
	assert_true(indirect > 0);
	for (int k = 12; k < 15; k++) /* every level is the same block, which points to itself */
		put32(raw + 40 + 4 * k, indirect);
	for (int k = 0; k < 256; k++)
		put32(c.bytes + (size_t)indirect * 1024 + 4 * k, indirect);
	open_crafted(&c);
	assert_int_equal(ext4_inode_get(c.img, scratch, ino, &i), 0);
	for (uint64_t at = 12; at < 16843020; at = at * 5 / 3) {
		assert_int_equal(ext4_map(c.img, scratch, &i, at, &run), 0);
		assert_true(run.pblk == indirect && run.len == 1);
	}
	assert_int_equal(ext4_map(c.img, scratch, &i, 1ull << 31, &run), -EUCLEAN);
	put32(c.bytes + (size_t)indirect * 1024, 0x7fffffff);
	open_crafted(&c);
	assert_int_equal(ext4_map(c.img, scratch, &i, 12, &run), -EUCLEAN);
	free_crafted(&c);
}

struct listed {
	unsigned n;
	uint64_t pos;
};

static int count_entry(void *arg, const struct ext4_dirent *e)
{
	struct listed *l = arg;

	l->n++;
	l->pos = e->next;
	return 0;
}

/* The root directory of the crafted image: how many entries, and the error at its end. */
static int list_root(struct crafted *c, unsigned *ret_n)
{
	struct ext4_inode root;
	struct listed l = {0};
	int r;

	open_crafted(c);
	assert_int_equal(ext4_inode_get(c->img, scratch, EXT4_ROOT, &root), 0);
	do {
		*ret_n = l.n;
		r = ext4_readdir(c->img, scratch, &root, l.pos, count_entry, &l);
	} while (r == 0 && l.n > *ret_n);
	*ret_n = l.n;
	return r;
}

static void directories(void **state)
{
	struct crafted c = craft("plain");
	uint32_t blk, file = ino_of(&c, "file");
	unsigned all, n;
	uint8_t *dir, *entry, saved[1024];

	memcpy(&blk, inode_bytes(&c, EXT4_ROOT) + 40 + 12 + 8, 4);
	dir = c.bytes + (size_t)blk * 1024;
	memcpy(saved, dir, 1024);
	assert_int_equal(list_root(&c, &all), 0);
	for (entry = dir + 24; memcmp(entry + 8, "file", 4) != 0; entry += 4)
		;
	static const struct {
		int at;
		uint16_t value;
	} lies[] = {
		{4, 0}, {4, 7}, {4, 11}, {4, 60000}, {4, 1024}, {6, 255}, {8, '/'}, {8, 0}, {6, 0}};
	for (size_t k = 0; k < ELEMENTSOF(lies); k++) {
		memcpy(dir, saved, 1024);
		if (lies[k].at == 4)
			put16(entry + 4, lies[k].value);
		else
			entry[lies[k].at] = (uint8_t)lies[k].value;
		assert_int_equal(list_root(&c, &n), -EUCLEAN);
		assert_true(n < all);
	}
	for (uint32_t reserved = 3; reserved <= 10; reserved++) /* sound, but not for directories */
		memcpy(inode_bytes(&c, reserved), inode_bytes(&c, file), 256);
	static const uint32_t inodes[] = {1, 3, 7, 8, 10, 49, 0x7fffffff, 0xffffffff};
	for (size_t k = 0; k < ELEMENTSOF(inodes); k++) {
		struct ext4_inode i;
		memcpy(dir, saved, 1024);
		put32(entry, inodes[k]);
		assert_int_equal(list_root(&c, &n), 0);
		assert_int_equal(n, all); /* listed by name, but not to be had */
		assert_int_equal(ext4_inode_get(c.img, scratch, inodes[k], &i), -EUCLEAN);
	}
	memcpy(dir, saved, 1024);
	memcpy(entry + 8, "..", 2); /* a second "..", of length 2 */
	entry[6] = 2;
	assert_int_equal(list_root(&c, &n), -EUCLEAN);
	memcpy(dir, saved, 1024);
	put16(inode_bytes(&c, file) + 26, 0); /* deleted, but named */
	open_crafted(&c);
	struct ext4_inode i;
	assert_int_equal(ext4_inode_get(c.img, scratch, file, &i), -EUCLEAN);
	put32(inode_bytes(&c, EXT4_ROOT) + 4,
		0x40000000); /* a directory of a million blocks, all holes */
	assert_int_equal(list_root(&c, &n), -EUCLEAN);
	assert_int_equal(n, all);
	free_crafted(&c);
}

static void attributes(void **state)
{
	struct crafted c = craft("plain");
	uint32_t ino = ino_of(&c, "tiny"), large = ino_of(&c, "empty"), value;
	uint8_t *raw = inode_bytes(&c, ino), *e;
	struct ext4_inode i;

	assert_int_equal(ext4_inode_get(c.img, scratch, ino, &i), 0);
	for (e = raw + 128 + i.extra_isize + 4; e[1] != 2; e += 4)
		;
	put16(e + 2, 4); /* the value is the names: no ACL */
	open_crafted(&c);
	assert_int_equal(
		ext4_xattr_get(c.img, scratch, &i, "system.posix_acl_access", buf, 100), -EUCLEAN);
	put32(e + 8, 100000); /* longer than the inode */
	open_crafted(&c);
	assert_int_equal(
		ext4_xattr_get(c.img, scratch, &i, "system.posix_acl_access", buf, 100), -EUCLEAN);
	assert_int_equal(ext4_xattr_list(c.img, scratch, &i, buf, 100), -EUCLEAN);
	e[0] = 255; /* a name beyond the end */
	open_crafted(&c);
	assert_int_equal(ext4_xattr_list(c.img, scratch, &i, buf, 100), -EUCLEAN);

	assert_int_equal(ext4_inode_get(c.img, scratch, large, &i), 0);
	assert_int_equal(ext4_xattr_get(c.img, scratch, &i, "user.large", buf, 65536), 1100);
	e = inode_bytes(&c, large) + 128 + i.extra_isize + 4;
	memcpy(&value, e + 4, 4);
	assert_true(value > 10);
	inode_bytes(&c, value)[8] ^= 1; /* the sum of the value */
	open_crafted(&c);
	assert_int_equal(ext4_xattr_get(c.img, scratch, &i, "user.large", buf, 65536), -EUCLEAN);
	put32(e + 4, EXT4_ROOT); /* a value that is a directory */
	open_crafted(&c);
	assert_int_equal(ext4_xattr_get(c.img, scratch, &i, "user.large", buf, 65536), -EUCLEAN);
	free_crafted(&c);
}

static void symlinks(void **state)
{
	struct crafted c = craft("plain");
	uint32_t ino = ino_of(&c, "link");
	uint8_t *raw = inode_bytes(&c, ino);
	struct ext4_inode i;
	char target[4096];
	static const uint32_t sizes[] = {0, 6, 60, 4096, 0xffffffff};

	for (size_t k = 0; k < ELEMENTSOF(sizes); k++) {
		put32(raw + 4, sizes[k]);
		open_crafted(&c);
		assert_int_equal(ext4_inode_get(c.img, scratch, ino, &i), 0);
		assert_int_equal(ext4_readlink(c.img, scratch, &i, target), -EUCLEAN);
	}
	free_crafted(&c);
}

/* Superblocks that would make a reader allocate, divide or seek by nonsense. */
static void superblocks(void **state)
{
	static const struct {
		uint16_t at;
		uint32_t value;
	} lies[] = {{0, 0xffffffff}, {4, 0xffffffff}, {4, 0}, {20, 0xffffffff}, {24, 7},
		{24, 0xffffffff}, {28, 30}, {32, 0}, {32, 8}, {32, 0xffffffff}, {36, 3}, {40, 0},
		{40, 0xffffffff}, {56, 0}, {76, 5}, {88, 0x0001ff03}, {88, 1}, {96, 0x40000},
		{96, 0x4}, {96, 0x8}};

	for (size_t k = 0; k < ELEMENTSOF(lies); k++) {
		struct crafted c = craft("plain");
		struct banger_error err = {0};
		put32(c.bytes + 1024 + lies[k].at, lies[k].value);
		int r = ext4_image_open(base_file(c.bytes, bases[0].size), &c.img, &err);
		if (r == 0) { /* it may be taken, but must not lead anywhere */
			int fd = base_file(c.bytes, bases[0].size);
			(void)walk_image(fd, scratch, buf);
			close(fd);
		} else {
			assert_true(err.code == BANGER_CORRUPT || err.code == BANGER_UNSUPPORTED);
		}
		free_crafted(&c);
	}
}

static int start(void **state)
{
	scratch = ext4_scratch_new();
	buf = malloc(1 << 20);
	return scratch && buf ? 0 : -1;
}

static int stop(void **state)
{
	ext4_scratch_free(scratch);
	free(buf);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_bytes),
		cmocka_unit_test(truncated),
		cmocka_unit_test(extents),
		cmocka_unit_test(extent_loop),
		cmocka_unit_test(block_map),
		cmocka_unit_test(directories),
		cmocka_unit_test(attributes),
		cmocka_unit_test(symlinks),
		cmocka_unit_test(superblocks),
	};
	return cmocka_run_group_tests(tests, start, stop);
}
