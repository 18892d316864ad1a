/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The service and the changes that take one transaction: register, rename, swap, configure, delete.
 *
 * They look the image up and change it under one hold of the publication lock, so they need no
 * claim of their own and what they checked is still so when they commit. What takes longer is in
 * promote.c and import.c; it does its work first, and under the lock no more than these.
 *
 * The order of steps against a crash is durable.h's: a directory is made before its row and goes to
 * the trash after it.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <banger/fault.h>
#include <banger/log.h>
#include "image/internal.h"

enum { SOURCE_MAX = 1024 }; /* as the model has it */

static const char *const dir_names[DIR_COUNT] = {
	[DIR_DRAFTS] = "drafts",
	[DIR_IMAGES] = "images",
	[DIR_STAGING] = "staging",
	[DIR_TRASH] = "trash",
};

/* ---- the service */

static int open_dirs(struct image_service *s, struct banger_error *err)
{
	bool made = false;

	for (int i = 0; i < DIR_COUNT; i++) {
		int state = s->deps.state_dir_fd, flags = O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW;
		if (mkdirat(state, dir_names[i], 0700) == 0)
			made = true;
		else if (errno != EEXIST)
			return banger_error_set_errno(
				err, errno, "making \"%s\" in the state directory", dir_names[i]);
		s->dirs[i] = openat(state, dir_names[i], O_RDONLY | flags);
		if (s->dirs[i] < 0)
			return banger_error_set_errno(
				err, errno, "opening \"%s\" in the state directory", dir_names[i]);
		if (i > DIR_IMAGES)
			continue;
		s->path_fds[i] = openat(state, dir_names[i], O_PATH | flags);
		if (s->path_fds[i] < 0)
			return banger_error_set_errno(
				err, errno, "opening \"%s\" in the state directory", dir_names[i]);
	}
	return made ? durable_sync(s->deps.state_dir_fd, "the state directory", err) : 0;
}

static int begin_own_operation(
	void *arg, const char *method, struct operation **ret, struct banger_error *err)
{
	struct image_service *s = arg;
	struct banger_actor actor = {
		.uid = getuid(), .gid = getgid(), .pid = getpid(), .door = "daemon"};

	banger_actor_resolve(&actor);
	return operation_begin(s->deps.operations, OPERATION_CHANGE, method, banger_op_id_mint().s,
		&actor, NULL, ret, err);
}

int image_service_new(
	const struct image_service_deps *deps, struct image_service **ret, struct banger_error *err)
{
	_cleanup_(image_service_freep) struct image_service *s = calloc(1, sizeof(*s));
	if (!s)
		return banger_error_oom(err);
	s->deps = *deps;
	for (int i = 0; i < DIR_COUNT; i++)
		s->dirs[i] = -1;
	s->path_fds[0] = s->path_fds[1] = -1;
	pthread_mutex_init(&s->damage.lock, NULL);
	if (claims_new(&s->claims) < 0)
		return banger_error_oom(err);
	int r = open_dirs(s, err);
	if (r == 0)
		r = trash_new(s->dirs[DIR_TRASH], &s->trash, err);
	if (r == 0)
		r = digester_new(s, &s->digester, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(s);
	return 0;
}

void image_service_freep(struct image_service **ptr)
{
	struct image_service *s = *ptr;
	if (!s)
		return;
	digester_freep(&s->digester);
	trash_freep(&s->trash);
	claims_freep(&s->claims);
	for (int i = 0; i < DIR_COUNT; i++)
		banger_closep(&s->dirs[i]);
	banger_closep(&s->path_fds[0]);
	banger_closep(&s->path_fds[1]);
	pthread_mutex_destroy(&s->damage.lock);
	free(s->damage.ids);
	free(s);
	*ptr = NULL;
}

int image_begin_operation(struct image_service *s, const char *method, struct operation **ret,
	struct banger_error *err)
{
	if (s->deps.begin_operation)
		return s->deps.begin_operation(s->deps.arg, method, ret, err);
	return begin_own_operation(s, method, ret, err);
}

int image_service_images_fd(const struct image_service *s)
{
	return s->path_fds[BANGER_PUBLISHED];
}

int image_service_drafts_fd(const struct image_service *s)
{
	return s->path_fds[BANGER_DRAFT];
}

int64_t image_service_trash(const struct image_service *s)
{
	return trash_count(s->trash);
}

/* ---- small helpers */

bool image_is_dots(const char *name)
{
	return name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]));
}

