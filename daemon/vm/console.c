/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest can write to its console for ever. The file goes on from one start of the VM to the next; when it
 * reaches FILE_MAX, its first half goes, so somebody who follows it sees it become shorter, as with any log that is
 * cut in place. The ring keeps the last RING bytes, where a panic is.
 */
#include "vm/console.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#define FILE_MAX (1024 * 1024)
#define RING (16 * 1024)

struct console {
	int fd, file_fd;
	size_t written; /* the file's length */
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
		openat(dir_fd, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	struct stat st;
	if (file < 0 || fstat(file, &st) < 0)
		return banger_error_set_errno(err, errno, "opening the VM's console log");
	struct console *c = calloc(1, sizeof(*c));
	if (!c)
		return banger_error_oom(err);
	c->fd = TAKE_FD(source);
	c->file_fd = TAKE_FD(file);
	c->written = st.st_size < FILE_MAX ? st.st_size : FILE_MAX;
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

/* Drop the file's first half, up to the end of a line. */
static void cut(struct console *c)
{
	enum { HALF = FILE_MAX / 2 };
	_cleanup_free_ char *half = malloc(HALF);
	ssize_t n = half ? pread(c->file_fd, half, HALF, c->written - HALF) : -1;
	if (n <= 0)
		n = 0;
	const char *line = n > 0 ? memchr(half, '\n', n) : NULL;
	size_t from = line ? line + 1 - half : 0;
	c->written = n - from;
	if (ftruncate(c->file_fd, 0) < 0 ||
		pwrite(c->file_fd, half ? half + from : "", c->written, 0) != (ssize_t)c->written)
		c->written = 0;
}

/* The log is for people: a full disk must not keep a VM from running. */
static void to_file(struct console *c, const char *p, size_t n)
{
	if (n > FILE_MAX - c->written)
		cut(c);
	ssize_t w = pwrite(c->file_fd, p, n, c->written);
	if (w > 0)
		c->written += w;
}

static void to_ring(struct console *c, const char *p, size_t n)
{
	for (size_t i = n > RING ? n - RING : 0; i < n; i++)
		c->ring[(c->total + i) % RING] = p[i];
	c->total += n;
}

size_t console_read(struct console *c)
{
	char buffer[4096];
	size_t total = 0;
	for (int i = 0; i < 16 && c->fd >= 0; i++) {
		ssize_t n = read(c->fd, buffer, sizeof(buffer));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n <= 0) {
			close(c->fd);
			c->fd = -1;
			break;
		}
		to_file(c, buffer, (size_t)n);
		to_ring(c, buffer, (size_t)n);
		total += n;
	}
	return total;
}

void console_recall(struct console *c)
{
	char tail[RING];
	off_t from = c->written > RING ? c->written - RING : 0;
	ssize_t n = pread(c->file_fd, tail, sizeof(tail), from);
	if (n > 0)
		to_ring(c, tail, n);
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
