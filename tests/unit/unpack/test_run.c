/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon's side against programs that behave in every way: the real one, and scripts in its
 * place that say and do what it should not.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <banger/log.h>
#include <banger/op.h>
#include "unpack/flatten.h"
#include "unpack/run.h"

static char scripts[] = "/var/tmp/banger-unpack-run-XXXXXX";
static struct banger_config fake = {.libexec_dir = scripts};
static struct banger_config real;

static int setup(void **state)
{
	real.libexec_dir = getenv("BANGER_UNPACK_DIR");
	assert_non_null(real.libexec_dir);
	return mkdtemp(scripts) ? 0 : -1;
}

static int teardown(void **state)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/banger-unpack", scripts);
	unlink(path);
	return rmdir(scripts);
}

static int open_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

struct seen {
	int calls;
	struct unpack_progress last;
};

static void see(void *arg, const struct unpack_progress *p)
{
	struct seen *s = arg;

	s->calls++;
	s->last = *p;
}

/* Runs a script as the program. */
static int run_script_with(const char *body, int cancel_fd, int stall_ms,
	const struct unpack_layer *layers, size_t n_layers, struct unpack_result *result,
	struct seen *seen, struct banger_error *err)
{
	char path[128];
	int tar = open("/dev/null", O_RDONLY), out = memfd_create("image", MFD_CLOEXEC);

	snprintf(path, sizeof(path), "%s/banger-unpack", scripts);
	FILE *f = fopen(path, "we");
	assert_non_null(f);
	fprintf(f, "#!/bin/sh\n%s\n", body);
	fclose(f);
	chmod(path, 0755);
	const struct unpack_options o = {.tar_fd = tar,
		.out_fd = out,
		.cancel_fd = cancel_fd,
		.headroom = -1,
		.headroom_percent = -1,
		.stall_ms = stall_ms,
		.progress = seen ? see : NULL,
		.arg = seen,
		.layers = layers,
		.n_layers = n_layers,
		.notify_fd = -1,
		.from_fd = -1,
		.keep_fd = -1,
		.work_seed_fd = -1};
	*err = (struct banger_error){0};
	int before = open_fds();
	int r = unpack_run(&fake, &o, result, err);
	assert_int_equal(open_fds(), before);
	/* No child is left, dead or alive. */
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
	close(tar);
	close(out);
	return r;
}

#define NO_RECORDS .record_in_fd = -1, .record_out_fd = -1

static int run_script(const char *body, int cancel_fd, int stall_ms, struct unpack_result *result,
	struct seen *seen, struct banger_error *err)
{
	return run_script_with(body, cancel_fd, stall_ms, NULL, 0, result, seen, err);
}

static void results(void **state)
{
	struct unpack_result result = {0};
	struct seen seen = {0};
	struct banger_error err;

	assert_int_equal(
		run_script("echo '{\"progress\":{\"read\":5,\"members\":2,\"content\":3}}' >&5\n"
			   "echo '{\"progress\":{\"read\":9,\"members\":4,\"content\":8}}' >&5\n"
			   "echo '{\"result\":{\"size\":4096,\"inodes\":3,\"uuid\":\"ab\"}}' >&5",
			-1, 0, &result, &seen, &err),
		0);
	assert_int_equal(result.size, 4096);
	assert_int_equal(result.inodes, 3);
	assert_string_equal(result.uuid, "ab");
	assert_int_equal(seen.calls, 2);
	assert_int_equal(seen.last.content, 8);
}

static void environment(void **state)
{
	struct banger_error err;
	_cleanup_op_ banger_op_id saved = banger_op_enter("op-00112233aabb");

	setenv("SECRET", "x", 1);
	assert_int_equal(
		run_script("[ \"$BANGER_OP_ID\" = op-00112233aabb ] && [ -z \"$SECRET\" ] &&\n"
			   "[ \"$(ls /proc/self/fd | wc -l)\" -le 8 ] &&\n"
			   "echo '{\"result\":{\"size\":1}}' >&5",
			-1, 0, NULL, NULL, &err),
		0);
	assert_int_equal(run_script("exit 1", -1, 0, NULL, NULL, &err), -EIO);
	assert_string_equal(err.op_id, "op-00112233aabb");
}

