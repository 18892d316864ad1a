/* SPDX-License-Identifier: Apache-2.0 */
/* Operations: ls, show, log, cancel. */
#include <pwd.h>
#include <string.h>
#include <banger/log.h>
#include <banger/methods.h>
#include "ctl.h"
#include "text.h"

/* ---- ls */

/* "failed: exists", "completed" */
static const char *outcome_of(struct json_object *op, char buf[64])
{
	const char *outcome = banger_json_str(op, "outcome"), *code = banger_json_str(op, "code");

	snprintf(buf, 64, "%s%s%s", outcome ? outcome : "?", code ? ": " : "", code ? code : "");
	return buf;
}

static const char *elapsed_of(struct json_object *op, char buf[TEXT_DURATION_LEN])
{
	struct json_object *ms = banger_json_get(op, "elapsed_ms");

	return ms ? text_duration((int64_t)(json_object_get_double(ms) * 1000), buf) : "";
}

/* "root cp[123]"; "VM web", whose server's process here says little. */
static const char *actor_of(struct json_object *op, char *buf, size_t size)
{
	struct json_object *actor = banger_json_get(op, "actor");
	int64_t uid = banger_json_int(actor, "uid", -1), pid = banger_json_int(actor, "pid", 0);
	const char *program = banger_json_str(actor, "program"), *vm = banger_json_str(actor, "vm");
	struct passwd *pw = uid >= 0 && uid < UINT32_MAX ? getpwuid((uid_t)uid) : NULL;
	int n = pw ? snprintf(buf, size, "%s", pw->pw_name)
		   : snprintf(buf, size, "%lld", (long long)uid);

	if (vm && *vm)
		snprintf(buf, size, "VM %s", vm);
	else if (program && *program && n > 0 && (size_t)n < size)
		snprintf(buf + n, size - (size_t)n, " %.32s[%lld]", program, (long long)pid);
	return buf;
}

static int add_operation(struct listing *l, struct json_object *op)
{
	char outcome[64], age[TEXT_AGE_LEN] = "", took[TEXT_DURATION_LEN], actor[128];
	int64_t started = ctl_json_time(op, "started");

	if (started)
		text_age(started, banger_now_us(), age);
	return LISTING_ADD(l, banger_json_str(op, "op_id"), banger_json_str(op, "method"),
		outcome_of(op, outcome), age, elapsed_of(op, took),
		actor_of(op, actor, sizeof(actor)), banger_json_str(op, "params"));
}

static int print_operations(
	const struct ctl *c, struct json_object *result, struct banger_error *err)
{
	static const struct listing_column columns[] = {
		{"OP_ID"}, {"METHOD"}, {"OUTCOME"}, {"STARTED"}, {"TOOK", true}, {"BY"}, {"WHAT"}};
	_cleanup_listing_ struct listing *l = NULL;
	int r = listing_new(columns, ELEMENTSOF(columns), &l);

	for (size_t i = 0; r == 0 && i < ctl_json_count(result, "ops"); i++)
		r = add_operation(l, ctl_json_at(result, "ops", i));
	if (r < 0)
		return banger_error_oom(err);
	for (size_t i = 0; c->quiet && i < listing_rows(l); i++)
		puts(listing_cell(l, i, 0));
	if (!c->quiet)
		listing_print(l, stdout, c->terminal);
	return 0;
}

/* --user root, --user 1000 */
static int add_user(
	struct ctl *c, struct json_object *params, const char *user, struct banger_error *err)
{
	struct passwd *pw = getpwnam(user);
	char *end = NULL;
	long long uid = pw ? (long long)pw->pw_uid : strtoll(user, &end, 10);

	if (!pw && (end == user || *end || uid < 0 || uid > UINT32_MAX))
		return ctl_usage(c, err, "there is no user \"%s\"", user);
	return banger_json_add_int(params, "uid", uid) < 0 ? banger_error_oom(err) : 0;
}

static int do_ls(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = json_object_new_object(), *result = NULL;
	int r = params ? 0 : -ENOMEM;

	if (r == 0)
		r = banger_json_add_int(params, "limit", cli_number(in, "limit", 20));
	if (r == 0 && cli_given(in, "failed"))
		r = banger_json_add_bool(params, "failed", true);
	if (r < 0)
		return banger_error_oom(err);
	if (cli_given(in, "user"))
		r = add_user(c, params, cli_text(in, "user"), err);
	if (r == 0)
		r = ctl_call(c, BANGER_METHOD_OP_LS, TAKE_PTR(params), &result, err);
	if (r < 0)
		return r;
	return c->json ? ctl_print_json(c, result, err) : print_operations(c, result, err);
}

/* ---- show */

/* "unpacking, 120MiB of 480MiB fetched, 12345 files" */
static int add_progress(struct listing *l, struct json_object *p)
{
	char fetched[TEXT_SIZE_LEN], total[TEXT_SIZE_LEN], files[48] = "";
	const char *phase = banger_json_str(p, "phase");
	int64_t members = banger_json_int(p, "members", 0), bytes = banger_json_int(p, "total", 0);

	if (!phase)
		return 0;
	if (members > 0)
		snprintf(files, sizeof(files), ", %lld files", (long long)members);
	if (bytes <= 0)
		return fields_addf(l, "progress", "%s%s", phase, files);
	return fields_addf(l, "progress", "%s, %s of %s fetched%s", phase,
		text_size(banger_json_int(p, "fetched", 0), fetched), text_size(bytes, total),
		files);
}

