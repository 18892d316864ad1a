/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Open files on disk, and texts.
 *
 * A published file is read through its own descriptor for as long as it is open, whatever becomes
 * of its image. Its pages stay in the kernel between opens; a draft's do not, and there the kernel
 * asks for the attributes before it trusts what it has cached. Where the kernel offers it, a
 * published file is opened in passthrough: the kernel then reads from our descriptor without asking
 * at all.
 *
 * Reads go through a buffer of the worker's: with a file that is in the host's page cache already a
 * copy is faster than the pipe that splice needs, and with one that is not the disk decides. What is
 * in the page cache is read at once; only for the rest the thread leaves its place at the device.
 */
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/uio.h>
#include "attempt.h"
#include "config.h"
#include "digest.h"
#include "events.h"
#include "handle.h"
#include "loop.h"
#include "passthrough.h"

/* Open at once. Each has at most 64 KiB, but for queues of events, which share their lines. */
#define DOCUMENTS_MAX 4096
#define COPY_ALONE 65536 /* bytes whose copying takes so long that others should not wait for it */

/* ---- a buffer for each worker */

static pthread_key_t buffer_key;
static pthread_once_t buffer_once = PTHREAD_ONCE_INIT;

static void make_buffer_key(void)
{
	pthread_key_create(&buffer_key, free);
}

static char *worker_buffer(void)
{
	pthread_once(&buffer_once, make_buffer_key);
	char *b = pthread_getspecific(buffer_key);

	if (!b && posix_memalign((void **)&b, 4096, FS_BUFFER) == 0)
		pthread_setspecific(buffer_key, b);
	return b;
}

/* ---- open and close */

int disk_handle_new(struct fs *fs, uint64_t node, int fd, bool writable, uint64_t draft,
	struct disk_handle **ret)
{
	struct disk_handle *h = calloc(1, sizeof(*h));

	if (!h)
		return -ENOMEM;
	h->h.kind = HANDLE_DISK;
	h->open.node = node;
	h->open.fd = fd;
	h->writable = writable;
	h->draft = draft;
	files_opened(fs->files, &h->open);
	if (draft)
		model_writer(fs->model, draft, 1);
	*ret = h;
	return 0;
}

static void pass_close(struct fs *fs, fuse_req_t req, uint64_t node, int backing_id)
{
	int id = backing_id > 0 ? files_pass_close(fs->files, node) : 0;

	if (id > 0 && req)
		passthrough_detach(req, id);
}

static void text_unref(struct text_handle *t)
{
	if (atomic_fetch_sub(&t->refs, 1) != 1)
		return;
	free(t->text);
	free(t);
}

static bool is_document(const struct handle *h)
{
	return h->kind == HANDLE_TEXT || h->kind == HANDLE_CONFIG || h->kind == HANDLE_EVENTS;
}

int handle_check_room(struct fs *fs)
{
	pthread_mutex_lock(&fs->lock);
	bool room = fs->documents < DOCUMENTS_MAX;
	pthread_mutex_unlock(&fs->lock);
	return room ? 0 : -ENFILE;
}

void handle_give(struct fs *fs, struct handle *h, struct fuse_file_info *fi)
{
	pthread_mutex_lock(&fs->lock);
	h->next = fs->handles;
	h->link = &fs->handles;
	if (h->next)
		h->next->link = &h->next;
	fs->handles = h;
	fs->documents += is_document(h);
	pthread_mutex_unlock(&fs->lock);
	fi->fh = (uintptr_t)h;
}

static void unlist(struct fs *fs, struct handle *h)
{
	pthread_mutex_lock(&fs->lock);
	if (h->link) {
		fs->documents -= is_document(h);
		*h->link = h->next;
		if (h->next)
			h->next->link = h->link;
	}
	pthread_mutex_unlock(&fs->lock);
}

void handle_close_all(struct fs *fs)
{
	while (fs->handles)
		handle_close(fs, NULL, fs->handles);
}

/* The last close of a file that was deleted gives its blocks back, which takes a while. */
static void close_disk(struct fs *fs, fuse_req_t req, struct disk_handle *d)
{
	struct stat st;

	pass_close(fs, req, d->open.node, d->backing_id);
	files_closed(fs->files, &d->open);
	if (d->writable || (fstat(d->open.fd, &st) == 0 && st.st_nlink == 0)) {
		LOOP_MAY_WAIT();
		close(d->open.fd);
	} else {
		close(d->open.fd);
	}
	if (d->draft)
		model_writer(fs->model, d->draft, -1);
	free(d);
}

void handle_close(struct fs *fs, fuse_req_t req, struct handle *h)
{
	if (!h)
		return;
	unlist(fs, h);
	switch (h->kind) {
	case HANDLE_DISK:
		close_disk(fs, req, (struct disk_handle *)h);
		break;
	case HANDLE_TEXT:
		text_unref((struct text_handle *)h);
		break;
	case HANDLE_CONFIG:
		config_close(fs, h);
		break;
	case HANDLE_EVENTS:
		events_close(fs->events, h);
		break;
	case HANDLE_DIR:
		disk_list_done(&((struct dir_handle *)h)->list);
		free(h);
		break;
	}
}

