/* SPDX-License-Identifier: Apache-2.0 */
/* A growing buffer and the escapes of JSON (RFC 8259, section 7). */
#include "api/text.h"
#include <banger/log.h>
#include <string.h>

void text_done(struct text *t)
{
	free(t->s);
	*t = (struct text){0};
}

static bool room(struct text *t, size_t n)
{
	if (t->failed)
		return false;
	if (t->size - t->len >= n)
		return true;
	size_t size = t->size ? t->size * 2 : 4096;
	while (size - t->len < n)
		size *= 2;
	char *s = realloc(t->s, size);
	if (!s) {
		t->failed = true;
		return false;
	}
	t->s = s;
	t->size = size;
	return true;
}

static void put(struct text *t, const char *s, size_t n)
{
	if (!room(t, n))
		return;
	memcpy(t->s + t->len, s, n);
	t->len += n;
}

void text_add(struct text *t, const char *s)
{
	put(t, s, strlen(s));
}

static void put_escaped(struct text *t, unsigned char c)
{
	char escape[8];

	if (c == '"' || c == '\\')
		put(t, (const char[]){'\\', (char)c}, 2);
	else
		put(t, escape, snprintf(escape, sizeof(escape), "\\u%04x", c));
}

void text_add_string(struct text *t, const char *s)
{
	put(t, "\"", 1);
	for (;;) {
		size_t plain = 0;

		while ((unsigned char)s[plain] >= 0x20 && s[plain] != '"' && s[plain] != '\\')
			plain++;
		put(t, s, plain);
		if (!s[plain])
			break;
		put_escaped(t, s[plain]);
		s += plain + 1;
	}
	put(t, "\"", 1);
}

void text_add_int(struct text *t, int64_t v)
{
	char b[24];

	put(t, b, snprintf(b, sizeof(b), "%lld", (long long)v));
}

static void add_member(struct text *t, const char *key, const char *value)
{
	if (!value || !*value)
		return;
	text_add(t, key);
	text_add_string(t, value);
}

static void add_time(struct text *t, const char *key, int64_t us)
{
	char b[BANGER_TIME_LEN + 1];

	if (us)
		add_member(t, key, banger_time_format(us, b));
}

void text_add_image(struct text *t, const struct banger_image *i)
{
	add_member(t, "{\"id\":", i->id);
	add_member(t, ",\"name\":", i->name);
	add_member(t, ",\"state\":", banger_image_state_name(i->state));
	text_add(t, ",\"generation\":");
	text_add_int(t, i->generation);
	add_member(t, ",\"digest\":", i->digest);
	if (i->size >= 0) {
		text_add(t, ",\"size\":");
		text_add_int(t, i->size);
	}
	if (i->source) {
		text_add(t, ",\"source\":");
		text_add_string(t, i->source);
	}
	add_member(t, ",\"op_id\":", i->op_id);
	add_time(t, ",\"created\":", i->created_us);
	add_time(t, ",\"published\":", i->published_us);
	add_member(t, ",\"kernel\":", i->kernel);
	if (i->config) {
		text_add(t, ",\"config\":");
		text_add(t, i->config);
	}
	if (i->damaged)
		text_add(t, ",\"damaged\":true");
	text_add(t, "}");
}
