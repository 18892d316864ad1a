/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The trash: directories that no row names any more wait in STATE_DIR/trash until a thread has removed
 * them. Putting something there is one rename; what it costs to free the blocks of a large file is
 * paid by nobody's request. Whatever a crash leaves there is removed after the next start.
 */
#ifndef BANGER_IMAGE_TRASH_H
#define BANGER_IMAGE_TRASH_H

#include <stdint.h>
#include <banger/error.h>

struct trash;

/* trash_fd is borrowed. No thread yet. */
int trash_new(int trash_fd, struct trash **ret, struct banger_error *err);
/* Start the thread on what is there already and what will come. */
int trash_start(struct trash *t, struct banger_error *err);
/* Stops the thread, between two files. */
void trash_freep(struct trash **t);

/* Move dir_fd/name there. Any thread; does not wait for anything. NOT_FOUND if it is not there. */
int trash_put(struct trash *t, int dir_fd, const char *name, struct banger_error *err);
/* How many entries wait. */
int64_t trash_count(const struct trash *t);

/* Remove dir_fd/name and what is in it, now, on this thread. Symlinks are removed, not followed. */
int trash_remove_now(int dir_fd, const char *name, struct banger_error *err);

#endif
