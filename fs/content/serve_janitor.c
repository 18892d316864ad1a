/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Making the kernel forget: entries of the root that are something else now (at once, for the
 * thread that follows the registry), and lean listings and whole images, on a thread of its own, because the kernel
 * takes a directory's lock for it, and a thread that serves may be what the holder of that lock
 * waits for.
 *
 * A deleted image is done with when the kernel has forgotten all its nodes. Dropping its entry in
 * the root mostly does that. Where a file was open, the directories above it are cut off but stay,
 * and so does the file's own entry after it was closed, for as long as there is memory; sweeps look
 * for directories that the kernel still knows and drop their entries too.
 */
#include <string.h>
#include <time.h>

#include "serve_internal.h"

#define SWEEP_PAUSE_MAX 64 /* seconds */

void server_stale(struct server *s, const char *name)
{
	if (!name) {
		(void)fuse_lowlevel_notify_inval_inode(s->session, FUSE_ROOT_ID, 0, 0);
		return;
	}
	(void)fuse_lowlevel_notify_inval_entry(s->session, FUSE_ROOT_ID, name, strlen(name));
	pthread_mutex_lock(&s->lock);
	if (!s->sweep)
		pthread_cond_signal(&s->wake);
	s->sweep = true;
	s->sweep_pause = 1;
	pthread_mutex_unlock(&s->lock);
}

void server_evict(struct server *s, const char *name)
{
	pthread_mutex_lock(&s->lock);
	if (s->evict_count < ELEMENTSOF(s->evict)) { /* else it will be asked again */
		s->evict[s->evict_count] = strdup(name);
		s->evict_count += s->evict[s->evict_count] != NULL;
		pthread_cond_signal(&s->wake);
	}
	pthread_mutex_unlock(&s->lock);
}

void serve_drop_lean(struct server *s)
{
	pthread_mutex_lock(&s->lock);
	s->drop_lean = true;
	pthread_cond_signal(&s->wake);
	pthread_mutex_unlock(&s->lock);
}

static void drop_lean(struct server *s)
{
	size_t n = 0;
	_cleanup_free_ uint64_t *node = lean_take(s->lean, &n);

	for (size_t k = 0; k < n && !s->stopping; k++)
		(void)fuse_lowlevel_notify_inval_inode(s->session, node[k], 0, 0);
}

struct sweep {
	struct server *s;
	struct image *i;
	fuse_ino_t dir;
};

static int sweep_entry(void *arg, const struct ext4_dirent *d)
{
	const struct sweep *w = arg;

	(void)fuse_lowlevel_notify_inval_entry(w->s->session, w->dir, d->name, d->len);
	return 0;
}

static int sweep_inode(void *arg, const struct ext4_inode *i)
{
	struct sweep *w = arg;

	w->dir = node_of(w->i->slot, i->ino);
	/* Asking for less than nothing to be dropped tells whether the kernel knows the directory.
	 */
	if (S_ISDIR(i->mode) && fuse_lowlevel_notify_inval_inode(w->s->session, w->dir, -1, 0) == 0)
		(void)ext4_readdir(w->i->ext4, w->s->janitor_scratch, i, 0, sweep_entry, w);
	return w->s->stopping;
}

/* Files that were open when their image was deleted leave entries in the kernel's cache that nobody
 * can reach any more, and that would keep the image's file. true: there still are such images. */
static bool sweep(struct server *s)
{
	struct sweep w = {.s = s};
	uint32_t slot = 0;

	while ((w.i = table_get_unwanted(s->table, slot))) {
		slot = w.i->slot;
		(void)ext4_image_inodes(w.i->ext4, s->janitor_scratch, sweep_inode, &w);
		table_put(s->table, w.i);
	}
	return slot != 0;
}

static void wait_for_work(struct server *s)
{
	struct timespec t;

	if (!s->sweep) {
		pthread_cond_wait(&s->wake, &s->lock);
		return;
	}
	clock_gettime(CLOCK_REALTIME, &t);
	t.tv_sec += s->sweep_pause;
	if (s->sweep_pause < SWEEP_PAUSE_MAX)
		s->sweep_pause *= 2;
	(void)pthread_cond_timedwait(&s->wake, &s->lock, &t);
}

/* Evictions at once, sweeps after a pause that grows while they find no end. */
void *serve_janitor(void *arg)
{
	struct server *s = arg;

	pthread_mutex_lock(&s->lock);
	while (!s->stopping) {
		if (!s->evict_count && !s->drop_lean)
			wait_for_work(s);
		bool dropping = s->drop_lean;
		bool sweeping = s->sweep && !s->evict_count && !dropping;
		_cleanup_free_ char *name = s->evict_count ? s->evict[--s->evict_count] : NULL;
		s->sweep = s->sweep && !sweeping;
		s->drop_lean = false;
		pthread_mutex_unlock(&s->lock);
		if (dropping)
			drop_lean(s);
		if (name)
			(void)fuse_lowlevel_notify_inval_entry(
				s->session, FUSE_ROOT_ID, name, strlen(name));
		bool more = name || (sweeping && sweep(s));
		pthread_mutex_lock(&s->lock);
		s->sweep |= more;
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}
