/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A start of the service over rows that an earlier one left, with a driver whose VMMs are processes that sleep: which
 * are found, which have failed, what becomes of one that does not answer, and of one that ends later.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <banger/log.h>
#include "vm/internal.h"

/* ---- a driver */

struct vmm_control {
	int fd[2];
	vmm_event *event;
	void *arg;
};
static enum vmm_status answer;
static int far_ends[64];
static size_t n_far_ends;
static bool silent;
static volatile bool unreachable;

static int fake_control_open(int dir_fd, int fd, vmm_event *event, void *arg,
	struct vmm_control **ret, struct banger_error *err)
{
	struct vmm_control *c = calloc(1, sizeof(*c));

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, c->fd), 0);
	c->event = event;
	c->arg = arg;
	*ret = c;
	return 0;
}

static int fake_control_fd(const struct vmm_control *c)
{
	return c->fd[0];
}

/* The other end says nothing while its VMM lives, so what is asked for at the end is an end. */
static int fake_control_read(struct vmm_control *c)
{
	return -EPIPE;
}

static void fake_control_close(struct vmm_control **c)
{
	if (!*c)
		return;
	close((*c)->fd[0]);
	close((*c)->fd[1]);
	free(*c);
	*c = NULL;
}

static int fake_status(struct vmm_control *c, enum vmm_status *ret, struct banger_error *err)
{
	if (silent)
		return banger_error_set(err, BANGER_TIMEOUT, "it does not answer");
	*ret = answer;
	return 0;
}

static int fake_port_open(int dir_fd, int *ret, struct banger_error *err)
{
	int s[2];

	if (unreachable)
		return banger_error_set(err, BANGER_UNAVAILABLE, "nobody listens");
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, s), 0);
	far_ends[n_far_ends] = s[1]; /* kept open: the VM's agent */
	__atomic_fetch_add(&n_far_ends, 1, __ATOMIC_SEQ_CST);
	*ret = s[0];
	return 0;
}

static int fake_version(
	const struct banger_config *config, char *buf, size_t size, struct banger_error *err)
{
	snprintf(buf, size, "1");
	return 0;
}

static const struct vmm_driver fake = {.name = "fake",
	.version = fake_version,
	.control_open = fake_control_open,
	.control_fd = fake_control_fd,
	.control_read = fake_control_read,
	.control_close = fake_control_close,
	.status = fake_status,
	.port_open = fake_port_open,
	.max_cpus = 1,
	.arch = "amd64"};

/* ---- the fixture */

