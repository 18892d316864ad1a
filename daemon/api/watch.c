/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registry.watch: a snapshot, then each change in order.
 *
 * The subscription and the view of the store are taken together under the publication lock, so no
 * change is between them: what was committed before is in the view, what comes after is in the
 * subscription. The lock is held for the opening of a read transaction and nothing else; the
 * snapshot is sent after it, from the view, while changes go on and gather in the subscription. VMs of vm.run are not in
 * the store; theirs are copied under the lock, too, which they hold when they change.
 */
#include <fcntl.h>
#include <string.h>
#include <banger/log.h>
#include "api/api.h"
#include "api/text.h"
#include "api/watch.h"
#include "image/service.h"
#include "kernel/service.h"
#include "vm/service.h"

/* Lines of a snapshot are about this long. */
#define CHUNK (192 * 1024)
/* A view that stays open keeps the store's log from being cut short, so it does not stay open for
 * ever. */
#define SNAPSHOT_MAX_US (60 * 1000000LL)

struct watch {
	const struct api *api;
	struct rpc_call *call;
	struct hub_subscription *subscription;
	struct store_view *view;
	struct banger_vm *vms; /* those that are not in the store */
	size_t n_vms;
	int64_t snapshot_until_us;
	bool ops;
};

static void watch_done(struct watch *w)
{
	store_view_closep(&w->view);
	hub_unsubscribep(&w->subscription);
	for (size_t i = 0; i < w->n_vms; i++)
		banger_vm_done(&w->vms[i]);
	free(TAKE_PTR(w->vms));
	w->n_vms = 0;
}

static int take_transient(struct watch *w, struct banger_error *err)
{
	struct banger_vm *all = NULL;
	size_t n = 0;

	int r = vm_service_list(w->api->vms, &all, &n, err);
	if (r < 0)
		return r;
	w->vms = all;
	for (size_t i = 0; i < n; i++)
		if (all[i].transient)
			w->vms[w->n_vms++] = all[i];
		else
			banger_vm_done(&all[i]);
	return 0;
}

static int begin(struct watch *w, bool snapshot, int64_t *ret_generation, struct banger_error *err)
{
	_cleanup_(publication_leavep) struct publication_lock *held =
		publication_enter(w->api->publication);
	int r = 0;

	if (hub_subscribe(
		    w->api->hub, HUB_REGISTRY | (w->ops ? HUB_OPS : 0), NULL, &w->subscription) < 0)
		return banger_error_oom(err);
	if (!snapshot)
		return store_generation(w->api->store, ret_generation, err);
	r = store_view_open(w->api->store, &w->view, err);
	if (r == 0)
		r = take_transient(w, err);
	if (r == 0)
		*ret_generation = store_view_generation(w->view);
	return r;
}

/* The descriptors under which a trusted peer finds the files itself. */
static int give_directories(struct watch *w, struct banger_error *err)
{
	const struct api *a = w->api;
	const int fds[] = {image_service_images_fd(a->images), image_service_drafts_fd(a->images),
		kernel_service_kernels_fd(a->kernels), vm_service_dir_fd(a->vms)};

	for (size_t i = 0; i < ELEMENTSOF(fds); i++) {
		int fd = fcntl(fds[i], F_DUPFD_CLOEXEC, 0);
		if (fd < 0)
			return banger_error_set_errno(err, errno, "cannot hand out a directory");
		w->call->reply_fds[w->call->n_reply_fds++] = fd;
	}
	return 0;
}

static int give_result(struct watch *w, int64_t generation, struct banger_error *err)
{
	static const char *const names[] = {"images", "drafts", "kernels", "vms"};
	struct json_object *o = json_object_new_object(), *list = json_object_new_array();

	for (size_t i = 0; list && i < ELEMENTSOF(names); i++)
		json_object_array_add(list, json_object_new_string(names[i]));
	w->call->result = o;
	if (!o || banger_json_add_int(o, "generation", generation) < 0 ||
		banger_json_add(o, "directories", list) < 0)
		return banger_error_oom(err);
	return w->call->peer->trusted ? give_directories(w, err) : 0;
}

/* ---- the snapshot */

struct chunk {
	struct text text;
	const char *key;
	size_t n;
};

static int chunk_flush(struct watch *w, struct chunk *c)
{
	int r = 0;

	if (banger_monotonic_us() > w->snapshot_until_us) {
		log_warn("a client reads its snapshot too slowly; its stream is closed");
		return -EPIPE;
	}
	if (c->n > 0) {
		text_add(&c->text, "]}");
		r = c->text.failed ? -ENOMEM
				   : rpc_stream_send(w->call->stream, c->text.s, c->text.len);
	}
	c->text.len = 0;
	c->n = 0;
	return r;
}

static void chunk_next(struct chunk *c)
{
	if (c->n++ > 0) {
		text_add(&c->text, ",");
		return;
	}
	text_add(&c->text, "{\"event\":\"snapshot\",\"");
	text_add(&c->text, c->key);
	text_add(&c->text, "\":[");
}

static int chunk_full(struct watch *w, struct chunk *c)
{
	return c->text.len >= CHUNK ? chunk_flush(w, c) : 0;
}

