/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The summary of an operation's parameters goes into logs and records that live longer than the
 * request and that others may read, so it is short, has no lists (an environment, a command line)
 * and nothing whose name says that it is a secret.
 */
#include "op/summary.h"
#include <banger/cleanup.h>
#include <banger/wire.h>
#include <string.h>
#include <strings.h>

#define VALUE_MAX 72

static bool is_secret(const char *key)
{
	static const char *const words[] = {
		"password", "passwd", "token", "secret", "auth", "credential"};

	for (size_t i = 0; i < ELEMENTSOF(words); i++)
		if (strcasestr(key, words[i]))
			return true;
	return false;
}

/* Copy at most max bytes of valid UTF-8, cut between characters; control characters become '?'.
 * Returns whether it was cut. */
static bool copy_text(char *to, size_t max, const char *from)
{
	size_t n = strnlen(from, max);
	bool cut = from[n] != '\0';

	while (cut && n > 0 && ((unsigned char)from[n] & 0xC0) == 0x80)
		n--;
	for (size_t i = 0; i < n; i++)
		to[i] = (unsigned char)from[i] < 0x20 || from[i] == 0x7F ? '?' : from[i];
	to[n] = '\0';
	return cut;
}

static void value_text(struct json_object *v, char *buf, size_t size)
{
	char text[VALUE_MAX + 1];

	switch (json_object_get_type(v)) {
	case json_type_array:
		snprintf(buf, size, "[%zu]", json_object_array_length(v));
		break;
	case json_type_object:
		snprintf(buf, size, "{%d}", json_object_object_length(v));
		break;
	case json_type_string: {
		bool cut = copy_text(text, VALUE_MAX, json_object_get_string(v));
		snprintf(buf, size, "%s%s", text, cut ? "…" : "");
		break;
	}
	default:
		copy_text(text, VALUE_MAX, json_object_get_string(v) ?: "null");
		snprintf(buf, size, "%s", text);
	}
}

void params_summary(struct json_object *params, char *buf, size_t size)
{
	size_t len = 0;

	buf[0] = '\0';
	if (!json_object_is_type(params, json_type_object))
		return;
	json_object_object_foreach (params, key, v) {
		char item[2 * VALUE_MAX + 16], name[VALUE_MAX + 1], value[VALUE_MAX + 8];

		if (is_secret(key))
			continue;
		copy_text(name, VALUE_MAX, key);
		value_text(v, value, sizeof(value));
		int n = snprintf(item, sizeof(item), "%s%s=%s", len ? " " : "", name, value);
		if (len + n + sizeof(" …") > size) {
			snprintf(buf + len, size - len, "%s", len ? " …" : "…");
			return;
		}
		memcpy(buf + len, item, n + 1);
		len += n;
	}
}
