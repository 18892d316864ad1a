/* SPDX-License-Identifier: Apache-2.0 */
/* The read model: events, snapshots, places in listings, what the kernel is told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include <unistd.h>
#include <banger/log.h>
#include "model.h"

#define A "000000000000000a"
#define B "000000000000000b"
#define C "000000000000000c"

static struct model *m;

/* What was told: "entry images/web" and "dir images", joined by commas. */
static char told[4096];

static const char *const dir_names[MODEL_DIRS] = {"drafts", "images", "by-id", "kernels", "ops", "vms"};

static void tell(void *arg, const struct model_change *c)
{
	size_t n = strlen(told);

	if (c->kind == CHANGE_ENTRY)
		snprintf(told + n, sizeof(told) - n, "entry %s/%s,", dir_names[c->dir], c->name);
	else if (c->dir == MODEL_DRAFTS || c->dir == MODEL_IMAGES)
		snprintf(told + n, sizeof(told) - n, "dir %s,", dir_names[c->dir]);
}

static int apply_text(const char *text, bool ours);

/* A VM comes, changes its state under the same number, goes; what is none is refused; a snapshot without it takes it. */
static void vms(void **state)
{
	static const char event[] = "{\"event\":\"vm\",\"generation\":%d,\"vm\":{\"id\":\"" A "\",\"name\":\"%s\","
				    "\"state\":\"%s\",\"created\":\"2026-03-01T10:00:00.000000Z\"}}";
	char text[512];

	snprintf(text, sizeof(text), event, 1, "web", "created");
	assert_int_equal(apply_text(text, false), 0);
	uint64_t number;
	{
		MODEL_READ(m);
		const struct model_vm *v = model_vm_named(m, "web");
		assert_string_equal(v->state, "created");
		assert_int_equal(model_count(m, MODEL_VMS), 1);
		number = v->number;
		model_mark_vm_known(v);
	}
	snprintf(text, sizeof(text), event, 2, "web", "running");
	assert_int_equal(apply_text(text, false), 0);
	assert_string_equal(told, "");
	{
		MODEL_READ(m);
		assert_string_equal(model_vm(m, number)->state, "running");
		assert_non_null(strstr(model_vm(m, number)->text, "\"running\""));
	}
	assert_int_equal(model_generation(m), 2);
	snprintf(text, sizeof(text), event, 3, "../web", "running");
	assert_int_equal(apply_text(text, false), -EINVAL);
	assert_int_equal(apply_text("{\"event\":\"vm\",\"vm\":{\"id\":\"x\"}}", false), -EINVAL);
	assert_int_equal(apply_text("{\"event\":\"vm\"}", false), -EINVAL);
	snprintf(text, sizeof(text), event, 4, "web", "removed");
	assert_int_equal(apply_text(text, false), 0);
	assert_string_equal(told, "entry vms/web,");
	MODEL_READ(m);
	assert_null(model_vm_named(m, "web"));
	assert_null(model_vm(m, number));
}

static struct json_object *parse(const char *text)
{
	struct banger_error err;
	struct json_object *o;

	if (banger_json_parse(text, strlen(text), &o, &err) < 0)
		fail_msg("%s: %s", err.message, text);
	return o;
}

/* One image as it stands in a document. */
static const char *image(const char *id, const char *name, const char *state, int generation)
{
	static char buf[4][512];
	static int next;
	char *b = buf[next++ % 4];

	snprintf(b, sizeof(buf[0]),
		"{\"id\":\"%s\",\"name\":\"%s\",\"state\":\"%s\",\"generation\":%d,"
		"\"op_id\":\"op-0123456789ab\",\"created\":\"2026-03-01T10:00:00.000000Z\"}",
		id, name, state, generation);
	return b;
}

static int apply_text(const char *text, bool ours)
{
	_cleanup_json_ struct json_object *o = parse(text);
	struct banger_error err;

	told[0] = '\0';
	return model_apply(m, o, ours, tell, NULL, &err);
}

static int change_by(bool ours, int generation, const char *one, const char *two)
{
	char text[2048];

	snprintf(text, sizeof(text),
		"{\"event\":\"image\",\"change\":\"x\",\"generation\":%d,\"images\":[%s%s%s]}",
		generation, one, two ? "," : "", two ?: "");
	return apply_text(text, ours);
}

static void change(int generation, const char *one, const char *two)
{
	assert_int_equal(change_by(false, generation, one, two), 0);
}

static uint64_t id_of(const char *name, enum banger_image_state state)
{
	MODEL_READ(m);
	const struct model_image *i = model_image_named(m, state, name);
	return i ? i->row.id : 0;
}

static void know(const char *name, enum banger_image_state state)
{
	MODEL_READ(m);
	model_mark_known(model_image_named(m, state, name));
}

