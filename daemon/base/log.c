/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One log record, one line, one write(2). The line is put together in a buffer on the stack; a
 * value that does not fit is shortened, so a record is always whole JSON. Bytes that are not UTF-8
 * become U+FFFD. Nothing is allocated, so that what happens on the way to running out of memory is
 * logged too.
 */
#include <banger/log.h>
#include <banger/op.h>
#include <banger/wire.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>
#include <strings.h>

#define LINE_MAX_ 8192
#define TAIL 4 /* room kept for the closing of string and object, and the newline */

static const char *program = "banger";
static enum banger_log_level least = BANGER_INFO;
static banger_log_hook *hook;
static void *hook_arg;

static const char *const level_names[] = {"debug", "info", "warn", "error"};

void banger_log_init(const char *name)
{
	const char *want = getenv("BANGER_LOG_LEVEL");

	program = name;
	for (size_t i = 0; want && i < ELEMENTSOF(level_names); i++)
		if (strcasecmp(want, level_names[i]) == 0)
			least = i;
}

bool banger_log_enabled(enum banger_log_level level)
{
	return level >= least;
}

void banger_log_set_hook(banger_log_hook *h, void *arg)
{
	hook_arg = arg;
	hook = h;
}

struct line {
	char b[LINE_MAX_];
	size_t n;
};

static void put(struct line *l, const char *s, size_t n)
{
	if (n <= sizeof(l->b) - TAIL - l->n) {
		memcpy(l->b + l->n, s, n);
		l->n += n;
	}
}

static void puts_(struct line *l, const char *s)
{
	put(l, s, strlen(s));
}

/* Length of the valid UTF-8 character at s, 0 if there is none. s is NUL-terminated. */
static size_t utf8_length(const char *s)
{
	for (size_t n = 2; n <= 4; n++)
		if (strnlen(s, n) == n && banger_utf8_valid(s, n))
			return n;
	return 0;
}

static void put_string(struct line *l, const char *s)
{
	puts_(l, "\"");
	while (*s && l->n < sizeof(l->b) - TAIL - 8) {
		unsigned char c = *s;
		size_t n = 1;

		if (c == '"' || c == '\\') {
			put(l, (const char[]){'\\', c}, 2);
		} else if (c < 0x20 || c == 0x7F) {
			char esc[8];
			put(l, esc, snprintf(esc, sizeof(esc), "\\u%04x", c));
		} else if (c < 0x80) {
			put(l, s, 1);
		} else if ((n = utf8_length(s)) > 0) {
			put(l, s, n);
		} else {
			n = 1;
			puts_(l, "\xEF\xBF\xBD");
		}
		s += n;
	}
	l->b[l->n++] = '"'; /* from the room kept */
}

static void put_value(struct line *l, const struct banger_kv *kv)
{
	char num[40];

	switch (kv->type) {
	case BANGER_KV_STRING:
		put_string(l, kv->s);
		break;
	case BANGER_KV_INT:
		put(l, num, snprintf(num, sizeof(num), "%lld", (long long)kv->i));
		break;
	case BANGER_KV_DOUBLE:
		put(l, num,
			isfinite(kv->d) ? snprintf(num, sizeof(num), "%.3f", kv->d)
					: snprintf(num, sizeof(num), "null"));
		break;
	case BANGER_KV_BOOL:
		puts_(l, kv->b ? "true" : "false");
		break;
	case BANGER_KV_NONE:
		puts_(l, "null");
		break;
	}
}

static void put_attribute(struct line *l, const struct banger_kv *kv)
{
	/* An attribute that may not fit whole is left out rather than cut in its key. */
	if (l->n + strlen(kv->key) + 64 > sizeof(l->b) - TAIL)
		return;
	if (kv->type == BANGER_KV_STRING && !kv->s)
		return;
	puts_(l, ",\"");
	puts_(l, kv->key);
	puts_(l, "\":");
	put_value(l, kv);
}

void banger_log_write(
	enum banger_log_level level, const char *msg, const struct banger_kv *kv, size_t n)
{
	const char *op = banger_op_current();
	char ts[BANGER_TIME_LEN + 1];
	struct line l = {.n = 0};
	int saved = errno;

	puts_(&l, "{\"ts\":\"");
	puts_(&l, banger_time_format(banger_now_us(), ts));
	puts_(&l, "\",\"level\":\"");
	puts_(&l, level_names[level]);
	puts_(&l, "\",\"program\":");
	put_string(&l, program);
	puts_(&l, ",\"msg\":");
	put_string(&l, msg);
	if (op)
		put_attribute(&l, &KV_S("op_id", op));
	for (size_t i = 0; i < n; i++)
		put_attribute(&l, &kv[i]);
	l.b[l.n++] = '}';
	l.b[l.n] = '\0';
	if (hook && op)
		hook(hook_arg, op, l.b, l.n);
	l.b[l.n++] = '\n';
	/* Nobody can be told that stderr does not take it. */
	for (size_t off = 0; off < l.n;) {
		ssize_t w = write(STDERR_FILENO, l.b + off, l.n - off);
		if (w < 0 && errno == EINTR)
			continue;
		if (w <= 0)
			break;
		off += w;
	}
	errno = saved;
}
