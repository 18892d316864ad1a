/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One mutex, one condition, a singly linked queue. The mutex is let go before anything is sent.
 *
 * An inode is asked for again and again (a directory of which many entries change); one that is
 * still waiting in the queue is not queued a second time. It must not be left out once it has been
 * taken to be sent, so the mark goes when it leaves the queue.
 */
#include "notify.h"
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <banger/log.h>
#include "index.h"

enum kind { ENTRY, INODE };

struct item {
	struct item *next;
	enum kind kind;
	uint64_t parent, ino;
	size_t len;
	char name[];
};

struct notify {
	struct notify_sender sender;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	pthread_t thread;
	bool running, stop;
	struct item *first, **last;
	struct item *sending; /* NULL: none */
	struct index waiting; /* INODE items in the queue */
};

static uint64_t hash_item(const void *item)
{
	return index_hash_number(((const struct item *)item)->ino);
}

static bool is_inode(const void *item, const void *key)
{
	return ((const struct item *)item)->ino == *(const uint64_t *)key;
}

int notify_new(const struct notify_sender *sender, struct notify **ret)
{
	struct notify *n = calloc(1, sizeof(*n));

	if (!n)
		return -ENOMEM;
	n->sender = *sender;
	n->last = &n->first;
	n->waiting.hash = hash_item;
	pthread_mutex_init(&n->lock, NULL);
	pthread_cond_init(&n->cond, NULL);
	*ret = n;
	return 0;
}

static void queue(struct notify *n, enum kind kind, uint64_t parent, uint64_t ino, const char *name)
{
	size_t len = strlen(name);
	struct item *i = malloc(sizeof(*i) + len + 1);

	pthread_mutex_lock(&n->lock);
	if (n->stop) {
		pthread_mutex_unlock(&n->lock);
		free(i);
		return;
	}
	if (!i || (kind == INODE && index_reserve(&n->waiting, 1) < 0)) {
		pthread_mutex_unlock(&n->lock);
		free(i);
		log_err("no memory to tell the kernel of a change", KV_S("name", name));
		return;
	}
	*i = (struct item){.kind = kind, .parent = parent, .ino = ino, .len = len};
	memcpy(i->name, name, len + 1);
	if (kind == INODE && index_find(&n->waiting, hash_item(i), is_inode, &ino)) {
		free(i);
	} else {
		if (kind == INODE)
			index_insert(&n->waiting, i);
		*n->last = i;
		n->last = &i->next;
		pthread_cond_signal(&n->cond);
	}
	pthread_mutex_unlock(&n->lock);
}

void notify_entry(struct notify *n, uint64_t parent, const char *name)
{
	queue(n, ENTRY, parent, 0, name);
}

void notify_inode(struct notify *n, uint64_t ino)
{
	queue(n, INODE, 0, ino, "");
}

static void send_item(const struct notify *n, const struct item *i)
{
	const struct notify_sender *s = &n->sender;
	int r = 0;

	switch (i->kind) {
	case ENTRY:
		r = s->entry(s->arg, i->parent, i->name, i->len);
		break;
	case INODE:
		r = s->inode(s->arg, i->ino);
		break;
	}
	if (r < 0 && r != -ENOENT)
		log_debug("the kernel did not take a notification", KV_S("name", i->name),
			KV_S("error", strerror(-r)));
}

/* Take the first item; NULL when the thread is to end. */
static struct item *take(struct notify *n)
{
	struct item *i = NULL;

	pthread_mutex_lock(&n->lock);
	while (!n->stop && !n->first)
		pthread_cond_wait(&n->cond, &n->lock);
	if (!n->stop) {
		i = n->first;
		n->first = i->next;
		if (!n->first)
			n->last = &n->first;
		if (i->kind == INODE)
			index_remove(&n->waiting, i);
	}
	n->sending = i;
	pthread_mutex_unlock(&n->lock);
	return i;
}

static void sent(struct notify *n, struct item *i)
{
	pthread_mutex_lock(&n->lock);
	n->sending = NULL;
	pthread_mutex_unlock(&n->lock);
	free(i);
}

static bool is_entry(const struct item *i, uint64_t parent, const char *name)
{
	return i && i->kind == ENTRY && i->parent == parent && strcmp(i->name, name) == 0;
}

bool notify_is_pending(struct notify *n, uint64_t parent, const char *name)
{
	pthread_mutex_lock(&n->lock);
	bool found = is_entry(n->sending, parent, name);
	for (const struct item *i = n->first; i && !found; i = i->next)
		found = is_entry(i, parent, name);
	pthread_mutex_unlock(&n->lock);
	return found;
}

static void *run(void *arg)
{
	struct notify *n = arg;
	struct item *i;

	while ((i = take(n))) {
		send_item(n, i);
		sent(n, i);
	}
	return NULL;
}

int notify_start(struct notify *n)
{
	int e = pthread_create(&n->thread, NULL, run, n);

	n->running = e == 0;
	return -e;
}

void notify_stop(struct notify *n)
{
	pthread_mutex_lock(&n->lock);
	bool running = n->running;
	n->stop = true;
	n->running = false;
	pthread_cond_signal(&n->cond);
	pthread_mutex_unlock(&n->lock);
	if (running)
		pthread_join(n->thread, NULL);
}

void notify_freep(struct notify **p)
{
	struct notify *n = *p;
	struct item *i;

	if (!n)
		return;
	notify_stop(n);
	while ((i = n->first)) {
		n->first = i->next;
		free(i);
	}
	index_done(&n->waiting);
	pthread_cond_destroy(&n->cond);
	pthread_mutex_destroy(&n->lock);
	free(n);
	*p = NULL;
}
