/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes of an image file, by pread(2), never outside the file: for libext2fs as an io_manager, for
 * the reader's own parsing as ext4_pread(). There is no cache here: the kernel's page cache is one,
 * shared by all threads and given back under memory pressure, and a pread of a cached block costs
 * less than a microsecond.
 *
 * The io_manager is called while an image is opened only, by one thread, which passes the
 * descriptor as the channel's name. Numbers that libext2fs took from the superblock arrive here
 * unchecked: a count that is negative means bytes, everything is checked against the size of the
 * file.
 */
#include <banger/log.h>
#include <ctype.h>
#include <fcntl.h>
#include <sys/uio.h>

#include "internal.h"

/* What is read around metadata that was missing, and how soon the next miss counts as of a row. */
#define WINDOW_BITS_MIN 17
#define WINDOW_BITS_MAX 20
#define MISS_ROW_US 20000

struct channel {
	struct struct_io_channel pub;
	int fd;
	uint64_t size;
};

static int read_all(int fd, void *buf, size_t len, uint64_t off)
{
	while (len > 0) {
		ssize_t n = pread(fd, buf, len, (off_t)off);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -EIO;
		buf = (char *)buf + n;
		len -= (size_t)n;
		off += (uint64_t)n;
	}
	return 0;
}

/* What the page cache has of it; less than len where there is more to read. */
static size_t from_cache(int fd, void *buf, size_t len, uint64_t off)
{
	struct iovec v = {buf, len};
	ssize_t n = preadv2(fd, &v, 1, (off_t)off, RWF_NOWAIT);

	return n > 0 ? (size_t)n : 0;
}

/* Read what is around off too: more and more while misses follow each other. */
static void read_around(const struct ext4_image *img, uint64_t off)
{
	struct ext4_misses *m = img->misses;
	int64_t now = banger_monotonic_us();
	unsigned bits = atomic_load_explicit(&m->window_bits, memory_order_relaxed) + 1;

	if (now - atomic_exchange_explicit(&m->last_us, now, memory_order_relaxed) > MISS_ROW_US ||
		bits < WINDOW_BITS_MIN)
		bits = WINDOW_BITS_MIN;
	if (bits > WINDOW_BITS_MAX)
		bits = WINDOW_BITS_MAX;
	atomic_store_explicit(&m->window_bits, bits, memory_order_relaxed);
	ext4_will_read(img, off >> bits << bits, 1ull << bits);
}

static int read_cached(const struct ext4_image *img, const struct ext4_scratch *s, bool around,
	void *buf, size_t len, uint64_t off)
{
	size_t n = from_cache(img->fd, buf, len, off);

	if (n == len)
		return 0;
	ext4_slow(s);
	if (around)
		read_around(img, off + n);
	return read_all(img->fd, (char *)buf + n, len - n, off + n);
}

int ext4_pread(
	const struct ext4_image *img, struct ext4_scratch *s, void *buf, size_t len, uint64_t off)
{
	if (off > img->file_size || len > img->file_size - off)
		return ext4_damaged(
			s, "%zu bytes at %llu are beyond the image", len, (unsigned long long)off);
	return read_cached(img, s, false, buf, len, off);
}

int ext4_pread_meta(
	const struct ext4_image *img, struct ext4_scratch *s, void *buf, size_t len, uint64_t off)
{
	if (off > img->file_size || len > img->file_size - off)
		return ext4_pread(img, s, buf, len, off);
	return read_cached(img, s, true, buf, len, off);
}

int ext4_read_block(const struct ext4_image *img, struct ext4_scratch *s, uint64_t blk, void *buf,
	const char *what, uint32_t ino)
{
	if (!ext4_blocks_valid(img, blk, 1))
		return ext4_damaged(s, "inode %u: %s at block %llu, where it cannot be", ino, what,
			(unsigned long long)blk);
	return ext4_pread_meta(img, s, buf, img->block_size, blk << img->block_bits);
}

void ext4_will_read(const struct ext4_image *img, uint64_t off, uint64_t len)
{
	if (off < img->file_size)
		(void)posix_fadvise(img->fd, (off_t)off, (off_t)len, POSIX_FADV_WILLNEED);
}

bool ext4_is_cached(const struct ext4_image *img, uint64_t off)
{
	char byte;

	return off >= img->file_size || from_cache(img->fd, &byte, 1, off) == 1;
}

static errcode_t io_open(const char *name, int flags, io_channel *ret)
{
	char *end;
	long fd = strtol(name, &end, 10);
	struct stat st;

	if (!isdigit((unsigned char)name[0]) || *end || (flags & IO_FLAG_RW))
		return EXT2_ET_BAD_DEVICE_NAME;
	if (fstat((int)fd, &st) < 0)
		return errno;
	struct channel *c = calloc(1, sizeof(*c));
	char *copy = strdup(name);
	if (!c || !copy) {
		free(c);
		free(copy);
		return EXT2_ET_NO_MEMORY;
	}
	c->pub.magic = EXT2_ET_MAGIC_IO_CHANNEL;
	c->pub.manager = &ext4_io_manager;
	c->pub.name = copy;
	c->pub.block_size = 1024;
	c->pub.refcount = 1;
	c->fd = (int)fd;
	c->size = (uint64_t)st.st_size;
	*ret = &c->pub;
	return 0;
}

static errcode_t io_close(io_channel ch)
{
	if (--ch->refcount > 0)
		return 0;
	free(ch->name);
	free(ch); /* struct channel begins with it */
	return 0;
}

static errcode_t io_set_blksize(io_channel ch, int size)
{
	if (size < 1024 || size > EXT4_BLOCK_MAX)
		return EXT2_ET_INVALID_ARGUMENT;
	ch->block_size = size;
	return 0;
}

static errcode_t io_read_blk64(io_channel ch, unsigned long long block, int count, void *data)
{
	const struct channel *c = (const struct channel *)ch;
	uint64_t bs = (uint64_t)ch->block_size, len, off;

	len = count < 0 ? (uint64_t) - (int64_t)count : (uint64_t)count * bs;
	if (__builtin_mul_overflow((uint64_t)block, bs, &off) || off > c->size ||
		len > c->size - off)
		return EXT2_ET_SHORT_READ;
	return read_all(c->fd, data, len, off) < 0 ? EXT2_ET_SHORT_READ : 0;
}

static errcode_t io_read_blk(io_channel ch, unsigned long block, int count, void *data)
{
	return io_read_blk64(ch, block, count, data);
}

static errcode_t io_write_blk64(
	io_channel ch, unsigned long long block, int count, const void *data)
{
	return EXT2_ET_RO_FILSYS;
}

static errcode_t io_write_blk(io_channel ch, unsigned long block, int count, const void *data)
{
	return EXT2_ET_RO_FILSYS;
}

static errcode_t io_flush(io_channel ch)
{
	return 0;
}

struct struct_io_manager ext4_io_manager = {
	.magic = EXT2_ET_MAGIC_IO_MANAGER,
	.name = "banger read-only image",
	.open = io_open,
	.close = io_close,
	.set_blksize = io_set_blksize,
	.read_blk = io_read_blk,
	.write_blk = io_write_blk,
	.read_blk64 = io_read_blk64,
	.write_blk64 = io_write_blk64,
	.flush = io_flush,
};
