/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promotion: a draft becomes a published image, whole or not at all.
 *
 *	claim      the draft is busy: no change to it, no new descriptor, no second promotion
 *	seal       no writer is left (seal.h)
 *	validate   rootfs.ext4 is there, is a sound filesystem; its digest; artifacts by reference copied
 *	sync       contents, modes, directory (durable.h, rule 2)
 *	publish    under the publication lock: is the name still free and the row as it was; rename
 *	           drafts/ID to images/ID; the row; the event
 *	forget     the records that would have undone it
 *
 * All that is slow is before the lock. A failure anywhere gives the draft back as it was; so does a
 * crash before the commit, at the next start.
 */
#include <fcntl.h>
#include <string.h>
#include <banger/fault.h>
#include <banger/log.h>
#include "ext4/superblock.h"
#include "image/seal.h"

struct promotion {
	struct image_service *s;
	struct operation *op;
	char name[BANGER_NAME_MAX + 1]; /* to publish it under */
	struct banger_image image;      /* the row; becomes what will be published */
	struct seal seal;
};

static void promotion_done(struct promotion *p)
{
	banger_image_done(&p->image);
}

/* What the file's name is in messages: "rootfs.ext4 of draft "web"". */
static int check_sound(const struct promotion *p, int fd, int64_t size, struct banger_error *err)
{
	char what[BANGER_NAME_MAX + 40];
	snprintf(what, sizeof(what), ROOTFS " of draft \"%s\"", p->image.name);
	return ext4_superblock_check(fd, size, what, NULL, err);
}

/* Soundness first where the data are, so that a wrong file is not copied before it is refused;
 * again on the copy, which nobody else can reach. */
static int take_rootfs(struct promotion *p, struct banger_error *err)
{
	struct sealed_file *f = seal_file(&p->seal, ROOTFS);
	_cleanup_close_ int fd = -1, copy = -1;
	_cleanup_free_ char *target = NULL;
	int64_t size;

	if (!f)
		return banger_error_set(
			err, BANGER_INCOMPLETE, "draft \"%s\" has no " ROOTFS, p->image.name);
	int r = seal_open(&p->seal, f, &fd, &size, &target, err);
	if (r == 0)
		r = check_sound(p, fd, size, err);
	if (r < 0)
		return r;
	FAULT_POINT("image.promote.sound");
	r = seal_copy(&p->seal, f, fd, size, &copy, p->image.digest, err);
	if (r > 0)
		r = check_sound(p, copy, size, err);
	else if (r == 0)
		r = durable_digest(fd, size, p->op, ROOTFS, p->image.digest, err);
	if (r < 0)
		return r;
	FAULT_POINT("image.promote.digested");
	p->image.size = size;
	if (!p->image.source && image_source_check(target, NULL) == 0)
		p->image.source = TAKE_PTR(target);
	return 0;
}

