/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Showing a registry who asks: its challenges (RFC 9110, WWW-Authenticate), the token flow (distribution spec,
 * "Token Authentication" and "OAuth2 Token Authentication"), and the credentials that people have
 * (containers-auth.json(5), Docker's config.json, docker-credential-helpers).
 *
 * Who gets the credentials of a registry:
 *	the registry itself, when it asks for Basic, at the origin that asked;
 *	its token realm: for a registry over https any https URL (as every client must: auth.docker.io);
 *	for one over plain HTTP only a realm on the same host, or, when the registry is on a loopback
 *	address, on a loopback address too. Never a realm with less protection than the registry has.
 * Otherwise the pull is refused with DENIED and nothing is sent. Without credentials a realm elsewhere is asked
 * anonymously (but never over plain HTTP by a registry over https).
 */
#ifndef BANGER_PULL_AUTH_H
#define BANGER_PULL_AUTH_H

#include "pull/http.h"

/* ---- challenges (challenge.c) ---- */

struct auth_challenge {
	enum { AUTH_OTHER, AUTH_BASIC, AUTH_BEARER } scheme;
	char *realm, *service, *scope; /* NULL: not said */
};
/* All challenges in the values of WWW-Authenticate headers, joined by '\n'. What cannot be read ends the list;
 * at most AUTH_CHALLENGES_MAX. Returns the number, or -ENOMEM. */
#define AUTH_CHALLENGES_MAX 8
int auth_challenges_parse(const char *text, struct auth_challenge ret[AUTH_CHALLENGES_MAX]);
void auth_challenge_done(struct auth_challenge *c);

/* ---- credentials (credentials.c) ---- */

struct auth_credentials {
	char *user, *password; /* NULL: none */
	char *identity_token;  /* to be exchanged for tokens; NULL: none */
	char *registry_token;  /* a token ready for use; NULL: none */
	char *source;          /* for messages: a path, a helper's name */
};
void auth_credentials_done(struct auth_credentials *c);
#define _cleanup_auth_credentials_ _cleanup_(auth_credentials_done)
/*
 * What this user has for HOST (as in a reference) and repository. 1: found; 0: nothing. Looked at in this order, the
 * first that has something counts: $REGISTRY_AUTH_FILE (then no other), $XDG_RUNTIME_DIR/containers/auth.json,
 * $XDG_CONFIG_HOME (~/.config)/containers/auth.json, $DOCKER_CONFIG (~/.docker)/config.json. In a file:
 * credHelpers of the host, then "auths" from HOST/REPOSITORY up to HOST, then credsStore. Blocks for as long as
 * a helper runs, at most 10 s. BAD_REQUEST: a file that cannot be understood; DENIED: a helper that failed; TIMEOUT.
 */
int auth_credentials_find(const char *host, const char *repository, int cancel_fd,
	struct auth_credentials *ret, struct banger_error *err);

/* ---- tokens (token.c) ---- */

struct auth_token_request {
	struct http *http;
	const char *registry_url; /* whose challenge it is */
	const char *registry;     /* its host, for messages */
	const struct auth_challenge *challenge;
	const char *repository;                     /* for the scope, when the challenge has none */
	const struct auth_credentials *credentials; /* NULL: none */
	int cancel_fd;
	const struct banger_config *config;
};
struct auth_token {
	char *text;
	int64_t expires_us; /* monotonic */
};
/* DENIED: the realm says no, or it must not be asked. UNAVAILABLE, TIMEOUT, CANCELLED. */
int auth_token_fetch(
	const struct auth_token_request *q, struct auth_token *ret, struct banger_error *err);
/* May the credentials of a registry go to this realm? DENIED says why not. */
int auth_realm_check(
	const char *registry_url, const char *realm, bool credentials, struct banger_error *err);

/* ---- one repository of one registry (auth.c); any thread ---- */

struct auth;
int auth_new(struct http *http, const struct banger_config *config, const char *host,
	const char *repository, int cancel_fd, struct auth **ret, struct banger_error *err);
void auth_freep(struct auth **a);
/* The Authorization to send with the next request: NULL when none is known to be needed. Renews a token that is
 * about to expire. *ret is the caller's. */
int auth_current(struct auth *a, char **ret, struct banger_error *err);
/* A 401 came from url to a request with `sent` (NULL: none) and had this challenge (NULL: none). A new one to
 * send, or DENIED. */
int auth_answer(struct auth *a, const char *url, const char *challenge, const char *sent,
	char **ret, struct banger_error *err);

/* Base64 (RFC 4648, padding optional) both ways; NULL: no memory, or not such a text. Zeroed by nobody. */
char *auth_base64(const char *s, size_t len);
char *auth_unbase64(const char *s, size_t *ret_len);

#endif
