/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `active` threads are at the device or handle a request without waiting; there are at most `limit`
 * of them, for a moment more when one comes back from waiting, and the first of them to finish a
 * request steps aside. `idle` threads wait to be needed, and go after a while. The rest wait for
 * something in a handler.
 *
 * The first request is INIT, handled by the first thread alone: libfuse sizes its buffers then.
 *
 * To end the loop each thread that is in the system call that reads the device is sent a signal,
 * again and again until it has noticed: one that was about to enter the call misses the first.
 */
#include "loop.h"
#include <signal.h>
#include <sched.h>

#define IDLE_S 30
#define ACTIVE_MAX 4
#define KEPT 4 /* threads that are never let go */

struct loop_worker {
	struct loop_worker *next;
	struct loop *loop;
	pthread_t thread;
	atomic_bool receiving;
	bool left; /* this thread's own: it is in LOOP_MAY_WAIT */
	struct fuse_buf buf;
};

static struct loop {
	struct fuse_session *session;
	pthread_mutex_t lock;
	pthread_cond_t wanted, gone;
	unsigned limit, max;
	unsigned total, idle;
	atomic_uint active;
	bool ended;
	int error;
	struct loop_worker *workers, *retired;
} the_loop = {.lock = PTHREAD_MUTEX_INITIALIZER};

static _Thread_local struct loop_worker *self;

static void *work(void *arg);

/* With the lock. Without memory or threads the others do the work. */
static void add_worker(struct loop *l)
{
	struct loop_worker *w = calloc(1, sizeof(*w));

	if (!w)
		return;
	w->loop = l;
	if (pthread_create(&w->thread, NULL, work, w) != 0) {
		free(w);
		return;
	}
	w->next = l->workers;
	l->workers = w;
	l->total++;
}

/* With the lock: somebody shall go to the device. */
static void want_one(struct loop *l)
{
	if (l->idle > 0)
		pthread_cond_signal(&l->wanted);
	else if (l->total < l->max)
		add_worker(l);
}

static void join(struct loop_worker *w)
{
	if (!w)
		return;
	pthread_join(w->thread, NULL);
	free(w);
}

/* A thread that ends joins the one that ended before it, and the last is joined by loop_run(). */
static void retire(struct loop *l, struct loop_worker *w)
{
	pthread_mutex_lock(&l->lock);
	for (struct loop_worker **p = &l->workers; *p; p = &(*p)->next)
		if (*p == w) {
			*p = w->next;
			break;
		}
	struct loop_worker *before = l->retired;
	l->retired = w;
	l->total--;
	pthread_cond_signal(&l->gone);
	pthread_mutex_unlock(&l->lock);
	join(before);
}

/* Take a place at the device; false when there is nothing to do any more. */
static bool take_place(struct loop *l)
{
	struct timespec until;
	bool stay = true;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += IDLE_S;
	pthread_mutex_lock(&l->lock);
	while (!l->ended && stay && atomic_load(&l->active) >= l->limit) {
		l->idle++;
		int e = pthread_cond_timedwait(&l->wanted, &l->lock, &until);
		l->idle--;
		if (e == ETIMEDOUT) {
			stay = l->total <= KEPT;
			until.tv_sec += IDLE_S;
		}
	}
	stay = stay && !l->ended;
	if (stay)
		atomic_fetch_add(&l->active, 1);
	pthread_mutex_unlock(&l->lock);
	return stay;
}

static void end(struct loop *l, int error)
{
	fuse_session_exit(l->session);
	pthread_mutex_lock(&l->lock);
	l->ended = true;
	if (error < 0 && l->error == 0)
		l->error = error;
	pthread_cond_broadcast(&l->wanted);
	pthread_mutex_unlock(&l->lock);
}

/* One request. Returns false when the session has ended. */
static bool serve_one(struct loop *l, struct loop_worker *w)
{
	atomic_store(&w->receiving, true);
	int r = fuse_session_exited(l->session) ? 0 : fuse_session_receive_buf(l->session, &w->buf);
	atomic_store(&w->receiving, false);
	if (r == -EINTR || r == -EAGAIN)
		return !fuse_session_exited(l->session);
	if (r <= 0) {
		end(l, r);
		return false;
	}
	fuse_session_process_buf(l->session, &w->buf);
	return true;
}

static void *work(void *arg)
{
	struct loop_worker *w = arg;
	struct loop *l = w->loop;

	self = w;
	while (take_place(l)) {
		while (serve_one(l, w) && atomic_load(&l->active) <= l->limit)
			;
		atomic_fetch_sub(&l->active, 1);
	}
	self = NULL;
	free(w->buf.mem);
	retire(l, w);
	return NULL;
}

struct loop_worker *loop_leave(void)
{
	struct loop_worker *w = self;

	if (!w || w->left)
		return NULL;
	struct loop *l = w->loop;
	w->left = true;
	pthread_mutex_lock(&l->lock);
	atomic_fetch_sub(&l->active, 1);
	want_one(l);
	pthread_mutex_unlock(&l->lock);
	return w;
}

void loop_return(struct loop_worker **p)
{
	struct loop_worker *w = *p;

	if (!w)
		return;
	w->left = false;
	atomic_fetch_add(&w->loop->active, 1);
}

static unsigned processors(void)
{
	cpu_set_t set;
	int n = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 2;

	return n < 2 ? 2 : n > ACTIVE_MAX ? ACTIVE_MAX : n;
}

int loop_run(struct fuse_session *session, bool single)
{
	struct loop *l = &the_loop;
	struct loop_worker first = {.loop = l};
	int r = 0;

	l->session = session;
	l->limit = single ? 1 : processors();
	l->max = single ? 1 : LOOP_THREADS_MAX;
	pthread_cond_init(&l->wanted, NULL);
	pthread_cond_init(&l->gone, NULL);
	if (!serve_one(l, &first))
		r = l->error;
	free(first.buf.mem);
	pthread_mutex_lock(&l->lock);
	while (!l->ended && l->total < l->limit) {
		unsigned before = l->total;
		add_worker(l);
		if (l->total == before && before == 0)
			r = -EAGAIN;
		if (l->total == before)
			break;
	}
	while (l->total > 0)
		pthread_cond_wait(&l->gone, &l->lock);
	if (r == 0)
		r = l->error;
	pthread_mutex_unlock(&l->lock);
	join(l->retired);
	pthread_cond_destroy(&l->wanted);
	pthread_cond_destroy(&l->gone);
	return r;
}

void loop_end(struct fuse_session *session)
{
	struct loop *l = &the_loop;

	fuse_session_exit(session);
	pthread_mutex_lock(&l->lock);
	l->ended = true;
	if (l->session && l->total > 0)
		pthread_cond_broadcast(&l->wanted);
	for (struct loop_worker *w = l->workers; w; w = w->next)
		if (atomic_load(&w->receiving))
			pthread_kill(w->thread, SIGUSR2);
	pthread_mutex_unlock(&l->lock);
}