DIR *image_open_dir(int dir_fd, const char *name)
{
	int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	DIR *d = fdopendir(fd);
	if (!d)
		close(fd);
	return d;
}

int image_chmod_fd(int fd, mode_t mode)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return chmod(path, mode) < 0 ? -errno : 0;
}

struct banger_image image_take(struct banger_image *image)
{
	struct banger_image taken = *image;
	*image = (struct banger_image){0};
	return taken;
}

int image_source_check(const char *source, struct banger_error *err)
{
	if (source && strlen(source) > SOURCE_MAX)
		return banger_error_set(
			err, BANGER_BAD_REQUEST, "the source is longer than %d bytes", SOURCE_MAX);
	return 0;
}

int image_name_free(struct image_service *s, enum banger_image_state state, const char *name,
	struct banger_error *err)
{
	_cleanup_image_ struct banger_image other = {0};
	struct banger_error probe = {0};

	int r = store_image_by_name(s->deps.store, state, name, &other, &probe);
	if (r == -ENOENT)
		return 0;
	if (r < 0) {
		if (err)
			*err = probe;
		return r;
	}
	return banger_error_set(err, BANGER_EXISTS, "%s name \"%s\" is taken",
		state == BANGER_DRAFT ? "draft" : "image", name);
}

/* A word with its directory is a path, as bangerfs has it: it names exactly that image. A prefix
 * would let rmdir images/web, a moment after somebody else's, hit images/web-2. */
static bool is_other(const char *word, const struct banger_image *image)
{
	if (strncmp(word, "images/", 7) && strncmp(word, "drafts/", 7))
		return false;
	return strcmp(word + 7, image->name) && strcmp(word + 7, image->id);
}

int image_service_find(struct image_service *s, const char *word, int state,
	struct banger_image *ret, struct banger_error *err)
{
	_cleanup_image_ struct banger_image image = {0};

	int r = store_image_find(s->deps.store, word, state, &image, err);
	if (r < 0)
		return r;
	if (is_other(word, &image))
		return banger_error_set(err, BANGER_NOT_FOUND, "image \"%s\" not found", word);
	image.damaged = image_service_damaged(s, &image);
	*ret = image_take(&image);
	return 0;
}

/* Under the publication lock: the image, if nobody is busy with it. */
static int find_idle(struct image_service *s, const char *word, int state, struct banger_image *ret,
	struct banger_error *err)
{
	_cleanup_image_ struct banger_image image = {0};

	int r = image_service_find(s, word, state, &image, err);
	if (r == 0)
		r = claims_check(s->claims, image.id, err);
	if (r == 0)
		*ret = image_take(&image);
	return r;
}

/* What is published is there, or it is damaged. */
static int refuse_damaged(
	struct image_service *s, const struct banger_image *image, struct banger_error *err)
{
	image_damage_note(s, image->id);
	return banger_error_set(err, BANGER_CORRUPT,
		"the files of image \"%s\" are missing: put images/%s back into the state "
		"directory, or delete the image",
		image->name, image->id);
}

int image_service_digest(struct image_service *s, struct operation *op, struct banger_image *image,
	struct banger_error *err)
{
	if (image->state != BANGER_PUBLISHED || image->digest[0])
		return 0;
	int r = digester_wait(s->digester, image->id, operation_cancel_fd(op), err);
	if (r < 0)
		return r;
	_cleanup_image_ struct banger_image now = {0};
	r = store_image_by_id(s->deps.store, image->id, &now, err);
	if (r < 0)
		return r;
	banger_image_done(image);
	*image = image_take(&now);
	return 0;
}

int image_need_digest(struct image_service *s, struct operation *op, struct banger_image *image,
	struct banger_error *err)
{
	int r = image_service_digest(s, op, image, err);

	if (r < 0 || image->digest[0])
		return r;
	return banger_error_set(err, BANGER_UNAVAILABLE,
		"the digest of image \"%s\" could not be computed when it was published (the log "
		"says "
		"why); the next start of the daemon tries again",
		image->name);
}

