/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing the initrd: a cpio archive ("newc", as the kernel's
 * Documentation/driver-api/early-userspace describes) by libarchive, not compressed, because
 * inflating it in an emulated VM costs more than reading it.
 *
 * Which modules, in which order, is modules.c's to say. Compressed ones (.ko.xz and the like) are
 * unpacked here, because not every kernel can do that itself. What is read was made by
 * kernel_service_import(): paths are still checked, and sizes limited.
 */
#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <banger/log.h>
#include "vm/initrd.h"
#include "vm/modules.h"

#define MODULE_MAX (64 * 1024 * 1024)
#define TEXT_MAX (16 * 1024 * 1024)

/* Ways to the root disk, the agent's port and the root filesystem, on each kind of machine a driver
 * makes. */
static const char *const always[] = {"virtio_mmio", "virtio_blk", "virtio_console", "ext4", NULL};
static const struct {
	unsigned feature;
	const char *module;
} others[] = {{INITRD_NETWORK, "virtio_net"}, {INITRD_VIRTIOFS, "virtiofs"}};

struct blob {
	char *data;
	size_t len;
};

static void blob_done(struct blob *b)
{
	free(b->data);
}

struct build {
	const struct vm_service_deps *deps;
	const struct banger_kernel *kernel;
	int agent_fd;
	unsigned features;
	struct archive *out;
	size_t modules;
};

static int read_all(
	int fd, size_t max, struct blob *ret, const char *what, struct banger_error *err)
{
	_cleanup_(blob_done) struct blob b = {0};
	struct stat st;

	if (fstat(fd, &st) < 0)
		return banger_error_set_errno(err, errno, "cannot read %s", what);
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size > max)
		return banger_error_set(err, BANGER_TOO_LARGE, "%s is too large", what);
	b.data = malloc(st.st_size + 1);
	if (!b.data)
		return banger_error_oom(err);
	while (b.len < (size_t)st.st_size) {
		ssize_t n = pread(fd, b.data + b.len, st.st_size - b.len, b.len);
		if (n < 0)
			return banger_error_set_errno(err, errno, "cannot read %s", what);
		if (n == 0)
			break;
		b.len += n;
	}
	b.data[b.len] = '\0';
	*ret = b;
	b.data = NULL;
	return 0;
}

static void read_freep(struct archive **a)
{
	archive_read_free(*a);
}

static void write_freep(struct archive **a)
{
	archive_write_free(*a);
}

static void entry_freep(struct archive_entry **e)
{
	archive_entry_free(*e);
}

/* Unpack a compressed module: libarchive's "raw" format under the three filters that kernels use.
 */
static int decompress(struct blob *b, const char *path, struct banger_error *err)
{
	_cleanup_(read_freep) struct archive *a = archive_read_new();
	_cleanup_(blob_done) struct blob plain = {0};
	struct archive_entry *e;
	ssize_t n = -1;

	if (!a)
		return banger_error_oom(err);
	archive_read_support_filter_xz(a);
	archive_read_support_filter_zstd(a);
	archive_read_support_filter_gzip(a);
	archive_read_support_format_raw(a);
	plain.data = malloc(MODULE_MAX);
	if (!plain.data)
		return banger_error_oom(err);
	if (archive_read_open_memory(a, b->data, b->len) == ARCHIVE_OK &&
		archive_read_next_header(a, &e) == ARCHIVE_OK)
		while ((n = archive_read_data(a, plain.data + plain.len, MODULE_MAX - plain.len)) >
			0)
			plain.len += n;
	if (n < 0 || plain.len == MODULE_MAX)
		return banger_error_set(
			err, BANGER_CORRUPT, "the module %s cannot be unpacked", path);
	free(b->data);
	*b = plain;
	plain.data = NULL;
	return 0;
}

static int put_entry(struct build *b, const char *path, unsigned mode, const void *data, size_t len,
	struct banger_error *err)
{
	_cleanup_(entry_freep) struct archive_entry *e = archive_entry_new();

	if (!e)
		return banger_error_oom(err);
	archive_entry_set_pathname(e, path);
	archive_entry_set_mode(e, mode);
	archive_entry_set_size(e, len);
	archive_entry_set_nlink(e, 1);
	if (archive_write_header(b->out, e) != ARCHIVE_OK ||
		(len > 0 && archive_write_data(b->out, data, len) != (la_ssize_t)len))
		return banger_error_set(err, BANGER_INTERNAL, "cannot write the initrd: %s",
			archive_error_string(b->out) ?: "no reason given");
	return 0;
}

static int put_agent(struct build *b, struct banger_error *err)
{
	_cleanup_(blob_done) struct blob agent = {0};

	int r = read_all(b->agent_fd, MODULE_MAX, &agent, "the guest agent", err);
	return r < 0 ? r : put_entry(b, "init", S_IFREG | 0755, agent.data, agent.len, err);
}

static int put_module(
	struct build *b, const char *path, size_t number, FILE *list, struct banger_error *err)
{
	_cleanup_(blob_done) struct blob module = {0};
	_cleanup_close_ int fd = -1;
	char file[1024], name[32];
	size_t len = strlen(path);

