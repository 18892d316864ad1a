/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starting and ending VMs. Several names are several operations, each with an op_id of its own, because each has its own
 * record and its own outcome; what goes wrong with one does not keep the others from theirs.
 */
#include <signal.h>
#include <string.h>
#include <banger/methods.h>
#include "cmd_vm.h"
#include "vm_view.h"
#include "vm_words.h"

/* What is done to each. */
struct deed {
	const char *method, *did; /* did: "stopped" */
	int64_t timeout_ms;       /* 0: not said */
	bool force;
	const char *doing; /* it takes a while, can be cancelled and is watched: "starting" */
};

static int watched(struct ctl *c, const struct deed *d, struct json_object *params,
	struct json_object **ret, struct banger_error *err)
{
	_cleanup_json_ struct json_object *owned = params;
	_cleanup_vm_view_ struct vm_view *view = NULL;

	int r = vm_view_new(c, d->doing, banger_op_current(), c->json, &view, err);
	if (r < 0)
		return r;
	const struct ctl_work work = {.tick = vm_view_tick, .end = vm_view_end, .arg = view};
	return ctl_call_long(c, &work, d->method, TAKE_PTR(owned), NULL, 0, ret, err);
}

static int do_one(struct ctl *c, const struct deed *d, const char *word, struct json_object *all,
	struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = NULL, *result = NULL;

	int r = ctl_params(&params, err, "vm", word, NULL);
	if (r == 0 &&
		((d->timeout_ms && banger_json_add_int(params, "timeout_ms", d->timeout_ms) < 0) ||
			(d->force && banger_json_add_bool(params, "force", true) < 0)))
		r = banger_error_oom(err);
	if (r == 0)
		r = d->doing ? watched(c, d, TAKE_PTR(params), &result, err)
			     : ctl_call(c, d->method, TAKE_PTR(params), &result, err);
	if (r < 0)
		return r;
	if (!c->json)
		return ctl_print_made(c, d->did, "vm", result, err);
	return json_object_array_add(all, json_object_get(banger_json_get(result, "vm"))) < 0
		       ? banger_error_oom(err)
		       : 0;
}

/* All that are named; the status is the worst. */
static int do_each(struct ctl *c, const struct deed *d, const struct cli_invocation *in,
	struct json_object *all, struct banger_error *err)
{
	int status = 0;

	for (size_t i = 0; i < in->n_args; i++) {
		_cleanup_op_ banger_op_id saved =
			banger_op_enter(i == 0 ? banger_op_current() : banger_op_id_mint().s);
		struct banger_error why = {0};

		int r = do_one(c, d, in->args[i], all, &why);
		if (r < 0 && (c->unreachable || c->signal || in->n_args == 1)) {
			*err = why;
			return r;
		}
		if (r < 0) {
			ctl_say_error(&why);
			status = CTL_FAILED;
		}
		fflush(stdout);
	}
	return status;
}

static int do_deed(struct ctl *c, const struct deed *d, const struct cli_invocation *in,
	struct banger_error *err)
{
	_cleanup_json_ struct json_object *document = json_object_new_object(),
					  *all = json_object_new_array();

	if (!document || !all)
		return banger_error_oom(err);
	int status = do_each(c, d, in, all, err);
	if (status < 0 || !c->json)
		return status;
	if (banger_json_add(document, "vms", TAKE_PTR(all)) < 0)
		return banger_error_oom(err);
	int r = ctl_print_json(c, document, err);
	return r < 0 ? r : status;
}

int do_vm_start(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	const struct deed d = {BANGER_METHOD_VM_START, "started", .doing = "starting"};

	return do_deed(c, &d, in, err);
}

int do_vm_stop(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	struct deed d = {BANGER_METHOD_VM_STOP, "stopped"};

	/* 0 is "at once", which the daemon has no word for. */
	if (cli_given(in, "time"))
		d.timeout_ms = cli_number(in, "time", 0) ?: 1;
	return do_deed(c, &d, in, err);
}

int do_vm_kill(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	struct deed d = {BANGER_METHOD_VM_KILL, "killed"};
	const char *word = cli_text(in, "signal");
	int number = SIGKILL;

	if (word && vm_signal(word, &number) < 0)
		return ctl_usage(c, err, "there is no signal \"%s\"", word);
	if (number == SIGTERM || number == SIGPWR)
		d = (struct deed){BANGER_METHOD_VM_STOP, "stopped"};
	else if (number != SIGKILL)
		return ctl_usage(c, err,
			"a VM takes the signals KILL and TERM, not \"%s\"; a program in it is "
			"signalled with \"banger-ctl vm exec VM kill\"",
			word);
	return do_deed(c, &d, in, err);
}

int do_vm_pause(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	const struct deed d = {BANGER_METHOD_VM_PAUSE, "paused"};

	return do_deed(c, &d, in, err);
}

int do_vm_resume(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	const struct deed d = {BANGER_METHOD_VM_RESUME, "resumed"};

	return do_deed(c, &d, in, err);
}

int do_vm_rm(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	const struct deed d = {BANGER_METHOD_VM_RM, "removed", .force = cli_given(in, "force")};

	return do_deed(c, &d, in, err);
}
