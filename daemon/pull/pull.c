/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One pull from end to end, on the thread that asked for it.
 *
 * Resolving (resolve.c) gives the layers. Then a team of fetchers (layers.c) brings the blobs, lowest
 * first, while this thread runs banger-unpack and tells it how far each blob has come. Whoever fails
 * first stops the other: a fetcher's failure comes back through `available`, a failure of
 * banger-unpack makes the fetchers' stop descriptor readable. At the end all blobs must be whole:
 * banger-unpack may have seen the end of an archive before the digest of its blob was known.
 *
 * What was made is nothing before the caller publishes it, so a pull has nothing to clean up but its
 * threads and its uses of blobs.
 */
#include "pull/pull.h"

#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <banger/log.h>
#include "pull/engine.h"
#include "pull/layers.h"
#include "pull/resolve.h"
#include "unpack/run.h"

#define PROGRESS_US 250000

const char *pull_layer_state_name(enum pull_layer_state s)
{
	static const char *const names[] = {"waiting", "fetching", "held", "fetched", "reused"};

	return names[s];
}

struct pull {
	struct pull_engine *e;
	const struct pull_request *q;
	struct pull_image image;
	struct layers *layers;
	int stop_fd;   /* eventfd: this pull is over */
	int cancel_fd; /* epoll: readable when q->cancel_fd or stop_fd is */
	struct pull_progress_layer *shown;
	struct pull_progress progress;
	int64_t told_us;
};

static void pull_done(struct pull *p)
{
	if (p->stop_fd >= 0)
		eventfd_write(p->stop_fd, 1);
	layers_freep(&p->layers);
	pull_image_done(&p->image);
	free(p->shown);
	banger_closep(&p->cancel_fd);
	banger_closep(&p->stop_fd);
}
#define _cleanup_pull_ _cleanup_(pull_done)

/* ---- descriptors */

static int make_fds(struct pull *p, struct banger_error *err)
{
	struct epoll_event in = {.events = EPOLLIN};

	p->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	p->cancel_fd = epoll_create1(EPOLL_CLOEXEC);
	if (p->stop_fd < 0 || p->cancel_fd < 0 ||
		epoll_ctl(p->cancel_fd, EPOLL_CTL_ADD, p->stop_fd, &in) < 0 ||
		(p->q->cancel_fd >= 0 &&
			epoll_ctl(p->cancel_fd, EPOLL_CTL_ADD, p->q->cancel_fd, &in) < 0))
		return banger_error_set_errno(err, errno, "cannot begin a pull");
	return 0;
}

/* ---- progress */

static void tell(struct pull *p, const char *phase, bool now)
{
	int64_t t = banger_monotonic_us();

	if (!p->q->progress || (!now && t - p->told_us < PROGRESS_US))
		return;
	p->told_us = t;
	p->progress.phase = phase;
	if (p->layers) {
		p->progress.n_layers = p->image.n_layers;
		p->progress.layers = p->shown;
		layers_progress(p->layers, p->shown);
	}
	p->q->progress(p->q->arg, &p->progress);
}

static void on_unpacked(void *arg, const struct unpack_progress *u)
{
	struct pull *p = arg;

	p->progress.read = u->read;
	p->progress.members = u->members;
	p->progress.content = u->content;
	tell(p, "unpacking", false);
}

static int64_t on_available(void *arg, size_t layer, struct banger_error *err)
{
	struct pull *p = arg;

	tell(p, "unpacking", false);
	return layers_available(p->layers, layer, err);
}

/* ---- the work */

static int resolve(struct pull *p, struct banger_error *err)
{
	const struct resolve_options o = {.engine = p->e,
		.reference = p->q->reference,
		.platform = p->q->platform,
		.layouts = p->q->layouts,
		.cancel_fd = p->cancel_fd};

	tell(p, "resolving", true);
	int r = resolve_image(&o, &p->image, err);
	if (r < 0)
		return r;
	p->progress.digest = p->image.manifest;
	p->shown = calloc(p->image.n_layers + 1, sizeof(*p->shown));
	return p->shown ? 0 : banger_error_oom(err);
}

