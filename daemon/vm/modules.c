/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A boot needs a dozen of some thousand modules, once for each kernel, so the texts are searched as they are
 * rather than parsed into a structure. A line of modules.dep lists all that its module needs, in any order;
 * the dependencies' own lines give the order: a module is taken when all on its line have been. Cycles, which
 * only a forged file has, end at the depth limit with an error.
 */
#include "vm/modules.h"

#include <string.h>

#define DEPTH_MAX 16
#define ORDER_MAX 256

struct order {
	const struct module_texts *texts;
	char *paths[ORDER_MAX + 1];
	size_t n;
	struct banger_error *err;
};

/* "kernel/fs/ext4/ext4.ko.xz" is of module "ext4"? `length` bytes of path. */
static bool path_is_of(const char *path, size_t length, const char *name)
{
	const char *base = memrchr(path, '/', length);
	base = base ? base + 1 : path;
	size_t rest = length - (size_t)(base - path), n = strlen(name);
	if (rest < n + 3 || strncmp(base + n, ".ko", 3) != 0)
		return false;
	for (size_t i = 0; i < n; i++)
		if ((base[i] == '-' ? '_' : base[i]) != name[i])
			return false;
	return true;
}

/* The line of `name` in modules.dep; NULL: none. */
static const char *dep_line(const struct module_texts *t, const char *name)
{
	for (const char *line = t->dep; line && *line;
		line += strcspn(line, "\n"), line += *line == '\n') {
		size_t path = strcspn(line, ":\n");
		if (line[path] == ':' && path_is_of(line, path, name))
			return line;
	}
	return NULL;
}

static bool is_builtin(const struct module_texts *t, const char *name)
{
	for (const char *line = t->builtin; line && *line;
		line += strcspn(line, "\n"), line += *line == '\n')
		if (path_is_of(line, strcspn(line, "\n"), name))
			return true;
	return false;
}

bool module_available(const struct module_texts *t, const char *name)
{
	return dep_line(t, name) || is_builtin(t, name);
}

static int take_line(struct order *o, const char *line, unsigned depth);

/* The line whose path is exactly this one. */
static const char *line_of_path(const struct module_texts *t, const char *path, size_t length)
{
	for (const char *line = t->dep; line && *line;
		line += strcspn(line, "\n"), line += *line == '\n')
		if (strcspn(line, ":\n") == length && memcmp(line, path, length) == 0)
			return line;
	return NULL;
}

/* The module that a soft dependency means. It may be an alias of the crypto layer ("crc32c",
 * "crypto-crc32c"); then the plain implementation is taken, which by custom is NAME_generic. */
static const char *soft_line(const struct module_texts *t, const char *word, size_t n)
{
	static const char prefix[] = "crypto-";
	char name[80];

	if (n > sizeof(prefix) - 1 && memcmp(word, prefix, sizeof(prefix) - 1) == 0) {
		word += sizeof(prefix) - 1;
		n -= sizeof(prefix) - 1;
	}
	if (n == 0 || n > 64)
		return NULL;
	snprintf(name, sizeof(name), "%.*s_generic", (int)n, word);
	for (size_t i = 0; i < n; i++)
		name[i] = name[i] == '-' ? '_' : name[i];
	const char *generic = dep_line(t, name);
	name[n] = '\0';
	const char *plain = dep_line(t, name);
	return plain ? plain : generic;
}

/* "softdep NAME pre: A B post: C": A and B come first. */
static int take_softdeps(struct order *o, const char *path, size_t length, unsigned depth)
{
	char name[64];
	int r = 0;

	for (const char *line = o->texts->softdep; line && *line;
		line += strcspn(line, "\n"), line += *line == '\n') {
		int at = 0;
		if (sscanf(line, "softdep %63[a-zA-Z0-9_] %n", name, &at) != 1 || at == 0 ||
			!path_is_of(path, length, name))
			continue;
		bool pre = false;
		for (const char *word = line + at; r == 0 && *word && *word != '\n';
			word += strspn(word, " ")) {
			size_t n = strcspn(word, " \n");
			bool heading = n > 0 && word[n - 1] == ':';
			const char *soft = pre && !heading ? soft_line(o->texts, word, n) : NULL;
			if (heading)
				pre = n == 4 && memcmp(word, "pre:", 4) == 0;
			if (soft)
				r = take_line(o, soft, depth + 1);
			word += n;
		}
	}
	return r;
}

static bool is_taken(const struct order *o, const char *path, size_t length)
{
	for (size_t i = 0; i < o->n; i++)
		if (strlen(o->paths[i]) == length && memcmp(o->paths[i], path, length) == 0)
			return true;
	return false;
}

static int take_line(struct order *o, const char *line, unsigned depth)
{
	size_t length = strcspn(line, ":\n");
	if (is_taken(o, line, length))
		return 0;
	if (depth > DEPTH_MAX || o->n == ORDER_MAX)
		return banger_error_set(o->err, BANGER_CORRUPT,
			"the kernel's modules.dep goes in circles at %.*s", (int)length, line);
	const char *p = line + length + (line[length] == ':');
	while (*p == ' ') {
		p++;
		size_t n = strcspn(p, " \n");
		const char *needed = line_of_path(o->texts, p, n);
		int r = needed ? take_line(o, needed, depth + 1) : 0;
		if (r < 0)
			return r;
		p += n;
	}
	int r = take_softdeps(o, line, length, depth);
	if (r < 0 || is_taken(o, line, length))
		return r;
	if (o->n == ORDER_MAX)
		return banger_error_set(
			o->err, BANGER_CORRUPT, "the boot needs over %d modules", ORDER_MAX);
	o->paths[o->n] = strndup(line, length);
	return o->paths[o->n++] ? 0 : banger_error_oom(o->err);
}

static void order_done(struct order *o)
{
	for (size_t i = 0; i < o->n; i++)
		free(o->paths[i]);
}

int module_order(const struct module_texts *t, const char *const *names, char ***ret,
	struct banger_error *err)
{
	_cleanup_(order_done) struct order o = {.texts = t, .err = err};
	for (; *names; names++) {
		const char *line = dep_line(t, *names);
		if (!line && !is_builtin(t, *names))
			return banger_error_set(err, BANGER_UNSUPPORTED,
				"the kernel has no driver %s, neither built in nor as a module",
				*names);
		int r = line ? take_line(&o, line, 0) : 0;
		if (r < 0)
			return r;
	}
	char **list = calloc(o.n + 1, sizeof(*list));
	if (!list)
		return banger_error_oom(err);
	memcpy(list, o.paths, o.n * sizeof(*list));
	o.n = 0;
	*ret = list;
	return 0;
}

void module_order_free(char ***order)
{
	for (char **p = *order; p && *p; p++)
		free(*p);
	free(*order);
	*order = NULL;
}
