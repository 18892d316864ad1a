/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attempts. What is worth another one: a connection that broke or stood still, an answer that ended
 * too early, 408, 429 and 5xx. What is not: any other status, a certificate that is not believed, an answer that is
 * longer than it may be, a full disk.
 *
 * A blob goes on at the offset it has. A server that cannot do that (it answers 200 to a Range, or 416, or
 * a 206 for other bytes) sends the whole blob, of which the bytes that are there already are passed
 * over: readers who follow the blob never see it go back, and if the server sends something else now, the digest
 * tells. When the digest is wrong and part of the content is from an earlier run of the daemon, that part may be
 * to blame (a machine that lost power): the blob is fetched once more from its beginning.
 */
#include <poll.h>
#include <string.h>
#include <sys/random.h>
#include <banger/log.h>
#include <banger/wire.h>
#include "pull/fetch.h"

enum {
	BACKOFF_FIRST_MS = 500,
	BACKOFF_MAX_MS = 30000,
	RETRY_AFTER_MAX_S = 60,
	PROGRESS = 256 * 1024, /* an attempt that brought so much was worth it */
	UNREACHABLE_MAX = 2,   /* further attempts at a host that does not answer at all */
	CHALLENGES_MAX = 2,    /* 401s that are answered: an old token's, and one more */
};

bool fetch_backoff_ms(int n, int64_t retry_after_s, int64_t *ret_ms)
{
	int64_t ms = BACKOFF_FIRST_MS;
	uint32_t random = 0;

	if (retry_after_s > RETRY_AFTER_MAX_S)
		return false;
	(void)!getrandom(&random, sizeof(random), GRND_NONBLOCK);
	if (retry_after_s >= 0) {
		/* Not all who were told the same at the same moment. */
		*ret_ms = retry_after_s * 1000 + random % 250;
		return true;
	}
	for (int i = 1; i < n && ms < BACKOFF_MAX_MS; i++)
		ms *= 2;
	if (ms > BACKOFF_MAX_MS)
		ms = BACKOFF_MAX_MS;
	*ret_ms = ms * 3 / 4 + (int64_t)(random % (uint32_t)(ms / 4 + 1));
	return true;
}

int fetch_sleep(int64_t ms, int cancel_fd, struct banger_error *err)
{
	int64_t end = banger_monotonic_us() + ms * 1000;
	struct pollfd p = {.fd = cancel_fd, .events = POLLIN};

	for (;;) {
		int64_t left = (end - banger_monotonic_us() + 999) / 1000;
		int n = poll(&p, 1, left > 0 ? (int)left : 0);
		if (n > 0)
			return banger_error_set(err, BANGER_CANCELLED, "cancelled");
		if (left <= 0)
			return 0;
	}
}

static bool worth_retrying(long status)
{
	return status == 408 || status == 429 ||
	       (status >= 500 && status <= 599 && status != 501 && status != 505);
}

/* {"errors":[{"code":"…","message":"…"}]}, as registries answer. */
static void note_of(const struct http_response *a, char *buf, size_t size)
{
	_cleanup_json_ struct json_object *o = NULL;

	buf[0] = '\0';
	if (banger_json_parse(a->body, a->len, &o, NULL) < 0)
		return;
	struct json_object *errors = banger_json_get(o, "errors");
	struct json_object *first = json_object_is_type(errors, json_type_array)
					    ? json_object_array_get_idx(errors, 0)
					    : NULL;
	const char *code = banger_json_str(first, "code");
	const char *message = banger_json_str(first, "message");
	if (code || message)
		snprintf(buf, size, " (%.60s%s%.200s)", code ?: "", code && message ? ": " : "",
			message ?: "");
}

int fetch_status_error(const char *url, const struct http_response *a, struct banger_error *err)
{
	char text[512], note[300];
	enum banger_code code = a->status == 404                       ? BANGER_NOT_FOUND
				: a->status == 401 || a->status == 403 ? BANGER_DENIED
								       : BANGER_UNAVAILABLE;

	note_of(a, note, sizeof(note));
	return banger_error_set(err, code, "GET %s: the server answered %ld%s",
		http_url_text(url, text, sizeof(text)), a->status, note);
}

