/* SPDX-License-Identifier: Apache-2.0 */
/* A table in order of last use, the newest first: a handful of people use one mount. */
#include "lasterror.h"
#include <pthread.h>
#include <string.h>

struct last_error {
	uid_t uid;
	char sentence[LAST_ERROR_LEN];
};

struct last_errors {
	pthread_mutex_t lock;
	size_t n;
	struct last_error *by[LAST_ERROR_UIDS];
};

int last_errors_new(struct last_errors **ret)
{
	struct last_errors *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	pthread_mutex_init(&l->lock, NULL);
	*ret = l;
	return 0;
}

void last_errors_freep(struct last_errors **p)
{
	struct last_errors *l = *p;

	if (!l)
		return;
	for (size_t i = 0; i < l->n; i++)
		free(l->by[i]);
	pthread_mutex_destroy(&l->lock);
	free(l);
	*p = NULL;
}

/* The entry of uid, moved to the front; a new or a reused one when there is none; NULL: no memory.
 */
static struct last_error *front(struct last_errors *l, uid_t uid)
{
	struct last_error *e = NULL;
	size_t i;

	for (i = 0; i < l->n && l->by[i]->uid != uid; i++)
		;
	if (i < l->n)
		e = l->by[i];
	else if (l->n < LAST_ERROR_UIDS && (e = malloc(sizeof(*e))))
		i = l->n++;
	else if (l->n > 0)
		e = l->by[i = l->n - 1];
	if (!e)
		return NULL;
	memmove(l->by + 1, l->by, i * sizeof(l->by[0]));
	l->by[0] = e;
	e->uid = uid;
	return e;
}

void last_errors_set(struct last_errors *l, uid_t uid, const struct banger_error *err)
{
	pthread_mutex_lock(&l->lock);
	struct last_error *e = front(l, uid);
	if (e)
		banger_error_sentence(err, e->sentence, sizeof(e->sentence));
	pthread_mutex_unlock(&l->lock);
}

size_t last_errors_get(struct last_errors *l, uid_t uid, char buf[LAST_ERROR_LEN])
{
	buf[0] = '\0';
	pthread_mutex_lock(&l->lock);
	for (size_t i = 0; i < l->n; i++)
		if (l->by[i]->uid == uid)
			strcpy(buf, l->by[i]->sentence);
	pthread_mutex_unlock(&l->lock);
	return strlen(buf);
}
