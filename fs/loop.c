/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A place is the right to receive from the device and to handle what came; `active` counts the
 * threads that have one. One is enough for a program that makes one call after the other: a second
 * reader would only be woken in turn with the first. That requests are waiting does not say that
 * there are several programs, because one that runs on this processor asks the next thing before we
 * go on; so a thread that has found requests waiting, from callers that take turns, gives another a
 * place, up to `limit`. One that finds none, or the same caller for a long time, while there are
 * others, goes idle. Idle threads but a few end after a while.
 *
 * A thread whose handler may wait hands its place to one that is idle, or to a new thread; the count
 * stays as it was, so nobody has to guess how many were woken and have not come yet (`given` are on
 * their way to them). A thread that comes back from waiting takes a place beyond what is wanted, and
 * the next that has finished a request goes idle.
 *
 * When `max` threads wait, there is nobody at the device until one comes back. That cannot be for
 * ever: what waits for another request (a promotion for the close of a file) is a change, and fewer
 * changes run at once than there are threads (change.h).
 *
 * The first request is INIT, handled by the first thread alone: libfuse sizes its buffers then.
 *
 * Threads are brought out of the system call that reads the device by a signal, again and again
 * until they have noticed: one that was about to enter the call misses the first. loop_run() does
 * that, also when one thread has met an error that the others do not see.
 */
#include "loop.h"
#include <banger/client.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>

#define IDLE_S 30
#define LOOK_US 150
#define ACTIVE_MAX 4
#define KEPT 4 /* threads that are never let go */
#define POKE_MS 20
#define BUSY                                                                                       \
	16 /* requests that came from another caller than the one before, more than the others */
#define CALM 64 /* the other way round */

struct loop_worker {
	struct loop_worker *next;
	pthread_t thread;
	atomic_bool receiving;
	/* This thread's own: */
	bool look; /* before it sleeps */
	bool left; /* its handler has handed its place on */
	pid_t caller;
	int busy;
	struct fuse_buf buf;
};

/* One for the process; `lock` guards all but the atomics. */
static struct loop {
	struct fuse_session *session;
	pthread_mutex_t lock;
	pthread_cond_t wanted, gone;
	unsigned limit, max;
	unsigned alive; /* threads until they are about to be joined */
	unsigned total; /* those of them that go on */
	unsigned idle, given;
	atomic_uint active;
	bool ended;
	int error;
	struct loop_worker *workers, *retired;
} the_loop = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.wanted = PTHREAD_COND_INITIALIZER,
	.gone = PTHREAD_COND_INITIALIZER,
};

static _Thread_local struct loop_worker *self;

static void *work(void *arg);

/* With the lock: a new thread, that has a place. Without memory or threads the others do the work. */
static bool add_worker(struct loop *l)
{
	struct loop_worker *w = calloc(1, sizeof(*w));

	if (!w)
		return false;
	if (pthread_create(&w->thread, NULL, work, w) != 0) {
		free(w);
		return false;
	}
	w->next = l->workers;
	l->workers = w;
	l->total++;
	l->alive++;
	return true;
}

/* With the lock: give a place away, which is lost if there is nobody to take it. */
static void give_place(struct loop *l)
{
	if (atomic_load(&l->active) <= l->limit && !l->ended) {
		if (l->idle > 0) {
			l->idle--;
			l->given++;
			pthread_cond_signal(&l->wanted);
			return;
		}
		if (l->total < l->max && add_worker(l))
			return;
	}
	atomic_fetch_sub(&l->active, 1);
}

static struct timespec from_now_ms(int64_t ms)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	ms += t.tv_nsec / 1000000;
	return (struct timespec){t.tv_sec + ms / 1000, ms % 1000 * 1000000};
}

/* With the lock: wait for a place. false: there is nothing to do here any more. */
static bool wait_place(struct loop *l)
{
	struct timespec until = from_now_ms(IDLE_S * 1000);

	l->idle++;
	while (!l->ended && l->given == 0) {
		int e = pthread_cond_clockwait(&l->wanted, &l->lock, CLOCK_MONOTONIC, &until);
		if (e != ETIMEDOUT || l->given > 0)
			continue;
		if (l->total > KEPT) {
			l->idle--;
			return false;
		}
		until = from_now_ms(IDLE_S * 1000);
	}
	if (l->ended)
		return false;
	l->given--; /* whoever gave it has taken us out of `idle` */
	return true;
}

static bool more_waits(struct loop *l)
{
	struct pollfd p = {.fd = fuse_session_fd(l->session), .events = POLLIN};

	return poll(&p, 1, 0) == 1 && (p.revents & POLLIN);
}

static void call_another(struct loop *l)
{
	pthread_mutex_lock(&l->lock);
	if (atomic_load(&l->active) < l->limit) {
		atomic_fetch_add(&l->active, 1);
		give_place(l);
	}
	pthread_mutex_unlock(&l->lock);
}

