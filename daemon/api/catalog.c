/* SPDX-License-Identifier: Apache-2.0 */
/*
 * catalog.ls, kernel.pull, image.export, image.prune: from JSON to calls of the catalogs and the services, and back.
 * Here too is what the image service is given to pull a bundle with.
 */
#include <fcntl.h>
#include <string.h>
#include <banger/log.h>
#include "api/api.h"
#include "api/catalog.h"
#include "image/service.h"
#include "kernel/service.h"
#include "pull/bundle.h"
#include "pull/catalog.h"
#include "pull/document.h"
#include "pull/flat.h"
#include "pull/pull.h"

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

/* ---- progress, in the form that pulls have (api/pull.c) */

struct fetching {
	struct operation *op;
	const char *digest;
	int64_t size;
};

static void tell(
	struct operation *op, const char *phase, const char *digest, int64_t fetched, int64_t size)
{
	_cleanup_json_ struct json_object *o = json_object_new_object(),
					  *layer = json_object_new_object(),
					  *layers = json_object_new_array();

	if (!o || !layer || !layers || banger_json_add_str(o, "phase", phase) < 0 ||
		banger_json_add_int(o, "fetched", fetched) < 0 ||
		banger_json_add_int(o, "total", size) < 0 ||
		banger_json_add_str(layer, "digest", digest) < 0 ||
		banger_json_add_int(layer, "size", size) < 0 ||
		banger_json_add_int(layer, "fetched", fetched) < 0 ||
		banger_json_add_str(layer, "state", fetched < size ? "fetching" : "fetched") < 0 ||
		json_object_array_add(layers, layer) < 0)
		return;
	layer = NULL;
	if (banger_json_add(o, "layers", TAKE_PTR(layers)) == 0)
		operation_progress(op, TAKE_PTR(o));
}

static void on_fetched(void *arg, int64_t fetched)
{
	const struct fetching *f = arg;

	tell(f->op, "fetching", f->digest, fetched, f->size);
}

static void on_unpacked(void *arg, int64_t read)
{
	const struct fetching *f = arg;

	tell(f->op, "unpacking", f->digest, f->size, f->size);
}

/* ---- kernel.pull */

static void on_kernel(void *arg, int64_t fetched)
{
	_cleanup_json_ struct json_object *o = json_object_new_object();

	if (o && banger_json_add_str(o, "phase", "fetching") == 0 &&
		banger_json_add_int(o, "fetched", fetched) == 0)
		operation_progress(arg, TAKE_PTR(o));
}

static int handle_kernel_pull(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	_cleanup_kernel_ struct banger_kernel k = {0};
	const struct kernel_pull in = {.catalogs = api->catalogs,
		.kernel = str(call, "kernel"),
		.name = str(call, "name"),
		.arch = str(call, "arch"),
		.progress = on_kernel,
		.arg = call->op};

	int r = kernel_service_pull(api->kernels, call->op, &in, &k, err);
	pull_engine_trim(api->pulls);
	if (r < 0)
		return r;
	call->result = json_object_new_object();
	if (!call->result ||
		banger_json_add(call->result, "kernel", banger_kernel_to_json(&k)) < 0 ||
		banger_json_add_int(call->result, "generation", k.generation) < 0)
		return banger_error_oom(err);
	return 0;
}

/* ---- image.export */

static int handle_export(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	_cleanup_json_ struct json_object *bundle = json_object_new_object();
	struct image_exported x = {0};

	int r = image_service_export(
		api->images, call->op, str(call, "image"), call->fds[0], &x, err);
	if (r < 0)
		return r;
	call->result = json_object_new_object();
	r = call->result ? banger_json_add(call->result, "image", banger_image_to_json(&x.image))
			 : -ENOMEM;
	banger_image_done(&x.image);
	if (r < 0 || !bundle || banger_json_add_int(bundle, "size", x.size) < 0 ||
		banger_json_add_str(bundle, "digest", x.digest) < 0 ||
		banger_json_add(call->result, "bundle", TAKE_PTR(bundle)) < 0)
		return banger_error_oom(err);
	return 0;
}

/* ---- image.prune */

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

static int handle_prune(void *ctx, struct rpc_call *call, struct banger_error *err)
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

/* ---- what the image service is given */

