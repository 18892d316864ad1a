/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The watch thread, which writes the model. It waits for bangerd and for nothing else: queues take
 * what it has to say to the kernel, and readers of `events` that do not read lose lines.
 *
 * A change that a caller of this mount asked for is told to the kernel by the answer to his call.
 * The thread notes that it was seen before it applies it (calls.h), so exactly one of the two ways
 * happens: either the call is answered with success, or the kernel is notified.
 *
 * The answer to a change says what the watch will say a moment later: two threads of two processes
 * later. So the thread that got it may write the model too (follow_answer()), if the change is the very
 * next one; the watch thread then passes it by. `writing` is held by whoever writes.
 */
#include "follow.h"
#include <string.h>
#include <sys/socket.h>
#include <banger/methods.h>
#include "events.h"

#define RETRY_FIRST_MS 20
#define RETRY_MAX_MS 500
#define READY_S 2 /* how long a caller waits for bangerd to be followed again */

struct follow {
	struct fs *fs;
	char *socket;
	pthread_t thread;
	bool running;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool stop;
	struct banger_client *client; /* replaced under the lock; used by the thread */
	bool live, hurry;
	pthread_mutex_t writing;     /* the model; taken before `lock` */
	uint64_t attempts;           /* to come back that have ended */
	struct banger_error failure; /* of the last */
};

/* ---- what the kernel is told */

struct telling {
	struct fs *fs;
	bool ours;
};

static uint64_t node_of_dir(enum model_dir dir)
{
	static const uint64_t nodes[MODEL_DIRS] = {
		[MODEL_DRAFTS] = FIXED_DRAFTS,
		[MODEL_IMAGES] = FIXED_IMAGES,
		[MODEL_BY_ID] = FIXED_BY_ID,
		[MODEL_KERNELS] = FIXED_KERNELS,
		[MODEL_OPS] = FIXED_OPS,
		[MODEL_VMS] = FIXED_VMS,
	};
	return nodes[dir];
}

static void tell_kernel(void *arg, const struct model_change *c)
{
	const struct telling *t = arg;
	struct notify *n = t->fs->notify;
	uint64_t dir = node_of_dir(c->dir);

	/* Nothing of these two is cached. */
	if (t->ours || c->dir == MODEL_BY_ID || c->dir == MODEL_OPS)
		return;
	switch (c->kind) {
	case CHANGE_ENTRY:
		notify_entry(n, dir, c->name);
		break;
	case CHANGE_DIR:
		notify_inode(n, dir);
		break;
	}
}

/* ---- connecting */

static int open_stream(struct follow *f, struct banger_client *client, struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = json_object_new_object();
	int fd[BANGER_WIRE_FDS_MAX];
	size_t n = FS_DIRECTORIES;

	if (!params || banger_json_add_bool(params, "ops", true) < 0)
		return banger_error_oom(err);
	int r = banger_client_call_fds(
		client, BANGER_METHOD_REGISTRY_WATCH, TAKE_PTR(params), NULL, 0, NULL, fd, &n, err);
	if (r < 0)
		return r;
	if (n == FS_DIRECTORIES && fs_set_directories(f->fs, fd) == 0)
		return 0;
	for (size_t i = 0; i < n; i++)
		close(fd[i]);
	if (n == FS_DIRECTORIES)
		return banger_error_oom(err);
	return banger_error_set(err, BANGER_DENIED,
		"bangerd does not trust this user with its directories: bangerfs must run as the "
		"user that bangerd runs as");
}

static int next(struct banger_client *client, struct json_object **ret, struct banger_error *err)
{
	int r = banger_client_next(client, -1, ret, err);

	if (r == 0)
		return banger_error_set(
			err, BANGER_UNAVAILABLE, "bangerd ended the stream of changes");
	return r < 0 ? r : 0;
}

