/* SPDX-License-Identifier: Apache-2.0 */
/* Image layouts on disk: sound ones, and directories in which something else stands where a blob should be. */
#include "check.h"
#include <fcntl.h>
#include <ftw.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include "pull/layout.h"

#define OCI_MANIFEST "application/vnd.oci.image.manifest.v1+json"
#define OCI_CONFIG "application/vnd.oci.image.config.v1+json"

struct fixture {
	char dir[64];
	struct pull_descriptor manifest, blob; /* digest, size, media_type */
};

static void path_of(const struct fixture *f, const char *name, char ret[256])
{
	snprintf(ret, 256, "%s/%s", f->dir, name);
}

static void put_file(const struct fixture *f, const char *name, const char *text)
{
	char path[256];

	path_of(f, name, path);
	_cleanup_fclose_ FILE *file = fopen(path, "we");
	assert_non_null(file);
	assert_int_equal(fwrite(text, 1, strlen(text), file), strlen(text));
}

static void blob_name(const struct pull_descriptor *d, char ret[160])
{
	snprintf(ret, 160, "blobs/%s", d->digest);
	*strchr(ret, ':') = '/';
}

static void put_blob(const struct fixture *f, const char *algorithm, const char *text,
	struct pull_descriptor *ret)
{
	_cleanup_pull_hash_ struct pull_hash *h = NULL;
	char like[PULL_DIGEST_MAX], name[160];

	snprintf(like, sizeof(like), "%s:%0*d", algorithm, strcmp(algorithm, "sha256") ? 128 : 64,
		0);
	assert_int_equal(pull_hash_new(like, &h, NULL), 0);
	pull_hash_update(h, text, strlen(text));
	pull_hash_end(h, ret->digest);
	ret->size = strlen(text);
	strcpy(ret->media_type, OCI_MANIFEST);
	blob_name(ret, name);
	put_file(f, name, text);
}

/* An index of entries, each a manifest descriptor with more members. */
static void put_index(const struct fixture *f, const char *const *more)
{
	char text[8192] = "{\"schemaVersion\":2,\"manifests\":[";
	char *p = text + strlen(text);

	for (size_t i = 0; more[i]; i++)
		p += sprintf(p,
			"%s{\"mediaType\":\"" OCI_MANIFEST "\",\"digest\":\"%s\",\"size\":%lld%s}",
			i ? "," : "", f->manifest.digest, (long long)f->manifest.size, more[i]);
	strcpy(p, "]}");
	put_file(f, "index.json", text);
}

#define TAG(name) ",\"annotations\":{\"org.opencontainers.image.ref.name\":\"" name "\"}"
#define INDEX(f, ...) put_index(f, (const char *const[]){__VA_ARGS__, NULL})

