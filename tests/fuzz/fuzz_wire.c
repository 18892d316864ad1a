/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The wire's parsers on whatever a peer may send. The input is given to each of them: as one line
 * (JSON, request, reply, actor) and as a byte stream through the line reader, in pieces whose sizes
 * depend on the input. Beyond not crashing:
 *	- what the strict parser takes is valid UTF-8, at most BANGER_WIRE_DEPTH_MAX deep, and stays
 * the same document when it is written and parsed again;
 *	- a request that was taken survives being sent on;
 *	- every refusal has a code and a message that can be put on the wire and in a log;
 *	- the reader gives exactly the lines that were written, in order.
 */
#include "fuzz.h"

#include <string.h>
#include <sys/socket.h>
#include <banger/wire.h>

static size_t depth_of(struct json_object *o)
{
	size_t deepest = 0;
	if (json_object_is_type(o, json_type_object)) {
		json_object_object_foreach (o, key, value) {
			size_t d = depth_of(value);
			(void)key;
			deepest = d > deepest ? d : deepest;
		}
		return deepest + 1;
	}
	if (json_object_is_type(o, json_type_array)) {
		for (size_t i = 0; i < json_object_array_length(o); i++) {
			size_t d = depth_of(json_object_array_get_idx(o, i));
			deepest = d > deepest ? d : deepest;
		}
		return deepest + 1;
	}
	return 0;
}

/* Outside of strings JSON has no letters but those of true, false, null and an exponent's e: NaN
 * and Infinity, which some parsers take, are not JSON and cannot be sent on. */
static bool only_json_letters(const char *s, size_t len)
{
	bool string = false;
	for (size_t i = 0; i < len; i++) {
		if (string && s[i] == '\\')
			i++;
		else if (s[i] == '"')
			string = !string;
		else if (!string && s[i] && strchr("NIiy", s[i]))
			return false;
	}
	return true;
}

static void check_refusal(int r, const struct banger_error *err)
{
	MUST(r < 0);
	MUST(err->code > BANGER_OK && err->code < BANGER_CODE_COUNT);
	MUST(memchr(err->message, 0, sizeof(err->message)) && err->message[0]);
	MUST(banger_utf8_valid(err->message, strlen(err->message)));
	for (const char *p = err->message; *p; p++)
		MUST((unsigned char)*p >= 0x20 && *p != 0x7f);
	_cleanup_json_ struct json_object *reply = banger_reply_error(err);
	MUST(reply && banger_json_get(reply, "error"));
}

/* Takes any document; that a request is an object is for the request's own parser. */
static void fuzz_json(const char *text, size_t len)
{
	_cleanup_json_ struct json_object *o = NULL, *again = NULL;
	struct banger_error err = {0};
	int r = banger_json_parse(text, len, &o, &err);
	if (r < 0) {
		MUST(!o);
		check_refusal(r, &err);
		return;
	}
	MUST(banger_utf8_valid(text, len));
	MUST(only_json_letters(text, len));
	MUST(depth_of(o) <= BANGER_WIRE_DEPTH_MAX);
	const char *out = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN);
	MUST(banger_json_parse(out, strlen(out), &again, &err) == 0);
	MUST(json_object_equal(o, again));
}

static void fuzz_request(const char *text, size_t len)
{
	struct banger_request q = {0}, again = {0};
	struct banger_error err = {0};
	int r = banger_request_parse(text, len, &q, &err);
	MUST(!q.op_id.s[0] || banger_op_id_valid(q.op_id.s));
	if (r < 0) {
		check_refusal(r, &err);
		banger_request_done(&q);
		return;
	}
	MUST(q.params && json_object_is_type(q.params, json_type_object));
	_cleanup_json_ struct json_object *o =
		banger_request_json(q.method, json_object_get(q.params), q.op_id.s, q.actor);
	MUST(o);
	const char *out = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN);
	MUST(banger_request_parse(out, strlen(out), &again, &err) == 0);
	MUST(!strcmp(again.method, q.method) && !strcmp(again.op_id.s, q.op_id.s));
	MUST(json_object_equal(again.params, q.params));
	MUST(!again.actor == !q.actor);
	banger_request_done(&again);
	banger_request_done(&q);
}

static void fuzz_reply(const char *text, size_t len)
{
	_cleanup_json_ struct json_object *result = NULL;
	struct banger_error err = {0};
	int r = banger_reply_parse(text, len, &result, &err);
	if (r < 0) {
		MUST(!result);
		MUST(!err.op_id[0] || banger_op_id_valid(err.op_id));
		check_refusal(r, &err);
	}
}

/* Feed the bytes to a reader and compare what it gives with a plain split at newlines. */
static void fuzz_stream(const char *text, size_t len)
{
	_cleanup_(banger_wire_reader_freep) struct banger_wire_reader *reader = NULL;
	_cleanup_close_ int in = -1;
	int pair[2], fds[BANGER_WIRE_FDS_MAX];
	size_t sent = 0, line_start = 0;

	if (len > 16384)
		return; /* must fit the socket's buffer, nobody else reads it */
	MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
	in = pair[0];
	_cleanup_close_ int out = pair[1];
	MUST(banger_wire_reader_new(in, &reader) == 0);
	for (;;) {
		char *line;
		size_t line_len, nfds = BANGER_WIRE_FDS_MAX;
		int r = banger_wire_read(reader, &line, &line_len, fds, &nfds);
		if (r == 1) {
			MUST(nfds == 0 && line_start + line_len < len &&
				text[line_start + line_len] == '\n');
			MUST(line[line_len] == 0 && !memcmp(line, text + line_start, line_len));
			line_start += line_len + 1;
			continue;
		}
		if (r == -EAGAIN) {
			MUST(out >= 0 && !banger_wire_pending(reader));
			size_t piece = sent < len ? 1 + (unsigned char)text[sent] * 7 : 0;
			if (piece > len - sent)
				piece = len - sent;
			if (piece) {
				MUST(write(out, text + sent, piece) == (ssize_t)piece);
				sent += piece;
			} else {
				close(TAKE_FD(out));
			}
			continue;
		}
		MUST(r == (line_start == len ? 0 : -EPIPE) && out < 0);
		break;
	}
}

static void fuzz_actor(const char *text, size_t len)
{
	_cleanup_json_ struct json_object *o = NULL, *back = NULL;
	struct banger_actor actor = {0}, again = {0};
	if (banger_json_parse(text, len, &o, NULL) < 0 || banger_actor_from_json(o, &actor) < 0)
		return;
	back = banger_actor_to_json(&actor);
	MUST(back && banger_actor_from_json(back, &again) == 0);
	MUST(actor.uid == again.uid && actor.gid == again.gid && actor.pid == again.pid);
	MUST(!strcmp(actor.program, again.program) && !strcmp(actor.door, again.door) &&
		!strcmp(actor.vm, again.vm));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* The parsers take a length and a terminated text, as the reader gives them. */
	_cleanup_free_ char *text = malloc(size + 1);
	if (!text)
		return 0;
	if (size)
		memcpy(text, data, size);
	text[size] = 0;
	fuzz_json(text, size);
	fuzz_request(text, size);
	fuzz_reply(text, size);
	fuzz_actor(text, size);
	fuzz_stream(text, size);
	return 0;
}
