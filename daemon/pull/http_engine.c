/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One thread, one multi handle. Each round: take what was asked meanwhile (new transfers, those to
 * resume or to end), let curl work, end what has finished, stalled or been cancelled, sleep until a
 * socket, a cancellation or a wake-up.
 *
 * The descriptors of cancellations are among those that curl_multi_poll() waits for, so an asker needs
 * nothing but a condition variable. A transfer that the asker holds back is not stalled: its clock
 * stands still while it is paused.
 *
 * One thread is enough: over loopback it moves more than 1 GB/s, and hashing and writing are done
 * elsewhere.
 */
#include <string.h>
#include <strings.h>
#include <time.h>
#include <banger/log.h>
#include "pull/http_engine.h"

enum {
	ALIGNMENT = 4096,
	HEADERS_MAX = 256 * 1024,
	CHALLENGE_MAX = 16 * 1024,
	HURRY_MS = 250, /* how long an asker waits for a full piece */
	ROUND_MS = 200, /* how often stalls are looked for */
	IDLE_MS = 600000,
};

struct http_engine {
	CURLM *multi;
	pthread_t thread;
	bool started;
	int64_t stall_us;
	pthread_mutex_t lock; /* of `fresh` and `stop` */
	struct transfer *fresh;
	bool stop;
	/* The thread's. */
	struct transfer *running;
	struct curl_waitfd *waits;
	unsigned waits_room;
};

/* ---- what curl calls, on the engine's thread ---- */

static size_t end_with(struct transfer *t, enum transfer_end end)
{
	t->end = end;
	return 0; /* which curl takes for a write error */
}

static void head_reset(struct transfer *t)
{
	free(TAKE_PTR(t->content_type));
	free(TAKE_PTR(t->digest));
	free(TAKE_PTR(t->challenge));
	free(TAKE_PTR(t->location));
	t->content_length = t->retry_after_s = t->range_start = t->range_total = -1;
}

/* The first one counts. */
static void keep(char **to, const char *value)
{
	if (!*to)
		*to = strdup(value);
}

static void keep_challenge(struct transfer *t, const char *value)
{
	char *joined = NULL;

	if (t->challenge && strlen(t->challenge) + strlen(value) > CHALLENGE_MAX)
		return;
	if (asprintf(&joined, "%s%s%s", t->challenge ?: "", t->challenge ? "\n" : "", value) < 0)
		return;
	free(t->challenge);
	t->challenge = joined;
}

static bool number(const char **p, int64_t *ret)
{
	int64_t v = 0;
	const char *s = *p;

	for (; *s >= '0' && *s <= '9'; s++)
		if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, *s - '0', &v))
			return false;
	if (s == *p)
		return false;
	*p = s;
	*ret = v;
	return true;
}

/* "bytes 100-199/200", where the total may be '*'. */
static void parse_range(struct transfer *t, const char *s)
{
	int64_t start, last, total = -1;

	if (strncasecmp(s, "bytes ", 6) != 0)
		return;
	s += 6;
	if (!number(&s, &start) || *s++ != '-' || !number(&s, &last) || *s++ != '/' || last < start)
		return;
	if (strcmp(s, "*") != 0 && (!number(&s, &total) || *s || last >= total))
		return;
	t->range_start = start;
	t->range_total = total;
}

static void parse_retry_after(struct transfer *t, const char *s)
{
	int64_t v;

	if (number(&s, &v) && *s == '\0') {
		t->retry_after_s = v;
		return;
	}
	time_t when = curl_getdate(s, NULL);
	if (when >= 0) {
		time_t now = time(NULL);
		t->retry_after_s = when > now ? when - now : 0;
	}
}

static void header(struct transfer *t, const char *name, char *value)
{
	if (strcasecmp(name, "content-type") == 0) {
		value[strcspn(value, "; \t")] = '\0';
		keep(&t->content_type, value);
	} else if (strcasecmp(name, "docker-content-digest") == 0) {
		keep(&t->digest, value);
	} else if (strcasecmp(name, "www-authenticate") == 0) {
		keep_challenge(t, value);
	} else if (strcasecmp(name, "location") == 0) {
		keep(&t->location, value);
	} else if (strcasecmp(name, "content-length") == 0) {
		const char *p = value;
		if (!number(&p, &t->content_length) || *p)
			t->content_length = -1;
	} else if (strcasecmp(name, "content-range") == 0) {
		parse_range(t, value);
	} else if (strcasecmp(name, "retry-after") == 0) {
		parse_retry_after(t, value);
	}
}

