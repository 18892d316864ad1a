/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests over libcurl's multi interface. One thread of the engine drives all transfers; whoever asks
 * waits on its own thread. What is sent to whom is decided here and nowhere else: credentials go to
 * the host that they are for and never along a redirect to another one; only http and https; redirects
 * are followed by hand (at most 10, each checked); a private address is no different from another, for
 * registries are often there.
 */
#ifndef BANGER_PULL_HTTP_H
#define BANGER_PULL_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <banger/error.h>
#include <banger/paths.h>

struct http;

int http_new(const struct banger_config *config, struct http **ret, struct banger_error *err);
/* Waits for the thread; no request may be running. */
void http_freep(struct http **h);

struct http_request {
	const char *url;
	const char *const *headers; /* "Name: value", NULL-terminated; for the first host only when
				     * `secret`, i.e. they (Authorization) never follow a redirect */
	const char *authorization;  /* value of Authorization; only for url's own origin; NULL: none */
	const char *ca_file;	    /* NULL: the system's */
	bool insecure;		    /* TLS without checks, by configuration alone */
	const char *post;	    /* body of a POST (application/x-www-form-urlencoded); NULL: GET */
	bool head;
	int64_t offset;	      /* ask for bytes from here on; 0: whole */
	int64_t limit;	      /* more bytes of body are TOO_LARGE */
	int cancel_fd;	      /* readable: CANCELLED; -1: none */
	/* Body, as it comes, on the engine's thread; anything but 0 ends the request with that error.
	 * *partial: the server answered 206 to `offset`; if offset > 0 and not, the body is whole.
	 * NULL: the body is collected in the response. */
	int (*body)(void *arg, bool partial, const void *data, size_t len, struct banger_error *err);
	void *arg;
};

struct http_response {
	long status;
	char *body; /* collected; NUL-terminated */
	size_t len;
	char *content_type;	      /* without parameters; NULL */
	char *digest;		      /* Docker-Content-Digest; NULL */
	char *challenge;	      /* WWW-Authenticate, all of them joined by '\n'; NULL */
	int64_t content_length;	      /* -1 */
	int64_t retry_after_s;	      /* of Retry-After in seconds, capped by the caller; -1 */
	char *final_host;	      /* host[:port] that answered */
};
void http_response_done(struct http_response *r);
#define _cleanup_http_response_ _cleanup_(http_response_done)

/* One attempt. Blocks. 0 for any HTTP status (also 404 and 500); UNAVAILABLE: no connection, broken off,
 * a bad answer (worth another attempt); TIMEOUT: nothing came for the configured time (30 s); DENIED: TLS
 * says no; the message names method, URL (without secrets) and offset. */
int http_get(struct http *h, const struct http_request *q, struct http_response *ret, struct banger_error *err);

#endif
