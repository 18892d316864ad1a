/* SPDX-License-Identifier: Apache-2.0 */
/* The parts put together, the directories that bangerd handed over, and what nodes are called in
 * messages. */
#include "fs.h"
#include <string.h>
#include "change.h"
#include "events.h"
#include "handle.h"

/* ---- notifications, by libfuse */

static int send_entry(void *arg, uint64_t parent, const char *name, size_t len)
{
	struct fs *fs = arg;
	return fuse_lowlevel_notify_inval_entry(fs->session, parent, name, len);
}

static int send_inode(void *arg, uint64_t ino)
{
	struct fs *fs = arg;
	return fuse_lowlevel_notify_inval_inode(fs->session, ino, 0, 0);
}

/* ---- the whole */

int fs_new(const char *socket, struct fs **ret)
{
	_cleanup_(fs_freep) struct fs *fs = calloc(1, sizeof(*fs));

	if (!fs)
		return -ENOMEM;
	pthread_mutex_init(&fs->lock, NULL);
	pthread_rwlock_init(&fs->content_lock, NULL);
	const struct notify_sender sender = {send_entry, send_inode, fs};
	if (model_new(&fs->model) < 0 || files_new(&fs->files) < 0 ||
		notify_new(&sender, &fs->notify) < 0 || calls_new(socket, &fs->calls) < 0 ||
		errands_new(fs->calls, &fs->errands) < 0 || last_errors_new(&fs->last_errors) < 0 ||
		events_new(&fs->events) < 0 || changes_new(&fs->changes) < 0)
		return -ENOMEM;
	fs->uid = geteuid();
	fs->gid = getegid();
	clock_gettime(CLOCK_REALTIME, &fs->started);
	*ret = TAKE_PTR(fs);
	return 0;
}

void fs_freep(struct fs **p)
{
	struct fs *fs = *p;

	if (!fs)
		return;
	handle_close_all(fs);
	errands_freep(&fs->errands);
	notify_freep(&fs->notify);
	calls_freep(&fs->calls);
	events_freep(&fs->events);
	changes_freep(&fs->changes);
	last_errors_freep(&fs->last_errors);
	files_freep(&fs->files);
	model_freep(&fs->model);
	directories_unrefp(&fs->directories);
	free(fs->rootfs_link);
	pthread_rwlock_destroy(&fs->content_lock);
	pthread_mutex_destroy(&fs->lock);
	free(fs);
	*p = NULL;
}

int fs_set_rootfs_link(struct fs *fs, const char *target)
{
	char *copy = target ? strdup(target) : NULL;

	if (target && !copy)
		return -ENOMEM;
	pthread_mutex_lock(&fs->lock);
	char *old = fs->rootfs_link;
	fs->rootfs_link = copy;
	pthread_mutex_unlock(&fs->lock);
	/* Not unless its kind changes: what is mounted on the directory would be detached. */
	if (!old != !copy)
		notify_entry(fs->notify, FIXED_ROOT, "rootfs");
	free(old);
	return 0;
}

/* ---- directories */

struct directories *fs_directories(struct fs *fs)
{
	pthread_mutex_lock(&fs->lock);
	struct directories *d = fs->directories;
	atomic_fetch_add_explicit(&d->refs, 1, memory_order_relaxed);
	pthread_mutex_unlock(&fs->lock);
	return d;
}

void directories_unrefp(struct directories **p)
{
	struct directories *d = *p;

	*p = NULL;
	if (!d || atomic_fetch_sub(&d->refs, 1) != 1)
		return;
	for (size_t i = 0; i < FS_DIRECTORIES; i++)
		banger_closep(&d->fd[i]);
	free(d);
}

int fs_set_directories(struct fs *fs, const int fd[FS_DIRECTORIES])
{
	struct directories *d = malloc(sizeof(*d));

	if (!d)
		return -ENOMEM;
	atomic_init(&d->refs, 1);
	memcpy(d->fd, fd, sizeof(d->fd));
	pthread_mutex_lock(&fs->lock);
	struct directories *old = fs->directories;
	fs->directories = d;
	pthread_mutex_unlock(&fs->lock);
	directories_unrefp(&old);
	return 0;
}

/* ---- names of nodes */

