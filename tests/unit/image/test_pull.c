/* SPDX-License-Identifier: Apache-2.0 */
/* Pull with stand-ins for the slow steps: names, kernels, work seeds, bundles; what a failure leaves: nothing. */
#include "fixture.h"

static struct {
	bool fails, seed, seed_on_the_way, cancel;
	char asked[256], home[64], kernel[64];
	int built;
} fake;

static void copy_sound(int fd)
{
	static char buf[1 << 16];
	int in = open(sound_image(), O_RDONLY | O_CLOEXEC);
	ssize_t n;

	while ((n = read(in, buf, sizeof(buf))) > 0)
		assert_int_equal(write(fd, buf, (size_t)n), n);
	close(in);
}

static int fake_pull(void *arg, struct operation *op, const struct image_pull *in, int rootfs_fd,
	int seed_fd, struct image_pulled *ret, struct banger_error *err)
{
	snprintf(fake.asked, sizeof(fake.asked), "%s", in->source);
	copy_sound(rootfs_fd);
	if (fake.cancel)
		operation_cancel(op);
	if (fake.fails)
		return banger_error_set(err, BANGER_CORRUPT, "layer 2 is not what it says");
	if (fake.seed_on_the_way)
		copy_sound(seed_fd);
	*ret = (struct image_pulled){.source = strdup("host/web@sha256:x"),
		.config = strdup("{\"cmd\":[\"true\"]}"),
		.home = fake.home[0] ? strdup(fake.home) : NULL,
		.seed = fake.seed_on_the_way};
	return 0;
}

static int fake_seed(void *arg, struct operation *op, int rootfs_fd, const char *home, int seed_fd,
	struct banger_error *err)
{
	snprintf(fake.home, sizeof(fake.home), "%s", home);
	fake.built++;
	copy_sound(seed_fd);
	return 0;
}

