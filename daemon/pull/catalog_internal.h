/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by catalog_load.c and catalog_fetch.c alone. */
#ifndef BANGER_PULL_CATALOG_INTERNAL_H
#define BANGER_PULL_CATALOG_INTERNAL_H

#include "pull/catalog.h"

struct catalogs {
	const struct banger_config *config;
	struct http *http;
	struct blobs *blobs;
	struct catalog_settings settings;
	int cache_fd; /* STATE_DIR/cache/catalogs */
};

#endif
