/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The header first, field by field, then the program (tool.h). qemu-img gets two descriptors and no
 * names but theirs, each with the format that it has; that it shall use no backing file is said once
 * more in its arguments. Run by root it becomes nobody, to whom the two files belong for as long as it
 * runs.
 */
#include "image/qcow2.h"

#include <endian.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <banger/log.h>
#include "image/tool.h"

#define DISK_MAX (INT64_C(16) << 40)
#define EXTENSIONS_MAX 64

/* ---- the header */

struct header { /* big endian */
	char magic[4];
	uint32_t version;
	uint64_t backing_offset;
	uint32_t backing_size, cluster_bits;
	uint64_t size;
	uint32_t crypt_method, l1_size;
	uint64_t l1_offset, refcount_offset;
	uint32_t refcount_clusters, n_snapshots;
	uint64_t snapshots_offset;
	/* from version 3 on */
	uint64_t incompatible, compatible, autoclear;
	uint32_t refcount_order, length;
};
_Static_assert(sizeof(struct header) == 104, "the header of version 3");
#define HEADER_2 72 /* bytes of version 2's */

enum {
	INCOMPATIBLE_CORRUPT = 2,
	INCOMPATIBLE_DATA_FILE = 4,
	INCOMPATIBLE_KNOWN = 31, /* and dirty, compression type, extended L2 entries */
};
#define EXTENSION_DATA_FILE 0x44415441
#define EXTENSION_ENCRYPTION 0x0537be77

static int damaged(const char *what, const char *how, struct banger_error *err)
{
	return banger_error_set(
		err, BANGER_CORRUPT, "%s is not a sound qcow2 image: %s", what, how);
}

static int refuse(const char *what, const char *has, const char *advice, struct banger_error *err)
{
	return banger_error_set(
		err, BANGER_UNSUPPORTED, "%s %s, which is not imported%s", what, has, advice);
}

static int data_file(const char *what, struct banger_error *err)
{
	return refuse(what, "keeps its data in another file",
		": make one file of the two with \"qemu-img convert -O qcow2\"", err);
}

static int encrypted(const char *what, struct banger_error *err)
{
	return refuse(what, "is encrypted", "", err);
}

/* What follows the header, up to an extension of type 0: does any of it name a file? */
static int check_extensions(
	int fd, uint64_t at, uint64_t end, const char *what, struct banger_error *err)
{
	for (int i = 0; i < EXTENSIONS_MAX && at + 8 <= end; i++) {
		uint32_t e[2];
		if (pread(fd, e, sizeof(e), (off_t)at) != sizeof(e))
			return damaged(what, "it ends within its header", err);
		if (be32toh(e[0]) == 0)
			return 0;
		if (be32toh(e[0]) == EXTENSION_DATA_FILE)
			return data_file(what, err);
		if (be32toh(e[0]) == EXTENSION_ENCRYPTION)
			return encrypted(what, err);
		at += 8 + (((uint64_t)be32toh(e[1]) + 7) & ~UINT64_C(7));
	}
	return at + 8 <= end ? damaged(what, "its header has too many extensions", err) : 0;
}

static int check_features(const struct header *h, const char *what, struct banger_error *err)
{
	uint64_t features = be64toh(h->incompatible);

	if (features & INCOMPATIBLE_DATA_FILE)
		return data_file(what, err);
	if (features & INCOMPATIBLE_CORRUPT)
		return damaged(what,
			"it is marked as corrupt; \"qemu-img check -r all\" may repair it", err);
	if (features & ~(uint64_t)INCOMPATIBLE_KNOWN)
		return refuse(what, "has features of a later QEMU", "", err);
	return 0;
}