int image_service_open(struct image_service *s, const struct banger_image *image, const char *file,
	int *ret_fd, struct banger_error *err)
{
	struct stat st;

	int r = banger_file_name_check(file, err);
	if (r < 0)
		return r;
	_cleanup_close_ int dir = openat(
		s->dirs[image->state], image->id, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir < 0 && errno == ENOENT && image->state == BANGER_PUBLISHED)
		return refuse_damaged(s, image, err);
	if (dir < 0)
		return banger_error_set_errno(
			err, errno, "opening the directory of image \"%s\"", image->name);
	_cleanup_close_ int fd = openat(dir, file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT && image->state == BANGER_PUBLISHED && !strcmp(file, ROOTFS))
		return refuse_damaged(s, image, err);
	if (fd < 0 && errno == ENOENT)
		return banger_error_set(
			err, BANGER_NOT_FOUND, "image \"%s\" has no %s", image->name, file);
	if (fd < 0 || fstat(fd, &st) < 0)
		return banger_error_set_errno(
			err, errno, "opening %s of image \"%s\"", file, image->name);
	if (!S_ISREG(st.st_mode))
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"%s of image \"%s\" is not a regular file", file, image->name);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int image_service_files(struct image_service *s, const struct banger_image *image,
	int (*each)(void *arg, const char *name, const struct stat *st), void *arg,
	struct banger_error *err)
{
	_cleanup_closedir_ DIR *d = image_open_dir(s->dirs[image->state], image->id);
	struct dirent *de;
	struct stat st;

	while (d && (errno = 0, de = readdir(d))) {
		if (image_is_dots(de->d_name) ||
			fstatat(dirfd(d), de->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue; /* gone meanwhile */
		int r = each(arg, de->d_name, &st);
		if (r)
			return r;
	}
	if (!d && errno == ENOENT && image->damaged)
		return 0;
	if (!d || errno)
		return banger_error_set_errno(
			err, errno, "reading the directory of image \"%s\"", image->name);
	return 0;
}

/* ---- register */

static int register_locked(struct image_service *s, struct operation *op,
	struct banger_image *image, struct banger_error *err)
{
	_cleanup_(publication_leavep) struct publication_lock *held =
		publication_enter(s->deps.publication);
	struct banger_op_record record;

	operation_completed_record(op, &record);
	FAULT_POINT("image.register.locked");
	/* The row is new: whether its name is free, the insertion itself says. */
	int r = store_image_insert(s->deps.store, image, &record, err);
	if (r < 0)
		return r;
	FAULT_POINT("image.register.committed");
	image_event(s, "registered", image, 1);
	FAULT_POINT("image.register.published");
	return 0;
}

int image_service_register(struct image_service *s, struct operation *op, const char *name,
	const char *source, struct banger_image *ret, struct banger_error *err)
{
	_cleanup_image_ struct banger_image image = {
		.state = BANGER_DRAFT, .size = -1, .created_us = banger_now_us()};

	int r = banger_name_check("image", name, err);
	if (r == 0)
		r = image_source_check(source, err);
	if (r == 0)
		r = image_name_free(s, BANGER_DRAFT, name, err);
	if (r < 0)
		return r;
	banger_id_mint(image.id);
	strcpy(image.name, name);
	strcpy(image.op_id, operation_id(op));
	if (source && !(image.source = strdup(source)))
		return banger_error_oom(err);
	FAULT_POINT("image.register.begin");
	if (mkdirat(s->dirs[DIR_DRAFTS], image.id, 0700) < 0)
		return banger_error_set_errno(err, errno, "making the draft's directory");
	FAULT_POINT("image.register.made");
	r = register_locked(s, op, &image, err);
	if (r < 0) {
		(void)unlinkat(s->dirs[DIR_DRAFTS], image.id, AT_REMOVEDIR);
		return r;
	}
	*ret = image_take(&image);
	return 0;
}

/* ---- rename */

int image_service_rename(struct image_service *s, struct operation *op, const char *word,
	const char *name, struct banger_image *ret, struct banger_error *err)
{
	_cleanup_image_ struct banger_image image = {0};
	struct banger_op_record record;

	int r = banger_name_check("image", name, err);
	if (r < 0)
		return r;
	FAULT_POINT("image.rename.begin");
	_cleanup_(publication_leavep) struct publication_lock *held =
		publication_enter(s->deps.publication);
	r = find_idle(s, word, -1, &image, err);
	if (r == 0 && strcmp(image.name, name)) {
		r = image_name_free(s, image.state, name, err);
		if (r < 0)
			return r;
		strcpy(image.name, name);
		operation_completed_record(op, &record);
		FAULT_POINT("image.rename.locked");
		r = store_image_update(s->deps.store, &image, &record, err);
		FAULT_POINT("image.rename.committed");
		if (r == 0)
			image_event(s, "renamed", &image, 1);
		FAULT_POINT("image.rename.published");
	}
	if (r == 0)
		*ret = image_take(&image);
	return r;
}

/* ---- swap */

int image_service_swap(struct image_service *s, struct operation *op, const char *a, const char *b,
	struct banger_image ret[2], struct banger_error *err)
{
	_cleanup_image_ struct banger_image one = {0}, two = {0};
	struct banger_op_record record;

	FAULT_POINT("image.swap.begin");
	_cleanup_(publication_leavep) struct publication_lock *held =
		publication_enter(s->deps.publication);
	int r = find_idle(s, a, -1, &one, err);
	if (r == 0)
		r = find_idle(s, b, -1, &two, err);
	if (r < 0)
		return r;
	if (!strcmp(one.id, two.id))
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"image \"%s\" cannot be swapped with itself", one.name);
	if (one.state != two.state)
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"a draft cannot be swapped with a published image");
	operation_completed_record(op, &record);
	FAULT_POINT("image.swap.locked");
	r = store_image_swap(s->deps.store, &one, &two, &record, err);
	if (r < 0)
		return r;
	FAULT_POINT("image.swap.committed");
	ret[0] = image_take(&one);
	ret[1] = image_take(&two);
	image_event(s, "swapped", ret, 2);
	FAULT_POINT("image.swap.published");
	return 0;
}

