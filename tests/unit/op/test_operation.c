/* SPDX-License-Identifier: Apache-2.0 */
/* Operations: what is logged, recorded and published, when, and what cancels. */
#include "fixture.h"
#include <banger/log.h>
#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>
#include "op/operation.h"

struct ops_fixture {
	struct fixture *f;
	struct hub *hub;
	struct operations *ops;
	int log_fd, saved_stderr;
};

static const struct banger_actor somebody = {
	.uid = 1000, .gid = 100, .pid = 42, .program = "mkdir"};

static int setup(void **state)
{
	struct ops_fixture *o = calloc(1, sizeof(*o));
	void *f = NULL;

	fixture_setup(&f);
	o->f = f;
	o->log_fd = memfd_create("log", MFD_CLOEXEC);
	o->saved_stderr = dup(STDERR_FILENO);
	dup2(o->log_fd, STDERR_FILENO);
	assert_int_equal(hub_new(&o->hub), 0);
	assert_int_equal(operations_new(o->f->store, o->hub, 10, &o->ops, NULL), 0);
	*state = o;
	return 0;
}

static int teardown(void **state)
{
	struct ops_fixture *o = *state;
	void *f = o->f;

	operations_freep(&o->ops);
	hub_freep(&o->hub);
	dup2(o->saved_stderr, STDERR_FILENO);
	close(o->saved_stderr);
	close(o->log_fd);
	fixture_teardown(&f);
	free(o);
	return 0;
}

/* How many log lines have all of the words? */
static int count_log(struct ops_fixture *o, const char *a, const char *b)
{
	off_t size = lseek(o->log_fd, 0, SEEK_END);
	_cleanup_free_ char *text = calloc(1, size + 1);
	int n = 0;

	assert_int_equal(pread(o->log_fd, text, size, 0), size);
	for (char *save, *l = strtok_r(text, "\n", &save); l; l = strtok_r(NULL, "\n", &save))
		n += strstr(l, a) && strstr(l, b);
	return n;
}

static struct operation *begin(
	struct ops_fixture *o, enum operation_kind kind, const char *method, const char *op_id)
{
	struct banger_error err = {0};
	struct operation *op = NULL;

	assert_ok(operation_begin(o->ops, kind, method, op_id, &somebody, NULL, &op, &err), err);
	return op;
}

static size_t listed(struct ops_fixture *o, bool failed_only, int64_t uid)
{
	_cleanup_free_ struct banger_op_record *r = NULL;
	struct banger_error err = {0};
	size_t n;

	assert_ok(operations_list(o->ops, 100, failed_only, uid, &r, &n, &err), err);
	return n;
}

static void a_change_is_logged_and_kept(void **state)
{
	struct ops_fixture *o = *state;
	struct banger_error err = {0};
	struct banger_op_record r;
	char **lines;
	size_t n;

	struct operation *op = begin(o, OPERATION_CHANGE, "image.register", "op-000000000001");
	assert_string_equal(banger_op_current(), "op-000000000001");
	assert_ok(operations_find(o->ops, "op-000000000001", &r, &err), err);
	assert_int_equal(r.elapsed_us, -1);
	log_info("in between");
	operation_end(op, NULL);
	assert_null(banger_op_current());
	assert_int_equal(count_log(o, "operation started", "op-000000000001"), 1);
	assert_int_equal(count_log(o, "operation completed", "op-000000000001"), 1);
	assert_int_equal(count_log(o, "elapsed_ms", "\"method\":\"image.register\""), 1);
	assert_ok(operations_find(o->ops, "op-00000000", &r, &err), err);
	assert_string_equal(r.method, "image.register");
	assert_int_equal(r.code, BANGER_OK);
	assert_true(r.elapsed_us >= 0);
	assert_int_equal(r.actor.uid, 1000);
	assert_ok(operations_lines(o->ops, "op-000000000001", &lines, &n, &err), err);
	assert_int_equal(n, 3);
	assert_non_null(strstr(lines[0], "operation started"));
	assert_non_null(strstr(lines[1], "in between"));
	assert_non_null(strstr(lines[2], "operation completed"));
	for (size_t i = 0; i < n; i++)
		free(lines[i]);
	free(lines);
}

