/* SPDX-License-Identifier: Apache-2.0 */
/* Promotion: what gets published, who may still write, what a refusal leaves behind. */
#include "fixture.h"
#include <pthread.h>
#include <sys/mman.h>
#include <time.h>
#include <openssl/evp.h>

static void digest_of(const char *file, char ret[DIGEST_SIZE])
{
	static unsigned char data[8 << 20];
	unsigned char md[32];
	unsigned n;
	int fd = open(file, O_RDONLY | O_CLOEXEC);

	assert_int_equal(read(fd, data, sizeof(data)), sizeof(data));
	close(fd);
	assert_int_equal(EVP_Digest(data, sizeof(data), md, &n, EVP_sha256(), NULL), 1);
	char *p = stpcpy(ret, "sha256:");
	for (int i = 0; i < 32; i++)
		p += sprintf(p, "%02x", md[i]);
}

static void promotes(void **state)
{
	struct fixture *f = *state;
	_cleanup_image_ struct banger_image i = {0};
	char id[BANGER_ID_LEN + 1], digest[DIGEST_SIZE];

	make_draft(f, "web", id);
	put_file(f, id, "README", "hello");
	/* One that even its owner may not read now. */
	put_file(f, id, "SECRET", "x");
	assert_int_equal(chmod(path(f, "drafts/%s/SECRET", id), 0), 0);
	assert_ok(f, do_promote(f, "web", "shop", &i));
	assert_int_equal(mode_of(path(f, "images/%s/SECRET", id)), 0444);
	digest_of(sound_image(), digest);
	assert_string_equal(i.id, id);
	assert_string_equal(i.name, "shop");
	assert_int_equal(i.state, BANGER_PUBLISHED);
	assert_string_equal(i.digest, digest);
	assert_int_equal(i.size, 8 << 20);
	assert_true(i.published_us >= i.created_us);
	assert_int_equal(mode_of(path(f, "images/%s/" ROOTFS, id)), 0444);
	assert_int_equal(mode_of(path(f, "images/%s/README", id)), 0444);
	assert_false(exists(path(f, "drafts/%s", id)));
	assert_int_equal(count_dir(path(f, "staging")), 0);
	assert_int_equal(disagreements(f), 0);
	assert_code(f, do_promote(f, "web", NULL, NULL), NOT_FOUND);
}

/* The draft's files are as they were: modes, symlinks; nothing is left in staging. */
static void expect_untouched(struct fixture *f, const char *id)
{
	assert_true(exists(path(f, "drafts/%s", id)));
	assert_int_equal(mode_of(path(f, "drafts/%s/README", id)), 0640);
	assert_int_equal(count_dir(path(f, "staging")), 0);
	assert_int_equal(disagreements(f), 0);
	put_file(f, id, "README", "still writable");
}

static void refuses(void **state)
{
	struct fixture *f = *state;
	_cleanup_image_ struct banger_image i = {0};
	char id[BANGER_ID_LEN + 1], taken[BANGER_ID_LEN + 1];
	char byte = 'x';

	assert_ok(f, do_register(f, "web", &i));
	strcpy(id, i.id);
	put_file(f, id, "README", "hello");
	assert_code(f, do_promote(f, "web", NULL, NULL), INCOMPLETE);
	assert_string_equal(f->err.message, "draft \"web\" has no rootfs.ext4");
	expect_untouched(f, id);

	put_file(f, id, ROOTFS, "not a filesystem");
	assert_code(f, do_promote(f, "web", NULL, NULL), CORRUPT);
	assert_non_null(strstr(f->err.message, "rootfs.ext4 of draft \"web\" is not a sound ext4 "
					       "filesystem: it has only 16 bytes"));
	assert_int_equal(mode_of(path(f, "drafts/%s/" ROOTFS, id)), 0640);
	expect_untouched(f, id);

	put_rootfs(f, id);
	make_image(f, "shop", taken);
	assert_code(f, do_promote(f, "web", "shop", NULL), EXISTS);
	assert_string_equal(f->err.message, "image name \"shop\" is taken");
	assert_code(f, do_promote(f, "web", "a/b", NULL), BAD_REQUEST);
	expect_untouched(f, id);

	/* Something that only a meddler can have put there. */
	assert_int_equal(mkdir(path(f, "drafts/%s/sub", id), 0700), 0);
	assert_code(f, do_promote(f, "web", NULL, NULL), BAD_REQUEST);
	assert_int_equal(rmdir(path(f, "drafts/%s/sub", id)), 0);
	assert_int_equal(mode_of(path(f, "drafts/%s/" ROOTFS, id)), 0640);
	expect_untouched(f, id);

	/* The rename itself fails: its place is taken by a directory of nobody's. */
	assert_int_equal(mkdir(path(f, "images/%s", id), 0700), 0);
	assert_code(f, do_promote(f, "web", NULL, NULL), EXISTS);
	assert_int_equal(rmdir(path(f, "images/%s", id)), 0);
	assert_int_equal(mode_of(path(f, "drafts/%s/" ROOTFS, id)), 0640);
	expect_untouched(f, id);

	int fd = open(path(f, "drafts/%s/" ROOTFS, id), O_WRONLY | O_CLOEXEC);
	assert_int_equal(pwrite(fd, &byte, 1, 1024 + 0x60), 1);
	close(fd);
	assert_code(f, do_promote(f, "web", NULL, NULL), CORRUPT);
	expect_untouched(f, id);
}