static int take_others(struct promotion *p, struct banger_error *err)
{
	for (size_t i = 0; i < p->seal.n; i++) {
		struct sealed_file *f = &p->seal.files[i];
		_cleanup_close_ int fd = -1, copy = -1;
		int64_t size;

		if (!f->copied || !strcmp(f->name, ROOTFS))
			continue;
		int r = seal_open(&p->seal, f, &fd, &size, NULL, err);
		if (r == 0)
			r = seal_copy(&p->seal, f, fd, size, &copy, NULL, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* The row as it was when the work began. The claim keeps changes away, but one may have been under
 * way when it was taken. */
static int recheck(const struct promotion *p, struct banger_error *err)
{
	_cleanup_image_ struct banger_image now = {0};

	int r = store_image_by_id(p->s->deps.store, p->image.id, &now, err);
	if (r < 0)
		return r;
	if (now.state != BANGER_DRAFT || strcmp(now.name, p->image.name))
		return banger_error_set(
			err, BANGER_NOT_FOUND, "draft \"%s\" not found", p->image.name);
	if (now.generation != p->image.generation)
		return banger_error_set(err, BANGER_BUSY,
			"draft \"%s\" was changed while it was promoted", p->image.name);
	return image_name_free(p->s, BANGER_PUBLISHED, p->name, err);
}

static int move(const struct promotion *p, enum image_dir from, enum image_dir to)
{
	const int *dirs = p->s->dirs;
	return renameat2(dirs[from], p->image.id, dirs[to], p->image.id, RENAME_NOREPLACE) < 0
		       ? -errno
		       : 0;
}

static int publish(struct promotion *p, struct banger_error *err)
{
	_cleanup_(publication_leavep) struct publication_lock *held =
		publication_enter(p->s->deps.publication);
	struct banger_op_record record;

	FAULT_POINT("image.promote.locked");
	int r = recheck(p, err);
	if (r < 0)
		return r;
	r = move(p, DIR_DRAFTS, DIR_IMAGES);
	if (r < 0)
		return banger_error_set_errno(err, r, "publishing draft \"%s\"", p->image.name);
	FAULT_POINT("image.promote.renamed");
	strcpy(p->image.name, p->name);
	strcpy(p->image.op_id, operation_id(p->op));
	p->image.state = BANGER_PUBLISHED;
	p->image.published_us = banger_now_us();
	operation_completed_record(p->op, &record);
	r = store_image_update(p->s->deps.store, &p->image, &record, err);
	if (r < 0) {
		int back = move(p, DIR_IMAGES, DIR_DRAFTS);
		if (back < 0)
			log_err("a draft's directory stays in images until the next start",
				KV_S("id", p->image.id), KV_S("error", strerror(-back)));
		return r;
	}
	FAULT_POINT("image.promote.committed");
	image_event(p->s, "promoted", &p->image, 1);
	FAULT_POINT("image.promote.published");
	return 0;
}

/* Everything between the claim and the answer. */
static int promote(struct promotion *p, struct banger_error *err)
{
	const int drafts = p->s->dirs[DIR_DRAFTS];

	int r = seal_begin(p->s, p->op, &p->image, &p->seal, err);
	if (r < 0)
		return r;
	FAULT_POINT("image.promote.sealed");
	r = take_rootfs(p, err);
	if (r == 0)
		r = take_others(p, err);
	if (r == 0)
		r = seal_exchange(&p->seal, err);
	if (r == 0)
		r = durable_sync_image(drafts, p->image.id, p->op, err);
	FAULT_POINT("image.promote.synced");
	if (r == 0)
		r = publish(p, err);
	if (r < 0)
		seal_undo(&p->seal);
	else
		seal_finish(&p->seal);
	return r;
}

int image_service_promote(struct image_service *s, struct operation *op, const char *draft,
	const char *name, struct banger_image *ret, struct banger_error *err)
{
	_cleanup_(promotion_done) struct promotion p = {.s = s, .op = op};
	_cleanup_claim_ struct claim claim = {0};

	int r = image_service_find(s, draft, BANGER_DRAFT, &p.image, err);
	if (r == 0)
		r = banger_name_check("image", name ?: p.image.name, err);
	if (r < 0)
		return r;
	strcpy(p.name, name ?: p.image.name);
	r = image_name_free(s, BANGER_PUBLISHED, p.name, err);
	if (r == 0)
		r = claims_take(s->claims, &claim, p.image.id, p.image.name, "promoted",
			s->deps.config->lock_wait_ms, err);
	if (r < 0)
		return r;
	FAULT_POINT("image.promote.claimed");
	/* What committed before the claim was taken is seen here; a deletion that commits just now is seen
	 * under the lock, and undoing the seal does not mind files that are gone. */
	r = recheck(&p, err);
	if (r == 0)
		r = promote(&p, err);
	if (r == -ENOENT) {
		/* A deletion that had begun before the claim: say that the draft is gone, not what was missed. */
		struct banger_error gone = {0};
		if (recheck(&p, &gone) < 0 && err)
			*err = gone;
	}
	if (r == 0)
		*ret = image_take(&p.image);
	return r;
}
