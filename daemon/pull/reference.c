/* SPDX-License-Identifier: Apache-2.0 */
/*
 * References, taken apart from the outside in: the digest behind the only '@' there can be, the host
 * before the first '/', the tag behind the ':' that is left, and what remains is the repository. No
 * part can hold the character that the next cut is made at, so there is one way to read a text.
 *
 * What the grammar allows but no connection could be made to (port 99999, [:::1]) is refused as
 * well: here the message can still say what is meant. Everything that is taken is safe to put into
 * a URL, a header or a file name: it has no character that means something there.
 */
#include <arpa/inet.h>
#include <ctype.h>
#include <string.h>
#include <sys/stat.h>
#include <banger/wire.h>
#include "pull/reference.h"

#define HOST_MAX 255
#define REPOSITORY_MAX 255
#define TAG_MAX 128
#define DIR_MAX 4095
#define TEXT_MAX 1024 /* of a registry's reference, more than all of its parts' limits */

#define LOWER "abcdefghijklmnopqrstuvwxyz"
#define UPPER "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
#define DIGITS "0123456789"

static int refuse(struct banger_error *err, const char *fmt, ...) _printf_(2, 3);
static int refuse(struct banger_error *err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	int r = banger_error_vset(err, BANGER_BAD_REQUEST, fmt, ap);
	va_end(ap);
	return r;
}

/* ---- host */

static bool label_valid(const char *s, size_t n)
{
	return n > 0 && s[0] != '-' && s[n - 1] != '-' && strspn(s, LOWER UPPER DIGITS "-") >= n;
}

/* A name or IPv4 address: labels between dots. */
static bool domain_valid(const char *s, size_t n)
{
	const char *end = s + n;

	for (;;) {
		const char *dot = memchr(s, '.', end - s) ?: end;

		if (!label_valid(s, dot - s))
			return false;
		if (dot == end)
			return true;
		s = dot + 1;
	}
}

/* "[", an address, "]"; n counts the brackets. */
static bool ipv6_valid(const char *s, size_t n)
{
	char address[INET6_ADDRSTRLEN];
	struct in6_addr a;

	if (n < 4 || s[n - 1] != ']' || n - 2 >= sizeof(address))
		return false;
	memcpy(address, s + 1, n - 2);
	address[n - 2] = '\0';
	return strspn(address, DIGITS "abcdefABCDEF:") == n - 2 &&
	       inet_pton(AF_INET6, address, &a) == 1;
}

static int check_port(const char *host, const char *port, struct banger_error *err)
{
	size_t n = strspn(port, DIGITS);

	if (!*port)
		return refuse(err, "a port number is missing after \"%.255s\"", host);
	if (port[n])
		return refuse(err, "\"%.64s\" is not a port number", port);
	if (n > 9 || atol(port) < 1 || atol(port) > 65535)
		return refuse(err, "port %.64s is not one of 1 to 65535", port);
	return 0;
}

static int check_host(const char *host, struct banger_error *err)
{
	const char *end = host[0] == '[' ? strchr(host, ']') : strchr(host, ':');
	size_t n = end ? (size_t)(end - host) + (host[0] == '[') : strlen(host);

	if (strlen(host) > HOST_MAX)
		return refuse(err, "the host \"%.32s…\" is longer than %d bytes", host, HOST_MAX);
	if (host[0] == '[' ? !ipv6_valid(host, n) : !domain_valid(host, n))
		return refuse(err,
			"\"%s\" is not a host: letters, digits and '-' with '.' between them, or "
			"an "
			"IPv6 address in [ ]",
			host);
	if (host[n] == '\0')
		return 0;
	if (host[n] != ':')
		return refuse(
			err, "unexpected \"%.64s\" after the address in \"%s\"", host + n, host);
	return check_port(host, host + n + 1, err);
}

/* ---- repository and tag */

