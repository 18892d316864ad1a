/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The files on disk that the kernel knows: in an image, a draft or a kernel's tree.
 *
 * A file is the same file while it has the same inode on disk (number and time of birth), whatever
 * it is called: a node follows a rename, one made by another mount too, and promotion. What it is
 * called was true when it was last looked up; who opens by it compares the inode.
 *
 * Lives as long as the kernel has looked it up more often than forgotten it, or a handle is open.
 * Any thread; a lock of its own, held for no system call but those on open handles.
 */
#ifndef FS_FILES_H
#define FS_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

struct files;
int files_new(struct files **ret);
void files_freep(struct files **f);

/* The inode on disk. */
struct file_id {
	uint64_t ino;
	int64_t born_ns;
	uint64_t dev;
};
#define FILE_STATX (STATX_BASIC_STATS | STATX_BTIME)
struct file_id file_id_of(const struct statx *stx);
static inline bool file_id_same(const struct file_id *a, const struct file_id *b)
{
	return a->ino == b->ino && a->born_ns == b->born_ns && a->dev == b->dev;
}

/* The node of the file `path` (relative to the directory of node `owner`), with one more lookup.
 * 0: no memory. */
uint64_t files_lookup(struct files *f, uint64_t owner, const char *path, const struct statx *stx);
void files_forget(struct files *f, uint64_t node, uint64_t nlookup);
/* It was seen under this name: take note if it is known. */
void files_renamed(struct files *f, uint64_t owner, const char *path, const struct statx *stx);

struct file_place {
	uint64_t owner;
	struct file_id id;
	char *path; /* owned */
};
void file_place_done(struct file_place *p);
#define _cleanup_place_ __attribute__((cleanup(file_place_done)))
/* -ENOENT: forgotten. */
int files_place(struct files *f, uint64_t node, struct file_place *ret);

/* A descriptor was opened (it stays open until files_closed()); `cached`: through the page cache,
 * not by passthrough. files_statx_open() asks an open descriptor: -ENOENT when there is none. */
struct open_file {
	uint64_t node;
	int fd;
	struct open_file *next;
};
void files_opened(struct files *f, struct open_file *o);
void files_closed(struct files *f, struct open_file *o);
int files_statx_open(struct files *f, uint64_t node, struct statx *ret);

/* The kernel's cached pages of a published file can be kept at an open if they cannot date from
 * when it was a draft: true from the second time on. */
bool files_keep_cache(struct files *f, uint64_t node);

/* How a published file is to be opened. The kernel wants all opens of an inode to be of one sort,
 * and all that pass through to share one backing id. Returns the one to use (`attach` is asked for
 * the first, under the lock; it returns 0 if the kernel does not want it), or 0: through the page
 * cache. To be called before files_opened() of the handle itself. files_pass_close() tells when the
 * last is closed: the id to detach, or 0. */
int files_pass_open(
	struct files *f, uint64_t node, int (*attach)(void *arg, int fd), void *arg, int fd);
int files_pass_close(struct files *f, uint64_t node);

size_t files_count(struct files *f);

#endif
