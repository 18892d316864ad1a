/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One layer is open at a time, so the number of layers costs no descriptors. A blob may still be
 * coming: its file is read as far as the daemon says that it is there, and no further, and when all
 * of that is read the daemon is told, so that it does not take waiting for standing still.
 *
 * Blobs that were just downloaded are not in the page cache, because they are written around it;
 * they are read around it too. Then positions and lengths are multiples of 4096 until the end.
 */
#include "unpack/program/layers.h"

#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "unpack/program/protocol.h"

#define UNIT 4096

static int ask(struct layers *l, enum unpack_what what, uint32_t layer, struct banger_error *err)
{
	const struct unpack_ask a = {.what = what, .layer = layer, .position = l->at};
	ssize_t n;

	do
		n = write(l->control_fd, &a, sizeof(a));
	while (n < 0 && errno == EINTR);
	return n == sizeof(a) ? 0
			      : banger_error_set_errno(err, n < 0 ? errno : EPROTO,
					"cannot ask the daemon for a layer");
}

static int bad_message(struct banger_error *err)
{
	return banger_error_set(err, BANGER_INTERNAL, "a message that is none from the daemon");
}

/* Takes the descriptors out of a message: at most UNPACK_WITH_MAX, those missing are -1. */
static size_t take_fds(struct msghdr *msg, int fds[UNPACK_WITH_MAX])
{
	size_t n = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		size_t have = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < have && n < UNPACK_WITH_MAX; i++)
			memcpy(&fds[n++], CMSG_DATA(c) + i * sizeof(int), sizeof(int));
	}
	return n;
}

