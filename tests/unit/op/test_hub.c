/* SPDX-License-Identifier: Apache-2.0 */
/* The hub: order, filters, wake-ups, cutting off. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include <poll.h>
#include <pthread.h>
#include <banger/op.h>
#include "op/hub.h"

static bool readable(struct hub_subscription *s)
{
	struct pollfd p = {.fd = hub_subscription_fd(s), .events = POLLIN};

	return poll(&p, 1, 0) == 1;
}

static void publish(struct hub *h, unsigned topic, const char *op_id, const char *text)
{
	hub_publish(h, topic, op_id, text, strlen(text));
}

static void expect(struct hub_subscription *s, const char *text)
{
	_cleanup_free_ char *got = NULL;
	size_t len;

	assert_true(readable(s));
	assert_int_equal(hub_take(s, &got, &len), 1);
	assert_string_equal(got, text);
	assert_int_equal(len, strlen(text));
}

static void expect_nothing(struct hub_subscription *s)
{
	char *got;
	size_t len;

	assert_false(readable(s));
	assert_int_equal(hub_take(s, &got, &len), 0);
}

static void hands_to_everyone_in_order(void **state)
{
	struct hub *h = NULL;
	struct hub_subscription *a = NULL, *b = NULL;

	assert_int_equal(hub_new(&h), 0);
	assert_int_equal(hub_subscribe(h, HUB_REGISTRY, NULL, &a), 0);
	publish(h, HUB_REGISTRY, NULL, "1");
	assert_int_equal(hub_subscribe(h, HUB_REGISTRY, NULL, &b), 0);
	publish(h, HUB_REGISTRY, NULL, "2");
	expect(a, "1");
	expect(a, "2");
	expect_nothing(a);
	expect(b, "2");
	expect_nothing(b);
	publish(h, HUB_REGISTRY, NULL, "3");
	expect(a, "3");
	hub_unsubscribep(&a);
	expect(b, "3");
	hub_unsubscribep(&b);
	hub_freep(&h);
}

static void filters_topics_and_operations(void **state)
{
	struct hub *h = NULL;
	struct hub_subscription *changes = NULL, *one = NULL, *all = NULL;

	assert_int_equal(hub_new(&h), 0);
	assert_false(hub_wanted(h, HUB_LOG));
	assert_int_equal(hub_subscribe(h, HUB_REGISTRY | HUB_OPS, NULL, &changes), 0);
	assert_false(hub_wanted(h, HUB_LOG));
	assert_true(hub_wanted(h, HUB_OPS));
	assert_int_equal(hub_subscribe(h, HUB_LOG, "op-000000000001", &one), 0);
	assert_int_equal(hub_subscribe(h, HUB_LOG, NULL, &all), 0);
	assert_true(hub_wanted(h, HUB_LOG));
	assert_int_equal(hub_subscribers(h, HUB_LOG), 2);
	publish(h, HUB_LOG, "op-000000000001", "x");
	publish(h, HUB_LOG, "op-000000000002", "y");
	publish(h, HUB_OPS, "op-000000000002", "z");
	expect(one, "x");
	expect_nothing(one);
	expect(all, "x");
	expect(all, "y");
	expect_nothing(all);
	expect(changes, "z");
	expect_nothing(changes);
	hub_unsubscribep(&one);
	hub_unsubscribep(&all);
	assert_false(hub_wanted(h, HUB_LOG));
	hub_unsubscribep(&changes);
	hub_freep(&h);
}

/* An empty text (the end of an operation's log) is a text. */
static void empty_texts_arrive(void **state)
{
	struct hub *h = NULL;
	struct hub_subscription *s = NULL;

	assert_int_equal(hub_new(&h), 0);
	assert_int_equal(hub_subscribe(h, HUB_LOG, NULL, &s), 0);
	publish(h, HUB_LOG, "op-000000000001", "");
	expect(s, "");
	expect_nothing(s);
	hub_unsubscribep(&s);
	hub_freep(&h);
}

static void cuts_off_who_does_not_read(void **state)
{
	struct hub *h = NULL;
	struct hub_subscription *slow = NULL, *quick = NULL;
	char *got, text[100001];
	size_t len;

	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	assert_int_equal(hub_new(&h), 0);
	assert_int_equal(hub_subscribe(h, HUB_REGISTRY, NULL, &slow), 0);
	assert_int_equal(hub_subscribe(h, HUB_REGISTRY, NULL, &quick), 0);
	for (int i = 0; i < 100; i++) {
		publish(h, HUB_REGISTRY, NULL, text);
		expect(quick, text);
	}
	assert_true(readable(slow));
	assert_int_equal(hub_take(slow, &got, &len), -EPIPE);
	assert_true(readable(slow)); /* and stays so */
	publish(h, HUB_REGISTRY, NULL, "more");
	assert_int_equal(hub_take(slow, &got, &len), -EPIPE);
	expect(quick, "more");
	hub_unsubscribep(&slow);
	hub_unsubscribep(&quick);
	hub_freep(&h);
}

