/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Numbers in headers: octal digits between blanks, or, with the first bit set, a big-endian two's
 * complement number in the rest of the field (GNU, star). In extended headers: decimal.
 */
#include "unpack/tar/internal.h"

#include <errno.h>

static int base256(const uint8_t *p, size_t len, int64_t *ret)
{
	/* The first bit is the mark, the second the sign. */
	bool negative = p[0] & 0x40;
	uint64_t v = negative ? UINT64_MAX : 0;

	for (size_t i = 0; i < len; i++) {
		uint8_t byte = i == 0 ? (p[0] & 0x3f) | (negative ? 0xc0 : 0) : p[i];
		/* What is shifted out must be sign only. */
		if (v >> 55 != (negative ? 0x1ff : 0))
			return -EINVAL;
		v = v << 8 | byte;
	}
	if (((int64_t)v < 0) != negative)
		return -EINVAL;
	*ret = v;
	return 0;
}

int tar_number(const char *field, size_t len, int64_t *ret)
{
	uint64_t v = 0;
	size_t i = 0;

	if ((uint8_t)field[0] & 0x80)
		return base256((const uint8_t *)field, len, ret);
	while (i < len && field[i] == ' ')
		i++;
	for (; i < len && field[i] >= '0' && field[i] <= '7'; i++) {
		if (v >> 60)
			return -EINVAL;
		v = v << 3 | (uint64_t)(field[i] - '0');
	}
	for (; i < len && field[i] != '\0'; i++)
		if (field[i] != ' ')
			return -EINVAL;
	*ret = v;
	return 0;
}

int tar_decimal(const char *s, size_t len, int64_t *ret)
{
	bool negative = len > 0 && s[0] == '-';
	int64_t v = 0;

	if (len == (size_t)negative)
		return -EINVAL;
	for (size_t i = negative; i < len; i++) {
		if (s[i] < '0' || s[i] > '9')
			return -EINVAL;
		if (__builtin_mul_overflow(v, 10, &v) || __builtin_sub_overflow(v, s[i] - '0', &v))
			return -ERANGE;
	}
	if (!negative && v == INT64_MIN)
		return -ERANGE;
	*ret = negative ? v : -v;
	return 0;
}

/* Digits after the point as nanoseconds; *ret_rest: were there more that are not zero? */
static int fraction(const char *s, size_t len, uint32_t *ret, bool *ret_rest)
{
	uint32_t nsec = 0, scale = 100000000;

	*ret_rest = false;
	for (size_t i = 0; i < len; i++) {
		if (s[i] < '0' || s[i] > '9')
			return -EINVAL;
		nsec += scale * (uint32_t)(s[i] - '0');
		*ret_rest = *ret_rest || (scale == 0 && s[i] != '0');
		scale /= 10;
	}
	*ret = nsec;
	return 0;
}

int tar_seconds(const char *s, size_t len, struct tar_time *ret)
{
	const char *point = memchr(s, '.', len);
	size_t whole = point ? (size_t)(point - s) : len;
	bool negative = len > 0 && s[0] == '-', rest = false;
	struct tar_time t = {0};
	int r = tar_decimal(s, whole, &t.sec);

	if (r == -ERANGE)
		t.sec = negative ? INT64_MIN : INT64_MAX;
	else if (r < 0)
		return r;
	if (point && (r = fraction(point + 1, len - whole - 1, &t.nsec, &rest)) < 0)
		return r;
	if (negative && (t.nsec > 0 || rest)) {
		/* -1.25 is 0.75 after -2; what is finer than a nanosecond is cut off downward. */
		uint32_t below = t.nsec + rest;
		if (t.sec > INT64_MIN)
			t.sec -= below > 0;
		t.nsec = below > 0 ? 1000000000 - below : 0;
	}
	*ret = t;
	return 0;
}
