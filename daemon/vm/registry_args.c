/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command lines of bangerfs and of virtiofsd, of which there are two: QEMU's own in C (Debian 12), and the one in Rust
 * that took its place. They do the same, but for what is said here.
 *
 * cache	none: each look in the guest asks virtiofsd, whose own kernel has the cache, and is told by bangerfs of each
 *		change. So what anybody publishes shows in the VM at once, and files that are made when they are opened
 *		(last-error) can be read, which a guest that believes their size of 0 would not do. What a program in the VM
 *		cannot do is map a file with MAP_SHARED.
 * sandbox	own mount, process and network namespaces, the shared tree being the root; seccomp is always on.
 * modcaps	none is needed: bangerfs decides who may do what, and the guest's root is the owner there. So whoever breaks
 *		virtiofsd has no right that is worth having, and a guest's other users, for whom it would change its
 *		uid, make nothing.
 * threads	a read of `events` waits.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "vm/registry.h"

#define THREADS 64
#define NO_CAPABILITIES "-chown:-dac_override:-fowner:-fsetid:-setgid:-setuid:-mknod:-setfcap"

void registry_args_done(struct registry_args *a)
{
	for (size_t i = 0; i < a->n; i++)
		free(a->v[i]);
	*a = (struct registry_args){0};
}

static void add(struct registry_args *a, const char *fmt, ...) _printf_(2, 3);
static void add(struct registry_args *a, const char *fmt, ...)
{
	va_list ap;

	if (a->n == REGISTRY_ARGS) {
		a->failed = true;
		return;
	}
	va_start(ap, fmt);
	if (vasprintf(&a->v[a->n], fmt, ap) < 0) {
		a->v[a->n] = NULL;
		a->failed = true;
	} else {
		a->n++;
	}
	va_end(ap);
}

static int give(struct registry_args *a, struct registry_args *ret)
{
	if (a->failed) {
		registry_args_done(a);
		return -ENOMEM;
	}
	*ret = *a;
	return 0;
}

/* "virtiofsd version 7.2.22 (Debian …)\n…\nusing FUSE kernel interface version 7.36\n", "virtiofsd 1.13.2\n" or
 * "virtiofsd backend 1.4.0\n" */
int virtiofsd_parse_version(const char *text, enum virtiofsd_kind *ret, char ret_version[32])
{
	const char *p = strstr(text, "virtiofsd "), *end = p ? strchrnul(p, '\n') : NULL;

	if (!p)
		return -EINVAL;
	while (p < end && !(*p >= '0' && *p <= '9'))
		p++;
	size_t n = strspn(p, "0123456789.");
	if (n == 0 || n > 31)
		return -EINVAL;
	snprintf(ret_version, 32, "%.*s", (int)n, p);
	*ret = strstr(text, "FUSE kernel interface") ? VIRTIOFSD_C : VIRTIOFSD_RUST;
	return 0;
}

/* Options of the C one are in one word: a comma in a path is escaped there. NULL: no memory. */
static char *escape(const char *path)
{
	char *to = malloc(2 * strlen(path) + 1), *p = to;

	for (; to && *path; path++) {
		if (*path == ',' || *path == '\\')
			*p++ = '\\';
		*p++ = *path;
	}
	if (to)
		*p = '\0';
	return to;
}

static void add_c(struct registry_args *a, const char *dir)
{
	char *source = escape(dir);

	a->failed |= !source;
	add(a, "-f");
	add(a, "-o");
	add(a,
		"source=%s,cache=none,xattr,announce_submounts,no_killpriv_v2,"
		"sandbox=namespace,log_level=err,modcaps=" NO_CAPABILITIES,
		source ?: "");
	free(source);
}

static void add_rust(struct registry_args *a, const char *dir)
{
	add(a, "--shared-dir=%s", dir);
	add(a, "--cache=never");
	add(a, "--xattr");
	add(a, "--announce-submounts");
	add(a, "--inode-file-handles=never");
	add(a, "--sandbox=namespace");
	add(a, "--log-level=error");
	add(a, "--modcaps=" NO_CAPABILITIES);
}

int virtiofsd_args(const char *program, enum virtiofsd_kind kind, const char *dir, int socket_fd,
	bool root, struct registry_args *ret)
{
	struct registry_args a = {.n = 0};

	add(&a, "%s", program);
	add(&a, "--fd=%d", socket_fd);
	add(&a, "--thread-pool-size=%d", THREADS);
	if (!root) /* who cannot raise it beyond what the daemon has raised it to */
		add(&a, "--rlimit-nofile=0");
	if (kind == VIRTIOFSD_C)
		add_c(&a, dir);
	else
		add_rust(&a, dir);
	return give(&a, ret);
}

int bangerfs_args(const char *program, const char *socket, const char *vm, bool changes,
	int ready_fd, int until_fd, struct registry_args *ret)
{
	struct registry_args a = {.n = 0};

	add(&a, "%s", program);
	add(&a, "-f");
	add(&a, "--socket=%s", socket);
	add(&a, "--vm=%s", vm);
	add(&a, "--ready-fd=%d", ready_fd);
	add(&a, "--until-fd=%d", until_fd);
	if (!changes) { /* the kernel refuses what would write, before anybody is asked */
		add(&a, "-o");
		add(&a, "ro");
	}
	add(&a, REGISTRY_MOUNT);
	return give(&a, ret);
}
