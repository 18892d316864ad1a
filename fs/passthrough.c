/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Three pieces of the FUSE protocol (include/uapi/linux/fuse.h, 7.40): a flag and a stack depth in
 * the answer to INIT, an ioctl on the device that registers a file, and a flag with the file's id in
 * the answer to OPEN.
 *
 * An older libfuse leaves out the first, and has no way to say the others. It lets its user carry
 * its bytes to and from the device, though; so the answer to INIT is completed on its way, if the
 * kernel offered what is missing, and the answer to OPEN is one that we compose. Both grow only where
 * the older form is zero, so a libfuse that knows more than its version says is not disturbed.
 *
 * What the kernel refuses once (no right to it, a filesystem that is itself stacked) it refuses each
 * time: then files are read through bangerfs, as on any other kernel.
 */
#include "passthrough.h"
#include <linux/fuse.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

static void refused(struct fs *fs)
{
	if (atomic_exchange(&fs->passthrough, false))
		log_info("published files are read through bangerfs: the kernel does not take them "
			 "for passthrough");
}

#if !BANGER_PASSTHROUGH

void passthrough_prepare(struct fs *fs)
{
}

void passthrough_negotiate(struct fs *fs, struct fuse_conn_info *conn)
{
}

static int attach(struct fs *fs, fuse_req_t req, int fd)
{
	return 0;
}

void passthrough_detach(fuse_req_t req, int id)
{
}

int passthrough_reply_open(fuse_req_t req, struct fuse_file_info *fi, int id)
{
	return fuse_reply_open(req, fi);
}

#elif BANGER_PASSTHROUGH_BY_LIBFUSE

void passthrough_prepare(struct fs *fs)
{
}

void passthrough_negotiate(struct fs *fs, struct fuse_conn_info *conn)
{
	atomic_store(&fs->passthrough, fuse_set_feature_flag(conn, FUSE_CAP_PASSTHROUGH));
}

static int attach(struct fs *fs, fuse_req_t req, int fd)
{
	return fuse_passthrough_open(req, fd);
}

void passthrough_detach(fuse_req_t req, int id)
{
	fuse_passthrough_close(req, id);
}

int passthrough_reply_open(fuse_req_t req, struct fuse_file_info *fi, int id)
{
	if (id > 0) {
		fi->backing_id = id;
		fi->keep_cache = 0;
	}
	return fuse_reply_open(req, fi);
}

#else

/* Of 7.40; the header may be older. */
#define INIT_EXT (1u << 30)
#define INIT2_PASSTHROUGH (1u << (37 - 32))
#define OPEN_PASSTHROUGH (1u << 7)
#define STACK_DEPTH 1 /* the files are on a filesystem that is on no other */

struct backing_map {
	int32_t fd;
	uint32_t flags;
	uint64_t padding;
};
#define BACKING_OPEN _IOW(229, 1, struct backing_map)
#define BACKING_CLOSE _IOW(229, 2, uint32_t)

struct init_in {
	struct fuse_in_header header;
	uint32_t major, minor, max_readahead, flags, flags2;
};

struct init_out {
	uint32_t major, minor, max_readahead, flags;
	uint16_t max_background, congestion_threshold;
	uint32_t max_write, time_gran;
	uint16_t max_pages, map_alignment;
	uint32_t flags2, max_stack_depth;
	uint32_t unused[6];
};
_Static_assert(sizeof(struct init_out) == 64, "as the protocol has it");

struct open_out {
	uint64_t fh;
	uint32_t open_flags;
	int32_t backing_id;
};

/* INIT is handled before any other request, by one thread. */
static struct {
	struct fs *fs;
	bool offered; /* and not answered yet */
	uint64_t unique;
} init;

static ssize_t device_read(int fd, void *buf, size_t size, void *userdata)
{
	const struct init_in *in = buf;
	ssize_t n = read(fd, buf, size);

	if (init.fs && n >= (ssize_t)sizeof(in->header) && in->header.opcode == FUSE_INIT) {
		init.unique = in->header.unique;
		init.offered = n >= (ssize_t)sizeof(*in) && (in->flags & INIT_EXT) &&
			       (in->flags2 & INIT2_PASSTHROUGH);
	}
	return n;
}

/* The answer to INIT, completed; false: it has not the form that it should. */
static bool complete(const struct iovec *iov, int count, struct init_out *out)
{
	if (count != 2 || iov[1].iov_len != sizeof(*out))
		return false;
	memcpy(out, iov[1].iov_base, sizeof(*out));
	if (out->max_stack_depth != 0)
		return false;
	out->flags |= INIT_EXT;
	out->flags2 |= INIT2_PASSTHROUGH;
	out->max_stack_depth = STACK_DEPTH;
	return true;
}

static ssize_t device_writev(int fd, struct iovec *iov, int count, void *userdata)
{
	const struct fuse_out_header *header = iov[0].iov_base;
	struct init_out out;

	if (init.offered && header->unique == init.unique) {
		struct fs *fs = init.fs;
		bool whole = header->error == 0 && complete(iov, count, &out);
		struct iovec completed[2] = {iov[0], {&out, sizeof(out)}};

		init.offered = false;
		init.fs = NULL;
		atomic_store(&fs->passthrough, whole);
		return writev(fd, whole ? completed : iov, count);
	}
	return writev(fd, iov, count);
}

void passthrough_prepare(struct fs *fs)
{
	static const struct fuse_custom_io io = {.writev = device_writev, .read = device_read};

	init.fs = fs;
	if (fuse_session_custom_io(fs->session, &io, fuse_session_fd(fs->session)) != 0)
		init.fs = NULL;
}

void passthrough_negotiate(struct fs *fs, struct fuse_conn_info *conn)
{
}

static int device(fuse_req_t req)
{
	struct fs *fs = fuse_req_userdata(req);

	return fuse_session_fd(fs->session);
}

static int attach(struct fs *fs, fuse_req_t req, int fd)
{
	struct backing_map map = {.fd = fd};

	return ioctl(device(req), BACKING_OPEN, &map);
}

void passthrough_detach(fuse_req_t req, int id)
{
	uint32_t n = id;

	ioctl(device(req), BACKING_CLOSE, &n);
}

int passthrough_reply_open(fuse_req_t req, struct fuse_file_info *fi, int id)
{
	const struct open_out out = {
		.fh = fi->fh, .open_flags = OPEN_PASSTHROUGH | FOPEN_NOFLUSH, .backing_id = id};

	return id > 0 ? fuse_reply_buf(req, (const char *)&out, sizeof(out))
		      : fuse_reply_open(req, fi);
}

#endif

int passthrough_attach(void *arg, int fd)
{
	struct fs *fs = fuse_req_userdata(arg);
	int id = atomic_load(&fs->passthrough) ? attach(fs, arg, fd) : 0;

	if (id <= 0)
		refused(fs);
	return id > 0 ? id : 0;
}
