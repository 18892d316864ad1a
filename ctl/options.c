/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parser. One pass over argv: words name the group, the command, then its arguments; options
 * are looked up in the command's table, then among the global ones, which is why a command's own
 * options can only come after it. Nothing is guessed: an option must be written out, a value must
 * be there. What is wrong is said in words that help (the nearest name, the values that would do).
 *
 * All texts in an invocation are argv's own; only the arrays are allocated, each once, as long as
 * argv.
 */
#include <assert.h>
#include <string.h>
#include "options.h"
#include "text.h"

struct parser {
	const struct cli_group *groups;
	int argc;
	char **argv;
	int i;      /* the word being read */
	bool shown; /* --help or --version was among them: the rest need not be right */
	struct cli_invocation *in;
	struct banger_error *err;
};

#define refuse(p, ...) banger_error_set((p)->err, BANGER_BAD_REQUEST, __VA_ARGS__)

/* The name nearest to `word`, or NULL; kept in *best. */
struct nearest {
	const char *name;
	unsigned distance;
};

static void consider(struct nearest *n, const char *word, const char *name)
{
	unsigned limit = strlen(word) > 4 ? 2 : 1;
	unsigned d = text_distance(word, name, limit);

	if (d <= limit && (!n->name || d < n->distance)) {
		n->name = name;
		n->distance = d;
	}
}

static int unknown_option(struct parser *p, const char *word, size_t len)
{
	struct nearest n = {0};
	char name[64];

	snprintf(name, sizeof(name), "%.*s", (int)len, word);
	for (const struct cli_option *o = p->in->command ? p->in->command->options : NULL;
		o && o->name; o++)
		consider(&n, name, o->name);
	for (const struct cli_option *o = cli_globals; o->name; o++)
		consider(&n, name, o->name);
	if (n.name)
		return refuse(p, "there is no option --%s; did you mean --%s?", name, n.name);
	if (!p->in->command)
		return refuse(p,
			"there is no global option --%s; a command's own options stand after it",
			name);
	return refuse(p, "there is no option --%s", name);
}

static int out_of_range(struct parser *p, const struct cli_option *o, const char *text)
{
	char lo[TEXT_SIZE_LEN], hi[TEXT_SIZE_LEN];
	const char *unit = o->type == CLI_DURATION ? "ms" : "";

	if (o->type == CLI_SIZE) {
		text_size(o->min, lo);
		text_size(o->max, hi);
	} else {
		snprintf(lo, sizeof(lo), "%lld%s", (long long)o->min, unit);
		snprintf(hi, sizeof(hi), "%lld%s", (long long)o->max, unit);
	}
	if (o->max)
		return refuse(p, "--%s is from %s to %s, not \"%s\"", o->name, lo, hi, text);
	return refuse(p, "--%s is at least %s and fits 63 bits, not \"%s\"", o->name, lo, text);
}

static int read_number(struct parser *p, const struct cli_option *o, struct cli_value *v)
{
	const char *form = "a whole number";
	char *end = NULL;
	int r = 0;

	if (o->type == CLI_SIZE) {
		r = text_size_parse(v->text, &v->number);
		form = "a size, such as 4096, 512M or 1.5G";
	} else if (o->type == CLI_DURATION) {
		r = text_duration_parse(v->text, &v->number);
		form = "a time, such as 30, 90s, 5m or 250ms";
	} else {
		errno = 0;
		v->number = strtoll(v->text, &end, 10);
		bool whole = end != v->text && !*end &&
			     strspn(v->text, "-0123456789") == strlen(v->text);
		r = !whole ? -EINVAL : -errno;
	}
	if (r == -EINVAL)
		return refuse(p, "--%s takes %s, not \"%s\"", o->name, form, v->text);
	if (r < 0 || v->number < o->min || (o->max && v->number > o->max))
		return out_of_range(p, o, v->text);
	return 0;
}

static int check_choice(
	struct parser *p, const char *what, const char *const *choices, const char *text)
{
	char list[256] = "";
	size_t at = 0;

	for (const char *const *c = choices; *c; c++) {
		if (strcmp(*c, text) == 0)
			return 0;
		at += (size_t)snprintf(list + at, sizeof(list) - at, "%s%s",
			c == choices ? ""
			: c[1]       ? ", "
				     : " or ",
			*c);
		if (at >= sizeof(list))
			at = sizeof(list) - 1;
	}
	return refuse(p, "%s is %s, not \"%s\"", what, list, text);
}

