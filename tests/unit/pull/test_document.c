/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Indexes and manifests: what is read out of sound ones, which entry is chosen for a platform, and what is
 * refused with which code and which field's path.
 */
#include "check.h"
#include "pull/document.h"
#include "pull/fields.h"

#define HEX64 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define S256 "sha256:" HEX64

#define OCI_INDEX "application/vnd.oci.image.index.v1+json"
#define OCI_MANIFEST "application/vnd.oci.image.manifest.v1+json"
#define OCI_CONFIG "application/vnd.oci.image.config.v1+json"
#define OCI_LAYER "application/vnd.oci.image.layer.v1.tar"
#define DOCKER_LIST "application/vnd.docker.distribution.manifest.list.v2+json"
#define DOCKER_MANIFEST "application/vnd.docker.distribution.manifest.v2+json"
#define DOCKER_CONFIG "application/vnd.docker.container.image.v1+json"
#define DOCKER_LAYER "application/vnd.docker.image.rootfs.diff.tar"
#define SCHEMA1 "application/vnd.docker.distribution.manifest.v1+prettyjws"

/* A descriptor with more members; those begin with a comma. */
#define DESC(type, more) "{\"mediaType\":\"" type "\",\"digest\":\"" S256 "\",\"size\":7" more "}"
#define CONFIG DESC(OCI_CONFIG, "")
#define LAYER DESC(OCI_LAYER "+gzip", "")
#define MANIFEST(config, layers)                                                                   \
	"{\"schemaVersion\":2,\"config\":" config ",\"layers\":[" layers "]}"
#define INDEX(entries) "{\"schemaVersion\":2,\"manifests\":[" entries "]}"
#define PLATFORM(os, arch, more)                                                                   \
	",\"platform\":{\"os\":\"" os "\",\"architecture\":\"" arch "\"" more "}"
#define IMAGE(os, arch, more) DESC(OCI_MANIFEST, PLATFORM(os, arch, more))

static int parse(
	const char *text, const char *media_type, struct pull_document *d, struct banger_error *e)
{
	/* Of exactly its size, so that a read past it is seen. */
	size_t len = strlen(text);
	_cleanup_free_ char *copy = malloc(len);

	*e = (struct banger_error){0};
	memcpy(copy, text, len);
	return pull_document_parse(copy, len, media_type, d, e);
}

static void must_parse(const char *text, const char *media_type, struct pull_document *d)
{
	struct banger_error e;

	if (parse(text, media_type, d, &e) < 0)
		fail_msg("%s: %s", text, e.message);
}

static void must_refuse(
	const char *text, const char *media_type, enum banger_code code, const char *message)
{
	struct pull_document d = {.n = 77};
	struct banger_error e;

	if (parse(text, media_type, &d, &e) >= 0)
		fail_msg("not refused: %.500s", text);
	assert_int_equal(d.n, 77);
	assert_message(&e, message);
	if (e.code != code)
		fail_msg("%s, not %s: %s", banger_code_name(e.code), banger_code_name(code),
			e.message);
}

/* ---- manifests */

static void manifests(void **state)
{
	_cleanup_pull_document_ struct pull_document d = {0}, docker = {0}, empty = {0}, null = {0};

	must_parse("{\"schemaVersion\":2,\"mediaType\":\"" OCI_MANIFEST "\",\"config\":" CONFIG
		   ",\"layers\":[" LAYER "," DESC(OCI_LAYER,
			   ",\"urls\":[\"https://x.y/z\"],\"data\":\"AAAA\",\"annotations\":"
			   "{\"org.opencontainers.image.ref.name\":\"top\"}") "],"
									      "\"subject\":null,"
									      "\"annotations\":{"
									      "\"a\":\"b\"},"
									      "\"unknown\":[{}]}",
		OCI_MANIFEST, &d);
	assert_int_equal(d.kind, PULL_MANIFEST);
	assert_false(d.docker);
	assert_string_equal(d.config.media_type, OCI_CONFIG);
	assert_string_equal(d.config.digest, S256);
	assert_int_equal(d.config.size, 7);
	assert_int_equal(d.n, 2);
	assert_string_equal(d.items[0].media_type, OCI_LAYER "+gzip");
	assert_null(d.items[0].urls);
	assert_string_equal(d.items[1].urls[0], "https://x.y/z");
	assert_null(d.items[1].urls[1]);
	assert_string_equal(d.items[1].ref_name, "top");
	assert_null(d.artifact_type);

	must_parse(MANIFEST(DESC("application/octet-stream", ""), DESC(DOCKER_LAYER ".gzip", "")),
		DOCKER_MANIFEST, &docker);
	assert_true(docker.docker);
	must_parse(MANIFEST(CONFIG, ""), NULL, &empty);
	assert_int_equal(empty.kind, PULL_MANIFEST);
	assert_int_equal(empty.n, 0);
	must_parse("{\"schemaVersion\":2,\"mediaType\":\"\",\"config\":" CONFIG ",\"layers\":null}",
		"application/json", &null);
	assert_int_equal(null.n, 0);
}

