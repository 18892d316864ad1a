/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a VM says on its serial console. "logs" hands standard output to the daemon, which writes there itself; "console"
 * is the same with keys, so a terminal is relayed and raw, and one key leaves it.
 */
#include <string.h>
#include <banger/methods.h>
#include "cmd_vm.h"
#include "relay.h"
#include "text.h"
#include "vm_words.h"

static int take_lines(struct ctl *c, const struct cli_invocation *in, int64_t otherwise,
	int64_t *ret, struct banger_error *err)
{
	const char *word = cli_text(in, "tail");

	*ret = otherwise;
	if (word && vm_lines(word, ret) < 0)
		return ctl_usage(
			c, err, "--tail takes a number of lines, or \"all\", not \"%s\"", word);
	return 0;
}

static int make_params(
	const char *vm, int64_t lines, struct json_object **ret, struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = NULL;

	int r = ctl_params(&params, err, "vm", vm, NULL);
	if (r < 0)
		return r;
	if (lines >= 0 && banger_json_add_int(params, "lines", lines) < 0)
		return banger_error_oom(err);
	*ret = TAKE_PTR(params);
	return 0;
}

int do_vm_logs(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = NULL, *result = NULL;
	static const int out[] = {STDOUT_FILENO};
	const struct ctl_work work = {0};
	int64_t lines;

	int r = take_lines(c, in, -1, &lines, err);
	if (r == 0)
		r = make_params(in->args[0], lines, &params, err);
	if (r == 0 && cli_given(in, "follow") && banger_json_add_bool(params, "follow", true) < 0)
		r = banger_error_oom(err);
	return r < 0 ? r
		     : ctl_call_long(c, &work, BANGER_METHOD_VM_LOGS, TAKE_PTR(params), out, 1,
			       &result, err);
}

/* One that does not run says nothing and hears nothing: that is told, and not shown as an end. */
static int check_runs(struct ctl *c, const char *word, char **ret_name, struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = NULL, *result = NULL;

	int r = ctl_params(&params, err, "vm", word, NULL);
	if (r == 0)
		r = ctl_call(c, BANGER_METHOD_VM_SHOW, TAKE_PTR(params), &result, err);
	if (r < 0)
		return r;
	struct json_object *vm = banger_json_get(result, "vm");
	const char *state = banger_json_str(vm, "state");
	_cleanup_free_ char *name = text_clean(banger_json_str(vm, "name"));
	if (!name)
		return banger_error_oom(err);
	if (state && (strcmp(state, "stopped") == 0 || strcmp(state, "failed") == 0 ||
			     strcmp(state, "created") == 0))
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"VM \"%s\" is %s: its console can be had when it runs; \"banger-ctl vm "
			"logs\" "
			"shows what it said",
			name, state);
	*ret_name = TAKE_PTR(name);
	return 0;
}

/* How it is typed: "Ctrl-]", "q". */
static void name_key(int key, char buf[16])
{
	if (key < ' ')
		snprintf(buf, 16, "Ctrl-%c", key + '@');
	else
		snprintf(buf, 16, "%c", key);
}

int do_vm_console(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = NULL, *result = NULL;
	_cleanup_free_ char *name = NULL;
	const char *word = cli_text(in, "escape");
	struct relay relay = {.in = true, .raw = true, .escape = ']' - '@'};
	int64_t lines;
	char key[16];

	if (word && vm_key(word, &relay.escape) < 0)
		return ctl_usage(c, err,
			"--escape takes a key such as ^] or q, or \"none\", not \"%s\"", word);
	int r = take_lines(c, in, 10, &lines, err);
	if (r == 0)
		r = check_runs(c, in->args[0], &name, err);
	if (r == 0)
		r = make_params(in->args[0], lines, &params, err);
	if (r < 0)
		return r;
	bool talks = isatty(STDIN_FILENO) && c->notices;
	name_key(relay.escape, key);
	if (talks)
		ctl_say("console of %s%s%s%s", name, relay.escape >= 0 ? "; " : "",
			relay.escape >= 0 ? key : "", relay.escape >= 0 ? " leaves it" : "");
	r = ctl_call_relayed(c, &relay, BANGER_METHOD_VM_CONSOLE, TAKE_PTR(params), &result, err);
	if (relay.left && r == -ECANCELED)
		r = 0;
	if (r == 0 && talks) {
		fputc('\n', stderr);
		ctl_say(relay.left ? "left the console of %s" : "%s has ended", name);
	}
	return r;
}
