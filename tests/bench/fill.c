/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fills a state directory with many published images, for benchmarks: rows through the store,
 * directories beside them, as if each had been imported. The root filesystems are hard links to a
 * few files, so that 100,000 images fit a small disk. The daemon must not run.
 *
 *	fill STATE_DIR COUNT      images image-000000, image-000001, …
 */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <banger/log.h>
#include <banger/paths.h>
#include "store/store.h"

#define LINKS_MAX 60000 /* ext4 allows 65,000 links to a file */
#define ROOTFS_SIZE (1 << 20)

static void die(const char *what, const struct banger_error *err)
{
	fprintf(stderr, "fill: %s: %s\n", what, err && err->code ? err->message : strerror(errno));
	exit(EXIT_FAILURE);
}

static int make_rootfs(int dir)
{
	unlinkat(dir, "rootfs", 0);
	int fd = openat(dir, "rootfs", O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0444);
	if (fd < 0 || ftruncate(fd, ROOTFS_SIZE) < 0)
		die("rootfs", NULL);
	return fd;
}

static void add_image(struct store *store, int images, int rootfs, size_t i)
{
	struct banger_image image = {.state = BANGER_PUBLISHED, .size = ROOTFS_SIZE};
	struct banger_error err = {0};
	char path[BANGER_ID_LEN + 32], self[64];

	banger_id_mint(image.id);
	snprintf(image.name, sizeof(image.name), "image-%06zu", i);
	snprintf(image.digest, sizeof(image.digest), "sha256:%064zx", i);
	strcpy(image.op_id, banger_op_id_mint().s);
	image.created_us = image.published_us = banger_now_us();
	snprintf(path, sizeof(path), "%s/rootfs.ext4", image.id);
	snprintf(self, sizeof(self), "/proc/self/fd/%d", rootfs);
	if (mkdirat(images, image.id, 0700) < 0 ||
		linkat(AT_FDCWD, self, images, path, AT_SYMLINK_FOLLOW) < 0)
		die(path, NULL);
	if (store_image_insert(store, &image, NULL, &err) < 0)
		die(image.name, &err);
}

int main(int argc, char **argv)
{
	_cleanup_(store_closep) struct store *store = NULL;
	struct banger_error err = {0};

	if (argc != 3) {
		fprintf(stderr, "usage: fill STATE_DIR COUNT\n");
		return 2;
	}
	size_t count = strtoul(argv[2], NULL, 10);
	if (banger_mkdir_p(argv[1], 0700, &err) < 0)
		die(argv[1], &err);
	_cleanup_close_ int state = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (state < 0 || (mkdirat(state, "images", 0700) < 0 && errno != EEXIST))
		die(argv[1], NULL);
	_cleanup_close_ int images = openat(state, "images", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (images < 0 || store_open(state, argv[1], &store, &err) < 0)
		die(argv[1], &err);
	_cleanup_close_ int rootfs = -1;
	for (size_t i = 0; i < count; i++) {
		if (i % LINKS_MAX == 0) {
			banger_closep(&rootfs);
			rootfs = make_rootfs(state);
		}
		add_image(store, images, rootfs, i);
	}
	unlinkat(state, "rootfs", 0);
	return 0;
}