static bool in_groups(fuse_req_t req, gid_t gid)
{
	gid_t groups[256];
	int n = fuse_req_getgroups(req, ELEMENTSOF(groups), groups);

	if (fuse_req_ctx(req)->gid == gid)
		return true;
	for (int i = 0; i < n && i < (int)ELEMENTSOF(groups); i++)
		if (groups[i] == gid)
			return true;
	return false;
}

bool file_permits(fuse_req_t req, const struct stat *st, int mask)
{
	uid_t uid = fuse_req_ctx(req)->uid;
	unsigned bits = st->st_mode & 7;

	if (uid == 0)
		return !(mask & X_OK) || S_ISDIR(st->st_mode) || (st->st_mode & 0111);
	if (uid == st->st_uid)
		bits = st->st_mode >> 6 & 7;
	else if ((st->st_mode >> 3 & 7) != bits && in_groups(req, st->st_gid))
		bits = st->st_mode >> 3 & 7;
	return (bits & mask) == (unsigned)mask;
}

static int open_text(struct fs *fs, fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	int room = handle_check_room(fs);
	struct text_handle *h = room == 0 ? calloc(1, sizeof(*h)) : NULL;

	if (!h)
		return room < 0 ? room : -ENOMEM;
	h->h.kind = HANDLE_TEXT;
	atomic_init(&h->refs, 1);
	if (node_kind(ino) == NODE_IMAGE_JSON && digest_pending(fs, ino)) {
		LOOP_MAY_WAIT();
		digest_wait(fs, ino);
	}
	int r = node_type(ino)->text(fs, fuse_req_ctx(req), ino, &h->text, &h->len);
	if (r < 0) {
		free(h);
		return r;
	}
	handle_give(fs, &h->h, fi);
	fi->direct_io = 1; /* what the next one reads may be another text */
	fi->noflush = 1;
	return 0;
}

static int open_disk(struct fs *fs, fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	_cleanup_place_ struct file_place p = {0};
	_cleanup_disk_ struct disk d = {0};
	_cleanup_close_ int fd = -1;
	struct disk_handle *h;
	struct stat st;

	int r = files_place(fs->files, ino, &p);
	if (r == 0)
		r = disk_of(fs, p.owner, &d);
	if (r == 0)
		r = disk_open(&d, p.path, O_RDONLY | O_NONBLOCK, &p.id, &fd);
	if (r < 0)
		return r == -ENOENT ? -ESTALE : r;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (d.draft && !file_permits(req, &st, R_OK))
		return -EACCES;
	int backing_id = 0;
	if (!d.draft) {
		fi->keep_cache = files_keep_cache(fs->files, ino);
		/* Before the new handle is told of: it is not one of the others that it must agree with. */
		backing_id = files_pass_open(fs->files, ino, passthrough_attach, req, fd);
	}
	r = disk_handle_new(fs, ino, fd, false, 0, &h);
	if (r < 0) {
		pass_close(fs, req, ino, backing_id);
		return r;
	}
	h->backing_id = backing_id;
	TAKE_FD(fd);
	handle_give(fs, &h->h, fi);
	fi->noflush = 1;
	return 0;
}

static int open_events(struct fs *fs, struct fuse_file_info *fi)
{
	struct handle *h;
	int r = handle_check_room(fs);

	if (r == 0)
		r = events_open(fs->events, &h);

	if (r < 0)
		return r;
	handle_give(fs, h, fi);
	fi->direct_io = 1;
	fi->nonseekable = !fs->vm; /* what serves a VM reads at offsets */
	fi->noflush = 1;
	return 0;
}

static int backing_id_of(const struct fuse_file_info *fi)
{
	const struct disk_handle *d = disk_handle_of(fi);

	return d ? d->backing_id : 0;
}

void file_open(struct fs *fs, fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	int r;

	if (ino == FIXED_EVENTS)
		r = open_events(fs, fi);
	else if (node_type(ino)->text)
		r = open_text(fs, req, ino, fi);
	else if (node_kind(ino) == NODE_FILE)
		r = open_disk(fs, req, ino, fi);
	else
		r = -EPERM;
	if (r < 0)
		fuse_reply_err(req, -r);
	else if (passthrough_reply_open(req, fi, backing_id_of(fi)) == -ENOENT)
		handle_close(fs, req, handle_of(fi)); /* the caller is gone: no RELEASE will come */
}

/* ---- reading */

/* Fill buf from *n on; short only at the end of the file, or when flags say not to wait. */
static int read_on(int fd, char *buf, size_t size, off_t off, int flags, size_t *n)
{
	while (*n < size) {
		const struct iovec v = {buf + *n, size - *n};
		ssize_t got = preadv2(fd, &v, 1, off + *n, flags);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0)
			break;
		*n += got;
	}
	return 0;
}

