/* SPDX-License-Identifier: Apache-2.0 */
/* What model.c (readers, one change) and snapshot.c (all of it) share. */
#ifndef FS_MODEL_INTERNAL_H
#define FS_MODEL_INTERNAL_H

#include "index.h"
#include "model.h"

struct model {
	pthread_rwlock_t lock; /* everything down to the blank line */
	struct slots images, kernels, vms, ops;
	struct slots places[2]; /* by enum banger_image_state */
	struct index by_id, by_name, ops_by_id;
	struct timespec changed[MODEL_DIRS];

	uint64_t snapshot; /* the writer's: number of the last snapshot */
	size_t ops_kept;   /* the writer's: how many operations at most */
	pthread_mutex_t
		wait_lock; /* the rest; never taken together with `lock` but by the writer */
	pthread_cond_t wait_cond;
	int64_t generation;
};

#define MODEL_OPS_KEPT 1000 /* at least; more if a snapshot has more */

/* Changes to images that become visible in one step. */
struct model_batch {
	struct model_image **fresh; /* taken over on success */
	size_t nfresh;
	uint64_t *gone; /* ids */
	size_t ngone;
	bool ours; /* see model_apply() */
};
void model_batch_done(struct model_batch *b);
int model_batch_add(struct model_batch *b, struct json_object *image, struct banger_error *err);
int model_batch_add_gone(struct model_batch *b, uint64_t id);
/* With the write lock held. -ENOMEM: nothing was done. Leaves b empty. */
int model_batch_apply(struct model *m, struct model_batch *b, model_observer *tell, void *arg);

int model_image_pack(const struct banger_image *from, struct model_image **ret);
int model_kernel_put(struct model *m, struct json_object *o, model_observer *tell, void *arg,
	struct banger_error *err);
void model_kernel_remove(
	struct model *m, const struct model_kernel *k, model_observer *tell, void *arg);
int model_vm_put(struct model *m, struct json_object *o, model_observer *tell, void *arg,
	struct banger_error *err);
void model_vm_remove(struct model *m, const struct model_vm *v, model_observer *tell, void *arg);
int model_op_put(struct model *m, struct json_object *o, model_observer *tell, void *arg,
	struct banger_error *err);
void model_touch(struct model *m, enum model_dir dir, model_observer *tell, void *arg);
void model_set_generation(struct model *m, int64_t generation);
void model_write(struct model *m);
void model_unwrite(struct model *m);

#endif
