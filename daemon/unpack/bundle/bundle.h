/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bundle (daemon/pull/bundle.h) is taken apart: its document, then the files that the document
 * lists, in that order and no others, each to a descriptor.
 */
#ifndef BANGER_UNPACK_BUNDLE_H
#define BANGER_UNPACK_BUNDLE_H

#include "unpack/tar/tar.h"

#define BUNDLE_DOCUMENT_MAX (1u << 20)

struct bundle_target {
	int document_fd;  /* gets bundle.json */
	const int *files; /* empty regular files */
	size_t n;         /* how many there may be */
	/* Called between pieces; anything but 0 ends the work with it. */
	int (*tick)(void *arg, struct banger_error *err);
	void *arg;
};

/* Reads the archive to its end; *ret_files: how many files there were. BAD_REQUEST: it does not begin with
 * bundle.json; CORRUPT: it does not hold what that lists; the errors of tar.h; INTERNAL, NO_SPACE: a file cannot be
 * written. Holes stay holes, and blocks of zeros become some. */
int bundle_unpack(struct tar_reader *tar, const struct bundle_target *target, size_t *ret_files,
	struct banger_error *err);

#endif