static int add_fields(struct listing *l, struct json_object *op)
{
	struct json_object *actor = banger_json_get(op, "actor");
	char outcome[64], when[CTL_WHEN_LEN], took[TEXT_DURATION_LEN], by[128];
	int r = fields_add(l, "op_id", banger_json_str(op, "op_id"));

	if (r == 0)
		r = fields_add(l, "method", banger_json_str(op, "method"));
	if (r == 0)
		r = fields_add(l, "parameters", banger_json_str(op, "params"));
	if (r == 0)
		r = fields_add(l, "outcome", outcome_of(op, outcome));
	if (r == 0)
		r = fields_add(l, "message", banger_json_str(op, "message"));
	if (r == 0)
		r = fields_add(l, "started", ctl_when(ctl_json_time(op, "started"), when));
	if (r == 0)
		r = fields_add(l, "took", elapsed_of(op, took));
	if (r == 0)
		r = add_progress(l, banger_json_get(op, "progress"));
	if (r == 0)
		r = fields_add(l, "by", actor_of(op, by, sizeof(by)));
	if (r == 0)
		r = fields_add(l, "door", banger_json_str(actor, "door"));
	return r;
}

static int do_show(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = NULL, *result = NULL;
	_cleanup_listing_ struct listing *l = NULL;

	int r = ctl_params(&params, err, "op_id", in->args[0], NULL);
	if (r == 0)
		r = ctl_call(c, BANGER_METHOD_OP_SHOW, TAKE_PTR(params), &result, err);
	if (r < 0)
		return r;
	if (c->json)
		return ctl_print_json(c, result, err);
	if (fields_new(&l) < 0 || add_fields(l, banger_json_get(result, "op")) < 0)
		return banger_error_oom(err);
	if (c->quiet)
		puts(listing_rows(l) > 0 ? listing_cell(l, 0, 1) : "");
	else
		listing_print(l, stdout, c->terminal);
	return 0;
}

/* ---- log, cancel */

static int do_log(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = NULL;
	bool follow = cli_given(in, "follow");

	if (in->n_args == 0 && !follow)
		return ctl_usage(c, err, "name an operation, or follow all of them with -f");
	int r = ctl_params(&params, err, "op_id", in->n_args > 0 ? in->args[0] : NULL, NULL);
	if (r == 0 && banger_json_add_bool(params, "follow", follow) < 0)
		r = banger_error_oom(err);
	if (r == 0)
		r = ctl_call(c, BANGER_METHOD_OP_LOG, TAKE_PTR(params), NULL, err);
	if (r == 0)
		r = ctl_follow(c, ctl_print_record, err);
	if (r == 0 && in->n_args == 0) {
		c->unreachable = true;
		return banger_error_set(err, BANGER_UNAVAILABLE,
			"bangerd has ended the stream: it stops, or this end read too slowly");
	}
	return r;
}

/* The request for the cancellation has an op_id of its own, like any other. */
static int do_cancel(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = NULL, *result = NULL;
	_cleanup_free_ char *id = text_clean(in->args[0]);

	int r = ctl_params(&params, err, "op_id", in->args[0], NULL);
	if (r == 0)
		r = ctl_call(c, BANGER_METHOD_OP_CANCEL, TAKE_PTR(params), &result, err);
	if (r < 0)
		return r;
	if (c->json)
		return ctl_print_json(c, result, err);
	if (!c->quiet)
		printf("cancelled %s\n", id ? id : "");
	return 0;
}

#define OP_HELP "An op_id, or a prefix that only one operation has"

/* clang-format off */
const struct cli_command cmd_op_commands[] = {
	{
		.name = "ls",
		.help = "List recent operations, the newest first",
		.options = CLI_OPTIONS(
			{"limit", 'n', CLI_INT, "N", "How many (default: 20)", .min = 1,
				.max = 100000},
			{"failed", 0, CLI_FLAG, NULL, "Only those that failed"},
			{"user", 0, CLI_TEXT, "USER", "Only those of this user (name or number)"}),
		.examples = CLI_EXAMPLES(
			{"banger-ctl op ls --failed -n 5", "what went wrong lately"}),
		.handler = do_ls,
	},
	{
		.name = "show",
		.help = "Show one operation: what, who, when, how it ended",
		.arguments = CLI_ARGUMENTS(
			{"OP_ID", OP_HELP, .words = CLI_OPERATIONS}),
		.examples = CLI_EXAMPLES(
			{"banger-ctl op show op-5b0c7e21d9aa", "the id that an error ends with"}),
		.handler = do_show,
	},
	{
		.name = "log",
		.help = "Show what was logged under an operation",
		.about = "With -f it goes on until the operation ends; without an OP_ID, until "
			"interrupted.",
		.arguments = CLI_ARGUMENTS(
			{"OP_ID", OP_HELP ". With -f it may be left out: all of them",
				.optional = true, .words = CLI_OPERATIONS}),
		.options = CLI_OPTIONS(
			{"follow", 'f', CLI_FLAG, NULL, "Also what is logged from now on"}),
		.examples = CLI_EXAMPLES(
			{"banger-ctl op log op-5b0c7e21d9aa", "its log records"},
			{"banger-ctl op log -f", "those of all operations, as they come"}),
		.handler = do_log,
	},
	{
		.name = "cancel",
		.help = "Cancel an operation that runs",
		.arguments = CLI_ARGUMENTS(
			{"OP_ID", "Its op_id", .words = CLI_OPERATIONS}),
		.examples = CLI_EXAMPLES(
			{"banger-ctl op cancel op-5b0c7e21d9aa",
				"it ends with the code \"cancelled\""}),
		.handler = do_cancel,
		.changes = true,
	},
	{NULL},
};
/* clang-format on */
