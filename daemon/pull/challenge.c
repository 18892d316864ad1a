/* SPDX-License-Identifier: Apache-2.0 */
/*
 * WWW-Authenticate. A header may have several challenges, separated by the commas that also separate
 * a challenge's parameters, and a response several headers: a word that is followed by '=' is a
 * parameter of the challenge before it, one that is not begins a new challenge.
 *
 * The values are a stranger's. A realm must be a URL before anything is made of it (token.c), service and
 * scope are escaped; here it is enough that nothing is read past the end, and that control characters,
 * which no such value has, end the list.
 */
#include <string.h>
#include <strings.h>
#include "pull/auth.h"

void auth_challenge_done(struct auth_challenge *c)
{
	free(c->realm);
	free(c->service);
	free(c->scope);
	*c = (struct auth_challenge){0};
}

static bool is_token(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       (c && strchr("!#$%&'*+-.^_`|~", c));
}

static const char *skip(const char *p, const char *set)
{
	return p + strspn(p, set);
}

static size_t token_length(const char *p)
{
	size_t n = 0;

	while (is_token(p[n]))
		n++;
	return n;
}

/* A quoted string with its escapes, or a token. NULL: neither, or no memory. */
static char *value(const char **pp)
{
	const char *p = *pp;

	if (*p != '"') {
		size_t n = token_length(p);
		*pp = p + n;
		return n > 0 ? strndup(p, n) : NULL;
	}
	char *out = malloc(strlen(p)), *o = out;
	if (!out)
		return NULL;
	for (p++; *p && *p != '"'; p++) {
		if (*p == '\\' && p[1])
			p++;
		if ((unsigned char)*p < ' ' || *p == 127)
			break;
		*o++ = *p;
	}
	if (*p != '"') {
		free(out);
		return NULL;
	}
	*o = '\0';
	*pp = p + 1;
	return out;
}

static void set(struct auth_challenge *c, const char *name, size_t len, char *v)
{
	char **to = len == 5 && strncasecmp(name, "realm", 5) == 0     ? &c->realm
		    : len == 7 && strncasecmp(name, "service", 7) == 0 ? &c->service
		    : len == 5 && strncasecmp(name, "scope", 5) == 0   ? &c->scope
								       : NULL;

	/* The first one counts: a second realm is somebody's trick. */
	if (to && !*to)
		*to = v;
	else
		free(v);
}

static void begin(struct auth_challenge *c, const char *name, size_t len)
{
	*c = (struct auth_challenge){
		.scheme = len == 6 && strncasecmp(name, "bearer", 6) == 0  ? AUTH_BEARER
			  : len == 5 && strncasecmp(name, "basic", 5) == 0 ? AUTH_BASIC
									   : AUTH_OTHER};
}

/* Is the word a parameter's name ("realm = …"), rather than a scheme or a token68 that ends in '='? */
static const char *parameter_value(const char *after)
{
	const char *p = skip(after, " \t");

	if (*p != '=')
		return NULL;
	p = skip(p + 1, " \t");
	return *p && *p != ',' && *p != '=' && *p != '\n' ? p : NULL;
}

/* One header's value. */
static int parse_line(const char *p, struct auth_challenge *ret, int n)
{
	int first = n;

	for (;;) {
		p = skip(p, " \t,");
		size_t len = token_length(p);
		if (len == 0)
			return n;
		const char *v = parameter_value(p + len);
		if (v) {
			if (n == first)
				return n; /* a parameter of nothing */
			char *text = value(&v);
			if (!text)
				return n;
			set(&ret[n - 1], p, len, text);
			p = v;
			continue;
		}
		if (n == AUTH_CHALLENGES_MAX)
			return n;
		begin(&ret[n++], p, len);
		p += len;
		/* A token68 in place of parameters ("Negotiate YII…="): passed over. */
		const char *word = skip(p, " \t");
		size_t word_len = token_length(word);
		if (word > p && word_len > 0 && !parameter_value(word + word_len))
			p = word + strcspn(word, ",");
	}
}

int auth_challenges_parse(const char *text, struct auth_challenge ret[AUTH_CHALLENGES_MAX])
{
	_cleanup_free_ char *copy = strdup(text);
	char *rest = copy;
	int n = 0;

	if (!copy)
		return -ENOMEM;
	for (char *line; (line = strsep(&rest, "\n"));)
		n = parse_line(line, ret, n);
	return n;
}
