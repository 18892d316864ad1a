/* SPDX-License-Identifier: Apache-2.0 */
/* Each line of recover.c's table, made by hand on disk, and what a start makes of it. */
#include "fixture.h"
#include "image/seal.h"

static void restart(struct fixture *f)
{
	fixture_stop(f);
	assert_ok(f, fixture_start(f));
}

static void move_dir(struct fixture *f, const char *from, const char *to, const char *id)
{
	assert_int_equal(rename(path(f, "%s/%s", from, id), path(f, "%s/%s", to, id)), 0);
}

static void nothing_to_do(void **state)
{
	struct fixture *f = *state;
	char id[BANGER_ID_LEN + 1];
	struct banger_op_record *ops = NULL;
	size_t n = 0;

	make_image(f, "web", id);
	make_draft(f, "nd", id);
	restart(f);
	assert_ok(f, do_find(f, "web", NULL));
	assert_int_equal(disagreements(f), 0);
	/* A recovery that repairs nothing is no operation. */
	assert_ok(f, store_ops_list(f->store, 100, false, -1, &ops, &n, &f->err));
	for (size_t i = 0; i < n; i++)
		assert_string_not_equal(ops[i].method, "registry.recover");
	free(ops);
}

static void undoes_a_half_promotion(void **state)
{
	struct fixture *f = *state;
	char id[BANGER_ID_LEN + 1];
	struct banger_op_record *ops = NULL;
	bool seen = false;
	size_t n = 0;

	/* As a death between rename and commit leaves it: files sealed, a record of how they were.
	 */
	make_draft(f, "web", id);
	put_file(f, id, " name with spaces ", "x");
	for (int k = 0; k < 2; k++) {
		const char *file = k ? " name with spaces " : ROOTFS;
		struct stat st;
		char text[300];
		assert_int_equal(stat(path(f, "drafts/%s/%s", id, file), &st), 0);
		snprintf(text, sizeof(text), "%04o %llu %s", st.st_mode & 07777,
			(unsigned long long)st.st_ino, file);
		mkdir(path(f, "staging/%s.promote", id), 0700);
		assert_int_equal(symlink(text, path(f, "staging/%s.promote/%d", id, k)), 0);
		chmod(path(f, "drafts/%s/%s", id, file), 0444);
	}
	/* A stranger's scribbles in there do no harm. */
	assert_int_equal(symlink("0777 1 ../../x", path(f, "staging/%s.promote/7", id)), 0);
	assert_int_equal(symlink("garbage", path(f, "staging/%s.promote/8", id)), 0);
	move_dir(f, "drafts", "images", id);
	restart(f);
	assert_int_equal(mode_of(path(f, "drafts/%s/" ROOTFS, id)), 0644);
	assert_int_equal(mode_of(path(f, "drafts/%s/ name with spaces ", id)), 0640);
	assert_false(exists(path(f, "images/%s", id)));
	assert_int_equal(count_dir(path(f, "staging")), 0);
	assert_int_equal(disagreements(f), 0);
	assert_ok(f, do_promote(f, "web", NULL, NULL));
	operations_flush(f->operations);
	assert_ok(f, store_ops_list(f->store, 100, false, -1, &ops, &n, &f->err));
	for (size_t i = 0; i < n; i++)
		seen |= !strcmp(ops[i].method, "registry.recover") &&
			!strcmp(ops[i].actor.door, "daemon");
	free(ops);
	assert_true(seen);
}

