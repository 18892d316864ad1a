/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registry of a test. Everything in it lives under one temporary directory that teardown
 * removes; a test that fails in between leaves its directory to be looked at.
 */
#include "fixture.h"
#include <sys/wait.h>
#include <time.h>

static char image_path[64];

static void remove_image(void)
{
	if (image_path[0])
		unlink(image_path);
}

static int run(const char *command)
{
	int status = system(command);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

const char *sound_image(void)
{
	char command[256];

	if (image_path[0])
		return image_path;
	strcpy(image_path, "/tmp/banger-test-image-XXXXXX");
	int fd = mkstemp(image_path);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 8 << 20), 0);
	close(fd);
	atexit(remove_image);
	snprintf(command, sizeof(command),
		"PATH=$PATH:/usr/sbin:/sbin mke2fs -q -F -t ext4 -L test %s", image_path);
	assert_int_equal(run(command), 0);
	return image_path;
}

static struct banger_actor test_actor(void)
{
	return (struct banger_actor){.uid = getuid(),
		.gid = getgid(),
		.pid = getpid(),
		.program = "test",
		.door = "rpc"};
}

static int begin(struct fixture *f, const char *method, struct operation **ret)
{
	struct banger_actor actor = test_actor();

	f->err = (struct banger_error){0};
	return operation_begin(f->operations, OPERATION_CHANGE, method, banger_op_id_mint().s,
		&actor, NULL, ret, &f->err);
}

static int end(struct fixture *f, struct operation *op, int r)
{
	operation_end(op, r < 0 ? &f->err : NULL);
	return r;
}

int fixture_start(struct fixture *f)
{
	f->err = (struct banger_error){0};
	int r = store_open(f->dir_fd, f->dir, &f->store, &f->err);
	if (r < 0)
		return r;
	assert_int_equal(hub_new(&f->hub), 0);
	assert_int_equal(hub_subscribe(f->hub, HUB_REGISTRY, NULL, &f->events), 0);
	assert_int_equal(operations_new(f->store, f->hub, 100, &f->operations, &f->err), 0);
	assert_int_equal(publication_lock_new(&f->publication), 0);
	f->deps.config = &f->config;
	f->deps.store = f->store;
	f->deps.operations = f->operations;
	f->deps.publication = f->publication;
	f->deps.hub = f->hub;
	f->deps.state_dir_fd = f->dir_fd;
	r = image_service_new(&f->deps, &f->service, &f->err);
	return r < 0 ? r : image_service_recover(f->service, &f->err);
}

void fixture_stop(struct fixture *f)
{
	image_service_freep(&f->service);
	f->service = NULL;
	operations_freep(&f->operations);
	f->operations = NULL;
	publication_lock_freep(&f->publication);
	f->publication = NULL;
	hub_unsubscribep(&f->events);
	f->events = NULL;
	hub_freep(&f->hub);
	f->hub = NULL;
	store_closep(&f->store);
	f->store = NULL;
}

int fixture_setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	if (!f)
		return -1;
	setenv("BANGER_LOG_LEVEL", "error", 0);
	banger_log_init("test");
	strcpy(f->dir, "/tmp/banger-test-XXXXXX");
	if (!mkdtemp(f->dir))
		return -1;
	f->dir_fd = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	f->config.lock_wait_ms = 100;
	*state = f;
	assert_ok(f, fixture_start(f));
	return 0;
}

int fixture_teardown(void **state)
{
	struct fixture *f = *state;
	char command[128];

	fixture_stop(f);
	close(f->dir_fd);
	snprintf(command, sizeof(command), "rm -rf %s", f->dir);
	int r = run(command);
	free(f);
	return r;
}

/* ---- calls */

#define CALL(f, method, call)                                                                      \
	({                                                                                         \
		struct operation *op;                                                              \
		int _r = begin(f, method, &op);                                                    \
		_r < 0 ? _r : end(f, op, call);                                                    \
	})

static void give(struct banger_image *from, struct banger_image *to)
{
	if (to)
		*to = *from;
	else
		banger_image_done(from);
}

int do_register(struct fixture *f, const char *name, struct banger_image *ret)
{
	struct banger_image i = {0};
	int r = CALL(f, "image.register",
		image_service_register(f->service, op, name, NULL, &i, &f->err));
	give(&i, ret);
	return r;
}

int do_promote(struct fixture *f, const char *draft, const char *name, struct banger_image *ret)
{
	struct banger_image i = {0};
	int r = CALL(f, "image.promote",
		image_service_promote(f->service, op, draft, name, &i, &f->err));
	give(&i, ret);
	return r;
}

int do_rename(struct fixture *f, const char *image, const char *name, struct banger_image *ret)
{
	struct banger_image i = {0};
	int r = CALL(
		f, "image.rename", image_service_rename(f->service, op, image, name, &i, &f->err));
	give(&i, ret);
	return r;
}

int do_swap(struct fixture *f, const char *a, const char *b)
{
	struct banger_image both[2] = {{{0}}};
	int r = CALL(f, "image.swap", image_service_swap(f->service, op, a, b, both, &f->err));
	banger_image_done(&both[0]);
	banger_image_done(&both[1]);
	return r;
}

