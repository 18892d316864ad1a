/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The archive is a stranger's. Only ar and tar are understood and only gzip, xz and zstd undone; a
 * warning of libarchive's (a wrong header checksum is one) is an error. A name is split into
 * components before anything is made of it: absolute names, "..", characters that modules.dep
 * cannot carry, symlinks, hard links and devices are refused, sizes and numbers are limited, and
 * files are created with O_EXCL in a directory that holds nothing but what was created before, so
 * that no name leads out of it.
 */
#include <archive.h>
#include <archive_entry.h>
#include <ctype.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include "kernel/tree.h"
#include "kernel/unpack.h"

#define FILES_MAX 65536
#define BYTES_MAX (8 * INT64_C(1024) * 1024 * 1024)

struct unpacking {
	int dir_fd;
	struct operation *op;
	struct unpacked got;
	int files;
	int64_t bytes;
	struct banger_error *err;
};

static void archive_freep(struct archive **a)
{
	if (*a)
		archive_read_free(*a);
}
#define _cleanup_archive_ _cleanup_(archive_freep)

static int damaged(struct archive *a, const char *what, struct banger_error *err)
{
	const char *why = archive_error_string(a);
	return banger_error_set(
		err, BANGER_CORRUPT, "%s is damaged: %s", what, why ? why : "no reason given");
}

/* ---- names */

enum kind { IGNORED, VMLINUZ, INITRD, CONFIG, MODULES };

/* Is `name` `word`, or `word` and "-VERSION"? */
static bool is_named(const char *name, const char *word)
{
	size_t n = strlen(word);
	return strncmp(name, word, n) == 0 && (name[n] == '\0' || name[n] == '-') &&
	       !strchr(name, '/');
}

static const char *after(const char *path, const char *prefix)
{
	size_t n = strlen(prefix);
	return strncmp(path, prefix, n) == 0 ? path + n : NULL;
}

/* What a normalised path is to us; *ret_rest: "VERSION/…" of modules. */
static enum kind classify(const char *path, const char **ret_rest)
{
	static const char *const module_dirs[] = {"lib/modules/", "usr/lib/modules/", "modules/"};
	static const struct {
		const char *word;
		enum kind kind;
	} files[] = {{"vmlinuz", VMLINUZ}, {"initrd.img", INITRD}, {"initrd", INITRD},
		{"config", CONFIG}};

	for (size_t i = 0; i < ELEMENTSOF(module_dirs); i++) {
		*ret_rest = after(path, module_dirs[i]);
		if (*ret_rest && **ret_rest)
			return MODULES;
	}
	const char *name = after(path, "boot/");
	for (size_t i = 0; i < ELEMENTSOF(files); i++)
		if (is_named(name ? name : path, files[i].word))
			return files[i].kind;
	return IGNORED;
}

static int hostile(const char *path, const char *why, struct banger_error *err)
{
	return banger_error_set(
		err, BANGER_CORRUPT, "the archive has an entry \"%.200s\" %s", path, why);
}

/* Copy the entry's path without "./" and doubled or trailing slashes. */
static int normalise(const char *path, char *ret, struct banger_error *err)
{
	size_t n = 0;
	if (*path == '/')
		return hostile(path, "with an absolute name", err);
	while (*path) {
		size_t length = strcspn(path, "/");
		if (length == 2 && path[0] == '.' && path[1] == '.')
			return hostile(path, "with \"..\" in its name", err);
		if (length > 0 && !(length == 1 && *path == '.')) {
			if (length > 255 || n + length + 2 > TREE_PATH_MAX)
				return hostile(path, "with too long a name", err);
			if (n > 0)
				ret[n++] = '/';
			memcpy(ret + n, path, length);
			n += length;
		}
		path += length;
		path += strspn(path, "/");
	}
	ret[n] = '\0';
	return 0;
}

/* Names of modules and their directories are printable ASCII without blank and colon. */
static bool plain_name(const char *path)
{
	for (; *path; path++)
		if (*path <= ' ' || *path >= 0x7f || *path == ':')
			return false;
	return true;
}

/* ---- contents */

