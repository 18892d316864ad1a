/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An image that is published without ever being a draft: imported, pulled. It is put together in
 * staging/ID, where nobody else has a name or a descriptor of it, made durable there, and published
 * in one step like a promotion.
 *
 *	staging_begin → staging_make → (fill the files) → staging_seal → staging_publish
 *
 * and staging_end() in every case, which removes what was not published: what is in staging goes to
 * the trash. What a crash leaves there is removed at the next start, unless the row was committed
 * before the rename was on the disk (recover.c moves it then). staging/ID.import says as long as it
 * runs that images/ID may be without a row because of it, and not because the registry was lost.
 */
#ifndef BANGER_IMAGE_STAGING_H
#define BANGER_IMAGE_STAGING_H

#include <banger/log.h>
#include "image/internal.h"

struct staging {
	struct image_service *s;
	struct operation *op;
	struct banger_image image; /* as it will be published; whoever fills it sets digest and size, … */
	int dir_fd;		   /* staging/ID, to make files in */
	int rootfs_fd;		   /* its rootfs.ext4, for reading and writing */
	enum image_dir where;	   /* of the directory ID; DIR_COUNT: nowhere yet */
	bool published;
	char marker[BANGER_ID_LEN + sizeof(IMPORT_SUFFIX)];
};
#define STAGING_INIT(service, operation)                                                           \
	{                                                                                          \
		.s = (service), .op = (operation),                                                 \
		.image = {.state = BANGER_PUBLISHED, .size = -1, .created_us = banger_now_us()},   \
		.dir_fd = -1, .rootfs_fd = -1, .where = DIR_COUNT                                  \
	}

/* Check the name (EXISTS when it is taken) and the source (may be NULL), mint the id. */
int staging_begin(struct staging *t, const char *name, const char *source, struct banger_error *err);
int staging_make(struct staging *t, struct banger_error *err);
/* Modes, fsync of all. */
int staging_seal(struct staging *t, struct banger_error *err);
/* An image whose digest is "" gets it later (digester.h). change: what watchers are told, "imported" or "pulled". */
int staging_publish(struct staging *t, const char *change, struct banger_error *err);
void staging_end(struct staging *t);
#define _cleanup_staging_ _cleanup_(staging_end)

#endif