/* Read documents up to "ready". */
static int read_snapshot(struct follow *f, struct banger_client *client, struct model_snapshot *s,
	int64_t *ret_generation, struct banger_error *err)
{
	for (;;) {
		_cleanup_json_ struct json_object *o = NULL;
		int r = next(client, &o, err);

		if (r < 0)
			return r;
		const char *event = banger_json_str(o, "event");
		if (event && strcmp(event, "snapshot") == 0) {
			r = model_snapshot_add(s, o, err);
			if (r < 0)
				return r;
		} else if (event && strcmp(event, "ready") == 0) {
			*ret_generation = banger_json_int(o, "generation", 0);
			return 0;
		}
	}
}

static int take_snapshot(struct follow *f, struct banger_client *client, struct banger_error *err)
{
	_cleanup_(model_snapshot_freep) struct model_snapshot *s = NULL;
	struct telling telling = {.fs = f->fs};
	int64_t generation;

	if (model_snapshot_new(f->fs->model, &s) < 0)
		return banger_error_oom(err);
	int r = read_snapshot(f, client, s, &generation, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&f->writing);
	r = model_snapshot_commit(s, generation, tell_kernel, &telling, err);
	pthread_mutex_unlock(&f->writing);
	return r;
}

/* Make the connection known, so that follow_freep() can break it. */
static int set_client(struct follow *f, struct banger_client *client)
{
	pthread_mutex_lock(&f->lock);
	bool stop = f->stop;
	struct banger_client *old = f->client;
	f->client = stop ? NULL : client;
	pthread_mutex_unlock(&f->lock);
	banger_client_freep(&old);
	if (stop)
		banger_client_freep(&client);
	return stop ? -ECANCELED : 0;
}

static int connect_and_catch_up(struct follow *f, struct banger_error *err)
{
	struct banger_client *client;
	int r = banger_client_connect(f->socket, &client, err);

	if (r == 0)
		r = set_client(f, client);
	if (r == 0)
		r = open_stream(f, client, err);
	if (r == 0)
		r = take_snapshot(f, client, err);
	return r;
}

/* ---- following */

/* Inside a VM nothing is heard of other VMs, nor seen of them (dir_vms.c, dir_ops.c). */
static bool is_told(const struct fs *fs, struct json_object *o)
{
	const char *kind = banger_json_str(o, "event");
	struct json_object *vm = banger_json_get(o, "vm"), *op = banger_json_get(o, "op");

	if (!fs->vm || !kind)
		return true;
	if (strcmp(kind, "vm") == 0) {
		const char *name = banger_json_str(vm, "name");
		return name && strcmp(name, fs->vm) == 0;
	}
	const char *method = strcmp(kind, "op") == 0 ? banger_json_str(op, "method") : NULL;
	return !method || strncmp(method, "vm.", 3) != 0;
}

static void publish(struct follow *f, struct json_object *o)
{
	size_t n;

	if (!events_wanted(f->fs->events) || !is_told(f->fs, o))
		return;
	const char *s = json_object_to_json_string_length(
		o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &n);
	if (s)
		events_publish(f->fs->events, s, n);
}

/* Was it applied by the answer to its call? With `writing`. */
static bool is_shown(const struct follow *f, struct json_object *event)
{
	int64_t generation = banger_json_int(event, "generation", -1);

	return generation >= 0 && generation <= model_generation(f->fs->model);
}

static int apply(struct follow *f, struct json_object *o, struct banger_error *err)
{
	const char *op_id = banger_json_str(o, "op_id");
	struct telling telling = {
		.fs = f->fs,
		.ours = banger_op_id_valid(op_id) &&
			calls_seen(f->fs->calls, op_id, banger_json_int(o, "generation", -1)),
	};

	pthread_mutex_lock(&f->writing);
	int r = is_shown(f, o)
			? 0
			: model_apply(f->fs->model, o, telling.ours, tell_kernel, &telling, err);
	pthread_mutex_unlock(&f->writing);
	if (r == -EINVAL && banger_json_get(o, "op")) {
		log_warn("a record of an operation is not understood", KV_ERR(err));
		r = 0;
	}
	if (r == 0)
		publish(f, o);
	return r;
}

