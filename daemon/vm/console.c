/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest can write to its console for ever. The file keeps what came first, where a boot goes wrong, up to
 * FILE_MAX; the ring keeps the last RING bytes, where a panic is.
 */
#include "vm/console.h"

#include <fcntl.h>
#include <string.h>

#define FILE_MAX (1024 * 1024)
#define RING (16 * 1024)

struct console {
	int fd, file_fd;
	size_t written; /* to the file */
	char ring[RING];
	size_t total; /* bytes that went through the ring */
};

int console_new(
	int dir_fd, const char *name, int fd, struct console **ret, struct banger_error *err)
{
	_cleanup_close_ int source = fd;
	if (fcntl(source, F_SETFL, O_NONBLOCK) < 0)
		return banger_error_set_errno(err, errno, "the VM's console");
	_cleanup_close_ int file =
		openat(dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (file < 0)
		return banger_error_set_errno(err, errno, "creating the VM's console log");
	struct console *c = calloc(1, sizeof(*c));
	if (!c)
		return banger_error_oom(err);
	c->fd = TAKE_FD(source);
	c->file_fd = TAKE_FD(file);
	*ret = c;
	return 0;
}

void console_freep(struct console **c)
{
	if (!*c)
		return;
	banger_closep(&(*c)->fd);
	banger_closep(&(*c)->file_fd);
	free(*c);
	*c = NULL;
}

int console_fd(const struct console *c)
{
	return c->fd;
}

/* The log is for people: a full disk must not keep a VM from running. */
static void to_file(struct console *c, const char *p, size_t n)
{
	if (n > FILE_MAX - c->written)
		n = FILE_MAX - c->written;
	ssize_t w = n > 0 ? write(c->file_fd, p, n) : 0;
	c->written = w < (ssize_t)n ? FILE_MAX : c->written + n;
}

static void to_ring(struct console *c, const char *p, size_t n)
{
	for (size_t i = n > RING ? n - RING : 0; i < n; i++)
		c->ring[(c->total + i) % RING] = p[i];
	c->total += n;
}

void console_read(struct console *c)
{
	char buffer[4096];
	for (int i = 0; i < 16 && c->fd >= 0; i++) {
		ssize_t n = read(c->fd, buffer, sizeof(buffer));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n <= 0) {
			close(c->fd);
			c->fd = -1;
			return;
		}
		to_file(c, buffer, (size_t)n);
		to_ring(c, buffer, (size_t)n);
	}
}

/* The ring's text in order, without terminal control sequences ("ESC [ … letter") and other bytes that
 * are no text; NUL-terminated. */
static void linearise(const struct console *c, char text[RING + 1])
{
	enum { TEXT, ESCAPE, SEQUENCE } state = TEXT;
	size_t n = c->total < RING ? c->total : RING, out = 0;

	for (size_t i = c->total - n; i < c->total; i++) {
		char b = c->ring[i % RING];
		if (state == TEXT && b == '\033')
			state = ESCAPE;
		else if (state == ESCAPE)
			state = b == '[' ? SEQUENCE : TEXT;
		else if (state == SEQUENCE)
			state = b >= '@' && b <= '~' ? TEXT : SEQUENCE;
		else
			text[out++] = b == '\n' || (b >= ' ' && b < 0x7f) ? b : ' ';
	}
	text[out] = '\0';
}

/* A line without what surrounds it: blanks, and the kernel's time stamp. */
static const char *trim(const char *line, size_t *n)
{
	while (*n > 0 && line[*n - 1] == ' ')
		(*n)--;
	while (*n > 0 && *line == ' ') {
		line++;
		(*n)--;
	}
	const char *end = *n > 0 && *line == '[' ? memchr(line, ']', *n) : NULL;
	if (end && strspn(line + 1, " .0123456789") == (size_t)(end - line) - 1) {
		*n -= (size_t)(end + 1 - line);
		line = end + 1;
		while (*n > 0 && *line == ' ') {
			line++;
			(*n)--;
		}
	}
	return line;
}

static void append(char *ret, size_t size, const char *line, size_t n)
{
	size_t have = strlen(ret);
	snprintf(ret + have, size - have, "%s%.*s", have ? " | " : "", (int)n, line);
}

void console_summary(const struct console *c, char *ret, size_t size)
{
	enum { LINES = 4, LINE_MAX = 200 };
	char text[RING + 1];
	const char *lines[LINES], *panic = NULL;
	size_t lengths[LINES], panic_length = 0, count = 0;
	linearise(c, text);
	ret[0] = '\0';
	for (const char *p = text; *p; p += strcspn(p, "\n"), p += *p == '\n') {
		size_t n = strcspn(p, "\n");
		const char *line = trim(p, &n);
		if (n == 0)
			continue;
		n = n < LINE_MAX ? n : LINE_MAX;
		if (!panic && memmem(line, n, "Kernel panic", 12)) {
			panic = line;
			panic_length = n;
			continue;
		}
		lines[count % LINES] = line;
		lengths[count % LINES] = n;
		count++;
	}
	if (panic)
		append(ret, size, panic, panic_length);
	for (size_t i = count > LINES ? count - LINES : 0; i < count; i++)
		append(ret, size, lines[i % LINES], lengths[i % LINES]);
}