/* Names of a directory in the order of its listing. */
static const char *listing(enum model_dir dir)
{
	static char buf[1024];
	const struct model_image *i;
	uint64_t place = 0;

	buf[0] = '\0';
	MODEL_READ(m);
	while ((i = model_next(m, dir, place, &place)))
		snprintf(buf + strlen(buf), sizeof(buf) - strlen(buf), "%s ", model_name(i));
	return buf;
}

static int set_up(void **state)
{
	return model_new(&m);
}

static int tear_down(void **state)
{
	model_freep(&m);
	return 0;
}

static void a_life(void **state)
{
	change(1, image(A, "web", "draft", 1), NULL);
	assert_string_equal(told, "dir drafts,");
	assert_int_equal(id_of("web", BANGER_DRAFT), 0xa);
	know("web", BANGER_DRAFT);
	change(2, image(A, "web", "published", 2), NULL);
	assert_string_equal(told, "entry drafts/web,dir drafts,dir images,");
	assert_int_equal(id_of("web", BANGER_DRAFT), 0);
	assert_int_equal(id_of("web", BANGER_PUBLISHED), 0xa);
	change(3, image(A, "site", "published", 3), NULL);
	assert_string_equal(told, "entry images/web,dir images,");
	change(4, "{\"id\":\"" A "\",\"state\":\"deleted\"}", NULL);
	assert_string_equal(told, "entry images/site,dir images,");
	assert_int_equal(model_count(m, MODEL_IMAGES), 0);
	assert_int_equal(model_count(m, MODEL_BY_ID), 0);
	assert_int_equal(model_generation(m), 4);
}

static void only_known_names_are_told(void **state)
{
	change(1, image(A, "web", "published", 1), NULL);
	change(2, image(A, "site", "published", 2), NULL);
	assert_string_equal(told, "dir images,");
	change(3, "{\"id\":\"" A "\",\"state\":\"deleted\"}", NULL);
	assert_string_equal(told, "dir images,");
}

static void a_swap_keeps_the_places(void **state)
{
	change(1, image(A, "a", "published", 1), NULL);
	change(2, image(B, "b", "published", 2), NULL);
	change(3, image(C, "c", "published", 3), NULL);
	assert_string_equal(listing(MODEL_IMAGES), "a b c ");
	know("a", BANGER_PUBLISHED);
	know("c", BANGER_PUBLISHED);
	/* A listing that has passed "a" is under way: it still gets c, and a not again. */
	uint64_t place = 0;
	model_read(m);
	model_next(m, MODEL_IMAGES, place, &place);
	model_unread(m);
	change(4, image(A, "c", "published", 4), image(C, "a", "published", 4));
	assert_string_equal(told, "entry images/a,entry images/c,dir images,");
	assert_string_equal(listing(MODEL_IMAGES), "a b c ");
	assert_int_equal(id_of("a", BANGER_PUBLISHED), 0xc);
	assert_int_equal(id_of("c", BANGER_PUBLISHED), 0xa);
	model_read(m);
	assert_string_equal(model_name(model_next(m, MODEL_IMAGES, place, &place)), "b");
	assert_string_equal(model_name(model_next(m, MODEL_IMAGES, place, &place)), "c");
	assert_null(model_next(m, MODEL_IMAGES, place, &place));
	model_unread(m);
}

static void life_of(const char *name, uint64_t *ret_number, uint16_t *ret_life)
{
	MODEL_READ(m);
	const struct model_image *i = model_image_named(m, BANGER_PUBLISHED, name);

	assert_non_null(i);
	*ret_number = i->number;
	*ret_life = i->life;
}

/* For the kernel a directory that another door moved is another directory; one that it moved itself is
 * the same. */
static void lives(void **state)
{
	uint64_t n1, n2;
	uint16_t l1, l2;

	change(1, image(A, "a", "published", 1), NULL);
	life_of("a", &n1, &l1);
	assert_int_equal(change_by(true, 2, image(A, "b", "published", 2), NULL), 0);
	life_of("b", &n2, &l2);
	assert_true(n1 == n2 && l1 == l2);
	assert_int_equal(change_by(false, 3, image(A, "c", "published", 3), NULL), 0);
	life_of("c", &n2, &l2);
	assert_true(n1 == n2 && l1 + 1 == l2);
	/* Its configuration changed, not its name. */
	assert_int_equal(change_by(false, 4, image(A, "c", "published", 4), NULL), 0);
	life_of("c", &n2, &l1);
	assert_int_equal(l1, l2);
}

static void directories_change_strictly(void **state)
{
	struct timespec last = {0};

	for (int g = 1; g < 50; g++) {
		change(g, image(A, g % 2 ? "a" : "b", "published", g), NULL);
		model_read(m);
		struct timespec now = model_changed(m, MODEL_IMAGES);
		model_unread(m);
		assert_true(now.tv_sec > last.tv_sec ||
			    (now.tv_sec == last.tv_sec && now.tv_nsec > last.tv_nsec));
		last = now;
	}
}

