/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Each layer is in one of these states:
 *
 *	HELD      the blob was whole when we came, or it is a file of a layout
 *	QUEUED    we are its writer (blobs.h) and no thread has begun
 *	FETCHING  one of our threads is at it
 *	FOLLOWED  another pull is its writer; when that one gives up, it becomes QUEUED
 *	DONE      whole
 *	REUSED    it was unpacked for another image (flat.h): no blob
 *	FAILED    error has why; the first failure ends the pull
 *
 * The threads take the lowest queued layer, because banger-unpack needs that one first. A layout's
 * files need no fetching; their digests are checked by the same threads while banger-unpack reads.
 *
 * One lock for the states, held for a few instructions. blobs.h has its own.
 */
#include "pull/layers.h"

#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <banger/log.h>
#include <banger/op.h>
#include "pull/engine.h"
#include "pull/layout.h"
#include "pull/registry.h"

#define THREADS_MAX 64

enum state { REUSED, HELD, QUEUED, FETCHING, FOLLOWED, DONE, FAILED };

struct layer {
	const struct pull_descriptor *d;
	enum state state;
	bool ours;           /* it was fetched by us, at least in part */
	int64_t begun_at;    /* bytes that were there when we began */
	struct blob *blob;   /* of a registry's */
	unsigned generation; /* of the blob's bytes, when we came */
	/* Of a layout's: two descriptions, for banger-unpack reads its one around the page cache. */
	int file_fd, verify_fd;
};

struct layers {
	struct pull_engine *e;
	struct pull_image *image;
	int stop_fd, notify_fd;
	char op_id[BANGER_OP_ID_LEN + 1];
	pthread_t threads[THREADS_MAX];
	size_t n_threads;
	struct layer *list;
	size_t n, reused;
	pthread_mutex_t lock;
	pthread_cond_t work;
	bool over; /* the threads shall go */
	bool failed;
	struct banger_error error;
};

/* ---- the threads */

/* With the lock. */
static struct layer *lowest_queued(struct layers *l)
{
	for (size_t i = 0; i < l->n; i++)
		if (l->list[i].state == QUEUED)
			return &l->list[i];
	return NULL;
}

static int fetch(struct layers *l, struct layer *layer, struct banger_error *err)
{
	int r;

	if (l->image->source.layout) {
		r = layout_verify(layer->verify_fd, layer->d, l->stop_fd, err);
	} else {
		layer->begun_at = blob_available(layer->blob);
		r = registry_blob(l->image->source.registry, layer->d, layer->blob, err);
	}
	if (r < 0)
		banger_error_prefix(err, "layer %zu of %zu (%s)", (size_t)(layer - l->list) + 1,
			l->n, layer->d->digest);
	return r;
}

/* With the lock. Stopping is no failure of ours. */
static void note_failure(struct layers *l, const struct banger_error *err)
{
	if (l->failed || l->over)
		return;
	l->failed = true;
	l->error = *err;
}

static void *work(void *arg)
{
	struct layers *l = arg;
	_cleanup_op_ banger_op_id saved = banger_op_enter(l->op_id);
	struct layer *layer;

	pthread_mutex_lock(&l->lock);
	while (!l->over) {
		struct banger_error err = {0};

		layer = lowest_queued(l);
		if (!layer) {
			pthread_cond_wait(&l->work, &l->lock);
			continue;
		}
		layer->state = FETCHING;
		layer->ours = true;
		pthread_mutex_unlock(&l->lock);
		int r = fetch(l, layer, &err);
		pthread_mutex_lock(&l->lock);
		layer->state = r < 0 ? FAILED : DONE;
		if (r < 0)
			note_failure(l, &err);
		eventfd_write(l->notify_fd, 1);
	}
	pthread_mutex_unlock(&l->lock);
	return NULL;
}

/* ---- making */

static int open_layer(struct layers *l, struct layer *layer, struct banger_error *err)
{
	bool writer = false;

	if (l->image->source.layout) {
		layer->state = QUEUED;
		int e = layout_blob_fd(l->image->source.layout, layer->d, &layer->file_fd, err);
		return e < 0 ? e
			     : layout_blob_fd(
				       l->image->source.layout, layer->d, &layer->verify_fd, err);
	}
	int r = blobs_get(
		l->e->blobs, layer->d->digest, layer->d->size, &layer->blob, &writer, err);
	if (r < 0)
		return r;
	layer->generation = blob_generation(layer->blob);
	layer->state = blob_whole(layer->blob) ? HELD : writer ? QUEUED : FOLLOWED;
	return layer->state == HELD ? 0 : blob_notify(layer->blob, l->notify_fd, err);
}

