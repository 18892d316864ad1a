/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The comparison that recovery makes, for `doctor --check`, on a registry that is in use.
 *
 * A change that is under way shows as a disagreement for a moment: a deletion commits before its
 * directory goes, a promotion renames before it commits. So what the first pass finds is only
 * suspected; after a pause each suspect is looked at again by itself, and what still disagrees is
 * reported. What is in staging/ belongs to an operation that runs; what was made before the oldest of
 * those began belongs to none.
 */
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <sys/stat.h>
#include "image/reconcile.h"

enum {
	PAUSE_MS = 200,
	SUSPECTS_MAX = 10000,
	TICK_US = 20000 /* that timestamps of files lag behind */
};

struct suspect {
	enum image_dir dir;
	char *name; /* an id, or some other entry of dir */
};

struct checking {
	struct image_service *s;
	struct suspect *suspects;
	size_t n;
	int reported;
	void (*report)(void *arg, const char *what);
	void *arg;
};

static void checking_done(struct checking *c)
{
	for (size_t i = 0; i < c->n; i++)
		free(c->suspects[i].name);
	free(c->suspects);
}

static int suspect(
	struct checking *c, enum image_dir dir, const char *name, struct banger_error *err)
{
	if (c->n >= SUSPECTS_MAX)
		return 0; /* nobody reads more */
	if (!c->suspects && !(c->suspects = calloc(SUSPECTS_MAX, sizeof(*c->suspects))))
		return banger_error_oom(err);
	char *copy = strdup(name);
	if (!copy)
		return banger_error_oom(err);
	c->suspects[c->n++] = (struct suspect){.dir = dir, .name = copy};
	return 0;
}

/* ---- damage that is known */

/* Where id is, or n. */
static size_t damage_find(const struct damage *d, const char *id)
{
	size_t i = 0;

	while (i < d->n && strcmp(d->ids[i], id) != 0)
		i++;
	return i;
}

void image_damage_note(struct image_service *s, const char *id)
{
	struct damage *d = &s->damage;

	pthread_mutex_lock(&d->lock);
	size_t n = d->n;
	if (damage_find(d, id) == n) {
		char(*more)[BANGER_ID_LEN + 1] = reallocarray(d->ids, n + 1, sizeof(*more));
		/* Without memory it is found out again. */
		if (more) {
			snprintf(more[n], sizeof(*more), "%s", id);
			d->ids = more;
			d->n = n + 1;
		}
	}
	pthread_mutex_unlock(&d->lock);
}

void image_damage_forget(struct image_service *s, const char *id)
{
	struct damage *d = &s->damage;

	pthread_mutex_lock(&d->lock);
	size_t i = damage_find(d, id);
	if (i < d->n) {
		memcpy(d->ids[i], d->ids[d->n - 1], sizeof(*d->ids));
		d->n--;
	}
	pthread_mutex_unlock(&d->lock);
}

