/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The last listings are remembered, a row of inode numbers and places on disk each. A file that is
 * read from its start is looked for in them, first where it is expected next, then everywhere in
 * the most recent ones. `streak` counts such hits; reading through a tree makes it grow, listings
 * of which no file is read take it back. With a streak, the files after the one that was hit are
 * asked for, a batch at a time; with a long one, those of a new listing are asked for before the
 * first is read.
 *
 * A batch is sorted by place and neighbours are joined, so that the disk sees few and large reads
 * in one direction. All of it is a hint to the page cache: a wrong one costs a read, nothing else.
 *
 * One mutex, not held while the kernel is asked.
 */
#include <pthread.h>
#include <string.h>

#include "ahead.h"

#define LISTINGS 32
#define RECENT 4            /* of them, searched as a whole */
#define NEAR 16             /* files that may be skipped in an order that still counts as one */
#define FILE_MAX (1u << 20) /* of one file: the kernel goes on by itself */
#define BATCH_BYTES (4u << 20)
#define BATCH_FILES 128
#define JOIN (64u << 10) /* a gap that is read too, rather than seeking over it */
#define STREAK 3
#define STREAK_LONG 12
#define STREAK_MAX 32
#define UNREAD_MAX 16 /* listings without a read, after which nobody reads */

struct listing {
	uint32_t slot, files;
	uint32_t next;  /* the file expected next */
	uint32_t asked; /* files before this one were asked for */
	uint32_t hits;
	uint64_t last_use;
	uint32_t *ino;
	struct ahead_file *file;
};

struct ahead {
	void (*slow)(void);
	pthread_mutex_t lock;
	struct listing listing[LISTINGS];
	uint64_t uses;
	unsigned streak, unread;
};

struct batch {
	struct ext4_range range[BATCH_FILES];
	size_t n;
};

struct ahead *ahead_new(void (*slow)(void))
{
	struct ahead *a = calloc(1, sizeof(*a));

	if (!a)
		return NULL;
	a->slow = slow;
	pthread_mutex_init(&a->lock, NULL);
	return a;
}

void ahead_free(struct ahead *a)
{
	if (!a)
		return;
	for (size_t k = 0; k < LISTINGS; k++) {
		free(a->listing[k].ino);
		free(a->listing[k].file);
	}
	pthread_mutex_destroy(&a->lock);
	free(a);
}

void ahead_list_start(struct ahead_listing *l, uint32_t slot)
{
	l->slot = slot;
	l->files = l->dirs = 0;
}

void ahead_list_entry(
	struct ahead_listing *l, const struct ext4_image *img, const struct ext4_inode *i)
{
	struct ext4_range r;

	if (S_ISDIR(i->mode) && l->dirs < AHEAD_DIRS)
		l->dirs += ext4_inode_ranges(img, i, 16384, &l->dir[l->dirs], 1);
	if (S_ISREG(i->mode) && l->files < AHEAD_FILES &&
		ext4_inode_ranges(img, i, FILE_MAX, &r, 1) == 1)
		l->file[l->files++] = (struct ahead_file){i->ino, (uint32_t)r.len, r.off};
}

static int range_cmp(const void *a, const void *b)
{
	const struct ext4_range *x = a, *y = b;
	return x->off < y->off ? -1 : x->off > y->off;
}

static void ask(const struct ahead *a, const struct ext4_image *img, struct ext4_range *r, size_t n)
{
	size_t k = 0;

	if (!n)
		return;
	qsort(r, n, sizeof(*r), range_cmp);
	for (size_t j = 1; j < n; j++) {
		uint64_t end = r[k].off + r[k].len;
		if (r[j].off <= end + JOIN) {
			if (r[j].off + r[j].len > end)
				r[k].len = r[j].off + r[j].len - r[k].off;
			continue;
		}
		r[++k] = r[j];
	}
	for (size_t j = 0; j <= k; j++) {
		if (ext4_is_cached(img, r[j].off))
			continue;
		a->slow();
		ext4_will_read(img, r[j].off, r[j].len);
	}
}

