/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An image layout on disk (OCI image spec, image-layout.md): the same questions as registry.h asks, about
 * a directory that holds "oci-layout", "index.json" and "blobs/ALGORITHM/HEX". Blobs are read where
 * they are; nothing is copied.
 *
 * The directory is opened with the daemon's rights, so whoever may name one may read what the daemon
 * can: the caller has made sure that the peer is trusted. Below the directory no symbolic link is
 * followed and nothing but regular files is read.
 */
#ifndef BANGER_PULL_LAYOUT_H
#define BANGER_PULL_LAYOUT_H

#include "pull/document.h"
#include "pull/reference.h"

struct layout;

/* Opens and checks ref->dir (absolute), its version and index.json. NOT_FOUND: no such directory, or no
 * layout in it. UNSUPPORTED: another version. Borrows nothing of ref. */
int layout_open(const struct pull_reference *ref, struct layout **ret, struct banger_error *err);
void layout_freep(struct layout **l);
#define _cleanup_layout_ _cleanup_(layout_freep)

/*
 * An index or a manifest, as registry_manifest() gives it. descriptor: what named it (what is then not
 * looked at). NULL: the entry of index.json that has the tag or the digest `what`; what NULL: the tag of the
 * reference, or the only image. When index.json has
 * several and no name for any of them, it is the index of one image, and is itself what is returned.
 * NOT_FOUND (no such tag), AMBIGUOUS (no tag was given): the message lists the tags there are. CORRUPT:
 * size or digest is another than the descriptor's.
 */
int layout_manifest(struct layout *l, const char *what, const struct pull_descriptor *descriptor,
	char **ret_text, size_t *ret_len, char ret_media_type[160], char ret_digest[PULL_DIGEST_MAX],
	struct banger_error *err);
/* A small blob (the configuration) into memory, checked: CORRUPT. *ret_text is freed by the caller. */
int layout_document(struct layout *l, const struct pull_descriptor *d, char **ret_text, size_t *ret_len,
	struct banger_error *err);
/* A blob's own file, read-only, at its beginning; regular and of the descriptor's size (CORRUPT), its
 * content not yet checked. NOT_FOUND: the layout does not have it. The caller closes it. */
int layout_blob_fd(struct layout *l, const struct pull_descriptor *d, int *ret_fd, struct banger_error *err);
/* Reads all of it and checks size and digest: CORRUPT. Any thread; the file's offset is not used. cancel_fd: readable:
 * CANCELLED; -1: none. The file belongs to others, who could change it afterwards: what is unpacked from
 * it is trusted for its diff_id. */
int layout_verify(int fd, const struct pull_descriptor *d, int cancel_fd, struct banger_error *err);

#endif
