/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Images. Each command is one request; "rm" of several images is several operations, each with an
 * op_id of its own, because each has its own record and its own outcome.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <banger/log.h>
#include <banger/methods.h>
#include "cmd_export.h"
#include "cmd_pull.h"
#include "ctl.h"
#include "source.h"
#include "text.h"

static int change(struct ctl *c, const char *did, const char *method, struct json_object *params,
	struct banger_error *err)
{
	_cleanup_json_ struct json_object *result = NULL;

	int r = ctl_call(c, method, params, &result, err);
	return r < 0 ? r : ctl_print_made(c, did, "image", result, err);
}

/* ---- ls */

static const struct listing_column ls_columns[] = {
	{"NAME"}, {"STATE"}, {"SIZE", true}, {"CREATED"}, {"ID"}, {"DIGEST"}};

static int add_image(struct listing *l, struct json_object *image)
{
	char size[TEXT_SIZE_LEN] = "", age[TEXT_AGE_LEN] = "", digest[32] = "";
	int64_t bytes = banger_json_int(image, "size", -1),
		created = ctl_json_time(image, "created");
	const char *whole = banger_json_str(image, "digest");

	if (bytes >= 0)
		text_size(bytes, size);
	if (created)
		text_age(created, banger_now_us(), age);
	if (whole)
		snprintf(digest, sizeof(digest), "%.19s", whole);
	return LISTING_ADD(l, banger_json_str(image, "name"), banger_json_str(image, "state"), size,
		age, banger_json_str(image, "id"), digest);
}