/* How many places are wanted, as far as this thread can tell from the request that it has done. */
static unsigned places_wanted(struct loop *l, struct loop_worker *w)
{
	const struct fuse_in_header *in = w->buf.mem;
	pid_t caller = w->buf.flags & FUSE_BUF_IS_FD ? 0 : in->pid;
	bool other =
		caller > 0 && caller != w->caller; /* some have none, like the close of a file */

	if (caller > 0)
		w->caller = caller;
	if (!other && atomic_load(&l->active) <= 1) {
		w->busy -= w->busy > 0;
		return 1;
	}
	if (!more_waits(l)) {
		w->busy = 0;
		return 1;
	}
	w->busy += other ? 1 : -1;
	if (w->busy <= -CALM) {
		w->busy = 0;
		return 1;
	}
	if (w->busy >= BUSY) {
		w->busy = 0;
		call_another(l);
	}
	return l->limit;
}

/* After a request: go on, or go idle where there are too many. false: this thread is to end. */
static bool keep_place(struct loop *l, struct loop_worker *w)
{
	unsigned wanted = places_wanted(l, w);
	bool stay = true;

	if (atomic_load(&l->active) <= wanted)
		return true;
	pthread_mutex_lock(&l->lock);
	if (atomic_load(&l->active) > wanted) {
		atomic_fetch_sub(&l->active, 1);
		stay = wait_place(l);
	}
	if (!stay)
		l->total--;
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
	pthread_cond_signal(&l->gone);
	pthread_mutex_unlock(&l->lock);
}

/* One request, if one comes. Returns false when the session has ended. */
static bool serve_one(struct loop *l, struct loop_worker *w, bool *ret_served)
{
	*ret_served = false;
	if (w->look && !fuse_session_exited(l->session))
		(void)banger_look(fuse_session_fd(l->session), LOOK_US);
	w->look = false;
	atomic_store(&w->receiving, true);
	int r = fuse_session_exited(l->session) ? 0 : fuse_session_receive_buf(l->session, &w->buf);
	atomic_store(&w->receiving, false);
	if (r == -ENOMEM)
		poll(NULL, 0, POKE_MS); /* for this thread's buffer; perhaps there is some soon */
	if (r == -EINTR || r == -EAGAIN || r == -ENOMEM)
		return !fuse_session_exited(l->session);
	if (r <= 0) {
		end(l, r);
		return false;
	}
	fuse_session_process_buf(l->session, &w->buf);
	*ret_served = true;
	return true;
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
	l->alive--;
	pthread_cond_signal(&l->gone);
	pthread_mutex_unlock(&l->lock);
	join(before);
}

static void *work(void *arg)
{
	struct loop_worker *w = arg;
	struct loop *l = &the_loop;
	bool served;

	self = w;
	while (serve_one(l, w, &served) && (!served || keep_place(l, w)))
		;
	self = NULL;
	free(w->buf.mem);
	retire(l, w);
	return NULL;
}

void loop_look_next(void)
{
	if (self)
		self->look = true;
}

struct loop_worker *loop_leave(void)
{
	struct loop_worker *w = self;

	if (!w || w->left || the_loop.max == 1)
		return NULL;
	w->left = true;
	pthread_mutex_lock(&the_loop.lock);
	give_place(&the_loop);
	pthread_mutex_unlock(&the_loop.lock);
	return w;
}

void loop_return(struct loop_worker **p)
{
	struct loop_worker *w = *p;

	if (!w)
		return;
	w->left = false;
	atomic_fetch_add(&the_loop.active, 1);
}

static unsigned processors(void)
{
	cpu_set_t set;
	int n = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 2;

	return n < 2 ? 2 : n > ACTIVE_MAX ? ACTIVE_MAX : n;
}

/* With the lock: whoever is at the device shall look whether the session has ended. */
static void poke(struct loop *l)
{
	for (struct loop_worker *w = l->workers; w; w = w->next)
		if (atomic_load(&w->receiving))
			pthread_kill(w->thread, SIGUSR2);
}

/* With the lock, until all threads have ended. */
static void attend(struct loop *l)
{
	while (l->alive > 0) {
		if (!l->ended) {
			pthread_cond_wait(&l->gone, &l->lock);
			continue;
		}
		struct timespec soon = from_now_ms(POKE_MS);
		poke(l);
		pthread_cond_clockwait(&l->gone, &l->lock, CLOCK_MONOTONIC, &soon);
	}
}

int loop_run(struct fuse_session *session, bool single)
{
	struct loop *l = &the_loop;
	struct loop_worker first = {0};
	bool served = false;

	pthread_mutex_lock(&l->lock);
	l->session = session;
	l->limit = single ? 1 : processors();
	l->max = single ? 1 : LOOP_THREADS_MAX;
	pthread_mutex_unlock(&l->lock);
	while (!served && serve_one(l, &first, &served))
		;
	free(first.buf.mem);
	pthread_mutex_lock(&l->lock);
	if (!l->ended && add_worker(l))
		atomic_fetch_add(&l->active, 1);
	else if (!l->ended)
		l->error = -EAGAIN;
	attend(l);
	int r = l->error;
	pthread_mutex_unlock(&l->lock);
	join(l->retired);
	return r;
}

void loop_end(struct fuse_session *session)
{
	struct loop *l = &the_loop;

	fuse_session_exit(session);
	pthread_mutex_lock(&l->lock);
	l->ended = true;
	pthread_cond_broadcast(&l->wanted);
	pthread_cond_signal(&l->gone);
	pthread_mutex_unlock(&l->lock);
}
