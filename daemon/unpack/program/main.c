/* SPDX-License-Identifier: Apache-2.0 */
/*
 * banger-unpack: an archive made by strangers goes in, an ext4 image comes out. Started by the
 * daemon with the descriptors of protocol.h and nothing else, and it gives up all rights before it
 * reads the first byte; if what it reads takes it over, there is nothing here to have.
 *
 * All threads and everything that the work needs from the system are there before the sandbox is.
 * The process ends by _exit(2) in every case: nothing is left to clean up, and a thread may be
 * waiting for input.
 */
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>
#include <banger/log.h>
#include <banger/op.h>
#include <banger/wire.h>
#include "unpack/program/bundle.h"
#include "unpack/program/internal.h"
#include "unpack/program/protocol.h"
#include "unpack/program/sandbox.h"

/* ---- what it says */

static int send(struct json_object *line)
{
	size_t len;
	const char *text = json_object_to_json_string_length(line, JSON_C_TO_STRING_PLAIN, &len);
	char buffer[UNPACK_LINE_MAX];

	if (!text || len + 1 > sizeof(buffer))
		return -EMSGSIZE;
	memcpy(buffer, text, len);
	buffer[len++] = '\n';
	for (size_t done = 0; done < len;) {
		ssize_t n = write(UNPACK_FD_STATUS, buffer + done, len - done);
		if (n < 0 && errno != EINTR)
			return -errno;
		done += n > 0 ? n : 0;
	}
	return 0;
}

/* {"what": body}. Takes body. */
static int send_as(const char *what, struct json_object *body)
{
	_cleanup_json_ struct json_object *line = json_object_new_object();

	if (!line || !body || banger_json_add(line, what, body) < 0)
		return -ENOMEM;
	return send(line);
}

int program_progress(void *arg, struct banger_error *err)
{
	struct program *p = arg;
	int64_t now = banger_monotonic_us();
	uint64_t nodes, content;

	if (now - p->last_progress < UNPACK_PROGRESS_MS * 1000)
		return 0;
	p->last_progress = now;
	ext4_builder_progress(p->builder, &nodes, &content);
	struct json_object *o = json_object_new_object();
	if (o) {
		if (p->n_layers > 0)
			banger_json_add_int(o, "layer", p->layer);
		banger_json_add_int(o, "read", stream_position(p->stream));
		banger_json_add_int(o, "members", p->counts.members);
		banger_json_add_int(o, "content", content);
	}
	int r = send_as("progress", o);
	/* Nobody listens any more. */
	return r < 0 ? banger_error_set_errno(err, r, "cannot report progress") : 0;
}

static struct json_object *home_json(const struct ext4_builder_result *res)
{
	struct json_object *o = json_object_new_object();

	if (o) {
		banger_json_add_int(o, "size", res->size);
		banger_json_add_int(o, "used", res->used);
		banger_json_add_int(o, "inodes", res->inodes);
	}
	return o;
}

static int send_result(const struct program *p)
{
	const struct ext4_builder_result *res = &p->result;
	const struct {
		const char *key;
		uint64_t value;
	} numbers[] = {
		{"size", res->size},
		{"used", res->used},
		{"free", res->free},
		{"content", res->content},
		{"inodes", res->inodes},
		{"files", res->files},
		{"directories", res->directories},
		{"symlinks", res->symlinks},
		{"others", res->others},
		{"members", p->counts.members},
		{"ignored_xattrs", p->counts.ignored_xattrs},
		{"read", stream_position(p->stream)},
	};
	struct json_object *o = json_object_new_object();
	char uuid[33];

	for (size_t i = 0; i < ELEMENTSOF(numbers); i++)
		if (!o || banger_json_add_int(o, numbers[i].key, numbers[i].value) < 0)
			return -ENOMEM;
	for (size_t i = 0; i < sizeof(res->uuid); i++)
		snprintf(uuid + 2 * i, 3, "%02x", res->uuid[i]);
	banger_json_add_str(o, "uuid", uuid);
	banger_json_add_str(o, "compression", stream_compression(p->stream));
	banger_json_add_bool(o, "kept", p->kept);
	banger_json_add_bool(o, "shared", p->shared);
	if (p->home && banger_json_add(o, "home", home_json(&p->home_result)) < 0)
		return -ENOMEM;
	return send_as("result", o);
}

