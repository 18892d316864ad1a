/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log records: one JSON object a line on stderr.
 *
 *	{"ts":"2026-03-01T10:00:00.123456Z","level":"info","program":"bangerd",
 *	 "msg":"operation completed","op_id":"op-5b0c7e21d9aa","method":"image.promote","elapsed_ms":12.4}
 *
 *	log_info("image published", KV_S("image", name), KV_I("size", size));
 *
 * One record is one write(2), so records of several threads and processes never mix within a line.
 * The op_id is the calling thread's (op.h). Any thread; takes no lock but the sink's own.
 */
#ifndef BANGER_LOG_H
#define BANGER_LOG_H

#include <stdbool.h>
#include <stdint.h>
#include <banger/error.h>

enum banger_log_level { BANGER_DEBUG, BANGER_INFO, BANGER_WARN, BANGER_ERR };

struct banger_kv {
	const char *key;
	enum { BANGER_KV_NONE, BANGER_KV_STRING, BANGER_KV_INT, BANGER_KV_DOUBLE, BANGER_KV_BOOL } type;
	union {
		const char *s; /* NULL: the attribute is left out */
		int64_t i;
		double d;
		bool b;
	};
};

#define KV_S(k, v) ((struct banger_kv){.key = (k), .type = BANGER_KV_STRING, .s = (v)})
#define KV_I(k, v) ((struct banger_kv){.key = (k), .type = BANGER_KV_INT, .i = (int64_t)(v)})
#define KV_D(k, v) ((struct banger_kv){.key = (k), .type = BANGER_KV_DOUBLE, .d = (v)})
#define KV_B(k, v) ((struct banger_kv){.key = (k), .type = BANGER_KV_BOOL, .b = (v)})

/* Name the program and set the least level that is written (default: info, or $BANGER_LOG_LEVEL =
 * debug|info|warn|error). Call once, before threads. `program` must stay valid. */
void banger_log_init(const char *program);
bool banger_log_enabled(enum banger_log_level level);

/* A copy of each record that has an op_id and is written: the daemon keeps them with the operation.
 * The hook must not log. line has no newline. */
typedef void banger_log_hook(void *arg, const char *op_id, const char *line, size_t len);
void banger_log_set_hook(banger_log_hook *hook, void *arg);

void banger_log_write(enum banger_log_level level, const char *msg, const struct banger_kv *kv, size_t n);

#define banger_log_(level, msg, ...)                                                               \
	do {                                                                                       \
		if (banger_log_enabled(level)) {                                                   \
			const struct banger_kv _kv[] = {{0}, ##__VA_ARGS__};                       \
			banger_log_write(level, msg, _kv + 1, ELEMENTSOF(_kv) - 1);                \
		}                                                                                  \
	} while (0)
#define log_debug(msg, ...) banger_log_(BANGER_DEBUG, msg, ##__VA_ARGS__)
#define log_info(msg, ...) banger_log_(BANGER_INFO, msg, ##__VA_ARGS__)
#define log_warn(msg, ...) banger_log_(BANGER_WARN, msg, ##__VA_ARGS__)
#define log_err(msg, ...) banger_log_(BANGER_ERR, msg, ##__VA_ARGS__)
/* The two attributes of an error: code and error text. */
#define KV_ERR(e) KV_S("code", banger_code_name((e)->code)), KV_S("error", (e)->message)

/* Wall clock in microseconds since the epoch, and a monotonic one. */
int64_t banger_now_us(void);
int64_t banger_monotonic_us(void);
/* RFC 3339, UTC, microseconds: "2026-03-01T10:00:00.123456Z" (27 characters). */
#define BANGER_TIME_LEN 27
const char *banger_time_format(int64_t us, char buf[BANGER_TIME_LEN + 1]);
/* Parses exactly that form; -EINVAL otherwise. */
int banger_time_parse(const char *s, int64_t *ret_us);

#endif
