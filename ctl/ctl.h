/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One run of banger-ctl, as the handlers see it: its configuration, its connection, its op_id, and
 * how its caller wants the answer.
 */
#ifndef BANGER_CTL_H
#define BANGER_CTL_H

#include <signal.h>
#include <stdatomic.h>
#include <banger/client.h>
#include <banger/paths.h>
#include "options.h"
#include "output.h"

enum ctl_exit { CTL_DONE = 0, CTL_FAILED = 1, CTL_USAGE = 2, CTL_UNREACHABLE = 3 };

struct ctl {
	struct banger_config config;
	bool json, quiet;
	bool terminal; /* standard output is one */
	bool notices;  /* standard error is one, and progress and hints are wanted on it */
	struct banger_client *client;
	bool unreachable; /* the daemon could not be reached, or went away */
	bool usage;       /* the error is one of usage */
	int signal;       /* that ended the command; 0: none */
};

/* ---- ctl.c: the connection and its calls */

/* Connect if that was not done yet. UNAVAILABLE. */
int ctl_connect(struct ctl *c, struct banger_error *err);
/* Ask the daemon, connecting first if need be. params: the reference is taken, NULL is none. */
int ctl_call(struct ctl *c, const char *method, struct json_object *params,
	struct json_object **ret, struct banger_error *err);
/* An object of texts: pairs of key and value, then NULL. A NULL value is left out. */
int ctl_params(struct json_object **ret, struct banger_error *err, ...) __attribute__((sentinel));
/* A usage error that only the handler can see: exit status 2. Returns -EINVAL. */
int ctl_usage(struct ctl *c, struct banger_error *err, const char *fmt, ...) _printf_(3, 4);
/* Say on standard error: "banger-ctl: TEXT", made safe to show. */
void ctl_say(const char *fmt, ...) _printf_(1, 2);
/* The sentence of an error, with its op_id. */
void ctl_say_error(const struct banger_error *err);

/* ---- work.c: calls that take long */

struct ctl_work {
	const char *what; /* "importing web", for the progress line; NULL: none is shown */
	const _Atomic int64_t *done; /* bytes done, for the progress line; NULL: not known */
	const int *growing; /* a file whose size is the bytes done; NULL: none */
	/* Instead of the line: called four times a second on a thread of its own, and at the end. */
	void (*tick)(void *arg);
	void (*end)(void *arg);
	void *arg;
};
/* As ctl_call() with descriptors (they stay the caller's), a progress line, and Ctrl-C. An
 * operation that was stopped by a signal fails with CANCELLED and c->signal is set. */
int ctl_call_long(struct ctl *c, const struct ctl_work *w, const char *method,
	struct json_object *params, const int *fds, size_t nfds, struct json_object **ret,
	struct banger_error *err);

/* Ask for the cancellation of an operation of ours that runs, over a connection of its own. */
int ctl_cancel(struct ctl *c, const char *op_id);
/* The signals that mean "stop", without those that we were started to ignore. */
void ctl_stop_signals(sigset_t *set);
/* A call on the connection there is; notes whether that was lost. params: taken. */
int ctl_call_fds(struct ctl *c, const char *method, struct json_object *params, const int *fds,
	size_t nfds, struct json_object **ret, struct banger_error *err);

/* ---- json.c: documents on standard output */

/* Indented on a terminal, one line otherwise. -ENOMEM. */
int ctl_print_json(const struct ctl *c, struct json_object *o, struct banger_error *err);
/* One line of a stream, flushed. */
int ctl_print_line(struct json_object *o, struct banger_error *err);
/* A member as text: a string as it is, a number in digits, otherwise "". `buf` may be used. */
const char *ctl_json_text(struct json_object *o, const char *key, char buf[32]);
/* A time member (RFC 3339) in microseconds; 0 when there is none. */
int64_t ctl_json_time(struct json_object *o, const char *key);
/* The elements of an array member, 0 and NULL when there is none. */
size_t ctl_json_count(struct json_object *o, const char *key);
struct json_object *ctl_json_at(struct json_object *o, const char *key, size_t i);

/* ---- show.c: what several groups show */

/* "2026-03-01 11:00:00 +0100 (3 minutes ago)"; "" for 0 */
#define CTL_WHEN_LEN 80
const char *ctl_when(int64_t us, char buf[CTL_WHEN_LEN]);
/* One event of registry.watch, one log record: a line for a person, flushed. */
int ctl_print_event(struct json_object *event, struct banger_error *err);
int ctl_print_record(struct json_object *record, struct banger_error *err);
/* What a change made, an "image" or a "kernel" of the result: "published web 9f86d081884c7d65"; the
 * id alone with --quiet; the whole result with --json. */
int ctl_print_made(const struct ctl *c, const char *did, const char *what,
	struct json_object *result, struct banger_error *err);
/* The "files" of image.show and kernel.show. */
int ctl_print_files(const struct ctl *c, struct json_object *result, struct banger_error *err);
/* Follow a stream: each document goes to `print` (or out as JSON). UNAVAILABLE when it breaks. */
int ctl_follow(struct ctl *c, int (*print)(struct json_object *, struct banger_error *),
	struct banger_error *err);

#endif
