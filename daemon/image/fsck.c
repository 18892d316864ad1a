/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Running e2fsck. It parses what a stranger made, and its library has been broken by such before: see tool.h for what
 * little it is given. It can read one file and write none.
 *
 * What it says is shown to people, so only printable characters are taken from it.
 */
#include <string.h>
#include <sys/wait.h>
#include <banger/log.h>
#include "image/fsck.h"
#include "image/tool.h"

static const struct tool e2fsck = {
	.name = "e2fsck",
	.places = (const char *const[]){"/usr/sbin/e2fsck", "/sbin/e2fsck",
		"/usr/local/sbin/e2fsck", "/usr/bin/e2fsck", NULL},
	.package = "e2fsprogs",
	.argv = (const char *const[]){"e2fsck", "-fn", "/proc/self/fd/3", NULL},
	.memory_max = INT64_C(8) << 30,
	.time_max_s = 600,
};

/* Lines that only say what it is doing. */
static bool is_chatter(const char *line)
{
	return !strncmp(line, "e2fsck ", 7) || !strncmp(line, "Pass ", 5) || !line[0] ||
	       strstr(line, "WARNING: Filesystem still has errors");
}

/* The complaints, as one line. */
static void summarise(struct tool_end *f, char *ret, size_t size)
{
	char *save = NULL;
	size_t len = 0;

	ret[0] = 0;
	for (size_t i = 0; i < f->len; i++)
		if ((f->output[i] < 0x20 && f->output[i] != '\n') || f->output[i] > 0x7e)
			f->output[i] = '?';
	for (char *line = strtok_r(f->output, "\n", &save); line;
		line = strtok_r(NULL, "\n", &save)) {
		if (is_chatter(line) || len + 1 >= size)
			continue;
		int n = snprintf(ret + len, size - len, "%s%s", len ? "; " : "", line);
		len += (size_t)n < size - len ? (size_t)n : size - len - 1;
	}
}

int fsck_check(int fd, struct operation *op, char *ret_text, size_t size, struct banger_error *err)
{
	struct tool t = e2fsck;
	struct tool_end end;
	char text[512];

	t.fds[0] = fd;
	t.fds[1] = -1;
	int r = tool_run(&t, op, &end, err);
	if (r < 0)
		return r;
	summarise(&end, text, sizeof(text));
	int status = end.status;
	if (WIFSIGNALED(status))
		snprintf(ret_text, size, "e2fsck was killed by signal %d", WTERMSIG(status));
	else if (WEXITSTATUS(status) == 0)
		snprintf(ret_text, size, "clean");
	else if (text[0])
		snprintf(ret_text, size, "%s", text);
	else
		snprintf(ret_text, size, "e2fsck exited with %d", WEXITSTATUS(status));
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}
