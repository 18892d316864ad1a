/* SPDX-License-Identifier: Apache-2.0 */
/* Names, ids, and the documents there and back, with what is refused in them. */
#include "check.h"
#include <banger/model.h>

static struct json_object *json(const char *s)
{
	struct json_object *o = NULL;
	assert_int_equal(banger_json_parse(s, strlen(s), &o, NULL), 0);
	return o;
}

static const char *text(struct json_object *o)
{
	return json_object_to_json_string_ext(
		o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
}

static void names(void **state)
{
	char longest[BANGER_NAME_MAX + 2];
	struct banger_error e;

	memset(longest, 'a', sizeof(longest) - 1);
	longest[BANGER_NAME_MAX + 1] = '\0';
	assert_false(banger_name_valid(longest));
	assert_int_equal(banger_name_check("image", longest, &e), -ENAMETOOLONG);
	longest[BANGER_NAME_MAX] = '\0';
	assert_true(banger_name_valid(longest));
	assert_true(banger_name_valid("0"));
	assert_true(banger_name_valid("web-2.1_x"));
	static const char *const bad[] = {
		"", ".", "..", ".a", "-a", "_a", "a/b", "a b", "a\n", "\xc3\xa9", "a:b"};
	for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
		assert_false(banger_name_valid(bad[i]));
		assert_int_equal(banger_name_check("image", bad[i], &e), -EINVAL);
	}
	assert_false(banger_name_valid(NULL));
	assert_int_equal(banger_name_check("image", NULL, &e), -EINVAL);
	assert_string_equal(e.message, "image name is required");
}

static void ids(void **state)
{
	char a[BANGER_ID_LEN + 1], b[BANGER_ID_LEN + 1];

	banger_id_mint(a);
	banger_id_mint(b);
	assert_true(banger_id_valid(a) && banger_id_valid(b));
	assert_string_not_equal(a, b);
	assert_false(banger_id_valid("0123456789abcde"));
	assert_false(banger_id_valid("0123456789abcdef0"));
	assert_false(banger_id_valid("0123456789abcdeF"));
}

static void file_names(void **state)
{
	assert_int_equal(banger_file_name_check("rootfs.ext4", NULL), 0);
	assert_int_equal(banger_file_name_check(".rootfs.ext4.Xy12", NULL), 0);
	assert_int_equal(banger_file_name_check("\xc3\xa9 b", NULL), 0);
	static const char *const bad[] = {"", ".", "..", "a/b", "a\n", "\xff"};
	for (size_t i = 0; i < ELEMENTSOF(bad); i++)
		assert_int_equal(banger_file_name_check(bad[i], NULL), -EINVAL);
}

#define DIGEST "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

static void images(void **state)
{
	const char *full =
		"{\"id\":\"0123456789abcdef\",\"name\":\"web\",\"state\":\"published\","
		"\"generation\":12,"
		"\"digest\":\"" DIGEST
		"\",\"size\":1048576,\"source\":\"import x\",\"op_id\":\"op-0123456789ab\","
		"\"created\":\"2026-03-01T10:00:00.123456Z\",\"published\":\"2026-03-01T10:00:01."
		"000000Z\","
		"\"kernel\":\"k\",\"config\":{\"env\":[\"A=b\"]}}";
	const char *draft = "{\"id\":\"0123456789abcdef\",\"name\":\"web\",\"state\":\"draft\","
			    "\"generation\":0,"
			    "\"created\":\"2026-03-01T10:00:00.123456Z\"}";
	const char *const both[] = {full, draft};

	for (size_t i = 0; i < 2; i++) {
		_cleanup_json_ struct json_object *o = json(both[i]), *back = NULL;
		_cleanup_image_ struct banger_image a = {0}, b = {0};
		assert_int_equal(banger_image_from_json(o, &a, NULL), 0);
		assert_int_equal(banger_image_copy(&a, &b), 0);
		back = banger_image_to_json(&b);
		assert_string_equal(text(back), both[i]);
	}
}

