/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The environment of a program: what the host gave, over a few variables that every program expects. It is made before
 * the child is, because the child shares our memory until it is another program.
 *
 * The host may give a name twice, the image's value and then the user's: the last one counts. A name without '=' takes
 * the variable away. Names are found by a table, because a frame holds tens of thousands of them.
 */
#include "agent.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

struct table {
	const char **v;  /* the variables, in the order in which their names came first */
	uint32_t *at;    /* by hash of the name: 1 + index in v; 0: free */
	size_t n, slots; /* slots: a power of two, over twice as many as names can come */
};

static size_t name_length(const char *variable)
{
	return strcspn(variable, "=");
}

static void set(struct table *t, const char *variable)
{
	size_t len = name_length(variable);
	uint32_t hash = 2166136261u;

	for (size_t i = 0; i < len; i++)
		hash = (hash ^ (uint8_t)variable[i]) * 16777619u;
	for (size_t slot = hash & (t->slots - 1);; slot = (slot + 1) & (t->slots - 1)) {
		if (t->at[slot] == 0) {
			t->v[t->n++] = variable;
			t->at[slot] = t->n;
			return;
		}
		const char **known = &t->v[t->at[slot] - 1];
		if (name_length(*known) == len && memcmp(*known, variable, len) == 0) {
			*known = variable;
			return;
		}
	}
}

/* "NAME=value" into the buffer that keeps it. */
static void set_own(struct table *t, char *to, size_t size, const char *name, const char *value)
{
	snprintf(to, size, "%s=%s", name, value);
	set(t, to);
}

static void set_defaults(
	struct table *t, struct environment *e, const struct agent_exec *x, const struct user *u)
{
	set(t, "PATH=" DEFAULT_PATH);
	set_own(t, e->home, sizeof(e->home), "HOME", u->home);
	if (u->name[0])
		set_own(t, e->user, sizeof(e->user), "USER", u->name);
	if (u->shell[0])
		set_own(t, e->shell, sizeof(e->shell), "SHELL", u->shell);
	if (x->flags & AGENT_EXEC_TTY)
		set(t, "TERM=xterm");
}

int environment_make(const struct agent_exec *x, const struct user *u, struct environment *ret)
{
	struct table t = {.slots = 16};
	size_t most = 5, n = 0;

	for (const char **v = x->env; *v; v++)
		most++;
	while (t.slots < 2 * most)
		t.slots *= 2;
	t.v = calloc(most + 1, sizeof(*t.v));
	t.at = calloc(t.slots, sizeof(*t.at));
	if (!t.v || !t.at) {
		free(t.v);
		free(t.at);
		return -ENOMEM;
	}
	set_defaults(&t, ret, x, u);
	for (const char **v = x->env; *v; v++)
		set(&t, *v);
	for (size_t i = 0; i < t.n; i++)
		if (strchr(t.v[i], '='))
			t.v[n++] = t.v[i];
	t.v[n] = NULL;
	free(t.at);
	ret->v = t.v;
	return 0;
}

void environment_done(struct environment *e)
{
	free(e->v);
	e->v = NULL;
}
