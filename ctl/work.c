/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls that take long. The calling thread waits for the reply; a watcher beside it shows progress
 * and takes the signals that mean "stop". The first one asks the daemon to cancel the operation,
 * over a connection of its own, and the call then ends with the daemon's word that it did: what is
 * half done is gone when the prompt is back. A second one, or a daemon that does not take the
 * request, hangs up.
 *
 * While a call runs the signals are blocked in every thread and read from a descriptor, so nothing
 * happens inside a handler. One that was ignored when we were started (nohup, a shell's background
 * job) stays ignored. After the error is said, main() dies of the signal as if it had not been
 * caught, which is how a shell knows to end its loop.
 *
 * The watcher uses the connection only to shut it down, which is allowed beside a call; the thread
 * is joined before the call's end, so nothing here outlives it.
 */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <banger/log.h>
#include <banger/methods.h>
#include "ctl.h"
#include "text.h"

struct watcher {
	struct ctl *c;
	const struct ctl_work *work;
	banger_op_id op;
	int signals, done; /* descriptors */
	int64_t started_us;
	bool drawn; /* a progress line stands there */
	int signal; /* the first that came */
};

/* Under an op_id of its own: ours is the one that runs. */
int ctl_cancel(struct ctl *c, const char *op_id)
{
	_cleanup_client_ struct banger_client *client = NULL;
	_cleanup_json_ struct json_object *params = NULL;
	_cleanup_op_ banger_op_id saved = banger_op_enter(banger_op_id_mint().s);

	const struct timeval patience = {.tv_sec = 3};

	int r = ctl_params(&params, NULL, "op_id", op_id, NULL);
	if (r == 0)
		r = banger_client_connect(c->config.socket, &client, NULL);
	if (r < 0)
		return r;
	(void)setsockopt(
		banger_client_fd(client), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	(void)setsockopt(
		banger_client_fd(client), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	return banger_client_call(client, BANGER_METHOD_OP_CANCEL, TAKE_PTR(params), NULL, NULL);
}

static void erase_progress(struct watcher *w)
{
	if (w->drawn)
		fputs("\r\033[K", stderr);
	w->drawn = false;
}

static void draw_progress(struct watcher *w)
{
	char size[TEXT_SIZE_LEN], took[TEXT_DURATION_LEN];
	struct stat st;
	_cleanup_free_ char *what = text_clean(w->work->what);
	int64_t elapsed = (banger_monotonic_us() - w->started_us) / 1000000 * 1000000;

	if (!w->c->notices || !w->work->what || !what || elapsed <= 0)
		return;
	fprintf(stderr, "\r%s: ", what);
	if (w->work->done)
		fprintf(stderr, "%s, ", text_size(atomic_load(w->work->done), size));
	else if (w->work->growing && fstat(*w->work->growing, &st) == 0)
		fprintf(stderr, "%s, ", text_size(st.st_size, size));
	fprintf(stderr, "%s\033[K", text_duration(elapsed, took));
	w->drawn = true;
}

static void take_signal(struct watcher *w)
{
	struct signalfd_siginfo info;

	if (read(w->signals, &info, sizeof(info)) != sizeof(info))
		return;
	bool again = w->signal != 0;
	if (!again)
		w->signal = (int)info.ssi_signo;
	if (again || ctl_cancel(w->c, w->op.s) < 0)
		banger_client_shutdown(w->c->client);
}

static void *watch(void *arg)
{
	struct watcher *w = arg;
	struct pollfd p[] = {
		{.fd = w->signals, .events = POLLIN}, {.fd = w->done, .events = POLLIN}};

	for (;;) {
		int n = poll(p, 2, 250);

		if (p[1].revents || (n < 0 && errno != EINTR))
			break;
		if (n > 0 && p[0].revents)
			take_signal(w);
		if (n == 0 && w->work->tick)
			w->work->tick(w->work->arg);
		else if (n == 0)
			draw_progress(w);
	}
	if (w->work->end)
		w->work->end(w->work->arg);
	erase_progress(w);
	return NULL;
}

void ctl_stop_signals(sigset_t *set)
{
	static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};

	sigemptyset(set);
	for (size_t i = 0; i < ELEMENTSOF(numbers); i++) {
		struct sigaction sa;

		if (sigaction(numbers[i], NULL, &sa) == 0 && sa.sa_handler != SIG_IGN)
			sigaddset(set, numbers[i]);
	}
}

int ctl_call_fds(struct ctl *c, const char *method, struct json_object *params, const int *fds,
	size_t nfds, struct json_object **ret, struct banger_error *err)
{
	int r = banger_client_call_fds(c->client, method, params, fds, nfds, ret, NULL, NULL, err);

	c->unreachable = r == -EHOSTDOWN && banger_client_lost(c->client);
	return r;
}

/* The call with the watcher beside it. */
static int watched_call(struct watcher *w, const char *method, struct json_object *params,
	const int *fds, size_t nfds, struct json_object **ret, struct banger_error *err)
{
	_cleanup_json_ struct json_object *owned = params;
	pthread_t thread;

	int e = pthread_create(&thread, NULL, watch, w);
	if (e)
		return banger_error_set_errno(err, e, "cannot start a thread");
	int r = ctl_call_fds(w->c, method, TAKE_PTR(owned), fds, nfds, ret, err);
	(void)eventfd_write(w->done, 1);
	pthread_join(thread, NULL);
	if (r < 0 && w->signal) {
		w->c->signal = w->signal;
		if (w->c->unreachable)
			r = banger_error_set(err, BANGER_CANCELLED, "cancelled");
		w->c->unreachable = false;
	}
	return r;
}

int ctl_call_long(struct ctl *c, const struct ctl_work *work, const char *method,
	struct json_object *params, const int *fds, size_t nfds, struct json_object **ret,
	struct banger_error *err)
{
	_cleanup_json_ struct json_object *owned = params;
	_cleanup_close_ int signals = -1, done = -1;
	const char *op = banger_op_current();
	sigset_t stop, before;

	int r = ctl_connect(c, err);
	if (r < 0)
		return r;
	ctl_stop_signals(&stop);
	pthread_sigmask(SIG_BLOCK, &stop, &before);
	signals = signalfd(-1, &stop, SFD_CLOEXEC);
	done = eventfd(0, EFD_CLOEXEC);
	if (signals < 0 || done < 0) {
		r = banger_error_set_errno(err, errno, "cannot watch for signals");
	} else {
		struct watcher w = {.c = c, .work = work, .signals = signals, .done = done};

		snprintf(w.op.s, sizeof(w.op.s), "%s", op ? op : "");
		w.started_us = banger_monotonic_us();
		r = watched_call(&w, method, TAKE_PTR(owned), fds, nfds, ret, err);
	}
	/* Not unblocked before main() has said the error: a second signal would kill us first. */
	if (!c->signal)
		pthread_sigmask(SIG_SETMASK, &before, NULL);
	return r;
}