static void gives_a_reference_back(void **state)
{
	struct fixture *f = *state;
	_cleanup_image_ struct banger_image i = {0};
	char text[300];
	struct stat st;

	assert_ok(f, do_register(f, "web", &i));
	assert_ok(f,
		image_service_draft_symlink(f->service, i.id, ROOTFS, "/some/artifact", &f->err));
	assert_int_equal(lstat(path(f, "drafts/%s/" ROOTFS, i.id), &st), 0);
	snprintf(text, sizeof(text), "0777 %llu " ROOTFS, (unsigned long long)st.st_ino);
	mkdir(path(f, "staging/%s.promote", i.id), 0700);
	assert_int_equal(symlink(text, path(f, "staging/%s.promote/0", i.id)), 0);
	copy_file(sound_image(), path(f, "staging/%s.promote/0.copy", i.id));
	/* Before the exchange there is nothing to give back; after it there is. */
	for (int exchanged = 0; exchanged < 2; exchanged++) {
		if (exchanged) {
			mkdir(path(f, "staging/%s.promote", i.id), 0700);
			assert_int_equal(symlink(text, path(f, "staging/%s.promote/0", i.id)), 0);
			copy_file(sound_image(), path(f, "staging/%s.promote/0.copy", i.id));
			assert_int_equal(
				renameat2(AT_FDCWD, path(f, "staging/%s.promote/0.copy", i.id),
					AT_FDCWD, path(f, "drafts/%s/" ROOTFS, i.id),
					RENAME_EXCHANGE),
				0);
		}
		restart(f);
		assert_int_equal(lstat(path(f, "drafts/%s/" ROOTFS, i.id), &st), 0);
		assert_true(S_ISLNK(st.st_mode));
		wait_trash(f);
		assert_int_equal(count_dir(path(f, "staging")), 0);
	}
}

static void finishes_a_lost_rename(void **state)
{
	struct fixture *f = *state;
	static const char *const places[] = {"drafts", "staging"};
	char id[BANGER_ID_LEN + 1];
	struct image_verdict v = {0};

	make_image(f, "web", id);
	for (int k = 0; k < 2; k++) {
		move_dir(f, "images", places[k], id);
		assert_int_equal(disagreements(f), 1 + k); /* missing; nobody's in staging */
		restart(f);
		assert_ok(f, do_verify(f, "web", &v));
		assert_true(v.digest_ok);
		banger_image_done(&v.image);
		assert_int_equal(disagreements(f), 0);
	}
	/* But not with other content than was promised. */
	move_dir(f, "images", "drafts", id);
	chmod(path(f, "drafts/%s/" ROOTFS, id), 0644);
	int fd = open(path(f, "drafts/%s/" ROOTFS, id), O_WRONLY | O_CLOEXEC);
	assert_int_equal(pwrite(fd, "x", 1, 4 << 20), 1);
	close(fd);
	restart(f);
	assert_false(exists(path(f, "images/%s", id)));
	assert_int_equal(do_verify(f, "web", &v), -EUCLEAN);
	assert_int_equal(disagreements(f), 1);
}

static void removes_what_is_nobodys(void **state)
{
	struct fixture *f = *state;
	char id[BANGER_ID_LEN + 1];
	static const char *const strays[] = {"images/0000000000000000", "images/ffffffffffffffff",
		"drafts/0123456789abcdef", "images/not-an-id", "staging/0123456789abcdef",
		"staging/fedcba9876543210.import", "staging/fedcba9876543210.promote",
		"staging/whatever", "trash/0123456789abcdef"};

	make_image(f, "web", id);
	for (size_t i = 0; i < ELEMENTSOF(strays); i++) {
		assert_int_equal(mkdir(path(f, "%s", strays[i]), 0700), 0);
		copy_file("/etc/passwd", path(f, "%s/file", strays[i]));
	}
	assert_int_equal(disagreements(f), 8);
	restart(f);
	wait_trash(f);
	for (size_t i = 0; i < ELEMENTSOF(strays); i++)
		assert_false(exists(path(f, "%s", strays[i])));
	assert_true(exists(path(f, "images/%s", id)));
	assert_int_equal(disagreements(f), 0);
}

static void keeps_one_of_two(void **state)
{
	struct fixture *f = *state;
	char id[BANGER_ID_LEN + 1];

	make_image(f, "web", id);
	assert_int_equal(mkdir(path(f, "drafts/%s", id), 0700), 0);
	assert_int_equal(mkdir(path(f, "staging/%s", id), 0700), 0);
	assert_int_equal(disagreements(f), 2);
	restart(f);
	wait_trash(f);
	assert_true(exists(path(f, "images/%s/" ROOTFS, id)));
	assert_false(exists(path(f, "drafts/%s", id)));
	assert_int_equal(disagreements(f), 0);
}

