/* SPDX-License-Identifier: Apache-2.0 */
/* The publication lock: excludes, and tells who holds it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include <pthread.h>
#include <unistd.h>
#include "op/publication.h"

static void tells_its_holder(void **state)
{
	struct publication_lock *p = NULL;
	struct publication_holder h;

	assert_int_equal(publication_lock_new(&p), 0);
	publication_holder(p, &h);
	assert_false(h.held);
	{
		_cleanup_op_ banger_op_id saved = banger_op_enter("op-000000000001");
		_cleanup_(publication_leavep) struct publication_lock *held = publication_enter(p);

		usleep(2000);
		publication_holder(p, &h);
		assert_true(h.held);
		assert_string_equal(h.op_id.s, "op-000000000001");
		assert_true(h.held_us >= 2000);
		assert_ptr_equal(held, p);
	}
	publication_holder(p, &h);
	assert_false(h.held);
	assert_string_equal(h.op_id.s, "");
	assert_true(h.longest_us >= 2000);
	assert_string_equal(h.longest_op.s, "op-000000000001");
	publication_lock_freep(&p);
}

struct shared {
	struct publication_lock *p;
	int n;
};

static void *count(void *arg)
{
	struct shared *s = arg;

	for (int i = 0; i < 20000; i++) {
		_cleanup_(publication_leavep) struct publication_lock *held =
			publication_enter(s->p);
		s->n++;
		(void)held;
	}
	return NULL;
}

static void excludes(void **state)
{
	struct shared s = {0};
	pthread_t t[4];

	assert_int_equal(publication_lock_new(&s.p), 0);
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&t[i], NULL, count, &s), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(s.n, 80000);
	publication_lock_freep(&s.p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tells_its_holder), cmocka_unit_test(excludes)};

	return cmocka_run_group_tests_name("op/publication", tests, NULL, NULL);
}
