/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A VM's directory and disks.
 *
 * The root disk is a clone of the image's rootfs.ext4 where the state directory's filesystem can make one
 * (FICLONE), which costs nothing and needs no translation; else a qcow2 file that holds what differs. It
 * names no backing file: the driver says at each start which descriptor that is, so an image that was renamed or a
 * state directory that was moved does not matter, and a file that lies about it does not either.
 *
 * A larger disk than the image is a longer file, or a larger number in the qcow2 header; its filesystem is grown by the
 * agent, which has it mounted, and not here: the disk is the guest's word once it ran.
 *
 * The work disk begins as a copy of the image's work-seed.ext4, an ext4 filesystem of the user's home. One that is to
 * outlive its VM is in work/, under the VM's name, and is found there by the next VM of that name.
 */
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/statvfs.h>
#include <banger/log.h>
#include "vm/internal.h"

#define ROOT_RAW "root.ext4"
#define ROOT_QCOW2 "root.qcow2"
#define WORK "work.ext4"
#define SEED "work-seed.ext4"
#define ROOM                                                                                       \
	(16 << 20) /* what a boot may write; with less the guest would meet errors where nobody looks for a full disk */

/* ---- directories */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return type == FTW_DP ? rmdir(path) : unlink(path);
}

void disk_remove_leftover(struct vm_service *s, const char *name)
{
	char path[PATH_MAX];

	if (snprintf(path, sizeof(path), "%s/vms/%s", s->deps.config->state_dir, name) >=
		(int)sizeof(path))
		return;
	if (nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) < 0 && errno != ENOENT)
		log_warn("cannot remove a VM's directory", KV_S("path", path),
			KV_S("error", strerrordesc_np(errno)));
}

void disk_remove_dir(struct vm *vm)
{
	if (vm->dir_fd < 0)
		return;
	disk_remove_leftover(vm->service, vm->id);
}

