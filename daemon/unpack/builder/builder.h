/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Builds an ext4 filesystem in a file, front to back, without knowing beforehand how large it will
 * be. The tree is kept in memory (about 200 bytes a file); file content goes straight to its final
 * blocks while it is read; everything else is written by ext4_builder_finish(). The result depends
 * on the calls alone: no clock, no randomness, no environment.
 *
 * Content is written to one file at a time. A builder is for one thread; it has a second one of its
 * own, which only writes. After an error other than EXISTS the builder is good only for freeing.
 *
 * The format: the kernel's Documentation/filesystems/ext4, and libext2fs, whose structures,
 * checksums and hashes are used.
 */
#ifndef BANGER_EXT4_BUILDER_H
#define BANGER_EXT4_BUILDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <banger/error.h>

struct ext4_builder;

/* A file, directory, … of the tree. 0 is none. Valid until its last name is removed. */
typedef uint32_t ext4_node;
#define EXT4_BUILDER_ROOT 1

#define EXT4_BUILDER_SEED_LEN 32
#define EXT4_BUILDER_NAME_MAX 255
#define EXT4_BUILDER_SYMLINK_MAX 4095

struct ext4_builder_options {
	int fd; /* borrowed; a regular file, open for reading and writing; emptied */
	/* Of the filesystem in bytes, a multiple of 4096: it will have exactly that size. 0: what
	 * is needed and free space: the larger of headroom_bytes and headroom_percent of what is
	 * used. */
	int64_t size;
	int64_t headroom_bytes;
	int headroom_percent;
	/* UUID and hash seed are derived from it; NULL: from the tree's names and attributes. */
	const uint8_t *seed;
	/* Seconds since the epoch, at least 1: the time of creation in the superblock, and that of
	 * directories nobody described. */
	int64_t time;
	bool direct; /* write around the page cache where the file can */
	/* Names that there may be at once (TOO_LARGE), and bytes of content that may be written (NO_SPACE); 0: any. */
	uint64_t names_max, room;
};

/* Times outside of 1901-12-13T20:45:52Z to 2310-04-04T16:10:39Z become the nearest of these, which
 * is what ext4 stores and e2fsck accepts. */
struct ext4_time {
	int64_t sec;
	uint32_t nsec;
};

struct ext4_attr {
	uint32_t mode; /* type and permissions, as in st_mode */
	uint32_t uid, gid;
	struct ext4_time mtime, atime, ctime;
	uint32_t major, minor; /* of a device */
};

/* One extended attribute under its full name ("user.note", "system.posix_acl_access", the value as
 * getxattr(2) gives it). Name and value are borrowed. */
struct ext4_xattr {
	const char *name;
	size_t name_len;
	const void *value;
	size_t value_len;
};

struct ext4_builder_result {
	uint64_t size, used, free; /* bytes: of the file, of blocks in use, of free blocks */
	uint64_t content;          /* bytes of file content that were written (holes are not) */
	uint32_t inodes, files, directories, symlinks, others;
	uint8_t uuid[16];
};

int ext4_builder_new(
	const struct ext4_builder_options *o, struct ext4_builder **ret, struct banger_error *err);
void ext4_builder_freep(struct ext4_builder **b);
#define _cleanup_ext4_builder_ _cleanup_(ext4_builder_freep)

/* The node of a name, 0 when there is none. dir must be a directory. "." and ".." are not names
 * here. */
ext4_node ext4_builder_lookup(
	struct ext4_builder *b, ext4_node dir, const char *name, size_t name_len);
ext4_node ext4_builder_parent(
	const struct ext4_builder *b, ext4_node dir); /* of the root: the root */
uint32_t ext4_builder_mode(const struct ext4_builder *b, ext4_node node);
uint32_t ext4_builder_links(const struct ext4_builder *b, ext4_node node);
/* A symlink's target, not terminated; borrowed until the next change. */
const char *ext4_builder_target(const struct ext4_builder *b, ext4_node node, size_t *ret_len);

/* A new node under a new name. The name must not exist (EXISTS), be 1 to 255 bytes (NAME_TOO_LONG),
 * and have no '/' or NUL and not be "." or ".." (BAD_REQUEST). target: of a symlink, 1 to 4095
 * bytes. */
int ext4_builder_add(struct ext4_builder *b, ext4_node dir, const char *name, size_t name_len,
	const struct ext4_attr *attr, const char *target, size_t target_len, ext4_node *ret,
	struct banger_error *err);
