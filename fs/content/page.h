/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A page that the supervisor and the content process share: how far the content is. Who waits for a
 * generation is woken by the content process itself, without the supervisor in between: that is one
 * thread less on the way of each change to what is published.
 *
 * The content process may write anything here; what it can get by that is that somebody sees an old
 * rootfs/ for a moment, or waits for the time that he waits at most.
 */
#ifndef FS_CONTENT_PAGE_H
#define FS_CONTENT_PAGE_H

#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

struct content_page {
	_Atomic int64_t generation; /* applied, and forgotten by the kernel where it was stale; -1: none yet */
	_Atomic uint32_t changes;   /* of the generation, and of the process' state: a futex */
};

/* Make one: the memory, and in *ret_fd a descriptor for the other process. NULL and errno. */
struct content_page *content_page_new(int *ret_fd);
/* The same memory in the other process. NULL and errno. */
struct content_page *content_page_map(int fd);
void content_page_free(struct content_page *p);

void content_page_set(struct content_page *p, int64_t generation);
/* Something has changed: wake all who wait. */
void content_page_wake(struct content_page *p);
/* Wait until `changes` is not `seen` any more, or until (CLOCK_MONOTONIC; NULL: for ever): 0 or -ETIMEDOUT. */
int content_page_wait(struct content_page *p, uint32_t seen, const struct timespec *until);

#endif
