/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Documents of a registry, and how it is reached.
 *
 * https, unless the configuration says plain_http. A loopback host of which nothing is configured is asked for
 * /v2/ once, in plain HTTP, and taken for a TLS server when the answer says so: a 400 in words that
 * servers have for it, or no HTTP at all, but TLS.
 *
 * What a tag names is whatever the registry says; everything below that is named by digest, and
 * checked: size first, then digest.
 */
#include <string.h>
#include <strings.h>
#include <banger/log.h>
#include "pull/registry_internal.h"
#include "pull/settings.h"

static const char *const manifest_headers[] = {
	"Accept: application/vnd.oci.image.index.v1+json, "
	"application/vnd.oci.image.manifest.v1+json, "
	"application/vnd.docker.distribution.manifest.list.v2+json, "
	"application/vnd.docker.distribution.manifest.v2+json, */*;q=0.1",
	NULL};

/* ---- opening ---- */

/* The words of a TLS server for those who speak plain HTTP to it. */
static bool wants_tls(const struct http_response *a)
{
	return a->status == 400 &&
	       (strcasestr(a->body, "HTTPS server") || strcasestr(a->body, "HTTPS port") ||
		       strcasestr(a->body, "SSL-enabled"));
}

static int probe(struct registry *r, const char *scheme, const char *host,
	struct http_response *ret, struct banger_error *err)
{
	_cleanup_free_ char *url = NULL;
	struct http_request q = {.limit = 1024 * 1024, .cancel_fd = r->cancel_fd};

	if (asprintf(&url, "%s://%s/v2/", scheme, host) < 0) {
		url = NULL;
		return banger_error_oom(err);
	}
	q.url = url;
	return http_get(r->http, &q, ret, err);
}

/* Nothing secret is sent. Whatever goes wrong here goes wrong again, and is reported, later. Some TLS
 * servers only hang up: whoever neither answers nor is unreachable is asked in TLS too, and a certificate that
 * is not believed is an answer as well. */
static int probe_loopback(
	struct registry *r, const char *host, bool *ret_tls, struct banger_error *err)
{
	_cleanup_http_response_ struct http_response plain = {0}, tls = {0};

	int n = probe(r, "http", host, &plain, err);
	if (n == 0)
		*ret_tls = wants_tls(&plain);
	else if (n == -EHOSTDOWN || n == -EPROTO) {
		n = probe(r, "https", host, &tls, err);
		*ret_tls = n == 0 || n == -EACCES;
	} else {
		*ret_tls = false;
	}
	return n == -ECANCELED ? n : 0;
}

static int open_endpoint(struct registry *r, const char *host, struct banger_error *err)
{
	const struct pull_settings *settings = http_settings(r->http);
	const struct pull_host *said = pull_settings_find(settings, host);
	struct registry_endpoint *e = &r->endpoints[r->n++];
	const char *server = strcmp(host, "docker.io") == 0 ? "registry-1.docker.io" : host;
	bool tls = !said->plain_http;

	if (tls && !said->tls && !said->insecure && !said->ca_file && !said->cert_file &&
		pull_host_loopback(host)) {
		int q = probe_loopback(r, host, &tls, err);
		if (q < 0)
			return q;
	}
	e->host = strdup(host);
	if (!e->host)
		return banger_error_oom(err);
	if (asprintf(&e->base, "%s://%s/v2/%s", tls ? "https" : "http", server,
		    r->ref->repository) < 0) {
		e->base = NULL;
		return banger_error_oom(err);
	}
	return auth_new(r->http, r->config, host, r->ref->repository, r->cancel_fd, &e->auth, err);
}

int registry_open(struct http *http, const struct banger_config *config,
	const struct pull_reference *ref, int cancel_fd, struct registry **ret,
	struct banger_error *err)
{
	_cleanup_registry_ struct registry *r = calloc(1, sizeof(*r));

	if (!r)
		return banger_error_oom(err);
	if (ref->layout)
		return banger_error_set(err, BANGER_INTERNAL, "%s is not of a registry", ref->text);
	r->http = http;
	r->config = config;
	r->ref = ref;
	r->cancel_fd = cancel_fd;
	const struct pull_host *said = pull_settings_find(http_settings(http), ref->host);
	int q = said->mirror ? open_endpoint(r, said->mirror, err) : 0;
	if (q == 0)
		q = open_endpoint(r, ref->host, err);
	if (q < 0)
		return q;
	*ret = TAKE_PTR(r);
	return 0;
}

