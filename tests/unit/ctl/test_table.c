/* SPDX-License-Identifier: Apache-2.0 */
/* The command table as a whole: nothing twice, nothing without help, and each example is a command
 * line that the parser takes. */
#include "check.h"
#include "ctl.h"
#include "help.h"

static void each_command(void (*check)(const struct cli_group *, const struct cli_command *))
{
	size_t n = 0;

	for (const struct cli_group *g = cli_groups; g->name; g++)
		for (const struct cli_command *c = g->commands; c->name; c++, n++)
			check(g, c);
	assert_true(n > 20);
}

static void is_documented(const struct cli_group *g, const struct cli_command *c)
{
	assert_non_null(c->handler);
	assert_non_null(c->help);
	assert_true(strlen(c->help) <= 57); /* one line of the list */
	assert_true(c->help[strlen(c->help) - 1] != '.');
	assert_non_null(c->examples);
	assert_non_null(c->examples[0].line);
	for (const struct cli_example *e = c->examples; e->line; e++)
		assert_non_null(e->what);
	for (const struct cli_argument *a = c->arguments; a && a->name; a++)
		assert_non_null(a->help);
	assert_true(!c->rest || c->rest_help);
}

static void documented(void **state)
{
	each_command(is_documented);
}

static void option_is_sound(const struct cli_option *o)
{
	assert_non_null(o->help);
	assert_true(o->help[strlen(o->help) - 1] != '.');
	assert_int_equal(o->type == CLI_FLAG, o->value == NULL);
	assert_int_equal(o->type == CLI_CHOICE, o->choices != NULL);
	assert_true(!o->required || o->type != CLI_FLAG);
	assert_true(o->min <= o->max || o->max == 0);
}

static void options_are_sound(const struct cli_group *g, const struct cli_command *c)
{
	for (const struct cli_option *o = c->options; o && o->name; o++) {
		option_is_sound(o);
		/* Not twice, and never in the way of a global one. */
		assert_ptr_equal(cli_option_find(c->options, o->name, strlen(o->name)), o);
		assert_null(cli_option_find(cli_globals, o->name, strlen(o->name)));
		if (o->letter) {
			assert_ptr_equal(cli_letter_find(c->options, o->letter), o);
			assert_null(cli_letter_find(cli_globals, o->letter));
		}
	}
	/* Only the last argument may be many, and none that must be there follows one that may. */
	for (const struct cli_argument *a = c->arguments; a && a->name; a++) {
		assert_true(!a->many || !a[1].name);
		assert_true(!a->optional || !a[1].name || a[1].optional);
	}
}

static void options_sound(void **state)
{
	for (const struct cli_option *o = cli_globals; o->name; o++)
		option_is_sound(o);
	each_command(options_are_sound);
}

static void is_once(const struct cli_group *g, const struct cli_command *c)
{
	assert_ptr_equal(cli_command_find(g->commands, c->name), c);
	assert_ptr_equal(help_group_of(c), g);
	for (const struct cli_group *other = cli_groups; other->name; other++) {
		if (*g->name)
			continue;
		assert_string_not_equal(other->name, c->name);
		if (!*other->name && other != g)
			assert_null(cli_command_find(other->commands, c->name));
	}
}

static void names_are_single(void **state)
{
	each_command(is_once);
}

/* The words of an example's "banger-ctl …", up to what the shell would take for itself. */
static int split(char *line, char **argv, int max)
{
	char *at = strstr(line, "banger-ctl"), *save = NULL;
	int argc = 0;

	if (!at)
		return 0;
	at[strcspn(at, "|&<>();")] = '\0';
	for (char *w = strtok_r(at, " ", &save); w && argc < max - 1;
		w = strtok_r(NULL, " ", &save))
		argv[argc++] = w;
	argv[argc] = NULL;
	return argc;
}

static void examples_are_commands(const struct cli_group *g, const struct cli_command *c)
{
	bool about_itself = false;

	for (const struct cli_example *e = c->examples; e->line; e++) {
		char line[200], *argv[32];
		struct cli_invocation in = {0};
		struct banger_error err = {0};

		assert_true(strlen(e->line) < sizeof(line));
		strcpy(line, e->line);
		int argc = split(line, argv, 32);
		if (argc == 0)
			continue;
		int r = cli_parse(cli_groups, argc, argv, &in, &err);
		if (r < 0)
			print_error("%s: %s\n", e->line, err.message);
		assert_int_equal(r, 0);
		about_itself |= in.command == c;
		cli_invocation_done(&in);
	}
	assert_true(about_itself);
}

static void examples_parse(void **state)
{
	each_command(examples_are_commands);
}

static void help_is_narrow(const char *text)
{
	while (*text) {
		size_t n = strcspn(text, "\n");

		/* Examples are one line, however long, so that they can be copied. */
		if (n > 80 && strncmp(text, "  banger-ctl", 12) != 0 &&
			!strstr(text, "| banger-ctl"))
			print_error("%.*s\n", (int)n, text);
		text += n + (text[n] == '\n');
	}
}

static void has_help(const struct cli_group *g, const struct cli_command *c)
{
	struct cli_invocation in = {.group = *g->name ? g : NULL, .command = c};
	char *text = NULL, usage[200];
	size_t size = 0;
	FILE *f = open_memstream(&text, &size);

	help_print(f, &in);
	fclose(f);
	snprintf(usage, sizeof(usage), "\nUsage: banger-ctl %s%s%s", g->name, *g->name ? " " : "",
		c->name);
	assert_non_null(strstr(text, usage));
	assert_non_null(strstr(text, "\nExamples:\n"));
	for (const struct cli_option *o = c->options; o && o->name; o++) {
		snprintf(usage, sizeof(usage), "--%s", o->name);
		assert_non_null(strstr(text, usage));
	}
	help_is_narrow(text);
	free(text);
}

static void help_everywhere(void **state)
{
	each_command(has_help);
}

static void in_manual(const struct cli_group *g, const struct cli_command *c)
{
	static char *text;
	char heading[200];
	size_t size = 0;

	if (!text) {
		FILE *f = open_memstream(&text, &size);
		man_print(f);
		fclose(f);
		assert_true(strncmp(text, ".TH ", 4) == 0);
	}
	snprintf(heading, sizeof(heading), ".SS \"%s%s%s", g->name, *g->name ? " " : "", c->name);
	assert_non_null(strstr(text, heading));
}

static void manual_has_all(void **state)
{
	each_command(in_manual);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(documented),
		cmocka_unit_test(options_sound),
		cmocka_unit_test(names_are_single),
		cmocka_unit_test(examples_parse),
		cmocka_unit_test(help_everywhere),
		cmocka_unit_test(manual_has_all),
	};
	return cmocka_run_group_tests_name("ctl/table", tests, NULL, NULL);
}
