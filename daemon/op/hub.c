/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hub. One mutex guards the list of subscriptions and all their queues: publishing is an append
 * of a pointer for each subscriber, taking is a copy, and no one sleeps with it held. A text is
 * allocated once and counted by the queues it is in.
 *
 * Each subscription has an eventfd that is written when its queue stops being empty and read when
 * it is empty again, so that a burst of events costs its reader one wake-up. One who is cut off
 * stays readable, with an empty queue, until it has gone.
 */
#include "op/hub.h"
#include <banger/op.h>
#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>

#define BACKLOG_MAX (8 * 1024 * 1024)
#define TOPICS 3

struct text {
	int refs; /* by the hub's lock */
	size_t len;
	char data[];
};

struct item {
	struct item *next;
	struct text *text;
};

struct hub_subscription {
	struct hub *hub;
	struct hub_subscription *prev, *next;
	unsigned topics;
	banger_op_id op_id; /* "" for all */
	int fd;
	struct item *head, **tail;
	size_t backlog; /* bytes */
	bool cut_off;
};

struct hub {
	pthread_mutex_t lock;
	struct hub_subscription *first;
	atomic_size_t wanted[TOPICS]; /* subscriptions of each topic */
};

int hub_new(struct hub **ret)
{
	struct hub *h = calloc(1, sizeof(*h));

	if (!h)
		return -ENOMEM;
	pthread_mutex_init(&h->lock, NULL);
	*ret = h;
	return 0;
}

void hub_freep(struct hub **p)
{
	if (!*p)
		return;
	assert(!(*p)->first);
	pthread_mutex_destroy(&(*p)->lock);
	free(*p);
	*p = NULL;
}

static void count_wanted(struct hub *h, unsigned topics, int by)
{
	for (int i = 0; i < TOPICS; i++)
		if (topics & (1u << i))
			atomic_fetch_add(&h->wanted[i], by);
}

bool hub_wanted(struct hub *h, enum hub_topic topic)
{
	for (int i = 0; i < TOPICS; i++)
		if (topic & (1u << i) && atomic_load(&h->wanted[i]) > 0)
			return true;
	return false;
}

size_t hub_subscribers(struct hub *h, unsigned topics)
{
	size_t n = 0;

	pthread_mutex_lock(&h->lock);
	for (struct hub_subscription *s = h->first; s; s = s->next)
		n += (s->topics & topics) != 0;
	pthread_mutex_unlock(&h->lock);
	return n;
}

static void unref(struct text *t)
{
	if (--t->refs == 0)
		free(t);
}

static void drop_queue(struct hub_subscription *s)
{
	while (s->head) {
		struct item *i = s->head;

		s->head = i->next;
		unref(i->text);
		free(i);
	}
	s->tail = &s->head;
	s->backlog = 0;
}

static void wake(struct hub_subscription *s)
{
	/* Cannot fail: the counter is 0 or 1. */
	int r = eventfd_write(s->fd, 1);
	assert(r == 0);
	(void)r;
}

static void enqueue(struct hub_subscription *s, struct text *t)
{
	bool was_empty = !s->head;
	struct item *i = NULL;

	if (s->cut_off)
		return;
	if (s->backlog + t->len + sizeof(*i) <= BACKLOG_MAX)
		i = malloc(sizeof(*i));
	if (!i) {
		drop_queue(s);
		s->cut_off = true;
	} else {
		*i = (struct item){.text = t};
		t->refs++;
		*s->tail = i;
		s->tail = &i->next;
		s->backlog += t->len + sizeof(*i);
	}
	if (was_empty)
		wake(s);
}

static bool wants(const struct hub_subscription *s, enum hub_topic topic, const char *op_id)
{
	if (!(s->topics & topic))
		return false;
	return topic != HUB_LOG || !s->op_id.s[0] || (op_id && strcmp(s->op_id.s, op_id) == 0);
}

void hub_publish(
	struct hub *h, enum hub_topic topic, const char *op_id, const char *line, size_t len)
{
	if (!hub_wanted(h, topic))
		return;
	struct text *t = malloc(sizeof(*t) + len);
	if (t) {
		*t = (struct text){.refs = 1, .len = len};
		memcpy(t->data, line, len);
	}
	pthread_mutex_lock(&h->lock);
	for (struct hub_subscription *s = h->first; s; s = s->next) {
		if (!wants(s, topic, op_id))
			continue;
		if (t) {
			enqueue(s, t);
		} else if (!s->cut_off) {
			/* Better cut off than one event short without knowing. */
			bool was_empty = !s->head;
			drop_queue(s);
			s->cut_off = true;
			if (was_empty)
				wake(s);
		}
	}
	if (t)
		unref(t);
	pthread_mutex_unlock(&h->lock);
}

int hub_subscribe(struct hub *h, unsigned topics, const char *op_id, struct hub_subscription **ret)
{
	struct hub_subscription *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->fd < 0) {
		int e = -errno;
		free(s);
		return e;
	}
	s->hub = h;
	s->topics = topics;
	s->tail = &s->head;
	snprintf(s->op_id.s, sizeof(s->op_id.s), "%s", op_id ? op_id : "");
	pthread_mutex_lock(&h->lock);
	s->next = h->first;
	if (h->first)
		h->first->prev = s;
	h->first = s;
	count_wanted(h, topics, 1);
	pthread_mutex_unlock(&h->lock);
	*ret = s;
	return 0;
}

void hub_unsubscribep(struct hub_subscription **p)
{
	struct hub_subscription *s = *p;

	if (!s)
		return;
	struct hub *h = s->hub;
	pthread_mutex_lock(&h->lock);
	if (s->prev)
		s->prev->next = s->next;
	else
		h->first = s->next;
	if (s->next)
		s->next->prev = s->prev;
	count_wanted(h, s->topics, -1);
	drop_queue(s);
	pthread_mutex_unlock(&h->lock);
	close(s->fd);
	free(s);
	*p = NULL;
}

int hub_subscription_fd(const struct hub_subscription *s)
{
	return s->fd;
}

int hub_take(struct hub_subscription *s, char **ret, size_t *ret_len)
{
	struct hub *h = s->hub;
	eventfd_t n;
	int r = 0;

	pthread_mutex_lock(&h->lock);
	struct item *i = s->head;
	if (s->cut_off) {
		r = -EPIPE;
	} else if (i) {
		char *copy = malloc(i->text->len + 1);

		r = copy ? 1 : -ENOMEM;
		if (copy) {
			memcpy(copy, i->text->data, i->text->len);
			copy[i->text->len] = '\0';
			*ret = copy;
			*ret_len = i->text->len;
			s->head = i->next;
			if (!s->head) {
				s->tail = &s->head;
				eventfd_read(s->fd, &n);
			}
			s->backlog -= i->text->len + sizeof(*i);
			unref(i->text);
			free(i);
		}
	}
	pthread_mutex_unlock(&h->lock);
	return r;
}
