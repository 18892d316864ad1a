/* SPDX-License-Identifier: Apache-2.0 */
/* Records of operations and their lines. */
#include "fixture.h"

static void put(struct fixture *f, const struct banger_op_record *r, const char *line, int64_t kept)
{
	struct banger_error err = {0};
	struct store_op_line l = {.line = (char *)line};

	strcpy(l.op_id, r->op_id);
	assert_ok(store_ops_put(f->store, r, 1, &l, line ? 1 : 0, kept, &err), err);
}

static size_t count_lines(struct fixture *f, const char *op_id)
{
	struct banger_error err = {0};
	char **lines;
	size_t n;

	assert_ok(store_op_lines(f->store, op_id, &lines, &n, &err), err);
	for (size_t i = 0; i < n; i++)
		free(lines[i]);
	free(lines);
	return n;
}

static size_t count_ops(struct fixture *f, int64_t limit, bool failed, int64_t uid)
{
	_cleanup_free_ struct banger_op_record *ops = NULL;
	struct banger_error err = {0};
	size_t n;

	assert_ok(store_ops_list(f->store, limit, failed, uid, &ops, &n, &err), err);
	return n;
}

static void keeps_every_field(void **state)
{
	struct fixture *f = *state;
	struct banger_error err = {0};
	struct banger_op_record r = make_record("image.promote", BANGER_BUSY), got;

	strcpy(r.actor.vm, "builder");
	put(f, &r, NULL, 10);
	assert_ok(store_op_find(f->store, r.op_id, &got, &err), err);
	assert_memory_equal(&r, &got, sizeof(r));
}

static void finds_by_prefix(void **state)
{
	struct fixture *f = *state;
	struct banger_error err = {0};
	struct banger_op_record a = make_record("a", BANGER_OK), b = make_record("b", BANGER_OK),
				got;

	strcpy(a.op_id, "op-aaaa00000000");
	strcpy(b.op_id, "op-aabb00000000");
	put(f, &a, NULL, 10);
	put(f, &b, NULL, 10);
	assert_ok(store_op_find(f->store, "op-aab", &got, &err), err);
	assert_string_equal(got.op_id, b.op_id);
	assert_int_equal(store_op_find(f->store, "op-aa", &got, &err), -ENOTUNIQ);
	assert_string_equal(err.message, "multiple operations match \"op-aa\"");
	assert_int_equal(store_op_find(f->store, "op-x", &got, &err), -ENOENT);
	assert_int_equal(store_op_find(f->store, "", &got, &err), -EINVAL);
}

static void a_later_record_replaces(void **state)
{
	struct fixture *f = *state;
	struct banger_error err = {0};
	struct banger_op_record a = make_record("image.promote", BANGER_OK), got;

	put(f, &a, NULL, 10);
	a.code = BANGER_NO_SPACE;
	put(f, &a, NULL, 10);
	assert_int_equal(count_ops(f, 10, false, -1), 1);
	assert_ok(store_op_find(f->store, a.op_id, &got, &err), err);
	assert_int_equal(got.code, BANGER_NO_SPACE);
}

static void lists_newest_first_and_filters(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ struct banger_op_record *ops = NULL;
	struct banger_error err = {0};
	struct banger_op_record last = {0};
	size_t n;

	for (int i = 0; i < 40; i++) {
		last = make_record("x", i % 4 ? BANGER_OK : BANGER_EXISTS);
		last.actor.uid = i % 2 ? 4294967294u : 0;
		put(f, &last, NULL, 100);
	}
	assert_ok(store_ops_list(f->store, 10, false, -1, &ops, &n, &err), err);
	assert_int_equal(n, 10);
	assert_string_equal(ops[0].op_id, last.op_id);
	/* One that took long is kept last and began first. */
	struct banger_op_record slow = make_record("slow", BANGER_OK);
	slow.started_us = ops[9].started_us - 1;
	put(f, &slow, NULL, 100);
	free(ops);
	ops = NULL;
	assert_ok(store_ops_list(f->store, 10, false, -1, &ops, &n, &err), err);
	assert_string_equal(ops[0].op_id, last.op_id);
	for (size_t i = 1; i < n; i++)
		assert_true(ops[i - 1].started_us >= ops[i].started_us);
	assert_int_equal(count_ops(f, 100, true, -1), 10);
	assert_int_equal(count_ops(f, 100, false, 4294967294u), 20);
	assert_int_equal(count_ops(f, 100, true, 4294967294u), 0);
}

