/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Importing a kernel: everything slow happens in kernels/.staging-ID, which nobody else looks at.
 * One syncfs(2) makes its thousand files durable (a thousand fsyncs take seconds); then, under the
 * publication lock, the rename and the row.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <banger/fault.h>
#include <banger/log.h>
#include "kernel/internal.h"
#include "kernel/modules.h"
#include "kernel/tree.h"
#include "kernel/unpack.h"
#include "kernel/vmlinuz.h"

#define SPOOL_MAX (4 * INT64_C(1024) * 1024 * 1024)

struct import {
	struct kernel_service *s;
	struct operation *op;
	struct banger_kernel kernel;
	char staging[KERNEL_DIR_NAME_MAX]; /* "" before it is made and after it was published */
	int dir_fd;
	struct banger_error *err;
};

static void import_done(struct import *x)
{
	banger_closep(&x->dir_fd);
	if (x->staging[0])
		kernel_dir_remove(x->s, x->staging);
	banger_kernel_done(&x->kernel);
}

static int make_staging(struct import *x)
{
	char name[KERNEL_DIR_NAME_MAX];
	kernel_dir_name(STAGING_PREFIX, x->kernel.id, name);
	if (mkdirat(x->s->dir_fd, name, 0755) < 0)
		return banger_error_set_errno(x->err, errno, "creating a directory for the kernel");
	memcpy(x->staging, name, sizeof(name));
	x->dir_fd = openat(x->s->dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return x->dir_fd < 0
		       ? banger_error_set_errno(x->err, errno, "opening the kernel's directory")
		       : 0;
}

/* A pipe cannot be read twice: what it gives goes to an unnamed file first. */
static int spool(struct import *x, int in, int *ret_fd)
{
	char buffer[128 * 1024];
	int64_t size = 0;
	_cleanup_close_ int out = openat(x->dir_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (out < 0)
		return banger_error_set_errno(
			x->err, errno, "creating a temporary file for the kernel");
	for (;;) {
		ssize_t n = read(in, buffer, sizeof(buffer));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return banger_error_set_errno(x->err, errno, "reading the kernel");
		if (n == 0)
			break;
		size += n;
		if (size > SPOOL_MAX)
			return banger_error_set(x->err, BANGER_TOO_LARGE,
				"the kernel is over %lld bytes", (long long)SPOOL_MAX);
		for (ssize_t done = 0; done < n;) {
			ssize_t w = write(out, buffer + done, (size_t)(n - done));
			if (w < 0 && errno != EINTR)
				return banger_error_set_errno(x->err, errno, "storing the kernel");
			done += w > 0 ? w : 0;
		}
		int r = operation_check_cancelled(x->op, x->err);
		if (r < 0)
			return r;
	}
	*ret_fd = TAKE_FD(out);
	return 0;
}

/* vmlinux beside vmlinuz, where that kernel can be entered so. */
static int make_vmlinux(struct import *x, int fd, const struct vmlinuz *k)
{
	if (k->kind == VMLINUZ_ELF)
		return linkat(x->dir_fd, "vmlinuz", x->dir_fd, "vmlinux", 0) < 0
			       ? banger_error_set_errno(x->err, errno, "linking vmlinux")
			       : 0;
	_cleanup_close_ int out =
		openat(x->dir_fd, "vmlinux", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0444);
	if (out < 0)
		return banger_error_set_errno(x->err, errno, "creating vmlinux");
	int r = vmlinuz_extract(fd, k, out, x->err);
	if (r == 0 && unlinkat(x->dir_fd, "vmlinux", 0) < 0)
		return banger_error_set_errno(x->err, errno, "removing vmlinux");
	return r < 0 ? r : 0;
}

static int take_image(struct import *x, const struct unpacked *got)
{
	struct vmlinuz k;
	_cleanup_close_ int fd = openat(x->dir_fd, "vmlinuz", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return banger_error_set_errno(x->err, errno, "reading the kernel image");
	int r = vmlinuz_read(fd, &k, x->err);
	if (r < 0)
		return r;
	if (k.version[0] && got->modules[0] && strcmp(k.version, got->modules) != 0)
		return banger_error_set(x->err, BANGER_CORRUPT,
			"the modules are of kernel %s, the kernel is %s", got->modules, k.version);
	snprintf(x->kernel.version, sizeof(x->kernel.version), "%s",
		k.version[0] ? k.version : got->modules);
	snprintf(x->kernel.arch, sizeof(x->kernel.arch), "%s", k.arch);
	return make_vmlinux(x, fd, &k);
}

static int add_size(
	void *arg, int dir_fd, const char *name, const char *path, const struct stat *st)
{
	*(int64_t *)arg += S_ISREG(st->st_mode) ? st->st_size : 0;
	return 0;
}

/* Fill the staging directory and the row from what was given. */
static int fill(struct import *x, const struct kernel_import *in)
{
	_cleanup_close_ int spooled = -1;
	struct unpacked got;
	struct stat st;
	if (fstat(in->fd, &st) < 0)
		return banger_error_set_errno(x->err, errno, "the kernel's descriptor");
	if (S_ISDIR(st.st_mode))
		return banger_error_set(x->err, BANGER_BAD_REQUEST, "a directory is sent as a tar");
	int r = S_ISREG(st.st_mode) ? 0 : spool(x, in->fd, &spooled);
	if (r == 0)
		r = kernel_unpack(spooled >= 0 ? spooled : in->fd, in->format ? in->format : "auto",
			x->dir_fd, x->op, &got, x->err);
	FAULT_POINT("kernel.import.unpacked");
	if (r == 0)
		r = take_image(x, &got);
	if (r == 0 && got.modules[0])
		r = modules_index(x->dir_fd, got.modules, x->op, x->err);
	if (r < 0)
		return r;
	x->kernel.modules = got.modules[0] != '\0';
	x->kernel.initrd = got.initrd;
	r = tree_walk(x->s->dir_fd, x->staging, add_size, &x->kernel.size);
	if (r < 0)
		return banger_error_set_errno(x->err, r, "measuring the kernel");
	FAULT_POINT("kernel.import.filled");
	return syncfs(x->dir_fd) < 0 ? banger_error_set_errno(x->err, errno, "syncing the kernel")
				     : 0;
}

static int publish(struct import *x)
{
	_cleanup_(publication_leavep) struct publication_lock *held =
		publication_enter(x->s->deps.publication);
	const int dir = x->s->dir_fd;
	struct banger_op_record record;
	FAULT_POINT("kernel.import.locked");
	x->kernel.imported_us = banger_now_us();
	if (renameat2(dir, x->staging, dir, x->kernel.id, RENAME_NOREPLACE) < 0)
		return banger_error_set_errno(x->err, errno, "publishing the kernel");
	FAULT_POINT("kernel.import.renamed");
	operation_completed_record(x->op, &record);
	int r = store_kernel_insert(x->s->deps.store, &x->kernel, &record, x->err);
	if (r < 0) {
		if (renameat2(dir, x->kernel.id, dir, x->staging, RENAME_NOREPLACE) < 0)
			log_err("a kernel's directory stays until the next start",
				KV_S("id", x->kernel.id), KV_S("error", strerror(errno)));
		return r;
	}
	FAULT_POINT("kernel.import.committed");
	x->staging[0] = '\0';
	kernel_event(x->s, "imported", &x->kernel);
	FAULT_POINT("kernel.import.published");
	return 0;
}

/* The name is free? Asked before the work, to fail early; the insert decides. */
static int name_free(struct kernel_service *s, const char *name, struct banger_error *err)
{
	_cleanup_kernel_ struct banger_kernel k = {0};
	struct banger_error why = {0};
	int r = store_kernel_find(s->deps.store, name, &k, &why);
	if (r == 0 && strcmp(k.name, name) == 0)
		return banger_error_set(err, BANGER_EXISTS, "kernel name \"%s\" is taken", name);
	if (r < 0 && why.code != BANGER_NOT_FOUND && why.code != BANGER_AMBIGUOUS) {
		if (err)
			*err = why;
		return r;
	}
	return 0;
}

int kernel_service_import(struct kernel_service *s, struct operation *op,
	const struct kernel_import *in, struct banger_kernel *ret, struct banger_error *err)
{
	_cleanup_(import_done) struct import x = {.s = s, .op = op, .dir_fd = -1, .err = err};
	int r = banger_name_check("kernel", in->name, err);
	if (r == 0)
		r = name_free(s, in->name, err);
	if (r < 0)
		return r;
	banger_id_mint(x.kernel.id);
	snprintf(x.kernel.name, sizeof(x.kernel.name), "%s", in->name);
	snprintf(x.kernel.op_id, sizeof(x.kernel.op_id), "%s", operation_id(op));
	x.kernel.source = in->source ? strdup(in->source) : NULL;
	if (in->source && !x.kernel.source)
		return banger_error_oom(err);
	r = make_staging(&x);
	if (r == 0)
		r = fill(&x, in);
	if (r == 0)
		r = operation_check_cancelled(op, err);
	if (r == 0)
		r = publish(&x);
	if (r < 0)
		return r;
	*ret = x.kernel;
	x.kernel = (struct banger_kernel){0};
	return 0;
}
