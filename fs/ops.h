/* SPDX-License-Identifier: Apache-2.0 */
/* The low-level FUSE operations of the registry's connection; userdata is the struct fs. */
#ifndef FS_OPS_H
#define FS_OPS_H

#include "fs.h"

extern const struct fuse_lowlevel_ops fs_operations;

#endif
