/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One thread, one list. Cancellations go first. A report that cannot be delivered because bangerd
 * is away stays at the head until somebody says that it is back (or, should nobody, a while has
 * passed); one that it refuses is dropped, with a record in the log. Requests of this thread have a
 * time-out, so a daemon that hangs cannot hold it.
 */
#include "errands.h"
#include <pthread.h>
#include <string.h>
#include <time.h>
#include <banger/log.h>
#include <banger/methods.h>

#define ANSWER_MS 2000
#define CANCEL_GRACE_MS 1000
#define RETRY_S 5
#define CANCELS_MAX 64

struct report {
	struct report *next;
	struct banger_op_record r;
};

struct errands {
	struct calls *calls;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	pthread_t thread;
	bool running, stop, away;
	struct report *first, **last;
	size_t n;
	uint64_t lost;
	char cancels[CANCELS_MAX][BANGER_OP_ID_LEN + 1];
	size_t ncancels;
};

int errands_new(struct calls *calls, struct errands **ret)
{
	struct errands *e = calloc(1, sizeof(*e));
	pthread_condattr_t a;

	if (!e)
		return -ENOMEM;
	e->calls = calls;
	e->last = &e->first;
	pthread_mutex_init(&e->lock, NULL);
	pthread_condattr_init(&a);
	pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
	pthread_cond_init(&e->cond, &a);
	pthread_condattr_destroy(&a);
	*ret = e;
	return 0;
}

/* With the lock. */
static struct report *take_report(struct errands *e)
{
	struct report *r = e->first;

	if (!r)
		return NULL;
	e->first = r->next;
	if (!e->first)
		e->last = &e->first;
	e->n--;
	return r;
}

void errands_report(struct errands *e, const struct banger_op_record *record)
{
	struct report *r = calloc(1, sizeof(*r));

	pthread_mutex_lock(&e->lock);
	if (r) {
		r->r = *record;
		*e->last = r;
		e->last = &r->next;
		e->n++;
	}
	if (!r || e->n > ERRANDS_MAX) {
		free(take_report(e));
		e->lost++;
	}
	pthread_cond_signal(&e->cond);
	pthread_mutex_unlock(&e->lock);
}

void errands_cancel(struct errands *e, const char *op_id)
{
	pthread_mutex_lock(&e->lock);
	if (e->ncancels < CANCELS_MAX)
		strcpy(e->cancels[e->ncancels++], op_id);
	pthread_cond_signal(&e->cond);
	pthread_mutex_unlock(&e->lock);
}

void errands_wake(struct errands *e)
{
	pthread_mutex_lock(&e->lock);
	e->away = false;
	pthread_cond_signal(&e->cond);
	pthread_mutex_unlock(&e->lock);
}

static void wait_ms(struct errands *e, int ms)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_sec += ms / 1000;
	t.tv_nsec += ms % 1000 * 1000000L;
	t.tv_sec += t.tv_nsec / 1000000000L;
	t.tv_nsec %= 1000000000L;
	pthread_cond_timedwait(&e->cond, &e->lock, &t);
}

static int tell(struct errands *e, const char *method, const char *key, struct json_object *value,
	struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = json_object_new_object();
	bool heard;

	if (!params || !value || banger_json_add(params, key, value) < 0)
		return banger_error_oom(err);
	return calls_ask(e->calls,
		&(struct call){
			.method = method, .params = TAKE_PTR(params), .timeout_ms = ANSWER_MS},
		NULL, &heard, err);
}

/* The caller of op_id is being killed. It cannot die before it is answered. */
static void cancel(struct errands *e, const char *op_id)
{
	struct banger_error err;

	/* Not under op_id itself: that operation runs. */
	int r = tell(e, BANGER_METHOD_OP_CANCEL, "op_id", json_object_new_string(op_id), &err);
	if (r < 0 && err.code != BANGER_NOT_FOUND)
		log_warn("an operation could not be cancelled", KV_S("operation", op_id),
			KV_ERR(&err));
	int64_t until = banger_monotonic_us() + CANCEL_GRACE_MS * 1000;
	while (calls_in_flight(e->calls, op_id) && banger_monotonic_us() < until) {
		pthread_mutex_lock(&e->lock);
		if (e->stop)
			until = 0;
		else
			wait_ms(e, 20);
		pthread_mutex_unlock(&e->lock);
	}
	if (calls_in_flight(e->calls, op_id))
		calls_abort(e->calls, op_id);
}

/* Returns false when bangerd is away. */
static bool report(struct errands *e, const struct banger_op_record *r)
{
	struct banger_error err;

	/* Not under the reported id: the report is an operation of its own. */
	int x = tell(e, BANGER_METHOD_OP_REPORT, "op", banger_op_record_to_json(r), &err);
	if (x < 0 && (err.code == BANGER_UNAVAILABLE || err.code == BANGER_TIMEOUT))
		return false;
	if (x < 0)
		log_warn("bangerd did not take the report of a refusal",
			KV_S("operation", r->op_id), KV_ERR(&err));
	return true;
}

static void deliver(struct errands *e)
{
	struct report *r = take_report(e);

	pthread_mutex_unlock(&e->lock);
	bool done = report(e, &r->r);
	pthread_mutex_lock(&e->lock);
	if (done) {
		free(r);
		return;
	}
	e->away = true;
	r->next = e->first;
	e->first = r;
	if (!r->next)
		e->last = &r->next;
	e->n++;
}

static void *run(void *arg)
{
	struct errands *e = arg;
	char op_id[BANGER_OP_ID_LEN + 1];

	pthread_mutex_lock(&e->lock);
	while (!e->stop) {
		if (e->ncancels > 0) {
			strcpy(op_id, e->cancels[--e->ncancels]);
			pthread_mutex_unlock(&e->lock);
			cancel(e, op_id);
			pthread_mutex_lock(&e->lock);
		} else if (e->first && !e->away) {
			deliver(e);
		} else if (e->first) {
			wait_ms(e, RETRY_S * 1000);
			e->away = false;
		} else {
			pthread_cond_wait(&e->cond, &e->lock);
		}
	}
	pthread_mutex_unlock(&e->lock);
	return NULL;
}

int errands_start(struct errands *e)
{
	int x = pthread_create(&e->thread, NULL, run, e);

	e->running = x == 0;
	return -x;
}

void errands_freep(struct errands **p)
{
	struct errands *e = *p;
	struct report *r;

	if (!e)
		return;
	pthread_mutex_lock(&e->lock);
	e->stop = true;
	pthread_cond_signal(&e->cond);
	pthread_mutex_unlock(&e->lock);
	if (e->running)
		pthread_join(e->thread, NULL);
	e->lost += e->n;
	while ((r = take_report(e)))
		free(r);
	if (e->lost > 0)
		log_warn("refusals that bangerd was not told of", KV_I("number", e->lost));
	pthread_cond_destroy(&e->cond);
	pthread_mutex_destroy(&e->lock);
	free(e);
	*p = NULL;
}
