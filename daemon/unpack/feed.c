/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The program reads one layer at a time and asks for each, so there is little to remember: which
 * one, and how much of it the program knows to be there. News of a growing blob are sent when the
 * program waits for them, or when there are so many that it need not ask; most arrivals of data
 * cause no message at all.
 */
#include "unpack/feed.h"

#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include "unpack/program/protocol.h"

#define NEWS (1 << 20) /* bytes that the program is told of without asking */

size_t feed_replayed(const struct unpack_options *o)
{
	size_t n = 0;

	while (n < o->n_layers && o->layers[n].record_in_fd >= 0)
		n++;
	return n;
}

static int check_string(
	const char *s, size_t room, const char *what, size_t i, struct banger_error *err)
{
	return !s || strlen(s) < room
		       ? 0
		       : banger_error_set(err, BANGER_BAD_REQUEST,
				 "layer %zu has a %s of %zu bytes", i + 1, what, strlen(s));
}

static int check_layers(const struct unpack_options *o, struct banger_error *err)
{
	const struct unpack_tell *t = NULL;
	size_t replayed = feed_replayed(o);

	if (o->n_layers > UNPACK_LAYERS_MAX)
		return banger_error_set(err, BANGER_TOO_LARGE,
			"the image has %zu layers, more than %d", o->n_layers, UNPACK_LAYERS_MAX);
	for (size_t i = 0; i < o->n_layers; i++) {
		const struct unpack_layer *l = &o->layers[i];
		int r = check_string(l->digest, sizeof(t->digest), "digest", i, err);
		if (r == 0)
			r = check_string(l->diff_id, sizeof(t->diff_id), "diff_id", i, err);
		if (r == 0)
			r = check_string(
				l->compression, sizeof(t->compression), "compression", i, err);
		if (r < 0)
			return r;
		if (l->size < 0 || (i >= replayed && l->record_in_fd >= 0))
			return banger_error_set(err, BANGER_INTERNAL,
				"layer %zu cannot be handed over like that", i + 1);
	}
	return 0;
}

int feed_init(
	struct feed *f, const struct unpack_options *o, int *ret_end, struct banger_error *err)
{
	int ends[2];

	*f = (struct feed){.o = o, .fd = -1};
	int r = check_layers(o, err);
	if (r < 0)
		return r;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return banger_error_set_errno(err, errno, "cannot make a socket");
	f->fd = ends[0];
	*ret_end = ends[1];
	return 0;
}

void feed_done(struct feed *f)
{
	banger_closep(&f->fd);
	f->fd = -1;
}

static const struct unpack_layer *present(const struct feed *f)
{
	return &f->o->layers[f->layer];
}

int feed_notify_fd(const struct feed *f)
{
	bool wanted = f->fd >= 0 && f->any && f->o->notify_fd >= 0 && f->told < present(f)->size;

	return wanted ? f->o->notify_fd : -1;
}

short feed_events(const struct feed *f)
{
	return f->owed ? POLLIN | POLLOUT : POLLIN;
}

bool feed_starved(const struct feed *f)
{
	return f->any && f->more && f->told < present(f)->size;
}

/* ---- saying */

/* Returns 1, or 0 when there is no room now, or no peer: its end is seen elsewhere. */
static int say(struct feed *f, const struct unpack_tell *t, const int *fds, size_t n,
	struct banger_error *err)
{
	struct iovec iov = {(void *)t, sizeof(*t)};
	union {
		char bytes[CMSG_SPACE(UNPACK_WITH_MAX * sizeof(int))];
		struct cmsghdr align;
	} control = {{0}};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

	if (n > 0) {
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(n * sizeof(int));
		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(n * sizeof(int));
		memcpy(CMSG_DATA(c), fds, n * sizeof(int));
	}
	ssize_t done = sendmsg(f->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (done >= 0)
		return 1;
	if (errno == EAGAIN || errno == EINTR || errno == EPIPE || errno == ECONNRESET)
		return 0;
	return banger_error_set_errno(err, errno, "cannot hand over a layer");
}

static void copy_string(char *to, const char *s)
{
	if (s)
		strcpy(to, s); /* check_layers() */
}

static int64_t available(const struct feed *f, struct banger_error *err)
{
	const struct unpack_layer *l = present(f);
	int64_t n = f->o->available ? f->o->available(f->o->arg, f->layer, err) : l->size;

	return n < l->size ? n : l->size;
}

static int say_layer(struct feed *f, struct banger_error *err)
{
	const struct unpack_layer *l = present(f);
	struct unpack_tell t = {.what = TELL_LAYER, .layer = f->layer};
	int fds[UNPACK_WITH_MAX];
	size_t n = 0;

	copy_string(t.digest, l->digest);
	copy_string(t.diff_id, l->diff_id);
	copy_string(t.compression, l->compression);
	if (l->record_in_fd >= 0) {
		t.with = UNPACK_WITH_RECORD;
		fds[n++] = l->record_in_fd;
	} else {
		t.size = l->size;
		t.available = available(f, err);
		if (t.available < 0)
			return -banger_code_errno(err->code);
		t.with = UNPACK_WITH_BLOB;
		fds[n++] = l->fd;
		if (l->record_out_fd >= 0) {
			t.with |= UNPACK_WITH_RECORD;
			fds[n++] = l->record_out_fd;
		}
	}
	int r = say(f, &t, fds, n, err);
	f->owed = r == 0;
	/* Of a layer that comes as a record nothing is to follow. */
	if (r > 0)
		f->told = t.with & UNPACK_WITH_BLOB ? t.available : l->size;
	return r < 0 ? r : 0;
}

static int say_more(struct feed *f, struct banger_error *err)
{
	struct unpack_tell t = {.what = TELL_MORE, .layer = f->layer, .size = present(f)->size};
	int64_t n = available(f, err);

	if (n < 0)
		return -banger_code_errno(err->code);
	if (n <= f->told || (!f->more && n < t.size && n - f->told < NEWS))
		return 0;
	t.available = n;
	/* When there is no room the program has enough to hear, and will ask. */
	int r = say(f, &t, NULL, 0, err);
	if (r > 0) {
		f->told = n;
		f->more = false;
	}
	return r < 0 ? r : 0;
}

/* ---- hearing */

static int answer(struct feed *f, const struct unpack_ask *a, struct banger_error *err)
{
	bool known = a->layer < f->o->n_layers;

	if (a->what == ASK_LAYER && known && !f->owed) {
		f->layer = a->layer;
		f->any = true;
		f->more = false;
		f->told = 0;
		return say_layer(f, err);
	}
	if (a->what == ASK_MORE && known && f->any && a->layer == f->layer) {
		f->more = true;
		return f->owed ? 0 : say_more(f, err);
	}
	return banger_error_set(err, BANGER_INTERNAL,
		"banger-unpack asks for what there is not (layer %u)", a->layer);
}

int feed_socket(struct feed *f, struct banger_error *err)
{
	struct unpack_ask a;

	if (f->owed) {
		int r = say_layer(f, err);
		if (r < 0)
			return r;
	}
	ssize_t n = recv(f->fd, &a, sizeof(a), MSG_DONTWAIT | MSG_TRUNC);
	if (n == sizeof(a))
		return answer(f, &a, err);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	/* It ended, which is told by its other descriptor; or it says what is no message. */
	feed_done(f);
	return 0;
}

int feed_notified(struct feed *f, struct banger_error *err)
{
	uint64_t count;

	(void)!read(f->o->notify_fd, &count, sizeof(count));
	return f->owed ? 0 : say_more(f, err);
}