static const char *const fixed_names[FIXED_NODES] = {
	[FIXED_ROOT] = "",
	[FIXED_DRAFTS] = "/drafts",
	[FIXED_IMAGES] = "/images",
	[FIXED_BY_ID] = "/by-id",
	[FIXED_KERNELS] = "/kernels",
	[FIXED_OPS] = "/ops",
	[FIXED_VMS] = "/vms",
	[FIXED_ROOTFS] = "/rootfs",
	[FIXED_ROOTFS_LINK] = "/rootfs",
	[FIXED_EVENTS] = "/events",
	[FIXED_LAST_ERROR] = "/last-error",
};

static void image_path(struct fs *fs, uint64_t number, char *buf, size_t size)
{
	MODEL_READ(fs->model);
	const struct model_image *i = model_image(fs->model, number);

	if (i)
		snprintf(buf, size, "/%s/%s",
			i->row.state == BANGER_PUBLISHED ? "images" : "drafts", model_name(i));
	else
		snprintf(buf, size, "(deleted)");
}

static void by_id_path(struct fs *fs, uint64_t number, char *buf, size_t size)
{
	MODEL_READ(fs->model);
	const struct model_image *i = model_image(fs->model, number);

	snprintf(buf, size, "/by-id/%016llx", i ? (unsigned long long)i->row.id : 0);
}

static void kernel_path(struct fs *fs, uint64_t number, char *buf, size_t size)
{
	MODEL_READ(fs->model);
	const struct model_kernel *k = model_kernel(fs->model, number);

	snprintf(buf, size, "/kernels/%s", k ? k->k.name : "(deleted)");
}

static void vm_path(struct fs *fs, uint64_t number, char *buf, size_t size)
{
	MODEL_READ(fs->model);
	const struct model_vm *v = model_vm(fs->model, number);

	snprintf(buf, size, "/vms/%s", v ? v->name : "(removed)");
}

static void op_path(struct fs *fs, uint64_t number, char *buf, size_t size)
{
	MODEL_READ(fs->model);
	const struct model_op *o = model_op(fs->model, number);

	snprintf(buf, size, "/ops/op-%012llx", o ? (unsigned long long)o->op : 0);
}

static void node_path(struct fs *fs, uint64_t node, char *buf, size_t size);

static void file_path(struct fs *fs, uint64_t node, char *buf, size_t size)
{
	_cleanup_place_ struct file_place p = {0};

	if (files_place(fs->files, node, &p) < 0) {
		snprintf(buf, size, "(forgotten)");
		return;
	}
	node_path(fs, p.owner, buf, size);
	size_t n = strlen(buf);
	snprintf(buf + n, size - n, "/%s", p.path);
}

static void node_path(struct fs *fs, uint64_t node, char *buf, size_t size)
{
	uint64_t number = node_number(node);

	switch (node_kind(node)) {
	case NODE_FIXED:
		snprintf(buf, size, "%s",
			number > 0 && number < FIXED_NODES ? fixed_names[number] : "?");
		break;
	case NODE_IMAGE:
	case NODE_IMAGE_JSON:
		image_path(fs, number, buf, size);
		break;
	case NODE_BY_ID:
		by_id_path(fs, number, buf, size);
		break;
	case NODE_KERNEL:
	case NODE_KERNEL_JSON:
		kernel_path(fs, number, buf, size);
		break;
	case NODE_VM:
	case NODE_VM_JSON:
		vm_path(fs, number, buf, size);
		break;
	case NODE_OP:
		op_path(fs, number, buf, size);
		break;
	default:
		file_path(fs, node, buf, size);
	}
	size_t n = strlen(buf);
	if (node_kind(node) == NODE_IMAGE_JSON)
		snprintf(buf + n, size - n, "/image.json");
	else if (node_kind(node) == NODE_KERNEL_JSON)
		snprintf(buf + n, size - n, "/kernel.json");
	else if (node_kind(node) == NODE_VM_JSON)
		snprintf(buf + n, size - n, "/vm.json");
}

void fs_path(struct fs *fs, uint64_t node, const char *name, char *buf, size_t size)
{
	node_path(fs, node, buf, size);
	size_t n = strlen(buf);

	if (name)
		snprintf(buf + n, size - n, "/%s", name);
	else if (n == 0)
		snprintf(buf, size, "/");
	/* A caller may have used any bytes for a name. */
	for (char *p = buf; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7F)
			*p = '?';
	if (!banger_utf8_valid(buf, strlen(buf)))
		for (char *p = buf; *p; p++)
			if ((unsigned char)*p >= 0x80)
				*p = '?';
}
