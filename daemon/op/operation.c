/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Operations from their first log record to their last.
 *
 * Those that run are in a list; what ended goes to the journal, unless the store has it already
 * because it was written in the transaction of the change. What only reads is silent as long as it
 * succeeds: it is logged at debug level. When it fails it is logged and kept like any other, its
 * first record included.
 *
 * The list's lock is held for the time of a walk and while a cancellation is set, so an operation
 * cannot be freed under one who cancels it.
 */
#include "op/operation.h"
#include "op/journal.h"
#include "op/summary.h"
#include <banger/log.h>
#include <assert.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>

struct operation {
	struct operations *owner;
	struct operation *prev, *next;
	enum operation_kind kind;
	struct banger_op_record record; /* as it runs: elapsed_us -1 */
	int64_t started_mono_us;
	bool recorded; /* the store has it, as completed */
	atomic_bool cancelled;
	int cancel_fd;
	banger_op_id saved; /* what the thread worked for before */
	char *progress;     /* JSON text, by the owner's lock; NULL: nothing was said */
};

struct operations {
	struct store *store;
	struct hub *hub;
	struct journal *journal;
	pthread_mutex_t lock;
	struct operation *first; /* newest first */
};

/* ---- the log */

static void keep_line(void *arg, const char *op_id, const char *line, size_t len)
{
	struct operations *o = arg;

	journal_add_line(o->journal, op_id, line, len);
	hub_publish(o->hub, HUB_LOG, op_id, line, len);
}

static void log_started(const struct operation *op)
{
	const struct banger_op_record *r = &op->record;

	log_info("operation started", KV_S("method", r->method),
		KV_S("params", r->params[0] ? r->params : NULL), KV_I("uid", r->actor.uid),
		KV_I("pid", r->actor.pid),
		KV_S("by", r->actor.program[0] ? r->actor.program : NULL),
		KV_S("door", r->actor.door[0] ? r->actor.door : NULL),
		KV_S("vm", r->actor.vm[0] ? r->actor.vm : NULL));
}

/* Trouble of our own is an error; a refusal is not. */
static enum banger_log_level level_of(enum banger_code code)
{
	return code == BANGER_INTERNAL || code == BANGER_CORRUPT || code == BANGER_NO_SPACE
		       ? BANGER_ERR
		       : BANGER_WARN;
}

static void log_ended(const struct banger_op_record *r)
{
	double ms = r->elapsed_us / 1000.0;
	const char *vm = r->actor.vm[0] ? r->actor.vm : NULL;

	if (r->code == BANGER_OK)
		log_info("operation completed", KV_S("method", r->method), KV_D("elapsed_ms", ms),
			KV_S("vm", vm));
	else
		banger_log_(level_of(r->code), "operation failed", KV_S("method", r->method),
			KV_D("elapsed_ms", ms), KV_S("code", banger_code_name(r->code)),
			KV_S("error", r->message), KV_S("vm", vm));
}

/* progress: borrowed; NULL: none. */
static void publish_op(struct operations *o, const struct banger_op_record *r,
	struct json_object *progress)
{
	_cleanup_json_ struct json_object *event = NULL, *op = NULL;