/* One page: its images into the listing, or as JSON text onto the document. */
static int take_page(const struct ctl *c, struct json_object *page, struct listing *l,
	FILE *document, bool *first)
{
	for (size_t i = 0; i < ctl_json_count(page, "images"); i++) {
		struct json_object *image = ctl_json_at(page, "images", i);

		if (!c->json) {
			if (add_image(l, image) < 0)
				return -ENOMEM;
			continue;
		}
		const char *text = json_object_to_json_string_ext(
			image, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
		if (!text || fprintf(document, "%s\n%s", *first ? "" : ",", text) < 0)
			return -ENOMEM;
		*first = false;
	}
	return 0;
}

static int take_pages(struct ctl *c, const char *state, struct listing *l, FILE *document,
	struct banger_error *err)
{
	_cleanup_free_ char *after = NULL;
	bool first = true;

	for (;;) {
		_cleanup_json_ struct json_object *params = NULL, *page = NULL;

		int r = ctl_params(&params, err, "state", state, "after", after, NULL);
		if (r == 0)
			r = ctl_call(c, BANGER_METHOD_IMAGE_LS, TAKE_PTR(params), &page, err);
		if (r < 0)
			return r;
		if (take_page(c, page, l, document, &first) < 0)
			return banger_error_oom(err);
		const char *next = banger_json_str(page, "next");
		if (!next)
			return 0;
		/* A daemon that gives the same page for ever is not followed for ever. */
		if (after && strcmp(next, after) <= 0)
			return banger_error_set(
				err, BANGER_INTERNAL, "bangerd's pages of images do not go on");
		free(after);
		after = strdup(next);
		if (!after)
			return banger_error_oom(err);
	}
}

static void print_names(const struct listing *l)
{
	for (size_t i = 0; i < listing_rows(l); i++)
		puts(listing_cell(l, i, 0));
}

/* A hundred thousand images are kept as text, not as a tree of objects. */
static int print_document(struct ctl *c, const char *state, struct banger_error *err)
{
	_cleanup_free_ char *text = NULL, *safe = NULL;
	size_t size = 0;
	_cleanup_fclose_ FILE *f = open_memstream(&text, &size);

	if (!f)
		return banger_error_oom(err);
	int r = take_pages(c, state, NULL, f, err);
	if (r < 0)
		return r;
	if (fflush(f) != 0 || !(safe = text_clean_json(text)))
		return banger_error_oom(err);
	printf("{\"images\":[%s%s]}\n", safe, size > 0 ? "\n" : "");
	return 0;
}

static int do_ls(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_listing_ struct listing *l = NULL;
	bool drafts = cli_given(in, "drafts"), published = cli_given(in, "published");
	const char *state = drafts == published ? NULL : drafts ? "draft" : "published";

	if (c->json)
		return print_document(c, state, err);
	if (listing_new(ls_columns, ELEMENTSOF(ls_columns), &l) < 0)
		return banger_error_oom(err);
	int r = take_pages(c, state, l, NULL, err);
	if (r < 0)
		return r;
	listing_sort(l, 0, 1);
	if (c->quiet)
		print_names(l);
	else
		listing_print(l, stdout, c->terminal);
	if (listing_rows(l) == 0 && c->notices)
		ctl_say("nothing here yet; \"banger-ctl image import --help\" says how images come "
			"in");
	return 0;
}

/* ---- show */

/* A list of words as somebody would type them. */
static int add_words(
	struct listing *l, const char *label, struct json_object *config, const char *key)
{
	_cleanup_free_ char *text = NULL;
	size_t size = 0;
	_cleanup_fclose_ FILE *f = open_memstream(&text, &size);

	if (!f)
		return -ENOMEM;
	for (size_t i = 0; i < ctl_json_count(config, key); i++) {
		const char *word = json_object_get_string(ctl_json_at(config, key, i));
		bool quoted = word && strpbrk(word, " \t\"'");

		fprintf(f, "%s%s%s%s", i ? " " : "", quoted ? "\"" : "", word ? word : "",
			quoted ? "\"" : "");
	}
	return fflush(f) == 0 ? fields_add(l, label, text) : -ENOMEM;
}

static int add_config(struct listing *l, struct json_object *config)
{
	int r = add_words(l, "entrypoint", config, "entrypoint");

	if (r == 0)
		r = add_words(l, "command", config, "cmd");
	if (r == 0)
		r = add_words(l, "environment", config, "env");
	if (r == 0)
		r = fields_add(l, "user", banger_json_str(config, "user"));
	if (r == 0)
		r = fields_add(l, "working dir", banger_json_str(config, "working_dir"));
	if (r == 0)
		r = add_words(l, "ports", config, "exposed_ports");
	if (r == 0)
		r = add_words(l, "volumes", config, "volumes");
	if (r == 0)
		r = fields_add(l, "stop signal", banger_json_str(config, "stop_signal"));
	struct json_object *labels = banger_json_get(config, "labels");
	if (r < 0 || !json_object_is_type(labels, json_type_object))
		return r;
	json_object_object_foreach (labels, key, value) {
		r = fields_addf(l, "label", "%s=%s", key, json_object_get_string(value));
		if (r < 0)
			break;
	}
	return r;
}

static int add_fields(struct listing *l, struct json_object *image)
{
	static const char *const texts[] = {
		"name", "id", "state", "digest", "source", "kernel", "op_id"};
	char size[TEXT_SIZE_LEN], when[CTL_WHEN_LEN], buf[32];
	int64_t bytes = banger_json_int(image, "size", -1);
	int r = 0;

	for (size_t i = 0; r == 0 && i < ELEMENTSOF(texts); i++)
		r = fields_add(l, texts[i], ctl_json_text(image, texts[i], buf));
	if (r == 0 && bytes >= 0)
		r = fields_addf(
			l, "size", "%s (%lld bytes)", text_size(bytes, size), (long long)bytes);
	if (r == 0)
		r = fields_add(l, "created", ctl_when(ctl_json_time(image, "created"), when));
	if (r == 0)
		r = fields_add(l, "published", ctl_when(ctl_json_time(image, "published"), when));
	if (r == 0)
		r = fields_add(l, "generation", ctl_json_text(image, "generation", buf));
	return r < 0 ? r : add_config(l, banger_json_get(image, "config"));
}

static int do_show(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = NULL, *result = NULL;
	_cleanup_listing_ struct listing *l = NULL;

	int r = ctl_params(&params, err, "image", in->args[0], NULL);
	if (r == 0)
		r = ctl_call(c, BANGER_METHOD_IMAGE_SHOW, TAKE_PTR(params), &result, err);
	if (r < 0)
		return r;
	if (c->json || c->quiet)
		return ctl_print_made(c, "", "image", result, err);
	if (fields_new(&l) < 0 || add_fields(l, banger_json_get(result, "image")) < 0)
		return banger_error_oom(err);
	listing_print(l, stdout, c->terminal);
	return ctl_print_files(c, result, err);
}

/* ---- changes */

static int do_register(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = NULL;

	int r = ctl_params(
		&params, err, "name", in->args[0], "source", cli_text(in, "source"), NULL);
	return r < 0 ? r
		     : change(c, "registered", BANGER_METHOD_IMAGE_REGISTER, TAKE_PTR(params), err);
}

static int do_promote(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = NULL, *result = NULL;
	_cleanup_free_ char *what = NULL;
	struct ctl_work work = {0};

	int r = ctl_params(&params, err, "draft", in->args[0], "name",
		in->n_args > 1 ? in->args[1] : NULL, NULL);
	if (r < 0)
		return r;
	if (asprintf(&what, "publishing %s", in->args[0]) < 0)
		return banger_error_oom(err);
	work.what = what;
	r = ctl_call_long(
		c, &work, BANGER_METHOD_IMAGE_PROMOTE, TAKE_PTR(params), NULL, 0, &result, err);
	return r < 0 ? r : ctl_print_made(c, "published", "image", result, err);
}

static int do_rename(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = NULL;

	int r = ctl_params(&params, err, "image", in->args[0], "name", in->args[1], NULL);
	return r < 0 ? r : change(c, "renamed", BANGER_METHOD_IMAGE_RENAME, TAKE_PTR(params), err);
}

static int do_swap(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = NULL, *result = NULL;

	int r = ctl_params(&params, err, "a", in->args[0], "b", in->args[1], NULL);
	if (r == 0)
		r = ctl_call(c, BANGER_METHOD_IMAGE_SWAP, TAKE_PTR(params), &result, err);
	if (r < 0)
		return r;
	if (c->json)
		return ctl_print_json(c, result, err);
	for (size_t i = 0; i < ctl_json_count(result, "images") && !c->quiet; i++) {
		struct json_object *image = ctl_json_at(result, "images", i);
		_cleanup_free_ char *name = text_clean(banger_json_str(image, "name"));
		_cleanup_free_ char *id = text_clean(banger_json_str(image, "id"));

		printf("swapped %s %s\n", name ? name : "?", id ? id : "?");
	}
	return 0;
}

static int remove_one(
	struct ctl *c, const char *word, struct json_object *all, struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = NULL, *result = NULL;

	int r = ctl_params(&params, err, "image", word, NULL);
	if (r == 0)
		r = ctl_call(c, BANGER_METHOD_IMAGE_DELETE, TAKE_PTR(params), &result, err);
	if (r < 0)
		return r;
	struct json_object *image = banger_json_get(result, "image");
	if (c->json)
		return json_object_array_add(all, json_object_get(image)) < 0
			       ? banger_error_oom(err)
			       : 0;
	_cleanup_free_ char *name = text_clean(banger_json_str(image, "name"));
	_cleanup_free_ char *id = text_clean(banger_json_str(image, "id"));
	if (!c->quiet)
		printf("deleted %s %s\n", name ? name : "?", id ? id : "?");
	return 0;
}

static int do_rm(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_json_ struct json_object *document = json_object_new_object(),
					  *all = json_object_new_array();
	int status = 0;

	if (!document || !all)
		return banger_error_oom(err);
	for (size_t i = 0; i < in->n_args; i++) {
		_cleanup_op_ banger_op_id saved =
			banger_op_enter(i == 0 ? banger_op_current() : banger_op_id_mint().s);
		struct banger_error why = {0};

		int r = remove_one(c, in->args[i], all, &why);
		if (r < 0 && (c->unreachable || in->n_args == 1)) {
			*err = why;
			return r;
		}
		if (r < 0) {
			ctl_say_error(&why);
			status = CTL_FAILED;
		}
	}
	if (!c->json)
		return status;
	if (banger_json_add(document, "images", TAKE_PTR(all)) < 0)
		return banger_error_oom(err);
	int r = ctl_print_json(c, document, err);
	return r < 0 ? r : status;
}

static int do_import(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = NULL, *result = NULL;
	const char *name = cli_text(in, "name"), *format = cli_text(in, "format");
	struct source source;

	int r = ctl_connect(c, err);
	if (r == 0)
		r = source_open(
			c, in->args[0], true, cli_given(in, "one-file-system"), &source, err);
	if (r < 0)
		return r;
	if (source.tree && format && strcmp(format, "raw") == 0)
		r = ctl_usage(c, err, "%s is a directory, not a raw image", in->args[0]);
	if (source.tree)
		format = "tar";
	if (r == 0)
		r = ctl_params(
			&params, err, "name", name, "format", format ? format : "auto", NULL);
	if (r == 0 && cli_given(in, "size") &&
		banger_json_add_int(params, "size", cli_number(in, "size", 0)) < 0)
		r = banger_error_oom(err);
	if (r == 0)
		r = source_import(c, &source, name, BANGER_METHOD_IMAGE_IMPORT, TAKE_PTR(params),
			&result, err);
	else
		source_done(&source);
	return r < 0 ? r : ctl_print_made(c, "imported", "image", result, err);
}

/* ---- verify */

static int do_verify(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = NULL, *result = NULL;
	_cleanup_listing_ struct listing *l = NULL;
	_cleanup_free_ char *what = NULL;
	struct ctl_work work = {0};

	int r = ctl_params(&params, err, "image", in->args[0], NULL);
	if (r < 0)
		return r;
	if (asprintf(&what, "verifying %s", in->args[0]) < 0)
		return banger_error_oom(err);
	work.what = what;
	r = ctl_call_long(
		c, &work, BANGER_METHOD_IMAGE_VERIFY, TAKE_PTR(params), NULL, 0, &result, err);
	if (r < 0)
		return r;
	int status = banger_json_bool(result, "ok", false) ? CTL_DONE : CTL_FAILED;
	if (c->json)
		r = ctl_print_json(c, result, err);
	if (r < 0 || c->json || c->quiet)
		return r < 0 ? r : status;
	bool digest_ok = banger_json_bool(result, "digest_ok", false);
	r = fields_new(&l);
	if (r == 0)
		r = fields_add(
			l, "image", banger_json_str(banger_json_get(result, "image"), "name"));
	if (r == 0)
		r = fields_addf(l, "digest", "%s, %s", banger_json_str(result, "digest") ?: "none",
			digest_ok ? "as published" : "NOT the published one");
	if (r == 0)
		r = fields_add(l, "filesystem", banger_json_str(result, "fsck"));
	if (r == 0)
		r = fields_add(l, "verdict", status == CTL_DONE ? "sound" : "NOT sound");
	if (r < 0)
		return banger_error_oom(err);
	listing_print(l, stdout, c->terminal);
	return status;
}

/* ---- configure */

static int read_document(
	struct ctl *c, const char *path, struct json_object **ret, struct banger_error *err)
{
	bool is_stdin = !path || strcmp(path, "-") == 0;
	_cleanup_fclose_ FILE *f = NULL;
	_cleanup_free_ char *text = malloc(BANGER_WIRE_LINE_MAX);

	if (!text)
		return banger_error_oom(err);
	if (is_stdin && isatty(STDIN_FILENO))
		return ctl_usage(c, err,
			"the document is read from standard input, which is a terminal; name a "
			"FILE");
	f = is_stdin ? fdopen(fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3), "r") : fopen(path, "re");
	size_t n = f ? fread(text, 1, BANGER_WIRE_LINE_MAX, f) : 0;
	if (!f || ferror(f))
		return banger_error_set_errno(
			err, errno, "cannot read %s", is_stdin ? "standard input" : path);
	if (n == BANGER_WIRE_LINE_MAX)
		return banger_error_set(err, BANGER_TOO_LARGE, "%s is over 1 MiB",
			is_stdin ? "standard input" : path);
	int r = banger_json_parse(text, n, ret, err);
	if (r < 0)
		banger_error_prefix(err, "%s", is_stdin ? "standard input" : path);
	return r;
}

