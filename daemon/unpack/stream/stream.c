/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A ring of buffers between a thread that reads and decodes, and the caller. Buffers `taken` up to
 * `made` are full, the one at `taken` is in the caller's hands once `holding`; both counters only
 * grow, under the lock. The thread waits when all are full, and before it reads it waits in poll(2)
 * for input or for the order to stop, so that the end of a caller never waits for a slow pipe.
 *
 * Uncompressed data is read straight into the ring.
 */
#include "unpack/stream/stream.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "unpack/stream/codec.h"

#define BUFFERS 4
#define BUFFER_SIZE (512u << 10)
#define INPUT_SIZE (256u << 10)
#define MAGIC_MAX 8u

struct stream {
	int fd, stop_fd;
	pthread_t thread;
	bool started; /* the thread exists */
	pthread_mutex_t lock;
	pthread_cond_t more, less;
	bool up, go, stop, done, holding;
	uint64_t made, taken;
	struct {
		uint8_t *data;
		size_t len;
	} buffers[BUFFERS];
	uint8_t *input;
	size_t input_at, input_len;
	bool input_ended;
	_Atomic uint64_t position;
	_Atomic(const char *) compression;
	const struct codec *codec;
	void *state;
	struct banger_error error; /* set before done */
	int result;
};

static const struct {
	const char *magic, *name;
	size_t len;
} others[] = {
	{"BZh", "bzip2", 3},
	{"\x04\x22\x4d\x18", "lz4", 4},
	{"\x1f\x9d", "compress", 2},
	{"LZIP", "lzip", 4},
	{"PK\x03\x04", "zip", 4},
	{"7z\xbc\xaf", "7-zip", 4},
	{"Rar!", "rar", 4},
};

/* ---- the thread */

/* Returns 1 when fd has something, 0 to stop. */
static int wait_input(struct stream *s)
{
	struct pollfd p[2] = {
		{.fd = s->fd, .events = POLLIN}, {.fd = s->stop_fd, .events = POLLIN}};

	while (poll(p, 2, -1) < 0)
		if (errno != EINTR)
			return -errno;
	return p[1].revents ? 0 : 1;
}

/* Reads up to len bytes: their number, 0 at the end. -ECANCELED to stop. */
static ssize_t read_some(struct stream *s, uint8_t *to, size_t len, struct banger_error *err)
{
	for (;;) {
		int r = wait_input(s);
		if (r == 0)
			return -ECANCELED;
		ssize_t n = r < 0 ? r : read(s->fd, to, len);
		if (n >= 0) {
			atomic_fetch_add_explicit(&s->position, n, memory_order_relaxed);
			return n;
		}
		if (r < 0)
			errno = -r;
		if (errno != EINTR && errno != EAGAIN)
			return banger_error_set_errno(err, errno, "cannot read the stream");
	}
}

/* Waits for a buffer to fill. NULL to stop. */
static uint8_t *next_buffer(struct stream *s)
{
	pthread_mutex_lock(&s->lock);
	while (s->made - s->taken == BUFFERS && !s->stop)
		pthread_cond_wait(&s->less, &s->lock);
	uint8_t *data = s->stop ? NULL : s->buffers[s->made % BUFFERS].data;
	pthread_mutex_unlock(&s->lock);
	return data;
}

static void hand_over(struct stream *s, size_t len)
{
	if (len == 0)
		return;
	pthread_mutex_lock(&s->lock);
	s->buffers[s->made % BUFFERS].len = len;
	s->made++;
	pthread_cond_signal(&s->more);
	pthread_mutex_unlock(&s->lock);
}

/* Collects what is needed to tell the compression. */
static int read_magic(struct stream *s, struct banger_error *err)
{
	while (s->input_len < MAGIC_MAX && !s->input_ended) {
		ssize_t n = read_some(s, s->input + s->input_len, INPUT_SIZE - s->input_len, err);
		if (n < 0)
			return n;
		s->input_len += n;
		s->input_ended = n == 0;
	}
	return 0;
}

static int choose_codec(struct stream *s, struct banger_error *err)
{
	static const struct codec *const codecs[] = {&codec_gzip, &codec_zstd, &codec_xz};

	for (size_t i = 0; i < ELEMENTSOF(codecs); i++)
		if (s->input_len >= codecs[i]->magic_len &&
			memcmp(s->input, codecs[i]->magic, codecs[i]->magic_len) == 0)
			s->codec = codecs[i];
	for (size_t i = 0; i < ELEMENTSOF(others); i++)
		if (s->input_len >= others[i].len &&
			memcmp(s->input, others[i].magic, others[i].len) == 0)
			return banger_error_set(err, BANGER_UNSUPPORTED,
				"the data is %s, which banger does not read; use gzip, zstd, xz or "
				"no compression",
				others[i].name);
	atomic_store(&s->compression, s->codec ? s->codec->name : "none");
	if (!s->codec)
		return 0;
	s->state = s->codec->open();
	return s->state ? 0 : banger_error_oom(err);
}

static int refill(struct stream *s, struct banger_error *err)
{
	if (s->input_at < s->input_len || s->input_ended)
		return 0;
	ssize_t n = read_some(s, s->input, INPUT_SIZE, err);
	if (n < 0)
		return n;
	s->input_at = 0;
	s->input_len = n;
	s->input_ended = n == 0;
	return 0;
}

