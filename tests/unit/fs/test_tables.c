/* SPDX-License-Identifier: Apache-2.0 */
/* Slots and indexes, against what a plain array would say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "index.h"
#include "slots.h"

#define MANY 5000

static int items[MANY];

static void numbers_are_never_given_twice(void **state)
{
	struct slots s = {0};

	for (uint64_t i = 1; i <= 3; i++) {
		assert_int_equal(slots_reserve(&s, 1), 0);
		assert_int_equal(slots_add(&s, &items[i]), i);
	}
	slots_set(&s, 3, NULL);
	assert_null(slots_get(&s, 3));
	assert_int_equal(slots_reserve(&s, 1), 0);
	assert_int_equal(slots_add(&s, &items[4]), 4);
	assert_int_equal(s.count, 3);
	assert_null(slots_get(&s, 0));
	assert_null(slots_get(&s, 5));
	assert_null(slots_get(&s, UINT64_MAX));
	slots_done(&s);
}

/* What was there all the time is listed once, whatever else comes and goes meanwhile. */
static void listing_is_stable(void **state)
{
	struct slots s = {0};
	uint64_t at = 0, stayed = 0, number;

	assert_int_equal(slots_reserve(&s, MANY), 0);
	for (int i = 0; i < MANY; i++)
		slots_add(&s, &items[i]);
	while (slots_next(&s, at, &at)) {
		stayed += at % 3 == 0 && at <= MANY;
		/* Remove a neighbour before and one after, add one at the end. */
		if (at > 1 && (at - 1) % 3 != 0 && slots_get(&s, at - 1))
			slots_set(&s, at - 1, NULL);
		if (at + 1 <= MANY && (at + 1) % 3 != 0 && slots_get(&s, at + 1))
			slots_set(&s, at + 1, NULL);
		if (at <= 100) {
			assert_int_equal(slots_reserve(&s, 1), 0);
			number = slots_add(&s, &items[0]);
			assert_true(number > MANY);
		}
	}
	assert_int_equal(stayed, MANY / 3);
	slots_done(&s);
}

/* A long life of making and deleting keeps no memory for what is gone. */
static void empty_chunks_are_freed(void **state)
{
	struct slots s = {0};
	uint64_t number;

	for (int i = 0; i < 100000; i++) {
		assert_int_equal(slots_reserve(&s, 1), 0);
		number = slots_add(&s, &items[0]);
		slots_set(&s, number, NULL);
	}
	size_t chunks = 0;
	for (size_t i = 0; i < s.nchunks; i++)
		chunks += s.chunks[i] != NULL;
	assert_true(chunks <= 2);
	assert_null(slots_next(&s, 0, &number));
	slots_done(&s);
}

struct entry {
	uint64_t key;
	bool in;
};

static uint64_t hash_entry(const void *item)
{
	/* Few buckets, so that runs and their gaps are exercised. */
	return ((const struct entry *)item)->key % 7;
}

static bool has_key(const void *item, const void *key)
{
	return ((const struct entry *)item)->key == *(const uint64_t *)key;
}

static void index_agrees_with_an_array(void **state)
{
	static struct entry entries[400];
	struct index x = {.hash = hash_entry};
	unsigned seed = 1;

	for (uint64_t i = 0; i < 400; i++)
		entries[i].key = i;
	for (int step = 0; step < 20000; step++) {
		struct entry *e = &entries[rand_r(&seed) % 400];

		assert_int_equal(index_reserve(&x, 1), 0);
		if (e->in)
			index_remove(&x, e);
		else
			index_insert(&x, e);
		e->in = !e->in;
		uint64_t probe = rand_r(&seed) % 400;
		void *found = index_find(&x, probe % 7, has_key, &probe);
		assert_ptr_equal(found, entries[probe].in ? &entries[probe] : NULL);
	}
	struct entry absent = {.key = 3};
	index_remove(&x, &absent); /* not the same item: nothing happens */
	index_done(&x);
	assert_null(index_find(&x, 0, has_key, &(uint64_t){0}));
}

static void text_hashes_differ_by_seed(void **state)
{
	assert_int_equal(index_hash_text("web", 0), index_hash_text("web", 0));
	assert_true(index_hash_text("web", 0) != index_hash_text("web", 1));
	assert_true(index_hash_text("web", 0) != index_hash_text("bew", 0));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(numbers_are_never_given_twice),
		cmocka_unit_test(listing_is_stable),
		cmocka_unit_test(empty_chunks_are_freed),
		cmocka_unit_test(index_agrees_with_an_array),
		cmocka_unit_test(text_hashes_differ_by_seed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
