/* SPDX-License-Identifier: Apache-2.0 */
/* See options.h. fuse_opt_parse() takes ours out, fuse_parse_cmdline() those that all FUSE programs
 * have, and the rest, mount options, is for fuse_session_new(). */
#include "options.h"
#include <limits.h>
#include <stddef.h>
#include <string.h>

enum { KEY_ALLOW_OTHER };

#define OURS(template, member)                                                                     \
	{                                                                                          \
		template, offsetof(struct options, member), 1                                      \
	}

/* libfuse takes "--socket=PATH" for "--socket %s" as well, and "=PATH" is what it gives then (strip_equals()). */
static const struct fuse_opt specification[] = {
	OURS("--socket %s", socket),
	OURS("--config %s", config),
	OURS("--log %s", log),
	OURS("--vm=%s", vm),
	OURS("--ready-fd=%d", ready_fd),
	OURS("--until-fd=%d", until_fd),
	FUSE_OPT_KEY("allow_other", KEY_ALLOW_OTHER),
	FUSE_OPT_END,
};

static int take(void *data, const char *arg, int key, struct fuse_args *out)
{
	struct options *o = data;

	if (key == KEY_ALLOW_OTHER)
		o->allow_other = true;
	return 1; /* keep it */
}

static void print_help(void)
{
	printf("usage: bangerfs [options] MOUNTPOINT\n\n"
	       "Shows the registry of images at MOUNTPOINT. bangerd must be running.\n\n"
	       "    --socket PATH          bangerd's socket ($BANGER_SOCKET)\n"
	       "    --config FILE          configuration file ($BANGER_CONFIG)\n"
	       "    --log FILE             append the log to FILE; in the background it is lost\n"
	       "                           otherwise, unless standard error is a file\n"
	       "    --vm=NAME              what comes through this mount comes from VM NAME: "
	       "bangerd\n"
	       "                           starts one for each VM that has the registry\n"
	       "    --ready-fd=N           write a byte there when all of the tree can be read\n"
	       "    --until-fd=N           end when this descriptor is at its end\n\n"
	       "FUSE options:\n");
	fuse_cmdline_help();
	fuse_lowlevel_help();
}

static void strip_equals(char *value)
{
	if (value && *value == '=')
		memmove(value, value + 1, strlen(value));
}

/* The mount point itself is not touched: a server that died may have left a mount there. */
static char *absolute(const char *path)
{
	_cleanup_free_ char *copy = strdup(path), *parent = NULL;
	char *whole = NULL;

	if (!copy)
		return NULL;
	for (size_t n = strlen(copy); n > 1 && copy[n - 1] == '/'; n--)
		copy[n - 1] = '\0';
	char *slash = strrchr(copy, '/'), *base = slash ? slash + 1 : copy;
	if (!*base || strcmp(base, ".") == 0 || strcmp(base, "..") == 0)
		return realpath(copy, NULL);
	_cleanup_free_ char *name = strdup(base);
	*base = '\0';
	parent = realpath(slash ? copy : ".", NULL);
	if (!name || !parent ||
		asprintf(&whole, "%s/%s", strcmp(parent, "/") == 0 ? "" : parent, name) < 0)
		return NULL;
	/* A symlink to the place is followed, as mount(8) does. */
	struct stat st;
	if (lstat(whole, &st) == 0 && S_ISLNK(st.st_mode)) {
		char *real = realpath(whole, NULL);
		if (real) {
			free(whole);
			return real;
		}
	}
	return whole;
}

static int finish(struct options *o, struct fuse_cmdline_opts *f)
{
	if (f->show_help) {
		print_help();
		return 0;
	}
	if (f->show_version) {
		printf("bangerfs %s (libfuse %s)\n", BANGER_VERSION, fuse_pkgversion());
		return 0;
	}
	if (!f->mountpoint) {
		fprintf(stderr, "usage: bangerfs [options] MOUNTPOINT\n");
		return 2;
	}
	if (o->vm && !banger_name_valid(o->vm)) {
		fprintf(stderr, "bangerfs: --vm takes the name of a VM\n");
		return 2;
	}
	o->mountpoint = absolute(f->mountpoint);
	if (!o->mountpoint) {
		fprintf(stderr, "bangerfs: %s: %s\n", f->mountpoint, strerror(errno));
		return 1;
	}
	o->foreground = f->foreground || f->debug;
	o->single_thread = f->singlethread;
	return -1;
}

int options_parse(int argc, char **argv, struct options *ret)
{
	struct fuse_cmdline_opts f = {0};
	struct options o = {.args = FUSE_ARGS_INIT(argc, argv), .ready_fd = -1, .until_fd = -1};

	if (fuse_opt_parse(&o.args, &o, specification, take) < 0 ||
		fuse_parse_cmdline(&o.args, &f) < 0) {
		options_done(&o);
		return 2;
	}
	strip_equals(o.socket);
	strip_equals(o.config);
	strip_equals(o.log);
	int status = finish(&o, &f);
	free(f.mountpoint);
	if (status >= 0) {
		options_done(&o);
		return status;
	}
	*ret = o;
	return -1;
}

void options_done(struct options *o)
{
	fuse_opt_free_args(&o->args);
	free(o->mountpoint);
	free(o->socket);
	free(o->config);
	free(o->log);
	free(o->vm);
	*o = (struct options){0};
}
