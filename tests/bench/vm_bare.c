/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The floor under banger's agent: /init of a bare guest, a static program that does what must be done and nothing else.
 * It loads the modules in /modules.list, mounts the root disk (bare.root=DEVICE) and changes into it. Then:
 *	bare.run=PATH	it runs that with bare.arg=TEXT as its one argument, on the console
 *	otherwise	it obeys requests on the first virtio-serial port, one after the other, until there is none
 *
 * A request is three little-endian u32: what, size, count.
 *	ECHO	what comes goes back as it came, size * count bytes of it, read and written size at a time
 *	SINK	size * count bytes are read, size at a time; then 8 bytes are said
 *	SOURCE	size * count bytes are said, size at a time
 *	SPAWN	/bin/true is run count times: for each, u64 nanoseconds from before its fork until it was waited for;
 *		size 1: by vfork; 2: this program itself is run, which is static and ends at once
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SIZE_MOST (256 * 1024)

enum { ECHO = 1, SINK, SOURCE, SPAWN };
static uint8_t buffer[SIZE_MOST];
static char line[4096], root[64], command[128], argument[512];

__attribute__((noreturn)) static void end(const char *what)
{
	if (what)
		perror(what);
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}

static void load_modules(void)
{
	FILE *f = fopen("/modules.list", "re");
	char path[1024];

	while (f && fgets(path, sizeof(path), f)) {
		path[strcspn(path, "\n")] = '\0';
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		if (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST)
			end(path);
		close(fd);
	}
	if (f)
		fclose(f);
}

static void read_words(void)
{
	const struct {
		const char *word;
		char *to;
		size_t size;
	} words[] = {{"bare.root=", root, sizeof(root)}, {"bare.run=", command, sizeof(command)},
		{"bare.arg=", argument, sizeof(argument)}};
	int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
	ssize_t n = read(fd, line, sizeof(line) - 1);

	close(fd);
	line[n > 0 ? n : 0] = '\0';
	for (char *save = NULL, *w = strtok_r(line, " \n", &save); w;
		w = strtok_r(NULL, " \n", &save))
		for (size_t i = 0; i < 3; i++)
			if (strncmp(w, words[i].word, strlen(words[i].word)) == 0)
				snprintf(words[i].to, words[i].size, "%s",
					w + strlen(words[i].word));
}

static void enter_root(void)
{
	const struct timespec moment = {0, 1000000};

	for (int i = 0; i < 5000 && access(root, F_OK) < 0; i++)
		nanosleep(&moment, NULL);
	mkdir("/newroot", 0755);
	if (mount(root, "/newroot", "ext4", 0, NULL) < 0)
		end("root");
	mount("/dev", "/newroot/dev", NULL, MS_MOVE, NULL);
	mount("/proc", "/newroot/proc", NULL, MS_MOVE, NULL);
	if (chdir("/newroot") < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0)
		end("root");
}

static int open_port(void)
{
	const struct timespec moment = {0, 1000000};
	char path[64];

	for (int i = 0; i < 5000; i++) {
		for (int k = 0; k < 8; k++) {
			snprintf(path, sizeof(path), "/dev/vport%dp1", k);
			int fd = open(path, O_RDWR | O_CLOEXEC);
			if (fd >= 0)
				return fd;
		}
		nanosleep(&moment, NULL);
	}
	end("port");
}

static void take(int fd, void *to, size_t n)
{
	for (size_t at = 0; at < n;) {
		ssize_t k = read(fd, (uint8_t *)to + at, n - at);
		if (k <= 0)
			end(NULL);
		at += k;
	}
}

static void say(int fd, const void *from, size_t n)
{
	for (size_t at = 0; at < n;) {
		ssize_t k = write(fd, (const uint8_t *)from + at, n - at);
		if (k <= 0)
			end(NULL);
		at += k;
	}
}

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static pid_t run(uint32_t how, int self)
{
	static char *true_argv[] = {(char *)"true", NULL}, *own_argv[] = {(char *)"end", NULL},
		    *env[] = {NULL};
	pid_t pid = how == 1 ? vfork() : fork();

	if (pid == 0) {
		if (how == 2)
			syscall(SYS_execveat, self, "", own_argv, env, AT_EMPTY_PATH);
		else
			execve("/bin/true", true_argv, env);
		_exit(127);
	}
	return pid;
}

static void spawn(int port, uint32_t how, uint32_t count)
{
	int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

	while (count-- > 0) {
		uint64_t took = now();
		if (waitpid(run(how, self), NULL, 0) < 0)
			end("wait");
		took = now() - took;
		say(port, &took, sizeof(took));
	}
	close(self);
}

static void serve(int port)
{
	for (;;) {
		uint32_t request[3];

		take(port, request, sizeof(request));
		uint32_t what = request[0], size = request[1];
		uint64_t left = (uint64_t)size * request[2];
		if (what == SPAWN) {
			spawn(port, size, request[2]);
			continue;
		}
		while (left > 0) {
			size_t want = left < size ? left : size;
			ssize_t n = what == SOURCE ? (ssize_t)want : read(port, buffer, want);
			if (n <= 0)
				end(NULL);
			if (what != SINK)
				say(port, buffer, n);
			left -= n;
		}
		if (what == SINK)
			say(port, "received", 8);
	}
}

int main(int argc, char **argv)
{
	if (getpid() != 1)
		return strcmp(argv[0], "end") == 0 ? 0 : 2;
	mkdir("/dev", 0755);
	mkdir("/proc", 0755);
	mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
	mount("proc", "/proc", "proc", 0, NULL);
	load_modules();
	read_words();
	if (root[0])
		enter_root();
	if (!command[0])
		serve(open_port());
	char *args[] = {command, argument[0] ? argument : NULL, NULL},
	     *env[] = {(char *)"PATH=/usr/bin:/bin", NULL};
	execve(command, args, env);
	end(command);
}
