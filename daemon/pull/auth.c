/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a pull knows of a registry's wishes. At first nothing: the first request goes out bare, and its
 * 401 says what is wanted. The answer (a token, or Basic) is then sent with every request, also of the
 * layers that are fetched side by side; who gets a 401 although somebody else has renewed the token
 * meanwhile just takes the new one. Each way is tried once with what is fresh: a registry that says 401 to that
 * means it.
 *
 * The lock is held while a token is fetched: whoever comes meanwhile wants the same one.
 */
#include <pthread.h>
#include <string.h>
#include <banger/log.h>
#include "pull/auth.h"

struct auth {
	struct http *http;
	const struct banger_config *config;
	int cancel_fd;
	char *host, *repository;

	pthread_mutex_t lock;
	bool looked; /* for credentials */
	bool have;
	struct auth_credentials credentials;
	char *url;                       /* whose challenge it was */
	struct auth_challenge challenge; /* the last one that was answered */
	char *authorization;
	int64_t expires_us; /* of a token; 0: never */
};

int auth_new(struct http *http, const struct banger_config *config, const char *host,
	const char *repository, int cancel_fd, struct auth **ret, struct banger_error *err)
{
	_cleanup_(auth_freep) struct auth *a = calloc(1, sizeof(*a));

	if (!a)
		return banger_error_oom(err);
	pthread_mutex_init(&a->lock, NULL);
	a->http = http;
	a->config = config;
	a->cancel_fd = cancel_fd;
	a->host = strdup(host);
	a->repository = strdup(repository);
	if (!a->host || !a->repository)
		return banger_error_oom(err);
	*ret = TAKE_PTR(a);
	return 0;
}

static void forget(struct auth *a)
{
	if (a->authorization)
		explicit_bzero(a->authorization, strlen(a->authorization));
	free(TAKE_PTR(a->authorization));
	a->expires_us = 0;
}

void auth_freep(struct auth **p)
{
	struct auth *a = *p;

	if (!a)
		return;
	forget(a);
	auth_credentials_done(&a->credentials);
	auth_challenge_done(&a->challenge);
	pthread_mutex_destroy(&a->lock);
	free(a->host);
	free(a->repository);
	free(a->url);
	free(a);
}

static int look_for_credentials(struct auth *a, struct banger_error *err)
{
	if (a->looked)
		return 0;
	int r = auth_credentials_find(a->host, a->repository, a->cancel_fd, &a->credentials, err);
	if (r < 0)
		return r;
	a->have = r > 0;
	a->looked = true;
	return 0;
}

static int set_authorization(
	struct auth *a, const char *scheme, const char *value, struct banger_error *err)
{
	forget(a);
	if (asprintf(&a->authorization, "%s %s", scheme, value) < 0) {
		a->authorization = NULL;
		return banger_error_oom(err);
	}
	return 0;
}

static int denied(const struct auth *a, struct banger_error *err)
{
	if (a->have)
		return banger_error_set(err, BANGER_DENIED,
			"the registry %s does not let the credentials in %s read %s", a->host,
			a->credentials.source, a->repository);
	return banger_error_set(err, BANGER_DENIED,
		"the registry %s wants credentials for %s, and there are none (or there is no such "
		"repository)",
		a->host, a->repository);
}

static int use_basic(struct auth *a, struct banger_error *err)
{
	_cleanup_free_ char *pair = NULL, *encoded = NULL;

	if (!a->have || !a->credentials.user)
		return denied(a, err);
	if (asprintf(&pair, "%s:%s", a->credentials.user, a->credentials.password) < 0) {
		pair = NULL;
		return banger_error_oom(err);
	}
	encoded = auth_base64(pair, strlen(pair));
	explicit_bzero(pair, strlen(pair));
	if (!encoded)
		return banger_error_oom(err);
	int r = set_authorization(a, "Basic", encoded, err);
	explicit_bzero(encoded, strlen(encoded));
	return r;
}

