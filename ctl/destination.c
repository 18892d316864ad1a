/* SPDX-License-Identifier: Apache-2.0 */
/*
 * O_TMPFILE, then a link under a temporary name and a rename over whatever has the name, which is the
 * one way to put a file without a name in the place of another. Data and name are synced in that
 * order, so that a crash leaves the old file or the new one.
 */
#include "destination.h"

#include <fcntl.h>
#include <libgen.h>
#include <string.h>
#include <sys/stat.h>

/* The directory of a path; the caller frees. */
static char *directory_of(const char *path)
{
	_cleanup_free_ char *copy = strdup(path);

	return copy ? strdup(dirname(copy)) : NULL;
}

/* ".NAME.op-…" beside it; the caller frees. */
static char *name_beside(const char *path)
{
	const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
	char *name;

	if (asprintf(&name, "%.*s.%.200s.%s", (int)(base - path), path, base,
		    banger_op_id_mint().s) < 0)
		return NULL;
	return name;
}

static int cannot_write(const char *path, struct banger_error *err)
{
	return banger_error_set_errno(err, errno, "cannot write %s", path);
}

static int open_new(struct destination *d, const char *path, struct banger_error *err)
{
	_cleanup_free_ char *dir = directory_of(d->path);

	if (!dir)
		return banger_error_oom(err);
	d->fd = open(dir, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666);
	if (d->fd >= 0)
		return 0;
	if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)
		return cannot_write(path, err);
	d->temporary = name_beside(d->path);
	if (!d->temporary)
		return banger_error_oom(err);
	d->fd = open(d->temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
	if (d->fd >= 0)
		return 0;
	free(TAKE_PTR(d->temporary));
	return cannot_write(path, err);
}

static int open_path(struct destination *d, const char *path, struct banger_error *err)
{
	struct stat st;
	bool exists = stat(path, &st) == 0;

	if (!exists && errno != ENOENT)
		return cannot_write(path, err);
	if (exists && S_ISDIR(st.st_mode)) {
		errno = EISDIR;
		return cannot_write(path, err);
	}
	if (exists && !S_ISREG(st.st_mode)) {
		d->fd = open(path, O_WRONLY | O_CLOEXEC);
		return d->fd < 0 ? cannot_write(path, err) : 0;
	}
	d->path = exists ? realpath(path, NULL) : strdup(path);
	if (!d->path)
		return exists && errno != ENOMEM ? cannot_write(path, err) : banger_error_oom(err);
	return open_new(d, path, err);
}

int destination_open(
	struct ctl *c, const char *path, struct destination *ret, struct banger_error *err)
{
	_cleanup_destination_ struct destination d = {.fd = -1};
	int r = 0;

	if (strcmp(path, "-") == 0) {
		if (isatty(STDOUT_FILENO))
			return ctl_usage(c, err,
				"standard output is a terminal: \"-\" is for a pipe or a file");
		d.is_stdout = true;
		d.fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
		if (d.fd < 0)
			return banger_error_set_errno(err, errno, "cannot write standard output");
	} else {
		r = open_path(&d, path, err);
	}
	if (r < 0)
		return r;
	*ret = d;
	d = (struct destination){.fd = -1};
	return 0;
}

static int link_temporary(struct destination *d, struct banger_error *err)
{
	_cleanup_free_ char *name = name_beside(d->path);
	char self[64];

	if (!name)
		return banger_error_oom(err);
	snprintf(self, sizeof(self), "/proc/self/fd/%d", d->fd);
	if (linkat(AT_FDCWD, self, AT_FDCWD, name, AT_SYMLINK_FOLLOW) < 0)
		return cannot_write(d->path, err);
	d->temporary = TAKE_PTR(name);
	return 0;
}

int destination_commit(struct destination *d, struct banger_error *err)
{
	_cleanup_free_ char *dir = d->path ? directory_of(d->path) : NULL;
	int r = 0;

	if (!d->path)
		return 0;
	if (!dir)
		return banger_error_oom(err);
	if (fsync(d->fd) < 0)
		return cannot_write(d->path, err);
	if (!d->temporary)
		r = link_temporary(d, err);
	if (r < 0)
		return r;
	if (rename(d->temporary, d->path) < 0)
		return cannot_write(d->path, err);
	free(TAKE_PTR(d->temporary));
	_cleanup_close_ int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir_fd < 0 || fsync(dir_fd) < 0)
		return banger_error_set_errno(
			err, errno, "cannot sync the directory of %s", d->path);
	return 0;
}

void destination_done(struct destination *d)
{
	if (d->temporary)
		(void)unlink(d->temporary);
	banger_closep(&d->fd);
	free(d->temporary);
	free(d->path);
	*d = (struct destination){.fd = -1};
}
