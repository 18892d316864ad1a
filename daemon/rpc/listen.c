/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The socket's file. Who may open it decides who may talk to the daemon at all, so it never exists
 * with wider rights than it is to have: it is made under another name in the same directory, given
 * its group and mode, listened on, and only then renamed into place, which also replaces a stale
 * one in one step. A socket that somebody answers on is left alone.
 */
#include "rpc/internal.h"
#include <fcntl.h>
#include <grp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#define BACKLOG 1024

static int fill_address(const char *path, struct sockaddr_un *sun, struct banger_error *err)
{
	*sun = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof(sun->sun_path))
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"the socket's path is longer than %zu bytes: %s", sizeof(sun->sun_path) - 1,
			path);
	strcpy(sun->sun_path, path);
	return 0;
}

/* 0 when the path is free or holds a socket that nobody listens on. */
static int check_stale(const char *path, struct banger_error *err)
{
	_cleanup_close_ int fd = -1;
	struct sockaddr_un sun;
	struct stat st;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : banger_error_set_errno(err, errno, "%s", path);
	if (!S_ISSOCK(st.st_mode))
		return banger_error_set(
			err, BANGER_EXISTS, "%s is in the way: it is not a socket", path);
	int r = fill_address(path, &sun, err);
	if (r < 0)
		return r;
	/* Not blocking: a listener whose queue is full is one too. */
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return banger_error_set_errno(err, errno, "cannot make a socket");
	if (connect(fd, (struct sockaddr *)&sun, sizeof(sun)) < 0 && errno == ECONNREFUSED)
		return 0;
	return banger_error_set(err, BANGER_BUSY, "another daemon listens on %s", path);
}

static int group_id(const char *name, gid_t *ret, struct banger_error *err)
{
	struct group g, *found = NULL;
	char buf[16384];

	int e = getgrnam_r(name, &g, buf, sizeof(buf), &found);
	if (!found && e != 0)
		return banger_error_set_errno(err, e, "group \"%s\"", name);
	if (!found)
		return banger_error_set(
			err, BANGER_NOT_FOUND, "there is no group \"%s\" for the socket", name);
	*ret = found->gr_gid;
	return 0;
}

static int set_access(const char *path, const char *group, struct banger_error *err)
{
	gid_t gid = -1;
	int r = group ? group_id(group, &gid, err) : 0;

	if (r < 0)
		return r;
	if (group && lchown(path, -1, gid) < 0)
		return banger_error_set_errno(
			err, errno, "cannot give the socket to the group \"%s\"", group);
	if (chmod(path, group ? 0660 : 0600) < 0)
		return banger_error_set_errno(err, errno, "cannot set the mode of %s", path);
	return 0;
}

/* Bind and listen at `path`, ready for use. */
static int make_socket(
	const char *path, const char *group, int *ret, struct stat *st, struct banger_error *err)
{
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un sun;

	int r = fill_address(path, &sun, err);
	if (r < 0)
		return r;
	if (fd < 0)
		return banger_error_set_errno(err, errno, "cannot make a socket");
	/* The file takes its mode from the socket; umask() would be the whole process's. */
	if (fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&sun, sizeof(sun)) < 0)
		return banger_error_set_errno(err, errno, "cannot make the socket %s", path);
	r = set_access(path, group, err);
	if (r == 0 && listen(fd, BACKLOG) < 0)
		r = banger_error_set_errno(err, errno, "cannot listen on %s", path);
	if (r == 0 && lstat(path, st) < 0)
		r = banger_error_set_errno(err, errno, "%s", path);
	if (r < 0) {
		unlink(path);
		return r;
	}
	*ret = TAKE_FD(fd);
	return 0;
}

int listen_open(struct rpc_server *s, struct banger_error *err)
{
	_cleanup_free_ char *temporary = NULL;
	struct sockaddr_un sun;
	struct stat st;

	int r = fill_address(s->path, &sun, err);
	if (r == 0)
		r = check_stale(s->path, err);
	if (r < 0)
		return r;
	/* Beside it and no longer than it, for the sake of the limit: its last character replaced.
	 */
	temporary = strdup(s->path);
	if (!temporary)
		return banger_error_oom(err);
	char *last = temporary + strlen(temporary) - 1;
	*last = *last == '~' ? '_' : '~';
	unlink(temporary); /* of a start that was interrupted here */
	r = make_socket(temporary, s->options.group, &s->listen_fd, &st, err);
	if (r < 0)
		return r;
	if (rename(temporary, s->path) < 0) {
		r = banger_error_set_errno(err, errno, "cannot make the socket %s", s->path);
		unlink(temporary);
		banger_closep(&s->listen_fd);
		s->listen_fd = -1;
		return r;
	}
	s->dev = st.st_dev;
	s->ino = st.st_ino;
	return 0;
}

void listen_close(struct rpc_server *s)
{
	struct stat st;

	if (s->listen_fd < 0)
		return;
	if (lstat(s->path, &st) == 0 && st.st_dev == s->dev && st.st_ino == s->ino)
		unlink(s->path);
	close(TAKE_FD(s->listen_fd));
}
