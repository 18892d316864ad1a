/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A directory tree as a pax tar stream, made by a thread while somebody reads the pipe's other end.
 *
 * In it: modes, numeric owners, modification times in nanoseconds, extended attributes, POSIX ACLs,
 * hard links within the tree, sparse files with their holes, symlinks, FIFOs, device nodes. Entries
 * are sorted by name, so the same tree gives the same stream. Sockets are left out.
 */
#ifndef BANGER_CTL_TREE_H
#define BANGER_CTL_TREE_H

#include <stdbool.h>
#include <stdatomic.h>
#include <banger/error.h>

struct tree_stream;

/* Start. dir_fd is taken over; `name` says what it is in errors (copied). With one_filesystem what
 * is mounted inside the tree shows as the empty directory under it. *ret_fd: the end to read, owned
 * by the caller. */
int tree_stream_start(int dir_fd, const char *name, bool one_filesystem, struct tree_stream **ret,
	int *ret_fd, struct banger_error *err);

/* The same of one file, link or tree, under another name: what is copied into a VM. */
struct tree_part {
	int dir_fd;        /* the directory that holds it; taken over */
	const char *name;  /* its name there; NULL: what is in the directory, and not that itself */
	const char *as;    /* its name in the stream, without a slash; NULL when name is NULL */
	const char *shown; /* what it is in errors */
	bool keep_owners;  /* else everything is root's */
};
int tree_stream_part(const struct tree_part *part, struct tree_stream **ret, int *ret_fd,
	struct banger_error *err);

/* Wait for the thread; every copy of the reading end must be closed or read to its end. 0, or why
 * the tree could not be read: the stream then ends in bytes that no reader of tar takes for an end.
 * -EPIPE when the reader went away, which says nothing about the tree. Frees *s, which may be NULL.
 */
int tree_stream_finish(struct tree_stream **s, struct banger_error *err);

/* Bytes written so far. */
const _Atomic int64_t *tree_stream_bytes(const struct tree_stream *s);
/* Sockets that were left out; after the stream has ended. */
size_t tree_stream_skipped(const struct tree_stream *s);

#endif
