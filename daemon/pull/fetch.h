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
	const char *what; /* for messages: "layer sha256:… of 127.0.0.1:5000/debian" */
	/* Authorization for the next attempt, NULL for none; challenge: what a 401 said, NULL at first. -1
	 * ends it. NULL: none is ever sent. */
	int (*authorize)(void *arg, const char *challenge, char **ret, struct banger_error *err);
	void *arg;
};

/* The caller is the blob's writer; it is finished or abandoned when this returns. NOT_FOUND (404), DENIED (401,
 * 403), CORRUPT (another content than the digest says), TOO_LARGE, UNAVAILABLE (after all attempts: what the last
 * one said), TIMEOUT, CANCELLED, NO_SPACE. Messages name `what`, the URL and the offset. */
int fetch_blob(const struct fetch *f, struct blob *b, struct banger_error *err);

/* How long to wait before attempt n (from 1): doubled each time, from 0.5 to 30 s, with jitter; a server's
 * Retry-After (seconds, -1: none) instead, up to 60 s: more than that is not waited for (false). */
bool fetch_backoff_ms(int n, int64_t retry_after_s, int64_t *ret_ms);
/* Sleeps; CANCELLED. */
int fetch_sleep(int64_t ms, int cancel_fd, struct banger_error *err);

#endif
