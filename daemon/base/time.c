/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Times as text: RFC 3339 in UTC with microseconds, one form only. The conversion is arithmetic on
 * days since 1970 in the proleptic Gregorian calendar, so that a hundred thousand of them cost
 * nothing and no time zone or lock is involved. Years 0000 to 9999.
 */
#include <banger/log.h>
#include <ctype.h>
#include <string.h>
#include <time.h>

#define US_PER_DAY (86400LL * 1000000)

int64_t banger_now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

int64_t banger_monotonic_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

/* Days from 1970-01-01 to a date; March is taken as the year's first month, so the leap day is its
 * last. */
static int64_t days_from_civil(int64_t y, unsigned m, unsigned d)
{
	y -= m <= 2;
	int64_t era = (y >= 0 ? y : y - 399) / 400;
	unsigned year_of_era = y - era * 400;
	unsigned day_of_year = (153 * (m > 2 ? m - 3 : m + 9) + 2) / 5 + d - 1;
	unsigned day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;

	return era * 146097 + day_of_era - 719468;
}

static void civil_from_days(int64_t days, int64_t *y, unsigned *m, unsigned *d)
{
	days += 719468;
	int64_t era = (days >= 0 ? days : days - 146096) / 146097;
	unsigned doe = days - era * 146097;
	unsigned yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
	unsigned doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
	unsigned mp = (5 * doy + 2) / 153;

	*d = doy - (153 * mp + 2) / 5 + 1;
	*m = mp < 10 ? mp + 3 : mp - 9;
	*y = yoe + era * 400 + (*m <= 2);
}

static char *digits(char *p, uint64_t v, int n)
{
	for (int i = n - 1; i >= 0; i--, v /= 10)
		p[i] = '0' + v % 10;
	return p + n;
}

const char *banger_time_format(int64_t us, char buf[BANGER_TIME_LEN + 1])
{
	const int64_t min = days_from_civil(0, 1, 1) * US_PER_DAY;
	const int64_t max = days_from_civil(10000, 1, 1) * US_PER_DAY - 1;
	int64_t y;
	unsigned m, d;
	char *p = buf;

	us = us < min ? min : us > max ? max : us;
	int64_t days = us / US_PER_DAY, rest = us % US_PER_DAY;
	if (rest < 0) {
		rest += US_PER_DAY;
		days--;
	}
	civil_from_days(days, &y, &m, &d);
	p = digits(p, y, 4);
	*p++ = '-';
	p = digits(p, m, 2);
	*p++ = '-';
	p = digits(p, d, 2);
	*p++ = 'T';
	p = digits(p, rest / 3600000000LL, 2);
	*p++ = ':';
	p = digits(p, rest / 60000000 % 60, 2);
	*p++ = ':';
	p = digits(p, rest / 1000000 % 60, 2);
	*p++ = '.';
	p = digits(p, rest % 1000000, 6);
	*p++ = 'Z';
	*p = '\0';
	return buf;
}

static bool number(const char *s, int n, unsigned *ret)
{
	unsigned v = 0;

	for (int i = 0; i < n; i++) {
		if (s[i] < '0' || s[i] > '9')
			return false;
		v = v * 10 + (s[i] - '0');
	}
	*ret = v;
	return true;
}

int banger_time_parse(const char *s, int64_t *ret_us)
{
	static const unsigned char month_days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	unsigned y, mo, d, h, mi, sec, us;

	if (!s || strlen(s) != BANGER_TIME_LEN || s[4] != '-' || s[7] != '-' || s[10] != 'T' ||
		s[13] != ':' || s[16] != ':' || s[19] != '.' || s[26] != 'Z')
		return -EINVAL;
	if (!number(s, 4, &y) || !number(s + 5, 2, &mo) || !number(s + 8, 2, &d) ||
		!number(s + 11, 2, &h) || !number(s + 14, 2, &mi) || !number(s + 17, 2, &sec) ||
		!number(s + 20, 6, &us))
		return -EINVAL;
	bool leap = (y % 4 == 0 && y % 100 != 0) || y % 400 == 0;
	if (mo < 1 || mo > 12 || d < 1 || d > month_days[mo - 1] + (mo == 2 && leap) || h > 23 ||
		mi > 59 || sec > 59)
		return -EINVAL;
	*ret_us = days_from_civil(y, mo, d) * US_PER_DAY + (h * 3600LL + mi * 60 + sec) * 1000000 +
		  us;
	return 0;
}
