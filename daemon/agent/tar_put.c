/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tar stream into a directory.
 *
 * Names go below the directory: leading slashes are cut off, ".." is refused. What stands in the way of a member is
 * removed, but a directory that is there stays. A directory's owner, mode and times are set when all that goes into it is
 * there. The stream must end as a tar stream does, with a block of zeros: one that was cut off between two members is
 * not mistaken for all of it.
 *
 * Every number is checked before it is used; what is not understood is an error, not passed over.
 */
#include "agent.h"
#include "tar.h"
#include <banger/cleanup.h>
#include <ctype.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#define BUFFER (128 * 1024)
#define SEGMENTS_MAX (1024 * 1024)

struct member {
	char type;
	char *name, *link;
	uint64_t size, mode, uid, gid, major, minor;
	struct timespec mtime;
	/* pax */
	char *pax; /* records with xattrs: the whole text, kept */
	size_t pax_len;
	bool sparse;
	uint64_t real_size;
};

struct dir { /* whose metadata is set at the end */
	struct member m;
	struct dir *next;
};

struct put {
	int fd, root;
	size_t off, n; /* of buf */
	struct dir *dirs;
	char *why;
	uint8_t buf[BUFFER];
};

static int bad(struct put *p, const char *what)
{
	snprintf(p->why, WHY_MAX, "%s", what);
	return -EINVAL;
}

/* ---- bytes */

/* Up to n bytes, in place: *ret is valid until the next call. 0: the stream is at its end. */
static ssize_t take(struct put *p, const uint8_t **ret, size_t n)
{
	while (p->off == p->n) {
		ssize_t k = read(p->fd, p->buf, sizeof(p->buf));

		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return fail(p->why, errno, "cannot receive", NULL);
		if (k == 0)
			return 0;
		p->off = 0;
		p->n = k;
	}
	size_t k = p->n - p->off < n ? p->n - p->off : n;
	*ret = p->buf + p->off;
	p->off += k;
	return k;
}

static int take_all(struct put *p, void *to, uint64_t n)
{
	uint8_t *at = to;
	const uint8_t *from = NULL;

	while (n > 0) {
		ssize_t k = take(p, &from, n < BUFFER ? n : BUFFER);

		if (k <= 0)
			return k < 0 ? (int)k : bad(p, "the stream ends in the middle");
		if (at) {
			memcpy(at, from, k);
			at += k;
		}
		n -= k;
	}
	return 0;
}

static int skip_padding(struct put *p, uint64_t size)
{
	return take_all(p, NULL, (TAR_BLOCK - size % TAR_BLOCK) % TAR_BLOCK);
}

/* ---- numbers */

/* Octal with blanks around it, or base 256 as GNU writes what does not fit. */
static bool number(const char *f, size_t size, uint64_t *ret)
{
	uint64_t v = 0;
	size_t i = 0;

	if ((uint8_t)f[0] == 0x80) {
		for (i = 1; i < size; i++) {
			if (v >> 55)
				return false;
			v = v << 8 | (uint8_t)f[i];
		}
		*ret = v;
		return true;
	}
	while (i < size && f[i] == ' ')
		i++;
	for (; i < size && f[i] >= '0' && f[i] <= '7'; i++) {
		if (v >> 60)
			return false;
		v = v << 3 | (f[i] - '0');
	}
	if (i < size && f[i] != ' ' && f[i] != '\0')
		return false;
	*ret = v;
	return true;
}

static bool decimal(const char *s, size_t len, uint64_t *ret)
{
	uint64_t v = 0;

	if (len == 0 || len > 18)
		return false;
	for (size_t i = 0; i < len; i++) {
		if (!isdigit((unsigned char)s[i]))
			return false;
		v = v * 10 + (s[i] - '0');
	}
	*ret = v;
	return true;
}

