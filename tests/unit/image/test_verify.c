/* SPDX-License-Identifier: Apache-2.0 */
/* Verification of images that are sound, bent and broken. */
#include "fixture.h"
#include "image/fsck.h"

static void write_at(struct fixture *f, const char *id, off_t at, const void *data, size_t len)
{
	const char *p = path(f, "images/%s/" ROOTFS, id);
	chmod(p, 0644);
	int fd = open(p, O_WRONLY | O_CLOEXEC);
	assert_int_equal(pwrite(fd, data, len, at), len);
	close(fd);
	chmod(p, 0444);
}

static void verdict(struct fixture *f, bool digest_ok, bool fsck_ok, const char *text)
{
	struct image_verdict v = {0};

	assert_ok(f, do_verify(f, "web", &v));
	assert_int_equal(v.digest_ok, digest_ok);
	assert_int_equal(v.fsck_ok, fsck_ok);
	if (!strstr(v.fsck, text))
		print_error("%s\n", v.fsck);
	assert_non_null(strstr(v.fsck, text));
	banger_image_done(&v.image);
}

static void verifies(void **state)
{
	struct fixture *f = *state;
	char id[BANGER_ID_LEN + 1];
	unsigned char junk[4096];

	make_image(f, "web", id);
	verdict(f, true, true, "clean");
	write_at(f, id, (8 << 20) - 1, "x", 1);
	verdict(f, false, true, "clean");
	/* The free block count of the superblock, which its checksum covers. */
	write_at(f, id, 1024 + 0x0c, "\xff", 1);
	verdict(f, false, false, "checksum");
	memset(junk, 0xa5, sizeof(junk));
	write_at(f, id, 1024, junk, 1024);
	verdict(f, false, false, "magic");
	chmod(path(f, "images/%s/" ROOTFS, id), 0644);
	assert_int_equal(truncate(path(f, "images/%s/" ROOTFS, id), 0), 0);
	verdict(f, false, false, "");
	make_draft(f, "nd", id);
	struct image_verdict v;
	assert_code(f, do_verify(f, "nd", &v), NOT_FOUND);
}

static void says_printable_things(void **state)
{
	struct fixture *f = *state;
	char id[BANGER_ID_LEN + 1], small[8];
	struct banger_actor actor = {.door = "rpc"};
	struct operation *op;

	make_image(f, "web", id);
	assert_ok(f, operation_begin(f->operations, OPERATION_READ, "test", banger_op_id_mint().s,
			     &actor, NULL, &op, &f->err));
	int fd = open(path(f, "images/%s/" ROOTFS, id), O_RDONLY | O_CLOEXEC);
	assert_int_equal(fsck_check(fd, op, small, sizeof(small), &f->err), 1);
	assert_string_equal(small, "clean");
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	assert_int_equal(fsck_check(null, op, small, sizeof(small), &f->err), 0);
	assert_int_equal(strlen(small), sizeof(small) - 1);
	operation_cancel(op);
	assert_int_equal(fsck_check(fd, op, small, sizeof(small), &f->err), -ECANCELED);
	operation_end(op, NULL);
	close(fd);
	close(null);
}

int main(void)
{
	const struct CMUnitTest tests[] = {TEST(verifies), TEST(says_printable_things)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
