/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Three threads and the caller, with two rings between them:
 *
 *	read ── packed ring ── decode ── plain ring ──┬── the caller
 *	                                              └── hash
 *
 * Each blob goes through as a BEGIN piece (its data is a struct stream_blob), DATA, and END. Nobody
 * waits for a blob to be through before the next one begins, so that the next layer is decoded
 * while this one is still applied. What is not compressed is not copied either: the two rings'
 * buffers have one size, and change places.
 *
 * An error of the reading or the decoding thread comes behind all that was good before it. At a
 * blob's end the caller waits for the hashing thread, which is at most a ring behind: so which of
 * several errors is told does not depend on the threads' luck.
 *
 * Before it reads from a pipe a thread waits in poll(2) for input or for the order to stop, so that
 * the end of a caller never waits for a slow one.
 */
#include "unpack/stream/stream.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>
#include "unpack/stream/codec.h"
#include "unpack/stream/digest.h"
#include "unpack/stream/ring.h"

#define BUFFER_SIZE (512u << 10)
#define PACKED_BUFFERS 4
#define PLAIN_BUFFERS 8
#define MAGIC_MAX 8u
#define THREADS 3

enum { CALLER, HASHER };

_Static_assert(sizeof(struct stream_blob) <= BUFFER_SIZE, "it goes through a buffer");

struct stream {
	struct stream_source source;
	int stop_fd, fd; /* fd: of the only blob, see stream_new_fd() */
	bool fd_given;
	struct ring *packed, *plain;
	pthread_t threads[THREADS];
	unsigned n_threads;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned up; /* threads */
	bool go, stop;

	/* The decoding thread's. */
	struct piece *input; /* being decoded */
	size_t input_at;
	uint64_t blob_at;     /* bytes of the blob decoded */
	uint64_t limit, room; /* bytes of decoded data: of all blobs, what is left of it */
	const struct codec *codec;
	void *state;

	/* The hashing thread's, but for what is under the lock. */
	struct digest *digest;
	char diff_id[STREAM_DIGEST_MAX];
	uint64_t hashed;   /* blobs; lock */
	uint64_t hash_bad; /* the first that is not good; lock */
	struct banger_error hash_error;

	/* The caller's. */
	struct stream_blob blob;
	bool holding;
	uint64_t ended; /* blobs */

	_Atomic uint64_t position;
	_Atomic(const char *) compression;
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

/* ---- a descriptor as the only blob */

/* Returns 1 when fd has something, 0 to stop. */
static int wait_input(int fd, int stop_fd)
{
	struct pollfd p[2] = {{.fd = fd, .events = POLLIN}, {.fd = stop_fd, .events = POLLIN}};

	while (poll(p, 2, -1) < 0)
		if (errno != EINTR)
			return -errno;
	return p[1].revents ? 0 : 1;
}

static ssize_t read_fd(void *arg, int stop_fd, uint8_t *to, size_t len, struct banger_error *err)
{
	const struct stream *s = arg;

	for (;;) {
		int r = wait_input(s->fd, stop_fd);
		if (r == 0)
			return -ECANCELED;
		ssize_t n = r < 0 ? r : read(s->fd, to, len);
		if (n >= 0)
			return n;
		if (r < 0)
			errno = -r;
		if (errno != EINTR && errno != EAGAIN)
			return banger_error_set_errno(err, errno, "cannot read the stream");
	}
}

static int only_blob(void *arg, int stop_fd, struct stream_blob *ret, struct banger_error *err)
{
	struct stream *s = arg;

	if (s->fd_given)
		return 0;
	s->fd_given = true;
	*ret = (struct stream_blob){.record_fd = -1};
	return 1;
}

/* ---- the reading thread */

static int mark(struct ring *ring, enum piece_kind kind, const struct stream_blob *blob)
{
	struct piece *p = ring_fill(ring);

	if (!p)
		return -ECANCELED;
	p->kind = kind;
	p->len = 0;
	if (blob)
		memcpy(p->data, blob, sizeof(*blob));
	ring_filled(ring);
	return 0;
}

/* Fills a buffer: the blob's first with at least MAGIC_MAX bytes if there are so many, the others with
 * what comes: whoever feeds a pipe slowly is not waited for. */
static ssize_t read_piece(struct stream *s, struct piece *p, bool first, struct banger_error *err)
{
	size_t have = 0;
	ssize_t n;

	do {
		n = s->source.read(
			s->source.arg, s->stop_fd, p->data + have, BUFFER_SIZE - have, err);
		have += n > 0 ? n : 0;
	} while (n > 0 && first && have < MAGIC_MAX);
	if (n < 0)
		return n;
	atomic_fetch_add_explicit(&s->position, have, memory_order_relaxed);
	p->kind = PIECE_DATA;
	p->len = have;
	return have;
}

static int read_blob(struct stream *s, struct banger_error *err)
{
	for (bool first = true;; first = false) {
		struct piece *p = ring_fill(s->packed);
		if (!p)
			return -ECANCELED;
		ssize_t n = read_piece(s, p, first, err);
		if (n < 0)
			return n;
		if (n == 0)
			return mark(s->packed, PIECE_END, NULL);
		ring_filled(s->packed);
	}
}

static int read_blobs(struct stream *s, struct banger_error *err)
{
	for (;;) {
		struct stream_blob blob;
		int r = s->source.next(s->source.arg, s->stop_fd, &blob, err);
		if (r > 0)
			r = mark(s->packed, PIECE_BEGIN, &blob);
		else
			return r;
		if (r == 0)
			r = read_blob(s, err);
		if (r < 0)
			return r;
	}
}

static void read_thread(struct stream *s)
{
	struct banger_error err = {0};
	int r = read_blobs(s, &err);

	ring_end(s->packed, r, &err);
}

/* ---- the decoding thread */

/* Makes the next piece of input the present one. */
static int next_input(struct stream *s, struct banger_error *err)
{
	int r = 0;

	if (s->input)
		ring_done(s->packed, 0);
	s->input = ring_take(s->packed, 0, &r, err);
	s->input_at = 0;
	return r;
}

static int choose_codec(
	struct stream *s, const uint8_t *magic, size_t len, struct banger_error *err)
{
	static const struct codec *const codecs[] = {&codec_gzip, &codec_zstd, &codec_xz};

