/* SPDX-License-Identifier: Apache-2.0 */
/* Images and kernels: lookup in all its forms, changes, views. */
#include "fixture.h"
#include <pthread.h>

static struct banger_image add(struct fixture *f, const char *name, bool published)
{
	struct banger_error err = {0};
	struct banger_image i = make_draft(name);

	if (published)
		publish(&i);
	assert_ok(store_image_insert(f->store, &i, NULL, &err), err);
	return i;
}

static void expect_found(struct fixture *f, const char *word, int state, const char *id)
{
	_cleanup_image_ struct banger_image i = {0};
	struct banger_error err = {0};

	assert_ok(store_image_find(f->store, word, state, &i, &err), err);
	assert_string_equal(i.id, id);
}

static void expect_refused(struct fixture *f, const char *word, int state, const char *message)
{
	struct banger_image i;
	struct banger_error err = {0};

	assert_true(store_image_find(f->store, word, state, &i, &err) < 0);
	assert_string_equal(err.message, message);
}

static void keeps_every_field(void **state)
{
	struct fixture *f = *state;
	struct banger_error err = {0};
	struct banger_image i = make_draft("web");
	_cleanup_image_ struct banger_image got = {0}, got2 = {0};

	publish(&i);
	i.source = (char *)"a \"source\" — näher";
	i.kernel = (char *)"debian";
	i.config = (char *)"{\"cmd\":[\"sh\"]}";
	assert_ok(store_image_insert(f->store, &i, NULL, &err), err);
	assert_ok(store_image_by_id(f->store, i.id, &got, &err), err);
	assert_string_equal(got.name, "web");
	assert_int_equal(got.state, BANGER_PUBLISHED);
	assert_int_equal(got.generation, 1);
	assert_string_equal(got.digest, i.digest);
	assert_int_equal(got.size, 1 << 20);
	assert_string_equal(got.op_id, i.op_id);
	assert_int_equal(got.created_us, i.created_us);
	assert_int_equal(got.published_us, i.published_us);
	assert_string_equal(got.source, i.source);
	assert_string_equal(got.kernel, i.kernel);
	assert_string_equal(got.config, i.config);

	struct banger_image d = add(f, "plain", false);
	assert_ok(store_image_by_name(f->store, BANGER_DRAFT, "plain", &got2, &err), err);
	assert_string_equal(got2.id, d.id);
	assert_int_equal(got2.size, -1);
	assert_int_equal(got2.published_us, 0);
	assert_string_equal(got2.digest, "");
	assert_null(got2.source);
	assert_null(got2.kernel);
	assert_null(got2.config);
}

static void finds(void **state)
{
	struct fixture *f = *state;
	struct banger_image web = add(f, "web", true), web2 = add(f, "web-v2", true);
	struct banger_image draft = add(f, "other", false);
	char prefix[8], message[64];

	expect_found(f, "web", -1, web.id); /* exact beats prefix of several */
	expect_found(f, "web-", -1, web2.id);
	expect_found(f, "ot", -1, draft.id);
	expect_found(f, web.id, -1, web.id);
	memcpy(prefix, draft.id, 7);
	prefix[7] = '\0';
	expect_found(f, prefix, -1, draft.id);
	expect_found(f, "drafts/oth", -1, draft.id);
	expect_found(f, "images/web", BANGER_PUBLISHED, web.id);
	expect_refused(f, "we", -1, "multiple images match \"we\"");
	expect_refused(f, "", -1, "image id or name is required");
	expect_refused(f, "images/", -1, "image id or name is required");
	expect_refused(f, "nothing", -1, "image \"nothing\" not found");
	expect_refused(f, "images/other", -1, "image \"images/other\" not found");
	expect_refused(f, "images/web", BANGER_DRAFT, "image \"images/web\" not found");
	expect_refused(f, "other", BANGER_PUBLISHED, "image \"other\" not found");
	snprintf(message, sizeof(message), "image \"%s\" not found", draft.id);
	expect_refused(f, draft.id, BANGER_PUBLISHED, message);
	expect_refused(f, "w%", -1, "image \"w%\" not found");
	expect_refused(f, "w\x7f", -1, "image \"w?\" not found");
	expect_refused(f, "Web", -1, "image \"Web\" not found");
}

