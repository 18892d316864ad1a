/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a draft is sealed, and how that is undone. The model is in seal.h.
 *
 * Every step is one system call whose effect can be told afterwards from the directory alone: the
 * record is there or not, the mode is the recorded one or not, the inode behind the name is the
 * recorded one or not. So seal_recover() needs no other memory than the records, and may itself be
 * interrupted and run again. The records need not survive a power cut by themselves: they are made
 * before what they record, and a journalling filesystem keeps that order.
 *
 * A lease sends its holder a signal when somebody opens the file for writing; SIGIO would kill the
 * daemon, so it is set to SIGURG, which does nothing. It can only come from somebody who opens
 * files under the state directory by hand in the microsecond in which the lease is held.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <banger/fault.h>
#include <banger/log.h>
#include "image/reference.h"
#include "image/seal.h"

enum { RECORD_NAME = 32, RECORD_TEXT = 320, SEALED_MODE = 0444 };

static void record_name(char buf[RECORD_NAME], size_t n, bool copy)
{
	snprintf(buf, RECORD_NAME, "%zu%s", n, copy ? ".copy" : "");
}

static void promote_name(char buf[RECORD_NAME], const char *id)
{
	snprintf(buf, RECORD_NAME, "%.16s" PROMOTE_SUFFIX, id);
}

static int cannot(const struct seal *seal, int errnum, const char *verb, const char *file,
	struct banger_error *err)
{
	return banger_error_set_errno(
		err, errnum, "%s %s of draft \"%s\"", verb, file, seal->image->name);
}

/* ---- records */

