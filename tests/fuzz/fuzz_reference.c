/* SPDX-License-Identifier: Apache-2.0 */
/*
 * References. What is taken becomes part of URLs, headers and file names: no part may have a
 * character that means something there, each keeps to its length, and the canonical text must read
 * back as the same reference. What is refused leaves a clean message.
 */
#include "fuzz.h"

#include <string.h>
#include <banger/wire.h>
#include "pull/document.h"
#include "pull/reference.h"

#define ALNUM "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

static bool only(const char *s, const char *chars)
{
	return s[0] && s[strspn(s, chars)] == '\0';
}

static void check_registry(const struct pull_reference *r)
{
	_cleanup_pull_reference_ struct pull_reference again = {0};

	MUST(!r->dir);
	MUST(only(r->host, ALNUM ".-:[]") && strlen(r->host) <= 255);
	MUST(only(r->repository, "abcdefghijklmnopqrstuvwxyz0123456789._-/"));
	MUST(strlen(r->repository) <= 255 && !strstr(r->repository, "..") &&
		!strstr(r->repository, "//") && r->repository[0] != '/');
	MUST(r->tag || r->digest[0]);
	MUST(!r->tag || (only(r->tag, ALNUM "_.-") && strlen(r->tag) <= 128 && r->tag[0] != '.'));
	MUST(!r->digest[0] || pull_digest_valid(r->digest));
	MUST(pull_reference_like(r->text));
	MUST(pull_reference_parse(r->text, &again, NULL) == 0);
	MUST(!strcmp(again.text, r->text) && !strcmp(again.host, r->host) &&
		!strcmp(again.repository, r->repository) && !strcmp(again.digest, r->digest));
}

static void check_layout(const struct pull_reference *r, const char *text)
{
	size_t n = strlen(r->dir);

	MUST(!r->host && !r->repository && !r->digest[0]);
	MUST(!strcmp(r->text, text) && !strncmp(text + 4, r->dir, n));
	MUST(r->tag ? text[4 + n] == ':' && !strcmp(text + 5 + n, r->tag) : text[4 + n] == '\0');
	MUST(n > 0 && (!r->tag || r->tag[0]));
}

static void fuzz_platform(const char *text)
{
	struct pull_platform p, again;
	struct banger_error err = {0};
	char s[PULL_PLATFORM_TEXT], s2[PULL_PLATFORM_TEXT];

	if (pull_platform_parse(text, &p, &err) < 0) {
		MUST(banger_utf8_valid(err.message, strlen(err.message)));
		return;
	}
	MUST(!strcmp(p.os, "linux") && p.arch[0] && pull_platform_runs(&p, &p));
	MUST(pull_platform_parse(pull_platform_text(&p, s), &again, NULL) == 0);
	MUST(!strcmp(pull_platform_text(&again, s2), s) && pull_platform_runs(&again, &p));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_pull_reference_ struct pull_reference r = {0};
	_cleanup_free_ char *text = malloc(size + 1);
	struct banger_error err = {0};

	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	fuzz_platform(text);
	if (pull_reference_parse(text, &r, &err) < 0) {
		MUST(err.code == BANGER_BAD_REQUEST && err.message[0]);
		MUST(banger_utf8_valid(err.message, strlen(err.message)));
		MUST(!r.text && !r.host && !r.dir);
	} else if (r.layout) {
		check_layout(&r, text);
	} else {
		check_registry(&r);
	}
	return 0;
}
