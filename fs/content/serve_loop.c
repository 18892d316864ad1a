/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who waits at the device.
 *
 * One thread at a time. The kernel hands requests to those that wait in turn, so with several of them
 * each request of a single program wakes the thread that has slept longest. Waking is what a request
 * costs most: most of the answers here take a few microseconds. So the thread at the device does not
 * sleep at once, but looks for the next request for a short while first: whoever walks a tree asks
 * for the next thing as soon as it has the last.
 *
 *	IDLE ──called──► AT THE DEVICE ──request──► WORKING ──► AT THE DEVICE, or IDLE when somebody is there
 *
 * A thread calls another when nobody is at the device and there is a reason to have somebody there:
 * a request is waiting that the caller does not take, or the caller's own will take long
 * (serve_slow(): it waits for a disk, or goes through much). When it does not say so, requests wait
 * for it, so whatever may take long has to say so. One that comes back from work before the one
 * that was called has woken takes the place, and that one goes on sleeping.
 *
 * When the session ends, whoever is at the device sees it there, and tells the others.
 */
#include <banger/log.h>
#include <poll.h>
#include <sched.h>

#include "serve_internal.h"

#define LOOK_US 50

static bool request_waits(const struct server *s)
{
	struct pollfd p = {.fd = fuse_session_fd(s->session), .events = POLLIN};

	return poll(&p, 1, 0) != 0;
}

/* With the lock. */
static void call_one(struct server *s)
{
	if (s->at_device || s->called || !s->idle)
		return;
	s->called = true;
	pthread_cond_signal(&s->work);
}

static void leave_device(struct server *s, bool got_request)
{
	pthread_mutex_lock(&s->loop_lock);
	s->at_device--;
	if (got_request && request_waits(s))
		call_one(s);
	pthread_mutex_unlock(&s->loop_lock);
}

/* Until this thread is at the device; false when there is nothing to do any more. */
static bool go_to_device(struct server *s)
{
	pthread_mutex_lock(&s->loop_lock);
	while (!s->ended && s->at_device) {
		s->idle++;
		pthread_cond_wait(&s->work, &s->loop_lock);
		s->idle--;
	}
	s->called = false;
	s->at_device++;
	bool more = !s->ended;
	pthread_mutex_unlock(&s->loop_lock);
	return more;
}

static void look(const struct server *s)
{
	int64_t end = banger_monotonic_us() + LOOK_US;

	while (!request_waits(s) && banger_monotonic_us() < end)
		(void)sched_yield();
}

static void end(struct server *s)
{
	pthread_mutex_lock(&s->loop_lock);
	s->ended = true;
	pthread_cond_broadcast(&s->work);
	pthread_mutex_unlock(&s->loop_lock);
	fuse_session_exit(s->session);
}

void serve_slow(void *worker)
{
	struct worker *w = worker;

	if (w->slow)
		return;
	w->slow = true;
	pthread_mutex_lock(&w->s->loop_lock);
	call_one(w->s);
	pthread_mutex_unlock(&w->s->loop_lock);
}

void server_slow(void)
{
	if (serve_self)
		serve_slow(serve_self);
}

void serve_loop(struct worker *w)
{
	struct server *s = w->s;
	struct fuse_buf buf = {0};
	int n = -EAGAIN;

	serve_self = w;
	ext4_scratch_on_slow(w->scratch, serve_slow, w);
	while ((n > 0 || n == -EINTR || n == -EAGAIN) && go_to_device(s)) {
		look(s);
		n = fuse_session_exited(s->session) ? 0
						    : fuse_session_receive_buf(s->session, &buf);
		leave_device(s, n > 0);
		if (n > 0)
			fuse_session_process_buf(s->session, &buf);
		w->slow = false;
	}
	end(s);
	free(buf.mem);
}
