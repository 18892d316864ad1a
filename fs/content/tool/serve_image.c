/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The content server on image files that are named on the command line, without bangerd: for tests
 * and measurements.
 *
 *	serve_image MOUNTPOINT NAME=FILE…
 *
 * Mounts, prints "mounted", serves until unmounted.
 */
#include <banger/log.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "../serve.h"

struct files {
	char **args;
	int n;
};

static int open_file(void *arg, const char *id)
{
	const struct files *f = arg;
	int fd, k = (int)(strtoull(id, NULL, 16) >> 33) - 1;

	if (k < 0 || k >= f->n)
		return -ENOENT;
	fd = open(strchr(f->args[k], '=') + 1, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static void no_evict(void *arg, const char *name)
{
}

static void no_stale(void *arg, const char *name)
{
}

static int add_all(struct table *t, const struct files *f)
{
	for (int k = 0; k < f->n; k++) {
		char id[BANGER_ID_LEN + 1], name[BANGER_NAME_MAX + 1];
		const char *eq = strchr(f->args[k], '=');

		if (!eq)
			return -EINVAL;
		(void)snprintf(id, sizeof(id), "%016llx", (k + 1ull) << 33);
		(void)snprintf(name, sizeof(name), "%.*s", (int)(eq - f->args[k]), f->args[k]);
		struct table_change c = {.id = id, .name = name};
		int r = table_apply(t, &c, 1, no_stale, NULL);
		if (r < 0)
			return r;
	}
	return 0;
}

static void on_slow(void *arg)
{
	server_slow();
}

int main(int argc, char **argv)
{
	struct files files = {argv + 2, argc - 2};
	struct table_options to = {.open = open_file,
		.evict = no_evict,
		.slow = on_slow,
		.arg = &files,
		.max_open = 64};
	struct server_options so = {.mountpoint = argc > 1 ? argv[1] : "",
		.threads = getenv("THREADS") ? (unsigned)atoi(getenv("THREADS")) : 0};
	struct banger_error err = {0};
	struct table *t = NULL;
	struct server *s = NULL;
	int r;

	banger_log_init("serve_image");
	if (argc < 3) {
		fprintf(stderr, "usage: serve_image MOUNTPOINT NAME=FILE...\n");
		return 2;
	}
	r = table_new(&to, &t);
	if (r == 0)
		r = add_all(t, &files);
	if (r == 0)
		r = server_new(&so, &s, &err);
	if (r == 0) {
		server_set_table(s, t);
		r = server_prepare(s, &err);
	}
	if (r == 0) {
		printf("mounted\n");
		fflush(stdout);
		r = server_run(s);
	}
	if (r < 0)
		fprintf(stderr, "serve_image: %s\n", err.code ? err.message : strerror(-r));
	server_free(s);
	table_free(t);
	return r < 0;
}
