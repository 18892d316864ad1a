/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files into a VM and out of it, by docker's rules:
 *
 *	DST is a directory        SRC goes into it under its own name, or what is in it if SRC ends in "/."
 *	DST is something else     a file takes its place; a directory does not
 *	DST is not there          SRC becomes it; the directory that is to hold it must be there
 *	"-"                       a tar stream, as it is
 *
 * What travels is a tar stream (vm.put, vm.get). What is at a place in the VM is found out by beginning to get it: the
 * first member says what it is, then the stream is let go. Links at a destination are followed by us, one by one; those
 * on the way to it are the VM's to follow.
 *
 * When both ends of a stream fail, what was wrong here comes first, because the other end then only saw a stream that
 * broke off; but a daemon that is gone, or that was told to stop, comes before everything.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <banger/methods.h>
#include "cmd_vm.h"
#include "text.h"
#include "tree.h"
#include "untar.h"
#include "vm_words.h"

#define LINKS_MAX 40

struct copy {
	struct ctl *c;
	char *vm;          /* its name or id, as typed */
	char *shown;       /* "copying web:/etc", for the progress line */
	bool keep, follow; /* --archive, --follow-link */
};

/* A path in a VM is below its root, with a slash or without. The caller frees. */
static int vm_path(struct ctl *c, const char *path, char **ret, struct banger_error *err)
{
	if (!*path)
		return ctl_usage(c, err, "a path in the VM is missing after \":\"");
	if (!banger_utf8_valid(path, strlen(path)))
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"the path \"%s\" is not UTF-8, and cannot be sent to the VM", path);
	int r = asprintf(ret, "%s%s", *path == '/' ? "" : "/", path);
	if (r < 0)
		*ret = NULL;
	return r < 0 ? banger_error_oom(err) : 0;
}

/* One transfer with the daemon's end of a stream. */
static int transfer(const struct copy *k, const char *method, const char *path, int fd,
	const struct ctl_work *work, struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = NULL, *result = NULL;

	int r = ctl_params(&params, err, "vm", k->vm, "path", path, NULL);
	return r < 0 ? r
		     : ctl_call_long(k->c, work, method, TAKE_PTR(params), &fd, 1, &result, err);
}

/* ---- what is at a place in the VM */

struct place {
	char *path;    /* without links at its end, if they were followed; owned */
	unsigned type; /* S_IFMT; 0: there is nothing */
	char *link;    /* where it leads; owned */
};

static void place_done(struct place *p)
{
	free(p->path);
	free(p->link);
	*p = (struct place){0};
}

static int look_at(const struct copy *k, struct place *p, struct banger_error *err)
{
	/* Its own op_id: it is not the copy that fails when there is nothing. */
	_cleanup_op_ banger_op_id saved = banger_op_enter(banger_op_id_mint().s);
	_cleanup_free_ char *name = vm_path_name(p->path);
	_cleanup_close_ int out = -1;
	const struct ctl_work work = {0};
	struct untar *u = NULL;
	struct banger_error unread;
	int ends[2];

	if (!name)
		return banger_error_oom(err);
	if (pipe2(ends, O_CLOEXEC) < 0)
		return banger_error_set_errno(err, errno, "cannot make a pipe");
	out = ends[1];
	const struct untar_options o = {.in = ends[0], .name = name};
	int r = untar_start(&o, &u, err);
	if (r < 0)
		return r;
	r = transfer(k, BANGER_METHOD_VM_GET, p->path, out, &work, err);
	close(TAKE_FD(out));
	untar_wait(u);
	p->type = untar_type(u);
	free(p->link);
	p->link = untar_link(u) ? strdup(untar_link(u)) : NULL;
	(void)untar_finish(&u, &unread);
	/* What was seen was there, however the rest of it went. */
	if (r == -ENOENT || (r < 0 && p->type && !k->c->unreachable && !k->c->signal))
		r = 0;
	return r;
}