static void writer_keeps_it_back(void **state)
{
	struct fixture *f = *state;
	char id[BANGER_ID_LEN + 1];

	make_draft(f, "web", id);
	put_file(f, id, "README", "hello");
	int fd = open(path(f, "drafts/%s/README", id), O_RDWR | O_CLOEXEC);
	assert_code(f, do_promote(f, "web", NULL, NULL), BUSY);
	assert_string_equal(f->err.message, "README of draft \"web\" is still open for writing");
	expect_untouched(f, id);

	/* A mapping writes as well, also when its descriptor is closed. */
	char *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(map != MAP_FAILED);
	close(fd);
	assert_code(f, do_promote(f, "web", NULL, NULL), BUSY);
	munmap(map, 4096);

	/* A reader does not. */
	fd = open(path(f, "drafts/%s/README", id), O_RDONLY | O_CLOEXEC);
	assert_ok(f, do_promote(f, "web", NULL, NULL));
	close(fd);
}

static void *close_late(void *arg)
{
	nanosleep(&(struct timespec){.tv_nsec = 30000000}, NULL);
	close(*(int *)arg);
	return NULL;
}

static void waits_for_a_close(void **state)
{
	struct fixture *f = *state;
	char id[BANGER_ID_LEN + 1];
	pthread_t thread;

	make_draft(f, "web", id);
	int fd = open(path(f, "drafts/%s/" ROOTFS, id), O_RDWR | O_CLOEXEC);
	pthread_create(&thread, NULL, close_late, &fd);
	assert_ok(f, do_promote(f, "web", NULL, NULL));
	pthread_join(thread, NULL);
}

static void copies_what_is_by_reference(void **state)
{
	struct fixture *f = *state;
	_cleanup_image_ struct banger_image i = {0};
	char id[BANGER_ID_LEN + 1], digest[DIGEST_SIZE];
	struct stat st;

	assert_ok(f, do_register(f, "web", &i));
	strcpy(id, i.id);
	assert_ok(f, image_service_draft_symlink(f->service, id, ROOTFS, sound_image(), &f->err));
	put_file(f, id, "README", "hello");
	assert_ok(f, image_service_draft_symlink(
			     f->service, id, "kernel", path(f, "drafts/%s/README", id), &f->err));
	banger_image_done(&i);
	assert_ok(f, do_promote(f, "web", NULL, &i));
	digest_of(sound_image(), digest);
	assert_string_equal(i.digest, digest);
	assert_string_equal(i.source, sound_image());
	assert_int_equal(lstat(path(f, "images/%s/" ROOTFS, id), &st), 0);
	assert_true(S_ISREG(st.st_mode) && st.st_nlink == 1 && (st.st_mode & 07777) == 0444);
	assert_true(st.st_size == 8 << 20 && st.st_blocks * 512 < 8 << 20);
	assert_int_equal(lstat(path(f, "images/%s/kernel", id), &st), 0);
	assert_true(S_ISREG(st.st_mode) && st.st_size == 5 && (st.st_mode & 07777) == 0444);
	digest_of(path(f, "images/%s/" ROOTFS, id), digest);
	assert_string_equal(i.digest, digest);
	wait_trash(f);
	assert_int_equal(count_dir(path(f, "staging")), 0);
}

