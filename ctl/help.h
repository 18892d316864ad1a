/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Texts made from the command table.
 */
#ifndef BANGER_CTL_HELP_H
#define BANGER_CTL_HELP_H

#include <stdio.h>
#include "options.h"

/* The help of what the invocation names: the command, else the group, else the program. */
void help_print(FILE *f, const struct cli_invocation *in);
/* "banger-ctl image show" for the hint after a usage error. */
void help_name(const struct cli_invocation *in, char *buf, size_t size);
/* "image import [OPTIONS] FILE|DIR|-", without the program's name. group may be NULL. */
void help_synopsis(FILE *f, const struct cli_group *group, const struct cli_command *command);
/* The group that a command stands in; NULL if it is in none. */
const struct cli_group *help_group_of(const struct cli_command *command);

/* The manual page, in the man(7) macros. */
void man_print(FILE *f);

/* A script for the shell ("bash", "zsh", "fish"); -EINVAL for another. */
int completion_script(FILE *f, const char *shell);
/* What can stand where the last word does: first a line ":words", ":files" (and also the words that follow) or
 * ":directories", then a line "WORD\tWHAT IT IS" for each that begins with it. argv: the words after the program's name.
 */
void completion_print(FILE *f, int argc, char **argv);

#endif