static int write_at(int fd, const char *p, size_t n, int64_t offset, struct banger_error *err)
{
	while (n > 0) {
		ssize_t w = pwrite(fd, p, n, offset);
		if (w < 0 && errno == EINTR)
			continue;
		if (w < 0)
			return banger_error_set_errno(err, errno, "unpacking the kernel");
		p += w;
		n -= (size_t)w;
		offset += w;
	}
	return 0;
}

static int copy_data(struct unpacking *u, struct archive *a, int fd)
{
	int64_t end = 0;
	for (;;) {
		const void *block;
		size_t size;
		la_int64_t offset;
		int r = archive_read_data_block(a, &block, &size, &offset);
		if (r == ARCHIVE_EOF)
			return 0;
		if (r != ARCHIVE_OK)
			return damaged(a, "the archive", u->err);
		if (offset < end || offset > BYTES_MAX || (int64_t)size > BYTES_MAX - offset)
			return banger_error_set(u->err, BANGER_CORRUPT,
				"the archive has a file with impossible extents");
		u->bytes += (offset - end) + (int64_t)size;
		end = offset + (int64_t)size;
		if (u->bytes > BYTES_MAX)
			return banger_error_set(u->err, BANGER_TOO_LARGE,
				"the kernel unpacks to over %lld bytes", (long long)BYTES_MAX);
		r = write_at(fd, block, size, offset, u->err);
		if (r == 0)
			r = operation_check_cancelled(u->op, u->err);
		if (r < 0)
			return r;
	}
}

static int make_parents(struct unpacking *u, const char *path)
{
	char part[TREE_PATH_MAX];
	int depth = 0;
	for (const char *slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/')) {
		if (++depth > TREE_DEPTH_MAX)
			return hostile(path, "in too deep a directory", u->err);
		memcpy(part, path, (size_t)(slash - path));
		part[slash - path] = '\0';
		if (mkdirat(u->dir_fd, part, 0755) < 0 && errno != EEXIST)
			return banger_error_set_errno(u->err, errno, "unpacking %s", part);
	}
	return 0;
}

static int take_file(struct unpacking *u, struct archive *a, const char *path)
{
	int r = make_parents(u, path);
	if (r < 0)
		return r;
	if (++u->files > FILES_MAX)
		return banger_error_set(
			u->err, BANGER_TOO_LARGE, "the kernel has over %d files", FILES_MAX);
	_cleanup_close_ int fd =
		openat(u->dir_fd, path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0444);
	if (fd < 0 && (errno == EEXIST || errno == ENOTDIR || errno == EISDIR))
		return hostile(path, "that it had before, or a second kernel", u->err);
	if (fd < 0)
		return banger_error_set_errno(u->err, errno, "unpacking %s", path);
	return copy_data(u, a, fd);
}

/* modules/VERSION/…: one version, plain names. */
static int take_module_path(struct unpacking *u, const char *rest, char *ret, bool directory)
{
	const char *slash = strchr(rest, '/');
	size_t n = slash ? (size_t)(slash - rest) : strlen(rest);
	if (!slash && !directory)
		return hostile(rest, "where a directory of modules belongs", u->err);
	if (!plain_name(rest))
		return hostile(rest, "with a name that no module has", u->err);
	if (n >= sizeof(u->got.modules))
		return hostile(rest, "with too long a version", u->err);
	if (u->got.modules[0] && (strncmp(u->got.modules, rest, n) != 0 || u->got.modules[n]))
		return banger_error_set(u->err, BANGER_CORRUPT,
			"the archive has modules of several kernels: %s and %.*s", u->got.modules,
			(int)n, rest);
	memcpy(u->got.modules, rest, n);
	u->got.modules[n] = '\0';
	if (snprintf(ret, TREE_PATH_MAX, "modules/%s", rest) >= TREE_PATH_MAX)
		return hostile(rest, "with too long a name", u->err);
	return 0;
}

/* VERSION/build and VERSION/source lead to where the kernel was built; they are of no use here. */
static bool is_build_link(const char *rest)
{
	const char *slash = strchr(rest, '/');
	return slash && (strcmp(slash, "/build") == 0 || strcmp(slash, "/source") == 0);
}