static void bad_references(void **state)
{
	struct fixture *f = *state;
	_cleanup_image_ struct banger_image i = {0};
	static const struct {
		const char *target;
		enum banger_code code;
	} cases[] = {
		{"/nowhere/at/all", BANGER_INCOMPLETE},
		{"/tmp", BANGER_BAD_REQUEST},
		{"/dev/null", BANGER_BAD_REQUEST},
		{"/proc/self/fd/0", BANGER_BAD_REQUEST}, /* ELOOP: no magic links */
		{"/proc/self/exe", BANGER_BAD_REQUEST},
		{"/etc/passwd", BANGER_CORRUPT},
	};

	assert_ok(f, do_register(f, "web", &i));
	put_file(f, i.id, "README", "hello");
	for (size_t k = 0; k < ELEMENTSOF(cases); k++) {
		assert_ok(f, image_service_draft_symlink(
				     f->service, i.id, ROOTFS, cases[k].target, &f->err));
		int r = do_promote(f, "web", NULL, NULL);
		if (r >= 0 || f->err.code != cases[k].code)
			print_error("%s: %s\n", cases[k].target, f->err.message);
		assert_true(r < 0 && f->err.code == cases[k].code);
		expect_untouched(f, i.id);
		assert_ok(f, image_service_draft_unlink(f->service, i.id, ROOTFS, &f->err));
	}
	/* A failure after the copies were made gives the symlink back. */
	assert_ok(f, image_service_draft_symlink(f->service, i.id, ROOTFS, sound_image(), &f->err));
	assert_int_equal(mkdir(path(f, "images/%s", i.id), 0700), 0);
	assert_code(f, do_promote(f, "web", NULL, NULL), EXISTS);
	assert_int_equal(rmdir(path(f, "images/%s", i.id)), 0);
	struct stat st;
	assert_int_equal(lstat(path(f, "drafts/%s/" ROOTFS, i.id), &st), 0);
	assert_true(S_ISLNK(st.st_mode));
	wait_trash(f);
	expect_untouched(f, i.id);
}

static void hard_link_is_not_trusted(void **state)
{
	struct fixture *f = *state;
	_cleanup_image_ struct banger_image i = {0};
	char id[BANGER_ID_LEN + 1], byte = 1;
	struct image_verdict v = {0};

	make_draft(f, "web", id);
	assert_int_equal(link(path(f, "drafts/%s/" ROOTFS, id), path(f, "other-name")), 0);
	int writer = open(path(f, "other-name"), O_RDWR | O_CLOEXEC);
	assert_ok(f, do_promote(f, "web", NULL, &i));
	assert_int_equal(pwrite(writer, &byte, 1, 5 << 20), 1);
	close(writer);
	assert_int_equal(mode_of(path(f, "other-name")), 0644);
	assert_ok(f, do_verify(f, "web", &v));
	assert_true(v.digest_ok && v.fsck_ok);
	banger_image_done(&v.image);
}

/* ---- two at once */

struct racer {
	struct fixture f; /* a copy: the error is its own */
	int result;
};

static void *promote_it(void *arg)
{
	struct racer *r = arg;
	r->result = do_promote(&r->f, "web", NULL, NULL);
	return NULL;
}

static void only_one_of_two_wins(void **state)
{
	struct fixture *f = *state;
	char id[BANGER_ID_LEN + 1];

	for (int round = 0; round < 20; round++) {
		struct racer racers[2] = {{.f = *f}, {.f = *f}};
		pthread_t threads[2];
		make_draft(f, "web", id);
		for (int k = 0; k < 2; k++)
			pthread_create(&threads[k], NULL, promote_it, &racers[k]);
		for (int k = 0; k < 2; k++)
			pthread_join(threads[k], NULL);
		int won = racers[0].result == 0 ? 0 : 1;
		assert_int_equal(racers[won].result, 0);
		int lost = racers[!won].result;
		assert_true(lost == -EBUSY || lost == -ENOENT || lost == -EEXIST);
		assert_ok(f, do_delete(f, "images/web"));
	}
	assert_int_equal(disagreements(f), 0);
}

