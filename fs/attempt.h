/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One attempt of a caller to change something: from the moment that its op_id is minted to the
 * answer, with the record of how it ended.
 *
 * A refusal, wherever it comes from, is one log record, the uid's last error, and known to bangerd:
 * because it refused itself, or by op.report. So a person finds it under its op_id whichever way
 * they look.
 */
#ifndef FS_ATTEMPT_H
#define FS_ATTEMPT_H

#include <banger/methods.h>
#include "fs.h"

struct attempt {
	struct fs *fs;
	banger_op_id op, before;
	struct banger_actor actor;
	const char *method; /* the RPC that does it, or "fs.…" for what none does */
	int64_t started_us, started_mono_us;
	bool quiet; /* success is logged for debugging only */
	bool heard; /* bangerd has a record of it */
	bool own;
	char params[256]; /* for people: path=… */
	struct banger_error err;
};

/* Enters the op on this thread until attempt_end(). `who` is copied. */
void attempt_begin(
	struct attempt *a, struct fs *fs, const struct fuse_ctx *who, const char *method);
/* What it was about: path=DIR/NAME, and to=… */
void attempt_about(struct attempt *a, const char *key, uint64_t node, const char *name);

/* May the caller change anything? DENIED otherwise. */
int attempt_allowed(struct attempt *a);
int attempt_refuse(struct attempt *a, enum banger_code code, const char *fmt, ...) _printf_(3, 4);
int attempt_refuse_errno(struct attempt *a, int errnum, const char *fmt, ...) _printf_(3, 4);

/* Ask bangerd. params: taken, NULL is out of memory. ret_fd may be NULL, and so may ret_result.
 * A change of the registry whose answer was lost but which was seen to happen is a success. */
int attempt_ask(struct attempt *a, const char *method, struct json_object *params,
	struct json_object **ret_result, int *ret_fd);
/* The same for a change of the registry: wait until the model (and rootfs/, if `published`) shows
 * it. */
int attempt_change(struct attempt *a, const char *method, struct json_object *params,
	bool published, struct json_object **ret_result);

/* The end: logs, remembers, reports. r: 0 or the negative number that a function above gave.
 * Returns the positive errno for the kernel. The caller then answers, and calls attempt_done()
 * after it. */
int attempt_end(struct attempt *a, int r);
void attempt_done(struct attempt *a);

/* All of it for a refusal that needs no more than this; returns the errno. */
int attempt_refused(struct fs *fs, const struct fuse_ctx *who, const char *method, uint64_t node,
	const char *name, enum banger_code code, const char *fmt, ...) _printf_(7, 8);

/* The same for a system call that failed here; records it for whoever it is. Returns errnum. */
int attempt_failed(
	struct fs *fs, const struct fuse_ctx *who, const char *method, uint64_t node, int errnum);

#endif
