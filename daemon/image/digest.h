/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SHA-256 as images carry it: "sha256:" and 64 hex digits. OpenSSL picks the CPU's SHA instructions
 * where it has them. A digest object is for one thread at a time.
 */
#ifndef BANGER_IMAGE_DIGEST_H
#define BANGER_IMAGE_DIGEST_H

#include <stddef.h>
#include <stdint.h>
#include <banger/error.h>

#define DIGEST_SIZE 72 /* with the terminating NUL; as struct banger_image has it */

struct digest;
int digest_new(struct digest **ret, struct banger_error *err);
void digest_freep(struct digest **d);
#define _cleanup_digest_ _cleanup_(digest_freep)

int digest_update(struct digest *d, const void *data, size_t len, struct banger_error *err);
/* As if `len` zero bytes had been given: a hole. */
int digest_zeros(struct digest *d, uint64_t len, struct banger_error *err);
/* The digest of all that was given; the object is then good only for freeing. */
int digest_final(struct digest *d, char ret[DIGEST_SIZE], struct banger_error *err);

#endif
