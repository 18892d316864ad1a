/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Verification: is a published image still what was published? Its digest is computed again from
 * the disk's content, and e2fsck looks at the whole filesystem, which promotion does not. Nothing
 * is changed.
 */
#include <string.h>
#include <sys/stat.h>
#include "image/fsck.h"
#include "image/internal.h"

int image_service_verify(struct image_service *s, struct operation *op, const char *word,
	struct image_verdict *ret, struct banger_error *err)
{
	struct image_verdict v = {0};
	_cleanup_image_ struct banger_image image = {0};
	_cleanup_close_ int fd = -1;
	struct stat st;

	int r = image_service_find(s, word, BANGER_PUBLISHED, &image, err);
	if (r == 0)
		r = image_need_digest(s, op, &image, err);
	if (r == 0)
		r = image_service_open(s, &image, ROOTFS, &fd, err);
	if (r == 0 && fstat(fd, &st) < 0)
		r = banger_error_set_errno(err, errno, "looking at " ROOTFS);
	if (r == 0)
		r = durable_digest(fd, st.st_size, op, ROOTFS, v.digest, err);
	if (r < 0)
		return r;
	v.digest_ok = !strcmp(v.digest, image.digest) && st.st_size == image.size;
	r = fsck_check(fd, op, v.fsck, sizeof(v.fsck), err);
	if (r < 0)
		return r;
	v.fsck_ok = r > 0;
	v.image = image_take(&image);
	*ret = v;
	return 0;
}
