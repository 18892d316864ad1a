/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Streams: what went in comes out, whatever the pieces; errors are errors; a stream can be given up
 * while it waits.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <isa-l/igzip_lib.h>
#include <lzma.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zstd.h>
#include "unpack/stream/stream.h"

#define SIZE (3u << 20)

static uint8_t *plain;

/* Half noise, half repetition. */
static int make_plain(void **state)
{
	uint32_t x = 1;

	plain = malloc(SIZE);
	assert_non_null(plain);
	for (size_t i = 0; i < SIZE; i++) {
		x = x * 1664525 + 1013904223;
		plain[i] = i / 1000 % 2 ? x >> 24 : i % 97;
	}
	return 0;
}

static int free_plain(void **state)
{
	free(plain);
	return 0;
}

static size_t pack_gzip(const uint8_t *in, size_t len, uint8_t *out, size_t room)
{
	struct isal_zstream s;
	uint8_t level[ISAL_DEF_LVL1_DEFAULT];

	isal_deflate_init(&s);
	s.level = 1;
	s.level_buf = level;
	s.level_buf_size = sizeof(level);
	s.gzip_flag = IGZIP_GZIP;
	s.end_of_stream = 1;
	s.next_in = (uint8_t *)in;
	s.avail_in = len;
	s.next_out = out;
	s.avail_out = room;
	assert_int_equal(isal_deflate(&s), COMP_OK);
	return room - s.avail_out;
}

static size_t pack_zstd(const uint8_t *in, size_t len, uint8_t *out, size_t room)
{
	size_t n = ZSTD_compress(out, room, in, len, 1);

	assert_false(ZSTD_isError(n));
	return n;
}

static size_t pack_xz(const uint8_t *in, size_t len, uint8_t *out, size_t room)
{
	size_t n = 0;

	assert_int_equal(lzma_easy_buffer_encode(0, LZMA_CHECK_CRC64, NULL, in, len, out, &n, room),
		LZMA_OK);
	return n;
}

static size_t pack_none(const uint8_t *in, size_t len, uint8_t *out, size_t room)
{
	memcpy(out, in, len);
	return len;
}

static const struct {
	const char *name;
	size_t (*pack)(const uint8_t *in, size_t len, uint8_t *out, size_t room);
} kinds[] = {{"gzip", pack_gzip}, {"zstd", pack_zstd}, {"xz", pack_xz}, {"none", pack_none}};

struct feed {
	int fd;
	const uint8_t *data;
	size_t len, piece;
};

static void *feed(void *arg)
{
	const struct feed *f = arg;

	for (size_t at = 0; at < f->len;) {
		size_t n = f->len - at < f->piece ? f->len - at : f->piece;
		ssize_t done = write(f->fd, f->data + at, n);
		if (done < 0)
			break;
		at += done;
	}
	close(f->fd);
	return NULL;
}

static void begin(struct stream *s)
{
	const struct stream_blob *blob;
	struct banger_error err = {0};

	assert_int_equal(stream_begin(s, &blob, &err), 1);
	assert_int_equal(blob->number, 0);
}

/* Reads to the end and compares. Returns the last result of stream_next(). */
static int drink(struct stream *s, const uint8_t *want, size_t len, struct banger_error *err)
{
	const uint8_t *p;
	size_t n, at = 0;
	int r;

	while ((r = stream_next(s, &p, &n, err)) > 0) {
		assert_true(n > 0 && at + n <= len);
		assert_memory_equal(p, want + at, n);
		at += n;
	}
	if (r == 0)
		assert_int_equal(at, len);
	return r;
}

static void through_a_pipe(
	const uint8_t *packed, size_t packed_len, size_t piece, size_t len, const char *kind)
{
	int ends[2];
	pthread_t t;
	_cleanup_stream_ struct stream *s = NULL;
	struct banger_error err = {0};

	assert_int_equal(pipe(ends), 0);
	struct feed f = {ends[1], packed, packed_len, piece};
	assert_int_equal(stream_new_fd(ends[0], &s, &err), 0);
	assert_int_equal(pthread_create(&t, NULL, feed, &f), 0);
	stream_start(s);
	begin(s);
	if (drink(s, plain, len, &err) < 0)
		fail_msg("%s by %zu: %s", kind, piece, err.message);
	assert_string_equal(stream_compression(s), kind);
	assert_int_equal(stream_position(s), packed_len);
	pthread_join(t, NULL);
	close(ends[0]);
}

