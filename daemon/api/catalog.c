/* SPDX-License-Identifier: Apache-2.0 */
/*
 * catalog.ls: what the catalogs have, what of it is held, and which names an earlier catalog has taken.
 */
#include <string.h>
#include "api/api.h"
#include "api/catalog.h"
#include "pull/catalog.h"

/* What a list may weigh, so that the reply stays under the line's limit with all around it. */
#define LIST_BYTES_MAX (BANGER_WIRE_LINE_MAX - 128 * 1024)

static const char *str(const struct rpc_call *call, const char *key)
{
	return banger_json_str(call->params, key);
}

/* ---- catalog.ls */

/* What is held: where images and kernels say that they came from, and their names, in order. */
struct held {
	struct held_item {
		char *source, *name;
		bool kernel;
	} * items;
	size_t n, room;
};

static void held_done(struct held *h)
{
	for (size_t i = 0; i < h->n; i++) {
		free(h->items[i].source);
		free(h->items[i].name);
	}
	free(h->items);
}

static int held_add(struct held *h, bool kernel, const char *source, const char *name)
{
	if (!source || strncmp(source, "catalog:", strlen("catalog:")) != 0)
		return 0;
	if (h->n == h->room) {
		size_t room = h->room ? 2 * h->room : 64;
		struct held_item *more = reallocarray(h->items, room, sizeof(*more));
		if (!more)
			return -ENOMEM;
		h->items = more;
		h->room = room;
	}
	struct held_item *i = &h->items[h->n];
	*i = (struct held_item){strdup(source), strdup(name), kernel};
	h->n++;
	return i->source && i->name ? 0 : -ENOMEM;
}

static int by_source(const void *a, const void *b)
{
	const struct held_item *x = a, *y = b;
	int r = x->kernel - y->kernel;

	return r ? r : strcmp(x->source, y->source);
}

static int held_images(struct store_view *view, struct held *h, struct banger_error *err)
{
	char last[BANGER_ID_LEN + 1] = "";
	int r;

	for (;;) {
		_cleanup_image_ struct banger_image i = {0};
		r = store_view_next_image(view, BANGER_PUBLISHED, last[0] ? last : NULL, &i, err);
		if (r <= 0)
			return r;
		memcpy(last, i.id, sizeof(last));
		if (held_add(h, false, i.source, i.name) < 0)
			return banger_error_oom(err);
	}
}

static int held_kernels(struct store_view *view, struct held *h, struct banger_error *err)
{
	char last[BANGER_ID_LEN + 1] = "";
	int r;

	for (;;) {
		_cleanup_kernel_ struct banger_kernel k = {0};
		r = store_view_next_kernel(view, last[0] ? last : NULL, &k, err);
		if (r <= 0)
			return r;
		memcpy(last, k.id, sizeof(last));
		if (held_add(h, true, k.source, k.name) < 0)
			return banger_error_oom(err);
	}
}

static int held_find_all(struct store *store, struct held *h, struct banger_error *err)
{
	_cleanup_(store_view_closep) struct store_view *view = NULL;
	int r = store_view_open(store, &view, err);

	if (r == 0)
		r = held_images(view, h, err);
	if (r == 0)
		r = held_kernels(view, h, err);
	if (r == 0 && h->n > 0)
		qsort(h->items, h->n, sizeof(*h->items), by_source);
	return r;
}

/* The names that an entry is held under. NULL: no memory. */
static struct json_object *held_names(const struct held *h, const struct catalog_entry *e)
{
	_cleanup_json_ struct json_object *list = json_object_new_array();
	char source[CATALOG_SOURCE_MAX];
	const struct held_item key = {
		.source = (char *)catalog_source(e, source), .kernel = e->kind == CATALOG_KERNEL};
	const struct held_item *found =
		h->n ? bsearch(&key, h->items, h->n, sizeof(key), by_source) : NULL;

	if (!list)
		return NULL;
	while (found && found > h->items && by_source(found - 1, &key) == 0)
		found--;
	for (; found && found < h->items + h->n && by_source(found, &key) == 0; found++) {
		struct json_object *name = json_object_new_string(found->name);
		if (!name || json_object_array_add(list, name) < 0) {
			json_object_put(name);
			return NULL;
		}
	}
	return TAKE_PTR(list);
}

/* A listing on its way: entries of earlier catalogs are kept to know which names they took. */
struct listing {
	const struct api *api;
	struct held held;
	struct catalog *catalogs;
	size_t n; /* of them that were read, or failed (n 0 entries) */
	struct json_object *sources, *bundles, *kernels;
	size_t bytes;
};

static void listing_done(struct listing *l)
{
	for (size_t i = 0; i < l->n; i++)
		catalog_done(&l->catalogs[i]);
	free(l->catalogs);
	held_done(&l->held);
	json_object_put(l->sources);
	json_object_put(l->bundles);
	json_object_put(l->kernels);
}

/* The earlier catalog that has this name; NULL: none. */
static const char *taken_by(const struct listing *l, const struct catalog_entry *e)
{
	for (size_t i = 0; i < l->n; i++)
		if (catalog_lookup(&l->catalogs[i], e->kind, e->name, e->arch))
			return l->catalogs[i].location;
	return NULL;
}

