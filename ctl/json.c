/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JSON out, and reading the daemon's answers. A newer daemon may say more than this build knows, an
 * older one less: what is absent reads as empty, and --json hands on what came, whole.
 */
#include <string.h>
#include <banger/log.h>
#include "ctl.h"
#include "text.h"

static int put(struct json_object *o, int flags, struct banger_error *err)
{
	_cleanup_free_ char *safe = NULL;
	const char *text =
		json_object_to_json_string_ext(o, flags | JSON_C_TO_STRING_NOSLASHESCAPE);

	if (text)
		safe = text_clean_json(text);
	if (!safe)
		return banger_error_oom(err);
	puts(safe);
	return 0;
}

int ctl_print_json(const struct ctl *c, struct json_object *o, struct banger_error *err)
{
	return put(o,
		c->terminal ? JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED
			    : JSON_C_TO_STRING_PLAIN,
		err);
}

int ctl_print_line(struct json_object *o, struct banger_error *err)
{
	int r = put(o, JSON_C_TO_STRING_PLAIN, err);

	fflush(stdout);
	return r;
}

const char *ctl_json_text(struct json_object *o, const char *key, char buf[32])
{
	struct json_object *v = banger_json_get(o, key);

	if (json_object_is_type(v, json_type_string))
		return json_object_get_string(v);
	if (json_object_is_type(v, json_type_boolean))
		return json_object_get_boolean(v) ? "yes" : "no";
	if (!json_object_is_type(v, json_type_int))
		return "";
	snprintf(buf, 32, "%lld", (long long)json_object_get_int64(v));
	return buf;
}

int64_t ctl_json_time(struct json_object *o, const char *key)
{
	const char *s = banger_json_str(o, key);
	int64_t us = 0;

	return s && banger_time_parse(s, &us) == 0 ? us : 0;
}

size_t ctl_json_count(struct json_object *o, const char *key)
{
	struct json_object *v = banger_json_get(o, key);

	return json_object_is_type(v, json_type_array) ? json_object_array_length(v) : 0;
}

struct json_object *ctl_json_at(struct json_object *o, const char *key, size_t i)
{
	return json_object_array_get_idx(banger_json_get(o, key), i);
}