static void bad_images(void **state)
{
	static const char *const wrong[][2] = {{"id", "\"x\""}, {"name", "\"../x\""},
		{"state", "\"deleted\""}, {"generation", "-1"}, {"generation", "\"1\""},
		{"digest", "\"sha256:12\""}, {"size", "-5"}, {"op_id", "\"op-x\""},
		{"created", "\"yesterday\""}, {"published", "5"}, {"kernel", "\"a b\""},
		{"config", "[]"}, {"source", "7"}};
	struct banger_error e;

	for (size_t i = 0; i < ELEMENTSOF(wrong); i++) {
		_cleanup_json_ struct json_object *o =
			json("{\"id\":\"0123456789abcdef\",\"name\":\"web\",\"state\":\"draft\","
			     "\"generation\":0,"
			     "\"created\":\"2026-03-01T10:00:00.123456Z\"}");
		struct banger_image image = {0};
		json_object_object_add(o, wrong[i][0], json(wrong[i][1]));
		assert_int_equal(banger_image_from_json(o, &image, &e), -EINVAL);
		assert_non_null(strstr(e.message, wrong[i][0]));
		assert_null(image.source);
	}
}

static void config(void **state)
{
	_cleanup_free_ char *kernel = NULL, *conf = NULL;
	_cleanup_json_ struct json_object *o = json(
		"{\"id\":\"x\",\"name\":7,\"kernel\":\"deb\",\"env\":[\"A=1\"],\"user\":\"root\","
		"\"config\":{\"cmd\":[\"/bin/sh\"],\"labels\":{\"a\":\"b\"},\"user\":null}}");
	struct banger_error e;

	assert_int_equal(banger_image_config_parse(o, &kernel, &conf, &e), 0);
	assert_string_equal(kernel, "deb");
	assert_string_equal(conf,
		"{\"cmd\":[\"/bin/"
		"sh\"],\"labels\":{\"a\":\"b\"},\"env\":[\"A=1\"],\"user\":\"root\"}");
	_cleanup_free_ char *k1 = NULL, *whole = NULL;
	const char *run = "{\"exposed_ports\":[\"80/tcp\",\"53/udp\",\"65535/sctp\"],"
			  "\"volumes\":[\"/data\"],\"stop_signal\":\"SIGRTMIN+3\"}";
	_cleanup_json_ struct json_object *ports = json(run);
	assert_int_equal(banger_image_config_parse(ports, &k1, &whole, &e), 0);
	assert_string_equal(whole, run);
	static const char *const bad[] = {"[]", "5", "{\"config\":[]}", "{\"config\":{\"x\":1}}",
		"{\"env\":[\"novalue\"]}", "{\"env\":[\"=x\"]}", "{\"cmd\":\"sh\"}",
		"{\"cmd\":[5]}", "{\"labels\":[]}", "{\"labels\":{\"a\":1}}", "{\"user\":5}",
		"{\"working_dir\":\"rel\"}", "{\"kernel\":\"../x\"}", "{\"kernel\":4}",
		"{\"user\":\"a\\u0000b\"}", "{\"exposed_ports\":{}}", "{\"exposed_ports\":[80]}",
		"{\"exposed_ports\":[\"80\"]}", "{\"exposed_ports\":[\"0/tcp\"]}",
		"{\"exposed_ports\":[\"65536/tcp\"]}", "{\"exposed_ports\":[\"080/tcp\"]}",
		"{\"exposed_ports\":[\"80-90/tcp\"]}", "{\"exposed_ports\":[\"80/icmp\"]}",
		"{\"volumes\":[\"data\"]}", "{\"volumes\":\"/data\"}", "{\"stop_signal\":15}",
		"{\"stop_signal\":\"0\"}", "{\"stop_signal\":\"65\"}", "{\"stop_signal\":\"TERM\"}",
		"{\"stop_signal\":\"SIG\"}", "{\"stop_signal\":\"SIGTERM;\"}"};
	for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
		_cleanup_json_ struct json_object *b = json(bad[i]);
		char *k = NULL, *c = NULL;
		assert_int_equal(banger_image_config_parse(b, &k, &c, &e), -EINVAL);
		assert_null(k);
		assert_null(c);
	}
	_cleanup_json_ struct json_object *empty = json("{}");
	char *k = NULL, *c = NULL;
	assert_int_equal(banger_image_config_parse(empty, &k, &c, &e), 0);
	assert_null(k);
	assert_null(c);
}

