/* SPDX-License-Identifier: Apache-2.0 */
/* The table of images: names that come, go and change places; which images are open. */
#include "check.h"
#include <banger/log.h>
#include <content/table.h>
#include <fcntl.h>
#include <pthread.h>
#include "walk.h"

static char stale[32][130];
static size_t stale_count;
static char evicted[32][130];
static size_t evicted_count;
static int opened, good_file, bad_file;

static void on_stale(void *arg, const char *name)
{
	assert_true(stale_count < ELEMENTSOF(stale));
	strcpy(stale[stale_count++], name);
}

static void on_evict(void *arg, const char *name)
{
	assert_true(evicted_count < ELEMENTSOF(evicted));
	strcpy(evicted[evicted_count++], name);
}

static int on_open(void *arg, const char *id)
{
	if (strncmp(id, "dead", 4) == 0)
		return -ENOENT;
	__atomic_add_fetch(&opened, 1, __ATOMIC_SEQ_CST);
	return dup(strncmp(id, "bad", 3) == 0 ? bad_file : good_file);
}

static struct table *make(unsigned max_open)
{
	struct table_options o = {.open = on_open, .evict = on_evict, .max_open = max_open};
	struct table *t;

	stale_count = evicted_count = 0;
	opened = 0;
	assert_int_equal(table_new(&o, &t), 0);
	return t;
}

static void put(struct table *t, const char *id, const char *name)
{
	struct table_change c = {.id = id, .name = name};

	assert_int_equal(table_apply(t, &c, 1, on_stale, NULL), 0);
}

#define A "a000000000000001"
#define B "b000000000000002"
#define C "c000000000000003"

static uint32_t slot_named(struct table *t, const char *name)
{
	struct image *i;
	uint32_t slot;

	if (table_get_name(t, name, &i) < 0)
		return 0;
	slot = i->slot;
	table_put(t, i);
	return slot;
}

static void names(void **state)
{
	struct table *t = make(8);
	struct table_change swap[] = {{A, "two"}, {B, "one"}};
	struct image *i;
	uint32_t a, b;

	put(t, A, "one");
	put(t, B, "two");
	assert_int_equal(stale_count, 0);
	a = slot_named(t, "one");
	b = slot_named(t, "two");
	assert_true(a && b && a != b);
	assert_int_equal(table_count(t), 2);
	put(t, A, "one"); /* nothing new */
	assert_int_equal(stale_count, 0);
	assert_int_equal(table_apply(t, swap, 2, on_stale, NULL), 0);
	assert_true(slot_named(t, "one") == b && slot_named(t, "two") == a);
	assert_true(stale_count >= 2);
	stale_count = 0;
	put(t, A, "three");
	assert_int_equal(stale_count, 1);
	assert_string_equal(stale[0], "two");
	assert_int_equal(table_get_name(t, "two", &i), -ENOENT);
	put(t, A, NULL);
	assert_string_equal(stale[1], "three");
	assert_int_equal(table_count(t), 1);
	put(t, A, "back"); /* but ids do not come back while they are known */
	put(t, C, "one");  /* takes the name from B */
	assert_true(slot_named(t, "one") != b);
	assert_int_equal(table_get_slot(t, b, &i), 0);
	table_put(t, i);
	assert_int_equal(table_get_slot(t, 12345, &i), -ESTALE);
	table_free(t);
}

/* Ids whose slots would be the same get different ones. */
static void slots(void **state)
{
	struct table *t = make(8);
	char id[17], name[20];

	for (unsigned k = 0; k < 200; k++) {
		snprintf(id, sizeof(id), "1234567800%06x", k);
		snprintf(name, sizeof(name), "n%u", k);
		put(t, id, name);
	}
	for (unsigned k = 0; k < 200; k++) {
		snprintf(name, sizeof(name), "n%u", k);
		uint32_t slot = slot_named(t, name);
		assert_true(slot > 0 && slot < 0x80000000u);
		for (unsigned j = 0; j < k; j++) {
			snprintf(name, sizeof(name), "n%u", j);
			assert_true(slot_named(t, name) != slot);
		}
	}
	table_free(t);
}