/* A directory that nobody described: root's, 0755, of the builder's time. */
int ext4_builder_add_implied(struct ext4_builder *b, ext4_node dir, const char *name,
	size_t name_len, ext4_node *ret, struct banger_error *err);
/* Another name of a node that is no directory. TOO_LARGE after 65,000 names. */
int ext4_builder_link(struct ext4_builder *b, ext4_node dir, const char *name, size_t name_len,
	ext4_node node, struct banger_error *err);
/* Removes a name, and of a directory all that is below it. NOT_FOUND. */
int ext4_builder_remove(struct ext4_builder *b, ext4_node dir, const char *name, size_t name_len,
	struct banger_error *err);
/* Replaces owner, permissions and times; the type stays. */
void ext4_builder_set_attr(struct ext4_builder *b, ext4_node node, const struct ext4_attr *attr);

/* ---- layers: what was there when one began is "lower" to it */

/* The next layer begins. What is added before the first call belongs to a layer of its own. */
void ext4_builder_begin_layer(struct ext4_builder *b);
/* The layer described this directory, so it is no longer only a lower one's. */
void ext4_builder_touch(struct ext4_builder *b, ext4_node dir);
/* The layer names what a lower one has, and what is the same in both: it is this layer's now, too. */
void ext4_builder_claim(
	struct ext4_builder *b, ext4_node dir, const char *name, size_t name_len);
/* Removes what lower layers have under a name (nothing: fine), or in a whole directory, and leaves
 * what this layer put there. */
int ext4_builder_hide(struct ext4_builder *b, ext4_node dir, const char *name, size_t name_len,
	struct banger_error *err);
int ext4_builder_hide_all(struct ext4_builder *b, ext4_node dir, struct banger_error *err);

/* Replaces all extended attributes of a node. What ext4 on Linux cannot have on such a node is left
 * out and counted in *ret_ignored: other namespaces, user.* on what is no file or directory,
 * default ACLs of what is no directory. An access ACL sets the permissions that it stands for.
 * TOO_LARGE when they do not fit into an inode and one block, CORRUPT for an ACL that is none. */
int ext4_builder_set_xattrs(struct ext4_builder *b, ext4_node node, const struct ext4_xattr *list,
	size_t n, size_t *ret_ignored, struct banger_error *err);

/* Content of a regular file: pieces in ascending order, what is between them and blocks of zeros
 * are holes. A call for another node than the last one's ends the last one's content for good. */
int ext4_builder_write(struct ext4_builder *b, ext4_node node, uint64_t offset, const void *data,
	size_t len, struct banger_error *err);
/* Sets the size, not less than what was written, and ends the content. */
int ext4_builder_end_file(
	struct ext4_builder *b, ext4_node node, uint64_t size, struct banger_error *err);

/* Writes everything else and waits for it. The file is not fsynced. Once. */
int ext4_builder_finish(
	struct ext4_builder *b, struct ext4_builder_result *ret, struct banger_error *err);

/* The blocks of content that the calls so far led to, taken from another file that has them in the
 * same places, instead of having been written: after replays of records (record.h), before any other
 * content. Shared by FICLONERANGE where the filesystem can, else copied. *ret_shared may be NULL. */
int ext4_builder_take_content(
	struct ext4_builder *b, int from_fd, bool *ret_shared, struct banger_error *err);
/* Makes to_fd a clone of the file as it is now: all content that was ever written, and nothing else.
 * What ext4_builder_take_content() wants. UNSUPPORTED: the filesystem cannot. */
int ext4_builder_give_content(struct ext4_builder *b, int to_fd, struct banger_error *err);

/* What is below a directory, which becomes the root of another builder's filesystem. dir 0: the
 * other's root stays as it is, but for its permissions, 0700. `to` is new. */
int ext4_builder_copy(
	struct ext4_builder *b, ext4_node dir, struct ext4_builder *to, struct banger_error *err);

/* The beginning of a regular file's content, up to `size` bytes, holes as zeros: *ret_len of them. Reads the image
 * back. Of anything else, and of what is not there (0): nothing. */
int ext4_builder_read(struct ext4_builder *b, ext4_node file, char *buf, size_t size, size_t *ret_len,
	struct banger_error *err);

/* Nodes, and bytes of content, so far. */
void ext4_builder_progress(
	const struct ext4_builder *b, uint64_t *ret_nodes, uint64_t *ret_content);

#endif
