/* SPDX-License-Identifier: Apache-2.0 */
/* What all pulls of a daemon share; for the files of daemon/pull alone. */
#ifndef BANGER_PULL_ENGINE_H
#define BANGER_PULL_ENGINE_H

#include "pull/blobs.h"
#include "pull/http.h"
#include "pull/pull.h"

struct pull_engine {
	const struct banger_config *config; /* borrowed */
	int cache_fd;			    /* STATE_DIR/cache */
	struct http *http;
	struct blobs *blobs;
	struct flat_cache *flat;
};

#endif
