/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vm run: one request, with our standard descriptors beside it. The VM's end reads and writes them
 * itself, so nothing is copied here and nothing is mixed. The VM lives as long as our connection:
 * to hang up is to end it.
 */
#include <fcntl.h>
#include <string.h>
#include <banger/methods.h>
#include "ctl.h"

enum { NOT_RUN = 125 };

static int add_strings(
	struct json_object *params, const char *key, const char *const *texts, size_t n)
{
	_cleanup_json_ struct json_object *list = json_object_new_array();

	for (size_t i = 0; list && i < n; i++) {
		struct json_object *s = json_object_new_string(texts[i]);

		if (!s || json_object_array_add(list, s) < 0) {
			json_object_put(s);
			return -ENOMEM;
		}
	}
	return banger_json_add(params, key, TAKE_PTR(list));
}

/* "--env NAME=VALUE", and "--env NAME" for the value it has here, if it has one. */
static int add_environment(struct json_object *params, const struct cli_invocation *in)
{
	_cleanup_json_ struct json_object *list = json_object_new_array();
	const char *given;
	size_t i = 0;

	while (list && (given = cli_next(in, "env", &i))) {
		const char *value = strchr(given, '=') ? NULL : getenv(given);
		_cleanup_free_ char *both = NULL;

		if (!strchr(given, '=') && !value)
			continue;
		if (asprintf(&both, value ? "%s=%s" : "%s", given, value) < 0) {
			both = NULL;
			return -ENOMEM;
		}
		struct json_object *s = json_object_new_string(both);
		if (!s || json_object_array_add(list, s) < 0) {
			json_object_put(s);
			return -ENOMEM;
		}
	}
	return banger_json_add(params, "env", TAKE_PTR(list));
}

static int make_params(
	const struct cli_invocation *in, struct json_object **ret, struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = NULL;

	int r = ctl_params(&params, err, "image", in->args[0], "kernel", cli_text(in, "kernel"),
		"user", cli_text(in, "user"), "workdir", cli_text(in, "workdir"), "accel",
		cli_text(in, "accel"), NULL);
	if (r < 0)
		return r;
	if (cli_given(in, "cpus"))
		r = banger_json_add_int(params, "cpus", cli_number(in, "cpus", 0));
	if (r == 0 && cli_given(in, "memory"))
		r = banger_json_add_int(params, "memory", cli_number(in, "memory", 0));
	if (r == 0 && cli_given(in, "timeout"))
		r = banger_json_add_int(params, "timeout_ms", cli_number(in, "timeout", 0));
	if (r == 0 && in->n_rest > 0)
		r = add_strings(params, "argv", in->rest, in->n_rest);
	if (r == 0 && cli_given(in, "env"))
		r = add_environment(params, in);
	if (r < 0)
		return banger_error_oom(err);
	*ret = TAKE_PTR(params);
	return 0;
}

/* The status that a shell would give the command. */
static int exit_status(struct json_object *result, struct banger_error *err)
{
	int64_t code = banger_json_int(result, "exit_code", -1),
		number = banger_json_int(result, "signal", -1);

	if (number > 0 && number < 128)
		return 128 + (int)number;
	if (code >= 0 && code <= 255)
		return (int)code;
	return banger_error_set(err, BANGER_INTERNAL, "bangerd does not say how the command ended");
}

static int do_run(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	static const int standard[] = {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO};
	_cleanup_json_ struct json_object *params = NULL, *result = NULL;
	const struct ctl_work work = {0};

	int r = make_params(in, &params, err);
	if (r == 0)
		r = ctl_call_long(c, &work, BANGER_METHOD_VM_RUN, TAKE_PTR(params), standard,
			ELEMENTSOF(standard), &result, err);
	return r < 0 ? r : exit_status(result, err);
}

static const char *const accelerators[] = {"auto", "kvm", "tcg", NULL};

/* clang-format off */
const struct cli_command cmd_vm_commands[] = {
	{
		.name = "run",
		.help = "Boot an image, run a command in it, and remove the VM",
		.about = "The command reads this standard input and writes this standard output "
			"and standard error. Without a command, the image's own entry point and "
			"command are run. Changes that it makes to the image's filesystem are gone "
			"with the VM.\n\nExits as the command did, with 128 and the number of the "
			"signal that killed it, or with 125 if banger itself failed. Ctrl-C ends "
			"the VM.",
		.arguments = CLI_ARGUMENTS(
			{"IMAGE", "An image: name, id, or a prefix of one", .words = CLI_PUBLISHED}),
		.rest = "CMD...",
		.rest_help = "The command and its arguments, as they are: no shell reads them",
		.options = CLI_OPTIONS(
			{"kernel", 'k', CLI_TEXT, "KERNEL",
				"Kernel to boot (default: the image's, else the configured one, "
				"else the only one)", .words = CLI_KERNELS},
			{"cpus", 0, CLI_INT, "N", "Number of processors", .min = 1, .max = 1024},
			{"memory", 'm', CLI_SIZE, "SIZE", "Memory, such as 512M or 2G",
				.min = 1 << 20},
			{"env", 'e', CLI_TEXTS, "NAME[=VALUE]",
				"A variable of the command's environment; without VALUE, as it is "
				"here"},
			{"user", 'u', CLI_TEXT, "USER", "Run as this user of the image"},
			{"workdir", 'w', CLI_TEXT, "DIR", "Run in this directory of the image"},
			{"accel", 0, CLI_CHOICE, "HOW",
				"kvm, tcg (emulation), or auto: what works here (default)",
				.choices = accelerators},
			{"timeout", 't', CLI_DURATION, "TIME",
				"End the VM after this time: 30, 90s, 5m", .min = 1}),
		.examples = CLI_EXAMPLES(
			{"banger-ctl vm run debian -- uname -a", "one command"},
			{"banger-ctl vm run debian -m 1G -e LANG=C -- sh -c 'sort | uniq -c' < "
				"words", "a filter that runs in a VM"}),
		.handler = do_run,
		.failure_status = NOT_RUN,
	},
	{NULL},
};
/* clang-format on */
