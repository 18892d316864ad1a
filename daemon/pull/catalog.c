/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The catalog's document and the configuration's list of catalogs: from JSON to checked entries.
 *
 * Every member is looked at before it is used, and a wrong one refuses the whole document, with its
 * path: half a catalog would make a name mean another thing than its author said. What a catalog
 * names is bounded by where the catalog itself comes from: one that came over the network can only
 * name what is on the network, so it cannot have the daemon read a file of this host. URLs are taken
 * apart and put together by libcurl, which also fetches them, so that the two cannot disagree.
 */
#include "pull/catalog.h"

#include <curl/curl.h>
#include <string.h>
#include <sys/utsname.h>
#include <banger/model.h>

#define LOCATION_MAX 4096
#define DESCRIPTION_MAX 1024
#define VERSION_MAX 127
#define SIZE_MAX_BYTES (INT64_C(16) << 40)

static void url_freep(CURLU **u)
{
	curl_url_cleanup(*u);
}
static void curl_textp(char **s)
{
	curl_free(*s);
}
#define _cleanup_url_ _cleanup_(url_freep)
#define _cleanup_curl_ _cleanup_(curl_textp)

/* ---- entries */

void catalog_entry_done(struct catalog_entry *e)
{
	free(e->name);
	free(e->arch);
	free(e->location);
	free(e->kernel);
	free(e->version);
	free(e->description);
	*e = (struct catalog_entry){0};
}

void catalog_done(struct catalog *c)
{
	for (size_t i = 0; i < c->n; i++)
		catalog_entry_done(&c->entries[i]);
	free(c->entries);
	free(c->location);
	*c = (struct catalog){0};
}

const char *catalog_source(const struct catalog_entry *e, char ret[CATALOG_SOURCE_MAX])
{
	snprintf(ret, CATALOG_SOURCE_MAX, "catalog:%s@%s", e->name, e->digest);
	return ret;
}

const char *catalog_machine_arch(void)
{
	static const char *const names[][2] = {{"x86_64", "amd64"}, {"aarch64", "arm64"},
		{"riscv64", "riscv64"}, {"ppc64le", "ppc64el"}, {"s390x", "s390x"}};
	struct utsname u;

	for (size_t i = 0; uname(&u) == 0 && i < ELEMENTSOF(names); i++)
		if (strcmp(u.machine, names[i][0]) == 0)
			return names[i][1];
	return "unknown";
}

/* ---- locations */

static bool is_http(const char *s)
{
	return strncmp(s, "http://", 7) == 0 || strncmp(s, "https://", 8) == 0;
}

/* "ftp:" of "ftp://x": does it begin as a URL of some scheme? */
static bool has_scheme(const char *s)
{
	size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+.-");

	return n > 0 && s[n] == ':';
}

