/* SPDX-License-Identifier: Apache-2.0 */
/*
 * banger-helper: what of banger's work needs root, which is networking for VMs on a bridge. Started by root, in the
 * network namespace that is to have the bridge. Sockets are opened, then everything else is given up (sandbox.c), and
 * only then is anybody listened to.
 *
 *	words.c request.c     what is asked, and whether it may be
 *	network.c link.c nat.c    what is done
 *	serve.c               with whom
 */
#include <banger/log.h>
#include <banger/paths.h>
#include <fcntl.h>
#include <getopt.h>
#include <libgen.h>
#include <pwd.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include "sandbox.h"
#include "serve.h"

static const char usage[] =
	"Usage: banger-helper [OPTION…]\n"
	"Does for bangerd what needs root: the network bridge of VMs. To be started by root.\n"
	"\n"
	"  --uid USER         whose bangerd may ask: a name or number (\"helper_uid\"; default "
	"root's alone)\n"
	"  --socket PATH      where to listen ($BANGER_HELPER_SOCKET, \"helper_socket\")\n"
	"  --subnet NETWORK   what VMs' addresses are taken from (\"bridge_subnet\", default "
	"10.141.0.0/16)\n"
	"  --config FILE      configuration file ($BANGER_CONFIG; default "
	"/etc/banger/config.json)\n"
	"  --version          print the version\n"
	"  -h, --help         print this\n";

struct flags {
	const char *uid, *socket, *subnet;
	struct banger_config_flags config;
};

/* 0: go on; 1: done, exit 0; 2: bad usage. */
static int parse_flags(int argc, char **argv, struct flags *f)
{
	static const struct option options[] = {{"uid", required_argument, NULL, 'u'},
		{"socket", required_argument, NULL, 's'}, {"subnet", required_argument, NULL, 'n'},
		{"config", required_argument, NULL, 'c'}, {"version", no_argument, NULL, 'v'},
		{"help", no_argument, NULL, 'h'}, {0}};
	int o;

	while ((o = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		if (o == 'u')
			f->uid = optarg;
		else if (o == 's')
			f->socket = optarg;
		else if (o == 'n')
			f->subnet = optarg;
		else if (o == 'c')
			f->config.config = optarg;
		else if (o == 'v')
			return puts("banger-helper " BANGER_VERSION), 1;
		else if (o == 'h')
			return fputs(usage, stdout), 1;
		else
			return fputs(usage, stderr), 2;
	}
	if (optind < argc) {
		fprintf(stderr, "banger-helper: unexpected argument \"%s\"\n%s", argv[optind],
			usage);
		return 2;
	}
	return 0;
}

static int find_uid(const char *word, uid_t *ret, struct banger_error *err)
{
	char *rest;
	unsigned long v = strtoul(word, &rest, 10);

	if (*word >= '0' && *word <= '9' && *rest == '\0' && v < UINT32_MAX) {
		*ret = (uid_t)v;
		return 0;
	}
	const struct passwd *p = getpwnam(word);
	if (!p)
		return banger_error_set(err, BANGER_NOT_FOUND, "there is no user \"%s\"", word);
	*ret = p->pw_uid;
	return 0;
}

static int set_up_service(const struct flags *f, const struct banger_config *c,
	struct helper_service *s, struct banger_error *err)
{
	const char *subnet = f->subnet ?: c->bridge_subnet;

	s->uid = c->helper_uid > 0 ? (uid_t)c->helper_uid : 0;
	if (!helper_parse_subnet(subnet, &s->range))
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"bridge_subnet: \"%s\" is no IPv4 network with a prefix from 8 to 29, such "
			"as "
			"10.141.0.0/16",
			subnet);
	return f->uid ? find_uid(f->uid, &s->uid, err) : 0;
}

/* ---- the socket */

static bool somebody_listens(const struct sockaddr_un *sun)
{
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	return fd >= 0 &&
	       (connect(fd, (const struct sockaddr *)sun, sizeof(*sun)) == 0 || errno == EAGAIN);
}

/* Made under another name and renamed, so that it never is there without its mode or a listener, and one that nobody
 * listens on is replaced. Everybody may connect: who is refused is to be in the log. */