static void send_error(const struct program *p, const struct banger_error *err)
{
	struct json_object *o = json_object_new_object();

	if (o) {
		banger_json_add_str(o, "code", banger_code_name(err->code));
		banger_json_add_str(o, "message", err->message);
		if (p->reusing)
			banger_json_add_bool(o, "reuse", true);
		else if (p->in_layer && p->n_layers > 0)
			banger_json_add_int(o, "layer", p->layer);
	}
	send_as("error", o);
}

/* ---- what it is told */

static int hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int parse_seed(struct program *p, struct banger_error *err)
{
	const char *s = banger_json_str(p->options, "seed");

	if (!s)
		return 0;
	bool ok = strlen(s) == 2 * sizeof(p->seed);
	for (size_t i = 0; ok && i < sizeof(p->seed); i++) {
		int high = hex_digit(s[2 * i]), low = hex_digit(s[2 * i + 1]);
		ok = high >= 0 && low >= 0;
		p->seed[i] = ok ? high << 4 | low : 0;
	}
	p->has_seed = true;
	return ok ? 0 : banger_error_set(err, BANGER_BAD_REQUEST, "a seed that is none");
}

static int64_t option(const struct program *p, const char *key)
{
	return banger_json_int(p->options, key, 0);
}

static int parse_options(struct program *p, struct banger_error *err)
{
	int64_t layers = option(p, "layers"), replay = option(p, "replay");

	if (layers < 0 || layers > UNPACK_LAYERS_MAX || replay < 0 || replay > layers)
		return banger_error_set(err, BANGER_BAD_REQUEST, "%lld layers, %lld to replay",
			(long long)layers, (long long)replay);
	p->n_layers = layers;
	p->n_replay = replay;
	p->keep = banger_json_bool(p->options, "keep", false);
	p->mountpoints = banger_json_bool(p->options, "mountpoints", false);
	p->home = banger_json_get(p->options, "home");
	p->time = option(p, "time");
	return parse_seed(p, err);
}

/* ---- what it does */

/* Descriptors that are not for this run. */
static void close_others(const struct program *p)
{
	if (!p->home)
		close(UNPACK_FD_HOME);
	if (!p->keep)
		close(UNPACK_FD_KEEP);
	if (p->n_replay == 0)
		close(UNPACK_FD_FROM);
}

static int new_stream(struct program *p, struct banger_error *err)
{
	const struct stream_source source = {
		.next = layers_next, .read = layers_read, .arg = &p->layers};
	int64_t unpacked = option(p, "unpacked");
	int r;

	p->layers =
		(struct layers){.control_fd = UNPACK_FD_CONTROL, .total = p->n_layers, .fd = -1};
	if (p->n_layers > 0) {
		r = stream_new(&source, true, &p->stream, err);
		if (r == 0)
			r = digest_new(&p->digest, err);
	} else {
		r = stream_new_fd(UNPACK_FD_TAR, &p->stream, err);
	}
	if (r == 0 && unpacked > 0)
		stream_limit(p->stream, unpacked);
	return r;
}

/* The home's filesystem has an identity of its own. */
static int new_home(struct program *p, struct banger_error *err)
{
	uint8_t seed[EXT4_BUILDER_SEED_LEN];
	const struct ext4_builder_options o = {
		.fd = UNPACK_FD_HOME,
		.size = banger_json_int(p->home, "size", 0),
		.headroom_bytes = banger_json_int(p->home, "headroom", 0),
		.seed = p->has_seed ? seed : NULL,
		.time = p->time,
	};

	for (size_t i = 0; i < sizeof(seed); i++)
		seed[i] = p->seed[i] ^ (uint8_t) "home"[i % 4];
	return ext4_builder_new(&o, &p->home_builder, err);
}