static void a_failure_says_why(void **state)
{
	struct ops_fixture *o = *state;
	struct banger_error err = {0}, why = {0};
	struct banger_op_record r;

	struct operation *op = begin(o, OPERATION_CHANGE, "image.register", "op-000000000001");
	banger_error_set(&why, BANGER_EXISTS, "image name \"web\" is taken");
	operation_end(op, &why);
	assert_int_equal(count_log(o, "operation failed", "\"code\":\"exists\""), 1);
	assert_ok(operations_find(o->ops, "op-000000000001", &r, &err), err);
	assert_int_equal(r.code, BANGER_EXISTS);
	assert_string_equal(r.message, why.message);
	assert_int_equal(listed(o, true, -1), 1);
	assert_int_equal(listed(o, true, 1000), 1);
	assert_int_equal(listed(o, true, 0), 0);
}

static void reads_are_silent_until_they_fail(void **state)
{
	struct ops_fixture *o = *state;
	struct banger_error why = {0};

	operation_end(begin(o, OPERATION_READ, "image.ls", "op-000000000001"), NULL);
	assert_int_equal(lseek(o->log_fd, 0, SEEK_END), 0);
	assert_int_equal(listed(o, false, -1), 0);
	struct operation *op = begin(o, OPERATION_READ, "image.show", "op-000000000002");
	banger_error_set(&why, BANGER_NOT_FOUND, "image \"x\" not found");
	operation_end(op, &why);
	assert_int_equal(count_log(o, "operation started", "op-000000000002"), 1);
	assert_int_equal(count_log(o, "operation failed", "op-000000000002"), 1);
	assert_int_equal(listed(o, false, -1), 1);
}

/* One that the store wrote with its change is not written again, unless it fails after all. */
static void recorded_ones_are_not_written_twice(void **state)
{
	struct ops_fixture *o = *state;
	struct banger_error err = {0}, why = {0};
	struct banger_op_record r, got;
	struct banger_image image = make_draft("web");

	struct operation *op = begin(o, OPERATION_CHANGE, "image.register", "op-000000000001");
	operation_completed_record(op, &r);
	assert_true(r.elapsed_us >= 0);
	assert_int_equal(r.code, BANGER_OK);
	operation_end(op, NULL);
	assert_int_equal(listed(o, false, -1), 0); /* nobody handed it to the store */

	op = begin(o, OPERATION_CHANGE, "image.register", "op-000000000002");
	operation_completed_record(op, &r);
	assert_ok(store_image_insert(o->f->store, &image, &r, &err), err);
	banger_error_set(&why, BANGER_INTERNAL, "after all");
	operation_end(op, &why);
	assert_ok(operations_find(o->ops, "op-000000000002", &got, &err), err);
	assert_int_equal(got.code, BANGER_INTERNAL);
	assert_int_equal(listed(o, false, -1), 1);
}

static void refuses_an_id_in_use(void **state)
{
	struct ops_fixture *o = *state;
	struct banger_error err = {0};
	struct operation *again = NULL;
	struct operation *op = begin(o, OPERATION_LONG, "image.import", "op-000000000001");

	assert_int_equal(operation_begin(o->ops, OPERATION_CHANGE, "image.register",
				 "op-000000000001", &somebody, NULL, &again, &err),
		-EEXIST);
	assert_non_null(strstr(err.message, "op-000000000001"));
	/* What only reads may belong to it. */
	operation_end(begin(o, OPERATION_READ, "op.show", "op-000000000001"), NULL);
	assert_string_equal(banger_op_current(), "op-000000000001");
	operation_end(op, NULL);
	operation_end(begin(o, OPERATION_CHANGE, "image.register", "op-000000000001"), NULL);
}

