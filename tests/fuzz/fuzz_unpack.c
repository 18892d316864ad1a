/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes as archives, to an image in memory. Whatever they are, the outcome is an error with a
 * message, or an image that libext2fs opens and walks. An input is one of three things:
 *
 *	"LAYR" u32 length, archive …   layers. Their records, replayed, must give the same image.
 *	"RECD" calls                   a layer's record of these calls, with a good header and sum
 *	anything else                  one archive, of any compression
 *
 * Mutations would all end at the first header's checksum, so libFuzzer gets a mutator that puts the
 * checksums right again, layer by layer.
 */
#include "fuzz.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <ext2fs/ext2fs.h>
#include "unpack/builder/builder.h"
#include "unpack/builder/record.h"
#include "unpack/layer/layer.h"
#include "unpack/stream/digest.h"

#define LAYERS_MAX 8
#define RECORD_HEADER 64

static struct digest *digest;

static int memory(const void *data, size_t len)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);

	MUST(fd >= 0);
	MUST(write(fd, data, len) == (ssize_t)len);
	MUST(lseek(fd, 0, SEEK_SET) == 0);
	return fd;
}

static struct ext4_builder *new_builder(int fd)
{
	static const uint8_t seed[EXT4_BUILDER_SEED_LEN] = {1};
	const struct ext4_builder_options o = {.fd = fd,
		.headroom_bytes = 1 << 20,
		.headroom_percent = 1,
		.seed = seed,
		.time = 1};
	struct banger_error err;
	struct ext4_builder *b = NULL;

	MUST(ext4_builder_new(&o, &b, &err) == 0);
	return b;
}

static int apply(struct ext4_builder *b, int tar_fd, bool layer, struct layer_counts *counts,
	struct banger_error *err)
{
	const struct layer_options lo = {.whiteouts = layer};
	const struct stream_blob *blob;
	_cleanup_stream_ struct stream *stream = NULL;
	_cleanup_tar_ struct tar_reader *tar = NULL;

	MUST(stream_new_fd(tar_fd, &stream, err) == 0);
	MUST(tar_new(stream, layer, &tar, err) == 0);
	/* Sparse and compressed zeros are cheap to ask for. */
	stream_limit(stream, 64 << 20);
	stream_start(stream);
	MUST(stream_begin(stream, &blob, err) == 1);
	return layer_apply(tar, b, &lo, counts, err);
}

static void check_image(int fd)
{
	char path[32];
	ext2_filsys fs;
	ext2_inode_scan scan;
	ext2_ino_t ino;
	struct ext2_inode inode;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	MUST(ext2fs_open(path, EXT2_FLAG_64BITS, 0, 0, unix_io_manager, &fs) == 0);
	MUST(ext2fs_read_bitmaps(fs) == 0);
	MUST(ext2fs_open_inode_scan(fs, 0, &scan) == 0);
	do
		MUST(ext2fs_get_next_inode(scan, &ino, &inode) == 0);
	while (ino);
	ext2fs_close_inode_scan(scan);
	ext2fs_close_free(&fs);
}

/* An error must say something; no error, a sound image. */
static void conclude(struct ext4_builder *b, int fd, int r, struct banger_error *err)
{
	struct ext4_builder_result result;

	if (r == 0)
		r = ext4_builder_finish(b, &result, err);
	if (r < 0)
		MUST(err->code != BANGER_OK && err->message[0] != '\0');
	else
		check_image(fd);
}

/* ---- one archive */

static void one_archive(const uint8_t *data, size_t size)
{
	_cleanup_close_ int tar_fd = memory(data, size), fd = memory("", 0);
	_cleanup_ext4_builder_ struct ext4_builder *b = new_builder(fd);
	struct layer_counts counts = {0};
	struct banger_error err = {0};

	conclude(b, fd, apply(b, tar_fd, false, &counts, &err), &err);
}

/* ---- layers */

struct layers {
	int records[LAYERS_MAX];
	size_t n;
};

static void layers_done(struct layers *l)
{
	for (size_t i = 0; i < l->n; i++)
		close(l->records[i]);
}

