/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sources of imports. A file's own descriptor goes to the daemon, which reads it directly: not a
 * byte passes through here. A directory is made into a tar stream (tree.c) while the daemon reads
 * it.
 *
 * When both ends of a stream fail, the tree's reason comes first: the daemon then only saw a stream
 * that broke off. When the tree says EPIPE, the daemon stopped reading, and the reason is the
 * daemon's.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include "source.h"

static int open_stdin(struct ctl *c, struct source *s, struct banger_error *err)
{
	if (isatty(STDIN_FILENO))
		return ctl_usage(
			c, err, "standard input is a terminal: \"-\" reads what is piped in");
	s->fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
	return s->fd < 0 ? banger_error_set_errno(err, errno, "cannot read standard input") : 0;
}

static int open_path(
	struct source *s, const char *path, bool one_filesystem, struct banger_error *err)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return banger_error_set_errno(err, errno, "cannot open %s", path);
	s->origin = realpath(path, NULL);
	if (S_ISDIR(st.st_mode))
		return tree_stream_start(TAKE_FD(fd), path, one_filesystem, &s->tree, &s->fd, err);
	if (!S_ISREG(st.st_mode) && !S_ISFIFO(st.st_mode))
		return banger_error_set(
			err, BANGER_BAD_REQUEST, "%s is neither a file nor a directory", path);
	s->fd = TAKE_FD(fd);
	return 0;
}

int source_open(struct ctl *c, const char *path, bool or_stdin, bool one_filesystem,
	struct source *ret, struct banger_error *err)
{
	*ret = (struct source){.fd = -1};
	if (or_stdin && strcmp(path, "-") == 0)
		return open_stdin(c, ret, err);
	int r = open_path(ret, path, one_filesystem, err);
	if (r < 0)
		free(TAKE_PTR(ret->origin));
	return r;
}

/* Let go of the stream's end, so that its thread ends, and take the thread's verdict. */
static int finish(struct source *s, int r, struct banger_error *err)
{
	struct banger_error why = {0};
	size_t skipped = 0;

	banger_closep(&s->fd);
	s->fd = -1;
	if (s->tree) {
		skipped = tree_stream_skipped(s->tree);
		int t = tree_stream_finish(&s->tree, &why);
		if (t < 0 && t != -EPIPE) {
			r = t;
			if (err)
				*err = why;
		}
	}
	free(TAKE_PTR(s->origin));
	if (r == 0 && skipped > 0)
		ctl_say("left out %zu socket%s, which no archive can hold", skipped,
			skipped == 1 ? "" : "s");
	return r;
}

void source_done(struct source *s)
{
	(void)finish(s, -ECANCELED, NULL);
}

int source_import(struct ctl *c, struct source *s, const char *name, const char *method,
	struct json_object *params, struct json_object **ret, struct banger_error *err)
{
	_cleanup_json_ struct json_object *owned = params, *result = NULL;
	_cleanup_free_ char *what = NULL;
	struct ctl_work work = {.done = s->tree ? tree_stream_bytes(s->tree) : NULL};
	int r = 0;

	if (asprintf(&what, "importing %s", name) < 0)
		what = NULL;
	work.what = what;
	/* A path that is not UTF-8 cannot travel as JSON, and is only for people. */
	if (s->origin && banger_utf8_valid(s->origin, strlen(s->origin)))
		r = banger_json_add_str(owned, "source", s->origin);
	r = r < 0 ? banger_error_oom(err)
		  : ctl_call_long(c, &work, method, TAKE_PTR(owned), &s->fd, 1, &result, err);
	r = finish(s, r, err);
	if (r == 0)
		*ret = TAKE_PTR(result);
	return r;
}