	if ((size_t)snprintf(file, sizeof(file), "modules/%s/%s", b->kernel->version, path) >=
		sizeof(file))
		return banger_error_set(err, BANGER_CORRUPT, "a path in modules.dep is too long");
	int r = b->deps->kernel_open(b->deps->kernels, b->kernel, file, &fd, err);
	if (r == 0)
		r = read_all(fd, MODULE_MAX, &module, file, err);
	if (r == 0 && len > 3 && strcmp(path + len - 3, ".ko") != 0)
		r = decompress(&module, file, err);
	if (r < 0)
		return r;
	snprintf(name, sizeof(name), "m/%zu.ko", number);
	fprintf(list, "/%s\n", name);
	return put_entry(b, name, S_IFREG | 0644, module.data, module.len, err);
}

/* A text of the kernel's modules directory; NULL in *ret when it has none of that name. */
static int read_text(struct build *b, const char *name, struct blob *ret, struct banger_error *err)
{
	_cleanup_close_ int fd = -1;
	struct banger_error why = {0};
	char file[256];

	snprintf(file, sizeof(file), "modules/%s/%s", b->kernel->version, name);
	int r = b->deps->kernel_open(b->deps->kernels, b->kernel, file, &fd, &why);
	if (r < 0 && why.code == BANGER_NOT_FOUND)
		return 0;
	if (r < 0) {
		if (err)
			*err = why;
		return r;
	}
	return read_all(fd, TEXT_MAX, ret, file, err);
}

static void texts_done(struct blob (*texts)[3])
{
	for (size_t i = 0; i < 3; i++)
		blob_done(&(*texts)[i]);
}

static void order_done(char ***order)
{
	module_order_free(order);
}

static int find_order(struct build *b, char ***ret, struct banger_error *err)
{
	_cleanup_(texts_done) struct blob t[3] = {0};
	const char *wanted[ELEMENTSOF(always) + ELEMENTSOF(others)];
	size_t n = ELEMENTSOF(always) - 1;

	memcpy(wanted, always, sizeof(always));
	for (size_t i = 0; i < ELEMENTSOF(others); i++)
		if (b->features & others[i].feature)
			wanted[n++] = others[i].module;
	wanted[n] = NULL;
	int r = read_text(b, "modules.dep", &t[0], err);
	if (r == 0)
		r = read_text(b, "modules.softdep", &t[1], err);
	if (r == 0)
		r = read_text(b, "modules.builtin", &t[2], err);
	const struct module_texts texts = {t[0].data, t[1].data, t[2].data};
	return r < 0 ? r : module_order(&texts, wanted, ret, err);
}

static int put_modules(struct build *b, struct banger_error *err)
{
	_cleanup_(order_done) char **order = NULL;
	_cleanup_free_ char *text = NULL;
	size_t n = 0, size = 0;

	if (!b->kernel->modules)
		return 0; /* then everything must be built in */
	int r = find_order(b, &order, err);
	if (r == 0)
		r = put_entry(b, "m", S_IFDIR | 0755, NULL, 0, err);
	FILE *list = r < 0 ? NULL : open_memstream(&text, &size);
	if (!list)
		return r < 0 ? r : banger_error_oom(err);
	for (; r == 0 && order[n]; n++)
		r = put_module(b, order[n], n, list, err);
	b->modules = n;
	if (fclose(list) != 0)
		return banger_error_oom(err);
	return r < 0 ? r : put_entry(b, "modules.list", S_IFREG | 0644, text, size, err);
}

static int write_archive(struct build *b, int fd, struct banger_error *err)
{
	int r;

	archive_write_set_format_cpio_newc(b->out);
	archive_write_add_filter_none(b->out);
	archive_write_set_bytes_in_last_block(b->out, 1);
	if (archive_write_open_fd(b->out, fd) != ARCHIVE_OK)
		return banger_error_set(err, BANGER_INTERNAL, "cannot write the initrd: %s",
			archive_error_string(b->out) ?: "no reason given");
	r = put_agent(b, err);
	if (r == 0)
		/* The kernel opens it for PID 1's standard descriptors before anything is mounted.
		 */
		r = put_entry(b, "dev", S_IFDIR | 0755, NULL, 0, err);
	if (r == 0)
		r = put_modules(b, err);
	if (r == 0 && archive_write_close(b->out) != ARCHIVE_OK)
		r = banger_error_set(err, BANGER_INTERNAL, "cannot write the initrd: %s",
			archive_error_string(b->out) ?: "no reason given");
	return r;
}

int initrd_build(const struct vm_service_deps *deps, const struct banger_kernel *kernel,
	unsigned features, int agent_fd, int *ret_fd, struct banger_error *err)
{
	_cleanup_(write_freep) struct archive *out = archive_write_new();
	_cleanup_close_ int fd = memfd_create("banger-initrd", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	struct build b = {.deps = deps, .kernel = kernel, .agent_fd = agent_fd, .features = features, .out = out};

	if (fd < 0)
		return banger_error_set_errno(err, errno, "cannot make the initrd");
	if (!out)
		return banger_error_oom(err);
	int r = write_archive(&b, fd, err);
	if (r < 0)
		banger_error_prefix(err, "initrd for kernel \"%s\"", kernel->name);
	if (r < 0)
		return r;
	fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
	log_debug("initrd built", KV_S("kernel", kernel->name), KV_I("modules", b.modules));
	*ret_fd = TAKE_FD(fd);
	return 0;
}
