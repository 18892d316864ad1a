/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A session with a VM's agent by hand, without a daemon:
 *
 *	vm_session SOCKET exec [-t ROWSxCOLS] [-u USER] [-c FILE] [-n TIMES] [-d] COMMAND…   -c: control lines, -d: apart
 *	vm_session SOCKET put DIR | get PATH | ping TIMES | time MICROSECONDS | power-off
 *
 * SOCKET is the other end of the agent's port. Streams are this program's own; times go to stderr, in milliseconds.
 */
#include <banger/log.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include "vm/session.h"

extern char *optarg;
extern int optind;

static int by_time(const void *a, const void *b)
{
	return (*(const int64_t *)a > *(const int64_t *)b) -
	       (*(const int64_t *)a < *(const int64_t *)b);
}

static void say_times(int64_t *us, int n)
{
	qsort(us, n, sizeof(*us), by_time);
	fprintf(stderr, "%.2f median, %.2f least, %.2f most of %d\n", us[n / 2] / 1e3, us[0] / 1e3,
		us[n - 1] / 1e3, n);
}

static int fail(const struct banger_error *err)
{
	fprintf(stderr, "vm_session: %s: %s\n", banger_code_name(err->code), err->message);
	return 125;
}

static int run(struct session *s, int argc, char **argv)
{
	const char *none[] = {NULL};
	struct agent_exec e = {.user = "", .workdir = "", .env = none};
	struct session_exec x = {.exec = &e,
		.stdin_fd = 0,
		.stdout_fd = 1,
		.stderr_fd = 2,
		.control_fd = -1,
		.cancel_fd = -1};
	struct session_result result = {0};
	struct banger_error err = {0};
	unsigned rows, cols;
	int c, times = 1, r = 0;

	while ((c = getopt(argc, argv, "+t:u:c:n:d")) != -1)
		if (c == 't' && sscanf(optarg, "%ux%u", &rows, &cols) == 2) {
			e.flags |= AGENT_EXEC_TTY;
			e.rows = rows;
			e.cols = cols;
		} else if (c == 'u') {
			e.user = optarg;
		} else if (c == 'c') {
			x.control_fd = open(optarg, O_RDONLY | O_CLOEXEC);
		} else if (c == 'n') {
			times = atoi(optarg);
		} else if (c == 'd') {
			e.flags |= AGENT_EXEC_DETACH;
		} else {
			return 2;
		}
	if (optind == argc || times < 1)
		return 2;
	e.argv = (const char **)argv + optind;
	_cleanup_free_ int64_t *us = calloc(times, sizeof(*us));
	for (int i = 0; us && i < times && r == 0; i++) {
		int64_t begun = banger_monotonic_us();
		r = session_exec(s, &x, &result, &err);
		us[i] = banger_monotonic_us() - begun;
	}
	if (r < 0 || !us)
		return fail(&err);
	if (times > 1)
		say_times(us, times);
	return result.signal ? 128 + result.signal : result.exit_code;
}

static int ping(struct session *s, int times)
{
	struct banger_error err = {0};
	_cleanup_free_ int64_t *us = calloc(times > 0 ? times : 1, sizeof(*us));

	for (int i = 0; us && i < times; i++)
		if (session_ping(s, 10000, &us[i], &err) < 0)
			return fail(&err);
	say_times(us, times > 0 ? times : 1);
	return 0;
}

static int act(struct session *s, int argc, char **argv)
{
	struct banger_error err = {0};
	const char *what = argv[2];
	int64_t us;
	int r = 0;

	if (strcmp(what, "exec") == 0)
		return run(s, argc - 2, argv + 2);
	if (strcmp(what, "power-off") == 0)
		r = session_power_off(s, 1000, &err);
	else if (argc < 4)
		return 2;
	else if (strcmp(what, "put") == 0)
		r = session_put(s, argv[3], 0, -1, &err);
	else if (strcmp(what, "get") == 0)
		r = session_get(s, argv[3], 1, -1, &err);
	else if (strcmp(what, "time") == 0)
		session_set_time(s, atoll(argv[3]));
	else if (strcmp(what, "ping") == 0)
		return ping(s, atoi(argv[3]));
	else
		return 2;
	if (r < 0)
		return fail(&err);
	/* What was only queued is with the agent when it answers, or is gone. */
	session_ping(s, 20000, &us, &err);
	return 0;
}

int main(int argc, char **argv)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	struct banger_error err = {0};
	struct session *s;

	if (argc < 3) {
		fprintf(stderr, "usage: vm_session SOCKET exec|put|get|ping|time|power-off …\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	banger_log_init("vm_session");
	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s", argv[1]);
	const struct session_options o = {
		.port = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), .vm = "bench"};
	if (o.port < 0 || connect(o.port, (struct sockaddr *)&sun, sizeof(sun)) < 0) {
		fprintf(stderr, "vm_session: %s: %m\n", argv[1]);
		return 125;
	}
	int64_t begun = banger_monotonic_us();
	if (session_new(&o, &s, &err) < 0)
		return fail(&err);
	int r = session_wait_ready(s, begun + 120000000, -1, &err);
	if (r < 0)
		r = fail(&err);
	else
		fprintf(stderr, "attached in %.2f\n", (banger_monotonic_us() - begun) / 1e3);
	if (r == 0)
		r = act(s, argc, argv);
	session_freep(&s);
	return r;
}
