/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two threads meet here: the VM's own, which reads, and one that wants something done, which sends its command and
 * waits. A command that waits is a struct on its caller's stack, in a list under the lock; the reader fills it in.
 * A command that is sent before the greeting waits for that first: QEMU refuses everything before it was told the
 * capabilities. One that gives up leaves the list, and its answer is then nobody's.
 */
#include "vm/qmp.h"
#include <banger/log.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>

/* ---- lines */

char *qmp_lines_space(struct qmp_lines *l, size_t *ret_size)
{
	*ret_size = sizeof(l->buf) - l->len;
	return l->buf + l->len;
}

void qmp_lines_added(struct qmp_lines *l, size_t n)
{
	l->len += n;
}

int qmp_lines_next(struct qmp_lines *l, char **ret, size_t *ret_len)
{
	/* The line that was given last is dropped now. */
	if (l->scanned > 0) {
		memmove(l->buf, l->buf + l->scanned, l->len - l->scanned);
		l->len -= l->scanned;
		l->scanned = 0;
	}
	char *end = memchr(l->buf, '\n', l->len);
	if (!end)
		return l->len == sizeof(l->buf) ? -EMSGSIZE : 0;
	l->scanned = end + 1 - l->buf;
	while (end > l->buf && end[-1] == '\r')
		end--;
	*end = '\0';
	*ret = l->buf;
	*ret_len = end - l->buf;
	return 1;
}

/* ---- messages */

static int not_qmp(const char *what, struct banger_error *err)
{
	return banger_error_set(err, BANGER_INTERNAL, "QEMU's control channel: %s", what);
}

static int classify(struct qmp_message *m, struct banger_error *err)
{
	struct json_object *error = banger_json_get(m->doc, "error");

	m->text = banger_json_str(m->doc, "event");
	m->id = banger_json_int(m->doc, "id", -1);
	if (json_object_is_type(banger_json_get(m->doc, "QMP"), json_type_object)) {
		m->kind = QMP_GREETING;
	} else if (m->text) {
		m->kind = QMP_EVENT;
		m->value = banger_json_get(m->doc, "data");
	} else if (error) {
		m->kind = QMP_ERROR;
		m->text = json_object_is_type(error, json_type_object)
				  ? banger_json_str(error, "desc")
				  : NULL;
		m->text = m->text ?: "no reason given";
	} else if (json_object_object_get_ex(m->doc, "return", &m->value)) {
		m->kind = QMP_RETURN;
	} else {
		return not_qmp("a message of no known kind", err);
	}
	return 0;
}

int qmp_parse(const char *line, size_t len, struct qmp_message *ret, struct banger_error *err)
{
	struct qmp_message m = {.id = -1};

	int r = banger_json_parse(line, len, &m.doc, err);
	if (r < 0) {
		banger_error_prefix(err, "QEMU's control channel");
		return r;
	}
	r = classify(&m, err);
	if (r < 0)
		qmp_message_done(&m);
	else
		*ret = m;
	return r;
}

void qmp_message_done(struct qmp_message *m)
{
	json_object_put(m->doc);
	*m = (struct qmp_message){.id = -1};
}

/* ---- the client */

struct waiting {
	struct waiting *next;
	int64_t id;
	bool answered;
	struct qmp_message answer;
};

struct qmp {
	int fd;
	qmp_event *event;
	void *arg;
	struct qmp_lines lines; /* the reader's */
	pthread_mutex_t lock;
	pthread_cond_t change;
	bool ready, lost;
	int64_t last_id;
	struct waiting *waiting;
};

#define CAPABILITIES "{\"execute\":\"qmp_capabilities\"}\n"

int qmp_new(int fd, qmp_event *event, void *arg, struct qmp **ret)
{
	struct qmp *q = calloc(1, sizeof(*q));
	pthread_condattr_t attr;

	if (!q) {
		close(fd);
		return -ENOMEM;
	}
	q->fd = fd;
	q->event = event;
	q->arg = arg;
	pthread_mutex_init(&q->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&q->change, &attr);
	pthread_condattr_destroy(&attr);
	*ret = q;
	return 0;
}

void qmp_freep(struct qmp **p)
{
	struct qmp *q = *p;

	if (!q)
		return;
	close(q->fd);
	pthread_cond_destroy(&q->change);
	pthread_mutex_destroy(&q->lock);
	free(q);
	*p = NULL;
}

int qmp_fd(const struct qmp *q)
{
	return q->fd;
}

static int say(struct qmp *q, const char *text)
{
	size_t len = strlen(text);
	ssize_t n = send(q->fd, text, len, MSG_DONTWAIT | MSG_NOSIGNAL);

	return n == (ssize_t)len ? 0 : -EPIPE; /* half a command: QEMU does not read, and is lost */
}

