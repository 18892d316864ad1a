/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ImageService: owns images, from registration to deletion.
 *
 * On disk, under STATE_DIR:
 *	drafts/ID/FILE…    what is being put together
 *	images/ID/FILE…    published; files 0444, never changed again
 *	staging/…          half-made things; nothing here outlives the operation that made it
 *	trash/…            being removed; emptied in the background and at the next start
 * The store says which image an ID is and what its name is; a directory's place (drafts or images)
 * must agree with the row's state, and recover() makes it so.
 */
#ifndef BANGER_IMAGE_SERVICE_H
#define BANGER_IMAGE_SERVICE_H

#include <sys/stat.h>
#include <banger/paths.h>
#include "op/hub.h"
#include "op/operation.h"
#include "op/publication.h"
#include "store/store.h"

struct image_service;

/* What an import was given. */
struct image_import {
	const char *name;
	const char *format; /* "auto", "raw", "tar", "bundle", "qcow2" */
	const char *source; /* for people; may be NULL */
	int64_t size;	    /* of the filesystem in bytes; 0: what it holds and some headroom */
	int fd;		    /* borrowed: a regular file, or a pipe */
};

/* What a pull was asked for. Strings are borrowed. */
struct image_pull {
	const char *source;   /* a reference, or the name of a bundle in a catalog */
	const char *name;     /* NULL: the last part of the source's own name */
	const char *platform; /* "linux/amd64"; NULL: this machine's */
	const char *kernel;   /* that shall be bound; NULL: the bundle's, or the configured default */
	bool layouts;	      /* may the source be a directory of this host? */
};

/* What came of it; the service owns the strings. */
struct image_pulled {
	char *source; /* canonical, with the digest of what was pulled */
	char *config; /* banger_image.config; NULL: none */
	char *kernel; /* that it wants; NULL: says nothing */
	char *home;   /* of the image's user; what a work seed is made of: a path or "~USER"; NULL: /root */
	bool seed;    /* a work seed is there already */
	char digest[72]; /* of rootfs.ext4 where it was computed on the way; "": it was not */
};

/*
 * What the service needs. Pointers are borrowed and must outlive it. The function members are the slow
 * steps; NULL means the real one (or UNSUPPORTED where this build has none yet), and a test puts its
 * own there. Each gets `arg` first.
 */
struct image_service_deps {
	const struct banger_config *config;
	struct store *store;
	struct operations *operations;
	struct publication_lock *publication;
	struct hub *hub;
	int state_dir_fd;
	void *arg;
	/* Begin an operation of the service's own (recovery, emptying the trash). */
	int (*begin_operation)(void *arg, const char *method, struct operation **ret, struct banger_error *err);
	/* Pull in->source, an OCI reference, and flatten it into rootfs_fd; seed_fd gets the work seed on the way (and
	 * ret->seed is set) where that is cheaper than build_work_seed. NULL: UNSUPPORTED. */
	int (*pull_and_flatten)(void *arg, struct operation *op, const struct image_pull *in, int rootfs_fd, int seed_fd, struct image_pulled *ret, struct banger_error *err);
	/* Complete a pulled root filesystem before it is published: it is checked, and image gets its size, and its digest
	 * unless that is left to later. */
	int (*finalize_rootfs)(void *arg, struct operation *op, int rootfs_fd, struct banger_image *image, struct banger_error *err);
	/* Fetch the bundle in->source from the catalogs and put its files into the directory dir_fd (its rootfs.ext4 too).
	 * NULL: UNSUPPORTED. */
	int (*fetch_bundle)(void *arg, struct operation *op, const struct image_pull *in, int dir_fd, struct image_pulled *ret, struct banger_error *err);
	/* Build a work seed of the directory `home` in rootfs_fd into seed_fd. NULL: none is made. */
	int (*build_work_seed)(void *arg, struct operation *op, int rootfs_fd, const char *home, int seed_fd, struct banger_error *err);
	/* The name of the kernel that a word means. NOT_FOUND, AMBIGUOUS. NULL: any name is taken. */
	int (*find_kernel)(void *arg, const char *word, char ret[BANGER_NAME_MAX + 1], struct banger_error *err);
	/* Turn a tar stream into an ext4 image in out_fd (banger-unpack in its sandbox). size 0: as needed. */
	int (*flatten_tar)(void *arg, struct operation *op, int tar_fd, int out_fd, int64_t size, struct banger_error *err);
	/* Is image `id` in use? 0 no; BUSY and who uses it. NULL: nobody can. */
	int (*in_use)(void *arg, const char *id, struct banger_error *err);
};

/* Creates the directories. Does not touch what is there; call image_service_recover() before serving. */
int image_service_new(const struct image_service_deps *deps, struct image_service **ret, struct banger_error *err);
void image_service_freep(struct image_service **s); /* stops the trash thread */

