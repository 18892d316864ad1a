/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bangerd: the composition root. It reads the configuration, makes each part with what it needs,
 * reconciles what an earlier run left, serves until it is told to stop, and takes the parts down in
 * the reverse order. Nothing is decided here.
 *
 * It stays in the foreground and logs to stderr, as supervisors want. SIGTERM, SIGINT and SIGHUP stop it:
 * running operations get GRACE_MS to finish, are cancelled after that and waited for. When
 * $NOTIFY_SOCKET is set, it tells the supervisor when it is ready.
 */
#include <banger/log.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include "api/api.h"
#include "api/catalog.h"
#include "api/jobs.h"
#include "api/pull.h"
#include "image/service.h"
#include "kernel/service.h"
#include "pull/catalog.h"
#include "pull/pull.h"
#include "rpc/server.h"
#include "unpack/flatten.h"
#include "vm/service.h"

#define GRACE_MS 5000

struct daemon {
	struct banger_config config;
	int state_dir_fd, signal_fd;
	struct rpc_method *methods;
	struct api api;
};

static const char usage[] = "Usage: bangerd [OPTION…]\n"
			    "The daemon of banger: owns the registry of VM images. Stays in the "
			    "foreground, logs to stderr.\n"
			    "\n"
			    "  --config FILE       configuration (JSON); also $BANGER_CONFIG\n"
			    "  --state-dir DIR     database and artifacts; also $BANGER_STATE_DIR\n"
			    "  --runtime-dir DIR   sockets; also $BANGER_RUNTIME_DIR\n"
			    "  --socket PATH       the socket to listen on; also $BANGER_SOCKET\n"
			    "  --version           print the version\n"
			    "  --help              print this\n";

/* 0: go on; 1: done, exit 0; 2: bad usage. */
static int parse_flags(int argc, char **argv, struct banger_config_flags *flags)
{
	static const struct option options[] = {
		{"config", required_argument, NULL, 'c'},
		{"state-dir", required_argument, NULL, 's'},
		{"runtime-dir", required_argument, NULL, 'r'},
		{"socket", required_argument, NULL, 'S'},
		{"version", no_argument, NULL, 'v'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	int o;

	while ((o = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (o) {
		case 'c':
			flags->config = optarg;
			break;
		case 's':
			flags->state_dir = optarg;
			break;
		case 'r':
			flags->runtime_dir = optarg;
			break;
		case 'S':
			flags->socket = optarg;
			break;
		case 'v':
			printf("bangerd %s\n", BANGER_VERSION);
			return 1;
		case 'h':
			fputs(usage, stdout);
			return 1;
		default:
			fputs(usage, stderr);
			return 2;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "bangerd: unexpected argument \"%s\"\n%s", argv[optind], usage);
		return 2;
	}
	return 0;
}

/* Started without some of 0, 1 and 2, a daemon would open its database as its standard error. */
static void hold_standard(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= STDERR_FILENO);
	banger_closep(&fd);
}

/* Each connection takes descriptors, each watcher a few more. */
static void raise_descriptor_limit(void)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_NOFILE, &l) == 0 && l.rlim_cur < l.rlim_max) {
		l.rlim_cur = l.rlim_max;
		setrlimit(RLIMIT_NOFILE, &l);
	}
}

