/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bundles: an image as one file, to be carried and published elsewhere.
 *
 * A bundle is a tar archive (pax) compressed with zstd. Its first member is bundle.json:
 *
 *	{"bundle":1,"name":"web","kernel":"debian-6.1"?,"config":{…}?,
 *	 "files":[{"name":"rootfs.ext4","size":1073741824,"digest":"sha256:…"},…]}
 *
 * and after it the files follow in the order of the list, rootfs.ext4 first, sparse ones in the
 * "sparse format 1.0" of GNU tar's manual (blocks of zeros are holes). name, kernel and config are as
 * banger_image has them; digest and size are of the file with its holes as zeros.
 *
 * What export writes depends on the image alone: no clock, no owner, no order of a directory, no
 * number of threads goes into it (the version of libzstd does). Its first zstd frame holds nothing
 * but the header of bundle.json, uncompressed, so that a bundle can be told from any other archive by
 * its first bytes; that is for banger-ctl's convenience, and not asked of a bundle.
 *
 * Reading one is for a process with nothing to lose (bundle_extract()); what it made is then checked
 * here against bundle.json: names, sizes, digests, nothing missing.
 */
#ifndef BANGER_PULL_BUNDLE_H
#define BANGER_PULL_BUNDLE_H

#include <banger/model.h>
#include <banger/paths.h>
#include "pull/digest.h"

#define BUNDLE_JSON "bundle.json"
#define BUNDLE_ROOTFS "rootfs.ext4"
#define BUNDLE_FILES_MAX 64
#define BUNDLE_JSON_MAX (1 << 20)

struct bundle_file {
	char *name;
	int64_t size;
	char digest[PULL_DIGEST_MAX];
};

struct bundle_document {
	char *name;   /* of the image it was made of; NULL: not said */
	char *kernel; /* NULL */
	char *config; /* JSON text, normalised; NULL */
	struct bundle_file *files;
	size_t n;
};
void bundle_document_done(struct bundle_document *d);
#define _cleanup_bundle_document_ _cleanup_(bundle_document_done)
/* CORRUPT with the path of the member that is wrong; UNSUPPORTED: of a later version. */
int bundle_document_parse(
	const char *text, size_t len, struct bundle_document *ret, struct banger_error *err);
/* Its text; owned by the caller. */
int bundle_document_text(
	const struct bundle_document *d, char **ret, size_t *ret_len, struct banger_error *err);

/* Do these first bytes of a file say that it is a bundle as export writes them? */
#define BUNDLE_HEAD 512
bool bundle_head_matches(const void *head, size_t len);

/* ---- writing */

/* Data of a file: what is between pieces, and after the last one, is zeros. In order. */
struct bundle_piece {
	int64_t offset, len;
};

struct bundle_output {
	int fd;        /* a file, a pipe, a socket; borrowed */
	int cancel_fd; /* readable: CANCELLED; -1: none */
	int workers;   /* threads that compress, at least 1; 0: one for each CPU, up to 8 */
	/* NULL, or called now and then with the bytes of files that were read. */
	void (*progress)(void *arg, int64_t done);
	void *arg;
};

struct bundle_writer;
int bundle_writer_new(
	const struct bundle_output *o, struct bundle_writer **ret, struct banger_error *err);
void bundle_writer_freep(struct bundle_writer **w);
#define _cleanup_bundle_writer_ _cleanup_(bundle_writer_freep)
/* bundle.json: the first call. */
int bundle_writer_document(
	struct bundle_writer *w, const char *text, size_t len, struct banger_error *err);
/* The next file of the list. fd is read where the pieces are; it must not change meanwhile. */
int bundle_writer_file(struct bundle_writer *w, const char *name, int fd, int64_t size,
	const struct bundle_piece *pieces, size_t n, struct banger_error *err);
/* *ret_digest: of all that was written, as a catalog wants it. */
int bundle_writer_finish(struct bundle_writer *w, int64_t *ret_size,
	char ret_digest[PULL_DIGEST_MAX], struct banger_error *err);

/* ---- reading */

struct bundle_source {
	int fd; /* the bundle, read from where it is to its end; borrowed */
	int dir_fd; /* a directory to make its files in; what is left there after a failure is the caller's */
	int cancel_fd;                             /* readable: CANCELLED; -1: none */
	void (*progress)(void *arg, int64_t read); /* bytes of the bundle; NULL */
	void *arg;
};

/* Unpack by banger-unpack, check, name. The files are 0600 and not fsynced. BAD_REQUEST: no bundle; CORRUPT: a file
 * is not what bundle.json says, something is missing or too much, or the archive is damaged; INCOMPLETE: no
 * rootfs.ext4; and what unpack/run.h says. */
int bundle_extract(const struct banger_config *config, const struct bundle_source *s,
	struct bundle_document *ret, struct banger_error *err);

#endif
