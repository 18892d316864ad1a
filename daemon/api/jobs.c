/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads are detached and counted: jobs_freep() waits for the count. Results are a ring of texts, for
 * JSON objects are not for several threads.
 */
#include "api/jobs.h"

#include <pthread.h>
#include <string.h>
#include "api/api.h"

struct kept {
	char op_id[BANGER_OP_ID_LEN + 1];
	char *text;
};

struct running {
	struct jobs *jobs;
	struct running *prev, *next;
	struct operation *op;
	struct job job;
};

struct jobs {
	pthread_mutex_t lock;
	pthread_cond_t ended;
	struct running *first;
	size_t n;
	struct kept kept[JOBS_KEPT];
	size_t next;
};

static void keep(struct jobs *j, const char *op_id, struct json_object *result)
{
	const char *s = json_object_to_json_string_ext(
		result, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
	char *text = result && s ? strdup(s) : NULL;

	if (!text)
		return;
	pthread_mutex_lock(&j->lock);
	struct kept *k = &j->kept[j->next++ % JOBS_KEPT];
	char *old = k->text;
	snprintf(k->op_id, sizeof(k->op_id), "%s", op_id);
	k->text = text;
	pthread_mutex_unlock(&j->lock);
	free(old);
}

static void list_add(struct jobs *j, struct running *r)
{
	r->next = j->first;
	if (r->next)
		r->next->prev = r;
	j->first = r;
	j->n++;
}

static void list_remove(struct jobs *j, struct running *r)
{
	if (r->prev)
		r->prev->next = r->next;
	else
		j->first = r->next;
	if (r->next)
		r->next->prev = r->prev;
}

/* With the lock: one less, perhaps the last that somebody waits for. */
static void ended(struct jobs *j)
{
	j->n--;
	pthread_cond_broadcast(&j->ended);
}

static void *run(void *arg)
{
	_cleanup_free_ struct running *r = arg;
	struct jobs *j = r->jobs;
	_cleanup_json_ struct json_object *result = NULL;
	struct banger_error err = {0};

	operation_adopt(r->op);
	if (r->job.run(r->job.arg, r->op, &result, &err) == 0)
		keep(j, operation_id(r->op), result);
	if (r->job.done)
		r->job.done(r->job.arg);
	/* Nobody cancels it any more once it is off the list; then it may go. */
	pthread_mutex_lock(&j->lock);
	list_remove(j, r);
	pthread_mutex_unlock(&j->lock);
	operation_end(r->op, &err);
	pthread_mutex_lock(&j->lock);
	ended(j);
	pthread_mutex_unlock(&j->lock);
	return NULL;
}

static int start_thread(struct running *r)
{
	pthread_attr_t attr;
	pthread_t thread;

	int e = pthread_attr_init(&attr);
	if (e)
		return e;
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	e = pthread_create(&thread, &attr, run, r);
	pthread_attr_destroy(&attr);
	return e;
}

static bool enlist(struct jobs *j, struct running *r)
{
	pthread_mutex_lock(&j->lock);
	bool room = j->n < JOBS_MAX;
	if (room)
		list_add(j, r);
	pthread_mutex_unlock(&j->lock);
	return room;
}

int jobs_start(
	struct jobs *j, struct rpc_call *call, const struct job *job, struct banger_error *err)
{
	struct running *r = calloc(1, sizeof(*r));

	if (!r)
		return banger_error_oom(err);
	r->jobs = j;
	r->job = *job;
	r->op = call->op;
	if (!enlist(j, r)) {
		free(r);
		return banger_error_set(
			err, BANGER_BUSY, "%d long operations run already", JOBS_MAX);
	}
	rpc_call_detach(call);
	int e = start_thread(r);
	if (!e)
		return 0;
	operation_adopt(r->op);
	call->op = r->op;
	pthread_mutex_lock(&j->lock);
	list_remove(j, r);
	ended(j);
	pthread_mutex_unlock(&j->lock);
	free(r);
	return banger_error_set_errno(err, e, "cannot start a thread");
}

struct json_object *jobs_result(struct jobs *j, const char *op_id)
{
	_cleanup_free_ char *text = NULL;
	struct json_object *ret = NULL;

	pthread_mutex_lock(&j->lock);
	for (size_t i = 0; i < JOBS_KEPT && !text; i++)
		if (j->kept[i].text && strcmp(j->kept[i].op_id, op_id) == 0)
			text = strdup(j->kept[i].text);
	pthread_mutex_unlock(&j->lock);
	if (text)
		(void)banger_json_parse(text, strlen(text), &ret, NULL);
	return ret;
}

int jobs_new(struct jobs **ret)
{
	struct jobs *j = calloc(1, sizeof(*j));

	if (!j)
		return -ENOMEM;
	pthread_mutex_init(&j->lock, NULL);
	pthread_cond_init(&j->ended, NULL);
	*ret = j;
	return 0;
}

void jobs_freep(struct jobs **p)
{
	struct jobs *j = *p;

	if (!j)
		return;
	pthread_mutex_lock(&j->lock);
	for (struct running *r = j->first; r; r = r->next)
		operation_cancel(r->op);
	while (j->n > 0)
		pthread_cond_wait(&j->ended, &j->lock);
	pthread_mutex_unlock(&j->lock);
	for (size_t i = 0; i < JOBS_KEPT; i++)
		free(j->kept[i].text);
	pthread_cond_destroy(&j->ended);
	pthread_mutex_destroy(&j->lock);
	free(j);
	*p = NULL;
}

/* ---- begin, status, cancel */

/* What a job needs of the request, which is gone when it runs. */
struct request {
	const struct api *api;
	job_method run;
	struct json_object *params;
	bool trusted;
};

static void request_free(void *arg)
{
	struct request *q = arg;

	if (!q)
		return;
	json_object_put(q->params);
	free(q);
}

static int run_request(
	void *arg, struct operation *op, struct json_object **ret, struct banger_error *err)
{
	struct request *q = arg;

	return q->run(q->api, op, q->params, q->trusted, ret, err);
}

/* With a copy of the parameters of its own: JSON objects are not for two threads. */
static struct request *request_new(
	const struct api *api, const struct rpc_call *call, job_method method)
{
	struct request *q = calloc(1, sizeof(*q));

	if (!q)
		return NULL;
	*q = (struct request){.api = api, .run = method, .trusted = call->peer->trusted};
	if (json_object_deep_copy(call->params, &q->params, NULL) < 0) {
		request_free(q);
		return NULL;
	}
	return q;
}

int job_begin(
	const struct api *api, struct rpc_call *call, job_method method, struct banger_error *err)
{
	_cleanup_json_ struct json_object *result = json_object_new_object();
	struct request *q = request_new(api, call, method);
	const struct job job = {run_request, request_free, q};
	int r = -ENOMEM;

	if (q && result && banger_json_add_str(result, "op_id", operation_id(call->op)) == 0)
		r = jobs_start(api->jobs, call, &job, err);
	else
		banger_error_oom(err);
	if (r < 0)
		request_free(q);
	else
		call->result = TAKE_PTR(result);
	return r;
}

static int find(const struct api *api, const struct rpc_call *call, const char *method,
	const char *what, struct banger_op_record *ret, struct banger_error *err)
{
	int r = operations_find(api->operations, banger_json_str(call->params, "op_id"), ret, err);

	if (r == 0 && strncmp(ret->method, method, strlen(method)) != 0)
		return banger_error_set(
			err, BANGER_NOT_FOUND, "operation \"%s\" is no %s", ret->op_id, what);
	return r;
}

int job_status(const struct api *api, struct rpc_call *call, const char *method, const char *what,
	struct banger_error *err)
{
	struct banger_op_record record;

	int r = find(api, call, method, what, &record, err);
	if (r < 0)
		return r;
	_cleanup_json_ struct json_object *result = jobs_result(api->jobs, record.op_id);
	if (!result)
		result = json_object_new_object();
	struct json_object *op = api_op_to_json(api, &record);
	if (!result || !op || banger_json_add(result, "op", op) < 0)
		return banger_error_oom(err);
	call->result = TAKE_PTR(result);
	return 0;
}

int job_cancel(const struct api *api, struct rpc_call *call, const char *method, const char *what,
	struct banger_error *err)
{
	struct banger_op_record record;

	int r = find(api, call, method, what, &record, err);
	return r < 0 ? r : operations_cancel(api->operations, record.op_id, err);
}

const struct rpc_param job_params[] = {{"op_id", RPC_STRING, true, 0, 64}, {NULL, RPC_END}};
