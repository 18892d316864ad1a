/* SPDX-License-Identifier: Apache-2.0 */
/* The parser, on a table of its own: what it takes, what it refuses, and in which words. */
#include "check.h"
#include "options.h"

static const char *const colours[] = {"red", "green", "blue", NULL};

static const struct cli_option paint_options[] = {
	{"colour", 'c', CLI_CHOICE, "COLOUR", "which", .choices = colours},
	{"coats", 'n', CLI_INT, "N", "how many", .min = 1, .max = 9},
	{"area", 0, CLI_SIZE, "SIZE", "how much", .min = 1024},
	{"dry", 0, CLI_DURATION, "TIME", "how long"},
	{"note", 0, CLI_TEXTS, "TEXT", "what to note"},
	{"wet", 'w', CLI_FLAG, NULL, "wet"},
	{"fast", 'f', CLI_FLAG, NULL, "fast"},
	{"brush", 'b', CLI_TEXT, "BRUSH", "with what", .required = true},
	{NULL},
};
static const struct cli_argument paint_arguments[] = {
	{"WALL", "which"}, {"MORE", "others", .optional = true, .many = true}, {NULL}};
static const struct cli_argument which_arguments[] = {
	{"COLOUR", "which", .choices = colours}, {NULL}};
static const struct cli_argument two_arguments[] = {
	{"A", "first"}, {"B", "second", .optional = true}, {NULL}};

static const struct cli_argument one_argument[] = {{"A", "first"}, {NULL}};
static const struct cli_option do_options[] = {{"wet", 'w', CLI_FLAG, NULL, "wet"}, {NULL}};

static const struct cli_command wall_commands[] = {
	{.name = "paint", .help = "paint", .arguments = paint_arguments, .options = paint_options},
	{.name = "run",
		.help = "run",
		.arguments = two_arguments,
		.rest = "CMD...",
		.rest_help = "it"},
	{.name = "show", .help = "show", .arguments = which_arguments},
	{.name = "do",
		.help = "do",
		.arguments = one_argument,
		.options = do_options,
		.rest = "CMD...",
		.rest_help = "it",
		.rest_plain = true,
		.rest_required = true},
	{NULL},
};
static const struct cli_command plain_commands[] = {{.name = "ping", .help = "ping"}, {NULL}};
static const struct cli_group groups[] = {
	{"", "plain", plain_commands}, {"wall", "walls", wall_commands}, {NULL}};

static struct cli_invocation in;
static struct banger_error err;

/* Parse the words after the program's name. */
static int parse(const char *const *words)
{
	static char *argv[32];
	int argc = 1;

	argv[0] = (char *)"prog";
	for (; *words; words++)
		argv[argc++] = (char *)*words;
	argv[argc] = NULL;
	cli_invocation_done(&in);
	err = (struct banger_error){0};
	return cli_parse(groups, argc, argv, &in, &err);
}
#define PARSE(...) parse((const char *const[]){__VA_ARGS__, NULL})
#define REFUSES(text, ...)                                                                         \
	do {                                                                                       \
		assert_int_equal(PARSE(__VA_ARGS__), -EINVAL);                                     \
		assert_string_equal(err.message, text);                                            \
	} while (0)

static void commands(void **state)
{
	assert_int_equal(PARSE("ping"), 0);
	assert_null(in.group);
	assert_string_equal(in.command->name, "ping");
	assert_int_equal(PARSE("wall", "show", "red"), 0);
	assert_string_equal(in.group->name, "wall");
	assert_string_equal(in.command->name, "show");
	REFUSES("there is no command \"pong\"; did you mean \"ping\"?", "pong");
	REFUSES("there is no command \"wall pain\"; did you mean \"wall paint\"?", "wall", "pain");
	REFUSES("there is no command \"quux\"", "quux");
	REFUSES("wall needs a command", "wall");
	assert_ptr_equal(in.group, &groups[1]);
	assert_int_equal(parse((const char *const[]){NULL}), -EINVAL);
	assert_string_equal(err.message, "a command is needed");
}