/* ---- configure */

int image_service_configure(struct image_service *s, struct operation *op, const char *draft,
	struct json_object *document, struct banger_image *ret, struct banger_error *err)
{
	_cleanup_free_ char *kernel = NULL, *config = NULL;
	_cleanup_image_ struct banger_image image = {0};
	struct banger_op_record record;

	int r = banger_image_config_parse(document, &kernel, &config, err);
	if (r < 0)
		return r;
	_cleanup_(publication_leavep) struct publication_lock *held =
		publication_enter(s->deps.publication);
	r = find_idle(s, draft, BANGER_DRAFT, &image, err);
	if (r < 0)
		return r;
	free(image.kernel);
	free(image.config);
	image.kernel = TAKE_PTR(kernel);
	image.config = TAKE_PTR(config);
	operation_completed_record(op, &record);
	FAULT_POINT("image.configure.locked");
	r = store_image_update(s->deps.store, &image, &record, err);
	if (r < 0)
		return r;
	FAULT_POINT("image.configure.committed");
	image_event(s, "configured", &image, 1);
	*ret = image_take(&image);
	return 0;
}

/* ---- delete */

static int delete_locked(struct image_service *s, struct operation *op, const char *word,
	struct banger_image *ret, struct banger_error *err)
{
	_cleanup_(publication_leavep) struct publication_lock *held =
		publication_enter(s->deps.publication);
	_cleanup_image_ struct banger_image image = {0};
	struct banger_op_record record;

	int r = find_idle(s, word, -1, &image, err);
	if (r < 0)
		return r;
	operation_completed_record(op, &record);
	FAULT_POINT("image.delete.locked");
	r = store_image_delete(s->deps.store, image.id, &record, &image.generation, err);
	if (r < 0)
		return r;
	FAULT_POINT("image.delete.committed");
	image_event(s, "deleted", &image, 1);
	FAULT_POINT("image.delete.published");
	*ret = image_take(&image);
	return 0;
}

/* Asked before the lock, since whoever uses images has locks of its own. One who begins to use the
 * image after this has its files open, which a deletion does not disturb. */
static int check_unused(struct image_service *s, const char *word, struct banger_error *err)
{
	_cleanup_image_ struct banger_image image = {0};

	if (!s->deps.in_use)
		return 0;
	int r = image_service_find(s, word, -1, &image, err);
	return r < 0 ? r : s->deps.in_use(s->deps.arg, image.id, err);
}

int image_service_delete(struct image_service *s, struct operation *op, const char *word,
	struct banger_image *ret, struct banger_error *err)
{
	_cleanup_image_ struct banger_image image = {0};
	struct banger_error late = {0};

	FAULT_POINT("image.delete.begin");
	int r = check_unused(s, word, err);
	if (r == 0)
		r = delete_locked(s, op, word, &image, err);
	if (r < 0)
		return r;
	/* The image is gone; what is left is to clear up, here or at the next start. */
	if (image.damaged)
		image_damage_forget(s, image.id);
	if (trash_put(s->trash, s->dirs[image.state], image.id, &late) < 0 && !image.damaged)
		log_warn("files of a deleted image stay where they are until the next start",
			KV_S("image", image.name), KV_S("id", image.id), KV_ERR(&late));
	FAULT_POINT("image.delete.trashed");
	*ret = image_take(&image);
	return 0;
}
