/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JSON of strangers, field by field. Every refusal names the field by its path from the top of the
 * document: a path here is what stands before the key, "" or "layers[3].platform.".
 */
#ifndef BANGER_PULL_FIELDS_H
#define BANGER_PULL_FIELDS_H

#include <stdbool.h>
#include <stdint.h>
#include <banger/wire.h>

#define FIELD_PATH_MAX 96

/*
 * Parse a whole document, an object. TOO_LARGE over max bytes, or with more values than an honest one
 * has (a value costs the parser a hundred times its text). BAD_REQUEST: not JSON, nested too deep, a
 * member twice in one object, or U+0000 in a string: readings that differ from program to program.
 */
int fields_parse(const char *text, size_t len, size_t max, struct json_object **ret, struct banger_error *err);

/* A member; null counts as absent. Absent: 0 and *ret NULL, BAD_REQUEST when required. Another type is
 * BAD_REQUEST, a string over max bytes too. All borrowed from o. */
int field_string(struct json_object *o, const char *path, const char *key, bool required, size_t max,
	const char **ret, struct banger_error *err);
int field_object(struct json_object *o, const char *path, const char *key, bool required,
	struct json_object **ret, struct banger_error *err);
int field_array(struct json_object *o, const char *path, const char *key, bool required,
	struct json_object **ret, struct banger_error *err);
/* Required, 0 to max. */
int field_size(struct json_object *o, const char *path, const char *key, int64_t max, int64_t *ret,
	struct banger_error *err);

#endif
