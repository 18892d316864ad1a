/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Claims: which images are busy, and with what.
 *
 * Changes that take one transaction need none: the publication lock puts them in order. A claim is for
 * what takes long and must find at its end what it saw at its beginning, a promotion. While an image is
 * claimed, changes to it and to what its draft holds are BUSY. Work on the files of a draft shares it
 * for the moment of a system call; a claim first waits until nobody does, so that from then on the
 * directory is sealed: no new descriptor for writing, no new name.
 *
 * Any thread. The mutex inside is a leaf: nothing is locked and nothing blocks under it, except that
 * claims_take() waits. It may be taken under the publication lock (claims_check()).
 */
#ifndef BANGER_IMAGE_CLAIMS_H
#define BANGER_IMAGE_CLAIMS_H

#include <banger/model.h>

struct claims;

/* On the stack of who holds it, linked into the set. */
struct claim {
	struct claims *set; /* NULL: not held */
	struct claim *prev, *next;
	char id[BANGER_ID_LEN + 1];
	bool exclusive;
	char name[BANGER_NAME_MAX + 1]; /* of the image, and what is done to it: for others' messages */
	const char *verb;
	banger_op_id op_id;
};

int claims_new(struct claims **ret);
void claims_freep(struct claims **c);

/* Share image `id`, or BUSY: `image "web" is being promoted by op-…`. */
int claims_share(struct claims *c, struct claim *claim, const char *id, struct banger_error *err);
/* Claim it alone for the calling thread's operation; waits at most wait_ms for those who share it. */
int claims_take(struct claims *c, struct claim *claim, const char *id, const char *name,
	const char *verb, int64_t wait_ms, struct banger_error *err);
/* BUSY if somebody has claimed it alone. */
int claims_check(struct claims *c, const char *id, struct banger_error *err);
/* Give back; does nothing to one that is not held. */
void claim_drop(struct claim *claim);
#define _cleanup_claim_ _cleanup_(claim_drop)

#endif
