/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The connection and its threads: a fixed number of them, each with its own scratch and buffer
 * (serve_loop.c has who does what). Nothing is remembered per inode: the node number says it
 * all, the kernel's caches and the page cache of the image file are the caches.
 */
#include <string.h>

#include "serve_internal.h"

#define THREADS 12 /* most of them wait for a disk, if for anything */
#define THREADS_MAX 64

__thread struct worker *serve_self;

static void op_init(void *arg, struct fuse_conn_info *conn)
{
	conn->want |= conn->capable & (FUSE_CAP_NO_OPEN_SUPPORT | FUSE_CAP_NO_OPENDIR_SUPPORT |
					      FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_CACHE_SYMLINKS |
					      FUSE_CAP_READDIRPLUS | FUSE_CAP_ASYNC_READ);
	/* Attributes come for free with every listing, so always with it. */
	conn->want &= ~(unsigned)(FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_SPLICE_READ);
	conn->max_write = READ_MAX; /* also the limit of a read, by max_pages */
	conn->max_background = 64;
	conn->congestion_threshold = 48;
	conn->time_gran = 1;
}

static void *worker_main(void *arg)
{
	serve_loop(arg);
	return NULL;
}

static int options_build(const struct server_options *o, struct fuse_args *args)
{
	int r = fuse_opt_add_arg(args, "bangerfs");

	if (r == 0)
		r = fuse_opt_add_arg(args, "-oro,fsname=banger-rootfs,subtype=banger");
	if (r == 0 && o->allow_other)
		r = fuse_opt_add_arg(args, "-oallow_other");
	return r;
}

int server_new(const struct server_options *o, struct server **ret, struct banger_error *err)
{
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	struct fuse_lowlevel_ops ops = {.init = op_init};
	struct server *s = calloc(1, sizeof(*s));

	if (!s)
		return banger_error_oom(err);
	pthread_mutex_init(&s->loop_lock, NULL);
	pthread_cond_init(&s->work, NULL);
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->wake, NULL);
	s->sweep_pause = 1;
	s->uid = getuid();
	s->gid = getgid();
	s->threads = o->threads ? o->threads : THREADS;
	if (s->threads > THREADS_MAX)
		s->threads = THREADS_MAX;
	serve_ops(&ops);
	serve_xattr_ops(&ops);
	if (options_build(o, &args) == 0)
		s->session = fuse_session_new(&args, &ops, sizeof(ops), s);
	fuse_opt_free_args(&args);
	if (!s->session) {
		server_free(s);
		return banger_error_set(err, BANGER_INTERNAL, "libfuse refused its options");
	}
	if (fuse_session_mount(s->session, o->mountpoint) != 0) {
		server_free(s);
		return banger_error_set(err, BANGER_DENIED, "cannot mount at %s", o->mountpoint);
	}
	*ret = s;
	return 0;
}

void server_set_table(struct server *s, struct table *t)
{
	s->table = t;
}

int server_prepare(struct server *s, struct banger_error *err)
{
	s->ahead = ahead_new(server_slow);
	s->lean = lean_new();
	s->workers = calloc(s->threads, sizeof(*s->workers));
	s->janitor_scratch = ext4_scratch_new();
	if (!s->ahead || !s->lean || !s->workers || !s->janitor_scratch)
		return banger_error_oom(err);
	for (unsigned k = 0; k < s->threads; k++) {
		struct worker *w = &s->workers[k];
		w->s = s;
		w->scratch = ext4_scratch_new();
		if (!w->scratch || posix_memalign((void **)&w->buf, 4096, READ_MAX) != 0)
			return banger_error_oom(err);
	}
	return 0;
}

int server_run(struct server *s)
{
	int r;

	r = pthread_create(&s->janitor, NULL, serve_janitor, s);
	s->janitor_started = r == 0;
	for (unsigned k = 1; k < s->threads && r == 0; k++) {
		r = pthread_create(&s->workers[k].thread, NULL, worker_main, &s->workers[k]);
		s->workers[k].started = r == 0;
	}
	if (r == 0)
		worker_main(&s->workers[0]);
	fuse_session_exit(s->session);
	pthread_mutex_lock(&s->lock);
	s->stopping = true;
	pthread_cond_signal(&s->wake);
	pthread_mutex_unlock(&s->lock);
	if (s->janitor_started)
		pthread_join(s->janitor, NULL);
	for (unsigned k = 1; k < s->threads; k++)
		if (s->workers[k].started)
			pthread_join(s->workers[k].thread, NULL);
	return -r;
}

void server_stop(struct server *s)
{
	fuse_session_exit(s->session);
}

void server_free(struct server *s)
{
	if (!s)
		return;
	for (unsigned k = 0; s->workers && k < s->threads; k++) {
		ext4_scratch_free(s->workers[k].scratch);
		free(s->workers[k].buf);
	}
	free(s->workers);
	ext4_scratch_free(s->janitor_scratch);
	ahead_free(s->ahead);
	lean_free(s->lean);
	while (s->evict_count)
		free(s->evict[--s->evict_count]);
	if (s->session) {
		fuse_session_unmount(s->session);
		fuse_session_destroy(s->session);
	}
	pthread_cond_destroy(&s->work);
	pthread_mutex_destroy(&s->loop_lock);
	pthread_cond_destroy(&s->wake);
	pthread_mutex_destroy(&s->lock);
	free(s);
}
