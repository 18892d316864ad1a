/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What of a run of banger-unpack (child.h) has to do with archives and layers: the options that it gets, the
 * descriptors and their places, the socket over which it asks for layers (feed.h), and what its result says.
 */
#include "unpack/run.h"

#include <string.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <banger/log.h>
#include <banger/wire.h>
#include "unpack/child.h"
#include "unpack/feed.h"
#include "unpack/flatten.h"
#include "unpack/program/protocol.h"

#define HEADROOM (INT64_C(64) << 20)
#define HEADROOM_PERCENT 10
#define RESERVE_MOST (INT64_C(1) << 30)
#define RESERVE_PART 20
#define HOME "/root"
#define HOME_HEADROOM (INT64_C(1) << 30)

/* ---- starting */

static int add_home(struct json_object *j, const struct unpack_options *o)
{
	_cleanup_json_ struct json_object *home = json_object_new_object();

	if (!home ||
		banger_json_add_str(home, "path", o->work_seed_path ? o->work_seed_path : HOME) <
			0 ||
		banger_json_add_int(home, "size", o->work_seed_size) < 0 ||
		banger_json_add_int(home, "headroom", HOME_HEADROOM) < 0)
		return -ENOMEM;
	return banger_json_add(j, "home", TAKE_PTR(home));
}

static int add_layers(struct json_object *j, const struct unpack_options *o)
{
	if (banger_json_add_int(j, "layers", o->n_layers) < 0 ||
		banger_json_add_int(j, "replay", feed_replayed(o)) < 0 ||
		banger_json_add_bool(j, "keep", o->keep_fd >= 0) < 0)
		return -ENOMEM;
	return 0;
}

/* What of the disk may be filled; at least 1, for 0 means all. */
static int64_t room_for(const struct unpack_options *o)
{
	struct statvfs v;
	int64_t all, left, reserve;

	/* Of a disk that does not say (or of none, as with memory) nothing can be kept free. */
	if (fstatvfs(o->out_fd, &v) < 0 || v.f_blocks == 0 ||
		__builtin_mul_overflow(v.f_blocks, v.f_frsize, &all) ||
		__builtin_mul_overflow(v.f_bavail, v.f_frsize, &left))
		return 0;
	reserve = all / RESERVE_PART < RESERVE_MOST ? all / RESERVE_PART : RESERVE_MOST;
	left -= reserve;
	return left > o->wanted ? left - o->wanted : 1;
}

static struct json_object *options_json(
	const struct banger_config *config, const struct unpack_options *o)
{
	const struct {
		const char *key;
		int64_t value;
	} numbers[] = {
		{"size", o->size},
		{"headroom", o->headroom < 0 ? HEADROOM : o->headroom},
		{"headroom_percent",
			o->headroom_percent < 0 ? HEADROOM_PERCENT : o->headroom_percent},
		{"time", o->time > 0 ? o->time : 1},
		{"memory", o->memory > 0 ? o->memory : CHILD_MEMORY},
		{"unpacked", o->unpacked_max > 0 ? o->unpacked_max : config->unpacked_max},
		{"entries", o->entries_max > 0 ? o->entries_max : config->entries_max},
		{"room", room_for(o)},
		{"cpu_seconds", o->cpu_seconds > 0 ? o->cpu_seconds : CHILD_CPU_SECONDS},
	};
	_cleanup_json_ struct json_object *j = json_object_new_object();
	char seed[65];

	for (size_t i = 0; i < ELEMENTSOF(numbers); i++)
		if (!j || banger_json_add_int(j, numbers[i].key, numbers[i].value) < 0)
			return NULL;
	for (int i = 0; o->seed && i < 32; i++)
		snprintf(seed + 2 * i, 3, "%02x", o->seed[i]);
	if (banger_json_add_str(j, "seed", o->seed ? seed : NULL) < 0 ||
		banger_json_add_bool(j, "mountpoints", o->mountpoints) < 0 ||
		(o->n_layers > 0 && add_layers(j, o) < 0) ||
		(o->work_seed_fd >= 0 && add_home(j, o) < 0))
		return NULL;
	return TAKE_PTR(j);
}

static int start(struct child *c, const struct banger_config *config, const char *program,
	const struct unpack_options *o, struct banger_error *err)
{
	_cleanup_json_ struct json_object *options = options_json(config, o);
	_cleanup_close_ int socket = -1;

	if (!options)
		return banger_error_oom(err);
	int r = o->n_layers > 0 ? feed_init(&c->feed, o, &socket, err) : 0;
	if (r < 0)
		return r;
	const char *text = json_object_to_json_string_ext(options, JSON_C_TO_STRING_PLAIN);
	const char *arguments[] = {text, NULL};
	int fds[UNPACK_FD_END - UNPACK_FD_TAR];
	fds[UNPACK_FD_TAR - UNPACK_FD_TAR] = socket >= 0 ? socket : o->tar_fd;
	fds[UNPACK_FD_IMAGE - UNPACK_FD_TAR] = o->out_fd;
	fds[UNPACK_FD_HOME - UNPACK_FD_TAR] = o->work_seed_fd;
	fds[UNPACK_FD_KEEP - UNPACK_FD_TAR] = o->keep_fd;
	fds[UNPACK_FD_FROM - UNPACK_FD_TAR] = o->from_fd;
	if (!text)
		return banger_error_oom(err);
	if (fds[0] < 0 || o->out_fd < 0)
		return banger_error_set_errno(err, EBADF, "cannot hand over descriptors");
	return child_start(c, program, arguments, fds, ELEMENTSOF(fds), err);
}

