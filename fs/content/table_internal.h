/* SPDX-License-Identifier: Apache-2.0 */
/* What the two halves of the table share: table.c (which images there are), table_open.c (which of them
 * are open). All of it under the table's lock, but for what is atomic. */
#ifndef FS_CONTENT_TABLE_INTERNAL_H
#define FS_CONTENT_TABLE_INTERNAL_H

#include <banger/log.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "table.h"

/* An image that is open: few, so what only those need stands here. */
struct opened {
	struct image pub;
	struct entry *e;
	struct opened *prev, *next; /* of all that are open */
	_Atomic uint64_t lookups;   /* the kernel's references */
	uint64_t last_use;
	_Atomic int64_t checked_us;
	char id[BANGER_ID_LEN + 1];
	bool evicting; /* the kernel was asked to let go of it; nobody has looked it up since */
};

struct entry {
	struct entry *by_name, *by_slot, *by_id; /* chains */
	uint64_t id, seq;                        /* id: the 16 digits as a number */
	char *name; /* NULL: another image has taken it, a new one has not come yet */
	struct opened *open;
	uint32_t slot, epoch;
	unsigned users;
	bool in_model, opening;
	bool changed; /* on disk, which must not be */
};

struct listed {
	uint64_t seq;
	struct entry *e; /* NULL: removed */
};

struct table {
	struct table_options o;
	pthread_mutex_t lock;
	pthread_cond_t opened;
	struct entry **names, **slots, **ids;
	size_t buckets, count, entries; /* count: in the model; entries: alive */
	struct listed *order;
	size_t order_len, order_cap, order_holes;
	uint64_t next_seq, uses;
	uint32_t epoch;
	struct opened *open_head;
	unsigned open_count;
	int64_t mtime_us;
};

/* table.c */
struct entry *table_find_name(struct table *t, const char *name);
struct entry *table_find_slot(struct table *t, uint32_t slot);
/* Unlink and free; it is out of the model and closed. */
void table_entry_free(struct table *t, struct entry *e);

/* table_open.c */
void table_close(struct table *t, struct entry *e);
/* If nobody needs the image any more: freed when it is out of the model, closed when it should be. */
void table_let_go(struct table *t, struct entry *e);

#endif
