/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libarchive's raw format makes one entry of a stream, behind the filters that we name (never
 * filter_all(): some filters run programs). An uncompressed file passes through as it is. A warning
 * of libarchive's is an error here.
 */
#include "kernel/inflate.h"

#include <archive.h>
#include <archive_entry.h>
#include <stdbool.h>
#include <string.h>

static void archive_freep(struct archive **a)
{
	if (*a)
		archive_read_free(*a);
}

static int refuse(struct archive *a, const char *what, struct banger_error *err)
{
	const char *why = archive_error_string(a);
	return banger_error_set(
		err, BANGER_CORRUPT, "%s cannot be decompressed: %s", what, why ? why : "bad data");
}

static int raw_new(struct archive **ret, struct banger_error *err)
{
	_cleanup_(archive_freep) struct archive *a = archive_read_new();
	if (!a)
		return banger_error_oom(err);
	if (archive_read_support_format_raw(a) != ARCHIVE_OK ||
		archive_read_support_filter_gzip(a) != ARCHIVE_OK ||
		archive_read_support_filter_xz(a) != ARCHIVE_OK ||
		archive_read_support_filter_zstd(a) != ARCHIVE_OK ||
		archive_read_support_filter_lz4(a) != ARCHIVE_OK)
		return banger_error_set(err, BANGER_UNSUPPORTED,
			"libarchive lacks a decompressor: %s", archive_error_string(a));
	*ret = TAKE_PTR(a);
	return 0;
}

/* Append what the entry still has to a growing block, one byte past max at most. */
static int read_all(struct archive *a, const char *what, size_t max, char **ret, size_t *ret_size,
	struct banger_error *err)
{
	_cleanup_free_ char *block = NULL;
	size_t size = 0, room = 0;
	for (;;) {
		if (size == room) {
			room = room ? room * 2 : 256 * 1024;
			char *grown = realloc(block, room);
			if (!grown)
				return banger_error_oom(err);
			block = grown;
		}
		ssize_t n = archive_read_data(a, block + size, room - size);
		if (n < 0)
			return refuse(a, what, err);
		if (n == 0)
			break;
		size += (size_t)n;
		if (size > max)
			return banger_error_set(err, BANGER_TOO_LARGE,
				"%s is over %zu bytes when decompressed", what, max);
	}
	*ret = TAKE_PTR(block);
	*ret_size = size;
	return 0;
}

int inflate_file(int fd, const char *what, size_t max, char **ret, size_t *ret_size,
	struct banger_error *err)
{
	_cleanup_(archive_freep) struct archive *a = NULL;
	struct archive_entry *entry;
	int r = raw_new(&a, err);
	if (r < 0)
		return r;
	if (archive_read_open_fd(a, fd, 128 * 1024) != ARCHIVE_OK ||
		archive_read_next_header(a, &entry) != ARCHIVE_OK)
		return refuse(a, what, err);
	return read_all(a, what, max, ret, ret_size, err);
}

/* What a range's reader keeps between libarchive's calls. */
struct range {
	int fd;
	uint64_t offset, left;
	char buffer[128 * 1024];
};

static la_ssize_t range_read(struct archive *a, void *data, const void **ret)
{
	struct range *range = data;
	size_t want = range->left < sizeof(range->buffer) ? range->left : sizeof(range->buffer);
	if (want == 0)
		return 0;
	ssize_t n = pread(range->fd, range->buffer, want, (off_t)range->offset);
	if (n < 0) {
		archive_set_error(a, errno, "read: %s", strerror(errno));
		return -1;
	}
	range->offset += (uint64_t)n;
	range->left -= (uint64_t)n;
	*ret = range->buffer;
	return n;
}

static int write_all(int fd, const char *p, size_t n, struct banger_error *err)
{
	while (n > 0) {
		ssize_t w = write(fd, p, n);
		if (w < 0 && errno == EINTR)
			continue;
		if (w < 0)
			return banger_error_set_errno(err, errno, "write");
		p += w;
		n -= (size_t)w;
	}
	return 0;
}

static int copy_out(struct archive *a, char *buffer, size_t room, int out_fd, uint64_t size,
	struct banger_error *err)
{
	while (size > 0) {
		ssize_t n = archive_read_data(a, buffer, room < size ? room : size);
		if (n < 0)
			return refuse(a, "the kernel's payload", err);
		if (n == 0)
			return banger_error_set(err, BANGER_CORRUPT,
				"the kernel's payload is shorter than it says");
		int r = write_all(out_fd, buffer, (size_t)n, err);
		if (r < 0)
			return r;
		size -= (uint64_t)n;
	}
	return 0;
}

int inflate_range(int in_fd, uint64_t offset, uint64_t length, int out_fd, uint64_t size,
	struct banger_error *err)
{
	enum { CHUNK = 1024 * 1024 };
	_cleanup_free_ struct range *range = malloc(sizeof(*range));
	_cleanup_free_ char *chunk = malloc(CHUNK);
	_cleanup_(archive_freep) struct archive *a = NULL;
	struct archive_entry *entry;
	if (!range || !chunk)
		return banger_error_oom(err);
	range->fd = in_fd;
	range->offset = offset;
	range->left = length;
	int r = raw_new(&a, err);
	if (r < 0)
		return r;
	if (archive_read_open(a, range, NULL, range_read, NULL) != ARCHIVE_OK ||
		archive_read_next_header(a, &entry) != ARCHIVE_OK)
		return refuse(a, "the kernel's payload", err);
	return copy_out(a, chunk, CHUNK, out_fd, size, err);
}
