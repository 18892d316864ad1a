/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starting a program: user, environment, working directory, three pipes, a session of its own.
 *
 * Between fork and exec the child reports what fails through a pipe that closes on exec, so a
 * program that cannot be started is told from one that ended with 127. PATH is searched as execvp
 * does, in the environment that the program will have.
 */
#include "agent.h"
#include <banger/cleanup.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* What the child tells: which step failed, and errno. */
struct report {
	int step, errnum;
};
enum { STEP_USER = 1, STEP_WORKDIR, STEP_EXEC };

static bool has_variable(const char **env, const char *name)
{
	size_t n = strlen(name);

	for (; *env; env++)
		if (strncmp(*env, name, n) == 0 && (*env)[n] == '=')
			return true;
	return false;
}

static void set_environment(const struct agent_exec *e, const struct user *u)
{
	clearenv();
	if (!has_variable(e->env, "PATH"))
		setenv("PATH", DEFAULT_PATH, 1);
	if (!has_variable(e->env, "HOME"))
		setenv("HOME", u->home, 1);
	if (u->name[0] && !has_variable(e->env, "USER"))
		setenv("USER", u->name, 1);
	for (const char **v = e->env; *v; v++)
		putenv((char *)*v);
}

static int become(const struct user *u)
{
	if (setgroups(u->n_groups, u->groups) < 0 || setgid(u->gid) < 0 || setuid(u->uid) < 0)
		return -errno;
	return 0;
}

/* In the child. Never returns. */
static void run(const struct agent_exec *e, const struct user *u, const int std[3], int report_fd)
{
	struct report report = {STEP_EXEC, 0};
	const char *dir = *e->workdir ? e->workdir : u->home;
	sigset_t none;

	setsid();
	for (int i = 0; i < 3; i++)
		dup2(std[i], i);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	set_environment(e, u);
	int r = become(u);
	if (r < 0) {
		report = (struct report){STEP_USER, -r};
	} else if (chdir(dir) < 0 && (*e->workdir || chdir("/") < 0)) {
		report = (struct report){STEP_WORKDIR, errno};
	} else {
		execvp(e->argv[0], (char **)e->argv);
		report.errnum = errno;
	}
	if (write(report_fd, &report, sizeof(report)) != sizeof(report))
		_exit(126);
	_exit(127);
}

static int explain(const struct report *r, const struct agent_exec *e, char *why)
{
	const char *text = strerrordesc_np(r->errnum) ?: "error";

	switch (r->step) {
	case STEP_USER:
		snprintf(why, WHY_MAX, "cannot become user \"%.64s\": %s", e->user, text);
		break;
	case STEP_WORKDIR:
		snprintf(why, WHY_MAX, "cannot enter the working directory \"%.256s\": %s",
			e->workdir, text);
		break;
	default:
		if (r->errnum == ENOENT && !strchr(e->argv[0], '/'))
			text = "not found in $PATH";
		snprintf(why, WHY_MAX, "cannot run \"%.256s\": %s", e->argv[0], text);
	}
	return -r->errnum;
}

static int open_pipes(int in[2], int out[2], int err[2], int report[2])
{
	if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0 || pipe2(err, O_CLOEXEC) < 0 ||
		pipe2(report, O_CLOEXEC) < 0)
		return -errno;
	/* Ours never block; theirs do. */
	if (fcntl(in[1], F_SETFL, O_NONBLOCK) < 0 || fcntl(out[0], F_SETFL, O_NONBLOCK) < 0 ||
		fcntl(err[0], F_SETFL, O_NONBLOCK) < 0)
		return -errno;
	return 0;
}

static void close_pair(const int p[2])
{
	banger_closep(&p[0]);
	banger_closep(&p[1]);
}

static int spawn(struct program *p, const struct agent_exec *e, const struct user *u, char *why)
{
	int in[2] = {-1, -1}, out[2] = {-1, -1}, err[2] = {-1, -1}, report[2] = {-1, -1};
	struct report said;

	int r = open_pipes(in, out, err, report);
	pid_t pid = r < 0 ? -1 : fork();
	if (pid == 0)
		run(e, u, (const int[]){in[0], out[1], err[1]}, report[1]);
	if (pid < 0) {
		r = r < 0 ? r : -errno;
		snprintf(why, WHY_MAX, "cannot start a program in the VM: %s",
			strerrordesc_np(-r) ?: "error");
	} else {
		close(TAKE_FD(report[1]));
		if (read(report[0], &said, sizeof(said)) == sizeof(said)) {
			r = explain(&said, e, why);
			waitpid(pid, NULL, 0);
		}
	}
	if (r == 0) {
		p->pid = pid;
		p->in.fd = TAKE_FD(in[1]);
		p->out.fd = TAKE_FD(out[0]);
		p->err.fd = TAKE_FD(err[0]);
	}
	close_pair(in);
	close_pair(out);
	close_pair(err);
	close_pair(report);
	return r;
}

int program_start(uint16_t channel, const struct agent_exec *e, struct program **ret, char *why)
{
	struct user u;

	int r = user_find(e->user, &u, why);
	if (r < 0)
		return r;
	struct program *p = calloc(1, sizeof(*p));
	if (!p) {
		snprintf(why, WHY_MAX, "out of memory in the VM");
		return -ENOMEM;
	}
	p->channel = channel;
	p->in = p->out = p->err = (struct stream){.fd = -1, .window = AGENT_WINDOW, .left = -1};
	r = spawn(p, e, &u, why);
	if (r < 0) {
		program_free(p);
		return r;
	}
	*ret = p;
	return 0;
}

void program_free(struct program *p)
{
	banger_closep(&p->in.fd);
	banger_closep(&p->out.fd);
	banger_closep(&p->err.fd);
	free(p->pending);
	free(p);
}
