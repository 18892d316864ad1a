/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Making texts safe to show, measuring them, and the people's forms of sizes and times.
 *
 * Whatever a daemon, an image or a file name says may hold escape sequences: a terminal would obey
 * them. Cleaning works on code points: everything that is not plainly a character to look at is
 * written out in ASCII. That is done for pipes too, since what goes through a pipe often ends on a
 * terminal.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <wchar.h>
#include "text.h"

/* Decode one code point of UTF-8: its length, or 0 for what is none (also surrogates, overlong
 * forms). */
static size_t decode(const unsigned char *s, uint32_t *ret)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	size_t n = s[0] < 0x80                   ? 1
		   : s[0] >= 0xf0 && s[0] < 0xf8 ? 4
		   : s[0] >= 0xe0                ? 3
		   : s[0] >= 0xc0                ? 2
						 : 0;

	if (n <= 1 || s[0] >= 0xf8) {
		*ret = s[0];
		return s[0] < 0x80;
	}
	uint32_t c = s[0] & (0xffu >> (n + 1));
	for (size_t i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (s[i] & 0x3f);
	}
	if (c < least[n] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
		return 0;
	*ret = c;
	return n;
}

/* Does this code point do something rather than show something? */
static bool acts(uint32_t c)
{
	return c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x61c || c == 0x200e || c == 0x200f ||
	       (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069) || c == 0xfeff;
}

/* Write what stands for a code point that acts, or for a byte that is no UTF-8. */
static size_t write_out(char *to, uint32_t c, bool json)
{
	if (json || c > 0xff)
		return (size_t)sprintf(to, "\\u%04x", c);
	if (c == '\n')
		return (size_t)sprintf(to, "\\n");
	if (c == '\t')
		return (size_t)sprintf(to, " ");
	return (size_t)sprintf(to, "\\x%02x", c);
}

/* JSON is itself ASCII or UTF-8 outside its strings; its newlines are its layout and stay. */
static char *clean(const char *s, bool json)
{
	const unsigned char *p = (const unsigned char *)(s ? s : "");
	char *out = malloc(strlen((const char *)p) * 6 + 1), *o = out;

	if (!out)
		return NULL;
	while (*p) {
		uint32_t c;
		size_t n = decode(p, &c);

		if (n == 0) {
			o += write_out(o, json ? 0xfffd : *p, json);
			p++;
		} else if (acts(c) && !(json && c == '\n')) {
			o += write_out(o, c, json);
			p += n;
		} else {
			memcpy(o, p, n);
			o += n;
			p += n;
		}
	}
	*o = '\0';
	return out;
}

char *text_clean(const char *s)
{
	return clean(s, false);
}

char *text_clean_json(const char *s)
{
	return clean(s, true);
}

size_t text_width(const char *s)
{
	const unsigned char *p = (const unsigned char *)s;
	size_t width = 0;

	while (*p) {
		uint32_t c;
		size_t n = decode(p, &c);
		int w = n ? wcwidth((wchar_t)c) : 1;

		width += w < 0 ? 1 : (size_t)w;
		p += n ? n : 1;
	}
	return width;
}

const char *text_size(int64_t bytes, char buf[TEXT_SIZE_LEN])
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	double v = (double)bytes;
	size_t u = 0;

	while (v >= 999.5 && u + 1 < sizeof(units) / sizeof(*units)) {
		v /= 1024;
		u++;
	}
	snprintf(buf, TEXT_SIZE_LEN, u > 0 && v < 9.95 ? "%.1f%s" : "%.0f%s", v, units[u]);
	return buf;
}

/* A plain decimal number (no sign, no exponent, no hexadecimal): how long it is, 0 if it is none.
 */
static size_t read_decimal(const char *s, double *ret)
{
	size_t n = strspn(s, "0123456789");
	double v = 0, scale = 1;

	if (n == 0 || n > 19)
		return 0;
	for (size_t i = 0; i < n; i++)
		v = v * 10 + (s[i] - '0');
	if (s[n] == '.') {
		size_t digits = strspn(s + n + 1, "0123456789");
		if (digits == 0 || digits > 9)
			return 0;
		for (size_t i = n + 1; i <= n + digits; i++)
			v += (s[i] - '0') * (scale /= 10);
		n += digits + 1;
	}
	*ret = v;
	return n;
}

/* The number times `unit`; exact where it is a whole number. */
static int scaled(const char *s, double v, int64_t unit, int64_t *ret)
{
	unsigned long long whole;
	int64_t n;

	if (strchr(s, '.')) {
		if (v * (double)unit >= 9.2e18)
			return -ERANGE;
		*ret = (int64_t)(v * (double)unit);
		return 0;
	}
	errno = 0;
	whole = strtoull(s, NULL, 10);
	if (errno || whole > INT64_MAX || __builtin_mul_overflow((int64_t)whole, unit, &n))
		return -ERANGE;
	*ret = n;
	return 0;
}

