/* SPDX-License-Identifier: Apache-2.0 */
/* What may be imported, and what is refused: each refusal leaves nothing behind. */
#include "fixture.h"

#include <string.h>

#define VERSION "6.1.0-9-test"
#define MODULES "lib/modules/" VERSION

static struct bytes image;

static struct bytes module_bytes(void)
{
	static const char info[] = "depends=";
	return make_module(info, sizeof(info));
}

static struct bytes deb_of(const struct member *m, size_t n, const char *filter)
{
	struct bytes tar = make_tar(m, n, filter);
	struct bytes deb = make_deb(&tar, strcmp(filter, "none") ? "data.tar.x" : "data.tar");
	free(tar.p);
	return deb;
}

static void imports_a_package(void **state)
{
	struct fixture *f = *state;
	const char *const filters[] = {"xz", "gzip", "zstd", "none"};
	for (size_t i = 0; i < ELEMENTSOF(filters); i++) {
		struct bytes module = module_bytes();
		const struct member members[] = {{'d', "./", NULL, {0}},
			{'d', "./boot/", NULL, {0}}, {'f', "./boot/vmlinuz-" VERSION, NULL, image},
			{'f', "./boot/config-" VERSION, "CONFIG_X=y\n", {0}},
			{'f', "./boot/System.map-" VERSION, "ignored", {0}},
			{'d', "./" MODULES, NULL, {0}},
			{'l', "./" MODULES "/build", "/usr/src/linux", {0}},
			{'f', "./" MODULES "/kernel/fs/a.ko", NULL, module},
			{'f', "./usr/share/doc/x", "ignored", {0}}};
		struct bytes deb = deb_of(members, ELEMENTSOF(members), filters[i]);
		_cleanup_kernel_ struct banger_kernel k = {0};
		_cleanup_free_ char *event = NULL, *dep = NULL;
		size_t n;
		int r = import_bytes(f, "debian", "auto", &deb, &k);
		assert_string_equal(f->err.message, "");
		assert_int_equal(r, 0);
		assert_string_equal(k.version, VERSION);
		assert_string_equal(k.arch, "amd64");
		assert_true(k.modules && !k.initrd && k.size > 0);
		assert_true(has_file(f, &k, "vmlinuz") && has_file(f, &k, "vmlinux") &&
			    has_file(f, &k, "config"));
		assert_false(has_file(f, &k, "modules/" VERSION "/build"));
		assert_int_equal(
			kernel_service_read(f->service, &k, "modules/" VERSION "/modules.dep", 1000,
				&dep, &n, &f->err),
			0);
		assert_int_equal(n, strlen("kernel/fs/a.ko:\n"));
		assert_memory_equal(dep, "kernel/fs/a.ko:\n", n);
		event = next_event(f);
		assert_non_null(strstr(event, "\"change\":\"imported\""));
		assert_non_null(strstr(event, k.id));
		assert_int_equal(delete_kernel(f, "debian"), 0);
		free(event);
		event = next_event(f);
		assert_non_null(strstr(event, "\"state\":\"deleted\""));
		assert_int_equal(entries(f), 0);
		free(deb.p);
		free(module.p);
	}
}

static void imports_a_tree_and_an_image(void **state)
{
	struct fixture *f = *state;
	struct bytes module = module_bytes();
	const struct member members[] = {{'f', "vmlinuz", NULL, image},
		{'f', "initrd", "initrd", {0}}, {'f', "modules/" VERSION "/a.ko", NULL, module}};
	struct bytes tar = make_tar(members, ELEMENTSOF(members), "none");
	_cleanup_kernel_ struct banger_kernel k = {0}, bare = {0}, only = {0};
	assert_int_equal(import_bytes(f, "tree", "tar", &tar, &k), 0);
	assert_true(k.modules && k.initrd);
	assert_int_equal(kernel_service_only(f->service, &only, &f->err), 0);
	assert_string_equal(only.id, k.id);
	assert_int_equal(import_bytes(f, "bare", "auto", &image, &bare), 0);
	assert_false(bare.modules || bare.initrd);
	assert_string_equal(bare.version, VERSION);
	banger_kernel_done(&only);
	assert_int_equal(kernel_service_only(f->service, &only, &f->err), -ENOTUNIQ);
	assert_int_equal(import_bytes(f, "bare", "auto", &image, &only), -EEXIST);
	assert_int_equal(import_bytes(f, "a/b", "auto", &image, &only), -EINVAL);
	assert_int_equal(import_bytes(f, "c", "rpm", &image, &only), -EINVAL);
	assert_int_equal(entries(f), 2);
	free(tar.p);
	free(module.p);
}