static int take_entry(struct unpacking *u, struct archive *a, struct archive_entry *entry)
{
	char path[TREE_PATH_MAX], to[TREE_PATH_MAX];
	const char *rest, *name = archive_entry_pathname(entry);
	unsigned type = archive_entry_filetype(entry);
	if (!name)
		return banger_error_set(
			u->err, BANGER_CORRUPT, "the archive has an entry whose name is not text");
	int r = normalise(name, path, u->err);
	if (r < 0)
		return r;
	enum kind kind = classify(path, &rest);
	if (kind == IGNORED || (kind != MODULES && type == AE_IFDIR) ||
		(kind == MODULES && type == AE_IFLNK && is_build_link(rest)))
		return 0;
	if (archive_entry_hardlink(entry) || (type != AE_IFREG && type != AE_IFDIR))
		return hostile(path, "that is neither a file nor a directory", u->err);
	switch (kind) {
	case MODULES:
		r = take_module_path(u, rest, to, type == AE_IFDIR);
		return r < 0 || type == AE_IFDIR ? r : take_file(u, a, to);
	case VMLINUZ:
		u->got.vmlinuz = true;
		return take_file(u, a, "vmlinuz");
	case INITRD:
		u->got.initrd = true;
		return take_file(u, a, "initrd");
	default:
		u->got.config = true;
		return take_file(u, a, "config");
	}
}

static int take_all(struct unpacking *u, struct archive *a)
{
	for (;;) {
		struct archive_entry *entry;
		int r = archive_read_next_header(a, &entry);
		if (r == ARCHIVE_EOF)
			return 0;
		if (r != ARCHIVE_OK)
			return damaged(a, "the archive", u->err);
		r = take_entry(u, a, entry);
		if (r == 0)
			r = operation_check_cancelled(u->op, u->err);
		if (r < 0)
			return r;
	}
}

static int tar_new(struct archive **ret, struct banger_error *err)
{
	_cleanup_archive_ struct archive *a = archive_read_new();
	if (!a)
		return banger_error_oom(err);
	if (archive_read_support_format_tar(a) != ARCHIVE_OK ||
		archive_read_support_filter_gzip(a) != ARCHIVE_OK ||
		archive_read_support_filter_xz(a) != ARCHIVE_OK ||
		archive_read_support_filter_zstd(a) != ARCHIVE_OK)
		return banger_error_set(err, BANGER_UNSUPPORTED, "libarchive lacks a format: %s",
			archive_error_string(a));
	*ret = TAKE_PTR(a);
	return 0;
}

static int unpack_tar(struct unpacking *u, int fd)
{
	_cleanup_archive_ struct archive *a = NULL;
	int r = tar_new(&a, u->err);
	if (r < 0)
		return r;
	if (archive_read_open_fd(a, fd, 256 * 1024) != ARCHIVE_OK)
		return damaged(a, "the archive", u->err);
	return take_all(u, a);
}

/* The tar inside the package: its bytes are the data of the package's present entry. */
static la_ssize_t read_member(struct archive *inner, void *data, const void **ret)
{
	struct archive *outer = data;
	size_t size = 0;
	la_int64_t offset;
	while (size == 0) {
		int r = archive_read_data_block(outer, ret, &size, &offset);
		if (r == ARCHIVE_EOF)
			return 0;
		if (r != ARCHIVE_OK) {
			const char *why = archive_error_string(outer);
			archive_set_error(inner, EIO, "the package: %s", why ? why : "read error");
			return -1;
		}
	}
	return (la_ssize_t)size;
}

static int unpack_member(struct unpacking *u, struct archive *outer)
{
	_cleanup_archive_ struct archive *a = NULL;
	int r = tar_new(&a, u->err);
	if (r < 0)
		return r;
	if (archive_read_open(a, outer, NULL, read_member, NULL) != ARCHIVE_OK)
		return damaged(a, "the package's data", u->err);
	return take_all(u, a);
}

