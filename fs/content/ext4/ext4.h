/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A reader of ext2, ext3 and ext4 images that trusts nothing in them.
 *
 * Superblock and group descriptors are read, checked and summed by libext2fs when an image is
 * opened, as are names' hashes and case folding later. What is read while people wait (inodes,
 * extents, block maps, directories, attributes) is parsed here, out of blocks that pread(2) copied,
 * because a libext2fs handle is for one thread at a time and stops at the first oddity; here any
 * number of threads read one image, which never changes after it was opened, each with an
 * ext4_scratch of its own.
 *
 * What the layout is: kernel documentation, filesystems/ext4/. What counts as damage: what the
 * kernel's ext4 refuses (checksums, magic numbers, order and bounds of extents, records that do not
 * fit, inode numbers that no directory may name, blocks outside the device or in its own metadata).
 * Damage is -EUCLEAN for the one thing that is damaged; ext4_scratch_why() then says what it was,
 * for a log. An unreadable image file is -EIO, encrypted contents and names are -ENOKEY. Work is
 * bounded: trees by their depth, scans by EXT4_SCAN_MAX, memory by the scratch.
 *
 * No function here takes a lock or keeps state in the image, but for how much to read ahead.
 */
#ifndef FS_CONTENT_EXT4_H
#define FS_CONTENT_EXT4_H

#include <banger/error.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#define EXT4_ROOT 2
#define EXT4_SCAN_MAX 65536  /* directory blocks without a result after which a scan is damage */
#define EXT4_XATTR_MAX 65536 /* of a value, and of a list of names: the kernel's own limits */

struct ext4_image;
struct ext4_scratch;

/* Open the filesystem in fd, which the image owns from then on, also on failure. CORRUPT: not an
 * ext2, ext3 or ext4 filesystem, a superblock that lies, one that is larger than the file, or a
 * journal that must be replayed first. UNSUPPORTED: a feature this reader does not know. */
int ext4_image_open(int fd, struct ext4_image **ret, struct banger_error *err);
void ext4_image_close(struct ext4_image *img); /* NULL is fine; nobody may be reading */
/* Does the file still have the size and the modification time it was opened with? */
bool ext4_image_unchanged(const struct ext4_image *img);
int ext4_image_fd(const struct ext4_image *img);
size_t ext4_image_memory(const struct ext4_image *img); /* bytes it keeps */
void ext4_image_statfs(const struct ext4_image *img, struct statvfs *ret);

/* Working memory of one thread, about 300 KiB; serves all images. NULL: no memory. */
struct ext4_scratch *ext4_scratch_new(void);
void ext4_scratch_free(struct ext4_scratch *s);
/* Have fn called when what is being done with this scratch will take long: it waits for a disk, or goes
 * through much. Perhaps more than once in one call. */
void ext4_scratch_on_slow(struct ext4_scratch *s, void (*fn)(void *arg), void *arg);
/* What the last -EUCLEAN of this thread was about. */
const char *ext4_scratch_why(const struct ext4_scratch *s);

struct ext4_inode {
	uint32_t ino, generation, flags, uid, gid;
	uint32_t links;
	uint16_t mode, extra_isize;
	uint64_t size, blocks; /* blocks of 512 bytes, as in stat */
	uint64_t rdev;         /* dev_t; 0 unless a device */
	uint64_t acl_block;    /* block of attributes, 0: none */
	struct timespec atime, mtime, ctime;
	uint32_t csum_seed; /* of what belongs to this inode */
	uint8_t block[60];  /* i_block: extents, block map, a symlink's target, inline data, device
			     */
};

/* The inode that a directory names as `ino`: -EUCLEAN also for one that no directory may name
 * (reserved, deleted, beyond the last, an attribute's). */
int ext4_inode_get(
	struct ext4_image *img, struct ext4_scratch *s, uint32_t ino, struct ext4_inode *ret);
/* st_ino is the ext4 inode number; st_dev is 0. */
void ext4_inode_stat(const struct ext4_image *img, const struct ext4_inode *i, struct stat *ret);

/* The inode number behind `name` in the directory, by its index where it has a sound one. -ENOENT,
 * -ENOTDIR, -ENAMETOOLONG, -ENOKEY, -EUCLEAN. "." and ".." are names like others. */
int ext4_lookup(struct ext4_image *img, struct ext4_scratch *s, const struct ext4_inode *dir,
	const char *name, size_t len, uint32_t *ret_ino);

