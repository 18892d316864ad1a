/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See attempt.h. What is to be noted about the order: the operation is ours (calls.h) from before
 * the request to after the answer to the kernel, because only then the kernel itself knows of the
 * change; and the answer is given when the model shows the change, so that the caller's next look
 * finds it.
 */
#include "attempt.h"
#include <string.h>
#include "background.h"
#include "content/content.h"
#include "follow.h"
#include "loop.h"

#define LOOK_US 500     /* before going to sleep */
#define SHOWN_MS 5000   /* at most until the model shows a change that was made */
#define CONTENT_MS 2000 /* and until rootfs/ does */

void attempt_begin(struct attempt *a, struct fs *fs, const struct fuse_ctx *who, const char *method)
{
	*a = (struct attempt){
		.fs = fs,
		.op = banger_op_id_mint(),
		.actor = {.uid = who->uid, .gid = who->gid, .pid = who->pid, .door = "fs"},
		.method = method,
		.started_us = banger_now_us(),
		.started_mono_us = banger_monotonic_us(),
	};
	banger_actor_resolve(&a->actor);
	if (fs->vm)
		snprintf(a->actor.vm, sizeof(a->actor.vm), "%s", fs->vm);
	a->before = banger_op_enter(a->op.s);
}

void attempt_about(struct attempt *a, const char *key, uint64_t node, const char *name)
{
	char path[sizeof(a->params)];
	size_t n = strlen(a->params);

	fs_path(a->fs, node, name, path, sizeof(path));
	snprintf(a->params + n, sizeof(a->params) - n, "%s%s=%s", n ? " " : "", key, path);
	/* Cut within a character, it would not be text. */
	for (n = strlen(a->params); n > 0 && !banger_utf8_valid(a->params, n); n--)
		a->params[n - 1] = '\0';
}

int attempt_allowed(struct attempt *a)
{
	if (fs_may_change(a->fs, a->actor.uid))
		return 0;
	return banger_error_set(&a->err, BANGER_DENIED,
		"only uid %u, which runs bangerfs, and root may change this registry", a->fs->uid);
}

int attempt_refuse(struct attempt *a, enum banger_code code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	int r = banger_error_vset(&a->err, code, fmt, ap);
	va_end(ap);
	return r;
}

int attempt_refuse_errno(struct attempt *a, int errnum, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return banger_error_set_errno(&a->err, errnum, "%s", text);
}

/* The answer to most changes comes within the time of a commit: too soon to sleep, or to have another thread take
 * this one's place at the device. */
static void await(void *left, int fd)
{
	if (!banger_look(fd, LOOK_US))
		*(struct loop_worker **)left = loop_leave();
}

int attempt_ask(struct attempt *a, const char *method, struct json_object *params,
	struct json_object **ret_result, int *ret_fd)
{
	_cleanup_(loop_return) struct loop_worker *left = NULL;

	if (!params)
		return banger_error_oom(&a->err);
	return calls_ask(a->fs->calls,
		&(struct call){.method = method,
			.params = params,
			.actor = &a->actor,
			.ret_fd = ret_fd,
			.wait = await,
			.arg = &left},
		ret_result, &a->heard, &a->err);
}

static int wait_long(struct attempt *a, int64_t generation)
{
	LOOP_MAY_WAIT();
	return model_wait(a->fs->model, generation, SHOWN_MS);
}

static void wait_shown(struct attempt *a, int64_t generation, bool published)
{
	if (generation < 0)
		return;
	if (model_generation(a->fs->model) < generation && wait_long(a, generation) < 0)
		log_warn("a change was made but is not shown yet", KV_S("method", a->method));
	if (!published)
		return;
	pthread_rwlock_rdlock(&a->fs->content_lock);
	if (a->fs->content && !content_look(a->fs->content, generation, LOOK_US)) {
		LOOP_MAY_WAIT();
		content_wait(a->fs->content, generation, CONTENT_MS);
	}
	pthread_rwlock_unlock(&a->fs->content_lock);
}