void registry_freep(struct registry **p)
{
	if (!*p)
		return;
	for (size_t i = 0; i < (*p)->n; i++) {
		struct registry_endpoint *e = &(*p)->endpoints[i];
		auth_freep(&e->auth);
		free(e->host);
		free(e->base);
	}
	free(*p);
}

/* ---- asking ---- */

void registry_ask_done(struct registry_ask *a)
{
	if (a->sent)
		explicit_bzero(a->sent, strlen(a->sent));
	free(TAKE_PTR(a->sent));
}

int registry_authorize(
	void *arg, bool challenged, const char *challenge, char **ret, struct banger_error *err)
{
	struct registry_ask *a = arg;
	struct auth *auth = a->endpoint->auth;
	char *sent = NULL;

	int r = challenged ? auth_answer(auth, a->url, challenge, a->sent, &sent, err)
			   : auth_current(auth, &sent, err);
	if (r < 0)
		return r;
	registry_ask_done(a);
	a->sent = sent;
	*ret = sent ? strdup(sent) : NULL;
	return sent && !*ret ? banger_error_oom(err) : 0;
}

char *registry_url(const struct registry_endpoint *e, const char *kind, const char *name)
{
	char *url = NULL;

	return asprintf(&url, "%s/%s/%s", e->base, kind, name) < 0 ? NULL : url;
}

bool registry_next(struct registry *r, size_t i, const struct banger_error *why)
{
	if (i + 1 == r->n || why->code == BANGER_CANCELLED || why->code == BANGER_NO_SPACE)
		return false;
	if (why->code != BANGER_NOT_FOUND && !atomic_exchange(&r->endpoints[i].dead, true))
		log_warn("a mirror is of no use; its registry is asked instead",
			KV_S("mirror", r->endpoints[i].host), KV_ERR(why));
	return true;
}

/* GET of BASE/KIND/NAME into memory, from one endpoint. */
static int get(struct registry *r, struct registry_endpoint *e, const char *kind, const char *name,
	int64_t limit, struct http_response *ret, struct banger_error *err)
{
	_cleanup_http_response_ struct http_response a = {0};
	_cleanup_free_ char *url = registry_url(e, kind, name);
	_cleanup_(registry_ask_done) struct registry_ask ask = {.endpoint = e, .url = url};
	bool manifest = strcmp(kind, "manifests") == 0;

	if (!url)
		return banger_error_oom(err);
	const struct fetch f = {.http = r->http,
		.config = r->config,
		.cancel_fd = r->cancel_fd,
		.authorize = registry_authorize,
		.arg = &ask};
	const struct http_request q = {.url = url,
		.headers = manifest ? manifest_headers : NULL,
		.limit = limit,
		.cancel_fd = r->cancel_fd};
	int n = fetch_request(&f, &q, &a, err);
	if (n < 0)
		return n;
	if (a.status != 200)
		return fetch_status_error(url, &a, err);
	*ret = a;
	a = (struct http_response){0};
	return 0;
}

static int refuse(const struct registry *r, enum banger_code code, const char *name,
	const char *what, struct banger_error *err)
{
	return banger_error_set(
		err, code, "%s of %s/%s: %s", name, r->ref->host, r->ref->repository, what);
}

static int check_content(const struct registry *r, const char *name, const char *digest,
	const struct pull_descriptor *d, const struct http_response *a, struct banger_error *err)
{
	char text[200];

	if (d && (int64_t)a->len != d->size) {
		snprintf(text, sizeof(text), "it has %zu bytes, and its descriptor says %lld",
			a->len, (long long)d->size);
		return refuse(r, BANGER_CORRUPT, name, text, err);
	}
	if (digest && !pull_digest_matches(digest, a->body, a->len))
		return refuse(
			r, BANGER_CORRUPT, name, "the content is not what its digest says", err);
	return 0;
}

/* One endpoint's answer, checked. digest: NULL when a tag is asked for. */
static int get_checked(struct registry *r, size_t i, const char *kind, const char *name,
	const char *digest, const struct pull_descriptor *d, struct http_response *ret,
	struct banger_error *err)
{
	int64_t limit = d ? d->size : PULL_DOCUMENT_MAX;
	int n = get(r, &r->endpoints[i], kind, name, limit, ret, err);