struct ext4_dirent {
	uint64_t next; /* position after this entry, to go on from */
	uint32_t ino;
	uint8_t type; /* DT_REG, … or DT_UNKNOWN */
	uint8_t len;
	char name[256]; /* NUL-terminated; neither empty nor with '/' or NUL in it */
};
/* Return 0 to go on, 1 to stop before this entry (it is not consumed). Of the functions that take
 * the scratch, the callback may call ext4_inode_get() only. */
typedef int ext4_dirent_fn(void *arg, const struct ext4_dirent *e);

/* The entries from position pos on (0: the start), in the order of the directory's blocks, "." and
 * ".." first. Any pos is taken: one inside an entry goes on after it. 0: fn stopped, or the end was
 * reached. Damaged blocks are left out; that there were some comes as -EUCLEAN at the end, from a
 * call that has no entry to give (positions carry it from call to call). */
int ext4_readdir(struct ext4_image *img, struct ext4_scratch *s, const struct ext4_inode *dir,
	uint64_t pos, ext4_dirent_fn *fn, void *arg);

/* A run of a file: `len` blocks from logical block `lblk` on, at block `pblk` of the image; pblk 0:
 * zeros (a hole, or space that was reserved and not written). len is at least 1. */
struct ext4_run {
	uint64_t lblk, pblk, len;
};
/* The run that holds lblk (from there on). -EUCLEAN for damage. Not for inline data. */
int ext4_map(struct ext4_image *img, struct ext4_scratch *s, const struct ext4_inode *i,
	uint64_t lblk, struct ext4_run *ret);
unsigned ext4_block_bits(const struct ext4_image *img);

/* Read a regular file: the bytes read (fewer only at its end), -ENOKEY, -EISDIR, -EINVAL for what
 * has no contents. Holes are zeros. */
ssize_t ext4_read(struct ext4_image *img, struct ext4_scratch *s, const struct ext4_inode *i,
	uint64_t off, void *buf, size_t len);
/* SEEK_DATA (hole false) or SEEK_HOLE (true) from off: -ENXIO as lseek(2). */
int64_t ext4_seek(struct ext4_image *img, struct ext4_scratch *s, const struct ext4_inode *i,
	uint64_t off, bool hole);
/* The target, NUL-terminated, at most PATH_MAX with it. */
int ext4_readlink(
	struct ext4_image *img, struct ext4_scratch *s, const struct ext4_inode *i, char ret[4096]);

/* The names ("user.a", each with its NUL) in on-disk order, all namespaces; the size, or -ERANGE
 * when larger than `size`. size 0 asks for the size. */
ssize_t ext4_xattr_list(struct ext4_image *img, struct ext4_scratch *s, const struct ext4_inode *i,
	char *buf, size_t size);
/* The value; POSIX ACLs in the form that getxattr(2) gives. -ENODATA: not there. */
ssize_t ext4_xattr_get(struct ext4_image *img, struct ext4_scratch *s, const struct ext4_inode *i,
	const char *name, void *buf, size_t size);
/* Has any inode of the image an attribute of this namespace prefix ("system.posix_acl_",
 * "security.selinux")? Looks at all inodes once: 1, 0, or -EOVERFLOW when there are too many. */
int ext4_image_has_xattr(struct ext4_image *img, struct ext4_scratch *s, const char *prefix);

/* Every inode in use, in order, until fn returns other than 0, which is returned. Damaged ones are
 * left out. 0: the end; -EOVERFLOW: there are too many to look at. fn may use the scratch for
 * anything but ext4_image_inodes(). */
typedef int ext4_inode_fn(void *arg, const struct ext4_inode *i);
int ext4_image_inodes(struct ext4_image *img, struct ext4_scratch *s, ext4_inode_fn *fn, void *arg);

/* Tell the kernel what will be read soon: the blocks of this directory or the start of this file,
 * as far as the inode itself names them (no tree is walked); at most `max` bytes. The ranges, for
 * callers that sort and merge them: up to n of them into ret; the count. */
struct ext4_range {
	uint64_t off, len;
};
size_t ext4_inode_ranges(const struct ext4_image *img, const struct ext4_inode *i, uint64_t max,
	struct ext4_range *ret, size_t n);
void ext4_will_read(const struct ext4_image *img, uint64_t off, uint64_t len);
/* Is the byte at off in the page cache? Asking may have it read. */
bool ext4_is_cached(const struct ext4_image *img, uint64_t off);

#endif
