/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Catalogs as they are had: from their files, over HTTP, or from what was kept.
 *
 * What is kept of a catalog is STATE_DIR/cache/catalogs/HEX, HEX the SHA-256 of its location; its
 * mtime is when it was read. It is only ever written whole (a temporary file and a rename) and after
 * it was parsed, and it is parsed again and compared with the pin whenever it is used, so what a
 * crash or somebody else left there cannot be taken for a catalog. A server that answers with
 * something else than a good catalog is an error, not a reason to use what is kept: that is for a
 * server that is away.
 */
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <banger/log.h>
#include <banger/op.h>
#include "pull/catalog.h"
#include "pull/catalog_internal.h"
#include "pull/fetch.h"

#define FRESH_S 600

/* A document as text. */
struct text {
	char *s;
	size_t len;
};
static void text_done(struct text *t)
{
	free(t->s);
}
#define _cleanup_text_ _cleanup_(text_done)

/* HEX.OP_ID: a daemon was killed while it wrote one. */
static void remove_half_written(int cache_fd)
{
	int fd = openat(cache_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_closedir_ DIR *d = fd >= 0 ? fdopendir(fd) : NULL;

	if (!d && fd >= 0)
		close(fd);
	for (struct dirent *e; d && (e = readdir(d));)
		if (strspn(e->d_name, "0123456789abcdef") == 64 && e->d_name[64] == '.')
			(void)unlinkat(cache_fd, e->d_name, 0);
}

int catalogs_new(const struct banger_config *config, int state_dir_fd, struct http *http,
	struct blobs *blobs, struct catalogs **ret, struct banger_error *err)
{
	_cleanup_(catalogs_freep) struct catalogs *c = calloc(1, sizeof(*c));

	if (!c)
		return banger_error_oom(err);
	*c = (struct catalogs){.config = config, .http = http, .blobs = blobs, .cache_fd = -1};
	int r = catalog_settings_parse(config, &c->settings, err);
	if (r < 0)
		return r;
	if ((mkdirat(state_dir_fd, "cache", 0700) < 0 && errno != EEXIST) ||
		(mkdirat(state_dir_fd, "cache/catalogs", 0700) < 0 && errno != EEXIST))
		return banger_error_set_errno(
			err, errno, "making cache/catalogs in the state directory");
	c->cache_fd = openat(
		state_dir_fd, "cache/catalogs", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (c->cache_fd < 0)
		return banger_error_set_errno(
			err, errno, "opening cache/catalogs in the state directory");
	remove_half_written(c->cache_fd);
	*ret = TAKE_PTR(c);
	return 0;
}

void catalogs_freep(struct catalogs **c)
{
	if (!*c)
		return;
	catalog_settings_done(&(*c)->settings);
	banger_closep(&(*c)->cache_fd);
	free(*c);
	*c = NULL;
}

size_t catalogs_count(const struct catalogs *c)
{
	return c->settings.n;
}

const char *catalogs_location(const struct catalogs *c, size_t i)
{
	return c->settings.items[i].location;
}

const char *catalogs_pin(const struct catalogs *c, size_t i)
{
	const char *digest = c->settings.items[i].digest;

	return digest[0] ? digest : NULL;
}

/* ---- files */

static int read_whole(int fd, int64_t size, struct text *ret, struct banger_error *err)
{
	_cleanup_free_ char *s = malloc((size_t)size + 1);
	size_t len = 0;

	if (!s)
		return banger_error_oom(err);
	while (len < (size_t)size) {
		ssize_t n = pread(fd, s + len, (size_t)size - len, (off_t)len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return banger_error_set_errno(err, errno, "reading it");
		if (n == 0)
			break;
		len += (size_t)n;
	}
	s[len] = '\0';
	*ret = (struct text){TAKE_PTR(s), len};
	return 0;
}

/* A regular file of at most CATALOG_MAX bytes. */
static int read_file(int dir_fd, const char *path, struct text *ret, struct stat *ret_st,
	struct banger_error *err)
{
	_cleanup_close_ int fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

	if (fd < 0 || fstat(fd, ret_st) < 0)
		return banger_error_set_errno(err, errno, "opening it");
	if (!S_ISREG(ret_st->st_mode))
		return banger_error_set(err, BANGER_BAD_REQUEST, "it is not a regular file");
	if (ret_st->st_size > CATALOG_MAX)
		return banger_error_set(
			err, BANGER_TOO_LARGE, "it has more than %d bytes", CATALOG_MAX);
	return read_whole(fd, ret_st->st_size, ret, err);
}

/* ---- what is kept */

/* 64 hex digits. */
static int kept_name(const char *location, char ret[65], struct banger_error *err)
{
	_cleanup_pull_hash_ struct pull_hash *h = NULL;
	char digest[PULL_DIGEST_MAX];
	int r = pull_hash_new(PULL_SHA256_LIKE, &h, err);

	if (r < 0)
		return r;
	pull_hash_update(h, location, strlen(location));
	pull_hash_end(h, digest);
	memcpy(ret, digest + strlen("sha256:"), 65);
	return 0;
}

/* A failure costs a fetch the next time, and nothing else. */
static void keep(struct catalogs *c, const char *name, const struct text *t)
{
	char temporary[96];

	snprintf(temporary, sizeof(temporary), "%s.%s", name, banger_op_id_mint().s);
	_cleanup_close_ int fd =
		openat(c->cache_fd, temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	ssize_t n = fd < 0 ? -1 : write(fd, t->s, t->len);
	if (n >= 0 && (size_t)n == t->len &&
		renameat(c->cache_fd, temporary, c->cache_fd, name) == 0)
		return;
	log_warn("a catalog cannot be kept", KV_S("error", strerror(n < 0 ? errno : ENOSPC)));
	(void)unlinkat(c->cache_fd, temporary, 0);
}

/* ---- one catalog */

/* Is this what the configuration pins? */
static int check_pin(
	const struct catalog_setting *s, const struct text *t, struct banger_error *err)
{
	_cleanup_pull_hash_ struct pull_hash *h = NULL;
	char digest[PULL_DIGEST_MAX];
	int r = s->digest[0] ? pull_hash_new(s->digest, &h, err) : 1;

	if (r)
		return r < 0 ? r : 0;
	pull_hash_update(h, t->s, t->len);
	pull_hash_end(h, digest);
	if (strcmp(digest, s->digest) == 0)
		return 0;
	return banger_error_set(err, BANGER_CORRUPT,
		"the catalog %s has the digest %s, and the configuration pins %s", s->location,
		digest, s->digest);
}

static int accept_text(const struct catalog_setting *s, const struct text *t, struct catalog *ret,
	struct banger_error *err)
{
	int r = check_pin(s, t, err);

	return r < 0 ? r : catalog_parse(t->s, t->len, s->location, ret, err);
}

static int load_file(const struct catalog_setting *s, struct catalog *ret, struct banger_error *err)
{
	_cleanup_text_ struct text t = {0};
	struct stat st;
	int r = read_file(AT_FDCWD, s->location, &t, &st, err);

	if (r < 0) {
		banger_error_prefix(err, "the catalog %s", s->location);
		return r;
	}
	return accept_text(s, &t, ret, err);
}

/* What is kept, if it is good. */
static bool load_kept(struct catalogs *c, const struct catalog_setting *s, const char *name,
	struct catalog *ret, int64_t *ret_age_s)
{
	_cleanup_text_ struct text t = {0};
	struct banger_error why = {0};
	struct stat st;

	int r = read_file(c->cache_fd, name, &t, &st, &why);
	if (r == 0)
		r = accept_text(s, &t, ret, &why);
	if (r == -ENOENT)
		return false;
	if (r < 0) {
		log_warn("what is kept of a catalog is not used", KV_S("catalog", s->location),
			KV_ERR(&why));
		return false;
	}
	*ret_age_s = (int64_t)time(NULL) - st.st_mtim.tv_sec;
	return true;
}

/* persist: try again as fetch.h does. */
static int ask(struct catalogs *c, const struct catalog_setting *s, bool persist, int cancel_fd,
	struct text *ret, struct banger_error *err)
{
	static const char *const headers[] = {"Accept: application/json, */*;q=0.5", NULL};
	_cleanup_http_response_ struct http_response answer = {0};
	const struct http_request q = {.url = s->location,
		.headers = headers,
		.limit = CATALOG_MAX,
		.cancel_fd = cancel_fd};
	const struct fetch f = {.http = c->http, .config = c->config, .cancel_fd = cancel_fd};
	int r = persist ? fetch_request(&f, &q, &answer, err) : http_get(c->http, &q, &answer, err);

	if (r == 0 && answer.status != 200)
		r = fetch_status_error(s->location, &answer, err);
	if (r < 0) {
		banger_error_prefix(err, "the catalog %s", s->location);
		return r;
	}
	*ret = (struct text){TAKE_PTR(answer.body), answer.len};
	return 0;
}

/* Worth another attempt, and a reason to use what is kept. */
static bool is_away(const struct banger_error *why)
{
	return why->code == BANGER_UNAVAILABLE || why->code == BANGER_TIMEOUT;
}

static int load_http(struct catalogs *c, const struct catalog_setting *s, bool refresh,
	int cancel_fd, struct catalog *ret, int64_t *ret_age_s, struct banger_error *err)
{
	_cleanup_catalog_ struct catalog kept = {0};
	_cleanup_text_ struct text t = {0};
	struct banger_error why = {0};
	int64_t age = 0;
	char name[65];

	int r = kept_name(s->location, name, err);
	if (r < 0)
		return r;
	bool have = load_kept(c, s, name, &kept, &age);
	/* A clock that went back makes it old. What is pinned cannot have changed. */
	if (have && (s->digest[0] || (!refresh && age >= 0 && age <= FRESH_S)))
		goto use_kept;
	r = ask(c, s, !have, cancel_fd, &t, &why);
	if (r == 0)
		r = accept_text(s, &t, ret, &why);
	if (r == 0) {
		keep(c, name, &t);
		*ret_age_s = 0;
		return 0;
	}
	if (!have || !is_away(&why)) {
		if (err)
			*err = why;
		return r;
	}
	log_warn("a catalog's server is away; what was read from it before is used",
		KV_S("catalog", s->location), KV_I("age_s", age), KV_ERR(&why));
use_kept:
	*ret = kept;
	kept = (struct catalog){0};
	*ret_age_s = age > 0 ? age : 0;
	return 0;
}

int catalogs_load(struct catalogs *c, size_t i, bool refresh, int cancel_fd, struct catalog *ret,
	int64_t *ret_age_s, struct banger_error *err)
{
	const struct catalog_setting *s = &c->settings.items[i];

	if (s->location[0] != '/')
		return load_http(c, s, refresh, cancel_fd, ret, ret_age_s, err);
	int r = load_file(s, ret, err);
	if (r == 0)
		*ret_age_s = 0;
	return r;
}

/* ---- finding */

/* The architectures that a catalog has the name for, added to what others have. */
static void add_arches(
	const struct catalog *c, enum catalog_kind kind, const char *name, char *list, size_t size)
{
	for (size_t i = 0; i < c->n; i++) {
		size_t n = strlen(list);
		if (c->entries[i].kind == kind && strcmp(c->entries[i].name, name) == 0 &&
			!strstr(list, c->entries[i].arch))
			snprintf(list + n, size - n, "%s%s", n ? ", " : "", c->entries[i].arch);
	}
}

static int not_found(const struct catalogs *c, enum catalog_kind kind, const char *name,
	const char *arch, const char *arches, struct banger_error *err)
{
	const char *what = kind == CATALOG_BUNDLE ? "bundle" : "kernel";

	if (catalogs_count(c) == 0)
		return banger_error_set(err, BANGER_NOT_FOUND,
			"no %s \"%s\": the configuration lists no catalogs (\"catalogs\")%s", what,
			name,
			kind == CATALOG_BUNDLE
				? "; an image of a registry is named with its host, as in "
				  "docker.io/library/NAME"
				: "");
	if (arches[0])
		return banger_error_set(err, BANGER_NOT_FOUND,
			"%s \"%s\" is not there for %s, only for %s", what, name, arch, arches);
	return banger_error_set(err, BANGER_NOT_FOUND, "no %s \"%s\" in %zu catalog%s (%s%s)", what,
		name, catalogs_count(c), catalogs_count(c) == 1 ? "" : "s", catalogs_location(c, 0),
		catalogs_count(c) == 1 ? "" : ", …");
}

/* Move entry i out of its catalog. */
static struct catalog_entry take_entry(struct catalog *c, size_t i)
{
	struct catalog_entry e = c->entries[i];

	c->entries[i] = (struct catalog_entry){0};
	return e;
}

int catalogs_find(struct catalogs *c, enum catalog_kind kind, const char *name, const char *arch,
	int cancel_fd, struct catalog_entry *ret, struct banger_error *err)
{
	char arches[256] = "";
	int64_t age;

	arch = arch ?: catalog_machine_arch();
	for (size_t i = 0; i < catalogs_count(c); i++) {
		_cleanup_catalog_ struct catalog one = {0};
		int r = catalogs_load(c, i, false, cancel_fd, &one, &age, err);
		if (r < 0) {
			banger_error_prefix(err, "looking for \"%s\"", name);
			return r;
		}
		const struct catalog_entry *e = catalog_lookup(&one, kind, name, arch);
		if (e) {
			*ret = take_entry(&one, (size_t)(e - one.entries));
			return 0;
		}
		add_arches(&one, kind, name, arches, sizeof(arches));
	}
	return not_found(c, kind, name, arch, arches, err);
}
