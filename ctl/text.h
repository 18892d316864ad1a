/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Texts for people: what came from elsewhere made safe to show, widths in terminal columns, sizes
 * and times as people read and write them.
 */
#ifndef BANGER_CTL_TEXT_H
#define BANGER_CTL_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A copy of s (NULL: "") in which nothing can steer a terminal: control characters, those that turn
 * the direction of writing and bytes that are not UTF-8 become \n, \x1b, \u202e. The caller frees;
 * NULL: no memory. */
char *text_clean(const char *s);
/* The same care for a JSON text: what json-c leaves raw becomes \u00XX. The caller frees. */
char *text_clean_json(const char *s);
/* How many terminal columns the clean text s takes. */
size_t text_width(const char *s);

/* "0B", "512B", "1.5GiB": three digits at most. */
#define TEXT_SIZE_LEN 16
const char *text_size(int64_t bytes, char buf[TEXT_SIZE_LEN]);
/* "4096", "512M" (powers of 1024, also 512MiB), "512MB" (powers of 1000), "1.5G". -EINVAL, -ERANGE.
 */
int text_size_parse(const char *s, int64_t *ret);

/* "0.21ms", "12s", "3m 20s", "2h 5m", "3d 4h" */
#define TEXT_DURATION_LEN 32
const char *text_duration(int64_t us, char buf[TEXT_DURATION_LEN]);
/* "90" and "90s" (seconds), "250ms", "5m", "2h", "1d"; in milliseconds. -EINVAL, -ERANGE. */
int text_duration_parse(const char *s, int64_t *ret_ms);

/* "just now", "3 minutes ago" */
#define TEXT_AGE_LEN 32
const char *text_age(int64_t us, int64_t now_us, char buf[TEXT_AGE_LEN]);
/* Local time: "2026-03-01 11:00:00 +0100"; "11:00:00.123" for a line of a stream. */
#define TEXT_TIME_LEN 40
const char *text_time(int64_t us, char buf[TEXT_TIME_LEN]);
const char *text_clock(int64_t us, char buf[TEXT_TIME_LEN]);

/* How far apart two words are (Levenshtein), at most `limit` + 1. */
unsigned text_distance(const char *a, const char *b, unsigned limit);

#endif
