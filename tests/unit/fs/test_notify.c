/* SPDX-License-Identifier: Apache-2.0 */
/* Notifications: order, no waiting for the kernel, each inode once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <unistd.h>
#include "lasterror.h"
#include "notify.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static char sent[4096];
static unsigned nsent;
static bool held; /* the kernel does not take anything */

static void note(const char *text)
{
	pthread_mutex_lock(&lock);
	while (held)
		pthread_cond_wait(&cond, &lock);
	size_t n = strlen(sent);
	snprintf(sent + n, sizeof(sent) - n, "%s,", text);
	nsent++;
	pthread_cond_broadcast(&cond);
	pthread_mutex_unlock(&lock);
}

static int send_entry(void *arg, uint64_t parent, const char *name, size_t len)
{
	char text[300];

	assert_int_equal(len, strlen(name));
	snprintf(text, sizeof(text), "%d/%s", (int)parent, name);
	note(text);
	return -2; /* ENOENT: nobody minds */
}

static int send_inode(void *arg, uint64_t ino)
{
	char text[32];

	snprintf(text, sizeof(text), "%d", (int)ino);
	note(text);
	return 0;
}

static void hold(bool on)
{
	pthread_mutex_lock(&lock);
	held = on;
	pthread_cond_broadcast(&cond);
	pthread_mutex_unlock(&lock);
}

static void wait_sent(unsigned n)
{
	pthread_mutex_lock(&lock);
	while (nsent < n)
		pthread_cond_wait(&cond, &lock);
	pthread_mutex_unlock(&lock);
}

static struct notify *start(void)
{
	const struct notify_sender sender = {send_entry, send_inode, NULL};
	struct notify *n;

	sent[0] = '\0';
	nsent = 0;
	assert_int_equal(notify_new(&sender, &n), 0);
	return n;
}

static void in_order(void **state)
{
	struct notify *n = start();

	/* Before there is a thread they wait. */
	notify_entry(n, 1, "a");
	notify_inode(n, 7);
	notify_entry(n, 2, "b");
	assert_int_equal(notify_start(n), 0);
	notify_entry(n, 1, "a");
	wait_sent(4);
	assert_string_equal(sent, "1/a,7,2/b,1/a,");
	notify_freep(&n);
	assert_null(n);
}

static void the_queue_takes_while_the_kernel_does_not(void **state)
{
	struct notify *n = start();

	hold(true);
	assert_int_equal(notify_start(n), 0);
	notify_entry(n, 1, "stuck");
	for (int i = 0; i < 1000; i++)
		notify_inode(n, 5);
	notify_inode(n, 6);
	hold(false);
	wait_sent(3);
	usleep(10000);
	/* At most twice: once on its way when more was asked, once queued. */
	assert_true(strcmp(sent, "1/stuck,5,6,") == 0 || strcmp(sent, "1/stuck,5,6,5,") == 0);
	notify_freep(&n);
}

/* An inode that is asked for again after it left the queue is sent again. */
static void an_inode_on_its_way_is_queued_again(void **state)
{
	struct notify *n = start();

	assert_int_equal(notify_start(n), 0);
	notify_inode(n, 5);
	wait_sent(1);
	notify_inode(n, 5);
	wait_sent(2);
	assert_string_equal(sent, "5,5,");
	notify_freep(&n);
}

/* Until the kernel has taken it, not only until it leaves the queue. */
static void what_is_on_its_way_is_known(void **state)
{
	struct notify *n = start();

	hold(true);
	notify_entry(n, 1, "first");
	notify_entry(n, 1, "second");
	notify_inode(n, 2);
	assert_int_equal(notify_start(n), 0);
	usleep(10000); /* the first is being sent now */
	assert_true(notify_is_pending(n, 1, "first"));
	assert_true(notify_is_pending(n, 1, "second"));
	assert_false(notify_is_pending(n, 2, "first"));
	assert_false(notify_is_pending(n, 1, "firs"));
	assert_false(notify_is_pending(n, 2, ""));
	hold(false);
	wait_sent(3);
	assert_false(notify_is_pending(n, 1, "first"));
	assert_false(notify_is_pending(n, 1, "second"));
	notify_freep(&n);
}

static void stopping_drops(void **state)
{
	struct notify *n = start();

	notify_entry(n, 1, "never");
	notify_stop(n);
	notify_entry(n, 1, "nor this");
	notify_inode(n, 3);
	notify_freep(&n);
	assert_string_equal(sent, "");
	notify_freep(&n); /* NULL */
}

/* ---- last errors */

static const char *last(struct last_errors *l, uid_t uid)
{
	static char buf[LAST_ERROR_LEN];

	size_t n = last_errors_get(l, uid, buf);
	assert_int_equal(n, strlen(buf));
	return buf;
}

static void each_uid_has_its_own(void **state)
{
	struct banger_error e = {
		.code = BANGER_EXISTS, .op_id = "op-000000000001", .message = "x is taken"};
	struct last_errors *l;

	assert_int_equal(last_errors_new(&l), 0);
	assert_string_equal(last(l, 1), "");
	last_errors_set(l, 1, &e);
	strcpy(e.message, "y is taken");
	last_errors_set(l, 2, &e);
	assert_string_equal(last(l, 1), "x is taken (op-000000000001)");
	assert_string_equal(last(l, 2), "y is taken (op-000000000001)");
	strcpy(e.message, "z is taken");
	last_errors_set(l, 1, &e);
	assert_string_equal(last(l, 1), "z is taken (op-000000000001)");
	last_errors_freep(&l);
}

static void the_table_is_bounded(void **state)
{
	struct banger_error e = {.code = BANGER_EXISTS, .message = "m"};
	struct last_errors *l;

	assert_int_equal(last_errors_new(&l), 0);
	for (uid_t uid = 0; uid < 2 * LAST_ERROR_UIDS; uid++) {
		last_errors_set(l, uid, &e);
		last_errors_set(l, 7, &e); /* who fails often is remembered */
	}
	assert_string_equal(last(l, 0), "");
	assert_string_equal(last(l, 7), "m");
	assert_string_equal(last(l, 2 * LAST_ERROR_UIDS - 1), "m");
	memset(e.message, 'x', sizeof(e.message) - 1);
	last_errors_set(l, 1, &e);
	assert_int_equal(strlen(last(l, 1)), sizeof(e.message) - 1);
	last_errors_freep(&l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(in_order),
		cmocka_unit_test(the_queue_takes_while_the_kernel_does_not),
		cmocka_unit_test(an_inode_on_its_way_is_queued_again),
		cmocka_unit_test(what_is_on_its_way_is_known),
		cmocka_unit_test(stopping_drops),
		cmocka_unit_test(each_uid_has_its_own),
		cmocka_unit_test(the_table_is_bounded),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
