/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels: ls, show, import, rm. */
#include <string.h>
#include <banger/log.h>
#include <banger/methods.h>
#include "ctl.h"
#include "source.h"
#include "text.h"

static int add_kernel(struct listing *l, struct json_object *k)
{
	char size[TEXT_SIZE_LEN], age[TEXT_AGE_LEN] = "";
	int64_t imported = ctl_json_time(k, "imported");

	if (imported)
		text_age(imported, banger_now_us(), age);
	return LISTING_ADD(l, banger_json_str(k, "name"), banger_json_str(k, "version"),
		banger_json_str(k, "arch"), text_size(banger_json_int(k, "size", 0), size),
		banger_json_bool(k, "modules", false) ? "yes" : "no",
		banger_json_bool(k, "initrd", false) ? "yes" : "no", age, banger_json_str(k, "id"));
}

static int print_kernels(const struct ctl *c, struct json_object *result, struct banger_error *err)
{
	static const struct listing_column columns[] = {{"NAME"}, {"VERSION"}, {"ARCH"},
		{"SIZE", true}, {"MODULES"}, {"INITRD"}, {"IMPORTED"}, {"ID"}};
	_cleanup_listing_ struct listing *l = NULL;
	int r = listing_new(columns, ELEMENTSOF(columns), &l);

	for (size_t i = 0; r == 0 && i < ctl_json_count(result, "kernels"); i++)
		r = add_kernel(l, ctl_json_at(result, "kernels", i));
	if (r < 0)
		return banger_error_oom(err);
	listing_sort(l, 0, 0);
	for (size_t i = 0; c->quiet && i < listing_rows(l); i++)
		puts(listing_cell(l, i, 0));
	if (!c->quiet)
		listing_print(l, stdout, c->terminal);
	if (listing_rows(l) == 0 && c->notices)
		ctl_say("no kernels yet; \"banger-ctl kernel import --help\" says how one comes "
			"in");
	return 0;
}

static int do_ls(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_json_ struct json_object *result = NULL;

	int r = ctl_call(c, BANGER_METHOD_KERNEL_LS, NULL, &result, err);
	if (r < 0)
		return r;
	return c->json ? ctl_print_json(c, result, err) : print_kernels(c, result, err);
}

static int add_fields(struct listing *l, struct json_object *k)
{
	static const char *const texts[] = {
		"name", "id", "version", "arch", "modules", "initrd", "source", "op_id"};
	char size[TEXT_SIZE_LEN], when[CTL_WHEN_LEN], buf[32];
	int64_t bytes = banger_json_int(k, "size", 0);
	int r = 0;

	for (size_t i = 0; r == 0 && i < ELEMENTSOF(texts); i++)
		r = fields_add(l, texts[i], ctl_json_text(k, texts[i], buf));
	if (r == 0)
		r = fields_addf(
			l, "size", "%s (%lld bytes)", text_size(bytes, size), (long long)bytes);
	return r < 0 ? r : fields_add(l, "imported", ctl_when(ctl_json_time(k, "imported"), when));
}

static int do_show(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = NULL, *result = NULL;
	_cleanup_listing_ struct listing *l = NULL;

	int r = ctl_params(&params, err, "kernel", in->args[0], NULL);
	if (r == 0)
		r = ctl_call(c, BANGER_METHOD_KERNEL_SHOW, TAKE_PTR(params), &result, err);
	if (r < 0)
		return r;
	if (c->json || c->quiet)
		return ctl_print_made(c, "", "kernel", result, err);
	if (fields_new(&l) < 0 || add_fields(l, banger_json_get(result, "kernel")) < 0)
		return banger_error_oom(err);
	listing_print(l, stdout, c->terminal);
	return ctl_print_files(c, result, err);
}