int attempt_change(struct attempt *a, const char *method, struct json_object *params,
	bool published, struct json_object **ret_result)
{
	_cleanup_json_ struct json_object *result = NULL;

	int r = follow_ready(a->fs->follow, &a->err);
	if (r < 0) {
		json_object_put(params);
		return r;
	}
	calls_own(a->fs->calls, a->op.s);
	a->own = true;
	r = attempt_ask(a, method, params, &result, NULL);
	int64_t generation = r == 0 ? banger_json_int(result, "generation", -1) : -1;
	if (r == 0)
		follow_answer(a->fs->follow, a->op.s, result,
			strcmp(method, BANGER_METHOD_IMAGE_DELETE) == 0);
	if (r < 0) {
		/* Perhaps the connection broke between the change and its answer. If not, and the
		 * change comes after all, it must not be taken for one that the kernel knows. */
		a->own = false;
		generation = calls_disown(a->fs->calls, a->op.s);
		if (generation >= 0) {
			a->err = (struct banger_error){0};
			a->heard = true;
			r = 0;
		}
	}
	if (r == 0)
		wait_shown(a, generation, published);
	if (ret_result)
		*ret_result = TAKE_PTR(result);
	return r;
}

static void record_of(const struct attempt *a, int64_t elapsed_us, struct banger_op_record *ret)
{
	*ret = (struct banger_op_record){
		.actor = a->actor,
		.started_us = a->started_us,
		.elapsed_us = elapsed_us,
		.code = a->err.code,
	};
	strcpy(ret->op_id, a->op.s);
	snprintf(ret->method, sizeof(ret->method), "%s", a->method);
	snprintf(ret->params, sizeof(ret->params), "%s", a->params);
	snprintf(ret->message, sizeof(ret->message), "%s", a->err.message);
}

static void log_end(const struct attempt *a, int64_t elapsed_us, bool failed)
{
	const struct banger_kv kv[] = {
		KV_S("method", a->method),
		KV_S("params", a->params[0] ? a->params : NULL),
		KV_I("uid", a->actor.uid),
		KV_I("pid", a->actor.pid),
		KV_S("caller", a->actor.program),
		KV_S("vm", a->actor.vm[0] ? a->actor.vm : NULL),
		KV_D("elapsed_ms", elapsed_us / 1000.0),
		KV_S("code", failed ? banger_code_name(a->err.code) : NULL),
		KV_S("error", failed ? a->err.message : NULL),
	};
	enum banger_log_level level = failed ? BANGER_WARN : a->quiet ? BANGER_DEBUG : BANGER_INFO;

	if (banger_log_enabled(level))
		banger_log_write(level,
			failed ? "filesystem call failed" : "filesystem call completed", kv,
			ELEMENTSOF(kv));
}

int attempt_end(struct attempt *a, int r)
{
	int64_t elapsed_us = banger_monotonic_us() - a->started_mono_us;
	struct banger_op_record record;

	log_end(a, elapsed_us, r < 0);
	if (a->fs->vm)
		background_log_trim();
	if (r == 0)
		return 0;
	/* Under the id that the caller gave, whatever the daemon's answer was called. */
	strcpy(a->err.op_id, a->op.s);
	last_errors_set(a->fs->last_errors, a->actor.uid, &a->err);
	if (!a->heard) {
		record_of(a, elapsed_us, &record);
		errands_report(a->fs->errands, &record);
	}
	/* To the kernel ENOSYS means: never ask for this again. */
	return r == -ENOSYS ? EOPNOTSUPP : -r;
}

void attempt_done(struct attempt *a)
{
	if (a->own)
		calls_disown(a->fs->calls, a->op.s);
	a->own = false;
	banger_op_leavep(&a->before);
}

int attempt_refused(struct fs *fs, const struct fuse_ctx *who, const char *method, uint64_t node,
	const char *name, enum banger_code code, const char *fmt, ...)
{
	struct attempt a;
	va_list ap;

	attempt_begin(&a, fs, who, method);
	attempt_about(&a, "path", node, name);
	int r = attempt_allowed(&a);
	if (r == 0) {
		va_start(ap, fmt);
		r = banger_error_vset(&a.err, code, fmt, ap);
		va_end(ap);
	}
	int e = attempt_end(&a, r);
	attempt_done(&a);
	return e;
}

int attempt_failed(
	struct fs *fs, const struct fuse_ctx *who, const char *method, uint64_t node, int errnum)
{
	struct attempt a;

	attempt_begin(&a, fs, who, method);
	attempt_about(&a, "path", node, NULL);
	int e = attempt_end(&a, attempt_refuse_errno(&a, errnum, "%s", a.params));
	attempt_done(&a);
	return e;
}
