/* SPDX-License-Identifier: Apache-2.0 */
/*
 * FUSE passthrough: the kernel reads a file from a descriptor of ours without asking. Linux 6.9 and
 * later, for a server that may mount (CAP_SYS_ADMIN); libfuse speaks it from 3.17.3 on, with earlier
 * ones we speak it past libfuse.
 */
#ifndef FS_PASSTHROUGH_H
#define FS_PASSTHROUGH_H

#include "fs.h"

/* Between mounting and the first request. */
void passthrough_prepare(struct fs *fs);
/* In the handler of INIT. */
void passthrough_negotiate(struct fs *fs, struct fuse_conn_info *conn);

/* Register fd: an id above 0, or 0 if the kernel does not take it. For files_pass_open(): arg is the
 * fuse_req_t. */
int passthrough_attach(void *arg, int fd);
void passthrough_detach(fuse_req_t req, int id);

/* Like fuse_reply_open(), by passthrough if id > 0. */
int passthrough_reply_open(fuse_req_t req, struct fuse_file_info *fi, int id);

#endif
