/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Recovery: after a crash, directories are made to agree with the rows.
 *
 *	row        directory in      what happened                     what is done
 *	draft      drafts            nothing                           -
 *	published  images            nothing                           -
 *	draft      images            died between rename and commit    moved back
 *	published  drafts, staging   the rename was not on the disk    moved forward, if the digest is the row's
 *	draft      nowhere           the same of a new draft           made again, empty
 *	published  nowhere           no crash of ours                  reported; the row stays
 *	none       drafts, images    died while it was made, or        trash
 *	                             after a deletion's commit
 *	-          staging           an operation died                 undone (seal.h), removed
 *
 * Whoever loses power or the process in here starts again: each repair is one rename, and none
 * depends on another's having been done. A row is never removed. A published image whose files are
 * gone stays listed, refuses to be opened and can be deleted; and where the whole database is new
 * beside images that are not, nothing is touched at all.
 *
 * Every repair is logged under one operation, registry.recover, which exists only if there is one.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <banger/fault.h>
#include <banger/log.h>
#include "ext4/superblock.h"
#include "image/reconcile.h"
#include "image/seal.h"

struct recovery {
	struct image_service *s;
	struct operation *op; /* begun at the first repair */
	size_t repairs;
};

/* Count a repair and log it. */
static int repaired(struct recovery *rec, const char *msg, const char *id, const char *name,
	struct banger_error *err)
{
	if (!rec->op) {
		int r = image_begin_operation(rec->s, "registry.recover", &rec->op, err);
		if (r < 0)
			return r;
	}
	rec->repairs++;
	log_warn(msg, KV_S("id", id), KV_S("image", name));
	FAULT_POINT("image.recover.repair");
	return 0;
}

static int move_dir(struct recovery *rec, enum image_dir from, enum image_dir to, const char *id,
	struct banger_error *err)
{
	const int *dirs = rec->s->dirs;
	if (renameat2(dirs[from], id, dirs[to], id, RENAME_NOREPLACE) < 0)
		return banger_error_set_errno(err, errno, "moving the directory of image %s", id);
	FAULT_POINT("image.recover.moved");
	return 0;
}

/* ---- rows */

/* The commit says that this directory is whole and on the disk; a disk that lied is found out here.
 */
static int is_whole(struct recovery *rec, const struct banger_image *image, enum image_dir where,
	struct banger_error *err)
{
	char digest[DIGEST_SIZE];
	struct stat st;

	_cleanup_close_ int dir = openat(
		rec->s->dirs[where], image->id, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	_cleanup_close_ int fd =
		dir < 0 ? -1 : openat(dir, ROOTFS, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size != image->size)
		return 0;
	/* One that was pulled has no digest yet; it was made durable before its row all the same. */
	if (!image->digest[0])
		return ext4_superblock_check(fd, st.st_size, ROOTFS, NULL, NULL) == 0;
	int r = durable_digest(fd, st.st_size, rec->op, ROOTFS, digest, err);
	return r < 0 ? r : !strcmp(digest, image->digest);
}

static int move_forward(struct recovery *rec, const struct banger_image *image, unsigned places,
	struct banger_error *err)
{
	enum image_dir from = places & PLACE(DIR_STAGING) ? DIR_STAGING : DIR_DRAFTS;

