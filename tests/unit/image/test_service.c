/* SPDX-License-Identifier: Apache-2.0 */
/* Register, rename, swap, configure, delete: what they do, what they refuse, what they tell. */
#include "fixture.h"

static void registers(void **state)
{
	struct fixture *f = *state;
	_cleanup_image_ struct banger_image i = {0}, found = {0};
	struct banger_op_record op = {0};

	assert_ok(f, do_register(f, "web", &i));
	assert_string_equal(i.name, "web");
	assert_int_equal(i.state, BANGER_DRAFT);
	assert_true(i.generation > 0 && i.size == -1 && i.created_us > 0 && i.published_us == 0);
	assert_true(banger_op_id_valid(i.op_id));
	assert_true(exists(path(f, "drafts/%s", i.id)));
	assert_ok(f, do_find(f, "web", &found));
	assert_string_equal(found.id, i.id);
	/* Its record was written in the very transaction. */
	assert_ok(f, store_op_find(f->store, i.op_id, &op, &f->err));
	assert_string_equal(op.method, "image.register");
	assert_int_equal(disagreements(f), 0);
}

static void register_refuses(void **state)
{
	struct fixture *f = *state;
	char long_name[200], source[2000];
	struct banger_image i = {0};
	struct operation *op;
	struct banger_actor actor = {.door = "rpc"};

	assert_ok(f, do_register(f, "web", NULL));
	assert_code(f, do_register(f, "web", NULL), EXISTS);
	assert_string_equal(f->err.message, "draft name \"web\" is taken");
	assert_code(f, do_register(f, ".hidden", NULL), BAD_REQUEST);
	assert_code(f, do_register(f, "", NULL), BAD_REQUEST);
	memset(long_name, 'a', sizeof(long_name));
	long_name[sizeof(long_name) - 1] = 0;
	assert_code(f, do_register(f, long_name, NULL), NAME_TOO_LONG);
	memset(source, 's', sizeof(source));
	source[sizeof(source) - 1] = 0;
	assert_ok(f, operation_begin(f->operations, OPERATION_CHANGE, "image.register",
			     banger_op_id_mint().s, &actor, NULL, &op, &f->err));
	int r = image_service_register(f->service, op, "other", source, &i, &f->err);
	operation_end(op, &f->err);
	assert_code(f, r, BAD_REQUEST);
	assert_int_equal(count_dir(path(f, "drafts")), 1);
}

static void renames(void **state)
{
	struct fixture *f = *state;
	_cleanup_image_ struct banger_image a = {0}, b = {0}, same = {0};
	char id[BANGER_ID_LEN + 1];

	assert_ok(f, do_register(f, "na", &a));
	assert_ok(f, do_rename(f, "na", "nb", &b));
	assert_string_equal(a.id, b.id);
	assert_string_equal(b.name, "nb");
	assert_true(b.generation > a.generation);
	assert_code(f, do_find(f, "na", NULL), NOT_FOUND);
	/* To its own name: nothing happens, no generation is taken. */
	assert_ok(f, do_rename(f, "nb", "nb", &same));
	assert_int_equal(same.generation, b.generation);
	assert_ok(f, do_register(f, "nc", NULL));
	assert_code(f, do_rename(f, "nb", "nc", NULL), EXISTS);
	assert_code(f, do_rename(f, "nb", "../c", NULL), BAD_REQUEST);
	assert_code(f, do_rename(f, "nobody", "nd", NULL), NOT_FOUND);
	/* A prefix finds an image, but not in a path. */
	assert_ok(f, do_find(f, "n", NULL) == -ENOTUNIQ ? 0 : -1);
	assert_ok(f, do_rename(f, "nb", "unlike", NULL));
	assert_ok(f, do_find(f, "unl", NULL));
	assert_code(f, do_delete(f, "drafts/unl"), NOT_FOUND);
	assert_ok(f, do_rename(f, "drafts/unlike", "nb", NULL));
	/* A name is taken within its state only. */
	make_image(f, "pub", id);
	assert_ok(f, do_rename(f, "images/pub", "nb", NULL));
	assert_code(f, do_find(f, "nb", NULL), AMBIGUOUS);
	assert_int_equal(disagreements(f), 0);
}