static void one_name_in_both_states_is_ambiguous(void **state)
{
	struct fixture *f = *state;
	struct banger_image p = add(f, "web", true), d = add(f, "web", false);

	expect_refused(f, "web", -1, "multiple images match \"web\"");
	expect_found(f, "web", BANGER_DRAFT, d.id);
	expect_found(f, "images/web", -1, p.id);
	expect_found(f, "drafts/web", -1, d.id);
}

/* A name that looks like the beginning of an id, or is the id of another image. */
static void names_go_before_ids(void **state)
{
	struct fixture *f = *state;
	struct banger_error err = {0};
	struct banger_image a = make_draft("a"), b;

	strcpy(a.id, "0123456789abcdef");
	assert_ok(store_image_insert(f->store, &a, NULL, &err), err);
	expect_found(f, "0123456789abcdef", -1, a.id);
	b = add(f, "0123456789abcdef", false);
	expect_found(f, "0123456789abcdef", -1, b.id);
	expect_refused(f, "0123", -1, "multiple images match \"0123\"");
	/* One image that matches by both is one. */
	b = make_draft("fedcba");
	strcpy(b.id, "fedcba9876543210");
	assert_ok(store_image_insert(f->store, &b, NULL, &err), err);
	expect_found(f, "fed", -1, b.id);
}

static void names_are_unique_in_a_state(void **state)
{
	struct fixture *f = *state;
	struct banger_error err = {0};
	struct banger_image a = add(f, "web", false), b = make_draft("web"), c = add(f, "c", false);
	int64_t g;

	assert_int_equal(store_image_insert(f->store, &b, NULL, &err), -EEXIST);
	assert_string_equal(err.message, "draft name \"web\" is taken");
	assert_int_equal(b.generation, 0);
	strcpy(c.name, "web");
	assert_int_equal(store_image_update(f->store, &c, NULL, &err), -EEXIST);
	publish(&b);
	assert_ok(store_image_insert(f->store, &b, NULL, &err), err);
	publish(&a);
	assert_int_equal(store_image_update(f->store, &a, NULL, &err), -EEXIST);
	assert_string_equal(err.message, "image name \"web\" is taken");
	/* What was refused took no generation. */
	assert_ok(store_generation(f->store, &g, &err), err);
	assert_int_equal(g, 3);
	strcpy(b.id, c.id);
	strcpy(b.name, "fresh");
	assert_int_equal(store_image_insert(f->store, &b, NULL, &err), -EEXIST);
}

static void expect_count(struct fixture *f, int drafts, int images)
{
	struct banger_error err = {0};
	struct store_counts n;

	assert_ok(store_count(f->store, &n, &err), err);
	assert_int_equal(n.drafts, drafts);
	assert_int_equal(n.images, images);
	assert_int_equal(n.kernels, 0);
}

/* Counted once, and then kept up to date by what is committed and by nothing else. */
static void counts(void **state)
{
	struct fixture *f = *state;
	struct banger_error err = {0};
	struct banger_image a = add(f, "a", false), b = add(f, "b", false), c = make_draft("a");
	int64_t g;

	expect_count(f, 2, 0);
	publish(&a);
	assert_ok(store_image_update(f->store, &a, NULL, &err), err);
	expect_count(f, 1, 1);
	strcpy(b.name, "b-1");
	assert_ok(store_image_update(f->store, &b, NULL, &err), err);
	strcpy(c.name, "b-1");
	assert_int_equal(store_image_insert(f->store, &c, NULL, &err), -EEXIST);
	assert_int_equal(store_image_update(f->store, &c, NULL, &err), -ENOENT);
	assert_int_equal(store_image_delete(f->store, c.id, NULL, &g, &err), -ENOENT);
	expect_count(f, 1, 1);
	assert_ok(store_image_delete(f->store, a.id, NULL, &g, &err), err);
	expect_count(f, 1, 0);
	assert_ok(store_image_delete(f->store, b.id, NULL, &g, &err), err);
	expect_count(f, 0, 0);
}

