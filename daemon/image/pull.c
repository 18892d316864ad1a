/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pull: what a registry or a catalog has becomes a published image, by way of staging.h. Everything
 * that can be refused early is: the name, the kernel. The long part, fetching and unpacking, is a
 * function member of the service's dependencies; here the result is checked like any other root
 * filesystem, bound to a kernel, made durable and published. Its digest comes later (digester.h).
 *
 * A failure leaves nothing here. What was fetched stays in the cache of blobs, for the next attempt.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include "ext4/superblock.h"
#include "image/staging.h"

struct pull {
	struct image_service *s;
	struct operation *op;
	const struct image_pull *in;
	struct staging *t;
	struct image_pulled pulled;
	char name[BANGER_NAME_MAX + 1];
	char kernel[BANGER_NAME_MAX + 1]; /* that was asked for; "": none */
	bool bundle;
};

static void pulled_done(struct image_pulled *p)
{
	free(p->source);
	free(p->config);
	free(p->kernel);
	free(p->home);
	*p = (struct image_pulled){0};
}

/* "host/a/debian:12@sha256:…" is called debian, and oci:DIR[:TAG] is called as DIR's last part. */
static int own_name(struct pull *p, struct banger_error *err)
{
	const char *s = p->in->source;
	bool layout = strncmp(s, "oci:", 4) == 0;

	if (layout)
		s += 4;
	size_t end = strcspn(s, "@");
	const char *slash = memrchr(s, '/', end);
	while (slash && slash + 1 == s + end) { /* oci:/srv/web/ */
		end--;
		slash = memrchr(s, '/', end);
	}
	const char *from = slash ? slash + 1 : s;
	size_t n = strcspn(from, ":@/");

	if (n >= sizeof(p->name))
		n = sizeof(p->name) - 1;
	snprintf(p->name, sizeof(p->name), "%.*s", (int)n, from);
	if (banger_name_valid(p->name))
		return 0;
	return banger_error_set(err, BANGER_BAD_REQUEST,
		"\"%s\" does not say what the image should be called: give it a name (--name)",
		p->in->source);
}

static int take_kernel(
	struct pull *p, const char *word, char ret[BANGER_NAME_MAX + 1], struct banger_error *err)
{
	const struct image_service_deps *deps = &p->s->deps;

	if (!deps->find_kernel) {
		snprintf(ret, BANGER_NAME_MAX + 1, "%s", word);
		return 0;
	}
	return deps->find_kernel(deps->arg, word, ret, err);
}

static int begin(struct pull *p, struct banger_error *err)
{
	int r = 0;

	if (!p->in->source || !*p->in->source)
		return banger_error_set(err, BANGER_BAD_REQUEST, "nothing to pull was named");
	p->bundle = strncmp(p->in->source, "oci:", 4) != 0 && !strpbrk(p->in->source, "/:@");
	if (p->in->name)
		r = banger_name_check("image", p->in->name, err);
	if (r == 0 && p->in->name)
		strcpy(p->name, p->in->name);
	else if (r == 0)
		r = own_name(p, err);
	if (r == 0 && p->in->kernel)
		r = take_kernel(p, p->in->kernel, p->kernel, err);
	return r < 0 ? r : staging_begin(p->t, p->name, NULL, err);
}

/* ---- the work */

