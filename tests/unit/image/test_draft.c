/* SPDX-License-Identifier: Apache-2.0 */
/* The files of a draft: open, unlink, rename, symlink, setattr. */
#include "fixture.h"

struct draft {
	struct fixture *f;
	char id[BANGER_ID_LEN + 1];
};

static struct draft new_draft(void **state, const char *name)
{
	struct draft d = {.f = *state};
	_cleanup_image_ struct banger_image i = {0};
	assert_ok(d.f, do_register(d.f, name, &i));
	strcpy(d.id, i.id);
	return d;
}

static int try_open(struct draft *d, struct draft_open o)
{
	int fd = -1;
	o.id = o.id ?: d->id;
	d->f->err = (struct banger_error){0};
	int r = image_service_draft_open(d->f->service, &o, &fd, &d->f->err);
	if (r == 0) {
		assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
		close(fd);
	}
	return r;
}

static void opens(void **state)
{
	struct draft d = new_draft(state, "web");
	char id[BANGER_ID_LEN + 1];

	assert_int_equal(try_open(&d, (struct draft_open){.file = "a"}), -ENOENT);
	assert_int_equal(try_open(&d, (struct draft_open){.file = "a", .write = true}), -ENOENT);
	/* As the daemon runs: its umask is its own. */
	umask(077);
	assert_int_equal(try_open(&d, (struct draft_open){.file = "a",
					      .create = true,
					      .write = true,
					      .excl = true,
					      .mode = 0600}),
		0);
	assert_int_equal(mode_of(path(d.f, "drafts/%s/a", d.id)), 0600);
	assert_int_equal(
		try_open(&d, (struct draft_open){.file = "a", .create = true, .excl = true}),
		-EEXIST);
	put_file(d.f, d.id, "a", "12345");
	struct stat st;
	stat(path(d.f, "drafts/%s/a", d.id), &st);
	assert_int_equal(st.st_size, 5);
	/* Truncation only for a writer. */
	assert_int_equal(try_open(&d, (struct draft_open){.file = "a", .trunc = true}), 0);
	stat(path(d.f, "drafts/%s/a", d.id), &st);
	assert_int_equal(st.st_size, 5);
	assert_int_equal(
		try_open(&d, (struct draft_open){.file = "a", .write = true, .trunc = true}), 0);
	stat(path(d.f, "drafts/%s/a", d.id), &st);
	assert_int_equal(st.st_size, 0);

	assert_int_equal(
		try_open(&d, (struct draft_open){.file = "../a", .create = true}), -EINVAL);
	assert_int_equal(try_open(&d, (struct draft_open){.file = "..", .create = true}), -EINVAL);
	assert_int_equal(try_open(&d, (struct draft_open){.file = ""}), -EINVAL);
	assert_int_equal(
		try_open(&d, (struct draft_open){.file = "image.json", .create = true}), -EPERM);
	assert_int_equal(
		try_open(&d, (struct draft_open){.id = "../images", .file = "a"}), -EINVAL);
	assert_int_equal(
		try_open(&d, (struct draft_open){.id = "0123456789abcdef", .file = "a"}), -ENOENT);
	make_image(d.f, "pub", id);
	assert_int_equal(try_open(&d, (struct draft_open){.id = id, .file = ROOTFS}), -EROFS);
	assert_string_equal(d.f->err.message, "image \"pub\" is published");
}

static void unlinks_and_renames(void **state)
{
	struct draft d = new_draft(state, "web"), e = new_draft(state, "other");
	struct image_service *s = d.f->service;

	put_file(d.f, d.id, "a", "a");
	put_file(d.f, d.id, "b", "b");
	assert_int_equal(image_service_draft_unlink(s, d.id, "nothing", NULL), -ENOENT);
	assert_int_equal(image_service_draft_unlink(s, d.id, "image.json", NULL), -EPERM);
	assert_int_equal(
		image_service_draft_rename(s, d.id, "a", NULL, "b", RENAME_NOREPLACE, NULL),
		-EEXIST);
	assert_int_equal(
		image_service_draft_rename(s, d.id, "a", NULL, "b", RENAME_EXCHANGE, NULL), 0);
	assert_int_equal(image_service_draft_rename(s, d.id, "a", d.id, "b", 0, NULL), 0);
	assert_int_equal(count_dir(path(d.f, "drafts/%s", d.id)), 1);
	assert_int_equal(image_service_draft_rename(s, d.id, "b", e.id, "c", 0, NULL), 0);
	assert_true(exists(path(d.f, "drafts/%s/c", e.id)));
	assert_int_equal(image_service_draft_rename(s, e.id, "c", NULL, "../c", 0, NULL), -EINVAL);
	assert_int_equal(
		image_service_draft_rename(s, e.id, "c", NULL, "image.json", 0, NULL), -EPERM);
	assert_int_equal(image_service_draft_rename(s, e.id, "c", NULL, "x", RENAME_WHITEOUT, NULL),
		-EINVAL);
	assert_int_equal(image_service_draft_unlink(s, e.id, "c", NULL), 0);
	assert_int_equal(count_dir(path(d.f, "drafts/%s", e.id)), 0);
}