static int send_images(struct watch *w, struct chunk *c, struct banger_error *err)
{
	char after[BANGER_ID_LEN + 1] = "";
	int r = 0;

	c->key = "images";
	while (r == 0) {
		_cleanup_image_ struct banger_image i = {0};

		int more = store_view_next_image(w->view, -1, after[0] ? after : NULL, &i, err);
		if (more < 0)
			return more;
		if (more == 0)
			break;
		strcpy(after, i.id);
		i.damaged = image_service_damaged(w->api->images, &i);
		chunk_next(c);
		text_add_image(&c->text, &i);
		r = chunk_full(w, c);
	}
	return r == 0 ? chunk_flush(w, c) : r;
}

/* Takes o. */
static int add_object(struct watch *w, struct chunk *c, struct json_object *o)
{
	const char *s = o ? json_object_to_json_string_ext(
				    o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE)
			  : NULL;

	if (!s)
		c->text.failed = true;
	else {
		chunk_next(c);
		text_add(&c->text, s);
	}
	json_object_put(o);
	return c->text.failed ? -ENOMEM : chunk_full(w, c);
}

static int send_kernels(struct watch *w, struct chunk *c, struct banger_error *err)
{
	char after[BANGER_ID_LEN + 1] = "";
	int r = 0;

	c->key = "kernels";
	while (r == 0) {
		_cleanup_kernel_ struct banger_kernel k = {0};

		int more = store_view_next_kernel(w->view, after[0] ? after : NULL, &k, err);
		if (more < 0)
			return more;
		if (more == 0)
			break;
		strcpy(after, k.id);
		r = add_object(w, c, banger_kernel_to_json(&k));
	}
	return r == 0 ? chunk_flush(w, c) : r;
}

static int send_vms(struct watch *w, struct chunk *c, struct banger_error *err)
{
	char after[BANGER_ID_LEN + 1] = "";
	int r = 0;

	c->key = "vms";
	while (r == 0) {
		_cleanup_vm_ struct banger_vm v = {0};

		int more = store_view_next_vm(w->view, after[0] ? after : NULL, &v, err);
		if (more < 0)
			return more;
		if (more == 0)
			break;
		strcpy(after, v.id);
		r = add_object(w, c, banger_vm_to_json(&v));
	}
	for (size_t i = 0; i < w->n_vms && r == 0; i++)
		r = add_object(w, c, banger_vm_to_json(&w->vms[i]));
	return r == 0 ? chunk_flush(w, c) : r;
}

static int send_ops(struct watch *w, struct chunk *c, struct banger_error *err)
{
	_cleanup_free_ struct banger_op_record *ops = NULL;
	size_t n = 0;

	int r = operations_list(
		w->api->operations, w->api->config->ops_kept, false, -1, &ops, &n, err);
	c->key = "ops";
	for (size_t i = n; r == 0 && i > 0; i--) /* oldest first, as the events that follow */
		r = add_object(w, c, banger_op_record_to_json(&ops[i - 1]));
	return r == 0 ? chunk_flush(w, c) : r;
}

static int send_snapshot(struct watch *w, struct banger_error *err)
{
	_cleanup_(text_done) struct text line = {0};
	struct chunk c = {0};

	w->snapshot_until_us = banger_monotonic_us() + SNAPSHOT_MAX_US;
	int r = send_images(w, &c, err);
	if (r == 0)
		r = send_kernels(w, &c, err);
	if (r == 0)
		r = send_vms(w, &c, err);
	if (r == 0 && w->ops)
		r = send_ops(w, &c, err);
	text_done(&c.text);
	if (r < 0)
		return r;
	text_add(&line, "{\"event\":\"ready\",\"generation\":");
	text_add_int(&line, store_view_generation(w->view));
	text_add(&line, "}");
	r = line.failed ? -ENOMEM : rpc_stream_send(w->call->stream, line.s, line.len);
	store_view_closep(&w->view);
	return r;
}

/* ---- the changes */

int watch_forward(
	struct rpc_call *call, struct hub_subscription *subscription, bool ends_with_empty)
{
	for (;;) {
		_cleanup_free_ char *line = NULL;
		size_t len;

		int r = hub_take(subscription, &line, &len);
		if (r == 1 && len == 0 && ends_with_empty)
			return 0;
		if (r == 1)
			r = len > 0 ? rpc_stream_send(call->stream, line, len) : 0;
		else if (r == 0 &&
			 rpc_stream_wait(call->stream, hub_subscription_fd(subscription)) == 0)
			return 0;
		if (r == -EPIPE)
			log_debug("a watcher did not keep up, or went away");
		if (r < 0)
			return r;
	}
}

int api_registry_watch(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	struct watch w = {
		.api = ctx, .call = call, .ops = banger_json_bool(call->params, "ops", false)};
	int64_t generation;

	int r = begin(&w, banger_json_bool(call->params, "snapshot", true), &generation, err);
	if (r == 0)
		r = give_result(&w, generation, err);
	if (r == 0)
		r = rpc_stream_reply(call);
	if (r == 0 && w.view)
		r = send_snapshot(&w, err);
	if (r == 0)
		r = watch_forward(call, w.subscription, false);
	watch_done(&w);
	return r;
}
