/* SPDX-License-Identifier: Apache-2.0 */
/* Catalogs: what there is to pull by name. */
#include <string.h>
#include <banger/methods.h>
#include "ctl.h"
#include "text.h"

#define OLD_S 600 /* what is older comes from a server that is away */

/* The names under which something is held, as one text; the caller frees. */
static char *held_text(struct json_object *entry)
{
	char *text = NULL;
	size_t size = 0;
	FILE *f = open_memstream(&text, &size);

	if (!f)
		return NULL;
	for (size_t i = 0; i < ctl_json_count(entry, "held"); i++)
		fprintf(f, "%s%s", i ? "," : "",
			json_object_get_string(ctl_json_at(entry, "held", i)));
	if (fclose(f) != 0) {
		free(text);
		return NULL;
	}
	return text;
}

static int add_entry(struct listing *l, const char *kind, struct json_object *entry)
{
	_cleanup_free_ char *held = held_text(entry), *more = NULL;
	const char *kernel = banger_json_str(entry, "kernel"),
		   *version = banger_json_str(entry, "version");
	const char *about = banger_json_str(entry, "description");
	char size[TEXT_SIZE_LEN];

	if (!held || asprintf(&more, "%s%s%s%s", kernel ? "kernel " : "", kernel ?: version ?: "",
			     (kernel || version) && about ? "; " : "", about ?: "") < 0)
		return -ENOMEM;
	return LISTING_ADD(l, banger_json_str(entry, "name"), kind, banger_json_str(entry, "arch"),
		text_size(banger_json_int(entry, "size", 0), size), held[0] ? held : NULL,
		more[0] ? more : NULL);
}

/* One that an earlier catalog hides is not to be had; say so instead. */
static int add_entries(const struct ctl *c, struct listing *l, const char *kind,
	struct json_object *result, const char *key)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < ctl_json_count(result, key); i++) {
		struct json_object *entry = ctl_json_at(result, key, i);
		const char *by = banger_json_str(entry, "shadowed_by");

		if (!by)
			r = add_entry(l, kind, entry);
		else if (c->notices)
			ctl_say("%s \"%s\" for %s of %s is hidden by that of %s, which stands "
				"first",
				kind, banger_json_str(entry, "name"),
				banger_json_str(entry, "arch"), banger_json_str(entry, "catalog"),
				by);
	}
	return r;
}

/* What is wrong with catalogs. Returns the exit status. */
static int say_sources(const struct ctl *c, struct json_object *result)
{
	int status = CTL_DONE;

	for (size_t i = 0; i < ctl_json_count(result, "catalogs"); i++) {
		struct json_object *s = ctl_json_at(result, "catalogs", i);
		int64_t age_s = banger_json_int(s, "age_s", 0);
		char age[TEXT_DURATION_LEN];

		if (!banger_json_bool(s, "ok", false)) {
			ctl_say("%s", banger_json_str(s, "error") ?: "a catalog cannot be read");
			status = CTL_FAILED;
		} else if (age_s > OLD_S && !banger_json_str(s, "digest") && c->notices) {
			ctl_say("%s: its server is away; this is from %s ago",
				banger_json_str(s, "location"),
				text_duration(age_s * 1000000, age));
		}
	}
	if (ctl_json_count(result, "catalogs") == 0 && c->notices)
		ctl_say("no catalogs are configured (\"catalogs\" in the configuration)");
	return status;
}

static int print_entries(const struct ctl *c, struct json_object *result, struct banger_error *err)
{
	static const struct listing_column columns[] = {
		{"NAME"}, {"KIND"}, {"ARCH"}, {"SIZE", true}, {"HELD"}, {"DESCRIPTION"}};
	_cleanup_listing_ struct listing *l = NULL;
	int r = listing_new(columns, ELEMENTSOF(columns), &l);

	if (r == 0)
		r = add_entries(c, l, "bundle", result, "bundles");
	if (r == 0)
		r = add_entries(c, l, "kernel", result, "kernels");
	if (r < 0)
		return banger_error_oom(err);
	listing_sort(l, 0, 1);
	for (size_t i = 0; c->quiet && i < listing_rows(l); i++)
		puts(listing_cell(l, i, 0));
	if (!c->quiet)
		listing_print(l, stdout, c->terminal);
	return 0;
}

static int do_ls(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = NULL, *result = NULL;
	const struct ctl_work work = {.what = "reading catalogs"};
	int r = ctl_params(&params, err, "name", in->n_args ? in->args[0] : NULL, NULL);

	if (r == 0 && cli_given(in, "refresh") && banger_json_add_bool(params, "refresh", true) < 0)
		r = banger_error_oom(err);
	if (r == 0)
		r = ctl_call_long(c, &work, BANGER_METHOD_CATALOG_LS, TAKE_PTR(params), NULL, 0,
			&result, err);
	if (r == 0)
		r = c->json ? ctl_print_json(c, result, err) : print_entries(c, result, err);
	return r < 0 ? r : say_sources(c, result);
}

/* clang-format off */
const struct cli_command cmd_catalog_commands[] = {
	{
		.name = "ls",
		.help = "List the bundles and kernels of the catalogs",
		.about = "\"banger-ctl image pull NAME\" pulls a bundle, \"banger-ctl kernel pull NAME\" a "
			"kernel. HELD says under which names they are here already. A catalog of a "
			"server is read again after ten minutes; while its server is away, what was "
			"read last is used.\n\nExits with 1 if one of the catalogs cannot be read.",
		.arguments = CLI_ARGUMENTS(
			{"NAME", "Only what has this name", .optional = true}),
		.options = CLI_OPTIONS(
			{"refresh", 0, CLI_FLAG, NULL, "Ask the servers now"}),
		.examples = CLI_EXAMPLES(
			{"banger-ctl catalog ls", "everything, as a table"},
			{"banger-ctl catalog ls debian --json", "digests and locations too"}),
		.handler = do_ls,
	},
	{NULL},
};
/* clang-format on */