static void answer_read(fuse_req_t req, const char *buf, size_t n, int r)
{
	if (r < 0)
		fuse_reply_err(req, -r);
	else
		fuse_reply_buf(req, buf, n);
}

static void read_disk(fuse_req_t req, const struct disk_handle *h, size_t size, off_t off)
{
	char *buf = worker_buffer();
	size_t n = 0;

	if (!buf) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	if (size > FS_BUFFER)
		size = FS_BUFFER;
	if (size >= COPY_ALONE) {
		LOOP_MAY_WAIT();
		int r = read_on(h->open.fd, buf, size, off, 0, &n);
		answer_read(req, buf, n, r);
		return;
	}
	int r = read_on(h->open.fd, buf, size, off, RWF_NOWAIT, &n);
	if (r == -EAGAIN || r == -EOPNOTSUPP) {
		LOOP_MAY_WAIT();
		r = read_on(h->open.fd, buf, size, off, 0, &n);
	}
	answer_read(req, buf, n, r);
}

static void read_text(fuse_req_t req, struct text_handle *t, size_t size, off_t off)
{
	atomic_fetch_add(&t->refs, 1);
	if (off < 0 || (size_t)off >= t->len)
		fuse_reply_buf(req, NULL, 0);
	else
		fuse_reply_buf(req, t->text + off, size < t->len - off ? size : t->len - off);
	text_unref(t);
}

void file_read(struct fs *fs, fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
	struct fuse_file_info *fi)
{
	struct handle *h = handle_of(fi);

	switch (h->kind) {
	case HANDLE_DISK:
		read_disk(req, (const struct disk_handle *)h, size, off);
		break;
	case HANDLE_TEXT:
		read_text(req, (struct text_handle *)h, size, off);
		break;
	case HANDLE_CONFIG:
		config_read(h, req, size, off);
		break;
	case HANDLE_EVENTS:
		if (fs->vm)
			events_read_awhile(fs->events, h, req, size);
		else
			events_read(fs->events, h, req, size, !(fi->flags & O_NONBLOCK));
		break;
	case HANDLE_DIR:
		fuse_reply_err(req, EISDIR);
		break;
	}
}

void file_lseek(struct fs *fs, fuse_req_t req, fuse_ino_t ino, off_t off, int whence,
	struct fuse_file_info *fi)
{
	const struct disk_handle *d = disk_handle_of(fi);

	if (!d) {
		fuse_reply_err(req, EINVAL);
		return;
	}
	off_t at = lseek(d->open.fd, off, whence);
	if (at < 0)
		fuse_reply_err(req, errno);
	else
		fuse_reply_lseek(req, at);
}

/* ---- writing, in drafts */

/* A failure that a caller must hear of: no space, a broken disk. */
static int failed(struct fs *fs, fuse_req_t req, const char *method, fuse_ino_t ino, int errnum)
{
	return attempt_failed(fs, fuse_req_ctx(req), method, ino, errnum);
}

void file_write(struct fs *fs, fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size,
	off_t off, struct fuse_file_info *fi)
{
	struct handle *h = handle_of(fi);
	struct disk_handle *d = disk_handle_of(fi);
	size_t n = 0;

	if (h->kind == HANDLE_CONFIG) {
		config_write(h, req, buf, size, off);
		return;
	}
	if (!d || !d->writable) {
		fuse_reply_err(req, EBADF);
		return;
	}
	LOOP_MAY_WAIT();
	while (n < size) {
		ssize_t put = pwrite(d->open.fd, buf + n, size - n, off + n);
		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0 && n == 0) {
			fuse_reply_err(req, failed(fs, req, "draft.write", ino, errno));
			return;
		}
		if (put <= 0)
			break; /* what was written counts; the next write says why */
		n += put;
	}
	fuse_reply_write(req, n);
}

void file_fsync(
	struct fs *fs, fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	struct disk_handle *d = disk_handle_of(fi);

	if (!d || !d->writable) {
		fuse_reply_err(req, 0);
		return;
	}
	LOOP_MAY_WAIT();
	if ((datasync ? fdatasync(d->open.fd) : fsync(d->open.fd)) < 0)
		fuse_reply_err(req, failed(fs, req, "draft.fsync", ino, errno));
	else
		fuse_reply_err(req, 0);
}

void file_fallocate(struct fs *fs, fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len,
	struct fuse_file_info *fi)
{
	struct disk_handle *d = disk_handle_of(fi);

	LOOP_MAY_WAIT();
	if (!d || !d->writable)
		fuse_reply_err(req, EOPNOTSUPP);
	else if (fallocate(d->open.fd, mode, off, len) == 0)
		fuse_reply_err(req, 0);
	else if (errno == EOPNOTSUPP)
		fuse_reply_err(req, EOPNOTSUPP); /* the caller will do it another way */
	else
		fuse_reply_err(req, failed(fs, req, "draft.fallocate", ino, errno));
}