static int setup(void **state)
{
	static struct fixture f;
	char path[256];

	f = (struct fixture){.dir = "/tmp/banger-layout-XXXXXX"};
	assert_non_null(mkdtemp(f.dir));
	static const char *const dirs[] = {"blobs", "blobs/sha256", "blobs/sha512"};
	for (size_t i = 0; i < ELEMENTSOF(dirs); i++) {
		path_of(&f, dirs[i], path);
		assert_int_equal(mkdir(path, 0700), 0);
	}
	put_file(&f, "oci-layout", "{\"imageLayoutVersion\":\"1.0.0\"}");
	put_blob(&f, "sha256", "{\"schemaVersion\":2}", &f.manifest);
	put_blob(&f, "sha512", "layer", &f.blob);
	INDEX(&f, TAG("12"));
	*state = &f;
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	return remove(path);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	return nftw(f->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static int open_layout(
	const struct fixture *f, const char *tag, struct layout **ret, struct banger_error *e)
{
	struct pull_reference r = {.layout = true, .dir = (char *)f->dir, .tag = (char *)tag};

	*e = (struct banger_error){0};
	return layout_open(&r, ret, e);
}

static int get(struct layout *l, const char *what, const struct pull_descriptor *d, char **ret,
	struct banger_error *e)
{
	char type[160], digest[PULL_DIGEST_MAX];
	size_t len = 0;

	*e = (struct banger_error){0};
	int r = layout_manifest(l, what, d, ret, &len, type, digest, e);
	if (r < 0)
		return r;
	assert_int_equal(strlen(*ret), len);
	assert_true(pull_digest_matches(digest, *ret, len));
	return 0;
}

static void sound(void **state)
{
	struct fixture *f = *state;
	_cleanup_layout_ struct layout *l = NULL;
	_cleanup_free_ char *text = NULL, *again = NULL, *by_digest = NULL, *blob = NULL;
	_cleanup_close_ int fd = -1;
	struct banger_error e;
	size_t len = 0;
	char c;

	assert_int_equal(open_layout(f, "12", &l, &e), 0);
	assert_int_equal(get(l, NULL, NULL, &text, &e), 0);
	assert_string_equal(text, "{\"schemaVersion\":2}");
	assert_int_equal(get(l, "nothing", &f->manifest, &again, &e), 0);
	assert_string_equal(again, text);
	assert_int_equal(get(l, f->manifest.digest, NULL, &by_digest, &e), 0);
	assert_int_equal(layout_document(l, &f->blob, &blob, &len, &e), 0);
	assert_string_equal(blob, "layer");
	assert_int_equal(len, 5);
	assert_int_equal(layout_blob_fd(l, &f->blob, &fd, &e), 0);
	assert_int_equal(layout_verify(fd, &f->blob, -1, &e), 0);
	assert_int_equal(read(fd, &c, 1), 1); /* the offset is where it was */
	assert_int_equal(c, 'l');
	assert_int_equal(write(fd, "x", 1), -1);
}

static void choice(void **state)
{
	struct fixture *f = *state;
	struct banger_error e;
	static const char *const attestation =
		",\"annotations\":{\"vnd.docker.reference.type\":\"attestation-manifest\"}";
	static const struct {
		const char *entries[4], *tag;
		int code;
		const char *message;
	} cases[] = {
		{{TAG("12")}, NULL, 0, NULL},
		{{TAG("12")}, "12", 0, NULL},
		{{""}, NULL, 0, NULL},
		{{""}, "12", -ENOENT, "has no image tagged \"12\"; it has no tag"},
		{{TAG("12")}, "1", -ENOENT, "it has 12"},
		{{TAG("12"), TAG("13")}, NULL, -ENOTUNIQ, "2 images"},
		{{TAG("12"), TAG("13")}, NULL, -ENOTUNIQ, "it has 12, 13"},
		{{TAG("12"), TAG("13")}, "13", 0, NULL},
		{{TAG("12"), ""}, NULL, -ENOTUNIQ, "it has 12"},
		{{TAG("12"), TAG("12")}, "12", -ENOTUNIQ, "2 images tagged \"12\""},
		{{TAG("12"), attestation}, NULL, 0, NULL},
		{{attestation}, NULL, -ENOENT, "has no image"},
		{{NULL}, NULL, -ENOENT, "has no image"},
		{{"", ""}, NULL, 0, "index"},
	};
	for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
		_cleanup_layout_ struct layout *l = NULL;
		_cleanup_free_ char *text = NULL;

		put_index(f, cases[i].entries);
		assert_int_equal(open_layout(f, cases[i].tag, &l, &e), 0);
		assert_int_equal(get(l, NULL, NULL, &text, &e), cases[i].code);
		if (cases[i].code < 0)
			assert_message(&e, cases[i].message);
		else
			assert_true(!strstr(text, "manifests") == !cases[i].message);
	}
}

static void no_layouts(void **state)
{
	struct fixture *f = *state;
	struct layout *l = NULL;
	struct banger_error e;
	char path[256];
	static const struct {
		const char *file, *text;
		int code;
		const char *message;
	} cases[] = {
		{"index.json", "{}", -EINVAL, "index.json: schemaVersion is missing"},
		{"index.json", "[", -EINVAL, "index.json: not JSON"},
		{"index.json", "{\"schemaVersion\":2,\"manifests\":[{}]}", -EINVAL,
			"index.json: manifests[0].mediaType is missing"},
		{"oci-layout", "{\"imageLayoutVersion\":\"2.0.0\"}", -EOPNOTSUPP,
			"version \"2.0.0\""},
		{"oci-layout", "{}", -EINVAL, "oci-layout: imageLayoutVersion is missing"},
		{"oci-layout", "", -EINVAL, "oci-layout: not JSON"},
	};
	for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
		put_file(f, cases[i].file, cases[i].text);
		assert_int_equal(open_layout(f, NULL, &l, &e), cases[i].code);
		assert_message(&e, cases[i].message);
	}
	path_of(f, "oci-layout", path);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(open_layout(f, NULL, &l, &e), -ENOENT);
	assert_message(&e, "not an image layout");
	struct pull_reference r = {.layout = true, .dir = (char *)"/nowhere/x"};
	assert_int_equal(layout_open(&r, &l, &e), -ENOENT);
	r.dir = (char *)"relative";
	assert_int_equal(layout_open(&r, &l, &e), -EINVAL);
	assert_message(&e, "absolute path");
	r.dir = path;
	put_file(f, "oci-layout", "x");
	assert_int_equal(layout_open(&r, &l, &e), -ENOTDIR);
	assert_null(l);
}