/* All headers of a response are there. */
static size_t head_end(struct transfer *t)
{
	int64_t more = t->content_length;

	curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &t->status);
	if (t->status < 200)
		return 1;
	t->head_done = true;
	if (t->status == 206) {
		t->wrong_range = t->range_start != t->offset;
		if (more < t->range_total - t->offset)
			more = t->range_total - t->offset;
		if (!t->wrong_range && more > t->limit - t->offset)
			return end_with(t, TRANSFER_TOO_LARGE);
	} else if (t->status == 200 && more > t->limit) {
		return end_with(t, TRANSFER_TOO_LARGE);
	}
	t->deliver = t->stream && (t->status == 200 || t->status == 206) && !t->wrong_range;
	return 1;
}

static size_t on_header(char *data, size_t one, size_t n, void *arg)
{
	struct transfer *t = arg;
	char line[16 * 1024];
	size_t len = n;

	t->last_us = banger_monotonic_us();
	t->header_bytes += n;
	if (t->header_bytes > HEADERS_MAX)
		return end_with(t, TRANSFER_HEADERS);
	if (t->head_done)
		return n; /* a trailer */
	while (len > 0 && strchr("\r\n \t", data[len - 1]))
		len--;
	if (len == 0)
		return head_end(t) ? n : 0;
	if (len >= sizeof(line))
		return n;
	memcpy(line, data, len);
	line[len] = '\0';
	if (strncmp(line, "HTTP/", 5) == 0) {
		head_reset(t);
		return n;
	}
	char *colon = strchr(line, ':');
	if (colon && strlen(line) == len) {
		*colon++ = '\0';
		header(t, line, colon + strspn(colon, " \t"));
	}
	return n;
}

/* Into memory. What an error says is taken up to a limit; the rest is not worth waiting for. */
static size_t collect(struct transfer *t, const char *data, size_t n)
{
	bool good = t->status == 200 || t->status == 206;
	size_t max = good && !t->stream ? (size_t)t->limit : HTTP_NOTE_MAX;

	if (n > max - t->len) {
		if (good)
			return end_with(t, TRANSFER_TOO_LARGE);
		t->enough = true;
		return 0;
	}
	if (t->len + n + 1 > t->room) {
		size_t room = (t->len + n + 1) * 2;
		char *more = realloc(t->body, room);
		if (!more)
			return end_with(t, TRANSFER_NO_MEMORY);
		t->body = more;
		t->room = room;
	}
	memcpy(t->body + t->len, data, n);
	t->len += n;
	t->body[t->len] = '\0';
	return n;
}

static void hand_over(struct transfer *t)
{
	pthread_mutex_lock(&t->lock);
	t->pieces[t->tail].len = t->fill;
	t->tail = (t->tail + 1) % HTTP_PIECES;
	t->fill = 0;
	t->count++;
	t->hurry = false;
	pthread_cond_signal(&t->cond);
	pthread_mutex_unlock(&t->lock);
}

static bool fill(struct transfer *t, const char *data, size_t n)
{
	while (n > 0) {
		unsigned char **piece = &t->pieces[t->tail].data;
		if (!*piece && !(*piece = aligned_alloc(ALIGNMENT, HTTP_PIECE)))
			return false;
		size_t take = n < HTTP_PIECE - t->fill ? n : HTTP_PIECE - t->fill;
		memcpy(*piece + t->fill, data, take);
		t->fill += take;
		data += take;
		n -= take;
		if (t->fill == HTTP_PIECE)
			hand_over(t);
	}
	return true;
}

static size_t on_body(char *data, size_t one, size_t n, void *arg)
{
	struct transfer *t = arg;

	t->last_us = banger_monotonic_us();
	if (!t->deliver)
		return collect(t, data, n);
	int64_t end = (t->status == 206 ? t->offset : 0) + t->received + (int64_t)n;
	if (end > t->limit)
		return end_with(t, TRANSFER_TOO_LARGE);
	pthread_mutex_lock(&t->lock);
	bool fits = n <= (size_t)(HTTP_PIECES - t->count) * HTTP_PIECE - t->fill;
	bool hurry = t->hurry;
	t->paused = !fits;
	pthread_mutex_unlock(&t->lock);
	if (!fits)
		return CURL_WRITEFUNC_PAUSE;
	t->received += (int64_t)n;
	if (!fill(t, data, n))
		return end_with(t, TRANSFER_NO_MEMORY);
	if (hurry && t->fill > 0)
		hand_over(t);
	return n;
}

/* ---- rounds ---- */

