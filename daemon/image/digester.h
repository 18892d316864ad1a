/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Digests that are computed after publication. What was promoted or imported is published with its
 * digest; what was pulled is published first, for its parts were checked one by one on the way in, and a
 * person waits: reading it all once more would be a third of a pull's time, and nearly all of one that
 * reuses what is there. Until then the row's digest is "", and whoever asks for it waits
 * (digester_wait()); a start finds those that are missing and goes on.
 */
#ifndef BANGER_IMAGE_DIGESTER_H
#define BANGER_IMAGE_DIGESTER_H

#include <banger/model.h>
#include "image/service.h"

struct digester;

int digester_new(struct image_service *s, struct digester **ret, struct banger_error *err);
void digester_freep(struct digester **d); /* stops; what is not done yet is done after the next start */
int digester_start(struct digester *d, struct banger_error *err);

/* An image that is published without digest: under the publication lock and before its row, so that whoever sees
 * the row can wait; of a row that does not come about nothing becomes. Or at the start. */
void digester_add(struct digester *d, const char *id);
/* Until it is not being computed any more: the row then has it, or the image is gone or damaged.
 * cancel_fd readable: CANCELLED. No lock may be held. */
int digester_wait(struct digester *d, const char *id, int cancel_fd, struct banger_error *err);

#endif
