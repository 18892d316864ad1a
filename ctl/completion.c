/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Completion. The shells' scripts are thin: they hand the words typed so far to "banger-ctl
 * --complete", which finds from the table what can stand there, and asks the daemon for names where
 * a name is wanted. A daemon that is away or slow gives no names, never an error or a wait: the
 * prompt is somebody's.
 */
#include <string.h>
#include <banger/methods.h>
#include <banger/model.h>
#include "ctl.h"
#include "help.h"
#include "text.h"

enum { NAMES_MAX = 2000, OPERATIONS_MAX = 50, PATIENCE_S = 2 };

/* What the words before the last one say. */
struct typed {
	const struct cli_group *group;
	const struct cli_command *command;
	const struct cli_option *pending; /* its value is what comes next */
	size_t n_args;
	bool rest; /* after "--", or in the command that is to be run */
	const char *socket, *config;
};

struct offer {
	FILE *f;
	const char *begins, *prefix; /* a candidate must begin so; what the shell wants before it */
	const struct typed *typed;
};

static void offer(const struct offer *o, const char *word, const char *what)
{
	_cleanup_free_ char *safe = text_clean(what);

	if (word && safe && strncmp(word, o->begins, strlen(o->begins)) == 0)
		fprintf(o->f, "%s%s\t%s\n", o->prefix, word, safe);
}

static void open_words(const struct offer *o)
{
	fputs(":words\n", o->f);
}

/* ---- what was typed */

static const struct cli_option *long_option(const struct typed *t, const char *word)
{
	size_t len = strcspn(word, "=");
	const struct cli_option *o =
		cli_option_find(t->command ? t->command->options : NULL, word, len);

	return o ? o : cli_option_find(cli_globals, word, len);
}

static const struct cli_option *last_letter(const struct typed *t, const char *letters)
{
	for (; *letters; letters++) {
		const struct cli_option *o =
			cli_letter_find(t->command ? t->command->options : NULL, *letters);

		if (o && o->type != CLI_FLAG)
			return letters[1] ? NULL : o;
	}
	return NULL;
}

static void take_value(struct typed *t, const struct cli_option *o, const char *value)
{
	if (strcmp(o->name, "socket") == 0)
		t->socket = value;
	else if (strcmp(o->name, "config") == 0)
		t->config = value;
	t->pending = NULL;
}

static void take_command(struct typed *t, const char *word)
{
	if (t->group) {
		t->command = cli_command_find(t->group->commands, word);
		return;
	}
	t->group = cli_group_find(cli_groups, word);
	for (const struct cli_group *g = cli_groups; !t->group && !t->command && g->name; g++)
		if (!*g->name)
			t->command = cli_command_find(g->commands, word);
}

static size_t count_arguments(const struct cli_command *command)
{
	size_t n = 0;

	for (const struct cli_argument *a = command->arguments; a && a->name; a++)
		n++;
	return n;
}

static void take_word(struct typed *t, const char *word)
{
	const struct cli_option *o = NULL;

	if (t->rest)
		return;

	/* bash parts "--name=x" into three words. */
	if (t->pending && strcmp(word, "=") == 0)
		return;
	if (t->pending) {
		take_value(t, t->pending, word);
	} else if (strcmp(word, "--") == 0) {
		t->rest = true;
	} else if (strncmp(word, "--", 2) == 0) {
		o = long_option(t, word + 2);
		if (o && o->type != CLI_FLAG && strchr(word, '='))
			take_value(t, o, strchr(word, '=') + 1);
		else if (o && o->type != CLI_FLAG)
			t->pending = o;
	} else if (word[0] == '-' && word[1]) {
		t->pending = last_letter(t, word + 1);
	} else if (t->command) {
		t->n_args++;
		t->rest = t->command->rest_plain && t->n_args > count_arguments(t->command);
	} else {
		take_command(t, word);
	}
}

/* ---- names from the daemon */

static int ask(const struct typed *t, struct ctl *c, const char *method, struct json_object *params,
	struct json_object **ret)
{
	const struct banger_config_flags flags = {.socket = t->socket, .config = t->config};
	int r = 0;

	if (!c->config.socket)
		r = banger_config_load(&flags, &c->config, NULL);
	if (r < 0) {
		json_object_put(params);
		return r;
	}
	return ctl_call(c, method, params, ret, NULL);
}

static void offer_images(const struct offer *o, struct ctl *c, const char *state)
{
	_cleanup_free_ char *after = NULL;

	for (size_t seen = 0; seen < NAMES_MAX;) {
		_cleanup_json_ struct json_object *params = NULL, *result = NULL;

		if (ctl_params(&params, NULL, "state", state, "after", after, NULL) < 0 ||
			ask(o->typed, c, BANGER_METHOD_IMAGE_LS, TAKE_PTR(params), &result) < 0)
			return;
		size_t n = ctl_json_count(result, "images");
		for (size_t i = 0; i < n; i++) {
			struct json_object *image = ctl_json_at(result, "images", i);
			const char *name = banger_json_str(image, "name");

			if (name && banger_name_valid(name))
				offer(o, name, banger_json_str(image, "state"));
		}
		const char *next = banger_json_str(result, "next");
		if (!next || n == 0)
			return;
		free(after);
		after = strdup(next);
		seen += n;
	}
}

