/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A layer from a registry into the cache. A mirror's partial blob is gone on with at the registry: the
 * bytes are the same, or the digest tells.
 *
 * Layers that only name URLs elsewhere ("foreign" ones, which licences forbade to redistribute) are asked for
 * like others, for many registries have them all the same. When this one has not, they are not fetched from
 * those URLs, which whoever made the manifest chose.
 */
#include <string.h>
#include "pull/registry_internal.h"

static int fetch_from(struct registry *r, size_t i, const struct pull_descriptor *d, struct blob *b,
	struct banger_error *err)
{
	struct registry_endpoint *e = &r->endpoints[i];
	_cleanup_free_ char *url = registry_url(e, "blobs", d->digest), *what = NULL;
	_cleanup_(registry_ask_done) struct registry_ask ask = {.endpoint = e, .url = url};

	if (!url)
		return banger_error_oom(err);
	if (asprintf(&what, "layer %s of %s/%s", d->digest, r->ref->host, r->ref->repository) < 0) {
		what = NULL;
		return banger_error_oom(err);
	}
	const struct fetch f = {.http = r->http,
		.config = r->config,
		.url = url,
		.cancel_fd = r->cancel_fd,
		.what = what,
		.authorize = registry_authorize,
		.arg = &ask};
	return fetch_blob_from(&f, b, err);
}

static int foreign(
	const struct registry *r, const struct pull_descriptor *d, struct banger_error *why)
{
	char list[600] = "", shown[300];
	size_t len = 0;

	for (char **u = d->urls; *u && len < sizeof(list); u++)
		len += (size_t)snprintf(list + len, sizeof(list) - len, "%s%s", len ? ", " : "",
			http_url_text(*u, shown, sizeof(shown)));
	return banger_error_set(why, BANGER_UNSUPPORTED,
		"layer %.136s is not in %.100s/%.100s, only at %s, and banger does not fetch "
		"layers from outside "
		"their registry",
		d->digest, r->ref->host, r->ref->repository, list);
}

int registry_blob(struct registry *r, const struct pull_descriptor *d, struct blob *b,
	struct banger_error *err)
{
	struct banger_error why = {0};
	int n = pull_digest_check("the digest of a layer", d->digest, &why);

	for (size_t i = 0; n == 0 && i < r->n; i++) {
		if (atomic_load(&r->endpoints[i].dead))
			continue;
		n = fetch_from(r, i, d, b, &why);
		if (n == 0)
			return 0;
		if (!registry_next(r, i, &why))
			break;
		n = 0;
	}
	if (why.code == BANGER_NOT_FOUND && d->urls && d->urls[0])
		n = foreign(r, d, &why);
	blob_abandon(b, &why);
	if (err)
		*err = why;
	return n;
}