static struct json_object *entry_json(
	const struct listing *l, const struct catalog_entry *e, const char *catalog)
{
	_cleanup_json_ struct json_object *o = json_object_new_object();

	if (!o || banger_json_add_str(o, "name", e->name) < 0 ||
		banger_json_add_str(o, "arch", e->arch) < 0 ||
		banger_json_add_str(o, "version", e->version) < 0 ||
		banger_json_add_int(o, "size", e->size) < 0 ||
		banger_json_add_str(o, "digest", e->digest) < 0 ||
		banger_json_add_str(o, "location", e->location) < 0 ||
		banger_json_add_str(o, "kernel", e->kernel) < 0 ||
		banger_json_add_str(o, "description", e->description) < 0 ||
		banger_json_add_str(o, "catalog", catalog) < 0 ||
		banger_json_add_str(o, "shadowed_by", taken_by(l, e)) < 0 ||
		banger_json_add(o, "held", held_names(&l->held, e)) < 0)
		return NULL;
	return TAKE_PTR(o);
}

static int list_add(struct listing *l, struct json_object *list, struct json_object *o,
	struct banger_error *err)
{
	size_t len;

	if (!o || !json_object_to_json_string_length(o, JSON_C_TO_STRING_PLAIN, &len) ||
		json_object_array_add(list, o) < 0) {
		json_object_put(o);
		return banger_error_oom(err);
	}
	l->bytes += len + 1;
	if (l->bytes > LIST_BYTES_MAX)
		return banger_error_set(err, BANGER_TOO_LARGE,
			"the catalogs hold more than one reply can: ask for one name");
	return 0;
}

static struct json_object *source_json(
	const char *location, const char *pin, int64_t age_s, const struct banger_error *why)
{
	_cleanup_json_ struct json_object *o = json_object_new_object();

	if (!o || banger_json_add_str(o, "location", location) < 0 ||
		banger_json_add_str(o, "digest", pin) < 0 ||
		banger_json_add_bool(o, "ok", why->code == BANGER_OK) < 0)
		return NULL;
	if (why->code != BANGER_OK)
		return banger_json_add_str(o, "code", banger_code_name(why->code)) < 0 ||
				       banger_json_add_str(o, "error", why->message) < 0
			       ? NULL
			       : TAKE_PTR(o);
	return banger_json_add_int(o, "age_s", age_s) < 0 ? NULL : TAKE_PTR(o);
}

static int list_entries(
	struct listing *l, const struct catalog *c, const char *name, struct banger_error *err)
{
	for (size_t i = 0; i < c->n; i++) {
		const struct catalog_entry *e = &c->entries[i];

		if (name && strcmp(name, e->name) != 0)
			continue;
		int r = list_add(l, e->kind == CATALOG_BUNDLE ? l->bundles : l->kernels,
			entry_json(l, e, c->location), err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* One that cannot be had is listed with the reason, and does not hide the others. */
static int list_catalog(
	struct listing *l, size_t i, const struct rpc_call *call, struct banger_error *err)
{
	struct catalogs *all = l->api->catalogs;
	struct catalog *c = &l->catalogs[i];
	struct banger_error why = {0};
	int64_t age_s = 0;

	int r = catalogs_load(all, i, banger_json_bool(call->params, "refresh", false),
		operation_cancel_fd(call->op), c, &age_s, &why);
	if (why.code == BANGER_CANCELLED) {
		*err = why;
		return r;
	}
	r = list_add(l, l->sources,
		source_json(catalogs_location(all, i), catalogs_pin(all, i), age_s, &why), err);
	if (r == 0)
		r = list_entries(l, c, str(call, "name"), err);
	l->n = i + 1;
	return r;
}

static int handle_catalog_ls(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	_cleanup_(listing_done) struct listing l = {.api = api,
		.catalogs = calloc(CATALOGS_MAX, sizeof(struct catalog)),
		.sources = json_object_new_array(),
		.bundles = json_object_new_array(),
		.kernels = json_object_new_array()};

	if (!l.catalogs || !l.sources || !l.bundles || !l.kernels)
		return banger_error_oom(err);
	int r = held_find_all(api->store, &l.held, err);
	for (size_t i = 0; r == 0 && i < catalogs_count(api->catalogs); i++)
		r = list_catalog(&l, i, call, err);
	if (r < 0)
		return r;
	call->result = json_object_new_object();
	if (!call->result || banger_json_add(call->result, "catalogs", TAKE_PTR(l.sources)) < 0 ||
		banger_json_add(call->result, "bundles", TAKE_PTR(l.bundles)) < 0 ||
		banger_json_add(call->result, "kernels", TAKE_PTR(l.kernels)) < 0)
		return banger_error_oom(err);
	return 0;
}

/* ---- the table */

static const struct rpc_param ls_params[] = {
	{"name", RPC_STRING, false, 0, BANGER_NAME_MAX}, {"refresh", RPC_BOOL}, {NULL, RPC_END}};
static const struct rpc_param kernel_params[] = {{"kernel", RPC_STRING, true, 0, BANGER_NAME_MAX},
	{"name", RPC_STRING}, {"arch", RPC_STRING, false, 0, CATALOG_ARCH_MAX}, {NULL, RPC_END}};
static const struct rpc_param export_params[] = {
	{"image", RPC_STRING, true, 0, 512}, {NULL, RPC_END}};

static const struct rpc_param prune_params[] = {
	{"max", RPC_INT, false, 0, INT64_MAX}, {"dry_run", RPC_BOOL}, {NULL, RPC_END}};

const struct rpc_method api_catalog_methods[] = {
	{"catalog.ls", handle_catalog_ls, RPC_HANGUP | RPC_YIELD, ls_params},
	{"kernel.pull", api_kernel_pull, RPC_CHANGE | RPC_HANGUP | RPC_YIELD, kernel_params},
	{"image.export", api_image_export, RPC_CHANGE | RPC_HANGUP | RPC_YIELD, export_params, 1,
		1},
	{"image.prune", api_image_prune, RPC_CHANGE, prune_params},
	{NULL},
};