/* A token in a file is put into a header as it is. */
static bool printable(const char *s)
{
	for (; *s; s++)
		if (*s <= ' ' || *s > '~')
			return false;
	return true;
}

static int use_token(struct auth *a, struct banger_error *err)
{
	struct auth_token token = {0};
	const struct auth_token_request q = {.http = a->http,
		.registry_url = a->url,
		.registry = a->host,
		.challenge = &a->challenge,
		.repository = a->repository,
		.credentials = a->have ? &a->credentials : NULL,
		.cancel_fd = a->cancel_fd,
		.config = a->config};

	if (a->have && a->credentials.registry_token) {
		if (!printable(a->credentials.registry_token))
			return banger_error_set(err, BANGER_BAD_REQUEST,
				"the credentials in %s: the token has characters that none has",
				a->credentials.source);
		return set_authorization(a, "Bearer", a->credentials.registry_token, err);
	}
	int r = auth_token_fetch(&q, &token, err);
	if (r < 0)
		return r;
	r = set_authorization(a, "Bearer", token.text, err);
	explicit_bzero(token.text, strlen(token.text));
	free(token.text);
	a->expires_us = token.expires_us;
	return r;
}

static int obtain(struct auth *a, struct banger_error *err)
{
	int r = look_for_credentials(a, err);

	if (r < 0)
		return r;
	return a->challenge.scheme == AUTH_BEARER ? use_token(a, err) : use_basic(a, err);
}

static int give(const struct auth *a, char **ret, struct banger_error *err)
{
	*ret = a->authorization ? strdup(a->authorization) : NULL;
	return a->authorization && !*ret ? banger_error_oom(err) : 0;
}

int auth_current(struct auth *a, char **ret, struct banger_error *err)
{
	int r = 0;

	pthread_mutex_lock(&a->lock);
	if (a->authorization && a->expires_us && a->expires_us < banger_monotonic_us())
		r = obtain(a, err);
	if (r == 0)
		r = give(a, ret, err);
	pthread_mutex_unlock(&a->lock);
	return r;
}

/* Bearer before Basic: it tells the password to nobody but the realm. */
static int choose(struct auth *a, const char *url, const char *text, struct banger_error *err)
{
	struct auth_challenge list[AUTH_CHALLENGES_MAX];
	int n = text ? auth_challenges_parse(text, list) : 0, best = -1;

	if (n < 0)
		return banger_error_oom(err);
	for (int i = 0; i < n; i++)
		if (list[i].scheme != AUTH_OTHER &&
			(best < 0 || list[i].scheme > list[best].scheme))
			best = i;
	if (best >= 0) {
		auth_challenge_done(&a->challenge);
		a->challenge = list[best];
		list[best] = (struct auth_challenge){0};
	}
	for (int i = 0; i < n; i++)
		auth_challenge_done(&list[i]);
	if (best < 0)
		return banger_error_set(err, BANGER_DENIED,
			"the registry %s says 401 but asks for nothing that banger can give "
			"(Bearer "
			"or Basic)",
			a->host);
	free(a->url);
	a->url = strdup(url);
	return a->url ? 0 : banger_error_oom(err);
}

int auth_answer(struct auth *a, const char *url, const char *challenge, const char *sent,
	char **ret, struct banger_error *err)
{
	int r = 0;

	pthread_mutex_lock(&a->lock);
	/* Somebody has got another one since. */
	bool newer = a->authorization && (!sent || strcmp(sent, a->authorization) != 0);
	if (!newer) {
		bool basic = sent && strncmp(sent, "Basic ", 6) == 0;
		r = choose(a, url, challenge, err);
		if (r == 0 && basic && a->challenge.scheme == AUTH_BASIC)
			r = denied(a, err);
		if (r == 0)
			r = obtain(a, err);
	}
	if (r == 0)
		r = give(a, ret, err);
	pthread_mutex_unlock(&a->lock);
	return r;
}
