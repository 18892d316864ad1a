/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Operations that go on after the request that began them was answered: METHOD.begin starts one,
 * METHOD.status looks at it, METHOD.cancel ends it, all by its op_id. A job has a thread of its own;
 * it ends by itself, when it is cancelled, or with the daemon. What the last JOBS_KEPT of them
 * returned is kept for .status; how they ended is in the operation's record.
 */
#ifndef BANGER_JOBS_H
#define BANGER_JOBS_H

#include "rpc/dispatch.h"

#define JOBS_KEPT 64
#define JOBS_MAX 64 /* that run at once */

struct api;
struct jobs;

int jobs_new(struct jobs **ret);
/* Cancels those that run and waits for them. */
void jobs_freep(struct jobs **j);

struct job {
	/* On the job's thread. *ret_result: owned by the caller; left NULL: nothing to tell. */
	int (*run)(void *arg, struct operation *op, struct json_object **ret_result,
		struct banger_error *err);
	void (*done)(void *arg); /* frees arg, in every case; may be NULL */
	void *arg;
};
/* Detaches the call's operation and runs the job; on failure the call is as it was. BUSY: too many run. */
int jobs_start(struct jobs *j, struct rpc_call *call, const struct job *job, struct banger_error *err);
/* What a job that ended well returned, as a new reference; NULL: not known (any more). */
struct json_object *jobs_result(struct jobs *j, const char *op_id);

/* What a long method does, as one call and as a job alike. */
typedef int (*job_method)(const struct api *api, struct operation *op, struct json_object *params, bool trusted,
	struct json_object **ret, struct banger_error *err);
/* METHOD.begin: the method as a job, with the call's parameters; the answer is its op_id. */
int job_begin(const struct api *api, struct rpc_call *call, job_method method, struct banger_error *err);
/* METHOD.status: {"op":…} and what the method returned; METHOD.cancel. The operation is to be one of `method` or of
 * what begins so; NOT_FOUND says that it is no `what`. */
int job_status(const struct api *api, struct rpc_call *call, const char *method, const char *what, struct banger_error *err);
int job_cancel(const struct api *api, struct rpc_call *call, const char *method, const char *what, struct banger_error *err);
extern const struct rpc_param job_params[]; /* of both */

#endif
