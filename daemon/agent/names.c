/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The VM's own name, and the files by which its programs look up names: /etc/hostname, /etc/hosts, /etc/resolv.conf.
 *
 * An image has these from where it was built, if it has them: they are another host's. So the first boot of a root disk
 * writes them. From then on they belong to the VM, and are written only where they are missing or empty; and the
 * resolver, which depends on the network that the VM is given at each start, as long as it is what was written here, which
 * its first line says.
 *
 * Where /etc/resolv.conf is a link, a resolver of the image's own is meant: what is written goes to where the link leads,
 * which holds until that resolver begins. systemd's is told of the server in its own way, too.
 */
#include "agent.h"
#include <banger/cleanup.h>
#include <banger/log.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

#define RESOLV "/etc/resolv.conf"
#define HOSTS "/etc/hosts"
#define OURS "# as the VM's network has it; without this line it stays as it is"
#define HOST_MAX 64 /* of the kernel */

static bool says_something(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && (!S_ISREG(st.st_mode) || st.st_size > 0);
}

/* Never waits, whatever an image has at that path. */
static FILE *open_file(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	FILE *f = fd < 0 ? NULL : fdopen(fd, "r");

	if (!f)
		banger_closep(&fd);
	return f;
}

static int write_file(const char *path, int flags, const char *text)
{
	_cleanup_close_ int fd = open(path,
		O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | O_NOFOLLOW | flags, 0644);
	size_t n = strlen(text);

	if (fd < 0)
		return -errno;
	return write(fd, text, n) == (ssize_t)n ? 0 : -EIO;
}

/* ---- its own name */

/* A host's name is shorter than a VM's may be, and does not end with a dot. */
static void host_name(const char *vm, char ret[HOST_MAX + 1])
{
	size_t n = strnlen(vm, HOST_MAX);

	while (n > 0 && strchr("-._", vm[n - 1]))
		n--;
	memcpy(ret, vm, n);
	ret[n] = '\0';
}

/* Has the file a line with this word? */
static bool has_word(const char *path, const char *word)
{
	_cleanup_fclose_ FILE *f = open_file(path);
	char line[1024], *save;

	while (f && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "#\n")] = '\0';
		for (char *w = strtok_r(line, " \t", &save); w; w = strtok_r(NULL, " \t", &save))
			if (strcmp(w, word) == 0)
				return true;
	}
	return false;
}

static void set_hosts(const struct boot_options *o, const char *name)
{
	char text[256];
	int r = 0;

	if (!says_something(HOSTS))
		r = write_file(HOSTS, O_TRUNC,
			"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
	else if (!o->first)
		return;
	snprintf(text, sizeof(text), "127.0.1.1\t%s\n", name);
	if (r == 0 && !has_word(HOSTS, name))
		r = write_file(HOSTS, O_APPEND, text);
	if (r < 0)
		log_debug("cannot write", KV_S("path", HOSTS));
}

void boot_names(const struct boot_options *o)
{
	char name[HOST_MAX + 2];

	host_name(o->name, name);
	if (!name[0])
		return;
	if (sethostname(name, strlen(name)) < 0)
		log_warn("cannot set the host name", KV_S("error", strerrordesc_np(errno)));
	mkdir("/etc", 0755);
	set_hosts(o, name);
	if (!o->first && says_something("/etc/hostname"))
		return;
	strcat(name, "\n");
	if (write_file("/etc/hostname", O_TRUNC, name) < 0)
		log_debug("cannot write", KV_S("path", "/etc/hostname"));
}

/* ---- the resolver */

static bool is_ours(const char *path)
{
	_cleanup_fclose_ FILE *f = open_file(path);
	char line[sizeof(OURS) + 1] = "";

	return f && fgets(line, sizeof(line), f) && strcmp(line, OURS "\n") == 0;
}

/* Where the link at RESOLV leads, with the directories on the way there made; the root is the VM's own, so no path leads
 * out of it. */
static bool follow_link(char ret[PATH_MAX])
{
	char to[PATH_MAX / 2], dir[PATH_MAX];
	ssize_t n = readlink(RESOLV, to, sizeof(to) - 1);

	if (n <= 0)
		return false;
	to[n] = '\0';
	snprintf(ret, PATH_MAX, "%s%s", to[0] == '/' ? "" : "/etc/", to);
	strcpy(dir, ret);
	*strrchr(dir, '/') = '\0';
	if (dir[0])
		make_dirs(dir);
	return true;
}

static void tell_systemd(const char *dns)
{
	char text[64];

	snprintf(text, sizeof(text), "[Resolve]\nDNS=%s\n", dns);
	make_dirs("/run/systemd/resolved.conf.d");
	if (write_file("/run/systemd/resolved.conf.d/banger.conf", O_TRUNC, text) < 0)
		log_debug("cannot tell systemd of the resolver");
}

void names_set_resolver(const struct boot_options *o, const char *dns)
{
	char text[256], path[PATH_MAX];

	bool link = follow_link(path);
	if (link && strstr(path, "/systemd/resolve/"))
		tell_systemd(dns);
	if (says_something(RESOLV) && (link || !o->first) && !is_ours(RESOLV))
		return;
	mkdir("/etc", 0755);
	snprintf(text, sizeof(text), OURS "\nnameserver %s\n", dns);
	int r = write_file(link ? path : RESOLV, O_TRUNC, text);
	/* A root that is only read can still be covered. */
	if (r == -EROFS && (r = write_file("/run/resolv.conf", O_EXCL, text)) == 0 &&
		mount("/run/resolv.conf", RESOLV, NULL, MS_BIND, NULL) < 0)
		r = -errno;
	if (r < 0)
		log_warn("cannot set the resolver", KV_S("error", strerrordesc_np(-r)));
}