static void misses_directories(void **state)
{
	struct fixture *f = *state;
	_cleanup_image_ struct banger_image draft = {0};
	char id[BANGER_ID_LEN + 1];
	int fd = -1;

	assert_ok(f, do_register(f, "nd", &draft));
	make_image(f, "web", id);
	assert_int_equal(rmdir(path(f, "drafts/%s", draft.id)), 0);
	move_dir(f, "images", ".", id);
	assert_int_equal(disagreements(f), 2);
	restart(f);
	/* A draft can be begun again; a published image stays in the registry, to be seen and
	 * deleted. */
	put_file(f, draft.id, "README", "again");
	assert_int_equal(disagreements(f), 1);
	_cleanup_image_ struct banger_image image = {0};
	assert_ok(f, do_find(f, "web", &image));
	assert_true(image.damaged);
	assert_int_equal(image_service_open(f->service, &image, ROOTFS, &fd, &f->err), -EUCLEAN);
	assert_ok(f, do_delete(f, "web"));
	assert_int_equal(disagreements(f), 0);
}

static void refuses_a_registry_that_is_not_theirs(void **state)
{
	struct fixture *f = *state;
	char id[BANGER_ID_LEN + 1];

	make_image(f, "web", id);
	fixture_stop(f);
	assert_int_equal(unlink(path(f, "registry.db")), 0);
	unlink(path(f, "registry.db-wal"));
	unlink(path(f, "registry.db-shm"));
	assert_int_equal(fixture_start(f), -EUCLEAN);
	assert_non_null(strstr(f->err.message, "there are 1 images in the state directory"));
	assert_true(exists(path(f, "images/%s/" ROOTFS, id)));
	/* An import that died as the very first operation is not that. */
	fixture_stop(f);
	assert_int_equal(mkdir(path(f, "staging/%s.import", id), 0700), 0);
	assert_ok(f, fixture_start(f));
	wait_trash(f);
	assert_int_equal(count_dir(path(f, "images")), 0);
}

static bool is_damaged(struct fixture *f, const char *name)
{
	_cleanup_image_ struct banger_image image = {0};

	assert_ok(f, do_find(f, name, &image));
	return image.damaged;
}

/* What an operation that runs has in staging/ is its own; what was there before it is nobody's. */
static void checks_what_is_staged(void **state)
{
	struct fixture *f = *state;
	struct operation *op;

	assert_int_equal(mkdir(path(f, "staging/before"), 0700), 0);
	usleep(50000);
	assert_ok(f, operation_begin(f->operations, OPERATION_CHANGE, "image.import",
			     banger_op_id_mint().s, &(struct banger_actor){.uid = getuid()}, NULL,
			     &op, &f->err));
	assert_int_equal(mkdir(path(f, "staging/its"), 0700), 0);
	assert_int_equal(disagreements(f), 1);
	operation_end(op, NULL);
	assert_int_equal(disagreements(f), 2);
}

static void checks_files(void **state)
{
	struct fixture *f = *state;
	char id[BANGER_ID_LEN + 1];

	make_image(f, "web", id);
	chmod(path(f, "images/%s/" ROOTFS, id), 0644);
	assert_int_equal(disagreements(f), 1);
	assert_false(is_damaged(f, "web"));
	assert_int_equal(truncate(path(f, "images/%s/" ROOTFS, id), 5), 0);
	chmod(path(f, "images/%s/" ROOTFS, id), 0444);
	assert_int_equal(disagreements(f), 1);
	assert_true(is_damaged(f, "web"));
	assert_int_equal(unlink(path(f, "images/%s/" ROOTFS, id)), 0);
	assert_int_equal(disagreements(f), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {TEST(nothing_to_do), TEST(undoes_a_half_promotion),
		TEST(gives_a_reference_back), TEST(finishes_a_lost_rename),
		TEST(removes_what_is_nobodys), TEST(keeps_one_of_two), TEST(misses_directories),
		TEST(refuses_a_registry_that_is_not_theirs), TEST(checks_files),
		TEST(checks_what_is_staged)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