static int apply_recorded(struct ext4_builder *b, const uint8_t *data, size_t len, struct layers *l,
	struct banger_error *err)
{
	const struct record_id id = {.layer = l->n};
	_cleanup_close_ int tar_fd = memory(data, len);
	struct layer_counts counts = {0};

	l->records[l->n++] = memory("", 0);
	ext4_builder_begin_layer(b);
	MUST(record_begin(b, l->records[l->n - 1], &id, digest, err) == 0);
	int r = apply(b, tar_fd, true, &counts, err);
	if (r < 0) {
		record_drop(b);
		return r;
	}
	const struct record_counts rc = {counts.members, counts.ignored_xattrs};
	MUST(record_end(b, &rc, err) == 0);
	return 0;
}

/* What the next length says, or what is left. */
static size_t take_length(const uint8_t **data, size_t *size)
{
	uint32_t len;

	memcpy(&len, *data, 4);
	*data += 4;
	*size -= 4;
	return len < *size ? len : *size;
}

static int copy_of(int from)
{
	int to = memory("", 0);
	static uint8_t piece[1 << 16];
	ssize_t n;

	for (off_t at = 0; (n = pread(from, piece, sizeof(piece), at)) > 0; at += n)
		MUST(pwrite(to, piece, n, at) == n);
	return to;
}

static void must_be_same(int a, int b)
{
	static uint8_t pa[1 << 16], pb[1 << 16];
	off_t at = 0;
	ssize_t n;

	MUST(lseek(a, 0, SEEK_END) == lseek(b, 0, SEEK_END));
	while ((n = pread(a, pa, sizeof(pa), at)) > 0) {
		MUST(pread(b, pb, sizeof(pb), at) == n && memcmp(pa, pb, n) == 0);
		at += n;
	}
}

static void replay(const struct layers *l, int image, int kept)
{
	_cleanup_close_ int fd = memory("", 0);
	_cleanup_ext4_builder_ struct ext4_builder *b = new_builder(fd);
	struct ext4_builder_result result;
	struct banger_error err = {0};

	for (size_t i = 0; i < l->n; i++) {
		const struct record_id id = {.layer = i};
		struct record_counts counts;
		ext4_builder_begin_layer(b);
		MUST(record_replay(b, l->records[i], &id, digest, &counts, &err) == 0);
	}
	MUST(ext4_builder_take_content(b, kept, NULL, &err) == 0);
	MUST(ext4_builder_finish(b, &result, &err) == 0);
	must_be_same(image, fd);
}

static void layered(const uint8_t *data, size_t size)
{
	_cleanup_close_ int fd = memory("", 0), kept = -1;
	_cleanup_ext4_builder_ struct ext4_builder *b = new_builder(fd);
	_cleanup_(layers_done) struct layers l = {.n = 0};
	struct banger_error err = {0}, ignored;
	int r = 0;

	while (size >= 4 && l.n < LAYERS_MAX && r == 0) {
		size_t len = take_length(&data, &size);
		r = apply_recorded(b, data, len, &l, &err);
		data += len;
		size -= len;
	}
	if (r == 0) {
		/* Cannot be cloned here, but now all of it is in the file. */
		(void)ext4_builder_give_content(b, fd, &ignored);
		kept = copy_of(fd);
	}
	conclude(b, fd, r, &err);
	if (r == 0 && err.code == BANGER_OK)
		replay(&l, fd, kept);
}

/* ---- a record */

