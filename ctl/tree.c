/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a directory to a tar stream.
 *
 * The walk is our own, by descriptors: each entry is looked at, opened relative to its directory
 * without following links, and looked at again through the descriptor, so that nothing a busy or
 * hostile tree does meanwhile leads out of it. libarchive reads extended attributes and ACLs
 * through that descriptor and writes the pax format. One descriptor is held for each level of the
 * tree.
 *
 * A stream that stops between two entries looks whole to a reader of tar. So whenever reading
 * fails, the stream is ended with bytes that are neither an entry nor an end: half a tree must not
 * become an image.
 *
 * The thread runs with all signals blocked: Ctrl-C is for the thread that waits for them, and
 * SIGPIPE is only EPIPE here.
 */
#include <archive.h>
#include <archive_entry.h>
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <banger/wire.h>
#include "tree.h"

enum { BUFFER = 1 << 20, ZEROS = 64 << 20, PIPE_SIZE = 1 << 20 };

struct tree_stream {
	pthread_t thread;
	int root, out; /* owned by the thread once it runs */
	char *name;
	banger_op_id op;            /* that the thread works for */
	bool one_filesystem, roots; /* roots: owners are left out for root */
	bool part;                  /* with: */
	char *part_name, *part_as;
	dev_t device;
	_Atomic int64_t bytes;
	size_t skipped;
	struct archive *disk, *tar;
	struct archive_entry_linkresolver *links;
	char *buffer;
	const char *zeros; /* never written, so it takes no memory */
	char *path;        /* of the entry at hand, relative to the tree: "usr/bin/env" */
	size_t path_len, path_space,
		path_as;  /* path_as: of it, what is the name in the stream alone */
	bool reader_gone; /* what is written goes nowhere */
	bool ended;       /* nothing is to be written any more */
	struct banger_error err;
	int result;
};

static int walk(struct tree_stream *s, int dir);

#define fail_errno(s, e, what) banger_error_set_errno(&(s)->err, e, "%s: %s", show_path(s), what)

/* "rootfs/usr/bin/env", for an error */
static const char *show_path(struct tree_stream *s)
{
	static __thread char shown[600];

	bool below = s->path_len > s->path_as;

	snprintf(shown, sizeof(shown), "%s%s%s", s->name, below && !s->path_as ? "/" : "",
		below ? s->path + s->path_as : "");
	return shown;
}

/* An error of libarchive's writer. */
static int fail_tar(struct tree_stream *s, const char *what)
{
	const char *why = archive_error_string(s->tar);

	return banger_error_set(&s->err, BANGER_INTERNAL, "%s: %s: %s", show_path(s), what,
		why ? why : "no reason given");
}

/* ---- the path at hand */

static int path_push(struct tree_stream *s, const char *name)
{
	size_t n = strlen(name), need = s->path_len + n + 2;

	if (need > s->path_space) {
		char *bigger = realloc(s->path, need * 2);
		if (!bigger)
			return banger_error_oom(&s->err);
		s->path = bigger;
		s->path_space = need * 2;
	}
	if (s->path_len > 0)
		s->path[s->path_len++] = '/';
	memcpy(s->path + s->path_len, name, n + 1);
	s->path_len += n;
	return 0;
}

static void path_pop(struct tree_stream *s, size_t len)
{
	s->path_len = len;
	if (s->path)
		s->path[len] = '\0';
}

/* ---- content */

/* Note the holes of a file in its entry. Where the filesystem cannot say, the file has none. */
static int note_holes(struct tree_stream *s, int fd, struct archive_entry *entry, int64_t size)
{
	int64_t at = 0, data, hole;
	bool any = false;

	while (at < size) {
		data = lseek(fd, at, SEEK_DATA);
		if (data < 0 && errno == ENXIO)
			break;
		hole = data < 0 ? -1 : lseek(fd, data, SEEK_HOLE);
		if (hole < 0)
			return errno == EINVAL ? 0 : fail_errno(s, errno, "cannot find its holes");
		hole = hole > size ? size : hole;
		if (data == 0 && hole == size)
			return 0;
		if (data < hole)
			archive_entry_sparse_add_entry(entry, data, hole - data);
		any |= data < hole;
		at = hole;
	}
	if (!any && size > 0)
		archive_entry_sparse_add_entry(entry, 0, 0);
	return 0;
}