	if (!hub_wanted(o->hub, HUB_OPS))
		return;
	event = json_object_new_object();
	op = banger_op_record_to_json(r);
	if (!event || !op || banger_json_add_str(event, "event", "op") < 0 ||
		(progress &&
			banger_json_add(op, "progress", json_object_get(progress)) < 0) ||
		banger_json_add(event, "op", TAKE_PTR(op)) < 0)
		return;
	const char *s = json_object_to_json_string_ext(
		event, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
	if (s)
		hub_publish(o->hub, HUB_OPS, r->op_id, s, strlen(s));
}

/* ---- life of one */

static struct operation *find_running(struct operations *o, const char *op_id, bool changes_only)
{
	for (struct operation *op = o->first; op; op = op->next)
		if (strcmp(op->record.op_id, op_id) == 0 &&
			!(changes_only && op->kind == OPERATION_READ))
			return op;
	return NULL;
}

static int list_add(struct operations *o, struct operation *op, struct banger_error *err)
{
	pthread_mutex_lock(&o->lock);
	bool taken = op->kind != OPERATION_READ && find_running(o, op->record.op_id, true);
	if (!taken) {
		op->next = o->first;
		if (o->first)
			o->first->prev = op;
		o->first = op;
	}
	pthread_mutex_unlock(&o->lock);
	if (!taken)
		return 0;
	return banger_error_set(
		err, BANGER_EXISTS, "an operation with the id %s runs already", op->record.op_id);
}

static void list_remove(struct operations *o, struct operation *op)
{
	pthread_mutex_lock(&o->lock);
	if (op->prev)
		op->prev->next = op->next;
	else
		o->first = op->next;
	if (op->next)
		op->next->prev = op->prev;
	pthread_mutex_unlock(&o->lock);
}

static void operation_free(struct operation *op)
{
	banger_closep(&op->cancel_fd);
	free(op->progress);
	free(op);
}

static void fill_record(struct banger_op_record *r, const char *method, const char *op_id,
	const struct banger_actor *actor, struct json_object *params)
{
	snprintf(r->op_id, sizeof(r->op_id), "%s", op_id);
	snprintf(r->method, sizeof(r->method), "%s", method);
	r->actor = *actor;
	r->started_us = banger_now_us();
	r->elapsed_us = -1;
	params_summary(params, r->params, sizeof(r->params));
}

int operation_begin(struct operations *o, enum operation_kind kind, const char *method,
	const char *op_id, const struct banger_actor *actor, struct json_object *params,
	struct operation **ret, struct banger_error *err)
{
	assert(banger_op_id_valid(op_id));
	struct operation *op = calloc(1, sizeof(*op));

