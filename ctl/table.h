/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command table: what banger-ctl can do, said once. The parser (options.h), the usage and help
 * texts (help.h), the man page and the completion of the shells are all made from it; a handler
 * reads what the parser found. Tables are constant and end with an entry whose name is NULL.
 */
#ifndef BANGER_CTL_TABLE_H
#define BANGER_CTL_TABLE_H

#include <stdbool.h>
#include <stdint.h>
#include <banger/error.h>

struct ctl;
struct cli_invocation;

/* How the value of an option is read. */
enum cli_type {
	CLI_FLAG,     /* takes none */
	CLI_TEXT,     /* any text */
	CLI_TEXTS,    /* any text, and the option may be given again */
	CLI_CHOICE,   /* one of `choices` */
	CLI_INT,      /* a whole number, min to max */
	CLI_SIZE,     /* bytes, with a unit where wanted: 512M; min to max */
	CLI_DURATION, /* seconds, with a unit where wanted: 90, 5m; read as milliseconds, min to max
		       */
};

/* What a shell offers for a value or an argument. */
enum cli_words {
	CLI_NOTHING,
	CLI_FILES,
	CLI_DIRECTORIES,
	CLI_IMAGES,
	CLI_DRAFTS,
	CLI_PUBLISHED,
	CLI_KERNELS,
	CLI_OPERATIONS,
	CLI_VMS,
	CLI_COPIED, /* files, or VM:PATH */
	CLI_COMMANDS, /* banger-ctl's own */
};

struct cli_option {
	const char *name; /* without the dashes */
	char letter;      /* 0: has none */
	enum cli_type type;
	const char *value; /* what the value is called in help; NULL for a flag */
	const char *help;
	bool required;
	enum cli_words words;
	const char *const *choices; /* ends with NULL */
	int64_t min, max;           /* both 0: from 0, no limit */
};

struct cli_argument {
	const char *name;
	const char *help;
	bool optional;
	bool many; /* and more of them; only the last argument */
	enum cli_words words;
	const char *const *choices; /* NULL: any text */
};

struct cli_example {
	const char *line, *what;
};

/* 0: done. Negative: failed, err says why. Positive: the exit status, everything is said already.
 */
typedef int cli_handler(struct ctl *c, const struct cli_invocation *in, struct banger_error *err);

struct cli_command {
	const char *name;
	const char *help;  /* one line, no final stop */
	const char *about; /* paragraphs, parted by "\n\n"; may be NULL */
	const struct cli_argument *arguments;
	const struct cli_option *options;
	/* What stands after "--", or with rest_plain also without it: from the first word that is no argument on, be they
	 * options or not. NULL: nothing does. */
	const char *rest, *rest_help;
	bool rest_plain, rest_required;
	const struct cli_example *examples;
	cli_handler *handler;
	bool changes;       /* asks for a change, so that a lost connection leaves a doubt */
	bool local;         /* needs neither configuration nor daemon */
	int failure_status; /* exit status when banger itself failed; 0: the usual 1 or 3 */
};

/* The lists of a row, ended as they must be. */
#define CLI_ARGUMENTS(...) ((const struct cli_argument[]){__VA_ARGS__, {NULL}})
#define CLI_OPTIONS(...) ((const struct cli_option[]){__VA_ARGS__, {NULL}})
#define CLI_EXAMPLES(...) ((const struct cli_example[]){__VA_ARGS__, {NULL}})

struct cli_group {
	const char *name; /* "" for the commands that stand alone, which come first */
	const char *help;
	const struct cli_command *commands;
};

/* Everything, ended by a group whose name is NULL. */
extern const struct cli_group cli_groups[];
/* --socket and so on: before or after the command. */
extern const struct cli_option cli_globals[];

/* The rows, one table a file. */
extern const struct cli_command cmd_daemon_commands[];
extern const struct cli_command cmd_image_commands[];
extern const struct cli_command cmd_kernel_commands[];
extern const struct cli_command cmd_catalog_commands[];
extern const struct cli_command cmd_vm_commands[];
extern const struct cli_command cmd_op_commands[];
extern const struct cli_command cmd_fs_commands[];
extern const struct cli_command cmd_shell_commands[]; /* completion, help */

/* NULL: there is none. */
const struct cli_group *cli_group_find(const struct cli_group *groups, const char *name);
const struct cli_command *cli_command_find(const struct cli_command *commands, const char *name);
const struct cli_option *cli_option_find(
	const struct cli_option *options, const char *name, size_t len);
const struct cli_option *cli_letter_find(const struct cli_option *options, char letter);

#endif
