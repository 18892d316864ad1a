/* SPDX-License-Identifier: Apache-2.0 */
/* image.prune: what pulls keep, shown and freed. */
#include "api/api.h"
#include "api/catalog.h"
#include "pull/blobs.h"
#include "pull/flat.h"
#include "pull/pull.h"

/* What is fetched, and what is unpacked: both are there to be had again. */
struct cached {
	struct blobs_usage blobs;
	struct flat_usage flat;
};

static int64_t cached_bytes(const struct cached *c)
{
	return c->blobs.bytes + c->blobs.partial_bytes + c->flat.bytes;
}

static int cached_usage(struct pull_engine *e, struct cached *ret, struct banger_error *err)
{
	int r = blobs_usage(pull_engine_blobs(e), &ret->blobs, err);

	return r < 0 ? r : flat_usage(pull_engine_flat(e), &ret->flat, err);
}

/* What is unpacked has up to half of the room, blobs have the rest; as pull_engine_trim() has it. */
static int cached_prune(struct pull_engine *e, int64_t max, bool dry, const struct cached *now,
	struct cached *ret, struct banger_error *err)
{
	int r = flat_prune(pull_engine_flat(e), max / 2, dry, &ret->flat, err);

	if (r < 0)
		return r;
	int64_t left = now->flat.bytes - ret->flat.bytes;
	return (dry ? blobs_prune_plan : blobs_prune)(
		pull_engine_blobs(e), max > left ? max - left : 0, &ret->blobs, err);
}

static void cached_subtract(struct cached *from, const struct cached *c)
{
	from->blobs.blobs -= c->blobs.blobs;
	from->blobs.bytes -= c->blobs.bytes;
	from->blobs.partials -= c->blobs.partials;
	from->blobs.partial_bytes -= c->blobs.partial_bytes;
	from->flat.entries -= c->flat.entries;
	from->flat.bytes -= c->flat.bytes;
}

static struct json_object *cached_json(const struct cached *c)
{
	const struct {
		const char *key;
		int64_t value;
	} all[] = {
		{"blobs", c->blobs.blobs},
		{"blob_bytes", c->blobs.bytes},
		{"partials", c->blobs.partials},
		{"partial_bytes", c->blobs.partial_bytes},
		{"in_use_bytes", c->blobs.in_use_bytes},
		{"unpacked", c->flat.entries},
		{"unpacked_bytes", c->flat.bytes},
		{"bytes", cached_bytes(c)},
	};
	_cleanup_json_ struct json_object *o = json_object_new_object();

	for (size_t i = 0; o && i < ELEMENTSOF(all); i++)
		if (banger_json_add_int(o, all[i].key, all[i].value) < 0)
			return NULL;
	return TAKE_PTR(o);
}

int api_image_prune(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	bool dry = banger_json_bool(call->params, "dry_run", false);
	struct cached now = {0}, removed = {0}, kept = {0};

	int r = cached_usage(api->pulls, &now, err);
	if (r == 0)
		r = cached_prune(api->pulls,
			banger_json_int(call->params, "max", api->config->cache_max), dry, &now,
			&removed, err);
	if (r == 0)
		r = cached_usage(api->pulls, &kept, err);
	if (r < 0)
		return r;
	if (dry)
		cached_subtract(&kept, &removed);
	call->result = json_object_new_object();
	if (!call->result || banger_json_add(call->result, "removed", cached_json(&removed)) < 0 ||
		banger_json_add(call->result, "kept", cached_json(&kept)) < 0)
		return banger_error_oom(err);
	return 0;
}