static void trims_records_and_their_lines(void **state)
{
	struct fixture *f = *state;
	struct banger_op_record first = make_record("first", BANGER_OK), r;

	put(f, &first, "{\"msg\":\"1\"}", 5);
	assert_int_equal(count_lines(f, first.op_id), 1);
	for (int i = 0; i < 5; i++) {
		r = make_record("x", BANGER_OK);
		put(f, &r, "{\"msg\":\"2\"}", 5);
	}
	assert_int_equal(count_ops(f, 100, false, -1), 5);
	assert_int_equal(count_lines(f, first.op_id), 0);
	assert_int_equal(count_lines(f, r.op_id), 1);
	assert_int_equal(count_lines(f, NULL), 5);
}

/* A VM that has itself refused again and again pushes out its own. */
static void vms_have_a_share(void **state)
{
	enum { KEPT = 40, SHARE = KEPT / STORE_OPS_SHARE_OF_VMS };
	struct fixture *f = *state;
	struct banger_op_record ours = make_record("ours", BANGER_OK), r;

	put(f, &ours, "{\"msg\":\"1\"}", KEPT);
	for (int i = 0; i < 3 * KEPT; i++) {
		r = make_record("fs.mkdir", BANGER_EXISTS);
		strcpy(r.actor.vm, "web");
		put(f, &r, "{\"msg\":\"2\"}", KEPT);
	}
	assert_int_equal(count_ops(f, 100, false, -1), 1 + SHARE);
	assert_int_equal(count_lines(f, ours.op_id), 1);
	assert_int_equal(count_lines(f, r.op_id), 1);
	assert_int_equal(count_lines(f, NULL), 1 + SHARE);
}

/* Lines of operations that leave no record do not pile up. */
static void trims_lines_without_record(void **state)
{
	struct fixture *f = *state;
	struct banger_error err = {0};
	struct store_op_line l = {.op_id = "op-000000000000", .line = (char *)"{}"};

	for (int i = 0; i < STORE_LINES_PER_OP + 20; i++)
		assert_ok(store_ops_put(f->store, NULL, 0, &l, 1, 1, &err), err);
	assert_int_equal(count_lines(f, l.op_id), STORE_LINES_PER_OP);
}

static void lines_come_in_order(void **state)
{
	struct fixture *f = *state;
	struct banger_error err = {0};
	struct store_op_line l[3] = {{.op_id = "op-000000000000", .line = (char *)"1"},
		{.op_id = "op-000000000001", .line = (char *)"x"},
		{.op_id = "op-000000000000", .line = (char *)"2"}};
	char **lines;
	size_t n;

	assert_ok(store_ops_put(f->store, NULL, 0, l, 3, 100, &err), err);
	assert_ok(store_op_lines(f->store, "op-000000000000", &lines, &n, &err), err);
	assert_int_equal(n, 2);
	assert_string_equal(lines[0], "1");
	assert_string_equal(lines[1], "2");
	free(lines[0]);
	free(lines[1]);
	free(lines);
}

/* A batch leaves the writer syncing as before, and a failed one leaves nothing. */
static void a_batch_is_whole(void **state)
{
	struct fixture *f = *state;
	struct banger_error err = {0};
	struct banger_op_record r[2] = {make_record("a", BANGER_OK), make_record("b", BANGER_OK)};
	struct store_op_line bad = {.op_id = "op-000000000000", .line = NULL};
	struct banger_image i = make_draft("web");

	assert_true(store_ops_put(f->store, r, 2, &bad, 1, 10, &err) < 0);
	assert_int_equal(count_ops(f, 10, false, -1), 0);
	assert_ok(store_ops_put(f->store, r, 2, NULL, 0, 10, &err), err);
	assert_ok(store_image_insert(f->store, &i, &r[0], &err), err);
	assert_int_equal(count_ops(f, 10, false, -1), 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, fixture_setup, fixture_teardown)
		T(keeps_every_field), T(finds_by_prefix), T(a_later_record_replaces),
		T(lists_newest_first_and_filters), T(trims_records_and_their_lines),
		T(vms_have_a_share), T(trims_lines_without_record), T(lines_come_in_order),
		T(a_batch_is_whole)};

	return cmocka_run_group_tests_name("store/ops", tests, NULL, NULL);
}
