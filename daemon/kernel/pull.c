/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pulling a kernel: what a catalog names is fetched into the blob cache, where its digest is checked,
 * and imported from there like a file that a person gave. The name is looked at before anything is
 * fetched; that it is still free is decided by the import.
 */
#include <string.h>
#include "kernel/service.h"
#include "pull/catalog.h"

/* Is the name taken? Not by a prefix of it. */
static int name_free(struct kernel_service *s, const char *name, struct banger_error *err)
{
	_cleanup_kernel_ struct banger_kernel k = {0};
	int r = banger_name_check("kernel", name, err);

	if (r == 0 && kernel_service_find(s, name, &k, NULL) == 0 && strcmp(k.name, name) == 0)
		return banger_error_set(err, BANGER_EXISTS, "kernel name \"%s\" is taken", name);
	return r;
}

int kernel_service_pull(struct kernel_service *s, struct operation *op,
	const struct kernel_pull *in, struct banger_kernel *ret, struct banger_error *err)
{
	_cleanup_catalog_entry_ struct catalog_entry e = {0};
	_cleanup_blob_ struct blob *blob = NULL;
	const int cancel_fd = operation_cancel_fd(op);
	char source[CATALOG_SOURCE_MAX];
	int r = name_free(s, in->name ?: in->kernel, err);

	if (r == 0)
		r = catalogs_find(
			in->catalogs, CATALOG_KERNEL, in->kernel, in->arch, cancel_fd, &e, err);
	if (r == 0)
		r = catalogs_fetch(in->catalogs, &e, cancel_fd, in->progress, in->arg, &blob, err);
	if (r < 0)
		return r;
	_cleanup_close_ int fd = blob_open(blob, err);
	if (fd < 0)
		return fd;
	const struct kernel_import import = {.name = in->name ?: in->kernel,
		.format = "auto",
		.source = catalog_source(&e, source),
		.fd = fd};
	r = kernel_service_import(s, op, &import, ret, err);
	if (r < 0)
		banger_error_prefix(err, "kernel \"%s\" of the catalog", in->kernel);
	return r;
}