	if (!op)
		return banger_error_oom(err);
	op->owner = o;
	op->kind = kind;
	op->started_mono_us = banger_monotonic_us();
	fill_record(&op->record, method, op_id, actor, params);
	op->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int r = op->cancel_fd < 0 ? banger_error_set_errno(err, errno, "cannot begin an operation")
				  : list_add(o, op, err);
	if (r < 0) {
		operation_free(op);
		return r;
	}
	op->saved = banger_op_enter(op->record.op_id);
	if (kind != OPERATION_READ)
		log_started(op);
	else
		log_debug("operation started", KV_S("method", method));
	if (kind == OPERATION_LONG)
		publish_op(o, &op->record, NULL);
	*ret = op;
	return 0;
}

static void end_quietly(const struct operation *op, const struct banger_op_record *r)
{
	log_debug("operation completed", KV_S("method", r->method),
		KV_D("elapsed_ms", r->elapsed_us / 1000.0));
}

void operation_end(struct operation *op, const struct banger_error *err)
{
	struct operations *o = op->owner;
	struct banger_op_record r = op->record;

	r.elapsed_us = operation_elapsed_us(op);
	if (err && err->code != BANGER_OK) {
		r.code = err->code;
		snprintf(r.message, sizeof(r.message), "%s", err->message);
	}
	if (op->kind == OPERATION_READ && r.code == BANGER_OK) {
		end_quietly(op, &r);
	} else {
		if (op->kind == OPERATION_READ && !banger_log_enabled(BANGER_DEBUG))
			log_started(op);
		log_ended(&r);
		if (!op->recorded || r.code != BANGER_OK)
			journal_add_record(o->journal, &r);
		publish_op(o, &r, NULL);
	}
	list_remove(o, op);
	hub_publish(o->hub, HUB_LOG, r.op_id, "", 0);
	banger_op_leavep(&op->saved);
	operation_free(op);
}

void operations_hold(struct operations *o)
{
	hub_hold();
}

void operations_release(struct operations *o)
{
	hub_release(o->hub);
}

void operation_leave(struct operation *op)
{
	banger_op_leavep(&op->saved);
}

void operation_adopt(struct operation *op)
{
	op->saved = banger_op_enter(op->record.op_id);
}

void operation_progress(struct operation *op, struct json_object *progress)
{
	_cleanup_json_ struct json_object *owned = progress;
	const char *text = json_object_to_json_string_ext(
		owned, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
	char *copy = owned && text ? strdup(text) : NULL;

	if (!copy)
		return; /* what was said before stands */
	pthread_mutex_lock(&op->owner->lock);
	char *old = op->progress;
	op->progress = copy;
	pthread_mutex_unlock(&op->owner->lock);
	free(old);
	publish_op(op->owner, &op->record, owned);
}

struct json_object *operations_progress(struct operations *o, const char *op_id)
{
	struct json_object *ret = NULL;
	_cleanup_free_ char *text = NULL;

	pthread_mutex_lock(&o->lock);
	const struct operation *op = find_running(o, op_id, true);
	if (op && op->progress)
		text = strdup(op->progress);
	pthread_mutex_unlock(&o->lock);
	if (text)
		(void)banger_json_parse(text, strlen(text), &ret, NULL);
	return ret;
}

const char *operation_id(const struct operation *op)
{
	return op->record.op_id;
}

const struct banger_actor *operation_actor(const struct operation *op)
{
	return &op->record.actor;
}

int64_t operation_elapsed_us(const struct operation *op)
{
	return banger_monotonic_us() - op->started_mono_us;
}

void operation_completed_record(struct operation *op, struct banger_op_record *ret)
{
	*ret = op->record;
	ret->elapsed_us = operation_elapsed_us(op);
	op->recorded = true;
}

/* ---- cancellation */

bool operation_cancelled(const struct operation *op)
{
	return atomic_load(&op->cancelled);
}

int operation_cancel_fd(const struct operation *op)
{
	return op->cancel_fd;
}

int operation_check_cancelled(const struct operation *op, struct banger_error *err)
{
	if (!operation_cancelled(op))
		return 0;
	return banger_error_set(err, BANGER_CANCELLED, "the operation was cancelled");
}

void operation_cancel(struct operation *op)
{
	/* The counter of a descriptor that is written once cannot be full. */
	if (!atomic_exchange(&op->cancelled, true))
		eventfd_write(op->cancel_fd, 1);
}

int operations_cancel(struct operations *o, const char *op_id, struct banger_error *err)
{
	const char *self = banger_op_current();
	bool found = false;

	pthread_mutex_lock(&o->lock);
	for (struct operation *op = o->first; op; op = op->next) {
		if (strcmp(op->record.op_id, op_id) != 0)
			continue;
		/* The request to cancel may come under the id of what it cancels. */
		if (op->kind == OPERATION_READ && self && strcmp(self, op_id) == 0)
			continue;
		operation_cancel(op);
		found = true;
	}
	pthread_mutex_unlock(&o->lock);
	return found ? 0
		     : banger_error_set(
			       err, BANGER_NOT_FOUND, "operation \"%s\" does not run", op_id);
}

void operations_cancel_all(struct operations *o)
{
	pthread_mutex_lock(&o->lock);
	for (struct operation *op = o->first; op; op = op->next)
		operation_cancel(op);
	pthread_mutex_unlock(&o->lock);
}

void operations_report(struct operations *o, const struct banger_op_record *r)
{
	_cleanup_op_ banger_op_id saved = banger_op_enter(r->op_id);

	log_ended(r);
	journal_add_record(o->journal, r);
	publish_op(o, r, NULL);
}

/* ---- looking at them */

int operations_running(struct operations *o, struct banger_op_record **ret, size_t *ret_n)
{
	size_t n = 0, i = 0;
	int r = -ENOMEM;

	pthread_mutex_lock(&o->lock);
	for (struct operation *op = o->first; op; op = op->next)
		n += op->kind != OPERATION_READ;
	struct banger_op_record *ops = calloc(n ? n : 1, sizeof(*ops));
	for (struct operation *op = o->first; ops && op; op = op->next)
		if (op->kind != OPERATION_READ)
			ops[i++] = op->record;
	pthread_mutex_unlock(&o->lock);
	if (ops) {
		*ret = ops;
		*ret_n = n;
		r = 0;
	}
	return r;
}

bool operations_is_running(struct operations *o, const char *op_id)
{
	pthread_mutex_lock(&o->lock);
	bool found = find_running(o, op_id, false);
	pthread_mutex_unlock(&o->lock);
	return found;
}

void operations_flush(struct operations *o)
{
	journal_flush(o->journal);
}

/* How many changes that run have an id that begins with `word`; one of them into *ret. */
static size_t match_running(struct operations *o, const char *word, struct banger_op_record *ret)
{
	size_t n = 0;

	pthread_mutex_lock(&o->lock);
	for (struct operation *op = o->first; op; op = op->next) {
		if (op->kind == OPERATION_READ ||
			strncmp(op->record.op_id, word, strlen(word)) != 0)
			continue;
		*ret = op->record;
		n++;
	}
	pthread_mutex_unlock(&o->lock);
	return n;
}

int operations_find(struct operations *o, const char *word, struct banger_op_record *ret,
	struct banger_error *err)
{
	struct banger_op_record running, kept;
	struct banger_error why = {0};

	size_t n = *word ? match_running(o, word, &running) : 0;
	if (n == 1 && strcmp(running.op_id, word) == 0) {
		*ret = running;
		return 0;
	}
	operations_flush(o);
	int r = store_op_find(o->store, word, &kept, &why);
	bool is_kept = r == 0, same = n == 1 && is_kept && strcmp(kept.op_id, running.op_id) == 0;
	if (n > 1 || (n == 1 && (is_kept || why.code == BANGER_AMBIGUOUS) && !same))
		return banger_error_set(
			err, BANGER_AMBIGUOUS, "multiple operations match \"%s\"", word);
	if (n == 0 && r < 0) {
		if (err)
			*err = why;
		return r;
	}
	*ret = n ? running : kept;
	return 0;
}

static bool has_op(const struct banger_op_record *ops, size_t n, const char *op_id)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(ops[i].op_id, op_id) == 0)
			return true;
	return false;
}