	int r = repaired(
		rec, "a published image was not in its place", image->id, image->name, err);
	if (r == 0)
		r = is_whole(rec, image, from, err);
	if (r < 0)
		return r;
	if (r > 0)
		return move_dir(rec, from, DIR_IMAGES, image->id, err);
	image_damage_note(rec->s, image->id);
	log_err("a published image is not what was published; its files are kept apart",
		KV_S("id", image->id), KV_S("image", image->name), KV_S("digest", image->digest));
	return 0;
}

static int move_back(
	struct recovery *rec, const struct banger_image *image, struct banger_error *err)
{
	int r = repaired(
		rec, "a promotion was interrupted and is undone", image->id, image->name, err);
	return r < 0 ? r : move_dir(rec, DIR_IMAGES, DIR_DRAFTS, image->id, err);
}

static int make_again(
	struct recovery *rec, const struct banger_image *image, struct banger_error *err)
{
	int r = repaired(rec, "a draft had no directory and is empty", image->id, image->name, err);
	if (r == 0 && mkdirat(rec->s->dirs[DIR_DRAFTS], image->id, 0700) < 0)
		r = banger_error_set_errno(err, errno, "making the directory of a draft");
	return r;
}

static int throw_away(
	struct recovery *rec, enum image_dir dir, const char *name, struct banger_error *err)
{
	int r = repaired(rec, "a directory that belongs to no image is removed", name, NULL, err);
	return r < 0 ? r : trash_put(rec->s->trash, rec->s->dirs[dir], name, err);
}

static int recover_row(
	void *arg, const struct banger_image *image, unsigned places, struct banger_error *err)
{
	struct recovery *rec = arg;
	unsigned wanted = PLACE(image->state);

	if (image->state == BANGER_PUBLISHED && !image->digest[0] && places)
		digester_add(rec->s->digester, image->id);
	if (places == wanted)
		return 0;
	if (places & wanted) {
		/* Twice: the one that the row does not name is a leftover. */
		for (enum image_dir d = 0; d < DIR_TRASH; d++) {
			int r = (places & ~wanted & PLACE(d)) ? throw_away(rec, d, image->id, err)
							      : 0;
			if (r < 0)
				return r;
		}
		return 0;
	}
	if (image->state == BANGER_DRAFT)
		return places & PLACE(DIR_IMAGES) ? move_back(rec, image, err)
						  : make_again(rec, image, err);
	if (places)
		return move_forward(rec, image, places, err);
	image_damage_note(rec->s, image->id);
	log_err("the files of a published image are missing", KV_S("id", image->id),
		KV_S("image", image->name), KV_S("digest", image->digest));
	return 0;
}

/* ---- what no row names */

static bool has_suffix(const char *name, const char *suffix)
{
	return strlen(name) == BANGER_ID_LEN + strlen(suffix) &&
	       !strcmp(name + BANGER_ID_LEN, suffix);
}

/* The draft of staging/ID.promote gets back what was changed in it; if it is a draft no more, the
 * promotion was done. */
static int unseal(struct recovery *rec, const char *name, struct banger_error *err)
{
	char id[BANGER_ID_LEN + 1];

	snprintf(id, sizeof(id), "%.16s", name);
	_cleanup_close_ int dir =
		openat(rec->s->dirs[DIR_DRAFTS], id, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir < 0)
		return errno == ENOENT ? 0 : banger_error_set_errno(err, errno, "opening a draft");
	int r = repaired(rec, "the files of a draft are given back as they were", id, NULL, err);
	return r < 0 ? r : seal_recover(rec->s->dirs[DIR_STAGING], name, dir, err);
}

static int recover_stray(void *arg, enum image_dir dir, const char *name, struct banger_error *err)
{
	struct recovery *rec = arg;
	int r = 0;

	if (dir == DIR_STAGING && has_suffix(name, PROMOTE_SUFFIX))
		r = unseal(rec, name, err);
	return r < 0 ? r : throw_away(rec, dir, name, err);
}

/* ---- a registry that is not the images' own */

static int refuse_foreign(struct image_service *s, struct banger_error *err)
{
	_cleanup_closedir_ DIR *d = NULL;
	char marker[BANGER_ID_LEN + sizeof(IMPORT_SUFFIX)];
	int64_t generation = 0;
	struct dirent *de;
	size_t n = 0;

	int r = store_generation(s->deps.store, &generation, err);
	if (r < 0 || generation > 0)
		return r;
	d = image_open_dir(s->dirs[DIR_IMAGES], ".");
	while (d && (de = readdir(d))) {
		snprintf(marker, sizeof(marker), "%.16s" IMPORT_SUFFIX, de->d_name);
		n += !image_is_dots(de->d_name) &&
		     faccessat(s->dirs[DIR_STAGING], marker, F_OK, 0) < 0;
	}
	if (n == 0)
		return 0;
	return banger_error_set(err, BANGER_CORRUPT,
		"the registry is new, but there are %zu images in the state directory's "
		"\"images\": "
		"put back the registry.db that knows them, or move them out of the way",
		n);
}

int image_service_recover(struct image_service *s, struct banger_error *err)
{
	struct recovery rec = {.s = s};
	const struct reconcile callbacks = {
		.arg = &rec, .row = recover_row, .stray = recover_stray};
	struct banger_error failed = {0};

	int r = refuse_foreign(s, err);
	if (r < 0)
		return r;
	r = reconcile(s, &callbacks, &failed);
	if (rec.op) {
		log_info("registry recovered", KV_I("repairs", rec.repairs));
		operation_end(rec.op, r < 0 ? &failed : NULL);
	}
	if (r < 0) {
		if (err)
			*err = failed;
		banger_error_prefix(err, "recovering the registry");
		return r;
	}
	r = trash_start(s->trash, err);
	return r < 0 ? r : digester_start(s->digester, err);
}
