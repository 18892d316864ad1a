/* SPDX-License-Identifier: Apache-2.0 */
/* The text of an image is the document that the model makes of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "api/text.h"

static void compare(const struct banger_image *i)
{
	_cleanup_(text_done) struct text t = {0};
	_cleanup_json_ struct json_object *model = banger_image_to_json(i), *parsed = NULL;
	struct banger_error err = {0};

	text_add_image(&t, i);
	assert_false(t.failed);
	if (banger_json_parse(t.s, t.len, &parsed, &err) < 0)
		fail_msg("%s: %.*s", err.message, (int)t.len, t.s);
	if (!json_object_equal(model, parsed))
		fail_msg("%.*s is not %s", (int)t.len, t.s, json_object_to_json_string(model));
}

static struct banger_image published(void)
{
	struct banger_image i = {.id = "0123456789abcdef",
		.name = "web",
		.state = BANGER_PUBLISHED,
		.generation = 12,
		.size = 1LL << 40,
		.op_id = "op-5b0c7e21d9aa",
		.created_us = 1700000000123456,
		.published_us = 1700000001000000};

	memset(i.digest, 'a', 71);
	memcpy(i.digest, "sha256:", 7);
	return i;
}

static void drafts_and_images(void **state)
{
	struct banger_image i = published(), draft = {.id = "0123456789abcdef",
						     .name = "a.b-c_d",
						     .state = BANGER_DRAFT,
						     .size = -1,
						     .created_us = 1};

	compare(&i);
	compare(&draft);
	i.size = 0;
	i.kernel = (char *)"debian";
	i.config =
		(char *)"{\"cmd\":[\"sh\",\"-c\",\"echo \\\"x\\\"\"],\"labels\":{\"a/b\":\"c\"}}";
	compare(&i);
}

static void hostile_strings(void **state)
{
	static const char *const sources[] = {"", "plain", "\"", "\\", "\"\\\"",
		"\n\t\r\b\f\x01\x1f", "näher — \xf0\x9f\x98\x80", "\x7f", "ends with a quote\"",
		"a/b", "\\u0041"};
	struct banger_image i = published();

	for (size_t k = 0; k < ELEMENTSOF(sources); k++) {
		i.source = (char *)sources[k];
		compare(&i);
	}
}

static void long_strings(void **state)
{
	struct banger_image i = published();
	char source[1025];

	for (size_t k = 0; k < sizeof(source) - 1; k++)
		source[k] = "\"\\a\n"[k % 4];
	source[sizeof(source) - 1] = '\0';
	i.source = source;
	compare(&i);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(drafts_and_images),
		cmocka_unit_test(hostile_strings), cmocka_unit_test(long_strings)};

	return cmocka_run_group_tests_name("api/text", tests, NULL, NULL);
}
