/* SPDX-License-Identifier: Apache-2.0 */
/* From a line to a reply: op_ids, refusals and their records, schemas, rights, descriptors. */
#include "serving.h"
#include <dirent.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define GIVEN "op-5b0c7e21d9aa"

static void a_good_request(void **state)
{
	struct serving *s = *state;
	_cleanup_close_ int fd = raw_connect(s);

	raw_line(fd, "{\"version\":1,\"method\":\"echo\",\"params\":{\"text\":\"a\",\"later\":[1]},"
		     "\"x\":{}}");
	_cleanup_json_ struct json_object *o = raw_receive(fd);
	assert_true(banger_json_bool(o, "ok", false));
	assert_string_equal(banger_json_str(banger_json_get(o, "result"), "text"), "a");
	assert_null(banger_json_get(o, "op_id"));
	raw_line(fd,
		"{\"version\":1,\"method\":\"echo\",\"params\":{\"text\":\"b\"},\"op_id\":\"" GIVEN
		"\"}");
	_cleanup_json_ struct json_object *p = raw_receive(fd);
	assert_string_equal(banger_json_str(p, "op_id"), GIVEN);
	/* Several at once are answered in order. */
	raw_line(fd, "{\"version\":1,\"method\":\"echo\",\"params\":{\"text\":\"1\"}}\n"
		     "{\"version\":1,\"method\":\"echo\",\"params\":{\"text\":\"2\"}}");
	_cleanup_json_ struct json_object *q = raw_receive(fd), *r = raw_receive(fd);
	assert_string_equal(banger_json_str(banger_json_get(q, "result"), "text"), "1");
	assert_string_equal(banger_json_str(banger_json_get(r, "result"), "text"), "2");
}

/* What the daemon keeps of a refusal. */
static void expect_record(
	struct serving *s, const char *op_id, const char *method, enum banger_code code)
{
	struct banger_error err = {0};
	struct banger_op_record r;
	char **lines;
	size_t n;

	assert_ok(operations_find(s->ops, op_id, &r, &err), err);
	assert_string_equal(r.method, method);
	assert_int_equal(r.code, code);
	assert_int_equal(r.actor.uid, getuid());
	assert_string_equal(r.actor.door, "rpc");
	assert_ok(operations_lines(s->ops, op_id, &lines, &n, &err), err);
	for (size_t i = 0; i < n; i++)
		free(lines[i]);
	free(lines);
}

static void refusals(void **state)
{
	static const struct {
		const char *line, *code, *method;
	} t[] = {
		{"", "bad_request", ""},
		{"x", "bad_request", ""},
		{"[]", "bad_request", ""},
		{"{}", "bad_version", ""},
		{"{\"version\":1}", "bad_request", ""},
		{"{\"version\":2,\"method\":\"echo\"}", "bad_version", "echo"},
		{"{\"version\":\"1\",\"method\":\"echo\"}", "bad_version", "echo"},
		{"{\"version\":1,\"method\":\"nope\"}", "unknown_method", "nope"},
		{"{\"version\":1,\"method\":\"echo\"}", "bad_request", "echo"},
		{"{\"version\":1,\"method\":\"echo\",\"params\":[]}", "bad_request", "echo"},
		{"{\"version\":1,\"method\":\"fail\",\"params\":{\"code\":\"busy\"}}", "busy",
			"fail"},
		{"{\"version\":1,\"method\":\"echo\xff\"}", "bad_request", ""},
		{"{\"version\":1,\"method\":\"fds\"}", "bad_request", "fds"},
	};
	struct serving *s = *state;
	_cleanup_close_ int fd = raw_connect(s);
	char op_id[BANGER_OP_ID_LEN + 1], line[256];

	for (size_t i = 0; i < ELEMENTSOF(t); i++) {
		raw_refused(fd, t[i].line, t[i].code, op_id);
		expect_record(s, op_id, t[i].method, banger_code_from_name(t[i].code));
		/* The line's own op_id, if it has got one that can be read. */
		const char *brace = strchr(t[i].line, '{');
		if (!brace || strchr(t[i].line, '\xff'))
			continue;
		snprintf(line, sizeof(line), "{\"op_id\":\"" GIVEN "\"%s%s",
			brace[1] == '}' ? "" : ",", brace + 1);
		raw_refused(fd, line, t[i].code, op_id);
		assert_string_equal(op_id, GIVEN);
	}
	raw_line(fd, "{\"version\":1,\"method\":\"echo\",\"params\":{\"text\":\"still here\"}}");
	_cleanup_json_ struct json_object *o = raw_receive(fd);
	assert_true(banger_json_bool(o, "ok", false));
}

