/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections are kept when idle, the last used first, so a quiet mount has one. One on which
 * something is readable while nothing was asked has been closed by the daemon (it was restarted):
 * it is thrown away before use, because after a request was sent on it nobody could say whether the
 * request was carried out.
 */
#include "calls.h"
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>

#define IDLE_MAX 8

struct flight {
	struct flight *next;
	char op_id[BANGER_OP_ID_LEN + 1];
	struct banger_client *client;
};

struct owned {
	struct owned *next;
	char op_id[BANGER_OP_ID_LEN + 1];
	int64_t seen; /* generation, -1: not yet */
};

struct calls {
	char *socket;
	pthread_mutex_t lock;
	struct banger_client *idle[IDLE_MAX];
	size_t nidle;
	struct flight *flights; /* requests that wait for their answers */
	struct owned *owned;
	bool stopped;
};

int calls_new(const char *socket, struct calls **ret)
{
	struct calls *c = calloc(1, sizeof(*c));

	if (!c || !(c->socket = strdup(socket))) {
		free(c);
		return -ENOMEM;
	}
	pthread_mutex_init(&c->lock, NULL);
	*ret = c;
	return 0;
}

void calls_freep(struct calls **p)
{
	struct calls *c = *p;

	if (!c)
		return;
	calls_drop_idle(c);
	for (struct owned *o; (o = c->owned);) {
		c->owned = o->next;
		free(o);
	}
	pthread_mutex_destroy(&c->lock);
	free(c->socket);
	free(c);
	*p = NULL;
}

/* ---- connections */

static bool stale(const struct banger_client *client)
{
	struct pollfd p = {.fd = banger_client_fd(client), .events = POLLIN | POLLRDHUP};
	return poll(&p, 1, 0) != 0;
}

static struct banger_client *take_idle(struct calls *c)
{
	struct banger_client *client = NULL;

	pthread_mutex_lock(&c->lock);
	if (c->nidle > 0)
		client = c->idle[--c->nidle];
	pthread_mutex_unlock(&c->lock);
	return client;
}

static int connection(struct calls *c, struct banger_client **ret, struct banger_error *err)
{
	struct banger_client *client;

	while ((client = take_idle(c))) {
		if (!stale(client)) {
			*ret = client;
			return 0;
		}
		banger_client_freep(&client);
	}
	return banger_client_connect(c->socket, ret, err);
}

static void give_back(struct calls *c, struct banger_client *client)
{
	pthread_mutex_lock(&c->lock);
	if (c->nidle < IDLE_MAX && !c->stopped)
		c->idle[c->nidle++] = TAKE_PTR(client);
	pthread_mutex_unlock(&c->lock);
	banger_client_freep(&client);
}

void calls_drop_idle(struct calls *c)
{
	struct banger_client *client;

	while ((client = take_idle(c)))
		banger_client_freep(&client);
}

static int depart(struct calls *c, struct flight *f, struct banger_error *err)
{
	int r = 0;

	pthread_mutex_lock(&c->lock);
	if (c->stopped)
		r = banger_error_set(err, BANGER_UNAVAILABLE, "the filesystem is being unmounted");
	f->next = c->flights;
	c->flights = f;
	pthread_mutex_unlock(&c->lock);
	return r;
}

static void arrive(struct calls *c, struct flight *f)
{
	pthread_mutex_lock(&c->lock);
	for (struct flight **p = &c->flights; *p; p = &(*p)->next)
		if (*p == f) {
			*p = f->next;
			break;
		}
	pthread_mutex_unlock(&c->lock);
}

void calls_abort(struct calls *c, const char *op_id)
{
	pthread_mutex_lock(&c->lock);
	if (!*op_id)
		c->stopped = true;
	for (struct flight *f = c->flights; f; f = f->next)
		if (!*op_id || strcmp(f->op_id, op_id) == 0)
			banger_client_shutdown(f->client);
	pthread_mutex_unlock(&c->lock);
}

