/* SPDX-License-Identifier: Apache-2.0 */
/* The console's log and summary, and the counter's rate. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include <banger/log.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include "vm/console.h"
#include "vm/tsc.h"

struct fixture {
	char dir[64];
	int dir_fd, out;
	struct console *console;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	int p[2];
	strcpy(f->dir, "/tmp/banger-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	f->dir_fd = open(f->dir, O_RDONLY | O_DIRECTORY);
	assert_int_equal(pipe(p), 0);
	f->out = p[1];
	assert_int_equal(console_new(f->dir_fd, "console.log", p[0], &f->console, NULL), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	console_freep(&f->console);
	banger_closep(&f->out);
	unlinkat(f->dir_fd, "console.log", 0);
	close(f->dir_fd);
	int r = rmdir(f->dir);
	free(f);
	return r;
}

static void say(struct fixture *f, const char *text)
{
	assert_int_equal(write(f->out, text, strlen(text)), (ssize_t)strlen(text));
	console_read(f->console);
}

static void panic_comes_first(void **state)
{
	struct fixture *f = *state;
	char said[512];
	console_summary(f->console, said, sizeof(said));
	assert_string_equal(said, "");
	say(f, "[    0.1] one\r\n\n[    0.2] two\r\n\033[0m[   12.345678] Kernel panic - not "
	       "syncing: No working init\r\n");
	say(f, "[    1.3] three\r\n   \r\n[    1.4] ---[ end ]---\r\n[nostamp] five\n");
	console_summary(f->console, said, sizeof(said));
	assert_string_equal(said, "Kernel panic - not syncing: No working init | two | three | "
				  "---[ end ]--- | [nostamp] five");
	char small[24];
	console_summary(f->console, small, sizeof(small));
	assert_int_equal(strlen(small), sizeof(small) - 1);
}

/* A guest that writes without end: the file stays bounded and has whole lines up to the last; so has the summary. */
static void a_flood_is_bounded(void **state)
{
	struct fixture *f = *state;
	char line[64], said[512];
	struct stat st;
	for (int i = 0; i < 100000; i++) {
		snprintf(line, sizeof(line), "line %06d of a flood\n", i);
		say(f, line);
	}
	console_summary(f->console, said, sizeof(said));
	assert_non_null(strstr(said, "line 099999 of a flood"));
	assert_int_equal(fstatat(f->dir_fd, "console.log", &st, 0), 0);
	assert_in_range(st.st_size, 512 * 1024 - 64, 1024 * 1024);
	int fd = openat(f->dir_fd, "console.log", O_RDONLY);
	assert_int_equal(pread(fd, line, 5, 0), 5);
	assert_memory_equal(line, "line ", 5);
	assert_int_equal(pread(fd, line, 23, st.st_size - 23), 23);
	assert_memory_equal(line, "line 099999 of a flood\n", 23);
	close(fd);
}

/* A later daemon goes on with the log, and knows what was said last. */
static void taken_up_again(void **state)
{
	struct fixture *f = *state;
	char said[512];
	int p[2];

	say(f, "said before\n");
	console_freep(&f->console);
	assert_int_equal(pipe(p), 0);
	assert_int_equal(console_new(f->dir_fd, "console.log", p[0], &f->console, NULL), 0);
	close(f->out);
	f->out = p[1];
	console_recall(f->console);
	say(f, "said after\n");
	console_summary(f->console, said, sizeof(said));
	assert_string_equal(said, "said before | said after");
}

static void binary_and_the_end(void **state)
{
	struct fixture *f = *state;
	char bytes[5000], said[2048];
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (char)i;
	assert_int_equal(write(f->out, bytes, sizeof(bytes)), sizeof(bytes));
	console_read(f->console);
	console_summary(f->console, said, sizeof(said));
	for (const char *p = said; *p; p++)
		assert_true(*p >= ' ' && *p < 0x7f);
	assert_true(console_fd(f->console) >= 0);
	close(f->out);
	f->out = -1;
	console_read(f->console);
	assert_int_equal(console_fd(f->console), -1);
}

/* Two measurements agree to a thousandth, and a second is long enough to see that they are right. */
static void the_counter_is_measured(void **state)
{
	int64_t first = tsc_khz(), second;
	struct timespec half = {.tv_nsec = 200000000};
	if (first == 0)
		skip();
	nanosleep(&half, NULL);
	second = tsc_khz();
	assert_true(first > 100000 && first < 20000000);
	assert_true(llabs((long long)(first - second)) < first / 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(panic_comes_first, setup, teardown),
		cmocka_unit_test_setup_teardown(a_flood_is_bounded, setup, teardown),
		cmocka_unit_test_setup_teardown(taken_up_again, setup, teardown),
		cmocka_unit_test_setup_teardown(binary_and_the_end, setup, teardown),
		cmocka_unit_test(the_counter_is_measured),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
