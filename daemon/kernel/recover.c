/* SPDX-License-Identifier: Apache-2.0 */
/*
 * After a crash: rows and directories of kernels are made to agree. The row decides.
 *	row, directory                    fine
 *	row, only .staging-ID             the rename was lost with the machine's power: do it again
 *	row, no directory                 somebody removed it: the row goes, with a warning
 *	directory or dot-name, no row     left over: removed
 */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <banger/fault.h>
#include <banger/log.h>
#include "kernel/internal.h"

static bool is_there(struct kernel_service *s, const char *name)
{
	struct stat st;
	return fstatat(s->dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
}

/* The row's directory is not there. */
static int repair_row(struct kernel_service *s, struct banger_kernel *k, struct banger_error *err)
{
	char staging[KERNEL_DIR_NAME_MAX];
	kernel_dir_name(STAGING_PREFIX, k->id, staging);
	if (renameat(s->dir_fd, staging, s->dir_fd, k->id) == 0) {
		log_info("a kernel's import was finished", KV_S("kernel", k->name),
			KV_S("id", k->id));
		return 0;
	}
	if (errno != ENOENT)
		return banger_error_set_errno(
			err, errno, "finishing the import of kernel \"%s\"", k->name);
	log_warn("a kernel whose files are gone was removed", KV_S("kernel", k->name),
		KV_S("id", k->id));
	_cleanup_(publication_leavep) struct publication_lock *held =
		publication_enter(s->deps.publication);
	int r = store_kernel_delete(s->deps.store, k->id, NULL, &k->generation, err);
	if (r == 0)
		kernel_event(s, "deleted", k);
	return r;
}

/* Every row, in order of id. */
struct rows {
	struct banger_kernel *rows;
	size_t n, room;
};

static void rows_done(struct rows *l)
{
	for (size_t i = 0; i < l->n; i++)
		banger_kernel_done(&l->rows[i]);
	free(l->rows);
}

static int rows_read(struct kernel_service *s, struct rows *l, struct banger_error *err)
{
	_cleanup_(store_view_closep) struct store_view *view = NULL;
	int r = store_view_open(s->deps.store, &view, err);
	while (r >= 0) {
		if (l->n == l->room) {
			size_t room = l->room ? l->room * 2 : 16;
			struct banger_kernel *grown = realloc(l->rows, room * sizeof(*grown));
			if (!grown)
				return banger_error_oom(err);
			l->rows = grown;
			l->room = room;
		}
		r = store_view_next_kernel(
			view, l->n ? l->rows[l->n - 1].id : NULL, &l->rows[l->n], err);
		if (r <= 0)
			break;
		l->n++;
	}
	return r < 0 ? r : 0;
}

static int compare_id(const void *id, const void *row)
{
	return strcmp(id, ((const struct banger_kernel *)row)->id);
}

/* Has the directory entry a row? By id alone: a kernel's name may look like another's id. */
static bool has_row(const struct rows *l, const char *name)
{
	return l->n > 0 && bsearch(name, l->rows, l->n, sizeof(*l->rows), compare_id);
}

static int open_dir(struct kernel_service *s, DIR **ret, struct banger_error *err)
{
	_cleanup_close_ int fd = openat(s->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (!d)
		return banger_error_set_errno(err, errno, "listing the directory of kernels");
	TAKE_FD(fd);
	*ret = d;
	return 0;
}

/* The next entry that is not "." or "..": NULL at the end. */
static const char *next_entry(DIR *d)
{
	struct dirent *e;
	while ((e = readdir(d)))
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			return e->d_name;
	return NULL;
}

int kernel_service_recover(struct kernel_service *s, struct banger_error *err)
{
	_cleanup_(rows_done) struct rows rows = {0};
	_cleanup_closedir_ DIR *d = NULL;
	const char *name;
	int r = rows_read(s, &rows, err);
	for (size_t i = 0; r == 0 && i < rows.n; i++)
		if (!is_there(s, rows.rows[i].id))
			r = repair_row(s, &rows.rows[i], err);
	if (r == 0)
		r = open_dir(s, &d, err);
	while (r == 0 && (name = next_entry(d))) {
		if (has_row(&rows, name))
			continue;
		log_info("what a crash left of a kernel was removed", KV_S("directory", name));
		kernel_dir_remove(s, name);
		FAULT_POINT("kernel.recover.removed");
	}
	return r;
}

/* ---- the same, changing nothing */

static void tell(
	void (*report)(void *arg, const char *what), void *arg, const char *what, const char *name)
{
	char text[BANGER_NAME_MAX + 300];
	snprintf(text, sizeof(text), "%s: %s", what, name);
	report(arg, text);
}

int kernel_service_check(struct kernel_service *s, void (*report)(void *arg, const char *what),
	void *arg, struct banger_error *err)
{
	_cleanup_(publication_leavep) struct publication_lock *held =
		publication_enter(s->deps.publication);
	_cleanup_(rows_done) struct rows rows = {0};
	_cleanup_closedir_ DIR *d = NULL;
	const char *name;
	int n = 0, r = rows_read(s, &rows, err);
	if (r == 0)
		r = open_dir(s, &d, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < rows.n; i++)
		if (!is_there(s, rows.rows[i].id)) {
			tell(report, arg, "a kernel has no directory", rows.rows[i].name);
			n++;
		}
	while ((name = next_entry(d)))
		/* A dot: it is being made or removed now. */
		if (name[0] != '.' && !has_row(&rows, name)) {
			tell(report, arg, "a directory of kernels belongs to no kernel", name);
			n++;
		}
	return n;
}
