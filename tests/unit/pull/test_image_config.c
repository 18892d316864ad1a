/* SPDX-License-Identifier: Apache-2.0 */
/* Image configurations: what image.json gets of them, and what is refused. */
#include "check.h"
#include <banger/model.h>
#include "pull/document.h"

#define HEX64 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define S256 "sha256:" HEX64
#define S512 "sha512:" HEX64 HEX64
#define ROOTFS(ids) "\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[" ids "]}"
#define ONE ROOTFS("\"" S256 "\"")
/* A configuration of one layer with a member more. */
#define WITH(member) "{\"os\":\"linux\",\"architecture\":\"amd64\"," ONE "," member "}"
#define CONFIG(members) WITH("\"config\":{" members "}")

static void must_parse(const char *text, size_t n_layers, struct pull_image_config *c)
{
	struct banger_error e = {0};

	if (pull_image_config_parse(text, strlen(text), n_layers, c, &e) < 0)
		fail_msg("%s: %s", text, e.message);
}

static void must_refuse(
	const char *text, size_t n_layers, enum banger_code code, const char *message)
{
	struct pull_image_config c = {.n = 77};
	struct banger_error e = {0};

	if (pull_image_config_parse(text, strlen(text), n_layers, &c, &e) >= 0)
		fail_msg("not refused: %s", text);
	assert_int_equal(c.n, 77);
	assert_message(&e, message);
	assert_int_equal(e.code, code);
}

static void full(void **state)
{
	_cleanup_pull_image_config_ struct pull_image_config c = {0};

	must_parse("{\"architecture\":\"arm64\",\"variant\":\"v8\",\"os\":\"linux\","
		   "\"created\":\"2026-03-01T11:00:00.123456789+01:00\",\"author\":\"x\","
		   "\"config\":{\"User\":\"app:app\",\"ExposedPorts\":{\"80\":{},\"53/UDP\":{}},"
		   "\"Env\":[\"PATH=/bin\",\"E=\"],\"Entrypoint\":[\"/init\",\"-x\"],\"Cmd\":[\"a "
		   "b\"],"
		   "\"Volumes\":{\"/data\":{},\"/v\":null},\"WorkingDir\":\"/srv\","
		   "\"Labels\":{\"k\":\"v\",\"z\":\"\"},\"StopSignal\":\"SIGRTMIN+3\","
		   "\"ArgsEscaped\":true,\"OnBuild\":null,\"Healthcheck\":{}},"
		   "\"history\":[{\"empty_layer\":true}]," ROOTFS("\"" S256 "\",\"" S512 "\"") "}",
		2, &c);
	assert_string_equal(c.platform.os, "linux");
	assert_string_equal(c.platform.arch, "arm64");
	assert_string_equal(c.platform.variant, "");
	assert_int_equal(c.created, 1772359200);
	assert_int_equal(c.n, 2);
	assert_string_equal(c.diff_ids[0], S256);
	assert_string_equal(c.diff_ids[1], S512);
	assert_string_equal(c.user, "app:app");
	assert_string_equal(c.home, "~app:app");
	assert_int_equal(c.labels_left_out, 0);
	assert_string_equal(c.config,
		"{\"entrypoint\":[\"/init\",\"-x\"],\"cmd\":[\"a "
		"b\"],\"env\":[\"PATH=/bin\",\"E=\"],"
		"\"user\":\"app:app\",\"working_dir\":\"/srv\",\"labels\":{\"k\":\"v\",\"z\":\"\"},"
		"\"exposed_ports\":[\"80/tcp\",\"53/udp\"],\"volumes\":[\"/data\",\"/v\"],"
		"\"stop_signal\":\"SIGRTMIN+3\"}");
}

