/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes as a bundle, taken apart into files in memory, and as the two documents that strangers write:
 * bundle.json and a catalog. Whatever they are, the outcome is an error with a message, or something
 * that holds what the headers promise: files as the document lists them, locations that a catalog of
 * that kind may name.
 *
 * An input that begins with '{' is a document, anything else an archive, whose checksums are put right
 * first: mutations would all end at the first one.
 */
#include "fuzz.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "pull/bundle.h"
#include "pull/catalog.h"
#include "unpack/bundle/bundle.h"

#define FILES 4
#define BLOCK 512

static int memory(const void *data, size_t len)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);

	MUST(fd >= 0);
	MUST(write(fd, data, len) == (ssize_t)len);
	MUST(lseek(fd, 0, SEEK_SET) == 0);
	return fd;
}

/* ---- documents */

static void check_document(const struct bundle_document *d)
{
	MUST(d->n >= 1 && d->n <= BUNDLE_FILES_MAX && strcmp(d->files[0].name, BUNDLE_ROOTFS) == 0);
	for (size_t i = 0; i < d->n; i++) {
		MUST(banger_file_name_check(d->files[i].name, NULL) == 0 && d->files[i].size >= 0);
		MUST(pull_digest_valid(d->files[i].digest));
	}
	MUST(!d->name || banger_name_valid(d->name));
	MUST(!d->kernel || banger_name_valid(d->kernel));
}

static void as_document(const char *text, size_t len)
{
	_cleanup_bundle_document_ struct bundle_document d = {0}, again = {0};
	_cleanup_free_ char *written = NULL;
	struct banger_error err = {0};
	size_t n;

	if (bundle_document_parse(text, len, &d, &err) < 0) {
		MUST(err.code != BANGER_OK && err.message[0]);
		return;
	}
	check_document(&d);
	MUST(bundle_document_text(&d, &written, &n, &err) == 0);
	MUST(bundle_document_parse(written, n, &again, &err) == 0);
	MUST(again.n == d.n);
}

static void as_catalog(const char *text, size_t len, const char *location)
{
	_cleanup_catalog_ struct catalog c = {0};
	struct banger_error err = {0};
	bool file = location[0] == '/';

	if (catalog_parse(text, len, location, &c, &err) < 0) {
		MUST(err.code != BANGER_OK && err.message[0]);
		return;
	}
	for (size_t i = 0; i < c.n; i++) {
		const struct catalog_entry *e = &c.entries[i];
		MUST(banger_name_valid(e->name) && pull_digest_valid(e->digest) && e->size > 0);
		MUST(strncmp(e->location, "http://", 7) == 0 ||
			strncmp(e->location, "https://", 8) == 0 ||
			(file && e->location[0] == '/'));
		MUST(catalog_lookup(&c, e->kind, e->name, e->arch) == e);
	}
}

/* ---- archives */

static void mend(uint8_t *data, size_t size)
{
	for (size_t at = 0; at + BLOCK <= size; at += BLOCK) {
		unsigned sum = 0;
		if (memcmp(data + at + 257, "ustar", 5) != 0)
			continue;
		memset(data + at + 148, ' ', 8);
		for (size_t i = 0; i < BLOCK; i++)
			sum += data[at + i];
		char digits[8];
		snprintf(digits, sizeof(digits), "%06o", sum & 0777777);
		memcpy(data + at + 148, digits, 7);
	}
}

static void as_archive(const uint8_t *data, size_t size)
{
	int in = memory(data, size), document = memory("", 0), files[FILES];
	const struct bundle_target target = {.document_fd = document, .files = files, .n = FILES};
	_cleanup_stream_ struct stream *stream = NULL;
	_cleanup_tar_ struct tar_reader *tar = NULL;
	const struct stream_blob *blob;
	struct banger_error err = {0};
	size_t got = FILES + 1;

	for (int i = 0; i < FILES; i++)
		files[i] = memory("", 0);
	MUST(stream_new_fd(in, &stream, &err) == 0);
	stream_start(stream);
	int r = stream_begin(stream, &blob, &err);
	if (r >= 0)
		r = tar_new(stream, false, &tar, &err);
	if (r >= 0)
		r = bundle_unpack(tar, &target, &got, &err);
	if (r < 0)
		MUST(err.code != BANGER_OK && err.message[0]);
	else
		MUST(got <= FILES);
	for (int i = 0; i < FILES; i++)
		close(files[i]);
	close(document);
	close(in);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size > 0 && data[0] == '{') {
		as_document((const char *)data, size);
		as_catalog((const char *)data, size, "http://host/a/catalog.json");
		as_catalog((const char *)data, size, "/srv/catalog.json");
		return 0;
	}
	uint8_t *copy = malloc(size + 1);
	MUST(copy);
	if (size > 0)
		memcpy(copy, data, size);
	mend(copy, size);
	as_archive(copy, size);
	free(copy);
	return 0;
}
