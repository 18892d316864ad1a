/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a thread of its own does at bangerd's for calls that are not held up by it: telling of
 * operations that were refused here (op.report), and cancelling the operation of a caller who is
 * being killed (op.cancel).
 */
#ifndef FS_ERRANDS_H
#define FS_ERRANDS_H

#include <banger/model.h>
#include "calls.h"

#define ERRANDS_MAX 256 /* reports kept while bangerd is away; the oldest give way */

struct errands;
int errands_new(struct calls *calls, struct errands **ret);
int errands_start(struct errands *e);
/* Stops the thread; what could not be told is logged as a number. */
void errands_freep(struct errands **e);

void errands_report(struct errands *e, const struct banger_op_record *r);
/* Cancel; and if its caller is not answered a second later, break its connection. */
void errands_cancel(struct errands *e, const char *op_id);
/* bangerd is there (again): go on with what waits. */
void errands_wake(struct errands *e);

#endif
