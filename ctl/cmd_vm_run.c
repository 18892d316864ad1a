/* SPDX-License-Identifier: Apache-2.0 */
/*
 * VMs made, and programs in them.
 *
 * "run" in the foreground is one request, vm.run: the VM lives as long as our connection, and to hang up is to end it.
 * "run --detach" is a VM of vm.create with a command started in it apart from us, at whose end it powers off; when that
 * cannot be started the VM is removed again. With --rm too it is a VM of vm.run, which nobody holds by a connection.
 *
 * Standard input: a pipe or a file goes to the command always, as with any command; a terminal only with -i, so that
 * what is typed meanwhile stays the shell's.
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <banger/log.h>
#include <banger/methods.h>
#include <banger/model.h>
#include "cmd_vm.h"
#include "relay.h"
#include "text.h"
#include "vm_params.h"
#include "vm_view.h"

/* ---- create */

/* Watch until the VM has a name, or the operation has ended without giving it one. */
static void wait_for_name(struct vm_view *view)
{
	while (vm_view_look(view) == 0 && !*vm_view_name(view) && !vm_view_outcome(view))
		usleep(20000);
}

/* The document of an operation that goes by itself, by op.show or its own .status; or the operation's error. */
static int status_of(struct ctl *c, const char *method, const char *op_id, struct json_object **ret,
	struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = NULL, *result = NULL;
	_cleanup_op_ banger_op_id saved = banger_op_enter(banger_op_id_mint().s);

	int r = ctl_params(&params, err, "op_id", op_id, NULL);
	if (r == 0)
		r = ctl_call(c, method, TAKE_PTR(params), &result, err);
	if (r < 0)
		return r;
	struct json_object *op = banger_json_get(result, "op");
	const char *outcome = banger_json_str(op, "outcome"), *code = banger_json_str(op, "code"),
		   *message = banger_json_str(op, "message");

	if (outcome && strcmp(outcome, "failed") == 0) {
		_cleanup_op_ banger_op_id its = banger_op_enter(op_id);
		return banger_error_set(err, banger_code_from_name(code ? code : ""), "%s",
			message ? message : "it failed");
	}
	*ret = TAKE_PTR(result);
	return 0;
}

static int create_detached(struct ctl *c, struct json_object *params, struct banger_error *err)
{
	_cleanup_json_ struct json_object *owned = params, *result = NULL, *status = NULL;
	_cleanup_vm_view_ struct vm_view *view = NULL;

	int r = ctl_call(c, BANGER_METHOD_VM_CREATE_BEGIN, TAKE_PTR(owned), &result, err);
	if (r < 0)
		return r;
	const char *op_id = banger_json_str(result, "op_id");
	r = vm_view_new(c, "creating", op_id, true, &view, err);
	if (r < 0)
		return r;
	wait_for_name(view);
	r = status_of(c, BANGER_METHOD_VM_CREATE_STATUS, op_id, &status, err);
	if (r < 0)
		return r;
	const char *name = banger_json_str(banger_json_get(status, "vm"), "name");
	name = name ? name : vm_view_name(view);
	if (c->json)
		return banger_json_add_str(result, "name", name) < 0
			       ? banger_error_oom(err)
			       : ctl_print_json(c, result, err);
	puts(name);
	if (c->notices)
		ctl_say("it goes on by itself: \"banger-ctl op log -f %s\" follows it",
			op_id ? op_id : "");
	return 0;
}

/* vm.create with its stages; *ret: its result. */
static int create_watched(struct ctl *c, struct json_object *params, bool quietly,
	struct json_object **ret, struct banger_error *err)
{
	_cleanup_json_ struct json_object *owned = params;
	_cleanup_vm_view_ struct vm_view *view = NULL;

	int r = vm_view_new(c, "creating", banger_op_current(), quietly, &view, err);
	if (r < 0)
		return r;
	const struct ctl_work work = {.tick = vm_view_tick, .end = vm_view_end, .arg = view};
	return ctl_call_long(c, &work, BANGER_METHOD_VM_CREATE, TAKE_PTR(owned), NULL, 0, ret, err);
}

