/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of blobs in use, and the directories behind it.
 *
 * A blob is in the list from the first blobs_get() to the last blob_putp(). Its file is opened and
 * closed without the lock, while `busy` keeps others waiting; blobs_prune() puts a busy entry in the
 * list for what it removes, so nobody opens a file that is about to go. The list is short: blobs of
 * running pulls.
 *
 * When a blob was last used is its file's mtime: set when it is taken and when it is let go.
 */
#include <ctype.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include "pull/blob.h"

#define PARTIAL ".partial"

static const struct algorithm {
	const char *name;
	size_t digits;
} algorithms[] = {{"sha256", 64}, {"sha512", 128}};

struct blobs {
	int dirs[ELEMENTSOF(algorithms)];
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct blob *list;
};

/* HEX or HEX.partial, with the algorithm's number of digits? */
static bool name_valid(const char *name, size_t digits, bool *ret_partial)
{
	if (strspn(name, "0123456789abcdef") != digits)
		return false;
	*ret_partial = name[digits] != '\0';
	return !*ret_partial || strcmp(name + digits, PARTIAL) == 0;
}

static int make_directory(int at, const char *name, struct banger_error *err)
{
	if (mkdirat(at, name, 0700) < 0 && errno != EEXIST)
		return banger_error_set_errno(err, errno, "making the cache's directory %s", name);
	int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd >= 0 ? fd
		       : banger_error_set_errno(
				 err, errno, "opening the cache's directory %s", name);
}

static DIR *open_listing(int fd)
{
	int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = copy >= 0 ? fdopendir(copy) : NULL;

	if (!d && copy >= 0)
		close(copy);
	return d;
}

/* Partials that hold nothing, or whose blob is there whole: a daemon was killed in between. */
static void clean(int fd, size_t digits)
{
	_cleanup_closedir_ DIR *d = open_listing(fd);
	struct stat st;
	bool partial;

	for (struct dirent *e; d && (e = readdir(d));) {
		char whole[BLOB_NAME_MAX];
		if (!name_valid(e->d_name, digits, &partial) || !partial)
			continue;
		snprintf(whole, sizeof(whole), "%.*s", (int)digits, e->d_name);
		if (fstatat(fd, whole, &st, AT_SYMLINK_NOFOLLOW) == 0 ||
			(fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_size == 0))
			(void)unlinkat(fd, e->d_name, 0);
	}
}

int blobs_new(int cache_fd, struct blobs **ret, struct banger_error *err)
{
	_cleanup_(blobs_freep) struct blobs *b = calloc(1, sizeof(*b));
	if (!b)
		return banger_error_oom(err);
	for (size_t i = 0; i < ELEMENTSOF(algorithms); i++)
		b->dirs[i] = -1;
	pthread_mutex_init(&b->lock, NULL);
	pthread_cond_init(&b->changed, NULL);
	_cleanup_close_ int top = make_directory(cache_fd, "blobs", err);
	if (top < 0)
		return top;
	for (size_t i = 0; i < ELEMENTSOF(algorithms); i++) {
		int fd = make_directory(top, algorithms[i].name, err);
		if (fd < 0)
			return fd;
		b->dirs[i] = fd;
		clean(fd, algorithms[i].digits);
	}
	*ret = TAKE_PTR(b);
	return 0;
}

void blobs_freep(struct blobs **b)
{
	if (!*b)
		return;
	for (size_t i = 0; i < ELEMENTSOF(algorithms); i++)
		if ((*b)->dirs[i] >= 0)
			close((*b)->dirs[i]);
	pthread_mutex_destroy(&(*b)->lock);
	pthread_cond_destroy(&(*b)->changed);
	free(*b);
}

static struct blob *find(struct blobs *c, int dir_fd, const char *name)
{
	for (struct blob *b = c->list; b; b = b->next)
		if (b->dir_fd == dir_fd && strcmp(b->name, name) == 0)
			return b;
	return NULL;
}

static void take_out(struct blobs *c, struct blob *b)
{
	for (struct blob **p = &c->list; *p; p = &(*p)->next)
		if (*p == b) {
			*p = b->next;
			break;
		}
	pthread_cond_broadcast(&c->changed);
}

static struct blob *make(struct blobs *c, int dir_fd, const char *name, const char *digest)
{
	struct blob *b = calloc(1, sizeof(*b));

	if (!b)
		return NULL;
	b->cache = c;
	b->dir_fd = dir_fd;
	b->fd = b->out = -1;
	b->refs = 1;
	b->busy = true;
	pthread_mutex_init(&b->lock, NULL);
	snprintf(b->name, sizeof(b->name), "%s", name);
	snprintf(b->partial, sizeof(b->partial), "%s" PARTIAL, name);
	snprintf(b->digest, sizeof(b->digest), "%s", digest);
	return b;
}