static int record_of(struct ext4_builder *b, const uint8_t *calls, size_t len)
{
	const struct record_id id = {0};
	const struct record_counts none = {0};
	struct banger_error err;
	uint8_t header[RECORD_HEADER], sum[DIGEST_SHA256];
	int fd = memory("", 0);

	MUST(record_begin(b, fd, &id, digest, &err) == 0);
	MUST(record_end(b, &none, &err) == 0);
	MUST(pread(fd, header, sizeof(header), 0) == sizeof(header));
	MUST(ftruncate(fd, 0) == 0);
	MUST(digest_begin(digest, NULL, &err) == 0);
	MUST(digest_add(digest, header, sizeof(header), &err) == 0);
	MUST(digest_add(digest, calls, len, &err) == 0);
	MUST(digest_end_raw(digest, sum, &err) == 0);
	MUST(pwrite(fd, header, sizeof(header), 0) == sizeof(header));
	MUST(pwrite(fd, calls, len, sizeof(header)) == (ssize_t)len);
	MUST(pwrite(fd, sum, sizeof(sum), sizeof(header) + len) == sizeof(sum));
	return fd;
}

static void record(const uint8_t *calls, size_t len)
{
	const struct record_id id = {0};
	_cleanup_close_ int fd = memory("", 0), rec = -1;
	_cleanup_ext4_builder_ struct ext4_builder *b = new_builder(fd);
	struct record_counts counts;
	struct banger_error err = {0};

	rec = record_of(b, calls, len);
	conclude(b, fd, record_replay(b, rec, &id, digest, &counts, &err), &err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct banger_error err;

	if (!digest)
		MUST(digest_new(&digest, &err) == 0);
	if (size >= 4 && !memcmp(data, "LAYR", 4))
		layered(data + 4, size - 4);
	else if (size >= 4 && !memcmp(data, "RECD", 4))
		record(data + 4, size - 4);
	else
		one_archive(data, size);
	return 0;
}

#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION

#define BLOCK 512u

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);

static void set_checksum(uint8_t *h)
{
	unsigned sum = 0;
	char text[8];

	memset(h + 148, ' ', 8);
	for (unsigned i = 0; i < BLOCK; i++)
		sum += h[i];
	snprintf(text, sizeof(text), "%06o", sum & 0777777);
	memcpy(h + 148, text, 7);
}

static size_t octal(const uint8_t *p, size_t len)
{
	size_t v = 0;

	for (size_t i = 0; i < len && p[i] >= '0' && p[i] <= '7'; i++)
		v = v << 3 | (p[i] - '0');
	return v;
}

/* Where headers are if the sizes are right. */
static void mend(uint8_t *data, size_t size)
{
	static const uint8_t zero[BLOCK];

	for (size_t at = 0; at + BLOCK <= size;) {
		if (memcmp(data + at, zero, BLOCK) != 0)
			set_checksum(data + at);
		size_t content = (octal(data + at + 124, 11) + BLOCK - 1) / BLOCK * BLOCK;
		at += BLOCK + (content < size - at ? content : 0);
	}
}

/* Mutates one layer and leaves the others; its length is kept right. */
static size_t mutate_layer(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
	size_t at = 4;

	for (unsigned skip = seed / 64 % LAYERS_MAX;; skip--) {
		if (at + 4 > size)
			return LLVMFuzzerMutate(data, size, max_size);
		uint32_t len;
		memcpy(&len, data + at, 4);
		size_t room = size - at - 4, have = len < room ? len : room;
		if (skip > 0 && at + 4 + have + 4 <= size) {
			at += 4 + have;
			continue;
		}
		/* What follows is moved out of the way and back. */
		size_t rest = room - have;
		uint8_t *keep = malloc(rest + 1);
		MUST(keep != NULL);
		memcpy(keep, data + at + 4 + have, rest);
		have = LLVMFuzzerMutate(data + at + 4, have, max_size - at - 4 - rest);
		if (seed % 64 != 0)
			mend(data + at + 4, have);
		len = have;
		memcpy(data + at, &len, 4);
		memcpy(data + at + 4 + have, keep, rest);
		free(keep);
		return at + 4 + have + rest;
	}
}

/* Now and then a checksum stays wrong. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
	if (size >= 4 && !memcmp(data, "LAYR", 4))
		return mutate_layer(data, size, max_size, seed);
	bool recorded = size >= 4 && !memcmp(data, "RECD", 4);
	size = LLVMFuzzerMutate(data, size, max_size);
	if (!recorded && seed % 64 != 0)
		mend(data, size);
	return size;
}

#endif