int qcow2_check(int fd, const char *what, int64_t *ret_size, struct banger_error *err)
{
	struct header h = {0};
	ssize_t n = pread(fd, &h, sizeof(h), 0);
	uint32_t version = be32toh(h.version), bits = be32toh(h.cluster_bits);
	uint64_t size = be64toh(h.size), length = HEADER_2;

	if (n < 0)
		return banger_error_set_errno(err, errno, "reading %s", what);
	if (n < HEADER_2 || memcmp(h.magic, "QFI\xfb", 4))
		return damaged(what, "it has no header", err);
	if (version != 2 && version != 3)
		return refuse(what, "is qcow of another version than 2 and 3", "", err);
	if (version == 3 && (n < (ssize_t)sizeof(h) || (length = be32toh(h.length)) < sizeof(h)))
		return damaged(what, "its header is cut off", err);
	if (h.backing_offset || h.backing_size)
		return refuse(what, "builds upon another image, its backing file",
			": make one image of the two with \"qemu-img convert -O qcow2\"", err);
	if (h.crypt_method)
		return encrypted(what, err);
	if (bits < 9 || bits > 21)
		return damaged(what, "the size of its clusters is out of range", err);
	if (size == 0 || size > DISK_MAX)
		return damaged(what, "its disk is empty or larger than 16 TiB", err);
	int r = version == 3 ? check_features(&h, what, err) : 0;
	if (r == 0)
		r = check_extensions(fd, length, UINT64_C(1) << bits, what, err);
	if (r == 0)
		*ret_size = (int64_t)size;
	return r;
}

/* ---- qemu-img */

static const struct tool qemu_img = {
	.name = "qemu-img",
	.places = (const char *const[]){"/usr/bin/qemu-img", "/usr/local/bin/qemu-img",
		"/bin/qemu-img", NULL},
	.package = "qemu-utils",
	.argv = (const char *const[]){"qemu-img", "convert", "-q", "-n", "--target-is-zero", "-m",
		"4", "--target-image-opts",
		"json:{\"driver\":\"qcow2\",\"backing\":null,\"file\":{\"driver\":\"file\","
		"\"filename\":\"/proc/self/fd/3\",\"locking\":\"off\"}}",
		"driver=raw,file.driver=file,file.filename=/proc/self/fd/4,file.locking=off", NULL},
	/* Stacks of threads, most of which are not touched. */
	.memory_max = INT64_C(4) << 30,
	.time_max_s = 3600,
};

/* What a status other than 0 means. */
static int failure(struct tool_end *end, const char *what, struct banger_error *err)
{
	end->output[strcspn(end->output, "\n")] = '\0';
	if (WIFSIGNALED(end->status))
		return banger_error_set(err, BANGER_CORRUPT,
			"qemu-img was killed by signal %d on %s", WTERMSIG(end->status), what);
	enum banger_code code =
		strstr(end->output, "No space left") || strstr(end->output, "quota exceeded")
			? BANGER_NO_SPACE
			: BANGER_CORRUPT;
	return banger_error_set(err, code, "qemu-img cannot read %s: %s", what,
		end->output[0] ? end->output : "it gave no reason");
}

static int run(int in, int out, int64_t size, struct operation *op, const char *what,
	struct banger_error *err)
{
	struct tool t = qemu_img;
	struct tool_end end;

	t.fds[0] = in;
	t.fds[1] = out;
	t.file_max = size;
	int r = tool_run(&t, op, &end, err);
	if (r < 0)
		return r;
	return end.status == 0 ? 0 : failure(&end, what, err);
}

/* To nobody and back, where we are root. */
static int give(int fd, uid_t uid, gid_t gid)
{
	return geteuid() == 0 && fchown(fd, uid, gid) < 0 ? -errno : 0;
}

int qcow2_convert(int in, int out, int64_t size, struct operation *op, const char *what,
	struct banger_error *err)
{
	if (tool_check(&qemu_img, NULL) < 0)
		return banger_error_set(err, BANGER_UNSUPPORTED,
			"%s is a qcow2 image, and qemu-img is not installed (Debian's package is "
			"qemu-utils)",
			what);
	if (ftruncate(out, size) < 0)
		return banger_error_set_errno(err, errno, "making room for the disk in %s", what);
	int r = give(in, TOOL_NOBODY, TOOL_NOBODY);
	if (r == 0)
		r = give(out, TOOL_NOBODY, TOOL_NOBODY);
	if (r < 0)
		return banger_error_set_errno(err, r, "giving %s to qemu-img", what);
	r = run(in, out, size, op, what, err); /* it has ended before the file is ours again */
	int back = give(out, geteuid(), getegid());
	return r == 0 && back < 0
		       ? banger_error_set_errno(err, back, "taking back the disk of %s", what)
		       : r;
}