static int open_state_dir(struct daemon *d, struct banger_error *err)
{
	int r = banger_mkdir_p(d->config.state_dir, 0700, err);
	/* Others may pass through the runtime directory: each socket in it says who may use it. */
	umask(022);
	if (r == 0)
		r = banger_mkdir_p(d->config.runtime_dir, 0755, err);
	umask(077);
	if (r < 0)
		return r;
	d->state_dir_fd = open(d->config.state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (d->state_dir_fd < 0)
		return banger_error_set_errno(
			err, errno, "cannot open the state directory %s", d->config.state_dir);
	return 0;
}

/* Signals are blocked before the first thread is made, so that all inherit that. */
static int take_signals(struct daemon *d, struct banger_error *err)
{
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	d->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return d->signal_fd < 0 ? banger_error_set_errno(err, errno, "cannot take signals") : 0;
}

/* The adapters that give services what they need of each other. arg is the daemon. */
static int flatten_tar(void *arg, struct operation *op, int tar_fd, int out_fd, int64_t size,
	struct banger_error *err)
{
	struct daemon *d = arg;

	return unpack_flatten(&d->config, operation_cancel_fd(op), tar_fd, out_fd, size, err);
}

static int pull_and_flatten(void *arg, struct operation *op, const struct image_pull *in,
	int rootfs_fd, int seed_fd, struct image_pulled *ret, struct banger_error *err)
{
	struct daemon *d = arg;

	return api_pull_and_flatten(d->api.pulls, op, in, rootfs_fd, seed_fd, ret, err);
}

static int fetch_bundle(void *arg, struct operation *op, const struct image_pull *in, int dir_fd,
	struct image_pulled *ret, struct banger_error *err)
{
	struct daemon *d = arg;

	return api_fetch_bundle(&d->api, op, in, dir_fd, ret, err);
}

static int find_kernel(
	void *arg, const char *word, char ret[BANGER_NAME_MAX + 1], struct banger_error *err)
{
	struct daemon *d = arg;
	_cleanup_kernel_ struct banger_kernel kernel = {0};

	int r = kernel_service_find(d->api.kernels, word, &kernel, err);
	if (r == 0)
		strcpy(ret, kernel.name);
	return r;
}

static int image_in_use(void *arg, const char *id, struct banger_error *err)
{
	struct daemon *d = arg;

	return d->api.vms ? vm_service_image_in_use(d->api.vms, id, err) : 0;
}

static int make_services(struct daemon *d, struct banger_error *err)
{
	struct api *a = &d->api;
	const struct kernel_service_deps kernels = {
		.store = a->store,
		.publication = a->publication,
		.hub = a->hub,
		.state_dir_fd = d->state_dir_fd,
	};
	const struct image_service_deps images = {
		.config = &d->config,
		.store = a->store,
		.operations = a->operations,
		.publication = a->publication,
		.hub = a->hub,
		.state_dir_fd = d->state_dir_fd,
		.arg = d,
		.pull_and_flatten = pull_and_flatten,
		.fetch_bundle = fetch_bundle,
		.find_kernel = find_kernel,
		.flatten_tar = flatten_tar,
		.in_use = image_in_use,
	};
	int r = catalog_settings_check(&d->config, err);
	if (r == 0)
		r = pull_engine_new(&d->config, d->state_dir_fd, &a->pulls, err);
	if (r == 0)
		r = catalogs_new(&d->config, d->state_dir_fd, pull_engine_http(a->pulls),
			pull_engine_blobs(a->pulls), &a->catalogs, err);
	if (r == 0)
		r = kernel_service_new(&kernels, &a->kernels, err);
	if (r == 0)
		r = image_service_new(&images, &a->images, err);
	if (r < 0)
		return r;
	const struct vm_service_deps vms = {
		.config = &d->config,
		.state_dir_fd = d->state_dir_fd,
		.store = a->store,
		.operations = a->operations,
		.publication = a->publication,
		.hub = a->hub,
		.images = a->images,
		.image_find = image_service_find,
		.image_open = image_service_open,
		.kernels = a->kernels,
		.kernel_find = kernel_service_find,
		.kernel_only = kernel_service_only,
		.kernel_open = kernel_service_open,
	};
	r = vm_service_new(&vms, &a->vms, err);
	if (r == 0)
		kernel_service_set_in_use(a->kernels, vm_service_kernel_in_use, a->vms);
	return r;
}

static bool find_vm(void *arg, struct rpc_peer *peer)
{
	struct daemon *d = arg;

	return vm_service_find_client(d->api.vms, peer->pid, peer->vm, &peer->vm_changes);
}

static int recover(struct daemon *d, struct banger_error *err)
{
	int r = kernel_service_recover(d->api.kernels, err);

	if (r == 0)
		r = image_service_recover(d->api.images, err);
	return r == 0 ? vm_service_recover(d->api.vms, err) : r;
}

static int join_methods(struct daemon *d, struct banger_error *err)
{
	static const struct rpc_method *const tables[] = {api_daemon_methods, api_op_methods,
		api_image_methods, api_pull_methods, api_catalog_methods, api_draft_methods, api_kernel_methods, api_vm_methods};
	size_t n = 0;

	for (size_t i = 0; i < ELEMENTSOF(tables); i++)
		for (const struct rpc_method *m = tables[i]; m->name; m++)
			n++;
	d->methods = calloc(n + 1, sizeof(*d->methods));
	if (!d->methods)
		return banger_error_oom(err);
	n = 0;
	for (size_t i = 0; i < ELEMENTSOF(tables); i++)
		for (const struct rpc_method *m = tables[i]; m->name; m++)
			d->methods[n++] = *m;
	return 0;
}

static int make(struct daemon *d, struct banger_error *err)
{
	struct api *a = &d->api;
	int r = open_state_dir(d, err);

	a->config = &d->config;
	if (r == 0)
		r = store_open(d->state_dir_fd, d->config.state_dir, &a->store, err);
	if (r == 0 && (hub_new(&a->hub) < 0 || publication_lock_new(&a->publication) < 0))
		r = banger_error_oom(err);
	if (r == 0)
		r = operations_new(a->store, a->hub, d->config.ops_kept, &a->operations, err);
	if (r == 0 && jobs_new(&a->jobs) < 0)
		r = banger_error_oom(err);
	if (r == 0)
		r = make_services(d, err);
	if (r == 0)
		r = recover(d, err);
	if (r == 0)
		r = join_methods(d, err);
	if (r < 0)
		return r;
	const struct rpc_server_options options = {
		.path = d->config.socket,
		.group = d->config.socket_group,
		.connections = d->config.connections,
		.methods = d->methods,
		.ctx = a,
		.operations = a->operations,
		.find_vm = find_vm,
		.find_vm_arg = d,
	};
	return rpc_server_new(&options, &a->server, err);
}

static void unmake(struct daemon *d)
{
	struct api *a = &d->api;

	jobs_freep(&a->jobs);
	rpc_server_freep(&a->server);
	vm_service_freep(&a->vms);
	image_service_freep(&a->images);
	catalogs_freep(&a->catalogs);
	pull_engine_freep(&a->pulls);
	kernel_service_freep(&a->kernels);
	operations_freep(&a->operations);
	publication_lock_freep(&a->publication);
	hub_freep(&a->hub);
	store_closep(&a->store);
	free(d->methods);
	banger_closep(&d->state_dir_fd);
	banger_closep(&d->signal_fd);
	banger_config_done(&d->config);
}

/* The readiness protocol of systemd and others: a datagram to $NOTIFY_SOCKET ("@…" is an abstract
 * one). */
static void notify_supervisor(const char *text)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	size_t n = path ? strlen(path) : 0;

	if (n < 2 || n >= sizeof(sun.sun_path))
		return;
	memcpy(sun.sun_path, path, n);
	if (sun.sun_path[0] == '@')
		sun.sun_path[0] = '\0';
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || sendto(fd, text, strlen(text), MSG_NOSIGNAL, (struct sockaddr *)&sun,
			      offsetof(struct sockaddr_un, sun_path) + n) < 0)
		log_warn("cannot tell the supervisor", KV_S("error", strerrordesc_np(errno)));
}