static void what_is_malformed_changes_nothing(void **state)
{
	change(1, image(A, "a", "published", 1), NULL);
	assert_int_equal(
		change_by(false, 2, image(B, "b", "published", 2), "{\"id\":\"x\"}"), -EINVAL);
	assert_int_equal(
		change_by(false, 2, "{\"id\":\"x\",\"state\":\"deleted\"}", NULL), -EINVAL);
	assert_int_equal(apply_text("{\"event\":\"image\",\"generation\":2}", false), -EINVAL);
	assert_int_equal(apply_text("{\"event\":\"something new\"}", false), 0);
	assert_string_equal(listing(MODEL_IMAGES), "a ");
	assert_int_equal(model_generation(m), 1);
}

/* The daemon cannot mean it; the model stays a model. */
static void two_for_one_name(void **state)
{
	change(1, image(A, "a", "published", 1), NULL);
	change(2, image(B, "a", "published", 2), NULL);
	assert_string_equal(listing(MODEL_IMAGES), "a ");
	assert_int_equal(id_of("a", BANGER_PUBLISHED), 0xb);
	change(3, image(B, "b", "published", 3), image(B, "c", "published", 3));
	assert_string_equal(listing(MODEL_IMAGES), "c ");
	change(4, image(A, "x", "published", 4), image(C, "x", "published", 4));
	assert_string_equal(listing(MODEL_IMAGES), "c x ");
}

/* ---- snapshots */

static int snapshot(int generation, const char *images)
{
	struct model_snapshot *s = NULL;
	struct banger_error err;
	char text[4096];

	told[0] = '\0';
	assert_int_equal(model_snapshot_new(m, &s), 0);
	snprintf(text, sizeof(text), "{\"event\":\"snapshot\",\"images\":[%s]}", images);
	_cleanup_json_ struct json_object *o = parse(text);
	int r = model_snapshot_add(s, o, &err);
	if (r == 0)
		r = model_snapshot_commit(s, generation, tell, NULL, &err);
	model_snapshot_freep(&s);
	return r;
}

static void a_snapshot_replaces_the_model(void **state)
{
	char images[2048];

	snprintf(images, sizeof(images), "%s,%s", image(A, "a", "published", 1),
		image(B, "b", "draft", 2));
	assert_int_equal(snapshot(2, images), 0);
	assert_string_equal(listing(MODEL_IMAGES), "a ");
	assert_string_equal(listing(MODEL_DRAFTS), "b ");
	know("a", BANGER_PUBLISHED);
	know("b", BANGER_DRAFT);

	/* The same again: nothing is told, numbers stay. */
	uint64_t before, after;
	uint16_t life;
	life_of("a", &before, &life);
	assert_int_equal(snapshot(2, images), 0);
	assert_string_equal(told, "");
	life_of("a", &after, &life);
	assert_int_equal(before, after);

	/* a is gone and b has its name now; c is new. */
	snprintf(images, sizeof(images), "%s,%s", image(B, "a", "published", 5),
		image(C, "c", "published", 4));
	assert_int_equal(snapshot(7, images), 0);
	assert_string_equal(told, "entry images/a,entry drafts/b,dir drafts,dir images,");
	assert_int_equal(id_of("a", BANGER_PUBLISHED), 0xb);
	assert_int_equal(model_count(m, MODEL_BY_ID), 2);
	assert_int_equal(model_generation(m), 7);

	/* Another registry altogether, whose generation is lower. */
	assert_int_equal(snapshot(1, ""), 0);
	assert_int_equal(model_count(m, MODEL_BY_ID), 0);
	assert_int_equal(model_generation(m), 1);
}

static void a_bad_snapshot_changes_nothing(void **state)
{
	char images[2048];

	change(1, image(A, "a", "published", 1), NULL);
	snprintf(images, sizeof(images), "%s,%s", image(B, "b", "published", 1),
		image(B, "c", "published", 2));
	assert_int_equal(snapshot(2, images), -EINVAL);
	assert_int_equal(snapshot(2, "{\"id\":1}"), -EINVAL);
	assert_string_equal(listing(MODEL_IMAGES), "a ");
	assert_int_equal(model_generation(m), 1);
	/* What it had marked as seen does not save it from the next one. */
	assert_int_equal(snapshot(3, ""), 0);
	assert_string_equal(listing(MODEL_IMAGES), "");
}

/* ---- rows */

