/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JSON as banger reads and builds it: json-c with its strict switch, UTF-8 checked by ourselves
 * (json-c checks it only in part), a depth limit, and nothing allowed after the document. Strings
 * with a NUL in them are refused where they are read as C strings: "a\u0000b" must not be taken for
 * "a".
 *
 * Even when strict, json-c takes NaN, Infinity and member names in single quotes. What is between
 * the strings is therefore looked at first: only JSON's own characters may stand there. And json-c
 * 0.17 and 0.18, when strict, take every byte over 0x7f for a control character: there, other
 * characters than ASCII's are given to it as \u escapes.
 */
#include <banger/wire.h>
#include <limits.h>
#include <pthread.h>
#include <string.h>

static void tokener_freep(struct json_tokener **t)
{
	if (*t)
		json_tokener_free(*t);
}

/* The offset of the first byte that no JSON document can have there: between strings what is not
 * JSON's own, in a string a raw control character. len: none. */
static size_t foreign_byte(const char *s, size_t len)
{
	bool in_string = false;

	for (size_t i = 0; i < len; i++) {
		if (in_string && (unsigned char)s[i] < 0x20)
			return i;
		if (in_string && s[i] == '\\')
			i++;
		else if (s[i] == '"')
			in_string = !in_string;
		else if (!in_string && !strchr(" \t\r\n{}[],:+-.0123456789eEtrufalsn", s[i]))
			return i;
	}
	return len;
}

/* ---- json-c's that want ASCII */

static bool wants_ascii;

static void find_out(void)
{
	static const char text[] = "\"\xc3\xa9\"";
	struct json_tokener *t = json_tokener_new();

	if (!t)
		return;
	json_tokener_set_flags(t, JSON_TOKENER_STRICT);
	struct json_object *o = json_tokener_parse_ex(t, text, sizeof(text));
	wants_ascii = !o;
	json_object_put(o);
	json_tokener_free(t);
}

/* Take one character of valid UTF-8. */
static unsigned take_character(const unsigned char **p)
{
	unsigned c = *(*p)++, more = c < 0x80 ? 0 : c < 0xE0 ? 1 : c < 0xF0 ? 2 : 3;

	if (more)
		c &= 0x3F >> more;
	while (more--)
		c = c << 6 | (*(*p)++ & 0x3F);
	return c;
}

/* The same document in ASCII. The caller frees; NULL: no memory. */
static char *to_ascii(const char *s, size_t len, size_t *ret_len)
{
	const unsigned char *p = (const unsigned char *)s, *end = p + len;
	char *text = malloc(len * 6 + 1), *to = text; /* "\u0080" is made of two bytes */

	while (text && p < end) {
		unsigned c = take_character(&p);
		if (c < 0x80)
			*to++ = (char)c;
		else if (c < 0x10000)
			to += sprintf(to, "\\u%04x", c);
		else
			to += sprintf(to, "\\u%04x\\u%04x", 0xD800 + ((c - 0x10000) >> 10),
				0xDC00 + ((c - 0x10000) & 0x3FF));
	}
	if (text) {
		*to = '\0';
		*ret_len = (size_t)(to - text);
	}
	return text;
}

static int parse(const char *s, size_t len, struct json_object **ret, struct banger_error *err);

int banger_json_parse(const char *s, size_t len, struct json_object **ret, struct banger_error *err)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	_cleanup_free_ char *ascii = NULL;
	bool plain = true;

	if (len > INT_MAX / 6)
		return banger_error_set(err, BANGER_TOO_LARGE, "the document is too large");
	if (!banger_utf8_valid(s, len))
		return banger_error_set(err, BANGER_BAD_REQUEST, "not valid UTF-8");
	pthread_once(&once, find_out);
	for (size_t i = 0; wants_ascii && plain && i < len; i++)
		plain = (unsigned char)s[i] < 0x80;
	if (plain)
		return parse(s, len, ret, err);
	ascii = to_ascii(s, len, &len);
	return ascii ? parse(ascii, len, ret, err) : banger_error_oom(err);
}

static int parse(const char *s, size_t len, struct json_object **ret, struct banger_error *err)
{
	_cleanup_(tokener_freep) struct json_tokener *t =
		json_tokener_new_ex(BANGER_WIRE_DEPTH_MAX);
	_cleanup_json_ struct json_object *o = NULL;

	if (!t)
		return banger_error_oom(err);
	if (memchr(s, '\0', len))
		return banger_error_set(err, BANGER_BAD_REQUEST, "not JSON: it has a NUL byte");
	size_t foreign = foreign_byte(s, len);
	if (foreign < len)
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"not JSON: unexpected character at byte %zu", foreign);
	json_tokener_set_flags(t, JSON_TOKENER_STRICT);
	o = json_tokener_parse_ex(t, s, (int)len);
	enum json_tokener_error e = json_tokener_get_error(t);
	size_t end = json_tokener_get_parse_end(t);
	if (e == json_tokener_continue) {
		/* A number at the end of the input is only known to be over at a terminator. */
		o = json_tokener_parse_ex(t, "", 1);
		e = json_tokener_get_error(t);
		if (e == json_tokener_continue || (e != json_tokener_success && !o))
			return banger_error_set(
				err, BANGER_BAD_REQUEST, "not JSON: it ends too early");
	}
	if (e == json_tokener_error_depth)
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"not acceptable JSON: nested deeper than %d", BANGER_WIRE_DEPTH_MAX);
	if (e != json_tokener_success)
		return banger_error_set(err, BANGER_BAD_REQUEST, "not JSON: %s at byte %zu",
			json_tokener_error_desc(e), end);
	for (size_t i = end; i < len; i++)
		if (!strchr(" \t\r\n", s[i]))
			return banger_error_set(err, BANGER_BAD_REQUEST,
				"not JSON: more after the document, at byte %zu", i);
	*ret = TAKE_PTR(o);
	return 0;
}

struct json_object *banger_json_get(struct json_object *o, const char *key)
{
	struct json_object *v = NULL;

	if (!json_object_is_type(o, json_type_object) || !json_object_object_get_ex(o, key, &v))
		return NULL;
	return v;
}

const char *banger_json_str(struct json_object *o, const char *key)
{
	struct json_object *v = banger_json_get(o, key);

	if (!json_object_is_type(v, json_type_string))
		return NULL;
	const char *s = json_object_get_string(v);
	return s && strlen(s) == (size_t)json_object_get_string_len(v) ? s : NULL;
}

int64_t banger_json_int(struct json_object *o, const char *key, int64_t otherwise)
{
	struct json_object *v = banger_json_get(o, key);

	return json_object_is_type(v, json_type_int) ? json_object_get_int64(v) : otherwise;
}

bool banger_json_bool(struct json_object *o, const char *key, bool otherwise)
{
	struct json_object *v = banger_json_get(o, key);

	return json_object_is_type(v, json_type_boolean) ? json_object_get_boolean(v) : otherwise;
}

int banger_json_add(struct json_object *o, const char *key, struct json_object *v)
{
	if (!v || json_object_object_add(o, key, v) < 0) {
		json_object_put(v);
		return -ENOMEM;
	}
	return 0;
}

int banger_json_add_str(struct json_object *o, const char *key, const char *s)
{
	return s ? banger_json_add(o, key, json_object_new_string(s)) : 0;
}

int banger_json_add_int(struct json_object *o, const char *key, int64_t v)
{
	return banger_json_add(o, key, json_object_new_int64(v));
}

int banger_json_add_bool(struct json_object *o, const char *key, bool v)
{
	return banger_json_add(o, key, json_object_new_boolean(v));
}
