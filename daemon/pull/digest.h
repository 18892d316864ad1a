/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Digests as the OCI image spec (descriptor.md) has them: ALGORITHM:HEX, with sha256 (64 lowercase
 * hex digits) and sha512 (128). Nothing is made of a digest's text (a path, a URL) before its syntax
 * was checked here.
 */
#ifndef BANGER_PULL_DIGEST_H
#define BANGER_PULL_DIGEST_H

#include <stdbool.h>
#include <stddef.h>
#include <banger/error.h>

#define PULL_DIGEST_MAX 136 /* "sha512:", 128 digits, NUL */

bool pull_digest_valid(const char *s);
/* BAD_REQUEST, with `what` ("the digest of layer 3") and why. */
int pull_digest_check(const char *what, const char *s, struct banger_error *err);

/* Stands for the algorithm where there is no digest yet. */
#define PULL_SHA256_LIKE                                                                           \
	"sha256:0000000000000000000000000000000000000000000000000000000000000000"

/* A running digest, by the CPU's instructions (libcrypto). One thread at a time. */
struct pull_hash;
/* The algorithm of a valid digest. */
int pull_hash_new(const char *like, struct pull_hash **ret, struct banger_error *err);
void pull_hash_update(struct pull_hash *h, const void *data, size_t len);
void pull_hash_end(struct pull_hash *h, char ret[PULL_DIGEST_MAX]);
void pull_hash_freep(struct pull_hash **h);
#define _cleanup_pull_hash_ _cleanup_(pull_hash_freep)

/* Of a piece of memory: does it have the digest? */
bool pull_digest_matches(const char *digest, const void *data, size_t len);

#endif
