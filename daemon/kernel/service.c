/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kernels: finding, reading, deleting, telling watchers. Importing is in import.c, what happens
 * after a crash in recover.c.
 *
 * The row in the store is the only commit point. An import makes the files durable under a staging
 * name, then renames the directory, then commits the row; a deletion commits first and removes
 * after. So what a crash leaves is a directory without a row (recovery removes it) or, when the
 * rename did not reach the disk but the row did, a row whose directory has its staging name still
 * (recovery renames it), never a row that promises files which are not there.
 */
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <banger/fault.h>
#include <banger/log.h>
#include "kernel/inflate.h"
#include "kernel/internal.h"
#include "kernel/tree.h"

int kernel_service_new(const struct kernel_service_deps *deps, struct kernel_service **ret,
	struct banger_error *err)
{
	_cleanup_(kernel_service_freep) struct kernel_service *s = calloc(1, sizeof(*s));
	if (!s)
		return banger_error_oom(err);
	s->deps = *deps;
	s->dir_fd = -1;
	if (mkdirat(deps->state_dir_fd, "kernels", 0755) < 0 && errno != EEXIST)
		return banger_error_set_errno(err, errno, "creating the directory of kernels");
	s->dir_fd = openat(
		deps->state_dir_fd, "kernels", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (s->dir_fd < 0)
		return banger_error_set_errno(err, errno, "opening the directory of kernels");
	*ret = TAKE_PTR(s);
	return 0;
}

void kernel_service_freep(struct kernel_service **s)
{
	if (!*s)
		return;
	banger_closep(&(*s)->dir_fd);
	free(*s);
	*s = NULL;
}

void kernel_service_set_in_use(struct kernel_service *s, kernel_in_use *in_use, void *arg)
{
	s->in_use = in_use;
	s->in_use_arg = arg;
}

int kernel_service_kernels_fd(const struct kernel_service *s)
{
	return s->dir_fd;
}

/* ---- telling */

static struct json_object *event_json(const char *change, const struct banger_kernel *k)
{
	_cleanup_json_ struct json_object *o = json_object_new_object(),
					  *row = banger_kernel_to_json(k);
	char ts[BANGER_TIME_LEN + 1];
	if (!o || !row ||
		(strcmp(change, "deleted") == 0 &&
			banger_json_add_str(row, "state", "deleted") < 0) ||
		banger_json_add_str(o, "event", "kernel") < 0 ||
		banger_json_add_str(o, "change", change) < 0 ||
		banger_json_add_str(o, "ts", banger_time_format(banger_now_us(), ts)) < 0 ||
		banger_json_add_str(o, "op_id", banger_op_current()) < 0 ||
		banger_json_add_int(o, "generation", k->generation) < 0 ||
		banger_json_add(o, "kernel", TAKE_PTR(row)) < 0)
		return NULL;
	return TAKE_PTR(o);
}

void kernel_event(struct kernel_service *s, const char *change, const struct banger_kernel *k)
{
	size_t length;
	if (!hub_wanted(s->deps.hub, HUB_REGISTRY))
		return;
	_cleanup_json_ struct json_object *o = event_json(change, k);
	const char *line =
		o ? json_object_to_json_string_length(
			    o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &length)
		  : NULL;
	if (line)
		hub_publish(s->deps.hub, HUB_REGISTRY, NULL, line, length);
	else
		log_err("watchers were not told of a change: out of memory", KV_S("change", change),
			KV_I("generation", k->generation));
}

/* ---- finding and reading */

int kernel_service_find(struct kernel_service *s, const char *word, struct banger_kernel *ret,
	struct banger_error *err)
{
	return store_kernel_find(s->deps.store, word, ret, err);
}

int kernel_service_only(
	struct kernel_service *s, struct banger_kernel *ret, struct banger_error *err)
{
	_cleanup_(store_view_closep) struct store_view *view = NULL;
	_cleanup_kernel_ struct banger_kernel first = {0}, second = {0};
	int r = store_view_open(s->deps.store, &view, err);
	if (r < 0)
		return r;
	r = store_view_next_kernel(view, NULL, &first, err);
	if (r == 0)
		return banger_error_set(err, BANGER_NOT_FOUND,
			"there is no kernel: import one with \"banger-ctl kernel import\"");
	if (r > 0)
		r = store_view_next_kernel(view, first.id, &second, err);
	if (r > 0)
		return banger_error_set(err, BANGER_AMBIGUOUS,
			"there are several kernels (\"%s\", \"%s\"): say which with --kernel, or "
			"set default_kernel in the configuration",
			first.name, second.name);
	if (r < 0)
		return r;
	*ret = first;
	first = (struct banger_kernel){0};
	return 0;
}

int kernel_service_open(struct kernel_service *s, const struct banger_kernel *kernel,
	const char *file, int *ret_fd, struct banger_error *err)
{
	const struct open_how how = {.flags = O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS |
			   RESOLVE_NO_XDEV};
	char path[TREE_PATH_MAX + BANGER_ID_LEN];
	struct stat st;
	if (snprintf(path, sizeof(path), "%s/%s", kernel->id, file) >= (int)sizeof(path))
		return banger_error_set(
			err, BANGER_NAME_TOO_LONG, "the name of a kernel's file is too long");
	_cleanup_close_ int fd = (int)syscall(SYS_openat2, s->dir_fd, path, &how, sizeof(how));
	if (fd < 0 && (errno == ENOENT || errno == ENOTDIR || errno == ELOOP || errno == EXDEV))
		return banger_error_set(
			err, BANGER_NOT_FOUND, "kernel \"%s\" has no file %s", kernel->name, file);
	if (fd < 0 || fstat(fd, &st) < 0)
		return banger_error_set_errno(
			err, errno, "opening %s of kernel \"%s\"", file, kernel->name);
	if (!S_ISREG(st.st_mode))
		return banger_error_set(
			err, BANGER_NOT_FOUND, "kernel \"%s\" has no file %s", kernel->name, file);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int kernel_service_read(struct kernel_service *s, const struct banger_kernel *kernel,
	const char *file, size_t max, char **ret, size_t *ret_size, struct banger_error *err)
{
	_cleanup_close_ int fd = -1;
	int r = kernel_service_open(s, kernel, file, &fd, err);
	return r < 0 ? r : inflate_file(fd, file, max, ret, ret_size, err);
}

/* Files of the top directory one by one, modules/VERSION summed up. */
struct listing {
	struct json_object *list;
	char modules[160];
	int64_t size, blocks;
};

static int list_add(struct json_object *list, const char *name, int64_t size, int64_t blocks)
{
	_cleanup_json_ struct json_object *o = json_object_new_object();
	if (!o || banger_json_add_str(o, "name", name) < 0 ||
		banger_json_add_int(o, "size", size) < 0 ||
		banger_json_add_int(o, "blocks", blocks) < 0 || json_object_array_add(list, o) < 0)
		return -ENOMEM;
	TAKE_PTR(o);
	return 0;
}

static int list_visit(
	void *arg, int dir_fd, const char *name, const char *path, const struct stat *st)
{
	struct listing *l = arg;
	const char *slash = strchr(path, '/');
	if (!S_ISREG(st->st_mode))
		return 0;
	if (!slash)
		return list_add(l->list, path, st->st_size, st->st_blocks);
	snprintf(l->modules, sizeof(l->modules), "%.*s",
		(int)(slash + 1 - path + (ptrdiff_t)strcspn(slash + 1, "/")), path);
	l->size += st->st_size;
	l->blocks += st->st_blocks;
	return 0;
}

int kernel_service_files(struct kernel_service *s, const struct banger_kernel *kernel,
	struct json_object **ret, struct banger_error *err)
{
	_cleanup_json_ struct json_object *list = json_object_new_array();
	struct listing l = {.list = list};
	if (!list)
		return banger_error_oom(err);
	int r = tree_walk(s->dir_fd, kernel->id, list_visit, &l);
	if (r == 0 && l.modules[0])
		r = list_add(list, l.modules, l.size, l.blocks);
	if (r == -ENOENT)
		return banger_error_set(
			err, BANGER_NOT_FOUND, "kernel \"%s\" not found", kernel->name);
	if (r < 0)
		return banger_error_set_errno(err, r, "listing kernel \"%s\"", kernel->name);
	*ret = TAKE_PTR(list);
	return 0;
}

/* ---- deleting */

void kernel_dir_name(const char *prefix, const char *id, char ret[KERNEL_DIR_NAME_MAX])
{
	snprintf(ret, KERNEL_DIR_NAME_MAX, "%s%s", prefix, id);
}

void kernel_dir_remove(struct kernel_service *s, const char *name)
{
	int r = tree_remove(s->dir_fd, name);
	if (r < 0)
		log_warn("a kernel's directory stays until the next start", KV_S("directory", name),
			KV_S("error", strerror(-r)));
}

/* Under the publication lock: still there, not in use, the row away, watchers told. */
static int unpublish(struct kernel_service *s, struct operation *op, struct banger_kernel *k,
	struct banger_error *err)
{
	_cleanup_(publication_leavep) struct publication_lock *held =
		publication_enter(s->deps.publication);
	struct banger_op_record record;
	FAULT_POINT("kernel.delete.locked");
	int r = s->in_use ? s->in_use(s->in_use_arg, k->id, err) : 0;
	if (r < 0)
		return r;
	operation_completed_record(op, &record);
	r = store_kernel_delete(s->deps.store, k->id, &record, &k->generation, err);
	if (r < 0)
		return r;
	FAULT_POINT("kernel.delete.committed");
	kernel_event(s, "deleted", k);
	return 0;
}

int kernel_service_delete(struct kernel_service *s, struct operation *op, const char *word,
	struct banger_kernel *ret, struct banger_error *err)
{
	_cleanup_kernel_ struct banger_kernel k = {0};
	char trash[KERNEL_DIR_NAME_MAX];
	int r = store_kernel_find(s->deps.store, word, &k, err);
	if (r == 0)
		r = unpublish(s, op, &k, err);
	if (r < 0)
		return r;
	kernel_dir_name(TRASH_PREFIX, k.id, trash);
	kernel_dir_remove(s, renameat(s->dir_fd, k.id, s->dir_fd, trash) < 0 ? k.id : trash);
	FAULT_POINT("kernel.delete.removed");
	*ret = k;
	k = (struct banger_kernel){0};
	return 0;
}