static void offer_kernels(const struct offer *o, struct ctl *c)
{
	_cleanup_json_ struct json_object *result = NULL;

	if (ask(o->typed, c, BANGER_METHOD_KERNEL_LS, NULL, &result) < 0)
		return;
	for (size_t i = 0; i < ctl_json_count(result, "kernels"); i++) {
		struct json_object *kernel = ctl_json_at(result, "kernels", i);
		const char *name = banger_json_str(kernel, "name");

		if (name && banger_name_valid(name))
			offer(o, name, banger_json_str(kernel, "version"));
	}
}

/* after: what stands behind the name, such as ":" where a path follows. */
static void offer_vms(const struct offer *o, struct ctl *c, const char *after)
{
	_cleanup_json_ struct json_object *result = NULL;
	char word[BANGER_NAME_MAX + 2];

	if (ask(o->typed, c, BANGER_METHOD_VM_LS, NULL, &result) < 0)
		return;
	for (size_t i = 0; i < ctl_json_count(result, "vms"); i++) {
		struct json_object *vm = ctl_json_at(result, "vms", i);
		const char *name = banger_json_str(vm, "name");

		if (!name || !banger_name_valid(name))
			continue;
		snprintf(word, sizeof(word), "%s%s", name, after);
		offer(o, word, banger_json_str(vm, "state"));
	}
}

static void offer_operations(const struct offer *o, struct ctl *c)
{
	_cleanup_json_ struct json_object *params = json_object_new_object(), *result = NULL;

	if (!params || banger_json_add_int(params, "limit", OPERATIONS_MAX) < 0 ||
		ask(o->typed, c, BANGER_METHOD_OP_LS, TAKE_PTR(params), &result) < 0)
		return;
	for (size_t i = 0; i < ctl_json_count(result, "ops"); i++) {
		struct json_object *op = ctl_json_at(result, "ops", i);
		const char *id = banger_json_str(op, "op_id");

		if (banger_op_id_valid(id))
			offer(o, id, banger_json_str(op, "method"));
	}
}

static void offer_names(const struct offer *o, enum cli_words words)
{
	struct ctl c = {0};

	alarm(PATIENCE_S);
	if (words == CLI_KERNELS)
		offer_kernels(o, &c);
	else if (words == CLI_OPERATIONS)
		offer_operations(o, &c);
	else if (words == CLI_VMS || words == CLI_COPIED)
		offer_vms(o, &c, words == CLI_COPIED ? ":" : "");
	else
		offer_images(o, &c,
			words == CLI_DRAFTS      ? "draft"
			: words == CLI_PUBLISHED ? "published"
						 : NULL);
	alarm(0);
	banger_client_freep(&c.client);
	banger_config_done(&c.config);
}

/* ---- what can stand there */

static void offer_commands(const struct offer *o, const struct cli_group *in_group)
{
	for (const struct cli_group *g = cli_groups; g->name; g++) {
		if (in_group ? g != in_group : *g->name != '\0') {
			if (!in_group)
				offer(o, g->name, g->help);
			continue;
		}
		for (const struct cli_command *c = g->commands; c->name; c++)
			offer(o, c->name, c->help);
	}
}

static void offer_words(const struct offer *o, enum cli_words words, const char *const *choices)
{
	if (words == CLI_FILES || words == CLI_DIRECTORIES) {
		fputs(words == CLI_FILES ? ":files\n" : ":directories\n", o->f);
		return;
	}
	if (words == CLI_COPIED) {
		fputs(":files\n", o->f);
		if (!strpbrk(o->begins, "/:"))
			offer_names(o, words);
		return;
	}
	open_words(o);
	for (; choices && *choices; choices++)
		offer(o, *choices, "");
	if (words == CLI_COMMANDS)
		offer_commands(o, NULL);
	else if (words != CLI_NOTHING)
		offer_names(o, words);
}

static void offer_options(const struct offer *o, const struct cli_option *options)
{
	char word[64];

	for (; options && options->name; options++) {
		snprintf(word, sizeof(word), "--%s", options->name);
		offer(o, word, options->help);
	}
}

static void offer_argument(const struct offer *o, const struct typed *t)
{
	const struct cli_argument *a = t->command->arguments;

	bool plain = t->command->rest_plain && t->n_args >= count_arguments(t->command);

	if ((t->rest && t->command->rest) || plain) {
		offer_words(o, CLI_FILES, NULL);
		return;
	}
	for (size_t i = 0; a && a->name && i < t->n_args && !a->many; i++)
		a++;
	offer_words(o, a && a->name ? a->words : CLI_NOTHING, a && a->name ? a->choices : NULL);
}

