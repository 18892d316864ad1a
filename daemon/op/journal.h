/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The journal writes records of finished operations and their log lines to the store, behind: a thread
 * gathers what came in a fifth of a second and commits it in small batches. Used by operation.c alone.
 */
#ifndef BANGER_JOURNAL_H
#define BANGER_JOURNAL_H

#include "store/store.h"

struct journal;

/* Starts the thread. Borrows store. kept: how many records the store keeps. */
int journal_new(struct store *store, int64_t kept, struct journal **ret, struct banger_error *err);
/* Writes what is pending, stops the thread. */
void journal_freep(struct journal **j);

/* Neither waits for the disk. What does not fit is dropped, oldest first. Any thread. */
void journal_add_record(struct journal *j, const struct banger_op_record *r);
void journal_add_line(struct journal *j, const char *op_id, const char *line, size_t len);

/* Wait until everything that was added before is in the store (or could not be written). */
void journal_flush(struct journal *j);

#endif
