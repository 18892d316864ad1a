/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Operations: everything that somebody asked of banger, under one op_id from its first log record
 * ("operation started") to its last ("operation completed" or "operation failed").
 *
 * Running operations are listed in memory; finished ones are kept in the store, the newest
 * config.ops_kept of them, together with their log lines, written behind by a thread of its own in
 * batches. A change to the registry is different: its record goes into the very transaction that
 * makes the change (operation_completed_record()), so that what happened and who did it never
 * disagree after a crash.
 */
#ifndef BANGER_OPERATION_H
#define BANGER_OPERATION_H

#include <stdatomic.h>
#include <banger/model.h>
#include "op/hub.h"
#include "store/store.h"

struct operations;
struct operation;

enum operation_kind {
	OPERATION_CHANGE, /* recorded, logged at info */
	OPERATION_LONG,	  /* the same, and its start is an event too */
	OPERATION_READ,	  /* logged at debug and recorded only when it fails */
};

/* Also starts the writer thread and installs the log hook. Borrows store and hub. */
int operations_new(struct store *store, struct hub *hub, int64_t kept, struct operations **ret, struct banger_error *err);
/* Flushes, stops the thread. No operation may be running. */
void operations_freep(struct operations **o);

/* Begin: enters the op on this thread (banger_op_enter) and logs. `op_id` must be valid. params: a
 * summary is made of it (long values shortened, secrets left out); may be NULL. EXISTS when a change is
 * asked for under the id of another change that runs now: a peer reuses ids. (What only reads or cancels may
 * go under the id of the operation that it belongs to.) */
int operation_begin(struct operations *o, enum operation_kind kind, const char *method, const char *op_id,
	const struct banger_actor *actor, struct json_object *params, struct operation **ret, struct banger_error *err);
/* End, on the same thread: logs the outcome (err NULL or OK: completed), records it, publishes the op event,
 * leaves the op and frees it. Whoever follows the operation's HUB_LOG lines gets an empty one after the last. */
void operation_end(struct operation *op, const struct banger_error *err);

/* hub_hold() and hub_release(), for one who answers a request. */
void operations_hold(struct operations *o);
void operations_release(struct operations *o);

/* Hand a running operation to another thread: the one that began it leaves it, the other adopts it and
 * ends it. */
void operation_leave(struct operation *op);
void operation_adopt(struct operation *op);

/* How far a long operation has come: an object, whose reference is taken and which replaces what was said
 * before. It is "progress" in the operation's document while it runs, and whoever watches operations is told:
 * not more than a few times a second, please. */
void operation_progress(struct operation *op, struct json_object *progress);
/* The same of a running operation, as a new object; NULL: it does not run, or has said nothing. */
struct json_object *operations_progress(struct operations *o, const char *op_id);

const char *operation_id(const struct operation *op);
const struct banger_actor *operation_actor(const struct operation *op);
int64_t operation_elapsed_us(const struct operation *op);

/* Cancellation: a long step polls operation_cancelled() between bounded pieces of work, or the fd
 * (readable once cancelled) together with what else it waits for. CANCELLED for the caller to return. */
bool operation_cancelled(const struct operation *op);
int operation_cancel_fd(const struct operation *op);
int operation_check_cancelled(const struct operation *op, struct banger_error *err);
void operation_cancel(struct operation *op);
/* Cancel by id: NOT_FOUND when it does not run. */
int operations_cancel(struct operations *o, const char *op_id, struct banger_error *err);
void operations_cancel_all(struct operations *o);

/* The record as it will be when the operation completes now; the store writes it with the change.
 * Calling this promises that the record was handed to the store; operation_end() then does not write
 * it again unless the operation fails after all. */
void operation_completed_record(struct operation *op, struct banger_op_record *ret);

/* A record from elsewhere (op.report): logged, kept and published as if it had ended here. */
void operations_report(struct operations *o, const struct banger_op_record *r);

/* Copies of the changes that run now, newest first; one block to free. */
int operations_running(struct operations *o, struct banger_op_record **ret, size_t *ret_n);
/* Does an operation of this id run, of whatever kind? */
bool operations_is_running(struct operations *o, const char *op_id);
/* Write what is pending, so that a reader of the store sees it. */
void operations_flush(struct operations *o);
/* Running, or in the store; all three see what ended before the call. List: the one that began
 * last first, as store_ops_list(), but those that run are never left out for the limit. Lines: as store_op_lines(). */
int operations_find(struct operations *o, const char *word, struct banger_op_record *ret, struct banger_error *err);
int operations_list(struct operations *o, int64_t limit, bool failed_only, int64_t uid,
	struct banger_op_record **ret, size_t *ret_n, struct banger_error *err);
int operations_lines(struct operations *o, const char *op_id, char ***ret, size_t *ret_n, struct banger_error *err);

#endif
