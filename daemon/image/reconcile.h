/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The comparison of the store's rows with the directories, for recovery and for doctor. One pass over a
 * consistent view of the rows in order of id, beside sorted listings of drafts/, images/ and staging/.
 */
#ifndef BANGER_IMAGE_RECONCILE_H
#define BANGER_IMAGE_RECONCILE_H

#include "image/internal.h"

/* Where a directory called ID is: bits 1 << DIR_DRAFTS, DIR_IMAGES, DIR_STAGING. */
#define PLACE(dir) (1u << (dir))

struct reconcile {
	void *arg;
	/* A row, and where its directory is. */
	int (*row)(void *arg, const struct banger_image *image, unsigned places, struct banger_error *err);
	/* An entry of a directory that is not some row's ID; for staging/ not one at all. */
	int (*stray)(void *arg, enum image_dir dir, const char *name, struct banger_error *err);
};

/* Ends at the first callback that fails. */
int reconcile(struct image_service *s, const struct reconcile *r, struct banger_error *err);

#endif
