/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A VM's console for somebody who watches: what is in its log, and what is added. The log is written by the VM's
 * machine (console.c) and read here as any other file, so that any number may follow it, and one who is slow holds up
 * nobody. inotify tells that it has grown, was cut, or was touched because the VM ended.
 *
 * The client's descriptors are shared with others: their flags are left alone, and they are touched when poll(2) says so.
 */
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/inotify.h>
#include <banger/log.h>
#include "vm/internal.h"

#define PIECE 65536

struct follow {
	struct vm *vm;
	int log_fd, in_fd, out_fd, cancel_fd, console_fd, notify_fd;
	int64_t offset;
};

static void follow_done(struct follow *f)
{
	banger_closep(&f->log_fd);
	banger_closep(&f->console_fd);
	banger_closep(&f->notify_fd);
}

static int cancelled(struct banger_error *err)
{
	return banger_error_set(err, BANGER_CANCELLED, "cancelled");
}

/* 1: written; 0: nobody reads any more. */
static int put(struct follow *f, const char *p, size_t n, struct banger_error *err)
{
	while (n > 0) {
		struct pollfd fds[] = {{f->out_fd, POLLOUT, 0}, {f->cancel_fd, POLLIN, 0}};

		if (poll(fds, 2, -1) < 0)
			continue;
		if (fds[1].revents)
			return cancelled(err);
		ssize_t w = write(f->out_fd, p, n < PIPE_BUF ? n : PIPE_BUF);
		if (w < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (w < 0)
			return errno == EPIPE ? 0
					      : banger_error_set_errno(err, errno,
							"cannot write the VM's console");
		p += w;
		n -= w;
	}
	return 1;
}

/* Where the last `lines` lines begin. */
static int64_t find_lines(int fd, int64_t lines)
{
	struct stat st;
	char piece[4096];

	if (fstat(fd, &st) < 0 || lines < 0)
		return 0;
	int64_t at = st.st_size;
	if (lines == 0)
		return at;
	while (at > 0) {
		size_t want = at < (int64_t)sizeof(piece) ? (size_t)at : sizeof(piece);
		if (pread(fd, piece, want, at - (int64_t)want) != (ssize_t)want)
			return 0;
		for (size_t i = want; i > 0; i--)
			if (piece[i - 1] == '\n' && at - (int64_t)(want - i) < st.st_size &&
				lines-- <= 1)
				return at - (int64_t)(want - i);
		at -= (int64_t)want;
	}
	return 0;
}

/* Give what is there. 1: go on; 0: nobody reads. */
static int give(struct follow *f, struct banger_error *err)
{
	_cleanup_free_ char *piece = malloc(PIECE);
	struct stat st;
	int r = 1;

	if (!piece)
		return banger_error_oom(err);
	if (fstat(f->log_fd, &st) == 0 && st.st_size < f->offset)
		f->offset = 0; /* it was cut */
	while (r == 1) {
		ssize_t n = pread(f->log_fd, piece, PIECE, f->offset);
		if (n <= 0)
			return n < 0 ? banger_error_set_errno(
					       err, errno, "cannot read the VM's console")
				     : 1;
		f->offset += n;
		r = put(f, piece, n, err);
	}
	return r;
}

/* What is typed goes to the console, as much of it as that takes. */
static void type(struct follow *f)
{
	char keys[1024];
	ssize_t n = read(f->in_fd, keys, sizeof(keys));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0)
		f->in_fd = -1;
	else if (write(f->console_fd, keys, n) != n)
		log_debug("the VM's console takes no more input", KV_S("vm", f->vm->name));
}

static int wait_more(struct follow *f, struct banger_error *err)
{
	char events[4096];
	struct pollfd fds[] = {{f->notify_fd, POLLIN, 0}, {f->cancel_fd, POLLIN, 0},
		{f->in_fd, POLLIN, 0}, {f->out_fd, 0, 0}};

	if (poll(fds, ELEMENTSOF(fds), -1) < 0)
		return 1;
	if (fds[1].revents)
		return cancelled(err);
	if (fds[3].revents & (POLLERR | POLLHUP | POLLNVAL))
		return 0;
	if (fds[2].revents)
		type(f);
	if (fds[0].revents)
		while (read(f->notify_fd, events, sizeof(events)) > 0)
			;
	return 1;
}

static int open_follow(struct follow *f, struct banger_error *err)
{
	char path[64];

	f->notify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", f->log_fd);
	if (f->notify_fd < 0 || inotify_add_watch(f->notify_fd, path, IN_MODIFY | IN_ATTRIB) < 0)
		return banger_error_set_errno(err, errno, "cannot follow the VM's console");
	if (f->in_fd < 0)
		return 0;
	f->console_fd =
		openat(f->vm->dir_fd, VMM_CONSOLE_IN, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
	return f->console_fd < 0
		       ? banger_error_set_errno(err, errno, "cannot open the VM's console")
		       : 0;
}

static int follow(struct follow *f, struct banger_error *err)
{
	int r = open_follow(f, err);

	for (r = r < 0 ? r : 1; r == 1;) {
		/* In this order: what it said last is in the log before it has no machine. */
		bool over = !vm_state_has_vmm(vm_state(f->vm));
		r = give(f, err);
		if (r == 1 && over)
			return 0;
		if (r == 1)
			r = wait_more(f, err);
	}
	return r;
}

int vm_service_console(struct vm_service *s, struct operation *op, const char *word, int64_t lines,
	bool follows, int in_fd, int out_fd, struct banger_error *err)
{
	_cleanup_(follow_done) struct follow f = {.in_fd = in_fd,
		.out_fd = out_fd,
		.cancel_fd = operation_cancel_fd(op),
		.log_fd = -1,
		.console_fd = -1,
		.notify_fd = -1};
	_cleanup_vmref_ struct vm *vm = NULL;

	int r = vm_find(s, word, &vm, err);
	if (r < 0)
		return r;
	f.vm = vm;
	f.log_fd = openat(vm->dir_fd, "console.log", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (f.log_fd < 0 && errno == ENOENT)
		return 0; /* it never ran */
	if (f.log_fd < 0)
		return banger_error_set_errno(err, errno, "cannot read the VM's console");
	f.offset = find_lines(f.log_fd, lines);
	r = follows ? follow(&f, err) : give(&f, err);
	return r < 0 ? r : 0;
}
