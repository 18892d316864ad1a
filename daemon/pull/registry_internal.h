/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of a registry: the hosts that are asked for one repository. A mirror that is configured comes
 * first and the registry itself after it; each has its own base URL and its own authorization.
 */
#ifndef BANGER_PULL_REGISTRY_INTERNAL_H
#define BANGER_PULL_REGISTRY_INTERNAL_H

#include <stdatomic.h>
#include "pull/auth.h"
#include "pull/fetch.h"
#include "pull/registry.h"

#define REGISTRY_ENDPOINTS 2

struct registry_endpoint {
	char *host; /* as configured and as credentials know it */
	char *base; /* "https://registry-1.docker.io/v2/library/debian" */
	struct auth *auth;
	atomic_bool dead; /* a mirror that failed is not asked again */
};

struct registry {
	struct http *http;
	const struct banger_config *config;
	const struct pull_reference *ref;
	int cancel_fd;
	struct registry_endpoint endpoints[REGISTRY_ENDPOINTS];
	size_t n;
};

/* One request's authorization: what it last sent is needed to answer a challenge. */
struct registry_ask {
	struct registry_endpoint *endpoint;
	const char *url;
	char *sent;
};
void registry_ask_done(struct registry_ask *a);
int registry_authorize(
	void *ask, bool challenged, const char *challenge, char **ret, struct banger_error *err);

/* BASE/KIND/NAME: "manifests" or "blobs". NULL: no memory. */
char *registry_url(const struct registry_endpoint *e, const char *kind, const char *name);
/* Shall the next endpoint be asked after this error? Notes a mirror that is of no use. */
bool registry_next(struct registry *r, size_t i, const struct banger_error *why);

#endif
