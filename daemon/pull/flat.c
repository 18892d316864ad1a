/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The directory is the truth: it is looked at each time, for there are few entries and a look is
 * nothing beside a pull. Names are hex digits of our own making; what else is in the directory is not
 * touched, but for half-made entries at the start.
 */
#include "pull/flat.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <banger/log.h>
#include "pull/document.h"

#define NEW ".new"
#define LAYERS_BYTES_MAX (PULL_LAYERS_MAX * (PULL_DIGEST_MAX + 1))

struct flat_cache {
	pthread_mutex_t lock;
	int fd; /* cache/flat */
	bool clones;
};

/* ---- names and small files */

static void chain_of(
	const char (*diff_ids)[PULL_DIGEST_MAX], size_t n, struct pull_hash *h, char ret[65])
{
	char digest[PULL_DIGEST_MAX];

	for (size_t i = 0; i < n; i++) {
		pull_hash_update(h, diff_ids[i], strlen(diff_ids[i]));
		pull_hash_update(h, "\n", 1);
	}
	pull_hash_end(h, digest);
	snprintf(ret, 65, "%.64s", strchr(digest, ':') + 1);
}

static int make_chain(
	const char (*diff_ids)[PULL_DIGEST_MAX], size_t n, char ret[65], struct banger_error *err)
{
	_cleanup_pull_hash_ struct pull_hash *h = NULL;

	static const char a_sha256[] =
		"sha256:0000000000000000000000000000000000000000000000000000000000000000";

	int r = pull_hash_new(a_sha256, &h, err);
	if (r == 0)
		chain_of(diff_ids, n, h, ret);
	return r;
}

static bool is_chain(const char *name)
{
	return strlen(name) == 64 && strspn(name, "0123456789abcdef") == 64;
}

