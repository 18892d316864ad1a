/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Death at every fault point. A child works through a script of all changes and is killed at its
 * n-th passage of any point, for every n there is; the parent starts the registry again and must
 * find it as it was after the last answered change or after the next, to the mode of every file,
 * with nothing left over. Recovery itself is killed on the way as well. Needs a build with
 * -Dfault_points=true.
 */
#include "fixture.h"
#include <sys/wait.h>

#ifdef BANGER_FAULT_POINTS

enum { STEPS_MAX = 16, SNAPSHOT = 4096 };

/* ---- what the registry looks like */

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int add_file(void *arg, const char *name, const struct stat *st)
{
	char *text = arg;
	size_t n = strlen(text);
	snprintf(text + n, 512 - n, " %s:%o:%lld", name, st->st_mode, (long long)st->st_size);
	return 0;
}

/* One line for each image: state, name, configuration, digest, and its files. */
static void snapshot(struct fixture *f, char out[SNAPSHOT])
{
	_cleanup_(store_view_closep) struct store_view *view = NULL;
	char after[BANGER_ID_LEN + 1] = "", *lines[16];
	struct banger_image i = {0};
	size_t n = 0;

	assert_ok(f, store_view_open(f->store, &view, &f->err));
	while (store_view_next_image(view, -1, after[0] ? after : NULL, &i, &f->err) > 0) {
		lines[n] = calloc(1, 512);
		snprintf(lines[n], 512, "%d %s %s %.12s", i.state, i.name, i.config ?: "-",
			i.digest);
		assert_ok(f, image_service_files(f->service, &i, add_file, lines[n++], &f->err));
		strcpy(after, i.id);
		banger_image_done(&i);
	}
	qsort(lines, n, sizeof(*lines), by_text);
	out[0] = 0;
	for (size_t k = 0; k < n; k++) {
		snprintf(out + strlen(out), SNAPSHOT - strlen(out), "%s\n", lines[k]);
		free(lines[k]);
	}
}

/* ---- the script */

static void draft_id(struct fixture *f, const char *name, char ret[BANGER_ID_LEN + 1])
{
	_cleanup_image_ struct banger_image i = {0};
	assert_ok(f, do_find(f, name, &i));
	strcpy(ret, i.id);
}

static void step(struct fixture *f, int n)
{
	char id[BANGER_ID_LEN + 1];
	struct image_import in = {.name = "nimported", .format = "raw"};

	switch (n) {
	case 0:
		assert_ok(f, do_register(f, "na", NULL));
		return;
	case 1:
		draft_id(f, "na", id);
		put_file(f, id, "README", "hello");
		put_rootfs(f, id);
		assert_ok(f, do_configure(f, "na", "{\"user\":\"x\"}", NULL));
		return;
	case 2:
		assert_ok(f, do_promote(f, "na", NULL, NULL));
		return;
	case 3:
		assert_ok(f, do_register(f, "nb", NULL));
		return;
	case 4:
		draft_id(f, "nb", id);
		put_file(f, id, "README", "hello");
		assert_ok(f, image_service_draft_symlink(
				     f->service, id, ROOTFS, sound_image(), &f->err));
		assert_ok(f, image_service_draft_symlink(
				     f->service, id, "kernel", "/etc/passwd", &f->err));
		assert_ok(f, do_rename(f, "nb", "nx", NULL));
		return;
	case 5:
		assert_ok(f, do_promote(f, "nx", "ny", NULL));
		return;
	case 6:
		assert_ok(f, do_swap(f, "na", "ny"));
		return;
	case 7:
		in.fd = open(sound_image(), O_RDONLY | O_CLOEXEC);
		assert_ok(f, do_import(f, &in, NULL));
		close(in.fd);
		return;
	case 8:
		assert_ok(f, do_delete(f, "images/na"));
		return;
	case 9:
		assert_ok(f, do_register(f, "nz", NULL));
		return;
	case 10:
		assert_ok(f, do_delete(f, "drafts/nz"));
		return;
	}
}
enum { STEPS = 11 };

static void run_script(const char *dir, int progress)
{
	struct fixture f = {.config.lock_wait_ms = 10000};

	strcpy(f.dir, dir);
	f.dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fixture_start(&f) < 0)
		_exit(3);
	for (int n = 0; n < STEPS; n++) {
		step(&f, n);
		if (write(progress, "x", 1) != 1)
			_exit(4);
	}
	_exit(0);
}