static int do_import(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = NULL, *result = NULL;
	const char *name = cli_text(in, "name");
	struct source source;

	int r = ctl_connect(c, err);
	if (r == 0)
		r = source_open(c, in->args[0], false, false, &source, err);
	if (r < 0)
		return r;
	r = ctl_params(&params, err, "name", name, "format", source.tree ? "tar" : "auto", NULL);
	if (r == 0)
		r = source_import(c, &source, name, BANGER_METHOD_KERNEL_IMPORT, TAKE_PTR(params),
			&result, err);
	else
		source_done(&source);
	return r < 0 ? r : ctl_print_made(c, "imported", "kernel", result, err);
}

static int do_pull(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = NULL, *result = NULL;
	_cleanup_free_ char *what = NULL;
	int r = ctl_params(&params, err, "kernel", in->args[0], "name", cli_text(in, "name"), NULL);

	if (r < 0)
		return r;
	if (asprintf(&what, "pulling kernel %s", in->args[0]) < 0)
		return banger_error_oom(err);
	const struct ctl_work work = {.what = what};
	r = ctl_call_long(
		c, &work, BANGER_METHOD_KERNEL_PULL, TAKE_PTR(params), NULL, 0, &result, err);
	return r < 0 ? r : ctl_print_made(c, "pulled", "kernel", result, err);
}

static int do_rm(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = NULL, *result = NULL;

	int r = ctl_params(&params, err, "kernel", in->args[0], NULL);
	if (r == 0)
		r = ctl_call(c, BANGER_METHOD_KERNEL_DELETE, TAKE_PTR(params), &result, err);
	if (r < 0 || (c->quiet && !c->json))
		return r;
	return ctl_print_made(c, "deleted", "kernel", result, err);
}

#define KERNEL_HELP "A kernel: name, id, or a prefix of one"

/* clang-format off */
const struct cli_command cmd_kernel_commands[] = {
	{
		.name = "ls",
		.help = "List kernels",
		.examples = CLI_EXAMPLES(
			{"banger-ctl kernel ls", "all of them, as a table"}),
		.handler = do_ls,
	},
	{
		.name = "show",
		.help = "Show everything about one kernel",
		.arguments = CLI_ARGUMENTS(
			{"KERNEL", KERNEL_HELP, .words = CLI_KERNELS}),
		.examples = CLI_EXAMPLES(
			{"banger-ctl kernel show debian", "its fields and files"}),
		.handler = do_show,
	},
	{
		.name = "import",
		.help = "Import a kernel to boot images with",
		.about = "Takes a vmlinuz, a Debian package linux-image-*.deb (the kernel and its "
			"modules), or a directory that holds vmlinuz and lib/modules.",
		.arguments = CLI_ARGUMENTS(
			{"FILE|DIR", "What to import", .words = CLI_FILES}),
		.options = CLI_OPTIONS(
			{"name", 'n', CLI_TEXT, "NAME", "The new kernel's name", .required = true}),
		.examples = CLI_EXAMPLES(
			{"apt-get download linux-image-cloud-amd64",
				"gets the package that names the newest one"},
			{"banger-ctl kernel import linux-image-6.1*_amd64.deb --name debian",
				"the kernel with its modules"}),
		.handler = do_import,
		.changes = true,
	},
	{
		.name = "pull",
		.help = "Pull a kernel from a catalog",
		.about = "\"banger-ctl catalog ls\" lists what there is. It is fetched, compared with the "
			"digest in the catalog, and imported.",
		.arguments = CLI_ARGUMENTS(
			{"NAME", "Its name in the catalog"}),
		.options = CLI_OPTIONS(
			{"name", 'n', CLI_TEXT, "NAME", "The new kernel's name (default: the same)"}),
		.examples = CLI_EXAMPLES(
			{"banger-ctl kernel pull debian-6.1", "the kernel with its modules"}),
		.handler = do_pull,
		.changes = true,
	},
	{
		.name = "rm",
		.help = "Delete a kernel",
		.arguments = CLI_ARGUMENTS(
			{"KERNEL", KERNEL_HELP, .words = CLI_KERNELS}),
		.examples = CLI_EXAMPLES(
			{"banger-ctl kernel rm debian-old", "deletes it"}),
		.handler = do_rm,
		.changes = true,
	},
	{NULL},
};
/* clang-format on */