static void round_trips(void **state)
{
	static const size_t lengths[] = {0, 1, 7, 8, 512, 65536, 70001, SIZE};
	uint8_t *packed = malloc(2 * SIZE + 4096);

	assert_non_null(packed);
	for (size_t k = 0; k < ELEMENTSOF(kinds); k++)
		for (size_t i = 0; i < ELEMENTSOF(lengths); i++) {
			size_t n = kinds[k].pack(plain, lengths[i], packed, 2 * SIZE);
			through_a_pipe(packed, n, 1 << 20, lengths[i], kinds[k].name);
			if (n < 100000)
				through_a_pipe(packed, n, 1, lengths[i], kinds[k].name);
			else
				through_a_pipe(packed, n, 4099, lengths[i], kinds[k].name);
			/* Two in a row. */
			n = kinds[k].pack(plain, lengths[i] / 3, packed, 2 * SIZE);
			n += kinds[k].pack(plain + lengths[i] / 3, lengths[i] - lengths[i] / 3,
				packed + n, 2 * SIZE - n);
			through_a_pipe(packed, n, 777, lengths[i], kinds[k].name);
		}
	free(packed);
}

static int from_memory(const uint8_t *data, size_t len, struct banger_error *err)
{
	int fd = memfd_create("stream", 0);
	struct stream *s = NULL;

	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, len), len);
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	assert_int_equal(stream_new_fd(fd, &s, err), 0);
	stream_start(s);
	begin(s);
	const uint8_t *p;
	size_t n;
	int r;
	while ((r = stream_next(s, &p, &n, err)) > 0)
		;
	/* An error stays. */
	if (r < 0)
		assert_int_equal(stream_next(s, &p, &n, err), r);
	stream_freep(&s);
	close(fd);
	return r;
}

/* Cut anywhere, and with any one byte changed, it is an error: nothing passes for whole. */
static void damage(void **state)
{
	uint8_t packed[4096], bad[4096];
	struct banger_error err;

	for (size_t k = 0; k < 3; k++) {
		size_t n = kinds[k].pack(plain, 1500, packed, sizeof(packed));
		assert_int_equal(from_memory(packed, n, &err), 0);
		for (size_t cut = 6; cut < n; cut += 1 + n / 150) {
			err = (struct banger_error){0};
			if (from_memory(packed, cut, &err) != -EUCLEAN)
				fail_msg("%s cut at %zu passed: %s", kinds[k].name, cut,
					err.message);
		}
		for (size_t at = n / 2; at < n; at += 1 + n / 60) {
			memcpy(bad, packed, n);
			bad[at] ^= 0x55;
			/* zstd's own checksum is not written by ZSTD_compress(). */
			if (k != 1 && from_memory(bad, n, &err) >= 0)
				fail_msg("%s damaged at %zu passed", kinds[k].name, at);
		}
		memcpy(bad, packed, n);
		memcpy(bad + n, "garbage", 7);
		assert_true(from_memory(bad, n + 7, &err) < 0);
	}
}

static void not_read(void **state)
{
	struct banger_error err = {0};

	assert_int_equal(from_memory((const uint8_t *)"BZh91AY&SY", 10, &err), -EOPNOTSUPP);
	assert_non_null(strstr(err.message, "bzip2"));
	assert_int_equal(from_memory((const uint8_t *)"PK\3\4xxxx", 8, &err), -EOPNOTSUPP);
}

static void bad_descriptor(void **state)
{
	struct stream *s = NULL;
	struct banger_error err = {0};
	const uint8_t *p;
	size_t n;
	int ends[2];

	assert_int_equal(pipe(ends), 0);
	assert_int_equal(stream_new_fd(ends[1], &s, &err), 0);
	stream_start(s);
	close(ends[0]);
	begin(s);
	assert_true(stream_next(s, &p, &n, &err) < 0);
	stream_freep(&s);
	close(ends[1]);
}

/* Freed before it starts, while it waits for a pipe, and while its buffers are full. */
static void given_up(void **state)
{
	struct banger_error err = {0};
	int ends[2];

	assert_int_equal(pipe(ends), 0);
	for (int i = 0; i < 2; i++) {
		struct stream *s = NULL;
		assert_int_equal(stream_new_fd(ends[0], &s, &err), 0);
		if (i)
			stream_start(s);
		stream_freep(&s);
		assert_null(s);
	}
	int fd = memfd_create("stream", 0);
	struct stream *s = NULL;
	const uint8_t *p;
	size_t n;
	assert_int_equal(ftruncate(fd, 100 << 20), 0);
	assert_int_equal(stream_new_fd(fd, &s, &err), 0);
	stream_start(s);
	begin(s);
	assert_int_equal(stream_next(s, &p, &n, &err), 1);
	stream_freep(&s);
	close(fd);
	close(ends[0]);
	close(ends[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(round_trips), cmocka_unit_test(damage),
		cmocka_unit_test(not_read), cmocka_unit_test(bad_descriptor),
		cmocka_unit_test(given_up)};
	return cmocka_run_group_tests(tests, make_plain, free_plain);
}