/* [-]SECONDS[.FRACTION] */
static bool time_of(const char *s, size_t len, struct timespec *ret)
{
	bool before = len > 0 && s[0] == '-';
	const char *dot;
	uint64_t sec;
	long ns = 0, unit = 100000000;

	s += before;
	len -= before;
	dot = memchr(s, '.', len);
	if (!decimal(s, dot ? (size_t)(dot - s) : len, &sec))
		return false;
	for (const char *c = dot ? dot + 1 : s + len; c < s + len; c++) {
		if (!isdigit((unsigned char)*c))
			return false;
		ns += (*c - '0') * unit;
		unit /= 10;
	}
	*ret = (struct timespec){before ? -(time_t)sec : (time_t)sec, ns};
	if (before && ns) {
		ret->tv_sec--;
		ret->tv_nsec = 1000000000 - ns;
	}
	return true;
}

/* ---- pax records */

static int set_text(struct put *p, char **to, const char *s, size_t len)
{
	if (len == 0 || len >= PATH_MAX || memchr(s, 0, len))
		return bad(p, "a name in the stream is none");
	free(*to);
	*to = strndup(s, len);
	return *to ? 0 : fail(p->why, ENOMEM, "cannot receive", NULL);
}

static int on_record(struct put *p, struct member *m, const char *key, const char *v, size_t len)
{
	const struct {
		const char *key;
		uint64_t *to;
	} numbers[] = {{"size", &m->size}, {"uid", &m->uid}, {"gid", &m->gid},
		{"GNU.sparse.realsize", &m->real_size}};

	for (size_t i = 0; i < ELEMENTSOF(numbers); i++)
		if (strcmp(key, numbers[i].key) == 0)
			return decimal(v, len, numbers[i].to)
				       ? 0
				       : bad(p, "a number in the stream is none");
	if (strcmp(key, "path") == 0)
		return m->sparse ? 0 : set_text(p, &m->name, v, len);
	if (strcmp(key, "GNU.sparse.name") == 0)
		return set_text(p, &m->name, v, len);
	if (strcmp(key, "linkpath") == 0)
		return set_text(p, &m->link, v, len);
	if (strcmp(key, "mtime") == 0)
		return time_of(v, len, &m->mtime) ? 0 : bad(p, "a time in the stream is none");
	if (strcmp(key, "GNU.sparse.major") == 0) {
		m->sparse = true;
		return len == 1 && *v == '1' ? 0 : bad(p, "a sparse file of an unknown version");
	}
	if (strcmp(key, "GNU.sparse.minor") == 0)
		return len == 1 && *v == '0' ? 0 : bad(p, "a sparse file of an unknown version");
	return 0; /* times of access, comments, other programs' notes */
}

/* The next record of [*at, end): key is terminated in place. False: there is none, or it is malformed (*at stays). */
static bool next_record(char **at, char *end, char **key, char **value, size_t *len)
{
	char *blank = memchr(*at, ' ', end - *at < 20 ? end - *at : 20);
	uint64_t total;

	if (!blank || !decimal(*at, blank - *at, &total) || total > (uint64_t)(end - *at) ||
		total < (uint64_t)(blank - *at) + 4)
		return false;
	char *next = *at + total, *eq = memchr(blank + 1, '=', next - blank - 1);
	if (!eq || next[-1] != '\n')
		return false;
	*eq = '\0';
	*key = blank + 1;
	*value = eq + 1;
	*len = next - 1 - *value;
	*at = next;
	return true;
}

static int read_pax(struct put *p, struct member *m, uint64_t size)
{
	char *key, *value;
	size_t len;

	if (size > TAR_PAX_MAX || m->pax)
		return bad(p, "a member with too many records");
	m->pax = malloc(size + 1);
	if (!m->pax)
		return fail(p->why, ENOMEM, "cannot receive", NULL);
	m->pax_len = size;
	int r = take_all(p, m->pax, size);
	if (r == 0)
		r = skip_padding(p, size);
	for (char *at = m->pax, *end = m->pax + size; r == 0 && at < end;) {
		if (!next_record(&at, end, &key, &value, &len))
			return bad(p, "a record in the stream is malformed");
		r = on_record(p, m, key, value, len);
		key[strlen(key)] = '='; /* it is read once more, for xattrs */
	}
	return r;
}

/* ---- headers */

static void member_done(struct member *m)
{
	free(m->name);
	free(m->link);
	free(m->pax);
	*m = (struct member){0};
}