static void promotes_renames_deletes(void **state)
{
	struct fixture *f = *state;
	struct banger_error err = {0};
	struct banger_image i = add(f, "web", false), ghost = make_draft("ghost");
	_cleanup_image_ struct banger_image got = {0};
	struct store_counts n;
	int64_t g;

	publish(&i);
	strcpy(i.name, "web-1");
	assert_ok(store_image_update(f->store, &i, NULL, &err), err);
	assert_int_equal(i.generation, 2);
	expect_found(f, "images/web-1", -1, i.id);
	expect_refused(f, "drafts/web", -1, "image \"drafts/web\" not found");
	assert_int_equal(store_image_update(f->store, &ghost, NULL, &err), -ENOENT);
	assert_ok(store_count(f->store, &n, &err), err);
	assert_int_equal(n.images, 1);
	assert_int_equal(n.drafts, 0);
	assert_int_equal(n.kernels, 0);
	assert_int_equal(store_image_delete(f->store, ghost.id, NULL, &g, &err), -ENOENT);
	assert_ok(store_image_delete(f->store, i.id, NULL, &g, &err), err);
	assert_int_equal(g, 3);
	assert_int_equal(store_image_by_id(f->store, i.id, &got, &err), -ENOENT);
}

static void will_not_publish_half_an_image(void **state)
{
	struct fixture *f = *state;
	struct banger_error err = {0};
	struct banger_image i = add(f, "web", false);

	i.state = BANGER_PUBLISHED;
	assert_true(store_image_update(f->store, &i, NULL, &err) < 0);
	assert_int_equal(err.code, BANGER_INTERNAL);
}

static void swaps(void **state)
{
	struct fixture *f = *state;
	struct banger_error err = {0};
	struct banger_image a = add(f, "a", true), b = add(f, "b", true), d = add(f, "d", false);
	struct banger_op_record rec = make_record("image.swap", BANGER_OK), got;

	assert_ok(store_image_swap(f->store, &a, &b, &rec, &err), err);
	assert_string_equal(a.name, "b");
	assert_string_equal(b.name, "a");
	assert_int_equal(a.generation, 4);
	assert_int_equal(b.generation, 4);
	expect_found(f, "a", -1, b.id);
	expect_found(f, "b", -1, a.id);
	assert_ok(store_op_find(f->store, rec.op_id, &got, &err), err);
	assert_int_equal(store_image_swap(f->store, &a, &d, NULL, &err), -EINVAL);
	assert_int_equal(store_image_swap(f->store, &a, &a, NULL, &err), -EINVAL);
	/* A stale name in the caller's struct does not get into the database. */
	strcpy(a.name, "stale");
	assert_ok(store_image_swap(f->store, &a, &b, NULL, &err), err);
	assert_string_equal(a.name, "a");
	assert_string_equal(b.name, "b");
}

/* The record of the operation and the change are one transaction. */
static void records_with_the_change(void **state)
{
	struct fixture *f = *state;
	struct banger_error err = {0};
	struct banger_image a = make_draft("a"), again = make_draft("a");
	struct banger_op_record rec = make_record("image.register", BANGER_OK), got;
	struct banger_op_record lost = make_record("image.register", BANGER_OK);

	assert_ok(store_image_insert(f->store, &a, &rec, &err), err);
	assert_ok(store_op_find(f->store, rec.op_id, &got, &err), err);
	assert_string_equal(got.method, "image.register");
	assert_int_equal(store_image_insert(f->store, &again, &lost, &err), -EEXIST);
	assert_int_equal(store_op_find(f->store, lost.op_id, &got, &err), -ENOENT);
}