int text_size_parse(const char *s, int64_t *ret)
{
	static const char letters[] = "KMGTPE";
	double v;
	size_t n = read_decimal(s, &v);
	const char *unit = s + n, *letter;
	int64_t base = 1024, factor = 1;

	if (n == 0)
		return -EINVAL;
	letter = *unit ? strchr(letters, *unit == 'k' ? 'K' : *unit) : NULL;
	if (letter) {
		unit++;
		if (strcmp(unit, "B") == 0)
			base = 1000;
		else if (*unit && strcmp(unit, "iB") != 0)
			return -EINVAL;
		for (const char *l = letters; l <= letter; l++)
			factor *= base;
	} else if (*unit && strcmp(unit, "B") != 0) {
		return -EINVAL;
	}
	return scaled(s, v, factor, ret);
}

const char *text_duration(int64_t us, char buf[TEXT_DURATION_LEN])
{
	long long s = us / 1000000;

	if (us < 10000)
		snprintf(buf, TEXT_DURATION_LEN, "%.2fms", (double)us / 1000);
	else if (us < 1000000)
		snprintf(buf, TEXT_DURATION_LEN, "%lldms", (long long)us / 1000);
	else if (s < 10)
		snprintf(buf, TEXT_DURATION_LEN, "%.1fs", (double)us / 1e6);
	else if (s < 60)
		snprintf(buf, TEXT_DURATION_LEN, "%llds", s);
	else if (s < 3600)
		snprintf(buf, TEXT_DURATION_LEN, "%lldm %llds", s / 60, s % 60);
	else if (s < 86400)
		snprintf(buf, TEXT_DURATION_LEN, "%lldh %lldm", s / 3600, s / 60 % 60);
	else
		snprintf(buf, TEXT_DURATION_LEN, "%lldd %lldh", s / 86400, s / 3600 % 24);
	return buf;
}

int text_duration_parse(const char *s, int64_t *ret_ms)
{
	static const struct {
		const char *name;
		int64_t ms;
	} units[] = {
		{"", 1000}, {"s", 1000}, {"ms", 1}, {"m", 60000}, {"h", 3600000}, {"d", 86400000}};
	double v;
	size_t n = read_decimal(s, &v);

	if (n == 0)
		return -EINVAL;
	for (size_t i = 0; i < sizeof(units) / sizeof(*units); i++)
		if (strcmp(s + n, units[i].name) == 0)
			return scaled(s, v, units[i].ms, ret_ms);
	return -EINVAL;
}

const char *text_age(int64_t us, int64_t now_us, char buf[TEXT_AGE_LEN])
{
	static const struct {
		int64_t s;
		const char *name;
	} units[] = {{365 * 86400, "year"}, {30 * 86400, "month"}, {7 * 86400, "week"},
		{86400, "day"}, {3600, "hour"}, {60, "minute"}, {1, "second"}};
	int64_t s = (now_us - us) / 1000000;
	bool ahead = s < 0;

	s = ahead ? -s : s;
	for (size_t i = 0; i < sizeof(units) / sizeof(*units); i++) {
		if (s < units[i].s)
			continue;
		int64_t n = s / units[i].s;
		snprintf(buf, TEXT_AGE_LEN, "%s%lld %s%s%s", ahead ? "in " : "", (long long)n,
			units[i].name, n == 1 ? "" : "s", ahead ? "" : " ago");
		return buf;
	}
	return strcpy(buf, "just now");
}

const char *text_time(int64_t us, char buf[TEXT_TIME_LEN])
{
	time_t t = (time_t)(us / 1000000);
	struct tm tm;

	if (!localtime_r(&t, &tm) || strftime(buf, TEXT_TIME_LEN, "%Y-%m-%d %H:%M:%S %z", &tm) == 0)
		snprintf(buf, TEXT_TIME_LEN, "@%lld", (long long)t);
	return buf;
}

const char *text_clock(int64_t us, char buf[TEXT_TIME_LEN])
{
	time_t t = (time_t)(us / 1000000);
	struct tm tm;
	size_t n = localtime_r(&t, &tm) ? strftime(buf, TEXT_TIME_LEN - 5, "%H:%M:%S", &tm) : 0;

	snprintf(buf + n, TEXT_TIME_LEN - n, ".%03d", (int)(us / 1000 % 1000));
	return buf;
}

unsigned text_distance(const char *a, const char *b, unsigned limit)
{
	unsigned row[65];
	size_t n = strlen(b), m = strlen(a);

	if (n > 64 || m > 64 || (n > m ? n - m : m - n) > limit)
		return limit + 1;
	for (size_t j = 0; j <= n; j++)
		row[j] = (unsigned)j;
	for (size_t i = 1; i <= m; i++) {
		unsigned diagonal = row[0];

		row[0] = (unsigned)i;
		for (size_t j = 1; j <= n; j++) {
			unsigned change = diagonal + (a[i - 1] != b[j - 1]);
			diagonal = row[j];
			if (row[j] + 1 < change)
				change = row[j] + 1;
			row[j] = row[j - 1] + 1 < change ? row[j - 1] + 1 : change;
		}
	}
	return row[n] > limit ? limit + 1 : row[n];
}
