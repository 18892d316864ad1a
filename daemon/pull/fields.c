/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The front door for JSON from registries, layouts and catalogs.
 *
 * Two things are looked at before the parser runs and once after it. Before: how many containers and
 * values there are, because "[],[],…" makes the parser allocate some hundred bytes for each three of
 * text, and 4 MiB of that would be a gigabyte. After: whether the tree has as many members as the
 * text has; the parser lets the last of two equal names win, others take the first, and an image
 * that is two images, depending on who looks, is how digests get to vouch for what nobody checked.
 */
#include <string.h>
#include "pull/fields.h"

/* An index of 10,000 entries has 30,000 containers and 120,000 values. */
#define CONTAINERS_MAX 65536
#define VALUES_MAX 262144

struct shape {
	size_t containers, commas, colons;
	bool nul; /* an escaped U+0000 */
};

static struct shape measure(const char *s, size_t len)
{
	struct shape m = {0};
	bool in_string = false;

	for (size_t i = 0; i < len; i++) {
		if (in_string && s[i] == '\\') {
			m.nul |= len - i >= 6 && memcmp(s + i + 1, "u0000", 5) == 0;
			i++;
		} else if (s[i] == '"') {
			in_string = !in_string;
		} else if (!in_string) {
			m.containers += s[i] == '{' || s[i] == '[';
			m.commas += s[i] == ',';
			m.colons += s[i] == ':';
		}
	}
	return m;
}

/* Nested no deeper than the parser allows. */
static size_t count_members(struct json_object *o)
{
	size_t n = 0;

	if (json_object_is_type(o, json_type_object)) {
		n = json_object_object_length(o);
		json_object_object_foreach (o, key, v) {
			(void)key;
			n += count_members(v);
		}
	} else if (json_object_is_type(o, json_type_array)) {
		for (size_t i = 0; i < json_object_array_length(o); i++)
			n += count_members(json_object_array_get_idx(o, i));
	}
	return n;
}

int fields_parse(const char *text, size_t len, size_t max, struct json_object **ret,
	struct banger_error *err)
{
	_cleanup_json_ struct json_object *o = NULL;

	if (len > max)
		return banger_error_set(err, BANGER_TOO_LARGE,
			"it has %zu bytes, more than the %zu allowed", len, max);
	struct shape m = measure(text, len);
	if (m.containers > CONTAINERS_MAX || m.commas > VALUES_MAX)
		return banger_error_set(err, BANGER_TOO_LARGE,
			"it has more than %d objects and lists, or more than %d values",
			CONTAINERS_MAX, VALUES_MAX);
	if (m.nul)
		return banger_error_set(
			err, BANGER_BAD_REQUEST, "it has a NUL character (\\u0000) in a string");
	int r = banger_json_parse(text, len, &o, err);
	if (r < 0)
		return r;
	if (!json_object_is_type(o, json_type_object))
		return banger_error_set(err, BANGER_BAD_REQUEST, "it is not a JSON object");
	if (count_members(o) != m.colons)
		return banger_error_set(
			err, BANGER_BAD_REQUEST, "an object in it has the same member twice");
	*ret = TAKE_PTR(o);
	return 0;
}

static int member(struct json_object *o, const char *path, const char *key, bool required,
	enum json_type type, const char *type_name, struct json_object **ret,
	struct banger_error *err)
{
	struct json_object *v = banger_json_get(o, key);

	if (!v && required)
		return banger_error_set(err, BANGER_BAD_REQUEST, "%s%s is missing", path, key);
	if (v && !json_object_is_type(v, type))
		return banger_error_set(
			err, BANGER_BAD_REQUEST, "%s%s is not %s", path, key, type_name);
	*ret = v;
	return 0;
}

int field_string(struct json_object *o, const char *path, const char *key, bool required,
	size_t max, const char **ret, struct banger_error *err)
{
	struct json_object *v = NULL;
	int r = member(o, path, key, required, json_type_string, "a string", &v, err);

	if (r < 0)
		return r;
	if (v && (size_t)json_object_get_string_len(v) > max)
		return banger_error_set(
			err, BANGER_BAD_REQUEST, "%s%s is longer than %zu bytes", path, key, max);
	*ret = v ? json_object_get_string(v) : NULL;
	return 0;
}

int field_object(struct json_object *o, const char *path, const char *key, bool required,
	struct json_object **ret, struct banger_error *err)
{
	return member(o, path, key, required, json_type_object, "an object", ret, err);
}

int field_array(struct json_object *o, const char *path, const char *key, bool required,
	struct json_object **ret, struct banger_error *err)
{
	return member(o, path, key, required, json_type_array, "a list", ret, err);
}

int field_size(struct json_object *o, const char *path, const char *key, int64_t max, int64_t *ret,
	struct banger_error *err)
{
	struct json_object *v = NULL;
	int r = member(o, path, key, true, json_type_int, "a whole number", &v, err);

	if (r < 0)
		return r;
	int64_t n = json_object_get_int64(v); /* larger ones come as INT64_MAX */
	if (n < 0 || n > max)
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"%s%s is %lld, not one of 0 to %lld", path, key, (long long)n,
			(long long)max);
	*ret = n;
	return 0;
}
