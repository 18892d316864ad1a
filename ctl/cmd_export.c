/* SPDX-License-Identifier: Apache-2.0 */
/*
 * "image export": the daemon writes, to a descriptor of ours; the file gets its name here when all of
 * it is there. "image prune": what the daemon's caches may lose.
 */
#include "cmd_export.h"

#include <string.h>
#include <banger/methods.h>
#include "destination.h"
#include "text.h"

/* ---- export */

static int print_exported(const struct ctl *c, const struct destination *d, const char *file,
	struct json_object *result, struct banger_error *err)
{
	struct json_object *bundle = banger_json_get(result, "bundle");
	_cleanup_free_ char *name =
		text_clean(banger_json_str(banger_json_get(result, "image"), "name"));
	_cleanup_free_ char *digest = text_clean(banger_json_str(bundle, "digest"));
	_cleanup_free_ char *shown = text_clean(file);
	int64_t bytes = banger_json_int(bundle, "size", 0);
	char size[TEXT_SIZE_LEN];

	if (d->is_stdout)
		return 0; /* the bundle is there */
	if (c->json)
		return ctl_print_json(c, result, err);
	if (!name || !digest || !shown)
		return banger_error_oom(err);
	if (c->quiet)
		puts(digest);
	else
		printf("exported %s to %s: %s (%lld bytes), %s\n", name, shown,
			text_size(bytes, size), (long long)bytes, digest);
	return 0;
}

int do_export(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_destination_ struct destination d = {.fd = -1};
	_cleanup_json_ struct json_object *params = NULL, *result = NULL;
	_cleanup_free_ char *what = NULL;
	const char *image = in->args[0], *file = in->args[1];
	int r = ctl_connect(c, err);

	if (r == 0)
		r = ctl_params(&params, err, "image", image, NULL);
	if (r == 0)
		r = destination_open(c, file, &d, err);
	if (r < 0)
		return r;
	if (asprintf(&what, "exporting %s", image) < 0)
		what = NULL;
	const struct ctl_work work = {.what = what, .growing = d.path ? &d.fd : NULL};
	r = ctl_call_long(
		c, &work, BANGER_METHOD_IMAGE_EXPORT, TAKE_PTR(params), &d.fd, 1, &result, err);
	if (r == 0)
		r = destination_commit(&d, err);
	return r < 0 ? r : print_exported(c, &d, file, result, err);
}

/* ---- prune */

/* "12 layers and bundles (1.2GiB), 3 begun (5MiB), 2 unpacked (800MiB)" */
static void describe(struct json_object *o, char *buf, size_t len)
{
	static const struct {
		const char *count, *bytes, *what;
	} kinds[] = {{"blobs", "blob_bytes", "fetched"},
		{"partials", "partial_bytes", "partly fetched"},
		{"unpacked", "unpacked_bytes", "unpacked"}};
	size_t n = 0;

	snprintf(buf, len, "nothing");
	for (size_t i = 0; i < ELEMENTSOF(kinds); i++) {
		int64_t count = banger_json_int(o, kinds[i].count, 0);
		char size[TEXT_SIZE_LEN];
		if (count == 0 || n >= len)
			continue;
		n += (size_t)snprintf(buf + n, len - n, "%s%lld %s (%s)", n ? ", " : "",
			(long long)count, kinds[i].what,
			text_size(banger_json_int(o, kinds[i].bytes, 0), size));
	}
}

int do_prune(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = json_object_new_object(), *result = NULL;
	bool dry = cli_given(in, "dry-run"), all = cli_given(in, "all"), max = cli_given(in, "max");
	char removed[200], kept[200];

	if (all && max)
		return ctl_usage(c, err, "--all and --max exclude each other");
	if (!params || (dry && banger_json_add_bool(params, "dry_run", true) < 0) ||
		((all || max) &&
			banger_json_add_int(params, "max", all ? 0 : cli_number(in, "max", 0)) < 0))
		return banger_error_oom(err);
	int r = ctl_call(c, BANGER_METHOD_IMAGE_PRUNE, TAKE_PTR(params), &result, err);
	if (r < 0 || c->json)
		return r < 0 ? r : ctl_print_json(c, result, err);
	if (c->quiet) {
		printf("%lld\n",
			(long long)banger_json_int(banger_json_get(result, "removed"), "bytes", 0));
		return 0;
	}
	describe(banger_json_get(result, "removed"), removed, sizeof(removed));
	describe(banger_json_get(result, "kept"), kept, sizeof(kept));
	printf("%s %s\n%s %s\n", dry ? "would remove" : "removed", removed,
		dry ? "would keep" : "kept", kept);
	return 0;
}
