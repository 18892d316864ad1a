/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A thin owner of OpenSSL's EVP context for the two algorithms that image documents use. EVP is the
 * interface that finds the CPU's instructions.
 *
 * Updates return nothing, so that the code between a socket and a disk stays simple: a context that
 * failed ends with an empty text, and that is no blob's digest.
 */
#include <assert.h>
#include <string.h>
#include <openssl/evp.h>
#include "pull/digest.h"

static const struct algorithm {
	const char *prefix;
	size_t digits;
	const EVP_MD *(*md)(void);
} algorithms[] = {{"sha256:", 64, EVP_sha256}, {"sha512:", 128, EVP_sha512}};

static const struct algorithm *algorithm_of(const char *s)
{
	for (size_t i = 0; s && i < ELEMENTSOF(algorithms); i++)
		if (strncmp(s, algorithms[i].prefix, strlen(algorithms[i].prefix)) == 0)
			return &algorithms[i];
	return NULL;
}

bool pull_digest_valid(const char *s)
{
	const struct algorithm *a = algorithm_of(s);

	if (!a)
		return false;
	s += strlen(a->prefix);
	return strspn(s, "0123456789abcdef") == a->digits && s[a->digits] == '\0';
}

int pull_digest_check(const char *what, const char *s, struct banger_error *err)
{
	const struct algorithm *a = algorithm_of(s);

	if (!s || !*s)
		return banger_error_set(err, BANGER_BAD_REQUEST, "%s is missing", what);
	if (!a)
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"%s, \"%.150s\", is not a digest: it must begin with sha256: or sha512:",
			what, s);
	if (!pull_digest_valid(s))
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"%s, \"%.150s\", is not a digest: after %s come %zu digits of 0-9 and a-f",
			what, s, a->prefix, a->digits);
	return 0;
}

struct pull_hash {
	EVP_MD_CTX *ctx;
	const struct algorithm *algorithm;
	bool failed;
};

int pull_hash_new(const char *like, struct pull_hash **ret, struct banger_error *err)
{
	_cleanup_pull_hash_ struct pull_hash *h = calloc(1, sizeof(*h));

	assert(pull_digest_valid(like));
	if (!h || !(h->ctx = EVP_MD_CTX_new()))
		return banger_error_oom(err);
	h->algorithm = algorithm_of(like);
	if (EVP_DigestInit_ex(h->ctx, h->algorithm->md(), NULL) != 1)
		return banger_error_set(
			err, BANGER_INTERNAL, "OpenSSL cannot compute %.6s", h->algorithm->prefix);
	*ret = TAKE_PTR(h);
	return 0;
}

void pull_hash_update(struct pull_hash *h, const void *data, size_t len)
{
	if (EVP_DigestUpdate(h->ctx, data, len) != 1)
		h->failed = true;
}

static void write_text(
	const struct algorithm *a, const unsigned char *md, size_t len, char ret[PULL_DIGEST_MAX])
{
	static const char hex[] = "0123456789abcdef";
	char *p = stpcpy(ret, a->prefix);

	for (size_t i = 0; i < len; i++) {
		*p++ = hex[md[i] >> 4];
		*p++ = hex[md[i] & 15];
	}
	*p = '\0';
}

void pull_hash_end(struct pull_hash *h, char ret[PULL_DIGEST_MAX])
{
	unsigned char md[EVP_MAX_MD_SIZE];
	unsigned n = 0;

	ret[0] = '\0';
	if (!h->failed && EVP_DigestFinal_ex(h->ctx, md, &n) == 1 && n * 2 == h->algorithm->digits)
		write_text(h->algorithm, md, n, ret);
	h->failed = true;
}

void pull_hash_freep(struct pull_hash **h)
{
	if (!*h)
		return;
	EVP_MD_CTX_free((*h)->ctx);
	free(*h);
	*h = NULL;
}

bool pull_digest_matches(const char *digest, const void *data, size_t len)
{
	_cleanup_pull_hash_ struct pull_hash *h = NULL;
	char actual[PULL_DIGEST_MAX];

	if (!pull_digest_valid(digest) || pull_hash_new(digest, &h, NULL) < 0)
		return false;
	pull_hash_update(h, data, len);
	pull_hash_end(h, actual);
	return strcmp(actual, digest) == 0;
}