static void schemas(void **state)
{
	static const struct {
		const char *params, *message;
	} t[] = {
		{"{}", "echo: \"text\" is required"},
		{"{\"text\":null}", "echo: \"text\" is required"},
		{"{\"text\":1}", "echo: \"text\" must be a string"},
		{"{\"text\":\"a\\u0000b\"}", "echo: \"text\" has a NUL character in it"},
		{"{\"text\":\"01234567890123456\"}", "echo: \"text\" is longer than 16 bytes"},
		{"{\"text\":\"\",\"n\":11}", "echo: \"n\" must be a whole number from -5 to 10"},
		{"{\"text\":\"\",\"n\":-6}", "echo: \"n\" must be a whole number from -5 to 10"},
		{"{\"text\":\"\",\"n\":1.5}", "echo: \"n\" must be a whole number from -5 to 10"},
		{"{\"text\":\"\",\"any\":\"1\"}", "echo: \"any\" must be a whole number"},
		{"{\"text\":\"\",\"any\":9223372036854775808}",
			"echo: \"any\" must be a whole number"},
		{"{\"text\":\"\",\"any\":99999999999999999999}",
			"echo: \"any\" must be a whole number"},
		{"{\"text\":\"\",\"any\":-9999999999999999999}",
			"echo: \"any\" must be a whole number"},
		{"{\"text\":\"\",\"flag\":1}", "echo: \"flag\" must be true or false"},
		{"{\"text\":\"\",\"list\":\"a\"}", "echo: \"list\" must be a list of strings"},
		{"{\"text\":\"\",\"list\":[\"a\",null]}",
			"echo: \"list\" must be a list of strings"},
		{"{\"text\":\"\",\"list\":[\"a\\u0000\"]}",
			"echo: \"list\" has a NUL character in it"},
		{"{\"text\":\"\",\"obj\":[]}", "echo: \"obj\" must be an object"},
		{"{\"text\":\"0123456789012345\",\"n\":-5,\"any\":9223372036854775807,\"flag\":"
		 "false,"
		 "\"list\":[],\"obj\":{}}",
			NULL},
	};
	struct serving *s = *state;
	_cleanup_close_ int fd = raw_connect(s);

	for (size_t i = 0; i < ELEMENTSOF(t); i++) {
		char line[512];
		snprintf(line, sizeof(line), "{\"version\":1,\"method\":\"echo\",\"params\":%s}",
			t[i].params);
		raw_line(fd, line);
		_cleanup_json_ struct json_object *o = raw_receive(fd);
		const char *message = banger_json_str(banger_json_get(o, "error"), "message");
		if (!t[i].message)
			assert_true(banger_json_bool(o, "ok", false));
		else
			assert_string_equal(message ?: "accepted", t[i].message);
	}
}

static void a_line_over_the_limit(void **state)
{
	struct serving *s = *state;
	_cleanup_close_ int fd = raw_connect(s), other = raw_connect(s);
	size_t len = 3 * 1024 * 1024;
	_cleanup_free_ char *b = malloc(len);
	char op_id[BANGER_OP_ID_LEN + 1];

	/* All of it can be sent, and the answer read after that; then the end. */
	memset(b, ' ', len);
	raw_send(fd, b, len);
	raw_refused(fd, NULL, "too_large", op_id);
	expect_record(s, op_id, "", BANGER_TOO_LARGE);
	assert_null(raw_receive(fd));
	/* As long as may be. */
	len = BANGER_WIRE_LINE_MAX - 1;
	const char head[] = "{\"version\":1,\"method\":\"echo\",\"params\":{\"text\":\"a\"}";
	memcpy(b, head, sizeof(head) - 1);
	b[len - 1] = '}';
	b[len] = '\n';
	raw_send(other, b, len + 1);
	_cleanup_json_ struct json_object *o = raw_receive(other);
	assert_true(banger_json_bool(o, "ok", false));
}

static void half_a_line(void **state)
{
	struct serving *s = *state;
	_cleanup_close_ int fd = raw_connect(s);
	char op_id[BANGER_OP_ID_LEN + 1];

	raw_send(fd, "{\"version\":1,", 13);
	shutdown(fd, SHUT_WR);
	raw_refused(fd, NULL, "bad_request", op_id);
	expect_record(s, op_id, "", BANGER_BAD_REQUEST);
	assert_null(raw_receive(fd));
}

static void deep_nesting(void **state)
{
	struct serving *s = *state;
	_cleanup_close_ int fd = raw_connect(s);
	_cleanup_free_ char *b = malloc(200003);
	char op_id[BANGER_OP_ID_LEN + 1];

	memset(b, '[', 200000);
	b[200000] = '\0';
	raw_refused(fd, b, "bad_request", op_id);
}