static void a_view_stands_still(void **state)
{
	struct fixture *f = *state;
	struct banger_error err = {0};
	struct store_view *v = NULL, *w = NULL;
	struct banger_image a = add(f, "a", true);
	_cleanup_image_ struct banger_image got = {0}, got2 = {0};
	int64_t g;

	assert_ok(store_view_open(f->store, &v, &err), err);
	assert_int_equal(store_view_generation(v), 1);
	add(f, "b", true);
	assert_ok(store_image_delete(f->store, a.id, NULL, &g, &err), err);
	assert_int_equal(store_view_next_image(v, -1, NULL, &got, &err), 1);
	assert_string_equal(got.name, "a");
	assert_int_equal(store_view_next_image(v, -1, got.id, &got2, &err), 0);
	store_view_closep(&v);
	assert_ok(store_view_open(f->store, &w, &err), err);
	assert_int_equal(store_view_generation(w), 3);
	assert_int_equal(store_view_next_image(w, -1, NULL, &got2, &err), 1);
	assert_string_equal(got2.name, "b");
	store_view_closep(&w);
}

static void a_view_walks_in_order(void **state)
{
	struct fixture *f = *state;
	struct banger_error err = {0};
	struct store_view *v = NULL;
	char last[BANGER_ID_LEN + 1] = "", second[BANGER_ID_LEN + 1];
	int n = 0, drafts = 0, r;

	for (int i = 0; i < 50; i++) {
		char name[16];
		snprintf(name, sizeof(name), "i%d", i);
		add(f, name, i % 5);
	}
	assert_ok(store_view_open(f->store, &v, &err), err);
	for (;;) {
		_cleanup_image_ struct banger_image i = {0};
		r = store_view_next_image(v, -1, last[0] ? last : NULL, &i, &err);
		if (r <= 0)
			break;
		assert_true(strcmp(i.id, last) > 0);
		strcpy(last, i.id);
		if (++n == 2)
			strcpy(second, i.id);
	}
	assert_int_equal(r, 0);
	assert_int_equal(n, 50);
	/* Jump back, and on with one state only. */
	_cleanup_image_ struct banger_image third = {0};
	assert_int_equal(store_view_next_image(v, -1, second, &third, &err), 1);
	assert_true(strcmp(third.id, second) > 0);
	_cleanup_image_ struct banger_image again = {0};
	assert_int_equal(store_view_next_image(v, -1, second, &again, &err), 1);
	assert_string_equal(again.id, third.id);
	for (last[0] = '\0';; drafts++) {
		_cleanup_image_ struct banger_image i = {0};
		if (store_view_next_image(v, BANGER_DRAFT, last[0] ? last : NULL, &i, &err) <= 0)
			break;
		assert_int_equal(i.state, BANGER_DRAFT);
		strcpy(last, i.id);
	}
	assert_int_equal(drafts, 10);
	store_view_closep(&v);
}

static void many_views_at_once(void **state)
{
	struct fixture *f = *state;
	struct store_view *v[10] = {0};
	struct banger_error err = {0};

	for (int i = 0; i < 10; i++)
		assert_ok(store_view_open(f->store, &v[i], &err), err);
	for (int i = 0; i < 10; i++)
		store_view_closep(&v[i]);
	assert_ok(store_view_open(f->store, &v[0], &err), err);
	store_view_closep(&v[0]);
}

static struct banger_kernel add_kernel(struct fixture *f, const char *name)
{
	struct banger_error err = {0};
	struct banger_kernel k = {
		.size = 8 << 20, .modules = true, .imported_us = 1700000000000000};

	banger_id_mint(k.id);
	snprintf(k.name, sizeof(k.name), "%s", name);
	strcpy(k.version, "6.1.0-38-cloud-amd64");
	strcpy(k.arch, "amd64");
	k.source = (char *)"linux-image.deb";
	assert_ok(store_kernel_insert(f->store, &k, NULL, &err), err);
	return k;
}

