/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bare FUSE server: what libfuse and the kernel cost when the server does nothing else.
 *
 *	bare_fs MOUNTPOINT names COUNT   the directories image-000000 … each with image.json and
 * rootfs.ext4 bare_fs MOUNTPOINT file PATH     one file, "file": the bytes of PATH, keep_cache, read
 * by splice
 *
 * The tree is computed, not stored: inode 1 is the root; directory i is inode 2 + 3i and its two
 * files are the next two numbers. Timeouts are infinite, directories are cached, readdirplus is left
 * to the kernel: the settings with which such a server was measured to be fastest.
 */
#define FUSE_USE_VERSION 34
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <banger/cleanup.h>

#define FOREVER 1e9
#define FILE_INO 2
#define JSON_SIZE 400
#define ROOTFS_SIZE (1 << 20)

static struct {
	size_t count; /* of directories; 0: file mode */
	int fd;
	off_t size;
} bare = {.fd = -1};

static const char *const inner[] = {"image.json", "rootfs.ext4"};

static void fill_stat(fuse_ino_t ino, struct stat *st)
{
	size_t kind = ino < 2 ? 0 : (ino - 2) % 3;
	*st = (struct stat){
		.st_ino = ino, .st_nlink = 1, .st_mode = S_IFREG | 0444, .st_blksize = 4096};
	if (!bare.count && ino == FILE_INO) {
		st->st_size = bare.size;
	} else if (ino == FUSE_ROOT_ID || kind == 0) {
		st->st_mode = S_IFDIR | 0755;
		st->st_nlink = 2;
	} else {
		st->st_size = kind == 1 ? JSON_SIZE : ROOTFS_SIZE;
	}
	st->st_blocks = (st->st_size + 511) / 512;
}

static void fill_entry(fuse_ino_t ino, struct fuse_entry_param *e)
{
	*e = (struct fuse_entry_param){
		.ino = ino, .attr_timeout = FOREVER, .entry_timeout = FOREVER};
	fill_stat(ino, &e->attr);
}

/* The inode of a name in a directory, 0 for none. */
static fuse_ino_t find(fuse_ino_t parent, const char *name)
{
	if (!bare.count)
		return parent == FUSE_ROOT_ID && !strcmp(name, "file") ? FILE_INO : 0;
	if (parent == FUSE_ROOT_ID) {
		char *end;
		if (strncmp(name, "image-", 6))
			return 0;
		size_t i = strtoul(name + 6, &end, 10);
		return *end || i >= bare.count ? 0 : 2 + 3 * i;
	}
	for (size_t i = 0; i < ELEMENTSOF(inner); i++)
		if (!strcmp(name, inner[i]))
			return parent + 1 + i;
	return 0;
}

/* Entry number n of a directory after "." and "..": its inode, 0 at the end. */
static fuse_ino_t entry_at(fuse_ino_t dir, size_t n, char *name, size_t size)
{
	if (!bare.count) {
		snprintf(name, size, "file");
		return n ? 0 : FILE_INO;
	}
	if (dir == FUSE_ROOT_ID) {
		snprintf(name, size, "image-%06zu", n);
		return n < bare.count ? 2 + 3 * n : 0;
	}
	if (n >= ELEMENTSOF(inner))
		return 0;
	snprintf(name, size, "%s", inner[n]);
	return dir + 1 + n;
}

static void bare_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param e;
	fuse_ino_t ino = find(parent, name);
	if (!ino) {
		fuse_reply_err(req, ENOENT);
		return;
	}
	fill_entry(ino, &e);
	fuse_reply_entry(req, &e);
}

static void bare_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat st;
	(void)fi;
	fill_stat(ino, &st);
	fuse_reply_attr(req, &st, FOREVER);
}

static void bare_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	fi->cache_readdir = fi->keep_cache = 1;
	fuse_reply_open(req, fi);
}

static void list(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, bool plus)
{
	_cleanup_free_ char *buffer = malloc(size);
	size_t used = 0;
	if (!buffer) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	for (;; off++) {
		struct fuse_entry_param e = {.ino = ino};
		char name[32];
		fuse_ino_t child = off < 2 ? ino : entry_at(ino, off - 2, name, sizeof(name));
		size_t n;
		if (!child)
			break;
		if (off < 2)
			strcpy(name, off ? ".." : ".");
		fill_entry(child, &e);
		if (off < 2)
			e.ino = 0; /* "." and ".." carry no reference */
		n = plus ? fuse_add_direntry_plus(
				   req, buffer + used, size - used, name, &e, off + 1)
			 : fuse_add_direntry(
				   req, buffer + used, size - used, name, &e.attr, off + 1);
		if (n > size - used)
			break;
		used += n;
	}
	fuse_reply_buf(req, buffer, used);
}

static void bare_readdir(
	fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	(void)fi;
	list(req, ino, size, off, false);
}

static void bare_readdirplus(
	fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	(void)fi;
	list(req, ino, size, off, true);
}

static void bare_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	fi->keep_cache = 1;
	fuse_reply_open(req, fi);
}

static void bare_read(
	fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct fuse_bufvec buf = FUSE_BUFVEC_INIT(size);
	(void)ino, (void)fi;
	buf.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK;
	buf.buf[0].fd = bare.fd;
	buf.buf[0].pos = off;
	fuse_reply_data(req, &buf, FUSE_BUF_SPLICE_MOVE);
}

static void bare_init(void *arg, struct fuse_conn_info *conn)
{
	(void)arg;
	if (bare.fd >= 0 && conn->capable & FUSE_CAP_SPLICE_WRITE)
		conn->want |= FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE;
	conn->max_readahead = 1 << 20;
}

static const struct fuse_lowlevel_ops operations = {
	.init = bare_init,
	.lookup = bare_lookup,
	.getattr = bare_getattr,
	.opendir = bare_opendir,
	.readdir = bare_readdir,
	.readdirplus = bare_readdirplus,
	.open = bare_open,
	.read = bare_read,
};

static int serve(char *program, const char *mountpoint)
{
	char options[] = "-ofsname=bare,allow_other,default_permissions";
	char *args[] = {program, options, NULL};
	struct fuse_args fa = FUSE_ARGS_INIT(2, args);
	struct fuse_session *session = fuse_session_new(&fa, &operations, sizeof(operations), NULL);
	struct fuse_loop_config config = {.clone_fd = 0, .max_idle_threads = 10};

	if (!session || fuse_set_signal_handlers(session) < 0 ||
		fuse_session_mount(session, mountpoint) < 0)
		return EXIT_FAILURE;
	/* Names are asked for by one program at a time: one thread that never sleeps long is fastest.
	 * A file is read ahead in parallel. */
	int r = bare.count ? fuse_session_loop(session) : fuse_session_loop_mt(session, &config);
	fuse_session_unmount(session);
	fuse_remove_signal_handlers(session);
	fuse_session_destroy(session);
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
	struct stat st;
	if (argc == 4 && !strcmp(argv[2], "names")) {
		bare.count = strtoul(argv[3], NULL, 10);
	} else if (argc == 4 && !strcmp(argv[2], "file")) {
		bare.fd = open(argv[3], O_RDONLY | O_CLOEXEC);
		if (bare.fd < 0 || fstat(bare.fd, &st) < 0) {
			perror(argv[3]);
			return EXIT_FAILURE;
		}
		bare.size = st.st_size;
	} else {
		fprintf(stderr, "usage: bare_fs MOUNTPOINT names COUNT | file PATH\n");
		return 2;
	}
	return serve(argv[0], argv[1]);
}
