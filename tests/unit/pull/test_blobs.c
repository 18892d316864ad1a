/* SPDX-License-Identifier: Apache-2.0 */
/* The blob cache by itself: writers, followers, what is kept, what goes. */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <banger/log.h>
#include "pull/blobs.h"

#define SIZE (1024 * 1024 + 4321)

struct setup {
	char dir[64];
	int fd;
	struct blobs *blobs;
	struct banger_error err;
	char *data;
	char digest[PULL_DIGEST_MAX];
};

static void digest_of(const void *data, size_t len, char ret[PULL_DIGEST_MAX])
{
	struct pull_hash *h = NULL;

	assert_int_equal(
		pull_hash_new(
			"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
			&h, NULL),
		0);
	pull_hash_update(h, data, len);
	pull_hash_end(h, ret);
	pull_hash_freep(&h);
}

static int set_up_in(void **state, const char *where)
{
	struct setup *s = calloc(1, sizeof(*s));

	snprintf(s->dir, sizeof(s->dir), "%s/banger-blobs-XXXXXX", where);
	assert_non_null(mkdtemp(s->dir));
	s->fd = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(blobs_new(s->fd, &s->blobs, &s->err), 0);
	s->data = malloc(SIZE);
	for (size_t i = 0; i < SIZE; i++)
		s->data[i] = (char)(i * 2654435761u >> 11);
	digest_of(s->data, SIZE, s->digest);
	*state = s;
	return 0;
}

static int set_up(void **state)
{
	return set_up_in(state, "/tmp");
}

/* tmpfs, which may not know O_DIRECT. */
static int set_up_memory(void **state)
{
	return set_up_in(state, "/dev/shm");
}

static int tear_down(void **state)
{
	struct setup *s = *state;
	char command[128];

	blobs_freep(&s->blobs);
	close(s->fd);
	snprintf(command, sizeof(command), "rm -r %s", s->dir);
	assert_int_equal(system(command), 0);
	free(s->data);
	free(s);
	return 0;
}

static struct blob *get(struct setup *s, bool want_writer)
{
	struct blob *b = NULL;
	bool writer = !want_writer;

	assert_int_equal(blobs_get(s->blobs, s->digest, SIZE, &b, &writer, &s->err), 0);
	assert_int_equal(writer, want_writer);
	return b;
}

static int64_t file_size(struct setup *s, const char *suffix)
{
	char path[256];
	struct stat st;

	snprintf(path, sizeof(path), "%s/blobs/sha256/%s%s", s->dir, s->digest + 7, suffix);
	return stat(path, &st) == 0 ? st.st_size : -1;
}

static void assert_content(struct setup *s, struct blob *b)
{
	char *found = malloc(SIZE);

	assert_true(blob_whole(b));
	assert_int_equal(pread(blob_fd(b), found, SIZE, 0), SIZE);
	assert_memory_equal(found, s->data, SIZE);
	free(found);
}

/* In pieces of odd lengths; a follower sees what is available and nothing else. */
static void test_grow(void **state)
{
	struct setup *s = *state;
	_cleanup_blob_ struct blob *w = get(s, true), *f = get(s, false);
	_cleanup_free_ char *found = malloc(SIZE);
	int event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	eventfd_t told;

	assert_ptr_equal(w, f);
	assert_int_equal(blob_notify(f, event, &s->err), 0);
	assert_int_equal(blob_begin(w, -1, &s->err), 0);
	size_t step = 1;
	for (size_t at = 0; at < SIZE; at += step) {
		step = step * 7 % 100003 + 1;
		if (step > SIZE - at)
			step = SIZE - at;
		assert_int_equal(blob_write(w, s->data + at, step, &s->err), 0);
		assert_int_equal(blob_offset(w), at + step);
		int64_t n = blob_available(f);
		assert_true(n <= (int64_t)(at + step));
		assert_int_equal(pread(blob_fd(f), found, (size_t)n, 0), n);
		assert_memory_equal(found, s->data, n);
		assert_false(blob_whole(f));
	}
	assert_int_equal(blob_write(w, "x", 1, &s->err), -EFBIG);
	assert_int_equal(blob_finish(w, &s->err), 0);
	assert_content(s, f);
	assert_int_equal(eventfd_read(event, &told), 0);
	blob_unnotify(f, event);
	close(event);
	assert_int_equal(file_size(s, ""), SIZE);
	assert_int_equal(file_size(s, ".partial"), -1);
	_cleanup_blob_ struct blob *again = get(s, false);
	assert_content(s, again);
}

