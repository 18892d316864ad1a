/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BANGER_CTL_CMD_PULL_H
#define BANGER_CTL_CMD_PULL_H

#include "ctl.h"

/* The handler of "image pull". */
int do_pull(struct ctl *c, const struct cli_invocation *in, struct banger_error *err);

#endif