/* Look, through links. */
static int resolve(const struct copy *k, struct place *p, struct banger_error *err)
{
	for (int i = 0; i < LINKS_MAX; i++) {
		int r = look_at(k, p, err);
		if (r < 0 || p->type != S_IFLNK || !p->link)
			return r;
		char *next = vm_path_follow(p->path, p->link);
		if (!next)
			return banger_error_oom(err);
		free(p->path);
		p->path = next;
	}
	return banger_error_set(
		err, BANGER_BAD_REQUEST, "\"%s\" in the VM is a circle of links", p->path);
}

/* Is there such a VM? Else "not found" could mean the path. */
static int check_vm(const struct copy *k, struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = NULL;

	int r = ctl_params(&params, err, "vm", k->vm, NULL);
	return r < 0 ? r : ctl_call(k->c, BANGER_METHOD_VM_SHOW, TAKE_PTR(params), NULL, err);
}

/* ---- into the VM */

/* Where it goes: a directory there, and the name in it (NULL: only what is in the source). */
struct target {
	char *directory, *as;
};

static void target_done(struct target *t)
{
	free(t->directory);
	free(t->as);
}

static int no_directory(const char *path, struct banger_error *err)
{
	return banger_error_set(err, BANGER_NOT_FOUND, "there is no directory \"%s\"", path);
}

static int choose_in_vm(const struct copy *k, const char *typed, const char *source_name,
	bool content, bool is_dir, struct target *ret, struct banger_error *err)
{
	_cleanup_(place_done) struct place p = {0};

	int r = vm_path(k->c, typed, &p.path, err);
	if (r == 0)
		r = resolve(k, &p, err);
	if (r < 0)
		return r;
	if (p.type == S_IFDIR) {
		ret->directory = TAKE_PTR(p.path);
		ret->as = content ? NULL : strdup(source_name);
		return content || ret->as ? 0 : banger_error_oom(err);
	}
	if (p.type && is_dir)
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"\"%s\" in the VM is a file, which a directory cannot be copied over",
			p.path);
	if (!is_dir && vm_path_ends_in_slash(typed))
		return no_directory(p.path, err);
	ret->directory = vm_path_directory(p.path);
	ret->as = vm_path_name(p.path);
	if (!ret->directory || !ret->as)
		return banger_error_oom(err);
	return strcmp(ret->as, ".") == 0 ? no_directory(p.path, err) : 0;
}

/* The source as the directory that holds it and its name there; `real`: through links. */
static int split_source(const char *path, bool real, char **ret_directory, char **ret_name,
	struct banger_error *err)
{
	_cleanup_free_ char *whole = real ? realpath(path, NULL) : strdup(path);

	if (!whole)
		return banger_error_set_errno(err, errno, "cannot open %s", path);
	*ret_directory = vm_path_directory(whole);
	*ret_name = vm_path_name(whole);
	return *ret_directory && *ret_name ? 0 : banger_error_oom(err);
}

static int start_stream(const struct copy *k, const char *path, bool is_dir, const struct target *t,
	struct tree_stream **ret, int *ret_fd, struct banger_error *err)
{
	_cleanup_free_ char *directory = NULL, *name = NULL;
	struct tree_part part = {.as = t->as, .shown = path, .keep_owners = k->keep};