/* Why what was published is not there any more, in words, or NULL. */
static const char *lost_files(struct image_service *s, const struct banger_image *image)
{
	struct stat st;

	if (image->state == BANGER_DRAFT)
		return NULL;
	_cleanup_close_ int dir = openat(
		s->dirs[DIR_IMAGES], image->id, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir < 0)
		return "its directory cannot be opened";
	if (fstatat(dir, ROOTFS, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return "its " ROOTFS " is missing";
	if (!S_ISREG(st.st_mode))
		return "its " ROOTFS " is not a regular file";
	if (st.st_size != image->size)
		return "its " ROOTFS " has another size than when it was published";
	return NULL;
}

/* The same, and what else is wrong with the files of an image. */
static const char *wrong_files(struct image_service *s, const struct banger_image *image)
{
	const char *lost = lost_files(s, image);
	char path[BANGER_ID_LEN + sizeof("/" ROOTFS)];
	struct stat st;

	if (lost || image->state == BANGER_DRAFT)
		return lost;
	snprintf(path, sizeof(path), "%s/" ROOTFS, image->id);
	if (fstatat(s->dirs[DIR_IMAGES], path, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_mode & 0222)
		return "its " ROOTFS " can be written to";
	return NULL;
}

bool image_service_damaged(struct image_service *s, const struct banger_image *image)
{
	struct damage *d = &s->damage;

	if (d->n == 0 || image->state == BANGER_DRAFT)
		return false;
	pthread_mutex_lock(&d->lock);
	bool known = damage_find(d, image->id) < d->n;
	pthread_mutex_unlock(&d->lock);
	if (!known)
		return false;
	if (lost_files(s, image))
		return true;
	image_damage_forget(s, image->id);
	return false;
}

/* ---- the comparison */

static int check_row(
	void *arg, const struct banger_image *image, unsigned places, struct banger_error *err)
{
	struct checking *c = arg;

	int r = places & PLACE(DIR_STAGING) ? suspect(c, DIR_STAGING, image->id, err) : 0;

	if (r < 0 || ((places & ~PLACE(DIR_STAGING)) == PLACE(image->state) &&
			     !wrong_files(c->s, image)))
		return r;
	return suspect(c, (enum image_dir)image->state, image->id, err);
}

static int check_stray(void *arg, enum image_dir dir, const char *name, struct banger_error *err)
{
	return suspect(arg, dir, name, err);
}

_printf_(2, 3) static void report(struct checking *c, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	c->reported++;
	c->report(c->arg, text);
}

static bool is_there(const struct checking *c, enum image_dir dir, const char *name)
{
	return faccessat(c->s->dirs[dir], name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* Since when something runs, as the clock on the wall has it; INT64_MAX: nothing does. */
static int running_since(struct image_service *s, int64_t *ret, struct banger_error *err)
{
	_cleanup_free_ struct banger_op_record *ops = NULL;
	int64_t since = INT64_MAX;
	size_t n;

	if (operations_running(s->deps.operations, &ops, &n) < 0)
		return banger_error_oom(err);
	for (size_t i = 0; i < n; i++)
		if (ops[i].started_us < since)
			since = ops[i].started_us;
	*ret = since;
	return 0;
}

/* Where the filesystem does not say when something was made, only a registry at rest is judged. */
static int look_at_staged(struct checking *c, const char *name, struct banger_error *err)
{
	struct statx stx;
	int64_t since = 0;

	int r = running_since(c->s, &since, err);
	if (r < 0)
		return r;
	if (statx(c->s->dirs[DIR_STAGING], name, AT_SYMLINK_NOFOLLOW, STATX_BTIME, &stx) < 0)
		return 0; /* gone meanwhile */
	int64_t made = stx.stx_mask & STATX_BTIME
			       ? stx.stx_btime.tv_sec * 1000000LL + stx.stx_btime.tv_nsec / 1000
			       : INT64_MAX - 1;
	if (made < since - TICK_US)
		report(c, "staging/%s belongs to no operation that runs", name);
	return 0;
}

/* Under the publication lock, so that row and directories are of one moment. */
static int look_again(struct checking *c, const struct suspect *sus, struct banger_error *err)
{
	_cleanup_(publication_leavep) struct publication_lock *held =
		publication_enter(c->s->deps.publication);
	_cleanup_image_ struct banger_image image = {0};
	struct banger_error none = {0};

	if (sus->dir == DIR_STAGING)
		return look_at_staged(c, sus->name, err);
	int r = banger_id_valid(sus->name)
			? store_image_by_id(c->s->deps.store, sus->name, &image, &none)
			: -ENOENT;
	if (r < 0 && r != -ENOENT) {
		*err = none;
		return r;
	}
	if (r < 0) {
		if (is_there(c, sus->dir, sus->name))
			report(c, "%s/%s belongs to no image",
				sus->dir == DIR_DRAFTS ? "drafts" : "images", sus->name);
		return 0;
	}
	const char *what = banger_image_state_name(image.state);
	if (lost_files(c->s, &image))
		image_damage_note(c->s, image.id);
	enum image_dir other = image.state == BANGER_DRAFT ? DIR_IMAGES : DIR_DRAFTS;
	if (!is_there(c, (enum image_dir)image.state, image.id))
		report(c, "%s image \"%s\" (%s): its directory is %s", what, image.name, image.id,
			is_there(c, other, image.id) ? "in the wrong place" : "missing");
	else if (is_there(c, other, image.id))
		report(c, "%s image \"%s\" (%s) has two directories", what, image.name, image.id);
	else if (wrong_files(c->s, &image))
		report(c, "%s image \"%s\" (%s): %s", what, image.name, image.id,
			wrong_files(c->s, &image));
	return 0;
}

int image_service_check(struct image_service *s, void (*to)(void *arg, const char *what), void *arg,
	struct banger_error *err)
{
	_cleanup_(checking_done) struct checking c = {.s = s, .report = to, .arg = arg};
	const struct reconcile callbacks = {.arg = &c, .row = check_row, .stray = check_stray};
	struct banger_error ignored;

	if (!err)
		err = &ignored;
	int r = reconcile(s, &callbacks, err);
	if (r == 0 && c.n > 0)
		nanosleep(&(struct timespec){.tv_nsec = PAUSE_MS * 1000000L}, NULL);
	for (size_t i = 0; r == 0 && i < c.n; i++)
		r = look_again(&c, &c.suspects[i], err);
	return r < 0 ? r : c.reported;
}
