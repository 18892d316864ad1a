/* SPDX-License-Identifier: Apache-2.0 */
#include "fixture.h"

#include <banger/log.h>
#include <fcntl.h>
#include <ftw.h>
#include <string.h>
#include <sys/stat.h>

static void start(struct fixture *f)
{
	assert_int_equal(store_open(f->dir_fd, f->dir, &f->store, &f->err), 0);
	assert_int_equal(hub_new(&f->hub), 0);
	assert_int_equal(hub_subscribe(f->hub, HUB_REGISTRY, NULL, &f->events), 0);
	assert_int_equal(operations_new(f->store, f->hub, 100, &f->operations, &f->err), 0);
	assert_int_equal(publication_lock_new(&f->publication), 0);
	const struct kernel_service_deps deps = {f->store, f->publication, f->hub, f->dir_fd};
	assert_int_equal(kernel_service_new(&deps, &f->service, &f->err), 0);
	assert_int_equal(kernel_service_recover(f->service, &f->err), 0);
}

static void stop(struct fixture *f)
{
	kernel_service_freep(&f->service);
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

void fixture_restart(struct fixture *f)
{
	stop(f);
	start(f);
}

int fixture_setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	assert_non_null(f);
	setenv("BANGER_LOG_LEVEL", "err", 0);
	banger_log_init("test");
	strcpy(f->dir, "/tmp/banger-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	f->dir_fd = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	start(f);
	*state = f;
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return type == FTW_DP ? rmdir(path) : unlink(path);
}

int fixture_teardown(void **state)
{
	struct fixture *f = *state;
	stop(f);
	close(f->dir_fd);
	int r = nftw(f->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	free(f);
	return r;
}

static struct operation *begin(struct fixture *f, const char *method)
{
	struct banger_actor actor = {
		.uid = getuid(), .pid = getpid(), .program = "test", .door = "rpc"};
	struct operation *op;
	f->err = (struct banger_error){0};
	assert_int_equal(operation_begin(f->operations, OPERATION_CHANGE, method,
				 banger_op_id_mint().s, &actor, NULL, &op, &f->err),
		0);
	return op;
}

static int end(struct fixture *f, struct operation *op, int r)
{
	operation_end(op, r < 0 ? &f->err : NULL);
	return r;
}

int import_bytes(struct fixture *f, const char *name, const char *format, const struct bytes *b,
	struct banger_kernel *ret)
{
	struct operation *op = begin(f, "kernel.import");
	_cleanup_close_ int fd = make_file(b);
	const struct kernel_import in = {
		.name = name, .format = format, .source = "a test", .fd = fd};
	return end(f, op, kernel_service_import(f->service, op, &in, ret, &f->err));
}

int delete_kernel(struct fixture *f, const char *word)
{
	_cleanup_kernel_ struct banger_kernel k = {0};
	struct operation *op = begin(f, "kernel.delete");
	return end(f, op, kernel_service_delete(f->service, op, word, &k, &f->err));
}

char *next_event(struct fixture *f)
{
	char *text;
	size_t n;
	int r = hub_take(f->events, &text, &n);
	assert_true(r >= 0);
	return r ? text : strdup("");
}

int entries(struct fixture *f)
{
	_cleanup_closedir_ DIR *d =
		fdopendir(openat(f->dir_fd, "kernels", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	int n = 0;
	while (readdir(d))
		n++;
	return n - 2;
}

bool has_file(struct fixture *f, const struct banger_kernel *k, const char *file)
{
	char path[512];
	snprintf(path, sizeof(path), "kernels/%s/%s", k->id, file);
	return faccessat(f->dir_fd, path, F_OK, 0) == 0;
}
