/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Users and groups as the image's own /etc/passwd and /etc/group name them. libc's functions are of
 * no use here: linked statically they would load the image's name-service modules into PID 1. The
 * files are the image's, so lines that are no entries are passed over.
 */
#include "agent.h"
#include <banger/cleanup.h>
#include <ctype.h>
#include <string.h>

/* Split line at ':' into at most n fields; returns their number. */
static int split(char *line, char **fields, int n)
{
	int k = 0;

	line[strcspn(line, "\n")] = '\0';
	while (k < n) {
		fields[k++] = line;
		line = strchr(line, ':');
		if (!line)
			break;
		*line++ = '\0';
	}
	return k;
}

static bool number(const char *s, uint32_t *ret)
{
	char *end;

	if (!isdigit((unsigned char)s[0]))
		return false;
	errno = 0;
	unsigned long v = strtoul(s, &end, 10);
	if (*end || errno || v >= UINT32_MAX)
		return false;
	*ret = v;
	return true;
}

/* The entry whose name is `name`, or whose uid is `uid` when name is NULL. */
static bool find_passwd(const char *name, uid_t uid, struct user *u)
{
	_cleanup_fclose_ FILE *f = fopen("/etc/passwd", "re");
	char line[1024], *e[7] = {NULL};
	uint32_t id, gid;

	while (f && fgets(line, sizeof(line), f)) {
		int n = split(line, e, 7);
		if (n < 6 || !number(e[2], &id) || !number(e[3], &gid))
			continue;
		if (name ? strcmp(e[0], name) != 0 : id != uid)
			continue;
		const char *shell = n == 7 ? e[6] : "";
		/* Half of a path is another path. */
		if (strlen(e[0]) >= sizeof(u->name) || strlen(e[5]) >= sizeof(u->home) ||
			strlen(shell) >= sizeof(u->shell))
			continue;
		u->uid = id;
		u->gid = gid;
		strcpy(u->name, e[0]);
		strcpy(u->home, e[5]);
		strcpy(u->shell, shell);
		return true;
	}
	return false;
}

static bool is_member(const char *list, const char *name)
{
	size_t n = strlen(name);

	for (const char *p = list; p && *p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL)
		if (strncmp(p, name, n) == 0 && (p[n] == ',' || p[n] == '\0'))
			return true;
	return false;
}

/* The gid of group `name`, when it is given, and the groups that the user is a member of. */
static bool read_groups(const char *name, struct user *u)
{
	_cleanup_fclose_ FILE *f = fopen("/etc/group", "re");
	char line[4096], *e[4];
	bool found = false;
	uint32_t gid;

	while (f && fgets(line, sizeof(line), f)) {
		int n = split(line, e, 4);

		if (n < 3 || !number(e[2], &gid))
			continue;
		if (name && strcmp(e[0], name) == 0) {
			u->gid = gid;
			found = true;
		}
		if (n == 4 && u->name[0] && is_member(e[3], u->name) &&
			u->n_groups < (int)ELEMENTSOF(u->groups))
			u->groups[u->n_groups++] = gid;
	}
	return found;
}

int user_find(const char *spec, struct user *ret, char *why)
{
	char name[256];
	struct user u = {.home = "/"};
	uint32_t id;

	snprintf(name, sizeof(name), "%s", *spec ? spec : "0");
	char *group = strchr(name, ':');
	if (group)
		*group++ = '\0';
	if (number(name, &id)) {
		u.uid = id;
		/* A number needs no entry; root's home is known without one. */
		if (!find_passwd(NULL, id, &u) && id == 0)
			snprintf(u.home, sizeof(u.home), "/root");
	} else if (!find_passwd(name, 0, &u)) {
		snprintf(why, WHY_MAX, "the image has no user \"%s\"", name);
		return -ENOENT;
	}
	bool by_name = group && !number(group, &id);
	bool found = read_groups(by_name ? group : NULL, &u);
	/* As Docker has it: who names a group gets that one and no others. */
	if (group)
		u.n_groups = 0;
	if (by_name && !found) {
		snprintf(why, WHY_MAX, "the image has no group \"%s\"", group);
		return -ENOENT;
	}
	if (group && !by_name)
		u.gid = id;
	*ret = u;
	return 0;
}
