/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One thread, one list of ids in the order in which they came. An id leaves the list when its row has
 * the digest, or cannot get one: then it is logged, and tried again at the next start.
 *
 * The digest becomes part of the row like any change: under the publication lock, with an operation of
 * its own ("image.digest"), as an event. In between the image may have been renamed, swapped or
 * deleted; the row is read again.
 */
#include "image/digester.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <banger/fault.h>
#include <banger/log.h>
#include "image/internal.h"

#define LOOK_MS 100 /* how often one who waits looks for a cancellation */

struct waiting {
	char id[BANGER_ID_LEN + 1];
	struct waiting *next;
};

struct digester {
	struct image_service *s;
	pthread_t thread;
	bool started, stop;
	pthread_mutex_t lock;
	pthread_cond_t change;
	struct waiting *first, **last;
	struct operation *op; /* that runs */
};

/* ---- the thread */

static int digest_file(struct image_service *s, struct operation *op,
	const struct banger_image *image, char ret[DIGEST_SIZE], struct banger_error *err)
{
	_cleanup_close_ int fd = -1;
	struct stat st;

	int r = image_service_open(s, image, ROOTFS, &fd, err);
	if (r < 0)
		return r;
	if (fstat(fd, &st) < 0)
		return banger_error_set_errno(err, errno, "looking at " ROOTFS);
	return durable_digest_direct(fd, st.st_size, op, ROOTFS, ret, err);
}

static int commit(struct image_service *s, struct operation *op, const char *id, const char *digest,
	struct banger_error *err)
{
	_cleanup_(publication_leavep) struct publication_lock *held =
		publication_enter(s->deps.publication);
	_cleanup_image_ struct banger_image image = {0};
	struct banger_op_record record;

	int r = store_image_by_id(s->deps.store, id, &image, err);
	if (r < 0)
		return r;
	strcpy(image.digest, digest);
	FAULT_POINT("image.digest.locked");
	operation_completed_record(op, &record);
	r = store_image_update(s->deps.store, &image, &record, err);
	if (r < 0)
		return r;
	FAULT_POINT("image.digest.committed");
	image_event(s, "digested", &image, 1);
	return 0;
}

/* Whoever added it holds the publication lock until its row is there, or will never be. */
static int find(
	struct image_service *s, const char *id, struct banger_image *ret, struct banger_error *err)
{
	_cleanup_(publication_leavep) struct publication_lock *held =
		publication_enter(s->deps.publication);

	return store_image_by_id(s->deps.store, id, ret, err);
}

static int digest_image(
	struct digester *d, struct operation *op, const char *id, struct banger_error *err)
{
	_cleanup_image_ struct banger_image image = {0};
	char digest[DIGEST_SIZE];

	int r = find(d->s, id, &image, err);
	if (r == 0)
		r = digest_file(d->s, op, &image, digest, err);
	if (r == 0)
		r = commit(d->s, op, id, digest, err);
	if (r == 0)
		log_info("digest", KV_S("image", image.name), KV_S("id", id),
			KV_S("digest", digest), KV_S("pulled_by", image.op_id));
	return r;
}

static void set_operation(struct digester *d, struct operation *op)
{
	pthread_mutex_lock(&d->lock);
	d->op = op;
	if (op && d->stop)
		operation_cancel(op);
	pthread_mutex_unlock(&d->lock);
}

static void work_on(struct digester *d, const char *id)
{
	struct banger_error err = {0};
	struct operation *op;

	if (image_begin_operation(d->s, "image.digest", &op, &err) < 0) {
		log_err("a digest is not computed", KV_S("id", id), KV_ERR(&err));
		return;
	}
	set_operation(d, op);
	int r = digest_image(d, op, id, &err);
	set_operation(d, NULL);
	/* It was deleted meanwhile, or the daemon stops: nothing is wrong. */
	bool fine = r < 0 && (err.code == BANGER_NOT_FOUND || err.code == BANGER_CANCELLED);
	operation_end(op, fine ? NULL : &err);
}

static void drop_first(struct digester *d)
{
	struct waiting *w = d->first;

	d->first = w->next;
	if (!d->first)
		d->last = &d->first;
	free(w);
	pthread_cond_broadcast(&d->change);
}

static void *work(void *arg)
{
	struct digester *d = arg;

	pthread_mutex_lock(&d->lock);
	while (!d->stop) {
		if (!d->first) {
			pthread_cond_wait(&d->change, &d->lock);
			continue;
		}
		char id[BANGER_ID_LEN + 1];
		strcpy(id, d->first->id);
		pthread_mutex_unlock(&d->lock);
		work_on(d, id);
		pthread_mutex_lock(&d->lock);
		drop_first(d);
	}
	pthread_mutex_unlock(&d->lock);
	return NULL;
}

/* ---- from outside */

int digester_new(struct image_service *s, struct digester **ret, struct banger_error *err)
{
	pthread_condattr_t attr;
	struct digester *d = calloc(1, sizeof(*d));

	if (!d)
		return banger_error_oom(err);
	d->s = s;
	d->last = &d->first;
	pthread_mutex_init(&d->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&d->change, &attr);
	pthread_condattr_destroy(&attr);
	*ret = d;
	return 0;
}

int digester_start(struct digester *d, struct banger_error *err)
{
	sigset_t all, saved;

	/* Signals are for the thread that waits for them. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved);
	int r = pthread_create(&d->thread, NULL, work, d);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
	if (r)
		return banger_error_set_errno(err, r, "starting the thread that computes digests");
	d->started = true;
	return 0;
}

void digester_freep(struct digester **p)
{
	struct digester *d = *p;

	if (!d)
		return;
	pthread_mutex_lock(&d->lock);
	d->stop = true;
	if (d->op)
		operation_cancel(d->op);
	pthread_cond_broadcast(&d->change);
	pthread_mutex_unlock(&d->lock);
	if (d->started)
		pthread_join(d->thread, NULL);
	while (d->first)
		drop_first(d);
	pthread_cond_destroy(&d->change);
	pthread_mutex_destroy(&d->lock);
	free(d);
	*p = NULL;
}

void digester_add(struct digester *d, const char *id)
{
	struct waiting *w = calloc(1, sizeof(*w));

	if (!w) {
		log_err("a digest is computed after the next start: out of memory", KV_S("id", id));
		return;
	}
	snprintf(w->id, sizeof(w->id), "%s", id);
	pthread_mutex_lock(&d->lock);
	*d->last = w;
	d->last = &w->next;
	pthread_cond_broadcast(&d->change);
	pthread_mutex_unlock(&d->lock);
}

static bool is_waiting(const struct digester *d, const char *id)
{
	for (const struct waiting *w = d->first; w; w = w->next)
		if (strcmp(w->id, id) == 0)
			return true;
	return false;
}

int digester_wait(struct digester *d, const char *id, int cancel_fd, struct banger_error *err)
{
	struct pollfd p = {.fd = cancel_fd, .events = POLLIN};
	int r = 0;

	pthread_mutex_lock(&d->lock);
	while (r == 0 && !d->stop && is_waiting(d, id)) {
		struct timespec until;

		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_nsec += LOOK_MS * 1000000L;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		(void)pthread_cond_timedwait(&d->change, &d->lock, &until);
		if (cancel_fd >= 0 && poll(&p, 1, 0) > 0)
			r = banger_error_set(err, BANGER_CANCELLED, "the operation was cancelled");
	}
	pthread_mutex_unlock(&d->lock);
	return r;
}
