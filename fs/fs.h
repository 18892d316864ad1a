/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registry's FUSE connection: what its parts share.
 *
 *	kernel ──► ops.c ──► dir_*.c, file.c, xattr.c      answered from the model and open
 * descriptors └────► change.c, draft.c ──► calls.h  changes: requests to bangerd bangerd ──►
 * follow.c ──► model.h ──► notify.h ──► kernel └───► events.h (readers of `events`)
 *
 * Threads: the session's workers run the handlers; the watch thread is the model's only writer; the
 * notify thread talks to the kernel unasked; the errands thread talks to bangerd unasked; the
 * content's supervisor (content/content.h); a thread that waits for signals (main.c).
 */
#ifndef FS_FS_H
#define FS_FS_H

#ifndef FUSE_USE_VERSION
#define FUSE_USE_VERSION FUSE_MAKE_VERSION(3, 12)
#endif
#include <fuse_lowlevel.h>
#include <banger/cleanup.h>
#include <banger/log.h>
#include "calls.h"
#include "errands.h"
#include "files.h"
#include "lasterror.h"
#include "model.h"
#include "nodes.h"
#include "notify.h"

#define FS_FOREVER 1e9          /* seconds: until we say otherwise */
#define FS_BUFFER (1024 * 1024) /* largest read and write */
#define FS_DIRECTORIES 4        /* that registry.watch hands over */

struct events;
struct follow;
struct content;
struct changes;

/* The directories that hold ID/FILE; replaced when bangerd hands over others. */
struct directories {
	atomic_uint refs;
	int fd[FS_DIRECTORIES]; /* by enum directory */
};
enum directory { DIRECTORY_IMAGES, DIRECTORY_DRAFTS, DIRECTORY_KERNELS, DIRECTORY_VMS };

struct fs {
	struct fuse_session *session;
	struct model *model;
	struct files *files;
	struct notify *notify;
	struct calls *calls;
	struct errands *errands;
	struct last_errors *last_errors;
	struct events *events;
	struct changes *changes;
	struct follow *follow;         /* not owned */
	pthread_rwlock_t content_lock; /* read: while content is used; write: to set it */
	struct content *content;       /* NULL before it was started and after it was stopped */
	const char *vm; /* the VM that uses this mount; NULL: the host does. Not owned */
	uid_t uid; /* owner of what is shown, and who may change it beside root */
	gid_t gid;
	struct timespec started;
	atomic_bool passthrough; /* the kernel agreed to it, and has not refused a file yet */
	pthread_mutex_t lock;    /* of what is below; innermost */
	struct directories *directories;
	char *rootfs_link; /* NULL: rootfs/ is a directory */
	struct handle *handles;
	size_t documents; /* handles that have a text or a queue in memory */
};

/* Owned by the caller, never NULL once the first snapshot was taken. */
struct directories *fs_directories(struct fs *fs);
void directories_unrefp(struct directories **d);
/* Takes fds over. -ENOMEM leaves them to the caller. */
int fs_set_directories(struct fs *fs, const int fd[FS_DIRECTORIES]);

/* All parts but the session, the followed daemon and the content; none has a thread yet. */
int fs_new(const char *socket, struct fs **ret);
void fs_freep(struct fs **fs);
/* rootfs is a symlink to `target` (copied), NULL: a directory. Tells the kernel. */
int fs_set_rootfs_link(struct fs *fs, const char *target);

static inline bool fs_may_change(const struct fs *fs, uid_t uid)
{
	return uid == 0 || uid == fs->uid;
}

/* "/images/web/README", as a person would name it; shortened to fit. name may be NULL. */
void fs_path(struct fs *fs, uint64_t node, const char *name, char *buf, size_t size);

#endif
