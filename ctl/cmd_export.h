/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BANGER_CTL_CMD_EXPORT_H
#define BANGER_CTL_CMD_EXPORT_H

#include "ctl.h"

/* The handlers of "image export" and "image prune". */
int do_export(struct ctl *c, const struct cli_invocation *in, struct banger_error *err);
int do_prune(struct ctl *c, const struct cli_invocation *in, struct banger_error *err);

#endif
