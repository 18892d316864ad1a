/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A table by inode and one by node number, under one mutex. A node counts the kernel's lookups and
 * its open handles, and goes when both are zero: a RELEASE may overtake a FORGET or the other way
 * round, as they are handled by different threads.
 *
 * Passthrough and cached opens of one inode exclude each other in the kernel. A draft's file is
 * always opened cached; one that is still open from then when its image is published stays cached
 * until that handle is closed. Our counts lag behind the kernel's (RELEASE comes later than what it
 * tells of), which errs on the side that the kernel allows.
 */
#include "files.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include "index.h"
#include "nodes.h"
#include "slots.h"

struct file {
	uint64_t number, owner;
	struct file_id id;
	uint64_t nlookup;
	struct open_file *open;
	unsigned npass;
	int backing_id;
	bool published_before;
	char *path;
};

struct files {
	pthread_mutex_t lock;
	struct slots nodes;
	struct index by_inode;
};

static uint64_t hash_id(const struct file_id *id)
{
	return index_hash_number(id->ino ^ (uint64_t)id->born_ns << 1);
}

static uint64_t hash_file(const void *item)
{
	return hash_id(&((const struct file *)item)->id);
}

static bool is_file(const void *item, const void *key)
{
	return file_id_same(&((const struct file *)item)->id, key);
}

struct file_id file_id_of(const struct statx *stx)
{
	return (struct file_id){
		.ino = stx->stx_ino,
		.born_ns = stx->stx_mask & STATX_BTIME
				   ? stx->stx_btime.tv_sec * 1000000000LL + stx->stx_btime.tv_nsec
				   : 0,
		.dev = makedev(stx->stx_dev_major, stx->stx_dev_minor),
	};
}

int files_new(struct files **ret)
{
	struct files *f = calloc(1, sizeof(*f));

	if (!f)
		return -ENOMEM;
	pthread_mutex_init(&f->lock, NULL);
	f->by_inode.hash = hash_file;
	*ret = f;
	return 0;
}

void files_freep(struct files **p)
{
	struct files *f = *p;
	struct file *file;
	uint64_t n = 0;

	if (!f)
		return;
	while ((file = slots_next(&f->nodes, n, &n))) {
		free(file->path);
		free(file);
	}
	slots_done(&f->nodes);
	index_done(&f->by_inode);
	pthread_mutex_destroy(&f->lock);
	free(f);
	*p = NULL;
}

static struct file *of_id(struct files *f, const struct file_id *id)
{
	return index_find(&f->by_inode, hash_id(id), is_file, id);
}

static struct file *of_node(struct files *f, uint64_t node)
{
	return node_kind(node) == NODE_FILE ? slots_get(&f->nodes, node_number(node)) : NULL;
}

static struct file *add(struct files *f, const struct file_id *id)
{
	struct file *file = calloc(1, sizeof(*file));

	if (!file || slots_reserve(&f->nodes, 1) < 0 || index_reserve(&f->by_inode, 1) < 0) {
		free(file);
		return NULL;
	}
	file->id = *id;
	file->number = slots_add(&f->nodes, file);
	index_insert(&f->by_inode, file);
	return file;
}

static void drop_if_unused(struct files *f, struct file *file)
{
	if (file->nlookup > 0 || file->open)
		return;
	index_remove(&f->by_inode, file);
	slots_set(&f->nodes, file->number, NULL);
	free(file->path);
	free(file);
}

static int set_place(struct file *file, uint64_t owner, const char *path)
{
	if (file->path && file->owner == owner && strcmp(file->path, path) == 0)
		return 0;
	char *copy = strdup(path);
	if (!copy)
		return -ENOMEM;
	free(file->path);
	file->path = copy;
	file->owner = owner;
	return 0;
}

uint64_t files_lookup(struct files *f, uint64_t owner, const char *path, const struct statx *stx)
{
	struct file_id id = file_id_of(stx);
	uint64_t node = 0;

	pthread_mutex_lock(&f->lock);
	struct file *file = of_id(f, &id) ?: add(f, &id);
	if (file && set_place(file, owner, path) == 0) {
		file->nlookup++;
		node = node_id(NODE_FILE, file->number);
	} else if (file) {
		drop_if_unused(f, file);
	}
	pthread_mutex_unlock(&f->lock);
	return node;
}

