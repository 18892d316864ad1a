/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An image layout on disk (OCI image spec v1.1, image-layout.md), with the calls of registry.h. The
 * directory is opened with the daemon's rights: whoever names it must be trusted. What is in it is not.
 */
#ifndef BANGER_PULL_LAYOUT_H
#define BANGER_PULL_LAYOUT_H

#include "pull/document.h"
#include "pull/reference.h"

struct layout;

int layout_open(const struct pull_reference *ref, struct layout **ret, struct banger_error *err);
void layout_freep(struct layout **l);
#define _cleanup_layout_ _cleanup_(layout_freep)

/* As registry_manifest(). */
int layout_manifest(struct layout *l, const char *what, const struct pull_descriptor *descriptor,
	char **ret_text, size_t *ret_len, char ret_media_type[160], char ret_digest[PULL_DIGEST_MAX],
	struct banger_error *err);
/* As registry_document(). */
int layout_document(struct layout *l, const struct pull_descriptor *d, char **ret_text, size_t *ret_len,
	struct banger_error *err);
/* A read-only descriptor, the caller's, of a blob's file: a regular file of the right size. */
int layout_blob_fd(struct layout *l, const struct pull_descriptor *d, int *ret_fd, struct banger_error *err);
/* Read it all: CORRUPT when the digest is another. Any thread; the file's offset is not used. */
int layout_verify(int fd, const struct pull_descriptor *d, int cancel_fd, struct banger_error *err);

#endif
