/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names, ids, times and the documents that carry them. The first byte chooses what the rest is
 * taken for. The validators are compared with the rule written out a second time here, byte by
 * byte; documents that are taken must come back equal from a round trip, and what a document's
 * check let through must be within the limits that the rest of banger relies on.
 */
#include "fuzz.h"

#include <string.h>
#include <banger/log.h>
#include <banger/model.h>

static bool is_alnum(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

static bool is_hex(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
}

static bool all_hex(const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!is_hex(s[i]))
			return false;
	return s[n] == 0;
}

static bool name_rule(const char *s)
{
	size_t n = strlen(s);
	if (n < 1 || n > BANGER_NAME_MAX || !is_alnum(s[0]))
		return false;
	for (size_t i = 1; i < n; i++)
		if (!is_alnum(s[i]) && !strchr("._-", s[i]))
			return false;
	return true;
}

static void fuzz_words(const char *s)
{
	struct banger_error err = {0};
	int64_t us;
	char buf[BANGER_TIME_LEN + 1];

	MUST(banger_name_valid(s) == name_rule(s));
	int r = banger_name_check("image", s, &err);
	MUST((r == 0) == name_rule(s));
	if (r < 0)
		MUST(err.code ==
			(strlen(s) > BANGER_NAME_MAX ? BANGER_NAME_TOO_LONG : BANGER_BAD_REQUEST));
	MUST(banger_op_id_valid(s) ==
		(strlen(s) == BANGER_OP_ID_LEN && !strncmp(s, "op-", 3) && all_hex(s + 3, 12)));
	MUST(banger_id_valid(s) == (strlen(s) == BANGER_ID_LEN && all_hex(s, BANGER_ID_LEN)));
	if (banger_file_name_check(s, &err) == 0)
		MUST(s[0] && !strchr(s, '/') && strcmp(s, ".") && strcmp(s, "..") &&
			strlen(s) <= 255 && banger_utf8_valid(s, strlen(s)));
	if (banger_time_parse(s, &us) == 0)
		MUST(!strcmp(banger_time_format(us, buf), s));
	MUST(banger_code_from_name(s) == BANGER_INTERNAL ||
		!strcmp(banger_code_name(banger_code_from_name(s)), s));
	banger_error_set(&err, BANGER_NOT_FOUND, "image \"%s\" not found", s);
	MUST(banger_utf8_valid(err.message, strlen(err.message)));
}

static void fuzz_image(struct json_object *o)
{
	_cleanup_image_ struct banger_image image = {0}, again = {0}, copy = {0};
	if (banger_image_from_json(o, &image, NULL) < 0)
		return;
	MUST(banger_name_valid(image.name) && banger_id_valid(image.id));
	MUST(!image.kernel || banger_name_valid(image.kernel));
	if (!image.created_us)
		return; /* the epoch stands for "no time" and is not written */
	_cleanup_json_ struct json_object *out = banger_image_to_json(&image), *out2 = NULL,
					  *out3 = NULL;
	MUST(out && banger_image_from_json(out, &again, NULL) == 0);
	out2 = banger_image_to_json(&again);
	MUST(json_object_equal(out, out2));
	MUST(banger_image_copy(&image, &copy) == 0);
	out3 = banger_image_to_json(&copy);
	MUST(json_object_equal(out, out3));
}

static void fuzz_kernel(struct json_object *o)
{
	_cleanup_kernel_ struct banger_kernel kernel = {0}, again = {0};
	if (banger_kernel_from_json(o, &kernel, NULL) < 0)
		return;
	MUST(banger_name_valid(kernel.name) && banger_id_valid(kernel.id));
	_cleanup_json_ struct json_object *out = banger_kernel_to_json(&kernel), *out2 = NULL;
	MUST(out && banger_kernel_from_json(out, &again, NULL) == 0);
	out2 = banger_kernel_to_json(&again);
	MUST(json_object_equal(out, out2));
}

static void fuzz_op(struct json_object *o)
{
	struct banger_op_record record = {0}, again = {0};
	if (banger_op_record_from_json(o, &record, NULL) < 0)
		return;
	MUST(banger_op_id_valid(record.op_id));
	_cleanup_json_ struct json_object *out = banger_op_record_to_json(&record), *out2 = NULL;
	MUST(out && banger_op_record_from_json(out, &again, NULL) == 0);
	out2 = banger_op_record_to_json(&again);
	MUST(json_object_equal(out, out2));
}

static void fuzz_config(struct json_object *o)
{
	_cleanup_free_ char *kernel = NULL, *config = NULL, *kernel2 = NULL, *config2 = NULL;
	_cleanup_json_ struct json_object *parsed = NULL, *doc = NULL;
	if (banger_image_config_parse(o, &kernel, &config, NULL) < 0)
		return;
	MUST(!kernel || banger_name_valid(kernel));
	if (!config)
		return;
	MUST(banger_json_parse(config, strlen(config), &parsed, NULL) == 0);
	/* What it gave is what it would take again. */
	doc = json_object_new_object();
	MUST(doc && banger_json_add(doc, "config", json_object_get(parsed)) == 0);
	MUST(banger_image_config_parse(doc, &kernel2, &config2, NULL) == 0);
	MUST(config2 && !strcmp(config, config2));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static void (*const documents[])(struct json_object *) = {
		fuzz_image, fuzz_kernel, fuzz_op, fuzz_config};
	_cleanup_json_ struct json_object *o = NULL;
	if (!size)
		return 0;
	_cleanup_free_ char *text = malloc(size);
	if (!text)
		return 0;
	memcpy(text, data + 1, size - 1);
	text[size - 1] = 0;
	if (data[0] == 'w')
		fuzz_words(text);
	else if (banger_json_parse(text, size - 1, &o, NULL) == 0)
		documents[data[0] % ELEMENTSOF(documents)](o);
	return 0;
}