int do_vm_create(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = json_object_new_object(), *result = NULL;

	if (!params)
		return banger_error_oom(err);
	int r = vm_add_machine(params, in->args[0], in, err);
	c->usage = r == -EINVAL;
	if (r == 0 && cli_given(in, "no-start") && banger_json_add_bool(params, "start", false) < 0)
		r = banger_error_oom(err);
	if (r < 0)
		return r;
	if (cli_given(in, "detach"))
		return create_detached(c, TAKE_PTR(params), err);
	r = create_watched(c, TAKE_PTR(params), false, &result, err);
	if (r < 0)
		return r;
	/* After lines of progress it is one more line. */
	return c->json ? ctl_print_line(result, err)
		       : ctl_print_made(c, "created", "vm", result, err);
}

/* ---- commands */

static int add_command(struct json_object *params, const char *entrypoint,
	const struct cli_invocation *in, struct banger_error *err)
{
	const char **argv = calloc(in->n_rest + 2, sizeof(*argv));
	size_t n = 0;
	int r = 0;

	if (!argv)
		return banger_error_oom(err);
	if (entrypoint && *entrypoint)
		argv[n++] = entrypoint;
	for (size_t i = 0; i < in->n_rest; i++)
		argv[n++] = in->rest[i];
	if (n > 0)
		r = vm_add_texts(params, "argv", "argument", argv, n, err);
	free(argv);
	return r;
}

/* A terminal for the command is one of ours, or what would it be for? */
static int check_terminal(
	struct ctl *c, const struct cli_invocation *in, bool *ret_tty, struct banger_error *err)
{
	bool tty = cli_given(in, "tty");

	if (tty && cli_given(in, "interactive") && !isatty(STDIN_FILENO))
		return ctl_usage(
			c, err, "-t is for a terminal, and standard input is none: leave it out");
	if (tty && cli_given(in, "detach"))
		return ctl_usage(c, err, "-t and --detach exclude each other");
	*ret_tty = tty;
	return 0;
}

static int add_terminal(struct json_object *params, bool tty, struct banger_error *err)
{
	if (!tty)
		return 0;
	if (banger_json_add_bool(params, "tty", true) < 0)
		return banger_error_oom(err);
	return relay_add_size(params, err);
}

/* What a lost session means, in words: nothing can be reopened, since the command ends with it. */
static int explain(struct ctl *c, bool run, int r, struct banger_error *err)
{
	if (c->unreachable && c->client)
		return banger_error_set(err, BANGER_UNAVAILABLE,
			"bangerd went away while the command ran, %s",
			run ? "and the VM with it"
			    : "which loses its input and output: it is ended when bangerd is back");
	if (r == -ECANCELED && !c->signal)
		banger_error_prefix(
			err, "the command was ended by another client, or because bangerd stops");
	return r;
}

/* The exit status of a command that has ended. */
static int finish(struct ctl *c, struct json_object *result, struct banger_error *err)
{
	int status = vm_exit_status(result, err);

	if (status < 0 || !c->json)
		return status;
	int r = ctl_print_line(result, err);
	return r < 0 ? r : status;
}

static int wants_input(const struct cli_invocation *in)
{
	return cli_given(in, "interactive") || !isatty(STDIN_FILENO);
}

/* ---- exec */

static int run_program(
	struct ctl *c, struct json_object *params, bool input, bool tty, struct banger_error *err)
{
	_cleanup_json_ struct json_object *owned = params, *result = NULL;
	struct relay relay = {.in = input, .tty = tty, .program = true, .escape = -1};

	int r = add_terminal(owned, tty, err);
	if (r == 0)
		r = ctl_call_relayed(
			c, &relay, BANGER_METHOD_VM_EXEC, TAKE_PTR(owned), &result, err);
	return r < 0 ? explain(c, false, r, err) : finish(c, result, err);
}

/* Start it and leave it: three times /dev/null goes along. main: the VM ends with it. */
static int start_program(
	struct ctl *c, struct json_object *params, bool main_program, struct banger_error *err)
{
	_cleanup_json_ struct json_object *owned = params, *result = NULL;
	_cleanup_close_ int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	const int fds[] = {null, null, null};
	const struct ctl_work work = {0};

	if (null < 0)
		return banger_error_set_errno(err, errno, "cannot open /dev/null");
	if (banger_json_add_bool(owned, "detach", true) < 0 ||
		(main_program &&
			(banger_json_add_bool(owned, "main", true) < 0 ||
				(!banger_json_get(owned, "entrypoint") &&
					banger_json_add_bool(owned, "entrypoint", true) < 0))))
		return banger_error_oom(err);
	return ctl_call_long(c, &work, BANGER_METHOD_VM_EXEC, TAKE_PTR(owned), fds, ELEMENTSOF(fds),
		&result, err);
}

