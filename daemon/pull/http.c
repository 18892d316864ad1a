/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One request from URL to answer: a hop for each redirect, each hop a transfer of the engine.
 *
 * The rule for credentials is in one place, next_hop(): whether Authorization goes along is decided by
 * comparing the origin (scheme, host, port) of the next URL with that of the request, and once it was
 * dropped it does not come back, wherever the redirects lead. URLs are taken apart by curl's own
 * parser, the one that will use them, so that there are no two opinions about what the host is; one with a
 * user in it is refused, since curl would make credentials of that.
 *
 * Nothing of a URL's query is ever put into a message: it may be a signature that opens somebody's
 * storage.
 */
#include <string.h>
#include <strings.h>
#include <banger/wire.h>
#include "pull/http.h"
#include "pull/http_engine.h"
#include "pull/settings.h"

enum {
	REDIRECTS_MAX = 10,
	CONNECT_MS_MAX = 30000,
	RECEIVE_BUFFER = 512 * 1024,
};

struct http {
	struct http_engine *engine;
	struct pull_settings *settings;
	int64_t stall_ms;
	/* HTTP_PROXY, which curl itself does not look at (it is dangerous in a CGI program, which this is
	 * not) but every other program of this trade does. */
	const char *http_proxy;
};

int http_new(const struct banger_config *config, struct http **ret, struct banger_error *err)
{
	_cleanup_(http_freep) struct http *h = calloc(1, sizeof(*h));

	if (!h)
		return banger_error_oom(err);
	h->stall_ms = config->fetch_stall_ms > 0 ? config->fetch_stall_ms : 30000;
	if (!getenv("http_proxy") && !getenv("all_proxy") && !getenv("ALL_PROXY"))
		h->http_proxy = getenv("HTTP_PROXY");
	int r = pull_settings_new(config, &h->settings, err);
	if (r == 0)
		r = http_engine_new(h->stall_ms, &h->engine, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(h);
	return 0;
}

void http_freep(struct http **h)
{
	if (!*h)
		return;
	http_engine_freep(&(*h)->engine);
	pull_settings_freep(&(*h)->settings);
	free(*h);
}

const struct pull_settings *http_settings(const struct http *h)
{
	return h->settings;
}

void http_response_done(struct http_response *r)
{
	free(r->body);
	free(r->content_type);
	free(r->digest);
	free(r->challenge);
	free(r->final_host);
	*r = (struct http_response){0};
}

/* ---- URLs ---- */

static void url_freep(CURLU **u)
{
	curl_url_cleanup(*u);
}

static void curl_strp(char **s)
{
	curl_free(*s);
}
#define _cleanup_curl_ _cleanup_(curl_strp)

const char *http_url_text(const char *url, char *buf, size_t size)
{
	const char *end = url + strcspn(url, "?#");
	const char *host = strstr(url, "://");
	const char *at = NULL;

	host = host && host < end ? host + 3 : url;
	for (const char *p = host; p < end && *p != '/'; p++)
		if (*p == '@')
			at = p;
	if (at)
		snprintf(
			buf, size, "%.*s%.*s", (int)(host - url), url, (int)(end - at - 1), at + 1);
	else
		snprintf(buf, size, "%.*s", (int)(end - url), url);
	return buf;
}

static int bad_url(const char *url, const char *what, struct banger_error *err)
{
	char text[512];

	return banger_error_set(err, BANGER_BAD_REQUEST,
		"\"%s\" is not a URL that can be fetched: %s",
		http_url_text(url, text, sizeof(text)), what);
}

int http_url_split(const char *url, bool *ret_tls, char **ret_host, struct banger_error *err)
{
	_cleanup_(url_freep) CURLU *u = curl_url();
	_cleanup_curl_ char *scheme = NULL, *host = NULL, *port = NULL;
	char *text = NULL;

	if (!u)
		return banger_error_oom(err);
	for (const char *p = url; *p; p++)
		if ((unsigned char)*p <= ' ' || *p == 127)
			return bad_url(url, "it has blanks or control characters", err);
	/* curl takes "http:///x" for "http://x". */
	const char *authority = strstr(url, "://");
	if (!authority || strchr("/?#", authority[3]))
		return bad_url(url, "it has no host", err);
	CURLUcode c = curl_url_set(u, CURLUPART_URL, url, CURLU_DISALLOW_USER);
	if (c == CURLUE_USER_NOT_ALLOWED)
		return bad_url(url, "it has a user name in it", err);
	if (c == CURLUE_OUT_OF_MEMORY)
		return banger_error_oom(err);
	if (c != CURLUE_OK || curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK ||
		curl_url_get(u, CURLUPART_HOST, &host, 0) != CURLUE_OK || !*host)
		return bad_url(url, c != CURLUE_OK ? curl_url_strerror(c) : "it has no host", err);
	bool tls = strcasecmp(scheme, "https") == 0;
	if (!tls && strcasecmp(scheme, "http") != 0)
		return bad_url(url, "only http and https are", err);
	/* Without one of its own, or with the scheme's: none. */
	if (curl_url_get(u, CURLUPART_PORT, &port, CURLU_NO_DEFAULT_PORT) != CURLUE_OK)
		port = NULL;
	if (ret_host) {
		if (asprintf(&text, "%s%s%s", host, port ? ":" : "", port ?: "") < 0)
			return banger_error_oom(err);
		for (char *p = text; *p; p++)
			*p = *p >= 'A' && *p <= 'Z' ? *p + 32 : *p;
		*ret_host = text;
	}
	if (ret_tls)
		*ret_tls = tls;
	return 0;
}

bool http_same_origin(const char *a, const char *b)
{
	_cleanup_free_ char *host_a = NULL, *host_b = NULL;
	bool tls_a, tls_b;

	return http_url_split(a, &tls_a, &host_a, NULL) == 0 &&
	       http_url_split(b, &tls_b, &host_b, NULL) == 0 && tls_a == tls_b &&
	       strcmp(host_a, host_b) == 0;
}

/* `location` as seen from `base`. */
static int resolve(const char *base, const char *location, char **ret, struct banger_error *err)
{
	_cleanup_(url_freep) CURLU *u = curl_url();
	_cleanup_curl_ char *url = NULL;

	if (!u)
		return banger_error_oom(err);
	CURLUcode c = curl_url_set(u, CURLUPART_URL, base, 0);
	if (c == CURLUE_OK)
		c = curl_url_set(u, CURLUPART_URL, location, CURLU_DISALLOW_USER);
	if (c == CURLUE_OK)
		c = curl_url_set(u, CURLUPART_FRAGMENT, NULL, 0);
	if (c == CURLUE_OK)
		c = curl_url_get(u, CURLUPART_URL, &url, 0);
	if (c == CURLUE_OUT_OF_MEMORY)
		return banger_error_oom(err);
	if (c != CURLUE_OK)
		return bad_url(location, curl_url_strerror(c), err);
	*ret = strdup(url);
	return *ret ? 0 : banger_error_oom(err);
}

/* ---- one hop ---- */

struct hop {
	struct http *http;
	const struct http_request *q;
	char *url;
	bool tls, own_origin; /* own_origin: no redirect has led away from the request's origin */
	char *host;
	char *certificates, *cert, *key; /* that are trusted; that we show */
	struct curl_slist *headers;
	char error[CURL_ERROR_SIZE];
	struct transfer t;
	bool started;
};

static void forget_tls(struct hop *p)
{
	free(TAKE_PTR(p->certificates));
	free(TAKE_PTR(p->cert));
	if (p->key)
		explicit_bzero(p->key, strlen(p->key));
	free(TAKE_PTR(p->key));
}

static void hop_done(struct hop *p)
{
	if (p->started)
		transfer_done(&p->t);
	curl_slist_free_all(p->headers);
	free(p->url);
	free(p->host);
	forget_tls(p);
}

static int add_header(struct hop *p, const char *text, struct banger_error *err)
{
	struct curl_slist *more = curl_slist_append(p->headers, text);

	if (!more)
		return banger_error_oom(err);
	p->headers = more;
	return 0;
}

static int add_headers(struct hop *p, struct banger_error *err)
{
	int r = add_header(p, "Accept-Encoding: identity", err);

	for (const char *const *h = p->q->headers; r == 0 && h && *h; h++)
		r = add_header(p, *h, err);
	if (r == 0 && p->q->authorization && p->own_origin) {
		_cleanup_free_ char *text = NULL;
		if (asprintf(&text, "Authorization: %s", p->q->authorization) < 0) {
			text = NULL;
			return banger_error_oom(err);
		}
		r = add_header(p, text, err);
		explicit_bzero(text, strlen(text));
	}
	return r;
}

static int read_ca_file(const char *path, char **text, struct banger_error *err)
{
	_cleanup_fclose_ FILE *f = fopen(path, "re");
	size_t len = *text ? strlen(*text) : 0;

	if (!f)
		return banger_error_set_errno(
			err, errno, "cannot read the certificates in %s", path);
	for (;;) {
		char *more = realloc(*text, len + 65536 + 1);
		if (!more)
			return banger_error_oom(err);
		*text = more;
		size_t n = fread(more + len, 1, 65536, f);
		len += n;
		more[len] = '\0';
		if (n == 0)
			break;
		if (len > 4 * 1024 * 1024)
			return banger_error_set(
				err, BANGER_TOO_LARGE, "%s is no file of certificates", path);
	}
	return ferror(f) ? banger_error_set_errno(err, EIO, "cannot read %s", path) : 0;
}

/* The certificate of the host at hand, whichever one led to it: no other host is shown it. */
static int set_identity(struct hop *p, struct banger_error *err)
{
	CURL *c = p->t.easy;
	int r = pull_host_identity(p->http->settings, p->host, &p->cert, &p->key, err);

	if (r < 0 || !p->cert)
		return r;
	struct curl_blob cert = {p->cert, strlen(p->cert), CURL_BLOB_NOCOPY};
	struct curl_blob key = {p->key, strlen(p->key), CURL_BLOB_NOCOPY};
	/* A pass phrase, or the TLS library would ask the terminal for that of an encrypted key. */
	if (curl_easy_setopt(c, CURLOPT_SSLCERT_BLOB, &cert) != CURLE_OK ||
		curl_easy_setopt(c, CURLOPT_SSLKEY_BLOB, &key) != CURLE_OK ||
		curl_easy_setopt(c, CURLOPT_KEYPASSWD, "") != CURLE_OK)
		return banger_error_set(err, BANGER_UNSUPPORTED,
			"the client certificate for %s: libcurl cannot use it", p->host);
	return 0;
}

/* Beside what is given here, curl trusts the system's directory of certificates. */
static int set_tls(struct hop *p, struct banger_error *err)
{
	const struct pull_host *host = pull_settings_find(p->http->settings, p->host);
	CURL *c = p->t.easy;
	int r = set_identity(p, err);

	if (r < 0)
		return r;
	if (host->insecure || (p->own_origin && p->q->insecure)) {
		curl_easy_setopt(c, CURLOPT_SSL_VERIFYPEER, 0L);
		curl_easy_setopt(c, CURLOPT_SSL_VERIFYHOST, 0L);
		return 0;
	}
	r = pull_host_certificates(p->http->settings, p->host, &p->certificates, err);
	if (r == 0 && p->own_origin && p->q->ca_file)
		r = read_ca_file(p->q->ca_file, &p->certificates, err);
	if (r == 0 && p->certificates) {
		struct curl_blob blob = {.data = p->certificates,
			.len = strlen(p->certificates),
			.flags = CURL_BLOB_NOCOPY};
		curl_easy_setopt(c, CURLOPT_CAINFO_BLOB, &blob);
	} else if (r == 0 && getenv("SSL_CERT_FILE")) {
		curl_easy_setopt(c, CURLOPT_CAINFO, getenv("SSL_CERT_FILE"));
	}
	return r;
}

static void set_protocols(CURL *c)
{
#if LIBCURL_VERSION_NUM >= 0x075500
	curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
#else
	curl_easy_setopt(c, CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
}

static int set_options(struct hop *p, struct banger_error *err)
{
	const struct http_request *q = p->q;
	int64_t connect_ms =
		p->http->stall_ms < CONNECT_MS_MAX ? p->http->stall_ms : CONNECT_MS_MAX;
	CURL *c = p->t.easy;
	char range[32];

	set_protocols(c);
	curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
#if LIBCURL_VERSION_NUM >= 0x075700
	/* Else a transfer that ends while its host's name is looked up waits for the resolver, on the engine's thread. */
	curl_easy_setopt(c, CURLOPT_QUICK_EXIT, 1L);
#endif
	curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 0L);
	curl_easy_setopt(c, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2TLS);
	curl_easy_setopt(c, CURLOPT_BUFFERSIZE, (long)RECEIVE_BUFFER);
	curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, (long)connect_ms);
	curl_easy_setopt(c, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
	curl_easy_setopt(c, CURLOPT_TCP_KEEPALIVE, 1L);
	curl_easy_setopt(c, CURLOPT_ERRORBUFFER, p->error);
	curl_easy_setopt(c, CURLOPT_USERAGENT, "banger/" BANGER_VERSION);
	if (pull_host_loopback(p->host))
		curl_easy_setopt(c, CURLOPT_PROXY, "");
	else if (!p->tls && p->http->http_proxy)
		curl_easy_setopt(c, CURLOPT_PROXY, p->http->http_proxy);
	if (q->head)
		curl_easy_setopt(c, CURLOPT_NOBODY, 1L);
	if (q->post)
		curl_easy_setopt(c, CURLOPT_POSTFIELDS, q->post);
	if (q->offset > 0) {
		snprintf(range, sizeof(range), "%lld-", (long long)q->offset);
		curl_easy_setopt(c, CURLOPT_RANGE, range);
	}
	if (curl_easy_setopt(c, CURLOPT_URL, p->url) != CURLE_OK ||
		curl_easy_setopt(c, CURLOPT_HTTPHEADER, p->headers) != CURLE_OK)
		return banger_error_oom(err);
	return p->tls ? set_tls(p, err) : 0;
}

/* Run it; the body goes to the asker meanwhile. A negative return is the asker's refusal. */
static int run(struct hop *p, struct banger_error *err)
{
	struct http_engine *e = p->http->engine;
	const void *data;
	size_t len;
	int r = 0;

	transfer_start(e, &p->t);
	while (transfer_next(e, &p->t, &data, &len) > 0) {
		if (r == 0) {
			r = p->q->body(p->q->arg, p->t.status == 206, data, len, err);
			if (r != 0)
				transfer_abort(e, &p->t);
		}
		transfer_release(e, &p->t);
	}
	return r;
}

static const char *method(const struct http_request *q)
{
	return q->post ? "POST" : q->head ? "HEAD" : "GET";
}

static int failed(
	const struct hop *p, enum banger_code code, const char *what, struct banger_error *err)
{
	char url[512], at[64] = "";
	int64_t offset = (p->t.status == 206 ? p->q->offset : 0) + p->t.received;

	if (p->t.received > 0 || p->q->offset > 0)
		snprintf(at, sizeof(at), " at byte %lld",
			(long long)(p->t.received > 0 ? offset : p->q->offset));
	return banger_error_set(err, code, "%s %s%s: %s", method(p->q),
		http_url_text(p->url, url, sizeof(url)), at, what);
}

/* In TLS 1.3 a server says only after the handshake, when the request is on its way, that it wants a certificate; then
 * the request may fail before that is read. */
static int cut_off(const struct hop *p, const char *what, struct banger_error *err)
{
	bool said = strstr(what, "certificate required") != NULL;
	char text[512];

	if (!p->tls || p->t.status != 0)
		return failed(p, BANGER_UNAVAILABLE, what, err);
	if (p->cert)
		snprintf(text, sizeof(text),
			"%.250s (perhaps it refuses the certificate that it was shown)", what);
	else
		snprintf(text, sizeof(text),
			"%.250s (%s\"registries\": {\"%.100s\": {\"cert_file\": …, \"key_file\": "
			"…}} in "
			"the configuration)",
			what, said ? "" : "if it wants a certificate of us: ", p->host);
	return failed(p, said ? BANGER_DENIED : BANGER_UNAVAILABLE, text, err);
}

static int curl_failed(const struct hop *p, struct banger_error *err)
{
	const char *what = p->error[0] ? p->error : curl_easy_strerror(p->t.code);
	char text[512];

	switch (p->t.code) {
	case CURLE_OUT_OF_MEMORY:
		return banger_error_oom(err);
	case CURLE_PEER_FAILED_VERIFICATION:
		snprintf(text, sizeof(text),
			"%.250s (if it is to be trusted: \"registries\": {\"%.100s\": "
			"{\"ca_file\": …}} in the "
			"configuration)",
			what, p->host);
		return failed(p, BANGER_DENIED, text, err);
	case CURLE_SSL_CACERT_BADFILE:
	case CURLE_SSL_CERTPROBLEM:
	case CURLE_SSL_ISSUER_ERROR:
		return failed(p, BANGER_DENIED, what, err);
	case CURLE_COULDNT_RESOLVE_PROXY:
	case CURLE_COULDNT_RESOLVE_HOST:
	case CURLE_COULDNT_CONNECT:
		failed(p, BANGER_UNAVAILABLE, what, err);
		return -ECONNREFUSED;
	case CURLE_SSL_CONNECT_ERROR:
		snprintf(text, sizeof(text),
			"%.250s (if it speaks plain HTTP: \"registries\": {\"%.100s\": "
			"{\"plain_http\": true}} in the "
			"configuration)",
			what, p->host);
		failed(p, BANGER_UNAVAILABLE, text, err);
		return -EPROTO;
	case CURLE_WEIRD_SERVER_REPLY:
	case CURLE_UNSUPPORTED_PROTOCOL: /* HTTP/0.9, which is what anything looks like */
		failed(p, BANGER_UNAVAILABLE, what, err);
		return -EPROTO;
	case CURLE_OPERATION_TIMEDOUT: /* only connecting has a time of curl's */
		return failed(p, BANGER_TIMEOUT, what, err);
	default:
		return cut_off(p, what, err);
	}
}

static int outcome(const struct hop *p, struct banger_error *err)
{
	char text[128];

	switch (p->t.end) {
	case TRANSFER_CANCELLED:
		return failed(p, BANGER_CANCELLED, "cancelled", err);
	case TRANSFER_STALLED:
		snprintf(text, sizeof(text), "nothing came for %.3g seconds",
			(double)p->http->stall_ms / 1000);
		return failed(p, BANGER_TIMEOUT, text, err);
	case TRANSFER_TOO_LARGE:
		snprintf(text, sizeof(text),
			"the answer is longer than the %lld bytes that it may have",
			(long long)p->q->limit);
		return failed(p, BANGER_TOO_LARGE, text, err);
	case TRANSFER_HEADERS:
		return failed(p, BANGER_UNAVAILABLE, "the answer has too many headers", err);
	case TRANSFER_NO_MEMORY:
		return banger_error_oom(err);
	case TRANSFER_ABORTED:
		return failed(p, BANGER_CANCELLED, "given up", err);
	default:
		return p->t.code == CURLE_OK ? 0 : curl_failed(p, err);
	}
}

static int hop(struct hop *p, struct banger_error *err)
{
	free(TAKE_PTR(p->host));
	int r = http_url_split(p->url, &p->tls, &p->host, err);
	if (r < 0)
		return r;
	p->t = (struct transfer){.cancel_fd = p->q->cancel_fd,
		.offset = p->q->offset,
		.limit = p->q->limit,
		.stream = p->q->body != NULL};
	p->started = true;
	p->error[0] = '\0';
	r = transfer_init(&p->t, err);
	if (r == 0)
		r = add_headers(p, err);
	if (r == 0)
		r = set_options(p, err);
	if (r == 0)
		r = run(p, err);
	return r != 0 ? r : outcome(p, err);
}

/* ---- redirects ---- */

static bool redirected(const struct hop *p)
{
	long s = p->t.status;

	return (s == 301 || s == 302 || s == 303 || s == 307 || s == 308) && p->t.location;
}

static int refuse_redirect(const struct hop *p, const char *to, enum banger_code code,
	const char *why, struct banger_error *err)
{
	char url[512], what[700];

	snprintf(what, sizeof(what), "it redirects to %s, %s", http_url_text(to, url, sizeof(url)),
		why);
	return failed(p, code, what, err);
}

/* Where it leads, made ready to be asked next. */
static int next_hop(struct hop *p, struct banger_error *err)
{
	_cleanup_free_ char *url = NULL, *host = NULL;
	bool tls = false;

	if (p->q->post)
		return refuse_redirect(p, p->t.location, BANGER_DENIED,
			"which a request that carries a secret does not follow", err);
	int r = resolve(p->url, p->t.location, &url, err);
	if (r == 0)
		r = http_url_split(url, &tls, &host, err);
	if (r < 0) {
		if (err && err->code == BANGER_BAD_REQUEST)
			return refuse_redirect(p, p->t.location, BANGER_DENIED,
				"which is no URL of http or https that can be followed", err);
		return r;
	}
	if (p->tls && !tls)
		return refuse_redirect(p, url, BANGER_DENIED, "from https to plain http", err);
	p->own_origin = p->own_origin && http_same_origin(url, p->q->url);
	transfer_done(&p->t);
	p->started = false;
	curl_slist_free_all(p->headers);
	p->headers = NULL;
	forget_tls(p);
	free(p->url);
	p->url = TAKE_PTR(url);
	return 0;
}

static int take_response(struct hop *p, struct http_response *ret, struct banger_error *err)
{
	struct transfer *t = &p->t;

	if (!t->body && !(t->body = calloc(1, 1)))
		return banger_error_oom(err);
	*ret = (struct http_response){.status = t->status,
		.body = TAKE_PTR(t->body),
		.len = t->len,
		.content_type = TAKE_PTR(t->content_type),
		.digest = TAKE_PTR(t->digest),
		.challenge = TAKE_PTR(t->challenge),
		.challenge_elsewhere = !p->own_origin,
		.content_length = t->content_length,
		.retry_after_s = t->retry_after_s,
		.wrong_range = t->status == 206 && t->wrong_range,
		.final_host = TAKE_PTR(p->host)};
	return 0;
}

int http_get(struct http *h, const struct http_request *q, struct http_response *ret,
	struct banger_error *err)
{
	_cleanup_(hop_done) struct hop p = {.http = h, .q = q, .own_origin = true};

	p.url = strdup(q->url);
	if (!p.url)
		return banger_error_oom(err);
	for (int n = 0;; n++) {
		int r = hop(&p, err);
		if (r != 0)
			return r;
		if (!redirected(&p))
			return take_response(&p, ret, err);
		if (n == REDIRECTS_MAX)
			return refuse_redirect(&p, p.t.location, BANGER_UNAVAILABLE,
				"after ten redirects before it", err);
		r = next_hop(&p, err);
		if (r < 0)
			return r;
	}
}