/* While a promotion waits for a writer, everything else about the draft is busy. */
static void busy_meanwhile(void **state)
{
	struct fixture *f = *state;
	struct racer racer;
	char id[BANGER_ID_LEN + 1];
	pthread_t thread;
	int fd2 = -1;

	make_draft(f, "web", id);
	f->config.lock_wait_ms = 5000;
	int fd = open(path(f, "drafts/%s/" ROOTFS, id), O_RDWR | O_CLOEXEC);
	racer = (struct racer){.f = *f};
	pthread_create(&thread, NULL, promote_it, &racer);
	while (claims_check(f->service->claims, id, NULL) == 0)
		;
	const struct draft_open read = {.id = id, .file = ROOTFS};
	const struct draft_attr attr = {-1, -1, -1, 0, INT64_MIN, INT64_MIN};
	assert_code(f, do_rename(f, "web", "other", NULL), BUSY);
	assert_non_null(strstr(f->err.message, "image \"web\" is being promoted by op-"));
	assert_code(f, do_delete(f, "web"), BUSY);
	assert_code(f, do_configure(f, "web", "{}", NULL), BUSY);
	assert_code(f, do_promote(f, "web", NULL, NULL), BUSY);
	assert_int_equal(image_service_draft_open(f->service, &read, &fd2, &f->err), -EBUSY);
	assert_int_equal(image_service_draft_unlink(f->service, id, ROOTFS, &f->err), -EBUSY);
	assert_int_equal(image_service_draft_symlink(f->service, id, "x", "/x", &f->err), -EBUSY);
	assert_int_equal(
		image_service_draft_setattr(f->service, id, ROOTFS, &attr, &f->err), -EBUSY);
	assert_int_equal(
		image_service_draft_rename(f->service, id, ROOTFS, NULL, "x", 0, &f->err), -EBUSY);
	close(fd);
	pthread_join(thread, NULL);
	assert_int_equal(racer.result, 0);
	assert_int_equal(disagreements(f), 0);
}

/* What changed between the checks and the lock is seen under the lock, and the draft is given back.
 */
static void rechecks_under_the_lock(void **state)
{
	struct fixture *f = *state;
	_cleanup_image_ struct banger_image row = {0}, other = {0};
	char id[BANGER_ID_LEN + 1];

	make_draft(f, "web", id);
	put_file(f, id, "README", "hello");
	for (int k = 0; k < 3; k++) {
		struct racer racer = {.f = *f};
		pthread_t thread;
		publication_acquire(f->publication);
		pthread_create(&thread, NULL, promote_it, &racer);
		/* Its last step before the lock is to sync what it has sealed. */
		while (claims_check(f->service->claims, id, NULL) == 0 ||
			mode_of(path(f, "drafts/%s/README", id)) != 0444)
			;
		banger_image_done(&row);
		assert_ok(f, store_image_by_id(f->store, id, &row, &f->err));
		if (k == 0) { /* another image takes the name */
			other = (struct banger_image){.state = BANGER_PUBLISHED, .size = 1};
			banger_id_mint(other.id);
			other.created_us = other.published_us = 1;
			strcpy(other.name, "web");
			strcpy(other.digest, "sha256:0");
			assert_ok(f, store_image_insert(f->store, &other, NULL, &f->err));
		} else { /* the draft is renamed, is configured */
			strcpy(row.name, k == 1 ? "elsewhere" : "web");
			assert_ok(f, store_image_update(f->store, &row, NULL, &f->err));
		}
		publication_release(f->publication);
		pthread_join(thread, NULL);
		static const int expected[] = {-EEXIST, -ENOENT, -EBUSY};
		assert_int_equal(racer.result, expected[k]);
		if (k == 0)
			assert_ok(f, store_image_delete(
					     f->store, other.id, NULL, &(int64_t){0}, &f->err));
		strcpy(row.name, "web");
		if (k == 1)
			assert_ok(f, store_image_update(f->store, &row, NULL, &f->err));
		expect_untouched(f, id);
	}
	assert_ok(f, do_promote(f, "web", NULL, NULL));
}

static void cancelled(void **state)
{
	struct fixture *f = *state;
	char id[BANGER_ID_LEN + 1];
	struct racer racer;
	pthread_t thread;

	make_draft(f, "web", id);
	put_file(f, id, "README", "hello");
	f->config.lock_wait_ms = 60000;
	int fd = open(path(f, "drafts/%s/" ROOTFS, id), O_RDWR | O_CLOEXEC);
	racer = (struct racer){.f = *f};
	pthread_create(&thread, NULL, promote_it, &racer);
	while (claims_check(f->service->claims, id, NULL) == 0)
		;
	operations_cancel_all(f->operations);
	pthread_join(thread, NULL);
	close(fd);
	assert_int_equal(racer.result, -ECANCELED);
	expect_untouched(f, id);
}

int main(void)
{
	const struct CMUnitTest tests[] = {TEST(promotes), TEST(refuses),
		TEST(writer_keeps_it_back), TEST(waits_for_a_close),
		TEST(copies_what_is_by_reference), TEST(bad_references),
		TEST(hard_link_is_not_trusted), TEST(only_one_of_two_wins), TEST(busy_meanwhile),
		TEST(rechecks_under_the_lock), TEST(cancelled)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