/* A long name or link as GNU writes it, in a member of its own. */
static int read_long(struct put *p, char **to, uint64_t size)
{
	char text[PATH_MAX + 1];

	if (size == 0 || size > PATH_MAX)
		return bad(p, "a name in the stream is too long");
	int r = take_all(p, text, size);
	if (r == 0)
		r = skip_padding(p, size);
	return r < 0 ? r : set_text(p, to, text, strnlen(text, size));
}

static int take_names(struct put *p, struct member *m, const struct tar_header *h)
{
	char name[sizeof(h->prefix) + 1 + sizeof(h->name) + 1];
	bool ustar = memcmp(h->magic, "ustar\0", 6) == 0;
	int r = 0;

	snprintf(name, sizeof(name), "%.*s%s%.*s", ustar ? (int)sizeof(h->prefix) : 0, h->prefix,
		ustar && h->prefix[0] ? "/" : "", (int)sizeof(h->name), h->name);
	if (!m->name)
		r = set_text(p, &m->name, name, strlen(name));
	if (r == 0 && !m->link && (h->type == '1' || h->type == '2'))
		r = set_text(p, &m->link, h->link, strnlen(h->link, sizeof(h->link)));
	return r;
}

/* Numbers that no record gave already. */
static bool take_numbers(struct member *m, const struct tar_header *h)
{
	uint64_t size, uid, gid, mtime;

	if (!number(h->size, sizeof(h->size), &size) || !number(h->uid, sizeof(h->uid), &uid) ||
		!number(h->gid, sizeof(h->gid), &gid) ||
		!number(h->mtime, sizeof(h->mtime), &mtime) ||
		!number(h->mode, sizeof(h->mode), &m->mode) ||
		!number(h->major, sizeof(h->major), &m->major) ||
		!number(h->minor, sizeof(h->minor), &m->minor))
		return false;
	m->size = m->size == UINT64_MAX ? size : m->size;
	m->uid = m->uid == UINT64_MAX ? uid : m->uid;
	m->gid = m->gid == UINT64_MAX ? gid : m->gid;
	if (m->mtime.tv_nsec < 0)
		m->mtime = (struct timespec){(time_t)mtime, 0};
	return m->size <= INT64_MAX && m->real_size <= INT64_MAX && m->uid <= UINT32_MAX &&
	       m->gid <= UINT32_MAX;
}

/* 1: *m is the next member; 0: the stream has ended as it should. */
static int next_member(struct put *p, struct member *m)
{
	struct tar_header h;
	uint64_t size, sum;

	*m = (struct member){
		.size = UINT64_MAX, .uid = UINT64_MAX, .gid = UINT64_MAX, .mtime = {0, -1}};
	for (;;) {
		int r = take_all(p, &h, sizeof(h));
		if (r < 0)
			return r;
		static const struct tar_header zeros;
		if (memcmp(&h, &zeros, sizeof(h)) == 0)
			return m->pax || m->name ? bad(p, "the stream ends in the middle") : 0;
		if (!number(h.checksum, sizeof(h.checksum), &sum) || sum != tar_checksum(&h) ||
			!number(h.size, sizeof(h.size), &size))
			return bad(p, "this is no tar stream");
		switch (h.type) {
		case 'x':
			r = read_pax(p, m, size);
			break;
		case 'g':
			r = size > TAR_PAX_MAX ? bad(p, "a member with too many records")
					       : take_all(p, NULL, size);
			if (r == 0)
				r = skip_padding(p, size);
			break;
		case 'L':
			r = read_long(p, &m->name, size);
			break;
		case 'K':
			r = read_long(p, &m->link, size);
			break;
		default:
			m->type = h.type == '\0' || h.type == '7' ? '0' : h.type;
			r = take_names(p, m, &h);
			if (r < 0)
				return r;
			return take_numbers(m, &h) ? 1 : bad(p, "a number in the stream is none");
		}
		if (r < 0)
			return r;
	}
}

/* ---- making what it says */

/* In place: no leading slashes. False: it would lead out. */
static bool relative(char *name)
{
	size_t skip = strspn(name, "/");

	memmove(name, name + skip, strlen(name + skip) + 1);
	for (const char *c = name; *c; c += strcspn(c, "/"), c += strspn(c, "/"))
		if (strncmp(c, "..", 2) == 0 && (c[2] == '/' || c[2] == '\0'))
			return false;
	if (!*name)
		strcpy(name, "."); /* the directory itself; there was a slash to put it */
	for (size_t n = strlen(name); n > 1 && name[n - 1] == '/'; n--)
		name[n - 1] = '\0';
	return true;
}