static int write_data(struct tree_stream *s, const char *data, int64_t n)
{
	while (n > 0) {
		size_t part = n > ZEROS ? ZEROS : (size_t)n;
		la_ssize_t done = archive_write_data(s->tar, data, part);

		if (s->reader_gone)
			return -EPIPE;
		if (done <= 0)
			return fail_tar(s, "cannot write it out");
		n -= done;
		/* Zeros are handed in again, anything else is one part. */
		if (data != s->zeros)
			data += done;
	}
	return 0;
}

static int copy_range(struct tree_stream *s, int fd, int64_t at, int64_t end)
{
	while (at < end) {
		size_t want = end - at > BUFFER ? BUFFER : (size_t)(end - at);
		ssize_t n = pread(fd, s->buffer, want, at);

		if (n < 0)
			return fail_errno(s, errno, "cannot read it");
		if (n == 0)
			return banger_error_set(&s->err, BANGER_INTERNAL,
				"%s: became shorter while it was read", show_path(s));
		int r = write_data(s, s->buffer, n);
		if (r < 0)
			return r;
		at += n;
	}
	return 0;
}

/* The writer wants the whole file in order; what it was told is a hole it drops. */
static int copy_content(struct tree_stream *s, int fd, struct archive_entry *entry, int64_t size)
{
	la_int64_t data, len;
	int64_t at = 0;
	int r = 0;

	if (archive_entry_sparse_reset(entry) == 0)
		return copy_range(s, fd, 0, size);
	while (r == 0 && archive_entry_sparse_next(entry, &data, &len) == ARCHIVE_OK) {
		r = write_data(s, s->zeros, data - at);
		if (r == 0)
			r = copy_range(s, fd, data, data + len);
		at = data + len;
	}
	return r < 0 ? r : write_data(s, s->zeros, size - at);
}

/* ---- entries */

/* Attributes that the stream carries; what would differ from one reading to the next is taken out.
 */
static int fill_entry(struct tree_stream *s, struct archive_entry *entry, int fd, int dir,
	const char *name, const struct stat *st)
{
	char source[300];

	/* ACLs and attributes of what cannot be opened are read by a path that goes through the
	 * directory we hold, not through the tree's names. */
	if (fd >= 0)
		snprintf(source, sizeof(source), "/proc/self/fd/%d", fd);
	else
		snprintf(source, sizeof(source), "/proc/self/fd/%d/%s", dir, name);
	archive_entry_copy_pathname(entry, s->path_len ? s->path : ".");
	archive_entry_copy_sourcepath(entry, source);
	if (archive_read_disk_entry_from_file(s->disk, entry, fd, st) != ARCHIVE_OK)
		return banger_error_set(&s->err, BANGER_INTERNAL, "%s: %s", show_path(s),
			archive_error_string(s->disk));
	archive_entry_unset_atime(entry);
	archive_entry_unset_ctime(entry);
	archive_entry_unset_birthtime(entry);
	if (s->roots) {
		archive_entry_set_uid(entry, 0);
		archive_entry_set_gid(entry, 0);
	}
	archive_entry_set_uname(entry, NULL);
	archive_entry_set_gname(entry, NULL);
	return S_ISREG(st->st_mode) ? note_holes(s, fd, entry, st->st_size) : 0;
}

/* A name that is not UTF-8 is written as the bytes that it is, and libarchive warns of it. */
static bool warned_of_bytes(struct archive_entry *entry)
{
	const char *names[] = {archive_entry_pathname(entry), archive_entry_hardlink(entry),
		archive_entry_symlink(entry)};

	for (size_t i = 0; i < ELEMENTSOF(names); i++)
		if (names[i] && !banger_utf8_valid(names[i], strlen(names[i])))
			return true;
	return false;
}

