/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A ring of buffers between one producer and one thread that writes. Buffers `written` up to
 * `filled` belong to the thread, the one at `filled` to the producer; both counters only grow,
 * under the lock. A buffer is one run of blocks: a block that does not follow the one before it
 * goes into the next buffer. The first error stays, and ends all writing; the producer hears of it
 * at its next call.
 */
#include "unpack/builder/writer.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define BLOCK 4096u
#define BUFFERS 4
#define BUFFER_BLOCKS 256u

struct buffer {
	uint8_t *data;
	uint64_t block;
	uint32_t n;
};

struct writer {
	int fd;
	struct buffer buffers[BUFFERS];
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t more, less;
	uint64_t filled, written;
	bool up, stop, started;
	int error; /* positive errno */
};

static int write_buffer(struct writer *w, const struct buffer *f)
{
	const uint8_t *p = f->data;
	size_t left = (size_t)f->n * BLOCK;
	off_t offset = (off_t)f->block * BLOCK;

	while (left > 0) {
		ssize_t n = pwrite(w->fd, p, left, offset);
		if (n < 0 && errno == EINTR)
			continue;
		/* A file may take O_DIRECT and refuse the write; or have written half a block. */
		if ((n < 0 && errno == EINVAL) || (n > 0 && n % BLOCK != 0)) {
			int flags = fcntl(w->fd, F_GETFL);
			if (flags >= 0 && (flags & O_DIRECT)) {
				fcntl(w->fd, F_SETFL, flags & ~O_DIRECT);
				continue;
			}
		}
		if (n < 0)
			return errno;
		if (n == 0)
			return EIO;
		p += n;
		left -= n;
		offset += n;
	}
	return 0;
}

static void *write_behind(void *arg)
{
	struct writer *w = arg;

	prctl(PR_SET_NAME, "write"); /* for ps(1) */
	pthread_mutex_lock(&w->lock);
	w->up = true;
	pthread_cond_signal(&w->less);
	for (;;) {
		while (w->written == w->filled && !w->stop)
			pthread_cond_wait(&w->more, &w->lock);
		if (w->stop)
			break;
		struct buffer *f = &w->buffers[w->written % BUFFERS];
		bool failed = w->error != 0;
		pthread_mutex_unlock(&w->lock);
		int e = failed ? 0 : write_buffer(w, f);
		pthread_mutex_lock(&w->lock);
		if (e)
			w->error = e;
		f->n = 0;
		w->written++;
		pthread_cond_signal(&w->less);
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

int writer_new(int fd, bool direct, struct writer **ret, struct banger_error *err)
{
	struct writer *w = calloc(1, sizeof(*w));

	if (!w)
		return banger_error_oom(err);
	w->fd = fd;
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->more, NULL);
	pthread_cond_init(&w->less, NULL);
	for (int i = 0; i < BUFFERS; i++)
		if (posix_memalign((void **)&w->buffers[i].data, BLOCK, BUFFER_BLOCKS * BLOCK) !=
			0) {
			w->buffers[i].data = NULL;
			writer_freep(&w);
			return banger_error_oom(err);
		}
	if (direct) {
		int flags = fcntl(fd, F_GETFL);
		/* Refused by filesystems that cannot; then it is the page cache. */
		if (flags >= 0)
			(void)fcntl(fd, F_SETFL, flags | O_DIRECT);
	}
	int e = pthread_create(&w->thread, NULL, write_behind, w);
	if (e) {
		writer_freep(&w);
		return banger_error_set_errno(err, e, "cannot start the writing thread");
	}
	w->started = true;
	/* When the caller gives up its rights the thread has done all that a new thread does. */
	pthread_mutex_lock(&w->lock);
	while (!w->up)
		pthread_cond_wait(&w->less, &w->lock);
	pthread_mutex_unlock(&w->lock);
	*ret = w;
	return 0;
}

void writer_freep(struct writer **pw)
{
	struct writer *w = TAKE_PTR(*pw);

	if (!w)
		return;
	if (w->started) {
		pthread_mutex_lock(&w->lock);
		w->stop = true;
		pthread_cond_signal(&w->more);
		pthread_mutex_unlock(&w->lock);
		pthread_join(w->thread, NULL);
	}
	for (int i = 0; i < BUFFERS; i++)
		free(w->buffers[i].data);
	pthread_cond_destroy(&w->more);
	pthread_cond_destroy(&w->less);
	pthread_mutex_destroy(&w->lock);
	free(w);
}

static int failed(const struct writer *w, struct banger_error *err)
{
	return w->error ? banger_error_set_errno(err, w->error, "cannot write the image") : 0;
}

/* Hands the buffer that was being filled to the thread, and waits for the next to be free. */
static int hand_over(struct writer *w, uint64_t ahead, struct banger_error *err)
{
	pthread_mutex_lock(&w->lock);
	if (w->buffers[w->filled % BUFFERS].n > 0) {
		w->filled++;
		pthread_cond_signal(&w->more);
	}
	while (w->filled - w->written > ahead)
		pthread_cond_wait(&w->less, &w->lock);
	int r = failed(w, err);
	pthread_mutex_unlock(&w->lock);
	return r;
}

int writer_put(
	struct writer *w, uint64_t block, const void *data, uint32_t n, struct banger_error *err)
{
	const uint8_t *p = data;

	while (n > 0) {
		struct buffer *f = &w->buffers[w->filled % BUFFERS];
		if (f->n == BUFFER_BLOCKS || (f->n > 0 && f->block + f->n != block)) {
			int r = hand_over(w, BUFFERS - 1, err);
			if (r < 0)
				return r;
			continue;
		}
		if (f->n == 0)
			f->block = block;
		uint32_t now = BUFFER_BLOCKS - f->n < n ? BUFFER_BLOCKS - f->n : n;
		memcpy(f->data + (size_t)f->n * BLOCK, p, (size_t)now * BLOCK);
		f->n += now;
		p += (size_t)now * BLOCK;
		block += now;
		n -= now;
	}
	return 0;
}

int writer_flush(struct writer *w, struct banger_error *err)
{
	return hand_over(w, 0, err);
}

int writer_end_direct(struct writer *w, struct banger_error *err)
{
	int r = writer_flush(w, err);
	if (r < 0)
		return r;
	int flags = fcntl(w->fd, F_GETFL);
	if (flags >= 0 && (flags & O_DIRECT) && fcntl(w->fd, F_SETFL, flags & ~O_DIRECT) < 0)
		return banger_error_set_errno(err, errno, "cannot write the image");
	return 0;
}
