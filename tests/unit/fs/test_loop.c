/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop over a device that is a pipe: each byte is a request, its value says what its handler
 * does. libfuse's side is played here.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/wait.h>
#include <string.h>
#include "loop.h"

enum { INIT = 1, QUICK, WAITS, FAILS, NO_MEMORY };

struct fuse_session {
	int fd;
	atomic_bool exited;
	atomic_uint handled, waiting, most_waiting;
	atomic_int fail;
	sem_t go;
};
static struct fuse_session session;

void fuse_session_exit(struct fuse_session *s)
{
	atomic_store(&s->exited, true);
}

int fuse_session_exited(struct fuse_session *s)
{
	return atomic_load(&s->exited);
}

int fuse_session_fd(struct fuse_session *s)
{
	return s->fd;
}

int fuse_session_receive_buf(struct fuse_session *s, struct fuse_buf *buf)
{
	static atomic_uint callers;
	unsigned char c;

	if (atomic_exchange(&s->fail, 0) == NO_MEMORY)
		return -ENOMEM;
	ssize_t n = read(s->fd, &c, 1);
	if (n <= 0)
		return n < 0 ? -errno : 0;
	if (c == FAILS)
		return -EIO;
	if (!buf->mem && !(buf->mem = calloc(1, sizeof(struct fuse_in_header))))
		return -ENOMEM;
	*(struct fuse_in_header *)buf->mem =
		(struct fuse_in_header){.opcode = c, .pid = 1 + atomic_fetch_add(&callers, 1) % 2};
	return buf->size = sizeof(struct fuse_in_header);
}

void fuse_session_process_buf(struct fuse_session *s, const struct fuse_buf *buf)
{
	const struct fuse_in_header *in = buf->mem;

	if (in->opcode == WAITS) {
		LOOP_MAY_WAIT();
		assert_null(loop_leave()); /* within another: nothing more happens */
		unsigned n = atomic_fetch_add(&s->waiting, 1) + 1;
		if (n > atomic_load(&s->most_waiting))
			atomic_store(&s->most_waiting, n);
		while (sem_wait(&s->go) < 0)
			;
		atomic_fetch_sub(&s->waiting, 1);
	}
	atomic_fetch_add(&s->handled, 1);
}

/* ---- the loop in a thread of its own; it can run once in a process, so each test is a child */

static int device;
static pthread_t runner;

static void *run(void *arg)
{
	return (void *)(intptr_t)loop_run(&session, arg != NULL);
}

static void nothing(int signum)
{
}

static void start(bool single)
{
	const struct sigaction none = {.sa_handler = nothing};
	int p[2];

	sigaction(SIGUSR2, &none, NULL);
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	session.fd = p[0];
	device = p[1];
	sem_init(&session.go, 0, 0);
	assert_int_equal(pthread_create(&runner, NULL, run, single ? &session : NULL), 0);
}

static void request(int what, int times)
{
	char c = what;

	for (int i = 0; i < times; i++)
		assert_int_equal(write(device, &c, 1), 1);
}

static void until(atomic_uint *what, unsigned value)
{
	for (int i = 0; i < 10000 && atomic_load(what) != value; i++)
		poll(NULL, 0, 1);
	assert_int_equal(atomic_load(what), value);
}

static int finish(void)
{
	void *r;

	pthread_join(runner, &r);
	return (intptr_t)r;
}

/* ---- */

static void serves_and_ends_when_told(void **state)
{
	start(false);
	request(INIT, 1);
	request(QUICK, 5000);
	until(&session.handled, 5001);
	loop_end(&session); /* all are at the device, or idle */
	assert_int_equal(finish(), 0);
}

static void ends_before_it_began(void **state)
{
	loop_end(&session);
	start(false);
	assert_int_equal(finish(), 0);
}

static void ends_with_the_device(void **state)
{
	start(false);
	request(INIT, 1);
	request(QUICK, 10);
	until(&session.handled, 11);
	close(device);
	assert_int_equal(finish(), 0);
}

static void others_serve_while_handlers_wait(void **state)
{
	start(false);
	request(INIT, 1);
	for (int round = 0; round < 20; round++) {
		unsigned before = atomic_load(&session.handled);

		if (round == 0)
			before = 1;
		request(WAITS, 40);
		until(&session.waiting, 40);
		request(QUICK, 100);
		until(&session.handled, before + 100);
		for (int i = 0; i < 40; i++)
			sem_post(&session.go);
		until(&session.handled, before + 140);
	}
	/* Threads that came back are used again. */
	assert_int_equal(atomic_load(&session.most_waiting), 40);
	loop_end(&session);
	assert_int_equal(finish(), 0);
}

static void all_that_may_wait_wait(void **state)
{
	start(false);
	request(INIT, 1);
	request(WAITS, LOOP_THREADS_MAX + 20);
	until(&session.waiting, LOOP_THREADS_MAX);
	for (int i = 0; i < LOOP_THREADS_MAX + 20; i++)
		sem_post(&session.go);
	until(&session.handled, LOOP_THREADS_MAX + 21);
	request(QUICK, 100);
	until(&session.handled, LOOP_THREADS_MAX + 121);
	loop_end(&session);
	assert_int_equal(finish(), 0);
}

static void an_error_ends_it_for_all(void **state)
{
	start(false);
	request(INIT, 1);
	request(QUICK, 2000);
	request(WAITS, 3);
	until(&session.waiting, 3);
	request(FAILS, 1);
	for (int i = 0; i < 3; i++)
		sem_post(&session.go);
	assert_int_equal(finish(), -EIO);
}

static void no_memory_is_waited_out(void **state)
{
	start(false);
	request(INIT, 1);
	until(&session.handled, 1);
	atomic_store(&session.fail, NO_MEMORY);
	request(QUICK, 10);
	until(&session.handled, 11);
	loop_end(&session);
	assert_int_equal(finish(), 0);
}

static void a_single_thread_stays_single(void **state)
{
	start(true);
	request(INIT, 1);
	request(WAITS, 2);
	until(&session.waiting, 1);
	request(QUICK, 1);
	poll(NULL, 0, 50);
	assert_int_equal(atomic_load(&session.waiting), 1);
	sem_post(&session.go);
	sem_post(&session.go);
	until(&session.handled, 4);
	assert_int_equal(atomic_load(&session.most_waiting), 1);
	loop_end(&session);
	assert_int_equal(finish(), 0);
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(serves_and_ends_when_told),
		cmocka_unit_test(ends_before_it_began),
		cmocka_unit_test(ends_with_the_device),
		cmocka_unit_test(others_serve_while_handlers_wait),
		cmocka_unit_test(all_that_may_wait_wait),
		cmocka_unit_test(an_error_ends_it_for_all),
		cmocka_unit_test(no_memory_is_waited_out),
		cmocka_unit_test(a_single_thread_stays_single),
	};

	/* The loop runs once in a process: each test in one of its own. */
	int failed = 0;
	for (size_t i = 0; i < ELEMENTSOF(tests); i++) {
		fflush(NULL);
		pid_t pid = fork();
		if (pid == 0) {
			alarm(60);
			_exit(_cmocka_run_group_tests(tests[i].name, &tests[i], 1, NULL, NULL));
		}
		int status;
		waitpid(pid, &status, 0);
		if (status != 0)
			fprintf(stderr, "failed: %s (status %d)\n", tests[i].name, status);
		failed += status != 0;
	}
	return failed != 0;
}
