/* SPDX-License-Identifier: Apache-2.0 */
/* Import from a file and from a pipe, raw and tar; what a failure leaves: nothing. */
#include "fixture.h"
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>

static int open_sound(void)
{
	int fd = open(sound_image(), O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static void expect_nothing_left(struct fixture *f, int images)
{
	wait_trash(f);
	assert_int_equal(count_dir(path(f, "staging")), 0);
	assert_int_equal(count_dir(path(f, "images")), images);
	assert_int_equal(disagreements(f), 0);
}

static void imports_a_file(void **state)
{
	struct fixture *f = *state;
	_cleanup_close_ int fd = open_sound();
	_cleanup_image_ struct banger_image i = {0};
	struct image_verdict v = {0};
	struct image_import in = {.name = "web", .format = "auto", .source = "/x.ext4", .fd = fd};
	struct stat st;

	assert_ok(f, do_import(f, &in, &i));
	assert_int_equal(i.state, BANGER_PUBLISHED);
	assert_string_equal(i.source, "/x.ext4");
	assert_int_equal(i.size, 8 << 20);
	assert_int_equal(mode_of(path(f, "images/%s/" ROOTFS, i.id)), 0444);
	/* Holes stay holes. */
	assert_int_equal(stat(path(f, "images/%s/" ROOTFS, i.id), &st), 0);
	assert_true(st.st_blocks * 512 < 4 << 20);
	assert_ok(f, do_verify(f, "web", &v));
	assert_true(v.digest_ok && v.fsck_ok);
	assert_string_equal(v.digest, i.digest);
	banger_image_done(&v.image);
	expect_nothing_left(f, 1);

	assert_code(f, do_import(f, &in, NULL), EXISTS);
	in.name = "other";
	in.size = 1 << 30;
	assert_code(f, do_import(f, &in, NULL), BAD_REQUEST);
	in.size = 0;
	in.format = "zip";
	assert_code(f, do_import(f, &in, NULL), BAD_REQUEST);
	in.format = "tar";
	assert_code(f, do_import(f, &in, NULL), UNSUPPORTED);
	in.format = "raw";
	in.fd = f->dir_fd;
	assert_code(f, do_import(f, &in, NULL), BAD_REQUEST);
	expect_nothing_left(f, 1);
}

struct feeder {
	int fd;
	size_t max; /* stop after so many bytes */
	size_t piece;
};

static void *feed(void *arg)
{
	struct feeder *feeder = arg;
	char buf[65536];
	int in = open_sound();
	ssize_t n;

	while (feeder->max > 0 &&
		(n = read(in, buf, feeder->piece < feeder->max ? feeder->piece : feeder->max)) >
			0) {
		feeder->max -= (size_t)n;
		if (write(feeder->fd, buf, (size_t)n) < 0)
			break;
	}
	close(in);
	close(feeder->fd);
	return NULL;
}

static int import_stream(struct fixture *f, bool socket, size_t max, const char *format)
{
	struct image_import in = {.name = "web", .format = format};
	struct feeder feeder = {.max = max, .piece = 700};
	pthread_t thread;
	int ends[2];

	assert_int_equal(socket ? socketpair(AF_UNIX, SOCK_STREAM, 0, ends) : pipe(ends), 0);
	feeder.fd = ends[1];
	in.fd = ends[0];
	pthread_create(&thread, NULL, feed, &feeder);
	int r = do_import(f, &in, NULL);
	close(ends[0]);
	pthread_join(thread, NULL);
	return r;
}

static void imports_a_stream(void **state)
{
	struct fixture *f = *state;
	_cleanup_image_ struct banger_image i = {0};
	struct image_verdict v = {0};
	struct stat st;

	signal(SIGPIPE, SIG_IGN);
	for (int k = 0; k < 2; k++) {
		assert_ok(f, import_stream(f, k, SIZE_MAX, k ? "auto" : "raw"));
		assert_ok(f, do_verify(f, "web", &v));
		assert_true(v.digest_ok && v.fsck_ok);
		assert_int_equal(stat(path(f, "images/%s/" ROOTFS, v.image.id), &st), 0);
		assert_true(st.st_size == 8 << 20 && st.st_blocks * 512 < 4 << 20);
		banger_image_done(&v.image);
		assert_ok(f, do_delete(f, "web"));
	}
	assert_ok(f, import_stream(f, false, SIZE_MAX, "auto"));
	assert_ok(f, do_delete(f, "web"));
	assert_code(f, import_stream(f, false, 5 << 20, "auto"), CORRUPT);
	assert_non_null(strstr(f->err.message, "but the file has only 5242880 bytes"));
	assert_code(f, import_stream(f, false, 0, "auto"), CORRUPT);
	assert_code(f, import_stream(f, false, 100, "auto"), CORRUPT);
	expect_nothing_left(f, 0);
}

/* Stands in for the sandboxed program: the archive's text says what to make. */
static int flatten(void *arg, struct operation *op, int tar_fd, int out_fd, int64_t size,
	struct banger_error *err)
{
	char head[512] = "";

	*(int64_t *)arg = size;
	assert_true(read(tar_fd, head, sizeof(head)) > 0);
	if (!strcmp(head, "broken"))
		return banger_error_set(err, BANGER_CORRUPT, "not an archive");
	copy_file(sound_image(), "/tmp/banger-test-flat");
	int in = open("/tmp/banger-test-flat", O_RDONLY | O_CLOEXEC);
	unlink("/tmp/banger-test-flat");
	int r = durable_copy(in, 8 << 20, out_fd, op, "image", NULL, err);
	if (r == 0 && !strcmp(head, "unsound"))
		assert_int_equal(pwrite(out_fd, "", 1, 1024 + 0x38), 1);
	close(in);
	return r;
}

static int archive(struct fixture *f, const char *head)
{
	char tar[1024] = "";
	int fd = open(path(f, "archive"), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	strcpy(tar, head);
	memcpy(tar + 257, "ustar", 6);
	assert_int_equal(write(fd, tar, sizeof(tar)), sizeof(tar));
	lseek(fd, 0, SEEK_SET);
	return fd;
}

static void imports_a_tar(void **state)
{
	struct fixture *f = *state;
	struct image_import in = {.name = "web", .format = "auto", .size = 12345};
	int64_t size = 0;

	f->service->deps.flatten_tar = flatten;
	f->service->deps.arg = &size;
	in.fd = archive(f, "good");
	assert_ok(f, do_import(f, &in, NULL));
	assert_int_equal(size, 12345);
	close(in.fd);
	in.name = "other";
	in.fd = archive(f, "broken");
	assert_code(f, do_import(f, &in, NULL), CORRUPT);
	close(in.fd);
	in.fd = archive(f, "unsound");
	assert_code(f, do_import(f, &in, NULL), CORRUPT);
	assert_non_null(strstr(f->err.message, "what was made of the archive is not a sound"));
	close(in.fd);
	expect_nothing_left(f, 1);
}

static void *cancel_soon(void *arg)
{
	struct fixture *f = arg;
	while (count_dir(path(f, "staging")) == 0)
		;
	operations_cancel_all(f->operations);
	return NULL;
}

static void is_cancelled_while_it_waits(void **state)
{
	struct fixture *f = *state;
	struct image_import in = {.name = "web", .format = "raw"};
	pthread_t thread;
	int ends[2];

	assert_int_equal(pipe(ends), 0);
	in.fd = ends[0];
	assert_int_equal(write(ends[1], "some", 4), 4);
	pthread_create(&thread, NULL, cancel_soon, f);
	assert_code(f, do_import(f, &in, NULL), CANCELLED);
	pthread_join(thread, NULL);
	close(ends[0]);
	close(ends[1]);
	expect_nothing_left(f, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {TEST(imports_a_file), TEST(imports_a_stream),
		TEST(imports_a_tar), TEST(is_cancelled_while_it_waits)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
