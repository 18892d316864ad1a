/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Usage and --help, from the table. Lines are at most 80 columns: a term in a column of its own,
 * its text wrapped beside it.
 */
#include <string.h>
#include "help.h"

enum { WIDTH = 79, TERM = 22 };

/* Print `text` wrapped, the first line beginning at column `at`, the others indented to `indent`.
 * Two newlines part paragraphs. */
static void wrap(FILE *f, const char *text, size_t at, size_t indent)
{
	bool first = true;

	while (*text) {
		size_t n = strcspn(text, " \n");

		if (!first && at + 1 + n > WIDTH) {
			fprintf(f, "\n%*s", (int)indent, "");
			at = indent;
			first = true;
		}
		at += (size_t)fprintf(f, "%s%.*s", first ? "" : " ", (int)n, text);
		first = false;
		text += n;
		if (strncmp(text, "\n\n", 2) == 0) {
			fprintf(f, "\n\n%*s", (int)indent, "");
			at = indent;
			first = true;
		}
		text += strspn(text, " \n");
	}
	fputc('\n', f);
}

static void print_term(FILE *f, const char *term, const char *text)
{
	size_t at = (size_t)fprintf(f, "  %s", term);

	if (at + 2 > TERM) {
		fputc('\n', f);
		at = 0;
	}
	fprintf(f, "%*s", (int)(TERM - at), "");
	wrap(f, text, TERM, TERM);
}

/* "-q, --quiet", "    --name NAME" */
static void option_term(const struct cli_option *o, char *buf, size_t size)
{
	char letter[8] = "    ";

	if (o->letter)
		snprintf(letter, sizeof(letter), "-%c, ", o->letter);
	snprintf(buf, size, "%s--%s%s%s", letter, o->name, o->value ? " " : "",
		o->value ? o->value : "");
}

static void print_options(FILE *f, const char *title, const struct cli_option *options)
{
	char term[64], text[512];

	if (!options || !options->name)
		return;
	fprintf(f, "\n%s:\n", title);
	for (const struct cli_option *o = options; o->name; o++) {
		option_term(o, term, sizeof(term));
		snprintf(text, sizeof(text), "%s%s%s", o->help, o->required ? " (required)" : "",
			o->type == CLI_TEXTS ? " (may be repeated)" : "");
		print_term(f, term, text);
	}
}

const struct cli_group *help_group_of(const struct cli_command *command)
{
	for (const struct cli_group *g = cli_groups; g->name; g++)
		for (const struct cli_command *c = g->commands; c->name; c++)
			if (c == command)
				return g;
	return NULL;
}

void help_synopsis(FILE *f, const struct cli_group *group, const struct cli_command *command)
{
	bool optional = false;

	fprintf(f, "%s%s%s", group ? group->name : "", group && *group->name ? " " : "",
		command->name);
	for (const struct cli_option *o = command->options; o && o->name; o++) {
		optional |= !o->required;
		if (o->required)
			fprintf(f, " --%s %s", o->name, o->value);
	}
	if (optional)
		fputs(" [OPTIONS]", f);
	for (const struct cli_argument *a = command->arguments; a && a->name; a++)
		fprintf(f, " %s%s%s%s", a->optional ? "[" : "", a->name, a->many ? "..." : "",
			a->optional ? "]" : "");
	if (command->rest && command->rest_required)
		fprintf(f, " %s", command->rest);
	else if (command->rest)
		fprintf(f, " [%s%s]", command->rest_plain ? "" : "-- ", command->rest);
}

static void help_command(FILE *f, const struct cli_group *group, const struct cli_command *c)
{
	fprintf(f, "%s.\n\nUsage: banger-ctl ", c->help);
	help_synopsis(f, group, c);
	fputc('\n', f);
	if (c->about) {
		fputc('\n', f);
		wrap(f, c->about, 0, 0);
	}
	if (c->arguments || c->rest)
		fputs("\nArguments:\n", f);
	for (const struct cli_argument *a = c->arguments; a && a->name; a++)
		print_term(f, a->name, a->help);
	if (c->rest)
		print_term(f, c->rest, c->rest_help);
	print_options(f, "Options", c->options);
	print_options(f, "Global options", cli_globals);
	if (c->examples)
		fputs("\nExamples:\n", f);
	for (const struct cli_example *e = c->examples; e && e->line; e++)
		fprintf(f, "  %s\n      %s\n", e->line, e->what);
}

static void list_commands(FILE *f, const struct cli_group *g)
{
	char term[64];

	for (const struct cli_command *c = g->commands; c->name; c++) {
		snprintf(term, sizeof(term), "%s%s%s", g->name, *g->name ? " " : "", c->name);
		print_term(f, term, c->help);
	}
}

static void help_group(FILE *f, const struct cli_group *g)
{
	fprintf(f, "%s.\n\nUsage: banger-ctl %s COMMAND\n\nCommands:\n", g->help, g->name);
	list_commands(f, g);
	print_options(f, "Global options", cli_globals);
	fprintf(f, "\n\"banger-ctl %s COMMAND --help\" says more of a command.\n", g->name);
}

static void help_program(FILE *f)
{
	fputs("VM images as directories: the command line of bangerd.\n\n"
	      "Usage: banger-ctl [OPTIONS] COMMAND\n",
		f);
	for (const struct cli_group *g = cli_groups; g->name; g++) {
		fprintf(f, "\n%s:\n", g->help);
		list_commands(f, g);
	}
	print_options(f, "Global options (before or after the command)", cli_globals);
	fputs("\nExit status: 0 done, 1 refused or failed, 2 usage, 3 bangerd cannot be reached;\n"
	      "of vm run, exec and shell that of the command, 125 if banger itself failed.\n"
	      "\"banger-ctl COMMAND --help\" says more of a command.\n",
		f);
}

void help_print(FILE *f, const struct cli_invocation *in)
{
	if (in->command)
		help_command(f, help_group_of(in->command), in->command);
	else if (in->group)
		help_group(f, in->group);
	else
		help_program(f);
}

void help_name(const struct cli_invocation *in, char *buf, size_t size)
{
	snprintf(buf, size, "banger-ctl%s%s%s%s", in->group ? " " : "",
		in->group ? in->group->name : "", in->command ? " " : "",
		in->command ? in->command->name : "");
}