int do_vm_exec(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = NULL;
	bool tty = false;

	int r = check_terminal(c, in, &tty, err);
	if (r == 0)
		r = ctl_params(&params, err, "vm", in->args[0], NULL);
	if (r == 0)
		r = add_command(params, NULL, in, err);
	if (r == 0)
		r = vm_add_circumstances(params, in, err);
	if (r == 0 && cli_given(in, "timeout") &&
		banger_json_add_int(params, "timeout_ms", cli_number(in, "timeout", 0)) < 0)
		r = banger_error_oom(err);
	c->usage = r == -EINVAL; /* a word is wrong, and nobody was asked */
	if (r < 0)
		return r;
	if (cli_given(in, "detach"))
		return start_program(c, TAKE_PTR(params), false, err);
	return run_program(c, TAKE_PTR(params), wants_input(in), tty, err);
}

int do_vm_shell(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	/* The agent says in $SHELL which one the user has; /bin/sh is what every image with a shell has. */
	static const char *const argv[] = {"/bin/sh", "-c", "exec \"${SHELL:-/bin/sh}\" -l"};
	_cleanup_json_ struct json_object *params = NULL;

	int r = ctl_params(&params, err, "vm", in->args[0], NULL);
	if (r == 0)
		r = vm_add_texts(params, "argv", "argument", argv, ELEMENTSOF(argv), err);
	if (r == 0)
		r = vm_add_circumstances(params, in, err);
	c->usage = r == -EINVAL;
	return r < 0 ? r : run_program(c, TAKE_PTR(params), true, isatty(STDIN_FILENO), err);
}

/* ---- run */

static int run_params(
	const struct cli_invocation *in, struct json_object *params, struct banger_error *err)
{
	const char *entrypoint = cli_text(in, "entrypoint");

	if (entrypoint && banger_json_add_bool(params, "entrypoint", false) < 0)
		return banger_error_oom(err);
	if (entrypoint && !*entrypoint && in->n_rest == 0)
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"without an entry point and without a command there is nothing to run");
	int r = add_command(params, entrypoint, in, err);
	return r < 0 ? r : vm_add_circumstances(params, in, err);
}

static int run_here(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = json_object_new_object(), *result = NULL;
	_cleanup_vm_view_ struct vm_view *view = NULL;
	struct relay relay = {.in = wants_input(in), .program = true, .escape = -1};

	if (!params)
		return banger_error_oom(err);
	int r = check_terminal(c, in, &relay.tty, err);
	if (r == 0)
		r = vm_add_machine(params, in->args[0], in, err);
	if (r == 0)
		r = run_params(in, params, err);
	if (r == 0 && cli_given(in, "timeout") &&
		banger_json_add_int(params, "timeout_ms", cli_number(in, "timeout", 0)) < 0)
		r = banger_error_oom(err);
	if (r == 0)
		r = add_terminal(params, relay.tty, err);
	if (r == 0)
		r = vm_view_new(c, "starting", banger_op_current(), true, &view, err);
	c->usage = r == -EINVAL;
	if (r < 0)
		return r;
	relay.view = view;
	r = ctl_call_relayed(c, &relay, BANGER_METHOD_VM_RUN, TAKE_PTR(params), &result, err);
	return r < 0 ? explain(c, true, r, err) : finish(c, result, err);
}

/* The VM whose command could not be started is of no use to anybody. */
static void remove_again(struct ctl *c, const char *id)
{
	_cleanup_op_ banger_op_id saved = banger_op_enter(banger_op_id_mint().s);
	_cleanup_json_ struct json_object *params = NULL;
	struct banger_error why = {0};

	int r = ctl_params(&params, &why, "vm", id, NULL);
	if (r == 0 && banger_json_add_bool(params, "force", true) < 0)
		r = banger_error_oom(&why);
	if (r == 0)
		r = ctl_call(c, BANGER_METHOD_VM_RM, TAKE_PTR(params), NULL, &why);
	if (r < 0)
		ctl_say_error(&why);
}