static void cancels(void **state)
{
	struct ops_fixture *o = *state;
	struct banger_error err = {0};
	struct operation *op = begin(o, OPERATION_LONG, "image.import", "op-000000000001");
	struct pollfd p = {.fd = operation_cancel_fd(op), .events = POLLIN};

	assert_int_equal(operation_check_cancelled(op, &err), 0);
	assert_int_equal(poll(&p, 1, 0), 0);
	assert_int_equal(operations_cancel(o->ops, "op-00000000000f", &err), -ENOENT);
	assert_string_equal(err.message, "operation \"op-00000000000f\" does not run");
	struct operation *request = begin(o, OPERATION_READ, "op.cancel", "op-000000000001");
	assert_ok(operations_cancel(o->ops, "op-000000000001", &err), err);
	assert_false(operation_cancelled(request));
	operation_end(request, NULL);
	assert_ok(operations_cancel(o->ops, "op-000000000001", &err), err);
	assert_true(operation_cancelled(op));
	assert_int_equal(poll(&p, 1, 0), 1);
	assert_int_equal(operation_check_cancelled(op, &err), -ECANCELED);
	assert_int_equal(err.code, BANGER_CANCELLED);
	operation_end(op, &err);
}

static void lists_in_the_order_of_beginning(void **state)
{
	struct ops_fixture *o = *state;
	_cleanup_free_ struct banger_op_record *r = NULL, *running = NULL;
	struct banger_error err = {0};
	size_t n;

	operation_end(begin(o, OPERATION_CHANGE, "a", "op-000000000001"), NULL);
	struct operation *op = begin(o, OPERATION_LONG, "b", "op-000000000002");
	struct operation *read = begin(o, OPERATION_READ, "c", "op-000000000003");
	assert_ok(operations_list(o->ops, 10, false, -1, &r, &n, &err), err);
	assert_int_equal(n, 2);
	assert_string_equal(r[0].method, "b");
	assert_int_equal(r[0].elapsed_us, -1);
	assert_string_equal(r[1].method, "a");
	assert_int_equal(operations_running(o->ops, &running, &n), 0);
	assert_int_equal(n, 1);
	assert_true(operations_is_running(o->ops, "op-000000000003"));
	operation_end(read, NULL);
	assert_false(operations_is_running(o->ops, "op-000000000003"));
	/* One that runs still, and one that began after it and has ended. */
	usleep(2);
	operation_end(begin(o, OPERATION_CHANGE, "e", "op-000000000005"), NULL);
	free(r);
	r = NULL;
	assert_ok(operations_list(o->ops, 10, false, -1, &r, &n, &err), err);
	assert_int_equal(n, 3);
	assert_string_equal(r[0].method, "e");
	assert_string_equal(r[1].method, "b");
	assert_string_equal(r[2].method, "a");
	free(r);
	r = NULL;
	assert_ok(operations_list(o->ops, 1, false, -1, &r, &n, &err), err);
	assert_int_equal(n, 1);
	assert_string_equal(r[0].method, "b");
	operation_end(op, NULL);
	/* A prefix that one that runs and one that is kept share. */
	op = begin(o, OPERATION_CHANGE, "d", "op-000000000004");
	struct banger_op_record found;
	assert_int_equal(operations_find(o->ops, "op-0", &found, &err), -ENOTUNIQ);
	assert_int_equal(operations_find(o->ops, "op-f", &found, &err), -ENOENT);
	assert_int_equal(operations_find(o->ops, "", &found, &err), -EINVAL);
	operation_end(op, NULL);
}

static char *take(struct hub_subscription *s)
{
	char *text = NULL;
	size_t len;

	assert_int_equal(hub_take(s, &text, &len), 1);
	return text;
}

static void publishes(void **state)
{
	struct ops_fixture *o = *state;
	struct hub_subscription *ops = NULL, *log = NULL;

	assert_int_equal(hub_subscribe(o->hub, HUB_OPS, NULL, &ops), 0);
	assert_int_equal(hub_subscribe(o->hub, HUB_LOG, "op-000000000002", &log), 0);
	operation_end(begin(o, OPERATION_CHANGE, "a", "op-000000000001"), NULL);
	operation_end(begin(o, OPERATION_LONG, "b", "op-000000000002"), NULL);
	operation_end(begin(o, OPERATION_READ, "c", "op-000000000003"), NULL);
	_cleanup_free_ char *a = take(ops), *b = take(ops), *c = take(ops);
	_cleanup_free_ char *d = take(log), *e = take(log), *end = take(log);
	char *more;
	size_t len;
	assert_non_null(strstr(a, "{\"event\":\"op\",\"op\":{\"op_id\":\"op-000000000001\""));
	assert_non_null(strstr(a, "\"outcome\":\"completed\""));
	assert_non_null(strstr(b, "\"outcome\":\"running\""));
	assert_non_null(strstr(c, "\"outcome\":\"completed\""));
	assert_int_equal(hub_take(ops, &more, &len), 0);
	assert_non_null(strstr(d, "operation started"));
	assert_non_null(strstr(e, "operation completed"));
	assert_string_equal(end, "");
	hub_unsubscribep(&ops);
	hub_unsubscribep(&log);
}