static void make_parents(struct put *p, char *name)
{
	for (char *c = strchr(name, '/'); c; c = strchr(c + 1, '/')) {
		*c = '\0';
		mkdirat(p->root, name, 0755);
		*c = '/';
	}
}

static void set_xattrs(struct put *p, struct member *m)
{
	char path[PATH_MAX + 64], *key, *value;
	size_t len;

	if (!m->pax)
		return;
	snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", p->root, m->name);
	for (char *at = m->pax, *end = m->pax + m->pax_len; at < end;) {
		if (!next_record(&at, end, &key, &value, &len))
			return;
		/* What this filesystem does not take the file is without, as with tar and cp. */
		if (strncmp(key, "SCHILY.xattr.", 13) == 0 &&
			lsetxattr(path, key + 13, value, len, 0) < 0)
			errno = 0;
	}
}

static int set_metadata(struct put *p, struct member *m)
{
	const struct timespec times[2] = {m->mtime, m->mtime};

	if (fchownat(p->root, m->name, m->uid, m->gid, AT_SYMLINK_NOFOLLOW) < 0)
		return fail(p->why, errno, "cannot set the owner of", m->name);
	set_xattrs(p, m);
	if (m->type != '2' && fchmodat(p->root, m->name, m->mode & 07777, 0) < 0)
		return fail(p->why, errno, "cannot set the mode of", m->name);
	if (utimensat(p->root, m->name, times, AT_SYMLINK_NOFOLLOW) < 0)
		return fail(p->why, errno, "cannot set the time of", m->name);
	return 0;
}

static int write_data(struct put *p, const struct member *m, int fd, uint64_t at, uint64_t len)
{
	const uint8_t *from = NULL;

	while (len > 0) {
		ssize_t k = take(p, &from, len < BUFFER ? len : BUFFER);

		if (k <= 0)
			return k < 0 ? (int)k : bad(p, "the stream ends in the middle");
		for (ssize_t done = 0; done < k;) {
			ssize_t w = pwrite(fd, from + done, k - done, at + done);

			if (w < 0 && errno == EINTR)
				continue;
			if (w < 0)
				return fail(p->why, errno, "cannot write", m->name);
			done += w;
		}
		at += k;
		len -= k;
	}
	return 0;
}

/* A line of a sparse file's map; *used counts the bytes of it. */
static int map_number(struct put *p, uint64_t *ret, uint64_t *used, uint64_t size)
{
	char line[24];
	size_t n = 0;
	int r;

	do {
		if (n == sizeof(line) || *used >= size)
			return bad(p, "a sparse file's map is malformed");
		if ((r = take_all(p, line + n, 1)) < 0)
			return r;
		++*used;
	} while (line[n++] != '\n');
	return decimal(line, n - 1, ret) ? 0 : bad(p, "a sparse file's map is malformed");
}

static int write_sparse(struct put *p, const struct member *m, int fd)
{
	_cleanup_free_ uint64_t *map = NULL;
	uint64_t n, used = 0, data = 0, end = 0;

	int r = map_number(p, &n, &used, m->size);
	if (r < 0)
		return r;
	/* Each takes 4 bytes of the stream at least. */
	if (n > SEGMENTS_MAX || n > m->size / 4 || !(map = malloc(2 * n * sizeof(*map) + 1)))
		return bad(p, "a sparse file's map is too long");
	for (uint64_t i = 0; i < 2 * n && r == 0; i++)
		r = map_number(p, &map[i], &used, m->size);
	for (uint64_t i = 0; i < n && r == 0; i++) {
		if (map[2 * i] < end || map[2 * i + 1] > m->real_size ||
			map[2 * i] > m->real_size - map[2 * i + 1])
			return bad(p, "a sparse file's map is malformed");
		end = map[2 * i] + map[2 * i + 1];
		data += map[2 * i + 1];
	}
	if (r == 0)
		r = skip_padding(p, used);
	used += (TAR_BLOCK - used % TAR_BLOCK) % TAR_BLOCK;
	if (r == 0 && (used > m->size || data != m->size - used))
		return bad(p, "a sparse file's map does not add up");
	for (uint64_t i = 0; i < n && r == 0; i++)
		r = write_data(p, m, fd, map[2 * i], map[2 * i + 1]);
	if (r == 0 && ftruncate(fd, m->real_size) < 0)
		r = fail(p->why, errno, "cannot write", m->name);
	return r;
}