static void results_over_the_limit(void **state)
{
	struct serving *s = *state;
	_cleanup_close_ int fd = raw_connect(s);
	char op_id[BANGER_OP_ID_LEN + 1];

	raw_refused(fd, "{\"version\":1,\"method\":\"big\",\"params\":{\"size\":1048576}}",
		"too_large", op_id);
	raw_line(fd, "{\"version\":1,\"method\":\"big\",\"params\":{\"size\":1000000}}");
	_cleanup_json_ struct json_object *o = raw_receive(fd);
	assert_true(banger_json_bool(o, "ok", false));
}

static void an_id_that_runs(void **state)
{
	struct serving *s = *state;
	_cleanup_close_ int a = raw_connect(s), b = raw_connect(s);
	char op_id[BANGER_OP_ID_LEN + 1];

	raw_line(a, "{\"version\":1,\"method\":\"wait\",\"op_id\":\"" GIVEN "\"}");
	for (int i = 0; i < 5000 && !operations_is_running(s->ops, GIVEN); i++)
		usleep(1000);
	raw_refused(b, "{\"version\":1,\"method\":\"change\",\"op_id\":\"" GIVEN "\"}", "exists",
		op_id);
	assert_string_equal(op_id, GIVEN);
	raw_line(b,
		"{\"version\":1,\"method\":\"echo\",\"params\":{\"text\":\"\"},\"op_id\":\"" GIVEN
		"\"}");
	_cleanup_json_ struct json_object *o = raw_receive(b);
	assert_true(banger_json_bool(o, "ok", false));
	assert_int_equal(operations_cancel(s->ops, GIVEN, NULL), 0);
	raw_refused(a, NULL, "cancelled", op_id);
}

static void actors(void **state)
{
	struct serving *s = *state;
	_cleanup_client_ struct banger_client *c = NULL;
	struct banger_error err = {0};
	struct banger_op_record r;
	struct banger_actor actor = {
		.uid = 4711, .gid = 12, .pid = 99, .program = "cp", .door = "fs"};
	_cleanup_op_ banger_op_id saved = banger_op_enter(GIVEN);

	assert_ok(banger_client_connect(s->path, &c, &err), err);
	assert_ok(banger_client_call(c, "change", NULL, NULL, &err), err);
	assert_ok(operations_find(s->ops, GIVEN, &r, &err), err);
	assert_int_equal(r.actor.uid, getuid());
	assert_int_equal(r.actor.pid, getpid());
	assert_true(strlen(r.actor.program) > 0);
	assert_string_equal(r.actor.door, "rpc");
	banger_client_set_actor(c, &actor);
	assert_ok(banger_client_call(c, "change", NULL, NULL, &err), err);
	assert_ok(operations_find(s->ops, GIVEN, &r, &err), err);
	assert_int_equal(r.actor.uid, 4711);
	assert_string_equal(r.actor.program, "cp");
	assert_string_equal(r.actor.door, "fs");
}

