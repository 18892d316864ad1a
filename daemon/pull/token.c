/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Asking a token server. With a user and a password, or nothing: GET REALM?service=…&scope=…, the former as
 * Basic; with an identity token: POST to the realm, as OAuth 2 refreshes. The answer is a stranger's too: what
 * it calls a token must look like one before it is put into a header.
 *
 * The scope is the one that the challenge names, but only with the right to pull: banger needs no other, and a
 * token that cannot push is worth less to whoever steals it.
 */
#include <string.h>
#include <strings.h>
#include <banger/log.h>
#include <banger/wire.h>
#include "pull/auth.h"
#include "pull/fetch.h"
#include "pull/settings.h"

enum {
	ANSWER_MAX = 256 * 1024,
	TOKEN_MAX = 64 * 1024,
	LIFE_DEFAULT_S = 60, /* of a token that does not say: as the specification has it */
	LIFE_MAX_S = 3600,
	MARGIN_S = 10,
};

/* The host of HOST[:PORT], brackets and all. */
static size_t name_length(const char *host)
{
	return host[0] == '[' ? strcspn(host, "]") : strcspn(host, ":");
}

static bool same_name(const char *a, const char *b)
{
	return name_length(a) == name_length(b) && strncmp(a, b, name_length(a)) == 0;
}

int auth_realm_check(
	const char *registry_url, const char *realm, bool credentials, struct banger_error *err)
{
	_cleanup_free_ char *registry_host = NULL, *realm_host = NULL;
	bool registry_tls, realm_tls;
	char text[512];

	int r = http_url_split(registry_url, &registry_tls, &registry_host, err);
	if (r < 0)
		return r;
	r = http_url_split(realm, &realm_tls, &realm_host, err);
	if (r < 0) {
		banger_error_prefix(err, "the registry's token realm");
		return r;
	}
	http_url_text(realm, text, sizeof(text));
	bool loopback = pull_host_loopback(registry_host) && pull_host_loopback(realm_host);
	if (registry_tls && !realm_tls && !loopback)
		return banger_error_set(err, BANGER_DENIED,
			"the registry %s is asked over https, but wants a token from %s, over "
			"plain "
			"HTTP: refused",
			registry_host, text);
	if (registry_tls || !credentials || loopback || same_name(registry_host, realm_host))
		return 0;
	return banger_error_set(err, BANGER_DENIED,
		"the registry %s is asked over plain HTTP and wants its credentials sent to "
		"another "
		"host, %s: refused",
		registry_host, text);
}

/* "repository:NAME:ACTIONS" for pulling alone; the challenge's, when it names one repository. */
static char *scope_of(const struct auth_token_request *q)
{
	static const char head[] = "repository:";
	const char *s = q->challenge->scope, *name = q->repository;
	size_t len = strlen(name);
	char *text = NULL;

	if (s && strncmp(s, head, strlen(head)) == 0 && !strchr(s, ' ')) {
		const char *end = strrchr(s, ':');
		if (end > s + strlen(head)) {
			name = s + strlen(head);
			len = (size_t)(end - name);
		}
	}
	return asprintf(&text, "%s%.*s:pull", head, (int)len, name) < 0 ? NULL : text;
}

static bool unreserved(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       (c && strchr("-._~", c));
}

/* Append "name=VALUE" to a query or a form. */
static int add_field(char **to, char joint, const char *name, const char *value)
{
	char *text = malloc(strlen(*to) + strlen(name) + 3 * strlen(value) + 3), *p;

	if (!text)
		return -ENOMEM;
	p = stpcpy(text, *to);
	if (joint)
		*p++ = joint;
	p = stpcpy(p, name);
	*p++ = '=';
	for (; *value; value++) {
		if (unreserved(*value))
			*p++ = *value;
		else
			p += sprintf(p, "%%%02X", (unsigned char)*value);
	}
	*p = '\0';
	free(*to);
	*to = text;
	return 0;
}

static char *basic(const struct auth_credentials *c)
{
	_cleanup_free_ char *pair = NULL, *encoded = NULL;
	char *text = NULL;

	if (asprintf(&pair, "%s:%s", c->user, c->password) < 0) {
		pair = NULL;
		return NULL;
	}
	encoded = auth_base64(pair, strlen(pair));
	explicit_bzero(pair, strlen(pair));
	if (!encoded || asprintf(&text, "Basic %s", encoded) < 0)
		text = NULL;
	return text;
}