/* One path component: runs of letters and digits with ".", "_", "__" or any number of "-" between. */
static bool component_valid(const char *s, size_t n)
{
	const char *end = s + n;

	for (;;) {
		size_t run = strspn(s, LOWER DIGITS);

		if (run == 0)
			return false;
		s += run;
		if (s >= end)
			return true;
		if (*s == '-')
			s += strspn(s, "-");
		else if (s[0] == '_' && s[1] == '_')
			s += 2;
		else if (*s == '.' || *s == '_')
			s++;
		else
			return false;
		if (s >= end)
			return false; /* ends with a separator */
	}
}

static int check_repository(const char *s, struct banger_error *err)
{
	char lower[REPOSITORY_MAX + 1];
	size_t n = strlen(s);

	if (n > REPOSITORY_MAX)
		return refuse(err, "the repository \"%.32s…\" is longer than %d bytes", s,
			REPOSITORY_MAX);
	for (size_t i = 0; i <= n; i++)
		lower[i] = tolower((unsigned char)s[i]);
	if (strcmp(lower, s) != 0)
		return refuse(
			err, "the repository \"%s\" must be in lower case (\"%s\"?)", s, lower);
	for (const char *p = s;; p++) {
		size_t len = strcspn(p, "/");

		if (len == 0)
			return refuse(err, "the repository \"%s\" has an empty component", s);
		if (!component_valid(p, len))
			return refuse(err,
				"\"%.*s\" cannot be part of a repository's name: letters and "
				"digits, "
				"with one '.', one or two '_' or any number of '-' between them",
				(int)len, p);
		p += len;
		if (!*p)
			return 0;
	}
}

static int check_tag(const char *s, struct banger_error *err)
{
	if (!*s)
		return refuse(err, "a tag is missing after the ':'");
	if (strlen(s) > TAG_MAX)
		return refuse(err, "the tag \"%.32s…\" is longer than %d bytes", s, TAG_MAX);
	if (strchr(".-", s[0]) || s[strspn(s, LOWER UPPER DIGITS "_.-")])
		return refuse(err,
			"\"%s\" is not a tag: letters, digits, '_', '.' and '-', of which the last "
			"two "
			"cannot come first",
			s);
	return 0;
}

/* ---- a registry's reference */

static bool is_host(const char *first)
{
	if (strpbrk(first, ".:[") || strcmp(first, "localhost") == 0)
		return true;
	return strpbrk(first, UPPER) != NULL;
}

/* Cut host from *rest, if it has one; docker.io and its library/ otherwise. */
static int split_host(char *rest, struct pull_reference *r, struct banger_error *err)
{
	char *slash = strchr(rest, '/'), *path = rest;
	const char *host = "docker.io";

	if (slash) {
		*slash = '\0';
		if (is_host(rest)) {
			int e = check_host(rest, err);
			if (e < 0)
				return e;
			/* Its capitals may be all that makes it a host: they stay then. */
			for (char *p = rest; strpbrk(rest, ".:") && *p; p++)
				*p = tolower((unsigned char)*p);
			host = strcmp(rest, "index.docker.io") == 0 ? host : rest;
			path = slash + 1;
		} else {
			*slash = '/';
		}
	}
	bool library = strcmp(host, "docker.io") == 0 && !strchr(path, '/');
	r->host = strdup(host);
	if (!r->host || asprintf(&r->repository, "%s%s", library ? "library/" : "", path) < 0) {
		r->repository = NULL;
		return banger_error_oom(err);
	}
	return 0;
}

/* Cut the tag from r->repository. */
static int split_tag(struct pull_reference *r, struct banger_error *err)
{
	char *colon = strchr(r->repository, ':');
	const char *tag = colon ? colon + 1 : r->digest[0] ? NULL : "latest";
	int e;

	if (!tag)
		return 0;
	if (colon)
		*colon = '\0';
	if ((e = check_tag(tag, err)) < 0)
		return e;
	r->tag = strdup(tag);
	return r->tag ? 0 : banger_error_oom(err);
}

static int check_form(const char *text, struct banger_error *err)
{
	const char *scheme = strstr(text, "://");

	if (!*text)
		return refuse(err, "it is empty");
	if (strlen(text) > TEXT_MAX)
		return refuse(err, "it is longer than %d bytes", TEXT_MAX);
	if (scheme)
		return refuse(err, "leave out \"%.*s\": a reference begins with the host",
			(int)(scheme + 3 - text), text);
	if (strlen(text) == 64 && strspn(text, DIGITS "abcdef") == 64)
		return refuse(err, "this is an image's id: write REPOSITORY@sha256:… instead");
	return 0;
}

