/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One blob as it grows.
 *
 * The file's length is always a multiple of BLOB_BLOCK until blob_finish() writes the tail: so every
 * write can go around the page cache (writing 556 MB through it costs more CPU than hashing them
 * does), and what a killed daemon leaves can be gone on with as it is. What is not yet a whole block
 * waits in `stage`. The tail goes through the page cache; a reader with O_DIRECT sees it all the same,
 * for the kernel writes back dirty pages of the range first.
 *
 * Bytes are hashed as they arrive, hot in the CPU's cache, in the thread of whoever writes: each
 * blob's own, so blobs are hashed side by side.
 *
 * A writer that fails leaves hash, `written` and `stage` as they are, and the next one in this process
 * goes on without reading anything; only after an error of the disk the digest is computed again.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <banger/fault.h>
#include <banger/log.h>
#include "pull/blob.h"
#include "pull/cancel.h"

enum {
	REHASH_PIECE = 1024 * 1024,
	STAGE_US = 250000, /* how long whole blocks wait for more on a slow link */
};

const char *blob_digest(const struct blob *b)
{
	return b->digest;
}

int64_t blob_size(const struct blob *b)
{
	return b->size;
}

int blob_fd(const struct blob *b)
{
	return b->fd;
}

int64_t blob_available(const struct blob *b)
{
	return atomic_load_explicit(&b->available, memory_order_acquire);
}

unsigned blob_generation(const struct blob *b)
{
	return atomic_load_explicit(&b->generation, memory_order_acquire);
}

static pthread_mutex_t *lock_of(const struct blob *b)
{
	return (pthread_mutex_t *)&b->lock;
}

bool blob_whole(const struct blob *b)
{
	pthread_mutex_lock(lock_of(b));
	bool whole = b->state == BLOB_WHOLE;
	pthread_mutex_unlock(lock_of(b));
	return whole;
}

int blob_failure(const struct blob *b, struct banger_error *err)
{
	int r = 0;

	pthread_mutex_lock(lock_of(b));
	if (b->state == BLOB_FAILED) {
		r = -banger_code_errno(b->failure.code);
		if (err)
			*err = b->failure;
	}
	pthread_mutex_unlock(lock_of(b));
	return r;
}

int blob_notify(struct blob *b, int eventfd, struct banger_error *err)
{
	pthread_mutex_lock(&b->lock);
	int *more = reallocarray(b->listeners, b->n_listeners + 1, sizeof(*more));
	if (more) {
		b->listeners = more;
		more[b->n_listeners++] = eventfd;
	}
	pthread_mutex_unlock(&b->lock);
	return more ? 0 : banger_error_oom(err);
}

void blob_unnotify(struct blob *b, int eventfd)
{
	pthread_mutex_lock(&b->lock);
	for (size_t i = 0; i < b->n_listeners; i++)
		if (b->listeners[i] == eventfd) {
			b->listeners[i] = b->listeners[--b->n_listeners];
			break;
		}
	pthread_mutex_unlock(&b->lock);
}

/* Called with the lock. An eventfd is told at most its maximum; more cannot be said then either. */
static void tell(struct blob *b)
{
	static const uint64_t one = 1;

	for (size_t i = 0; i < b->n_listeners; i++) {
		ssize_t n = write(b->listeners[i], &one, sizeof(one));
		(void)n;
	}
}

static void set_available(struct blob *b, int64_t available)
{
	atomic_store_explicit(&b->available, available, memory_order_release);
	pthread_mutex_lock(&b->lock);
	tell(b);
	pthread_mutex_unlock(&b->lock);
}

int64_t blob_offset(const struct blob *b)
{
	return b->written + (int64_t)b->staged;
}

static int cannot(const struct blob *b, int errnum, const char *verb, struct banger_error *err)
{
	return banger_error_set_errno(err, errnum, "%s %s in the cache", verb, b->digest);
}

int blob_open(const struct blob *b, struct banger_error *err)
{
	char path[64];

	/* By its descriptor: the name may be gone (blob_doubt()). */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", b->fd);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd >= 0 ? fd : cannot(b, errno, "opening", err);
}