static void takes_reports(void **state)
{
	struct ops_fixture *o = *state;
	struct banger_error err = {0};
	struct banger_op_record r = make_record("fs.mkdir", BANGER_NOT_PERMITTED), got;

	operations_report(o->ops, &r);
	assert_ok(operations_find(o->ops, r.op_id, &got, &err), err);
	assert_memory_equal(&r, &got, sizeof(r));
	assert_int_equal(count_log(o, "operation failed", r.op_id), 1);
}

static void sums_up_parameters(void **state)
{
	struct ops_fixture *o = *state;
	_cleanup_json_ struct json_object *p = json_tokener_parse(
		"{\"name\":\"web\",\"size\":5,\"argv\":[\"a\",\"b\"],\"document\":{\"x\":1},"
		"\"registry_token\":\"hunter2\",\"on\":true,\"none\":null,\"ctl\":\"a\\u001bb\"}");
	_cleanup_json_ struct json_object *big = json_object_new_object();
	struct banger_error err = {0};
	struct banger_op_record r;
	struct operation *op = NULL;
	char key[16], text[400];

	assert_ok(operation_begin(o->ops, OPERATION_CHANGE, "m", "op-000000000001", &somebody, p,
			  &op, &err),
		err);
	operation_completed_record(op, &r);
	assert_string_equal(
		r.params, "name=web size=5 argv=[2] document={1} on=true none=null ctl=a?b");
	operation_end(op, NULL);
	memset(text, 0, sizeof(text));
	for (int i = 0; i < 100; i++)
		memcpy(text + 2 * i, "é", 2);
	for (int i = 0; i < 20; i++) {
		snprintf(key, sizeof(key), "k%d", i);
		banger_json_add_str(big, key, text);
	}
	assert_ok(operation_begin(o->ops, OPERATION_CHANGE, "m", "op-000000000002", &somebody, big,
			  &op, &err),
		err);
	operation_completed_record(op, &r);
	assert_true(banger_utf8_valid(r.params, strlen(r.params)));
	assert_true(strlen(r.params) > 150 && strlen(r.params) < sizeof(r.params));
	assert_non_null(strstr(r.params, "…"));
	operation_end(op, NULL);
}

static void *many(void *arg)
{
	struct ops_fixture *o = arg;

	for (int i = 0; i < 200; i++) {
		banger_op_id id = banger_op_id_mint();
		struct banger_error why = {0};
		struct operation *op = begin(o, OPERATION_CHANGE, "x", id.s);
		banger_error_set(&why, BANGER_BUSY, "busy");
		operation_end(op, i % 2 ? &why : NULL);
	}
	return NULL;
}

/* More than are kept, from several threads, with readers who flush. */
static void keeps_the_newest_of_a_flood(void **state)
{
	struct ops_fixture *o = *state;
	pthread_t t[4];

	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&t[i], NULL, many, o), 0);
	for (int i = 0; i < 20; i++)
		operations_flush(o->ops);
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(listed(o, false, -1), 10);
}

int main(void)
{
	banger_log_init("test");
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(a_change_is_logged_and_kept), T(a_failure_says_why),
		T(reads_are_silent_until_they_fail), T(recorded_ones_are_not_written_twice),
		T(refuses_an_id_in_use), T(cancels), T(lists_in_the_order_of_beginning), T(publishes),
		T(takes_reports), T(sums_up_parameters), T(keeps_the_newest_of_a_flood)};

	return cmocka_run_group_tests_name("op/operation", tests, NULL, NULL);
}
