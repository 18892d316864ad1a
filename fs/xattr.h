/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Extended attributes, all read-only: user.banger.* on the directory of an image, and
 * user.banger.last_error, which is the calling uid's, on every directory. Both answer the request.
 */
#ifndef FS_XATTR_H
#define FS_XATTR_H

#include "fs.h"

void xattr_get(struct fs *fs, fuse_req_t req, fuse_ino_t ino, const char *name, size_t size);
void xattr_list(struct fs *fs, fuse_req_t req, fuse_ino_t ino, size_t size);

#endif
