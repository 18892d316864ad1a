/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The digest of a file that was written around the page cache: a thread reads it around the cache too,
 * in pieces, while the caller hashes. Reading 2 GB through the cache would copy them, and push out
 * what is worth keeping there; like this the CPU does nothing but hash, at 1.9 GB/s, where a plain
 * loop of read and hash on a file that is not cached gets 0.9.
 *
 * A ring of PIECES buffers; holes are not read but told. One lock for the ring's two counters.
 */
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <banger/log.h>
#include "image/internal.h"

#define PIECE (1u << 20)
#define PIECES 4
#define ALIGN 4096
#define HOLE_MAX                                                                                   \
	(64 * 1024 * 1024) /* bytes that are hashed between two looks at the cancellation */

struct piece {
	int64_t len;
	bool hole;
};

struct reader {
	int fd;
	int64_t size;
	pthread_mutex_t lock;
	pthread_cond_t change;
	struct piece ring[PIECES];
	unsigned char *buf; /* PIECES of PIECE bytes */
	uint64_t filled, taken;
	bool over; /* the hasher wants no more */
	int error; /* errno, or -1: the file became shorter */
};

/* Wait for a free place; NULL when nobody wants more. */
static struct piece *free_place(struct reader *r, unsigned char **ret_buf)
{
	pthread_mutex_lock(&r->lock);
	while (!r->over && r->filled - r->taken == PIECES)
		pthread_cond_wait(&r->change, &r->lock);
	struct piece *p = r->over ? NULL : &r->ring[r->filled % PIECES];
	*ret_buf = r->buf + (size_t)(r->filled % PIECES) * PIECE;
	pthread_mutex_unlock(&r->lock);
	return p;
}

static void put(struct reader *r)
{
	pthread_mutex_lock(&r->lock);
	r->filled++;
	pthread_cond_signal(&r->change);
	pthread_mutex_unlock(&r->lock);
}

static void fail(struct reader *r, int error)
{
	pthread_mutex_lock(&r->lock);
	r->error = error;
	pthread_cond_signal(&r->change);
	pthread_mutex_unlock(&r->lock);
}

/* The data or hole that begins at `at`; where the filesystem cannot say, all is data. */
static int64_t run_at(const struct reader *r, int64_t at, bool *ret_hole)
{
	off_t data = lseek(r->fd, at, SEEK_DATA);

	*ret_hole = (data < 0 && errno == ENXIO) || data > at;
	if (data < 0)
		return r->size;
	off_t end = *ret_hole ? data : lseek(r->fd, at, SEEK_HOLE);
	return end <= at || end > r->size ? r->size : end;
}

/* Fill one piece; false at the end or after a failure. */
static bool read_piece(struct reader *r, int64_t *at, int64_t end, bool hole)
{
	unsigned char *buf;
	struct piece *p = free_place(r, &buf);

	if (!p)
		return false;
	p->hole = hole;
	if (hole) {
		p->len = end - *at < HOLE_MAX ? end - *at : HOLE_MAX;
	} else {
		ssize_t n;
		/* A multiple of the block, also at the end of the file. */
		do
			n = pread(r->fd, buf, PIECE, *at);
		while (n < 0 && errno == EINTR);
		if (n <= 0) {
			fail(r, n < 0 ? errno : -1);
			return false;
		}
		p->len = n < end - *at ? n : end - *at;
	}
	*at += p->len;
	put(r);
	return true;
}

static void *work(void *arg)
{
	struct reader *r = arg;
	int64_t at = 0;

	while (at < r->size) {
		bool hole;
		int64_t end = run_at(r, at, &hole);
		while (at < end)
			if (!read_piece(r, &at, end, hole))
				return NULL;
	}
	return NULL;
}

/* The next piece, or NULL with r->error set. */
static const struct piece *next(struct reader *r, const unsigned char **ret_buf)
{
	pthread_mutex_lock(&r->lock);
	while (r->filled == r->taken && !r->error)
		pthread_cond_wait(&r->change, &r->lock);
	const struct piece *p = r->filled > r->taken ? &r->ring[r->taken % PIECES] : NULL;
	*ret_buf = r->buf + (size_t)(r->taken % PIECES) * PIECE;
	pthread_mutex_unlock(&r->lock);
	return p;
}

static void done_with(struct reader *r)
{
	pthread_mutex_lock(&r->lock);
	r->taken++;
	pthread_cond_signal(&r->change);
	pthread_mutex_unlock(&r->lock);
}

static int hash_all(struct reader *r, struct digest *d, struct operation *op, const char *what,
	struct banger_error *err)
{
	for (int64_t done = 0; done < r->size;) {
		const unsigned char *buf;
		const struct piece *p = next(r, &buf);

		if (!p && r->error > 0)
			return banger_error_set_errno(err, r->error, "reading %s", what);
		if (!p)
			return banger_error_set(
				err, BANGER_BUSY, "%s became shorter while it was read", what);
		int e = p->hole ? digest_zeros(d, (uint64_t)p->len, err)
				: digest_update(d, buf, (size_t)p->len, err);
		done += p->len;
		done_with(r);
		if (e == 0)
			e = operation_check_cancelled(op, err);
		if (e < 0)
			return e;
	}
	return 0;
}

static int run(struct reader *r, struct digest *d, struct operation *op, const char *what,
	struct banger_error *err)
{
	pthread_t thread;

	int e = pthread_create(&thread, NULL, work, r);
	if (e)
		return banger_error_set_errno(err, e, "cannot start a thread");
	e = hash_all(r, d, op, what, err);
	pthread_mutex_lock(&r->lock);
	r->over = true;
	pthread_cond_broadcast(&r->change);
	pthread_mutex_unlock(&r->lock);
	pthread_join(thread, NULL);
	return e;
}

int durable_digest_direct(int fd, int64_t size, struct operation *op, const char *what,
	char ret[DIGEST_SIZE], struct banger_error *err)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	_cleanup_close_ int direct = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	struct stat st;
	/* Past the end everything looks like a hole. */
	if (direct < 0 || fstat(direct, &st) < 0 || st.st_size < size)
		return durable_digest(fd, size, op, what, ret, err);

	_cleanup_digest_ struct digest *d = NULL;
	struct reader r = {.fd = direct, .size = size};
	int e = digest_new(&d, err);
	if (e < 0)
		return e;
	r.buf = aligned_alloc(ALIGN, (size_t)PIECES * PIECE);
	if (!r.buf)
		return banger_error_oom(err);
	pthread_mutex_init(&r.lock, NULL);
	pthread_cond_init(&r.change, NULL);
	e = run(&r, d, op, what, err);
	pthread_cond_destroy(&r.change);
	pthread_mutex_destroy(&r.lock);
	free(r.buf);
	/* A filesystem that takes the flag and not the reads. */
	if (e < 0 && r.error == EINVAL)
		return durable_digest(fd, size, op, what, ret, err);
	return e < 0 ? e : digest_final(d, ret, err);
}
