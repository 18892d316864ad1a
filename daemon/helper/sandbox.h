/* SPDX-License-Identifier: Apache-2.0 */
/* What the helper gives up once it is set up, for good: see sandbox.c. */
#ifndef BANGER_HELPER_SANDBOX_H
#define BANGER_HELPER_SANDBOX_H

#include <banger/error.h>

/* All sockets that need more than what is left are open. dir_fd: where the socket's file is, which may be removed. */
int helper_sandbox(int dir_fd, struct banger_error *err);

#endif
