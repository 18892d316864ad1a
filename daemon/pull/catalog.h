/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Catalogs: JSON documents that say where bundles (bundle.h) and kernels are to be had.
 *
 *	{"version":1,
 *	 "bundles":[{"name":"web","arch":"amd64","location":"bundles/web.tar.zst","size":123456,
 *	             "sha256":"64 hex digits","kernel":"debian-6.1"?,"description":"…"?}…],
 *	 "kernels":[{"name":"debian-6.1","arch":"amd64","version":"6.1.0-38-cloud-amd64"?,
 *	             "location":"…","size":…,"sha256":"…","description":"…"?}…]}
 *
 * Names are those of images and kernels (model.h), arch is Debian's word (amd64, arm64), and a name
 * stands for one thing of its kind and arch. location is a URL (http, https), relative to that of
 * the catalog if it is no whole one; in a catalog that is itself a file also an absolute path, a path
 * relative to the catalog's directory, or file:///PATH. Other members are for later versions and
 * passed over.
 *
 * The configuration lists catalogs, "catalogs":[{"location":"URL or absolute path","digest"?}], in
 * the order of preference: the first that has a name is the one that is asked for it. What came over
 * HTTP is kept in STATE_DIR/cache/catalogs for ten minutes, and used after that when the server is
 * away. A digest pins the content: any other is refused, whoever sent it, and what is held with it
 * is good for ever.
 *
 * All of it is made by strangers: names, locations, sizes and digests are checked here, and what is
 * fetched is checked against size and digest before anybody sees it.
 */
#ifndef BANGER_PULL_CATALOG_H
#define BANGER_PULL_CATALOG_H

#include <banger/paths.h>
#include "pull/blobs.h"
#include "pull/http.h"

#define CATALOG_MAX (4 << 20)     /* bytes of a document */
#define CATALOG_ENTRIES_MAX 10000 /* of each kind */
#define CATALOGS_MAX 64
#define CATALOG_ARCH_MAX 15

enum catalog_kind { CATALOG_BUNDLE, CATALOG_KERNEL };

struct catalog_entry {
	enum catalog_kind kind;
	char *name, *arch;
	char *location; /* a whole URL, or an absolute path */
	int64_t size;
	char digest[PULL_DIGEST_MAX];
	char *kernel;      /* of a bundle: the kernel that it wants; NULL */
	char *version;     /* of a kernel; NULL */
	char *description; /* NULL */
};
/* Where an image or a kernel that was pulled says it came from: "catalog:NAME@sha256:…". */
#define CATALOG_SOURCE_MAX 256
const char *catalog_source(const struct catalog_entry *e, char ret[CATALOG_SOURCE_MAX]);

struct catalog {
	char *location; /* as configured */
	struct catalog_entry *entries;
	size_t n;
};
void catalog_done(struct catalog *c);
#define _cleanup_catalog_ _cleanup_(catalog_done)

/* CORRUPT: no such document, with the path of the member; UNSUPPORTED: of another version. location: a URL
 * or an absolute path. */
int catalog_parse(const char *text, size_t len, const char *location, struct catalog *ret,
	struct banger_error *err);
/* Borrowed; NULL: there is none. */
const struct catalog_entry *catalog_lookup(
	const struct catalog *c, enum catalog_kind kind, const char *name, const char *arch);

/* This machine's. */
const char *catalog_machine_arch(void);

struct catalog_setting {
	char *location;               /* a URL or an absolute path */
	char digest[PULL_DIGEST_MAX]; /* "": not pinned */
};
struct catalog_settings {
	struct catalog_setting *items;
	size_t n;
};
/* BAD_REQUEST with the path of the member that is wrong. No catalogs: none. */
int catalog_settings_parse(
	const struct banger_config *config, struct catalog_settings *ret, struct banger_error *err);
void catalog_settings_done(struct catalog_settings *s);
/* The same for one who starts the daemon. */
int catalog_settings_check(const struct banger_config *config, struct banger_error *err);

/* ---- with what they need: one for the daemon. Any thread. */
struct catalogs;

/* Borrows all. Makes STATE_DIR/cache/catalogs. */
int catalogs_new(const struct banger_config *config, int state_dir_fd, struct http *http,
	struct blobs *blobs, struct catalogs **ret, struct banger_error *err);
void catalogs_freep(struct catalogs **c);

size_t catalogs_count(const struct catalogs *c);
const char *catalogs_location(const struct catalogs *c, size_t i);
const char *catalogs_pin(const struct catalogs *c, size_t i); /* NULL: it has none */

/* Catalog i. refresh: do not take what is kept, unless the server is away. cancel_fd: -1 none. *ret_age_s: how old
 * it is, 0: just read. NOT_FOUND, DENIED, UNAVAILABLE, TIMEOUT, CANCELLED; CORRUPT: it is not what the configuration
 * pins, or no catalog. */
int catalogs_load(struct catalogs *c, size_t i, bool refresh, int cancel_fd, struct catalog *ret,
	int64_t *ret_age_s, struct banger_error *err);
/* An entry that the caller owns (catalog_entry_done). arch NULL: this machine's. NOT_FOUND says which catalogs were
 * asked and for which machines they have it; any error of a catalog that stands before the one that has it, for a
 * name must not mean something else because a server is away. */
int catalogs_find(struct catalogs *c, enum catalog_kind kind, const char *name, const char *arch,
	int cancel_fd, struct catalog_entry *ret, struct banger_error *err);
void catalog_entry_done(struct catalog_entry *e);
#define _cleanup_catalog_entry_ _cleanup_(catalog_entry_done)

/* The file that an entry names, whole and checked, by the blob cache. progress: NULL, or called a few times a second
 * while it comes, on a thread of its own that is gone when this returns. Errors of fetch.h; a file that is not there is
 * NOT_FOUND. */
int catalogs_fetch(struct catalogs *c, const struct catalog_entry *e, int cancel_fd,
	void (*progress)(void *arg, int64_t fetched), void *arg, struct blob **ret,
	struct banger_error *err);

#endif
