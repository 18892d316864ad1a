/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From argv to an invocation, by the command table. Options may stand anywhere before "--"; global
 * ones also before the command. Values are checked and read here, so a handler only takes them.
 */
#ifndef BANGER_CTL_OPTIONS_H
#define BANGER_CTL_OPTIONS_H

#include <stddef.h>
#include "table.h"

struct cli_value {
	const struct cli_option *option;
	const char *text; /* as given; borrowed from argv; NULL for a flag */
	int64_t number;   /* of CLI_INT, CLI_SIZE, CLI_DURATION */
};

struct cli_invocation {
	const struct cli_group *group;     /* NULL: none was named */
	const struct cli_command *command; /* NULL: none was named */
	const char **args;
	size_t n_args;
	const char *const *rest; /* after "--" or the last argument, borrowed from argv */
	size_t n_rest;
	struct cli_value *values; /* in the order given */
	size_t n_values;
};

/* Reads argv[1..]. With --help or --version among the options nothing is missing and nothing is
 * wrong with the rest: *ret says how far the command got. Otherwise BAD_REQUEST (a usage error)
 * says what is wrong; *ret is filled on failure too, as far as it got, for the hint. Free with
 * cli_invocation_done(). */
int cli_parse(const struct cli_group *groups, int argc, char **argv, struct cli_invocation *ret,
	struct banger_error *err);
void cli_invocation_done(struct cli_invocation *in);

/* What was given for an option; the last one counts. `name` must be in the tables. */
bool cli_given(const struct cli_invocation *in, const char *name);
const char *cli_text(const struct cli_invocation *in, const char *name); /* NULL: not given */
int64_t cli_number(const struct cli_invocation *in, const char *name, int64_t otherwise);
/* The values of an option that may be given again: *i starts at 0; NULL after the last. */
const char *cli_next(const struct cli_invocation *in, const char *name, size_t *i);

#endif
