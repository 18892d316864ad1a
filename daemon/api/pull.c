/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image.pull in its two forms: as one call, which its client may follow by image.pull.status under the
 * same op_id and which ends with the client; and as image.pull.begin, which answers at once and goes on
 * by itself (jobs.h). Here too is what joins the engine of pulls to the image service: progress becomes
 * the operation's, in this form:
 *
 *	{"phase":"resolving"|"fetching"|"unpacking"|"finishing","digest":"sha256:…"?,
 *	 "fetched":BYTES,"total":BYTES,"members":N,"content":BYTES,
 *	 "layers":[{"digest","size":BYTES,"fetched":BYTES,"state":"waiting"|"fetching"|"held"|"fetched"|"reused"}]}
 */
#include "api/api.h"
#include "api/jobs.h"
#include "api/pull.h"
#include "image/service.h"
#include "kernel/service.h"
#include "pull/pull.h"

#define LAYERS_SHOWN 256

/* ---- progress */

static struct json_object *layers_json(const struct pull_progress *p)
{
	_cleanup_json_ struct json_object *list = json_object_new_array();

	for (size_t i = 0; list && i < p->n_layers && i < LAYERS_SHOWN; i++) {
		const struct pull_progress_layer *l = &p->layers[i];
		_cleanup_json_ struct json_object *o = json_object_new_object();

		if (!o || banger_json_add_str(o, "digest", l->digest) < 0 ||
			banger_json_add_int(o, "size", l->size) < 0 ||
			banger_json_add_int(o, "fetched", l->fetched) < 0 ||
			banger_json_add_str(o, "state", pull_layer_state_name(l->state)) < 0 ||
			json_object_array_add(list, o) < 0)
			return NULL;
		o = NULL;
	}
	return TAKE_PTR(list);
}

static struct json_object *progress_json(const struct pull_progress *p)
{
	_cleanup_json_ struct json_object *o = json_object_new_object();
	int64_t fetched = 0, total = 0;

	for (size_t i = 0; i < p->n_layers; i++) {
		fetched += p->layers[i].fetched;
		total += p->layers[i].size;
	}
	if (!o || banger_json_add_str(o, "phase", p->phase) < 0 ||
		banger_json_add_str(o, "digest", p->digest[0] ? p->digest : NULL) < 0 ||
		banger_json_add_int(o, "fetched", fetched) < 0 ||
		banger_json_add_int(o, "total", total) < 0 ||
		banger_json_add_int(o, "members", p->members) < 0 ||
		banger_json_add_int(o, "content", p->content) < 0 ||
		banger_json_add(o, "layers", layers_json(p)) < 0)
		return NULL;
	return TAKE_PTR(o);
}

static void on_progress(void *arg, const struct pull_progress *p)
{
	struct json_object *o = progress_json(p);

	if (o)
		operation_progress(arg, o);
}

/* ---- what the image service is given */

int api_pull_and_flatten(struct pull_engine *engine, struct operation *op,
	const struct image_pull *in, int rootfs_fd, int seed_fd, struct image_pulled *ret,
	struct banger_error *err)
{
	_cleanup_pull_result_ struct pull_result result = {0};
	const struct pull_request q = {
		.reference = in->source,
		.platform = in->platform,
		.rootfs_fd = rootfs_fd,
		.seed_fd = seed_fd,
		.cancel_fd = operation_cancel_fd(op),
		.layouts = in->layouts,
		.progress = on_progress,
		.arg = op,
	};

	int r = pull_run(engine, &q, &result, err);
	if (r < 0)
		return r;
	*ret = (struct image_pulled){.source = TAKE_PTR(result.source),
		.config = TAKE_PTR(result.config),
		.home = TAKE_PTR(result.home),
		.seed = result.seed};
	return 0;
}

/* ---- the methods */

static int pull(const struct api *api, struct operation *op, struct json_object *params,
	bool trusted, struct json_object **ret, struct banger_error *err)
{
	_cleanup_image_ struct banger_image image = {0};
	_cleanup_json_ struct json_object *o = NULL;
	const struct image_pull in = {
		.source = banger_json_str(params, "source"),
		.name = banger_json_str(params, "name"),
		.platform = banger_json_str(params, "platform"),
		.kernel = banger_json_str(params, "kernel"),
		.layouts = trusted,
	};

	int r = image_service_pull(api->images, op, &in, &image, err);
	if (r < 0)
		return r;
	o = json_object_new_object();
	if (!o || banger_json_add(o, "image", banger_image_to_json(&image)) < 0 ||
		banger_json_add_int(o, "generation", image.generation) < 0)
		return banger_error_oom(err);
	*ret = TAKE_PTR(o);
	return 0;
}

static int handle_pull(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	return pull(ctx, call->op, call->params, call->peer->trusted, &call->result, err);
}

static int handle_begin(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	return job_begin(ctx, call, pull, err);
}

static int handle_status(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	return job_status(ctx, call, "image.pull", "pull", err);
}

static int handle_cancel(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	return job_cancel(ctx, call, "image.pull", "pull", err);
}

static const struct rpc_param pull_params[] = {{"source", RPC_STRING, true}, {"name", RPC_STRING},
	{"platform", RPC_STRING, false, 0, 128}, {"kernel", RPC_STRING, false, 0, 512},
	{NULL, RPC_END}};

const struct rpc_method api_pull_methods[] = {
	{"image.pull", handle_pull, RPC_CHANGE | RPC_HANGUP | RPC_YIELD, pull_params},
	{"image.pull.begin", handle_begin, RPC_CHANGE | RPC_LONG, pull_params},
	{"image.pull.status", handle_status, RPC_ANYONE, job_params},
	{"image.pull.cancel", handle_cancel, 0, job_params},
	{NULL},
};