static void globals_anywhere(void **state)
{
	assert_int_equal(PARSE("--socket", "/a", "wall", "--json", "show", "-q", "red"), 0);
	assert_string_equal(cli_text(&in, "socket"), "/a");
	assert_true(cli_given(&in, "json") && cli_given(&in, "quiet"));
	assert_false(cli_given(&in, "help"));
	assert_int_equal(PARSE("ping", "--socket=/b", "--socket", "/c"), 0);
	assert_string_equal(cli_text(&in, "socket"), "/c"); /* the last one */
	REFUSES("there is no global option --colour; a command's own options stand after it",
		"--colour", "red", "wall", "paint");
	REFUSES("there is no option --jsn; did you mean --json?", "ping", "--jsn");
	REFUSES("--socket needs a value: --socket PATH", "ping", "--socket");
	REFUSES("--json takes no value", "ping", "--json=yes");
	REFUSES("there is no option -z", "ping", "-z");
}

static void values(void **state)
{
	assert_int_equal(PARSE("wall", "paint", "-c", "red", "north", "-n3", "--area=1.5K", "--dry",
				 "2m", "-b", "big"),
		0);
	assert_string_equal(cli_text(&in, "colour"), "red");
	assert_int_equal(cli_number(&in, "coats", 0), 3);
	assert_int_equal(cli_number(&in, "area", 0), 1536);
	assert_int_equal(cli_number(&in, "dry", 0), 120000);
	assert_string_equal(cli_text(&in, "brush"), "big");
	assert_int_equal(in.n_args, 1);
	assert_int_equal(PARSE("wall", "paint", "north", "-b", "-"), 0);
	assert_int_equal(cli_number(&in, "coats", 7), 7);
	assert_null(cli_text(&in, "colour"));
	/* Values are taken as they are, even if they look like options. */
	assert_int_equal(PARSE("wall", "paint", "north", "-b", "--help"), 0);
	assert_string_equal(cli_text(&in, "brush"), "--help");
	REFUSES("--colour is red, green or blue, not \"pink\"", "wall", "paint", "n", "-b", "x",
		"-c", "pink");
	REFUSES("--coats takes a whole number, not \"two\"", "wall", "paint", "n", "-b", "x", "-n",
		"two");
	REFUSES("--coats takes a whole number, not \" 2\"", "wall", "paint", "n", "-b", "x", "-n",
		" 2");
	REFUSES("--coats is from 1 to 9, not \"10\"", "wall", "paint", "n", "-b", "x",
		"--coats=10");
	REFUSES("--coats is from 1 to 9, not \"99999999999999999999\"", "wall", "paint", "n", "-b",
		"x", "--coats=99999999999999999999");
	REFUSES("--area is at least 1.0KiB and fits 63 bits, not \"1\"", "wall", "paint", "n", "-b",
		"x", "--area=1");
	REFUSES("--dry takes a time, such as 30, 90s, 5m or 250ms, not \"soon\"", "wall", "paint",
		"n", "-b", "x", "--dry", "soon");
	REFUSES("--brush BRUSH is missing", "wall", "paint", "n");
}

static void letters(void **state)
{
	assert_int_equal(PARSE("wall", "paint", "n", "-wfb", "x", "-qn2"), 0);
	assert_true(cli_given(&in, "wet") && cli_given(&in, "fast") && cli_given(&in, "quiet"));
	assert_string_equal(cli_text(&in, "brush"), "x");
	assert_int_equal(cli_number(&in, "coats", 0), 2);
	REFUSES("there is no option -z", "wall", "paint", "n", "-wz");
	/* Many letters in few words: as many values as letters. */
	assert_int_equal(PARSE("wall", "paint", "n", "-bx",
				 "-wwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwww"),
		0);
}

static void repeated(void **state)
{
	size_t i = 0;

	assert_int_equal(
		PARSE("wall", "paint", "--note", "a", "n", "--note=b", "-b", "x", "--note", ""), 0);
	assert_string_equal(cli_next(&in, "note", &i), "a");
	assert_string_equal(cli_next(&in, "note", &i), "b");
	assert_string_equal(cli_next(&in, "note", &i), "");
	assert_null(cli_next(&in, "note", &i));
}