static const char *const outside[] = {
	"vmlinuz/../../x", "../x", "nosuch", "", ".", "/etc/passwd", "modules", ("modules/" VERSION)};

static void opens_nothing_outside(void **state)
{
	struct fixture *f = *state;
	struct bytes module = module_bytes();
	const struct member members[] = {
		{'f', "vmlinuz", NULL, image}, {'f', "modules/" VERSION "/a.ko", NULL, module}};
	struct bytes tar = make_tar(members, 2, "none");
	_cleanup_kernel_ struct banger_kernel k = {0};
	_cleanup_json_ struct json_object *files = NULL;
	int fd = -1;
	assert_int_equal(import_bytes(f, "k", NULL, &tar, &k), 0);
	for (size_t i = 0; i < ELEMENTSOF(outside); i++)
		assert_int_equal(
			kernel_service_open(f->service, &k, outside[i], &fd, &f->err), -ENOENT);
	assert_int_equal(
		kernel_service_open(f->service, &k, "modules/" VERSION "/a.ko", &fd, &f->err), 0);
	close(fd);
	assert_int_equal(kernel_service_files(f->service, &k, &files, &f->err), 0);
	assert_int_equal(json_object_array_length(files), 3); /* vmlinuz vmlinux modules/VERSION */
	free(tar.p);
	free(module.p);
}

/* Archives that a person should not be able to import, and a word of the refusal. */
static void refuses_hostile_archives(void **state)
{
	struct fixture *f = *state;
	const struct member kernel = {'f', "boot/vmlinuz-" VERSION, NULL, image};
	const struct {
		struct member bad;
		const char *word;
	} cases[] = {
		{{'f', MODULES "/../../../../../etc/passwd", "x", {0}}, "\"..\""},
		{{'f', "/" MODULES "/a.ko", "x", {0}}, "absolute"},
		{{'l', MODULES "/kernel", "/etc", {0}}, "neither a file nor a directory"},
		{{'h', MODULES "/a.ko", "/etc/passwd", {0}}, "neither a file nor a directory"},
		{{'c', MODULES "/a.ko", NULL, {0}}, "neither a file nor a directory"},
		{{'f', "boot/vmlinuz-other", "x", {0}}, "second kernel"},
		{{'l', "boot/vmlinuz", "vmlinuz-" VERSION, {0}}, "neither"},
		{{'f', MODULES "/a b.ko", "x", {0}}, "no module has"},
		{{'f', MODULES "/a\nb.ko", "x", {0}}, "no module has"},
		{{'f', MODULES "/a:b.ko", "x", {0}}, "no module has"},
		{{'f', "lib/modules/stray.ko", "x", {0}}, "directory of modules"},
		{{'f', "lib/modules/6.6.6/a.ko", "x", {0}}, "the modules are of kernel 6.6.6"},
		{{'f',
			 MODULES "/1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/17/18/19/20/21/22/23/24/"
				 "25/26/27/28/29/30/31/32/a.ko",
			 "x", {0}},
			"too deep"},
	};
	for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
		struct bytes tar =
			make_tar((const struct member[]){kernel, cases[i].bad}, 2, "none");
		struct banger_kernel k;
		assert_int_equal(import_bytes(f, "k", "auto", &tar, &k), -EUCLEAN);
		if (!strstr(f->err.message, cases[i].word))
			fail_msg("\"%s\" does not say \"%s\"", f->err.message, cases[i].word);
		assert_int_equal(entries(f), 0);
		free(tar.p);
	}
}