void files_forget(struct files *f, uint64_t node, uint64_t nlookup)
{
	pthread_mutex_lock(&f->lock);
	struct file *file = of_node(f, node);
	if (file) {
		file->nlookup -= nlookup < file->nlookup ? nlookup : file->nlookup;
		drop_if_unused(f, file);
	}
	pthread_mutex_unlock(&f->lock);
}

void files_renamed(struct files *f, uint64_t owner, const char *path, const struct statx *stx)
{
	struct file_id id = file_id_of(stx);

	pthread_mutex_lock(&f->lock);
	struct file *file = of_id(f, &id);
	/* Without memory it keeps its old name and is found again at its next lookup. */
	if (file)
		(void)set_place(file, owner, path);
	pthread_mutex_unlock(&f->lock);
}

void file_place_done(struct file_place *p)
{
	free(p->path);
	*p = (struct file_place){0};
}

int files_place(struct files *f, uint64_t node, struct file_place *ret)
{
	int r = -ENOENT;

	pthread_mutex_lock(&f->lock);
	struct file *file = of_node(f, node);
	if (file) {
		struct file_place p = {file->owner, file->id, strdup(file->path)};
		r = p.path ? 0 : -ENOMEM;
		if (r == 0)
			*ret = p;
	}
	pthread_mutex_unlock(&f->lock);
	return r;
}

/* ---- open handles */

void files_opened(struct files *f, struct open_file *o)
{
	pthread_mutex_lock(&f->lock);
	struct file *file = of_node(f, o->node);
	if (file) {
		o->next = file->open;
		file->open = o;
	}
	pthread_mutex_unlock(&f->lock);
}

void files_closed(struct files *f, struct open_file *o)
{
	pthread_mutex_lock(&f->lock);
	struct file *file = of_node(f, o->node);
	for (struct open_file **p = file ? &file->open : NULL; p && *p; p = &(*p)->next)
		if (*p == o) {
			*p = o->next;
			drop_if_unused(f, file);
			break;
		}
	pthread_mutex_unlock(&f->lock);
}

int files_statx_open(struct files *f, uint64_t node, struct statx *ret)
{
	int r = -ENOENT;

	pthread_mutex_lock(&f->lock);
	struct file *file = of_node(f, node);
	if (file && file->open)
		r = statx(file->open->fd, "", AT_EMPTY_PATH, FILE_STATX, ret) < 0 ? -errno : 0;
	pthread_mutex_unlock(&f->lock);
	return r;
}

bool files_keep_cache(struct files *f, uint64_t node)
{
	pthread_mutex_lock(&f->lock);
	struct file *file = of_node(f, node);
	bool keep = file && file->published_before;
	if (file)
		file->published_before = true;
	pthread_mutex_unlock(&f->lock);
	return keep;
}

/* ---- passthrough */

static bool opened_cached(const struct file *file)
{
	unsigned n = 0;

	for (const struct open_file *o = file->open; o; o = o->next)
		n++;
	return n > file->npass;
}

int files_pass_open(
	struct files *f, uint64_t node, int (*attach)(void *arg, int fd), void *arg, int fd)
{
	int id = 0;

	pthread_mutex_lock(&f->lock);
	struct file *file = of_node(f, node);
	if (file && file->npass == 0 && !opened_cached(file))
		file->backing_id = attach(arg, fd);
	if (file && file->backing_id > 0) {
		id = file->backing_id;
		file->npass++;
	}
	pthread_mutex_unlock(&f->lock);
	return id;
}

int files_pass_close(struct files *f, uint64_t node)
{
	int id = 0;

	pthread_mutex_lock(&f->lock);
	struct file *file = of_node(f, node);
	if (file && file->npass > 0 && --file->npass == 0) {
		id = file->backing_id;
		file->backing_id = 0;
	}
	pthread_mutex_unlock(&f->lock);
	return id;
}

size_t files_count(struct files *f)
{
	pthread_mutex_lock(&f->lock);
	size_t n = f->nodes.count;
	pthread_mutex_unlock(&f->lock);
	return n;
}