static int open_layers(struct layers *l, struct banger_error *err)
{
	for (size_t i = 0; i < l->n; i++) {
		l->list[i].d = &l->image->document.items[i];
		if (i < l->reused)
			continue;
		int r = open_layer(l, &l->list[i], err);
		if (r < 0) {
			banger_error_prefix(
				err, "layer %zu of %zu (%s)", i + 1, l->n, l->list[i].d->digest);
			return r;
		}
	}
	return 0;
}

int layers_start(struct layers *l, struct banger_error *err)
{
	size_t queued = 0, most = (size_t)l->e->config->parallel_fetches;

	for (size_t i = 0; i < l->n; i++)
		queued += l->list[i].state == QUEUED || l->list[i].state == FOLLOWED;
	if (most > THREADS_MAX)
		most = THREADS_MAX;
	while (l->n_threads < queued && l->n_threads < most) {
		int e = pthread_create(&l->threads[l->n_threads], NULL, work, l);
		if (e)
			return banger_error_set_errno(err, e, "cannot start a thread");
		l->n_threads++;
	}
	return 0;
}

int layers_new(struct pull_engine *e, struct pull_image *image, size_t reused, int stop_fd,
	struct layers **ret, struct banger_error *err)
{
	struct layers *l = calloc(1, sizeof(*l));
	const char *op_id = banger_op_current();

	if (!l)
		return banger_error_oom(err);
	l->e = e;
	l->image = image;
	l->stop_fd = stop_fd;
	l->n = image->n_layers;
	l->reused = reused;
	snprintf(l->op_id, sizeof(l->op_id), "%s", op_id ? op_id : "");
	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->work, NULL);
	l->notify_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	l->list = calloc(l->n + 1, sizeof(*l->list));
	for (size_t i = 0; l->list && i < l->n; i++)
		l->list[i].file_fd = l->list[i].verify_fd = -1;
	int r = 0;
	if (!l->list)
		r = banger_error_oom(err);
	else if (l->notify_fd < 0)
		r = banger_error_set_errno(err, errno, "cannot make an eventfd");
	if (r == 0)
		r = open_layers(l, err);
	if (r < 0) {
		layers_freep(&l);
		return r;
	}
	*ret = l;
	return 0;
}

/* A writer that never began must let others know. */
static void let_go(struct layer *layer, int notify_fd)
{
	static const struct banger_error why = {
		.code = BANGER_CANCELLED, .message = "the pull that was to fetch it ended"};

	if (layer->blob) {
		blob_unnotify(layer->blob, notify_fd);
		if (layer->state == QUEUED)
			blob_abandon(layer->blob, &why);
		blob_putp(&layer->blob);
	}
	banger_closep(&layer->file_fd);
	banger_closep(&layer->verify_fd);
}

void layers_freep(struct layers **p)
{
	struct layers *l = *p;

	if (!l)
		return;
	pthread_mutex_lock(&l->lock);
	l->over = true;
	pthread_cond_broadcast(&l->work);
	pthread_mutex_unlock(&l->lock);
	for (size_t i = 0; i < l->n_threads; i++)
		pthread_join(l->threads[i], NULL);
	for (size_t i = 0; l->list && i < l->n; i++)
		let_go(&l->list[i], l->notify_fd);
	banger_closep(&l->notify_fd);
	pthread_cond_destroy(&l->work);
	pthread_mutex_destroy(&l->lock);
	free(l->list);
	free(l);
	*p = NULL;
}

/* ---- looking */

void layers_describe(const struct layers *l, size_t i, struct unpack_layer *ret)
{
	const struct layer *layer = &l->list[i];

	*ret = (struct unpack_layer){
		.fd = layer->blob ? blob_fd(layer->blob) : layer->file_fd,
		.size = layer->d->size,
		.digest = layer->d->digest,
		.diff_id = l->image->config.diff_ids[i],
		.compression = l->image->compression[i],
		.record_in_fd = -1,
		.record_out_fd = -1,
	};
}

int layers_notify_fd(const struct layers *l)
{
	return l->notify_fd;
}

/* With the lock: another pull's writer may have finished, or given up; then it is ours to go on. */
static void look_at_followed(struct layers *l, struct layer *layer)
{
	struct banger_error err = {0};

	if (blob_whole(layer->blob)) {
		layer->state = DONE;
	} else if (blob_failure(layer->blob, &err) < 0 && blob_take_over(layer->blob)) {
		layer->state = QUEUED;
		pthread_cond_signal(&l->work);
	}
}