static int serve(struct daemon *d, struct banger_error *err)
{
	log_info("ready", KV_S("version", BANGER_VERSION), KV_S("socket", d->config.socket),
		KV_S("state_dir", d->config.state_dir), KV_S("config", d->config.file),
		KV_D("elapsed_ms", (banger_monotonic_us() - d->api.started_us) / 1000.0));
	notify_supervisor("READY=1");
	int r = rpc_server_run(d->api.server, d->signal_fd, GRACE_MS, err);
	notify_supervisor("STOPPING=1");
	return r;
}

int main(int argc, char **argv)
{
	struct daemon d = {
		.state_dir_fd = -1, .signal_fd = -1, .api = {.started_us = banger_monotonic_us()}};
	struct banger_config_flags flags = {0};
	struct banger_error err = {0};

	int r = parse_flags(argc, argv, &flags);
	if (r != 0)
		return r == 1 ? 0 : 2;
	hold_standard();
	banger_log_init("bangerd");
	umask(077);
	raise_descriptor_limit();
	r = take_signals(&d, &err);
	if (r == 0)
		r = banger_config_load(&flags, &d.config, &err);
	if (r == 0)
		r = make(&d, &err);
	if (r == 0)
		r = serve(&d, &err);
	if (r < 0)
		log_err("bangerd cannot go on", KV_ERR(&err));
	unmake(&d);
	if (r == 0)
		log_info("stopped");
	return r < 0 ? 1 : 0;
}