static int add_value(struct parser *p, const struct cli_option *o, const char *text)
{
	struct cli_value v = {.option = o, .text = text};
	char what[64];
	int r = 0;

	if (o->type == CLI_INT || o->type == CLI_SIZE || o->type == CLI_DURATION) {
		r = read_number(p, o, &v);
	} else if (o->type == CLI_CHOICE) {
		snprintf(what, sizeof(what), "--%s", o->name);
		r = check_choice(p, what, o->choices, text);
	}
	if (r < 0)
		return r;
	p->in->values[p->in->n_values++] = v;
	if (strcmp(o->name, "help") == 0 || strcmp(o->name, "version") == 0)
		p->shown = true;
	return 0;
}

/* The value of an option that takes one: after '=' (or the letter), else the next word. */
static int take_value(struct parser *p, const struct cli_option *o, const char *attached)
{
	if (attached)
		return add_value(p, o, attached);
	if (p->i + 1 >= p->argc)
		return refuse(p, "--%s needs a value: --%s %s", o->name, o->name, o->value);
	return add_value(p, o, p->argv[++p->i]);
}

static int read_long(struct parser *p, const char *word)
{
	const char *eq = strchr(word, '=');
	size_t len = eq ? (size_t)(eq - word) : strlen(word);
	const struct cli_option *o =
		cli_option_find(p->in->command ? p->in->command->options : NULL, word, len);

	if (!o)
		o = cli_option_find(cli_globals, word, len);
	if (!o)
		return unknown_option(p, word, len);
	if (o->type != CLI_FLAG)
		return take_value(p, o, eq ? eq + 1 : NULL);
	if (eq)
		return refuse(p, "--%s takes no value", o->name);
	return add_value(p, o, NULL);
}

