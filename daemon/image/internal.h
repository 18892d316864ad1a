/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shared by the files of daemon/image alone.
 */
#ifndef BANGER_IMAGE_INTERNAL_H
#define BANGER_IMAGE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include "image/claims.h"
#include "image/digester.h"
#include "image/durable.h"
#include "image/service.h"
#include "image/trash.h"

#define ROOTFS "rootfs.ext4"
#define WORK_SEED "work-seed.ext4"
#define PROMOTE_SUFFIX ".promote" /* staging/ID.promote: how to undo a promotion; seal.h */
#define IMPORT_SUFFIX ".import"	  /* staging/ID.import: an import runs; import.c */

/* The directories under STATE_DIR; the first two by the state of what they hold. */
enum image_dir {
	DIR_DRAFTS = BANGER_DRAFT,
	DIR_IMAGES = BANGER_PUBLISHED,
	DIR_STAGING,
	DIR_TRASH,
	DIR_COUNT,
};

struct image_service {
	struct image_service_deps deps;
	int dirs[DIR_COUNT];		/* to work in and to sync */
	int path_fds[2];		/* O_PATH of drafts and images, for others */
	struct claims *claims;
	struct trash *trash;
	struct digester *digester;
	struct damage {
		pthread_mutex_t lock;
		atomic_size_t n; /* written by lock */
		char (*ids)[BANGER_ID_LEN + 1];
	} damage;
};

/* ---- service.c */

/* Begin an operation of the service's own. */
int image_begin_operation(struct image_service *s, const char *method, struct operation **ret, struct banger_error *err);
/* EXISTS if an image of that state has the name. A hint before the publication lock, the truth under it. */
int image_name_free(struct image_service *s, enum banger_image_state state, const char *name, struct banger_error *err);
/* image_service_digest(), and UNAVAILABLE for an image that has none after that. */
int image_need_digest(struct image_service *s, struct operation *op, struct banger_image *image, struct banger_error *err);
int image_source_check(const char *source, struct banger_error *err);
/* Hand over a filled image. */
struct banger_image image_take(struct banger_image *image);
/* Is it a directory entry that every directory has? */
bool image_is_dots(const char *name);
/* Open the directory dir_fd/name to read it, without following a symlink: NULL and errno. */
DIR *image_open_dir(int dir_fd, const char *name);
/* chmod by descriptor, also one that is O_PATH. 0 or -errno. */
int image_chmod_fd(int fd, mode_t mode);

/* ---- check.c */

/* Remember that a published image's files are missing or not what was published; forget it. Any thread. */
void image_damage_note(struct image_service *s, const char *id);
void image_damage_forget(struct image_service *s, const char *id);

/* ---- events.c */

/* Tell the hub of a change. Call under the publication lock, after the commit. What cannot be said for
 * want of memory is logged: the watchers then miss one change, and the change stands. */
void image_event(struct image_service *s, const char *change, const struct banger_image *images, size_t n);

#endif