int64_t layers_available(struct layers *l, size_t i, struct banger_error *err)
{
	int64_t n = -1;

	pthread_mutex_lock(&l->lock);
	for (size_t k = 0; k < l->n; k++)
		if (l->list[k].state == FOLLOWED)
			look_at_followed(l, &l->list[k]);
	if (l->failed)
		*err = l->error;
	else
		n = l->list[i].blob ? blob_available(l->list[i].blob) : l->list[i].d->size;
	pthread_mutex_unlock(&l->lock);
	return n;
}

int layers_failure(struct layers *l, struct banger_error *err)
{
	pthread_mutex_lock(&l->lock);
	bool failed = l->failed;
	if (failed)
		*err = l->error;
	pthread_mutex_unlock(&l->lock);
	return failed ? -banger_code_errno(err->code) : 0;
}

/* With the lock. */
static bool is_there(struct layers *l, struct layer *layer)
{
	if (layer->state == FOLLOWED)
		look_at_followed(l, layer);
	return layer->state == REUSED || layer->state == HELD || layer->state == DONE;
}

static bool are_there(struct layers *l, size_t from, size_t to)
{
	bool there = true;

	pthread_mutex_lock(&l->lock);
	for (size_t k = from; k < to; k++)
		there = is_there(l, &l->list[k]) && there;
	pthread_mutex_unlock(&l->lock);
	return there;
}

/* Until those from `from` to before `to` are there. */
static int wait_for(
	struct layers *l, size_t from, size_t to, int cancel_fd, struct banger_error *err)
{
	struct pollfd p[] = {
		{.fd = l->notify_fd, .events = POLLIN}, {.fd = cancel_fd, .events = POLLIN}};
	eventfd_t value;

	while (!are_there(l, from, to)) {
		int r = layers_failure(l, err);
		if (r < 0)
			return r;
		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return banger_error_set_errno(err, errno, "cannot wait for layers");
		if (p[1].revents)
			return banger_error_set(err, BANGER_CANCELLED, "the pull was cancelled");
		(void)eventfd_read(l->notify_fd, &value);
	}
	return 0;
}

int layers_wait(struct layers *l, int cancel_fd, struct banger_error *err)
{
	return wait_for(l, 0, l->n, cancel_fd, err);
}

bool layers_was_held(const struct layers *l, size_t i)
{
	return l->list[i].state == HELD && l->list[i].blob;
}

bool layers_restarted(const struct layers *l)
{
	for (size_t i = 0; i < l->n; i++)
		if (l->list[i].blob && blob_generation(l->list[i].blob) != l->list[i].generation)
			return true;
	return false;
}

int layers_doubt(struct layers *l, size_t i, int cancel_fd, struct banger_error *err)
{
	int r = wait_for(l, i, i + 1, cancel_fd, err);

	if (r < 0 || l->list[i].state != HELD || !l->list[i].blob)
		return r;
	r = blob_doubt(l->list[i].blob, cancel_fd, err);
	if (r < 0)
		banger_error_prefix(
			err, "layer %zu of %zu (%s)", i + 1, l->n, l->list[i].d->digest);
	return r;
}

int64_t layers_fetched(struct layers *l)
{
	int64_t n = 0;

	pthread_mutex_lock(&l->lock);
	for (size_t k = 0; k < l->n; k++)
		if (l->list[k].ours)
			n += l->list[k].d->size - l->list[k].begun_at;
	pthread_mutex_unlock(&l->lock);
	return n;
}

int64_t layers_missing(struct layers *l)
{
	int64_t n = 0;

	pthread_mutex_lock(&l->lock);
	for (size_t k = 0; k < l->n; k++) {
		const struct layer *layer = &l->list[k];
		int64_t more = layer->blob ? layer->d->size - blob_available(layer->blob) : 0;
		if (more > 0 && __builtin_add_overflow(n, more, &n))
			n = INT64_MAX;
	}
	pthread_mutex_unlock(&l->lock);
	return n;
}

void layers_progress(struct layers *l, struct pull_progress_layer *ret)
{
	static const enum pull_layer_state shown[] = {[REUSED] = PULL_REUSED,
		[HELD] = PULL_HELD,
		[QUEUED] = PULL_WAITING,
		[FETCHING] = PULL_FETCHING,
		[FOLLOWED] = PULL_FETCHING,
		[DONE] = PULL_FETCHED,
		[FAILED] = PULL_FETCHING};

	pthread_mutex_lock(&l->lock);
	for (size_t k = 0; k < l->n; k++) {
		const struct layer *layer = &l->list[k];
		ret[k] = (struct pull_progress_layer){.digest = layer->d->digest,
			.size = layer->d->size,
			.fetched = layer->blob ? blob_available(layer->blob) : layer->d->size,
			.state = shown[layer->state]};
	}
	pthread_mutex_unlock(&l->lock);
}
