/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Parameters against the method's schema. A handler that runs may rely on it: required members are
 * there, every known member has its type and range, and a string is one as C understands it. null
 * counts as absent; unknown members are a newer peer's.
 */
#include "rpc/internal.h"
#include <string.h>

#define STRING_MAX 4096

static int check_string(const struct rpc_param *p, struct json_object *v, const char *what,
	struct banger_error *err)
{
	int64_t max = p->max > 0 ? p->max : STRING_MAX;

	if (!json_object_is_type(v, json_type_string))
		return banger_error_set(
			err, BANGER_BAD_REQUEST, "\"%s\" must be %s", p->name, what);
	const char *s = json_object_get_string(v);
	size_t len = json_object_get_string_len(v);
	if (strlen(s) != len)
		return banger_error_set(
			err, BANGER_BAD_REQUEST, "\"%s\" has a NUL character in it", p->name);
	if (len > (size_t)max)
		return banger_error_set(err, BANGER_BAD_REQUEST, "\"%s\" is longer than %lld bytes",
			p->name, (long long)max);
	return 0;
}

static int check_int(const struct rpc_param *p, struct json_object *v, struct banger_error *err)
{
	bool ranged = p->min != 0 || p->max != 0;
	bool ok = json_object_is_type(v, json_type_int);

	if (ok) {
		int64_t i = json_object_get_int64(v);

		/* json-c stops at the ends of its range. */
		ok = i != INT64_MIN && !(i > 0 && json_object_get_uint64(v) > INT64_MAX) &&
		     (!ranged || (i >= p->min && i <= p->max));
	}
	if (ok)
		return 0;
	if (!ranged)
		return banger_error_set(
			err, BANGER_BAD_REQUEST, "\"%s\" must be a whole number", p->name);
	return banger_error_set(err, BANGER_BAD_REQUEST,
		"\"%s\" must be a whole number from %lld to %lld", p->name, (long long)p->min,
		(long long)p->max);
}

static int check_strings(const struct rpc_param *p, struct json_object *v, struct banger_error *err)
{
	if (!json_object_is_type(v, json_type_array))
		return banger_error_set(
			err, BANGER_BAD_REQUEST, "\"%s\" must be a list of strings", p->name);
	for (size_t i = 0; i < json_object_array_length(v); i++) {
		int r = check_string(p, json_object_array_get_idx(v, i), "a list of strings", err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int check_param(const struct rpc_param *p, struct json_object *v, struct banger_error *err)
{
	switch (p->type) {
	case RPC_STRING:
		return check_string(p, v, "a string", err);
	case RPC_INT:
		return check_int(p, v, err);
	case RPC_STRINGS:
		return check_strings(p, v, err);
	case RPC_BOOL:
		if (json_object_is_type(v, json_type_boolean))
			return 0;
		return banger_error_set(
			err, BANGER_BAD_REQUEST, "\"%s\" must be true or false", p->name);
	case RPC_OBJECT:
		if (json_object_is_type(v, json_type_object))
			return 0;
		return banger_error_set(
			err, BANGER_BAD_REQUEST, "\"%s\" must be an object", p->name);
	case RPC_END:
		break;
	}
	return 0;
}

int schema_check(
	const struct rpc_param *schema, struct json_object *params, struct banger_error *err)
{
	for (const struct rpc_param *p = schema; p && p->type != RPC_END; p++) {
		struct json_object *v = banger_json_get(params, p->name);

		if (!v && p->required)
			return banger_error_set(
				err, BANGER_BAD_REQUEST, "\"%s\" is required", p->name);
		int r = v ? check_param(p, v, err) : 0;
		if (r < 0)
			return r;
	}
	return 0;
}