/* The URL with its query, or the form of the POST. */
static int build(const struct auth_token_request *q, char **ret_url, char **ret_form)
{
	const struct auth_credentials *c = q->credentials;
	const char *realm = q->challenge->realm;
	size_t len = strcspn(realm, "#");
	_cleanup_free_ char *url = strndup(realm, len), *form = NULL, *scope = scope_of(q);
	int r;

	if (!url || !scope)
		return -ENOMEM;
	if (c && c->identity_token) {
		form = strdup("grant_type=refresh_token&client_id=banger");
		r = form ? add_field(&form, '&', "scope", scope) : -ENOMEM;
		if (r == 0 && q->challenge->service)
			r = add_field(&form, '&', "service", q->challenge->service);
		if (r == 0)
			r = add_field(&form, '&', "refresh_token", c->identity_token);
	} else {
		r = add_field(&url, strchr(url, '?') ? '&' : '?', "scope", scope);
		if (r == 0 && q->challenge->service)
			r = add_field(&url, '&', "service", q->challenge->service);
	}
	if (r < 0)
		return r;
	*ret_url = TAKE_PTR(url);
	*ret_form = TAKE_PTR(form);
	return 0;
}

/* b64token of RFC 6750, and what else is seen in tokens; nothing that could end a header. */
static bool token_valid(const char *s)
{
	size_t n = strlen(s);

	if (n == 0 || n > TOKEN_MAX)
		return false;
	for (const char *p = s; *p; p++)
		if (*p <= ' ' || *p > '~')
			return false;
	return true;
}

static int read_answer(
	const struct http_response *a, struct auth_token *ret, struct banger_error *err)
{
	_cleanup_json_ struct json_object *o = NULL;
	struct auth_token token = {0};

	int r = banger_json_parse(a->body, a->len, &o, err);
	if (r < 0)
		return r;
	const char *text = banger_json_str(o, "token") ?: banger_json_str(o, "access_token");
	if (!text || !token_valid(text))
		return banger_error_set(err, BANGER_DENIED, "the answer has no usable token");
	int64_t life = banger_json_int(o, "expires_in", LIFE_DEFAULT_S);
	life = life < LIFE_DEFAULT_S ? LIFE_DEFAULT_S : life > LIFE_MAX_S ? LIFE_MAX_S : life;
	token.expires_us = banger_monotonic_us() + (life - MARGIN_S) * 1000000;
	token.text = strdup(text);
	if (!token.text)
		return banger_error_oom(err);
	*ret = token;
	return 0;
}

static int ask(const struct auth_token_request *q, const char *url, const char *form,
	struct auth_token *ret, struct banger_error *err)
{
	_cleanup_http_response_ struct http_response a = {0};
	const struct auth_credentials *c = q->credentials;
	_cleanup_free_ char *authorization = NULL;
	char text[512];
	struct http_request hq = {
		.url = url, .post = form, .limit = ANSWER_MAX, .cancel_fd = q->cancel_fd};
	struct fetch f = {.http = q->http, .config = q->config, .cancel_fd = q->cancel_fd};

	if (c && c->user && !form) {
		authorization = basic(c);
		if (!authorization)
			return banger_error_oom(err);
		hq.authorization = authorization;
	}
	int r = fetch_request(&f, &hq, &a, err);
	if (authorization)
		explicit_bzero(authorization, strlen(authorization));
	if (r < 0)
		return r;
	http_url_text(url, text, sizeof(text));
	bool refused = a.status == 400 || a.status == 401 || a.status == 403;
	if (refused && c)
		return banger_error_set(err, BANGER_DENIED,
			"the token server %s does not take the credentials in %s (it answered %ld)",
			text, c->source, a.status);
	if (refused)
		return banger_error_set(err, BANGER_DENIED,
			"the token server %s gives nothing to somebody without credentials, and "
			"there are "
			"none for %s (it answered %ld)",
			text, q->registry, a.status);
	if (a.status != 200)
		return banger_error_set(err, BANGER_UNAVAILABLE, "the token server %s answered %ld",
			text, a.status);
	r = read_answer(&a, ret, err);
	explicit_bzero(a.body, a.len);
	if (r < 0)
		banger_error_prefix(err, "the token server %s", text);
	return r;
}

int auth_token_fetch(
	const struct auth_token_request *q, struct auth_token *ret, struct banger_error *err)
{
	_cleanup_free_ char *url = NULL, *form = NULL;

	if (!q->challenge->realm)
		return banger_error_set(err, BANGER_DENIED,
			"the registry %s wants a token but does not say from where", q->registry);
	int r = auth_realm_check(q->registry_url, q->challenge->realm, q->credentials != NULL, err);
	if (r < 0)
		return r;
	if (build(q, &url, &form) < 0)
		return banger_error_oom(err);
	r = ask(q, url, form, ret, err);
	if (form)
		explicit_bzero(form, strlen(form));
	return r;
}
