/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The content process, from its first instruction to its end.
 *
 *	setup from the supervisor → connect to bangerd → mount → say so → confine itself →
 *	snapshot → threads: serve (several), follow the registry, wait for the supervisor's end
 *
 * Requests are only taken from the kernel when the first snapshot is complete; until then whoever
 * looks under rootfs/ waits, instead of seeing it empty. The main thread serves, and when it comes
 * back the content was unmounted.
 *
 * It ends with _exit(): nothing here needs tidying up that the kernel does not tidy up.
 */
#include <banger/log.h>
#include <fcntl.h>
#include <fuse_log.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

#include "content.h"
#include "control.h"
#include "mountinfo.h"
#include "page.h"
#include "sandbox.h"
#include "serve.h"
#include "watch.h"

#define OPEN_MAX_IMAGES 1024u
#define OPEN_SPARE 64u /* descriptors for other things than images */

struct role {
	int control;
	struct content_page *page;
	struct content_setup setup;
	struct watch *watch;
	struct table *table;
	struct server *server;
};

static _Noreturn void fail(const struct banger_error *err)
{
	log_err("rootfs cannot be shown", KV_ERR(err));
	_exit(CONTENT_EXIT_FAILED);
}

static void report(struct role *r, int what)
{
	struct content_report m = {.what = what};

	(void)send(r->control, &m, sizeof(m), MSG_NOSIGNAL);
}

static void on_applied(void *arg, int64_t generation)
{
	const struct role *r = arg;

	content_page_set(r->page, generation);
}

static void on_stale(void *arg, const char *name)
{
	server_stale(((struct role *)arg)->server, name);
}

static void on_evict(void *arg, const char *name)
{
	server_evict(((struct role *)arg)->server, name);
}

static void on_slow(void *arg)
{
	server_slow();
}

static int open_image(void *arg, const char *id)
{
	return watch_open_image(((struct role *)arg)->watch, id);
}

/* What libfuse has to say goes the way of all messages. */
_printf_(2, 0) static void fuse_says(enum fuse_log_level level, const char *fmt, va_list ap)
{
	char text[256];
	int n = vsnprintf(text, sizeof(text), fmt, ap);

	if (n > 0 && (size_t)n < sizeof(text) && text[n - 1] == '\n')
		text[n - 1] = '\0';
	log_warn("libfuse", KV_S("text", text));
}

static void *control_main(void *arg)
{
	const struct role *r = arg;
	char byte;

	while (recv(r->control, &byte, 1, 0) < 0 && errno == EINTR)
		;
	_exit(CONTENT_EXIT_UNMOUNTED); /* the supervisor is gone, or wants us gone */
}

static void *watch_main(void *arg)
{
	struct role *r = arg;

	watch_run(r->watch, r->table);
	_exit(CONTENT_EXIT_FAILED); /* the supervisor starts another */
}

/* bangerd may be starting too, or be away for the moment. */
static void connect_patiently(struct role *r)
{
	struct watch_options o = {
		.socket = r->setup.socket, .applied = on_applied, .stale = on_stale, .arg = r};
	struct timespec pause = {0, 100000000};
	struct banger_error err = {0};

	while (watch_open(&o, &r->watch, &err) < 0) {
		char byte;
		if (err.code != BANGER_UNAVAILABLE)
			fail(&err);
		if (recv(r->control, &byte, 1, MSG_DONTWAIT) == 0)
			_exit(CONTENT_EXIT_UNMOUNTED);
		(void)nanosleep(&pause, NULL);
	}
}

static unsigned open_limit(void)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_NOFILE, &l) < 0)
		return 256;
	l.rlim_cur = l.rlim_max;
	(void)setrlimit(RLIMIT_NOFILE, &l);
	if (l.rlim_cur < 2 * OPEN_SPARE)
		return OPEN_SPARE / 2;
	/* Half: images that the kernel still refers to may be more for a while. */
	l.rlim_cur = (l.rlim_cur - OPEN_SPARE) / 2;
	return l.rlim_cur < OPEN_MAX_IMAGES ? (unsigned)l.rlim_cur : OPEN_MAX_IMAGES;
}

/* Larger read-ahead for large files, which only root may ask for. Without it things are just
 * slower. */
static void tune_read_ahead(const char *mountpoint)
{
	unsigned major, minor;
	char path[64];

	if (geteuid() != 0 || !mountinfo_find(mountpoint, &major, &minor))
		return;
	(void)snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/read_ahead_kb", major, minor);
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "1024", 4) < 0)
		log_debug("read-ahead stays as it is", KV_S("error", strerrordesc_np(errno)));
}

static void mount_content(struct role *r)
{
	struct table_options to = {.open = open_image,
		.evict = on_evict,
		.slow = on_slow,
		.arg = r,
		.max_open = open_limit()};
	struct server_options so = {.mountpoint = r->setup.mountpoint,
		.allow_other = r->setup.allow_other,
		.threads = r->setup.threads};
	struct banger_error err = {0};

	if (table_new(&to, &r->table) < 0) {
		banger_error_oom(&err);
		fail(&err);
	}
	if (server_new(&so, &r->server, &err) < 0)
		fail(&err);
	server_set_table(r->server, r->table);
	tune_read_ahead(r->setup.mountpoint);
	if (server_prepare(r->server, &err) < 0)
		fail(&err);
	report(r, CONTENT_MOUNTED);
}

static void start_thread(struct role *r, void *(*main)(void *))
{
	struct banger_error err;
	pthread_t t;
	int e = pthread_create(&t, NULL, main, r);

	if (e) {
		banger_error_set_errno(&err, e, "cannot start a thread");
		fail(&err);
	}
}

static _Noreturn void serve(struct role *r)
{
	struct banger_error err = {0};

	connect_patiently(r);
	mount_content(r);
	if (sandbox_enter(watch_images(r->watch), &err) < 0)
		fail(&err);
	start_thread(r, control_main);
	if (watch_snapshot(r->watch, r->table, &err) < 0)
		fail(&err);
	start_thread(r, watch_main);
	int n = server_run(r->server);
	if (n < 0) {
		banger_error_set_errno(&err, n, "cannot serve");
		fail(&err);
	}
	_exit(CONTENT_EXIT_UNMOUNTED);
}

/* The supervisor decides when we end: what a terminal sends to the whole group is for it. */
static void ignore_signals(void)
{
	static const int ignored[] = {SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGQUIT};
	sigset_t none;

	for (size_t k = 0; k < ELEMENTSOF(ignored); k++)
		(void)signal(ignored[k], SIG_IGN);
	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
}

void content_main_role(int argc, char **argv)
{
	static struct role r;

	if (argc != 4 || strcmp(argv[1], CONTENT_ROLE) != 0)
		return;
	int page = atoi(argv[3]);
	r.control = atoi(argv[2]);
	r.page = content_page_map(page);
	(void)fcntl(r.control, F_SETFD, FD_CLOEXEC);
	banger_log_init("bangerfs-content");
	fuse_set_log_func(fuse_says);
	ignore_signals();
	(void)close(page);
	if (!r.page || recv(r.control, &r.setup, sizeof(r.setup), 0) != sizeof(r.setup)) {
		fprintf(stderr, "bangerfs: %s is for bangerfs itself\n", CONTENT_ROLE);
		_exit(2);
	}
	serve(&r);
}