static void rows_come_back_whole(void **state)
{
	static const char text[] =
		"{\"id\":\"9f86d081884c7d65\",\"name\":\"web\",\"state\":\"published\","
		"\"generation\":12,"
		"\"digest\":\"sha256:"
		"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\","
		"\"size\":1073741824,\"source\":\"a file\",\"op_id\":\"op-5b0c7e21d9aa\","
		"\"created\":\"2026-03-01T10:00:00.123456Z\","
		"\"published\":\"2026-03-01T10:00:01.000001Z\",\"kernel\":\"cloud\","
		"\"config\":{\"user\":\"bob\"}}";
	_cleanup_json_ struct json_object *back = NULL;
	_cleanup_image_ struct banger_image i = {0};

	change(12, text, NULL);
	model_read(m);
	assert_int_equal(model_image_unpack(model_image_of_id(m, 0x9f86d081884c7d65), &i), 0);
	model_unread(m);
	back = banger_image_to_json(&i);
	assert_string_equal(json_object_to_json_string_ext(back, JSON_C_TO_STRING_PLAIN), text);
	change(13, image(A, "bare", "draft", 13), NULL);
	banger_image_done(&i);
	model_read(m);
	assert_int_equal(model_image_unpack(model_image_of_id(m, 0xa), &i), 0);
	model_unread(m);
	assert_true(!i.source && !i.kernel && !i.config && !i.digest[0] && i.size == -1);
	assert_string_equal(i.op_id, "op-0123456789ab");
}

/* ---- operations */

static void op(int n, const char *outcome)
{
	char text[512];

	snprintf(text, sizeof(text),
		"{\"event\":\"op\",\"op\":{\"op_id\":\"op-%012x\",\"method\":\"image.register\","
		"\"params\":\"name=a\",\"actor\":{\"uid\":0,\"gid\":0},"
		"\"started\":\"2026-03-01T10:00:00.%06dZ\",\"outcome\":\"%s\"%s}}",
		n, n, outcome, strcmp(outcome, "running") ? ",\"elapsed_ms\":1.5" : "");
	assert_int_equal(apply_text(text, false), 0);
}

static void the_newest_operations_are_kept(void **state)
{
	for (int n = 1; n <= 1200; n++)
		op(n, "running");
	op(1100, "completed");
	model_read(m);
	assert_int_equal(model_count(m, MODEL_OPS), 1000);
	assert_null(model_op_of_id(m, "op-000000000001"));
	assert_non_null(model_op_of_id(m, "op-0000000004b0"));
	const struct model_op *o = model_op_of_id(m, "op-00000000044c");
	assert_non_null(strstr(o->text, "completed"));
	assert_int_equal(o->len, strlen(o->text));
	assert_null(model_op_of_id(m, "op-"));
	assert_null(model_op_of_id(m, "../../etc"));
	model_unread(m);
}

/* ---- waiting */

static void *apply_later(void *arg)
{
	usleep(20000);
	change(5, image(A, "a", "draft", 5), NULL);
	return NULL;
}

static void waiting_for_a_generation(void **state)
{
	pthread_t t;

	assert_int_equal(model_wait(m, 0, 0), 0);
	assert_int_equal(model_wait(m, 5, 10), -ETIMEDOUT);
	pthread_create(&t, NULL, apply_later, NULL);
	assert_int_equal(model_wait(m, 5, 5000), 0);
	pthread_join(t, NULL);
}

static uint64_t draft_number;

static void *close_later(void *arg)
{
	usleep(20000);
	model_writer(m, draft_number, -1);
	return NULL;
}

static void waiting_for_writers(void **state)
{
	pthread_t t;

	change(1, image(A, "a", "draft", 1), NULL);
	model_read(m);
	draft_number = model_image_of_id(m, 0xa)->number;
	model_unread(m);
	model_wait_writers(m, draft_number, 5000); /* none */
	model_writer(m, draft_number, 1);
	int64_t before = banger_monotonic_us();
	model_wait_writers(m, draft_number, 30);
	assert_true(banger_monotonic_us() - before >= 30000);
	change(2, image(A, "b", "draft", 2), NULL); /* the count survives a change */
	pthread_create(&t, NULL, close_later, NULL);
	model_wait_writers(m, draft_number, 5000);
	assert_true(banger_monotonic_us() - before < 3000000);
	pthread_join(t, NULL);
	model_writer(m, 12345, -1); /* of one that was deleted */
}

#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_life),
		T(vms),
		T(only_known_names_are_told),
		T(a_swap_keeps_the_places),
		T(lives),
		T(directories_change_strictly),
		T(what_is_malformed_changes_nothing),
		T(two_for_one_name),
		T(a_snapshot_replaces_the_model),
		T(a_bad_snapshot_changes_nothing),
		T(rows_come_back_whole),
		T(the_newest_operations_are_kept),
		T(waiting_for_a_generation),
		T(waiting_for_writers),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