static const struct {
	const char *body;
	int errnum;
	const char *message;
} bad_programs[] = {
	{"echo '{\"error\":{\"code\":\"corrupt\",\"message\":\"it is\\u0007 broken\"}}' >&5; exit "
	 "1",
		EUCLEAN, "it is"},
	{"echo '{\"error\":{\"code\":\"corrupt\",\"message\":\"said, then fine\"}}' >&5; exit 0",
		EUCLEAN, "said, then fine"},
	{"echo '{\"error\":{\"code\":\"ok\"}}' >&5; exit 1", EIO, "no reason"},
	{"echo '{\"error\":{\"code\":7,\"message\":[]}}' >&5; exit 1", EIO, "no reason"},
	{"exit 0", EIO, "no result"},
	{"exit 3", EIO, "status 3"},
	{"echo '{\"result\":{\"size\":1}}' >&5; exit 3", EIO, "status 3"},
	{"echo '{\"result\":7}' >&5", EIO, NULL},
	{"echo 'not JSON at all' >&5", EIO, "no result"},
	{"printf '{\"result\":{\"size\":1}}' >&5", EIO, "no result"},
	{"head -c 100000 /dev/zero | tr '\\0' x >&5; sleep 100", EIO, "in one line"},
	{"kill -SYS $$", EIO, "sandbox"},
	{"kill -SEGV $$", EIO, "crashed (signal 11)"},
	{"kill -KILL $$", EIO, "want of memory"},
	{"kill -XCPU $$", ETIMEDOUT, "CPU time"},
};

static void bad(void **state)
{
	struct banger_error err;

	for (size_t i = 0; i < ELEMENTSOF(bad_programs); i++) {
		struct unpack_result result = {.size = 77};
		int r = run_script(bad_programs[i].body, -1, 0, &result, NULL, &err);
		if (r != -bad_programs[i].errnum ||
			(bad_programs[i].message && !strstr(err.message, bad_programs[i].message)))
			fail_msg("%s: %d, \"%s\"", bad_programs[i].body, r, err.message);
		assert_int_equal(result.size, 77);
	}
}

static void stalls(void **state)
{
	struct banger_error err;

	assert_int_equal(run_script("exec sleep 100", -1, 200, NULL, NULL, &err), -ETIMEDOUT);
	assert_non_null(strstr(err.message, "no progress"));
	/* The same progress again is none. */
	assert_int_equal(
		run_script("while :; do echo '{\"progress\":{\"read\":5}}' >&5; sleep 0.02; done",
			-1, 300, NULL, NULL, &err),
		-ETIMEDOUT);
	/* Slow is not stuck. */
	assert_int_equal(
		run_script(
			"for i in 1 2 3 4 5; do echo \"{\\\"progress\\\":{\\\"read\\\":$i}}\" >&5\n"
			"sleep 0.15; done; echo '{\"result\":{\"size\":1}}' >&5",
			-1, 500, NULL, NULL, &err),
		0);
}

/* A program that speaks on the layers' socket. */
#define ASKING                                                                                     \
	"exec /usr/bin/python3 -c 'import socket, struct, sys, os, time, array\n"                  \
	"s = socket.socket(fileno=3)\n"                                                            \
	"def ask(what, layer): s.send(struct.pack(\"<IIq\", what, layer, 0))\n"                    \
	"def tell(): return s.recv(4096)\n"                                                        \
	"def say(text): os.write(5, text.encode() + b\"\\n\")\n"
#define RESULT "say(\"{\\\"result\\\":{\\\"size\\\":1}}\")\n"