/* Until the stream breaks, which it always does in the end. */
static void follow_stream(struct follow *f, struct banger_error *err)
{
	for (;;) {
		_cleanup_json_ struct json_object *o = NULL;

		if (next(f->client, &o, err) < 0 || apply(f, o, err) < 0)
			return;
	}
}

static bool stopping(struct follow *f)
{
	pthread_mutex_lock(&f->lock);
	bool stop = f->stop;
	pthread_mutex_unlock(&f->lock);
	return stop;
}

static void pause_ms(struct follow *f, int ms)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_nsec += ms * 1000000L;
	t.tv_sec += t.tv_nsec / 1000000000L;
	t.tv_nsec %= 1000000000L;
	pthread_mutex_lock(&f->lock);
	while (!f->stop && !f->hurry && pthread_cond_timedwait(&f->cond, &f->lock, &t) == 0)
		;
	f->hurry = false;
	pthread_mutex_unlock(&f->lock);
}

static void set_live(struct follow *f, bool live, const struct banger_error *failure)
{
	pthread_mutex_lock(&f->lock);
	f->live = live;
	if (failure) {
		f->failure = *failure;
		f->attempts++;
	}
	pthread_cond_broadcast(&f->cond);
	pthread_mutex_unlock(&f->lock);
}

int follow_ready(struct follow *f, struct banger_error *err)
{
	struct timespec until;
	int e = 0;

	if (!f)
		return 0;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += READY_S;
	pthread_mutex_lock(&f->lock);
	uint64_t before = f->attempts;
	f->hurry |= !f->live;
	if (f->hurry)
		pthread_cond_broadcast(&f->cond);
	/* The attempt that is under way may have begun before bangerd came: let one more end. */
	while (e == 0 && !f->live && !f->stop && f->attempts < before + 2) {
		f->hurry = true;
		e = pthread_cond_timedwait(&f->cond, &f->lock, &until);
	}
	bool live = f->live;
	struct banger_error failure = f->failure;
	pthread_mutex_unlock(&f->lock);
	if (live)
		return 0;
	return banger_error_set(err, BANGER_UNAVAILABLE, "%s",
		failure.code ? failure.message : "bangerd does not answer");
}

/* {"event":"image",…} of what an answer says; NULL: not such an answer, or no memory. */
static struct json_object *event_of(const char *op_id, struct json_object *result, bool deleted)
{
	struct json_object *image = banger_json_get(result, "image");
	struct json_object *images = banger_json_get(result, "images");
	_cleanup_json_ struct json_object *event = json_object_new_object(), *list = NULL;

	if (image && (list = json_object_new_array()))
		json_object_array_add(list, json_object_get(image));
	else if (json_object_is_type(images, json_type_array))
		list = json_object_get(images);
	if (!event || !list ||
		(deleted && (!image || banger_json_add_str(image, "state", "deleted") < 0)) ||
		banger_json_add_str(event, "event", "image") < 0 ||
		banger_json_add_str(event, "op_id", op_id) < 0 ||
		banger_json_add_int(
			event, "generation", banger_json_int(result, "generation", -1)) < 0 ||
		banger_json_add(event, "images", TAKE_PTR(list)) < 0)
		return NULL;
	return TAKE_PTR(event);
}

static bool is_live(struct follow *f)
{
	pthread_mutex_lock(&f->lock);
	bool live = f->live;
	pthread_mutex_unlock(&f->lock);
	return live;
}