/* In aligned pieces, as they come from a transfer. */
static void test_aligned(void **state)
{
	struct setup *s = *state;
	_cleanup_blob_ struct blob *b = get(s, true);
	char *buf = aligned_alloc(4096, 512 * 1024);

	assert_int_equal(blob_begin(b, -1, &s->err), 0);
	for (size_t at = 0, n; at < SIZE; at += n) {
		n = SIZE - at < 512 * 1024 ? SIZE - at : 512 * 1024;
		memcpy(buf, s->data + at, n);
		assert_int_equal(blob_write(b, buf, n, &s->err), 0);
		assert_int_equal(blob_available(b), (at + n) / 4096 * 4096);
	}
	free(buf);
	assert_int_equal(blob_finish(b, &s->err), 0);
	assert_content(s, b);
}

/* On a slow link readers do not wait for a whole stage. */
static void test_slow(void **state)
{
	struct setup *s = *state;
	_cleanup_blob_ struct blob *b = get(s, true);

	assert_int_equal(blob_begin(b, -1, &s->err), 0);
	assert_int_equal(blob_write(b, s->data, 1, &s->err), 0);
	usleep(300000);
	assert_int_equal(blob_write(b, s->data + 1, 100000, &s->err), 0);
	assert_int_equal(blob_available(b), 100001 / 4096 * 4096);
	assert_int_equal(blob_write(b, s->data + 100001, SIZE - 100001, &s->err), 0);
	assert_int_equal(blob_finish(b, &s->err), 0);
	assert_content(s, b);
}

static void test_take_over(void **state)
{
	const struct banger_error why = {.code = BANGER_TIMEOUT, .message = "too slow"};
	struct setup *s = *state;
	struct blob *first = get(s, true);
	_cleanup_blob_ struct blob *second = get(s, false);

	assert_int_equal(blob_begin(first, -1, &s->err), 0);
	assert_int_equal(blob_write(first, s->data, 600001, &s->err), 0);
	assert_false(blob_take_over(second));
	assert_int_equal(blob_failure(second, &s->err), 0);
	blob_abandon(first, &why);
	blob_putp(&first);
	assert_int_equal(blob_failure(second, &s->err), -ETIMEDOUT);
	assert_string_equal(s->err.message, "too slow");
	assert_true(blob_take_over(second));
	assert_int_equal(blob_failure(second, &s->err), 0);
	/* Nothing is lost and nothing is read again. */
	assert_int_equal(blob_begin(second, -1, &s->err), 0);
	assert_int_equal(blob_offset(second), 600001);
	assert_int_equal(blob_write(second, s->data + 600001, SIZE - 600001, &s->err), 0);
	assert_int_equal(blob_finish(second, &s->err), 0);
	assert_content(s, second);
}

/* What is left after all have let go, and what the next one makes of it. */
static void test_abandon(void **state)
{
	struct setup *s = *state;
	struct blob *b = get(s, true);

	assert_int_equal(blob_begin(b, -1, &s->err), 0);
	assert_int_equal(blob_write(b, s->data, 600001, &s->err), 0);
	assert_int_equal(blob_finish(b, &s->err), -ENODATA);
	blob_abandon(b, NULL);
	blob_putp(&b);
	assert_int_equal(file_size(s, ".partial"), 600001 / 4096 * 4096);
	b = get(s, true);
	assert_int_equal(blob_begin(b, -1, &s->err), 0);
	assert_int_equal(blob_offset(b), 600001 / 4096 * 4096);
	assert_int_equal(blob_available(b), blob_offset(b));
	blob_abandon(b, NULL);
	blob_putp(&b);
	/* Nothing came: nothing is left. */
	char other[PULL_DIGEST_MAX];
	bool writer;
	digest_of("x", 1, other);
	assert_int_equal(blobs_get(s->blobs, other, 1, &b, &writer, &s->err), 0);
	assert_int_equal(blob_begin(b, -1, &s->err), 0);
	blob_abandon(b, NULL);
	blob_putp(&b);
	struct blobs_usage u;
	assert_int_equal(blobs_usage(s->blobs, &u, &s->err), 0);
	assert_int_equal(u.partials, 1);
}