static void swaps(void **state)
{
	struct fixture *f = *state;
	_cleanup_image_ struct banger_image a = {0}, b = {0};
	char one[BANGER_ID_LEN + 1], two[BANGER_ID_LEN + 1];

	make_image(f, "one", one);
	make_image(f, "two", two);
	assert_ok(f, do_swap(f, "one", "two"));
	assert_ok(f, do_find(f, "one", &a));
	assert_ok(f, do_find(f, "two", &b));
	assert_string_equal(a.id, two);
	assert_string_equal(b.id, one);
	assert_int_equal(a.generation, b.generation);
	assert_code(f, do_swap(f, "one", "one"), BAD_REQUEST);
	assert_ok(f, do_register(f, "draft", NULL));
	assert_code(f, do_swap(f, "one", "draft"), BAD_REQUEST);
	assert_code(f, do_swap(f, "one", "nobody"), NOT_FOUND);
	assert_int_equal(disagreements(f), 0);
}

static void configures(void **state)
{
	struct fixture *f = *state;
	_cleanup_image_ struct banger_image i = {0}, again = {0};
	char id[BANGER_ID_LEN + 1];

	make_draft(f, "web", id);
	assert_ok(
		f, do_configure(f, "web",
			   "{\"id\":\"ignored\",\"kernel\":\"6.1\",\"config\":{\"cmd\":[\"sh\"]}}",
			   &i));
	assert_string_equal(i.kernel, "6.1");
	assert_string_equal(i.config, "{\"cmd\":[\"sh\"]}");
	/* The document is the whole of it: what it does not have is unset. */
	assert_ok(f, do_configure(f, "web", "{\"user\":\"www\"}", &again));
	assert_null(again.kernel);
	assert_string_equal(again.config, "{\"user\":\"www\"}");
	assert_code(f, do_configure(f, "web", "{\"config\":{\"colour\":1}}", NULL), BAD_REQUEST);
	assert_ok(f, do_promote(f, "web", NULL, NULL));
	assert_code(f, do_configure(f, "web", "{}", NULL), NOT_FOUND);
	banger_image_done(&i);
	assert_ok(f, do_find(f, "web", &i));
	assert_string_equal(i.config, "{\"user\":\"www\"}");
}

static int refuse_use(void *arg, const char *id, struct banger_error *err)
{
	return strcmp(arg, id) ? 0 : banger_error_set(err, BANGER_BUSY, "vm \"v\" uses it");
}

static void deletes(void **state)
{
	struct fixture *f = *state;
	_cleanup_image_ struct banger_image i = {0};
	char id[BANGER_ID_LEN + 1], buf[4];
	int fd = -1;

	make_image(f, "web", id);
	assert_ok(f, do_find(f, "web", &i));
	assert_ok(f, image_service_open(f->service, &i, ROOTFS, &fd, &f->err));
	assert_ok(f, do_delete(f, "web"));
	assert_code(f, do_find(f, "web", NULL), NOT_FOUND);
	assert_false(exists(path(f, "images/%s", id)));
	wait_trash(f);
	/* Who has it open goes on reading. */
	assert_int_equal(pread(fd, buf, 2, 1024 + 0x38), 2);
	assert_memory_equal(buf, "\x53\xef", 2);
	close(fd);
	assert_code(f, do_delete(f, "web"), NOT_FOUND);
	/* A draft with files, too. */
	make_draft(f, "nd", id);
	put_file(f, id, "README", "text");
	assert_ok(f, do_delete(f, "nd"));
	wait_trash(f);
	assert_int_equal(disagreements(f), 0);
}

static void delete_asks_who_uses(void **state)
{
	struct fixture *f = *state;
	char id[BANGER_ID_LEN + 1];

	make_image(f, "web", id);
	f->service->deps.in_use = refuse_use;
	f->service->deps.arg = id;
	assert_code(f, do_delete(f, "web"), BUSY);
	assert_ok(f, do_find(f, "web", NULL));
	id[0] ^= 1;
	assert_ok(f, do_delete(f, "web"));
}