struct fixture {
	char dir[64], helper[96];
	int dir_fd;
	struct banger_config config;
	struct store *store;
	struct publication_lock *publication;
	struct vm_service *service;
	pid_t child;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	strcpy(f->dir, "/tmp/banger-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->helper, sizeof(f->helper), "%s/none", f->dir);
	f->config = (struct banger_config){
		.state_dir = f->dir, .helper_socket = f->helper, .accel = (char *)"tcg"};
	f->dir_fd = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(store_open(f->dir_fd, f->dir, &f->store, NULL), 0);
	assert_int_equal(publication_lock_new(&f->publication), 0);
	answer = VMM_IS_RUNNING;
	silent = false;
	*state = f;
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	vm_service_freep(&f->service);
	store_closep(&f->store);
	publication_lock_freep(&f->publication);
	while (n_far_ends > 0)
		close(far_ends[--n_far_ends]);
	close(f->dir_fd);
	nftw(f->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	if (f->child > 0) {
		kill(f->child, SIGKILL);
		waitpid(f->child, NULL, 0);
	}
	free(f);
	return 0;
}

static void begin(struct fixture *f)
{
	const struct vm_service_deps deps = {.config = &f->config,
		.state_dir_fd = f->dir_fd,
		.store = f->store,
		.publication = f->publication,
		.driver = &fake};
	struct banger_error err = {0};

	assert_int_equal(vm_service_new(&deps, &f->service, &err), 0);
	if (vm_service_recover(f->service, &err) < 0)
		fail_msg("%s", err.message);
}

static pid_t sleeper(struct fixture *f)
{
	f->child = fork();
	if (f->child == 0) {
		execlp("sleep", "sleep", "1000", NULL);
		_exit(127);
	}
	return f->child;
}

/* A row, and a directory with the console's FIFOs, as a VM that ran has them. */
static void leave(struct fixture *f, enum banger_vm_state state, pid_t pid, int64_t start)
{
	struct banger_vm row = {.id = "0123456789abcdef",
		.name = "web",
		.state = state,
		.image_id = "1111111111111111",
		.kernel_id = "2222222222222222",
		.image = "i",
		.kernel = "k",
		.accel = "tcg",
		.pid = pid,
		.pid_start = start};
	char path[128];
	const char *const fifos[] = {VMM_CONSOLE_IN, VMM_CONSOLE_OUT};

	recover_boot_id(row.boot_id);
	assert_int_equal(store_vm_put(f->store, &row, NULL, NULL), 0);
	mkdirat(f->dir_fd, "vms", 0700);
	assert_int_equal(mkdirat(f->dir_fd, "vms/0123456789abcdef", 0700), 0);
	for (size_t i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "vms/0123456789abcdef/%s", fifos[i]);
		assert_int_equal(mkfifoat(f->dir_fd, path, 0600), 0);
	}
	int fd = openat(f->dir_fd, "vms/0123456789abcdef/console.log", O_WRONLY | O_CREAT, 0600);
	assert_int_equal(write(fd, "last words\n", 11), 11);
	close(fd);
}

static void expect(struct fixture *f, enum banger_vm_state state, const char *failure)
{
	_cleanup_(store_view_closep) struct store_view *view = NULL;
	_cleanup_vm_ struct banger_vm row = {0}, stored = {0};

	assert_int_equal(vm_service_find(f->service, "web", &row, NULL), 0);
	assert_string_equal(banger_vm_state_name(row.state), banger_vm_state_name(state));
	assert_true(!row.failure == !failure);
	if (failure && !strstr(row.failure, failure))
		fail_msg("no \"%s\" in \"%s\"", failure, row.failure);
	assert_int_equal(row.pid != 0, vm_state_has_vmm(state));
	assert_int_equal(store_view_open(f->store, &view, NULL), 0);
	assert_int_equal(store_view_next_vm(view, NULL, &stored, NULL), 1);
	assert_int_equal(stored.state, state);
	assert_int_equal(stored.generation, row.generation);
}

static void wait_for(struct fixture *f, enum banger_vm_state state)
{
	for (int i = 0; i < 500; i++) {
		_cleanup_vm_ struct banger_vm row = {0};

		assert_int_equal(vm_service_find(f->service, "web", &row, NULL), 0);
		if (row.state == state)
			return;
		usleep(10000);
	}
	fail_msg("it is not %s", banger_vm_state_name(state));
}

/* ---- */

static void found(void **state)
{
	struct fixture *f = *state;
	pid_t pid = sleeper(f);

	leave(f, BANGER_VM_STARTING, pid, recover_start_time(pid));
	begin(f);
	expect(f, BANGER_VM_RUNNING, NULL);
	assert_int_equal(vm_service_running(f->service), 1);
	assert_int_equal(vm_service_image_in_use(f->service, "1111111111111111", NULL), -EBUSY);
	/* It is let go of, and found again. */
	vm_service_freep(&f->service);
	assert_int_equal(kill(pid, 0), 0);
	begin(f);
	expect(f, BANGER_VM_RUNNING, NULL);
	/* Then it dies. */
	kill(pid, SIGKILL);
	wait_for(f, BANGER_VM_FAILED);
	expect(f, BANGER_VM_FAILED, "last words");
	assert_int_equal(vm_service_running(f->service), 0);
}

static void found_paused(void **state)
{
	struct fixture *f = *state;
	pid_t pid = sleeper(f);

	answer = VMM_IS_PAUSED;
	leave(f, BANGER_VM_PAUSED, pid, recover_start_time(pid));
	begin(f);
	expect(f, BANGER_VM_PAUSED, NULL);
}

static void silent_one(void **state)
{
	struct fixture *f = *state;
	pid_t pid = sleeper(f);
	int status;

	silent = true;
	leave(f, BANGER_VM_RUNNING, pid, recover_start_time(pid));
	begin(f);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	f->child = 0;
	assert_int_equal(WTERMSIG(status), SIGKILL);
	wait_for(f, BANGER_VM_FAILED);
	expect(f, BANGER_VM_FAILED, "did not answer");
}

static void dead(void **state)
{
	struct fixture *f = *state;
	pid_t pid = sleeper(f);
	int64_t start = recover_start_time(pid);

	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	f->child = 0;
	leave(f, BANGER_VM_RUNNING, pid, start);
	begin(f);
	expect(f, BANGER_VM_FAILED, "last words");
}

/* The pid is another process's, which is left alone. */
static void another_process(void **state)
{
	struct fixture *f = *state;
	pid_t pid = sleeper(f);

	leave(f, BANGER_VM_RUNNING, pid, recover_start_time(pid) - 1);
	begin(f);
	expect(f, BANGER_VM_FAILED, "ended while bangerd was not running");
	assert_int_equal(waitpid(pid, NULL, WNOHANG), 0);
}

static void no_directory(void **state)
{
	struct fixture *f = *state;

	leave(f, BANGER_VM_STOPPED, 0, 0);
	assert_int_equal(
		renameat(f->dir_fd, "vms/0123456789abcdef", f->dir_fd, "vms/somethingelse"), 0);
	begin(f);
	expect(f, BANGER_VM_FAILED, "its directory is gone");
	/* What has no row has gone, too. */
	assert_int_equal(faccessat(f->dir_fd, "vms/somethingelse", F_OK, 0), -1);
}

static size_t ports_opened(void)
{
	return __atomic_load_n(&n_far_ends, __ATOMIC_SEQ_CST);
}

/* An agent that goes away while its VMM lives is asked again, after a while where it cannot be reached, and not for ever. */
static void agent_goes_away(void **state)
{
	struct fixture *f = *state;
	pid_t pid = sleeper(f);
	size_t most = 0;

	leave(f, BANGER_VM_RUNNING, pid, recover_start_time(pid));
	begin(f);
	assert_int_equal(ports_opened(), 1);
	unreachable = true;
	shutdown(far_ends[0], SHUT_RDWR);
	usleep(300000);
	assert_int_equal(ports_opened(), 1);
	unreachable = false;
	for (int i = 0; i < 2000 && most < 16; i++) {
		size_t n = ports_opened();

		if (n > most)
			shutdown(far_ends[n - 1], SHUT_RDWR);
		most = n;
		usleep(10000);
	}
	assert_int_equal(most, 16);
	usleep(300000);
	assert_int_equal(ports_opened(), 16);
	expect(f, BANGER_VM_RUNNING, NULL);
	kill(pid, SIGKILL);
	wait_for(f, BANGER_VM_FAILED);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {T(found), T(found_paused), T(silent_one), T(dead),
		T(another_process), T(no_directory), T(agent_goes_away)};
	banger_log_init("test");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