void follow_answer(struct follow *f, const char *op_id, struct json_object *result, bool deleted)
{
	int64_t generation = banger_json_int(result, "generation", -1);
	struct banger_error err = {0};

	if (!f || generation <= 0)
		return;
	_cleanup_json_ struct json_object *event = event_of(op_id, result, deleted);
	struct telling telling = {.fs = f->fs};
	pthread_mutex_lock(&f->writing);
	/* While bangerd is not followed a snapshot is on its way, which has it. */
	if (event && is_live(f) && model_generation(f->fs->model) + 1 == generation) {
		telling.ours = calls_seen(f->fs->calls, op_id, generation);
		if (model_apply(f->fs->model, event, telling.ours, tell_kernel, &telling, &err) < 0)
			log_debug("a change comes by the watch alone", KV_ERR(&err));
	}
	pthread_mutex_unlock(&f->writing);
}

/* Tell readers of `events` that they may have missed something, and up to where they have now. */
static void publish_ready(struct follow *f)
{
	_cleanup_json_ struct json_object *o = json_object_new_object();

	if (o && banger_json_add_str(o, "event", "ready") == 0 &&
		banger_json_add_int(o, "generation", model_generation(f->fs->model)) == 0)
		publish(f, o);
}

static void come_back(struct follow *f)
{
	int wait = RETRY_FIRST_MS;
	char last[sizeof(((struct banger_error *)0)->message)] = "";

	while (!stopping(f)) {
		struct banger_error err = {0};

		if (connect_and_catch_up(f, &err) == 0) {
			log_info("following bangerd again",
				KV_I("generation", model_generation(f->fs->model)));
			publish_ready(f);
			set_live(f, true, NULL);
			errands_wake(f->fs->errands);
			return;
		}
		/* Each reason once, not twice a second. */
		if (!stopping(f) && strcmp(last, err.message) != 0)
			log_warn("cannot follow bangerd", KV_ERR(&err));
		strcpy(last, err.message);
		set_live(f, false, &err);
		pause_ms(f, wait);
		wait = wait * 2 < RETRY_MAX_MS ? wait * 2 : RETRY_MAX_MS;
	}
}

static void *run(void *arg)
{
	struct follow *f = arg;

	while (!stopping(f)) {
		struct banger_error err = {0};

		follow_stream(f, &err);
		if (stopping(f))
			break;
		set_live(f, false, NULL);
		log_warn("lost bangerd; what is published stays readable", KV_ERR(&err));
		calls_drop_idle(f->fs->calls);
		/* Also when bangerd is there and says what is not understood, again and again. */
		pause_ms(f, RETRY_FIRST_MS);
		come_back(f);
	}
	return NULL;
}

int follow_new(struct fs *fs, const char *socket, struct follow **ret, struct banger_error *err)
{
	struct follow *f = calloc(1, sizeof(*f));
	pthread_condattr_t a;

	if (!f || !(f->socket = strdup(socket))) {
		free(f);
		return banger_error_oom(err);
	}
	f->fs = fs;
	f->live = true;
	pthread_mutex_init(&f->lock, NULL);
	pthread_mutex_init(&f->writing, NULL);
	pthread_condattr_init(&a);
	pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
	pthread_cond_init(&f->cond, &a);
	pthread_condattr_destroy(&a);
	int r = connect_and_catch_up(f, err);
	if (r < 0) {
		follow_freep(&f);
		return r;
	}
	*ret = f;
	return 0;
}

int follow_start(struct follow *f)
{
	int e = pthread_create(&f->thread, NULL, run, f);

	f->running = e == 0;
	return -e;
}

void follow_freep(struct follow **p)
{
	struct follow *f = *p;

	if (!f)
		return;
	pthread_mutex_lock(&f->lock);
	f->stop = true;
	if (f->client)
		banger_client_shutdown(f->client);
	pthread_cond_broadcast(&f->cond);
	pthread_mutex_unlock(&f->lock);
	if (f->running)
		pthread_join(f->thread, NULL);
	banger_client_freep(&f->client);
	pthread_cond_destroy(&f->cond);
	pthread_mutex_destroy(&f->writing);
	pthread_mutex_destroy(&f->lock);
	free(f->socket);
	free(f);
	*p = NULL;
}