/* The kernel that a bundle wants: held, or pulled now. *ret_name is left NULL when nobody has it. */
static int want_kernel(const struct api *api, struct operation *op, const struct catalog_entry *e,
	const char *name, char **ret_name, struct banger_error *err)
{
	_cleanup_kernel_ struct banger_kernel k = {0};
	struct banger_error why = {0};
	const struct kernel_pull in = {.catalogs = api->catalogs,
		.kernel = name,
		.arch = e->arch,
		.progress = on_kernel,
		.arg = op};

	if (kernel_service_find(api->kernels, name, &k, NULL) < 0 || strcmp(k.name, name) != 0) {
		banger_kernel_done(&k);
		int r = kernel_service_pull(api->kernels, op, &in, &k, &why);
		if (r < 0 && why.code == BANGER_NOT_FOUND) {
			log_warn("the bundle's kernel is neither held nor in a catalog",
				KV_S("bundle", e->name), KV_S("kernel", name));
			return 0;
		}
		/* Another pull that wanted it was faster. */
		if (r < 0 && why.code != BANGER_EXISTS) {
			if (err)
				*err = why;
			return r;
		}
	}
	*ret_name = strdup(name);
	return *ret_name ? 0 : banger_error_oom(err);
}

/* The bundle's kernel, by its own document, else by the catalog. */
static int take_kernel(const struct api *api, struct operation *op, const struct image_pull *in,
	const struct catalog_entry *e, const struct bundle_document *d, char **ret,
	struct banger_error *err)
{
	const char *name = d->kernel ?: e->kernel;

	return name && !in->kernel ? want_kernel(api, op, e, name, ret, err) : 0;
}

static int unpack(const struct api *api, struct operation *op, const struct catalog_entry *e,
	const struct blob *blob, int dir_fd, struct bundle_document *ret, struct banger_error *err)
{
	struct fetching f = {op, e->digest, e->size};
	char path[64];

	/* A file position of our own: others may read the same blob. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", blob_fd(blob));
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return banger_error_set_errno(err, errno, "opening the bundle");
	const struct bundle_source source = {.fd = fd,
		.dir_fd = dir_fd,
		.cancel_fd = operation_cancel_fd(op),
		.progress = on_unpacked,
		.arg = &f};
	int r = bundle_extract(api->config, &source, ret, err);
	if (r < 0)
		banger_error_prefix(err, "bundle \"%s\"", e->name);
	return r;
}

static int arch_of(const char *platform, char ret[32], struct banger_error *err)
{
	struct pull_platform p;

	if (!platform) {
		snprintf(ret, 32, "%s", catalog_machine_arch());
		return 0;
	}
	int r = pull_platform_parse(platform, &p, err);
	if (r == 0)
		snprintf(ret, 32, "%s", p.arch);
	return r;
}

static bool has_file(const struct bundle_document *d, const char *name)
{
	for (size_t i = 0; i < d->n; i++)
		if (strcmp(d->files[i].name, name) == 0)
			return true;
	return false;
}

static int fetch_bundle(const struct api *api, struct operation *op, const struct image_pull *in,
	int dir_fd, struct image_pulled *ret, struct banger_error *err)
{
	_cleanup_bundle_document_ struct bundle_document d = {0};
	_cleanup_catalog_entry_ struct catalog_entry e = {0};
	_cleanup_blob_ struct blob *blob = NULL;
	_cleanup_free_ char *kernel = NULL;
	const int cancel_fd = operation_cancel_fd(op);
	char arch[32], source[CATALOG_SOURCE_MAX];

	int r = arch_of(in->platform, arch, err);
	if (r == 0)
		r = catalogs_find(
			api->catalogs, CATALOG_BUNDLE, in->source, arch, cancel_fd, &e, err);
	if (r < 0)
		return r;
	struct fetching f = {op, e.digest, e.size};
	r = catalogs_fetch(api->catalogs, &e, cancel_fd, on_fetched, &f, &blob, err);
	if (r == 0)
		r = unpack(api, op, &e, blob, dir_fd, &d, err);
	if (r == 0)
		r = take_kernel(api, op, in, &e, &d, &kernel, err);
	if (r < 0)
		return r;
	char *text = strdup(catalog_source(&e, source));
	if (!text)
		return banger_error_oom(err);
	*ret = (struct image_pulled){.source = text,
		.config = TAKE_PTR(d.config),
		.kernel = TAKE_PTR(kernel),
		.seed = has_file(&d, "work-seed.ext4")};
	snprintf(ret->digest, sizeof(ret->digest), "%.71s", d.files[0].digest);
	return 0;
}

int api_fetch_bundle(const struct api *api, struct operation *op, const struct image_pull *in,
	int dir_fd, struct image_pulled *ret, struct banger_error *err)
{
	int r = fetch_bundle(api, op, in, dir_fd, ret, err);

	/* Now that nothing of it is in use. */
	pull_engine_trim(api->pulls);
	return r;
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
	{"catalog.ls", handle_catalog_ls, RPC_HANGUP, ls_params},
	{"kernel.pull", handle_kernel_pull, RPC_CHANGE | RPC_HANGUP, kernel_params},
	{"image.export", handle_export, RPC_CHANGE | RPC_HANGUP, export_params, 1, 1},
	{"image.prune", handle_prune, RPC_CHANGE, prune_params},
	{NULL},
};