/* The files of l from `asked` on, up to a batch. */
static void take_batch(struct listing *l, struct batch *b)
{
	uint64_t bytes = 0;

	for (; l->asked < l->files && b->n < BATCH_FILES && bytes < BATCH_BYTES; l->asked++) {
		const struct ahead_file *f = &l->file[l->asked];
		b->range[b->n++] = (struct ext4_range){f->off, f->len};
		bytes += f->len;
	}
}

static struct listing *least_used(struct ahead *a)
{
	struct listing *l = &a->listing[0];

	for (size_t k = 1; k < LISTINGS; k++)
		if (a->listing[k].last_use < l->last_use)
			l = &a->listing[k];
	return l;
}

static struct listing *remember(struct ahead *a, const struct ahead_listing *from)
{
	struct listing *l = least_used(a);
	uint32_t *ino = reallocarray(l->ino, from->files, sizeof(*ino));
	struct ahead_file *file;

	if (!ino)
		return NULL;
	l->ino = ino;
	l->files = 0; /* until both arrays are there */
	file = reallocarray(l->file, from->files, sizeof(*file));
	if (!file)
		return NULL;
	memcpy(file, from->file, from->files * sizeof(*file));
	for (uint32_t k = 0; k < from->files; k++)
		ino[k] = file[k].ino;
	*l = (struct listing){.slot = from->slot,
		.files = from->files,
		.last_use = ++a->uses,
		.ino = ino,
		.file = file};
	return l;
}

void ahead_listed(struct ahead *a, const struct ext4_image *img, struct ahead_listing *l)
{
	struct batch b = {.n = 0};

	if (l->files) {
		pthread_mutex_lock(&a->lock);
		if (++a->unread > UNREAD_MAX)
			a->streak = 0;
		struct listing *mine = remember(a, l);
		if (mine && a->streak >= STREAK_LONG)
			take_batch(mine, &b);
		pthread_mutex_unlock(&a->lock);
	}
	ask(a, img, l->dir, l->dirs);
	ask(a, img, b.range, b.n);
}

/* The file where it is expected, in any listing. */
static struct listing *find_near(struct ahead *a, uint32_t slot, uint32_t ino, uint32_t *ret_k)
{
	for (size_t j = 0; j < LISTINGS; j++) {
		struct listing *l = &a->listing[j];
		for (uint32_t k = l->next; l->slot == slot && k < l->files && k < l->next + NEAR;
			k++) {
			if (l->ino[k] == ino) {
				*ret_k = k;
				return l;
			}
		}
	}
	return NULL;
}

static struct listing *find_recent(struct ahead *a, uint32_t slot, uint32_t ino)
{
	for (size_t j = 0; j < LISTINGS; j++) {
		struct listing *l = &a->listing[j];
		if (l->slot != slot || l->last_use + RECENT <= a->uses)
			continue;
		for (uint32_t k = 0; k < l->files; k++)
			if (l->ino[k] == ino)
				return l;
	}
	return NULL;
}

/* What to ask for, now that this file is read. */
static void follow(struct ahead *a, uint32_t slot, uint32_t ino, struct batch *b)
{
	uint32_t k = 0;
	struct listing *l = find_near(a, slot, ino, &k);
	bool in_order = l != NULL;

	if (!l)
		l = find_recent(a, slot, ino);
	if (!l)
		return;
	l->hits++;
	a->unread = 0;
	if (a->streak < STREAK_MAX)
		a->streak++;
	if (in_order) {
		l->next = k + 1;
		if (l->asked < l->next)
			l->asked = l->next;
	}
	/* In another order than listed: whatever is left of the directory. */
	if (in_order ? a->streak >= STREAK && l->asked - l->next < BATCH_FILES / 4
		     : l->hits >= STREAK)
		take_batch(l, b);
}

void ahead_read(struct ahead *a, const struct ext4_image *img, uint32_t slot, uint32_t ino)
{
	struct batch b = {.n = 0};

	pthread_mutex_lock(&a->lock);
	follow(a, slot, ino, &b);
	pthread_mutex_unlock(&a->lock);
	ask(a, img, b.range, b.n);
}