static int make_socket(const struct sockaddr_un *sun, int *ret, struct banger_error *err)
{
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un made = *sun;
	char *last = made.sun_path + strlen(made.sun_path) - 1;

	*last = *last == '~' ? '_' : '~';
	unlink(made.sun_path); /* of a start that was interrupted here */
	if (fd < 0 || fchmod(fd, 0666) < 0 || bind(fd, (struct sockaddr *)&made, sizeof(made)) < 0)
		return banger_error_set_errno(
			err, errno, "cannot make the socket %s", made.sun_path);
	if (chmod(made.sun_path, 0666) < 0 || listen(fd, 1024) < 0 ||
		rename(made.sun_path, sun->sun_path) < 0) {
		int r = banger_error_set_errno(
			err, errno, "cannot make the socket %s", sun->sun_path);
		unlink(made.sun_path);
		return r;
	}
	*ret = TAKE_FD(fd);
	return 0;
}

struct place {
	int dir_fd;
	char name[108];
	struct stat st;
};

static int listen_at(const char *path, int *ret, struct place *place, struct banger_error *err)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	_cleanup_free_ char *dir = strdup(path), *base = strdup(path);

	if (!dir || !base)
		return banger_error_oom(err);
	if (strlen(path) >= sizeof(sun.sun_path))
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"the socket's path is longer than %zu bytes: %s", sizeof(sun.sun_path) - 1,
			path);
	strcpy(sun.sun_path, path);
	int r = banger_mkdir_p(dirname(dir), 0755, err);
	if (r < 0)
		return r;
	if (somebody_listens(&sun))
		return banger_error_set(
			err, BANGER_BUSY, "another banger-helper listens on %s", path);
	_cleanup_close_ int dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	r = dir_fd < 0 ? banger_error_set_errno(err, errno, "%s", dir)
		       : make_socket(&sun, ret, err);
	if (r < 0)
		return r;
	snprintf(place->name, sizeof(place->name), "%s", basename(base));
	if (fstatat(dir_fd, place->name, &place->st, AT_SYMLINK_NOFOLLOW) < 0)
		return banger_error_set_errno(err, errno, "%s", path);
	place->dir_fd = TAKE_FD(dir_fd);
	return 0;
}

/* Unless somebody else's has taken its place. */
static void remove_socket(const struct place *p)
{
	struct stat st;

	if (p->dir_fd >= 0 && fstatat(p->dir_fd, p->name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
		st.st_dev == p->st.st_dev && st.st_ino == p->st.st_ino)
		unlinkat(p->dir_fd, p->name, 0);
}

/* ---- */

static int catch_signals(int *ret, struct banger_error *err)
{
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	*ret = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return *ret < 0 ? banger_error_set_errno(err, errno, "cannot take signals") : 0;
}

static int run(const struct flags *f, const struct banger_config *c, struct banger_error *err)
{
	struct helper_service service = {0};
	struct serve serve = {.service = &service, .listen_fd = -1, .stop_fd = -1};
	struct place place = {.dir_fd = -1};
	const char *path = f->socket ?: c->helper_socket;
	char subnet[HELPER_SUBNET_MAX + 1];

	int r = geteuid() == 0 ? set_up_service(f, c, &service, err)
			       : banger_error_set(err, BANGER_NOT_PERMITTED,
					 "banger-helper must be started by root");
	if (r == 0)
		r = network_new(&service.range, &serve.network, err);
	if (r < 0)
		return r;
	service.acts = network_acts(serve.network);
	r = catch_signals(&serve.stop_fd, err);
	if (r == 0)
		r = listen_at(path, &serve.listen_fd, &place, err);
	if (r == 0)
		r = helper_sandbox(place.dir_fd, err);
	if (r < 0)
		return r;
	log_info("helper started", KV_S("socket", path), KV_I("uid", service.uid),
		KV_S("bridge_subnet", helper_subnet_text(&service.range, subnet)),
		KV_S("version", BANGER_VERSION));
	r = serve_run(&serve, err);
	remove_socket(&place);
	if (r == 0)
		log_info("helper stopped");
	return r;
}

int main(int argc, char **argv)
{
	struct banger_config config = {0};
	struct banger_error err = {0};
	struct flags flags = {0};

	int r = parse_flags(argc, argv, &flags);
	if (r > 0)
		return r == 1 ? 0 : 2;
	banger_log_init("banger-helper");
	umask(022);
	r = banger_config_load(&flags.config, &config, &err);
	if (r == 0)
		r = run(&flags, &config, &err);
	if (r < 0)
		log_err("helper failed", KV_ERR(&err));
	banger_config_done(&config);
	return r < 0;
}