static void on_answer(struct qmp *q, struct qmp_message *m)
{
	if (m->id < 0) { /* that of the capabilities, the only one without an id */
		q->ready = q->ready || m->kind == QMP_RETURN;
		return;
	}
	for (struct waiting *w = q->waiting; w; w = w->next)
		if (w->id == m->id && !w->answered) {
			w->answer = *m;
			w->answered = true;
			m->doc = NULL;
			return;
		}
}

static int on_line(struct qmp *q, const char *line, size_t len)
{
	struct qmp_message m;
	int r = 0;

	if (len == 0)
		return 0;
	r = qmp_parse(line, len, &m, NULL);
	if (r < 0)
		return -EPROTO;
	if (m.kind == QMP_EVENT) {
		q->event(q->arg, m.text, m.value);
	} else if (m.kind == QMP_GREETING) {
		r = say(q, CAPABILITIES);
	} else {
		pthread_mutex_lock(&q->lock);
		on_answer(q, &m);
		pthread_cond_broadcast(&q->change);
		pthread_mutex_unlock(&q->lock);
	}
	qmp_message_done(&m);
	return r;
}

static int read_some(struct qmp *q)
{
	size_t size, len;
	char *to = qmp_lines_space(&q->lines, &size), *line;
	int r;

	ssize_t n = recv(q->fd, to, size, MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (n == 0)
		return -EPIPE;
	qmp_lines_added(&q->lines, n);
	while ((r = qmp_lines_next(&q->lines, &line, &len)) == 1)
		if ((r = on_line(q, line, len)) < 0)
			return r;
	return r;
}

int qmp_read(struct qmp *q)
{
	int r = read_some(q);

	if (r < 0) {
		pthread_mutex_lock(&q->lock);
		q->lost = true;
		pthread_cond_broadcast(&q->change);
		pthread_mutex_unlock(&q->lock);
	}
	return r;
}

static void forget(struct qmp *q, struct waiting *w)
{
	for (struct waiting **at = &q->waiting; *at; at = &(*at)->next)
		if (*at == w) {
			*at = w->next;
			return;
		}
}

static void deadline(int timeout_ms, struct timespec *ret)
{
	int64_t us = banger_monotonic_us() + (int64_t)timeout_ms * 1000;

	*ret = (struct timespec){.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};
}

/* With the lock: until *what, or lost, or late. */
static int wait_until(
	struct qmp *q, const bool *what, const struct timespec *by, struct banger_error *err)
{
	int e = 0;

	while (!*what && !q->lost && e == 0)
		e = pthread_cond_timedwait(&q->change, &q->lock, by);
	if (*what)
		return 0;
	return q->lost ? banger_error_set(err, BANGER_UNAVAILABLE, "QEMU has ended")
		       : banger_error_set(err, BANGER_TIMEOUT, "QEMU does not answer");
}

static int send_command(struct qmp *q, struct waiting *w, const char *name, const char *arguments,
	struct banger_error *err)
{
	char text[1024];

	w->id = ++q->last_id;
	int n = snprintf(text, sizeof(text), "{\"execute\":\"%s\",\"id\":%lld%s%s}\n", name,
		(long long)w->id, arguments ? ",\"arguments\":" : "", arguments ?: "");
	if (n >= (int)sizeof(text))
		return banger_error_set(err, BANGER_TOO_LARGE, "a command for QEMU is too long");
	w->next = q->waiting;
	q->waiting = w;
	return say(q, text) < 0 ? banger_error_set(err, BANGER_UNAVAILABLE, "QEMU does not read")
				: 0;
}

int qmp_command(struct qmp *q, const char *name, const char *arguments, int timeout_ms,
	struct json_object **ret, struct banger_error *err)
{
	struct waiting w = {.id = -1};
	struct timespec by;

	deadline(timeout_ms, &by);
	pthread_mutex_lock(&q->lock);
	int r = wait_until(q, &q->ready, &by, err);
	if (r == 0)
		r = send_command(q, &w, name, arguments, err);
	if (r == 0)
		r = wait_until(q, &w.answered, &by, err);
	forget(q, &w);
	pthread_mutex_unlock(&q->lock);
	if (r == 0 && w.answer.kind == QMP_ERROR)
		r = banger_error_set(
			err, BANGER_INTERNAL, "QEMU refuses %s: %s", name, w.answer.text);
	if (r == 0 && ret)
		*ret = json_object_get(w.answer.value);
	qmp_message_done(&w.answer);
	return r;
}
