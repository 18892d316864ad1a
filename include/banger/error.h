/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Errors that cross a module boundary.
 *
 * A function that can fail returns 0 (or a positive outcome that it documents) or
 * -errno, and takes a caller-owned struct banger_error last, into which it writes
 * code, message and the op_id of the calling thread (see op.h). `err` may be NULL
 * where the caller needs only the number. A caller that hands an error up adds what
 * it knows with banger_error_prefix(); the one who ends the operation logs it, once.
 * The struct owns no memory and needs no destructor.
 */
#ifndef BANGER_ERROR_H
#define BANGER_ERROR_H

#include <stdarg.h>
#include <banger/cleanup.h>

/* X(symbol, name on the wire, errno in the tree) — a promise to users; see DESIGN "The wire". */
#define BANGER_CODES(X)                                                                            \
	X(BAD_REQUEST, "bad_request", EINVAL)                                                      \
	X(BAD_VERSION, "bad_version", EPROTO)                                                      \
	X(UNKNOWN_METHOD, "unknown_method", ENOSYS)                                                \
	X(NOT_FOUND, "not_found", ENOENT)                                                          \
	X(AMBIGUOUS, "ambiguous", ENOTUNIQ)                                                        \
	X(EXISTS, "exists", EEXIST)                                                                \
	X(BUSY, "busy", EBUSY)                                                                     \
	X(INCOMPLETE, "incomplete", ENODATA)                                                       \
	X(CORRUPT, "corrupt", EUCLEAN)                                                             \
	X(IMMUTABLE, "immutable", EROFS)                                                           \
	X(DENIED, "denied", EACCES)                                                                \
	X(NOT_PERMITTED, "not_permitted", EPERM)                                                   \
	X(NO_SPACE, "no_space", ENOSPC)                                                            \
	X(TOO_LARGE, "too_large", EFBIG)                                                           \
	X(NAME_TOO_LONG, "name_too_long", ENAMETOOLONG)                                            \
	X(UNAVAILABLE, "unavailable", EHOSTDOWN)                                                   \
	X(CANCELLED, "cancelled", ECANCELED)                                                       \
	X(TIMEOUT, "timeout", ETIMEDOUT)                                                           \
	X(UNSUPPORTED, "unsupported", EOPNOTSUPP)                                                  \
	X(INTERNAL, "internal", EIO)

enum banger_code {
	BANGER_OK = 0,
#define X(sym, name, num) BANGER_##sym,
	BANGER_CODES(X)
#undef X
	BANGER_CODE_COUNT
};

#define BANGER_OP_ID_LEN 15 /* "op-" and 12 lowercase hex digits */

struct banger_error {
	enum banger_code code;
	char op_id[BANGER_OP_ID_LEN + 1]; /* "" when the thread had none */
	char message[1024];               /* one sentence, no final stop, valid UTF-8, no control characters */
};

/* The wire name of a code ("exists"), "ok" for BANGER_OK, "internal" for a number that is none. */
const char *banger_code_name(enum banger_code code);
/* The code of a wire name; BANGER_INTERNAL for a name this build does not know (a newer peer). */
enum banger_code banger_code_from_name(const char *name);
/* The positive errno of a code; 0 for BANGER_OK. */
int banger_code_errno(enum banger_code code);
/* The code that says what a (positive or negative) errno means: EDQUOT is no_space, ENOMEM internal. */
enum banger_code banger_code_from_errno(int errnum);

/* Fill err and return -errno of the code. The op_id is the calling thread's. Bytes that are not
 * printable UTF-8 are shown as '?'. */
int banger_error_set(struct banger_error *err, enum banger_code code, const char *fmt, ...) _printf_(3, 4);
int banger_error_vset(struct banger_error *err, enum banger_code code, const char *fmt, va_list ap) _printf_(3, 0);
/* The same from an errno (either sign), appending ": " and its text; returns -errnum as given, so
 * that EDQUOT stays EDQUOT for one who replies with the number. */
int banger_error_set_errno(struct banger_error *err, int errnum, const char *fmt, ...) _printf_(3, 4);
/* Out of memory, without allocating. Returns -ENOMEM. */
int banger_error_oom(struct banger_error *err);
/* Put "text: " before the message; the code stays. Does nothing to an err that is OK or NULL. */
void banger_error_prefix(struct banger_error *err, const char *fmt, ...) _printf_(2, 3);
/* The sentence for a person: "MESSAGE (OP_ID)". buf is always terminated. Returns buf. */
const char *banger_error_sentence(const struct banger_error *err, char *buf, size_t size);

#endif