/* Fills one buffer as far as input lasts. Returns 1 at the end. */
static int decode_buffer(struct stream *s, uint8_t *data, size_t *ret_len, struct banger_error *err)
{
	size_t room = BUFFER_SIZE;
	int r = 0;

	while (room > 0 && r == 0) {
		r = refill(s, err);
		if (r < 0)
			return r;
		struct codec_io io = {.in = s->input + s->input_at,
			.in_len = s->input_len - s->input_at,
			.last = s->input_ended,
			.out = data + (BUFFER_SIZE - room),
			.room = room};
		r = s->codec->decode(s->state, &io, err);
		s->input_at = s->input_len - io.in_len;
		room = io.room;
	}
	*ret_len = BUFFER_SIZE - room;
	return r;
}

/* What was read for its magic, then straight from the descriptor. */
static int copy_buffer(struct stream *s, uint8_t *data, size_t *ret_len, struct banger_error *err)
{
	if (s->input_at < s->input_len) {
		*ret_len = s->input_len - s->input_at;
		memcpy(data, s->input + s->input_at, *ret_len);
		s->input_at = s->input_len;
		return 0;
	}
	ssize_t n = s->input_ended ? 0 : read_some(s, data, BUFFER_SIZE, err);
	if (n < 0)
		return n;
	*ret_len = n;
	return n == 0;
}

static int produce(struct stream *s, struct banger_error *err)
{
	int r = read_magic(s, err);

	if (r == 0)
		r = choose_codec(s, err);
	while (r == 0) {
		size_t len = 0;
		uint8_t *data = next_buffer(s);
		if (!data)
			return -ECANCELED;
		r = s->codec ? decode_buffer(s, data, &len, err) : copy_buffer(s, data, &len, err);
		if (r >= 0)
			hand_over(s, len);
	}
	return r;
}

static void *run(void *arg)
{
	struct stream *s = arg;
	struct banger_error err = {0};

	pthread_mutex_lock(&s->lock);
	s->up = true;
	pthread_cond_signal(&s->more);
	while (!s->go && !s->stop)
		pthread_cond_wait(&s->less, &s->lock);
	bool stop = s->stop;
	pthread_mutex_unlock(&s->lock);
	int r = stop ? -ECANCELED : produce(s, &err);
	pthread_mutex_lock(&s->lock);
	s->result = r;
	s->error = err;
	s->done = true;
	pthread_cond_signal(&s->more);
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

/* ---- the caller's side */

int stream_new(int fd, struct stream **ret, struct banger_error *err)
{
	_cleanup_stream_ struct stream *s = calloc(1, sizeof(*s));

	if (!s)
		return banger_error_oom(err);
	s->fd = fd;
	s->stop_fd = -1;
	s->compression = "";
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->more, NULL);
	pthread_cond_init(&s->less, NULL);
	s->input = malloc(INPUT_SIZE);
	bool memory = s->input != NULL;
	for (int i = 0; i < BUFFERS; i++)
		memory = (s->buffers[i].data = malloc(BUFFER_SIZE)) && memory;
	if (!memory)
		return banger_error_oom(err);
	s->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->stop_fd < 0)
		return banger_error_set_errno(err, errno, "cannot make an eventfd");
	int e = pthread_create(&s->thread, NULL, run, s);
	if (e)
		return banger_error_set_errno(err, e, "cannot start the reading thread");
	s->started = true;
	/* When the caller gives up its rights the thread has done all that a new thread does. */
	pthread_mutex_lock(&s->lock);
	while (!s->up)
		pthread_cond_wait(&s->more, &s->lock);
	pthread_mutex_unlock(&s->lock);
	*ret = TAKE_PTR(s);
	return 0;
}

void stream_start(struct stream *s)
{
	pthread_mutex_lock(&s->lock);
	s->go = true;
	pthread_cond_signal(&s->less);
	pthread_mutex_unlock(&s->lock);
}

void stream_freep(struct stream **ps)
{
	struct stream *s = TAKE_PTR(*ps);

	if (!s)
		return;
	if (s->started) {
		pthread_mutex_lock(&s->lock);
		s->stop = true;
		pthread_cond_signal(&s->less);
		pthread_mutex_unlock(&s->lock);
		(void)!write(s->stop_fd, &(uint64_t){1}, 8);
		pthread_join(s->thread, NULL);
	}
	if (s->stop_fd >= 0)
		close(s->stop_fd);
	if (s->state)
		s->codec->close(s->state);
	for (int i = 0; i < BUFFERS; i++)
		free(s->buffers[i].data);
	free(s->input);
	pthread_cond_destroy(&s->more);
	pthread_cond_destroy(&s->less);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

int stream_next(struct stream *s, const uint8_t **ret, size_t *ret_len, struct banger_error *err)
{
	int r = 0;

	pthread_mutex_lock(&s->lock);
	if (s->holding) {
		s->holding = false;
		s->taken++;
		pthread_cond_signal(&s->less);
	}
	while (s->made == s->taken && !s->done)
		pthread_cond_wait(&s->more, &s->lock);
	if (s->made != s->taken) {
		s->holding = true;
		*ret = s->buffers[s->taken % BUFFERS].data;
		*ret_len = s->buffers[s->taken % BUFFERS].len;
		r = 1;
	} else if (s->result < 0) {
		/* Said anew, under the op_id of this thread. */
		r = banger_error_set(err, s->error.code, "%s", s->error.message);
	}
	pthread_mutex_unlock(&s->lock);
	return r;
}

uint64_t stream_position(const struct stream *s)
{
	return atomic_load_explicit(&s->position, memory_order_relaxed);
}

const char *stream_compression(const struct stream *s)
{
	return atomic_load(&s->compression);
}
