/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libext2fs reads and writes through an I/O manager; this one does it on a descriptor that is open
 * already (its number is the name), because the process that builds an image can open nothing.
 * libext2fs gets to write only the superblocks, descriptors, bitmaps and the resize inode, so there
 * is no cache.
 */
#include "unpack/builder/internal.h"

#include <fcntl.h>
#include <unistd.h>

static errcode_t io_open(const char *name, int flags, io_channel *ret)
{
	io_channel c = calloc(1, sizeof(*c));
	int *fd = malloc(sizeof(*fd));

	if (c)
		c->name = strdup(name);
	if (!c || !fd || !c->name) {
		if (c)
			free(c->name);
		free(c);
		free(fd);
		return ENOMEM;
	}
	*fd = atoi(name);
	c->magic = EXT2_ET_MAGIC_IO_CHANNEL;
	c->manager = builder_io_manager;
	c->block_size = 1024;
	c->refcount = 1;
	c->private_data = fd;
	*ret = c;
	return 0;
}

static errcode_t io_close(io_channel c)
{
	if (--c->refcount > 0)
		return 0;
	free(c->private_data);
	free(c->name);
	free(c);
	return 0;
}

static errcode_t io_set_blksize(io_channel c, int size)
{
	c->block_size = size;
	return 0;
}

/* A negative count is one of bytes. */
static size_t io_len(const struct struct_io_channel *c, int count)
{
	return count < 0 ? (size_t)-count : (size_t)count * c->block_size;
}

static errcode_t io_read64(io_channel c, unsigned long long block, int count, void *data)
{
	size_t len = io_len(c, count);
	ssize_t n = pread(*(int *)c->private_data, data, len, (off_t)block * c->block_size);

	if (n < 0)
		return errno;
	/* What lies behind the end of the file is zeros. */
	memset((char *)data + n, 0, len - n);
	return 0;
}

/* The room for descriptors is zeros where there are no copies of it yet: half a megabyte. */
static bool make_hole(int fd, off_t at, const void *data, size_t len)
{
	const char *p = data;

	return len >= BLOCK && p[0] == 0 && memcmp(p, p + 1, len - 1) == 0 &&
	       fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, len) == 0;
}

static errcode_t io_write64(io_channel c, unsigned long long block, int count, const void *data)
{
	size_t len = io_len(c, count);
	off_t at = (off_t)block * c->block_size;

	if (make_hole(*(int *)c->private_data, at, data, len))
		return 0;
	for (const char *p = data; len > 0;) {
		ssize_t n = pwrite(*(int *)c->private_data, p, len, at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? errno : EIO;
		p += n;
		at += n;
		len -= n;
	}
	return 0;
}

static errcode_t io_read(io_channel c, unsigned long block, int count, void *data)
{
	return io_read64(c, block, count, data);
}

static errcode_t io_write(io_channel c, unsigned long block, int count, const void *data)
{
	return io_write64(c, block, count, data);
}

static errcode_t io_flush(io_channel c)
{
	return 0;
}

static struct struct_io_manager manager = {
	.magic = EXT2_ET_MAGIC_IO_MANAGER,
	.name = "descriptor",
	.open = io_open,
	.close = io_close,
	.set_blksize = io_set_blksize,
	.read_blk = io_read,
	.write_blk = io_write,
	.flush = io_flush,
	.read_blk64 = io_read64,
	.write_blk64 = io_write64,
};
io_manager builder_io_manager = &manager;

/* An error of libext2fs: an errno, or one of its own. */
int builder_fs_error(struct banger_error *err, errcode_t e, const char *what)
{
	if (e > 0 && e < 4096)
		return banger_error_set_errno(err, e, "cannot write %s of the image", what);
	return banger_error_set(err, BANGER_INTERNAL,
		"cannot write %s of the image: libext2fs error %ld", what, (long)(e & 0xff));
}
