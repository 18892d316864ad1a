/* SPDX-License-Identifier: Apache-2.0 */
/*
 * STATE_DIR/cache holds what can be had again: blobs/ (blobs.h), flat/ (flat.h), catalogs/ (catalog.h).
 * Whoever removes all of it while the daemon is down loses nothing but time.
 */
#include "pull/engine.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <banger/log.h>
#include "pull/flat.h"
#include "pull/settings.h"

int pull_engine_new(const struct banger_config *config, int state_dir_fd, struct pull_engine **ret,
	struct banger_error *err)
{
	struct pull_engine *e = calloc(1, sizeof(*e));

	if (!e)
		return banger_error_oom(err);
	e->config = config;
	e->cache_fd = -1;
	int r = pull_settings_check(config, err);
	if (r == 0) {
		if (mkdirat(state_dir_fd, "cache", 0700) == 0 || errno == EEXIST)
			e->cache_fd = openat(state_dir_fd, "cache",
				O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (e->cache_fd < 0)
			r = banger_error_set_errno(err, errno, "cannot open the cache");
	}
	if (r == 0)
		r = blobs_new(e->cache_fd, &e->blobs, err);
	if (r == 0)
		r = flat_new(e->cache_fd, &e->flat, err);
	if (r == 0)
		r = http_new(config, &e->http, err);
	if (r < 0) {
		pull_engine_freep(&e);
		return r;
	}
	*ret = e;
	return 0;
}

void pull_engine_freep(struct pull_engine **p)
{
	struct pull_engine *e = *p;

	if (!e)
		return;
	http_freep(&e->http);
	flat_freep(&e->flat);
	blobs_freep(&e->blobs);
	banger_closep(&e->cache_fd);
	free(e);
	*p = NULL;
}

struct blobs *pull_engine_blobs(struct pull_engine *e)
{
	return e->blobs;
}

struct http *pull_engine_http(struct pull_engine *e)
{
	return e->http;
}

struct flat_cache *pull_engine_flat(struct pull_engine *e)
{
	return e->flat;
}

void pull_engine_trim(struct pull_engine *e)
{
	struct banger_error err = {0};
	struct flat_usage flat = {0}, gone_flat = {0};
	struct blobs_usage gone = {0};

	/* What is unpacked has up to half of the room, blobs have the rest. */
	int r = flat_prune(e->flat, e->config->cache_max / 2, false, &gone_flat, &err);
	if (r == 0)
		r = flat_usage(e->flat, &flat, &err);
	if (r == 0)
		r = blobs_prune(e->blobs, e->config->cache_max - flat.bytes, &gone, &err);
	if (r < 0)
		log_warn("the cache cannot be trimmed", KV_ERR(&err));
	else if (gone.bytes || gone.partial_bytes || gone_flat.bytes)
		log_info("the cache was trimmed", KV_I("blobs", gone.blobs + gone.partials),
			KV_I("unpacked", gone_flat.entries),
			KV_I("bytes", gone.bytes + gone.partial_bytes + gone_flat.bytes));
}