int do_delete(struct fixture *f, const char *image)
{
	struct banger_image i = {0};
	int r = CALL(f, "image.delete", image_service_delete(f->service, op, image, &i, &f->err));
	banger_image_done(&i);
	return r;
}

int do_import(struct fixture *f, const struct image_import *in, struct banger_image *ret)
{
	struct banger_image i = {0};
	int r = CALL(f, "image.import", image_service_import(f->service, op, in, &i, &f->err));
	give(&i, ret);
	return r;
}

int do_pull(struct fixture *f, const struct image_pull *in, struct banger_image *ret)
{
	struct banger_image i = {0};
	int r = CALL(f, "image.pull", image_service_pull(f->service, op, in, &i, &f->err));
	give(&i, ret);
	return r;
}

int do_configure(struct fixture *f, const char *draft, const char *json, struct banger_image *ret)
{
	_cleanup_json_ struct json_object *o = json_tokener_parse(json);
	struct banger_image i = {0};
	int r = CALL(f, "image.configure",
		image_service_configure(f->service, op, draft, o, &i, &f->err));
	give(&i, ret);
	return r;
}

int do_verify(struct fixture *f, const char *image, struct image_verdict *ret)
{
	return CALL(f, "image.verify", image_service_verify(f->service, op, image, ret, &f->err));
}

int do_find(struct fixture *f, const char *word, struct banger_image *ret)
{
	struct banger_image i = {0};
	int r = CALL(f, "image.show", image_service_find(f->service, word, -1, &i, &f->err));
	give(&i, ret);
	return r;
}

/* ---- files */

const char *path(struct fixture *f, const char *fmt, ...)
{
	static _Thread_local char bufs[4][256];
	static _Thread_local unsigned next;
	char *buf = bufs[next++ % 4];
	va_list ap;

	size_t n = (size_t)snprintf(buf, sizeof(bufs[0]), "%s/", f->dir);
	va_start(ap, fmt);
	vsnprintf(buf + n, sizeof(bufs[0]) - n, fmt, ap);
	va_end(ap);
	return buf;
}

void put_file(struct fixture *f, const char *id, const char *file, const char *text)
{
	const struct draft_open o = {
		.id = id, .file = file, .write = true, .create = true, .trunc = true, .mode = 0640};
	int fd = -1;

	assert_ok(f, image_service_draft_open(f->service, &o, &fd, &f->err));
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

void copy_file(const char *from, const char *to)
{
	char buf[65536];
	int in = open(from, O_RDONLY | O_CLOEXEC);
	int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	ssize_t n;

	assert_true(in >= 0 && out >= 0);
	while ((n = read(in, buf, sizeof(buf))) > 0)
		assert_int_equal(write(out, buf, (size_t)n), n);
	close(in);
	close(out);
}

void put_rootfs(struct fixture *f, const char *id)
{
	copy_file(sound_image(), path(f, "drafts/%s/" ROOTFS, id));
}

void make_draft(struct fixture *f, const char *name, char ret_id[BANGER_ID_LEN + 1])
{
	_cleanup_image_ struct banger_image i = {0};
	assert_ok(f, do_register(f, name, &i));
	strcpy(ret_id, i.id);
	put_rootfs(f, i.id);
}

void make_image(struct fixture *f, const char *name, char ret_id[BANGER_ID_LEN + 1])
{
	char draft[BANGER_NAME_MAX + 1];
	snprintf(draft, sizeof(draft), "drafts/%s", name);
	make_draft(f, name, ret_id);
	assert_ok(f, do_promote(f, draft, NULL, NULL));
}

bool exists(const char *p)
{
	struct stat st;
	return lstat(p, &st) == 0;
}

mode_t mode_of(const char *p)
{
	struct stat st;
	assert_int_equal(lstat(p, &st), 0);
	return st.st_mode & 07777;
}

int count_dir(const char *p)
{
	_cleanup_closedir_ DIR *d = opendir(p);
	struct dirent *de;
	int n = 0;

	while (d && (de = readdir(d)))
		n += !image_is_dots(de->d_name);
	return n;
}

void wait_trash(struct fixture *f)
{
	for (int i = 0; i < 500 && image_service_trash(f->service) > 0; i++)
		nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
	assert_int_equal(image_service_trash(f->service), 0);
	assert_int_equal(count_dir(path(f, "trash")), 0);
}

static void print_one(void *arg, const char *what)
{
	if (getenv("BANGER_TEST_VERBOSE"))
		print_message("disagreement: %s\n", what);
}

int disagreements(struct fixture *f)
{
	int n = image_service_check(f->service, print_one, NULL, &f->err);
	assert_ok(f, n);
	return n;
}

struct json_object *next_event(struct fixture *f)
{
	_cleanup_free_ char *line = NULL;
	size_t len;

	return hub_take(f->events, &line, &len) == 1 ? json_tokener_parse(line) : NULL;
}
