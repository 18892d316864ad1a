/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A promotion moves the directory of an image between two system calls of ours and before or after
 * the event that tells of it. The id says which image it is wherever it lies, so where a path is
 * not found in one place it is looked for in the other.
 */
#include "disk.h"
#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/syscall.h>

/* A VM's files change as long as it runs, as a draft's do; nobody but the daemon writes them. */
static int disk_of_vm(struct fs *fs, uint64_t owner, struct disk *ret)
{
	struct disk d = {.other_fd = -1, .draft = true};

	{
		MODEL_READ(fs->model);
		const struct model_vm *v = model_vm(fs->model, node_number(owner));

		if (!v)
			return -ENOENT;
		strcpy(d.id, v->id);
	}
	d.directories = fs_directories(fs);
	d.fd = d.directories->fd[DIRECTORY_VMS];
	*ret = d;
	return 0;
}

int disk_of(struct fs *fs, uint64_t owner, struct disk *ret)
{
	if (node_kind(owner) == NODE_VM)
		return disk_of_vm(fs, owner, ret);
	struct disk d = {.other_fd = -1};
	bool kernel = node_kind(owner) == NODE_KERNEL;

	{
		MODEL_READ(fs->model);
		const struct model_image *i =
			kernel ? NULL : model_image(fs->model, node_number(owner));
		const struct model_kernel *k =
			kernel ? model_kernel(fs->model, node_number(owner)) : NULL;

		if (!i && !k)
			return -ENOENT;
		if (k) {
			strcpy(d.id, k->k.id);
		} else {
			model_id_text(i->row.id, d.id);
			d.draft = i->row.state == BANGER_DRAFT;
		}
	}
	d.directories = fs_directories(fs);
	const int *fd = d.directories->fd;
	d.fd = fd[kernel ? DIRECTORY_KERNELS : d.draft ? DIRECTORY_DRAFTS : DIRECTORY_IMAGES];
	if (!kernel)
		d.other_fd = fd[d.draft ? DIRECTORY_IMAGES : DIRECTORY_DRAFTS];
	*ret = d;
	return 0;
}

static int full_path(const struct disk *d, const char *path, char buf[PATH_MAX])
{
	int n = snprintf(buf, PATH_MAX, "%s%s%s", d->id, *path ? "/" : "", path);
	return n < PATH_MAX ? 0 : -ENAMETOOLONG;
}

static int open_at(int dir, const char *path, uint64_t flags)
{
	struct open_how how = {
		.flags = flags | O_CLOEXEC | O_NOFOLLOW,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
	};

	for (;;) {
		int fd = syscall(SYS_openat2, dir, path, &how, sizeof(how));
		if (fd >= 0)
			return fd;
		/* EAGAIN: something was renamed while "beneath" was being made sure of. */
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
	}
}

static int statx_at(int dir, const char *path, struct statx *ret)
{
	return statx(dir, path, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, FILE_STATX, ret) < 0 ? -errno
											    : 0;
}

/* Deeper than ID/FILE, a directory of the path might be a symlink. */
static int statx_deep(int dir, const char *path, struct statx *ret)
{
	_cleanup_close_ int fd = open_at(dir, path, O_PATH);

	if (fd < 0)
		return fd;
	return statx(fd, "", AT_EMPTY_PATH, FILE_STATX, ret) < 0 ? -errno : 0;
}

int disk_statx(const struct disk *d, const char *path, struct statx *ret)
{
	char full[PATH_MAX];
	int r = full_path(d, path, full);

	if (r < 0)
		return r;
	if (strchr(path, '/'))
		return statx_deep(d->fd, full, ret);
	r = statx_at(d->fd, full, ret);
	if (r == -ENOENT && d->other_fd >= 0)
		r = statx_at(d->other_fd, full, ret);
	return r;
}

static int check_id(int fd, const struct file_id *id)
{
	struct statx stx;

	if (statx(fd, "", AT_EMPTY_PATH, FILE_STATX, &stx) < 0)
		return -errno;
	struct file_id now = file_id_of(&stx);
	return file_id_same(&now, id) ? 0 : -ESTALE;
}

int disk_open(
	const struct disk *d, const char *path, int flags, const struct file_id *id, int *ret_fd)
{
	char full[PATH_MAX];
	_cleanup_close_ int fd = -1;
	int r = full_path(d, path, full);

	if (r < 0)
		return r;
	fd = open_at(d->fd, full, flags);
	if (fd == -ENOENT && d->other_fd >= 0)
		fd = open_at(d->other_fd, full, flags);
	if (fd < 0)
		return fd;
	r = id ? check_id(fd, id) : 0;
	if (r == 0)
		*ret_fd = TAKE_FD(fd);
	return r;
}

int disk_readlink(const struct disk *d, const char *path, char **ret)
{
	_cleanup_free_ char *buf = malloc(PATH_MAX);
	_cleanup_close_ int fd = -1;

	if (!buf)
		return -ENOMEM;
	int r = disk_open(d, path, O_PATH, NULL, &fd);
	if (r < 0)
		return r;
	ssize_t n = readlinkat(fd, "", buf, PATH_MAX - 1);
	if (n < 0)
		return errno == ENOENT ? -EINVAL : -errno; /* not a symlink any more */
	buf[n] = '\0';
	*ret = TAKE_PTR(buf);
	return 0;
}

void disk_list_done(struct disk_list *l)
{
	for (size_t i = 0; i < l->n; i++)
		free(l->entries[i].name);
	free(l->entries);
	*l = (struct disk_list){0};
}

static int add_entry(struct disk_list *l, const struct dirent *e)
{
	if ((l->n & (l->n - 1)) == 0) {
		struct disk_entry *grown =
			reallocarray(l->entries, l->n ? 2 * l->n : 1, sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		l->entries = grown;
	}
	char *name = strdup(e->d_name);
	if (!name)
		return -ENOMEM;
	l->entries[l->n++] = (struct disk_entry){e->d_ino, e->d_type, name};
	return 0;
}

int disk_list(const struct disk *d, const char *path, struct disk_list *ret)
{
	_cleanup_(disk_list_done) struct disk_list l = {0};
	_cleanup_closedir_ DIR *dir = NULL;
	int fd;

	int r = disk_open(d, path, O_RDONLY | O_DIRECTORY, NULL, &fd);
	if (r < 0)
		return r;
	dir = fdopendir(fd);
	if (!dir) {
		r = -errno;
		close(fd);
		return r;
	}
	for (;;) {
		errno = 0;
		const struct dirent *e = readdir(dir);
		if (!e)
			break;
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		if (add_entry(&l, e) < 0)
			return -ENOMEM;
	}
	if (errno != 0)
		return -errno;
	*ret = l;
	l = (struct disk_list){0};
	return 0;
}
