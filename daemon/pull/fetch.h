/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A blob over HTTP to its end: attempts with back-off, each going on where the one before broke off.
 * Shared by registries and catalogs.
 */
#ifndef BANGER_PULL_FETCH_H
#define BANGER_PULL_FETCH_H

#include "pull/blobs.h"
#include "pull/http.h"

struct fetch {
	struct http *http;
	const struct banger_config *config; /* attempts, stall time */
	const char *url;
	const char *ca_file;
	bool insecure;
	int cancel_fd;
	const char *what; /* for messages: "layer sha256:… of 127.0.0.1:5000/debian"; NULL: nothing is added */
	/* Authorization for the next attempt, NULL for none; challenged: the one before got a 401, which said
	 * `challenge` (NULL: nothing). A negative code ends it. *ret is freed by the caller, who wipes it. NULL:
	 * none is ever sent. */
	int (*authorize)(void *arg, bool challenged, const char *challenge, char **ret, struct banger_error *err);
	void *arg;
};

/* The caller is the blob's writer; it is finished or abandoned when this returns. NOT_FOUND (404), DENIED (401,
 * 403), CORRUPT (another content than the digest says), TOO_LARGE, UNAVAILABLE (after all attempts: what the last
 * one said), TIMEOUT, CANCELLED, NO_SPACE. Messages name `what`, the URL and the offset. */
int fetch_blob(const struct fetch *f, struct blob *b, struct banger_error *err);
/* The same, but after a failure the caller is still the blob's writer, which has what came so far. */
int fetch_blob_from(const struct fetch *f, struct blob *b, struct banger_error *err);

/*
 * A request whose answer is collected, tried again as a blob is: 0 for any status that trying again does not
 * help. Of f, url and what are not used. UNAVAILABLE, TIMEOUT, DENIED, TOO_LARGE, CANCELLED.
 */
int fetch_request(const struct fetch *f, const struct http_request *q, struct http_response *ret,
	struct banger_error *err);
/* The error that a status other than 200 is, with what a registry says of it in its body. */
int fetch_status_error(const char *url, const struct http_response *a, struct banger_error *err);

/* How long to wait before further attempt n (from 1): doubled each time, from 0.5 to 30 s, with jitter; a server's
 * Retry-After (seconds, -1: none) instead, up to 60 s: more than that is not waited for (false). Attempts are
 * counted anew when one has brought 256 KiB; a host that cannot be reached at all is tried three times. */
bool fetch_backoff_ms(int n, int64_t retry_after_s, int64_t *ret_ms);
/* Sleeps; CANCELLED. */
int fetch_sleep(int64_t ms, int cancel_fd, struct banger_error *err);

#endif