struct listing {
	char names[64][130];
	uint64_t next[64];
	unsigned n, limit;
};

static int take(void *arg, const char *name, uint32_t slot, uint64_t next)
{
	struct listing *l = arg;

	if (l->n == l->limit)
		return 1;
	strcpy(l->names[l->n], name);
	l->next[l->n++] = next;
	return 0;
}

/* A listing that goes on from a position misses and repeats nothing, whatever changed meanwhile. */
static void listing(void **state)
{
	struct table *t = make(8);
	struct listing l = {.limit = 10};
	char id[17], name[20];

	for (unsigned k = 0; k < 40; k++) {
		snprintf(id, sizeof(id), "%016x", (k + 1) << 8);
		snprintf(name, sizeof(name), "n%02u", k);
		put(t, id, name);
	}
	table_list(t, 0, take, &l);
	assert_int_equal(l.n, 10);
	for (unsigned k = 0; k < 40; k += 2) {
		snprintf(id, sizeof(id), "%016x", (k + 1) << 8);
		put(t, id, NULL);
		stale_count = 0;
	}
	put(t, A, "new");
	l.limit = 64;
	table_list(t, l.next[9], take, &l);
	assert_int_equal(l.n, 10 + 15 + 1);
	assert_string_equal(l.names[10], "n11");
	assert_string_equal(l.names[25], "new");
	table_free(t);
}

static void snapshot(void **state)
{
	struct table *t = make(8);

	put(t, A, "one");
	put(t, B, "two");
	put(t, C, "three");
	struct timespec before = table_mtime(t);
	table_snapshot_begin(t);
	put(t, A, "two"); /* while the table still thinks that B has it */
	put(t, C, "three");
	assert_int_equal(table_snapshot_end(t, on_stale, NULL), 0);
	assert_int_equal(table_count(t), 2);
	assert_true(slot_named(t, "two") && slot_named(t, "three") && !slot_named(t, "one"));
	struct timespec after = table_mtime(t);
	assert_true(after.tv_sec > before.tv_sec || after.tv_nsec > before.tv_nsec);
	bool one = false, two = false, three = false;
	for (size_t k = 0; k < stale_count; k++) {
		one |= strcmp(stale[k], "one") == 0;
		two |= strcmp(stale[k], "two") == 0;
		three |= strcmp(stale[k], "three") == 0;
	}
	assert_true(one && two && !three);
	table_free(t);
}

/* A deleted image stays as long as it is used or referred to, and no longer. */
static void deleted(void **state)
{
	struct table *t = make(8);
	struct image *i, *again;
	uint32_t slot;

	put(t, A, "one");
	assert_int_equal(table_get_name(t, "one", &i), 0);
	slot = i->slot;
	table_referenced(i, 3);
	put(t, A, NULL);
	assert_int_equal(table_get_name(t, "one", &again), -ENOENT);
	assert_int_equal(table_get_slot(t, slot, &again), 0);
	assert_ptr_equal(again, i);
	table_put(t, again);
	table_put(t, i);
	again = table_get_unwanted(t, 0);
	assert_ptr_equal(again, i);
	assert_null(table_get_unwanted(t, slot));
	table_put(t, again);
	table_forget(t, slot, 2);
	assert_int_equal(table_get_slot(t, slot, &again), 0);
	table_put(t, again);
	table_forget(t, slot, 1);
	assert_int_equal(table_get_slot(t, slot, &again), -ESTALE);
	assert_null(table_get_unwanted(t, 0));
	assert_int_equal(opened, 1);
	table_free(t);
}

/* Idle images are closed for others; those that the kernel refers to are asked for, one after
 * another. */