static int write_entry(struct tree_stream *s, struct archive_entry *entry, int fd)
{
	int r = archive_write_header(s->tar, entry);

	if (r != ARCHIVE_OK && !(r == ARCHIVE_WARN && warned_of_bytes(entry)))
		return fail_tar(s, "cannot be put into a tar stream");
	if (fd >= 0 && archive_entry_filetype(entry) == AE_IFREG &&
		!archive_entry_hardlink(entry)) {
		r = copy_content(s, fd, entry, archive_entry_size(entry));
		if (r < 0)
			return r;
	}
	if (archive_write_finish_entry(s->tar) != ARCHIVE_OK)
		return fail_tar(s, "cannot be put into a tar stream");
	return s->reader_gone ? -EPIPE : 0;
}

/* fd: of a regular file or a directory, -1 for anything else. */
static int put_entry(
	struct tree_stream *s, int fd, int dir, const char *name, const struct stat *st)
{
	struct archive_entry *entry = archive_entry_new(), *spare = NULL;
	int r = entry ? fill_entry(s, entry, fd, dir, name, st) : banger_error_oom(&s->err);

	if (r == 0 && !S_ISDIR(st->st_mode)) {
		archive_entry_linkify(s->links, &entry, &spare);
		archive_entry_free(spare);
		if (archive_entry_hardlink(entry))
			archive_entry_sparse_clear(entry);
	}
	if (r == 0)
		r = write_entry(s, entry, fd);
	archive_entry_free(entry);
	return r;
}

/* Open what `found` describes, and nothing that was put in its place meanwhile. */
static int open_entry(struct tree_stream *s, int dir, const char *name, const struct stat *found,
	struct stat *ret_st)
{
	int kind = S_ISDIR(found->st_mode) ? O_DIRECTORY : O_NONBLOCK;
	_cleanup_close_ int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | kind);

	if (fd < 0)
		return fail_errno(s, errno, "cannot open it");
	if (fstat(fd, ret_st) < 0)
		return fail_errno(s, errno, "cannot look at it");
	if (ret_st->st_ino != found->st_ino || ret_st->st_dev != found->st_dev ||
		(ret_st->st_mode & S_IFMT) != (found->st_mode & S_IFMT))
		return banger_error_set(&s->err, BANGER_INTERNAL,
			"%s: was replaced while it was read", show_path(s));
	return TAKE_FD(fd);
}

static int visit(struct tree_stream *s, int dir, const char *name)
{
	_cleanup_close_ int fd = -1;
	struct stat found, st;

	if (fstatat(dir, name, &found, AT_SYMLINK_NOFOLLOW) < 0)
		return fail_errno(s, errno, "cannot look at it");
	if (S_ISSOCK(found.st_mode)) {
		s->skipped++;
		return 0;
	}
	st = found;
	if (S_ISREG(found.st_mode) || S_ISDIR(found.st_mode)) {
		fd = open_entry(s, dir, name, &found, &st);
		if (fd < 0)
			return fd;
	}
	int r = put_entry(s, fd, dir, name, &st);
	if (r < 0 || !S_ISDIR(st.st_mode) || (s->one_filesystem && st.st_dev != s->device))
		return r;
	return walk(s, TAKE_FD(fd));
}

/* ---- the walk */

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static int not_dots(const struct dirent *d)
{
	return strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0;
}

/* Takes dir over. */
static int walk(struct tree_stream *s, int dir)
{
	_cleanup_close_ int held = dir;
	struct dirent **names = NULL;
	size_t len = s->path_len;
	int r = 0, n = scandirat(dir, ".", &names, not_dots, by_bytes);

	if (n < 0)
		return fail_errno(s, errno, "cannot list it");
	for (int i = 0; i < n; i++) {
		if (r == 0)
			r = path_push(s, names[i]->d_name);
		if (r == 0)
			r = visit(s, held, names[i]->d_name);
		if (r == 0)
			path_pop(s, len);
		free(names[i]);
	}
	free(names);
	return r;
}