/* ---- how it ended */

static void copy_result(struct json_object *j, struct unpack_result *ret)
{
	const char *uuid = banger_json_str(j, "uuid");
	struct json_object *home = banger_json_get(j, "home");

	*ret = (struct unpack_result){.size = banger_json_int(j, "size", 0),
		.used = banger_json_int(j, "used", 0),
		.free = banger_json_int(j, "free", 0),
		.content = banger_json_int(j, "content", 0),
		.inodes = banger_json_int(j, "inodes", 0),
		.members = banger_json_int(j, "members", 0),
		.ignored_xattrs = banger_json_int(j, "ignored_xattrs", 0),
		.read = banger_json_int(j, "read", 0),
		.kept = banger_json_bool(j, "kept", false),
		.shared = banger_json_bool(j, "shared", false),
		.work_seed_size = home ? banger_json_int(home, "size", 0) : 0,
		.work_seed_inodes = home ? banger_json_int(home, "inodes", 0) : 0};
	snprintf(ret->uuid, sizeof(ret->uuid), "%s", uuid ? uuid : "");
}

/* What the program could not say itself: which layer it was at. */
static void name_layer(
	const struct child *c, const struct unpack_options *o, int r, struct banger_error *err)
{
	if (!c->feed.any || c->failure || r == -ECANCELED)
		return;
	const char *digest = o->layers[c->feed.layer].digest;
	banger_error_prefix(err, "layer %u of %zu%s%s%s", c->feed.layer + 1, o->n_layers,
		digest ? " (" : "", digest ? digest : "", digest ? ")" : "");
}

/* Why it failed, for the one who asked. */
static struct unpack_failure failure(const struct child *c)
{
	struct unpack_failure f = {.layer = -1};

	if (c->failure) {
		f.reuse = banger_json_bool(c->failure, "reuse", false);
		f.layer = banger_json_int(c->failure, "layer", -1);
	} else if (c->feed.any) {
		f.layer = c->feed.layer;
	}
	return f;
}

static int run(struct child *c, const struct banger_config *config, const struct unpack_options *o,
	struct banger_error *err)
{
	const struct child_patience patience = {.cancel_fd = o->cancel_fd,
		.stall_ms = o->stall_ms > 0 ? o->stall_ms : CHILD_STALL_MS,
		.cpu_seconds = o->cpu_seconds > 0 ? o->cpu_seconds : CHILD_CPU_SECONDS,
		.progress = o->progress,
		.arg = o->arg};
	_cleanup_free_ char *program = NULL;
	int r = banger_config_program(config, "banger-unpack", &program, err);

	if (r == 0)
		r = start(c, config, program, o, err);
	if (r == 0)
		r = child_run(c, &patience, err);
	if (r == 0)
		return 0;
	name_layer(c, o, r, err);
	if (o->failure)
		*o->failure = failure(c);
	return r;
}

int unpack_run(const struct banger_config *config, const struct unpack_options *o,
	struct unpack_result *ret, struct banger_error *err)
{
	_cleanup_child_ struct child c = CHILD_NONE;
	struct unpack_result result;
	int64_t started = banger_monotonic_us();
	int r = run(&c, config, o, err);

	if (r < 0)
		return r;
	copy_result(c.result, &result);
	log_info(o->n_layers > 0 ? "layers unpacked" : "archive unpacked",
		KV_I("size", result.size), KV_I("content", result.content),
		KV_I("inodes", result.inodes), KV_I("read", result.read),
		KV_D("elapsed_ms", (double)(banger_monotonic_us() - started) / 1000));
	if (result.ignored_xattrs > 0)
		log_warn("extended attributes that Linux does not have were left out",
			KV_I("count", result.ignored_xattrs));
	if (ret)
		*ret = result;
	return 0;
}

int unpack_flatten(const struct banger_config *config, int cancel_fd, int tar_fd, int out_fd,
	int64_t size, struct banger_error *err)
{
	const struct unpack_options o = {.tar_fd = tar_fd,
		.out_fd = out_fd,
		.notify_fd = -1,
		.from_fd = -1,
		.keep_fd = -1,
		.work_seed_fd = -1,
		.cancel_fd = cancel_fd,
		.size = size,
		.headroom = -1,
		.headroom_percent = -1};

	return unpack_run(config, &o, NULL, err);
}
