/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The last failed operation of each uid, as one sentence with its op_id: what last-error and the
 * attribute user.banger.last_error show. Any thread.
 */
#ifndef FS_LASTERROR_H
#define FS_LASTERROR_H

#include <banger/error.h>
#include <sys/types.h>

#define LAST_ERROR_UIDS 256 /* remembered at once; the one who failed longest ago gives way */
#define LAST_ERROR_LEN (sizeof(((struct banger_error *)0)->message) + BANGER_OP_ID_LEN + 4)

struct last_errors;
int last_errors_new(struct last_errors **ret);
void last_errors_freep(struct last_errors **l);
void last_errors_set(struct last_errors *l, uid_t uid, const struct banger_error *err);
/* The sentence, without newline; "" when there is none. Returns its length. */
size_t last_errors_get(struct last_errors *l, uid_t uid, char buf[LAST_ERROR_LEN]);

#endif
