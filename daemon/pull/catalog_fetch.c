/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The files that catalogs name, through the blob cache: fetched once, whoever asks, and resumed where
 * an earlier attempt broke off. A file of this host goes the same way: what comes out is a copy whose
 * digest was checked and that nobody can change meanwhile.
 *
 * Whoever needs a blob that another one fetches waits for it, and becomes its writer if that one
 * gives up.
 */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <banger/model.h>
#include "pull/cancel.h"
#include "pull/catalog_internal.h"
#include "pull/fetch.h"

#define PIECE (1 << 20)
#define PROGRESS_MS 250

static int cancelled(const char *what, struct banger_error *err)
{
	return banger_error_set(err, BANGER_CANCELLED, "fetching %s was cancelled", what);
}

/* ---- a file of this host */

static int open_source(const struct catalog_entry *e, struct banger_error *err)
{
	_cleanup_close_ int fd = open(e->location, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return banger_error_set_errno(err, errno, "opening %s", e->location);
	if (!S_ISREG(st.st_mode))
		return banger_error_set(
			err, BANGER_BAD_REQUEST, "%s is not a regular file", e->location);
	if (st.st_size != e->size)
		return banger_error_set(err, BANGER_CORRUPT,
			"%s has %lld bytes, and the catalog says %lld", e->location,
			(long long)st.st_size, (long long)e->size);
	return TAKE_FD(fd);
}

static int copy_file(
	const struct catalog_entry *e, int cancel_fd, struct blob *b, struct banger_error *err)
{
	_cleanup_close_ int fd = open_source(e, err);
	_cleanup_free_ char *buf = malloc(PIECE);
	int r = fd < 0 ? fd : buf ? blob_begin(b, cancel_fd, err) : banger_error_oom(err);
	int64_t at = r == 0 ? blob_offset(b) : 0;

	while (r == 0 && at < e->size) {
		ssize_t n = pread(fd, buf, PIECE, at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return banger_error_set_errno(err, errno, "reading %s", e->location);
		if (n == 0)
			return banger_error_set(err, BANGER_CORRUPT,
				"%s became shorter while it was read", e->location);
		if (pull_cancelled(cancel_fd))
			return cancelled(e->location, err);
		r = blob_write(b, buf, (size_t)n, err);
		at += n;
	}
	return r;
}

static int take_file(
	const struct catalog_entry *e, int cancel_fd, struct blob *b, struct banger_error *err)
{
	struct banger_error why = {0};
	int r = copy_file(e, cancel_fd, b, &why);

	if (r == 0)
		r = blob_finish(b, &why);
	if (r < 0)
		blob_abandon(b, &why);
	if (r < 0 && err)
		*err = why;
	return r;
}

/* ---- */

static int write_blob(struct catalogs *c, const struct catalog_entry *e, int cancel_fd,
	struct blob *b, struct banger_error *err)
{
	char what[BANGER_NAME_MAX + 32];

	if (e->location[0] == '/')
		return take_file(e, cancel_fd, b, err);
	snprintf(what, sizeof(what), "the %s \"%s\"",
		e->kind == CATALOG_BUNDLE ? "bundle" : "kernel", e->name);
	const struct fetch f = {.http = c->http,
		.config = c->config,
		.url = e->location,
		.cancel_fd = cancel_fd,
		.what = what};
	return fetch_blob(&f, b, err);
}

/* Until it is whole (0), or we are to write it (1). */
static int wait_for_other(struct blob *b, int cancel_fd, struct banger_error *err)
{
	_cleanup_close_ int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct pollfd p[] = {{.fd = event, .events = POLLIN}, {.fd = cancel_fd, .events = POLLIN}};
	int r = event < 0 ? banger_error_set_errno(err, errno, "waiting for a blob")
			  : blob_notify(b, event, err);

	if (r < 0)
		return r;
	while (!blob_whole(b)) {
		eventfd_t n;

		if (blob_failure(b, NULL) < 0 && blob_take_over(b)) {
			r = 1;
			break;
		}
		(void)poll(p, ELEMENTSOF(p), 1000);
		(void)eventfd_read(event, &n);
		if (pull_cancelled(cancel_fd)) {
			r = cancelled(blob_digest(b), err);
			break;
		}
	}
	blob_unnotify(b, event);
	return r;
}

/* ---- telling of progress */

struct watch {
	const struct blob *blob;
	void (*progress)(void *arg, int64_t fetched);
	void *arg;
	int done_fd;
	pthread_t thread;
	bool runs;
};

static void *watch(void *arg)
{
	struct watch *w = arg;
	struct pollfd p = {.fd = w->done_fd, .events = POLLIN};

	while (poll(&p, 1, PROGRESS_MS) <= 0)
		w->progress(w->arg, blob_available(w->blob));
	return NULL;
}

/* Without a thread there is no progress to be seen, and the fetch goes on all the same. */
static void watch_begin(struct watch *w)
{
	w->done_fd = w->progress ? eventfd(0, EFD_CLOEXEC) : -1;
	w->runs = w->done_fd >= 0 && pthread_create(&w->thread, NULL, watch, w) == 0;
}

static void watch_end(struct watch *w)
{
	if (w->runs) {
		(void)eventfd_write(w->done_fd, 1);
		pthread_join(w->thread, NULL);
	}
	banger_closep(&w->done_fd);
}

/* ---- */

static int obtain(struct catalogs *c, const struct catalog_entry *e, int cancel_fd, struct blob *b,
	bool writer, struct banger_error *err)
{
	if (!writer && !blob_whole(b)) {
		int r = wait_for_other(b, cancel_fd, err);
		if (r <= 0)
			return r;
		writer = true;
	}
	return writer ? write_blob(c, e, cancel_fd, b, err) : 0;
}

int catalogs_fetch(struct catalogs *c, const struct catalog_entry *e, int cancel_fd,
	void (*progress)(void *arg, int64_t fetched), void *arg, struct blob **ret,
	struct banger_error *err)
{
	_cleanup_blob_ struct blob *b = NULL;
	bool writer = false;
	int r = blobs_get(c->blobs, e->digest, e->size, &b, &writer, err);

	if (r < 0)
		return r;
	struct watch w = {.blob = b, .progress = progress, .arg = arg};
	watch_begin(&w);
	r = obtain(c, e, cancel_fd, b, writer, err);
	watch_end(&w);
	if (r < 0)
		return r;
	if (progress)
		progress(arg, blob_size(b));
	*ret = TAKE_PTR(b);
	return 0;
}
