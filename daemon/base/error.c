/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Codes, their names and errnos, and the error struct.
 *
 * The table in error.h is the only place where a code, its wire name and its errno meet. Messages
 * may carry text from strangers (a name, a path, a peer's words); what is not printable UTF-8 is
 * replaced here, once, so that no log, terminal or JSON document has to fear it.
 */
#include <banger/error.h>
#include <banger/op.h>
#include <banger/wire.h>
#include <string.h>

static const struct {
	const char *name;
	int num;
} codes[BANGER_CODE_COUNT] = {[BANGER_OK] = {"ok", 0},
#define X(sym, n, e) [BANGER_##sym] = {n, e},
	BANGER_CODES(X)
#undef X
};

const char *banger_code_name(enum banger_code code)
{
	if ((unsigned)code >= BANGER_CODE_COUNT)
		code = BANGER_INTERNAL;
	return codes[code].name;
}

enum banger_code banger_code_from_name(const char *name)
{
	for (int i = 1; name && i < BANGER_CODE_COUNT; i++)
		if (strcmp(codes[i].name, name) == 0)
			return i;
	return BANGER_INTERNAL;
}

int banger_code_errno(enum banger_code code)
{
	if ((unsigned)code >= BANGER_CODE_COUNT)
		code = BANGER_INTERNAL;
	return codes[code].num;
}

enum banger_code banger_code_from_errno(int errnum)
{
	if (errnum < 0)
		errnum = -errnum;
	if (errnum == 0)
		return BANGER_OK;
	switch (errnum) {
	case EDQUOT:
		return BANGER_NO_SPACE;
	case ENOTDIR:
	case EISDIR:
	case ELOOP:
	case EILSEQ:
		return BANGER_BAD_REQUEST;
	case ENOTEMPTY:
	case ETXTBSY:
		return BANGER_BUSY;
	case EINTR:
		return BANGER_CANCELLED;
	case ECONNREFUSED:
	case ECONNRESET:
	case ENOTCONN:
	case EPIPE:
		return BANGER_UNAVAILABLE;
	case ENOTTY:
	case EXDEV:
		return BANGER_UNSUPPORTED;
	}
	for (int i = 1; i < BANGER_CODE_COUNT; i++)
		if (codes[i].num == errnum)
			return i;
	return BANGER_INTERNAL;
}

/* Replace what a person's terminal or a JSON document should not see; cut at a character boundary.
 */
static void sanitize(char *s)
{
	for (unsigned char *p = (unsigned char *)s; *p;) {
		size_t n = 1;

		if (*p >= 0x80) {
			for (n = 2; n <= 4; n++)
				if (strnlen((char *)p, n) == n && banger_utf8_valid((char *)p, n))
					break;
			/* U+0080 to U+009F are control characters too (C2 80..9F). */
			if (n > 4 || (p[0] == 0xC2 && p[1] < 0xA0)) {
				n = n > 4 ? 1 : 2;
				memset(p, '?', n);
			}
		} else if (*p < 0x20 || *p == 0x7F) {
			*p = '?';
		}
		p += n;
	}
}

int banger_error_vset(struct banger_error *err, enum banger_code code, const char *fmt, va_list ap)
{
	if (err) {
		const char *op = banger_op_current();

		err->code = code;
		snprintf(err->op_id, sizeof(err->op_id), "%s", op ? op : "");
		vsnprintf(err->message, sizeof(err->message), fmt, ap);
		sanitize(err->message);
	}
	return -banger_code_errno(code);
}

int banger_error_set(struct banger_error *err, enum banger_code code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	int r = banger_error_vset(err, code, fmt, ap);
	va_end(ap);
	return r;
}

int banger_error_set_errno(struct banger_error *err, int errnum, const char *fmt, ...)
{
	char text[sizeof(err->message)];
	va_list ap;

	if (errnum < 0)
		errnum = -errnum;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	banger_error_set(err, banger_code_from_errno(errnum), "%s: %s", text,
		strerrordesc_np(errnum) ?: "unknown error");
	return -errnum;
}

int banger_error_oom(struct banger_error *err)
{
	banger_error_set(err, BANGER_INTERNAL, "out of memory");
	return -ENOMEM;
}

void banger_error_prefix(struct banger_error *err, const char *fmt, ...)
{
	char old[sizeof(err->message)];
	va_list ap;

	if (!err || err->code == BANGER_OK)
		return;
	memcpy(old, err->message, sizeof(old));
	va_start(ap, fmt);
	int n = vsnprintf(err->message, sizeof(err->message), fmt, ap);
	va_end(ap);
	if (n >= 0 && (size_t)n < sizeof(err->message))
		snprintf(err->message + n, sizeof(err->message) - n, ": %s", old);
	sanitize(err->message);
}

const char *banger_error_sentence(const struct banger_error *err, char *buf, size_t size)
{
	if (err->op_id[0])
		snprintf(buf, size, "%s (%s)", err->message, err->op_id);
	else
		snprintf(buf, size, "%s", err->message);
	return buf;
}
