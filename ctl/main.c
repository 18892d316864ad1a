/* SPDX-License-Identifier: Apache-2.0 */
/*
 * banger-ctl: from the command line to one handler and to an exit status.
 *
 * An op_id is minted for each run and entered before anything is asked, so that the daemon's log,
 * its records and our own sentence agree. Usage errors have none: nothing was begun.
 */
#include <fcntl.h>
#include <langinfo.h>
#include <locale.h>
#include <signal.h>
#include <string.h>
#include "ctl.h"
#include "help.h"

/* File names and names of images are UTF-8, whatever the environment says; only the character type
 * is taken from a locale, so that numbers stay numbers. */
static void use_utf8(void)
{
	setlocale(LC_CTYPE, "");
	if (strcmp(nl_langinfo(CODESET), "UTF-8") != 0)
		setlocale(LC_CTYPE, "C.UTF-8");
}

/* A descriptor that we open must never become somebody's standard output. */
static void fill_standard_descriptors(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	while (fd >= 0 && fd <= 2);
	if (fd > 2)
		close(fd);
}

static int usage_error(const struct cli_invocation *in, const struct banger_error *err)
{
	char name[128];

	ctl_say("%s", err->message);
	help_name(in, name, sizeof(name));
	fprintf(stderr, "Try: %s --help\n", name);
	return CTL_USAGE;
}

/* What to do when the daemon is not there, in the same sentence, which ends with the op_id. */
static void add_hint(
	const struct ctl *c, const struct cli_command *command, struct banger_error *err)
{
	size_t n = strlen(err->message), room = sizeof(err->message) - n;

	if (err->code == BANGER_UNAVAILABLE && !c->client)
		snprintf(err->message + n, room,
			"; start bangerd, or say where it listens with --socket PATH");
	else if (err->code == BANGER_DENIED)
		snprintf(err->message + n, room,
			"; it is for bangerd's own user and the group in its \"socket_group\" "
			"setting");
	else if (command->changes && n + 100 < sizeof(err->message))
		snprintf(err->message + n, room,
			"; whether it was done, \"banger-ctl op show %s\" says when bangerd is "
			"back",
			err->op_id);
}

static int failed(const struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	if (c->usage)
		return usage_error(in, err);
	if (c->unreachable)
		add_hint(c, in->command, err);
	ctl_say_error(err);
	if (in->command->failure_status)
		return in->command->failure_status;
	return c->unreachable ? CTL_UNREACHABLE : CTL_FAILED;
}

/* The command itself, under its op_id. */
static int run_command(struct ctl *c, const struct cli_invocation *in)
{
	_cleanup_op_ banger_op_id saved = banger_op_enter(banger_op_id_mint().s);
	const struct banger_config_flags flags = {
		.socket = cli_text(in, "socket"), .config = cli_text(in, "config")};
	struct banger_error err = {0};
	int r = 0;

	if (!in->command->local)
		r = banger_config_load(&flags, &c->config, &err);
	if (r == 0)
		r = in->command->handler(c, in, &err);
	int status = r < 0 ? failed(c, in, &err) : r;
	banger_client_freep(&c->client);
	banger_config_done(&c->config);
	return status;
}

static int run(struct ctl *c, int argc, char **argv)
{
	_cleanup_(cli_invocation_done) struct cli_invocation in = {0};
	struct banger_error err = {0};

	int r = cli_parse(cli_groups, argc, argv, &in, &err);
	if (r == 0 && cli_given(&in, "help")) {
		help_print(stdout, &in);
		return CTL_DONE;
	}
	if (r == 0 && cli_given(&in, "version")) {
		puts("banger-ctl " BANGER_VERSION);
		return CTL_DONE;
	}
	if (r < 0 && !in.command && in.n_values == 0 && argc <= 2) {
		/* "banger-ctl", "banger-ctl image", or a word that is no command */
		if (argc == 2 && !in.group)
			return usage_error(&in, &err);
		help_print(stderr, &in);
		return CTL_USAGE;
	}
	if (r < 0)
		return usage_error(&in, &err);
	c->json = cli_given(&in, "json");
	c->quiet = cli_given(&in, "quiet");
	c->terminal = isatty(STDOUT_FILENO);
	c->notices = isatty(STDERR_FILENO) && !c->quiet;
	return run_command(c, &in);
}

/* Die of the signal that stopped the operation, as if it had never been caught. */
static void die_of(int number)
{
	sigset_t set;

	signal(number, SIG_DFL);
	sigemptyset(&set);
	sigaddset(&set, number);
	raise(number);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
}

int main(int argc, char **argv)
{
	struct ctl c = {0};
	int status;

	fill_standard_descriptors();
	use_utf8();
	if (argc == 2 && strcmp(argv[1], "--man") == 0) {
		man_print(stdout);
		status = CTL_DONE;
	} else if (argc >= 2 && strcmp(argv[1], "--complete") == 0) {
		completion_print(stdout, argc - 2, argv + 2);
		status = CTL_DONE;
	} else {
		status = run(&c, argc, argv);
	}
	if (fflush(stdout) != 0 || ferror(stdout)) {
		ctl_say("cannot write to standard output: %s", strerror(errno));
		status = status ? status : CTL_FAILED;
	}
	if (c.signal)
		die_of(c.signal);
	return status;
}
