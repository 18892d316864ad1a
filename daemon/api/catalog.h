/* SPDX-License-Identifier: Apache-2.0 */
/* Catalogs and bundles: what joins them to the image service, and handlers of the one table (catalog.c). */
#ifndef BANGER_API_CATALOG_H
#define BANGER_API_CATALOG_H

#include "api/api.h"
#include "image/service.h"

/* image_service_deps.fetch_bundle: from a catalog's name to files in dir_fd. A kernel that the bundle wants and that
 * is not held is pulled too, if a catalog has it; if none has, the image is bound to no kernel, with a warning. */
int api_fetch_bundle(const struct api *api, struct operation *op, const struct image_pull *in,
	int dir_fd, struct image_pulled *ret, struct banger_error *err);

int api_kernel_pull(void *ctx, struct rpc_call *call, struct banger_error *err);  /* bundle.c */
int api_image_export(void *ctx, struct rpc_call *call, struct banger_error *err); /* bundle.c */
int api_image_prune(void *ctx, struct rpc_call *call, struct banger_error *err);  /* prune.c */

#endif
