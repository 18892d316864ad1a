/* SPDX-License-Identifier: Apache-2.0 */
/* Bundles: their document, and that what is written depends on nothing but the image. */
#include "check.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>
#include "pull/bundle.h"

#define HEX "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define ROOT "{\"name\":\"rootfs.ext4\",\"size\":7,\"digest\":\"sha256:" HEX "\"}"
#define OTHER(name) "{\"name\":\"" name "\",\"size\":7,\"digest\":\"sha256:" HEX "\"}"
#define DOC(files) "{\"bundle\":1,\"files\":[" files "]}"

static void documents(void **state)
{
	static const struct {
		const char *text, *why;
		enum banger_code code;
	} cases[] = {
		{DOC(ROOT), "", BANGER_OK},
		{DOC(ROOT "," OTHER("work-seed.ext4")), "", BANGER_OK},
		{"{\"bundle\":1,\"name\":\"web\",\"kernel\":\"k\",\"config\":{\"cmd\":[\"a\"]},"
		 "\"later\":1,\"files\":[" ROOT "]}",
			"", BANGER_OK},
		{"", "too early", BANGER_CORRUPT},
		{"[]", "\"bundle\" is missing", BANGER_CORRUPT},
		{"{\"bundle\":2}", "version 2", BANGER_UNSUPPORTED},
		{"{\"bundle\":1}", "files is not a list", BANGER_CORRUPT},
		{DOC(""), "not rootfs.ext4", BANGER_INCOMPLETE},
		{DOC(OTHER("a") "," ROOT), "not rootfs.ext4", BANGER_INCOMPLETE},
		{DOC(ROOT "," OTHER("..")), "files[1].name", BANGER_CORRUPT},
		{DOC(ROOT "," OTHER("a/b")), "files[1].name", BANGER_CORRUPT},
		{DOC(ROOT "," OTHER("")), "files[1].name", BANGER_CORRUPT},
		{DOC(ROOT "," OTHER("bundle.json")), "files[1].name", BANGER_CORRUPT},
		{DOC(ROOT "," OTHER("image.json")), "files[1].name", BANGER_CORRUPT},
		{DOC(ROOT "," ROOT), "the name of files[0]", BANGER_CORRUPT},
		{DOC(ROOT ",{\"name\":\"a\",\"size\":-1,\"digest\":\"sha256:" HEX "\"}"),
			"files[1].size", BANGER_CORRUPT},
		{DOC(ROOT ",{\"name\":\"a\",\"size\":1,\"digest\":\"sha256:x\"}"),
			"files[1].digest", BANGER_CORRUPT},
		{"{\"bundle\":1,\"name\":\"../x\",\"files\":[" ROOT "]}", "name is not",
			BANGER_CORRUPT},
		{"{\"bundle\":1,\"kernel\":\"../x\",\"files\":[" ROOT "]}", "kernel",
			BANGER_CORRUPT},
		{"{\"bundle\":1,\"config\":{\"root\":1},\"files\":[" ROOT "]}", "config",
			BANGER_CORRUPT},
	};

	for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
		_cleanup_bundle_document_ struct bundle_document d = {0};
		struct banger_error err = {0};

		bundle_document_parse(cases[i].text, strlen(cases[i].text), &d, &err);
		if (err.code != cases[i].code)
			fail_msg("%s: %s", cases[i].text, err.message);
		if (err.code)
			assert_message(&err, cases[i].why);
	}
}

static void there_and_back(void **state)
{
	static const char text[] =
		"{\"bundle\":1,\"name\":\"web\",\"kernel\":\"k\",\"config\":{\"env\":[\"A=b\"],"
		"\"cmd\":[\"/bin/sh\"]},\"files\":[" ROOT "]}\n";
	_cleanup_bundle_document_ struct bundle_document d = {0};
	_cleanup_free_ char *again = NULL;
	size_t len;

	assert_int_equal(bundle_document_parse(text, strlen(text), &d, NULL), 0);
	assert_string_equal(d.kernel, "k");
	assert_int_equal(bundle_document_text(&d, &again, &len, NULL), 0);
	assert_string_equal(again, text);
	assert_int_equal(len, strlen(text));
}

/* ---- writing */

#define SIZE (INT64_C(40) << 20)