static void refuses_what_has_no_kernel(void **state)
{
	struct fixture *f = *state;
	const struct member doc = {'f', "./usr/share/doc/x", "x", {0}},
			    fake = {'f', "boot/vmlinuz-1", "not a kernel", {0}};
	struct bytes meta = deb_of(&doc, 1, "xz"), none = make_deb(NULL, NULL),
		     text = deb_of(&fake, 1, "xz");
	struct banger_kernel k;
	assert_int_equal(import_bytes(f, "k", "auto", &meta, &k), -EUCLEAN);
	assert_non_null(strstr(f->err.message, "meta package"));
	assert_int_equal(import_bytes(f, "k", "auto", &none, &k), -EUCLEAN);
	assert_string_equal(f->err.message, "not a Debian package: it has no data.tar");
	assert_int_equal(import_bytes(f, "k", "auto", &text, &k), -EUCLEAN);
	assert_non_null(strstr(f->err.message, "not a kernel"));
	assert_int_equal(import_bytes(f, "k", "deb", &image, &k), -EUCLEAN);
	assert_int_equal(entries(f), 0);
	free(meta.p);
	free(none.p);
	free(text.p);
}

/* A package cut off anywhere, or with a byte changed: refused or (where the byte does not matter)
 * imported, and nothing left over. */
static void survives_damage(void **state)
{
	struct fixture *f = *state;
	struct bytes module = module_bytes();
	const struct member members[] = {{'f', "./boot/vmlinuz-" VERSION, NULL, image},
		{'f', "./" MODULES "/a.ko", NULL, module}};
	struct bytes deb = deb_of(members, 2, "gzip");
	for (size_t n = 0; n < deb.n; n += deb.n / 40) {
		struct banger_kernel k;
		assert_true(import_bytes(f, "k", "auto", &(struct bytes){deb.p, n}, &k) < 0);
		assert_int_equal(entries(f), 0);
	}
	for (size_t at = 0; at < deb.n; at += deb.n / 60) {
		_cleanup_kernel_ struct banger_kernel k = {0};
		deb.p[at] ^= 0x10;
		if (import_bytes(f, "k", "auto", &deb, &k) == 0)
			assert_int_equal(delete_kernel(f, "k"), 0);
		assert_int_equal(entries(f), 0);
		deb.p[at] ^= 0x10;
	}
	free(deb.p);
	free(module.p);
}

static void imports_from_a_pipe(void **state)
{
	struct fixture *f = *state;
	_cleanup_kernel_ struct banger_kernel k = {0};
	int p[2];
	char command[] = "x";
	assert_int_equal(pipe(p), 0);
	pid_t child = fork();
	if (child == 0) {
		close(p[0]);
		_exit(write(p[1], image.p, image.n) == (ssize_t)image.n ? 0 : 1);
	}
	close(p[1]);
	struct banger_actor actor = {.uid = getuid(), .door = "rpc"};
	struct operation *op;
	assert_int_equal(operation_begin(f->operations, OPERATION_CHANGE, "kernel.import",
				 banger_op_id_mint().s, &actor, NULL, &op, &f->err),
		0);
	const struct kernel_import in = {.name = command, .fd = p[0]};
	int r = kernel_service_import(f->service, op, &in, &k, &f->err);
	operation_end(op, NULL);
	assert_int_equal(r, 0);
	assert_true(has_file(f, &k, "vmlinux"));
	close(p[0]);
}

static void a_cancelled_import_leaves_nothing(void **state)
{
	struct fixture *f = *state;
	struct banger_actor actor = {.uid = getuid(), .door = "rpc"};
	struct banger_kernel k;
	struct operation *op;
	int fd = make_file(&image);
	assert_int_equal(operation_begin(f->operations, OPERATION_CHANGE, "kernel.import",
				 banger_op_id_mint().s, &actor, NULL, &op, &f->err),
		0);
	operation_cancel(op);
	assert_int_equal(kernel_service_import(f->service, op,
				 &(struct kernel_import){.name = "k", .fd = fd}, &k, &f->err),
		-ECANCELED);
	operation_end(op, &f->err);
	assert_int_equal(entries(f), 0);
	close(fd);
}

static int group_setup(void **state)
{
	struct bytes inner = make_vmlinux(VERSION, true);
	image = make_bzimage(VERSION, &inner);
	free(inner.p);
	return 0;
}

static int group_teardown(void **state)
{
	free(image.p);
	return 0;
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, fixture_setup, fixture_teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(imports_a_package),
		TEST(imports_a_tree_and_an_image),
		TEST(opens_nothing_outside),
		TEST(refuses_hostile_archives),
		TEST(refuses_what_has_no_kernel),
		TEST(survives_damage),
		TEST(imports_from_a_pipe),
		TEST(a_cancelled_import_leaves_nothing),
	};
	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