/* Letters after one dash: flags together, the last may take a value ("-n20", "-n 20"). */
static int read_letters(struct parser *p, const char *letters)
{
	for (; *letters; letters++) {
		const struct cli_option *o =
			cli_letter_find(p->in->command ? p->in->command->options : NULL, *letters);

		if (!o)
			o = cli_letter_find(cli_globals, *letters);
		if (!o)
			return refuse(p, "there is no option -%c", *letters);
		if (o->type != CLI_FLAG)
			return take_value(p, o, letters[1] ? letters + 1 : NULL);
		int r = add_value(p, o, NULL);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Every word that could stand where `word` does. */
static int unknown_command(struct parser *p, const char *word)
{
	const struct cli_group *in_group = p->in->group;
	struct nearest n = {0};

	for (const struct cli_group *g = p->groups; g->name; g++) {
		if (in_group ? g != in_group : false)
			continue;
		if (!in_group && *g->name)
			consider(&n, word, g->name);
		if (in_group || !*g->name)
			for (const struct cli_command *c = g->commands; c->name; c++)
				consider(&n, word, c->name);
	}
	const char *space = in_group ? " " : "", *group = in_group ? in_group->name : "";
	if (n.name)
		return refuse(p, "there is no command \"%s%s%s\"; did you mean \"%s%s%s\"?", group,
			space, word, group, space, n.name);
	return refuse(p, "there is no command \"%s%s%s\"", group, space, word);
}

static int read_command(struct parser *p, const char *word)
{
	struct cli_invocation *in = p->in;

	if (in->group) {
		in->command = cli_command_find(in->group->commands, word);
		return in->command ? 0 : unknown_command(p, word);
	}
	in->group = cli_group_find(p->groups, word);
	if (in->group)
		return 0;
	for (const struct cli_group *g = p->groups; g->name; g++) {
		if (*g->name)
			continue;
		in->command = cli_command_find(g->commands, word);
		if (in->command)
			return 0;
	}
	return unknown_command(p, word);
}

/* Everything from argv[at] on. */
static void take_rest(struct parser *p, int at)
{
	p->in->rest = (const char *const *)p->argv + at;
	p->in->n_rest = (size_t)(p->argc - at);
	p->i = p->argc;
}

/* Are all arguments there, so that this word is of the command's rest? */
static bool rest_begins(const struct parser *p)
{
	const struct cli_command *command = p->in->command;
	size_t n = 0;

	for (const struct cli_argument *a = command->arguments; a && a->name; a++)
		n++;
	return command->rest_plain && p->in->n_args == n;
}

static int read_word(struct parser *p, const char *word)
{
	if (!p->in->command)
		return read_command(p, word);
	if (rest_begins(p)) {
		take_rest(p, p->i);
		return 0;
	}
	p->in->args[p->in->n_args++] = word;
	return 0;
}

/* "--": what follows is the command's rest where it has one, else arguments that may begin with a
 * dash. */
static int read_rest(struct parser *p)
{
	if (p->in->command && p->in->command->rest) {
		take_rest(p, p->i + 1);
		return 0;
	}
	for (p->i++; p->i < p->argc; p->i++) {
		int r = read_word(p, p->argv[p->i]);
		if (r < 0)
			return r;
	}
	return 0;
}

/* The words of one argument: one, or all that are left. */
static int check_words(struct parser *p, const struct cli_argument *a, size_t from)
{
	for (size_t i = from; a->choices && i < p->in->n_args; i++) {
		int r = check_choice(p, a->name, a->choices, p->in->args[i]);
		if (r < 0 || !a->many)
			return r;
	}
	return 0;
}

static int check_arguments(struct parser *p)
{
	const struct cli_command *command = p->in->command;
	const struct cli_argument *a = command->arguments;
	size_t i = 0;

	for (; a && a->name; a++, i++) {
		if (i >= p->in->n_args)
			return a->optional ? 0 : refuse(p, "%s is missing", a->name);
		int r = check_words(p, a, i);
		if (r < 0 || a->many)
			return r;
	}
	if (i >= p->in->n_args)
		return 0;
	if (command->rest)
		return refuse(p, "\"%s\" is one argument too many; %s stands after \"--\"",
			p->in->args[i], command->rest);
	return refuse(p, "\"%s\" is one argument too many", p->in->args[i]);
}

static int check_complete(struct parser *p)
{
	if (!p->in->command)
		return p->in->group ? refuse(p, "%s needs a command", p->in->group->name)
				    : refuse(p, "a command is needed");
	int r = check_arguments(p);
	if (r == 0 && p->in->command->rest_required && p->in->n_rest == 0)
		r = refuse(p, "%s is missing", p->in->command->rest);
	if (r < 0)
		return r;
	for (const struct cli_option *o = p->in->command->options; o && o->name; o++)
		if (o->required && !cli_given(p->in, o->name))
			return refuse(p, "--%s %s is missing", o->name, o->value);
	return 0;
}

static int read_all(struct parser *p)
{
	int r = 0;

	for (p->i = 1; r == 0 && p->i < p->argc; p->i++) {
		const char *word = p->argv[p->i];

		if (strcmp(word, "--") == 0)
			r = read_rest(p);
		else if (strncmp(word, "--", 2) == 0)
			r = read_long(p, word + 2);
		else if (word[0] == '-' && word[1])
			r = read_letters(p, word + 1);
		else
			r = read_word(p, word);
	}
	return r == 0 && !p->shown ? check_complete(p) : r;
}

int cli_parse(const struct cli_group *groups, int argc, char **argv, struct cli_invocation *ret,
	struct banger_error *err)
{
	struct parser p = {.groups = groups, .argc = argc, .argv = argv, .in = ret, .err = err};
	size_t letters = 1;

	/* Letters that stand together are several values in one word. */
	for (int i = 1; i < argc; i++)
		letters += strlen(argv[i]) + 1;
	*ret = (struct cli_invocation){0};
	ret->args = calloc((size_t)argc + 1, sizeof(*ret->args));
	ret->values = calloc(letters, sizeof(*ret->values));
	if (!ret->args || !ret->values)
		return banger_error_oom(err);
	int r = read_all(&p);
	return r < 0 && p.shown ? 0 : r;
}

void cli_invocation_done(struct cli_invocation *in)
{
	free(in->args);
	free(in->values);
	*in = (struct cli_invocation){0};
}

/* The last value given for an option, or NULL. Asking for an option that no table has is our
 * mistake. */
static const struct cli_value *find(const struct cli_invocation *in, const char *name)
{
	const struct cli_value *v = NULL;

	assert(cli_option_find(cli_globals, name, strlen(name)) ||
		cli_option_find(in->command ? in->command->options : NULL, name, strlen(name)));
	for (size_t i = 0; i < in->n_values; i++)
		if (strcmp(in->values[i].option->name, name) == 0)
			v = &in->values[i];
	return v;
}

bool cli_given(const struct cli_invocation *in, const char *name)
{
	return find(in, name) != NULL;
}

const char *cli_text(const struct cli_invocation *in, const char *name)
{
	const struct cli_value *v = find(in, name);

	return v ? v->text : NULL;
}

int64_t cli_number(const struct cli_invocation *in, const char *name, int64_t otherwise)
{
	const struct cli_value *v = find(in, name);

	return v ? v->number : otherwise;
}

const char *cli_next(const struct cli_invocation *in, const char *name, size_t *i)
{
	while (*i < in->n_values) {
		const struct cli_value *v = &in->values[(*i)++];

		if (strcmp(v->option->name, name) == 0)
			return v->text;
	}
	return NULL;
}