/* What is in the root. */
static int walk_root(struct tree_stream *s)
{
	int dir = fcntl(s->root, F_DUPFD_CLOEXEC, 3);

	return dir < 0 ? fail_errno(s, errno, "cannot open it") : walk(s, dir);
}

static int whole_tree(struct tree_stream *s)
{
	struct stat st;

	if (fstat(s->root, &st) < 0)
		return fail_errno(s, errno, "cannot look at it");
	s->device = st.st_dev;
	int r = put_entry(s, s->root, s->root, ".", &st);
	return r < 0 ? r : walk_root(s);
}

static int part_of_tree(struct tree_stream *s)
{
	if (!s->part_name)
		return walk_root(s);
	int r = path_push(s, s->part_as);
	s->path_as = s->path_len;
	return r < 0 ? r : visit(s, s->root, s->part_name);
}

static int all(struct tree_stream *s)
{
	int r = s->part ? part_of_tree(s) : whole_tree(s);

	if (r == 0 && archive_write_close(s->tar) != ARCHIVE_OK)
		r = fail_tar(s, "cannot end the tar stream");
	return r;
}

/* ---- the pipe */

/* A writer of libarchive that has failed cannot be freed without a leak, so it is not told that the
 * reader is gone; the walk asks for itself. Once the stream has ended early, whatever the writer
 * still wants to say to complete the archive must not be said. */
static la_ssize_t write_pipe(struct archive *a, void *arg, const void *data, size_t n)
{
	struct tree_stream *s = arg;
	ssize_t done;

	if (s->ended) {
		archive_set_error(a, ECANCELED, "the stream has ended");
		return -1;
	}
	if (s->reader_gone)
		return (la_ssize_t)n;
	do
		done = write(s->out, data, n);
	while (done < 0 && errno == EINTR);
	if (done < 0) {
		s->reader_gone = true;
		return (la_ssize_t)n;
	}
	atomic_fetch_add(&s->bytes, done);
	return done;
}

/* No header has such a checksum, and no end is made of such blocks. */
static void spoil(struct tree_stream *s)
{
	memset(s->buffer, 0xff, 4096);
	for (int i = 0; i < 4; i++)
		if (write(s->out, s->buffer, 4096) < 0)
			return;
}

static void *make_stream(void *arg)
{
	struct tree_stream *s = arg;
	_cleanup_op_ banger_op_id saved = banger_op_enter(s->op.s);

	s->result = all(s);
	s->ended = true;
	if (s->result < 0 && !s->reader_gone)
		spoil(s);
	close(TAKE_FD(s->out));
	close(TAKE_FD(s->root));
	return NULL;
}

/* ---- from outside */

static void tree_stream_freep(struct tree_stream **p)
{
	struct tree_stream *s = *p;

	if (!s)
		return;
	banger_closep(&s->root);
	banger_closep(&s->out);
	if (s->links)
		archive_entry_linkresolver_free(s->links);
	s->ended = true;
	archive_write_free(s->tar);
	archive_read_free(s->disk);
	if (s->zeros)
		munmap((void *)s->zeros, ZEROS);
	free(s->buffer);
	free(s->path);
	free(s->name);
	free(s->part_name);
	free(s->part_as);
	free(s);
	*p = NULL;
}

static int open_archives(struct tree_stream *s)
{
	s->disk = archive_read_disk_new();
	s->tar = archive_write_new();
	s->links = archive_entry_linkresolver_new();
	if (!s->disk || !s->tar || !s->links)
		return -ENOMEM;
	archive_read_disk_set_symlink_physical(s->disk);
	archive_read_disk_set_behavior(
		s->disk, ARCHIVE_READDISK_NO_FFLAGS | ARCHIVE_READDISK_NO_SPARSE);
	if (archive_write_set_format_pax(s->tar) != ARCHIVE_OK ||
		archive_write_set_bytes_per_block(s->tar, 65536) != ARCHIVE_OK ||
		archive_write_set_bytes_in_last_block(s->tar, 1) != ARCHIVE_OK)
		return -ENOMEM;
	/* Attributes once, in the form that every reader knows; an older libarchive writes both
	 * forms. */
	(void)archive_write_set_format_option(s->tar, "pax", "xattrheader", "SCHILY");
	archive_entry_linkresolver_set_strategy(s->links, archive_format(s->tar));
	return archive_write_open(s->tar, s, NULL, write_pipe, NULL) == ARCHIVE_OK ? 0 : -ENOMEM;
}