	s->codec = NULL;
	for (size_t i = 0; i < ELEMENTSOF(codecs); i++)
		if (len >= codecs[i]->magic_len &&
			memcmp(magic, codecs[i]->magic, codecs[i]->magic_len) == 0)
			s->codec = codecs[i];
	for (size_t i = 0; i < ELEMENTSOF(others); i++)
		if (len >= others[i].len && memcmp(magic, others[i].magic, others[i].len) == 0)
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

static int check_codec(
	const struct stream *s, const struct stream_blob *blob, struct banger_error *err)
{
	const char *found = s->codec ? s->codec->name : "none";

	if (!blob->compression[0] || !strcmp(blob->compression, found))
		return 0;
	return banger_error_set(err, BANGER_CORRUPT,
		"the data's compression is %s, and its media type says %s", found,
		blob->compression);
}

/* Fills one buffer as far as input lasts. Returns 1 at the blob's end. */
static int decode_buffer(struct stream *s, struct piece *out, struct banger_error *err)
{
	size_t room = BUFFER_SIZE;
	int r = 0;

	while (room > 0 && r == 0) {
		if (s->input->kind == PIECE_DATA && s->input_at == s->input->len) {
			r = next_input(s, err);
			if (r < 0)
				return r;
		}
		bool last = s->input->kind != PIECE_DATA;
		size_t left = last ? 0 : s->input->len - s->input_at;
		struct codec_io io = {.in = s->input->data + s->input_at,
			.in_len = left,
			.last = last,
			.out = out->data + (BUFFER_SIZE - room),
			.room = room};
		r = s->codec->decode(s->state, &io, err);
		s->input_at += left - io.in_len;
		s->blob_at += left - io.in_len;
		room = io.room;
	}
	out->len = BUFFER_SIZE - room;
	return r;
}

/* What is not compressed changes places. */
static int pass_buffer(struct stream *s, struct piece *out, struct banger_error *err)
{
	out->len = 0;
	if (s->input->kind != PIECE_DATA)
		return 1;
	uint8_t *data = s->input->data;
	s->input->data = out->data;
	out->data = data;
	out->len = s->input->len;
	s->blob_at += out->len;
	return next_input(s, err);
}

static int decode_data(struct stream *s, struct banger_error *err)
{
	int r = 0;

	while (r == 0) {
		struct piece *out = ring_fill(s->plain);
		if (!out)
			return -ECANCELED;
		r = s->codec ? decode_buffer(s, out, err) : pass_buffer(s, out, err);
		if (r >= 0 && out->len > s->room)
			return banger_error_set(err, BANGER_TOO_LARGE,
				"unpacked, the data is over the limit of %llu bytes "
				"(\"unpacked_max\" in the configuration)",
				(unsigned long long)s->limit);
		out->kind = PIECE_DATA;
		if (r >= 0 && out->len > 0) {
			s->room -= out->len;
			ring_filled(s->plain);
		}
	}
	return r;
}

/* Adds the place in the blob to what went wrong. */
static int blame(const struct stream *s, int r, struct banger_error *err)
{
	char message[sizeof(err->message)];

	if (r == -ECANCELED || err->code == BANGER_OK)
		return r;
	memcpy(message, err->message, sizeof(message));
	banger_error_set(
		err, err->code, "%s, at byte %llu of it", message, (unsigned long long)s->blob_at);
	return r;
}

/* The present piece of input is the blob's BEGIN. */
static int decode_blob(struct stream *s, struct banger_error *err)
{
	struct stream_blob blob;

	memcpy(&blob, s->input->data, sizeof(blob));
	s->blob_at = 0;
	int r = mark(s->plain, PIECE_BEGIN, &blob);
	if (r == 0)
		r = next_input(s, err);
	if (r < 0)
		return r;
	bool empty = s->input->kind != PIECE_DATA;
	r = choose_codec(s, s->input->data, empty ? 0 : s->input->len, err);
	if (r == 0)
		r = check_codec(s, &blob, err);
	if (r == 0 && (r = decode_data(s, err)) < 0)
		blame(s, r, err);
	if (s->state)
		s->codec->close(TAKE_PTR(s->state));
	return r < 0 ? r : mark(s->plain, PIECE_END, NULL);
}

static void decode_thread(struct stream *s)
{
	struct banger_error err = {0};
	int r = 0;

	while (r == 0 && (r = next_input(s, &err)) == 0 && s->input)
		r = decode_blob(s, &err);
	ring_end(s->plain, r, &err);
}

/* ---- the hashing thread */

static int hash_end(struct stream *s, struct banger_error *err)
{
	char found[DIGEST_TEXT];
	int r = digest_end(s->digest, found, err);

	if (r < 0 || !strcmp(found, s->diff_id))
		return r;
	return banger_error_set(err, BANGER_CORRUPT,
		"the unpacked data is %s, and the image's configuration says %s (diff_id)", found,
		s->diff_id);
}

static int hash_piece(struct stream *s, const struct piece *p, struct banger_error *err)
{
	switch (p->kind) {
	case PIECE_BEGIN:
		memcpy(s->diff_id, ((const struct stream_blob *)p->data)->diff_id,
			sizeof(s->diff_id));
		return s->diff_id[0] ? digest_begin(s->digest, s->diff_id, err) : 0;
	case PIECE_DATA:
		return s->diff_id[0] ? digest_add(s->digest, p->data, p->len, err) : 0;
	default:
		return s->diff_id[0] ? hash_end(s, err) : 0;
	}
}

/* After an error it goes on taking pieces, or the caller would never get to where it is told. */
static void hash_thread(struct stream *s)
{
	struct banger_error err = {0}, ignored;
	struct piece *p;
	int r = 0, end;

	while ((p = ring_take(s->plain, HASHER, &end, &ignored))) {
		if (r == 0)
			r = hash_piece(s, p, &err);
		if (p->kind == PIECE_END) {
			pthread_mutex_lock(&s->lock);
			if (r < 0 && s->hash_bad == UINT64_MAX) {
				s->hash_bad = s->hashed;
				s->hash_error = err;
			}
			s->hashed++;
			pthread_cond_broadcast(&s->changed);
			pthread_mutex_unlock(&s->lock);
		}
		ring_done(s->plain, HASHER);
	}
}

/* ---- the caller's side */

struct start {
	struct stream *s;
	void (*run)(struct stream *s);
	const char *name; /* for ps(1) */
};

static void *run(void *arg)
{
	struct start start = *(struct start *)arg;
	struct stream *s = start.s;

	free(arg);
	prctl(PR_SET_NAME, start.name);
	pthread_mutex_lock(&s->lock);
	s->up++;
	pthread_cond_broadcast(&s->changed);
	while (!s->go && !s->stop)
		pthread_cond_wait(&s->changed, &s->lock);
	bool stop = s->stop;
	pthread_mutex_unlock(&s->lock);
	if (!stop)
		start.run(s);
	return NULL;
}

static int add_thread(
	struct stream *s, void (*what)(struct stream *), const char *name, struct banger_error *err)
{
	struct start *start = malloc(sizeof(*start));