struct reader {
	struct hub_subscription *s;
	int seen, last;
	bool ordered;
};

static void *read_all(void *arg)
{
	struct reader *r = arg;
	struct pollfd p = {.fd = hub_subscription_fd(r->s), .events = POLLIN};

	r->ordered = true;
	r->last = -1;
	while (r->last != 19999 && poll(&p, 1, 5000) == 1) {
		char *got;
		size_t len;

		while (hub_take(r->s, &got, &len) == 1) {
			int n = atoi(got);
			r->ordered = r->ordered && n == r->last + 1;
			r->last = n;
			r->seen++;
			free(got);
		}
	}
	return NULL;
}

static void many_readers_miss_nothing(void **state)
{
	struct hub *h = NULL;
	struct reader r[4] = {0};
	pthread_t t[4];

	assert_int_equal(hub_new(&h), 0);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(hub_subscribe(h, HUB_REGISTRY, NULL, &r[i].s), 0);
		assert_int_equal(pthread_create(&t[i], NULL, read_all, &r[i]), 0);
	}
	for (int i = 0; i < 20000; i++) {
		char text[16];
		snprintf(text, sizeof(text), "%d", i);
		publish(h, HUB_REGISTRY, NULL, text);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(t[i], NULL);
		assert_int_equal(r[i].seen, 20000);
		assert_true(r[i].ordered);
		hub_unsubscribep(&r[i].s);
	}
	hub_freep(&h);
}

static void wakes_after_the_reply(void **state)
{
	struct hub_subscription *own = NULL, *other = NULL;
	struct hub *h = NULL;

	assert_int_equal(hub_new(&h), 0);
	assert_int_equal(hub_subscribe(h, HUB_REGISTRY | HUB_OPS, NULL, &other), 0);
	assert_int_equal(hub_subscribe(h, HUB_REGISTRY | HUB_OPS, NULL, &own), 0);
	hub_hold();
	publish(h, HUB_OPS, NULL, "begins");
	expect(own, "begins");
	expect(other, "begins");
	publish(h, HUB_REGISTRY, NULL, "changed");
	publish(h, HUB_OPS, NULL, "ends");
	assert_false(readable(own));
	assert_false(readable(other));
	hub_release(h);
	expect(own, "changed");
	expect(own, "ends");
	expect(other, "changed");
	expect(other, "ends");
	expect_nothing(own);
	expect_nothing(other);
	hub_hold();
	publish(h, HUB_REGISTRY | HUB_PROMPT, NULL, "published");
	expect(own, "published");
	expect(other, "published");
	hub_release(h);
	expect_nothing(own);
	/* What was put off and taken meanwhile wakes nobody. */
	hub_hold();
	publish(h, HUB_REGISTRY, NULL, "again");
	char *got;
	size_t len;
	assert_int_equal(hub_take(own, &got, &len), 1);
	free(got);
	hub_release(h);
	expect_nothing(own);
	expect(other, "again");
	publish(h, HUB_REGISTRY, NULL, "last");
	expect(own, "last");
	expect(other, "last");
	hub_unsubscribep(&own);
	hub_unsubscribep(&other);
	hub_freep(&h);
}

static void *publish_held(void *arg)
{
	for (int i = 0; i < 5000; i++) {
		hub_hold();
		publish(arg, HUB_REGISTRY, NULL, "x");
		hub_release(arg);
	}
	return NULL;
}

/* Readers that come and go while wake-ups are given without the lock, and one that sleeps whenever it
 * has read all: a lost wake-up would leave it asleep, one too many would keep it from ever sleeping. */
static void survives_readers_that_leave(void **state)
{
	struct hub_subscription *s = NULL;
	struct hub *h = NULL;
	pthread_t t[2];

	assert_int_equal(hub_new(&h), 0);
	assert_int_equal(hub_subscribe(h, HUB_REGISTRY, NULL, &s), 0);
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&t[i], NULL, publish_held, h), 0);
	for (int seen = 0; seen < 10000;) {
		struct pollfd p = {.fd = hub_subscription_fd(s), .events = POLLIN};
		struct hub_subscription *passing = NULL;
		char *got;
		size_t len;

		assert_int_equal(hub_subscribe(h, HUB_REGISTRY, NULL, &passing), 0);
		assert_int_equal(poll(&p, 1, 5000), 1);
		for (; hub_take(s, &got, &len) == 1; seen++)
			free(got);
		hub_unsubscribep(&passing);
	}
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	expect_nothing(s);
	hub_unsubscribep(&s);
	hub_freep(&h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(hands_to_everyone_in_order),
		cmocka_unit_test(filters_topics_and_operations),
		cmocka_unit_test(empty_texts_arrive), cmocka_unit_test(cuts_off_who_does_not_read),
		cmocka_unit_test(many_readers_miss_nothing),
		cmocka_unit_test(wakes_after_the_reply),
		cmocka_unit_test(survives_readers_that_leave)};

	return cmocka_run_group_tests_name("op/hub", tests, NULL, NULL);
}
