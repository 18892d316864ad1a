/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files on disk, under the directory descriptors that bangerd handed over: ID/FILE. Reading is done
 * here, without asking, so it goes on while bangerd is away. Paths are resolved beneath the
 * descriptor and through no symlink.
 */
#ifndef FS_DISK_H
#define FS_DISK_H

#include "fs.h"

/* Where an image, a draft or a kernel lies. Holds the descriptors while it is in use. */
struct disk {
	struct directories *directories;
	int fd;       /* borrowed: the directory that holds `id` */
	int other_fd; /* where it was, or will be, while it is being promoted; -1: none */
	bool draft;   /* can still change */
	char id[BANGER_ID_LEN + 1];
};
static inline void disk_done(struct disk *d)
{
	directories_unrefp(&d->directories);
}
#define _cleanup_disk_ _cleanup_(disk_done)

/* owner: a NODE_IMAGE, NODE_KERNEL or NODE_VM. -ENOENT: it was deleted. */
int disk_of(struct fs *fs, uint64_t owner, struct disk *ret);

/* path is relative to the image's (kernel's) directory; "" is that itself. A symlink is not
 * followed. */
int disk_statx(const struct disk *d, const char *path, struct statx *ret);
/* flags as for open(2); O_NOFOLLOW and O_CLOEXEC are added. -ESTALE when it is not the file `id`
 * (NULL: any). */
int disk_open(
	const struct disk *d, const char *path, int flags, const struct file_id *id, int *ret_fd);
int disk_readlink(const struct disk *d, const char *path, char **ret);

/* A directory's entries but "." and "..", as they are now. */
struct disk_entry {
	uint64_t ino;
	unsigned char type; /* DT_… */
	char *name;
};
struct disk_list {
	struct disk_entry *entries;
	size_t n;
};
void disk_list_done(struct disk_list *l);
int disk_list(const struct disk *d, const char *path, struct disk_list *ret);

#endif