/* Reconcile store and directories after a crash; logs each repair. Also starts the trash thread. */
int image_service_recover(struct image_service *s, struct banger_error *err);
/* The same comparison, changing nothing: calls report for each disagreement, returns their number. */
int image_service_check(struct image_service *s, void (*report)(void *arg, const char *what), void *arg, struct banger_error *err);

/* Is it known that the image's files are missing, or not what was published (recovery, a check, an attempt to
 * open them)? Looks again when it is, for somebody may have put them back. image_service_find() sets
 * image->damaged by it. */
bool image_service_damaged(struct image_service *s, const struct banger_image *image);

/* The operations. `op` is the running operation; *ret is owned by the caller on success. Errors as in
 * methods.h. */
int image_service_register(struct image_service *s, struct operation *op, const char *name, const char *source, struct banger_image *ret, struct banger_error *err);
int image_service_promote(struct image_service *s, struct operation *op, const char *draft, const char *name, struct banger_image *ret, struct banger_error *err);
int image_service_rename(struct image_service *s, struct operation *op, const char *image, const char *name, struct banger_image *ret, struct banger_error *err);
int image_service_swap(struct image_service *s, struct operation *op, const char *a, const char *b, struct banger_image ret[2], struct banger_error *err);
int image_service_delete(struct image_service *s, struct operation *op, const char *image, struct banger_image *ret, struct banger_error *err);
int image_service_import(struct image_service *s, struct operation *op, const struct image_import *in, struct banger_image *ret, struct banger_error *err);
/* Pull and publish. EXISTS when the name is taken, at once. */
int image_service_pull(struct image_service *s, struct operation *op, const struct image_pull *in, struct banger_image *ret, struct banger_error *err);
int image_service_configure(struct image_service *s, struct operation *op, const char *draft, struct json_object *document, struct banger_image *ret, struct banger_error *err);

/* A published image as a bundle (pull/bundle.h) into fd: a new file, or a pipe. */
struct image_exported {
	struct banger_image image;
	int64_t size;	 /* of the bundle, */
	char digest[144]; /* and its digest, as a catalog wants them */
};
int image_service_export(struct image_service *s, struct operation *op, const char *image, int fd, struct image_exported *ret, struct banger_error *err);

struct image_verdict {
	struct banger_image image;
	char digest[72];
	bool digest_ok, fsck_ok;
	char fsck[512]; /* "clean", or the first complaints of e2fsck -fn */
};
int image_service_verify(struct image_service *s, struct operation *op, const char *image, struct image_verdict *ret, struct banger_error *err);

int image_service_find(struct image_service *s, const char *word, int state, struct banger_image *ret, struct banger_error *err);
/* The digest of an image that was pulled is computed after its publication (digester.h): wait for it, and read the row
 * again. Other images are left as they are. NOT_FOUND: it was deleted meanwhile. */
int image_service_digest(struct image_service *s, struct operation *op, struct banger_image *image, struct banger_error *err);
/* Read-only descriptor of a file of a published image (or a draft). NOT_FOUND; CORRUPT when the image is
 * damaged. */
int image_service_open(struct image_service *s, const struct banger_image *image, const char *file, int *ret_fd, struct banger_error *err);
/* The files of an image, in no order: `each` gets a file's name and what lstat says, until it returns other
 * than 0, which is then returned. NOT_FOUND when the image's directory is gone; a damaged image has none. */
int image_service_files(struct image_service *s, const struct banger_image *image,
	int (*each)(void *arg, const char *name, const struct stat *st), void *arg, struct banger_error *err);
/* O_PATH descriptors of images/ and drafts/, owned by the service. */
int image_service_images_fd(const struct image_service *s);
int image_service_drafts_fd(const struct image_service *s);
/* How many entries wait in the trash. */
int64_t image_service_trash(const struct image_service *s);

/* Drafts (image/draft.c): methods.h, draft.*. */
struct draft_open {
	const char *id, *file;
	bool write, create, excl, trunc;
	unsigned mode;
};
int image_service_draft_open(struct image_service *s, const struct draft_open *o, int *ret_fd, struct banger_error *err);
int image_service_draft_unlink(struct image_service *s, const char *id, const char *file, struct banger_error *err);
int image_service_draft_rename(struct image_service *s, const char *id, const char *from, const char *to_id, const char *to, unsigned flags, struct banger_error *err);
int image_service_draft_symlink(struct image_service *s, const char *id, const char *file, const char *target, struct banger_error *err);
struct draft_attr {
	int64_t mode, uid, gid, size;	  /* -1: leave */
	int64_t atime_ns, mtime_ns;	  /* INT64_MIN: leave */
};
int image_service_draft_setattr(struct image_service *s, const char *id, const char *file, const struct draft_attr *a, struct banger_error *err);

#endif
