/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Docker's readings, where it has one. Paths are read as text: those of a VM cannot be looked at from here, and what
 * ".." means behind a link is for the system that has the link to say.
 */
#include "vm_words.h"

#include <ctype.h>
#include <signal.h>
#include <string.h>
#include <strings.h>
#include <banger/cleanup.h>
#include <banger/wire.h>

int vm_variable(const char *word, char **ret, struct banger_error *err)
{
	const char *eq = strchr(word, '='), *value = eq ? NULL : getenv(word);
	char *both = NULL;

	if (*word == '\0' || eq == word)
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"\"%s\" is no variable: it must be NAME=VALUE, or NAME for its value here",
			word);
	if (!banger_utf8_valid(word, strlen(word)) ||
		(value && !banger_utf8_valid(value, strlen(value))))
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"the variable %.*s is not UTF-8, and cannot be sent to the VM",
			(int)strcspn(word, "="), word);
	*ret = NULL;
	if (!eq && !value)
		return 0;
	if (asprintf(&both, value ? "%s=%s" : "%s", word, value) < 0)
		return banger_error_oom(err);
	*ret = both;
	return 0;
}

int vm_place(const char *word, char **ret_vm, const char **ret_path, struct banger_error *err)
{
	const char *colon = strchr(word, ':');

	*ret_vm = NULL;
	*ret_path = word;
	if (!colon || colon == word || *word == '/' || *word == '.')
		return 0;
	*ret_vm = strndup(word, (size_t)(colon - word));
	*ret_path = colon + 1;
	return *ret_vm ? 0 : banger_error_oom(err);
}

int vm_signal(const char *word, int *ret)
{
	const char *name = strncasecmp(word, "SIG", 3) == 0 ? word + 3 : word;
	char *end;

	if (isdigit((unsigned char)*word)) {
		long n = strtol(word, &end, 10);
		if (*end || n < 1 || n > 64)
			return -EINVAL;
		*ret = (int)n;
		return 0;
	}
	for (int n = 1; n < 32; n++) {
		const char *known = sigabbrev_np(n);
		if (known && strcasecmp(known, name) == 0) {
			*ret = n;
			return 0;
		}
	}
	return -EINVAL;
}

int vm_lines(const char *word, int64_t *ret)
{
	int64_t n = 0;

	if (strcmp(word, "all") == 0) {
		*ret = -1;
		return 0;
	}
	if (!*word)
		return -EINVAL;
	for (; *word; word++) {
		if (!isdigit((unsigned char)*word))
			return -EINVAL;
		n = n * 10 + (*word - '0');
		if (n > INT32_MAX)
			return -EINVAL;
	}
	*ret = n;
	return 0;
}

int vm_key(const char *word, int *ret)
{
	if (strcmp(word, "none") == 0)
		*ret = -1;
	else if (word[0] && !word[1])
		*ret = (unsigned char)word[0];
	else if (word[0] == '^' && word[1] && !word[2] && toupper((unsigned char)word[1]) >= '@' &&
		 toupper((unsigned char)word[1]) <= '_')
		*ret = toupper((unsigned char)word[1]) - '@';
	else
		return -EINVAL;
	return 0;
}

/* ---- paths */

/* The length without slashes at the end, but for that of "/". */
static size_t trimmed(const char *path)
{
	size_t n = strlen(path);

	while (n > 1 && path[n - 1] == '/')
		n--;
	return n;
}

bool vm_path_means_content(const char *path)
{
	size_t n = strlen(path);

	return strcmp(path, ".") == 0 || (n >= 2 && strcmp(path + n - 2, "/.") == 0);
}

bool vm_path_ends_in_slash(const char *path)
{
	size_t n = strlen(path);

	return n > 0 && path[n - 1] == '/';
}

char *vm_path_name(const char *path)
{
	size_t n = trimmed(path), at = n;

	while (at > 0 && path[at - 1] != '/')
		at--;
	if (n == at || (n - at == 2 && memcmp(path + at, "..", 2) == 0))
		return strdup(".");
	return strndup(path + at, n - at);
}

char *vm_path_directory(const char *path)
{
	size_t n = trimmed(path);

	while (n > 0 && path[n - 1] != '/')
		n--;
	while (n > 1 && path[n - 1] == '/')
		n--;
	return n > 0 ? strndup(path, n) : strdup(".");
}

char *vm_path_follow(const char *path, const char *target)
{
	_cleanup_free_ char *directory = vm_path_directory(path);
	char *whole;

	if (*target == '/')
		return strdup(target);
	if (!directory || asprintf(&whole, "%s/%s", directory, target) < 0)
		return NULL;
	return whole;
}
