/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Each module names the modules that it needs directly. modules.dep has for each all that it needs,
 * so the graph is walked once a module: depth first, marking what was visited (the mark is the
 * number of the walk, so nothing has to be cleared), noting each module after those that it needs;
 * written backwards that is depmod's order. The walk keeps a stack of its own, since a hostile
 * package may chain thousands of modules.
 */
#include <ctype.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <banger/log.h>
#include "kernel/image_elf.h"
#include "kernel/inflate.h"
#include "kernel/modules.h"
#include "kernel/tree.h"

#define MODULE_BYTES_MAX (256 * 1024 * 1024)
#define MODULES_MAX 32768
#define DEPENDS_MAX 4096

void module_list_done(struct module_list *l)
{
	for (size_t i = 0; i < l->n; i++) {
		free(l->modules[i].path);
		free(l->modules[i].name);
		free(l->modules[i].depends);
		free(l->modules[i].softdep);
	}
	free(l->modules);
	*l = (struct module_list){0};
}

int module_name(const char *file, char ret[64])
{
	static const char *const suffixes[] = {".ko", ".ko.xz", ".ko.zst", ".ko.gz"};
	size_t length = strlen(file);
	for (size_t i = 0; i < ELEMENTSOF(suffixes); i++) {
		size_t n = strlen(suffixes[i]);
		if (length <= n || length - n >= 64 || strcmp(file + length - n, suffixes[i]) != 0)
			continue;
		for (size_t j = 0; j < length - n; j++) {
			if (!isalnum((unsigned char)file[j]) && file[j] != '_' && file[j] != '-')
				return -EINVAL;
			ret[j] = file[j] == '-' ? '_' : file[j];
		}
		ret[length - n] = '\0';
		return 0;
	}
	return -EINVAL;
}

/* A softdep goes into a line of text: printable, or it is not taken. */
static char *take_softdep(const char *s)
{
	size_t n = strlen(s);
	for (size_t i = 0; i < n; i++)
		if (!isprint((unsigned char)s[i]))
			return NULL;
	return n > 0 && n < DEPENDS_MAX ? strndup(s, n) : NULL;
}

static int read_modinfo(struct module *m, const void *bytes, size_t size)
{
	struct elf_image elf;
	const char *info;
	size_t info_size, pos = 0;
	int r = elf_open(bytes, size, &elf);
	if (r == 0)
		r = elf_section(&elf, ".modinfo", &info, &info_size);
	if (r < 0)
		return -EINVAL;
	const char *depends = modinfo_next(info, info_size, &pos, "depends");
	if (depends && strlen(depends) >= DEPENDS_MAX)
		return -EINVAL;
	m->depends = strdup(depends ? depends : "");
	if (!m->depends)
		return -ENOMEM;
	pos = 0;
	const char *softdep = modinfo_next(info, info_size, &pos, "softdep");
	m->softdep = softdep ? take_softdep(softdep) : NULL;
	return 0;
}

static void module_done(struct module *m)
{
	free(m->path);
	free(m->name);
	free(m->depends);
	free(m->softdep);
}

