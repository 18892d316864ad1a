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

static void add_c(struct argv *a, const char *dir)
{
	char *source = escape(dir);

	a->failed |= !source;
	argv_add(a, "-f");
	argv_add(a, "-o");
	argv_add(a,
		"source=%s,cache=none,xattr,announce_submounts,no_killpriv_v2,"
		"sandbox=namespace,log_level=err,modcaps=" NO_CAPABILITIES,
		source ?: "");
	free(source);
}

static void add_rust(struct argv *a, const char *dir)
{
	argv_add(a, "--shared-dir=%s", dir);
	argv_add(a, "--cache=never");
	argv_add(a, "--xattr");
	argv_add(a, "--announce-submounts");
	argv_add(a, "--inode-file-handles=never");
	argv_add(a, "--sandbox=namespace");
	argv_add(a, "--log-level=error");
	argv_add(a, "--modcaps=" NO_CAPABILITIES);
}

int virtiofsd_args(const char *program, enum virtiofsd_kind kind, const char *dir, int socket_fd,
	bool root, struct argv *ret)
{
	struct argv a = {.n = 0};

	argv_add(&a, "%s", program);
	argv_add(&a, "--fd=%d", socket_fd);
	argv_add(&a, "--thread-pool-size=%d", THREADS);
	if (!root) /* who cannot raise it beyond what the daemon has raised it to */
		argv_add(&a, "--rlimit-nofile=0");
	if (kind == VIRTIOFSD_C)
		add_c(&a, dir);
	else
		add_rust(&a, dir);
	return argv_give(&a, ret);
}

int bangerfs_args(const char *program, const char *socket, const char *vm, bool changes,
	int ready_fd, int until_fd, struct argv *ret)
{
	struct argv a = {.n = 0};

	argv_add(&a, "%s", program);
	argv_add(&a, "-f");
	argv_add(&a, "--socket=%s", socket);
	argv_add(&a, "--vm=%s", vm);
	argv_add(&a, "--ready-fd=%d", ready_fd);
	argv_add(&a, "--until-fd=%d", until_fd);
	if (!changes) { /* the kernel refuses what would write, before anybody is asked */
		argv_add(&a, "-o");
		argv_add(&a, "ro");
	}
	argv_add(&a, REGISTRY_MOUNT);
	return argv_give(&a, ret);
}