static void test_corrupt(void **state)
{
	struct setup *s = *state;
	_cleanup_blob_ struct blob *b = get(s, true);

	assert_int_equal(blob_begin(b, -1, &s->err), 0);
	s->data[5] ^= 1;
	assert_int_equal(blob_write(b, s->data, SIZE, &s->err), 0);
	s->data[5] ^= 1;
	assert_int_equal(blob_generation(b), 0);
	assert_int_equal(blob_finish(b, &s->err), -EUCLEAN);
	assert_int_equal(blob_available(b), 0);
	assert_int_equal(blob_generation(b), 1);
	assert_int_equal(file_size(s, ".partial"), 0);
	/* The same writer may go on. */
	assert_int_equal(blob_offset(b), 0);
	assert_int_equal(blob_write(b, s->data, SIZE, &s->err), 0);
	assert_int_equal(blob_finish(b, &s->err), 0);
	assert_content(s, b);
}

static void test_sizes(void **state)
{
	struct setup *s = *state;
	_cleanup_blob_ struct blob *b = get(s, true);
	struct blob *other = NULL;
	bool writer;

	assert_int_equal(
		blobs_get(s->blobs, s->digest, SIZE + 1, &other, &writer, &s->err), -EINVAL);
	assert_int_equal(blobs_get(s->blobs, s->digest, -1, &other, &writer, &s->err), -EINVAL);
	assert_int_equal(
		blobs_get(s->blobs, "sha256:../../x", 1, &other, &writer, &s->err), -EINVAL);
	assert_int_equal(blob_begin(b, -1, &s->err), 0);
	assert_int_equal(blob_write(b, s->data, SIZE, &s->err), 0);
	assert_int_equal(blob_finish(b, &s->err), 0);
	blob_putp(&b);
	b = NULL;
	assert_int_equal(
		blobs_get(s->blobs, s->digest, SIZE - 1, &other, &writer, &s->err), -EINVAL);
	assert_null(other);
}

static void test_empty(void **state)
{
	static const char empty[] =
		"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
	struct setup *s = *state;
	_cleanup_blob_ struct blob *b = NULL;
	bool writer;

	assert_int_equal(blobs_get(s->blobs, empty, 0, &b, &writer, &s->err), 0);
	assert_int_equal(blob_begin(b, -1, &s->err), 0);
	assert_int_equal(blob_finish(b, &s->err), 0);
	assert_true(blob_whole(b));
}

static void put_blob(struct setup *s, int i)
{
	char text[1000], digest[PULL_DIGEST_MAX];
	_cleanup_blob_ struct blob *b = NULL;
	bool writer;

	memset(text, 'a' + i, sizeof(text));
	digest_of(text, sizeof(text), digest);
	assert_int_equal(blobs_get(s->blobs, digest, sizeof(text), &b, &writer, &s->err), 0);
	if (!writer)
		return;
	assert_int_equal(blob_begin(b, -1, &s->err), 0);
	assert_int_equal(blob_write(b, text, sizeof(text), &s->err), 0);
	assert_int_equal(blob_finish(b, &s->err), 0);
}