	if (!start)
		return banger_error_oom(err);
	*start = (struct start){s, what, name};
	int e = pthread_create(&s->threads[s->n_threads], NULL, run, start);
	if (e) {
		free(start);
		return banger_error_set_errno(err, e, "cannot start a thread");
	}
	s->n_threads++;
	return 0;
}

static int prepare(struct stream *s, bool hash, struct banger_error *err)
{
	s->packed = ring_new(PACKED_BUFFERS, BUFFER_SIZE, 1);
	s->plain = ring_new(PLAIN_BUFFERS, BUFFER_SIZE, hash ? 2 : 1);
	if (!s->packed || !s->plain)
		return banger_error_oom(err);
	s->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->stop_fd < 0)
		return banger_error_set_errno(err, errno, "cannot make an eventfd");
	int r = hash ? digest_new(&s->digest, err) : 0;
	if (r == 0)
		r = add_thread(s, read_thread, "read", err);
	if (r == 0)
		r = add_thread(s, decode_thread, "decode", err);
	if (r == 0 && hash)
		r = add_thread(s, hash_thread, "hash", err);
	return r;
}

int stream_new(const struct stream_source *source, bool hash, struct stream **ret,
	struct banger_error *err)
{
	_cleanup_stream_ struct stream *s = calloc(1, sizeof(*s));

