/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Combining the request with the image's configuration. Lists are counted first and then filled, so
 * that an array is never too short; the strings stay where they are.
 */
#include <string.h>
#include "vm/command.h"

static size_t count_json(struct json_object *list)
{
	return json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;
}

static size_t count(const char *const *list)
{
	size_t n = 0;

	while (list && list[n])
		n++;
	return n;
}

static size_t fill_json(const char **to, struct json_object *list)
{
	size_t n = count_json(list), k = 0;

	for (size_t i = 0; i < n; i++) {
		const char *s = json_object_get_string(json_object_array_get_idx(list, i));
		if (s)
			to[k++] = s;
	}
	return k;
}

static size_t fill(const char **to, const char *const *list)
{
	size_t n = count(list);

	for (size_t i = 0; i < n; i++)
		to[i] = list[i];
	return n;
}

static int make_argv(const struct vm_exec *run, struct command *c, struct banger_error *err)
{
	struct json_object *entry = run->argv && !run->entrypoint
					    ? NULL
					    : banger_json_get(c->config, "entrypoint"),
			   *cmd = banger_json_get(c->config, "cmd");
	size_t n = 0, max = count_json(entry) + count_json(cmd) + count(run->argv) + 2;

	c->exec.argv = calloc(max, sizeof(char *));
	if (!c->exec.argv)
		return banger_error_oom(err);
	n += fill_json(c->exec.argv, entry);
	n += run->argv ? fill(c->exec.argv + n, run->argv) : fill_json(c->exec.argv + n, cmd);
	if (n == 0)
		c->exec.argv[0] = "/bin/sh";
	return 0;
}

static int make_env(const struct vm_exec *run, struct command *c, struct banger_error *err)
{
	struct json_object *env = banger_json_get(c->config, "env");

	c->exec.env = calloc(count_json(env) + count(run->env) + 1, sizeof(char *));
	if (!c->exec.env)
		return banger_error_oom(err);
	/* Later ones win in the guest, which sets them in order. */
	size_t n = fill_json(c->exec.env, env);
	fill(c->exec.env + n, run->env);
	return 0;
}

int command_make(
	const struct vm_exec *run, const char *config, struct command *ret, struct banger_error *err)
{
	struct command c = {0};
	int r = 0;

	if (config && (r = banger_json_parse(config, strlen(config), &c.config, err)) < 0) {
		banger_error_prefix(err, "the image's configuration");
		return r;
	}
	c.exec.user = run->user ?: banger_json_str(c.config, "user") ?: "";
	c.exec.workdir = run->workdir ?: banger_json_str(c.config, "working_dir") ?: "";
	c.exec.flags = (run->tty ? AGENT_EXEC_TTY : 0) | (run->detach ? AGENT_EXEC_DETACH : 0) |
		       (run->main ? AGENT_EXEC_MAIN : 0);
	/* As Docker has it, the image's own is made where it is missing; one that is asked for is not. */
	if (!run->workdir)
		c.exec.flags |= AGENT_EXEC_MKDIR;
	c.exec.rows = (uint16_t)run->rows;
	c.exec.cols = (uint16_t)run->cols;
	if ((r = make_argv(run, &c, err)) < 0 || (r = make_env(run, &c, err)) < 0) {
		command_done(&c);
		return r;
	}
	long n = agent_exec_pack(&c.exec, NULL, 0);
	if (n < 0) {
		command_done(&c);
		return banger_error_set(err, BANGER_TOO_LARGE,
			"arguments and environment are over %d bytes", AGENT_PAYLOAD_MAX);
	}
	*ret = c;
	return 0;
}

void command_done(struct command *c)
{
	free(c->exec.argv);
	free(c->exec.env);
	json_object_put(c->config);
	*c = (struct command){0};
}