/* The digest's bytes: UUID and hash seed of the filesystem come from them. */
static void take_seed(const char *digest, uint8_t seed[32])
{
	const char *hex = strchr(digest, ':') + 1;

	for (int i = 0; i < 32; i++) {
		char two[3] = {hex[2 * i], hex[2 * i + 1], 0};
		seed[i] = (uint8_t)strtoul(two, NULL, 16);
	}
}

static int unpack(struct pull *p, struct pull_result *ret, struct banger_error *err)
{
	size_t n = p->image.n_layers;
	_cleanup_free_ struct unpack_layer *list = calloc(n + 1, sizeof(*list));
	struct unpack_result result;
	uint8_t seed[32];

	if (!list)
		return banger_error_oom(err);
	for (size_t i = 0; i < n; i++)
		layers_describe(p->layers, i, &list[i]);
	take_seed(p->image.manifest, seed);
	const struct banger_config *config = p->e->config;
	const struct unpack_options o = {
		.tar_fd = -1,
		.layers = list,
		.n_layers = n,
		.notify_fd = layers_notify_fd(p->layers),
		.available = on_available,
		.mountpoints = true,
		.out_fd = p->q->rootfs_fd,
		.seed_fd = p->q->seed_fd,
		.seed_path = p->image.config.home,
		.cancel_fd = p->q->cancel_fd,
		.headroom = config->headroom,
		.headroom_percent = (int)config->headroom_percent,
		.seed = seed,
		.time = p->image.config.created > 0 ? p->image.config.created : 1,
		.progress = on_unpacked,
		.arg = p,
	};
	int r = unpack_run(config, &o, &result, err);
	if (r < 0)
		return r;
	ret->size = result.size;
	ret->seed = p->q->seed_fd >= 0;
	return 0;
}

static int fill_result(struct pull *p, struct pull_result *ret, struct banger_error *err)
{
	const struct pull_image *i = &p->image;

	if (asprintf(&ret->source, "%s%s%s", i->text, i->text_has_digest ? "" : "@",
		    i->text_has_digest ? "" : i->top) < 0) {
		ret->source = NULL;
		return banger_error_oom(err);
	}
	strcpy(ret->manifest, i->manifest);
	ret->layers = i->n_layers;
	ret->fetched = layers_fetched(p->layers);
	ret->config = TAKE_PTR(p->image.config.config);
	ret->home = TAKE_PTR(p->image.config.home);
	return 0;
}

static int run(struct pull *p, struct pull_result *ret, struct banger_error *err)
{
	int r = make_fds(p, err);

	if (r == 0)
		r = resolve(p, err);
	if (r == 0)
		r = layers_new(p->e, &p->image, p->cancel_fd, &p->layers, err);
	if (r == 0)
		r = layers_start(p->layers, err);
	if (r < 0)
		return r;
	tell(p, "fetching", true);
	r = unpack(p, ret, err);
	if (r < 0) {
		/* A fetcher's failure, if there was one, is the cause of the other's. */
		struct banger_error why = {0};
		if (err->code != BANGER_CANCELLED && layers_failure(p->layers, &why) < 0)
			*err = why;
		return r;
	}
	tell(p, "finishing", true);
	r = layers_wait(p->layers, p->cancel_fd, err);
	return r < 0 ? r : fill_result(p, ret, err);
}

int pull_run(struct pull_engine *e, const struct pull_request *q, struct pull_result *ret,
	struct banger_error *err)
{
	_cleanup_pull_ struct pull p = {
		.e = e, .q = q, .stop_fd = -1, .cancel_fd = -1, .progress = {.digest = ""}};
	struct pull_result result = {0};
	int64_t started = banger_monotonic_us();
	int r = run(&p, &result, err);

	if (r < 0) {
		pull_result_done(&result);
		banger_error_prefix(err, "pulling %s", q->reference);
		return r;
	}
	log_info("pulled", KV_S("source", result.source), KV_S("manifest", result.manifest),
		KV_I("layers", result.layers), KV_I("reused", result.reused),
		KV_I("fetched", result.fetched), KV_I("size", result.size),
		KV_D("elapsed_ms", (double)(banger_monotonic_us() - started) / 1000));
	*ret = result;
	return 0;
}

void pull_result_done(struct pull_result *r)
{
	free(r->source);
	free(r->config);
	free(r->home);
	*r = (struct pull_result){0};
}