static void finish(struct http_engine *e, struct transfer *t, enum transfer_end end, CURLcode code)
{
	for (struct transfer **p = &e->running; *p; p = &(*p)->next)
		if (*p == t) {
			*p = t->next;
			break;
		}
	curl_multi_remove_handle(e->multi, t->easy);
	if (t->end == TRANSFER_RUNNING)
		t->end = end;
	t->code = t->enough ? CURLE_OK : code;
	if (t->fill > 0)
		hand_over(t);
	pthread_mutex_lock(&t->lock);
	t->done = true;
	pthread_cond_signal(&t->cond);
	pthread_mutex_unlock(&t->lock);
}

static bool take_fresh(struct http_engine *e)
{
	pthread_mutex_lock(&e->lock);
	struct transfer *fresh = TAKE_PTR(e->fresh);
	bool stop = e->stop;
	pthread_mutex_unlock(&e->lock);
	while (fresh) {
		struct transfer *t = fresh;
		fresh = t->next;
		t->next = e->running;
		e->running = t;
		t->last_us = banger_monotonic_us();
		if (curl_multi_add_handle(e->multi, t->easy) != CURLM_OK)
			finish(e, t, TRANSFER_NO_MEMORY, CURLE_OUT_OF_MEMORY);
	}
	return !stop;
}

/* What the askers want of those that run. */
static void attend(struct http_engine *e)
{
	for (struct transfer *t = e->running, *next; t; t = next) {
		next = t->next;
		pthread_mutex_lock(&t->lock);
		bool abort = t->abort, resume = t->resume;
		t->resume = false;
		if (resume)
			t->paused = false;
		pthread_mutex_unlock(&t->lock);
		if (abort) {
			finish(e, t, TRANSFER_ABORTED, CURLE_ABORTED_BY_CALLBACK);
		} else if (resume) {
			t->last_us = banger_monotonic_us();
			curl_easy_pause(t->easy, CURLPAUSE_CONT);
		}
	}
}

static void reap(struct http_engine *e)
{
	CURLMsg *m;
	int left;

	while ((m = curl_multi_info_read(e->multi, &left))) {
		struct transfer *t = NULL;
		if (m->msg != CURLMSG_DONE)
			continue;
		CURLcode code = m->data.result; /* m goes with the handle */
		curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &t);
		finish(e, t, TRANSFER_CURL, code);
	}
}

static void end_stalled(struct http_engine *e)
{
	int64_t now = banger_monotonic_us();

	for (struct transfer *t = e->running, *next; t; t = next) {
		next = t->next;
		pthread_mutex_lock(&t->lock);
		bool paused = t->paused;
		pthread_mutex_unlock(&t->lock);
		if (paused)
			t->last_us = now;
		else if (now - t->last_us > e->stall_us)
			finish(e, t, TRANSFER_STALLED, CURLE_OPERATION_TIMEDOUT);
	}
}

static unsigned list_waits(struct http_engine *e)
{
	unsigned n = 0;

	for (struct transfer *t = e->running; t; t = t->next) {
		if (t->cancel_fd < 0)
			continue;
		if (n == e->waits_room) {
			unsigned room = n * 2 + 16;
			struct curl_waitfd *more = reallocarray(e->waits, room, sizeof(*more));
			if (!more)
				break; /* seen in a later round, when there are fewer */
			e->waits = more;
			e->waits_room = room;
		}
		e->waits[n++] =
			(struct curl_waitfd){.fd = t->cancel_fd, .events = CURL_WAIT_POLLIN};
	}
	return n;
}

/* The list is as it was when list_waits() walked it. */
static void end_cancelled(struct http_engine *e, unsigned n)
{
	unsigned i = 0;

	for (struct transfer *t = e->running, *next; t && i < n; t = next) {
		next = t->next;
		if (t->cancel_fd >= 0 && e->waits[i++].revents)
			finish(e, t, TRANSFER_CANCELLED, CURLE_ABORTED_BY_CALLBACK);
	}
}

static void sleep_until_something(struct http_engine *e)
{
	int round = e->stall_us / 4000 < ROUND_MS ? (int)(e->stall_us / 4000) : ROUND_MS;
	unsigned n = list_waits(e);

	curl_multi_poll(e->multi, e->waits, n, e->running ? round : IDLE_MS, NULL);
	end_cancelled(e, n);
}

static void *engine_main(void *arg)
{
	struct http_engine *e = arg;

	while (take_fresh(e)) {
		int running;
		attend(e);
		curl_multi_perform(e->multi, &running);
		reap(e);
		end_stalled(e);
		sleep_until_something(e);
	}
	return NULL;
}

/* ---- the askers' side ---- */

static void init_curl(void)
{
	curl_global_init(CURL_GLOBAL_DEFAULT);
}

