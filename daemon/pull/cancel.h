/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Work that goes on for long looks now and then whether it still should: a descriptor that is readable then, -1 for work
 * that cannot be cancelled.
 */
#ifndef BANGER_PULL_CANCEL_H
#define BANGER_PULL_CANCEL_H

#include <poll.h>
#include <stdbool.h>
#include <banger/error.h>

static inline bool pull_cancelled(int cancel_fd)
{
	struct pollfd p = {.fd = cancel_fd, .events = POLLIN};

	return cancel_fd >= 0 && poll(&p, 1, 0) > 0;
}

static inline int pull_check_cancelled(int cancel_fd, struct banger_error *err)
{
	return pull_cancelled(cancel_fd) ? banger_error_set(err, BANGER_CANCELLED, "cancelled") : 0;
}

#endif