	if (t->as) {
		int r = split_source(path, is_dir || k->follow, &directory, &name, err);
		if (r < 0)
			return r;
		part.name = name;
	}
	part.dir_fd = open(t->as ? directory : path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (part.dir_fd < 0)
		return banger_error_set_errno(err, errno, "cannot open %s", path);
	return tree_stream_part(&part, ret, ret_fd, err);
}

static int send_stream(const struct copy *k, const struct target *t, struct tree_stream *tree,
	int fd, struct banger_error *err)
{
	struct banger_error why = {0};
	const struct ctl_work work = {.what = k->shown, .done = tree_stream_bytes(tree)};

	int r = transfer(k, BANGER_METHOD_VM_PUT, t->directory, fd, &work, err);
	close(fd);
	size_t skipped = tree_stream_skipped(tree);
	int e = tree_stream_finish(&tree, &why);
	if (e < 0 && e != -EPIPE && !k->c->unreachable && !k->c->signal) {
		*err = why;
		return e;
	}
	if (r == 0 && skipped > 0)
		ctl_say("left out %zu socket%s, which no archive can hold", skipped,
			skipped == 1 ? "" : "s");
	return r;
}

static int copy_in(
	const struct copy *k, const char *source, const char *typed, struct banger_error *err)
{
	_cleanup_(target_done) struct target target = {0};
	_cleanup_free_ char *name = vm_path_name(source);
	struct tree_stream *tree = NULL;
	struct stat st;
	int fd = -1;

	if (!name)
		return banger_error_oom(err);
	if ((k->follow ? stat(source, &st) : lstat(source, &st)) < 0)
		return banger_error_set_errno(err, errno, "cannot copy %s", source);
	bool is_dir = S_ISDIR(st.st_mode), content = vm_path_means_content(source);
	if (S_ISSOCK(st.st_mode))
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"%s is a socket, which no archive can hold", source);
	if (!content && strcmp(name, ".") == 0) { /* "..", "/": by the name that it really has */
		_cleanup_free_ char *real = realpath(source, NULL);
		free(TAKE_PTR(name));
		name = real ? vm_path_name(real) : NULL;
		if (!name)
			return banger_error_set_errno(err, errno, "cannot copy %s", source);
		content = strcmp(name, ".") == 0;
	}
	int r = check_vm(k, err);
	if (r == 0)
		r = choose_in_vm(k, typed, name, content, is_dir, &target, err);
	if (r == 0)
		r = start_stream(k, source, is_dir, &target, &tree, &fd, err);
	return r < 0 ? r : send_stream(k, &target, tree, fd, err);
}

/* ---- out of the VM */

/* Fills in where the stream goes; the texts are the caller's to free. */
static int choose_here(const char *path, const char *source_name, char **ret_directory,
	char **ret_as, struct untar_options *o, struct banger_error *err)
{
	_cleanup_free_ char *real = NULL;
	struct stat st;

	bool there = stat(path, &st) == 0;
	if (!there && errno != ENOENT)
		return banger_error_set_errno(err, errno, "cannot copy to %s", path);
	if (there && S_ISDIR(st.st_mode)) {
		*ret_directory = strdup(path);
		*ret_as = strcmp(source_name, ".") == 0 ? NULL : strdup(source_name);
		return *ret_directory && (*ret_as || strcmp(source_name, ".") == 0)
			       ? 0
			       : banger_error_oom(err);
	}
	if (there && !S_ISREG(st.st_mode)) /* it would be removed for the copy */
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"%s is a device, a pipe or a socket, whose place a copy cannot take (\"-\" "
			"writes a tar stream)",
			path);
	real = there ? realpath(path, NULL) : strdup(path);
	*ret_directory = real ? vm_path_directory(real) : NULL;
	*ret_as = real ? vm_path_name(real) : NULL;
	if (!*ret_directory || !*ret_as)
		return banger_error_oom(err);
	o->is_file = there;
	o->must_be_dir = !there && vm_path_ends_in_slash(path);
	if (strcmp(*ret_as, ".") == 0 || stat(*ret_directory, &st) < 0 || !S_ISDIR(st.st_mode))
		return no_directory(strcmp(*ret_as, ".") == 0 ? path : *ret_directory, err);
	return 0;
}

