/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An image that was just pulled has no digest yet: bangerd computes it behind the publication. Who asks
 * for it, by the extended attribute or in image.json, waits until the model has it: not for ever, not
 * while bangerd is away, and not for an image that is gone or damaged.
 */
#ifndef FS_DIGEST_H
#define FS_DIGEST_H

#include "fs.h"

/* node: of the image or of its image.json. The thread may wait long: call it without any lock, inside
 * LOOP_MAY_WAIT(). */
void digest_wait(struct fs *fs, uint64_t node);
/* Would it wait? */
bool digest_pending(struct fs *fs, uint64_t node);

#endif
