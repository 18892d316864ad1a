/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libcrypto's configuration is not read: it could load modules, and changes nothing about a hash.
 */
#include "unpack/stream/digest.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

static const struct {
	const char *prefix, *name;
	size_t digits;
} algorithms[] = {{"sha256:", "SHA256", 64}, {"sha512:", "SHA512", 128}};

struct digest {
	EVP_MD_CTX *ctx;
	EVP_MD *md[ELEMENTSOF(algorithms)];
	size_t which; /* of the algorithms */
};

int digest_new(struct digest **ret, struct banger_error *err)
{
	_cleanup_digest_ struct digest *d = calloc(1, sizeof(*d));

	OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_NO_ATEXIT, NULL);
	if (!d || !(d->ctx = EVP_MD_CTX_new()))
		return banger_error_oom(err);
	for (size_t i = 0; i < ELEMENTSOF(algorithms); i++) {
		d->md[i] = EVP_MD_fetch(NULL, algorithms[i].name, NULL);
		/* Once for each, so that whatever happens at the first use has happened. */
		if (!d->md[i] || !EVP_DigestInit_ex2(d->ctx, d->md[i], NULL))
			return banger_error_set(
				err, BANGER_INTERNAL, "libcrypto has no %s", algorithms[i].name);
	}
	*ret = TAKE_PTR(d);
	return 0;
}

void digest_freep(struct digest **pd)
{
	struct digest *d = TAKE_PTR(*pd);

	if (!d)
		return;
	EVP_MD_CTX_free(d->ctx);
	for (size_t i = 0; i < ELEMENTSOF(algorithms); i++)
		EVP_MD_free(d->md[i]);
	free(d);
}

static size_t find_algorithm(const char *text)
{
	size_t i = 0;

	while (i < ELEMENTSOF(algorithms) &&
		strncmp(text, algorithms[i].prefix, strlen(algorithms[i].prefix)) != 0)
		i++;
	return i;
}

bool digest_text_valid(const char *text)
{
	size_t i = find_algorithm(text);

	if (i == ELEMENTSOF(algorithms))
		return false;
	text += strlen(algorithms[i].prefix);
	return strlen(text) == algorithms[i].digits &&
	       strspn(text, "0123456789abcdef") == algorithms[i].digits;
}

static int failed(struct banger_error *err)
{
	return banger_error_set(err, BANGER_INTERNAL, "libcrypto could not make a digest");
}

int digest_begin(struct digest *d, const char *like, struct banger_error *err)
{
	size_t i = like ? find_algorithm(like) : 0;

	if (i == ELEMENTSOF(algorithms))
		return banger_error_set(err, BANGER_BAD_REQUEST, "\"%s\" is not a digest", like);
	d->which = i;
	return EVP_DigestInit_ex2(d->ctx, d->md[i], NULL) ? 0 : failed(err);
}

int digest_add(struct digest *d, const void *data, size_t len, struct banger_error *err)
{
	return EVP_DigestUpdate(d->ctx, data, len) ? 0 : failed(err);
}

int digest_end(struct digest *d, char ret[DIGEST_TEXT], struct banger_error *err)
{
	uint8_t raw[EVP_MAX_MD_SIZE];
	unsigned len;

	if (!EVP_DigestFinal_ex(d->ctx, raw, &len) || 2 * len != algorithms[d->which].digits)
		return failed(err);
	size_t at = strlen(algorithms[d->which].prefix);
	memcpy(ret, algorithms[d->which].prefix, at);
	for (unsigned i = 0; i < len; i++)
		snprintf(ret + at + 2 * (size_t)i, 3, "%02x", raw[i]);
	return 0;
}

int digest_end_raw(struct digest *d, uint8_t ret[DIGEST_SHA256], struct banger_error *err)
{
	uint8_t raw[EVP_MAX_MD_SIZE];
	unsigned len;

	if (!EVP_DigestFinal_ex(d->ctx, raw, &len) || len != DIGEST_SHA256)
		return failed(err);
	memcpy(ret, raw, len);
	return 0;
}
