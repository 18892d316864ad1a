/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The files of a draft, as bangerfs changes them for people.
 *
 * A draft is flat: regular files and symlinks to absolute paths. Each function holds a shared claim
 * for as long as its system call takes, so none of it happens in a draft that is being promoted,
 * and a promotion that has its claim knows that none is under way. A draft's directory that is not
 * in drafts/ is somebody's published image (IMMUTABLE) or nobody's (NOT_FOUND).
 *
 * image.json is not a file: the registry shows it, and image.configure changes it.
 */
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include "image/internal.h"

/* Does the name belong to a draft's file? */
static int check_file(const char *file, struct banger_error *err)
{
	int r = banger_file_name_check(file, err);
	if (r < 0)
		return r;
	if (!strcmp(file, "image.json"))
		return banger_error_set(
			err, BANGER_NOT_PERMITTED, "image.json is not a file of the draft's");
	return 0;
}

static int not_a_draft(struct image_service *s, const char *id, struct banger_error *err)
{
	_cleanup_image_ struct banger_image image = {0};

	int r = store_image_by_id(s->deps.store, id, &image, err);
	if (r < 0)
		return r;
	if (image.state == BANGER_PUBLISHED)
		return banger_error_set(
			err, BANGER_IMMUTABLE, "image \"%s\" is published", image.name);
	return banger_error_set(
		err, BANGER_NOT_FOUND, "the directory of draft \"%s\" is missing", image.name);
}

/* Share the draft and open its directory. */
static int enter_draft(struct image_service *s, const char *id, struct claim *claim, int *ret_dir,
	struct banger_error *err)
{
	if (!banger_id_valid(id))
		return banger_error_set(err, BANGER_BAD_REQUEST, "\"%s\" is not an image id", id);
	int r = claims_share(s->claims, claim, id, err);
	if (r < 0)
		return r;
	int dir = openat(s->dirs[DIR_DRAFTS], id, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir < 0 && errno == ENOENT)
		return not_a_draft(s, id, err);
	if (dir < 0)
		return banger_error_set_errno(err, errno, "opening the draft's directory");
	*ret_dir = dir;
	return 0;
}

static int open_flags(const struct draft_open *o)
{
	int flags = O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;

	/* A writer reads too: the kernel fills the rest of a page that is partly written. */
	flags |= o->write ? O_RDWR : O_RDONLY;
	if (o->write && o->trunc)
		flags |= O_TRUNC;
	return flags;
}

/* Open, or make with exactly the mode that was asked for: the caller's umask is in it already, the
 * daemon's has no part in it. */
static int open_file(int dir, const struct draft_open *o)
{
	int flags = open_flags(o);

	for (int attempt = 0; attempt < 8; attempt++) {
		int fd = o->create && o->excl ? -1 : openat(dir, o->file, flags);
		if (fd >= 0 || !o->create || (!o->excl && errno != ENOENT))
			return fd;
		fd = openat(dir, o->file, flags | O_CREAT | O_EXCL, 0600);
		if (fd >= 0 && fchmod(fd, o->mode & 07777) < 0)
			banger_closep(&fd);
		if (fd >= 0 || o->excl || errno != EEXIST)
			return fd;
		/* Made by somebody else in between, and perhaps removed again. */
	}
	return -1;
}

int image_service_draft_open(
	struct image_service *s, const struct draft_open *o, int *ret_fd, struct banger_error *err)
{
	_cleanup_claim_ struct claim claim = {0};
	_cleanup_close_ int dir = -1;
	struct stat st;

	int r = check_file(o->file, err);
	if (r == 0)
		r = enter_draft(s, o->id, &claim, &dir, err);
	if (r < 0)
		return r;
	_cleanup_close_ int fd = open_file(dir, o);
	if (fd < 0 && errno == ENOENT)
		return banger_error_set(
			err, BANGER_NOT_FOUND, "the draft has no file \"%s\"", o->file);
	if (fd < 0 || fstat(fd, &st) < 0)
		return banger_error_set_errno(err, errno, "opening \"%s\"", o->file);
	if (!S_ISREG(st.st_mode))
		return banger_error_set(
			err, BANGER_BAD_REQUEST, "\"%s\" is not a regular file", o->file);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int image_service_draft_unlink(
	struct image_service *s, const char *id, const char *file, struct banger_error *err)
{
	_cleanup_claim_ struct claim claim = {0};
	_cleanup_close_ int dir = -1;

