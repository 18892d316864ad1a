/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Of all that the registry tells, only the published images matter here, and of those only id and
 * name: an image in any other state is as good as gone. Each event is applied as it comes, in one
 * step, then the kernel is told what became stale, then the generation is passed on; so who waits
 * for a generation finds the kernel without old entries.
 *
 * After a reconnect the snapshot is compared with the table: what did not come again is removed,
 * what has another name is renamed, and only those entries become stale.
 */
#include <banger/client.h>
#include <banger/log.h>
#include <banger/methods.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "watch.h"

#define PAUSE_FIRST_MS 50
#define PAUSE_MAX_MS 1000

struct watch {
	struct watch_options o;
	struct banger_client *client;
	int images;
};

/* Ask for the stream; *ret_images is the images directory. */
static int subscribe(
	const char *socket, struct banger_client **ret, int *ret_images, struct banger_error *err)
{
	_cleanup_client_ struct banger_client *c = NULL;
	int fds[BANGER_WIRE_FDS_MAX];
	size_t n = ELEMENTSOF(fds);
	int r = banger_client_connect(socket, &c, err);

	if (r == 0)
		r = banger_client_call_fds(
			c, BANGER_METHOD_REGISTRY_WATCH, NULL, NULL, 0, NULL, fds, &n, err);
	if (r < 0)
		return r;
	for (size_t k = 1; k < n; k++)
		close(fds[k]);
	if (n == 0)
		return banger_error_set(
			err, BANGER_DENIED, "bangerd does not hand its directories to this user");
	*ret = TAKE_PTR(c);
	*ret_images = fds[0];
	return 0;
}

int watch_open(const struct watch_options *o, struct watch **ret, struct banger_error *err)
{
	struct watch *w = calloc(1, sizeof(*w));
	int r;

	if (!w)
		return banger_error_oom(err);
	w->o = *o;
	w->images = -1;
	r = subscribe(o->socket, &w->client, &w->images, err);
	if (r < 0) {
		watch_free(w);
		return r;
	}
	*ret = w;
	return 0;
}

void watch_free(struct watch *w)
{
	if (!w)
		return;
	banger_client_freep(&w->client);
	banger_closep(&w->images);
	free(w);
}

int watch_images(const struct watch *w)
{
	return w->images;
}

int watch_open_image(void *arg, const char *id)
{
	const struct watch *w = arg;
	char path[BANGER_ID_LEN + sizeof("/rootfs.ext4")];
	int fd;

	(void)snprintf(path, sizeof(path), "%.*s/rootfs.ext4", BANGER_ID_LEN, id);
	fd = openat(w->images, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	return fd < 0 ? -errno : fd;
}

/* Takes the images of an event into the table; those that are not as the contract has them are left
 * out and logged. */
static int apply_images(struct watch *w, struct table *t, struct json_object *images)
{
	size_t n = images ? json_object_array_length(images) : 0, count = 0;
	struct table_change *c;
	int r;

	if (!n)
		return 0;
	c = calloc(n, sizeof(*c));
	if (!c)
		return -ENOMEM;
	for (size_t k = 0; k < n; k++) {
		struct json_object *o = json_object_array_get_idx(images, k);
		const char *id = banger_json_str(o, "id"), *name = banger_json_str(o, "name"),
			   *state = banger_json_str(o, "state");
		bool published = state && strcmp(state, "published") == 0;
		if (!banger_id_valid(id) || (published && !banger_name_valid(name))) {
			log_warn("bangerd told of an image that is none", KV_S("image", id));
			continue;
		}
		c[count++] = (struct table_change){.id = id, .name = published ? name : NULL};
	}
	r = table_apply(t, c, count, w->o.stale, w->o.arg);
	free(c);
	return r;
}

static struct json_object *array_of(struct json_object *o, const char *key)
{
	struct json_object *a = banger_json_get(o, key);

	return a && json_object_is_type(a, json_type_array) ? a : NULL;
}

/* One document of the stream. ready: 1. */
static int apply(struct watch *w, struct table *t, struct json_object *o)
{
	const char *event = banger_json_str(o, "event");
	int r = 0;

	if (!event)
		return 0;
	if (strcmp(event, "snapshot") == 0 || strcmp(event, "image") == 0)
		r = apply_images(w, t, array_of(o, "images"));
	if (r == 0 && strcmp(event, "ready") == 0) {
		r = table_snapshot_end(t, w->o.stale, w->o.arg);
		r = r < 0 ? r : 1;
	}
	return r;
}

int watch_snapshot(struct watch *w, struct table *t, struct banger_error *err)
{
	int r;

	table_snapshot_begin(t);
	do {
		_cleanup_json_ struct json_object *o = NULL;
		r = banger_client_next(w->client, -1, &o, err);
		if (r == 0)
			return banger_error_set(
				err, BANGER_UNAVAILABLE, "bangerd ended the stream of changes");
		if (r < 0)
			return r;
		r = apply(w, t, o);
		if (r == 1) {
			w->o.stale(w->o.arg, NULL);
			w->o.applied(w->o.arg, banger_json_int(o, "generation", 0));
		}
	} while (r == 0);
	return r < 0 ? banger_error_oom(err) : 0;
}

/* Until the connection breaks. */
static void follow(struct watch *w, struct table *t)
{
	for (;;) {
		_cleanup_json_ struct json_object *o = NULL;
		struct banger_error err;

		if (banger_client_next(w->client, -1, &o, &err) <= 0)
			return;
		if (apply(w, t, o) < 0) {
			log_err("out of memory; taking a new snapshot");
			return;
		}
		if (array_of(o, "images"))
			w->o.stale(w->o.arg, NULL);
		int64_t generation = banger_json_int(o, "generation", 0);
		if (generation > 0)
			w->o.applied(w->o.arg, generation);
	}
}

static bool same_directory(int a, int b)
{
	struct stat x, y;

	return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev &&
	       x.st_ino == y.st_ino;
}

static void pause_ms(unsigned ms)
{
	struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000};

	(void)nanosleep(&t, NULL);
}

/* Connect again and take the new snapshot. false: it is another registry. */
static bool reconnect(struct watch *w, struct table *t)
{
	for (unsigned pause = PAUSE_FIRST_MS;; pause = pause < PAUSE_MAX_MS ? pause * 2 : pause) {
		struct banger_error err = {0};
		int images = -1;

		banger_client_freep(&w->client);
		if (subscribe(w->o.socket, &w->client, &images, &err) == 0) {
			bool same = same_directory(images, w->images);
			close(images); /* the first one stays: others are opening beneath it */
			if (!same)
				return false;
			if (watch_snapshot(w, t, &err) == 0)
				return true;
		}
		log_debug("bangerd is away", KV_ERR(&err));
		pause_ms(pause);
	}
}

void watch_run(struct watch *w, struct table *t)
{
	do {
		follow(w, t);
		log_info("the connection to bangerd was lost; what is published stays readable");
	} while (reconnect(w, t));
	log_warn("bangerd came back with another state directory");
}
