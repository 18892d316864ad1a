/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls that change something. They wait for bangerd, some of them long (a promotion reads the
 * whole root filesystem), and must not use up the session's threads: at most CHANGES_AT_ONCE run,
 * each on the thread that received it; what comes on top waits in a queue for one of those threads,
 * and the rest of the threads stay free for reading.
 *
 * When a caller is being killed while it waits, its operation is cancelled. Other signals change
 * nothing, as on any disk.
 */
#ifndef FS_CHANGE_H
#define FS_CHANGE_H

#include "attempt.h"

#define CHANGES_AT_ONCE 48

/* A request, copied: it may outlive the handler that received it. */
struct change {
	struct change *next;
	struct fs *fs;
	fuse_req_t req;
	struct fuse_ctx who;
	void (*run)(struct change *c); /* answers the request */
	uint64_t node, to_node;
	const char *name, *to_name; /* in text; NULL: none */
	unsigned flags;
	mode_t mode;
	struct stat attr;
	int to_set;
	struct fuse_file_info fi;
	bool has_fi;
	struct attempt attempt;
	char text[];
};

int changes_new(struct changes **ret);
void changes_freep(struct changes **c);

/* A change with copies of the strings; NULL and answered with ENOMEM when there is no memory. */
struct change *change_new(struct fs *fs, fuse_req_t req, void (*run)(struct change *c),
	uint64_t node, const char *name, uint64_t to_node, const char *to_name);
/* Runs it now or later, and frees it. */
void change_submit(struct change *c);

/* In a run function: begin its attempt, about node/name (and to_node/to_name if they are there). */
void change_begin(struct change *c, const char *method);
/* End it: log, answer with an errno only (0 is success), done. */
void change_end(struct change *c, int r);

/* "drafts/NAME" or "images/NAME" of an image, as the wire wants it; -ENOENT. */
#define IMAGE_WORD (sizeof("images/") + BANGER_NAME_MAX)
struct image_ref {
	uint64_t number, id;
	enum banger_image_state state;
	char name[BANGER_NAME_MAX + 1], id_text[BANGER_ID_LEN + 1];
	char word[IMAGE_WORD];
};
int image_ref_of(struct fs *fs, uint64_t node, struct image_ref *ret);
int image_ref_named(struct fs *fs, uint64_t dir, const char *name, struct image_ref *ret);

/* ---- the calls; registry.c, draft.c */
void registry_mkdir(struct change *c);
void registry_rmdir(struct change *c);
void change_rename(struct change *c); /* of anything: tells the kinds apart */
void draft_rename(struct change *c);
void draft_create(struct change *c);
void draft_open(struct change *c);
void draft_unlink(struct change *c);
void draft_symlink(struct change *c);
void draft_mknod(struct change *c);
void draft_link(struct change *c);
void draft_setattr(struct change *c);
void draft_setxattr(struct change *c);

/* Refuse a change of what is in `node` (a directory), or of itself (anything else): EROFS for what
 * is published, EPERM elsewhere. verb: "made", "renamed", "removed", "changed". */
int refuse_change(struct attempt *a, uint64_t node, const char *verb);

#endif