	if (n < 0) {
		banger_error_prefix(err, "%s of %s/%s", name, r->ref->host, r->ref->repository);
		return n;
	}
	n = check_content(r, name, digest, d, ret, err);
	if (n == 0 && !digest && ret->digest && pull_digest_valid(ret->digest) &&
		!pull_digest_matches(ret->digest, ret->body, ret->len))
		n = refuse(r, BANGER_CORRUPT, name,
			"the content is not what the registry says its digest is", err);
	if (n < 0)
		http_response_done(ret);
	return n;
}

static int get_somewhere(struct registry *r, const char *kind, const char *name, const char *digest,
	const struct pull_descriptor *d, struct http_response *ret, struct banger_error *err)
{
	struct banger_error why = {0};
	int n = 0;

	if (d && d->size > PULL_DOCUMENT_MAX) {
		char text[100];
		snprintf(text, sizeof(text),
			"%lld bytes are more than the %d that a document may have",
			(long long)d->size, PULL_DOCUMENT_MAX);
		return refuse(r, BANGER_TOO_LARGE, name, text, err);
	}
	for (size_t i = 0; i < r->n; i++) {
		if (atomic_load(&r->endpoints[i].dead))
			continue;
		n = get_checked(r, i, kind, name, digest, d, ret, &why);
		if (n == 0)
			return 0;
		if (!registry_next(r, i, &why))
			break;
	}
	if (err)
		*err = why;
	return n;
}

/* Types that servers of files give to everything say nothing. */
static void media_type_of(const struct http_response *a, char ret[160])
{
	static const char *const nothing[] = {"application/json", "application/octet-stream",
		"binary/octet-stream", "text/plain", "text/html"};
	const char *type = a->content_type ?: "";

	for (size_t i = 0; i < ELEMENTSOF(nothing); i++)
		if (strcasecmp(type, nothing[i]) == 0)
			type = "";
	snprintf(ret, 160, "%s", strlen(type) < 160 ? type : "");
}

static int digest_of(const struct http_response *a, const char *like, char ret[PULL_DIGEST_MAX],
	struct banger_error *err)
{
	_cleanup_pull_hash_ struct pull_hash *h = NULL;

	int n = pull_hash_new(like, &h, err);
	if (n < 0)
		return n;
	pull_hash_update(h, a->body, a->len);
	pull_hash_end(h, ret);
	return 0;
}

int registry_manifest(struct registry *r, const char *what,
	const struct pull_descriptor *descriptor, char **ret_text, size_t *ret_len,
	char ret_media_type[160], char ret_digest[PULL_DIGEST_MAX], struct banger_error *err)
{
	static const char sha256[] =
		"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
	_cleanup_http_response_ struct http_response a = {0};
	char found[PULL_DIGEST_MAX];
	const char *name = what ?: descriptor ? descriptor->digest
			   : r->ref->digest[0] ? r->ref->digest
					       : r->ref->tag ?: "latest";
	const char *digest = strchr(name, ':') ? name : NULL;

	if (digest) {
		int n = pull_digest_check("the digest of a manifest", digest, err);
		if (n < 0)
			return n;
	}
	int n = get_somewhere(r, "manifests", name, digest, descriptor, &a, err);
	if (n == 0)
		n = digest_of(&a, digest ?: sha256, found, err);
	if (n < 0)
		return n;
	media_type_of(&a, ret_media_type);
	memcpy(ret_digest, found, sizeof(found));
	*ret_text = TAKE_PTR(a.body);
	*ret_len = a.len;
	return 0;
}

int registry_document(struct registry *r, const struct pull_descriptor *d, char **ret_text,
	size_t *ret_len, struct banger_error *err)
{
	_cleanup_http_response_ struct http_response a = {0};

	int n = pull_digest_check("the digest of a configuration", d->digest, err);
	if (n == 0)
		n = get_somewhere(r, "blobs", d->digest, d->digest, d, &a, err);
	if (n < 0)
		return n;
	*ret_text = TAKE_PTR(a.body);
	*ret_len = a.len;
	return 0;
}