int disk_open_dir(struct vm *vm, struct banger_error *err)
{
	int fd = openat(
		vm->service->vms_fd, vm->id, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

	if (fd < 0)
		return banger_error_set_errno(
			err, errno, "cannot open the directory of VM \"%s\"", vm->name);
	vm->dir_fd = fd;
	return 0;
}

int disk_make_dir(struct vm *vm, struct banger_error *err)
{
	if (mkdirat(vm->service->vms_fd, vm->id, 0700) < 0)
		return banger_error_set_errno(err, errno, "cannot make a directory for the VM");
	int r = disk_open_dir(vm, err);
	if (r < 0)
		return r;
	if (mkfifoat(vm->dir_fd, VMM_CONSOLE_OUT, 0600) < 0 ||
		mkfifoat(vm->dir_fd, VMM_CONSOLE_IN, 0600) < 0)
		return banger_error_set_errno(err, errno, "cannot make the VM's console");
	return 0;
}

/* ---- the root disk */

#define CLUSTER_BITS 16
#define CLUSTER (1 << CLUSTER_BITS)

static void put32(uint8_t *to, uint32_t v)
{
	for (int i = 3; i >= 0; i--, v >>= 8)
		to[i] = (uint8_t)v;
}

static void put64(uint8_t *to, uint64_t v)
{
	put32(to, v >> 32);
	put32(to + 4, (uint32_t)v);
}

/* docs/interop/qcow2.txt, version 3: the header's cluster, the refcount table's, one refcount block, the L1 table.
 * Each L1 entry covers CLUSTER / 8 clusters. */
int qcow2_make(int fd, int64_t size)
{
	const uint64_t per_entry = (uint64_t)(CLUSTER / 8) * CLUSTER;
	uint64_t entries = ((uint64_t)size + per_entry - 1) / per_entry;
	uint64_t l1_clusters = (entries * 8 + CLUSTER - 1) / CLUSTER;
	uint8_t header[104] = {'Q', 'F', 'I', 0xfb}, table[8];
	_cleanup_free_ uint8_t *counts = NULL;

	if (size <= 0 || l1_clusters < 1 || l1_clusters > 64 ||
		!(counts = calloc(1, (3 + l1_clusters) * 2)))
		return size <= 0 || l1_clusters > 64 ? -EFBIG : -ENOMEM;
	put32(header + 4, 3);
	put32(header + 20, CLUSTER_BITS);
	put64(header + 24, size);
	put32(header + 36, entries);
	put64(header + 40, 3 * CLUSTER);
	put64(header + 48, 1 * CLUSTER);
	put32(header + 56, 1);
	put32(header + 96, 4); /* refcounts of 16 bits */
	put32(header + 100, sizeof(header));
	put64(table, 2 * CLUSTER);
	for (uint64_t i = 0; i < 3 + l1_clusters; i++)
		counts[2 * i + 1] = 1;
	if (ftruncate(fd, (3 + l1_clusters) * CLUSTER) < 0 ||
		pwrite(fd, header, sizeof(header), 0) != sizeof(header) ||
		pwrite(fd, table, sizeof(table), 1 * CLUSTER) != sizeof(table) ||
		pwrite(fd, counts, (3 + l1_clusters) * 2, 2 * CLUSTER) !=
			(ssize_t)((3 + l1_clusters) * 2))
		return errno ? -errno : -EIO;
	return 0;
}

static int check_room(struct vm *vm, struct banger_error *err)
{
	struct statvfs v;

	if (fstatvfs(vm->service->vms_fd, &v) < 0 || (uint64_t)v.f_bavail * v.f_frsize >= ROOM)
		return 0;
	return banger_error_set(err, BANGER_NO_SPACE,
		"the disk of the state directory has %llu KiB free: a VM needs %d MiB to begin "
		"with",
		(unsigned long long)v.f_bavail * v.f_frsize >> 10, ROOM >> 20);
}

static int create(int dir_fd, const char *name)
{
	return openat(dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
}

/* 1: made; 0: this filesystem cannot clone. */
static int make_clone(struct vm *vm, int base, int64_t size, struct banger_error *err)
{
	_cleanup_close_ int fd = create(vm->dir_fd, ROOT_RAW);

	if (fd < 0)
		return banger_error_set_errno(err, errno, "cannot make the VM's disk");
	if (ioctl(fd, FICLONE, base) < 0) {
		unlinkat(vm->dir_fd, ROOT_RAW, 0);
		return 0;
	}
	if (ftruncate(fd, size) < 0)
		return banger_error_set_errno(err, errno, "cannot make the VM's disk");
	return 1;
}

static int make_overlay(struct vm *vm, int64_t size, struct banger_error *err)
{
	_cleanup_close_ int fd = create(vm->dir_fd, ROOT_QCOW2);
	int r = fd < 0 ? -errno : qcow2_make(fd, size);

	return r < 0 ? banger_error_set_errno(err, r, "cannot make the VM's disk") : 0;
}

static int check_size(struct vm *vm, int64_t base, int64_t *ret, struct banger_error *err)
{
	int64_t want = vm->row.disk ? (vm->row.disk + 4095) & ~4095LL : base;

	if (want < base)
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"the disk cannot be smaller than the image's, which has %lld MiB",
			(long long)((base + (1 << 20) - 1) >> 20));
	if (want > 16LL << 40)
		return banger_error_set(err, BANGER_BAD_REQUEST, "a disk has at most 16 TiB");
	*ret = want;
	return 0;
}

static void note_disk(struct vm *vm, int64_t size, bool overlay)
{
	pthread_mutex_lock(&vm->service->lock);
	vm->row.disk = size;
	vm->row.overlay = overlay;
	pthread_mutex_unlock(&vm->service->lock);
}

int disk_make_root(struct vm *vm, const struct banger_image *image, struct banger_error *err)
{
	const struct vm_service_deps *d = &vm->service->deps;
	_cleanup_close_ int base = -1;
	int64_t size = 0;
	struct stat st;

	int r = check_room(vm, err);
	if (r == 0)
		r = d->image_open(d->images, image, "rootfs.ext4", &base, err);
	if (r < 0)
		return r;
	if (fstat(base, &st) < 0)
		return banger_error_set_errno(err, errno, "cannot look at the image");
	r = check_size(vm, st.st_size, &size, err);
	if (r == 0)
		r = make_clone(vm, base, size, err);
	if (r < 0)
		return r;
	note_disk(vm, size, r == 0);
	return r == 0 ? make_overlay(vm, size, err) : 0;
}

/* ---- the work disk */

static int copy_file(int from, int to)
{
	struct stat st;
	off_t at = 0;

	if (ioctl(to, FICLONE, from) == 0)
		return 0;
	if (fstat(from, &st) < 0 || ftruncate(to, st.st_size) < 0)
		return -errno;
	/* Data only: the seed is sparse, and so is its copy. */
	while (at < st.st_size) {
		off_t data = lseek(from, at, SEEK_DATA);
		off_t hole = data < 0 ? -1 : lseek(from, data, SEEK_HOLE);

		if (data < 0 && errno == ENXIO)
			return 0;
		if (hole < 0)
			return -errno;
		for (off_t in = data, out = data; in < hole;) {
			ssize_t n = copy_file_range(from, &in, to, &out, hole - in, 0);
			if (n <= 0)
				return n < 0 ? -errno : -EIO;
		}
		at = hole;
	}
	return 0;
}

/* The directory and the name of the VM's work disk. */
static int work_place(struct vm *vm, const struct banger_vm *row, char name[BANGER_NAME_MAX + 8])
{
	bool keep = row->work_disk == BANGER_WORK_KEEP;

	snprintf(name, BANGER_NAME_MAX + 8, keep ? "%s.ext4" : WORK, row->name);
	return keep ? vm->service->work_fd : vm->dir_fd;
}

static int fill_work(struct vm *vm, const struct banger_image *image, int dir_fd, const char *name,
	struct banger_error *err)
{
	const struct vm_service_deps *d = &vm->service->deps;
	_cleanup_close_ int seed = -1, fd = -1;
	char temporary[BANGER_NAME_MAX + 16];

	int r = d->image_open(d->images, image, SEED, &seed, err);
	if (r == -ENOENT)
		return banger_error_set(err, BANGER_INCOMPLETE,
			"image \"%s\" has no %s to make a work disk of", image->name, SEED);
	if (r < 0)
		return r;
	snprintf(temporary, sizeof(temporary), ".%s.new", name);
	unlinkat(dir_fd, temporary, 0);
	fd = create(dir_fd, temporary);
	r = fd < 0 ? -errno : copy_file(seed, fd);
	if (r == 0 && (fdatasync(fd) < 0 || renameat(dir_fd, temporary, dir_fd, name) < 0))
		r = -errno;
	if (r < 0)
		unlinkat(dir_fd, temporary, 0);
	return r < 0 ? banger_error_set_errno(err, r, "cannot make the VM's work disk") : 0;
}

int disk_make_work(struct vm *vm, const struct banger_image *image, struct banger_error *err)
{
	char name[BANGER_NAME_MAX + 8];

	if (vm->row.work_disk == BANGER_WORK_NONE)
		return 0;
	int dir_fd = work_place(vm, &vm->row, name);
	if (faccessat(dir_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return 0; /* kept by an earlier VM of this name */
	return fill_work(vm, image, dir_fd, name, err);
}

/* ---- opening them */

void disks_done(struct disks *d)
{
	banger_closep(&d->root_fd);
	banger_closep(&d->base_fd);
	banger_closep(&d->work_fd);
}

int disk_open(const struct banger_vm *row, struct vm *vm, const struct banger_image *image,
	struct disks *ret, struct banger_error *err)
{
	const struct vm_service_deps *d = &vm->service->deps;
	_cleanup_(disks_done) struct disks disks = {.root_fd = -1, .base_fd = -1, .work_fd = -1};
	char name[BANGER_NAME_MAX + 8];
	const int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW;
	struct stat st;

	int r = check_room(vm, err);
	if (r == 0)
		r = d->image_open(d->images, image, "rootfs.ext4", &disks.base_fd, err);
	if (r < 0)
		return r;
	disks.grow = fstat(disks.base_fd, &st) == 0 && st.st_size < row->disk;
	if (!row->overlay) {
		close(disks.base_fd);
		disks.base_fd = -1;
	}
	disks.root_fd = openat(vm->dir_fd, row->overlay ? ROOT_QCOW2 : ROOT_RAW, flags);
	if (disks.root_fd < 0)
		return banger_error_set_errno(err, errno, "cannot open the VM's disk");
	if (row->work_disk != BANGER_WORK_NONE) {
		int dir_fd = work_place(vm, row, name);
		disks.work_fd = openat(dir_fd, name, flags);
		if (disks.work_fd < 0)
			return banger_error_set_errno(err, errno, "cannot open the VM's work disk");
	}
	*ret = disks;
	disks = (struct disks){.root_fd = -1, .base_fd = -1, .work_fd = -1};
	return 0;
}