static int do_configure(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = NULL, *document = NULL;

	int r = read_document(c, in->n_args > 1 ? in->args[1] : NULL, &document, err);
	if (r == 0)
		r = ctl_params(&params, err, "image", in->args[0], NULL);
	if (r < 0)
		return r;
	if (banger_json_add(params, "document", TAKE_PTR(document)) < 0)
		return banger_error_oom(err);
	return change(c, "configured", BANGER_METHOD_IMAGE_CONFIGURE, TAKE_PTR(params), err);
}

/* ---- table */

static const char *const formats[] = {"auto", "raw", "tar", "bundle", "qcow2", NULL};

#define IMAGE_HELP "An image or a draft: name, id, or a prefix of one"

/* clang-format off */
const struct cli_command cmd_image_commands[] = {
	{
		.name = "ls",
		.help = "List images and drafts",
		.options = CLI_OPTIONS(
			{"drafts", 0, CLI_FLAG, NULL, "Drafts only"},
			{"published", 0, CLI_FLAG, NULL, "Published images only"}),
		.examples = CLI_EXAMPLES(
			{"banger-ctl image ls", "all of them, as a table"},
			{"banger-ctl image ls --drafts --quiet",
				"the names of the drafts, one a line"}),
		.handler = do_ls,
	},
	{
		.name = "show",
		.help = "Show everything about one image",
		.arguments = CLI_ARGUMENTS(
			{"IMAGE", IMAGE_HELP, .words = CLI_IMAGES}),
		.examples = CLI_EXAMPLES(
			{"banger-ctl image show web", "its fields and files"},
			{"banger-ctl image show drafts/web",
				"the draft, where an image has the same name"}),
		.handler = do_show,
	},
	{
		.name = "register",
		.help = "Register a new draft, an empty image to be put together",
		.about = "The same as mkdir drafts/NAME in the mounted registry.",
		.arguments = CLI_ARGUMENTS(
			{"NAME", "The name of the new draft"}),
		.options = CLI_OPTIONS(
			{"source", 0, CLI_TEXT, "TEXT", "Where it comes from, for people"}),
		.examples = CLI_EXAMPLES(
			{"banger-ctl image register web", "makes drafts/web"}),
		.handler = do_register,
		.changes = true,
	},
	{
		.name = "promote",
		.help = "Publish a draft: it becomes an image that never changes",
		.about = "The same as mv drafts/DRAFT images/NAME in the mounted registry.",
		.arguments = CLI_ARGUMENTS(
			{"DRAFT", "A draft: name, id, or a prefix of one", .words = CLI_DRAFTS},
			{"NAME", "The image's name; the draft's own if left out", .optional = true}),
		.examples = CLI_EXAMPLES(
			{"banger-ctl image promote web", "drafts/web becomes images/web"},
			{"banger-ctl image promote web web-2", "drafts/web becomes images/web-2"}),
		.handler = do_promote,
		.changes = true,
	},
	{
		.name = "rename",
		.help = "Give an image or a draft another name",
		.arguments = CLI_ARGUMENTS(
			{"IMAGE", IMAGE_HELP, .words = CLI_IMAGES},
			{"NAME", "Its new name"}),
		.examples = CLI_EXAMPLES(
			{"banger-ctl image rename web web-old",
				"images/web becomes images/web-old"}),
		.handler = do_rename,
		.changes = true,
	},
	{
		.name = "swap",
		.help = "Exchange the names of two images, or of two drafts",
		.about = "It is one step: at no moment is one of the names without an image.",
		.arguments = CLI_ARGUMENTS(
			{"A", IMAGE_HELP, .words = CLI_IMAGES},
			{"B", "The other one, in the same state", .words = CLI_IMAGES}),
		.examples = CLI_EXAMPLES(
			{"banger-ctl image swap web web-v2",
				"puts web-v2 in service, keeps the old one"}),
		.handler = do_swap,
		.changes = true,
	},
	{
		.name = "rm",
		.help = "Delete images or drafts",
		.about = "Files that are open stay readable. An image that a VM uses is not "
			"deleted. With several images the others are deleted even if one cannot "
			"be; the exit status is then 1.",
		.arguments = CLI_ARGUMENTS(
			{"IMAGE", IMAGE_HELP, .many = true, .words = CLI_IMAGES}),
		.examples = CLI_EXAMPLES(
			{"banger-ctl image rm web-old", "deletes one"},
			{"banger-ctl image rm drafts/a drafts/b", "deletes two drafts"}),
		.handler = do_rm,
		.changes = true,
	},
	{
		.name = "pull",
		.help = "Pull an image from a registry or a catalog and publish it",
		.about = "SOURCE is an image reference as Docker and Podman have it "
			"(HOST/PATH:TAG, HOST/PATH@DIGEST; without a host it is docker.io), an "
			"image layout on the daemon's disk (oci:DIR[:TAG]), or the name of a "
			"bundle in a configured catalog. Its layers become a bootable ext4 "
			"filesystem.\n\nA terminal sees a line for each layer, a pipe a line "
			"when something has happened. Ctrl-C cancels; what was fetched is kept "
			"for the next attempt. With --detach the pull goes on by itself and its "
			"op_id is printed: \"banger-ctl op\" and ops/OP_ID in the tree show how "
			"far it has come.",
		.arguments = CLI_ARGUMENTS({"SOURCE", "What to pull"}),
		.options = CLI_OPTIONS(
			{"name", 'n', CLI_TEXT, "NAME",
				"The new image's name (default: the last part of SOURCE's)"},
			{"platform", 0, CLI_TEXT, "OS/ARCH",
				"Of an image for several platforms (default: this machine's)"},
			{"kernel", 0, CLI_TEXT, "KERNEL",
				"The kernel that it shall boot with (default: the bundle's, or "
				"the configured one)", .words = CLI_KERNELS},
			{"detach", 'd', CLI_FLAG, NULL,
				"Print the op_id and leave the pull to itself"}),
		.examples = CLI_EXAMPLES(
			{"banger-ctl image pull docker.io/library/debian:12 --name debian",
				"from a registry"},
			{"banger-ctl image pull oci:build/web:latest", "a layout, as web"},
			{"banger-ctl image pull 127.0.0.1:5000/app@sha256:… --platform linux/arm64",
				"one manifest of an index"}),
		.handler = do_pull,
		.changes = true,
	},
	{
		.name = "import",
		.help = "Import a root filesystem and publish it",
		.about = "Takes a raw ext4 image, a tarball (plain, gzip, zstd, xz), a bundle that "
			"\"image export\" made, a qcow2 image of such a filesystem (by qemu-img; not "
			"one that builds upon another file), or a directory tree, which arrives with its "
			"owners, modes, times, links, extended attributes and holes. \"-\" reads any "
			"of the files from standard input.",
		.arguments = CLI_ARGUMENTS(
			{"FILE|DIR|-", "What to import", .words = CLI_FILES}),
		.options = CLI_OPTIONS(
			{"name", 'n', CLI_TEXT, "NAME", "The new image's name", .required = true},
			{"format", 0, CLI_CHOICE, "FORMAT",
				"raw (ext4), tar, bundle, qcow2, or auto: found by looking at it "
				"(default; a bundle that other programs made must be named)",
				.choices = formats},
			{"size", 0, CLI_SIZE, "SIZE",
				"Size of the filesystem made of a tarball or a tree (default: as "
				"it needs)", .min = 1},
			{"one-file-system", 'x', CLI_FLAG, NULL,
				"Of a tree: leave out what is mounted inside it"}),
		.examples = CLI_EXAMPLES(
			{"banger-ctl image import disk.img --name web", "a raw ext4 image"},
			{"mmdebstrap bookworm - | banger-ctl image import - --name debian",
				"a tarball as it is made"},
			{"banger-ctl image import / --name myself -x",
				"this machine, without what is mounted on it"}),
		.handler = do_import,
		.changes = true,
	},
	{
		.name = "export",
		.help = "Write an image to a file, as a bundle",
		.about = "A bundle is a tar archive compressed with zstd: bundle.json, which says what "
			"it is and has the digests, then the image's files, holes left out. The same "
			"image gives the same bytes everywhere. \"image import\" takes it, and so do "
			"catalogs, with the size and digest that are printed. The file appears when all "
			"of it is there.",
		.arguments = CLI_ARGUMENTS(
			{"IMAGE", IMAGE_HELP, .words = CLI_PUBLISHED},
			{"FILE|-", "Where to; \"-\" is standard output", .words = CLI_FILES}),
		.examples = CLI_EXAMPLES(
			{"banger-ctl image export web web.tar.zst", "a bundle in a file"},
			{"banger-ctl image export web - | ssh host banger-ctl image import - --name web",
				"to another host"}),
		.handler = do_export,
	},
	{
		.name = "prune",
		.help = "Free what the cache of pulls holds",
		.about = "Pulls keep the layers that they fetched and, where the disk can clone, what they "
			"unpacked, so that the next one need not do it again. What was used least recently "
			"goes first, until the rest fits into the configured limit (\"cache_max\") or that "
			"of --max. Images are not touched.",
		.options = CLI_OPTIONS(
			{"all", 'a', CLI_FLAG, NULL, "All that is not in use"},
			{"max", 0, CLI_SIZE, "SIZE", "So much may stay"},
			{"dry-run", 0, CLI_FLAG, NULL, "Only say what would go"}),
		.examples = CLI_EXAMPLES(
			{"banger-ctl image prune --dry-run --all", "how much there is"},
			{"banger-ctl image prune --max 5G", "keep the latest 5 GiB"}),
		.handler = do_prune,
		.changes = true,
	},
	{
		.name = "verify",
		.help = "Check an image against its digest, and its filesystem",
		.about = "Reads all of it. Exits with 1 if it is not what was published, or if "
			"e2fsck finds fault with it.",
		.arguments = CLI_ARGUMENTS(
			{"IMAGE", IMAGE_HELP, .words = CLI_PUBLISHED}),
		.examples = CLI_EXAMPLES(
			{"banger-ctl image verify web", "digest and filesystem"}),
		.handler = do_verify,
	},
	{
		.name = "configure",
		.help = "Set a draft's kernel, command, user, labels and so on",
		.about = "Takes a JSON document such as image.json, with any of kernel, "
			"entrypoint, cmd, env, user, working_dir, labels, exposed_ports, "
			"volumes and stop_signal. The same as writing "
			"drafts/DRAFT/image.json.",
		.arguments = CLI_ARGUMENTS(
			{"DRAFT", "A draft: name, id, or a prefix of one", .words = CLI_DRAFTS},
			{"FILE|-", "The document; standard input if left out", .optional = true,
				.words = CLI_FILES}),
		.examples = CLI_EXAMPLES(
			{"echo '{\"cmd\":[\"/bin/sh\"]}' | banger-ctl image configure web",
				"what \"vm run\" starts"}),
		.handler = do_configure,
		.changes = true,
	},
	{NULL},
};
/* clang-format on */