/* ---- requests */

/* *ret_sound: the connection can be used again. */
static int ask(struct banger_client *client, const struct call *call,
	struct json_object **ret_result, bool *ret_heard, bool *ret_sound, struct banger_error *err)
{
	struct timeval t = {call->timeout_ms / 1000, call->timeout_ms % 1000 * 1000};
	struct banger_error e = {0};
	size_t nfds = call->ret_fd ? 1 : 0;
	int fd = -1;

	setsockopt(banger_client_fd(client), SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
	banger_client_set_actor(client, call->actor);
	banger_client_set_waiter(client, call->wait, call->arg);
	int r = banger_client_call_fds(client, call->method, json_object_get(call->params), NULL, 0,
		ret_result, &fd, &nfds, &e);
	/* UNAVAILABLE and TIMEOUT are what the client says of a connection that broke or stays
	 * silent; the daemon may say them too, and then the connection is still there. */
	*ret_sound = r == 0 || (e.code != BANGER_UNAVAILABLE && e.code != BANGER_TIMEOUT);
	*ret_heard = *ret_sound || (!call->timeout_ms && !stale(client));
	if (r == 0 && call->ret_fd) {
		if (nfds == 0)
			return banger_error_set(
				err, BANGER_INTERNAL, "bangerd sent no descriptor with its answer");
		*call->ret_fd = fd;
	}
	if (r < 0 && err)
		*err = e;
	return r;
}

int calls_ask(struct calls *c, const struct call *call, struct json_object **ret_result,
	bool *ret_heard, struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = call->params, *result = NULL;
	struct flight f = {0};
	const char *op = banger_op_current();
	bool sound = false;

	*ret_heard = false;
	int r = connection(c, &f.client, err);
	if (r < 0)
		return r;
	snprintf(f.op_id, sizeof(f.op_id), "%s", op ?: "");
	r = depart(c, &f, err);
	if (r == 0)
		r = ask(f.client, call, &result, ret_heard, &sound, err);
	arrive(c, &f);
	if (sound)
		give_back(c, f.client);
	else
		banger_client_freep(&f.client);
	if (r == 0 && ret_result)
		*ret_result = TAKE_PTR(result);
	return r;
}

/* ---- whose operations */

static struct owned **find_owned(struct calls *c, const char *op_id)
{
	struct owned **p = &c->owned;

	while (*p && strcmp((*p)->op_id, op_id) != 0)
		p = &(*p)->next;
	return p;
}

void calls_own(struct calls *c, const char *op_id)
{
	struct owned *o = calloc(1, sizeof(*o));

	/* Without it the change is told to the kernel twice, which is harmless. */
	if (!o)
		return;
	snprintf(o->op_id, sizeof(o->op_id), "%s", op_id);
	o->seen = -1;
	pthread_mutex_lock(&c->lock);
	o->next = c->owned;
	c->owned = o;
	pthread_mutex_unlock(&c->lock);
}

bool calls_seen(struct calls *c, const char *op_id, int64_t generation)
{
	pthread_mutex_lock(&c->lock);
	struct owned *o = *find_owned(c, op_id);
	if (o)
		o->seen = generation;
	pthread_mutex_unlock(&c->lock);
	return o != NULL;
}

int64_t calls_disown(struct calls *c, const char *op_id)
{
	pthread_mutex_lock(&c->lock);
	struct owned **p = find_owned(c, op_id), *o = *p;
	int64_t seen = o ? o->seen : -1;
	if (o)
		*p = o->next;
	pthread_mutex_unlock(&c->lock);
	free(o);
	return seen;
}

bool calls_in_flight(struct calls *c, const char *op_id)
{
	bool found = false;

	pthread_mutex_lock(&c->lock);
	for (struct flight *f = c->flights; f && !found; f = f->next)
		found = strcmp(f->op_id, op_id) == 0;
	pthread_mutex_unlock(&c->lock);
	return found;
}
