/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a person or a program sees of a pull while it runs: on a terminal a block with a line for each
 * layer, redrawn in place; on a pipe a plain line when something has happened; with --json a line of
 * JSON on standard output for each look. The daemon is asked over a connection of its own.
 */
#ifndef BANGER_CTL_PULL_VIEW_H
#define BANGER_CTL_PULL_VIEW_H

#include "ctl.h"

struct pull_view;

/* op_id: of the pull. */
int pull_view_new(struct ctl *c, const char *op_id, struct pull_view **ret, struct banger_error *err);
void pull_view_freep(struct pull_view **v);
#define _cleanup_pull_view_ _cleanup_(pull_view_freep)

/* Look and show; a daemon that does not answer is not shown. In the shape of ctl_work's members. */
void pull_view_tick(void *v);
/* Take the block away (a terminal). */
void pull_view_end(void *v);

#endif