/* The state of a request over its attempts. */
struct attempts {
	const struct fetch *f;
	const char *url;
	int failed, unreachable, challenged;
	char *authorization;
};

static void attempts_done(struct attempts *a)
{
	if (a->authorization)
		explicit_bzero(a->authorization, strlen(a->authorization));
	free(a->authorization);
}

static int authorize(
	struct attempts *a, const struct http_response *challenge, struct banger_error *err)
{
	char *authorization = NULL;

	if (!a->f->authorize)
		return 0;
	int r = a->f->authorize(a->f->arg, challenge != NULL,
		challenge ? challenge->challenge : NULL, &authorization, err);
	if (r < 0)
		return r;
	attempts_done(a);
	a->authorization = authorization;
	return 0;
}

/* A 401 that can be answered: 1, with another Authorization to try. */
static int answer_challenge(
	struct attempts *a, const struct http_response *response, struct banger_error *err)
{
	if (response->status != 401 || !a->f->authorize || response->challenge_elsewhere ||
		a->challenged == CHALLENGES_MAX)
		return 0;
	a->challenged++;
	int r = authorize(a, response, err);
	return r < 0 ? r : 1;
}

/* After an attempt that failed with `why`: waits, and 0; or it is final. */
static int try_again(struct attempts *a, int r, int64_t retry_after_s, struct banger_error *why)
{
	int64_t ms = 0;

	if (why->code != BANGER_UNAVAILABLE && why->code != BANGER_TIMEOUT)
		return r;
	a->failed++;
	a->unreachable += r == -ECONNREFUSED || r == -EPROTO;
	if (a->failed > a->f->config->fetch_retries || a->unreachable > UNREACHABLE_MAX) {
		if (a->failed > 1) {
			char text[sizeof(why->message)];
			snprintf(text, sizeof(text), "%s", why->message);
			banger_error_set(why, why->code, "%.900s (the last of %d attempts)", text,
				a->failed);
		}
		return r;
	}
	if (!fetch_backoff_ms(a->failed, retry_after_s, &ms)) {
		char text[sizeof(why->message)];
		snprintf(text, sizeof(text), "%s", why->message);
		return banger_error_set(why, BANGER_UNAVAILABLE,
			"%.900s; it asks to be left alone for %lld seconds", text,
			(long long)retry_after_s);
	}
	log_info("request is tried again", KV_I("attempt", a->failed + 1), KV_I("wait_ms", ms),
		KV_ERR(why));
	return fetch_sleep(ms, a->f->cancel_fd, why);
}

static int hand_up(int r, const struct banger_error *why, struct banger_error *err)
{
	if (err)
		*err = *why;
	return r;
}

int fetch_request(const struct fetch *f, const struct http_request *q, struct http_response *ret,
	struct banger_error *err)
{
	_cleanup_(attempts_done) struct attempts a = {.f = f, .url = q->url};
	struct banger_error why = {0};
	struct http_request hq = *q;

	int r = authorize(&a, NULL, &why);
	while (r == 0) {
		_cleanup_http_response_ struct http_response response = {.retry_after_s = -1};
		hq.authorization = a.authorization ?: q->authorization;
		r = http_get(f->http, &hq, &response, &why);
		if (r == 0) {
			r = answer_challenge(&a, &response, &why);
			if (r > 0) {
				r = 0;
				continue;
			}
			if (r < 0)
				break;
			if (!worth_retrying(response.status)) {
				*ret = response;
				response = (struct http_response){0};
				return 0;
			}
			r = fetch_status_error(q->url, &response, &why);
		}
		r = try_again(&a, r, response.retry_after_s, &why);
	}
	return hand_up(r, &why, err);
}

/* ---- blobs ---- */

struct blob_fetch {
	struct attempts a;
	struct blob *b;
	int64_t skip;   /* of a whole answer: what is there already */
	bool whole;     /* do not ask for a part again */
	bool restarted; /* after a wrong digest */
	bool resumed;   /* some of it is from an earlier run */
};

static int on_body(void *arg, bool partial, const void *data, size_t len, struct banger_error *err)
{
	struct blob_fetch *bf = arg;
	const char *p = data;

	if (!partial && bf->skip > 0) {
		size_t n = (int64_t)len < bf->skip ? len : (size_t)bf->skip;
		bf->skip -= (int64_t)n;
		p += n;
		len -= n;
	}
	return len > 0 ? blob_write(bf->b, p, len, err) : 0;
}