static int prepare(struct program *p, struct banger_error *err)
{
	const struct sandbox_limits limits = {
		.memory = option(p, "memory"), .cpu_seconds = option(p, "cpu_seconds")};
	const struct sandbox_rights rights = {
		.receive_fd = p->n_layers > 0 ? UNPACK_FD_CONTROL : -1,
		.clone_to = p->keep ? UNPACK_FD_KEEP : -1,
		.clone_into = p->n_replay > 0 ? UNPACK_FD_IMAGE : -1};
	const struct ext4_builder_options o = {
		.fd = UNPACK_FD_IMAGE,
		.size = option(p, "size"),
		.headroom_bytes = option(p, "headroom"),
		.headroom_percent = option(p, "headroom_percent"),
		.seed = p->has_seed ? p->seed : NULL,
		.time = p->time,
		.direct = true,
		.names_max = (uint64_t)option(p, "entries"),
		.room = (uint64_t)option(p, "room"),
	};
	int abi, r = sandbox_restrict(&limits, &abi, err);

	if (r == 0)
		r = new_stream(p, err);
	if (r == 0)
		r = ext4_builder_new(&o, &p->builder, err);
	if (r == 0 && p->home)
		r = new_home(p, err);
	if (r == 0)
		r = sandbox_seal(&rights, err);
	if (r == 0)
		log_debug("unpacking in its sandbox", KV_I("landlock", abi));
	return r;
}

static int work(struct program *p, struct banger_error *err)
{
	int r = program_work(p, err);

	if (r != -ENOMEM)
		return r;
	banger_error_set(err, BANGER_TOO_LARGE,
		"the archive needs more than the %lld MiB of memory that unpacking may use (%llu "
		"members were read)",
		(long long)option(p, "memory") >> 20, (unsigned long long)p->counts.members);
	if (p->in_layer && p->n_layers > 0)
		banger_error_prefix(err, "layer %u of %u", p->layer + 1, p->n_layers);
	return r;
}

static int run(struct program *p, const char *options, struct banger_error *err)
{
	int r = banger_json_parse(options, strlen(options), &p->options, err);

	if (r == 0)
		r = parse_options(p, err);
	if (r < 0)
		return r;
	close_others(p);
	r = prepare(p, err);
	if (r == 0)
		r = work(p, err);
	if (r == 0 && (r = send_result(p)) < 0)
		banger_error_set_errno(err, r, "cannot report the result");
	return r;
}

int main(int argc, char **argv)
{
	static struct program p;
	struct banger_error err = {0};
	const char *op_id = getenv("BANGER_OP_ID");

	banger_log_init("banger-unpack");
	bool bundle = argc == 3 && strcmp(argv[1], "--bundle") == 0;
	if ((argc != 2 && !bundle) || fcntl(UNPACK_FD_TAR, F_GETFD) < 0 ||
		fcntl(UNPACK_FD_IMAGE, F_GETFD) < 0 || fcntl(UNPACK_FD_STATUS, F_GETFD) < 0) {
		fprintf(stderr, "banger-unpack is started by bangerd\n");
		return 2;
	}
	/* When the thread that waits for this dies, so does this. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGPIPE, SIG_IGN);
	mallopt(M_ARENA_MAX, 1);
	banger_op_id saved = banger_op_enter(banger_op_id_valid(op_id) ? op_id : "");
	(void)saved;
	if (bundle)
		_exit(bundle_main(argv[2]));
	close_range(UNPACK_FD_END, ~0U, 0);
	if (run(&p, argv[1], &err) < 0) {
		send_error(&p, &err);
		_exit(1);
	}
	_exit(0);
}