static void kernels(void **state)
{
	const char *full = "{\"id\":\"0123456789abcdef\",\"name\":\"deb\",\"version\":\"6.1.0-38-"
			   "cloud-amd64\",\"arch\":\"amd64\","
			   "\"size\":5,\"modules\":true,\"initrd\":false,\"source\":\"x.deb\",\"op_"
			   "id\":\"op-0123456789ab\","
			   "\"imported\":\"2026-03-01T10:00:00.123456Z\",\"generation\":3}";
	_cleanup_json_ struct json_object *o = json(full), *back = NULL;
	_cleanup_kernel_ struct banger_kernel k = {0};

	assert_int_equal(banger_kernel_from_json(o, &k, NULL), 0);
	back = banger_kernel_to_json(&k);
	assert_string_equal(text(back), full);
	json_object_object_add(o, "version", json_object_new_int(5));
	struct banger_kernel bad = {0};
	assert_int_equal(banger_kernel_from_json(o, &bad, NULL), -EINVAL);
}

static void records(void **state)
{
	static const char *const all[] = {
		"{\"op_id\":\"op-0123456789ab\",\"method\":\"image.promote\",\"params\":\"draft="
		"web\",\"actor\":{\"uid\":0,\"gid\":0,"
		"\"pid\":5,\"program\":\"mv\",\"door\":\"fs\"},\"started\":\"2026-03-01T10:00:00."
		"123456Z\",\"elapsed_ms\":1.250,"
		"\"outcome\":\"failed\",\"code\":\"exists\",\"message\":\"taken\"}",
		"{\"op_id\":\"op-0123456789ab\",\"method\":\"ping\",\"actor\":{\"uid\":1,\"gid\":2}"
		","
		"\"started\":\"2026-03-01T10:00:00.123456Z\",\"elapsed_ms\":0.001,\"outcome\":"
		"\"completed\"}",
		"{\"op_id\":\"op-0123456789ab\",\"method\":\"ping\",\"actor\":{\"uid\":1,\"gid\":2}"
		","
		"\"started\":\"2026-03-01T10:00:00.123456Z\",\"outcome\":\"running\"}"};
	struct banger_op_record r;

	for (size_t i = 0; i < ELEMENTSOF(all); i++) {
		_cleanup_json_ struct json_object *o = json(all[i]), *back = NULL;
		assert_int_equal(banger_op_record_from_json(o, &r, NULL), 0);
		back = banger_op_record_to_json(&r);
		assert_string_equal(text(back), all[i]);
	}
	static const char *const keys[] = {
		"op_id", "method", "actor", "started", "outcome", "elapsed_ms", "code"};
	struct banger_error e;
	for (size_t i = 0; i < ELEMENTSOF(keys); i++) {
		_cleanup_json_ struct json_object *o = json(all[0]);
		json_object_object_del(o, keys[i]);
		assert_int_equal(banger_op_record_from_json(o, &r, &e), -EINVAL);
		assert_non_null(strstr(e.message, keys[i]));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(names), cmocka_unit_test(ids),
		cmocka_unit_test(file_names), cmocka_unit_test(images),
		cmocka_unit_test(bad_images), cmocka_unit_test(config), cmocka_unit_test(kernels),
		cmocka_unit_test(records)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