	if (!s)
		return banger_error_oom(err);
	s->source = *source;
	s->fd = s->stop_fd = -1;
	s->compression = "";
	s->limit = s->room = s->hash_bad = UINT64_MAX;
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->changed, NULL);
	int r = prepare(s, hash, err);
	if (r < 0)
		return r;
	/* When the caller gives up its rights the threads have done all that new threads do. */
	pthread_mutex_lock(&s->lock);
	while (s->up < s->n_threads)
		pthread_cond_wait(&s->changed, &s->lock);
	pthread_mutex_unlock(&s->lock);
	*ret = TAKE_PTR(s);
	return 0;
}

int stream_new_fd(int fd, struct stream **ret, struct banger_error *err)
{
	const struct stream_source source = {.next = only_blob, .read = read_fd};
	int r = stream_new(&source, false, ret, err);

	if (r == 0) {
		(*ret)->source.arg = *ret;
		(*ret)->fd = fd;
	}
	return r;
}

void stream_limit(struct stream *s, uint64_t bytes)
{
	s->limit = s->room = bytes;
}

void stream_start(struct stream *s)
{
	pthread_mutex_lock(&s->lock);
	s->go = true;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
}

static void stop_threads(struct stream *s)
{
	pthread_mutex_lock(&s->lock);
	s->stop = true;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	ring_stop(s->packed);
	ring_stop(s->plain);
	(void)!write(s->stop_fd, &(uint64_t){1}, 8);
	for (unsigned i = 0; i < s->n_threads; i++)
		pthread_join(s->threads[i], NULL);
}

void stream_freep(struct stream **ps)
{
	struct stream *s = TAKE_PTR(*ps);

	if (!s)
		return;
	if (s->n_threads > 0)
		stop_threads(s);
	if (s->stop_fd >= 0)
		close(s->stop_fd);
	if (s->state)
		s->codec->close(s->state);
	digest_freep(&s->digest);
	ring_freep(&s->packed);
	ring_freep(&s->plain);
	pthread_cond_destroy(&s->changed);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

/* The next piece, NULL at the end, with *ret. An error is said anew, under this thread's op_id. */
static struct piece *take(struct stream *s, int *ret, struct banger_error *err)
{
	struct banger_error error = {0};

	if (s->holding)
		ring_done(s->plain, CALLER);
	struct piece *p = ring_take(s->plain, CALLER, ret, &error);
	s->holding = p != NULL;
	if (!p && *ret < 0 && error.code != BANGER_OK)
		*ret = banger_error_set(err, error.code, "%s", error.message);
	return p;
}

/* Waits until the blobs that have ended are hashed. */
static int await_hash(struct stream *s, struct banger_error *err)
{
	int r = 0;

	if (!s->digest)
		return 0;
	pthread_mutex_lock(&s->lock);
	while (s->hashed < s->ended && !s->stop)
		pthread_cond_wait(&s->changed, &s->lock);
	if (s->hash_bad < s->ended)
		r = banger_error_set(err, s->hash_error.code, "%s", s->hash_error.message);
	pthread_mutex_unlock(&s->lock);
	return r;
}

int stream_begin(struct stream *s, const struct stream_blob **ret, struct banger_error *err)
{
	int r = 0;
	struct piece *p = take(s, &r, err);

	if (!p)
		return r;
	if (p->kind != PIECE_BEGIN)
		return banger_error_set(
			err, BANGER_INTERNAL, "a blob that was not read to its end");
	memcpy(&s->blob, p->data, sizeof(s->blob));
	*ret = &s->blob;
	return 1;
}

int stream_next(struct stream *s, const uint8_t **ret, size_t *ret_len, struct banger_error *err)
{
	int r = 0;
	struct piece *p = take(s, &r, err);

	if (!p)
		return r;
	if (p->kind == PIECE_DATA) {
		*ret = p->data;
		*ret_len = p->len;
		return 1;
	}
	s->ended++;
	return await_hash(s, err);
}

uint64_t stream_position(const struct stream *s)
{
	return atomic_load_explicit(&s->position, memory_order_relaxed);
}

const char *stream_compression(const struct stream *s)
{
	return atomic_load(&s->compression);
}