static int make_record(struct seal *seal, struct sealed_file *f, struct banger_error *err)
{
	char dir[RECORD_NAME], name[RECORD_NAME], text[RECORD_TEXT];
	int staging = seal->service->dirs[DIR_STAGING];

	promote_name(dir, seal->image->id);
	if (seal->undo_fd < 0) {
		int r = mkdirat(staging, dir, 0700) < 0 ? -errno : 0;
		if (r == -EEXIST)
			return banger_error_set(err, BANGER_BUSY,
				"an earlier promotion of draft \"%s\" is not undone yet; the next "
				"start of bangerd does that",
				seal->image->name);
		if (r < 0)
			return cannot(seal, r, "staging", f->name, err);
		FAULT_POINT("image.promote.staged");
		seal->undo_fd = openat(staging, dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (seal->undo_fd < 0)
			return cannot(seal, errno, "staging", f->name, err);
	}
	record_name(name, (size_t)(f - seal->files), false);
	snprintf(text, sizeof(text), "%04o %llu %s", (unsigned)f->mode,
		(unsigned long long)f->inode, f->name);
	if (symlinkat(text, seal->undo_fd, name) < 0)
		return cannot(seal, errno, "staging", f->name, err);
	f->recorded = true;
	FAULT_POINT("image.promote.recorded");
	return 0;
}

/* ---- writers */

/* 1 no writer, 0 some, -errno when that cannot be known. */
static int try_lease(int fd)
{
	if (fcntl(fd, F_SETSIG, SIGURG) < 0)
		return -errno;
	if (fcntl(fd, F_SETLEASE, F_RDLCK) == 0) {
		(void)fcntl(fd, F_SETLEASE, F_UNLCK);
		return 1;
	}
	return errno == EAGAIN ? 0 : -errno;
}

/* 0, BUSY, or 1: leases do not work here. */
static int wait_for_writers(
	struct seal *seal, const struct sealed_file *f, int fd, struct banger_error *err)
{
	int64_t until = banger_monotonic_us() + seal->service->deps.config->lock_wait_ms * 1000;
	int wait_ms = 1, r;

	while ((r = try_lease(fd)) == 0) {
		struct pollfd cancel = {.fd = operation_cancel_fd(seal->op), .events = POLLIN};
		if (banger_monotonic_us() >= until)
			return banger_error_set(err, BANGER_BUSY,
				"%s of draft \"%s\" is still open for writing", f->name,
				seal->image->name);
		(void)poll(&cancel, 1, wait_ms);
		r = operation_check_cancelled(seal->op, err);
		if (r < 0)
			return r;
		wait_ms = wait_ms < 32 ? wait_ms * 2 : 50;
	}
	return r > 0 ? 0 : 1;
}

static int seal_regular(
	struct seal *seal, struct sealed_file *f, int path_fd, struct banger_error *err)
{
	char path[64];
	int r = 0;

	if (f->mode != SEALED_MODE) {
		r = make_record(seal, f, err);
		if (r == 0 && (r = image_chmod_fd(path_fd, SEALED_MODE)) < 0)
			return cannot(seal, r, "sealing", f->name, err);
		FAULT_POINT("image.promote.chmod");
	}
	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", path_fd);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return cannot(seal, errno, "opening", f->name, err);
	r = wait_for_writers(seal, f, fd, err);
	if (r > 0) /* a copy of its own has no writer whatever the filesystem */
		f->copied = true;
	return r < 0 ? r : 0;
}

static int seal_one(struct seal *seal, struct sealed_file *f, struct banger_error *err)
{
	struct stat st;

	_cleanup_close_ int fd = openat(seal->dir_fd, f->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return cannot(seal, errno, "opening", f->name, err);
	f->mode = st.st_mode & 07777;
	f->inode = st.st_ino;
	if (S_ISLNK(st.st_mode) || (S_ISREG(st.st_mode) && st.st_nlink > 1)) {
		f->copied = true;
		return 0;
	}
	if (!S_ISREG(st.st_mode))
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"%s of draft \"%s\" is neither a file nor a symlink", f->name,
			seal->image->name);
	return seal_regular(seal, f, fd, err);
}

/* ---- the list of files */

static int add_file(struct seal *seal, const char *name)
{
	if (seal->n % 16 == 0) {
		struct sealed_file *more = reallocarray(seal->files, seal->n + 16, sizeof(*more));
		if (!more)
			return -ENOMEM;
		seal->files = more;
	}
	struct sealed_file *f = &seal->files[seal->n];
	*f = (struct sealed_file){.name = strdup(name)};
	if (!f->name)
		return -ENOMEM;
	seal->n++;
	return 0;
}

static int list_files(struct seal *seal, struct banger_error *err)
{
	_cleanup_closedir_ DIR *d = image_open_dir(seal->dir_fd, ".");
	struct dirent *de;

	while (d && (errno = 0, de = readdir(d)))
		if (!image_is_dots(de->d_name) && add_file(seal, de->d_name) < 0)
			return banger_error_oom(err);
	if (!d || errno)
		return banger_error_set_errno(
			err, errno, "reading the directory of draft \"%s\"", seal->image->name);
	return 0;
}

struct sealed_file *seal_file(struct seal *seal, const char *name)
{
	for (size_t i = 0; i < seal->n; i++)
		if (!strcmp(seal->files[i].name, name))
			return &seal->files[i];
	return NULL;
}

static void seal_done(struct seal *seal)
{
	for (size_t i = 0; i < seal->n; i++)
		free(seal->files[i].name);
	free(seal->files);
	banger_closep(&seal->dir_fd);
	banger_closep(&seal->undo_fd);
	*seal = (struct seal){.dir_fd = -1, .undo_fd = -1};
}

int seal_begin(struct image_service *s, struct operation *op, const struct banger_image *image,
	struct seal *ret, struct banger_error *err)
{
	struct seal seal = {.service = s, .op = op, .image = image, .dir_fd = -1, .undo_fd = -1};
	int r = 0;

	seal.dir_fd = openat(
		s->dirs[DIR_DRAFTS], image->id, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (seal.dir_fd < 0)
		r = banger_error_set_errno(
			err, errno, "opening the directory of draft \"%s\"", image->name);
	if (r == 0)
		r = list_files(&seal, err);
	for (size_t i = 0; r == 0 && i < seal.n; i++)
		r = seal_one(&seal, &seal.files[i], err);
	if (r < 0) {
		seal_undo(&seal);
		return r;
	}
	*ret = seal;
	return 0;
}

/* ---- copies */

static int read_target(
	struct seal *seal, const struct sealed_file *f, char **ret, struct banger_error *err)
{
	char target[PATH_MAX + 1];
	ssize_t n = readlinkat(seal->dir_fd, f->name, target, sizeof(target));

	if (n < 0)
		return cannot(seal, errno, "reading", f->name, err);
	if (n >= (ssize_t)sizeof(target) || n == 0 || target[0] != '/')
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"%s of draft \"%s\" does not point to an absolute path", f->name,
			seal->image->name);
	*ret = strndup(target, (size_t)n);
	return *ret ? 0 : banger_error_oom(err);
}

int seal_open(struct seal *seal, const struct sealed_file *f, int *ret_fd, int64_t *ret_size,
	char **ret_target, struct banger_error *err)
{
	_cleanup_free_ char *target = NULL;
	char what[BANGER_NAME_MAX + 300];
	struct stat st;
	int r;

	if (fstatat(seal->dir_fd, f->name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return cannot(seal, errno, "opening", f->name, err);
	_cleanup_close_ int fd = -1;
	if (S_ISLNK(st.st_mode)) {
		r = read_target(seal, f, &target, err);
		if (r < 0)
			return r;
		snprintf(what, sizeof(what), "%s of draft \"%s\"", f->name, seal->image->name);
		if (operation_actor(seal->op)->vm[0])
			return banger_error_set(err, BANGER_DENIED,
				"%s points to a file of the host, which a VM cannot have copied",
				what);
		r = reference_open(
			target, what, seal->service->deps.config->lock_wait_ms, seal->op, &fd, err);
		if (r < 0)
			return r;
	} else {
		fd = openat(seal->dir_fd, f->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	}
	r = fd < 0 ? -errno : reference_size(fd, ret_size);
	if (r < 0)
		return cannot(seal, r, "opening", f->name, err);
	*ret_fd = TAKE_FD(fd);
	if (ret_target)
		*ret_target = TAKE_PTR(target);
	return 0;
}

int seal_copy(struct seal *seal, struct sealed_file *f, int fd, int64_t size, int *ret_fd,
	char *ret_digest, struct banger_error *err)
{
	char name[RECORD_NAME];
	int r = 0;

	if (!f->copied)
		return 0;
	if (!f->recorded)
		r = make_record(seal, f, err);
	if (r < 0)
		return r;
	record_name(name, (size_t)(f - seal->files), true);
	_cleanup_close_ int out =
		openat(seal->undo_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, SEALED_MODE);
	if (out < 0)
		return cannot(seal, errno, "copying", f->name, err);
	FAULT_POINT("image.promote.copying");
	r = durable_copy(fd, size, out, seal->op, f->name, ret_digest, err);
	if (r == 0 && fchmod(out, SEALED_MODE) < 0) /* whatever the umask */
		r = cannot(seal, errno, "copying", f->name, err);
	if (r < 0)
		return r;
	FAULT_POINT("image.promote.copied");
	*ret_fd = TAKE_FD(out);
	return 1;
}

int seal_exchange(struct seal *seal, struct banger_error *err)
{
	char name[RECORD_NAME];

	for (size_t i = 0; i < seal->n; i++) {
		struct sealed_file *f = &seal->files[i];
		if (!f->copied)
			continue;
		record_name(name, i, true);
		if (renameat2(seal->undo_fd, name, seal->dir_fd, f->name, RENAME_EXCHANGE) < 0)
			return cannot(seal, errno, "putting in the copy of", f->name, err);
		f->exchanged = true;
		FAULT_POINT("image.promote.exchanged");
	}
	return 0;
}

/* ---- the end */

static void forget(struct seal *seal)
{
	char dir[RECORD_NAME];
	struct banger_error err = {0};
	bool large = false;

	promote_name(dir, seal->image->id);
	if (seal->undo_fd < 0)
		return;
	for (size_t i = 0; i < seal->n; i++)
		large |= seal->files[i].copied;
	int staging = seal->service->dirs[DIR_STAGING];
	int r = large ? trash_put(seal->service->trash, staging, dir, &err)
		      : trash_remove_now(staging, dir, &err);
	if (r < 0)
		log_warn("staging is left to the next start", KV_S("image", seal->image->name),
			KV_ERR(&err));
}

void seal_finish(struct seal *seal)
{
	forget(seal);
	FAULT_POINT("image.promote.forgotten");
	seal_done(seal);
}

static int restore_mode(int dir_fd, const char *file, mode_t mode)
{
	struct stat st;

	_cleanup_close_ int fd = openat(dir_fd, file, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) || (st.st_mode & 07777) == mode)
		return 0;
	return image_chmod_fd(fd, mode);
}

/* A draft that was deleted meanwhile is in the trash, or gone: nothing is to be given back to it. */
static bool is_there(const struct seal *seal)
{
	return faccessat(seal->service->dirs[DIR_DRAFTS], seal->image->id, F_OK,
		       AT_SYMLINK_NOFOLLOW) == 0;
}

static int undo_one(struct seal *seal, size_t i)
{
	struct sealed_file *f = &seal->files[i];
	char name[RECORD_NAME];

	record_name(name, i, true);
	if (f->exchanged &&
		renameat2(seal->undo_fd, name, seal->dir_fd, f->name, RENAME_EXCHANGE) < 0) {
		int e = errno;
		return e == ENOENT && !is_there(seal) ? 0 : -e;
	}
	f->exchanged = false;
	int r = f->recorded ? restore_mode(seal->dir_fd, f->name, f->mode) : 0;
	return r == -ENOENT ? 0 : r; /* what is gone needs no mode */
}

void seal_undo(struct seal *seal)
{
	int failed = 0;

	for (size_t i = 0; i < seal->n; i++) {
		int r = undo_one(seal, i);
		if (r < 0) {
			failed = r;
			log_warn("a draft's file was not put back as it was until the next start",
				KV_S("draft", seal->image->name), KV_S("file", seal->files[i].name),
				KV_S("error", strerror(-r)));
		}
	}
	if (!failed) /* else the records are kept for recovery */
		forget(seal);
	seal_done(seal);
}

/* ---- recovery */

/* Undo record N if its text is one; anything else in the directory is of no interest. */
static int recover_record(int undo_fd, const char *record, int dir_fd)
{
	char text[RECORD_TEXT], copy[RECORD_NAME], *file;
	unsigned mode;
	unsigned long long inode;
	struct stat here;
	int at = 0;

	ssize_t n = readlinkat(undo_fd, record, text, sizeof(text) - 1);
	if (n < 0 || strlen(record) > 20 || strspn(record, "0123456789") != strlen(record))
		return 0;
	text[n] = 0;
	if (sscanf(text, "%o %llu%n", &mode, &inode, &at) != 2 || text[at] != ' ' || mode > 07777)
		return 0;
	file = text + at + 1;
	if (banger_file_name_check(file, NULL) < 0)
		return 0;
	snprintf(copy, sizeof(copy), "%s.copy", record);
	if (fstatat(dir_fd, file, &here, AT_SYMLINK_NOFOLLOW) == 0 && here.st_ino != inode &&
		fstatat(undo_fd, copy, &here, AT_SYMLINK_NOFOLLOW) == 0 && here.st_ino == inode &&
		renameat2(undo_fd, copy, dir_fd, file, RENAME_EXCHANGE) < 0)
		return -errno;
	FAULT_POINT("image.recover.unsealed");
	int r = restore_mode(dir_fd, file, mode);
	return r == -ENOENT ? 0 : r;
}

int seal_recover(int staging_fd, const char *name, int dir_fd, struct banger_error *err)
{
	_cleanup_closedir_ DIR *d = image_open_dir(staging_fd, name);
	struct dirent *de;

	while (d && (errno = 0, de = readdir(d))) {
		int r = image_is_dots(de->d_name) ? 0
						  : recover_record(dirfd(d), de->d_name, dir_fd);
		if (r < 0)
			return banger_error_set_errno(err, r, "undoing \"%s\"", name);
	}
	if (!d || errno)
		return banger_error_set_errno(err, errno, "reading \"%s\"", name);
	return 0;
}