void completion_print(FILE *f, int argc, char **argv)
{
	struct typed t = {0};
	const char *last = argc > 0 ? argv[argc - 1] : "";
	struct offer o = {.f = f, .begins = last, .prefix = "", .typed = &t};
	char attached[80];

	for (int i = 0; i + 1 < argc; i++)
		take_word(&t, argv[i]);
	const char *eq = !t.rest && strncmp(last, "--", 2) == 0 ? strchr(last, '=') : NULL;
	if (eq && !t.pending && eq - last < 70) {
		t.pending = long_option(&t, last + 2);
		snprintf(attached, sizeof(attached), "%.*s", (int)(eq + 1 - last), last);
		o.prefix = attached;
		o.begins = eq + 1;
	} else if (t.pending && strcmp(last, "=") == 0) {
		o.begins = "";
	}
	if (t.pending) {
		offer_words(&o, t.pending->words, t.pending->choices);
	} else if (!t.rest && last[0] == '-' && last[1] != '\0') {
		open_words(&o);
		offer_options(&o, t.command ? t.command->options : NULL);
		offer_options(&o, cli_globals);
	} else if (t.command) {
		offer_argument(&o, &t);
	} else {
		open_words(&o);
		offer_commands(&o, t.group);
	}
}

/* ---- the shells */

static const char bash_script[] =
	"# bash completion of banger-ctl: source <(banger-ctl completion bash)\n"
	"_banger_ctl()\n"
	"{\n"
	"	local cur=${COMP_WORDS[COMP_CWORD]} line\n"
	"	local -a lines\n"
	"	COMPREPLY=()\n"
	"	mapfile -t lines < <(\"${COMP_WORDS[0]}\" --complete "
	"\"${COMP_WORDS[@]:1:COMP_CWORD}\" 2>/dev/null)\n"
	"	[ \"$cur\" = = ] && cur=\n"
	"	case ${lines[0]} in\n"
	"	:files)\n"
	"		compopt -o filenames\n"
	"		mapfile -t COMPREPLY < <(compgen -f -- \"$cur\")\n"
	"		for line in \"${lines[@]:1}\"; do\n"
	"			COMPREPLY+=(\"${line%%$'\\t'*}\")\n"
	"			compopt -o nospace\n"
	"		done\n"
	"		;;\n"
	"	:directories)\n"
	"		compopt -o filenames\n"
	"		mapfile -t COMPREPLY < <(compgen -d -- \"$cur\")\n"
	"		;;\n"
	"	:words)\n"
	"		for line in \"${lines[@]:1}\"; do\n"
	"			COMPREPLY+=(\"${line%%$'\\t'*}\")\n"
	"		done\n"
	"		;;\n"
	"	esac\n"
	"}\n"
	"complete -F _banger_ctl banger-ctl\n";

static const char zsh_script[] =
	"#compdef banger-ctl\n"
	"# zsh completion of banger-ctl: banger-ctl completion zsh > a directory of $fpath, named "
	"_banger-ctl\n"
	"_banger_ctl()\n"
	"{\n"
	"	local -a lines offers\n"
	"	local line\n"
	"	lines=(\"${(@f)$($words[1] --complete \"${(@)words[2,CURRENT]}\" 2>/dev/null)}\")\n"
	"	case $lines[1] in\n"
	"	:files)\n"
	"		offers=(${(@)lines[2,-1]%%$'\\t'*})\n"
	"		(( $#offers )) && compadd -S '' -- $offers\n"
	"		_files\n"
	"		;;\n"
	"	:directories) _files -/ ;;\n"
	"	:words)\n"
	"		for line in \"${(@)lines[2,-1]}\"; do\n"
	"			offers+=(\"${${line%%$'\\t'*}//:/\\\\:}:${line#*$'\\t'}\")\n"
	"		done\n"
	"		(( $#offers )) && _describe banger-ctl offers\n"
	"		;;\n"
	"	esac\n"
	"}\n"
	"if [ \"$funcstack[1]\" = _banger-ctl ]; then\n"
	"	_banger_ctl \"$@\"\n"
	"else\n"
	"	compdef _banger_ctl banger-ctl\n"
	"fi\n";

static const char fish_script[] =
	"# fish completion of banger-ctl: banger-ctl completion fish | source\n"
	"function __banger_ctl_complete\n"
	"	set -l typed (commandline -opc) (commandline -ct)\n"
	"	set -l lines ($typed[1] --complete $typed[2..-1] 2>/dev/null)\n"
	"	switch \"$lines[1]\"\n"
	"		case ':files'\n"
	"			__fish_complete_path (commandline -ct)\n"
	"			test (count $lines) -gt 1; and printf '%s\\n' $lines[2..-1]\n"
	"		case ':directories'\n"
	"			__fish_complete_directories (commandline -ct)\n"
	"		case ':words'\n"
	"			test (count $lines) -gt 1; and printf '%s\\n' $lines[2..-1]\n"
	"	end\n"
	"end\n"
	"complete -c banger-ctl -f -a '(__banger_ctl_complete)'\n";

int completion_script(FILE *f, const char *shell)
{
	static const struct {
		const char *shell, *script;
	} scripts[] = {{"bash", bash_script}, {"zsh", zsh_script}, {"fish", fish_script}};

	for (size_t i = 0; i < ELEMENTSOF(scripts); i++)
		if (strcmp(scripts[i].shell, shell) == 0) {
			fputs(scripts[i].script, f);
			return 0;
		}
	return -EINVAL;
}
