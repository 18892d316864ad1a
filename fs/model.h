/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The read model: what the registry holds, as registry.watch tells it. Lookups and listings are
 * answered from here and ask nobody.
 *
 * One writer at a time (follow.c sees to that; model_apply, model_snapshot_*) and many readers. A reader takes the
 * read lock with model_read() and borrows pointers until model_unread(); it must not take it twice,
 * nor wait for anything while it has it. Nothing here knows of FUSE.
 *
 * Each image, kernel and operation has a number in the model, never given twice. In addition each
 * name in images/ and in drafts/ has a place in its directory's listing: the place stays with the
 * name when two images swap names, so a listing that is under way shows each name once.
 */
#ifndef FS_MODEL_H
#define FS_MODEL_H

#include <banger/model.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>
#include "slots.h"

enum model_dir { MODEL_DRAFTS, MODEL_IMAGES, MODEL_BY_ID, MODEL_KERNELS, MODEL_OPS, MODEL_VMS, MODEL_DIRS };
_Static_assert((int)MODEL_DRAFTS == BANGER_DRAFT && (int)MODEL_IMAGES == BANGER_PUBLISHED, "");

/* What of an image comes over the wire, packed: compared as bytes. */
struct model_row {
	uint64_t id;
	int64_t generation, size, created_us, published_us;
	uint8_t digest[32], op[6];
	uint8_t state, has_digest, damaged;
	uint32_t source, kernel, config; /* offsets in text, 0: none; the name is at 0 */
	uint32_t text_len;
};

struct model_image {
	uint64_t number;      /* in the model; by-id/ lists by it */
	uint16_t life;        /* grows when another door gives it another name (nodes.h) */
	uint64_t place;       /* in its directory's listing */
	uint64_t seen;        /* the snapshot that last had it */
	atomic_bool known;    /* the kernel may have an entry for its name */
	atomic_uint writers;  /* handles open for writing in the draft, here */
	atomic_uint json_len; /* of model_image_text(), 0: not known yet */
	struct model_row row;
	char text[];
};

struct model_kernel {
	uint64_t number, seen;
	atomic_bool known;
	struct banger_kernel k;
};

/* Replaced by each event; the number stays. */
struct model_vm {
	uint64_t number, seen;
	atomic_bool known;
	char id[BANGER_ID_LEN + 1], name[BANGER_NAME_MAX + 1], state[16];
	int64_t created_us;
	size_t len;
	char text[]; /* vm.json */
};

struct model_op {
	uint64_t number;
	uint64_t op; /* the hex digits of the op_id */
	int64_t started_us;
	bool of_vms; /* about VMs: vm.… */
	size_t len;
	char text[]; /* the record as people read it, with its newline */
};

struct model;
int model_new(struct model **ret);
void model_freep(struct model **m);

/* ---- readers */

void model_read(struct model *m);
void model_unread(struct model *m);
struct model_reading {
	struct model *m;
};
static inline void model_readingp(const struct model_reading *r)
{
	if (r->m)
		model_unread(r->m);
}
/* Read until the end of the scope. */
#define MODEL_READ(m)                                                                              \
	_cleanup_(model_readingp) struct model_reading _reading = {(model_read(m), (m))};          \
	(void)_reading

/* With the read lock held: */
const struct model_image *model_image(const struct model *m, uint64_t number);
const struct model_image *model_image_named(
	const struct model *m, enum banger_image_state state, const char *name);
const struct model_image *model_image_of_id(const struct model *m, uint64_t id);
const struct model_kernel *model_kernel(const struct model *m, uint64_t number);
const struct model_kernel *model_kernel_named(const struct model *m, const char *name);
const struct model_vm *model_vm(const struct model *m, uint64_t number);
const struct model_vm *model_vm_named(const struct model *m, const char *name);
const struct model_op *model_op(const struct model *m, uint64_t number);
const struct model_op *model_op_of_id(const struct model *m, const char *op_id);
/* The next entry of a directory after place `after`, and its place; NULL at the end. IMAGES, DRAFTS
 * and BY_ID list model_image, KERNELS model_kernel, OPS model_op, VMS model_vm. */
const void *model_next(
	const struct model *m, enum model_dir dir, uint64_t after, uint64_t *ret_place);
size_t model_count(const struct model *m, enum model_dir dir);
/* When the directory last changed: grows with each change, by a nanosecond at least. */
struct timespec model_changed(const struct model *m, enum model_dir dir);
/* The kernel was given an entry for this name; called before the read lock is let go. */
void model_mark_known(const struct model_image *i);
void model_mark_kernel_known(const struct model_kernel *k);
void model_mark_vm_known(const struct model_vm *v);
/* A handle for writing in draft `number` was opened (+1) or closed (-1); takes the read lock. Wait
 * until there is none, for at most timeout_ms. */
void model_writer(struct model *m, uint64_t number, int delta);
void model_wait_writers(struct model *m, uint64_t number, int timeout_ms);
static inline const char *model_name(const struct model_image *i)
{
	return i->text;
}
void model_id_text(uint64_t id, char ret[BANGER_ID_LEN + 1]);
int model_id_parse(const char *s, uint64_t *ret); /* -EINVAL */
/* Unpacked; the caller owns it. */
int model_image_unpack(const struct model_image *i, struct banger_image *ret);

/* ---- generations (any thread, no lock held) */

int64_t model_generation(struct model *m);
/* Wait until `generation` was applied: 0, or -ETIMEDOUT. */
int model_wait(struct model *m, int64_t generation, int timeout_ms);

/* ---- the writer */

enum model_change_kind {
	CHANGE_ENTRY, /* the name no longer means what it did: dir, name */
	CHANGE_DIR,   /* the listing of dir is another */
};
struct model_change {
	enum model_change_kind kind;
	enum model_dir dir;
	const char *name;
};
/* Told of each change, under the write lock: it may only take note. ENTRY comes only for entries
 * that were marked known. */
typedef void model_observer(void *arg, const struct model_change *c);

/* Apply an event of the stream ("image", "kernel", "vm" or "op"; others are ignored). ours: a caller of
 * this mount asked for it, so the kernel moves its directory with the name. On failure (malformed,
 * no memory) nothing is changed. */
int model_apply(struct model *m, struct json_object *event, bool ours, model_observer *tell,
	void *arg, struct banger_error *err);

/* A snapshot is collected beside the model and then becomes it in one step; what it has in common
 * with the model stays in place, numbers and all, and only differences are told. */
struct model_snapshot;
int model_snapshot_new(struct model *m, struct model_snapshot **ret);
void model_snapshot_freep(struct model_snapshot **s);
int model_snapshot_add(
	struct model_snapshot *s, struct json_object *event, struct banger_error *err);
int model_snapshot_commit(struct model_snapshot *s, int64_t generation, model_observer *tell,
	void *arg, struct banger_error *err);

#endif
