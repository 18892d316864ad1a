/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image.export and kernel.pull, and what the image service is given to pull a bundle with.
 */
#include <string.h>
#include <banger/log.h>
#include "api/api.h"
#include "api/catalog.h"
#include "image/service.h"
#include "kernel/service.h"
#include "pull/bundle.h"
#include "pull/catalog.h"
#include "pull/document.h"
#include "pull/pull.h"

static const char *str(const struct rpc_call *call, const char *key)
{
	return banger_json_str(call->params, key);
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

int api_kernel_pull(void *ctx, struct rpc_call *call, struct banger_error *err)
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

int api_image_export(void *ctx, struct rpc_call *call, struct banger_error *err)
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
	_cleanup_close_ int fd = blob_open(blob, err);

	if (fd < 0)
		return fd;
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