static void limit(void **state)
{
	struct table *t = make(4);
	char id[17], name[20];
	struct image *i;

	for (unsigned k = 0; k < 20; k++) {
		snprintf(id, sizeof(id), "%016llx", (k + 1ull) << 40);
		snprintf(name, sizeof(name), "n%u", k);
		put(t, id, name);
		assert_true(slot_named(t, name));
	}
	assert_int_equal(opened, 20);
	assert_true(slot_named(t, "n19"));
	assert_int_equal(opened, 20); /* still open */
	assert_true(slot_named(t, "n0"));
	assert_int_equal(opened, 21); /* was closed */
	assert_int_equal(evicted_count, 0);
	for (unsigned k = 0; k < 8; k++) {
		snprintf(name, sizeof(name), "n%u", k);
		assert_int_equal(table_get_name(t, name, &i), 0);
		table_referenced(i, 1);
		table_put(t, i);
	}
	assert_int_equal(evicted_count, 4);
	assert_string_equal(evicted[0], "n0");
	assert_string_equal(evicted[3], "n3");
	assert_int_equal(table_get_name(t, "n0", &i), 0); /* wanted again */
	table_put(t, i);
	i = table_get_unwanted(t, 0);
	assert_non_null(i);
	table_put(t, i);
	int before = opened;
	table_forget(t, 1u << 8, 1); /* n1's slot: (2 << 40) >> 33 */
	table_forget(t, 1u << 7, 1); /* n0's */
	assert_true(slot_named(t, "n7"));
	assert_int_equal(opened, before);
	table_free(t);
}

static void not_to_be_had(void **state)
{
	struct table *t = make(4);
	struct image *i;

	put(t, "dead000000000000", "dead");
	put(t, "bad0000000000000", "bad");
	for (int k = 0; k < 3; k++) {
		assert_int_equal(table_get_name(t, "dead", &i), -EIO);
		assert_int_equal(table_get_name(t, "bad", &i), -EUCLEAN);
	}
	table_free(t);
}

static void *many_users(void *arg)
{
	struct table *t = arg;

	for (unsigned k = 0; k < 3000; k++) {
		char name[8] = {'n', (char)('0' + k % 10), 0};
		struct image *i;
		if (table_get_name(t, name, &i) < 0)
			continue;
		uint32_t slot = i->slot;
		table_referenced(i, 2);
		if (!i->ext4)
			abort();
		table_put(t, i);
		table_forget(t, slot, 2);
	}
	return NULL;
}

static void concurrently(void **state)
{
	struct table *t = make(3);
	pthread_t id[4];

	for (int k = 0; k < 4; k++)
		assert_int_equal(pthread_create(&id[k], NULL, many_users, t), 0);
	for (unsigned round = 0; round < 300; round++) {
		for (unsigned k = 0; k < 10; k++) {
			char ident[17], name[8] = {'n', (char)('0' + k), 0};
			stale_count = evicted_count = 0;
			snprintf(ident, sizeof(ident), "%08x00000001", 2 * (round * 10 + k + 1));
			put(t, ident, name);
			if (k % 2)
				put(t, ident, NULL);
		}
	}
	for (int k = 0; k < 4; k++)
		pthread_join(id[k], NULL);
	assert_null(table_get_unwanted(t, 0));
	table_free(t);
}

int main(void)
{
	uint8_t *bytes = base_expand(&bases[0]);

	setenv("BANGER_LOG_LEVEL", "error", 1);
	banger_log_init("test_table");
	good_file = base_file(bytes, bases[0].size);
	bad_file = base_file(bytes, 5000);
	free(bytes);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names),
		cmocka_unit_test(slots),
		cmocka_unit_test(listing),
		cmocka_unit_test(snapshot),
		cmocka_unit_test(deleted),
		cmocka_unit_test(limit),
		cmocka_unit_test(not_to_be_had),
		cmocka_unit_test(concurrently),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