static int open_entry(const struct flat_cache *c, const char *name)
{
	return openat(c->fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* A directory without directories in it. What cannot be removed stays, for the next start. */
static void remove_entry(const struct flat_cache *c, const char *name)
{
	int fd = open_entry(c, name);
	_cleanup_closedir_ DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *de;

	if (!d) {
		if (fd >= 0)
			close(fd);
		return;
	}
	while ((de = readdir(d)))
		if (strcmp(de->d_name, ".") != 0 && strcmp(de->d_name, "..") != 0)
			(void)unlinkat(dirfd(d), de->d_name, 0);
	(void)unlinkat(c->fd, name, AT_REMOVEDIR);
}

/* How many of the diff_ids the entry shares, from the bottom; it has *ret_all. */
static size_t shared_layers(
	int dir_fd, const char (*diff_ids)[PULL_DIGEST_MAX], size_t n, size_t *ret_all)
{
	_cleanup_close_ int fd = openat(dir_fd, "layers", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	_cleanup_fclose_ FILE *f = fd >= 0 ? fdopen(fd, "re") : NULL;
	char line[PULL_DIGEST_MAX + 2];
	size_t all = 0, shared = 0;

	if (!f)
		return 0;
	fd = -1;
	while (fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = 0;
		if (shared == all && shared < n && strcmp(line, diff_ids[shared]) == 0)
			shared++;
		all++;
	}
	*ret_all = all;
	return shared;
}

static int64_t bytes_of(int dir_fd)
{
	int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_closedir_ DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *de;
	struct stat st;
	int64_t n = 0;

	if (!d && fd >= 0)
		close(fd);
	while (d && (de = readdir(d)))
		if (fstatat(dirfd(d), de->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
			S_ISREG(st.st_mode))
			n += st.st_blocks * 512;
	return n;
}

/* ---- the cache */

/* Clone something once, to see whether the disk can. */
static bool can_clone(int fd)
{
	_cleanup_close_ int a = openat(fd, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
	_cleanup_close_ int b = openat(fd, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
	static const char text[4096] = "x";

	return a >= 0 && b >= 0 && pwrite(a, text, sizeof(text), 0) == sizeof(text) &&
	       ioctl(b, FICLONE, a) == 0;
}

/* Calls each with the name of every entry, with the lock held. */
static int each_entry(struct flat_cache *c, bool half_made,
	void (*each)(struct flat_cache *c, const char *name, void *arg), void *arg)
{
	int fd = openat(c->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_closedir_ DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *de;

	if (!d) {
		if (fd >= 0)
			close(fd);
		return -errno;
	}
	while ((de = readdir(d))) {
		size_t len = strlen(de->d_name);
		bool is_half =
			len > strlen(NEW) && strcmp(de->d_name + len - strlen(NEW), NEW) == 0;
		if (half_made ? is_half : is_chain(de->d_name))
			each(c, de->d_name, arg);
	}
	return 0;
}

static void remove_one(struct flat_cache *c, const char *name, void *arg)
{
	remove_entry(c, name);
}

int flat_new(int cache_fd, struct flat_cache **ret, struct banger_error *err)
{
	struct flat_cache *c = calloc(1, sizeof(*c));

	if (!c)
		return banger_error_oom(err);
	pthread_mutex_init(&c->lock, NULL);
	c->fd = -1;
	if (mkdirat(cache_fd, "flat", 0700) == 0 || errno == EEXIST)
		c->fd = openat(cache_fd, "flat", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (c->fd < 0) {
		int e = errno;
		flat_freep(&c);
		return banger_error_set_errno(err, e, "cannot open cache/flat");
	}
	c->clones = can_clone(c->fd);
	(void)each_entry(c, true, remove_one, NULL);
	*ret = c;
	return 0;
}

void flat_freep(struct flat_cache **p)
{
	struct flat_cache *c = *p;

	if (!c)
		return;
	banger_closep(&c->fd);
	pthread_mutex_destroy(&c->lock);
	free(c);
	*p = NULL;
}

/* ---- using what is there */

struct search {
	const char (*diff_ids)[PULL_DIGEST_MAX];
	size_t n, best;
	char chain[65];
};

static void compare(struct flat_cache *c, const char *name, void *arg)
{
	struct search *s = arg;
	_cleanup_close_ int fd = open_entry(c, name);
	size_t all = 0, n = fd >= 0 ? shared_layers(fd, s->diff_ids, s->n, &all) : 0;

	if (n > s->best) {
		s->best = n;
		snprintf(s->chain, sizeof(s->chain), "%s", name);
	}
}

static int open_use(struct flat_cache *c, const struct search *s, struct flat_use *u)
{
	_cleanup_close_ int dir = open_entry(c, s->chain);

	if (dir < 0)
		return -errno;
	u->data_fd = openat(dir, "data", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	u->record_fds = calloc(s->best, sizeof(int));
	if (u->data_fd < 0 || !u->record_fds)
		return -errno;
	for (; u->n < s->best; u->n++) {
		char name[24];
		snprintf(name, sizeof(name), "%zu", u->n);
		u->record_fds[u->n] = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
		if (u->record_fds[u->n] < 0)
			return -errno;
	}
	snprintf(u->chain, sizeof(u->chain), "%s", s->chain);
	(void)utimensat(dir, "layers", NULL, 0);
	return 0;
}

int flat_find(struct flat_cache *c, const char (*diff_ids)[PULL_DIGEST_MAX], size_t n,
	struct flat_use *ret, struct banger_error *err)
{
	struct search s = {.diff_ids = diff_ids, .n = n};
	struct flat_use u = FLAT_USE_NONE;
	int r = 0;

	pthread_mutex_lock(&c->lock);
	if (c->clones && n > 0)
		(void)each_entry(c, false, compare, &s);
	if (s.best > 0)
		r = open_use(c, &s, &u);
	pthread_mutex_unlock(&c->lock);
	if (r < 0) {
		/* It is only a cache: an entry that cannot be opened is none, unless it is we who lack something. */
		log_warn("unpacked layers cannot be reused", KV_S("entry", s.chain),
			KV_S("error", strerrordesc_np(-r)));
		flat_use_done(&u);
		if (r != -EMFILE && r != -ENFILE && r != -ENOMEM)
			flat_forget(c, s.chain);
	}
	*ret = u;
	return 0;
}

void flat_use_done(struct flat_use *u)
{
	banger_closep(&u->data_fd);
	for (size_t i = 0; i < u->n; i++)
		banger_closep(&u->record_fds[i]);
	free(u->record_fds);
	*u = (struct flat_use)FLAT_USE_NONE;
}

void flat_forget(struct flat_cache *c, const char *chain)
{
	if (!is_chain(chain))
		return;
	pthread_mutex_lock(&c->lock);
	remove_entry(c, chain);
	pthread_mutex_unlock(&c->lock);
}

/* ---- making an entry */

static int write_layers(int dir_fd, const char (*diff_ids)[PULL_DIGEST_MAX], size_t n)
{
	int fd = openat(dir_fd, "layers", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	FILE *f = fd >= 0 ? fdopen(fd, "we") : NULL;

	if (!f) {
		int e = errno;
		if (fd >= 0)
			close(fd);
		return -e;
	}
	for (size_t i = 0; i < n; i++)
		fprintf(f, "%s\n", diff_ids[i]);
	int bad = fflush(f) != 0 || fsync(fileno(f)) < 0 ? errno : 0;
	return fclose(f) != 0 && !bad ? -errno : -bad;
}

/* Records of the base are the same files; the others are new. */
static int make_records(struct flat_entry *e, const struct flat_use *base)
{
	_cleanup_close_ int from = base->n > 0 ? open_entry(e->cache, base->chain) : -1;

	if (base->n > 0 && from < 0)
		return -errno;
	for (size_t i = 0; i < e->n; i++) {
		char name[24];
		snprintf(name, sizeof(name), "%zu", i);
		if (i < base->n && linkat(from, name, e->dir_fd, name, 0) < 0)
			return -errno;
		if (i < base->n)
			continue;
		e->record_fds[i] =
			openat(e->dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		if (e->record_fds[i] < 0)
			return -errno;
	}
	return 0;
}

static int make_entry(
	struct flat_entry *e, const char (*diff_ids)[PULL_DIGEST_MAX], const struct flat_use *base)
{
	char name[80];

	snprintf(name, sizeof(name), "%s" NEW, e->chain);
	if (faccessat(e->cache->fd, e->chain, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return -EEXIST;
	if (mkdirat(e->cache->fd, name, 0700) < 0)
		return -errno; /* EEXIST: another pull makes it */
	e->dir_fd = open_entry(e->cache, name);
	e->record_fds = calloc(e->n + 1, sizeof(int));
	if (e->dir_fd < 0 || !e->record_fds)
		return -errno;
	for (size_t i = 0; i < e->n; i++)
		e->record_fds[i] = -1;
	e->keep_fd = openat(e->dir_fd, "data", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	int r = e->keep_fd < 0 ? -errno : write_layers(e->dir_fd, diff_ids, e->n);
	return r < 0 ? r : make_records(e, base);
}

int flat_begin(struct flat_cache *c, const char (*diff_ids)[PULL_DIGEST_MAX], size_t n,
	const struct flat_use *base, struct flat_entry *ret, struct banger_error *err)
{
	struct flat_entry e = FLAT_ENTRY_NONE;

	if (c->clones && n > 0) {
		e.cache = c;
		e.n = n;
		int r = make_chain(diff_ids, n, e.chain, err);
		if (r < 0)
			return r;
		pthread_mutex_lock(&c->lock);
		r = make_entry(&e, diff_ids, base);
		pthread_mutex_unlock(&c->lock);
		if (r < 0 && r != -EEXIST)
			log_warn("what is unpacked will not be kept for reuse",
				KV_S("error", strerrordesc_np(-r)));
		if (r < 0)
			flat_entry_done(&e);
	}
	*ret = e;
	return 0;
}

static int sync_entry(const struct flat_entry *e)
{
	for (size_t i = 0; i < e->n; i++)
		if (e->record_fds[i] >= 0 && fdatasync(e->record_fds[i]) < 0)
			return -errno;
	return fsync(e->keep_fd) < 0 || fsync(e->dir_fd) < 0 ? -errno : 0;
}

int flat_commit(struct flat_entry *e, struct banger_error *err)
{
	char name[80];

	if (e->dir_fd < 0)
		return 0;
	int r = sync_entry(e);
	snprintf(name, sizeof(name), "%s" NEW, e->chain);
	if (r == 0 && renameat2(e->cache->fd, name, e->cache->fd, e->chain, RENAME_NOREPLACE) < 0)
		r = -errno;
	if (r < 0)
		return banger_error_set_errno(err, r, "keeping unpacked layers for reuse");
	banger_closep(&e->dir_fd);
	e->dir_fd = -1;
	return 0;
}

void flat_entry_done(struct flat_entry *e)
{
	char name[80];

	if (e->dir_fd >= 0) {
		snprintf(name, sizeof(name), "%s" NEW, e->chain);
		pthread_mutex_lock(&e->cache->lock);
		remove_entry(e->cache, name);
		pthread_mutex_unlock(&e->cache->lock);
	}
	banger_closep(&e->dir_fd);
	banger_closep(&e->keep_fd);
	for (size_t i = 0; e->record_fds && i < e->n; i++)
		banger_closep(&e->record_fds[i]);
	free(e->record_fds);
	*e = (struct flat_entry)FLAT_ENTRY_NONE;
}

/* ---- its size */

struct weight {
	char chain[65];
	struct timespec used;
	int64_t bytes;
};

struct weights {
	struct weight *list;
	size_t n;
	struct flat_usage all;
	bool oom;
};

static void weigh(struct flat_cache *c, const char *name, void *arg)
{
	struct weights *w = arg;
	_cleanup_close_ int fd = open_entry(c, name);
	struct stat st = {0};

	struct weight *list = reallocarray(w->list, w->n + 1, sizeof(*list));
	if (!list) {
		w->oom = true;
		return;
	}
	w->list = list;
	struct weight *one = &list[w->n++];
	snprintf(one->chain, sizeof(one->chain), "%s", name);
	if (fd >= 0)
		(void)fstatat(fd, "layers", &st, AT_SYMLINK_NOFOLLOW);
	one->used = st.st_mtim;
	one->bytes = fd >= 0 ? bytes_of(fd) : 0;
	w->all.entries++;
	w->all.bytes += one->bytes;
}

static int by_use(const void *a, const void *b)
{
	const struct timespec *x = &((const struct weight *)a)->used;
	const struct timespec *y = &((const struct weight *)b)->used;

	if (x->tv_sec != y->tv_sec)
		return x->tv_sec < y->tv_sec ? -1 : 1;
	return x->tv_nsec < y->tv_nsec ? -1 : x->tv_nsec > y->tv_nsec;
}

/* With the lock. */
static int weigh_all(struct flat_cache *c, struct weights *w, struct banger_error *err)
{
	int r = each_entry(c, false, weigh, w);

	if (r < 0)
		return banger_error_set_errno(err, r, "looking at cache/flat");
	return w->oom ? banger_error_oom(err) : 0;
}

int flat_usage(struct flat_cache *c, struct flat_usage *ret, struct banger_error *err)
{
	struct weights w = {0};

	pthread_mutex_lock(&c->lock);
	int r = weigh_all(c, &w, err);
	pthread_mutex_unlock(&c->lock);
	free(w.list);
	if (r == 0)
		*ret = w.all;
	return r;
}

int flat_prune(struct flat_cache *c, int64_t max, bool dry, struct flat_usage *ret_removed,
	struct banger_error *err)
{
	struct flat_usage removed = {0};
	struct weights w = {0};

	pthread_mutex_lock(&c->lock);
	int r = weigh_all(c, &w, err);
	if (r == 0 && w.n > 0)
		qsort(w.list, w.n, sizeof(*w.list), by_use);
	for (size_t i = 0; r == 0 && i < w.n && w.all.bytes - removed.bytes > max; i++) {
		removed.entries++;
		removed.bytes += w.list[i].bytes;
		if (!dry)
			remove_entry(c, w.list[i].chain);
	}
	pthread_mutex_unlock(&c->lock);
	free(w.list);
	if (r == 0)
		*ret_removed = removed;
	return r;
}