/* The event's change, and the names and states in it. */
static void expect_event(struct fixture *f, const char *change, const char *names, int64_t *last)
{
	_cleanup_json_ struct json_object *e = next_event(f);
	char got[256] = "";

	assert_non_null(e);
	assert_string_equal(banger_json_str(e, "event"), "image");
	assert_string_equal(banger_json_str(e, "change"), change);
	assert_true(banger_op_id_valid(banger_json_str(e, "op_id")));
	assert_int_equal(banger_time_parse(banger_json_str(e, "ts"), &(int64_t){0}), 0);
	int64_t generation = banger_json_int(e, "generation", 0);
	assert_true(generation > *last);
	*last = generation;
	struct json_object *list = banger_json_get(e, "images");
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		struct json_object *o = json_object_array_get_idx(list, i);
		size_t n = strlen(got);
		snprintf(got + n, sizeof(got) - n, "%s:%s ", banger_json_str(o, "name"),
			banger_json_str(o, "state"));
		assert_int_equal(banger_json_int(o, "generation", 0), generation);
	}
	assert_string_equal(got, names);
}

static void tells_of_changes(void **state)
{
	struct fixture *f = *state;
	char id[BANGER_ID_LEN + 1];
	int64_t last = 0;

	make_draft(f, "na", id);
	assert_ok(f, do_configure(f, "na", "{\"user\":\"www\"}", NULL));
	assert_ok(f, do_promote(f, "na", "nb", NULL));
	make_image(f, "nc", id);
	assert_ok(f, do_swap(f, "nb", "nc"));
	assert_ok(f, do_rename(f, "nc", "nd", NULL));
	assert_code(f, do_rename(f, "nobody", "nd", NULL), NOT_FOUND);
	assert_ok(f, do_delete(f, "nd"));
	expect_event(f, "registered", "na:draft ", &last);
	expect_event(f, "configured", "na:draft ", &last);
	expect_event(f, "promoted", "nb:published ", &last);
	expect_event(f, "registered", "nc:draft ", &last);
	expect_event(f, "promoted", "nc:published ", &last);
	expect_event(f, "swapped", "nc:published nb:published ", &last);
	expect_event(f, "renamed", "nd:published ", &last);
	expect_event(f, "deleted", "nd:deleted ", &last);
	assert_null(next_event(f));
}

static int count_file(void *arg, const char *name, const struct stat *st)
{
	(*(int *)arg)++;
	return !strcmp(name, "stop") ? 7 : 0;
}

static void opens_and_lists(void **state)
{
	struct fixture *f = *state;
	_cleanup_image_ struct banger_image i = {0};
	char id[BANGER_ID_LEN + 1];
	int fd = -1, n = 0;

	make_image(f, "web", id);
	assert_ok(f, do_find(f, id, &i));
	assert_int_equal(image_service_open(f->service, &i, "kernel", &fd, &f->err), -ENOENT);
	assert_int_equal(image_service_open(f->service, &i, "../x", &fd, &f->err), -EINVAL);
	assert_int_equal(image_service_files(f->service, &i, count_file, &n, &f->err), 0);
	assert_int_equal(n, 1);
	assert_true(faccessat(image_service_images_fd(f->service), id, F_OK, 0) == 0);
	assert_true(faccessat(image_service_drafts_fd(f->service), id, F_OK, 0) < 0);
	make_draft(f, "nd", id);
	put_file(f, id, "stop", "");
	banger_image_done(&i);
	assert_ok(f, do_find(f, id, &i));
	assert_int_equal(image_service_files(f->service, &i, count_file, &n, &f->err), 7);
}

int main(void)
{
	const struct CMUnitTest tests[] = {TEST(registers), TEST(register_refuses), TEST(renames),
		TEST(swaps), TEST(configures), TEST(deletes), TEST(delete_asks_who_uses),
		TEST(tells_of_changes), TEST(opens_and_lists)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
