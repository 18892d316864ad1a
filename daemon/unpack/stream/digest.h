/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SHA-256 and SHA-512 with the CPU's instructions for them (libcrypto). Everything that libcrypto
 * looks up in the system is looked up by digest_new(), so that the rest works in the sandbox.
 */
#ifndef BANGER_UNPACK_DIGEST_H
#define BANGER_UNPACK_DIGEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <banger/error.h>

#define DIGEST_SHA256 32 /* bytes */
#define DIGEST_TEXT 136  /* "sha512:", 128 digits, NUL */

struct digest;

int digest_new(struct digest **ret, struct banger_error *err);
void digest_freep(struct digest **d);
#define _cleanup_digest_ _cleanup_(digest_freep)

/* "sha256:" or "sha512:" and that many lowercase hex digits? */
bool digest_text_valid(const char *text);

/* Begins anew, with the algorithm that a digest's text names; NULL: SHA-256. */
int digest_begin(struct digest *d, const char *like, struct banger_error *err);
int digest_add(struct digest *d, const void *data, size_t len, struct banger_error *err);
/* What it came to: as text, as bytes (SHA-256 only). Once. */
int digest_end(struct digest *d, char ret[DIGEST_TEXT], struct banger_error *err);
int digest_end_raw(struct digest *d, uint8_t ret[DIGEST_SHA256], struct banger_error *err);

#endif
