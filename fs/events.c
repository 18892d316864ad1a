/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Readers of the stream.
 *
 * A read with nothing to give parks its request in the reader; the watch thread answers it. An
 * interrupt comes for a request on another thread, while libfuse holds that request's lock, and
 * takes our lock; so our lock is never held when a request's own is asked for: the interrupt
 * function is set before the request is parked, and after parking it is asked whether the interrupt
 * had come before (which takes the session's lock only). Whoever takes a request out of `parked`
 * under our lock answers it, and nobody else does.
 */
#include "events.h"
#include <poll.h>
#include <string.h>
#include "handle.h"
#include "loop.h"

#define BACKLOG_MAX (1024 * 1024) /* bytes a reader can be behind */
#define PARKED_MAX 64             /* threads that read one open file at once */
#define AWHILE_S 1

struct line {
	atomic_uint refs;
	size_t len;
	char text[];
};

/* What a reader has not read yet: a queue of shared lines. */
struct reader {
	struct handle h;
	struct reader *next;
	struct line **lines;
	size_t first, n, room; /* a ring */
	size_t offset;         /* of the first line, already read */
	size_t bytes;
	uint64_t lost;
	struct parked {
		fuse_req_t req;
		size_t size;
	} parked[PARKED_MAX];
	size_t nparked;
	bool given; /* by events_read_awhile(), and the end has not been since */
	struct fuse_pollhandle *poll;
};

struct events {
	pthread_mutex_t lock;
	pthread_cond_t more; /* for those who wait in events_read_awhile() */
	struct reader *readers;
	bool stopped;
};

int events_new(struct events **ret)
{
	struct events *e = calloc(1, sizeof(*e));

	if (!e)
		return -ENOMEM;
	pthread_mutex_init(&e->lock, NULL);
	pthread_cond_init(&e->more, NULL);
	*ret = e;
	return 0;
}

static void line_unref(struct line *l)
{
	if (atomic_fetch_sub(&l->refs, 1) == 1)
		free(l);
}

static void free_reader(struct reader *r)
{
	for (; r->n > 0; r->n--) {
		line_unref(r->lines[r->first]);
		r->first = (r->first + 1) % r->room;
	}
	free(r->lines);
	if (r->poll)
		fuse_pollhandle_destroy(r->poll);
	free(r);
}

void events_freep(struct events **p)
{
	struct events *e = *p;

	if (!e)
		return;
	pthread_cond_destroy(&e->more);
	pthread_mutex_destroy(&e->lock);
	free(e);
	*p = NULL;
}

int events_open(struct events *e, struct handle **ret)
{
	struct reader *r = calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	r->h.kind = HANDLE_EVENTS;
	pthread_mutex_lock(&e->lock);
	r->next = e->readers;
	e->readers = r;
	pthread_mutex_unlock(&e->lock);
	*ret = &r->h;
	return 0;
}

void events_close(struct events *e, struct handle *h)
{
	struct reader *r = (struct reader *)h;

	pthread_mutex_lock(&e->lock);
	for (struct reader **p = &e->readers; *p; p = &(*p)->next)
		if (*p == r) {
			*p = r->next;
			break;
		}
	pthread_mutex_unlock(&e->lock);
	free_reader(r);
}

bool events_wanted(struct events *e)
{
	pthread_mutex_lock(&e->lock);
	bool wanted = e->readers != NULL;
	pthread_mutex_unlock(&e->lock);
	return wanted;
}

/* ---- a reader's queue */

static void drop_first(struct reader *r)
{
	struct line *l = r->lines[r->first];

	r->bytes -= l->len;
	r->offset = 0;
	r->first = (r->first + 1) % r->room;
	r->n--;
	line_unref(l);
}

static int make_room(struct reader *r)
{
	if (r->n < r->room)
		return 0;
	size_t room = r->room ? 2 * r->room : 16;
	struct line **lines = calloc(room, sizeof(*lines));
	if (!lines)
		return -ENOMEM;
	for (size_t i = 0; i < r->n; i++)
		lines[i] = r->lines[(r->first + i) % r->room];
	free(r->lines);
	r->lines = lines;
	r->room = room;
	r->first = 0;
	return 0;
}

static void append(struct reader *r, struct line *l)
{
	/* A line that has been begun is read to its end. */
	while (r->n > 0 && r->offset == 0 && r->bytes + l->len > BACKLOG_MAX) {
		drop_first(r);
		r->lost++;
	}
	if (make_room(r) < 0 || r->bytes + l->len > 2 * BACKLOG_MAX) {
		r->lost++;
		return;
	}
	atomic_fetch_add(&l->refs, 1);
	r->lines[(r->first + r->n++) % r->room] = l;
	r->bytes += l->len;
}

static bool has_something(const struct reader *r)
{
	return r->n > 0 || r->lost > 0;
}

/* Say what was lost, as a line before the others. */
static void own_up(struct reader *r)
{
	if (r->lost == 0 || r->offset > 0 || make_room(r) < 0)
		return;
	struct line *l = malloc(sizeof(*l) + 64);
	if (!l)
		return;
	atomic_init(&l->refs, 1);
	l->len = snprintf(
		l->text, 64, "{\"event\":\"lost\",\"lines\":%llu}\n", (unsigned long long)r->lost);
	r->first = (r->first + r->room - 1) % r->room;
	r->lines[r->first] = l;
	r->n++;
	r->bytes += l->len;
	r->lost = 0;
}

/* Move up to size bytes into buf: whole lines, or a piece of the first. */
static size_t take(struct reader *r, char *buf, size_t size)
{
	size_t n = 0;

	own_up(r);
	while (r->n > 0) {
		const struct line *l = r->lines[r->first];
		size_t left = l->len - r->offset;

		if (left > size - n && n > 0)
			break;
		size_t k = left < size - n ? left : size - n;
		memcpy(buf + n, l->text + r->offset, k);
		n += k;
		r->offset += k;
		if (r->offset < l->len)
			break;
		drop_first(r);
	}
	return n;
}

/* ---- reading */

static void answer(fuse_req_t req, const char *buf, size_t n)
{
	fuse_reply_buf(req, buf, n);
}

static bool unpark(struct reader *r, fuse_req_t req)
{
	for (size_t i = 0; i < r->nparked; i++)
		if (r->parked[i].req == req) {
			memmove(r->parked + i, r->parked + i + 1,
				(--r->nparked - i) * sizeof(r->parked[0]));
			return true;
		}
	return false;
}

static void interrupted(fuse_req_t req, void *data)
{
	struct events *e = data;
	bool ours = false;

	pthread_mutex_lock(&e->lock);
	for (struct reader *r = e->readers; r && !ours; r = r->next)
		ours = unpark(r, req);
	pthread_mutex_unlock(&e->lock);
	if (ours)
		fuse_reply_err(req, EINTR);
}

void events_read(struct events *e, struct handle *h, fuse_req_t req, size_t size, bool wait)
{
	struct reader *r = (struct reader *)h;
	_cleanup_free_ char *buf = malloc(size);
	size_t n = 0;
	int err = 0;
	bool parked = false;

	if (!buf) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	if (wait)
		fuse_req_interrupt_func(req, interrupted, e);
	pthread_mutex_lock(&e->lock);
	n = take(r, buf, size);
	if (n == 0 && size > 0 && !e->stopped) {
		parked = wait && r->nparked < PARKED_MAX;
		err = parked ? 0 : EAGAIN;
	}
	if (parked) {
		r->parked[r->nparked++] = (struct parked){req, size};
		if (fuse_req_interrupted(req)) {
			unpark(r, req);
			parked = false;
			err = EINTR;
		}
	}
	pthread_mutex_unlock(&e->lock);
	if (err)
		fuse_reply_err(req, err);
	else if (!parked)
		answer(req, buf, n);
}

void events_read_awhile(struct events *e, struct handle *h, fuse_req_t req, size_t size)
{
	struct reader *r = (struct reader *)h;
	_cleanup_free_ char *buf = malloc(size);
	struct timespec until;
	int waited = 0;

	if (!buf) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	LOOP_MAY_WAIT();
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += AWHILE_S;
	pthread_mutex_lock(&e->lock);
	while (!has_something(r) && !e->stopped && !r->given && waited == 0)
		waited = pthread_cond_clockwait(&e->more, &e->lock, CLOCK_MONOTONIC, &until);
	size_t n = take(r, buf, size);
	r->given = n > 0;
	pthread_mutex_unlock(&e->lock);
	answer(req, buf, n);
}

/* With the lock: the first parked request of a reader and what it gets; false when none waits. */
static bool next_answer(
	struct events *e, struct reader *r, fuse_req_t *ret_req, char **ret_buf, size_t *ret_n)
{
	if (r->nparked == 0 || !(has_something(r) || e->stopped))
		return false;
	char *buf = malloc(r->parked[0].size);
	*ret_n = buf ? take(r, buf, r->parked[0].size) : 0;
	if (*ret_n == 0 && !e->stopped) {
		free(buf);
		return false;
	}
	*ret_buf = buf;
	*ret_req = r->parked[0].req;
	unpark(r, *ret_req);
	return true;
}

struct wakeup {
	fuse_req_t req;
	char *buf;
	size_t n;
	struct fuse_pollhandle *poll;
};

/* With the lock: one thing to do for a reader, 0 when there is nothing. */
static bool next_wakeup(struct events *e, struct wakeup *w)
{
	*w = (struct wakeup){0};
	for (struct reader *r = e->readers; r; r = r->next) {
		if (next_answer(e, r, &w->req, &w->buf, &w->n))
			return true;
		if (r->poll && (has_something(r) || e->stopped)) {
			w->poll = r->poll;
			r->poll = NULL;
			return true;
		}
	}
	return false;
}

/* Answer and notify without the lock. */
static void wake(struct events *e)
{
	struct wakeup w;

	for (;;) {
		pthread_mutex_lock(&e->lock);
		bool more = next_wakeup(e, &w);
		pthread_mutex_unlock(&e->lock);
		if (!more)
			return;
		if (w.req) {
			answer(w.req, w.buf, w.n);
			free(w.buf);
		} else {
			fuse_lowlevel_notify_poll(w.poll);
			fuse_pollhandle_destroy(w.poll);
		}
	}
}

void events_publish(struct events *e, const char *text, size_t len)
{
	struct line *l = malloc(sizeof(*l) + len + 1);

	if (!l)
		return;
	atomic_init(&l->refs, 1);
	memcpy(l->text, text, len);
	l->text[len] = '\n';
	l->len = len + 1;
	pthread_mutex_lock(&e->lock);
	for (struct reader *r = e->readers; r; r = r->next)
		append(r, l);
	pthread_cond_broadcast(&e->more);
	pthread_mutex_unlock(&e->lock);
	line_unref(l);
	wake(e);
}

void events_poll(struct events *e, struct handle *h, fuse_req_t req, struct fuse_pollhandle *ph)
{
	struct reader *r = (struct reader *)h;
	struct fuse_pollhandle *old = NULL;

	pthread_mutex_lock(&e->lock);
	bool ready = has_something(r) || e->stopped;
	if (ph) {
		old = r->poll;
		r->poll = ph; /* one notification clears all, the last handle will do */
	}
	pthread_mutex_unlock(&e->lock);
	if (old)
		fuse_pollhandle_destroy(old);
	fuse_reply_poll(req, ready ? POLLIN | POLLRDNORM : 0);
}

void events_stop(struct events *e)
{
	pthread_mutex_lock(&e->lock);
	e->stopped = true;
	pthread_cond_broadcast(&e->more);
	pthread_mutex_unlock(&e->lock);
	wake(e);
}