static int open_for_writing(struct blob *b, struct banger_error *err)
{
	if (b->out >= 0)
		return 0;
	b->direct = true;
	b->out = openat(b->dir_fd, b->partial, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_DIRECT);
	if (b->out < 0 && errno == EINVAL) {
		b->direct = false;
		b->out = openat(b->dir_fd, b->partial, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	}
	if (b->out < 0)
		return cannot(b, errno, "opening", err);
	if (!b->stage)
		b->stage = aligned_alloc(BLOB_BLOCK, BLOB_STAGE);
	return b->stage ? 0 : banger_error_oom(err);
}

/* The filesystem took the flag but not the deed. */
static bool give_up_direct(struct blob *b)
{
	if (!b->direct)
		return false;
	b->direct = false;
	int flags = fcntl(b->out, F_GETFL);
	return flags >= 0 && fcntl(b->out, F_SETFL, flags & ~O_DIRECT) == 0;
}

static ssize_t read_some(struct blob *b, void *buf, size_t len, int64_t at)
{
	for (;;) {
		ssize_t n = pread(b->out, buf, len, at);
		if (n < 0 && (errno == EINTR || (errno == EINVAL && give_up_direct(b))))
			continue;
		return n;
	}
}

/* What of the file can be gone on with: whole blocks, or all of it when all of it is there. */
static int usable_length(struct blob *b, int64_t *ret, struct banger_error *err)
{
	struct stat st;

	if (fstat(b->out, &st) < 0)
		return cannot(b, errno, "looking at", err);
	int64_t len = st.st_size;
	if (len > b->size)
		len = 0;
	else if (len < b->size)
		len -= len % BLOB_BLOCK;
	if (len != st.st_size && ftruncate(b->out, len) < 0)
		return cannot(b, errno, "cutting", err);
	*ret = len;
	return 0;
}

static int rehash(struct blob *b, int64_t len, int cancel_fd, struct banger_error *err)
{
	_cleanup_free_ unsigned char *buf = aligned_alloc(BLOB_BLOCK, REHASH_PIECE);
	int64_t at = 0;

	if (!buf)
		return banger_error_oom(err);
	while (at < len) {
		ssize_t n = read_some(b, buf, REHASH_PIECE, at);
		if (n < 0)
			return cannot(b, errno, "reading", err);
		if (n == 0)
			return cannot(b, EIO, "reading", err);
		if (n > len - at)
			n = len - at;
		pull_hash_update(b->hash, buf, (size_t)n);
		at += n;
		set_available(b, at);
		int r = pull_check_cancelled(cancel_fd, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Of a description of its own: what readers were given may have been set to O_DIRECT by them. */
static int digest_of_file(
	struct blob *b, int cancel_fd, char ret[PULL_DIGEST_MAX], struct banger_error *err)
{
	_cleanup_close_ int fd = openat(b->dir_fd, b->name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	_cleanup_pull_hash_ struct pull_hash *hash = NULL;
	_cleanup_free_ unsigned char *buf = malloc(REHASH_PIECE);
	ssize_t n;

	if (fd < 0)
		return cannot(b, errno, "opening", err);
	int r = buf ? pull_hash_new(b->digest, &hash, err) : banger_error_oom(err);
	if (r < 0)
		return r;
	while ((n = read(fd, buf, REHASH_PIECE)) > 0) {
		pull_hash_update(hash, buf, (size_t)n);
		if ((r = pull_check_cancelled(cancel_fd, err)) < 0)
			return r;
	}
	if (n < 0)
		return cannot(b, errno, "reading", err);
	pull_hash_end(hash, ret);
	return 0;
}

int blob_doubt(struct blob *b, int cancel_fd, struct banger_error *err)
{
	char actual[PULL_DIGEST_MAX];

	int r = digest_of_file(b, cancel_fd, actual, err);
	if (r < 0 || strcmp(actual, b->digest) == 0)
		return r;
	(void)unlinkat(b->dir_fd, b->name, 0);
	return banger_error_set(err, BANGER_CORRUPT,
		"the cache's copy of %s has another digest now, %s; it was removed, and the next "
		"pull fetches it again",
		b->digest, actual);
}

int blob_begin(struct blob *b, int cancel_fd, struct banger_error *err)
{
	int64_t len = 0;

	int r = open_for_writing(b, err);
	if (r < 0 || b->hash)
		return r;
	r = usable_length(b, &len, err);
	if (r == 0)
		r = pull_hash_new(b->digest, &b->hash, err);
	if (r == 0)
		r = rehash(b, len, cancel_fd, err);
	if (r < 0) {
		pull_hash_freep(&b->hash);
		b->hash = NULL;
		return r;
	}
	b->written = len;
	b->staged = 0;
	return 0;
}

static void forget_hash(struct blob *b)
{
	pull_hash_freep(&b->hash);
	b->hash = NULL;
	b->staged = 0;
	b->written = blob_available(b);
}

int blob_restart(struct blob *b, struct banger_error *err)
{
	int r = open_for_writing(b, err);

	if (r < 0)
		return r;
	forget_hash(b);
	if (b->written > 0) {
		atomic_fetch_add_explicit(&b->generation, 1, memory_order_release);
		set_available(b, 0);
	}
	b->written = 0;
	if (ftruncate(b->out, 0) < 0)
		return cannot(b, errno, "cutting", err);
	return pull_hash_new(b->digest, &b->hash, err);
}

static int write_all(
	struct blob *b, const unsigned char *data, size_t len, int64_t at, struct banger_error *err)
{
	while (len > 0) {
		ssize_t n = pwrite(b->out, data, len, at);
		if (n < 0 && (errno == EINTR || (errno == EINVAL && give_up_direct(b))))
			continue;
		if (n <= 0)
			return cannot(b, n < 0 ? errno : ENOSPC, "writing", err);
		data += n;
		at += n;
		len -= (size_t)n;
	}
	return 0;
}

/* Whole blocks to the file. */
static int put(struct blob *b, const unsigned char *data, size_t len, struct banger_error *err)
{
	int r = write_all(b, data, len, b->written, err);

	if (r < 0) {
		forget_hash(b);
		return r;
	}
	b->written += (int64_t)len;
	set_available(b, b->written);
	return 0;
}

static int flush_blocks(struct blob *b, struct banger_error *err)
{
	size_t n = b->staged - b->staged % BLOB_BLOCK;

	if (n == 0)
		return 0;
	int r = put(b, b->stage, n, err);
	if (r < 0)
		return r;
	b->staged -= n;
	memmove(b->stage, b->stage + n, b->staged);
	b->flushed_us = banger_monotonic_us();
	return 0;
}

int blob_write(struct blob *b, const void *data, size_t len, struct banger_error *err)
{
	const unsigned char *p = data;

	if ((int64_t)len > b->size - blob_offset(b))
		return banger_error_set(err, BANGER_TOO_LARGE,
			"%s is longer than the %lld bytes that it should have", b->digest,
			(long long)b->size);
	pull_hash_update(b->hash, p, len);
	while (len > 0) {
		size_t n = len - len % BLOB_BLOCK;
		if (b->staged == 0 && n > 0 && (uintptr_t)p % BLOB_BLOCK == 0) {
			int r = put(b, p, n, err);
			if (r < 0)
				return r;
		} else {
			n = len < BLOB_STAGE - b->staged ? len : BLOB_STAGE - b->staged;
			memcpy(b->stage + b->staged, p, n);
			b->staged += n;
			if (b->staged == BLOB_STAGE) {
				int r = flush_blocks(b, err);
				if (r < 0)
					return r;
			}
		}
		p += n;
		len -= n;
	}
	if (b->staged >= BLOB_BLOCK && banger_monotonic_us() - b->flushed_us > STAGE_US)
		return flush_blocks(b, err);
	return 0;
}

/* What is no whole block, through the page cache. */
static int write_tail(struct blob *b, struct banger_error *err)
{
	if (b->staged == 0)
		return 0;
	if (b->direct && !give_up_direct(b))
		return cannot(b, EIO, "writing", err);
	int r = put(b, b->stage, b->staged, err);
	if (r == 0)
		b->staged = 0;
	return r;
}

static int name_it(struct blob *b, struct banger_error *err)
{
	FAULT_POINT("blob.written");
	if (fdatasync(b->out) < 0)
		return cannot(b, errno, "syncing", err);
	if (renameat(b->dir_fd, b->partial, b->dir_fd, b->name) < 0)
		return cannot(b, errno, "naming", err);
	FAULT_POINT("blob.named");
	return 0;
}

static void end_writing(struct blob *b)
{
	if (b->out >= 0)
		close(TAKE_FD(b->out));
	pull_hash_freep(&b->hash);
	b->hash = NULL;
	free(TAKE_PTR(b->stage));
	b->staged = 0;
}

int blob_finish(struct blob *b, struct banger_error *err)
{
	char found[PULL_DIGEST_MAX];

	if (blob_offset(b) != b->size)
		return banger_error_set(err, BANGER_INCOMPLETE, "%s has %lld bytes of %lld",
			b->digest, (long long)blob_offset(b), (long long)b->size);
	int r = flush_blocks(b, err);
	if (r == 0)
		r = write_tail(b, err);
	if (r < 0)
		return r;
	pull_hash_end(b->hash, found);
	if (strcmp(found, b->digest) != 0) {
		struct banger_error e;
		r = banger_error_set(err, BANGER_CORRUPT,
			"the content is not what its digest says: it has %s instead of %s", found,
			b->digest);
		forget_hash(b);
		(void)blob_restart(b, &e);
		return r;
	}
	r = name_it(b, err);
	if (r < 0) {
		forget_hash(b);
		return r;
	}
	end_writing(b);
	pthread_mutex_lock(&b->lock);
	b->state = BLOB_WHOLE;
	tell(b);
	pthread_mutex_unlock(&b->lock);
	return 0;
}

void blob_abandon(struct blob *b, const struct banger_error *why)
{
	struct banger_error ignored;

	if (b->hash)
		(void)flush_blocks(b, &ignored);
	if (b->out >= 0)
		close(TAKE_FD(b->out));
	pthread_mutex_lock(&b->lock);
	if (why && why->code != BANGER_OK)
		b->failure = *why;
	else
		banger_error_set(&b->failure, BANGER_CANCELLED, "cancelled");
	b->state = BLOB_FAILED;
	tell(b);
	pthread_mutex_unlock(&b->lock);
}

bool blob_take_over(struct blob *b)
{
	pthread_mutex_lock(&b->lock);
	bool mine = b->state == BLOB_IDLE || b->state == BLOB_FAILED;
	if (mine)
		b->state = BLOB_GROWING;
	pthread_mutex_unlock(&b->lock);
	return mine;
}

void blob_free(struct blob *b)
{
	end_writing(b);
	if (b->fd >= 0)
		close(b->fd);
	free(b->listeners);
	pthread_mutex_destroy(&b->lock);
	free(b);
}
