/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where bangerfs and virtiofsd are, and which virtiofsd it is. That is asked of the program itself, each time: it takes
 * some milliseconds, an upgrade needs no restart of the daemon, and a VM with the registry takes longer anyway.
 */
#include <errno.h>
#include <limits.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <banger/cleanup.h>
#include "vm/registry_internal.h"

/* The newer one first. */
static const char *const places[] = {"/usr/local/libexec/virtiofsd", "/usr/libexec/virtiofsd",
	"/usr/local/bin/virtiofsd", "/usr/bin/virtiofsd", "/usr/lib/virtiofsd",
	"/usr/lib/qemu/virtiofsd"};

/* The first 512 bytes of what it prints; "" when it cannot be run. */
static void ask_version(const char *program, char ret[512])
{
	char *argv[] = {(char *)program, (char *)"--version", NULL};
	char *env[] = {(char *)"LC_ALL=C.UTF-8", (char *)"PATH=/usr/local/bin:/usr/bin:/bin", NULL};
	posix_spawn_file_actions_t fa;
	size_t have = 0;
	int p[2];
	pid_t pid = -1;

	ret[0] = '\0';
	if (pipe2(p, O_CLOEXEC) < 0)
		return;
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_adddup2(&fa, p[1], 1);
	posix_spawn_file_actions_adddup2(&fa, p[1], 2);
	int r = posix_spawn(&pid, program, &fa, NULL, argv, env);
	posix_spawn_file_actions_destroy(&fa);
	close(p[1]);
	while (r == 0 && have < 511) {
		ssize_t n = read(p[0], ret + have, 511 - have);
		if (n <= 0)
			break;
		have += n;
	}
	close(p[0]);
	if (r == 0)
		waitpid(pid, NULL, 0);
	ret[have] = '\0';
}

static int look_at(const char *program, struct virtiofsd *ret)
{
	char text[512];
	struct virtiofsd v = {.kind = VIRTIOFSD_C};

	if (access(program, X_OK) < 0)
		return -errno;
	ask_version(program, text);
	int r = virtiofsd_parse_version(text, &v.kind, v.version);
	if (r < 0)
		return r;
	if (!realpath(program, v.program)) /* it is started from elsewhere */
		return -errno;
	*ret = v;
	return 0;
}

int virtiofsd_find(
	const struct banger_config *config, struct virtiofsd *ret, struct banger_error *err)
{
	if (config->virtiofsd) {
		if (look_at(config->virtiofsd, ret) == 0)
			return 0;
		return banger_error_set(err, BANGER_UNSUPPORTED,
			"the registry cannot be shared with VMs: %s is no virtiofsd that runs here",
			config->virtiofsd);
	}
	for (size_t i = 0; i < ELEMENTSOF(places); i++)
		if (look_at(places[i], ret) == 0)
			return 0;
	return banger_error_set(err, BANGER_UNSUPPORTED,
		"the registry cannot be shared with VMs: virtiofsd is not installed (Debian 12: "
		"qemu-system-common, later: virtiofsd)");
}

/* An installed prefix, or a build tree; then the usual places. */
int bangerfs_find(const struct banger_config *config, char ret[PATH_MAX], struct banger_error *err)
{
	static const char *const beside[] = {
		"", "/../bin", "/../../bin", "/../../../bin", "/../fs", "/../../fs"};
	static const char *const usual[] = {"/usr/local/bin", "/usr/bin"};
	char self[PATH_MAX];

	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash = n > 0 ? memrchr(self, '/', n) : NULL;
	if (config->libexec_dir &&
		snprintf(ret, PATH_MAX, "%s/bangerfs", config->libexec_dir) < PATH_MAX &&
		access(ret, X_OK) == 0)
		return 0;
	for (size_t i = 0; slash && i < ELEMENTSOF(beside); i++)
		if (snprintf(ret, PATH_MAX, "%.*s%s/bangerfs", (int)(slash - self), self,
			    beside[i]) < PATH_MAX &&
			access(ret, X_OK) == 0)
			return 0;
	for (size_t i = 0; i < ELEMENTSOF(usual); i++)
		if (snprintf(ret, PATH_MAX, "%s/bangerfs", usual[i]) < PATH_MAX &&
			access(ret, X_OK) == 0)
			return 0;
	return banger_error_set(err, BANGER_UNSUPPORTED,
		"the registry cannot be shared with VMs: bangerfs is not beside bangerd, nor in "
		"/usr/bin");
}

bool registry_doctor(const struct banger_config *config, char *detail, size_t size)
{
	struct banger_error err = {0};
	struct virtiofsd v;
	char fs[PATH_MAX];

	if (virtiofsd_find(config, &v, &err) < 0 || bangerfs_find(config, fs, &err) < 0) {
		snprintf(detail, size, "%s", err.message);
		return false;
	}
	snprintf(detail, size, "virtiofsd %s (%s)", v.version, v.program);
	return true;
}
