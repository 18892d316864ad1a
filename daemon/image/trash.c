/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One thread, one counter, no list: the directory is the list. The thread sweeps it whenever the
 * counter says that something was put there since the last sweep. What cannot be removed (an I/O
 * error, an immutable flag) is logged and left to the next start; the counter keeps showing it.
 *
 * The thread starts a moment late, so that the frees of a burst of deletions do not stand in the
 * filesystem's journal between the durable steps of the next changes. It does not lower its I/O
 * priority: a low-priority read under a journal handle would hold up everybody's fsync.
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <banger/log.h>
#include "image/internal.h"

enum {
	DEPTH_MAX = 16, /* what banger makes is two deep */
	LATE_MS = 100,
};

struct trash {
	int fd;
	pthread_t thread;
	bool started;
	pthread_mutex_t mutex;
	pthread_cond_t wake;
	_Atomic bool stop;
	uint64_t put, swept; /* puts so far, and as of the last sweep's beginning; under mutex */
	_Atomic int64_t count;
};

/* 0, -errno, or -ECANCELED when *stop said so between two files. */
static int remove_tree(int dir_fd, const char *name, int depth, const _Atomic bool *stop)
{
	if (stop && atomic_load(stop))
		return -ECANCELED;
	if (unlinkat(dir_fd, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR && errno != EPERM)
		return -errno;
	if (depth >= DEPTH_MAX)
		return -ELOOP;
	_cleanup_closedir_ DIR *d = image_open_dir(dir_fd, name);
	if (!d)
		return -errno;
	struct dirent *de;
	while ((errno = 0, de = readdir(d))) {
		int r = image_is_dots(de->d_name)
				? 0
				: remove_tree(dirfd(d), de->d_name, depth + 1, stop);
		if (r < 0)
			return r;
	}
	if (errno)
		return -errno;
	return unlinkat(dir_fd, name, AT_REMOVEDIR) < 0 ? -errno : 0;
}

int trash_remove_now(int dir_fd, const char *name, struct banger_error *err)
{
	int r = remove_tree(dir_fd, name, 0, NULL);
	return r < 0 ? banger_error_set_errno(err, r, "removing \"%s\"", name) : 0;
}

int trash_new(int trash_fd, struct trash **ret, struct banger_error *err)
{
	pthread_condattr_t attr;
	struct trash *t = calloc(1, sizeof(*t));
	if (!t)
		return banger_error_oom(err);
	t->fd = trash_fd;
	pthread_mutex_init(&t->mutex, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&t->wake, &attr);
	pthread_condattr_destroy(&attr);
	*ret = t;
	return 0;
}

/* One pass over the directory. Entries that cannot be removed are passed over. */
static void sweep(struct trash *t)
{
	_cleanup_closedir_ DIR *d = image_open_dir(t->fd, ".");
	struct dirent *de;

	while (d && (de = readdir(d))) {
		if (image_is_dots(de->d_name))
			continue;
		int r = remove_tree(t->fd, de->d_name, 0, &t->stop);
		if (r == -ECANCELED)
			return;
		if (r < 0)
			log_warn("trash cannot be removed", KV_S("entry", de->d_name),
				KV_S("error", strerror(-r)));
		else
			atomic_fetch_sub(&t->count, 1);
	}
}

static void sleep_late(struct trash *t)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += LATE_MS * 1000000L;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	while (!t->stop && pthread_cond_timedwait(&t->wake, &t->mutex, &until) == 0)
		;
}

static void *trash_thread(void *arg)
{
	struct trash *t = arg;

	pthread_mutex_lock(&t->mutex);
	while (!t->stop) {
		if (t->put == t->swept) {
			pthread_cond_wait(&t->wake, &t->mutex);
			continue;
		}
		sleep_late(t);
		t->swept = t->put;
		pthread_mutex_unlock(&t->mutex);
		sweep(t);
		pthread_mutex_lock(&t->mutex);
	}
	pthread_mutex_unlock(&t->mutex);
	return NULL;
}

static int64_t count_entries(const struct trash *t)
{
	_cleanup_closedir_ DIR *d = image_open_dir(t->fd, ".");
	int64_t n = 0;
	struct dirent *de;

	while (d && (de = readdir(d)))
		n += !image_is_dots(de->d_name);
	return n;
}

int trash_start(struct trash *t, struct banger_error *err)
{
	sigset_t all, saved;

	atomic_store(&t->count, count_entries(t));
	t->put = atomic_load(&t->count) > 0;
	t->swept = 0;
	/* Signals are for the thread that waits for them. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved);
	int r = pthread_create(&t->thread, NULL, trash_thread, t);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
	if (r)
		return banger_error_set_errno(err, r, "starting the thread that empties the trash");
	t->started = true;
	return 0;
}

void trash_freep(struct trash **ptr)
{
	struct trash *t = *ptr;
	if (!t)
		return;
	if (t->started) {
		pthread_mutex_lock(&t->mutex);
		t->stop = true;
		pthread_cond_broadcast(&t->wake);
		pthread_mutex_unlock(&t->mutex);
		pthread_join(t->thread, NULL);
	}
	pthread_mutex_destroy(&t->mutex);
	pthread_cond_destroy(&t->wake);
	free(t);
}

int trash_put(struct trash *t, int dir_fd, const char *name, struct banger_error *err)
{
	atomic_fetch_add(&t->count, 1); /* first, for the thread may be quick */
	int r = renameat2(dir_fd, name, t->fd, name, RENAME_NOREPLACE) < 0 ? -errno : 0;
	if (r == -EEXIST) {
		/* Something by this name waits already, which only a meddler's copy can be. */
		char other[BANGER_ID_LEN + 1];
		banger_id_mint(other);
		r = renameat2(dir_fd, name, t->fd, other, RENAME_NOREPLACE) < 0 ? -errno : 0;
	}
	if (r < 0) {
		atomic_fetch_sub(&t->count, 1);
		return banger_error_set_errno(err, r, "moving \"%s\" to the trash", name);
	}
	pthread_mutex_lock(&t->mutex);
	if (t->put++ == t->swept) /* else it is awake, or about to be */
		pthread_cond_signal(&t->wake);
	pthread_mutex_unlock(&t->mutex);
	return 0;
}

int64_t trash_count(const struct trash *t)
{
	return atomic_load(&t->count);
}
