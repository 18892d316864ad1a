/* SPDX-License-Identifier: Apache-2.0 */
/*
 * banger-agent: /init of a VM.
 *
 * It has no arguments and nothing to configure; what it must know is in the initrd and on the
 * kernel's command line (agent.h). Its log goes to the console, under the op_id of the operation
 * that started the VM. As PID 1 it never exits, because the kernel would panic: a failure is told to the
 * host through the port, and the VM is powered off.
 *
 * Where the image's own init shall run, PID 1 becomes that, and the agent goes on beside it as two processes: one that
 * serves, and one that starts it again should somebody end it. By systemd's convention a process whose name on the
 * command line begins with '@' is left alone when everything else is ended for a shutdown.
 */
#include "agent.h"
#include <banger/cleanup.h>
#include <banger/log.h>
#include <banger/op.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct boot_options options;

static int boot(int *port, char *why)
{
	int r = boot_mounts(why);

	if (r < 0)
		return r;
	boot_options_read(&options);
	banger_op_enter(options.op_id);
	if ((r = boot_modules(why)) < 0)
		return r;
	if ((r = boot_port(why)) < 0)
		return r;
	*port = r;
	if ((r = boot_root(&options, why)) < 0)
		return r;
	if ((r = boot_disks(&options, why)) < 0)
		return r;
	return boot_network(&options, why);
}

static void spare(char *name)
{
	_cleanup_close_ int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd >= 0 && write(fd, "-1000", 5) != 5)
		errno = 0;
	name[0] = '@';
	prctl(PR_SET_NAME, "banger-agent");
	setsid();
}

__attribute__((noreturn)) static void work(int port, enum init_kind init, bool again)
{
	const struct serve_options o = {.port = port, .init = init, .again = again};

	serve(&o);
	power_off();
}

/* Beside PID 1: see that there is always one that serves. */
__attribute__((noreturn)) static void guard(int port, enum init_kind init)
{
	const struct timespec moment = {0, 100000000};
	char why[WHY_MAX];

	for (bool again = false;; again = true) {
		if (again && (port = boot_port(why)) < 0) {
			log_err("the agent has lost its port", KV_S("error", why));
			_exit(1);
		}
		pid_t pid = fork();
		if (pid == 0)
			work(port, init, again);
		banger_closep(&port);
		if (pid > 0)
			while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
				;
		nanosleep(&moment, NULL);
	}
}

/* Returns only when the init could not be started. */
static int hand_over(int port, enum init_kind init, const char *path, char *name, char *why)
{
	sigset_t all, before;

	/* From here on until it serves nothing that init sends around ends it. */
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &before);
	pid_t pid = fork();
	if (pid < 0)
		return fail(why, errno, "cannot start the agent beside the image's init", NULL);
	if (pid == 0) {
		spare(name);
		guard(port, init);
	}
	sigprocmask(SIG_SETMASK, &before, NULL);
	init_prepare(init);
	int r = init_become(path, why);
	kill(-1, SIGKILL);
	return r;
}

int main(int argc, char **argv)
{
	enum init_kind init = INIT_NONE;
	const char *path = NULL;
	char why[WHY_MAX] = "";
	int port = -1;

	if (getpid() != 1) {
		static const char text[] = "banger-agent runs as the first process of a VM\n";
		return write(STDERR_FILENO, text, sizeof(text) - 1) < 0 ? 1 : 2;
	}
	banger_log_init("banger-agent");
	int r = boot(&port, why);
	if (r == 0 && strcmp(options.init, "image") == 0)
		init = init_find(&path);
	if (r == 0 && init == INIT_NONE)
		work(port, init, false);
	if (r == 0)
		r = hand_over(port, init, path, argv[0], why);
	log_err("the VM cannot be used", KV_S("error", why));
	if (port >= 0)
		serve_failed(port, why);
	power_off();
}