static bool is_plain(const char *s, size_t max)
{
	size_t n = strlen(s);

	for (const char *p = s; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			return false;
	return n > 0 && n <= max;
}

static int bad_url(const char *why, struct banger_error *err)
{
	return banger_error_set(err, BANGER_BAD_REQUEST, "%s", why);
}

/* What a URL of ours must be: http or https, a host, nobody's password, no fragment. */
static int check_url(CURLU *u, char **ret, struct banger_error *err)
{
	_cleanup_curl_ char *scheme = NULL, *host = NULL, *user = NULL, *fragment = NULL,
			    *whole = NULL;

	if (curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK ||
		(strcmp(scheme, "http") != 0 && strcmp(scheme, "https") != 0))
		return bad_url("is neither http nor https", err);
	if (curl_url_get(u, CURLUPART_HOST, &host, 0) != CURLUE_OK || !*host)
		return bad_url("names no host", err);
	if (curl_url_get(u, CURLUPART_USER, &user, 0) == CURLUE_OK)
		return bad_url("has a user name in it, which would be shown to everybody", err);
	if (curl_url_get(u, CURLUPART_FRAGMENT, &fragment, 0) == CURLUE_OK)
		return bad_url("has a \"#\" in it", err);
	if (curl_url_get(u, CURLUPART_URL, &whole, 0) != CURLUE_OK || strlen(whole) > LOCATION_MAX)
		return bad_url("is no URL", err);
	*ret = strdup(whole);
	return *ret ? 0 : banger_error_oom(err);
}

/* A URL, by itself or as seen from base. */
static int resolve_url(const char *base, const char *text, char **ret, struct banger_error *err)
{
	_cleanup_url_ CURLU *u = curl_url();

	if (!u)
		return banger_error_oom(err);
	if ((base && curl_url_set(u, CURLUPART_URL, base, 0) != CURLUE_OK) ||
		curl_url_set(u, CURLUPART_URL, text, 0) != CURLUE_OK)
		return bad_url("is no URL", err);
	return check_url(u, ret, err);
}

/* file:///PATH, its escapes undone. */
static int file_url(const char *text, char **ret, struct banger_error *err)
{
	_cleanup_url_ CURLU *u = curl_url();
	_cleanup_curl_ char *path = NULL;

	if (!u)
		return banger_error_oom(err);
	if (strncmp(text, "file:///", 8) != 0 ||
		curl_url_set(u, CURLUPART_URL, text, 0) != CURLUE_OK ||
		curl_url_get(u, CURLUPART_PATH, &path, CURLU_URLDECODE) != CURLUE_OK ||
		path[0] != '/')
		return bad_url("is not of the form file:///PATH", err);
	*ret = strdup(path);
	return *ret ? 0 : banger_error_oom(err);
}

/* A path as seen from the file `base`. */
static int beside(const char *base, const char *text, char **ret, struct banger_error *err)
{
	const char *slash = strrchr(base, '/');
	char *path;

	if (asprintf(&path, "%.*s/%s", (int)(slash - base), base, text) < 0)
		return banger_error_oom(err);
	*ret = path;
	return 0;
}

/* An entry's location as seen from its catalog. */
static int resolve(const char *catalog, const char *text, char **ret, struct banger_error *err)
{
	if (is_http(text))
		return resolve_url(NULL, text, ret, err);
	if (is_http(catalog)) {
		if (has_scheme(text) || strncmp(text, "//", 2) == 0)
			return bad_url(
				"is neither http nor https, and the catalog is not a file", err);
		return resolve_url(catalog, text, ret, err);
	}
	if (strncmp(text, "file:", 5) == 0)
		return file_url(text, ret, err);
	if (has_scheme(text) && strstr(text, "://"))
		return bad_url("is neither http, https nor file", err);
	if (text[0] != '/')
		return beside(catalog, text, ret, err);
	*ret = strdup(text);
	return *ret ? 0 : banger_error_oom(err);
}

/* A catalog's own. */
static int resolve_catalog(const char *text, char **ret, struct banger_error *err)
{
	if (is_http(text))
		return resolve_url(NULL, text, ret, err);
	if (strncmp(text, "file:", 5) == 0)
		return file_url(text, ret, err);
	if (text[0] != '/')
		return bad_url("is neither a URL (http, https, file) nor an absolute path", err);
	*ret = strdup(text);
	return *ret ? 0 : banger_error_oom(err);
}

/* ---- members of an entry */

/* One entry on its way; messages begin with "bundles[3].name". */
struct reading {
	struct json_object *o;
	const char *list;
	size_t i;
	struct banger_error *err;
};

static int _printf_(3, 4) refuse(const struct reading *r, const char *key, const char *fmt, ...)
{
	char why[600];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	return banger_error_set(r->err, BANGER_CORRUPT, "%s[%zu].%s %s", r->list, r->i, key, why);
}

/* A text of at most max bytes without control characters: NULL for one that may be left out and is. */
static int take_text(
	const struct reading *r, const char *key, size_t max, bool required, char **ret)
{
	struct json_object *v = banger_json_get(r->o, key);
	const char *s = banger_json_str(r->o, key);

	if (!v && !required)
		return 0;
	if (!v)
		return refuse(r, key, "is missing");
	if (!s)
		return refuse(r, key, "is not a string");
	if (!is_plain(s, max))
		return refuse(
			r, key, "is empty, longer than %zu bytes, or has control characters", max);
	*ret = strdup(s);
	return *ret ? 0 : banger_error_oom(r->err);
}

static int take_name(const struct reading *r, const char *key, bool required, char **ret)
{
	_cleanup_free_ char *s = NULL;
	int e = take_text(r, key, BANGER_NAME_MAX, required, &s);

	if (e == 0 && s && !banger_name_valid(s))
		return refuse(r, key, "\"%s\" is not a name", s);
	if (e == 0)
		*ret = TAKE_PTR(s);
	return e;
}

static int take_arch(const struct reading *r, char **ret)
{
	_cleanup_free_ char *s = NULL;
	int e = take_text(r, "arch", CATALOG_ARCH_MAX, true, &s);

	if (e == 0 && s[strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789")])
		return refuse(r, "arch", "\"%s\" is not a name such as amd64", s);
	if (e == 0)
		*ret = TAKE_PTR(s);
	return e;
}

static int take_digest(const struct reading *r, char ret[PULL_DIGEST_MAX])
{
	const char *s = banger_json_str(r->o, "sha256");

	if (!s)
		return refuse(r, "sha256", "is missing or not a string");
	snprintf(ret, PULL_DIGEST_MAX, "sha256:%.70s", s);
	if (strlen(s) != 64 || !pull_digest_valid(ret))
		return refuse(r, "sha256", "is not 64 lower-case hex digits");
	return 0;
}

static int take_size(const struct reading *r, int64_t *ret)
{
	int64_t size = banger_json_int(r->o, "size", 0);

	if (size < 1 || size > SIZE_MAX_BYTES)
		return refuse(r, "size", "is not a number of bytes from 1 to 16 TiB");
	*ret = size;
	return 0;
}

static int take_location(const struct reading *r, const char *catalog, char **ret)
{
	_cleanup_free_ char *s = NULL;
	int e = take_text(r, "location", LOCATION_MAX, true, &s);

	if (e < 0)
		return e;
	struct banger_error why = {0};
	e = resolve(catalog, s, ret, &why);
	if (e == -EINVAL)
		return refuse(r, "location", "\"%.200s\" %.300s", s, why.message);
	if (e < 0 && r->err)
		*r->err = why;
	return e;
}

static int read_entry(const struct reading *r, enum catalog_kind kind, const char *catalog,
	struct catalog_entry *ret)
{
	ret->kind = kind;
	int e = take_name(r, "name", true, &ret->name);
	if (e == 0)
		e = take_arch(r, &ret->arch);
	if (e == 0)
		e = take_location(r, catalog, &ret->location);
	if (e == 0)
		e = take_size(r, &ret->size);
	if (e == 0)
		e = take_digest(r, ret->digest);
	if (e == 0 && kind == CATALOG_BUNDLE)
		e = take_name(r, "kernel", false, &ret->kernel);
	if (e == 0 && kind == CATALOG_KERNEL)
		e = take_text(r, "version", VERSION_MAX, false, &ret->version);
	if (e == 0)
		e = take_text(r, "description", DESCRIPTION_MAX, false, &ret->description);
	return e;
}

/* ---- the document */

static int by_name(const void *a, const void *b)
{
	const struct catalog_entry *const *x = a, *const *y = b;
	int r = (int)(*x)->kind - (int)(*y)->kind;

	if (r == 0)
		r = strcmp((*x)->name, (*y)->name);
	return r ? r : strcmp((*x)->arch, (*y)->arch);
}

/* Nothing is said twice. */
static int check_twice(const struct catalog *c, struct banger_error *err)
{
	_cleanup_free_ const struct catalog_entry **sorted = calloc(c->n + 1, sizeof(*sorted));

	if (!sorted)
		return banger_error_oom(err);
	for (size_t i = 0; i < c->n; i++)
		sorted[i] = &c->entries[i];
	qsort(sorted, c->n, sizeof(*sorted), by_name);
	for (size_t i = 1; i < c->n; i++)
		if (by_name(&sorted[i - 1], &sorted[i]) == 0)
			return banger_error_set(err, BANGER_CORRUPT,
				"the %s \"%s\" for %s is there twice",
				sorted[i]->kind == CATALOG_BUNDLE ? "bundle" : "kernel",
				sorted[i]->name, sorted[i]->arch);
	return 0;
}

static int read_list(struct json_object *doc, const char *list, enum catalog_kind kind,
	struct catalog *c, struct banger_error *err)
{
	struct json_object *a = banger_json_get(doc, list);

	if (!a)
		return 0;
	if (!json_object_is_type(a, json_type_array))
		return banger_error_set(err, BANGER_CORRUPT, "%s is not a list", list);
	size_t n = json_object_array_length(a);
	if (n > CATALOG_ENTRIES_MAX)
		return banger_error_set(err, BANGER_CORRUPT, "%s has more than %d entries", list,
			CATALOG_ENTRIES_MAX);
	struct catalog_entry *more = reallocarray(c->entries, c->n + n + 1, sizeof(*more));
	if (!more)
		return banger_error_oom(err);
	c->entries = more;
	for (size_t i = 0; i < n; i++) {
		const struct reading r = {json_object_array_get_idx(a, i), list, i, err};
		struct catalog_entry *e = &c->entries[c->n];

		if (!json_object_is_type(r.o, json_type_object))
			return banger_error_set(
				err, BANGER_CORRUPT, "%s[%zu] is not an object", list, i);
		*e = (struct catalog_entry){0};
		c->n++;
		int k = read_entry(&r, kind, c->location, e);
		if (k < 0)
			return k;
	}
	return 0;
}

static int read_document(struct json_object *doc, struct catalog *c, struct banger_error *err)
{
	if (!json_object_is_type(doc, json_type_object))
		return banger_error_set(err, BANGER_CORRUPT, "it is not a JSON object");
	int64_t version = banger_json_int(doc, "version", -1);
	if (version < 0)
		return banger_error_set(err, BANGER_CORRUPT, "it has no version");
	if (version != 1)
		return banger_error_set(err, BANGER_UNSUPPORTED,
			"it is of version %lld, and this banger reads version 1",
			(long long)version);
	int r = read_list(doc, "bundles", CATALOG_BUNDLE, c, err);
	if (r == 0)
		r = read_list(doc, "kernels", CATALOG_KERNEL, c, err);
	return r < 0 ? r : check_twice(c, err);
}

int catalog_parse(const char *text, size_t len, const char *location, struct catalog *ret,
	struct banger_error *err)
{
	_cleanup_json_ struct json_object *doc = NULL;
	_cleanup_catalog_ struct catalog c = {.location = strdup(location)};
	struct banger_error why = {0};
	int r = c.location ? 0 : banger_error_oom(&why);

	if (r == 0 && len > CATALOG_MAX)
		r = banger_error_set(
			&why, BANGER_TOO_LARGE, "it has more than %d bytes", CATALOG_MAX);
	if (r == 0)
		r = banger_json_parse(text, len, &doc, &why);
	if (r == -EINVAL) { /* it is not the caller's request that is wrong */
		why.code = BANGER_CORRUPT;
		r = -EUCLEAN;
	}
	if (r == 0)
		r = read_document(doc, &c, &why);
	if (r < 0) {
		banger_error_prefix(&why, "the catalog %s", location);
		if (err)
			*err = why;
		return r;
	}
	*ret = c;
	c = (struct catalog){0};
	return 0;
}

const struct catalog_entry *catalog_lookup(
	const struct catalog *c, enum catalog_kind kind, const char *name, const char *arch)
{
	for (size_t i = 0; i < c->n; i++)
		if (c->entries[i].kind == kind && strcmp(c->entries[i].name, name) == 0 &&
			strcmp(c->entries[i].arch, arch) == 0)
			return &c->entries[i];
	return NULL;
}

/* ---- settings */

void catalog_settings_done(struct catalog_settings *s)
{
	for (size_t i = 0; i < s->n; i++)
		free(s->items[i].location);
	free(s->items);
	*s = (struct catalog_settings){0};
}

/* A key that is not one of ours is a mistake of the person who wrote it. */
static int check_keys(struct json_object *o, size_t i, struct banger_error *err)
{
	json_object_object_foreach (o, key, value) {
		(void)value;
		if (strcmp(key, "location") != 0 && strcmp(key, "digest") != 0)
			return banger_error_set(err, BANGER_BAD_REQUEST,
				"catalogs[%zu] has an unknown key \"%s\"", i, key);
	}
	return 0;
}

static int read_setting(
	struct json_object *o, size_t i, struct catalog_setting *ret, struct banger_error *err)
{
	const char *location = banger_json_str(o, "location"),
		   *digest = banger_json_str(o, "digest");
	char what[64];

	if (!json_object_is_type(o, json_type_object))
		return banger_error_set(
			err, BANGER_BAD_REQUEST, "catalogs[%zu] is not an object", i);
	int r = check_keys(o, i, err);
	if (r < 0)
		return r;
	if (!location || !is_plain(location, LOCATION_MAX))
		return banger_error_set(
			err, BANGER_BAD_REQUEST, "catalogs[%zu].location is missing or no text", i);
	if (!digest && banger_json_get(o, "digest"))
		return banger_error_set(
			err, BANGER_BAD_REQUEST, "catalogs[%zu].digest is not a string", i);
	snprintf(what, sizeof(what), "catalogs[%zu].digest", i);
	if (digest && (r = pull_digest_check(what, digest, err)) < 0)
		return r;
	snprintf(ret->digest, sizeof(ret->digest), "%s", digest ?: "");
	r = resolve_catalog(location, &ret->location, err);
	if (r == -EINVAL)
		banger_error_prefix(err, "catalogs[%zu].location", i);
	return r;
}

int catalog_settings_parse(
	const struct banger_config *config, struct catalog_settings *ret, struct banger_error *err)
{
	_cleanup_json_ struct json_object *list = NULL;
	_cleanup_(catalog_settings_done) struct catalog_settings s = {0};
	int r = 0;

	if (config->catalogs)
		r = banger_json_parse(config->catalogs, strlen(config->catalogs), &list, err);
	if (r < 0)
		return r;
	if (list && !json_object_is_type(list, json_type_array))
		return banger_error_set(err, BANGER_BAD_REQUEST, "catalogs is not a list");
	size_t n = list ? json_object_array_length(list) : 0;
	if (n > CATALOGS_MAX)
		return banger_error_set(
			err, BANGER_BAD_REQUEST, "there are more than %d catalogs", CATALOGS_MAX);
	s.items = calloc(n + 1, sizeof(*s.items));
	if (!s.items)
		return banger_error_oom(err);
	for (; s.n < n && r == 0; s.n++)
		r = read_setting(json_object_array_get_idx(list, s.n), s.n, &s.items[s.n], err);
	if (r < 0)
		return r;
	*ret = s;
	s = (struct catalog_settings){0};
	return 0;
}

int catalog_settings_check(const struct banger_config *config, struct banger_error *err)
{
	_cleanup_(catalog_settings_done) struct catalog_settings s = {0};
	int r = catalog_settings_parse(config, &s, err);

	if (r < 0)
		banger_error_prefix(err, "the configuration%s%s", config->file ? " file " : "",
			config->file ?: "");
	return r;
}
