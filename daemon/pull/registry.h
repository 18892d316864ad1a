/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where an image's documents and blobs come from: a registry (OCI distribution spec v1.1, Docker's token
 * flow) or an image layout on disk (OCI image spec, image-layout.md). The same calls for both.
 *
 * Registry: GET /v2/REPOSITORY/manifests/REFERENCE and /blobs/DIGEST. A 401 is answered once per token:
 * Bearer (realm, service, scope; the credentials go to a realm on another host only if it is https or loopback
 * and the registry itself is as trusted: see auth.h), or Basic. 429 and 5xx are tried again with back-off
 * (Retry-After up to a minute), and a blob goes on from where it broke off. Which hosts are asked over plain HTTP, which
 * certificates are believed and which mirrors are asked first: settings.h. What a registry lacks is not fetched from the
 * `urls` of a descriptor: UNSUPPORTED names them.
 */
#ifndef BANGER_PULL_REGISTRY_H
#define BANGER_PULL_REGISTRY_H

#include "pull/blobs.h"
#include "pull/document.h"
#include "pull/http.h"
#include "pull/reference.h"

struct registry;

/* Borrows all. cancel_fd: as in http.h, for everything that is asked through this. */
int registry_open(struct http *http, const struct banger_config *config,
	const struct pull_reference *ref, int cancel_fd, struct registry **ret, struct banger_error *err);
void registry_freep(struct registry **r);
#define _cleanup_registry_ _cleanup_(registry_freep)

/* An index or a manifest. what: a digest or a tag; NULL: what the reference says. descriptor: NULL, or what
 * named it (size and digest are checked against it). *ret_digest is of the bytes (checked against a digest that
 * was asked for). *ret_text is freed by the caller. */
int registry_manifest(struct registry *r, const char *what, const struct pull_descriptor *descriptor,
	char **ret_text, size_t *ret_len, char ret_media_type[160], char ret_digest[PULL_DIGEST_MAX],
	struct banger_error *err);
/* A small blob (the configuration) into memory, checked. */
int registry_document(struct registry *r, const struct pull_descriptor *d, char **ret_text, size_t *ret_len,
	struct banger_error *err);
/* Fetch a blob that the caller is the writer of (blobs_get) to its end: resumes, retries, finishes or
 * abandons it. Blocks; each layer's on a thread of the caller's. */
int registry_blob(struct registry *r, const struct pull_descriptor *d, struct blob *b, struct banger_error *err);

#endif
