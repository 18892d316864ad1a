/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hub. One mutex guards the list of subscriptions and all their queues: publishing is an append
 * of a pointer for each subscriber, taking is a copy, and no one sleeps with it held. A text is
 * allocated once and counted by the queues it is in.
 *
 * Each subscription has an eventfd that is written when its queue stops being empty and read when
 * it is empty again, so that a burst of events costs its reader one wake-up. One who is cut off
 * stays readable, with an empty queue, until it has gone.
 *
 * A wake-up is cheap to give and dear to have: who is woken takes the CPU from the one that has a
 * reply to send. So wake-ups are given without the lock, which the woken one wants first of all, and
 * a thread that will answer a request may put off those that follow from its change (hub_hold): the
 * reply says all that its client waits for. The texts are in the queues meanwhile, and who publishes
 * without holding gives all wake-ups that are due.
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
	bool due;  /* a wake-up, not yet given */
	bool gone; /* unsubscribed; freed with the last user */
	int users; /* who write to fd without the hub's lock */
};

struct hub {
	pthread_mutex_t lock;
	struct hub_subscription *first, *last;
	atomic_size_t wanted[TOPICS]; /* subscriptions of each topic */
};

/* What this thread does about wake-ups: gives them at once; gives them until it publishes a change of
 * the registry; puts them off. */
static _Thread_local enum { AT_ONCE, UNTIL_CHANGE, LATER } waking;

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

static void enqueue(struct hub_subscription *s, struct text *t)
{
	struct item *i = NULL;

	if (s->cut_off)
		return;
	s->due |= !s->head;
	if (t && s->backlog + t->len + sizeof(*i) <= BACKLOG_MAX)
		i = malloc(sizeof(*i));
	if (!i) {
		/* Better cut off than one event short without knowing. */
		drop_queue(s);
		s->cut_off = true;
		return;
	}
	*i = (struct item){.text = t};
	t->refs++;
	*s->tail = i;
	s->tail = &i->next;
	s->backlog += t->len + sizeof(*i);
}

static void subscription_free(struct hub_subscription *s)
{
	close(s->fd);
	free(s);
}

/* Somebody whose wake-up is due, as a user of it; or NULL. */
static struct hub_subscription *take_due(struct hub *h)
{
	pthread_mutex_lock(&h->lock);
	struct hub_subscription *s = h->first;
	while (s && !s->due)
		s = s->next;
	if (s) {
		s->due = false;
		s->users++;
	}
	pthread_mutex_unlock(&h->lock);
	return s;
}

static void give_wakes(struct hub *h)
{
	struct hub_subscription *s;

	while ((s = take_due(h))) {
		/* Cannot fail: the counter is small. */
		int r = eventfd_write(s->fd, 1);
		assert(r == 0);
		(void)r;
		pthread_mutex_lock(&h->lock);
		bool last_user = --s->users == 0 && s->gone;
		pthread_mutex_unlock(&h->lock);
		if (last_user)
			subscription_free(s);
	}
}

static bool wants(const struct hub_subscription *s, enum hub_topic topic, const char *op_id)
{
	if (!(s->topics & topic))
		return false;
	return topic != HUB_LOG || !s->op_id.s[0] || (op_id && strcmp(s->op_id.s, op_id) == 0);
}

void hub_publish(struct hub *h, unsigned topic, const char *op_id, const char *line, size_t len)
{
	bool prompt = topic & HUB_PROMPT;

	topic &= ~HUB_PROMPT;
	if (topic == HUB_REGISTRY && waking == UNTIL_CHANGE && !prompt)
		waking = LATER;
	if (!hub_wanted(h, topic))
		return;
	struct text *t = malloc(sizeof(*t) + len);
	if (t) {
		*t = (struct text){.refs = 1, .len = len};
		memcpy(t->data, line, len);
	}
	bool due = false;
	pthread_mutex_lock(&h->lock);
	for (struct hub_subscription *s = h->first; s; s = s->next) {
		if (!wants(s, topic, op_id))
			continue;
		enqueue(s, t);
		due |= s->due;
	}
	if (t)
		unref(t);
	pthread_mutex_unlock(&h->lock);
	if (due && (waking != LATER || prompt))
		give_wakes(h);
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
	s->prev = h->last;
	if (h->last)
		h->last->next = s;
	else
		h->first = s;
	h->last = s;
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
	else
		h->last = s->prev;
	count_wanted(h, s->topics, -1);
	drop_queue(s);
	s->gone = true;
	bool last_user = s->users == 0;
	pthread_mutex_unlock(&h->lock);
	if (last_user)
		subscription_free(s);
	*p = NULL;
}

void hub_hold(void)
{
	waking = UNTIL_CHANGE;
}

void hub_release(struct hub *h)
{
	bool held = waking == LATER;

	waking = AT_ONCE;
	if (held)
		give_wakes(h);
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
	} else if (!i) {
		/* A wake-up that came when its text was taken already. */
		eventfd_read(s->fd, &n);
	} else {
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
				s->due = false;
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