/* What says nothing leaves nothing. */
static void empty(void **state)
{
	static const char *const texts[] = {"{\"architecture\":\"\",\"os\":\"\"," ROOTFS("") "}",
		"{\"rootfs\":{\"type\":\"layers\"}}", "{\"config\":null,\"rootfs\":null}", "{}",
		("{\"config\":{\"Entrypoint\":null,\"Cmd\":null,\"Env\":null,\"User\":\"\","
		 "\"WorkingDir\":\"\",\"Labels\":null,\"ExposedPorts\":null,\"Volumes\":{},"
		 "\"StopSignal\":\"\"},\"created\":null}"),
		"{\"config\":{\"Entrypoint\":[],\"Labels\":{}},\"created\":\"0001-01-01T00:00:"
		"00Z\"}"};

	for (size_t i = 0; i < ELEMENTSOF(texts); i++) {
		_cleanup_pull_image_config_ struct pull_image_config c = {0};

		must_parse(texts[i], 0, &c);
		assert_string_equal(c.platform.os, "");
		assert_int_equal(c.created, 0);
		assert_null(c.config);
		assert_null(c.user);
		assert_string_equal(c.home, "/root");
	}
}

static void homes(void **state)
{
	static const char *const users[][2] = {{"root", "/root"}, {"0", "/root"}, {"0:0", "/root"},
		{"root:adm", "/root"}, {":5", "/root"}, {"roots", "~roots"}, {"00", "~00"},
		{"1000", "~1000"}, {"app:root", "~app:root"}};

	for (size_t i = 0; i < ELEMENTSOF(users); i++) {
		_cleanup_pull_image_config_ struct pull_image_config c = {0};
		char text[1024];

		snprintf(text, sizeof(text), CONFIG("\"User\":\"%s\""), users[i][0]);
		must_parse(text, 1, &c);
		assert_string_equal(c.user, users[i][0]);
		assert_string_equal(c.home, users[i][1]);
	}
}

static void times(void **state)
{
	static const struct {
		const char *text;
		int64_t at;
	} good[] = {{"1970-01-01T00:00:01Z", 1}, {"2026-03-01T10:00:00Z", 1772359200},
		{"2026-03-01T10:00:00.5-00:30", 1772361000}, {"2024-02-29T00:00:00z", 1709164800},
		{"2016-12-31T23:59:60Z", 1483228799}, {"9999-12-31T23:59:59Z", 253402300799},
		{"1969-12-31T23:59:59Z", 0}, {"", 0}};
	static const char *const bad[] = {"yesterday", "2026-03-01", "2026-03-01T10:00:00",
		"2026-02-30T10:00:00Z", "2026-13-01T10:00:00Z", "2026-00-01T10:00:00Z",
		"2026-03-01T24:00:00Z", "2026-03-01T10:60:00Z", "2026-03-01T10:00:00.Z",
		"2026-03-01T10:00:00Zx", "2026-03-01T10:00:00+0100", "2026-03-01T10:00:00+01:00x",
		"12026-03-01T10:00:00Z", "-2026-03-01T10:00:00Z", "2026-3-1T10:00:00Z"};
	char text[1024];

	for (size_t i = 0; i < ELEMENTSOF(good); i++) {
		_cleanup_pull_image_config_ struct pull_image_config c = {0};

		snprintf(text, sizeof(text), WITH("\"created\":\"%s\""), good[i].text);
		must_parse(text, 1, &c);
		assert_int_equal(c.created, good[i].at);
	}
	for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
		snprintf(text, sizeof(text), WITH("\"created\":\"%s\""), bad[i]);
		must_refuse(text, 1, BANGER_BAD_REQUEST, "created, \"");
	}
}

static void layers(void **state)
{
	must_refuse("{" ROOTFS("") "}", 1, BANGER_BAD_REQUEST,
		"rootfs.diff_ids has 0 entries, but the manifest 1 layers");
	must_refuse("{" ONE "}", 0, BANGER_BAD_REQUEST, "has 1 entries, but the manifest 0 layers");
	must_refuse("{" ONE "}", 1000, BANGER_BAD_REQUEST, "but the manifest 1000 layers");
	must_refuse("{}", 1, BANGER_BAD_REQUEST, "rootfs is missing");
	must_refuse("{\"rootfs\":{\"type\":\"layers\"}}", 1, BANGER_BAD_REQUEST,
		"rootfs.diff_ids is missing");
	must_refuse(
		"{\"rootfs\":{\"diff_ids\":[]}}", 0, BANGER_BAD_REQUEST, "rootfs.type is missing");
	must_refuse("{\"rootfs\":{\"type\":\"layers+base\",\"diff_ids\":[]}}", 0,
		BANGER_UNSUPPORTED, "rootfs.type is \"layers+base\"");
	must_refuse("{\"rootfs\":[]}", 0, BANGER_BAD_REQUEST, "rootfs is not an object");
	must_refuse("{\"rootfs\":{\"type\":\"layers\",\"diff_ids\":{}}}", 1, BANGER_BAD_REQUEST,
		"rootfs.diff_ids is not a list");
	must_refuse("{" ROOTFS("\"" S256 "\",5") "}", 2, BANGER_BAD_REQUEST,
		"rootfs.diff_ids[1] is not a string");
	must_refuse("{" ROOTFS("\"sha256:../x\"") "}", 1, BANGER_BAD_REQUEST,
		"rootfs.diff_ids[0], \"sha256:../x\", is not a digest");
}

