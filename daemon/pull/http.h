/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests over libcurl's multi interface. One thread of the engine drives all transfers; whoever asks
 * waits on its own thread, where it also gets the body (hashing and writing one transfer's bytes do not
 * hold up the others). What is sent to whom is decided here and nowhere else: credentials go to the origin
 * (scheme, host, port) that they are for and never along a redirect to another one; only http and https;
 * redirects are followed by hand (at most 10, each checked; from https to http none; of a POST none); a
 * private address is no different from another, for registries are often there.
 *
 * Certificates are checked against the system's and those that the configuration has for the host that is
 * asked, also behind a redirect (settings.h). Proxies are those of the usual variables (http_proxy or
 * HTTP_PROXY, https_proxy, all_proxy, no_proxy); loopback hosts are never asked through one.
 */
#ifndef BANGER_PULL_HTTP_H
#define BANGER_PULL_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <banger/error.h>
#include <banger/paths.h>

struct http;
struct pull_settings;

/* BAD_REQUEST: the configuration's "registries". */
int http_new(const struct banger_config *config, struct http **ret, struct banger_error *err);
/* Waits for the thread; no request may be running. */
void http_freep(struct http **h);
const struct pull_settings *http_settings(const struct http *h); /* borrowed */

struct http_request {
	const char *url;
	const char *const *headers; /* "Name: value", NULL-terminated, nothing secret: they follow redirects */
	const char *authorization;  /* value of Authorization; only for url's own origin; NULL: none */
	const char *ca_file;	    /* for url's own origin, beside the configured ones; NULL: none */
	bool insecure;		    /* the same: TLS without checks, by configuration alone */
	const char *post;	    /* body of a POST (application/x-www-form-urlencoded); NULL: GET */
	bool head;
	int64_t offset;	      /* ask for bytes from here on; 0: whole */
	int64_t limit;	      /* a resource of more bytes (from 0 on) is TOO_LARGE */
	int cancel_fd;	      /* readable: CANCELLED; -1: none */
	/* Body of a 200 or 206, as it comes, on the caller's thread, in pieces of up to 512 KiB; all full
	 * ones begin at an address that O_DIRECT takes. Anything but 0 ends the request with that error.
	 * partial: the server answered 206 to `offset`; if offset > 0 and not, the body is whole. The body of
	 * another status is collected in the response (at most 64 KiB of it).
	 * NULL: the body is collected in the response. */
	int (*body)(void *arg, bool partial, const void *data, size_t len, struct banger_error *err);
	void *arg;
};

struct http_response {
	long status;
	char *body; /* collected; NUL-terminated; never NULL after success */
	size_t len;
	char *content_type;	      /* without parameters; NULL */
	char *digest;		      /* Docker-Content-Digest; NULL */
	char *challenge;	      /* WWW-Authenticate, all of them joined by '\n'; NULL */
	bool challenge_elsewhere;     /* it is of another origin than url's: never to be answered */
	int64_t content_length;	      /* -1 */
	int64_t retry_after_s;	      /* of Retry-After in seconds, capped by the caller; -1 */
	bool wrong_range;	      /* a 206 with other bytes than were asked for; no body was delivered */
	char *final_host;	      /* host[:port] that answered */
};
void http_response_done(struct http_response *r);
#define _cleanup_http_response_ _cleanup_(http_response_done)

/* One attempt. Blocks. 0 for any HTTP status (also 404 and 500); UNAVAILABLE: broken off, a bad answer (worth
 * another attempt), and -ECONNREFUSED as the number when the host could not be reached at all, -EPROTO when it
 * does not speak HTTP; TIMEOUT: nothing came for the configured time (fetch_stall_ms); DENIED: TLS says no, or a
 * redirect that must not be followed; the message names method, URL (without secrets) and offset. */
int http_get(struct http *h, const struct http_request *q, struct http_response *ret, struct banger_error *err);

/* The URL for people: without user, query and fragment. Returns buf. */
const char *http_url_text(const char *url, char *buf, size_t size);
/* Do the two have scheme, host and port in common? */
bool http_same_origin(const char *a, const char *b);
/* "https", "http"; "HOST[:PORT]" in lower case, a port of the scheme's own left out. BAD_REQUEST: not a URL of
 * http or https, or one with a user in it. Either may be NULL. */
int http_url_split(const char *url, bool *ret_tls, char **ret_host, struct banger_error *err);

#endif