static int call_as(struct serving *s, uid_t uid, const char *method, const char *text)
{
	int status;

	pid_t pid = fork();
	if (pid == 0) {
		_cleanup_client_ struct banger_client *c = NULL;
		struct banger_error err = {0};
		struct banger_actor root = {.uid = 0, .door = "fs"};
		struct json_object *params = json_object_new_object();

		if (setresgid(uid, uid, uid) < 0 || setresuid(uid, uid, uid) < 0 ||
			banger_client_connect(s->path, &c, &err) < 0)
			_exit(255);
		banger_client_set_actor(c, &root);
		banger_json_add_str(params, "text", text);
		int r = banger_client_call(c, method, params, NULL, &err);
		_exit(r == 0 ? 0 : err.code);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void strangers_may_only_look(void **state)
{
	struct serving *s = *state;
	_cleanup_free_ struct banger_op_record *r = NULL;
	size_t n;

	if (geteuid() != 0)
		skip();
	assert_int_equal(call_as(s, 12345, "echo", "a"), 255); /* the socket is the owner's */
	assert_int_equal(chmod(s->f->dir, 0711), 0);
	assert_int_equal(chmod(s->path, 0666), 0);
	assert_int_equal(call_as(s, 12345, "echo", "a"), 0);
	assert_int_equal(call_as(s, 12345, "change", "a"), BANGER_DENIED);
	/* Whatever it says of itself. */
	assert_int_equal(operations_list(s->ops, 1, true, -1, &r, &n, NULL), 0);
	assert_int_equal(n, 1);
	assert_int_equal(r->actor.uid, 12345);
	assert_string_equal(r->actor.door, "rpc");
	assert_string_equal(r->message,
		"change is for root and the daemon's own user (uid 0); uid 12345 may only look");
}

static int call_from_vm(struct serving *s, const char *vm, bool changes, const char *method,
	const struct banger_actor *actor, struct banger_error *err)
{
	_cleanup_client_ struct banger_client *c = NULL;
	struct banger_error connecting = {0};

	*err = (struct banger_error){0};
	strcpy(s->vm, vm);
	s->vm_changes = changes;
	assert_ok(banger_client_connect(s->path, &c, &connecting), connecting);
	banger_client_set_actor(c, actor);
	banger_client_call(c, method, NULL, NULL, err);
	return err->code;
}

static void vms_may_do_what_is_theirs(void **state)
{
	static const struct {
		const char *method;
		enum banger_code changing, reading;
	} t[] = {
		{"echo", BANGER_BAD_REQUEST,
			BANGER_BAD_REQUEST}, /* allowed; it lacks parameters */
		{"host", BANGER_DENIED, BANGER_DENIED},
		{"change", BANGER_DENIED, BANGER_DENIED},
		{"sleep", BANGER_DENIED, BANGER_DENIED},
		{"made", 0, BANGER_DENIED},
		{"seen", 0, 0},
	};
	struct serving *s = *state;
	struct banger_actor actor = {.uid = 4711, .door = "fs", .vm = "one"};
	struct banger_error err;

	for (size_t i = 0; i < ELEMENTSOF(t); i++) {
		assert_int_equal(
			call_from_vm(s, "one", true, t[i].method, NULL, &err), t[i].changing);
		assert_int_equal(
			call_from_vm(s, "one", false, t[i].method, NULL, &err), t[i].reading);
	}
	/* What it says of itself: its own name, and nobody else's. */
	assert_int_equal(call_from_vm(s, "one", true, "made", &actor, &err), 0);
	assert_int_equal(call_from_vm(s, "two", true, "made", &actor, &err), BANGER_DENIED);
	assert_int_equal(call_from_vm(s, "", true, "made", &actor, &err), BANGER_DENIED);
	actor.vm[0] = '\0';
	assert_int_equal(call_from_vm(s, "one", true, "made", &actor, &err), BANGER_DENIED);
	assert_int_equal(call_from_vm(s, "", true, "host", &actor, &err), 0);
}

/* An operation of a VM is recorded as the VM's, under the user that its filesystem has here. */
static void actors_in_vms(void **state)
{
	struct serving *s = *state;
	struct banger_actor actor = {.uid = 4711, .gid = 12, .door = "fs", .vm = "one"};
	struct banger_error err;
	struct banger_op_record r;
	_cleanup_op_ banger_op_id saved = banger_op_enter(GIVEN);

	assert_int_equal(call_from_vm(s, "one", true, "made", &actor, &err), 0);
	assert_ok(operations_find(s->ops, GIVEN, &r, &err), err);
	assert_string_equal(r.actor.vm, "one");
	assert_int_equal(r.actor.uid, getuid());
}

static size_t open_descriptors(void)
{
	_cleanup_closedir_ DIR *d = opendir("/proc/self/fd");
	size_t n = 0;

	while (readdir(d))
		n++;
	return n;
}

static void descriptors(void **state)
{
	struct serving *s = *state;
	_cleanup_client_ struct banger_client *c = NULL;
	struct banger_error err = {0};
	int null = open("/dev/null", O_RDWR | O_CLOEXEC), got[BANGER_WIRE_FDS_MAX];
	int many[] = {null, null, null, null, null, null, null, null};

	assert_ok(banger_client_connect(s->path, &c, &err), err);
	wait_for_clients(s, 1);
	assert_ok(banger_client_call(c, "change", NULL, NULL, &err), err);
	size_t n, before = open_descriptors();
	for (int i = 0; i < 100; i++) {
		n = 2;
		assert_ok(
			banger_client_call_fds(c, "fds", NULL, many, 2, NULL, got, &n, &err), err);
		assert_int_equal(n, 2);
		close(got[0]);
		close(got[1]);
		assert_int_equal(
			banger_client_call_fds(c, "fds", NULL, many, 8, NULL, NULL, NULL, &err),
			-EINVAL);
		assert_string_equal(err.message, "fds takes 1 or more descriptors, 8 came");
		assert_ok(banger_client_call_fds(c, "big", NULL, many, 0, NULL, NULL, NULL, &err),
			err);
		assert_int_equal(
			banger_client_call_fds(c, "big", NULL, many, 1, NULL, NULL, NULL, &err),
			-EINVAL);
	}
	/* What went with the last reply is closed after it. */
	for (int i = 0; i < 5000 && open_descriptors() != before; i++)
		usleep(1000);
	assert_int_equal(open_descriptors(), before);
	close(null);
}

int main(void)
{
	serving_init();
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, serving_setup, serving_teardown)
		T(a_good_request), T(refusals), T(schemas), T(a_line_over_the_limit),
		T(half_a_line), T(deep_nesting), T(results_over_the_limit), T(an_id_that_runs),
		T(actors), T(strangers_may_only_look), T(vms_may_do_what_is_theirs),
		T(actors_in_vms), T(descriptors)};

	return cmocka_run_group_tests_name("rpc/dispatch", tests, NULL, NULL);
}
