/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tree as a tar stream.
 *
 * Every member has a pax header, because times are finer than seconds. The tree may change while it is read: a file is
 * given as many bytes as its header says, zeros where it has become shorter; what has gone is passed over, but not the
 * first member. Sockets are passed over. Holes are not sent.
 */
#include "agent.h"
#include "tar.h"
#include <banger/cleanup.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#define BUFFER (128 * 1024)
#define BUCKETS 4096
#define SEGMENTS_MAX 65536

struct seen { /* a file with several names */
	dev_t dev;
	ino_t ino;
	struct seen *next;
	char name[];
};

struct segment {
	off_t at, len;
};

struct get {
	int fd;
	size_t n;            /* in buf */
	char path[PATH_MAX]; /* of the member, as the stream names it */
	char *pax;
	size_t pax_len, pax_size;
	struct seen *seen[BUCKETS];
	struct segment *segments;
	size_t n_segments;
	char *why;
	uint8_t buf[BUFFER];
};

/* ---- bytes */

static int flush_out(struct get *g)
{
	for (size_t off = 0; off < g->n;) {
		ssize_t n = write(g->fd, g->buf + off, g->n - off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return fail(g->why, errno, "cannot send", NULL);
		off += n;
	}
	g->n = 0;
	return 0;
}

/* data NULL: zeros */
static int put(struct get *g, const void *data, size_t len)
{
	const uint8_t *p = data;

	while (len > 0) {
		size_t k = BUFFER - g->n < len ? BUFFER - g->n : len;

		if (p)
			memcpy(g->buf + g->n, p, k);
		else
			memset(g->buf + g->n, 0, k);
		p = p ? p + k : NULL;
		g->n += k;
		len -= k;
		int r = g->n == BUFFER ? flush_out(g) : 0;
		if (r < 0)
			return r;
	}
	return 0;
}

static int put_padding(struct get *g, uint64_t len)
{
	return put(g, NULL, (TAR_BLOCK - len % TAR_BLOCK) % TAR_BLOCK);
}

/* ---- pax records: "LENGTH KEY=VALUE\n", the length counting itself */

static int add_record(struct get *g, const char *key, const void *value, size_t len)
{
	size_t rest = 1 + strlen(key) + 1 + len + 1, total = rest + 1;
	char digits[24];

	while ((size_t)snprintf(digits, sizeof(digits), "%zu", total) + rest != total)
		total = rest + strlen(digits);
	if (g->pax_len + total + 1 > g->pax_size) {
		size_t size = 2 * (g->pax_len + total + 1);
		char *p = size > TAR_PAX_MAX ? NULL : realloc(g->pax, size);

		if (!p)
			return fail(g->why, size > TAR_PAX_MAX ? E2BIG : ENOMEM,
				"too many attributes:", g->path);
		g->pax = p;
		g->pax_size = size;
	}
	g->pax_len += sprintf(g->pax + g->pax_len, "%s %s=", digits, key);
	memcpy(g->pax + g->pax_len, value, len);
	g->pax_len += len;
	g->pax[g->pax_len++] = '\n';
	return 0;
}

_printf_(3, 4) static int add_text(struct get *g, const char *key, const char *fmt, ...)
{
	char text[PATH_MAX + 64];
	va_list ap;

	va_start(ap, fmt);
	int n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return add_record(g, key, text, (size_t)n < sizeof(text) ? (size_t)n : sizeof(text) - 1);
}

/* Extended attributes of dir/name, which may be a link. */
static int add_xattrs(struct get *g, int dir, const char *name)
{
	char real[PATH_MAX], key[300], *value = NULL;
	char *list = NULL;
	ssize_t n = 0, len;
	int r = 0;

	snprintf(real, sizeof(real), "/proc/self/fd/%d/%s", dir, name);
	if ((n = llistxattr(real, NULL, 0)) <= 0 || !(list = malloc(n)))
		return 0;
	n = llistxattr(real, list, n);
	value = malloc(XATTR_SIZE_MAX);
	for (char *p = list; value && r == 0 && p < list + (n > 0 ? n : 0); p += strlen(p) + 1)
		if ((len = lgetxattr(real, p, value, XATTR_SIZE_MAX)) >= 0 &&
			(size_t)snprintf(key, sizeof(key), "SCHILY.xattr.%s", p) < sizeof(key))
			r = add_record(g, key, value, len);
	free(value);
	free(list);
	return r;
}

/* ---- headers */

static void octal(char *to, size_t size, uint64_t v)
{
	/* What does not fit is in a pax record. */
	uint64_t most = (1ull << 3 * (size - 1)) - 1;

	snprintf(to, size, "%0*llo", (int)size - 1, (unsigned long long)(v < most ? v : most));
}

static int put_header(struct get *g, char type, const char *name, const char *link,
	const struct stat *st, uint64_t size)
{
	struct tar_header h = {0};

	memcpy(h.name, name, strnlen(name, sizeof(h.name)));
	memcpy(h.link, link, strnlen(link, sizeof(h.link)));
	octal(h.mode, sizeof(h.mode), st->st_mode & 07777);
	octal(h.uid, sizeof(h.uid), st->st_uid);
	octal(h.gid, sizeof(h.gid), st->st_gid);
	octal(h.size, sizeof(h.size), size);
	octal(h.mtime, sizeof(h.mtime), st->st_mtim.tv_sec > 0 ? st->st_mtim.tv_sec : 0);
	octal(h.major, sizeof(h.major), major(st->st_rdev));
	octal(h.minor, sizeof(h.minor), minor(st->st_rdev));
	h.type = type;
	memcpy(h.magic, "ustar", 6);
	memcpy(h.version, "00", 2);
	snprintf(h.checksum, sizeof(h.checksum), "%06o", tar_checksum(&h));
	h.checksum[7] = ' ';
	return put(g, &h, sizeof(h));
}

/* A decimal number, also before 1970: there the fraction of a timespec counts the other way. */
static int add_mtime(struct get *g, const struct timespec *t)
{
	bool before = t->tv_sec < 0;
	long long sec = before ? -(t->tv_sec + (t->tv_nsec > 0)) : t->tv_sec;
	long ns = before && t->tv_nsec > 0 ? 1000000000 - t->tv_nsec : t->tv_nsec;

	return add_text(g, "mtime", "%s%lld.%09ld", before ? "-" : "", sec, ns);
}

/* name: as the ustar header has it, for who knows no pax. */
static int put_member(struct get *g, char type, const char *name, const char *link,
	const struct stat *st, uint64_t size)
{
	static const struct stat nobody = {.st_mode = 0644};
	int r = 0;

	if (strlen(name) > sizeof(((struct tar_header *)0)->name) && strcmp(name, g->path) == 0)
		r = add_record(g, "path", name, strlen(name));
	if (r == 0 && strlen(link) > sizeof(((struct tar_header *)0)->link))
		r = add_record(g, "linkpath", link, strlen(link));
	if (r == 0 && size >> 33)
		r = add_text(g, "size", "%llu", (unsigned long long)size);
	if (r == 0 && st->st_uid >> 21)
		r = add_text(g, "uid", "%u", st->st_uid);
	if (r == 0 && st->st_gid >> 21)
		r = add_text(g, "gid", "%u", st->st_gid);
	if (r == 0)
		r = add_mtime(g, &st->st_mtim);
	if (r == 0)
		r = put_header(g, 'x', "pax", "", &nobody, g->pax_len);
	if (r == 0)
		r = put(g, g->pax, g->pax_len);
	if (r == 0)
		r = put_padding(g, g->pax_len);
	g->pax_len = 0;
	return r < 0 ? r : put_header(g, type, name, link, st, size);
}

/* ---- files */

static int put_bytes(struct get *g, int fd, off_t at, off_t len)
{
	static uint8_t b[64 * 1024];
	int r = 0;

	while (len > 0 && r == 0) {
		size_t want = len < (off_t)sizeof(b) ? (size_t)len : sizeof(b);
		ssize_t n = pread(fd, b, want, at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return fail(g->why, errno, "cannot read", g->path);
		if (n == 0) { /* it has become shorter */
			memset(b, 0, want);
			n = want;
		}
		r = put(g, b, n);
		at += n;
		len -= n;
	}
	return r;
}

/* Where a file has data. False: it is as good to send all of it. */
static bool find_segments(struct get *g, int fd, off_t size)
{
	off_t at = 0, end;

	g->n_segments = 0;
	if (!g->segments && !(g->segments = malloc((SEGMENTS_MAX + 1) * sizeof(struct segment))))
		return false;
	while (at < size && (at = lseek(fd, at, SEEK_DATA)) >= 0 && at < size) {
		end = lseek(fd, at, SEEK_HOLE);
		if (end < 0 || g->n_segments == SEGMENTS_MAX)
			return false;
		end = end < size ? end : size;
		g->segments[g->n_segments++] = (struct segment){at, end - at};
		at = end;
	}
	if (at < 0 && errno != ENXIO)
		return false;
	/* GNU's readers want the end named. */
	if (!g->n_segments ||
		g->segments[g->n_segments - 1].at + g->segments[g->n_segments - 1].len < size)
		g->segments[g->n_segments++] = (struct segment){size, 0};
	return true;
}

static int put_sparse(struct get *g, int fd, const struct stat *st)
{
	_cleanup_free_ char *map = NULL;
	char name[100];
	size_t len = 0;
	uint64_t data = 0;
	FILE *f = open_memstream(&map, &len);

	if (!f)
		return fail(g->why, ENOMEM, "cannot send", g->path);
	fprintf(f, "%zu\n", g->n_segments);
	for (size_t i = 0; i < g->n_segments; i++) {
		fprintf(f, "%lld\n%lld\n", (long long)g->segments[i].at,
			(long long)g->segments[i].len);
		data += g->segments[i].len;
	}
	if (fclose(f) != 0)
		return fail(g->why, ENOMEM, "cannot send", g->path);
	const char *slash = strrchr(g->path, '/');
	snprintf(name, sizeof(name), "GNUSparseFile.0/%.80s", slash ? slash + 1 : g->path);
	int r = add_text(g, "GNU.sparse.major", "1");
	if (r == 0)
		r = add_text(g, "GNU.sparse.minor", "0");
	if (r == 0)
		r = add_record(g, "GNU.sparse.name", g->path, strlen(g->path));
	if (r == 0)
		r = add_text(g, "GNU.sparse.realsize", "%lld", (long long)st->st_size);
	size_t padded = (len + TAR_BLOCK - 1) / TAR_BLOCK * TAR_BLOCK;
	if (r == 0)
		r = put_member(g, '0', name, "", st, padded + data);
	if (r == 0)
		r = put(g, map, len);
	if (r == 0)
		r = put_padding(g, len);
	for (size_t i = 0; r == 0 && i < g->n_segments; i++)
		r = put_bytes(g, fd, g->segments[i].at, g->segments[i].len);
	return r < 0 ? r : put_padding(g, data);
}

static int put_file(struct get *g, int dir, const char *name, const struct stat *st)
{
	_cleanup_close_ int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

	if (fd < 0)
		return fail(g->why, errno, "cannot open", g->path);
	if (st->st_blocks < st->st_size / 512 && find_segments(g, fd, st->st_size))
		return put_sparse(g, fd, st);
	int r = put_member(g, '0', g->path, "", st, st->st_size);
	if (r == 0)
		r = put_bytes(g, fd, 0, st->st_size);
	return r < 0 ? r : put_padding(g, st->st_size);
}

/* The name under which a file was sent already, or NULL, and it is remembered. */
static const char *other_name(struct get *g, const struct stat *st)
{
	struct seen **at = &g->seen[st->st_ino % BUCKETS];
	size_t len = strlen(g->path) + 1;

	for (struct seen *s = *at; s; s = s->next)
		if (s->dev == st->st_dev && s->ino == st->st_ino)
			return s->name;
	struct seen *s = malloc(sizeof(*s) + len);
	if (s) { /* else it is sent twice */
		s->dev = st->st_dev;
		s->ino = st->st_ino;
		s->next = *at;
		memcpy(s->name, g->path, len);
		*at = s;
	}
	return NULL;
}

static int put_link(struct get *g, int dir, const char *name, const struct stat *st)
{
	char to[PATH_MAX];
	ssize_t n = readlinkat(dir, name, to, sizeof(to) - 1);

	if (n < 0)
		return fail(g->why, errno, "cannot read the link", g->path);
	to[n] = '\0';
	return put_member(g, '2', g->path, to, st, 0);
}

/* ---- the walk */

static int walk(struct get *g, int dir, const char *name, bool first);

static int put_dir(struct get *g, int parent, const char *name, const struct stat *st)
{
	size_t len = strlen(g->path);
	struct dirent *e;

	int r = put_member(g, '5', g->path, "", st, 0);
	int fd = r < 0 ? -1 : openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return r < 0 ? r : fail(g->why, errno, "cannot open", g->path);
	_cleanup_closedir_ DIR *d = fdopendir(fd);
	if (!d) {
		close(fd);
		return fail(g->why, ENOMEM, "cannot open", g->path);
	}
	while (r == 0 && (e = readdir(d))) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		if ((size_t)snprintf(g->path + len, sizeof(g->path) - len, "/%s", e->d_name) >=
			sizeof(g->path) - len)
			r = fail(g->why, ENAMETOOLONG, "a path is too long below", name);
		else
			r = walk(g, fd, e->d_name, false);
		g->path[len] = '\0';
	}
	return r;
}

static int walk(struct get *g, int dir, const char *name, bool first)
{
	struct stat st;
	const char *same;

	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT && !first ? 0
						 : fail(g->why, errno, "there is no file", g->path);
	if (S_ISSOCK(st.st_mode))
		return 0;
	if (!S_ISDIR(st.st_mode) && st.st_nlink > 1 && (same = other_name(g, &st)))
		return put_member(g, '1', g->path, same, &st, 0);
	int r = add_xattrs(g, dir, name);
	if (r < 0)
		return r;
	if (S_ISDIR(st.st_mode))
		return put_dir(g, dir, name, &st);
	if (S_ISREG(st.st_mode))
		return put_file(g, dir, name, &st);
	if (S_ISLNK(st.st_mode))
		return put_link(g, dir, name, &st);
	return put_member(g,
		S_ISCHR(st.st_mode)   ? '3'
		: S_ISBLK(st.st_mode) ? '4'
				      : '6',
		g->path, "", &st, 0);
}

static void get_freep(struct get **p)
{
	struct get *g = *p;

	for (size_t i = 0; g && i < BUCKETS; i++)
		for (struct seen *s = g->seen[i], *next; s; s = next) {
			next = s->next;
			free(s);
		}
	if (g) {
		free(g->pax);
		free(g->segments);
	}
	free(g);
}

int tar_get(int fd, const char *path, char *why)
{
	_cleanup_(get_freep) struct get *g = calloc(1, sizeof(*g));
	struct rlimit files;
	char whole[PATH_MAX];

	if (!g)
		return fail(why, ENOMEM, "cannot send", path);
	/* A descriptor for each level of directories. */
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	g->fd = fd;
	g->why = why;
	/* "/" and "…/." have no last component: they are named ".". */
	snprintf(whole, sizeof(whole), "%s", path);
	for (size_t n = strlen(whole); n > 1 && whole[n - 1] == '/'; n--)
		whole[n - 1] = '\0';
	char *slash = strrchr(whole, '/');
	const char *last = slash && slash[1] ? slash + 1 : ".";
	if (strcmp(last, "..") == 0)
		last = ".";
	else if (slash && slash[1])
		*slash = '\0';
	snprintf(g->path, sizeof(g->path), "%s", last);
	_cleanup_close_ int dir = open(*whole ? whole : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return fail(why, errno, "there is no directory", *whole ? whole : "/");
	int r = walk(g, dir, last, true);
	if (r == 0)
		r = put(g, NULL, 2 * TAR_BLOCK);
	return r < 0 ? r : flush_out(g);
}