int module_list_add(struct module_list *l, const char *path, const void *bytes, size_t size)
{
	_cleanup_(module_done) struct module m = {0};
	char name[64];
	const char *slash = strrchr(path, '/');
	int r = module_name(slash ? slash + 1 : path, name);
	if (r == 0)
		r = read_modinfo(&m, bytes, size);
	if (r < 0)
		return r;
	m.path = strdup(path);
	m.name = strdup(name);
	if (!m.path || !m.name)
		return -ENOMEM;
	if (l->n == l->room) {
		size_t room = l->room ? l->room * 2 : 256;
		struct module *grown = realloc(l->modules, room * sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		l->modules = grown;
		l->room = room;
	}
	l->modules[l->n++] = m;
	m = (struct module){0};
	return 0;
}

/* By name; of two of one name (an updated one under updates/) the path decides, so that runs agree.
 */
static int compare(const void *a, const void *b)
{
	const struct module *x = a, *y = b;
	int r = strcmp(x->name, y->name);
	return r ? r : strcmp(x->path, y->path);
}

static struct module *find(const struct module_list *l, const char *name, size_t length)
{
	size_t low = 0, high = l->n;
	char key[64];
	if (length >= sizeof(key))
		return NULL;
	for (size_t i = 0; i < length; i++)
		key[i] = name[i] == '-' ? '_' : name[i];
	key[length] = '\0';
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (strcmp(l->modules[middle].name, key) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low < l->n && strcmp(l->modules[low].name, key) == 0 ? &l->modules[low] : NULL;
}

/* One level of the walk: a module and how far its depends= was read. */
struct level {
	struct module *module;
	const char *rest;
};
struct search {
	struct level *stack;   /* room for each module once */
	struct module **found; /* likewise */
};

static void search_done(struct search *s)
{
	free(s->stack);
	free(s->found);
}

/* All that `from` needs, each after what it needs itself. Returns how many, in s->found. */
static size_t walk(
	const struct module_list *l, struct module *from, unsigned mark, struct search *s)
{
	size_t depth = 0, n = 0;
	from->mark = mark;
	s->stack[depth++] = (struct level){from, from->depends};
	while (depth > 0) {
		struct level *top = &s->stack[depth - 1];
		size_t length = strcspn(top->rest, ",");
		struct module *next = length ? find(l, top->rest, length) : NULL;
		bool end = top->rest[length] == '\0';
		if (end && !length) {
			if (top->module != from)
				s->found[n++] = top->module;
			depth--;
			continue;
		}
		top->rest += length + !end;
		if (next && next->mark != mark) {
			next->mark = mark;
			s->stack[depth++] = (struct level){next, next->depends};
		}
	}
	return n;
}

int module_list_dep(struct module_list *l, char **ret, size_t *ret_size)
{
	_cleanup_(search_done) struct search s = {
		calloc(l->n + 1, sizeof(*s.stack)), calloc(l->n + 1, sizeof(*s.found))};
	char *text = NULL;
	FILE *f = s.stack && s.found ? open_memstream(&text, ret_size) : NULL;
	if (!f)
		return -ENOMEM;
	if (l->n > 0)
		qsort(l->modules, l->n, sizeof(*l->modules), compare);
	for (size_t i = 0; i < l->n; i++)
		l->modules[i].mark = 0;
	for (size_t i = 0; i < l->n; i++) {
		size_t n = walk(l, &l->modules[i], (unsigned)i + 1, &s);
		fprintf(f, "%s:", l->modules[i].path);
		while (n-- > 0)
			fprintf(f, " %s", s.found[n]->path);
		fputc('\n', f);
	}
	bool failed = ferror(f);
	if (fclose(f) != 0 || failed) {
		free(text);
		return -ENOMEM;
	}
	*ret = text;
	return 0;
}

int module_list_softdep(struct module_list *l, char **ret, size_t *ret_size)
{
	char *text = NULL;
	FILE *f = open_memstream(&text, ret_size);
	if (!f)
		return -ENOMEM;
	for (size_t i = 0; i < l->n; i++)
		if (l->modules[i].softdep)
			fprintf(f, "softdep %s %s\n", l->modules[i].name, l->modules[i].softdep);
	bool failed = ferror(f);
	if (fclose(f) != 0 || failed) {
		free(text);
		return -ENOMEM;
	}
	*ret = text;
	return 0;
}

/* ---- the modules of a directory */

struct indexing {
	struct module_list list;
	struct operation *op;
	struct banger_error *err;
};

static int visit(void *arg, int dir_fd, const char *name, const char *path, const struct stat *st)
{
	struct indexing *x = arg;
	_cleanup_free_ char *bytes = NULL;
	size_t size;
	char unused[64];
	if (!S_ISREG(st->st_mode) || module_name(name, unused) < 0)
		return 0;
	if (x->list.n >= MODULES_MAX)
		return banger_error_set(
			x->err, BANGER_TOO_LARGE, "the kernel has over %d modules", MODULES_MAX);
	_cleanup_close_ int fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return banger_error_set_errno(x->err, errno, "reading module %s", path);
	int r = inflate_file(fd, path, MODULE_BYTES_MAX, &bytes, &size, x->err);
	if (r < 0)
		return r;
	r = module_list_add(&x->list, path, bytes, size);
	if (r == -ENOMEM)
		return banger_error_oom(x->err);
	if (r < 0)
		log_warn("a file that is no module is left out", KV_S("file", path));
	return operation_check_cancelled(x->op, x->err);
}

static int put_file(
	int dir_fd, const char *name, const char *text, size_t size, struct banger_error *err)
{
	if (unlinkat(dir_fd, name, 0) < 0 && errno != ENOENT)
		return banger_error_set_errno(err, errno, "replacing %s", name);
	_cleanup_close_ int fd =
		openat(dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0444);
	if (fd < 0)
		return banger_error_set_errno(err, errno, "creating %s", name);
	while (size > 0) {
		ssize_t n = write(fd, text, size);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return banger_error_set_errno(err, errno, "writing %s", name);
		text += n;
		size -= (size_t)n;
	}
	return 0;
}

int modules_index(int dir_fd, const char *version, struct operation *op, struct banger_error *err)
{
	struct banger_error why = {0};
	_cleanup_(module_list_done) struct module_list list = {0};
	struct indexing x = {.op = op, .err = &why};
	_cleanup_free_ char *dep = NULL, *softdep = NULL;
	size_t dep_size, softdep_size;
	char path[160];
	snprintf(path, sizeof(path), "modules/%s", version);
	int r = tree_walk(dir_fd, path, visit, &x);
	list = x.list;
	if (r < 0 && why.code == BANGER_OK)
		return banger_error_set_errno(err, r, "reading the modules");
	if (r < 0) {
		if (err)
			*err = why;
		return r;
	}
	if (module_list_dep(&list, &dep, &dep_size) < 0 ||
		module_list_softdep(&list, &softdep, &softdep_size) < 0)
		return banger_error_oom(err);
	_cleanup_close_ int fd =
		openat(dir_fd, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return banger_error_set_errno(err, errno, "opening %s", path);
	r = put_file(fd, "modules.dep", dep, dep_size, err);
	return r < 0 ? r : put_file(fd, "modules.softdep", softdep, softdep_size, err);
}
