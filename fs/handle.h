/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Open files and directories: what fi->fh points at. Each sort begins with a struct handle. They are
 * listed, so that at the end those can be closed for which the kernel sent no RELEASE any more.
 */
#ifndef FS_HANDLE_H
#define FS_HANDLE_H

#include "tree.h"

enum handle_kind {
	HANDLE_DISK,   /* a descriptor of a file on disk */
	HANDLE_TEXT,   /* content that was made at the open */
	HANDLE_CONFIG, /* image.json of a draft, for writing (config.h) */
	HANDLE_EVENTS, /* a reader of the stream (events.h) */
	HANDLE_DIR,    /* a directory on disk */
};

struct handle {
	enum handle_kind kind;
	struct handle *next, **link; /* in the list of all */
};

/* What a listing of a directory on disk goes by. */
struct dir_handle {
	struct handle h;
	struct disk_list list;
	bool filled;
};

struct disk_handle {
	struct handle h;
	struct open_file open;
	bool writable;
	uint64_t draft; /* the image's number, if it counts as a writer of that draft */
	int backing_id; /* of passthrough, 0: none */
};

struct text_handle {
	struct handle h;
	atomic_uint
		refs; /* the open file's, and those of reads: a reply may outlast the RELEASE after it */
	char *text;
	size_t len;
};

static inline struct handle *handle_of(const struct fuse_file_info *fi)
{
	return fi ? (struct handle *)(uintptr_t)fi->fh : NULL;
}
static inline struct disk_handle *disk_handle_of(const struct fuse_file_info *fi)
{
	struct handle *h = handle_of(fi);
	return h && h->kind == HANDLE_DISK ? (struct disk_handle *)h : NULL;
}

/* ---- file.c: what is done with them; each answers the request. */

/* Give a handle to the kernel: list it and set fi->fh. */
void handle_give(struct fs *fs, struct handle *h, struct fuse_file_info *fi);
void handle_close_all(struct fs *fs);
/* May one more be opened that keeps a text or a queue in memory? 0 or -ENFILE: who opens without end, a VM's kernel above
 * all, must not have all of this machine's. */
int handle_check_room(struct fs *fs);

/* Takes fd over on success. draft: number of the draft that it is a writer of, 0: it is not. */
int disk_handle_new(struct fs *fs, uint64_t node, int fd, bool writable, uint64_t draft,
	struct disk_handle **ret);
/* Close and free a handle of whichever sort, without answering. NULL is fine. */
void handle_close(struct fs *fs, fuse_req_t req, struct handle *h);

/* Open for reading. */
void file_open(struct fs *fs, fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void file_read(struct fs *fs, fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
	struct fuse_file_info *fi);
void file_write(struct fs *fs, fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size,
	off_t off, struct fuse_file_info *fi);
void file_lseek(struct fs *fs, fuse_req_t req, fuse_ino_t ino, off_t off, int whence,
	struct fuse_file_info *fi);
void file_fsync(
	struct fs *fs, fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);
void file_fallocate(struct fs *fs, fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len,
	struct fuse_file_info *fi);
void file_copy_range(struct fs *fs, fuse_req_t req, off_t off_in, struct fuse_file_info *in,
	fuse_ino_t ino_out, off_t off_out, struct fuse_file_info *out, size_t len);

/* May the caller read (R_OK) or write (W_OK) or execute a file with these attributes? */
bool file_permits(fuse_req_t req, const struct stat *st, int mask);

#endif