	int r = check_file(file, err);
	if (r == 0)
		r = enter_draft(s, id, &claim, &dir, err);
	if (r == 0 && unlinkat(dir, file, 0) < 0)
		r = banger_error_set_errno(err, errno, "removing \"%s\"", file);
	return r;
}

int image_service_draft_rename(struct image_service *s, const char *id, const char *from,
	const char *to_id, const char *to, unsigned flags, struct banger_error *err)
{
	_cleanup_claim_ struct claim claim = {0}, to_claim = {0};
	_cleanup_close_ int dir = -1, to_dir = -1;
	int r;

	if (flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE))
		return banger_error_set(err, BANGER_BAD_REQUEST, "rename flags 0x%x", flags);
	if ((r = check_file(from, err)) < 0 || (r = check_file(to, err)) < 0 ||
		(r = enter_draft(s, id, &claim, &dir, err)) < 0)
		return r;
	bool other = to_id && strcmp(id, to_id);
	if (other && (r = enter_draft(s, to_id, &to_claim, &to_dir, err)) < 0)
		return r;
	if (renameat2(dir, from, other ? to_dir : dir, to, flags) < 0)
		return banger_error_set_errno(err, errno, "renaming \"%s\" to \"%s\"", from, to);
	return 0;
}

int image_service_draft_symlink(struct image_service *s, const char *id, const char *file,
	const char *target, struct banger_error *err)
{
	_cleanup_claim_ struct claim claim = {0};
	_cleanup_close_ int dir = -1;

	if (target[0] != '/')
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"a symlink in a draft names an artifact by its absolute path, not \"%s\"",
			target);
	if (strlen(target) >= PATH_MAX)
		return banger_error_set(err, BANGER_NAME_TOO_LONG,
			"the target is longer than %d bytes", PATH_MAX - 1);
	int r = check_file(file, err);
	if (r == 0)
		r = enter_draft(s, id, &claim, &dir, err);
	if (r == 0 && symlinkat(target, dir, file) < 0)
		r = banger_error_set_errno(err, errno, "making the symlink \"%s\"", file);
	return r;
}

/* ---- attributes */

static struct timespec to_timespec(int64_t ns)
{
	struct timespec t = {.tv_nsec = UTIME_OMIT};

	if (ns == INT64_MIN)
		return t;
	t.tv_sec = ns / 1000000000;
	t.tv_nsec = ns % 1000000000;
	if (t.tv_nsec < 0) {
		t.tv_sec--;
		t.tv_nsec += 1000000000;
	}
	return t;
}

/* By way of /proc, for ftruncate(2) refuses a descriptor that is O_PATH. */
static int set_size(int fd, int64_t size)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return truncate(path, size) < 0 ? -errno : 0;
}

/* In this order: a new size changes the times, a new owner clears mode bits. */
static int set_attr(int dir, const char *file, int fd, const struct draft_attr *a)
{
	struct timespec times[2] = {to_timespec(a->atime_ns), to_timespec(a->mtime_ns)};
	int r = 0;

	if (a->size >= 0)
		r = set_size(fd, a->size);
	if (r == 0 && (a->uid >= 0 || a->gid >= 0) &&
		fchownat(fd, "", a->uid >= 0 ? (uid_t)a->uid : (uid_t)-1,
			a->gid >= 0 ? (gid_t)a->gid : (gid_t)-1, AT_EMPTY_PATH) < 0)
		r = -errno;
	if (r == 0 && a->mode >= 0)
		r = image_chmod_fd(fd, (mode_t)a->mode & 07777);
	if (r == 0 && (a->atime_ns != INT64_MIN || a->mtime_ns != INT64_MIN) &&
		utimensat(dir, file, times, AT_SYMLINK_NOFOLLOW) < 0)
		r = -errno;
	return r;
}

int image_service_draft_setattr(struct image_service *s, const char *id, const char *file,
	const struct draft_attr *a, struct banger_error *err)
{
	_cleanup_claim_ struct claim claim = {0};
	_cleanup_close_ int dir = -1;
	struct stat st;

	int r = check_file(file, err);
	if (r == 0)
		r = enter_draft(s, id, &claim, &dir, err);
	if (r < 0)
		return r;
	_cleanup_close_ int fd = openat(dir, file, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return banger_error_set_errno(err, errno, "opening \"%s\"", file);
	if (S_ISLNK(st.st_mode) && (a->size >= 0 || a->mode >= 0))
		return banger_error_set(err, BANGER_UNSUPPORTED,
			"a symlink has neither a size nor a mode that could be set");
	r = set_attr(dir, file, fd, a);
	return r < 0 ? banger_error_set_errno(err, r, "changing \"%s\"", file) : 0;
}