/* Now: for pruning. A cache whose times cannot be set still works. */
static void touch(const struct blob *b, int fd)
{
	if (fd >= 0)
		(void)futimens(fd, NULL);
}

static int open_file(struct blob *b, struct banger_error *err)
{
	struct stat st;

	b->fd = openat(b->dir_fd, b->name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	if (b->fd >= 0) {
		if (fstat(b->fd, &st) < 0 || !S_ISREG(st.st_mode))
			return banger_error_set(
				err, BANGER_CORRUPT, "%s in the cache is not a file", b->digest);
		if (st.st_size != b->size)
			return banger_error_set(err, BANGER_BAD_REQUEST,
				"%s should have %lld bytes, but the cache has it with %lld",
				b->digest, (long long)b->size, (long long)st.st_size);
		b->state = BLOB_WHOLE;
		atomic_store(&b->available, b->size);
		touch(b, b->fd);
		return 0;
	}
	if (errno == ENOENT)
		b->fd = openat(b->dir_fd, b->partial,
			O_RDONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0600);
	if (b->fd < 0)
		return banger_error_set_errno(err, errno, "opening %s in the cache", b->digest);
	if (fstat(b->fd, &st) < 0 || !S_ISREG(st.st_mode))
		return banger_error_set(err, BANGER_CORRUPT,
			"the partial of %s in the cache is not a file", b->digest);
	return 0;
}

/* With the lock; gives it up meanwhile. */
static int add(struct blobs *c, struct blob *b, struct banger_error *err)
{
	b->next = c->list;
	c->list = b;
	pthread_mutex_unlock(&c->lock);
	int r = open_file(b, err);
	pthread_mutex_lock(&c->lock);
	b->busy = false;
	if (r < 0)
		take_out(c, b);
	pthread_cond_broadcast(&c->changed);
	return r;
}

/* With the lock: the entry when it is there and can be used; NULL when there is none. */
static struct blob *wait_for(struct blobs *c, int dir_fd, const char *name)
{
	struct blob *b;

	while ((b = find(c, dir_fd, name)) && b->busy)
		pthread_cond_wait(&c->changed, &c->lock);
	return b;
}

int blobs_get(struct blobs *c, const char *digest, int64_t size, struct blob **ret,
	bool *ret_writer, struct banger_error *err)
{
	int r = pull_digest_check("the digest of a blob", digest, err);

	if (r < 0)
		return r;
	if (size < 0)
		return banger_error_set(
			err, BANGER_BAD_REQUEST, "the size of %s is negative", digest);
	int dir_fd = c->dirs[strncmp(digest, "sha512:", 7) == 0];
	const char *name = strchr(digest, ':') + 1;

	pthread_mutex_lock(&c->lock);
	struct blob *b = wait_for(c, dir_fd, name);
	if (b && b->size != size) {
		r = banger_error_set(err, BANGER_BAD_REQUEST,
			"%s should have %lld bytes here and %lld in another image", digest,
			(long long)size, (long long)b->size);
	} else if (b) {
		b->refs++;
	} else if (!(b = make(c, dir_fd, name, digest))) {
		r = banger_error_oom(err);
	} else {
		b->size = size;
		r = add(c, b, err);
		if (r < 0)
			blob_free(b);
	}
	pthread_mutex_unlock(&c->lock);
	if (r < 0)
		return r;
	*ret_writer = blob_take_over(b);
	*ret = b;
	return 0;
}

void blob_putp(struct blob **p)
{
	struct blob *b = *p;
	struct stat st;

	if (!b)
		return;
	struct blobs *c = b->cache;
	pthread_mutex_lock(&c->lock);
	bool last = --b->refs == 0;
	b->busy = last;
	pthread_mutex_unlock(&c->lock);
	if (!last)
		return;
	if (b->state != BLOB_WHOLE && fstat(b->fd, &st) == 0 && st.st_size == 0)
		(void)unlinkat(b->dir_fd, b->partial, 0);
	else
		touch(b, b->fd);
	pthread_mutex_lock(&c->lock);
	take_out(c, b);
	pthread_mutex_unlock(&c->lock);
	blob_free(b);
}

/* What is in the directories. */
struct entry {
	char name[BLOB_NAME_MAX]; /* without .partial */
	int dir_fd;
	bool partial, in_use;
	int64_t size;
	struct timespec used;
};

struct listing {
	struct entry *entries;
	size_t n, room;
};

static void listing_done(struct listing *l)
{
	free(l->entries);
}

static int listing_add(struct listing *l, const struct entry *e, struct banger_error *err)
{
	if (l->n == l->room) {
		size_t room = l->room ? l->room * 2 : 64;
		struct entry *more = reallocarray(l->entries, room, sizeof(*more));
		if (!more)
			return banger_error_oom(err);
		l->entries = more;
		l->room = room;
	}
	l->entries[l->n++] = *e;
	return 0;
}

static int list_directory(struct blobs *c, size_t i, struct listing *l, struct banger_error *err)
{
	_cleanup_closedir_ DIR *d = open_listing(c->dirs[i]);

	if (!d)
		return banger_error_set_errno(
			err, errno, "listing the cache's %s", algorithms[i].name);
	for (struct dirent *de; (de = readdir(d));) {
		struct entry e = {.dir_fd = c->dirs[i]};
		struct stat st;
		if (!name_valid(de->d_name, algorithms[i].digits, &e.partial) ||
			fstatat(c->dirs[i], de->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		snprintf(e.name, sizeof(e.name), "%.*s", (int)algorithms[i].digits, de->d_name);
		e.size = st.st_size;
		e.used = st.st_mtim;
		pthread_mutex_lock(&c->lock);
		e.in_use = find(c, c->dirs[i], e.name) != NULL;
		pthread_mutex_unlock(&c->lock);
		int r = listing_add(l, &e, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int list_all(struct blobs *c, struct listing *l, struct banger_error *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < ELEMENTSOF(algorithms); i++)
		r = list_directory(c, i, l, err);
	return r;
}

static void count(struct blobs_usage *u, const struct entry *e)
{
	if (e->partial) {
		u->partials++;
		u->partial_bytes += e->size;
	} else {
		u->blobs++;
		u->bytes += e->size;
	}
	if (e->in_use)
		u->in_use_bytes += e->size;
}

int blobs_usage(struct blobs *c, struct blobs_usage *ret, struct banger_error *err)
{
	_cleanup_(listing_done) struct listing l = {0};
	struct blobs_usage u = {0};

	int r = list_all(c, &l, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < l.n; i++)
		count(&u, &l.entries[i]);
	*ret = u;
	return 0;
}

static int by_use(const void *pa, const void *pb)
{
	const struct entry *a = pa, *b = pb;

	if (a->used.tv_sec != b->used.tv_sec)
		return a->used.tv_sec < b->used.tv_sec ? -1 : 1;
	if (a->used.tv_nsec != b->used.tv_nsec)
		return a->used.tv_nsec < b->used.tv_nsec ? -1 : 1;
	return strcmp(a->name, b->name);
}

/* 1: it is gone. 0: somebody has begun to use it. */
static int remove_entry(struct blobs *c, const struct entry *e, struct banger_error *err)
{
	struct blob *b = make(c, e->dir_fd, e->name, e->name);
	int r = 1;

	if (!b)
		return banger_error_oom(err);
	pthread_mutex_lock(&c->lock);
	bool used = find(c, e->dir_fd, e->name) != NULL;
	if (!used) {
		b->next = c->list;
		c->list = b;
	}
	pthread_mutex_unlock(&c->lock);
	if (!used) {
		if (unlinkat(e->dir_fd, e->partial ? b->partial : b->name, 0) < 0 &&
			errno != ENOENT)
			r = banger_error_set_errno(
				err, errno, "removing %s from the cache", e->name);
		pthread_mutex_lock(&c->lock);
		take_out(c, b);
		pthread_mutex_unlock(&c->lock);
	}
	blob_free(b);
	return used ? 0 : r;
}

static int prune(struct blobs *c, int64_t max, bool dry, struct blobs_usage *ret_removed,
	struct banger_error *err)
{
	_cleanup_(listing_done) struct listing l = {0};
	struct blobs_usage removed = {0};
	int64_t total = 0;

	int r = list_all(c, &l, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < l.n; i++)
		total += l.entries[i].size;
	if (l.n > 0)
		qsort(l.entries, l.n, sizeof(*l.entries), by_use);
	for (size_t i = 0; i < l.n && total > max; i++) {
		if (l.entries[i].in_use)
			continue;
		r = dry ? 1 : remove_entry(c, &l.entries[i], err);
		if (r < 0)
			return r;
		if (r > 0) {
			total -= l.entries[i].size;
			count(&removed, &l.entries[i]);
		}
	}
	if (ret_removed)
		*ret_removed = removed;
	return 0;
}

int blobs_prune(
	struct blobs *c, int64_t max, struct blobs_usage *ret_removed, struct banger_error *err)
{
	return prune(c, max, false, ret_removed, err);
}

int blobs_prune_plan(
	struct blobs *c, int64_t max, struct blobs_usage *ret_removed, struct banger_error *err)
{
	return prune(c, max, true, ret_removed, err);
}