/* A level of the tree takes a descriptor: take as many as we may have. */
static void raise_descriptors(void)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_NOFILE, &lim) == 0 && lim.rlim_cur < lim.rlim_max) {
		lim.rlim_cur = lim.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &lim);
	}
}

static int start_thread(struct tree_stream *s)
{
	sigset_t all, before;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int e = pthread_create(&s->thread, NULL, make_stream, s);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return -e;
}

static struct tree_stream *stream_new(int dir_fd, const char *name)
{
	_cleanup_(tree_stream_freep) struct tree_stream *s = calloc(1, sizeof(*s));
	_cleanup_close_ int dir = dir_fd;

	if (!s)
		return NULL;
	s->out = -1;
	s->root = TAKE_FD(dir);
	if (banger_op_current())
		snprintf(s->op.s, sizeof(s->op.s), "%s", banger_op_current());
	s->name = strdup(name);
	s->buffer = malloc(BUFFER);
	void *zeros =
		mmap(NULL, ZEROS, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	s->zeros = zeros == MAP_FAILED ? NULL : zeros;
	if (!s->name || !s->buffer || !s->zeros || open_archives(s) < 0)
		return NULL;
	return TAKE_PTR(s);
}

/* s is taken over; NULL: no memory. */
static int stream_run(
	struct tree_stream *stream, struct tree_stream **ret, int *ret_fd, struct banger_error *err)
{
	_cleanup_(tree_stream_freep) struct tree_stream *s = stream;
	_cleanup_close_ int in = -1;
	int ends[2];

	if (!s)
		return banger_error_oom(err);
	if (pipe2(ends, O_CLOEXEC) < 0)
		return banger_error_set_errno(err, errno, "cannot make a pipe");
	in = ends[0];
	s->out = ends[1];
	(void)fcntl(s->out, F_SETPIPE_SZ, PIPE_SIZE);
	raise_descriptors();
	int r = start_thread(s);
	if (r < 0)
		return banger_error_set_errno(err, r, "cannot start a thread");
	*ret = TAKE_PTR(s);
	*ret_fd = TAKE_FD(in);
	return 0;
}

int tree_stream_start(int dir_fd, const char *name, bool one_filesystem, struct tree_stream **ret,
	int *ret_fd, struct banger_error *err)
{
	struct tree_stream *s = stream_new(dir_fd, name);

	if (s)
		s->one_filesystem = one_filesystem;
	return stream_run(s, ret, ret_fd, err);
}

int tree_stream_part(const struct tree_part *part, struct tree_stream **ret, int *ret_fd,
	struct banger_error *err)
{
	_cleanup_(tree_stream_freep) struct tree_stream *s = stream_new(part->dir_fd, part->shown);

	if (!s)
		return banger_error_oom(err);
	s->part = true;
	s->roots = !part->keep_owners;
	if (part->name &&
		(!(s->part_name = strdup(part->name)) || !(s->part_as = strdup(part->as))))
		return banger_error_oom(err);
	return stream_run(TAKE_PTR(s), ret, ret_fd, err);
}

int tree_stream_finish(struct tree_stream **p, struct banger_error *err)
{
	struct tree_stream *s = *p;

	if (!s)
		return 0;
	pthread_join(s->thread, NULL);
	int r = s->reader_gone ? -EPIPE : s->result;
	if (r < 0 && r != -EPIPE && err)
		*err = s->err;
	tree_stream_freep(p);
	return r;
}

const _Atomic int64_t *tree_stream_bytes(const struct tree_stream *s)
{
	return &s->bytes;
}

size_t tree_stream_skipped(const struct tree_stream *s)
{
	return s->skipped;
}
