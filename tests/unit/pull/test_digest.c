/* SPDX-License-Identifier: Apache-2.0 */
/* The syntax of digests, and their computation against published values (FIPS 180-4, "abc"). */
#include "check.h"
#include "pull/digest.h"

#define ABC256 "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
#define ABC512                                                                                     \
	"sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"                  \
	"2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"

static void syntax(void **state)
{
	assert_true(pull_digest_valid(ABC256));
	assert_true(pull_digest_valid(ABC512));
	static const char *const bad[] = {"", "sha256", "sha256:", (ABC256 "0"), "md5:00",
		"sha256:../../../../etc/passwd",
		"SHA256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
		"sha256:BA7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
		"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015a",
		"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015a/",
		"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n",
		"sha512:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
		(" " ABC256), "sha256+b64:ba7816bf8f01cfea414140de5dae2223"};
	for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
		struct banger_error e = {0};

		assert_false(pull_digest_valid(bad[i]));
		assert_int_equal(pull_digest_check("the digest of layer 3", bad[i], &e), -EINVAL);
		assert_memory_equal(e.message, "the digest of layer 3", 21);
	}
	assert_false(pull_digest_valid(NULL));
	assert_int_equal(pull_digest_check("x", NULL, NULL), -EINVAL);
	assert_int_equal(pull_digest_check("x", ABC512, NULL), 0);
}

static void computed(void **state)
{
	static const char *const known[] = {ABC256, ABC512};

	for (size_t i = 0; i < ELEMENTSOF(known); i++) {
		_cleanup_pull_hash_ struct pull_hash *h = NULL;
		char text[PULL_DIGEST_MAX];

		assert_int_equal(pull_hash_new(known[i], &h, NULL), 0);
		pull_hash_update(h, "a", 1);
		pull_hash_update(h, "", 0);
		pull_hash_update(h, "bc", 2);
		pull_hash_end(h, text);
		assert_string_equal(text, known[i]);
		assert_true(pull_digest_matches(known[i], "abc", 3));
		assert_false(pull_digest_matches(known[i], "abd", 3));
		assert_false(pull_digest_matches(known[i], "abc", 2));
		/* One that ended gives no digest again. */
		pull_hash_end(h, text);
		assert_string_equal(text, "");
	}
	assert_false(pull_digest_matches("sha256:", "", 0));
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(syntax), cmocka_unit_test(computed)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