static void symlinks(void **state)
{
	struct draft d = new_draft(state, "web");
	struct image_service *s = d.f->service;
	char target[PATH_MAX + 10];

	assert_int_equal(image_service_draft_symlink(s, d.id, "l", "relative", NULL), -EINVAL);
	assert_int_equal(image_service_draft_symlink(s, d.id, "l", "", NULL), -EINVAL);
	memset(target, 'x', sizeof(target));
	target[0] = '/';
	target[sizeof(target) - 1] = 0;
	assert_int_equal(image_service_draft_symlink(s, d.id, "l", target, NULL), -ENAMETOOLONG);
	assert_int_equal(image_service_draft_symlink(s, d.id, "l", "/etc/passwd", NULL), 0);
	assert_int_equal(image_service_draft_symlink(s, d.id, "l", "/x", NULL), -EEXIST);
	/* Never followed by an open here. */
	assert_true(try_open(&d, (struct draft_open){.file = "l"}) < 0);
	assert_true(
		try_open(&d, (struct draft_open){.file = "l", .write = true, .create = true}) < 0);
}

static void sets_attributes(void **state)
{
	struct draft d = new_draft(state, "web");
	struct image_service *s = d.f->service;
	struct draft_attr a = {0600, -1, -1, 3, INT64_MIN, -1500000000};
	struct stat st;

	put_file(d.f, d.id, "a", "12345");
	assert_int_equal(image_service_draft_setattr(s, d.id, "a", &a, NULL), 0);
	assert_int_equal(lstat(path(d.f, "drafts/%s/a", d.id), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(st.st_size, 3);
	assert_true(st.st_mtim.tv_sec == -2 && st.st_mtim.tv_nsec == 500000000);
	if (geteuid() == 0) {
		a = (struct draft_attr){04755, 7, 8, -1, INT64_MIN, INT64_MIN};
		assert_int_equal(image_service_draft_setattr(s, d.id, "a", &a, NULL), 0);
		assert_int_equal(lstat(path(d.f, "drafts/%s/a", d.id), &st), 0);
		assert_true(st.st_uid == 7 && st.st_gid == 8 && (st.st_mode & 07777) == 04755);
	}
	/* On a symlink: the link's own owner and times, never its target's. */
	assert_int_equal(image_service_draft_symlink(s, d.id, "l", "/etc/passwd", NULL), 0);
	a = (struct draft_attr){0600, -1, -1, -1, INT64_MIN, INT64_MIN};
	assert_int_equal(image_service_draft_setattr(s, d.id, "l", &a, NULL), -EOPNOTSUPP);
	a = (struct draft_attr){-1, -1, -1, 0, INT64_MIN, INT64_MIN};
	assert_int_equal(image_service_draft_setattr(s, d.id, "l", &a, NULL), -EOPNOTSUPP);
	a = (struct draft_attr){-1, (int64_t)geteuid(), -1, -1, 5, 6000000007};
	assert_int_equal(image_service_draft_setattr(s, d.id, "l", &a, NULL), 0);
	assert_int_equal(lstat(path(d.f, "drafts/%s/l", d.id), &st), 0);
	assert_true(st.st_mtim.tv_sec == 6 && st.st_mtim.tv_nsec == 7 && st.st_atim.tv_nsec == 5);
	assert_int_equal(stat("/etc/passwd", &st), 0);
	assert_true(st.st_mtim.tv_sec != 6);
	assert_int_equal(image_service_draft_setattr(s, d.id, "none", &a, NULL), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(opens), TEST(unlinks_and_renames), TEST(symlinks), TEST(sets_attributes)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
