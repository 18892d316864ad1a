/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many threads, few names: register, put files, promote, rename, swap, configure, delete, and
 * recover at the end. At every moment and afterwards: a name has one owner, no image is lost,
 * refusals are those that the contract has, events tell the whole story, store and directories
 * agree.
 */
#include "fixture.h"
#include <pthread.h>
#include <stdatomic.h>

enum { THREADS = 8, NAMES = 5, MILLISECONDS = 2000 };

struct racer {
	struct fixture f; /* a copy: err is the thread's own */
	unsigned seed;
	int64_t until;
	int made, gone; /* images that this thread registered, deleted */
	int done[6];
	pthread_t thread;
};

static const char *name(struct racer *r, const char *prefix, char buf[64])
{
	snprintf(buf, 64, "%sn%d", prefix, rand_r(&r->seed) % NAMES);
	return buf;
}

static bool allowed(int r)
{
	static const int refusals[] = {-ENOENT, -EEXIST, -EBUSY, -ENODATA};
	for (size_t i = 0; i < ELEMENTSOF(refusals); i++)
		if (r == refusals[i])
			return true;
	return r >= 0;
}

static int register_one(struct racer *r)
{
	_cleanup_image_ struct banger_image i = {0};
	char buf[64];

	int ret = do_register(&r->f, name(r, "", buf), &i);
	if (ret < 0)
		return ret;
	r->made++;
	/* Somebody may delete or promote it under our hands. */
	const struct draft_open o = {
		.id = i.id, .file = ROOTFS, .write = true, .create = true, .mode = 0644};
	int fd = -1;
	if (image_service_draft_open(r->f.service, &o, &fd, NULL) < 0)
		return ret;
	int in = open(sound_image(), O_RDONLY | O_CLOEXEC);
	struct stat st;
	fstat(in, &st);
	while (copy_file_range(in, NULL, fd, NULL, (size_t)st.st_size, 0) > 0)
		;
	close(in);
	close(fd);
	return ret;
}

static int act(struct racer *r, int what)
{
	char a[64], b[64];
	static const char *const prefixes[] = {"drafts/", "images/"};
	const char *prefix = prefixes[rand_r(&r->seed) % 2];

	switch (what) {
	case 0:
		return register_one(r);
	case 1:
		return do_promote(&r->f, name(r, "drafts/", a), name(r, "", b), NULL);
	case 2:
		return do_rename(&r->f, name(r, prefix, a), name(r, "", b), NULL);
	case 3:
		name(r, prefix, a);
		do
			name(r, prefix, b);
		while (!strcmp(a, b));
		return do_swap(&r->f, a, b);
	case 4:
		return do_configure(&r->f, name(r, "drafts/", a), "{\"user\":\"x\"}", NULL);
	default:
		return do_delete(&r->f, name(r, prefix, a));
	}
}

static void *race(void *arg)
{
	struct racer *r = arg;

	while (banger_monotonic_us() < r->until) {
		int what = rand_r(&r->seed) % 6;
		int ret = act(r, what);
		if (!allowed(ret)) {
			print_error("action %d: %d %s\n", what, ret, r->f.err.message);
			r->done[what] = -1000000;
			return NULL;
		}
		r->done[what] += ret >= 0;
		r->gone += what == 5 && ret >= 0;
	}
	return NULL;
}

/* Replays the events as bangerfs does, and compares with the store. */
static void replay_events(struct fixture *f, int *ret_registered, int *ret_deleted)
{
	_cleanup_json_ struct json_object *model = json_object_new_object();
	_cleanup_(store_view_closep) struct store_view *view = NULL;
	int64_t last = 0;
	int n = 0, registered = 0, deleted = 0;

	for (;;) {
		_cleanup_json_ struct json_object *e = next_event(f);
		if (!e)
			break;
		assert_true(banger_json_int(e, "generation", 0) == last + 1);
		last++;
		registered += !strcmp(banger_json_str(e, "change"), "registered");
		deleted += !strcmp(banger_json_str(e, "change"), "deleted");
		struct json_object *list = banger_json_get(e, "images");
		for (size_t i = 0; i < json_object_array_length(list); i++) {
			struct json_object *o = json_object_array_get_idx(list, i);
			const char *id = banger_json_str(o, "id");
			if (!strcmp(banger_json_str(o, "state"), "deleted"))
				json_object_object_del(model, id);
			else
				json_object_object_add(model, id, json_object_get(o));
		}
	}
	assert_ok(f, store_view_open(f->store, &view, &f->err));
	assert_int_equal(store_view_generation(view), last);
	char after[BANGER_ID_LEN + 1] = "";
	struct banger_image image = {0};
	while (store_view_next_image(view, -1, after[0] ? after : NULL, &image, &f->err) > 0) {
		_cleanup_json_ struct json_object *row = banger_image_to_json(&image);
		assert_true(json_object_equal(row, banger_json_get(model, image.id)));
		strcpy(after, image.id);
		banger_image_done(&image);
		n++;
	}
	assert_int_equal(json_object_object_length(model), n);
	assert_int_equal(registered - deleted, n);
	*ret_registered = registered;
	*ret_deleted = deleted;
}

static void races(void **state)
{
	struct fixture *f = *state;
	struct racer racers[THREADS];
	int done[6] = {0}, made = 0, gone = 0, registered, deleted;

	sound_image();
	for (int i = 0; i < THREADS; i++) {
		racers[i] = (struct racer){.f = *f,
			.seed = (unsigned)banger_now_us() + (unsigned)i,
			.until = banger_monotonic_us() + MILLISECONDS * 1000};
		pthread_create(&racers[i].thread, NULL, race, &racers[i]);
	}
	for (int i = 0; i < THREADS; i++) {
		pthread_join(racers[i].thread, NULL);
		made += racers[i].made;
		gone += racers[i].gone;
		for (int k = 0; k < 6; k++)
			done[k] += racers[i].done[k];
	}
	/* Each of them did happen. */
	for (int k = 0; k < 6; k++)
		assert_true(done[k] > 0);
	assert_int_equal(disagreements(f), 0);
	assert_int_equal(count_dir(path(f, "staging")), 0);
	replay_events(f, &registered, &deleted);
	assert_int_equal(registered, made);
	assert_int_equal(deleted, gone);
	wait_trash(f);
	fixture_stop(f);
	assert_ok(f, fixture_start(f));
	assert_int_equal(disagreements(f), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {TEST(races)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
