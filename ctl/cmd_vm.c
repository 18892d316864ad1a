/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The commands about VMs, as a table. Options that several have are written once, so that "run" and "create" cannot
 * drift apart.
 */
#include "cmd_vm.h"

static const char *const accelerators[] = {"auto", "kvm", "tcg", NULL};
static const char *const networks[] = {"none", "user", "bridge", NULL};
static const char *const registries[] = {"none", "ro", "rw", NULL};
static const char *const work_disks[] = {"none", "new", "keep", NULL};
static const char *const inits[] = {"image", "agent", NULL};
static const char *const states[] = {
	"created", "starting", "running", "paused", "stopping", "stopped", "failed", NULL};

#define VM_ARGUMENT                                                                                \
	{                                                                                          \
		"VM", "A VM: name, id, or a prefix of one", .words = CLI_VMS                       \
	}
#define VM_ARGUMENTS                                                                               \
	{                                                                                          \
		"VM", "VMs: names, ids, or prefixes of them", .many = true, .words = CLI_VMS       \
	}
#define IMAGE_ARGUMENT                                                                             \
	{                                                                                          \
		"IMAGE", "An image: name, id, or a prefix of one", .words = CLI_PUBLISHED          \
	}

/* clang-format off */
#define MACHINE_OPTIONS \
	{"name", 0, CLI_TEXT, "NAME", "Name of the VM (default: one that is made up)"}, \
	{"kernel", 'k', CLI_TEXT, "KERNEL", \
		"Kernel to boot (default: the image's, else the configured one, else the only one)", \
		.words = CLI_KERNELS}, \
	{"cpus", 0, CLI_INT, "N", "Number of processors (default: 1)", .min = 1, .max = 1024}, \
	{"memory", 'm', CLI_SIZE, "SIZE", "Memory, such as 512M or 2G (default: 256M)", .min = 1 << 20}, \
	{"disk", 0, CLI_SIZE, "SIZE", \
		"Size of the root disk, whose filesystem is grown (default: the image's)", .min = 1}, \
	{"work-disk", 0, CLI_CHOICE, "WHAT", \
		"A disk of its own for the user's home: new, made of the image's seed; keep, which outlives " \
		"the VM and is the next one's of its name; or none (default)", .choices = work_disks}, \
	{"network", 0, CLI_CHOICE, "WHAT", \
		"none (default), user (out through this host, from which its loopback can be reached), or " \
		"bridge (needs banger-helper)", .choices = networks}, \
	{"publish", 'p', CLI_TEXTS, "PORTS", \
		"[ADDRESS:]HOST:GUEST[/udp]: the host's port leads to the guest's; on 127.0.0.1 if no address " \
		"is said. Means --network user if that is not said"}, \
	{"registry", 0, CLI_CHOICE, "ACCESS", \
		"The registry in the VM at /banger: none (default), ro or rw", .choices = registries}, \
	{"accel", 0, CLI_CHOICE, "HOW", "kvm, tcg (emulation), or auto: what works here (default)", \
		.choices = accelerators}
#define COMMAND_OPTIONS \
	{"env", 'e', CLI_TEXTS, "NAME[=VALUE]", \
		"A variable of the command's environment; without VALUE, as it is here"}, \
	{"user", 'u', CLI_TEXT, "USER", "Run as this user of the image: name or uid[:group or gid]"}, \
	{"workdir", 'w', CLI_TEXT, "DIR", "Run in this directory of the VM"}
#define TERMINAL_OPTIONS \
	{"interactive", 'i', CLI_FLAG, NULL, \
		"Also read a terminal; a pipe or a file on standard input is read without it"}, \
	{"tty", 't', CLI_FLAG, NULL, "Give the command a terminal; -it is a session on ours"}
#define TAIL_OPTION(otherwise) \
	{"tail", 'n', CLI_TEXT, "LINES", "Begin with the last so many lines, or all (default: " otherwise ")"}

#define COMMAND_ABOUT \
	"Standard output and standard error come apart and byte for byte. Exits as the command did, with 128 and " \
	"the number of the signal that killed it, or with 125 if banger itself failed. SIGINT, SIGTERM, SIGHUP, " \
	"SIGQUIT, SIGUSR1 and SIGUSR2 are forwarded to the command; the third that asks it to stop ends it. --json " \
	"adds a line to standard output, which says how it ended."

