/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Following bangerd: registry.watch feeds the model, the kernel is told of what changed by another
 * door, readers of `events` get the lines. When the connection breaks, what was known stays, and a
 * new snapshot is compared with it as soon as bangerd is back.
 */
#ifndef FS_FOLLOW_H
#define FS_FOLLOW_H

#include "fs.h"

/* Connect and take the first snapshot, on the calling thread. The directories of fs are set then.
 */
int follow_new(struct fs *fs, const char *socket, struct follow **ret, struct banger_error *err);
/* Go on with it on a thread of its own. */
int follow_start(struct follow *f);
void follow_freep(struct follow **f);

/* Before a change is asked for: 0 while bangerd is followed, so that the change will be seen to happen.
 * Otherwise another attempt to come back is made at once, and if it fails the reason is given. NULL
 * counts as followed. */
int follow_ready(struct follow *f, struct banger_error *err);

/* A change that a caller of this mount asked for was answered: show it at once, if it is the next one, instead of
 * waiting for it to come by the watch too. deleted: what the result names is gone. Any thread. */
void follow_answer(struct follow *f, const char *op_id, struct json_object *result, bool deleted);

#endif