static void fields(void **state)
{
	static const char *const cases[][2] = {{WITH("\"config\":[]"), "config is not an object"},
		{WITH("\"created\":5"), "created is not a string"},
		{"{\"os\":5}", "os is not a string"},
		{CONFIG("\"Entrypoint\":\"/init\""), "config.Entrypoint is not a list"},
		{CONFIG("\"Entrypoint\":[5]"), "\"entrypoint\": entry 0 is not a string"},
		{CONFIG("\"Cmd\":{}"), "config.Cmd is not a list"},
		{CONFIG("\"Cmd\":[null]"), "\"cmd\": entry 0"},
		{CONFIG("\"Env\":[\"NOVALUE\"]"), "\"NOVALUE\" is not of the form NAME=VALUE"},
		{CONFIG("\"User\":0"), "config.User is not a string"},
		{CONFIG("\"WorkingDir\":\"app\""), "\"working_dir\" is not an absolute path"},
		{CONFIG("\"Labels\":{\"a\":1}"), "config.Labels: the value of \"a\""},
		{CONFIG("\"Labels\":[]"), "config.Labels is not an object"},
		{CONFIG("\"ExposedPorts\":[]"), "config.ExposedPorts is not an object"},
		{CONFIG("\"ExposedPorts\":{\"0/tcp\":{}}"), "\"0/tcp\" is not a port"},
		{CONFIG("\"ExposedPorts\":{\"65536\":{}}"), "\"65536/tcp\" is not a port"},
		{CONFIG("\"ExposedPorts\":{\"80/icmp\":{}}"), "\"80/icmp\" is not a port"},
		{CONFIG("\"ExposedPorts\":{\"" HEX64 "\":{}}"), "is not a port"},
		{CONFIG("\"Volumes\":{\"data\":{}}"), "\"data\" is not an absolute path"},
		{CONFIG("\"StopSignal\":\"kill -9\""), "\"stop_signal\": \"kill -9\""},
		{CONFIG("\"Cmd\":[],\"Cmd\":[]"), "same member twice"}, {"[]", "not a JSON object"},
		{"", "not JSON"}};

	for (size_t i = 0; i < ELEMENTSOF(cases); i++)
		must_refuse(cases[i][0], 1, BANGER_BAD_REQUEST, cases[i][1]);
}

/* Labels as large as a bill of materials do not fail the pull, arguments do. */
static void large(void **state)
{
	_cleanup_free_ char *filler = malloc(100001), *text = NULL, *args = NULL;
	_cleanup_pull_image_config_ struct pull_image_config c = {0};

	memset(filler, 'x', 100000);
	filler[100000] = '\0';
	assert_true(asprintf(&text, CONFIG("\"Labels\":{\"a\":\"1\",\"sbom\":\"%s\",\"b\":\"2\"}"),
			    filler) > 0);
	must_parse(text, 1, &c);
	assert_string_equal(c.config, "{\"labels\":{\"a\":\"1\",\"b\":\"2\"}}");
	assert_int_equal(c.labels_left_out, 1);
	assert_true(asprintf(&args, CONFIG("\"Cmd\":[\"%s\"]"), filler) > 0);
	must_refuse(args, 1, BANGER_TOO_LARGE, "config");
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(full), cmocka_unit_test(empty),
		cmocka_unit_test(homes), cmocka_unit_test(times), cmocka_unit_test(layers),
		cmocka_unit_test(fields), cmocka_unit_test(large)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
