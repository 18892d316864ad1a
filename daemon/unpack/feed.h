/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon's end of the socket over which banger-unpack asks for layers (program/protocol.h).
 * Never blocks: what does not fit into the socket is owed, and sent when there is room.
 */
#ifndef BANGER_UNPACK_FEED_H
#define BANGER_UNPACK_FEED_H

#include "unpack/run.h"

struct feed {
	const struct unpack_options *o;
	int fd;         /* the socket; -1: there are no layers */
	uint32_t layer; /* that the program reads */
	bool any;       /* it has asked for one */
	bool owed;      /* layer must be told */
	bool more;      /* the program waits for more of it */
	int64_t told;   /* bytes of it that the program knows of */
};

/* Checks what the options say about layers and makes the socket; *ret_end is the program's. */
int feed_init(
	struct feed *f, const struct unpack_options *o, int *ret_end, struct banger_error *err);
void feed_done(struct feed *f);

/* Layers that come as records, all of them before those that come as blobs. */
size_t feed_replayed(const struct unpack_options *o);
/* The descriptor to wait for more input with; -1: none. */
int feed_notify_fd(const struct feed *f);
/* What to wait for on fd. */
short feed_events(const struct feed *f);
/* Is the program without input, so that its standing still is not its fault? */
bool feed_starved(const struct feed *f);
/* Answers what the program asked, and sends what is owed. */
int feed_socket(struct feed *f, struct banger_error *err);
/* notify_fd is readable. */
int feed_notified(struct feed *f, struct banger_error *err);

#endif