static int unpack_deb(struct unpacking *u, int fd)
{
	_cleanup_archive_ struct archive *a = archive_read_new();
	struct archive_entry *entry;
	if (!a)
		return banger_error_oom(u->err);
	if (archive_read_support_format_ar(a) != ARCHIVE_OK)
		return banger_error_set(u->err, BANGER_UNSUPPORTED,
			"libarchive lacks the format of Debian packages");
	if (archive_read_open_fd(a, fd, 256 * 1024) != ARCHIVE_OK)
		return damaged(a, "the package", u->err);
	for (;;) {
		int r = archive_read_next_header(a, &entry);
		if (r == ARCHIVE_EOF)
			return banger_error_set(
				u->err, BANGER_CORRUPT, "not a Debian package: it has no data.tar");
		if (r != ARCHIVE_OK)
			return damaged(a, "the package", u->err);
		const char *name = archive_entry_pathname(entry);
		if (name && strncmp(name, "data.tar", 8) == 0)
			return unpack_member(u, a);
	}
}

/* ---- formats */

static int copy_image(struct unpacking *u, int fd)
{
	static const char name[] = "vmlinuz";
	char buffer[128 * 1024];
	_cleanup_close_ int out =
		openat(u->dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444);
	if (out < 0)
		return banger_error_set_errno(u->err, errno, "creating %s", name);
	for (;;) {
		ssize_t n = pread(fd, buffer, sizeof(buffer), u->bytes);
		if (n < 0)
			return banger_error_set_errno(u->err, errno, "reading the kernel");
		if (n == 0)
			break;
		int r = write_at(out, buffer, (size_t)n, u->bytes, u->err);
		if (r == 0)
			r = operation_check_cancelled(u->op, u->err);
		if (r < 0)
			return r;
		u->bytes += n;
		if (u->bytes > BYTES_MAX)
			return banger_error_set(u->err, BANGER_TOO_LARGE,
				"the kernel is over %lld bytes", (long long)BYTES_MAX);
	}
	u->got.vmlinuz = true;
	return 0;
}

/* A package begins with ar's magic, a tar has its own at 257 or is compressed; the rest must be a
 * kernel. */
static const char *guess(int fd)
{
	char head[512] = {0};
	static const char *const compressed[] = {"\x1f\x8b",
		"\xfd\x37zXZ",
		"\x28\xb5\x2f\xfd"};
	if (pread(fd, head, sizeof(head), 0) < 0)
		return "vmlinuz";
	if (memcmp(head, "!<arch>\n", 8) == 0)
		return "deb";
	if (memcmp(head + 257, "ustar", 5) == 0)
		return "tar";
	for (size_t i = 0; i < ELEMENTSOF(compressed); i++)
		if (memcmp(head, compressed[i], strlen(compressed[i])) == 0)
			return "tar";
	return "vmlinuz";
}

int kernel_unpack(int fd, const char *format, int dir_fd, struct operation *op,
	struct unpacked *ret, struct banger_error *err)
{
	struct unpacking u = {.dir_fd = dir_fd, .op = op, .err = err};
	int r;
	if (strcmp(format, "auto") == 0)
		format = guess(fd);
	if (lseek(fd, 0, SEEK_SET) < 0)
		return banger_error_set_errno(err, errno, "reading the kernel");
	if (strcmp(format, "deb") == 0)
		r = unpack_deb(&u, fd);
	else if (strcmp(format, "tar") == 0)
		r = unpack_tar(&u, fd);
	else if (strcmp(format, "vmlinuz") == 0)
		r = copy_image(&u, fd);
	else
		r = banger_error_set(err, BANGER_BAD_REQUEST,
			"\"%.32s\" is not a kernel format: auto, vmlinuz, deb, tar", format);
	if (r < 0)
		return r;
	if (!u.got.vmlinuz)
		return banger_error_set(err, BANGER_CORRUPT,
			strcmp(format, "deb") == 0
				? "the package has no boot/vmlinuz-*: a meta package has no kernel "
				  "of its own, give the one that it depends on"
				: "the archive has no vmlinuz (looked for vmlinuz* and "
				  "boot/vmlinuz*)");
	*ret = u.got;
	return 0;
}