static int ended_early(const struct blob_fetch *bf, struct banger_error *why)
{
	char text[512];

	return banger_error_set(why, BANGER_UNAVAILABLE,
		"GET %s: the answer ended at byte %lld of %lld",
		http_url_text(bf->a.url, text, sizeof(text)), (long long)blob_offset(bf->b),
		(long long)blob_size(bf->b));
}

static int take_status(
	struct blob_fetch *bf, const struct http_response *response, struct banger_error *why)
{
	char text[512];

	if (response->status == 200 || (response->status == 206 && !response->wrong_range))
		return blob_offset(bf->b) == blob_size(bf->b) ? 0 : ended_early(bf, why);
	if (response->status == 416 || response->status == 206) {
		bool asked_whole = bf->whole;
		bf->whole = true;
		return banger_error_set(why, asked_whole ? BANGER_CORRUPT : BANGER_UNAVAILABLE,
			"GET %s: the server does not send the bytes from %lld on that were asked "
			"for",
			http_url_text(bf->a.url, text, sizeof(text)),
			(long long)blob_offset(bf->b));
	}
	return fetch_status_error(bf->a.url, response, why);
}

/* One attempt, and the wait after it when it failed. 0: all bytes are there, or once more. */
static int attempt(struct blob_fetch *bf, struct banger_error *why)
{
	_cleanup_http_response_ struct http_response response = {.retry_after_s = -1};
	const struct fetch *f = bf->a.f;
	int64_t offset = blob_offset(bf->b);
	struct http_request q = {.url = f->url,
		.authorization = bf->a.authorization,
		.ca_file = f->ca_file,
		.insecure = f->insecure,
		.offset = bf->whole ? 0 : offset,
		.limit = blob_size(bf->b),
		.cancel_fd = f->cancel_fd,
		.body = on_body,
		.arg = bf};

	bf->skip = offset;
	int r = http_get(f->http, &q, &response, why);
	if (r == 0) {
		r = answer_challenge(&bf->a, &response, why);
		if (r != 0)
			return r < 0 ? r : 0;
		r = take_status(bf, &response, why);
	}
	if (r == 0)
		return 0;
	if (blob_offset(bf->b) - offset >= PROGRESS)
		bf->a.failed = bf->a.unreachable = bf->a.challenged = 0;
	bool final = response.status >= 400 && response.status != 416 &&
		     !worth_retrying(response.status);
	return final ? r : try_again(&bf->a, r, response.retry_after_s, why);
}

static int finish(struct blob_fetch *bf, struct banger_error *why)
{
	int r = blob_finish(bf->b, why);

	if (r == 0)
		return 1;
	if (why->code != BANGER_CORRUPT || !bf->resumed || bf->restarted)
		return r;
	log_warn(
		"a partial blob was wrong; it is fetched anew", KV_S("digest", blob_digest(bf->b)));
	bf->restarted = true;
	return 0;
}

static void blob_fetch_done(struct blob_fetch *bf)
{
	attempts_done(&bf->a);
}

int fetch_blob_from(const struct fetch *f, struct blob *b, struct banger_error *err)
{
	_cleanup_(blob_fetch_done) struct blob_fetch bf = {.a = {.f = f, .url = f->url}, .b = b};
	struct banger_error why = {0};

	int r = blob_begin(b, f->cancel_fd, &why);
	bf.resumed = blob_offset(b) > 0;
	if (r == 0 && blob_offset(b) < blob_size(b))
		r = authorize(&bf.a, NULL, &why);
	while (r == 0)
		r = blob_offset(b) < blob_size(b) ? attempt(&bf, &why) : finish(&bf, &why);
	if (r > 0)
		return 0;
	if (f->what)
		banger_error_prefix(&why, "%s", f->what);
	return hand_up(r, &why, err);
}

int fetch_blob(const struct fetch *f, struct blob *b, struct banger_error *err)
{
	struct banger_error why = {0};

	int r = fetch_blob_from(f, b, &why);
	if (r < 0)
		blob_abandon(b, &why);
	return r < 0 ? hand_up(r, &why, err) : 0;
}
