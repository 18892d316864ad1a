/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The path is a stranger's, and opening it may block for ever. One such path is in everybody's
 * reach: the registry's own mount. The kernel holds images/ locked while it waits for the rename
 * that promotes, and a walk through images/ for a name that it has not cached waits for that lock:
 * the promotion would wait for itself. So a thread of its own does the opening. If it does not come
 * back in time the promotion fails, which ends what it waited for; the thread then closes what it
 * got and goes.
 */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include "image/reference.h"

/* Shared by the thread and the one who waits; the last of the two frees it. */
struct opening {
	atomic_int holders;
	int done_fd; /* readable once the result is there */
	int result;  /* a descriptor or -errno */
	bool wrong_kind;
	char target[];
};

static void opening_drop(struct opening *o)
{
	if (atomic_fetch_sub(&o->holders, 1) > 1)
		return;
	banger_closep(&o->result);
	banger_closep(&o->done_fd);
	free(o);
}

static void opening_dropp(struct opening **o)
{
	if (*o)
		opening_drop(*o);
}

/* First without effect, for opening a device or a FIFO does things. */
static int open_target(struct opening *o)
{
	struct open_how how = {.flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_NO_MAGICLINKS};
	struct stat st;
	char path[64];

	_cleanup_close_ int at = (int)syscall(SYS_openat2, AT_FDCWD, o->target, &how, sizeof(how));
	if (at < 0 || fstat(at, &st) < 0)
		return -errno;
	o->wrong_kind = !S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode);
	if (o->wrong_kind)
		return -EINVAL;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", at);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static void *opening_thread(void *arg)
{
	struct opening *o = arg;
	o->result = open_target(o);
	(void)eventfd_write(o->done_fd, 1);
	opening_drop(o);
	return NULL;
}

static int start(const char *target, struct opening **ret)
{
	pthread_attr_t attr;
	pthread_t thread;
	sigset_t all, saved;
	_cleanup_(opening_dropp) struct opening *o = malloc(sizeof(*o) + strlen(target) + 1);

	if (!o)
		return -ENOMEM;
	*o = (struct opening){.holders = 1, .result = -1};
	strcpy(o->target, target);
	o->done_fd = eventfd(0, EFD_CLOEXEC);
	if (o->done_fd < 0)
		return -errno;
	atomic_store(&o->holders, 2);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved);
	int r = pthread_create(&thread, &attr, opening_thread, o);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
	pthread_attr_destroy(&attr);
	if (r) {
		atomic_store(&o->holders, 1);
		return -r;
	}
	*ret = TAKE_PTR(o);
	return 0;
}

/* 1 it is there, 0 time is over, or an error. */
static int wait_for(
	const struct opening *o, int64_t wait_ms, struct operation *op, struct banger_error *err)
{
	struct pollfd fds[] = {{.fd = o->done_fd, .events = POLLIN},
		{.fd = operation_cancel_fd(op), .events = POLLIN}};
	int n;

	do
		n = poll(fds, ELEMENTSOF(fds), (int)wait_ms);
	while (n < 0 && errno == EINTR);
	int r = operation_check_cancelled(op, err);
	if (r < 0)
		return r;
	eventfd_t value;
	return n > 0 && (fds[0].revents & POLLIN) && eventfd_read(o->done_fd, &value) == 0;
}

int reference_open(const char *target, const char *what, int64_t wait_ms, struct operation *op,
	int *ret_fd, struct banger_error *err)
{
	_cleanup_(opening_dropp) struct opening *o = NULL;

	int r = start(target, &o);
	if (r < 0)
		return banger_error_set_errno(err, r, "opening \"%s\"", target);
	r = wait_for(o, wait_ms, op, err);
	if (r < 0)
		return r;
	if (r == 0)
		return banger_error_set(err, BANGER_TIMEOUT,
			"%s points to \"%s\", which could not be opened in %lld ms (a path into "
			"the "
			"registry's own mount cannot be, while it is busy with this)",
			what, target, (long long)wait_ms);
	if (o->result >= 0) {
		*ret_fd = TAKE_FD(o->result);
		return 0;
	}
	if (o->wrong_kind)
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"%s points to \"%s\", which is neither a regular file nor a block device",
			what, target);
	if (o->result == -ENOENT)
		return banger_error_set(err, BANGER_INCOMPLETE,
			"%s points to \"%s\", which does not exist", what, target);
	return banger_error_set_errno(
		err, o->result, "%s points to \"%s\", which cannot be opened", what, target);
}

int reference_size(int fd, int64_t *ret)
{
	struct stat st;
	uint64_t bytes = 0;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (S_ISBLK(st.st_mode) && ioctl(fd, BLKGETSIZE64, &bytes) < 0)
		return -errno;
	*ret = S_ISBLK(st.st_mode) ? (int64_t)bytes : st.st_size;
	return 0;
}
