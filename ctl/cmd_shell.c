/* SPDX-License-Identifier: Apache-2.0 */
/* The commands about the command line itself: completion, help. They need no daemon. */
#include <string.h>
#include "ctl.h"
#include "help.h"

static int do_completion(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	return completion_script(stdout, in->args[0]);
}

/* The words name a command: read them as if they stood after --help, with which nothing is missing.
 */
static int do_help(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_(cli_invocation_done) struct cli_invocation named = {0};
	char program[] = "banger-ctl", flag[] = "--help";
	char *argv[4] = {program, flag};
	struct banger_error why = {0};
	size_t n = 2;

	for (size_t i = 0; i < in->n_args; i++)
		argv[n++] = (char *)in->args[i];
	int r = cli_parse(cli_groups, (int)n, argv, &named, &why);
	if (r == 0 && why.code == BANGER_OK)
		help_print(stdout, &named);
	else
		r = ctl_usage(c, err, "%s", why.message);
	return r;
}

static const char *const shells[] = {"bash", "zsh", "fish", NULL};

/* clang-format off */
const struct cli_command cmd_shell_commands[] = {
	{
		.name = "completion",
		.help = "Print the script that completes words in a shell",
		.arguments = CLI_ARGUMENTS(
			{"SHELL", "bash, zsh or fish", .choices = shells}),
		.examples = CLI_EXAMPLES(
			{"source <(banger-ctl completion bash)", "switches it on in this bash"},
			{"banger-ctl completion fish > ~/.config/fish/completions/banger-ctl.fish",
				"switches it on for fish, for good"}),
		.handler = do_completion,
		.local = true,
	},
	{
		.name = "help",
		.help = "Show the help of banger-ctl, of a group or of a command",
		.arguments = CLI_ARGUMENTS(
			{"GROUP", "A group or a command", .optional = true, .words = CLI_COMMANDS},
			{"COMMAND", "A command of the group", .optional = true}),
		.examples = CLI_EXAMPLES(
			{"banger-ctl help image import", "is banger-ctl image import --help"}),
		.handler = do_help,
		.local = true,
	},
	{NULL},
};
/* clang-format on */