/* The one that was used last stays, and the one in use. */
static void test_prune(void **state)
{
	struct setup *s = *state;
	struct blobs_usage u;

	for (int i = 0; i < 4; i++)
		put_blob(s, i);
	usleep(20000);
	put_blob(s, 1);
	_cleanup_blob_ struct blob *b = get(s, true);
	assert_int_equal(blob_begin(b, -1, &s->err), 0);
	assert_int_equal(blobs_prune(s->blobs, 4000, &u, &s->err), 0);
	assert_int_equal(u.blobs, 0);
	assert_int_equal(blobs_prune(s->blobs, 1999, &u, &s->err), 0);
	assert_int_equal(u.blobs, 3);
	assert_int_equal(u.bytes, 3000);
	assert_int_equal(blob_write(b, s->data, SIZE, &s->err), 0);
	assert_int_equal(blobs_prune(s->blobs, 1000, &u, &s->err), 0);
	assert_int_equal(u.blobs, 1);
	assert_int_equal(blob_finish(b, &s->err), 0);
	assert_int_equal(blobs_prune(s->blobs, 0, &u, &s->err), 0);
	assert_int_equal(u.blobs, 0);
	assert_content(s, b);
	blob_putp(&b);
	b = NULL;
	assert_int_equal(blobs_usage(s->blobs, &u, &s->err), 0);
	assert_int_equal(u.blobs, 1);
	assert_int_equal(u.bytes, SIZE);
	assert_int_equal(u.in_use_bytes, 0);
	assert_int_equal(blobs_prune(s->blobs, 0, &u, &s->err), 0);
	assert_int_equal(u.blobs, 1);
	assert_int_equal(file_size(s, ""), -1);
}

/* A killed daemon's leavings: an empty partial, and one beside its whole blob. */
static void test_new(void **state)
{
	struct setup *s = *state;
	char path[256];
	struct blobs_usage u;

	put_blob(s, 0);
	char text[1000], digest[PULL_DIGEST_MAX];
	memset(text, 'a', sizeof(text));
	digest_of(text, sizeof(text), digest);
	snprintf(path, sizeof(path), "%s/blobs/sha256/%s.partial", s->dir, digest + 7);
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(write(fd, "x", 1), 1);
	close(fd);
	snprintf(path, sizeof(path), "%s/blobs/sha256/%s.partial", s->dir, s->digest + 7);
	close(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
	blobs_freep(&s->blobs);
	s->blobs = NULL;
	assert_int_equal(blobs_new(s->fd, &s->blobs, &s->err), 0);
	assert_int_equal(blobs_usage(s->blobs, &u, &s->err), 0);
	assert_int_equal(u.partials, 0);
	assert_int_equal(u.blobs, 1);
}

/* Many threads get, write, give up, take over and let go of one blob, while another prunes. */
static void *play(void *arg)
{
	struct setup *s = arg;
	unsigned seed = (unsigned)(uintptr_t)pthread_self();

	for (int i = 0; i < 60; i++) {
		struct blob *b = NULL;
		bool writer = false;
		struct banger_error e;
		if (blobs_get(s->blobs, s->digest, SIZE, &b, &writer, &e) < 0)
			abort();
		while (!writer && !blob_whole(b) && !(writer = blob_take_over(b)))
			usleep(100);
		if (writer) {
			if (blob_begin(b, -1, &e) < 0)
				abort();
			bool give_up = rand_r(&seed) % 2;
			int64_t end = give_up ? SIZE / 2 : SIZE;
			while (blob_offset(b) < end) {
				int64_t n =
					end - blob_offset(b) < 70000 ? end - blob_offset(b) : 70000;
				if (blob_write(b, s->data + blob_offset(b), (size_t)n, &e) < 0)
					abort();
			}
			if (give_up)
				blob_abandon(b, NULL);
			else if (blob_finish(b, &e) < 0)
				abort();
		}
		blob_putp(&b);
		if (i % 7 == 0 && blobs_prune(s->blobs, 0, NULL, &e) < 0)
			abort();
	}
	return NULL;
}

static void test_threads(void **state)
{
	pthread_t t[4];

	for (size_t i = 0; i < ELEMENTSOF(t); i++)
		pthread_create(&t[i], NULL, play, *state);
	for (size_t i = 0; i < ELEMENTSOF(t); i++)
		pthread_join(t[i], NULL);
}

int main(void)
{
#define WITH_CACHE(t) cmocka_unit_test_setup_teardown(t, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		WITH_CACHE(test_grow),
		WITH_CACHE(test_aligned),
		cmocka_unit_test_setup_teardown(test_aligned, set_up_memory, tear_down),
		WITH_CACHE(test_slow),
		WITH_CACHE(test_take_over),
		WITH_CACHE(test_abandon),
		WITH_CACHE(test_corrupt),
		WITH_CACHE(test_sizes),
		WITH_CACHE(test_empty),
		WITH_CACHE(test_prune),
		WITH_CACHE(test_new),
		WITH_CACHE(test_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