static int receive(const struct copy *k, const char *path, const struct untar_options *to,
	struct banger_error *err)
{
	struct untar_options o = *to;
	_cleanup_close_ int out = -1;
	struct banger_error why = {0};
	struct untar *u = NULL;
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		return banger_error_set_errno(err, errno, "cannot make a pipe");
	out = ends[1];
	o.in = ends[0];
	(void)fcntl(out, F_SETPIPE_SZ, 1 << 20);
	int r = untar_start(&o, &u, err);
	if (r < 0)
		return r;
	const struct ctl_work work = {.what = k->shown, .done = untar_bytes(u)};
	r = transfer(k, BANGER_METHOD_VM_GET, path, out, &work, err);
	close(TAKE_FD(out));
	untar_wait(u);
	size_t skipped = untar_skipped(u);
	int e = untar_finish(&u, &why);
	/* A stream that broke off is the daemon's to explain. */
	if (e < 0 && (r == 0 || e != -ENODATA) && !k->c->unreachable && !k->c->signal) {
		*err = why;
		return e;
	}
	if (r == 0 && skipped > 0)
		ctl_say("left out %zu device%s: --archive takes them", skipped,
			skipped == 1 ? "" : "s");
	return r;
}

static int copy_out(
	const struct copy *k, const char *typed, const char *here, struct banger_error *err)
{
	_cleanup_free_ char *directory = NULL, *as = NULL, *name = vm_path_name(typed),
			    *sent = NULL;
	_cleanup_(place_done) struct place p = {0};
	struct untar_options o = {.keep_owners = k->keep};

	int r = name ? vm_path(k->c, typed, &p.path, err) : banger_error_oom(err);
	if (r == 0)
		r = check_vm(k, err);
	if (r == 0 && k->follow)
		r = resolve(k, &p, err);
	if (r == 0)
		r = choose_here(here, name, &directory, &as, &o, err);
	if (r < 0)
		return r;
	sent = vm_path_name(p.path); /* a link that was followed has another name */
	if (!sent)
		return banger_error_oom(err);
	o.name = sent;
	o.directory = directory;
	o.as = as;
	return receive(k, p.path, &o, err);
}

/* ---- streams as they are */

static int stream_in(const struct copy *k, const char *typed, struct banger_error *err)
{
	const struct ctl_work work = {.what = k->shown};
	_cleanup_free_ char *path = NULL;

	if (isatty(STDIN_FILENO))
		return ctl_usage(k->c, err,
			"standard input is a terminal: \"-\" reads a tar stream that is piped in");
	int r = vm_path(k->c, typed, &path, err);
	return r < 0 ? r : transfer(k, BANGER_METHOD_VM_PUT, path, STDIN_FILENO, &work, err);
}

static int stream_out(const struct copy *k, const char *typed, struct banger_error *err)
{
	const struct ctl_work work = {.what = k->shown};
	_cleanup_(place_done) struct place p = {0};

	if (isatty(STDOUT_FILENO))
		return ctl_usage(k->c, err,
			"standard output is a terminal: \"-\" writes a tar stream, for a pipe or a "
			"file");
	int r = vm_path(k->c, typed, &p.path, err);
	if (r == 0 && k->follow)
		r = check_vm(k, err);
	if (r == 0 && k->follow)
		r = resolve(k, &p, err);
	return r < 0 ? r : transfer(k, BANGER_METHOD_VM_GET, p.path, STDOUT_FILENO, &work, err);
}

int do_vm_cp(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_free_ char *from_vm = NULL, *to_vm = NULL, *shown = NULL;
	const char *from, *to;

	int r = vm_place(in->args[0], &from_vm, &from, err);
	if (r == 0)
		r = vm_place(in->args[1], &to_vm, &to, err);
	if (r < 0)
		return r;
	if (from_vm && to_vm)
		return ctl_usage(c, err,
			"one of the two is on this machine: between VMs, copy twice, or through "
			"\"-\"");
	if (!from_vm && !to_vm)
		return ctl_usage(c, err, "one of the two must be VM:PATH");
	if (asprintf(&shown, "copying %s", in->args[0]) < 0)
		return banger_error_oom(err);
	const struct copy k = {c, from_vm ? from_vm : to_vm, shown, cli_given(in, "archive"),
		cli_given(in, "follow-link")};
	if (from_vm)
		return strcmp(to, "-") == 0 ? stream_out(&k, from, err)
					    : copy_out(&k, from, to, err);
	return strcmp(from, "-") == 0 ? stream_in(&k, to, err) : copy_in(&k, from, to, err);
}