/* Returns 1 with a message, 0 when there is none and it may not wait, -ECANCELED to stop. */
static int receive(struct layers *l, int stop_fd, bool wait, struct unpack_tell *t,
	int fds[UNPACK_WITH_MAX], size_t *ret_fds, struct banger_error *err)
{
	struct iovec iov = {t, sizeof(*t)};
	union {
		char bytes[CMSG_SPACE(UNPACK_WITH_MAX * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct msghdr msg = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control)};

	if (wait) {
		struct pollfd p[2] = {
			{.fd = l->control_fd, .events = POLLIN}, {.fd = stop_fd, .events = POLLIN}};
		while (poll(p, 2, -1) < 0)
			if (errno != EINTR)
				return banger_error_set_errno(
					err, errno, "cannot wait for the daemon");
		if (p[1].revents)
			return -ECANCELED;
	}
	ssize_t n = recvmsg(l->control_fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n < 0)
		return banger_error_set_errno(err, errno, "cannot hear the daemon");
	*ret_fds = take_fds(&msg, fds);
	if (n == 0)
		return banger_error_set(err, BANGER_INTERNAL, "the daemon is gone");
	t->digest[sizeof(t->digest) - 1] = t->diff_id[sizeof(t->diff_id) - 1] = '\0';
	t->compression[sizeof(t->compression) - 1] = '\0';
	return n == sizeof(*t) && !(msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) ? 1
									      : bad_message(err);
}

static bool sizes_ok(const struct unpack_tell *t)
{
	return t->size >= 0 && t->available >= 0 && t->available <= t->size;
}

/* Opens the layer that a message has brought. */
static int open_layer(struct layers *l, const struct unpack_tell *t, const int *fds, size_t n,
	struct stream_blob *ret, struct banger_error *err)
{
	size_t i = 0;

	if (!sizes_ok(t) || n != (size_t)__builtin_popcount(t->with))
		return bad_message(err);
	*ret = (struct stream_blob){.number = t->layer, .record_fd = -1};
	strcpy(ret->digest, t->digest);
	strcpy(ret->diff_id, t->diff_id);
	strcpy(ret->compression, t->compression);
	if (t->with & UNPACK_WITH_BLOB)
		l->fd = fds[i++];
	if (t->with & UNPACK_WITH_RECORD)
		ret->record_fd = fds[i++];
	l->size = t->size;
	l->available = t->available;
	l->at = 0;
	l->direct = false;
	int flags = l->fd < 0 ? -1 : fcntl(l->fd, F_GETFL);
	if (flags >= 0)
		l->direct = fcntl(l->fd, F_SETFL, flags | O_DIRECT) == 0;
	l->next++;
	return 1;
}

int layers_next(void *arg, int stop_fd, struct stream_blob *ret, struct banger_error *err)
{
	struct layers *l = arg;
	struct unpack_tell t;
	int fds[UNPACK_WITH_MAX];
	size_t n = 0;

	if (l->fd >= 0)
		close(TAKE_FD(l->fd));
	if (l->next == l->total)
		return 0;
	int r = ask(l, ASK_LAYER, l->next, err);
	while (r == 0) {
		r = receive(l, stop_fd, true, &t, fds, &n, err);
		/* What is still said of the layer before. */
		if (r > 0 && t.what == TELL_MORE && n == 0)
			r = 0;
	}
	if (r < 0)
		return r;
	if (t.what != TELL_LAYER || t.layer != l->next)
		return bad_message(err);
	return open_layer(l, &t, fds, n, ret, err);
}

/* Hears what is said of the present layer; waits for something if wait is set. */
static int hear(struct layers *l, int stop_fd, bool wait, struct banger_error *err)
{
	struct unpack_tell t;
	int fds[UNPACK_WITH_MAX], r;
	size_t n = 0;

	while ((r = receive(l, stop_fd, wait, &t, fds, &n, err)) > 0) {
		if (t.what != TELL_MORE || n > 0 || !sizes_ok(&t))
			return bad_message(err);
		if (t.layer != l->next - 1)
			continue;
		if (t.size != l->size || t.available < l->available)
			return bad_message(err);
		l->available = t.available;
		wait = false;
	}
	return r;
}

/* How much can be read at the present position. */
static int64_t readable(const struct layers *l)
{
	int64_t to = l->available;

	if (l->direct && to < l->size)
		to -= to % UNIT;
	return to > l->at ? to - l->at : 0;
}

static int await_more(struct layers *l, int stop_fd, struct banger_error *err)
{
	int r = hear(l, stop_fd, false, err);

	while (r == 0 && readable(l) == 0) {
		r = ask(l, ASK_MORE, l->next - 1, err);
		if (r == 0)
			r = hear(l, stop_fd, true, err);
	}
	return r;
}

static void end_direct(struct layers *l)
{
	int flags = fcntl(l->fd, F_GETFL);

	l->direct = false;
	if (flags >= 0)
		(void)fcntl(l->fd, F_SETFL, flags & ~O_DIRECT);
}

ssize_t layers_read(void *arg, int stop_fd, uint8_t *to, size_t len, struct banger_error *err)
{
	struct layers *l = arg;

	if (l->at == l->size)
		return 0;
	if (l->fd < 0)
		return bad_message(err);
	if (l->direct && (l->at % UNIT || len % UNIT))
		end_direct(l);
	if (readable(l) == 0) {
		int r = await_more(l, stop_fd, err);
		if (r < 0)
			return r;
	}
	for (int tries = 0;;) {
		int64_t can = readable(l);
		size_t want = can < (int64_t)len ? (size_t)can : len;
		/* The file's end comes in the midst of the last unit. */
		size_t ask_for = l->direct ? (want + UNIT - 1) / UNIT * UNIT : want;
		ssize_t n = pread(l->fd, to, ask_for, l->at);
		if (n < 0 && errno == EINTR)
			continue;
		/* The file cannot be read like that; or another process set O_DIRECT again. */
		if (n < 0 && errno == EINVAL && tries++ < 8) {
			end_direct(l);
			continue;
		}
		if (n < 0)
			return banger_error_set_errno(err, errno, "cannot read the blob");
		if (n == 0)
			return banger_error_set(err, BANGER_INTERNAL,
				"the blob's file ends at byte %lld of %lld", (long long)l->at,
				(long long)l->size);
		n = (size_t)n < want ? n : (ssize_t)want;
		l->at += n;
		return n;
	}
}