static int fake_bundle(void *arg, struct operation *op, const struct image_pull *in, int dir_fd,
	struct image_pulled *ret, struct banger_error *err)
{
	int fd = openat(dir_fd, ROOTFS, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	int readme = openat(dir_fd, "README", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	assert_true(fd >= 0 && readme >= 0);
	copy_sound(fd);
	close(fd);
	close(readme);
	*ret = (struct image_pulled){.source = strdup("catalog/web"),
		.kernel = fake.kernel[0] ? strdup(fake.kernel) : NULL};
	return 0;
}

static int fake_kernel(
	void *arg, const char *word, char ret[BANGER_NAME_MAX + 1], struct banger_error *err)
{
	if (strcmp(word, "clo") != 0 && strcmp(word, "cloud") != 0)
		return banger_error_set(err, BANGER_NOT_FOUND, "kernel \"%s\" not found", word);
	strcpy(ret, "cloud");
	return 0;
}

static void use(struct fixture *f, const struct image_service_deps *deps)
{
	memset(&fake, 0, sizeof(fake));
	fixture_stop(f);
	f->deps = *deps;
	assert_ok(f, fixture_start(f));
}

static const struct image_service_deps real = {.pull_and_flatten = fake_pull,
	.build_work_seed = fake_seed,
	.fetch_bundle = fake_bundle,
	.find_kernel = fake_kernel};

static void expect_nothing_left(struct fixture *f, int images)
{
	wait_trash(f);
	assert_int_equal(count_dir(path(f, "staging")), 0);
	assert_int_equal(count_dir(path(f, "images")), images);
	assert_int_equal(disagreements(f), 0);
}

static void wait_digest(struct fixture *f, const char *id)
{
	assert_ok(f, digester_wait(f->service->digester, id, -1, &f->err));
}

static void names(void **state)
{
	static const struct {
		const char *source, *name; /* NULL: has to be given one */
	} cases[] = {{"debian:12", "debian"}, {"docker.io/library/busybox", "busybox"},
		{"127.0.0.1:5000/a/b@sha256:00", "b"}, {"localhost:5000/x:y@sha256:00", "x"},
		{"oci:/srv/images/web:1", "web"}, {"oci:/srv/web/", "web"}, {"oci:web", "web"},
		{"a/_x", NULL}, {"oci:/", NULL}, {"oci:", NULL}};
	struct fixture *f = *state;

	use(f, &real);
	for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
		_cleanup_image_ struct banger_image image = {0};
		struct image_pull in = {.source = cases[i].source};
		if (!cases[i].name) {
			assert_code(f, do_pull(f, &in, NULL), BAD_REQUEST);
			continue;
		}
		assert_ok(f, do_pull(f, &in, &image));
		assert_string_equal(image.name, cases[i].name);
		assert_string_equal(fake.asked, cases[i].source);
		assert_ok(f, do_delete(f, cases[i].name));
	}
	assert_code(f, do_pull(f, &(struct image_pull){.source = ""}, NULL), BAD_REQUEST);
	assert_code(f, do_pull(f, &(struct image_pull){.source = "a/b", .name = "x/y"}, NULL),
		BAD_REQUEST);
	expect_nothing_left(f, 0);
}

static void publishes(void **state)
{
	struct fixture *f = *state;
	_cleanup_image_ struct banger_image i = {0};
	struct image_verdict v = {0};
	struct image_pull in = {.source = "host.example/web:1", .name = "w", .kernel = "clo"};

	use(f, &real);
	assert_ok(f, do_pull(f, &in, &i));
	assert_string_equal(i.source, "host/web@sha256:x");
	assert_string_equal(i.kernel, "cloud");
	assert_string_equal(i.config, "{\"cmd\":[\"true\"]}");
	assert_int_equal(i.size, 8 << 20);
	/* Its digest comes later; whoever wants it waits. */
	assert_string_equal(i.digest, "");
	assert_ok(f, do_verify(f, "w", &v));
	assert_true(v.digest_ok);
	assert_int_equal(strlen(v.image.digest), 71);
	banger_image_done(&v.image);
	/* The step of its own made the seed, of root's home for want of another. */
	assert_int_equal(fake.built, 1);
	assert_string_equal(fake.home, "/root");
	assert_int_equal(mode_of(path(f, "images/%s/" WORK_SEED, i.id)), 0444);
	/* The name is taken: found out before anything is fetched. */
	fake.asked[0] = 0;
	assert_code(f, do_pull(f, &in, NULL), EXISTS);
	assert_string_equal(fake.asked, "");
	in.name = "other";
	in.kernel = "none";
	assert_code(f, do_pull(f, &in, NULL), NOT_FOUND);
	assert_string_equal(fake.asked, "");
	expect_nothing_left(f, 1);
}

static void seeds(void **state)
{
	struct fixture *f = *state;
	struct image_service_deps deps = real;
	_cleanup_image_ struct banger_image one = {0}, two = {0};

	use(f, &real);
	fake.seed_on_the_way = true;
	assert_ok(f, do_pull(f, &(struct image_pull){.source = "h/a"}, &one));
	assert_int_equal(fake.built, 0);
	assert_true(exists(path(f, "images/%s/" WORK_SEED, one.id)));
	/* Nobody makes one: there is none. */
	deps.build_work_seed = NULL;
	use(f, &deps);
	assert_ok(f, do_pull(f, &(struct image_pull){.source = "h/b"}, &two));
	assert_false(exists(path(f, "images/%s/" WORK_SEED, two.id)));
	expect_nothing_left(f, 2);
}

static void bundles(void **state)
{
	struct fixture *f = *state;
	struct image_service_deps deps = real;
	_cleanup_image_ struct banger_image one = {0}, two = {0};

	use(f, &real);
	strcpy(fake.kernel, "cloud");
	assert_ok(f, do_pull(f, &(struct image_pull){.source = "web"}, &one));
	assert_string_equal(one.name, "web");
	assert_string_equal(one.kernel, "cloud");
	assert_true(exists(path(f, "images/%s/README", one.id)));
	/* What was asked for beats what the bundle says; a kernel that is not there is refused. */
	strcpy(fake.kernel, "absent");
	assert_code(
		f, do_pull(f, &(struct image_pull){.source = "web", .name = "x"}, NULL), NOT_FOUND);
	assert_ok(
		f, do_pull(f, &(struct image_pull){.source = "web", .name = "x", .kernel = "cloud"},
			   &two));
	deps.fetch_bundle = NULL;
	deps.pull_and_flatten = NULL;
	use(f, &deps);
	assert_code(f, do_pull(f, &(struct image_pull){.source = "web", .name = "y"}, NULL),
		UNSUPPORTED);
	assert_code(f, do_pull(f, &(struct image_pull){.source = "a/b", .name = "y"}, NULL),
		UNSUPPORTED);
	expect_nothing_left(f, 2);
}

/* The daemon stops before the digest is there: the next start makes it. */
static void late_digest(void **state)
{
	struct fixture *f = *state;
	_cleanup_image_ struct banger_image i = {0}, later = {0};

	use(f, &real);
	assert_ok(f, do_pull(f, &(struct image_pull){.source = "h/a"}, &i));
	wait_digest(f, i.id);
	/* As if it had not got so far. */
	assert_ok(f, store_image_by_id(f->store, i.id, &later, &f->err));
	assert_int_equal(strlen(later.digest), 71);
	later.digest[0] = 0;
	assert_ok(f, store_image_update(f->store, &later, NULL, &f->err));
	banger_image_done(&later);
	fixture_stop(f);
	assert_ok(f, fixture_start(f));
	wait_digest(f, i.id);
	assert_ok(f, store_image_by_id(f->store, i.id, &later, &f->err));
	assert_int_equal(strlen(later.digest), 71);
	/* One that is deleted meanwhile is nobody's trouble. */
	_cleanup_image_ struct banger_image two = {0};
	assert_ok(f, do_pull(f, &(struct image_pull){.source = "h/b"}, &two));
	assert_ok(f, do_delete(f, "b"));
	wait_digest(f, two.id);
	expect_nothing_left(f, 1);
}

/* Whoever sees the row can wait for the digest, however early that is. */
static void *look_early(void *arg)
{
	struct fixture *f = arg;
	_cleanup_image_ struct banger_image i = {0};
	struct banger_error err;

	while (store_image_by_name(f->store, BANGER_PUBLISHED, "a", &i, &err) < 0)
		;
	if (digester_wait(f->service->digester, i.id, -1, &err) < 0)
		return (void *)"cannot wait";
	banger_image_done(&i);
	i = (struct banger_image){0};
	if (store_image_by_name(f->store, BANGER_PUBLISHED, "a", &i, &err) < 0)
		return (void *)"it is gone";
	return i.digest[0] ? NULL : (void *)"it has no digest";
}

static void digest_is_waited_for(void **state)
{
	struct fixture *f = *state;
	struct image_verdict v = {0};

	use(f, &real);
	for (int n = 0; n < 20; n++) {
		_cleanup_image_ struct banger_image i = {0};
		pthread_t thread;
		void *wrong;
		assert_int_equal(pthread_create(&thread, NULL, look_early, f), 0);
		assert_ok(f, do_pull(f, &(struct image_pull){.source = "h/a"}, &i));
		pthread_join(thread, &wrong);
		assert_null(wrong);
		if (n < 19)
			assert_ok(f, do_delete(f, "a"));
	}
	/* An image whose digest could not be computed is not called another one than was published. */
	_cleanup_image_ struct banger_image i = {0};
	assert_ok(f, store_image_by_name(f->store, BANGER_PUBLISHED, "a", &i, &f->err));
	i.digest[0] = 0;
	assert_ok(f, store_image_update(f->store, &i, NULL, &f->err));
	assert_code(f, do_verify(f, "a", &v), UNAVAILABLE);
}

static void failures(void **state)
{
	struct fixture *f = *state;

	use(f, &real);
	fake.fails = true;
	assert_code(f, do_pull(f, &(struct image_pull){.source = "h/a"}, NULL), CORRUPT);
	expect_nothing_left(f, 0);
	fake.fails = false;
	fake.cancel = true;
	assert_code(f, do_pull(f, &(struct image_pull){.source = "h/a"}, NULL), CANCELLED);
	expect_nothing_left(f, 0);
	/* The configured default is bound when there is such a kernel, and not missed when there is none. */
	_cleanup_image_ struct banger_image one = {0}, two = {0};
	fake.cancel = false;
	f->config.default_kernel = (char *)"cloud";
	assert_ok(f, do_pull(f, &(struct image_pull){.source = "h/a"}, &one));
	assert_string_equal(one.kernel, "cloud");
	f->config.default_kernel = (char *)"absent";
	assert_ok(f, do_pull(f, &(struct image_pull){.source = "h/b"}, &two));
	assert_null(two.kernel);
	f->config.default_kernel = NULL;
}

int main(void)
{
	const struct CMUnitTest tests[] = {TEST(names), TEST(publishes), TEST(seeds), TEST(bundles),
		TEST(late_digest), TEST(digest_is_waited_for), TEST(failures)};

	return cmocka_run_group_tests_name("image/pull", tests, NULL, NULL);
}