/* Both lists have the one that began last first, and so has the result: all that run, and of the
 * others as many as fit. Returns how many they are. */
static size_t merge_ops(const struct banger_op_record *running, size_t n_running,
	const struct banger_op_record *kept, size_t n_kept, size_t limit,
	struct banger_op_record *to)
{
	size_t n = 0, i = 0, room = limit > n_running ? limit - n_running : 0;

	for (size_t k = 0; k < n_kept && room > 0; k++) {
		if (has_op(running, n_running, kept[k].op_id))
			continue; /* it ended between the two looks */
		while (i < n_running && running[i].started_us >= kept[k].started_us)
			to[n++] = running[i++];
		to[n++] = kept[k];
		room--;
	}
	while (i < n_running)
		to[n++] = running[i++];
	return n;
}

static int by_start(const void *a, const void *b)
{
	int64_t x = ((const struct banger_op_record *)a)->started_us;
	int64_t y = ((const struct banger_op_record *)b)->started_us;

	return x > y ? -1 : x < y;
}

int operations_list(struct operations *o, int64_t limit, bool failed_only, int64_t uid,
	struct banger_op_record **ret, size_t *ret_n, struct banger_error *err)
{
	_cleanup_free_ struct banger_op_record *running = NULL, *kept = NULL;
	size_t n_running = 0, n_kept = 0, n = 0;

	if (operations_running(o, &running, &n_running) < 0)
		return banger_error_oom(err);
	operations_flush(o);
	int r = store_ops_list(o->store, limit, failed_only, uid, &kept, &n_kept, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < n_running; i++)
		if (!failed_only && (uid < 0 || running[i].actor.uid == uid))
			running[n++] = running[i];
	/* The list of those that run is in the order in which they took its lock. */
	qsort(running, n, sizeof(*running), by_start);
	struct banger_op_record *all = calloc(n + n_kept + 1, sizeof(*all));
	if (!all)
		return banger_error_oom(err);
	*ret_n = merge_ops(running, n, kept, n_kept, limit, all);
	*ret = all;
	return 0;
}

int operations_lines(struct operations *o, const char *op_id, char ***ret, size_t *ret_n,
	struct banger_error *err)
{
	operations_flush(o);
	return store_op_lines(o->store, op_id, ret, ret_n, err);
}

/* ---- all of them */

int operations_new(struct store *store, struct hub *hub, int64_t kept, struct operations **ret,
	struct banger_error *err)
{
	struct operations *o = calloc(1, sizeof(*o));

	if (!o)
		return banger_error_oom(err);
	o->store = store;
	o->hub = hub;
	int r = journal_new(store, kept, &o->journal, err);
	if (r < 0) {
		free(o);
		return r;
	}
	pthread_mutex_init(&o->lock, NULL);
	banger_log_set_hook(keep_line, o);
	*ret = o;
	return 0;
}

void operations_freep(struct operations **p)
{
	struct operations *o = *p;

	if (!o)
		return;
	assert(!o->first);
	banger_log_set_hook(NULL, NULL);
	journal_freep(&o->journal);
	pthread_mutex_destroy(&o->lock);
	free(o);
	*p = NULL;
}
