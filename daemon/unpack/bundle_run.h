/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon's side of banger-unpack --bundle (program/bundle.h). What the program says is taken as
 * said by a stranger.
 */
#ifndef BANGER_UNPACK_BUNDLE_RUN_H
#define BANGER_UNPACK_BUNDLE_RUN_H

#include <banger/paths.h>

struct unpack_bundle {
	int in_fd;       /* read to its end; borrowed, as all of these */
	int document_fd; /* an empty regular file, open for reading and writing: gets bundle.json */
	const int *files; /* such files for what it lists, in its order */
	size_t n;         /* at most 64 */
	int cancel_fd;    /* readable: cancelled; -1: none */
	/* NULL, or called on this thread now and then with the bytes of the bundle that were read. */
	void (*progress)(void *arg, int64_t read);
	void *arg;
};

/* Blocks until it is done. NOT_FOUND: the program is not installed. TIMEOUT: no progress for five minutes, or more
 * CPU time than allowed. INTERNAL: it crashed, or did what its sandbox forbids. Otherwise as bundle/bundle.h says. */
int unpack_bundle_run(const struct banger_config *config, const struct unpack_bundle *b,
	struct banger_error *err);

#endif
