/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon's side of banger-unpack: starts it, listens to it, ends it. What the program says is
 * taken as said by a stranger.
 */
#ifndef BANGER_UNPACK_RUN_H
#define BANGER_UNPACK_RUN_H

#include <banger/paths.h>

struct unpack_progress {
	int64_t read;    /* bytes of the stream, as it came */
	int64_t members; /* of the archive */
	int64_t content; /* bytes of file content */
};

struct unpack_options {
	int tar_fd;    /* read to its end; borrowed */
	int out_fd;    /* a regular file, open for reading and writing; replaced; borrowed */
	int cancel_fd; /* readable: cancelled; -1: none; borrowed */
	/* Of the filesystem in bytes (a multiple of 4096); 0: what it holds and free space, namely
	 * the larger of headroom (-1: 64 MiB) and headroom_percent (-1: 10) of what is used. */
	int64_t size, headroom;
	int headroom_percent;
	const uint8_t
		*seed;  /* 32 bytes that UUID and hash seed come from; NULL: from the content */
	int64_t time;   /* of the filesystem, seconds since the epoch; 0: a fixed one */
	int64_t memory; /* bytes that unpacking may use; 0: 768 MiB */
	int64_t cpu_seconds; /* 0: an hour */
	int stall_ms;        /* how long it may make no progress; 0: five minutes */
	/* NULL, or called on this thread now and then. */
	void (*progress)(void *arg, const struct unpack_progress *p);
	void *arg;
};

struct unpack_result {
	int64_t size, used, free; /* bytes of the image */
	int64_t content;          /* bytes of file content */
	int64_t inodes, members;
	int64_t ignored_xattrs; /* attributes that no Linux filesystem could have had */
	int64_t read;           /* bytes of the stream */
	char uuid[33];          /* hex digits */
};

/* Blocks until it is done. NOT_FOUND: the program is not installed. TIMEOUT: no progress, or more
 * CPU time than allowed. INTERNAL: it crashed, or did what its sandbox forbids. Otherwise as the
 * program says; see flatten.h. *ret may be NULL. */
int unpack_run(const struct banger_config *config, const struct unpack_options *o,
	struct unpack_result *ret, struct banger_error *err);

#endif
