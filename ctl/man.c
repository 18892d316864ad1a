/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The manual page, made from the same table as --help when banger is built. Texts are escaped for
 * roff: a backslash, a dash that must stay one, and a full stop or quote at a line's beginning.
 */
#include <string.h>
#include "help.h"

static void put(FILE *f, const char *text)
{
	bool begins = true;

	for (; *text; text++) {
		if (begins && (*text == '.' || *text == '\''))
			fputs("\\&", f);
		begins = *text == '\n';
		if (*text == '\\')
			fputs("\\e", f);
		else if (*text == '-')
			fputs("\\-", f);
		else
			fputc(*text, f);
	}
}

/* Paragraphs: "\n\n" becomes .PP */
static void put_paragraphs(FILE *f, const char *text)
{
	while (*text) {
		const char *end = strstr(text, "\n\n");
		char part[2048];

		snprintf(part, sizeof(part), "%.*s", (int)(end ? end - text : (long)strlen(text)),
			text);
		fputs(".PP\n", f);
		put(f, part);
		fputc('\n', f);
		text = end ? end + 2 : "";
	}
}

static void put_option(FILE *f, const struct cli_option *o)
{
	fputs(".TP\n", f);
	if (o->letter)
		fprintf(f, "\\fB\\-%c\\fR, ", o->letter);
	fputs("\\fB\\-\\-", f);
	put(f, o->name);
	fputs("\\fR", f);
	if (o->value) {
		fputs(" \\fI", f);
		put(f, o->value);
		fputs("\\fR", f);
	}
	fputc('\n', f);
	put(f, o->help);
	fprintf(f, "%s%s.\n", o->required ? " (required)" : "",
		o->type == CLI_TEXTS ? " (may be repeated)" : "");
}

static void put_argument(FILE *f, const char *name, const char *help)
{
	fputs(".TP\n\\fI", f);
	put(f, name);
	fputs("\\fR\n", f);
	put(f, help);
	fputs(".\n", f);
}

static void put_synopsis(FILE *f, const struct cli_group *g, const struct cli_command *c)
{
	_cleanup_free_ char *text = NULL;
	size_t size = 0;
	FILE *m = open_memstream(&text, &size);

	if (!m)
		return;
	help_synopsis(m, g, c);
	fclose(m);
	fputs(".SS \"", f);
	put(f, text);
	fputs("\"\n", f);
}

static void put_command(FILE *f, const struct cli_group *g, const struct cli_command *c)
{
	put_synopsis(f, g, c);
	put(f, c->help);
	fputs(".\n", f);
	if (c->about)
		put_paragraphs(f, c->about);
	for (const struct cli_argument *a = c->arguments; a && a->name; a++)
		put_argument(f, a->name, a->help);
	if (c->rest)
		put_argument(f, c->rest, c->rest_help);
	for (const struct cli_option *o = c->options; o && o->name; o++)
		put_option(f, o);
	for (const struct cli_example *e = c->examples; e && e->line; e++) {
		fputs(".PP\n", f);
		put(f, e->what);
		fputs(":\n.PP\n.RS 4\n.nf\n", f);
		put(f, e->line);
		fputs("\n.fi\n.RE\n", f);
	}
}

static void put_commands(FILE *f)
{
	fputs(".SH COMMANDS\n", f);
	for (const struct cli_group *g = cli_groups; g->name; g++)
		for (const struct cli_command *c = g->commands; c->name; c++)
			put_command(f, g, c);
}

static void put_terms(FILE *f, const char *heading, const char *const (*terms)[2])
{
	fprintf(f, ".SH %s\n", heading);
	for (; (*terms)[0]; terms++) {
		fputs(".TP\n", f);
		put(f, (*terms)[0]);
		fputc('\n', f);
		put(f, (*terms)[1]);
		fputc('\n', f);
	}
}

static const char *const statuses[][2] = {
	{"0", "Done."},
	{"1", "Refused or failed; the sentence on standard error says why, and ends with the "
	      "op_id."},
	{"2", "Usage: the command line is not one."},
	{"3", "The daemon cannot be reached."},
	{"any, 125", "\"vm run\", \"vm exec\" and \"vm shell\" exit as the command in the VM did "
		     "(128 and the signal's number if one killed it), and with 125 where banger "
		     "itself failed."},
	{NULL},
};

static const char *const environment[][2] = {
	{"BANGER_SOCKET", "Socket of bangerd; by default bangerd.sock in the runtime directory."},
	{"BANGER_RUNTIME_DIR", "Where sockets are; by default /run/banger for root, else banger in "
			       "$XDG_RUNTIME_DIR."},
	{"BANGER_CONFIG", "Configuration file, a JSON object; by default /etc/banger/config.json "
			  "for root, else "
			  "banger/config.json in $XDG_CONFIG_HOME or ~/.config."},
	{NULL},
};

void man_print(FILE *f)
{
	fputs(".TH BANGER\\-CTL 1 \"\" \"banger " BANGER_VERSION "\" \"User Commands\"\n"
	      ".SH NAME\nbanger\\-ctl \\- command line of the VM image registry\n"
	      ".SH SYNOPSIS\n\\fBbanger\\-ctl\\fR [\\fIOPTIONS\\fR] \\fICOMMAND\\fR\n"
	      ".SH DESCRIPTION\n",
		f);
	put(f, "banger keeps VM images as directories. bangerd owns the registry; banger-ctl asks "
	       "it, over its "
	       "Unix socket, to register, publish, browse, boot and delete images.\n");
	put_paragraphs(f,
		"Images, drafts, kernels and VMs are named by their exact name, else their "
		"exact id, else a prefix "
		"of an id or a name that only one has. Where a draft and a published "
		"image have one name, "
		"drafts/NAME and images/NAME tell them apart.\n\n"
		"Every operation has an op_id, such as op-5b0c7e21d9aa. An error ends "
		"with it, and \"banger-ctl "
		"op log\" shows everything that was logged under it.");
	fputs(".SH OPTIONS\nThese may stand before or after the command.\n", f);
	for (const struct cli_option *o = cli_globals; o->name; o++)
		put_option(f, o);
	put_commands(f);
	put_terms(f, "EXIT STATUS", statuses);
	put_terms(f, "ENVIRONMENT", environment);
}