const struct cli_command cmd_vm_commands[] = {
	{
		.name = "create",
		.help = "Make a VM of an image and start it",
		.about = "It stays until \"vm rm\", through restarts of bangerd and of the host. It is ready when "
			"the command returns: its agent answers. The image's own init is started if it has one.\n\n"
			"Ctrl-C cancels, and nothing is left of it. A VM that did not boot stays, as failed, for "
			"\"vm logs\" and \"vm show\" to say why.",
		.arguments = CLI_ARGUMENTS(IMAGE_ARGUMENT),
		.options = CLI_OPTIONS(
			MACHINE_OPTIONS,
			{"init", 0, CLI_CHOICE, "WHICH",
				"image (default): the image's own init is started, if it has one; agent: banger's "
				"agent is init", .choices = inits},
			{"no-start", 0, CLI_FLAG, NULL, "Only make it; \"vm start\" starts it"},
			{"detach", 'd', CLI_FLAG, NULL, "Print its name and do not wait until it is ready"}),
		.examples = CLI_EXAMPLES(
			{"banger-ctl vm create debian --name web -m 1G -p 8080:80", "a VM that serves a port"},
			{"banger-ctl vm create debian --name b --no-start", "one to be started later"}),
		.handler = do_vm_create,
		.changes = true,
	},
	{
		.name = "start",
		.help = "Start VMs",
		.about = "Returns when their agents answer. One that runs is left alone. Ctrl-C cancels.",
		.arguments = CLI_ARGUMENTS(VM_ARGUMENTS),
		.examples = CLI_EXAMPLES(
			{"banger-ctl vm start web db", "two of them, one after the other"}),
		.handler = do_vm_start,
		.changes = true,
	},
	{
		.name = "stop",
		.help = "Power VMs off",
		.about = "The agent ends programs and powers off; when that does not help, the power button is "
			"pressed; when the time is over, the VM is killed. One that does not run is left alone.",
		.arguments = CLI_ARGUMENTS(VM_ARGUMENTS),
		.options = CLI_OPTIONS(
			{"time", 't', CLI_DURATION, "TIME", "How long it may take (default: 30s); 0 is at once",
				.max = INT32_MAX}),
		.examples = CLI_EXAMPLES(
			{"banger-ctl vm stop web", "as gently as 30 seconds allow"},
			{"banger-ctl vm stop -t 5 web db", "five seconds for each"}),
		.handler = do_vm_stop,
		.changes = true,
	},
	{
		.name = "kill",
		.help = "End VMs at once",
		.about = "As if their plug was pulled, whatever is being done to them.",
		.arguments = CLI_ARGUMENTS(VM_ARGUMENTS),
		.options = CLI_OPTIONS(
			{"signal", 's', CLI_TEXT, "SIGNAL",
				"KILL (default), or TERM, which is \"vm stop\""}),
		.examples = CLI_EXAMPLES(
			{"banger-ctl vm kill web", "it is stopped when this returns"},
			{"banger-ctl vm kill -s TERM web", "it powers itself off, if it can"}),
		.handler = do_vm_kill,
		.changes = true,
	},
	{
		.name = "pause",
		.help = "Let VMs stand still",
		.arguments = CLI_ARGUMENTS(VM_ARGUMENTS),
		.examples = CLI_EXAMPLES(
			{"banger-ctl vm pause web", "its processors do nothing until \"vm resume\""}),
		.handler = do_vm_pause,
		.changes = true,
	},
	{
		.name = "resume",
		.help = "Let paused VMs go on",
		.about = "Their clocks are set: they stood still as well.",
		.arguments = CLI_ARGUMENTS(VM_ARGUMENTS),
		.examples = CLI_EXAMPLES(
			{"banger-ctl vm resume web", "it goes on where it was"}),
		.handler = do_vm_resume,
		.changes = true,
	},
	{
		.name = "rm",
		.help = "Remove VMs",
		.about = "With their root disks. A work disk of --work-disk keep stays.",
		.arguments = CLI_ARGUMENTS(VM_ARGUMENTS),
		.options = CLI_OPTIONS(
			{"force", 'f', CLI_FLAG, NULL, "Also those that run, which are killed"}),
		.examples = CLI_EXAMPLES(
			{"banger-ctl vm rm web", "one that is stopped"},
			{"banger-ctl vm rm -f $(banger-ctl vm ls -q)", "all of them"}),
		.handler = do_vm_rm,
		.changes = true,
	},
	{
		.name = "ls",
		.help = "List VMs",
		.options = CLI_OPTIONS(
			{"state", 0, CLI_CHOICE, "STATE",
				"Only those in this state; may be given again, for others as well",
				.choices = states}),
		.examples = CLI_EXAMPLES(
			{"banger-ctl vm ls", "all of them, as a table"},
			{"banger-ctl vm ls -q --state running", "the names of those that run, one a line"}),
		.handler = do_vm_ls,
	},
	{
		.name = "show",
		.help = "Show everything about one VM",
		.arguments = CLI_ARGUMENTS(VM_ARGUMENT),
		.examples = CLI_EXAMPLES(
			{"banger-ctl vm show web", "its machine, its state, and why it failed if it did"}),
		.handler = do_vm_show,
	},
	{
		.name = "exec",
		.help = "Run a command in a VM",
		.about = COMMAND_ABOUT "\n\nOptions stand before the command. The image's environment, user and "
			"working directory are the command's, where no option says otherwise. When bangerd goes "
			"away, the command is lost, and is ended when bangerd is back.",
		.arguments = CLI_ARGUMENTS(VM_ARGUMENT),
		.rest = "CMD...",
		.rest_help = "The command and its arguments, as they are: no shell reads them",
		.rest_plain = true,
		.rest_required = true,
		.options = CLI_OPTIONS(
			TERMINAL_OPTIONS,
			{"detach", 'd', CLI_FLAG, NULL, "Start it and leave it; its output goes to the VM's console"},
			COMMAND_OPTIONS,
			{"timeout", 0, CLI_DURATION, "TIME", "Kill it after this time: 30, 90s, 5m", .min = 1}),
		.examples = CLI_EXAMPLES(
			{"banger-ctl vm exec web uname -a", "one command"},
			{"banger-ctl vm exec -it web bash", "a session on this terminal"},
			{"banger-ctl vm exec web sha256sum < file", "what is read here is hashed there"}),
		.handler = do_vm_exec,
		.failure_status = NOT_RUN,
	},
	{
		.name = "shell",
		.help = "Open a shell in a VM",
		.about = "The user's login shell, as /etc/passwd of the image has it, on this terminal; what is "
			"piped in is read as commands. Exits as the shell does.",
		.arguments = CLI_ARGUMENTS(VM_ARGUMENT),
		.options = CLI_OPTIONS(COMMAND_OPTIONS),
		.examples = CLI_EXAMPLES(
			{"banger-ctl vm shell web", "as the image's user"},
			{"banger-ctl vm shell web -u www-data", "as another"}),
		.handler = do_vm_shell,
		.failure_status = NOT_RUN,
	},
	{
		.name = "console",
		.help = "Use the serial console of a VM",
		.about = "Shows what the VM says there and types what is typed here, until the VM ends or the escape "
			"key is pressed: Ctrl-] if no other is said. What is piped in is typed as well.",
		.arguments = CLI_ARGUMENTS(VM_ARGUMENT),
		.options = CLI_OPTIONS(
			{"escape", 0, CLI_TEXT, "KEY", "The key that leaves: ^X for Ctrl-X, a character, or none"},
			TAIL_OPTION("10")),
		.examples = CLI_EXAMPLES(
			{"banger-ctl vm console web", "Ctrl-] leaves it"},
			{"banger-ctl vm console web --escape ^A", "Ctrl-A does"}),
		.handler = do_vm_console,
	},
	{
		.name = "logs",
		.help = "Show what a VM said on its console",
		.about = "Of all its starts, as much as is kept: the last 512 KiB at least. The output of commands "
			"that were detached is there too.",
		.arguments = CLI_ARGUMENTS(VM_ARGUMENT),
		.options = CLI_OPTIONS(
			{"follow", 'f', CLI_FLAG, NULL, "Also what it says from now on, until it ends"},
			TAIL_OPTION("all")),
		.examples = CLI_EXAMPLES(
			{"banger-ctl vm logs -f -n 20 web", "the last 20 lines, and what follows"}),
		.handler = do_vm_logs,
	},
	{
		.name = "cp",
		.help = "Copy files into a VM or out of it",
		.about = "Where DST is a directory, SRC is copied into it, or what is in it if SRC ends in \"/.\"; where "
			"there is nothing, it becomes DST. Modes, times, links and holes in files are kept. What comes into "
			"the VM is root's, what comes out belongs to the caller, without special modes, attributes and "
			"devices, unless --archive is given. \"-\" is a tar stream, not compressed.\n\n"
			"A path in the VM is one from its root. A file here whose name has a colon is written with "
			"a slash: ./a:b.",
		.arguments = CLI_ARGUMENTS(
			{"SRC", "VM:PATH, a path here, or - for a tar stream on standard input", .words = CLI_COPIED},
			{"DST", "A path here, VM:PATH, or - for a tar stream on standard output", .words = CLI_COPIED}),
		.options = CLI_OPTIONS(
			{"archive", 'a', CLI_FLAG, NULL,
				"Keep owners by number as well, and all modes, attributes and devices"},
			{"follow-link", 'L', CLI_FLAG, NULL, "If SRC is a link, copy what it leads to"}),
		.examples = CLI_EXAMPLES(
			{"banger-ctl vm cp web:/var/log ./logs", "a directory out of a VM"},
			{"banger-ctl vm cp site/. web:/srv", "what is in a directory into one of the VM"},
			{"banger-ctl vm cp web:/etc - | tar -t", "a list of what is there"}),
		.handler = do_vm_cp,
		.changes = true,
	},
	{
		.name = "run",
		.help = "Boot an image, run a command in it, and remove the VM",
		.about = COMMAND_ABOUT " While the VM boots, Ctrl-C cancels.\n\nOptions stand before the command. "
			"Without one, the image's own entry point and command are run; with one, it follows the entry "
			"point. Changes to the image's filesystem are gone with the VM.\n\n"
			"With --detach the VM is one of its own, as of \"vm create\": its name is printed, the "
			"command's output goes to its console (\"vm logs\"), and it powers off when the command ends. "
			"\"vm rm\" removes it; \"vm start\" boots it again, without the command. With --rm as well it is "
			"gone when the command ends, or when it is stopped, or with bangerd.",
		.arguments = CLI_ARGUMENTS(IMAGE_ARGUMENT),
		.rest = "CMD...",
		.rest_help = "The command and its arguments, as they are: no shell reads them",
		.rest_plain = true,
		.options = CLI_OPTIONS(
			TERMINAL_OPTIONS,
			{"detach", 'd', CLI_FLAG, NULL, "Leave it running, and print its name"},
			{"rm", 0, CLI_FLAG, NULL,
				"Remove the VM when the command ends; without --detach that is so anyway"},
			COMMAND_OPTIONS,
			{"entrypoint", 0, CLI_TEXT, "CMD", "Run this instead of the image's entry point; \"\" is none"},
			MACHINE_OPTIONS,
			{"init", 0, CLI_CHOICE, "WHICH",
				"agent (default): banger's agent is init; image: the image's own is started, if it has one",
				.choices = inits},
			{"timeout", 0, CLI_DURATION, "TIME", "End the VM after this time: 30, 90s, 5m", .min = 1}),
		.examples = CLI_EXAMPLES(
			{"banger-ctl vm run debian uname -a", "one command"},
			{"banger-ctl vm run -it debian", "the image's shell on this terminal"},
			{"banger-ctl vm run debian -m 1G -e LANG=C -- sh -c 'sort | uniq -c' < words",
				"a filter that runs in a VM"},
			{"banger-ctl vm run -d --name web -p 8080:80 nginx", "a service"}),
		.handler = do_vm_run,
		.failure_status = NOT_RUN,
	},
	{NULL},
};
/* clang-format on */