/* Half of it noise, half of it text, with holes. */
static int make_file(void)
{
	int fd = memfd_create("rootfs", MFD_CLOEXEC);
	char *piece = malloc(1 << 20);
	unsigned seed = 7;

	for (int64_t at = 0; at < SIZE; at += 4 << 20) {
		for (int i = 0; i < 1 << 20; i++)
			piece[i] = (at >> 22) & 1 ? (char)rand_r(&seed) : (char)('a' + i % 23);
		assert_int_equal(pwrite(fd, piece, 1 << 20, at), 1 << 20);
	}
	assert_int_equal(ftruncate(fd, SIZE), 0);
	free(piece);
	return fd;
}

static void write_bundle(int fd, int out, int workers, char digest[PULL_DIGEST_MAX])
{
	const struct bundle_output o = {.fd = out, .cancel_fd = -1, .workers = workers};
	_cleanup_bundle_writer_ struct bundle_writer *w = NULL;
	struct bundle_piece pieces[10];
	int64_t size;

	for (int i = 0; i < 10; i++)
		pieces[i] = (struct bundle_piece){(int64_t)i << 22, 1 << 20};
	assert_int_equal(bundle_writer_new(&o, &w, NULL), 0);
	assert_int_equal(bundle_writer_document(w, "{}", 2, NULL), 0);
	assert_int_equal(bundle_writer_file(w, "rootfs.ext4", fd, SIZE, pieces, 10, NULL), 0);
	assert_int_equal(bundle_writer_finish(w, &size, digest, NULL), 0);
}

static void threads_do_not_show(void **state)
{
	char first[PULL_DIGEST_MAX] = "", other[PULL_DIGEST_MAX];
	unsigned char head[BUNDLE_HEAD + 100];
	int fd = make_file();

	for (int workers = 1; workers <= 6; workers++) {
		int out = memfd_create("bundle", MFD_CLOEXEC);
		write_bundle(fd, out, workers, other);
		if (workers == 1)
			memcpy(first, other, sizeof(first));
		assert_string_equal(first, other);
		assert_int_equal(pread(out, head, sizeof(head), 0), sizeof(head));
		assert_true(bundle_head_matches(head, sizeof(head)));
		assert_false(bundle_head_matches(head, BUNDLE_HEAD - 1));
		head[11] ^= 1;
		assert_false(bundle_head_matches(head, sizeof(head)));
		close(out);
	}
	close(fd);
}

static void *cancel_soon(void *arg)
{
	(void)poll(NULL, 0, 100);
	(void)eventfd_write(*(int *)arg, 1);
	return NULL;
}

/* A pipe that nobody reads does not hold up a cancellation. */
static void a_full_pipe_can_be_left(void **state)
{
	_cleanup_bundle_writer_ struct bundle_writer *w = NULL;
	const struct bundle_piece piece = {0, 4 << 20};
	struct banger_error err = {0};
	int ends[2], cancel = eventfd(0, EFD_CLOEXEC), fd = memfd_create("noise", MFD_CLOEXEC);
	int noise = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
	char *data = malloc(4 << 20);
	pthread_t thread;
	int64_t size;
	char digest[PULL_DIGEST_MAX];

	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	assert_int_equal(read(noise, data, 4 << 20), 4 << 20);
	assert_int_equal(write(fd, data, 4 << 20), 4 << 20);
	const struct bundle_output o = {.fd = ends[1], .cancel_fd = cancel};
	assert_int_equal(bundle_writer_new(&o, &w, NULL), 0);
	assert_int_equal(pthread_create(&thread, NULL, cancel_soon, &cancel), 0);
	int r = bundle_writer_document(w, "{}", 2, &err);
	for (int i = 0; i < 10 && r == 0; i++)
		r = bundle_writer_file(w, "rootfs.ext4", fd, 4 << 20, &piece, 1, &err);
	if (r == 0)
		r = bundle_writer_finish(w, &size, digest, &err);
	assert_int_equal(err.code, BANGER_CANCELLED);
	pthread_join(thread, NULL);
	free(data);
	close(noise);
	close(fd);
	close(cancel);
	close(ends[0]);
	close(ends[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(documents),
		cmocka_unit_test(there_and_back), cmocka_unit_test(threads_do_not_show),
		cmocka_unit_test(a_full_pipe_can_be_left)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
