/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The groups, the global options, and looking things up in tables. The commands themselves stand in
 * the cmd_*.c files beside their handlers, so that adding one is one row in one file.
 */
#include <string.h>
#include "table.h"

const struct cli_group cli_groups[] = {
	{"", "Daemon and machine", cmd_daemon_commands},
	{"image", "Images and drafts", cmd_image_commands},
	{"kernel", "Kernels to boot images with", cmd_kernel_commands},
	{"catalog", "Catalogs of bundles and kernels", cmd_catalog_commands},
	{"vm", "Virtual machines", cmd_vm_commands},
	{"op", "Operations: what was done, by whom, and how it ended", cmd_op_commands},
	{"fs", "The registry as a filesystem", cmd_fs_commands},
	{"", "The command line itself", cmd_shell_commands},
	{NULL},
};

const struct cli_option cli_globals[] = {
	{"socket", 0, CLI_TEXT, "PATH", "Socket of bangerd (also $BANGER_SOCKET)",
		.words = CLI_FILES},
	{"config", 0, CLI_TEXT, "PATH", "Configuration file (also $BANGER_CONFIG)",
		.words = CLI_FILES},
	{"json", 0, CLI_FLAG, NULL,
		"One JSON document on standard output; a stream gives a line each"},
	{"quiet", 'q', CLI_FLAG, NULL, "Names and ids only, nothing for people"},
	{"help", 'h', CLI_FLAG, NULL, "This help"},
	{"version", 0, CLI_FLAG, NULL, "The version of banger-ctl"},
	{NULL},
};

const struct cli_group *cli_group_find(const struct cli_group *groups, const char *name)
{
	for (; groups->name; groups++)
		if (*groups->name && strcmp(groups->name, name) == 0)
			return groups;
	return NULL;
}

const struct cli_command *cli_command_find(const struct cli_command *commands, const char *name)
{
	for (; commands->name; commands++)
		if (strcmp(commands->name, name) == 0)
			return commands;
	return NULL;
}

const struct cli_option *cli_option_find(
	const struct cli_option *options, const char *name, size_t len)
{
	for (; options && options->name; options++)
		if (strlen(options->name) == len && memcmp(options->name, name, len) == 0)
			return options;
	return NULL;
}

const struct cli_option *cli_letter_find(const struct cli_option *options, char letter)
{
	for (; options && options->name; options++)
		if (options->letter && options->letter == letter)
			return options;
	return NULL;
}
