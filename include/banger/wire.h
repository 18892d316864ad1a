/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The wire: one JSON object a line over a Unix stream socket, a line at most 1 MiB (newline
 * included), descriptors as SCM_RIGHTS with the line that names them. Documented for users in
 * DESIGN "The wire"; the methods are listed in banger/methods.h.
 *
 * Hostile input is expected: JSON is parsed strictly (UTF-8 checked, at most 32 levels deep, one
 * object and nothing after it), at most 8 descriptors come with a line, and what a reader does not
 * take is closed.
 */
#ifndef BANGER_WIRE_H
#define BANGER_WIRE_H

#include <banger/op.h>

#define BANGER_WIRE_VERSION 1
#define BANGER_WIRE_LINE_MAX (1024 * 1024)
#define BANGER_WIRE_DEPTH_MAX 32
#define BANGER_WIRE_FDS_MAX 8

/* One peer's incoming stream. Not for several threads at once. */
struct banger_wire_reader;
int banger_wire_reader_new(int fd, struct banger_wire_reader **ret); /* borrows fd */
void banger_wire_reader_freep(struct banger_wire_reader **r);	     /* closes descriptors not taken */

/* Wait for a whole line. Returns 1 with *ret_line (no newline, NUL-terminated, valid until the next
 * call) and the descriptors that came with it (owned by the caller, who passes an array of
 * BANGER_WIRE_FDS_MAX and gets the count); 0 at an orderly end of stream; -errno otherwise:
 *	-EMSGSIZE  a line over the limit: the stream is lost      -EPIPE  the stream ended in half a line
 *	-EAGAIN    the socket's receive time-out passed, or the socket is non-blocking and has no more  */
int banger_wire_read(struct banger_wire_reader *r, char **ret_line, size_t *ret_len, int *ret_fds,
	size_t *ret_nfds);
/* Is a whole line already buffered, so that banger_wire_read() would not touch the socket? */
bool banger_wire_pending(const struct banger_wire_reader *r);

/* Write one line, whole, with descriptors (nfds may be 0; they stay the caller's). Blocks for at
 * most the socket's send time-out. -EMSGSIZE when it is over the limit, -EPIPE when the peer is gone
 * (never SIGPIPE), -ETIMEDOUT when it does not read. */
int banger_wire_send(int sock, struct json_object *o, const int *fds, size_t nfds);
int banger_wire_send_text(int sock, const char *line, size_t len, const int *fds, size_t nfds);

/* Strict parse of one JSON document. BAD_REQUEST says what is wrong and at which byte. */
int banger_json_parse(const char *s, size_t len, struct json_object **ret, struct banger_error *err);

struct banger_request {
	char method[64];
	banger_op_id op_id;	    /* s is "" when absent or not well-formed */
	struct json_object *params; /* owned; an object, never NULL after a successful parse */
	struct banger_actor *actor; /* owned; NULL when absent. Only trusted peers are believed. */
};
void banger_request_done(struct banger_request *q);

/* Parse a request line. BAD_REQUEST for what is not one, BAD_VERSION for another version. The op_id
 * is filled whenever the line gave a well-formed one, even when the rest is refused, so that the
 * refusal can carry it. Unknown fields are ignored. */
int banger_request_parse(const char *line, size_t len, struct banger_request *q, struct banger_error *err);

/* Documents to send. Takes the reference on params / result (NULL: an empty object). NULL: no memory. */
struct json_object *banger_request_json(const char *method, struct json_object *params,
	const char *op_id, const struct banger_actor *actor);
struct json_object *banger_reply_ok(struct json_object *result, const char *op_id);
struct json_object *banger_reply_error(const struct banger_error *err);
/* Reads {"ok":…}: 0 and *ret_result (owned by the caller) or the error it carries, as -errno. */
int banger_reply_parse(const char *line, size_t len, struct json_object **ret_result, struct banger_error *err);

struct json_object *banger_actor_to_json(const struct banger_actor *a);
int banger_actor_from_json(struct json_object *o, struct banger_actor *ret);

/* Members of an object. _str and _obj are borrowed from o, NULL when absent or of another type. */
const char *banger_json_str(struct json_object *o, const char *key);
struct json_object *banger_json_get(struct json_object *o, const char *key);
int64_t banger_json_int(struct json_object *o, const char *key, int64_t otherwise);
bool banger_json_bool(struct json_object *o, const char *key, bool otherwise);
/* Add a member; a NULL string adds nothing. -ENOMEM or 0. */
int banger_json_add_str(struct json_object *o, const char *key, const char *s);
int banger_json_add_int(struct json_object *o, const char *key, int64_t v);
int banger_json_add_bool(struct json_object *o, const char *key, bool v);
int banger_json_add(struct json_object *o, const char *key, struct json_object *v); /* takes v */

/* Is s valid UTF-8 (RFC 3629: no surrogates, no overlong forms)? */
bool banger_utf8_valid(const char *s, size_t len);

#endif
