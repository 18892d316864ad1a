/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The terminal that we were started on, while a program elsewhere has it. There is one: its state is restored also when
 * we die of a signal that nobody caught.
 */
#ifndef BANGER_CTL_TERMINAL_H
#define BANGER_CTL_TERMINAL_H

#include <stdbool.h>
#include <banger/error.h>

/* Every key as it is, from descriptor fd. Does nothing when that is so already. A job in the background is stopped by
 * this, as by any touch of its terminal. */
int terminal_raw(int fd, struct banger_error *err);
/* As it was before terminal_raw(). Left alone while we are in the background: then it is somebody else's. */
void terminal_restore(void);
/* Are we in the foreground of terminal fd? */
bool terminal_is_ours(int fd);

/* The size of the terminal that one of our standard descriptors is; false: none is. */
bool terminal_size(unsigned short *ret_rows, unsigned short *ret_cols);

/* A descriptor of the terminal `fd` with an open file of its own, so that it can be told not to wait without anybody
 * else noticing; where that cannot be had, one that waits. -1: no more descriptors. */
int terminal_reopen(int fd, int flags);

#endif
