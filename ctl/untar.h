/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tar stream out of a VM, made into files here. The VM is hostile: it may name what it likes. Names must be those that
 * were asked for, and nothing is written but below one directory.
 */
#ifndef BANGER_CTL_UNTAR_H
#define BANGER_CTL_UNTAR_H

#include <stdbool.h>
#include <stdatomic.h>
#include <banger/error.h>

struct untar;

struct untar_options {
	int in;           /* the stream; taken over */
	const char *name; /* the first member's name, "." for what is in a directory */
	/* Where it goes; NULL: nowhere, the first member is only looked at and the stream let go. */
	const char *directory;
	const char *
		as; /* the name there; NULL: what is in the directory `name`, and not that itself */
	bool must_be_dir; /* `as` was said with a slash at its end */
	bool is_file;     /* `as` is a file there: no directory takes its place */
	bool keep_owners; /* and attributes, special modes, devices; else it becomes the caller's */
};
int untar_start(const struct untar_options *o, struct untar **ret, struct banger_error *err);
/* Wait for the thread; whoever writes the stream must have closed it. 0, or why it could not be made; INCOMPLETE: the
 * stream ended in the middle. Frees *u, which may be NULL. */
int untar_finish(struct untar **u, struct banger_error *err);

const _Atomic int64_t *untar_bytes(const struct untar *u);

/* Of the first member, when the thread has ended: its type (S_IFMT), 0: there was none; where it leads, when it is a
 * link, owned by u. Before untar_finish(). */
void untar_wait(struct untar *u);
unsigned untar_type(const struct untar *u);
const char *untar_link(const struct untar *u);
/* Members that were left out, because only keep_owners takes them. */
size_t untar_skipped(const struct untar *u);

#endif
