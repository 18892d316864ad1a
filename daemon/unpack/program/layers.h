/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The layers that the daemon hands over, as a source of blobs for stream.h. Used by one thread at a
 * time: the main one for those that are replayed, then the stream's.
 */
#ifndef BANGER_UNPACK_LAYERS_H
#define BANGER_UNPACK_LAYERS_H

#include "unpack/stream/stream.h"

struct layers {
	int control_fd;
	uint32_t total, next; /* the next one to ask for */
	int fd;               /* of the present one; -1: it has none */
	int64_t size, available, at;
	bool direct;
};

/* As struct stream_source has them; arg is a struct layers. ret->record_fd is the caller's. */
int layers_next(void *arg, int stop_fd, struct stream_blob *ret, struct banger_error *err);
ssize_t layers_read(void *arg, int stop_fd, uint8_t *to, size_t len, struct banger_error *err);

#endif