static int parse_registry(const char *text, struct pull_reference *r, struct banger_error *err)
{
	int e = check_form(text, err);
	if (e < 0)
		return e;
	_cleanup_free_ char *rest = strdup(text);
	if (!rest)
		return banger_error_oom(err);
	char *at = strchr(rest, '@');
	if (at) {
		*at = '\0';
		if ((e = pull_digest_check("what follows the '@'", at + 1, err)) < 0)
			return e;
		strcpy(r->digest, at + 1);
	}
	if (!*rest)
		return refuse(err, "it has no repository");
	if ((e = split_host(rest, r, err)) < 0 || (e = split_tag(r, err)) < 0 ||
		(e = check_repository(r->repository, err)) < 0)
		return e;
	if (asprintf(&r->text, "%s/%s%s%s%s%s", r->host, r->repository, r->tag ? ":" : "",
		    r->tag ?: "", r->digest[0] ? "@" : "", r->digest) < 0) {
		r->text = NULL;
		return banger_error_oom(err);
	}
	return 0;
}

/* ---- an image layout */

/* The names that OCI's annotation for them allows, at their widest: people keep whole references there. */
static bool ref_name_valid(const char *s)
{
	return *s && isalnum((unsigned char)*s) && strlen(s) <= 255 &&
	       strspn(s, LOWER UPPER DIGITS "-._:@+/") == strlen(s);
}

static bool exists(const char *path, size_t n)
{
	char buf[DIR_MAX + 1];
	struct stat st;

	memcpy(buf, path, n);
	buf[n] = '\0';
	return stat(buf, &st) == 0;
}

/* Where DIR ends. A ':' may be part of DIR's name and of the tag (docker.io/library/debian:12), so
 * what is there decides; if nothing is, the last one. */
static size_t dir_length(const char *s)
{
	size_t n = strlen(s), last = n;

	if (exists(s, n))
		return n;
	for (size_t i = n; i-- > 1;) {
		if (s[i] != ':' || !ref_name_valid(s + i + 1))
			continue;
		if (exists(s, i))
			return i;
		if (last == n && !strchr(s + i + 1, '/'))
			last = i;
	}
	return last;
}

static int parse_layout(const char *s, struct pull_reference *r, struct banger_error *err)
{
	if (!*s || *s == ':')
		return refuse(err, "a directory is missing after \"oci:\"");
	if (strlen(s) > DIR_MAX)
		return refuse(err, "it is longer than %d bytes", DIR_MAX);
	if (!banger_utf8_valid(s, strlen(s)))
		return refuse(err, "it is not valid UTF-8");
	size_t n = dir_length(s);
	r->layout = true;
	r->dir = strndup(s, n);
	r->tag = s[n] ? strdup(s + n + 1) : NULL;
	if (!r->dir || (s[n] && !r->tag) || asprintf(&r->text, "oci:%s", s) < 0) {
		r->text = NULL;
		return banger_error_oom(err);
	}
	return 0;
}

int pull_reference_parse(const char *text, struct pull_reference *ret, struct banger_error *err)
{
	_cleanup_pull_reference_ struct pull_reference r = {0};
	int e = strncmp(text, "oci:", 4) == 0 ? parse_layout(text + 4, &r, err)
					      : parse_registry(text, &r, err);
	if (e < 0) {
		banger_error_prefix(
			err, "reference \"%.200s%s\"", text, strlen(text) > 200 ? "…" : "");
		return e;
	}
	*ret = r;
	r = (struct pull_reference){0};
	return 0;
}

void pull_reference_done(struct pull_reference *r)
{
	free(r->host);
	free(r->repository);
	free(r->tag);
	free(r->dir);
	free(r->text);
	*r = (struct pull_reference){0};
}

bool pull_reference_like(const char *text)
{
	return strpbrk(text, "/:@") != NULL;
}
