/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store: one SQLite database (STATE_DIR/registry.db), WAL, synchronous=FULL, STRICT tables,
 * foreign keys, migrations by user_version, prepared statements.
 *
 * It has one writing connection behind a mutex that is held for one transaction, and one reading
 * connection behind another, so that a reader never waits for a writer's fsync. Every function here
 * may be called from any thread and takes those locks itself; no lock of the store is ever held
 * while another lock is taken. A change and the record of the operation that made it are one
 * transaction: `op` may be NULL for none. Each change to images or kernels takes the next generation,
 * which it returns; callers hold the publication lock (op/publication.h) across it, so generations
 * are published in order.
 */
#ifndef BANGER_STORE_H
#define BANGER_STORE_H

#include <banger/vm.h>

struct store;

/* Open or create, check, migrate. UNSUPPORTED for a database from a newer banger, CORRUPT for one
 * that is damaged (quick_check) or not ours: nothing is changed then, and the message says what to do. */
int store_open(int state_dir_fd, const char *state_dir, struct store **ret, struct banger_error *err);
void store_closep(struct store **s);

/* Keep the write-ahead log short: to be called now and then by a thread that is not in a hurry. */
void store_maintain(struct store *s);

/* For `doctor`. */
struct store_description {
	const char *sqlite; /* version of the library; static */
	char journal[16];   /* "wal" */
	int64_t schema;
};
int store_describe(struct store *s, struct store_description *ret, struct banger_error *err);

/* The last generation given. */
int store_generation(struct store *s, int64_t *ret, struct banger_error *err);

/* ---- images.c: rows of images. Unless said otherwise 0, or NOT_FOUND, INTERNAL, NO_SPACE, CORRUPT. */

/* Owned by the caller on success (banger_image_done). */
int store_image_by_id(struct store *s, const char *id, struct banger_image *ret, struct banger_error *err);
int store_image_by_name(struct store *s, enum banger_image_state state, const char *name,
	struct banger_image *ret, struct banger_error *err);
/* The lookup of DESIGN "Finding an image", with its messages. `state` -1: either; an exact name that
 * both a draft and a published image have is AMBIGUOUS then. word may be "images/NAME" or "drafts/NAME". */
int store_image_find(struct store *s, const char *word, int state, struct banger_image *ret, struct banger_error *err);

struct store_counts {
	int64_t images, drafts, kernels;
};
int store_count(struct store *s, struct store_counts *ret, struct banger_error *err);

/* Changes. They set image->generation to the one they took. EXISTS when the name is taken in the state. */
int store_image_insert(struct store *s, struct banger_image *image, const struct banger_op_record *op, struct banger_error *err);
/* Replace the row with image->id by *image: promotion, rename, configure. */
int store_image_update(struct store *s, struct banger_image *image, const struct banger_op_record *op, struct banger_error *err);
/* Exchange the names of two rows in one transaction; both structs get names and generation. */
int store_image_swap(struct store *s, struct banger_image *a, struct banger_image *b, const struct banger_op_record *op, struct banger_error *err);
int store_image_delete(struct store *s, const char *id, const struct banger_op_record *op, int64_t *ret_generation, struct banger_error *err);

/* A consistent view (a read transaction on a connection of its own). Not for several threads at once. */
struct store_view;
int store_view_open(struct store *s, struct store_view **ret, struct banger_error *err);
void store_view_closep(struct store_view **v);
int64_t store_view_generation(const struct store_view *v);
/* The next image in order of id after `after` (NULL: from the start), optionally of one state: 1 and
 * *ret (owned), or 0 at the end. */
int store_view_next_image(struct store_view *v, int state, const char *after, struct banger_image *ret, struct banger_error *err);
int store_view_next_kernel(struct store_view *v, const char *after, struct banger_kernel *ret, struct banger_error *err);

/* ---- kernels.c */
int store_kernel_find(struct store *s, const char *word, struct banger_kernel *ret, struct banger_error *err);
int store_kernel_insert(struct store *s, struct banger_kernel *k, const struct banger_op_record *op, struct banger_error *err);
int store_kernel_delete(struct store *s, const char *id, const struct banger_op_record *op, int64_t *ret_generation, struct banger_error *err);

/* ---- vms.c: rows of VMs. Changes take a generation as those of images do. */
int store_view_next_vm(struct store_view *v, const char *after, struct banger_vm *ret, struct banger_error *err);
/* Insert the row, or replace the one with vm->id. EXISTS when another VM has the name. */
int store_vm_put(struct store *s, struct banger_vm *vm, const struct banger_op_record *op, struct banger_error *err);
/* A row that is not there is no error. */
int store_vm_delete(struct store *s, const char *id, const struct banger_op_record *op, int64_t *ret_generation, struct banger_error *err);

/* ---- ops.c: records of finished operations and their log lines, the newest `kept` of them. */
struct store_op_line {
	char op_id[BANGER_OP_ID_LEN + 1];
	char *line; /* a log record, without newline */
};
/* One transaction for a batch; an op_id that is there already is replaced. Trims: lines go with the record
 * of their operation, and there are at most STORE_LINES_PER_OP * kept of them, so that those of operations
 * without a record go too. It is not synced to the disk: the next change is, and these before it. */
#define STORE_LINES_PER_OP 32
#define STORE_OPS_SHARE_OF_VMS 4 /* a quarter of the records, at most, is of what VMs did */
int store_ops_put(struct store *s, const struct banger_op_record *ops, size_t n,
	const struct store_op_line *lines, size_t n_lines, int64_t kept, struct banger_error *err);
int store_op_find(struct store *s, const char *op_id_or_prefix, struct banger_op_record *ret, struct banger_error *err);
/* The one that began last first. *ret is one block to free. failed_only, uid (-1: all) filter. */
int store_ops_list(struct store *s, int64_t limit, bool failed_only, int64_t uid,
	struct banger_op_record **ret, size_t *ret_n, struct banger_error *err);
/* JSON text lines of one operation, or with op_id NULL the newest 1000 of all, oldest first: an array of
 * strings, which the caller frees one by one. */
int store_op_lines(struct store *s, const char *op_id, char ***ret, size_t *ret_n, struct banger_error *err);

#endif
