/* SPDX-License-Identifier: Apache-2.0 */
/* Joins the engine of pulls to the image service; for the composition root. */
#ifndef BANGER_API_PULL_H
#define BANGER_API_PULL_H

#include "image/service.h"

struct pull_engine;

/* The pull_and_flatten step of image_service_deps, with the progress of the operation. */
int api_pull_and_flatten(struct pull_engine *engine, struct operation *op,
	const struct image_pull *in, int rootfs_fd, int seed_fd, struct image_pulled *ret,
	struct banger_error *err);

#endif