static const struct {
	const char *body;
	int errnum;
	const char *message;
} askers[] = {
	{ASKING "ask(1, 0)\nassert len(tell()) == 328\nask(1, 1)\ntell()\nask(1, "
		"0)\ntell()\n" RESULT "'",
		0, NULL},
	{ASKING "ask(1, 2)\ntell()'", EIO, "asks for what there is not (layer 2)"},
	{ASKING "ask(1, 4000000000)\ntell()'", EIO, "asks for what there is not"},
	{ASKING "ask(2, 0)\ntell()'", EIO, "asks for what there is not"},
	{ASKING "ask(7, 0)\ntell()'", EIO, "asks for what there is not"},
	{ASKING "ask(1, 0)\ntell()\nask(2, 1)\ntell()'", EIO, "asks for what there is not"},
	/* What is no message ends the talk, not the daemon's patience. */
	{ASKING "s.send(b\"x\")\nassert tell() == b\"\"\n" RESULT "'", 0, NULL},
	{ASKING "s.send(b\"x\" * 5000)\nassert tell() == b\"\"\n" RESULT "'", 0, NULL},
	{ASKING "s.close()\n" RESULT "'", 0, NULL},
	/* All is there, so that it waits for more is its own fault. */
	{ASKING "ask(1, 0)\ntell()\nask(2, 0)\ntime.sleep(60)'", ETIMEDOUT,
		"layer 1 of 2 (sha256:one): unpacking made no progress"},
	/* It asks and asks and never listens. */
	{ASKING "while True: ask(2 if time.time() % 2 else 1, 0)'", EIO, NULL},
};

static void asking(void **state)
{
	int blob = memfd_create("blob", MFD_CLOEXEC);
	const struct unpack_layer layers[] = {
		{.fd = blob, .size = 5, .digest = "sha256:one", NO_RECORDS},
		{.fd = blob, .size = 0, NO_RECORDS}};

	for (size_t i = 0; i < ELEMENTSOF(askers); i++) {
		struct banger_error err;
		int r = run_script_with(
			askers[i].body, -1, 700, layers, ELEMENTSOF(layers), NULL, NULL, &err);
		if ((askers[i].message || !askers[i].errnum) && r != -askers[i].errnum)
			fail_msg("asker %zu: %d, \"%s\"", i, r, err.message);
		if (askers[i].message && !strstr(err.message, askers[i].message))
			fail_msg("asker %zu: \"%s\"", i, err.message);
	}
	close(blob);
}

static void bad_layers(void **state)
{
	char long_text[500];
	struct banger_error err;

	memset(long_text, 'x', sizeof(long_text) - 1);
	long_text[sizeof(long_text) - 1] = '\0';
	const struct unpack_layer bad[] = {{.fd = 0, .size = -1, NO_RECORDS},
		{.digest = long_text, NO_RECORDS}, {.diff_id = long_text, NO_RECORDS},
		{.compression = "bzip2-or-so", NO_RECORDS}};
	for (size_t i = 0; i < ELEMENTSOF(bad); i++)
		assert_true(run_script_with("exit 0", -1, 0, &bad[i], 1, NULL, NULL, &err) < 0);
	/* A record only where all layers below come as records. */
	const struct unpack_layer order[] = {
		{.fd = 1, NO_RECORDS}, {.fd = -1, .record_in_fd = 1, .record_out_fd = -1}};
	assert_int_equal(run_script_with("exit 0", -1, 0, order, 2, NULL, NULL, &err), -EIO);
}

/* 0 is a descriptor like any other: a daemon may have been started without a standard input. */
static void zero(void **state)
{
	struct banger_error err;
	int blob = memfd_create("blob", MFD_CLOEXEC), saved = fcntl(0, F_DUPFD_CLOEXEC, 10);
	const struct unpack_layer with_record = {
		.fd = blob, .size = 5, .record_in_fd = -1, .record_out_fd = 0};
	const struct unpack_layer from_zero = {.fd = 0, .size = 5, NO_RECORDS};

	assert_int_equal(dup2(blob, 0), 0);
	assert_int_equal(
		run_script_with(ASKING
			"ask(1, 0)\n"
			"assert struct.unpack_from(\"<I\", tell(), 24)[0] == 3\n" RESULT "'",
			-1, 5000, &with_record, 1, NULL, NULL, &err),
		0);
	assert_int_equal(
		run_script_with(ASKING
			"ask(1, 0)\n"
			"assert struct.unpack_from(\"<I\", tell(), 24)[0] == 1\n" RESULT "'",
			-1, 5000, &from_zero, 1, NULL, NULL, &err),
		0);
	assert_int_equal(dup2(saved, 0), 0);
	close(saved);
	close(blob);
}

