/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sealing a draft: from here on nobody can change a byte of it, until it is published or given back.
 *
 * The caller holds the draft's claim (claims.h), so no new descriptor for writing and no new name
 * appears. What is left is who wrote before:
 *
 *  - An open descriptor for writing, a shared writable mapping, a loop device: all of them count as
 *    writers of the inode, and fcntl(F_SETLEASE, F_RDLCK) succeeds only when there is none. The lease is
 *    given back at once: that no writer comes after it is the claim's doing. FUSE tells of a close
 *    late, so this waits a little.
 *  - Another name for the inode (a hard link from elsewhere; banger makes none) or a filesystem without
 *    leases: the file is replaced by a private copy, a clone where the disk can.
 *  - A symlink, an artifact by reference: replaced by a copy of what it points to.
 *
 * Files become 0444. Copies are made in staging/ID.promote and exchanged with what they replace at the
 * very end. For each file that will be changed staging/ID.promote/N is first made, a symlink whose
 * text is "MODE INODE NAME" of the original, and N.copy is the copy, or after the exchange the original;
 * so a promotion that fails, in this process or by its death, gives the draft back as it was.
 */
#ifndef BANGER_IMAGE_SEAL_H
#define BANGER_IMAGE_SEAL_H

#include <sys/stat.h>
#include "image/internal.h"

struct sealed_file {
	char *name;
	mode_t mode;	/* as it was */
	ino_t inode;
	bool recorded;	/* staging/ID.promote/N is there */
	bool copied;	/* N.copy takes its place */
	bool exchanged; /* and has done so */
};

struct seal {
	struct image_service *service;
	struct operation *op;
	const struct banger_image *image;
	int dir_fd;  /* of the draft */
	int undo_fd; /* staging/ID.promote, -1 while there is none */
	struct sealed_file *files;
	size_t n;
};

/* Close the draft to writers: waits for those there are up to config's time, then BUSY with the file's
 * name. BAD_REQUEST for something in it that is neither file nor symlink. `image` is borrowed. */
int seal_begin(struct image_service *s, struct operation *op, const struct banger_image *image,
	struct seal *ret, struct banger_error *err);
/* The file of that name, or NULL. */
struct sealed_file *seal_file(struct seal *seal, const char *name);
/* Open for reading what file `f` will be once published: itself, or for a symlink its target, which must be
 * a regular file or a block device. *ret_target: NULL, or the target's path (owned). */
int seal_open(struct seal *seal, const struct sealed_file *f, int *ret_fd, int64_t *ret_size,
	char **ret_target, struct banger_error *err);
/* Make the copy of f from fd, if f needs one: 1 with the copy's descriptor in *ret_fd; 0 if f stays itself.
 * ret_digest: NULL, or gets the digest of the copy. */
int seal_copy(struct seal *seal, struct sealed_file *f, int fd, int64_t size, int *ret_fd,
	char *ret_digest, struct banger_error *err);
/* Put all copies in their places. */
int seal_exchange(struct seal *seal, struct banger_error *err);
/* After publication: forget how to undo. After a failure: undo. Both release what the seal holds. */
void seal_finish(struct seal *seal);
void seal_undo(struct seal *seal);

/* For recovery: undo what staging/NAME (ID.promote) records of a draft whose directory is dir_fd. */
int seal_recover(int staging_fd, const char *name, int dir_fd, struct banger_error *err);

#endif