/* params: of the command; taken. */
static int start_main(
	struct ctl *c, struct json_object *params, const char *id, struct banger_error *err)
{
	_cleanup_op_ banger_op_id saved = banger_op_enter(banger_op_id_mint().s);
	_cleanup_json_ struct json_object *owned = params;

	if (banger_json_add_str(owned, "vm", id) < 0)
		return banger_error_oom(err);
	return start_program(c, TAKE_PTR(owned), true, err);
}

/* Watch until its command runs, or all is over already; the signals that mean "stop" cancel it. */
static void wait_for_command(struct ctl *c, struct vm_view *view, const char *op_id)
{
	const struct timespec turn = {.tv_nsec = 50000000};
	sigset_t stop, before;

	ctl_stop_signals(&stop);
	pthread_sigmask(SIG_BLOCK, &stop, &before);
	while (vm_view_look(view) == 0 && strcmp(vm_view_phase(view), "running") != 0 &&
		!vm_view_outcome(view)) {
		int number = sigtimedwait(&stop, NULL, &turn);

		if (number > 0 && c->signal)
			break;
		if (number > 0) {
			c->signal = number;
			(void)ctl_cancel(c, op_id);
		}
		vm_view_tick(view);
	}
	vm_view_end(view);
	if (!c->signal)
		pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* A VM that goes with its command, and with bangerd: vm.run, apart from us. */
static int run_transient(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = json_object_new_object(), *result = NULL,
					  *status = NULL;
	_cleanup_vm_view_ struct vm_view *view = NULL;
	char made_up[BANGER_NAME_MAX + 1];

	if (!params)
		return banger_error_oom(err);
	int r = vm_add_machine(params, in->args[0], in, err);
	if (r == 0)
		r = run_params(in, params, err);
	c->usage = r == -EINVAL;
	if (r == 0)
		r = ctl_call(c, BANGER_METHOD_VM_RUN_BEGIN, TAKE_PTR(params), &result, err);
	if (r < 0)
		return r;
	const char *op_id = banger_json_str(result, "op_id"), *name = cli_text(in, "name");
	r = vm_view_new(c, "starting", op_id, true, &view, err);
	if (r < 0)
		return r;
	wait_for_command(c, view, op_id);
	r = status_of(c, BANGER_METHOD_OP_SHOW, op_id, &status, err);
	if (r < 0)
		return r;
	name = name ? name : vm_view_name(view);
	snprintf(made_up, sizeof(made_up), "vm-%s", op_id && strlen(op_id) > 3 ? op_id + 3 : "");
	if (!*name) /* it was over before anybody looked */
		name = made_up;
	if (c->json)
		return banger_json_add_str(result, "name", name) < 0
			       ? banger_error_oom(err)
			       : ctl_print_json(c, result, err);
	puts(name);
	return 0;
}

static int run_detached(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = json_object_new_object(), *result = NULL,
					  *command = json_object_new_object();

	if (!params || !command)
		return banger_error_oom(err);
	int r = vm_add_machine(params, in->args[0], in, err);
	if (r == 0)
		r = run_params(in, command, err);
	c->usage = r == -EINVAL;
	/* Who stays init ends the VM with the command. */
	if (r == 0 && !cli_given(in, "init") && banger_json_add_str(params, "init", "agent") < 0)
		r = banger_error_oom(err);
	if (r == 0)
		r = create_watched(c, TAKE_PTR(params), true, &result, err);
	if (r < 0)
		return r;
	struct json_object *vm = banger_json_get(result, "vm");
	const char *id = banger_json_str(vm, "id"), *name = banger_json_str(vm, "name");
	r = start_main(c, TAKE_PTR(command), id, err);
	if (r < 0) {
		if (!c->unreachable)
			remove_again(c, id);
		return r;
	}
	if (c->json)
		return ctl_print_json(c, result, err);
	_cleanup_free_ char *shown = text_clean(c->quiet ? id : name);
	puts(shown ? shown : "");
	return 0;
}

int do_vm_run(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	if (!cli_given(in, "detach"))
		return run_here(c, in, err);
	if (cli_given(in, "timeout"))
		return ctl_usage(c, err, "--timeout and --detach exclude each other");
	bool tty;
	int r = check_terminal(c, in, &tty, err);
	if (r < 0)
		return r;
	return cli_given(in, "rm") ? run_transient(c, in, err) : run_detached(c, in, err);
}
