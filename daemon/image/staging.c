/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See staging.h for the life of one. The order of steps is that of durable.h: files and their
 * directory durable, then the rename, then the row.
 */
#include "image/staging.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <banger/fault.h>

int staging_begin(struct staging *t, const char *name, const char *source, struct banger_error *err)
{
	int r = banger_name_check("image", name, err);

	if (r == 0)
		r = image_source_check(source, err);
	if (r == 0)
		r = image_name_free(t->s, BANGER_PUBLISHED, name, err);
	if (r < 0)
		return r;
	banger_id_mint(t->image.id);
	strcpy(t->image.name, name);
	strcpy(t->image.op_id, operation_id(t->op));
	if (source && !(t->image.source = strdup(source)))
		return banger_error_oom(err);
	return 0;
}

int staging_make(struct staging *t, struct banger_error *err)
{
	int staging = t->s->dirs[DIR_STAGING];

	FAULT_POINT("image.import.begin");
	snprintf(t->marker, sizeof(t->marker), "%s" IMPORT_SUFFIX, t->image.id);
	if (mkdirat(staging, t->marker, 0700) < 0 || mkdirat(staging, t->image.id, 0700) < 0)
		return banger_error_set_errno(err, errno, "making a directory to import into");
	t->where = DIR_STAGING;
	FAULT_POINT("image.import.staged");
	t->dir_fd = openat(staging, t->image.id, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (t->dir_fd >= 0)
		t->rootfs_fd =
			openat(t->dir_fd, ROOTFS, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (t->rootfs_fd < 0)
		return banger_error_set_errno(err, errno, "making a file to import into");
	FAULT_POINT("image.import.created");
	return 0;
}

static int seal_modes(int dir_fd)
{
	_cleanup_closedir_ DIR *d = image_open_dir(dir_fd, ".");
	struct dirent *de;

	if (!d)
		return -errno;
	while ((errno = 0, de = readdir(d)))
		if (!image_is_dots(de->d_name) && fchmodat(dirfd(d), de->d_name, 0444, 0) < 0)
			return -errno;
	return -errno;
}

int staging_seal(struct staging *t, struct banger_error *err)
{
	FAULT_POINT("image.import.copied");
	int r = seal_modes(t->dir_fd);
	if (r < 0)
		return banger_error_set_errno(err, r, "sealing image \"%s\"", t->image.name);
	FAULT_POINT("image.import.sealed");
	r = durable_sync_image(t->s->dirs[DIR_STAGING], t->image.id, t->op, err);
	FAULT_POINT("image.import.synced");
	return r;
}

int staging_publish(struct staging *t, const char *change, struct banger_error *err)
{
	struct image_service *s = t->s;
	_cleanup_(publication_leavep) struct publication_lock *held =
		publication_enter(s->deps.publication);
	struct banger_op_record record;

	FAULT_POINT("image.import.locked");
	int r = image_name_free(s, BANGER_PUBLISHED, t->image.name, err);
	if (r < 0)
		return r;
	if (renameat2(s->dirs[DIR_STAGING], t->image.id, s->dirs[DIR_IMAGES], t->image.id,
		    RENAME_NOREPLACE) < 0)
		return banger_error_set_errno(err, errno, "publishing image \"%s\"", t->image.name);
	t->where = DIR_IMAGES;
	FAULT_POINT("image.import.renamed");
	t->image.published_us = banger_now_us();
	operation_completed_record(t->op, &record);
	if (!t->image.digest[0])
		digester_add(s->digester, t->image.id);
	r = store_image_insert(s->deps.store, &t->image, &record, err);
	if (r < 0)
		return r;
	t->published = true;
	FAULT_POINT("image.import.committed");
	image_event(s, change, &t->image, 1);
	FAULT_POINT("image.import.published");
	return 0;
}

void staging_end(struct staging *t)
{
	struct banger_error err = {0};

	if (!t->published && t->where != DIR_COUNT &&
		trash_put(t->s->trash, t->s->dirs[t->where], t->image.id, &err) < 0)
		log_warn("what is left of an import stays until the next start",
			KV_S("id", t->image.id), KV_ERR(&err));
	if (t->marker[0])
		(void)unlinkat(t->s->dirs[DIR_STAGING], t->marker, AT_REMOVEDIR);
	banger_closep(&t->rootfs_fd);
	banger_closep(&t->dir_fd);
	banger_image_done(&t->image);
}