static int flatten(struct pull *p, struct banger_error *err)
{
	const struct image_service_deps *deps = &p->s->deps;

	if (!deps->pull_and_flatten)
		return banger_error_set(
			err, BANGER_UNSUPPORTED, "this build cannot pull from registries");
	_cleanup_close_ int seed =
		openat(p->t->dir_fd, WORK_SEED, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (seed < 0)
		return banger_error_set_errno(err, errno, "making a file for the work seed");
	int r = deps->pull_and_flatten(
		deps->arg, p->op, p->in, p->t->rootfs_fd, seed, &p->pulled, err);
	if (r == 0 && !p->pulled.seed && deps->build_work_seed) {
		r = deps->build_work_seed(
			deps->arg, p->op, p->t->rootfs_fd, p->pulled.home ?: "/root", seed, err);
		p->pulled.seed = r == 0;
	}
	if (r == 0 && !p->pulled.seed)
		(void)unlinkat(p->t->dir_fd, WORK_SEED, 0);
	return r;
}

/* The bundle brings a root filesystem of its own in place of the empty one. */
static int unbundle(struct pull *p, struct banger_error *err)
{
	const struct image_service_deps *deps = &p->s->deps;

	if (!deps->fetch_bundle)
		return banger_error_set(err, BANGER_UNSUPPORTED,
			"\"%s\" is no image reference, and this build has no catalogs",
			p->in->source);
	banger_closep(&p->t->rootfs_fd);
	p->t->rootfs_fd = -1;
	if (unlinkat(p->t->dir_fd, ROOTFS, 0) < 0)
		return banger_error_set_errno(err, errno, "making room for a bundle");
	int r = deps->fetch_bundle(deps->arg, p->op, p->in, p->t->dir_fd, &p->pulled, err);
	if (r < 0)
		return r;
	p->t->rootfs_fd = openat(p->t->dir_fd, ROOTFS, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	return p->t->rootfs_fd < 0
		       ? banger_error_set_errno(err, errno, "opening the bundle's root filesystem")
		       : 0;
}

static int finalize_rootfs(void *arg, struct operation *op, int rootfs_fd,
	struct banger_image *image, struct banger_error *err)
{
	struct stat st;

	if (fstat(rootfs_fd, &st) < 0)
		return banger_error_set_errno(err, errno, "looking at the pulled image");
	int r = ext4_superblock_check(rootfs_fd, st.st_size, "what was pulled", NULL, err);
	if (r == 0)
		image->size = st.st_size;
	return r;
}

/* The one asked for, the bundle's, the configured default if there is such a kernel. */
static int bind_kernel(struct pull *p, struct banger_error *err)
{
	const char *otherwise = p->s->deps.config ? p->s->deps.config->default_kernel : NULL;
	char name[BANGER_NAME_MAX + 1] = "";
	int r = 0;

	if (p->kernel[0])
		strcpy(name, p->kernel);
	else if (p->pulled.kernel)
		r = take_kernel(p, p->pulled.kernel, name, err);
	else if (otherwise && take_kernel(p, otherwise, name, NULL) < 0)
		name[0] = 0;
	if (r < 0)
		return r;
	if (name[0] && !(p->t->image.kernel = strdup(name)))
		return banger_error_oom(err);
	return 0;
}

static int complete(struct pull *p, struct banger_error *err)
{
	const struct image_service_deps *deps = &p->s->deps;
	struct banger_image *image = &p->t->image;

	int r = image_source_check(p->pulled.source, err);
	if (r == 0)
		r = bind_kernel(p, err);
	if (r < 0)
		return r;
	image->source = TAKE_PTR(p->pulled.source);
	image->config = TAKE_PTR(p->pulled.config);
	strcpy(image->digest, p->pulled.digest);
	return (deps->finalize_rootfs ?: finalize_rootfs)(
		deps->arg, p->op, p->t->rootfs_fd, image, err);
}

int image_service_pull(struct image_service *s, struct operation *op, const struct image_pull *in,
	struct banger_image *ret, struct banger_error *err)
{
	_cleanup_staging_ struct staging t = STAGING_INIT(s, op);
	struct pull p = {.s = s, .op = op, .in = in, .t = &t};

	int r = begin(&p, err);
	if (r == 0)
		r = staging_make(&t, err);
	if (r == 0)
		r = p.bundle ? unbundle(&p, err) : flatten(&p, err);
	if (r == 0)
		r = complete(&p, err);
	if (r == 0)
		r = operation_check_cancelled(op, err);
	if (r == 0)
		r = staging_seal(&t, err);
	if (r == 0)
		r = staging_publish(&t, "pulled", err);
	pulled_done(&p.pulled);
	if (r < 0)
		return r;
	*ret = image_take(&t.image);
	return 0;
}