/* What else can stand where the blob should be; none of it may be waited for or followed. */
static void no_blobs(void **state)
{
	struct fixture *f = *state;
	_cleanup_layout_ struct layout *l = NULL;
	struct pull_descriptor d = f->manifest;
	struct banger_error e;
	char name[160], path[256];
	int fd = -1;

	assert_int_equal(open_layout(f, NULL, &l, &e), 0);
	blob_name(&d, name);
	path_of(f, name, path);
	d.size++;
	assert_int_equal(layout_blob_fd(l, &d, &fd, &e), -EUCLEAN);
	assert_message(&e, "its descriptor says 20");
	d.size--;
	assert_int_equal(unlink(path), 0);
	assert_int_equal(layout_blob_fd(l, &d, &fd, &e), -ENOENT);
	assert_message(&e, d.digest + 7);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(layout_blob_fd(l, &d, &fd, &e), -EINVAL);
	assert_message(&e, "not a regular file");
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkdir(path, 0700), 0);
	assert_int_equal(layout_blob_fd(l, &d, &fd, &e), -EINVAL);
	assert_int_equal(rmdir(path), 0);
	assert_int_equal(symlink("/etc/passwd", path), 0);
	assert_int_equal(layout_blob_fd(l, &d, &fd, &e), -EINVAL);
	assert_message(&e, "symbolic link");
	assert_int_equal(fd, -1);
}

static void linked_folders(void **state)
{
	struct fixture *f = *state;
	_cleanup_layout_ struct layout *l = NULL;
	char from[256], to[256];
	struct banger_error e;
	int fd = -1;

	assert_int_equal(open_layout(f, NULL, &l, &e), 0);
	path_of(f, "blobs", from);
	path_of(f, "moved", to);
	assert_int_equal(rename(from, to), 0);
	assert_int_equal(symlink("moved", from), 0);
	assert_int_equal(layout_blob_fd(l, &f->blob, &fd, &e), -EINVAL);
	assert_message(&e, "symbolic link");
	path_of(f, "index.json", from);
	path_of(f, "index2.json", to);
	assert_int_equal(rename(from, to), 0);
	assert_int_equal(symlink("index2.json", from), 0);
	struct layout *other = NULL;
	assert_int_equal(open_layout(f, NULL, &other, &e), -EINVAL);
	assert_message(&e, "symbolic link");
	assert_int_equal(unlink(from), 0);
	assert_int_equal(mkfifo(from, 0600), 0);
	assert_int_equal(open_layout(f, NULL, &other, &e), -EINVAL);
}

/* Other bytes under the same name. */
static void lies(void **state)
{
	struct fixture *f = *state;
	_cleanup_layout_ struct layout *l = NULL;
	_cleanup_free_ char *text = NULL;
	_cleanup_close_ int fd = -1, cancel = eventfd(0, EFD_CLOEXEC);
	struct pull_descriptor d = f->blob;
	struct banger_error e;
	size_t len;
	char name[160];

	assert_int_equal(open_layout(f, NULL, &l, &e), 0);
	blob_name(&d, name);
	put_file(f, name, "Layer");
	assert_int_equal(layout_document(l, &d, &text, &len, &e), -EUCLEAN);
	assert_int_equal(layout_blob_fd(l, &d, &fd, &e), 0);
	assert_int_equal(layout_verify(fd, &d, cancel, &e), -EUCLEAN);
	assert_message(&e, "has another digest: sha512:");
	put_file(f, name, "layer!");
	assert_int_equal(layout_verify(fd, &d, cancel, &e), -EUCLEAN);
	assert_message(&e, "another size than the 5 bytes");
	put_file(f, name, "laye");
	assert_int_equal(layout_verify(fd, &d, cancel, &e), -EUCLEAN);
	put_file(f, name, "layer");
	assert_int_equal(layout_verify(fd, &d, cancel, &e), 0);
	assert_int_equal(eventfd_write(cancel, 1), 0);
	assert_int_equal(layout_verify(fd, &d, cancel, &e), -ECANCELED);
	d.size = PULL_DOCUMENT_MAX + 1;
	assert_int_equal(layout_document(l, &d, &text, &len, &e), -EFBIG);
	strcpy(d.digest, "sha256:../../../etc/passwd");
	assert_int_equal(layout_blob_fd(l, &d, &fd, &e), -EINVAL);
	assert_null(text);
}

/* Longer than one piece, and at its very edge. */
static void large(void **state)
{
	struct fixture *f = *state;
	static const size_t sizes[] = {1048575, 1048576, 1048577, 3 * 1048576};
	struct banger_error e;
	_cleanup_layout_ struct layout *l = NULL;

	assert_int_equal(open_layout(f, NULL, &l, &e), 0);
	for (size_t i = 0; i < ELEMENTSOF(sizes); i++) {
		_cleanup_free_ char *text = malloc(sizes[i] + 1);
		_cleanup_close_ int fd = -1;
		struct pull_descriptor d = {0};

		memset(text, 'x', sizes[i]);
		text[sizes[i]] = '\0';
		put_blob(f, "sha256", text, &d);
		assert_int_equal(layout_blob_fd(l, &d, &fd, &e), 0);
		assert_int_equal(layout_verify(fd, &d, -1, &e), 0);
		d.size--;
		assert_int_equal(layout_verify(fd, &d, -1, &e), -EUCLEAN);
	}
}

#define test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {test(sound), test(choice), test(no_layouts),
		test(no_blobs), test(linked_folders), test(lies), test(large)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