static void layer_types(void **state)
{
	static const char *const types[][2] = {{OCI_LAYER, "none"}, {OCI_LAYER "+gzip", "gzip"},
		{OCI_LAYER "+zstd", "zstd"}, {DOCKER_LAYER, "none"}, {DOCKER_LAYER ".gzip", "gzip"},
		{DOCKER_LAYER ".zstd", "zstd"},
		{"application/vnd.oci.image.layer.nondistributable.v1.tar", "none"},
		{"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "gzip"},
		{"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", "zstd"},
		{"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "gzip"}};

	for (size_t i = 0; i < ELEMENTSOF(types); i++) {
		struct pull_descriptor d = {0};
		const char *compression = NULL;

		strcpy(d.media_type, types[i][0]);
		assert_int_equal(pull_layer_compression(&d, &compression, NULL), 0);
		assert_string_equal(compression, types[i][1]);
	}
	must_refuse(MANIFEST(CONFIG, LAYER "," DESC(OCI_LAYER "+gzip+encrypted", "")), NULL,
		BANGER_UNSUPPORTED, "layers[1]: it is encrypted");
	must_refuse(MANIFEST(CONFIG, DESC("application/vnd.in-toto+json", "")), NULL,
		BANGER_UNSUPPORTED, "layers[0]: it is an attestation");
	must_refuse(MANIFEST(CONFIG, DESC(OCI_LAYER "+xz", "")), NULL, BANGER_UNSUPPORTED,
		"layers[0]: its type \"" OCI_LAYER "+xz\"");
	must_refuse(MANIFEST(CONFIG, CONFIG), NULL, BANGER_UNSUPPORTED, "layers[0]");
}

/* ---- what is no such document */

static void kinds(void **state)
{
	static const char *const schema1[] = {
		"{\"schemaVersion\":1,\"fsLayers\":[],\"history\":[]}",
		"{\"schemaVersion\":1,\"mediaType\":\"" SCHEMA1 "\",\"signatures\":[]}",
		"{\"schemaVersion\":1,\"config\":" CONFIG ",\"layers\":[]}"};
	for (size_t i = 0; i < ELEMENTSOF(schema1); i++)
		must_refuse(schema1[i], NULL, BANGER_UNSUPPORTED, "schema 1");
	must_refuse("{\"schemaVersion\":2}", SCHEMA1, BANGER_UNSUPPORTED, "schema 1");
	must_refuse("{\"schemaVersion\":2,\"mediaType\":\"" SCHEMA1 "\"}", NULL, BANGER_UNSUPPORTED,
		"schema 1");

	/* Announced as one thing, being another. */
	must_refuse(INDEX(""), OCI_MANIFEST, BANGER_BAD_REQUEST, "both an index and a manifest");
	must_refuse(MANIFEST(CONFIG, LAYER), OCI_INDEX, BANGER_BAD_REQUEST,
		"both an index and a manifest: an index with \"config\"");
	must_refuse("{\"schemaVersion\":2,\"mediaType\":\"" OCI_INDEX "\",\"manifests\":[]}",
		OCI_MANIFEST, BANGER_BAD_REQUEST, "announced as \"" OCI_MANIFEST "\"");
	must_refuse("{\"schemaVersion\":2,\"mediaType\":\"" OCI_INDEX "\",\"manifests\":[]}",
		DOCKER_LIST, BANGER_BAD_REQUEST, "announced as");
	/* CVE-2021-41190, with and without types. */
	static const char *const both[] = {"{\"schemaVersion\":2,\"manifests\":[],\"layers\":[]}",
		"{\"schemaVersion\":2,\"manifests\":[],\"config\":" CONFIG "}",
		"{\"schemaVersion\":2,\"manifests\":[],\"config\":" CONFIG ",\"layers\":[]}",
		"{\"schemaVersion\":2,\"manifests\":null,\"config\":" CONFIG ",\"layers\":[]}",
		"{\"schemaVersion\":2,\"mediaType\":\"" OCI_MANIFEST
		"\",\"manifests\":[],\"config\":" CONFIG ",\"layers\":[]}",
		"{\"schemaVersion\":2,\"fsLayers\":[],\"config\":" CONFIG ",\"layers\":[]}",
		"{\"schemaVersion\":2,\"manifests\":[],\"fsLayers\":[]}"};
	for (size_t i = 0; i < ELEMENTSOF(both); i++)
		must_refuse(both[i], NULL, BANGER_BAD_REQUEST, "both an index and a manifest");
	must_refuse("{\"schemaVersion\":2,\"manifests\":[],\"Layers\":[]}", NULL,
		BANGER_BAD_REQUEST, "\"Layers\", which could be taken for \"layers\"");

	must_refuse("{\"schemaVersion\":2}", NULL, BANGER_BAD_REQUEST, "neither an image index");
	must_refuse("{}", "text/plain", BANGER_BAD_REQUEST, "neither an image index");
	must_refuse("{\"errors\":[]}", "text/html", BANGER_UNSUPPORTED, "\"text/html\"");
	must_refuse("{\"mediaType\":\"application/vnd.oci.artifact.manifest.v1+json\"}", NULL,
		BANGER_UNSUPPORTED, "neither an image index");
	must_refuse(MANIFEST(DESC("application/vnd.cncf.helm.config.v1+json", ""), ""), NULL,
		BANGER_UNSUPPORTED,
		"artifact of type \"application/vnd.cncf.helm.config.v1+json\"");
	must_refuse("{\"schemaVersion\":2,\"artifactType\":\"a/sbom\",\"config\":" DESC(
			    "application/vnd.oci.empty.v1+json", "") ",\"layers\":[]}",
		NULL, BANGER_UNSUPPORTED, "artifact of type \"a/sbom\"");
	/* Only of Docker's own documents is a general type believed. */
	must_refuse(MANIFEST(DESC("application/octet-stream", ""), ""), NULL, BANGER_UNSUPPORTED,
		"artifact of type");
}

static void json(void **state)
{
	must_refuse("", NULL, BANGER_BAD_REQUEST, "not JSON");
	must_refuse("<html>", NULL, BANGER_BAD_REQUEST, "not JSON");
	must_refuse("[]", NULL, BANGER_BAD_REQUEST, "not a JSON object");
	must_refuse("null", NULL, BANGER_BAD_REQUEST, "not a JSON object");
	must_refuse(INDEX("") "x", NULL, BANGER_BAD_REQUEST, "not JSON");
	must_refuse("{\"a\":\"\xff\"}", NULL, BANGER_BAD_REQUEST, "UTF-8");
	must_refuse("{\"schemaVersion\":2,\"manifests\":[],\"manifests\":[]}", NULL,
		BANGER_BAD_REQUEST, "same member twice");
	must_refuse("{\"schemaVersion\":2,\"manifests\":[],\"manifest\\u0073\":[]}", NULL,
		BANGER_BAD_REQUEST, "same member twice");
	must_refuse(MANIFEST(DESC(OCI_CONFIG, ",\"size\":8"), ""), NULL, BANGER_BAD_REQUEST,
		"same member twice");
	must_refuse("{\"schemaVersion\":2,\"manifests\\u0000x\":[]}", NULL, BANGER_BAD_REQUEST,
		"NUL character");
	/* A backslash in front of one that is only text. */
	_cleanup_pull_document_ struct pull_document d = {0};
	must_parse("{\"schemaVersion\":2,\"manifests\":[],\"a\":\"\\\\u0000:{[,\"}", NULL, &d);
}

/* n times `piece` with commas between, in prefix and suffix. */
static char *repeat(const char *prefix, const char *piece, size_t n, const char *suffix)
{
	size_t len = strlen(piece) + 1;
	char *s = malloc(strlen(prefix) + n * len + strlen(suffix) + 1), *p = stpcpy(s, prefix);

	for (size_t i = 0; i < n; i++) {
		p = stpcpy(p, piece);
		*p++ = i + 1 < n ? ',' : ' ';
	}
	strcpy(p, suffix);
	return s;
}

static void limits(void **state)
{
	const char *before = "{\"schemaVersion\":2,\"config\":" CONFIG ",\"layers\":[";
	_cleanup_free_ char *most = repeat(before, LAYER, PULL_LAYERS_MAX, "]}"),
			    *more = repeat(before, LAYER, PULL_LAYERS_MAX + 1, "]}"),
			    *entries = repeat("{\"schemaVersion\":2,\"manifests\":[",
				    IMAGE("linux", "arm", ""), PULL_INDEX_MAX, "]}"),
			    *too_many = repeat("{\"schemaVersion\":2,\"manifests\":[",
				    DESC("a/b", ""), PULL_INDEX_MAX + 1, "]}"),
			    *bomb = repeat(
				    "{\"schemaVersion\":2,\"manifests\":[", "[]", 1000000, "]}"),
			    *values = repeat(
				    "{\"schemaVersion\":2,\"manifests\":[", "0", 1000000, "]}"),
			    *deep = malloc(100001), *large = malloc(PULL_DOCUMENT_MAX + 2);
	_cleanup_pull_document_ struct pull_document d = {0}, index = {0};

	must_parse(most, NULL, &d);
	assert_int_equal(d.n, PULL_LAYERS_MAX);
	must_refuse(more, NULL, BANGER_TOO_LARGE, "layers has 1001 entries");
	must_parse(entries, NULL, &index);
	assert_int_equal(index.n, PULL_INDEX_MAX);
	must_refuse(too_many, NULL, BANGER_TOO_LARGE, "manifests has 10001 entries");
	must_refuse(bomb, NULL, BANGER_TOO_LARGE, "objects and lists");
	must_refuse(values, NULL, BANGER_TOO_LARGE, "values");
	memset(deep, '[', 100000);
	deep[100000] = '\0';
	must_refuse(deep, NULL, BANGER_TOO_LARGE, "objects and lists");
	deep[1000] = '\0';
	must_refuse(deep, NULL, BANGER_BAD_REQUEST, "nested deeper");
	memset(large, ' ', PULL_DOCUMENT_MAX + 1);
	large[PULL_DOCUMENT_MAX + 1] = '\0';
	must_refuse(large, NULL, BANGER_TOO_LARGE, "more than the 4194304 allowed");
}

/* Each with the path of the field. */
static void fields(void **state)
{
	static const char *const cases[][2] = {
		{"{\"manifests\":[]}", "schemaVersion is missing"},
		{"{\"schemaVersion\":\"2\",\"manifests\":[]}", "schemaVersion is not a whole"},
		{"{\"schemaVersion\":2.0,\"manifests\":[]}", "schemaVersion is not a whole"},
		{"{\"schemaVersion\":3,\"manifests\":[]}", "schemaVersion is 3"},
		{"{\"schemaVersion\":2,\"mediaType\":7,\"manifests\":[]}",
			"mediaType is not a string"},
		{"{\"schemaVersion\":2,\"manifests\":{}}", "manifests is not a list"},
		{"{\"schemaVersion\":2,\"layers\":[]}", "config is missing"},
		{"{\"schemaVersion\":2,\"config\":[],\"layers\":[]}", "config is not an object"},
		{"{\"schemaVersion\":2,\"config\":" CONFIG "}", "layers is missing"},
		{"{\"schemaVersion\":2,\"config\":" CONFIG ",\"layers\":{}}",
			"layers is not a list"},
		{"{\"schemaVersion\":2,\"artifactType\":5,\"config\":" CONFIG ",\"layers\":[]}",
			"artifactType is not a string"},
		{MANIFEST("{}", ""), "config.mediaType is missing"},
		{MANIFEST(CONFIG, "5"), "layers[0] is not an object"},
		{MANIFEST(CONFIG, LAYER ",null"), "layers[1] is not an object"},
		{MANIFEST(CONFIG, "{\"mediaType\":\"a/b\",\"size\":1}"),
			"layers[0].digest is missing"},
		{MANIFEST(CONFIG, "{\"mediaType\":\"a/b\",\"digest\":\"" S256 "\"}"),
			"layers[0].size is missing"},
		{MANIFEST(CONFIG, "{\"mediaType\":\"a/b\",\"digest\":\"sha256:../..\",\"size\":1}"),
			"layers[0].digest, \"sha256:../..\", is not a digest"},
		{MANIFEST(CONFIG, "{\"mediaType\":\"a/b\",\"digest\":7,\"size\":1}"),
			"layers[0].digest is not a string"},
		{MANIFEST(CONFIG, "{\"mediaType\":\"a\",\"digest\":\"" S256 "\",\"size\":1}"),
			"layers[0].mediaType, \"a\", is not a media type"},
		{MANIFEST(CONFIG, "{\"mediaType\":\"a/b\\n\",\"digest\":\"" S256 "\",\"size\":1}"),
			"layers[0].mediaType, \"a/b?\", is not a media type"},
		{MANIFEST(CONFIG, "{\"mediaType\":null,\"digest\":\"" S256 "\",\"size\":1}"),
			"layers[0].mediaType is missing"},
		{INDEX(DESC("a/b", ",\"platform\":[]")), "manifests[0].platform is not an object"},
		{INDEX(DESC("a/b", ",\"platform\":{\"os\":5}")),
			"manifests[0].platform.os is not a"},
		{INDEX(DESC("a/b", PLATFORM("linux", HEX64, ""))),
			"manifests[0].platform.architecture is longer than 31"},
		{INDEX(DESC("a/b", ",\"annotations\":[]")), "manifests[0].annotations is not an"},
		{INDEX(DESC("a/b", ",\"annotations\":{\"vnd.docker.reference.type\":5}")),
			"manifests[0].annotations.vnd.docker.reference.type is not"},
		{INDEX(DESC("a/b", ",\"urls\":{}")), "manifests[0].urls is not a list"},
		{INDEX(DESC("a/b", ",\"urls\":[\"x\",5]")), "manifests[0].urls[1] is not a string"},
		{INDEX(DESC("a/b", ",\"urls\":[\"http://x/\\r\\nA: b\"]")),
			"urls[0] has a character"},
		{INDEX(DESC("a/b", ",\"artifactType\":\"x\"")), "manifests[0].artifactType, \"x\""},
	};
	for (size_t i = 0; i < ELEMENTSOF(cases); i++)
		must_refuse(cases[i][0], NULL, BANGER_BAD_REQUEST, cases[i][1]);
	static const char *const sizes[] = {"-1", "17592186044417", "9223372036854775808",
		"99999999999999999999999", "-9223372036854775809"};
	for (size_t i = 0; i < ELEMENTSOF(sizes); i++) {
		char text[1024];

		snprintf(text, sizeof(text),
			MANIFEST(CONFIG,
				"{\"mediaType\":\"a/b\",\"digest\":\"" S256 "\",\"size\":%s}"),
			sizes[i]);
		must_refuse(text, NULL, BANGER_BAD_REQUEST, "layers[0].size is ");
	}
	must_refuse(MANIFEST("{\"mediaType\":\"" OCI_CONFIG "\",\"digest\":\"" S256
			     "\",\"size\":4194305}",
			    ""),
		NULL, BANGER_TOO_LARGE, "config.size");
}

/* ---- platforms */

static void platforms(void **state)
{
	static const char *const good[][2] = {{"linux/amd64", "linux/amd64"},
		{"amd64", "linux/amd64"}, {"x86_64", "linux/amd64"},
		{"linux/x86-64", "linux/amd64"}, {"linux/amd64/v1", "linux/amd64"},
		{"linux/amd64/v3", "linux/amd64/v3"}, {"aarch64", "linux/arm64"},
		{"linux/arm64/v8", "linux/arm64"}, {"linux/arm64/8", "linux/arm64"},
		{"linux/arm64/v9", "linux/arm64/v9"}, {"arm", "linux/arm/v7"},
		{"armhf", "linux/arm/v7"}, {"armel", "linux/arm/v6"},
		{"linux/arm/6", "linux/arm/v6"}, {"i386", "linux/386"},
		{"Linux/AMD64", "linux/amd64"}, {"s390x", "linux/s390x"}};
	static const char *const bad[] = {"", "/", "linux/", "/amd64", "linux//v8", "linux/amd64/",
		"linux/amd64/v1/x", "windows/amd64", "vax", "linux/vax", "linux/arm/v 7",
		"linux/amd64/\n",
		"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
	struct pull_platform p, other;
	char text[PULL_PLATFORM_TEXT];

	for (size_t i = 0; i < ELEMENTSOF(good); i++) {
		assert_int_equal(pull_platform_parse(good[i][0], &p, NULL), 0);
		assert_string_equal(pull_platform_text(&p, text), good[i][1]);
	}
	for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
		struct banger_error e = {0};

		if (pull_platform_parse(bad[i], &p, &e) != -EINVAL)
			fail_msg("\"%s\" was taken", bad[i]);
		assert_message(&e, "platform");
	}
	assert_int_equal(pull_platform_parse(NULL, &p, NULL), 0);
	assert_int_equal(pull_platform_parse("linux", &other, NULL), 0);
	assert_string_equal(p.arch, other.arch);
	assert_true(pull_platform_runs(&p, &other));
	assert_true(pull_platform_runs(&p, &(struct pull_platform){0}));
	pull_platform_parse(strcmp(p.arch, "s390x") ? "s390x" : "amd64", &other, NULL);
	assert_false(pull_platform_runs(&p, &other));
}

/* The number of the chosen entry, or the code. */
static int choose(const char *index, const char *platform, struct banger_error *e)
{
	_cleanup_pull_document_ struct pull_document d = {0};
	const struct pull_descriptor *found = NULL;
	struct pull_platform want;

	*e = (struct banger_error){0};
	must_parse(index, NULL, &d);
	assert_int_equal(pull_platform_parse(platform, &want, NULL), 0);
	int r = pull_index_select(&d, &want, &found, e);
	if (r < 0)
		assert_null(found);
	return r < 0 ? r : (int)(found - d.items);
}

#define ATTESTATION                                                                                \
	DESC(OCI_MANIFEST,                                                                         \
		PLATFORM("unknown", "unknown", "") ",\"annotations\":{\"vnd.docker.reference."     \
						   "type\":\"attestation-manifest\"}")
#define SIGNATURE DESC(OCI_MANIFEST, ",\"artifactType\":\"application/x.signature\"")

static void selection(void **state)
{
	const char *many = INDEX(ATTESTATION "," IMAGE(
		"linux", "arm", ",\"variant\":\"v5\"") "," IMAGE("linux", "arm",
		",\"variant\":\"v7\"") "," IMAGE("linux", "amd64", "") "," IMAGE("linux", "arm64",
		",\"variant\":\"v8\"") "," IMAGE("windows", "amd64", "") "," IMAGE("linux", "amd64",
		",\"variant\":\"v3\"") "," IMAGE("linux", "amd64", "") "," IMAGE("linux", "arm",
		",\"variant\":\"v6\"") "," SIGNATURE);
	static const struct {
		const char *platform;
		int entry;
	} cases[] = {{"linux/amd64", 3}, {"linux/amd64/v2", 3}, {"linux/amd64/v3", 6},
		{"linux/amd64/v4", 6}, {"arm64", 4}, {"linux/arm64/v9", 4}, {"arm", 2},
		{"linux/arm/v6", 8}, {"linux/arm/v5", 1}, {"linux/arm/v8", 2}};
	struct banger_error e;

	for (size_t i = 0; i < ELEMENTSOF(cases); i++)
		assert_int_equal(choose(many, cases[i].platform, &e), cases[i].entry);
	assert_int_equal(choose(many, "s390x", &e), -ENOENT);
	assert_message(&e, "no image for linux/s390x in the index, only for: linux/arm/v5, "
			   "linux/arm/v7, linux/amd64, linux/arm64, windows/amd64, linux/amd64/v3, "
			   "linux/arm/v6");
	assert_int_equal(choose(INDEX(IMAGE("linux", "amd64", ",\"variant\":\"v3\"")), "amd64", &e),
		-ENOENT);
}

static void odd_selections(void **state)
{
	struct banger_error e;

	assert_int_equal(choose(INDEX(""), "amd64", &e), -EOPNOTSUPP);
	assert_message(&e, "the index is empty");
	assert_int_equal(choose(INDEX(ATTESTATION), "amd64", &e), -EOPNOTSUPP);
	assert_message(&e, "no image: its 1 entries are attestations");
	assert_int_equal(
		choose(INDEX(SIGNATURE "," ATTESTATION "," DESC("a/chart", "")), "amd64", &e),
		-EOPNOTSUPP);
	assert_message(&e, "application/x.signature, attestation, a/chart");
	/* The only image, when it says no platform; not when it says another, and not one of two. */
	assert_int_equal(choose(INDEX(SIGNATURE "," DESC(OCI_MANIFEST, "")), "amd64", &e), 1);
	assert_int_equal(
		choose(INDEX(DESC(DOCKER_MANIFEST, PLATFORM("", "", ""))), "amd64", &e), 0);
	assert_int_equal(choose(INDEX(IMAGE("linux", "arm", "")), "amd64", &e), -ENOENT);
	assert_int_equal(
		choose(INDEX(DESC(OCI_MANIFEST, "") "," DESC(OCI_MANIFEST, "")), "amd64", &e),
		-ENOENT);
	assert_message(&e, "none of the 2 images in the index says its platform");
	/* An index in the index; a referrer that is an image; a size that no manifest has. */
	assert_int_equal(
		choose(INDEX(DESC(OCI_INDEX, PLATFORM("linux", "amd64", ""))), "amd64", &e), 0);
	assert_int_equal(choose(INDEX(DESC(OCI_MANIFEST, ",\"artifactType\":\"" OCI_CONFIG "\"")),
				 "amd64", &e),
		0);
	assert_int_equal(choose(INDEX("{\"mediaType\":\"" OCI_MANIFEST "\",\"digest\":\"" S256
				      "\",\"size\":4194305}"),
				 "amd64", &e),
		-EFBIG);
}

/* Words of strangers in messages: clean, and no longer than there is room. */
static void messages(void **state)
{
	_cleanup_free_ char *index = NULL;
	_cleanup_pull_document_ struct pull_document d = {0};
	const struct pull_descriptor *found;
	struct pull_platform want;
	struct banger_error e = {0};
	char *p = index = malloc(200000);

	p += sprintf(p, "{\"schemaVersion\":2,\"manifests\":[");
	for (int i = 0; i < 200; i++)
		p += sprintf(p, "%s" DESC(OCI_MANIFEST, PLATFORM("%d\\u001b[31m", "%s", "")),
			i ? "," : "", i, "abcdefghijklmnopqrstuvwxyz");
	strcpy(p, "]}");
	must_parse(index, NULL, &d);
	assert_int_equal(pull_platform_parse("amd64", &want, NULL), 0);
	assert_int_equal(pull_index_select(&d, &want, &found, &e), -ENOENT);
	assert_null(strchr(e.message, '\033'));
	assert_message(&e, "0?[31m/abcdefghijklmnopqrstuvwxyz, 1?[31m");
	assert_message(&e, ", …");
	assert_true(strlen(e.message) < 900);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(manifests),
		cmocka_unit_test(layer_types), cmocka_unit_test(kinds), cmocka_unit_test(json),
		cmocka_unit_test(limits), cmocka_unit_test(fields), cmocka_unit_test(platforms),
		cmocka_unit_test(selection), cmocka_unit_test(odd_selections),
		cmocka_unit_test(messages)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