static void spawn(const char *dir, int fault, const char *log, int *ret_steps, bool *ret_killed)
{
	char text[32], buf[64];
	int ends[2], status;

	assert_int_equal(pipe(ends), 0);
	pid_t pid = fork();
	if (pid == 0) {
		snprintf(text, sizeof(text), "*:%d", fault);
		if (fault)
			setenv("BANGER_FAULT", text, 1);
		if (log)
			setenv("BANGER_FAULT_LOG", log, 1);
		run_script(dir, ends[1]);
	}
	close(ends[1]);
	*ret_steps = 0;
	for (ssize_t n; (n = read(ends[0], buf, sizeof(buf))) > 0;)
		*ret_steps += (int)n;
	close(ends[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	*ret_killed = WIFSIGNALED(status);
	if (!*ret_killed && WEXITSTATUS(status))
		print_error("the script exited with %d\n", WEXITSTATUS(status));
	assert_true(*ret_killed || WEXITSTATUS(status) == 0);
}

/* Starts in a child that is killed at its first point, if it passes any. */
static void die_in_recovery(const char *dir)
{
	pid_t pid = fork();
	if (pid == 0) {
		struct fixture f = {.config.lock_wait_ms = 10000};
		setenv("BANGER_FAULT", "*:1", 1);
		strcpy(f.dir, dir);
		f.dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		_exit(fixture_start(&f) < 0);
	}
	int status;
	waitpid(pid, &status, 0);
	assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
}

static void remove_dir(const char *dir)
{
	char command[128];
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	assert_int_equal(system(command), 0);
}

/* What the registry in `dir` is after a start. */
static void look(const char *dir, char out[SNAPSHOT])
{
	struct fixture f = {.config.lock_wait_ms = 10000};

	strcpy(f.dir, dir);
	f.dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_ok(&f, fixture_start(&f));
	snapshot(&f, out);
	assert_int_equal(disagreements(&f), 0);
	wait_trash(&f);
	assert_int_equal(count_dir(path(&f, "staging")), 0);
	fixture_stop(&f);
	close(f.dir_fd);
}

/* The snapshots that a run without faults goes through. */
static size_t all_states(char states[STEPS_MAX * 2][SNAPSHOT])
{
	struct fixture f = {.config.lock_wait_ms = 10000};
	size_t n = 0;

	strcpy(f.dir, "/tmp/banger-test-XXXXXX");
	assert_non_null(mkdtemp(f.dir));
	f.dir_fd = open(f.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_ok(&f, fixture_start(&f));
	snapshot(&f, states[n++]);
	for (int k = 0; k < STEPS; k++) {
		step(&f, k);
		snapshot(&f, states[n++]);
	}
	fixture_stop(&f);
	close(f.dir_fd);
	remove_dir(f.dir);
	return n;
}

/* Steps 1 and 4 put files before their change: what holds then is the old row with some of the
 * files. */
static bool is_between(const char *got, const char *before, const char *after, int steps)
{
	if (!strcmp(got, before) || !strcmp(got, after))
		return true;
	return (steps == 1 || steps == 4) && strlen(got) >= strlen(before);
}

static void dies_everywhere(void **state)
{
	static char states[STEPS_MAX * 2][SNAPSHOT], got[SNAPSHOT];
	char log[] = "/tmp/banger-test-points-XXXXXX", name[64], seen[128][64];
	size_t distinct = 0;
	bool killed = true;
	int points = 0;

	setenv("BANGER_LOG_LEVEL", "error", 0);
	banger_log_init("test");
	sound_image();
	size_t n_states = all_states(states);
	assert_int_equal(n_states, STEPS + 1);
	close(mkstemp(log));
	for (int fault = 1; killed; fault++) {
		char dir[] = "/tmp/banger-test-XXXXXX";
		int steps;
		assert_non_null(mkdtemp(dir));
		spawn(dir, fault, NULL, &steps, &killed);
		if (fault % 2)
			die_in_recovery(dir);
		look(dir, got);
		const char *after = states[steps < STEPS ? steps + 1 : STEPS];
		if (!is_between(got, states[steps], after, steps)) {
			print_error("point %d, step %d:\n%s--- is neither\n%s--- nor\n%s", fault,
				steps, got, states[steps], after);
			fail();
		}
		remove_dir(dir);
		points = fault;
	}
	/* Enough of them, and of different names. */
	char dir[] = "/tmp/banger-test-XXXXXX";
	int steps;
	assert_non_null(mkdtemp(dir));
	spawn(dir, 0, log, &steps, &killed);
	remove_dir(dir);
	FILE *list = fopen(log, "re");
	while (fgets(name, sizeof(name), list)) {
		size_t k = 0;
		name[strcspn(name, "\n")] = 0;
		while (k < distinct && strcmp(seen[k], name))
			k++;
		if (k == distinct && distinct < ELEMENTSOF(seen))
			snprintf(seen[distinct++], sizeof(seen[0]), "%s", name);
	}
	fclose(list);
	unlink(log);
	print_message("%d passages of %zu points\n", points - 1, distinct);
	assert_true(distinct >= 30);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(dies_everywhere)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void)
{
	return 77; /* skipped */
}

#endif