static int make_file(struct put *p, struct member *m)
{
	_cleanup_close_ int fd = openat(
		p->root, m->name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0)
		return fail(p->why, errno, "cannot make", m->name);
	int r = m->sparse ? write_sparse(p, m, fd) : write_data(p, m, fd, 0, m->size);
	return r < 0 ? r : skip_padding(p, m->size);
}

/* A directory: kept for the end. */
static int make_dir(struct put *p, struct member *m)
{
	struct stat st;

	if (mkdirat(p->root, m->name, 0700) < 0 &&
		(errno != EEXIST || fstatat(p->root, m->name, &st, 0) < 0 || !S_ISDIR(st.st_mode)))
		return fail(p->why, ENOTDIR, "cannot make the directory", m->name);
	struct dir *d = calloc(1, sizeof(*d));
	if (!d)
		return fail(p->why, ENOMEM, "cannot receive", NULL);
	d->m = *m;
	*m = (struct member){0};
	d->next = p->dirs;
	p->dirs = d;
	return 0;
}

static int make_other(struct put *p, struct member *m)
{
	static const struct {
		char type;
		mode_t mode;
	} nodes[] = {{'3', S_IFCHR}, {'4', S_IFBLK}, {'6', S_IFIFO}};
	int r = -1;

	if (m->type == '1') {
		if (!relative(m->link))
			return bad(p, "a link in the stream leads out of it");
		r = linkat(p->root, m->link, p->root, m->name, 0);
	} else if (m->type == '2') {
		r = symlinkat(m->link, p->root, m->name);
	} else {
		errno = EINVAL;
		for (size_t i = 0; i < ELEMENTSOF(nodes); i++)
			if (nodes[i].type == m->type)
				r = mknodat(p->root, m->name, nodes[i].mode | 0600,
					makedev((unsigned)m->major, (unsigned)m->minor));
	}
	return r < 0 ? fail(p->why, errno, "cannot make", m->name) : 0;
}

static int make(struct put *p, struct member *m)
{
	int r;

	if (!relative(m->name))
		return bad(p, "a name in the stream leads out of it");
	make_parents(p, m->name);
	if (m->type == '5')
		return make_dir(p, m);
	if (strcmp(m->name, ".") == 0)
		return bad(p, "a name in the stream is none");
	if (unlinkat(p->root, m->name, 0) < 0 && errno != ENOENT)
		return fail(p->why, errno, "cannot replace", m->name);
	r = m->type == '0' ? make_file(p, m) : make_other(p, m);
	return r < 0 || m->type == '1' ? r : set_metadata(p, m);
}

static int make_all(struct put *p)
{
	struct member m;
	int r;

	while ((r = next_member(p, &m)) == 1) {
		if (m.type < '0' || m.type > '6')
			r = bad(p, "a member of an unknown type");
		else
			r = make(p, &m);
		member_done(&m);
		if (r < 0)
			return r;
	}
	member_done(&m);
	/* The last made is the deepest. */
	for (struct dir *d = p->dirs; d && r == 0; d = d->next)
		r = set_metadata(p, &d->m);
	return r;
}

int tar_put(int fd, const char *dir, char *why)
{
	struct put *p = calloc(1, sizeof(*p));
	const uint8_t *rest;

	if (!p)
		return fail(why, ENOMEM, "cannot receive", NULL);
	p->fd = fd;
	p->why = why;
	p->root = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r = p->root < 0 ? fail(why, errno, "there is no directory", dir) : make_all(p);
	/* What fills up the last record: whoever sends it shall not meet a closed pipe. */
	while (r == 0 && take(p, &rest, BUFFER) > 0)
		;
	for (struct dir *d = p->dirs, *next; d; d = next) {
		next = d->next;
		member_done(&d->m);
		free(d);
	}
	banger_closep(&p->root);
	free(p);
	return r;
}