static void *cancel_soon(void *arg)
{
	usleep(100000);
	(void)!write(*(int *)arg, &(uint64_t){1}, 8);
	return NULL;
}

static void cancelled(void **state)
{
	struct banger_error err;
	pthread_t t;
	uint64_t count;
	int fd = eventfd(0, EFD_CLOEXEC);

	assert_int_equal(pthread_create(&t, NULL, cancel_soon, &fd), 0);
	assert_int_equal(run_script("exec sleep 100", fd, 0, NULL, NULL, &err), -ECANCELED);
	pthread_join(t, NULL);
	/* Cancelled before it began. */
	assert_int_equal(run_script("exec sleep 100", fd, 0, NULL, NULL, &err), -ECANCELED);
	/* One that has closed its side and does not end. */
	assert_int_equal(read(fd, &count, sizeof(count)), sizeof(count));
	int64_t began = banger_monotonic_us();
	assert_int_equal(pthread_create(&t, NULL, cancel_soon, &fd), 0);
	assert_int_equal(
		run_script("exec sleep 100 5>&- 2>&-", fd, 0, NULL, NULL, &err), -ECANCELED);
	assert_true(banger_monotonic_us() - began < 5000000);
	pthread_join(t, NULL);
	close(fd);
}

static void missing(void **state)
{
	struct banger_config none = {.libexec_dir = (char *)"/nonexistent"};
	const struct unpack_options o = {.tar_fd = 0,
		.out_fd = 1,
		.cancel_fd = -1,
		.notify_fd = -1,
		.from_fd = -1,
		.keep_fd = -1,
		.work_seed_fd = -1};
	struct banger_error err = {0};

	assert_int_equal(unpack_run(&none, &o, NULL, &err), -ENOENT);
	assert_non_null(strstr(err.message, "banger-unpack"));
}

/* The descriptors given in each other's places, and the real program. */
static void the_real_one(void **state)
{
	static const char header[512] = "name";
	char block[512] = {0};
	struct banger_error err = {0};
	struct stat st;

	assert_int_equal(unpack_flatten(&real, -1, -1, -1, 0, &err), -EBADF);
	int tar = memfd_create("tar", MFD_CLOEXEC), out = memfd_create("image", MFD_CLOEXEC);
	assert_int_equal(write(tar, header, 512), 512);
	assert_int_equal(lseek(tar, 0, SEEK_SET), 0);
	assert_int_equal(unpack_flatten(&real, -1, tar, out, 0, &err), -EINVAL);
	assert_string_equal(err.message, "not a tar archive");

	assert_int_equal(ftruncate(tar, 0), 0);
	assert_int_equal(lseek(tar, 0, SEEK_SET), 0);
	assert_int_equal(write(tar, block, 512), 512);
	assert_int_equal(lseek(tar, 0, SEEK_SET), 0);
	int high_tar = fcntl(tar, F_DUPFD_CLOEXEC, 30), high_out = fcntl(out, F_DUPFD_CLOEXEC, 30);
	assert_int_equal(dup2(high_out, 3), 3);
	assert_int_equal(dup2(high_tar, 4), 4);
	assert_int_equal(unpack_flatten(&real, -1, 4, 3, 0, &err), 0);
	assert_int_equal(fstat(3, &st), 0);
	assert_true(st.st_size > 1 << 20);
	close(3);
	close(4);
	close(high_tar);
	close(high_out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(results), cmocka_unit_test(environment),
		cmocka_unit_test(bad), cmocka_unit_test(stalls), cmocka_unit_test(asking),
		cmocka_unit_test(bad_layers), cmocka_unit_test(zero), cmocka_unit_test(cancelled),
		cmocka_unit_test(missing), cmocka_unit_test(the_real_one)};
	return cmocka_run_group_tests(tests, setup, teardown);
}