static void kernels(void **state)
{
	struct fixture *f = *state;
	struct banger_error err = {0};
	struct banger_kernel a = add_kernel(f, "debian"), b = add_kernel(f, "debian-rt");
	struct banger_kernel dup = b;
	_cleanup_kernel_ struct banger_kernel got = {0}, got2 = {0}, got3 = {0};
	struct store_view *v = NULL;
	int64_t g;

	assert_int_equal(b.generation, 2);
	assert_ok(store_kernel_find(f->store, "debian", &got, &err), err);
	assert_string_equal(got.id, a.id);
	assert_string_equal(got.version, a.version);
	assert_string_equal(got.arch, "amd64");
	assert_string_equal(got.source, a.source);
	assert_true(got.modules);
	assert_false(got.initrd);
	assert_ok(store_kernel_find(f->store, b.id, &got2, &err), err);
	assert_string_equal(got2.name, "debian-rt");
	assert_int_equal(store_kernel_find(f->store, "deb", &got3, &err), -ENOTUNIQ);
	assert_string_equal(err.message, "multiple kernels match \"deb\"");
	assert_int_equal(store_kernel_find(f->store, "", &got3, &err), -EINVAL);
	assert_string_equal(err.message, "kernel id or name is required");
	assert_int_equal(store_kernel_find(f->store, "x", &got3, &err), -ENOENT);
	assert_string_equal(err.message, "kernel \"x\" not found");
	banger_id_mint(dup.id);
	assert_int_equal(store_kernel_insert(f->store, &dup, NULL, &err), -EEXIST);
	assert_string_equal(err.message, "kernel name \"debian-rt\" is taken");
	assert_ok(store_kernel_delete(f->store, a.id, NULL, &g, &err), err);
	assert_int_equal(g, 3);
	assert_int_equal(store_kernel_delete(f->store, a.id, NULL, &g, &err), -ENOENT);
	assert_ok(store_view_open(f->store, &v, &err), err);
	assert_int_equal(store_view_next_kernel(v, NULL, &got3, &err), 1);
	assert_string_equal(got3.id, b.id);
	assert_int_equal(store_view_next_kernel(v, b.id, &got2, &err), 0);
	store_view_closep(&v);
}

struct racer {
	struct store *store;
	int won, refused;
};

static void *race(void *arg)
{
	struct racer *r = arg;

	for (int i = 0; i < 100; i++) {
		char name[16];
		snprintf(name, sizeof(name), "race-%d", i);
		struct banger_image image = make_draft(name);
		int e = store_image_insert(r->store, &image, NULL, NULL);
		r->won += e == 0;
		r->refused += e == -EEXIST;
	}
	return NULL;
}

static void one_of_many_writers_wins(void **state)
{
	struct fixture *f = *state;
	struct racer r[4];
	pthread_t t[4];
	int won = 0, refused = 0;

	for (int i = 0; i < 4; i++) {
		r[i] = (struct racer){.store = f->store};
		assert_int_equal(pthread_create(&t[i], NULL, race, &r[i]), 0);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(t[i], NULL);
		won += r[i].won;
		refused += r[i].refused;
	}
	assert_int_equal(won, 100);
	assert_int_equal(refused, 300);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, fixture_setup, fixture_teardown)
		T(keeps_every_field), T(finds), T(one_name_in_both_states_is_ambiguous),
		T(names_go_before_ids), T(names_are_unique_in_a_state), T(promotes_renames_deletes),
		T(counts), T(will_not_publish_half_an_image), T(swaps), T(records_with_the_change),
		T(a_view_stands_still), T(a_view_walks_in_order), T(many_views_at_once), T(kernels),
		T(one_of_many_writers_wins)};

	return cmocka_run_group_tests_name("store/images", tests, NULL, NULL);
}
