/* SPDX-License-Identifier: Apache-2.0 */
/*
 * QMP, QEMU's control protocol (docs/interop/qmp-spec): one JSON object a line, over a stream socket. QEMU greets, is
 * told "qmp_capabilities", and then answers commands by their "id", with events between.
 *
 * A guest that broke out of its VM is QEMU: lines are bounded, parsed strictly, and nothing in them is believed
 * beyond their own VM.
 */
#ifndef BANGER_VM_QMP_H
#define BANGER_VM_QMP_H

#include <banger/wire.h>

#define QMP_LINE_MAX (64 * 1024)

/* ---- lines and messages; pure */

struct qmp_lines {
	size_t len, scanned;
	char buf[QMP_LINE_MAX];
};
char *qmp_lines_space(struct qmp_lines *l, size_t *ret_size);
void qmp_lines_added(struct qmp_lines *l, size_t n);
/* 1: *ret is a line, NUL-terminated, without its end, valid until the lines are touched again; 0: more is needed;
 * -EMSGSIZE: it is over the limit, the stream is lost. */
int qmp_lines_next(struct qmp_lines *l, char **ret, size_t *ret_len);

enum qmp_kind { QMP_GREETING, QMP_RETURN, QMP_ERROR, QMP_EVENT };
struct qmp_message {
	enum qmp_kind kind;
	struct json_object *doc;   /* owned */
	int64_t id;                /* of QMP_RETURN and QMP_ERROR; -1: none */
	const char *text;          /* name of the event; the error's sentence. In doc */
	struct json_object *value; /* "return" or the event's "data"; in doc; NULL: none */
};
int qmp_parse(const char *line, size_t len, struct qmp_message *ret, struct banger_error *err);
void qmp_message_done(struct qmp_message *m);

/* ---- a client */

struct qmp;
typedef void qmp_event(void *arg, const char *name, struct json_object *data);
/* fd: a connected socket, taken over also on failure. */
int qmp_new(int fd, qmp_event *event, void *arg, struct qmp **ret);
void qmp_freep(struct qmp **q);
int qmp_fd(const struct qmp *q);
/* Take what has come, without waiting; calls event. -EPIPE, -EPROTO, …: the connection is lost. One thread. */
int qmp_read(struct qmp *q);
/* Send a command, wait for its answer while another thread reads. arguments: JSON text or NULL. *ret (may be NULL): a
 * new reference to what it returned. Any thread. */
int qmp_command(struct qmp *q, const char *name, const char *arguments, int timeout_ms,
	struct json_object **ret, struct banger_error *err);

#endif
