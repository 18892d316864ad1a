/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process around bundle_unpack(): options, sandbox, status lines. As with layers, everything that
 * the work needs from the system is there before the sandbox is closed.
 */
#include "unpack/program/bundle.h"

#include <string.h>
#include <unistd.h>
#include <banger/log.h>
#include <banger/wire.h>
#include "unpack/bundle/bundle.h"
#include "unpack/program/protocol.h"
#include "unpack/program/sandbox.h"

struct unbundling {
	struct json_object *options;
	struct stream *stream;
	struct tar_reader *tar;
	int files[BUNDLE_FILES_MOST];
	size_t n, got;
	int64_t last_progress;
};

/* {"what": body}. Takes body. */
static int say(const char *what, struct json_object *body)
{
	_cleanup_json_ struct json_object *line = json_object_new_object();
	size_t len;

	if (!line || !body || banger_json_add(line, what, body) < 0)
		return -ENOMEM;
	const char *text = json_object_to_json_string_length(line, JSON_C_TO_STRING_PLAIN, &len);
	for (size_t done = 0; text && done <= len;) {
		ssize_t n = done < len ? write(BUNDLE_FD_STATUS, text + done, len - done)
				       : write(BUNDLE_FD_STATUS, "\n", 1);
		if (n < 0 && errno != EINTR)
			return -errno;
		done += n > 0 ? (size_t)n : 0;
	}
	return text ? 0 : -ENOMEM;
}

static int tick(void *arg, struct banger_error *err)
{
	struct unbundling *u = arg;
	int64_t now = banger_monotonic_us();

	if (now - u->last_progress < UNPACK_PROGRESS_MS * 1000)
		return 0;
	u->last_progress = now;
	struct json_object *o = json_object_new_object();
	if (o)
		banger_json_add_int(o, "read", (int64_t)stream_position(u->stream));
	int r = say("progress", o);
	/* Nobody listens any more. */
	return r < 0 ? banger_error_set_errno(err, r, "cannot report progress") : 0;
}

static int prepare(struct unbundling *u, struct banger_error *err)
{
	const struct sandbox_limits limits = {.memory = banger_json_int(u->options, "memory", 0),
		.cpu_seconds = banger_json_int(u->options, "cpu_seconds", 0)};
	const struct sandbox_rights rights = {.receive_fd = -1, .clone_to = -1, .clone_into = -1};
	int64_t n = banger_json_int(u->options, "files", -1);
	int64_t unpacked = banger_json_int(u->options, "unpacked", 0);
	int abi;

	if (n < 0 || n > BUNDLE_FILES_MOST)
		return banger_error_set(err, BANGER_BAD_REQUEST, "%lld files", (long long)n);
	u->n = (size_t)n;
	for (size_t i = 0; i < u->n; i++)
		u->files[i] = BUNDLE_FD_FILES + (int)i;
	close_range(BUNDLE_FD_FILES + (unsigned)n, ~0U, 0);
	int r = sandbox_restrict(&limits, &abi, err);
	if (r == 0)
		r = stream_new_fd(BUNDLE_FD_IN, &u->stream, err);
	if (r == 0 && unpacked > 0)
		stream_limit(u->stream, (uint64_t)unpacked);
	return r < 0 ? r : sandbox_seal(&rights, err);
}

static int work(struct unbundling *u, struct banger_error *err)
{
	const struct bundle_target target = {.document_fd = BUNDLE_FD_DOCUMENT,
		.files = u->files,
		.n = u->n,
		.tick = tick,
		.arg = u};
	const struct stream_blob *blob;

	stream_start(u->stream);
	int r = stream_begin(u->stream, &blob, err);
	if (r >= 0)
		r = tar_new(u->stream, false, &u->tar, err);
	return r < 0 ? r : bundle_unpack(u->tar, &target, &u->got, err);
}

static int run(struct unbundling *u, const char *options, struct banger_error *err)
{
	int r = banger_json_parse(options, strlen(options), &u->options, err);

	if (r == 0)
		r = prepare(u, err);
	if (r == 0)
		r = work(u, err);
	if (r == -ENOMEM)
		return banger_error_set(
			err, BANGER_TOO_LARGE, "it needs more memory than unpacking may use");
	if (r < 0)
		return r;
	struct json_object *o = json_object_new_object();
	if (o) {
		banger_json_add_int(o, "files", (int64_t)u->got);
		banger_json_add_int(o, "read", (int64_t)stream_position(u->stream));
	}
	r = say("result", o);
	return r < 0 ? banger_error_set_errno(err, r, "cannot report the result") : 0;
}

int bundle_main(const char *options)
{
	static struct unbundling u;
	struct banger_error err = {0};

	if (run(&u, options, &err) == 0)
		return 0;
	struct json_object *o = json_object_new_object();
	if (o) {
		banger_json_add_str(o, "code", banger_code_name(err.code));
		banger_json_add_str(o, "message", err.message);
	}
	say("error", o);
	return 1;
}
