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
#include <sys/mman.h>
#include <sys/stat.h>
#include <banger/log.h>
#include "pull/engine.h"
#include "pull/flat.h"
#include "pull/layers.h"
#include "pull/resolve.h"
#include "unpack/run.h"

#define PROGRESS_US 250000
#define ATTEMPTS 4 /* when what was kept turns out to be wrong */

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
	bool reuse;
	struct flat_use use;     /* layers that need not be unpacked again */
	struct flat_entry entry; /* what the next pull may reuse */
	int stop_fd;             /* eventfd: this pull is over */
	int cancel_fd;           /* epoll: readable when q->cancel_fd or stop_fd is */
	struct pull_progress_layer *shown;
	struct pull_progress progress;
	int64_t told_us;
};

/* The fetchers are told to stop, and waited for. */
static void end_attempt(struct pull *p)
{
	eventfd_t value;

	if (p->stop_fd >= 0)
		eventfd_write(p->stop_fd, 1);
	layers_freep(&p->layers);
	if (p->stop_fd >= 0)
		(void)eventfd_read(p->stop_fd, &value);
	flat_entry_done(&p->entry);
	flat_use_done(&p->use);
}

static void pull_done(struct pull *p)
{
	end_attempt(p);
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

/* Unpacked they would be larger still; but for layers that are not compressed, which are as large. */
static int check_sizes(const struct pull_image *i, int64_t max, struct banger_error *err)
{
	int64_t all = 0;

	for (size_t k = 0; k < i->n_layers; k++)
		if (__builtin_add_overflow(all, i->document.items[k].size, &all) || all > max)
			return banger_error_set(err, BANGER_TOO_LARGE,
				"layer %zu of %zu (%s): up to here the layers have more than the "
				"%lld "
				"bytes that they may unpack to (\"unpacked_max\" in the "
				"configuration)",
				k + 1, i->n_layers, i->document.items[k].digest, (long long)max);
	return 0;
}

static int resolve(struct pull *p, struct banger_error *err)
{
	const struct resolve_options o = {.engine = p->e,
		.reference = p->q->reference,
		.platform = p->q->platform,
		.layouts = p->q->layouts,
		.cancel_fd = p->cancel_fd};

	tell(p, "resolving", true);
	int r = resolve_image(&o, &p->image, err);
	if (r == 0 && p->e->config->unpacked_max > 0)
		r = check_sizes(&p->image, p->e->config->unpacked_max, err);
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

static struct unpack_layer *describe(struct pull *p)
{
	struct unpack_layer *list = calloc(p->image.n_layers + 1, sizeof(*list));

	for (size_t i = 0; list && i < p->image.n_layers; i++) {
		layers_describe(p->layers, i, &list[i]);
		if (i < p->use.n)
			list[i].record_in_fd = p->use.record_fds[i];
		else if (p->entry.dir_fd >= 0)
			list[i].record_out_fd = p->entry.record_fds[i];
	}
	return list;
}

static int unpack(struct pull *p, struct pull_result *ret, struct unpack_failure *ret_failure,
	struct banger_error *err)
{
	const struct banger_config *config = p->e->config;
	_cleanup_free_ struct unpack_layer *list = describe(p);
	struct unpack_result result;
	uint8_t seed[32];

	if (!list)
		return banger_error_oom(err);
	/* An image may have no layers: that is one of an empty archive. */
	_cleanup_close_ int empty =
		p->image.n_layers == 0 ? memfd_create("empty", MFD_CLOEXEC) : -1;
	if (p->image.n_layers == 0 && (empty < 0 || ftruncate(empty, 2 * 512) < 0))
		return banger_error_set_errno(err, errno, "cannot make an empty archive");
	take_seed(p->image.manifest, seed);
	const struct unpack_options o = {
		.tar_fd = empty,
		.layers = list,
		.n_layers = p->image.n_layers,
		.notify_fd = layers_notify_fd(p->layers),
		.available = on_available,
		.mountpoints = true,
		.out_fd = p->q->rootfs_fd,
		.from_fd = p->use.data_fd,
		.keep_fd = p->entry.keep_fd,
		.work_seed_fd = p->q->seed_fd,
		.work_seed_path = p->image.config.home,
		.cancel_fd = p->q->cancel_fd,
		.headroom = config->headroom,
		.headroom_percent = (int)config->headroom_percent,
		.seed = seed,
		.time = p->image.config.created > 0 ? p->image.config.created : 1,
		.progress = on_unpacked,
		.wanted = layers_missing(p->layers),
		.failure = ret_failure,
		.arg = p,
	};
	int r = unpack_run(config, &o, &result, err);
	if (r < 0)
		return r;
	ret->size = result.size;
	ret->seed = p->q->seed_fd >= 0;
	ret->reused = p->use.n;
	if (!result.kept)
		flat_entry_done(&p->entry);
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

/* Is that what banger-unpack says of an archive, and not of this machine? */
static bool is_of_content(enum banger_code code)
{
	return code == BANGER_CORRUPT || code == BANGER_BAD_REQUEST || code == BANGER_UNSUPPORTED ||
	       code == BANGER_TOO_LARGE || code == BANGER_NAME_TOO_LONG;
}

/* A fetcher's failure, if there was one, is the cause of banger-unpack's; and a layer whose digest is wrong is
 * worth more as a reason than what was found in it. True: it was our own disk that had changed it, and it will
 * be another the next time. */
static bool find_cause(
	struct pull *p, const struct unpack_failure *failure, struct banger_error *err)
{
	struct banger_error why = {0};
	bool ours = false;

	if (err->code == BANGER_CANCELLED)
		return false;
	int r = layers_failure(p->layers, &why);
	if (r == 0 && is_of_content(err->code) && failure->layer >= 0 &&
		(size_t)failure->layer < p->image.n_layers) {
		r = layers_doubt(p->layers, (size_t)failure->layer, p->cancel_fd, &why);
		ours = r < 0 && why.code == BANGER_CORRUPT &&
		       layers_was_held(p->layers, (size_t)failure->layer);
	}
	if (r < 0)
		*err = why;
	return ours || layers_restarted(p->layers);
}

/* Fetch and unpack, once. *ret_again: something that was kept is of no use; without it, it may succeed. */
static int attempt(
	struct pull *p, struct pull_result *ret, bool *ret_again, struct banger_error *err)
{
	const struct pull_image *i = &p->image;
	struct unpack_failure failure = {.layer = -1};
	int r = 0;

	*ret_again = false;
	if (p->reuse)
		r = flat_find(p->e->flat, i->config.diff_ids, i->n_layers, &p->use, err);
	if (r == 0)
		r = layers_new(p->e, &p->image, p->use.n, p->cancel_fd, &p->layers, err);
	if (r == 0)
		r = flat_begin(
			p->e->flat, i->config.diff_ids, i->n_layers, &p->use, &p->entry, err);
	if (r == 0)
		r = layers_start(p->layers, err);
	if (r < 0)
		return r;
	tell(p, "fetching", true);
	r = unpack(p, ret, &failure, err);
	if (r < 0) {
		*ret_again = failure.reuse || find_cause(p, &failure, err);
		p->reuse = p->reuse && !failure.reuse;
		return r;
	}
	tell(p, "finishing", true);
	return layers_wait(p->layers, p->cancel_fd, err);
}

/* For the next pull; this one has succeeded whatever becomes of it. */
static void keep(struct pull *p)
{
	struct banger_error err = {0};

	if (flat_commit(&p->entry, &err) < 0)
		log_warn("what was unpacked is not kept for reuse", KV_ERR(&err));
	end_attempt(p);
	pull_engine_trim(p->e);
}

static int run(struct pull *p, struct pull_result *ret, struct banger_error *err)
{
	bool again = false;
	int r = make_fds(p, err);

	if (r == 0)
		r = resolve(p, err);
	if (r < 0)
		return r;
	for (int n = 0; n == 0 || (r < 0 && again && n < ATTEMPTS); n++) {
		if (n > 0) {
			log_warn("something that was kept is of no use; once more without it",
				KV_S("unpacked", p->reuse ? NULL : p->use.chain), KV_ERR(err));
			if (!p->reuse)
				flat_forget(p->e->flat, p->use.chain);
			end_attempt(p);
			*err = (struct banger_error){0};
		}
		r = attempt(p, ret, &again, err);
	}
	if (r < 0)
		return r;
	r = fill_result(p, ret, err);
	if (r == 0)
		keep(p);
	return r;
}

int pull_run(struct pull_engine *e, const struct pull_request *q, struct pull_result *ret,
	struct banger_error *err)
{
	_cleanup_pull_ struct pull p = {.e = e,
		.q = q,
		.reuse = true,
		.use = FLAT_USE_NONE,
		.entry = FLAT_ENTRY_NONE,
		.stop_fd = -1,
		.cancel_fd = -1,
		.progress = {.digest = ""}};
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