int http_engine_new(int64_t stall_ms, struct http_engine **ret, struct banger_error *err)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	_cleanup_(http_engine_freep) struct http_engine *e = calloc(1, sizeof(*e));

	if (!e)
		return banger_error_oom(err);
	pthread_once(&once, init_curl);
	pthread_mutex_init(&e->lock, NULL);
	e->stall_us = stall_ms * 1000;
	e->multi = curl_multi_init();
	if (!e->multi)
		return banger_error_oom(err);
	curl_multi_setopt(e->multi, CURLMOPT_MAXCONNECTS, 16L);
	/* HTTP/2, but a connection for each transfer: of streams that share one, curl would have to take what
	 * comes for a paused one, up to 32 MiB of it; and one lost packet would hold up all. */
	curl_multi_setopt(e->multi, CURLMOPT_PIPELINING, (long)CURLPIPE_NOTHING);
	int r = pthread_create(&e->thread, NULL, engine_main, e);
	if (r != 0)
		return banger_error_set_errno(err, r, "starting the thread of transfers");
	e->started = true;
	*ret = TAKE_PTR(e);
	return 0;
}

void http_engine_freep(struct http_engine **p)
{
	struct http_engine *e = *p;

	if (!e)
		return;
	if (e->started) {
		pthread_mutex_lock(&e->lock);
		e->stop = true;
		pthread_mutex_unlock(&e->lock);
		curl_multi_wakeup(e->multi);
		pthread_join(e->thread, NULL);
	}
	if (e->multi)
		curl_multi_cleanup(e->multi);
	pthread_mutex_destroy(&e->lock);
	free(e->waits);
	free(e);
}

int transfer_init(struct transfer *t, struct banger_error *err)
{
	pthread_condattr_t attr;

	pthread_mutex_init(&t->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&t->cond, &attr);
	pthread_condattr_destroy(&attr);
	head_reset(t);
	t->easy = curl_easy_init();
	if (!t->easy)
		return banger_error_oom(err);
	curl_easy_setopt(t->easy, CURLOPT_PRIVATE, t);
	curl_easy_setopt(t->easy, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(t->easy, CURLOPT_WRITEDATA, t);
	curl_easy_setopt(t->easy, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(t->easy, CURLOPT_HEADERDATA, t);
	return 0;
}

void transfer_done(struct transfer *t)
{
	curl_easy_cleanup(t->easy);
	head_reset(t);
	for (int i = 0; i < HTTP_PIECES; i++)
		free(t->pieces[i].data);
	free(t->body);
	pthread_mutex_destroy(&t->lock);
	pthread_cond_destroy(&t->cond);
}

void transfer_start(struct http_engine *e, struct transfer *t)
{
	pthread_mutex_lock(&e->lock);
	t->next = e->fresh;
	e->fresh = t;
	pthread_mutex_unlock(&e->lock);
	curl_multi_wakeup(e->multi);
}

static void deadline_in(struct timespec *ts, int ms)
{
	clock_gettime(CLOCK_MONOTONIC, ts);
	ts->tv_nsec += ms * 1000000L;
	ts->tv_sec += ts->tv_nsec / 1000000000L;
	ts->tv_nsec %= 1000000000L;
}

int transfer_next(struct http_engine *e, struct transfer *t, const void **ret_data, size_t *ret_len)
{
	struct timespec deadline;

	deadline_in(&deadline, HURRY_MS);
	pthread_mutex_lock(&t->lock);
	while (t->count == 0 && !t->done) {
		if (t->hurry || !t->stream)
			pthread_cond_wait(&t->cond, &t->lock);
		else if (pthread_cond_timedwait(&t->cond, &t->lock, &deadline) == ETIMEDOUT)
			t->hurry = true;
	}
	int r = t->count > 0;
	if (r) {
		*ret_data = t->pieces[t->head].data;
		*ret_len = t->pieces[t->head].len;
	}
	pthread_mutex_unlock(&t->lock);
	return r;
}

void transfer_release(struct http_engine *e, struct transfer *t)
{
	pthread_mutex_lock(&t->lock);
	t->head = (t->head + 1) % HTTP_PIECES;
	t->count--;
	bool wake = t->paused && !t->resume && !t->done;
	if (wake)
		t->resume = true;
	pthread_mutex_unlock(&t->lock);
	if (wake)
		curl_multi_wakeup(e->multi);
}

void transfer_abort(struct http_engine *e, struct transfer *t)
{
	pthread_mutex_lock(&t->lock);
	t->abort = true;
	bool done = t->done;
	pthread_mutex_unlock(&t->lock);
	if (!done)
		curl_multi_wakeup(e->multi);
	pthread_mutex_lock(&t->lock);
	while (!t->done)
		pthread_cond_wait(&t->cond, &t->lock);
	pthread_mutex_unlock(&t->lock);
}