static void arguments(void **state)
{
	assert_int_equal(PARSE("wall", "paint", "-b", "x", "n", "s", "e"), 0);
	assert_int_equal(in.n_args, 3);
	assert_string_equal(in.args[2], "e");
	REFUSES("WALL is missing", "wall", "paint", "-b", "x");
	REFUSES("\"red\" is one argument too many", "wall", "show", "blue", "red");
	REFUSES("COLOUR is red, green or blue, not \"pink\"", "wall", "show", "pink");
	REFUSES("\"x\" is one argument too many", "ping", "x");
	/* After "--" a word may begin with a dash. */
	assert_int_equal(PARSE("wall", "paint", "-b", "x", "--", "-n", "--wet"), 0);
	assert_int_equal(in.n_args, 2);
	assert_string_equal(in.args[1], "--wet");
}

static void rest(void **state)
{
	assert_int_equal(PARSE("wall", "run", "a", "--", "ls", "--help", "--", "-q"), 0);
	assert_int_equal(in.n_args, 1);
	assert_int_equal(in.n_rest, 4);
	assert_string_equal(in.rest[1], "--help");
	assert_string_equal(in.rest[3], "-q");
	assert_false(cli_given(&in, "quiet"));
	assert_int_equal(PARSE("wall", "run", "a", "--"), 0);
	assert_int_equal(in.n_rest, 0);
	REFUSES("\"c\" is one argument too many; CMD... stands after \"--\"", "wall", "run", "a",
		"b", "c");
	REFUSES("A is missing", "wall", "run", "--", "ls");
}

/* A command without "--": its first word ends our options. */
static void plain_rest(void **state)
{
	assert_int_equal(PARSE("wall", "do", "-w", "a", "ls", "-q", "--help", "--", "x"), 0);
	assert_true(cli_given(&in, "wet") && !cli_given(&in, "quiet") && !cli_given(&in, "help"));
	assert_int_equal(in.n_args, 1);
	assert_int_equal(in.n_rest, 5);
	assert_string_equal(in.rest[0], "ls");
	assert_string_equal(in.rest[3], "--");
	assert_int_equal(PARSE("wall", "do", "a", "-w", "--", "-x"), 0);
	assert_true(cli_given(&in, "wet"));
	assert_int_equal(in.n_rest, 1);
	assert_string_equal(in.rest[0], "-x");
	REFUSES("CMD... is missing", "wall", "do", "a");
	REFUSES("CMD... is missing", "wall", "do", "a", "--");
	REFUSES("A is missing", "wall", "do");
	REFUSES("there is no option -x", "wall", "do", "a", "-x", "ls");
}

static void help_wins(void **state)
{
	assert_int_equal(PARSE("--help", "wall", "paint"), 0);
	assert_string_equal(in.command->name, "paint");
	assert_true(cli_given(&in, "help"));
	assert_int_equal(PARSE("wall", "-h"), 0);
	assert_string_equal(in.group->name, "wall");
	assert_int_equal(PARSE("--version"), 0);
	assert_int_equal(PARSE("wall", "paint", "--help", "--nonsense"), 0);
	/* What is wrong before it is still wrong. */
	assert_int_equal(PARSE("wall", "paint", "--nonsense", "--help"), -EINVAL);
}

static int done(void **state)
{
	cli_invocation_done(&in);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(commands, done),
		cmocka_unit_test_teardown(globals_anywhere, done),
		cmocka_unit_test_teardown(values, done),
		cmocka_unit_test_teardown(letters, done),
		cmocka_unit_test_teardown(repeated, done),
		cmocka_unit_test_teardown(arguments, done),
		cmocka_unit_test_teardown(rest, done),
		cmocka_unit_test_teardown(plain_rest, done),
		cmocka_unit_test_teardown(help_wins, done),
	};
	return cmocka_run_group_tests_name("ctl/options", tests, NULL, NULL);
}
